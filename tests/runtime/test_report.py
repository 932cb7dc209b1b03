"""Reports: what became of a run."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bellis.errors import RunError, TaskError
from bellis.planning.grid import BlockGrid
from bellis.runtime.report import Counts, Failure, RunReport, TaskReport
from bellis.runtime.state import TaskState
from bellis.tasks.values import pack
from bellis.testing.blocks import line

ALL_DONE = TaskState(total_block_count=5, completed_count=5, skipped_count=2)


def task_report(state: TaskState = ALL_DONE, **options: Any) -> TaskReport:
    task = line(options.pop("function", lambda block: block.index), 5, **options.pop("task", {}))
    return TaskReport(
        **{
            "task": task,
            "grid": BlockGrid.of(task),
            "counts": Counts.of(state),
            "failures": (),
            "stopped": None,
            "seconds": 1.0,
            "wall_s": 2.0,
            "durations": (np.empty(0, np.int64), np.empty(0, np.float32)),
            "peak_memory_bytes": 0,
            **options,
        }
    )


def report(*tasks: TaskReport, **options: Any) -> RunReport:
    return RunReport(run_id="run", tasks={task.task_id: task for task in tasks}, wall_s=1.0, workers=2, **options)


def test_counts_stay_as_they_were_when_they_were_taken() -> None:
    state = TaskState(total_block_count=9, ready_count=1, processing_count=2, completed_count=3, skipped_count=1)
    counts = Counts.of(state)
    state.completed_count += 1
    assert counts == Counts(total=9, ready=1, processing=2, completed=3, skipped=1, failed=0, orphaned=0, pending=3)
    with pytest.raises(FrozenInstanceError):
        counts.total = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("state", "options", "is_ok"),
    [
        (ALL_DONE, {}, True),
        (TaskState(), {}, True),
        (TaskState(total_block_count=5, completed_count=4, failed_count=1), {}, False),
        (TaskState(total_block_count=5, completed_count=4, orphaned_count=1), {}, False),
        (TaskState(total_block_count=5, completed_count=4, ready_count=1), {}, False),
        (ALL_DONE, {"stopped": "by somebody"}, False),
    ],
)
def test_a_run_is_ok_when_every_block_of_every_task_is_completed(
    state: TaskState,
    options: dict[str, Any],
    is_ok: bool,
) -> None:
    assert report(task_report(state, **options)).ok is is_ok
    good = task_report(task={"task_id": "good"})
    assert report(good, task_report(state, **options)).ok is is_ok


def test_failures_of_all_tasks_are_listed() -> None:
    grid = BlockGrid.of(line(print, 5))
    failure = Failure(
        task_id="task",
        number=3,
        index=3,
        read_roi=grid.read_roi(3),
        write_roi=grid.write_roi(3),
        attempts=2,
        error="why",
        log=Path("log"),
    )
    assert failure.block_id == ("task", 3)
    both = report(task_report(failures=(failure,)), task_report(task={"task_id": "other"}, failures=(failure,)))
    assert both.failures == (failure, failure)


def test_results_are_by_block_number_in_the_order_of_blocks() -> None:
    packed = {index: pack([index]) for index in (4, 0, 2)}
    found = report(task_report(task={"results": True}), _results=lambda _: packed).results("task")
    assert list(found.items()) == [(0, [0]), (2, [2]), (4, [4])]


def single(packed: dict[int, bytes], state: TaskState, **task: Any) -> RunReport:
    return report(task_report(state, task={"results": True, **task}), _results=lambda _: packed)


def test_the_value_of_a_task_with_one_block_is_its_result() -> None:
    one = single({0: pack(np.arange(3))}, TaskState(total_block_count=1, completed_count=1))
    np.testing.assert_array_equal(one.value("task"), [0, 1, 2])
    assert single({0: pack(None)}, TaskState(total_block_count=1, completed_count=1)).value("task") is None


def test_a_value_that_is_not_there_is_an_error_that_says_why() -> None:
    with pytest.raises(RunError, match="no value, because its block is not completed"):
        single({}, TaskState(total_block_count=1, failed_count=1)).value("task")
    with pytest.raises(TaskError, match=r"has 5 blocks, not one: report.results\('task'\)"):
        single({0: pack(1)}, ALL_DONE).value("task")
    with pytest.raises(TaskError, match="keeps no results"):
        single({}, ALL_DONE, results=False).value("task")
    with pytest.raises(TaskError, match="no task is named 'tusk'"):
        single({}, ALL_DONE).value("tusk")


def test_what_a_report_does_not_know_is_an_error_that_names_what_it_knows() -> None:
    one = report(task_report())
    with pytest.raises(TaskError, match="no task is named 'tusk'; there are 'task'"):
        one.results("tusk")
    with pytest.raises(TaskError, match="keeps no results: describe it with results=True"):
        one.results("task")
    with pytest.raises(TaskError, match="no task is named 'tusk'"):
        one.run_block("tusk", 0)
    with pytest.raises(RunError, match="run the pipeline again with its journal"):
        one.retry_failed()


def test_one_block_can_be_run_in_this_thread() -> None:
    assert report(task_report()).run_block("task", 3) == 3
    prepared: list[str] = []
    task = {"setup": lambda: prepared.append("setup")}
    report(task_report(function=lambda _: prepared.append("block"), task=task)).run_block("task", 0)
    assert prepared == ["setup", "block"]


@pytest.mark.parametrize("number", [-1, 5, 10**9])
def test_a_number_that_no_block_has_is_an_error(number: int) -> None:
    with pytest.raises(ValueError, match=str(number)):
        report(task_report()).run_block("task", number)


def test_a_report_is_printed_as_its_summary() -> None:
    assert str(report(task_report(), _summary=lambda one: f"summary of {one.run_id}")) == "summary of run"
    assert "run_id='run'" in str(report(task_report()))
