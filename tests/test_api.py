"""The public face: run, run_blockwise, Server, and the report that they give."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections import Counter
from dataclasses import replace
from time import sleep
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import bellis
from bellis.engines.inline import InlineEngine
from bellis.engines.local import LocalEngine
from bellis.errors import EngineError, JournalMismatchError, TaskError
from bellis.geometry import Roi
from bellis.runtime.events import Message, RunStarted, TaskProgress
from bellis.testing.blocks import Notes, Recorder, line, noting, until

if TYPE_CHECKING:
    from pathlib import Path

    from bellis.runtime.report import RunReport
    from bellis.tasks import Block

real = [pytest.mark.integration, pytest.mark.slow]
local = pytest.param("local", marks=real)
engines = pytest.mark.parametrize("engine", ["inline", local])


@pytest.fixture
def notes(tmp_path: Path) -> Notes:
    return Notes(tmp_path / "notes")


@pytest.fixture
def run(tmp_path: Path) -> Any:
    def run(tasks: Any, engine: Any = "inline", **options: Any) -> RunReport:
        return bellis.run(tasks, engine, **{"workers": 2, "progress": False, "log_dir": tmp_path / "logs", **options})

    return run


def ran(notes: Notes) -> list[int]:
    return sorted(map(int, notes.lines()))


# What is run -------------------------------------------------------------------------------------------------------


def test_a_task_a_pipeline_or_several_are_run(run: Any, notes: Notes) -> None:
    a, b = line(noting(notes), 3, task_id="a"), line(noting(notes), 3, task_id="b")
    for tasks, expected in ((a, ["a"]), (a + b, ["a", "b"]), ([a, b], ["a", "b"]), ([a | b], ["a", "b"]), ([], [])):
        report = run(tasks)
        assert sorted(report.tasks) == expected
        assert report.ok


def test_upstream_tasks_are_run_too(run: Any, notes: Notes) -> None:
    first = line(noting(notes), 3, task_id="first")
    assert list(run(line(noting(notes), 3, task_id="second", upstream_tasks=[first])).tasks) == ["first", "second"]
    assert ran(notes) == [0, 0, 1, 1, 2, 2]


def test_zero_blocks_are_a_success_with_a_warning(run: Any, notes: Notes) -> None:
    recorder = Recorder()
    task = replace(line(noting(notes), 10, context=(3, 3)), total_roi=Roi((0,), (5,)))
    report = run(task, "local", observers=[recorder])
    assert report.ok
    assert report.tasks["task"].counts.total == 0
    assert any("'task' has no blocks" in event.text for event in recorder.of(Message))
    assert notes.lines() == []


def test_blocks_given_by_hand_lie_where_the_grid_says(run: Any) -> None:
    task = line(lambda block: [*block.read_roi.begin, *block.write_roi.end], 3, step=4, context=(1, 2), results=True)
    assert run(task).results("task") == {0: [-1, 4], 1: [3, 8], 2: [7, 12]}


@pytest.mark.integration
@pytest.mark.slow
@pytest.mark.timeout(60)
def test_a_fan_in_of_twenty_thousand_blocks_ends(run: Any) -> None:
    first = line(lambda _: None, 20_000, task_id="first")
    total = first.total_roi
    last = bellis.Task("last", total, total, total, lambda _: None)
    report = run(first + last, "local")
    assert report.ok
    assert report.wall_s < 20


@engines
def test_a_skip_mask_leaves_blocks_out(run: Any, notes: Notes, engine: str) -> None:
    mask = np.zeros(10, bool)
    mask[[2, 3, 9]] = True
    report = run(line(noting(notes), 10, skip_mask=mask), engine)
    assert ran(notes) == [0, 1, 4, 5, 6, 7, 8]
    assert report.ok
    assert (report.tasks["task"].counts.completed, report.tasks["task"].counts.skipped) == (10, 3)


def test_a_skip_mask_may_be_a_function_of_regions(run: Any, notes: Notes) -> None:
    asked: list[tuple[int, ...]] = []

    def empty(regions: Any) -> Any:
        asked.append(regions.shape)
        return regions[:, 0, 0] >= 300

    report = run(line(noting(notes), 1000, step=3, skip_mask=empty))
    assert ran(notes) == list(range(100))
    assert report.tasks["task"].counts.skipped == 900
    assert all(shape[1:] == (2, 1) for shape in asked)
    assert sum(shape[0] for shape in asked) < 1000  # large regions at once


@pytest.mark.parametrize("mask", [np.zeros(9, bool), np.zeros((10, 1), bool), lambda _: np.zeros(3, bool)])
def test_a_skip_mask_of_another_shape_is_an_error(run: Any, mask: Any) -> None:
    with pytest.raises(TaskError, match="task 'task': skip_mask"):
        run(line(print, 10, skip_mask=mask))


def test_the_task_of_highest_priority_runs_first(run: Any, notes: Notes) -> None:
    def work(block: Block) -> None:
        notes.add(block.task_id)

    run([line(work, 5, task_id="late"), line(work, 5, task_id="early", priority=1)])
    assert notes.lines() == ["early"] * 5 + ["late"] * 5


@engines
def test_tuple_checks_are_asked_before_and_after_a_block(run: Any, notes: Notes, engine: str) -> None:
    def pre(block: Block) -> bool:
        return block.index % 2 == 0

    def post(block: Block) -> bool:
        return block.index != 7

    report = run(line(noting(notes), 10, check_function=(pre, post), max_retries=1), engine)
    counts = report.tasks["task"].counts
    assert (counts.completed, counts.skipped, counts.failed) == (9, 5, 1)
    assert ran(notes) == [1, 3, 5, 7, 7, 9]
    assert "is not done" in report.failures[0].error


def test_one_check_function_is_asked_before_and_after(run: Any, notes: Notes) -> None:
    def check(block: Block) -> bool:
        return notes.count(block.index) > 0

    notes.add(3)
    report = run(line(noting(notes), 5, check_function=check))
    assert report.ok
    assert report.tasks["task"].counts.skipped == 1
    assert ran(notes) == [0, 1, 2, 3, 4]


# Limits ------------------------------------------------------------------------------------------------------------


def most_at_once(notes: Notes) -> Counter[str]:
    """Return how many blocks of each task, and of all, ran at the same time at most."""
    now: Counter[str] = Counter()
    most: Counter[str] = Counter()
    for text in notes.lines():
        step, task_id = text.split()
        for name in (task_id, "all"):
            now[name] += 1 if step == "begin" else -1
            most[name] = max(most[name], now[name])
    return most


def busy(notes: Notes, seconds: float = 0.004) -> Any:
    def work(block: Block) -> None:
        notes.add(f"begin {block.task_id}")
        sleep(seconds)
        notes.add(f"end {block.task_id}")

    return work


@pytest.mark.integration
@pytest.mark.slow
def test_num_workers_caps_a_task_and_workers_all_of_them(run: Any, notes: Notes) -> None:
    one = line(busy(notes), 60, task_id="one", num_workers=1)
    many = line(busy(notes), 150, task_id="many", num_workers=9)
    assert run(one | many, "local", workers=3).ok
    assert most_at_once(notes) == {"one": 1, "many": 3, "all": 3}


@pytest.mark.integration
@pytest.mark.slow
def test_resources_cap_all_tasks_that_hold_them(run: Any, notes: Notes) -> None:
    tasks = [
        line(busy(notes), 40, task_id="a", num_workers=9, resources={"gpu": 1}),
        line(busy(notes), 40, task_id="b", num_workers=9, resources={"gpu": 1}),
        line(busy(notes), 80, task_id="c", num_workers=9),
    ]
    report = run(tasks, "local", workers=3, resources={"gpu": 1})
    assert report.ok
    now: set[str] = set()
    for text in notes.lines():
        step, task_id = text.split()
        if step == "begin" and task_id in "ab":
            assert not now
            now.add(task_id)
        elif task_id in "ab":
            now.discard(task_id)
    assert most_at_once(notes)["all"] == 3


def test_a_resource_that_there_is_not_enough_of_is_an_error_that_says_how_to_give_it(run: Any, notes: Notes) -> None:
    task = line(noting(notes), 3, resources={"gpu": 2})
    with pytest.raises(TaskError, match=r"needs 2 'gpu' for each block, but the run has 0: pass run\("):
        run(task)
    with pytest.raises(TaskError, match="the run has 1"):
        run(task, resources={"gpu": 1})
    assert notes.lines() == []
    assert run(task, resources={"gpu": 2}).ok


@pytest.mark.parametrize("workers", [0, -1, 1.5, "2"])
def test_a_number_of_workers_that_makes_no_sense_is_an_error(run: Any, workers: Any) -> None:
    with pytest.raises(TaskError, match="workers must be an int > 0"):
        run(line(print, 3), workers=workers)


def test_a_task_says_how_many_workers_a_run_has(run: Any) -> None:
    recorder = Recorder()
    report = run(line(lambda _: None, 3, num_workers=1), "local", workers=8, observers=[recorder])
    assert report.workers == recorder.of(RunStarted)[0].workers == 1


def test_a_worker_function_has_no_results_which_is_an_error_before_anything_runs(run: Any) -> None:
    with pytest.raises(TaskError, match="has results=True, but a worker function"):
        run(line(lambda: None, 3, results=True))


@pytest.mark.parametrize(
    ("engine", "hint"),
    [(LocalEngine, r"pass LocalEngine\(\.\.\.\), not the class"), (3, "3 is no engine"), (None, "None is no engine")],
)
def test_what_is_no_engine_is_refused_and_left_alone(run: Any, engine: Any, hint: str) -> None:
    with pytest.raises(EngineError, match=hint):
        run(line(lambda _: None, 3), engine)


def test_an_engine_that_there_is_not_is_an_error_that_names_those_that_there_are(run: Any) -> None:
    with pytest.raises(EngineError, match=r"no engine is named 'lokal'; there are .*inline.*local"):
        run(line(print, 3), "lokal")


@engines
def test_a_task_whose_first_blocks_all_fail_alike_is_stopped(run: Any, notes: Notes, engine: str) -> None:
    def work(block: Block) -> None:
        notes.add(block.index)
        raise ValueError(f"block {block.index}")

    report = run(line(work, 1000), engine)
    assert "first 8 blocks all failed alike" in (report.tasks["task"].stopped or "")
    assert "ValueError: block" in (report.tasks["task"].stopped or "")
    assert len(notes.lines()) < 20
    assert not report.ok
    assert not report.interrupted
    report = run(line(work, 50, max_retries=0), engine, fail_fast=None)
    assert report.tasks["task"].stopped is None
    assert report.tasks["task"].counts.failed == 50


# Observers ---------------------------------------------------------------------------------------------------------


class Broken(Recorder):
    def notify(self, event: Any) -> None:
        super().notify(event)
        raise ZeroDivisionError("a broken observer")


@engines
def test_an_observer_that_raises_is_dropped_and_the_run_goes_on(run: Any, engine: str) -> None:
    broken, good = Broken(), Recorder()
    with pytest.warns(RuntimeWarning, match="was dropped: it failed with ZeroDivisionError: a broken observer"):
        report = run(line(lambda _: None, 50), engine, observers=[broken, good])
    assert report.ok
    assert len(broken.events) == 1
    assert broken.is_closed
    assert good.of(TaskProgress)


def test_observers_are_closed_when_a_run_ends_with_an_error(run: Any, tmp_path: Path) -> None:
    recorder = Recorder()
    task = line(lambda _: None, 3)
    run(task, journal=tmp_path / "journal")
    with pytest.raises(JournalMismatchError):
        run(replace(task, version=2), journal=tmp_path / "journal", observers=[recorder])
    assert recorder.is_closed


def test_progress_and_summary_are_shown_unless_not_wanted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bellis.run(line(lambda _: None, 3), "inline", log_dir=tmp_path)
    shown = capsys.readouterr()
    assert "task" in shown.out + shown.err
    bellis.run(line(lambda _: None, 3), "inline", log_dir=tmp_path, progress=False)
    assert capsys.readouterr() == ("", "")


# Again -------------------------------------------------------------------------------------------------------------


def test_without_a_journal_a_task_that_is_run_twice_runs_twice(run: Any, notes: Notes) -> None:
    for _ in range(2):
        assert run(line(noting(notes), 3)).ok
    assert ran(notes) == [0, 0, 1, 1, 2, 2]


@engines
def test_a_journaled_second_run_skips_everything(run: Any, notes: Notes, tmp_path: Path, engine: str) -> None:
    first = line(noting(notes), 30, task_id="a/b")
    second = line(noting(notes), 30, task_id="..", upstream_tasks=[first], results=False)
    for attempt in range(2):
        report = run(second, engine, journal=tmp_path / "journal")
        assert report.ok
        assert report.run_dir == tmp_path / "journal"
        assert [task.counts.skipped for task in report.tasks.values()] == [30 * attempt] * 2
    assert len(notes.lines()) == 60


def test_a_journaled_run_starts_nothing_when_nothing_is_left(run: Any, tmp_path: Path) -> None:
    class Refusing(InlineEngine):
        def start(self, setup: Any) -> Any:
            raise AssertionError("nothing is left to run")

    task = line(lambda _: None, 30)
    assert run(task, journal=tmp_path / "journal").ok
    assert run(task, Refusing(), journal=tmp_path / "journal").ok


def test_a_changed_total_roi_runs_only_the_new_blocks(run: Any, notes: Notes, tmp_path: Path) -> None:
    task = line(noting(notes), 10, results=True)
    run(task, journal=tmp_path / "journal")
    report = run(replace(task, total_roi=Roi((-2,), (14,))), journal=tmp_path / "journal")
    assert report.ok
    assert report.tasks["task"].counts.skipped == 10
    assert len(notes.lines()) == 14
    assert len(report.results("task")) == 14


def test_changed_code_is_refused_until_somebody_decides(run: Any, notes: Notes, tmp_path: Path) -> None:
    task = line(noting(notes), 5)
    changed = replace(task, process_function=lambda block: notes.add(f"{block.index}"))
    run(task, journal=tmp_path / "journal")
    with pytest.raises(JournalMismatchError, match="on_changed='keep'"):
        run(changed, journal=tmp_path / "journal")
    recorder = Recorder()
    run(changed, journal=tmp_path / "journal", on_changed="keep", observers=[recorder])
    assert any("code changed" in event.text for event in recorder.of(Message))
    assert len(notes.lines()) == 5
    run(task, journal=tmp_path / "journal", on_changed="reset")
    assert len(notes.lines()) == 10


def test_what_waits_for_a_task_that_starts_afresh_starts_afresh_too(run: Any, notes: Notes, tmp_path: Path) -> None:
    def chain(function: Any) -> Any:
        first = line(function, 3, task_id="first")
        return first + line(noting(notes), 3, task_id="second") | line(noting(notes), 3, task_id="other")

    run(chain(lambda block: None), journal=tmp_path / "journal")
    recorder = Recorder()
    changed = chain(lambda block: notes.add("first"))
    report = run(changed, journal=tmp_path / "journal", on_changed="reset", observers=[recorder])
    assert [report.tasks[name].counts.skipped for name in ("first", "second", "other")] == [0, 0, 3]
    assert any("'second' starts afresh: 'first', which it waits for, does" in m.text for m in recorder.of(Message))


def test_another_identity_is_refused_like_another_version(run: Any, notes: Notes, tmp_path: Path) -> None:
    task = replace(line(noting(notes), 3), identity="into a.zarr")
    run(task, journal=tmp_path / "journal")
    with pytest.raises(JournalMismatchError, match=r"what it reads and writes was 'into a.zarr' and is 'into b.zarr'"):
        run(replace(task, identity="into b.zarr"), journal=tmp_path / "journal")
    with pytest.raises(JournalMismatchError, match="its code changed"):
        run(replace(task, process_function=print), journal=tmp_path / "journal")


@pytest.mark.parametrize("journaled", [False, True])
@pytest.mark.parametrize("engine", [InlineEngine, pytest.param(LocalEngine, marks=real)])
def test_a_retry_works_with_an_engine_that_was_given(
    run: Any,
    tmp_path: Path,
    engine: Any,
    journaled: bool,
) -> None:
    cure = tmp_path / "cure"

    def work(block: Block) -> int:
        if block.index == 4 and not cure.exists():
            raise ValueError("not yet")
        return 1

    options = {"journal": tmp_path / "journal"} if journaled else {}
    report = run(line(work, 8, results=True, max_retries=0), engine(), **options)
    assert report.tasks["task"].counts.failed == 1
    again = report.retry_failed()
    assert not again.ok
    assert again.tasks["task"].counts.skipped == 7
    cure.touch()
    last = again.retry_failed()
    assert last.ok
    assert last.results("task") == dict.fromkeys(range(8), 1)
    assert last.retry_failed().ok


@pytest.mark.parametrize("journaled", [False, True])
def test_an_interrupted_run_goes_on_by_a_retry(run: Any, notes: Notes, tmp_path: Path, journaled: bool) -> None:
    recorder = Recorder({TaskProgress: lambda: signal.raise_signal(signal.SIGINT)})
    options = {"journal": tmp_path / "journal"} if journaled else {}
    report = run(line(noting(notes), 100), observers=[recorder], **options)
    assert report.interrupted
    assert report.retry_failed().ok
    assert ran(notes) == list(range(100))


def test_an_interrupted_run_of_a_given_inline_engine_goes_on_by_a_retry(run: Any, notes: Notes) -> None:
    recorder = Recorder({TaskProgress: lambda: signal.raise_signal(signal.SIGINT)})
    report = run(line(noting(notes), 100), InlineEngine(), observers=[recorder])
    assert report.retry_failed().ok
    assert ran(notes) == list(range(100))


def test_signals_are_as_they_were_after_a_run(run: Any) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    run(line(lambda _: None, 3))
    run(line(failing, 1, max_retries=0))
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


@engines
def test_a_run_works_in_a_thread(run: Any, notes: Notes, engine: str) -> None:
    reports: list[RunReport] = []
    thread = threading.Thread(target=lambda: reports.append(run(line(noting(notes), 20), engine)))
    thread.start()
    thread.join(60)
    assert reports[0].ok
    assert ran(notes) == list(range(20))


def test_one_block_of_a_report_can_be_run_alone(run: Any) -> None:
    report = run(line(lambda block: 7 // (block.index - 2), 4, max_retries=0))
    (failure,) = report.failures
    with pytest.raises(ZeroDivisionError):
        report.run_block(*failure.block_id)
    assert report.run_block("task", 3) == 7


# Under daisy's names -----------------------------------------------------------------------------------------------


@pytest.fixture
def quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def failing(block: Block) -> None:
    raise ValueError("no")


@pytest.mark.parametrize("multiprocessing", [False, pytest.param(True, marks=real)])
def test_run_blockwise_says_whether_all_went_well(quiet: Path, multiprocessing: bool) -> None:
    notes = Notes(quiet / "notes")
    assert bellis.run_blockwise([line(noting(notes), 5)], multiprocessing) is True
    assert bellis.run_blockwise([line(failing, 5)], multiprocessing=multiprocessing) is False
    assert ran(notes) == list(range(5))


@pytest.mark.parametrize("server", [bellis.SerialServer, pytest.param(bellis.Server, marks=real)])
def test_servers_return_the_final_counts_of_each_task(quiet: Path, server: Any) -> None:
    counts = server().run_blockwise([line(lambda _: None, 5), line(failing, 3, task_id="bad", max_retries=0)])
    assert quiet.exists()
    assert (counts["task"].completed, counts["bad"].failed) == (5, 3)


# From outside ------------------------------------------------------------------------------------------------------

SCRIPT = """
import sys, time
from pathlib import Path
import bellis
from bellis.testing.blocks import Notes, line

