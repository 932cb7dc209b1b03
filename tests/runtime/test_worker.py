"""The worker: runs the blocks of a lease, notes what became of each, and lives on."""

from __future__ import annotations

import sys
from dataclasses import replace
from time import sleep
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from bellis.planning.grid import BlockGrid
from bellis.runtime.cell import CELL_BYTES, EAGER, FLAG, GIVE_BACK, POSITION, STARTED_NS, Cell
from bellis.runtime.lease import Outcome, Report
from bellis.runtime.program import Program
from bellis.runtime.worker import LONGEST_ERROR, LeaseRunner, describe
from bellis.tasks.values import unpack
from bellis.testing.blocks import line

if TYPE_CHECKING:
    from collections.abc import Callable

    from bellis.tasks import Block


class Run:
    """One lease of ``indices`` run in this thread."""

    def __init__(self, function: Callable[[Block], Any], indices: list[int], flag: int = 0, **options: Any) -> None:
        task = line(function, 100, **options)
        packed = np.array(indices, np.int64).tobytes()
        self.cell = Cell(memoryview(bytearray(CELL_BYTES)), 0)
        self.cell.words[FLAG] = flag
        self.outcomes = self.cell.begin(9, 0, packed)
        self.reports: list[Report] = []
        self.runner = LeaseRunner(
            Program.of(0, task, BlockGrid.of(task)),
            9,
            memoryview(packed).cast("q"),
            self.cell,
            self.outcomes,
            self.reports.append,
        )

    def run(self) -> Run:
        self.runner.run()
        return self

    @property
    def known(self) -> list[Outcome]:
        return [Outcome(outcome) for report in self.reports for outcome in report.outcomes]


def test_blocks_run_in_the_order_of_the_lease() -> None:
    seen: list[Any] = []
    run = Run(lambda block: seen.append((block.index, block.write_roi.begin[0])), [5, 3, 9]).run()
    assert seen == [(5, 5), (3, 3), (9, 9)]
    assert run.known == [Outcome.SUCCESS] * 3
    (report,) = run.reports
    assert (report.lease_id, report.begin, report.finished) == (9, 0, True)
    assert len(report.seconds) == 3 * 4


def test_a_failing_block_is_one_outcome_and_the_next_one_runs() -> None:
    def work(block: Block) -> None:
        if block.index == 3:
            raise KeyError("three")
        if block.index == 4:
            raise KeyboardInterrupt

    run = Run(work, [2, 3, 4, 5]).run()
    assert run.known == [Outcome.SUCCESS, Outcome.FAILED, Outcome.FAILED, Outcome.SUCCESS]
    assert set(run.reports[0].errors) == {1, 2}
    assert "KeyError: 'three'" in run.reports[0].errors[1]
    assert "KeyboardInterrupt" in run.reports[0].errors[2]


def test_the_cell_says_which_block_runs_and_since_when() -> None:
    seen: list[tuple[int, int]] = []
    run = Run(lambda _: seen.append((run.cell.words[POSITION], run.cell.words[STARTED_NS])), [7, 8, 9])
    run.run()
    assert [position for position, _ in seen] == [0, 1, 2]
    began = [started for _, started in seen]
    assert began == sorted(began)
    assert began[0] > 0


def test_outcomes_are_in_the_cell_before_they_are_reported() -> None:
    seen: list[bytes] = []
    run = Run(lambda _: seen.append(run.cell.outcomes(9)), [7, 8, 9])
    run.run()
    assert seen == [b"\0\0\0", b"\1\0\0", b"\1\1\0"]


def test_a_worker_that_is_told_to_give_back_begins_no_further_block() -> None:
    seen: list[int | None] = []

    def work(block: Block) -> None:
        seen.append(block.index)
        if block.index == 8:
            run.cell.words[FLAG] = GIVE_BACK

    run = Run(work, [7, 8, 9, 10])
    run.run()
    assert seen == [7, 8]
    assert run.known == [Outcome.SUCCESS] * 2
    assert run.reports[-1].finished
    assert Run(work, [1, 2], flag=GIVE_BACK).run().known == []


def test_a_worker_that_is_told_to_hurry_reports_each_block() -> None:
    run = Run(lambda _: None, [7, 8, 9], flag=EAGER).run()
    assert [(report.begin, len(report.outcomes)) for report in run.reports] == [(0, 1), (1, 1), (2, 1)]
    assert [report.finished for report in run.reports] == [False, False, True]


def test_blocks_that_take_longer_are_reported_while_the_lease_runs() -> None:
    run = Run(lambda _: sleep(0.012), list(range(10))).run()
    assert 3 <= len(run.reports) <= 7
    assert [report.begin for report in run.reports] == sorted({report.begin for report in run.reports})
    assert len(run.known) == 10


def asked(pre: Any, post: Any, **options: Any) -> tuple[list[Outcome], list[int], Report]:
    ran: list[int] = []
    function = lambda block: ran.append(block.index)  # noqa: E731
    run = Run(function, [0, 1, 2, 3], check_function=(pre, post), **options).run()
    return run.known, ran, run.reports[-1]


