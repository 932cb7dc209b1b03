"""The summary: daisy's table, what failed, and what to do next."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from bellis.observe.summary import duration, printable, quantity, size, summary

if TYPE_CHECKING:
    from bellis.runtime.report import RunReport


def lines_of(report: RunReport) -> list[str]:
    return summary(report).splitlines()


def test_when_all_went_well_there_is_a_table_and_one_sentence(run_of: Any) -> None:
    run = run_of("square", "sum")
    counts = run.counts(total=1000, completed=1000), run.counts(completed=100, skipped=10)
    assert (
        summary(run.report(*counts))
        == """
Summary

  square
    num blocks   1 000
    completed ✔  1 000
    failed    ✗      0
    orphaned  ∅      0
    1.2 s, 800 blocks/s, 2.5 ms each, at most 128 MiB of memory

  sum
    num blocks     100
    completed ✔    100  (10 skipped)
    failed    ✗      0
    orphaned  ∅      0
    1.2 s, 72 blocks/s, 28 ms each, at most 128 MiB of memory

1 100 blocks completed in 1.5 s on 2 workers."""
    )


def test_many_tasks_have_a_line_each(run_of: Any) -> None:
    run = run_of("copy", "label/blocks", "label", "s1")
    done, resumed = run.counts(total=1000, completed=1000), run.counts(completed=100, skipped=100)
    assert (
        summary(run.report(done, done, done, resumed)).partition("\n\n3 100 blocks")[0]
        == """
Summary

                num blocks  skipped  completed ✔  failed ✗  orphaned ∅   time    each   memory
  copy               1 000        0        1 000         0           0  1.2 s  2.5 ms  128 MiB
  label/blocks       1 000        0        1 000         0           0  1.2 s  2.5 ms  128 MiB
  label              1 000        0        1 000         0           0  1.2 s  2.5 ms  128 MiB
  s1                   100      100          100         0           0"""
    )


def test_a_failed_block_is_shown_with_its_error_and_what_it_printed(run_of: Any, tmp_path: Path) -> None:
    log = tmp_path / "worker-0.log"
    stamped = [f"12:00:0{second} block {7 if second % 2 else 8} | at {second}" for second in range(6)]
    log.write_text("\n".join([*stamped, "a line from C", "12:00:09 block 8 | last"]))
    run = run_of("square", log_dir=tmp_path)
    failures = (run.failure(7, log=log),)

    text = summary(run.report(run.counts(completed=99, failed=1), failures=failures))

    assert (
        f"""
square: block 7 failed after 3 attempts; it writes Roi((70,), (10,))
    Traceback (most recent call last):
      File "a.py", line 3, in f
        g()
    ValueError: bad voxel
  {log}:
    12:00:01 block 7 | at 1
    12:00:03 block 7 | at 3
    12:00:05 block 7 | at 5
    a line from C