notes = Notes(Path("notes"))
seconds = float(sys.argv[1])

def work(block):
    notes.add(f"begin {block.index}")
    time.sleep(seconds)
    notes.add(f"end {block.index}")

if __name__ == "__main__":
    report = bellis.run(line(work, 150), workers=2, journal="journal", progress=False)
    print("interrupted" if report.interrupted else "ok" if report.ok else "failed")
"""


def script(folder: Path, seconds: float) -> subprocess.Popen[str]:
    (folder / "script.py").write_text(SCRIPT)
    command = [sys.executable, "script.py", str(seconds)]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.integration
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_interrupt_from_outside_finishes_what_runs_and_the_journal_goes_on(
    tmp_path: Path, notes: Notes, number: signal.Signals
) -> None:
    with script(tmp_path, 0.02) as process:
        until(lambda: len(notes.lines()) > 10, "some blocks")
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    assert (out.strip(), process.returncode) == ("interrupted", 0), err
    lines = notes.lines()
    assert sum(text.startswith("begin") for text in lines) == sum(text.startswith("end") for text in lines) < 150
    with script(tmp_path, 0.02) as process:
        out, err = process.communicate(timeout=60)
    assert out.strip() == "ok", err
    assert Counter(notes.lines()) == {f"{step} {index}": 1 for step in ("begin", "end") for index in range(150)}


@pytest.mark.integration
@pytest.mark.slow
def test_two_interrupts_from_outside_end_blocks_at_once(tmp_path: Path, notes: Notes) -> None:
    with script(tmp_path, 600) as process:
        until(lambda: len(notes.lines()) == 2, "two blocks")
        process.send_signal(signal.SIGINT)
        sleep(0.3)
        assert process.poll() is None  # running blocks may finish
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=10)
    assert out.strip() == "interrupted", err
    assert not [text for text in notes.lines() if text.startswith("end")]