def test_a_pre_check_skips_blocks_that_are_done() -> None:
    known, ran, _ = asked(lambda block: block.index % 2 == 0, None)
    assert known == [Outcome.SKIPPED, Outcome.SUCCESS] * 2
    assert ran == [1, 3]


def test_a_post_check_decides_whether_a_block_succeeded() -> None:
    known, ran, report = asked(None, lambda block: block.index % 2 == 0)
    assert known == [Outcome.SUCCESS, Outcome.FAILED] * 2
    assert ran == [0, 1, 2, 3]
    assert "check_function says that Block(task/1" in report.errors[1]


def test_a_pre_check_that_raises_means_not_done_and_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    def pre(block: Block) -> bool:
        raise OSError("no such file")

    known, ran, _ = asked(pre, None)
    assert known == [Outcome.SUCCESS] * 4
    assert ran == [0, 1, 2, 3]
    error = capsys.readouterr().err
    assert "check_function failed before Block(task/0" in error
    assert "no such file" in error


def test_a_post_check_that_raises_is_a_failure() -> None:
    def post(block: Block) -> bool:
        raise OSError("no such file")

    known, _, report = asked(None, post)
    assert known == [Outcome.FAILED] * 4
    assert "no such file" in report.errors[0]


def test_one_check_function_is_asked_before_and_after() -> None:
    done = {1}
    task_check = done.__contains__
    run = Run(lambda block: done.add(block.index), [0, 1], check_function=lambda block: task_check(block.index)).run()
    assert run.known == [Outcome.SUCCESS, Outcome.SKIPPED]
    lazy = Run(lambda _: None, [5], check_function=lambda block: task_check(block.index)).run()
    assert lazy.known == [Outcome.FAILED]


def test_results_are_packed_by_position() -> None:
    run = Run(lambda block: [block.index, None], [7, 9], results=True).run()
    assert run.reports[0].results == {0: b"\x92\x07\xc0", 1: b"\x92\x09\xc0"}


def test_results_may_hold_numpy_values() -> None:
    run = Run(lambda block: {"n": np.int64(block.index), "a": np.arange(2)}, [7], results=True).run()
    found = unpack(run.reports[0].results[0])
    assert (found["n"], found["a"].tolist()) == (7, [0, 1])


def test_a_result_that_can_not_be_kept_is_a_failure_that_says_what_can() -> None:
    run = Run(lambda block: {1, 2} if block.index else object(), [0, 1], results=True).run()
    assert run.known[0] is Outcome.FAILED
    assert "object can't be kept" in run.reports[0].errors[0]
    assert "numbers, strings, bytes, NumPy arrays, lists and dicts" in run.reports[0].errors[0]


def test_a_returned_value_does_not_matter_without_results() -> None:
    run = Run(lambda _: object(), [0, 1]).run()
    assert run.known == [Outcome.SUCCESS] * 2
    assert run.reports[0].results == {}


def test_the_number_of_the_block_that_runs_is_known() -> None:
    seen: list[int] = []
    run = Run(lambda _: seen.append(run.runner.block_number()), [7, 3])
    run.run()
    assert seen == [7, 3]


@pytest.mark.parametrize("options", [{}, {"results": True}, {"check_function": (None, bool)}])
def test_a_traceback_begins_in_the_users_function(options: dict[str, Any]) -> None:
    def work(block: Block) -> None:
        raise ValueError("mine")

    error = Run(work, [0], **options).run().reports[0].errors[0]
    assert error.startswith("Traceback (most recent call last):")
    assert error.endswith("ValueError: mine")
    assert "in work" in error
    assert "runtime/worker.py" not in error


def described(raising: Callable[[], object]) -> str:
    try:
        raising()
    except BaseException as error:  # noqa: BLE001
        return describe(error)
    raise AssertionError("nothing was raised")


def test_an_exit_is_described_as_what_it_was() -> None:
    assert "sys.exit(3)" in described(lambda: sys.exit(3))
    assert "sys.exit('why')" in described(lambda: sys.exit("why"))


def test_the_cause_of_an_error_is_described_too() -> None:
    def raising() -> None:
        try:
            {}["first"]
        except KeyError as error:
            raise ValueError("second") from error

    text = described(raising)
    assert "KeyError: 'first'" in text
    assert text.endswith("ValueError: second")


def test_a_very_long_error_keeps_its_begin_and_its_end() -> None:
    def raising() -> None:
        raise ValueError("begin" + "x" * 10**6 + "end")

    text = described(raising)
    assert len(text) < LONGEST_ERROR + 200
    assert "begin" in text
    assert text.endswith("end")
    assert "characters left out" in text


def test_an_error_that_can_not_be_printed_is_still_a_failure() -> None:
    class Rude(Exception):  # noqa: N818
        def __str__(self) -> str:
            raise RuntimeError("no")

    def work(block: Block) -> None:
        raise Rude

    assert Run(work, [0, 1]).run().known == [Outcome.FAILED] * 2


def test_a_program_with_checks_is_the_same_as_without_when_they_are_none() -> None:
    task = line(lambda _: None, 3, check_function=(None, None))
    assert (
        Program.of(0, task, BlockGrid.of(task)).functions
        == Program.of(0, replace(task, check_function=None), BlockGrid.of(task)).functions
    )