What workers printed is in {tmp_path}.
1 failed of 100 blocks, in 1.5 s on 2 workers.
"""
        in text
    )


def test_a_block_that_its_worker_died_of_is_shown_with_the_last_lines_of_that(run_of: Any, tmp_path: Path) -> None:
    log = tmp_path / "worker-0.log"
    log.write_text("".join(f"line {number}\n" for number in range(100)))
    run = run_of("square")
    died, raised = run.failure(7, log=log, error="the worker was killed by signal 11"), run.failure(7, log=log)
    lines = lines_of(run.report(run.counts(failed=1), failures=(died,)))
    assert [line.strip() for line in lines if "line 9" in line] == [f"line {number}" for number in range(95, 100)]
    assert "line 9" not in summary(run.report(run.counts(failed=1), failures=(raised,)))


def test_blocks_that_failed_alike_are_told_together(run_of: Any) -> None:
    run = run_of("square")
    other = 'Traceback\n  File "b.py", line 9, in h\n    x\nKeyError: {}'
    failures = [
        *(run.failure(number) for number in range(20)),
        *(run.failure(20 + number, error=other.format(number)) for number in range(3)),
        *(run.failure(30 + number, error=f"E{number}: x") for number in range(5)),
    ]
    text = summary(run.report(run.counts(failed=40), failures=tuple(failures)))
    assert "square: 20 blocks failed alike: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ...\n  block 0 after 3 attempts" in text
    assert "square: 3 blocks failed alike: 20, 21, 22\n" in text
    assert "KeyError: 0" in text
    assert "KeyError: 1" not in text
    assert "square: block 30 failed" in text
    assert "square: 16 more blocks failed; see report.tasks['square'].failures" in text


def test_a_long_traceback_is_cut_in_the_middle(run_of: Any) -> None:
    run = run_of("square")
    error = "Traceback\n" + "".join(f"  line {number}\n" for number in range(100)) + "ValueError: x"
    text = summary(run.report(run.counts(failed=1), failures=(run.failure(7, error=error),)))
    assert "    Traceback\n      ...\n      line 93\n" in text
    assert text.count("  line ") == 7


def test_a_stopped_task_says_why(run_of: Any) -> None:
    run = run_of("square")
    reason = "its first 8 blocks all failed alike; the last one:\nTraceback\nKeyError: 3"
    text = summary(run.report(run.counts(orphaned=100), stopped=reason))
    assert (
        "square was stopped: its first 8 blocks all failed alike; the last one:\n    Traceback\n    KeyError: 3\n"
        in text
    )
    assert "100 orphaned of 100 blocks" in text


def test_a_task_that_was_stopped_after_its_last_block_is_not_called_completed(run_of: Any) -> None:
    run = run_of("square")
    text = summary(run.report(run.counts(completed=100), stopped="enough"))
    assert "A task was stopped, in 1.5 s" in text


def test_blocks_that_never_ran_are_counted(run_of: Any) -> None:
    run = run_of("square", run_dir=Path(".bellis/x"))
    lines = lines_of(run.report(run.counts(completed=40, ready=10), interrupted=True))
    assert "    not run   …   60" in lines
    assert lines[-2:] == [
        "60 not run of 100 blocks, in 1.5 s on 2 workers.",
        "Interrupted. To go on from here, run again with journal='.bellis/x', or call report.retry_failed().",
    ]


def test_what_the_command_line_ran_is_retried_there(run_of: Any, tmp_path: Path) -> None:
    (tmp_path / "command.json").touch()
    run = run_of("square", run_dir=tmp_path)
    assert lines_of(run.report(run.counts(failed=1)))[-1] == f"To run what is not done: bellis retry {tmp_path}"
    assert lines_of(run.report(run.counts(), interrupted=True))[-1] == (
        f"Interrupted. To go on from here: bellis retry {tmp_path}"
    )


def test_without_a_journal_it_says_what_one_would_give(run_of: Any) -> None:
    run = run_of("square")
    last = lines_of(run.report(run.counts(failed=1)))[-1]
    assert "report.retry_failed()" in last
    assert "journal=" in last


def test_when_everything_was_done_before_it_says_so(run_of: Any) -> None:
    run = run_of("square")
    lines = lines_of(run.report(run.counts(completed=100, skipped=100)))
    assert lines[-1] == "Nothing was left to do: 100 blocks skipped."
    assert not any("blocks/s" in line for line in lines)


def test_a_run_of_nothing_has_a_summary(run_of: Any) -> None:
    assert lines_of(run_of().report())[-1] == "0 blocks completed in 1.5 s on 2 workers."
    run = run_of("square")
    assert lines_of(run.report(run.counts(total=0), seconds=0.0, task_wall_s=0.0))[-1].startswith("0 blocks")


def test_control_characters_are_spelled_out(run_of: Any) -> None:
    run = run_of("sq\x1b[2Juare")
    failures = (run.failure(1, error="ValueError: \x1b]0;title\x07"),)
    text = summary(run.report(run.counts(failed=1), failures=failures, stopped="\x9bno"))
    assert all(character.isprintable() or character == "\n" for character in text)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0 µs"),
        (3.2e-6, "3.2 µs"),
        (7.7e-4, "770 µs"),
        (0.5, "500 ms"),
        (59.4, "59 s"),
        (60, "1 min 00 s"),
        (3599.6, "1 h 00 min"),
    ],
)
def test_durations_are_said_in_two_digits(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_numbers_keep_their_size() -> None:
    assert [quantity(n) for n in (0, 0.1, 9.94, 9.99, 10, 999.6)] == ["0", "0.1", "9.9", "10", "10", "1 000"]
    assert [size(n) for n in (0, 1023, 2**20, 3 * 2**30, 2**41)] == ["0 B", "1 023 B", "1 MiB", "3.0 GiB", "2048.0 GiB"]


def test_tabs_stay_space_and_letters_stay_letters() -> None:
    assert printable("a\tµm é 中 \u202e") == "a    µm é 中 \\u202e"
