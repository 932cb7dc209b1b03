"""The scheduler, event by event: tasks that are added, grow, close and are cancelled while others run; order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bellis.errors import TaskError
from bellis.runtime.lease import Outcome
from bellis.runtime.scheduler import Scheduler
from bellis.tasks import Block, BlockStatus
from bellis.testing.blocks import line


def run_all(scheduler: Scheduler, *task_ids: str, limit: int = 1000) -> list[tuple[str, int]]:
    """Run what is ready, of these tasks or of all, until nothing is; return it in order."""
    ran: list[tuple[str, int]] = []
    while ready := [task.task_id for task in scheduler.get_ready_tasks() if not task_ids or task.task_id in task_ids]:
        indices = scheduler.acquire(ready[0], limit)
        scheduler.release(ready[0], indices)
        ran += [(ready[0], index) for index in indices.tolist()]
    return ran


def of(ran: list[tuple[str, int]], task_id: str) -> list[int]:
    return [index for own, index in ran if own == task_id]


def counts(scheduler: Scheduler, task_id: str) -> dict[str, int]:
    state = scheduler.task_states[task_id]
    names = ("ready", "processing", "completed", "skipped", "failed", "orphaned", "pending")
    found = {name: getattr(state, f"{name}_count") for name in names}
    assert sum(found.values()) - found["skipped"] == state.total_block_count
    return {name: count for name, count in found.items() if count}


def opened(blocks: int = 0, **options: Any) -> Scheduler:
    scheduler = Scheduler([])
    scheduler.add(line(print, blocks, task_id="frames", **options), is_open=True)
    return scheduler


# Tasks that grow ---------------------------------------------------------------------------------------------------


def test_an_open_task_is_not_done_though_nothing_is_left_to_run() -> None:
    scheduler = opened(3)
    assert of(run_all(scheduler), "frames") == [0, 1, 2]
    assert not scheduler.is_done()
    scheduler.close("frames")
    assert scheduler.is_done()


def test_an_open_task_grows_while_its_blocks_run() -> None:
    scheduler = opened()
    assert scheduler.get_ready_tasks() == []
    scheduler.extend("frames", 2)
    first = scheduler.acquire("frames", 10)
    assert first.tolist() == [0, 1]
    scheduler.extend("frames", 5)
    assert counts(scheduler, "frames") == {"ready": 3, "processing": 2}
    assert scheduler.acquire("frames", 2).tolist() == [2, 3]
    scheduler.release("frames", first)
    scheduler.extend("frames", 3)  # never back
    scheduler.extend("frames", 5)
    assert counts(scheduler, "frames") == {"ready": 1, "processing": 2, "completed": 2}


def test_growing_far_costs_no_list_of_blocks() -> None:
    scheduler = opened()
    for end in range(1, 3000):
        scheduler.extend("frames", end)
    assert counts(scheduler, "frames") == {"ready": 2999}
    assert of(run_all(scheduler), "frames") == list(range(2999))


def test_only_whole_blocks_of_an_open_task_are_ready_and_fit_decides_about_the_last() -> None:
    for fit, expected in (("valid", 2), ("shrink", 3), ("overhang", 3)):
        scheduler = opened(step=4, fit=fit)
        scheduler.extend("frames", 11)
        assert counts(scheduler, "frames") == {"ready": 2}
        scheduler.close("frames")
        assert of(run_all(scheduler), "frames") == list(range(expected))
        assert scheduler.is_done()


def test_a_closed_task_does_not_grow() -> None:
    scheduler = opened(3)
    scheduler.close("frames")
    scheduler.close("frames")
    with pytest.raises(TaskError, match="'frames' is closed: its region can't grow to 9"):
        scheduler.extend("frames", 9)


def test_what_reads_an_open_task_waits_for_what_may_still_come() -> None:
    scheduler = opened()
    frames = scheduler._pipeline.tasks[0]
    scheduler.add(line(print, 0, task_id="means", context=(1, 1), upstream_tasks=[frames]), is_open=True)
    scheduler.extend("frames", 6)
    scheduler.extend("means", 6)
    ran = run_all(scheduler)
    assert of(ran, "frames") == list(range(6))
    means = of(ran, "means")
    assert 5 not in means  # it reads the seventh frame, if there will be one
    scheduler.close("frames")
    scheduler.close("means")
    means += of(run_all(scheduler), "means")
    assert sorted(means) == list(range(scheduler.task_states["means"].total_block_count))
    assert scheduler.is_done()


def test_a_task_of_fixed_size_may_read_an_open_one() -> None:
    scheduler = opened()
    frames = scheduler._pipeline.tasks[0]
    scheduler.add(line(print, 10, task_id="maps", upstream_tasks=[frames]))
    scheduler.extend("frames", 4)
    assert of(run_all(scheduler), "maps") == [0, 1, 2, 3]
    scheduler.extend("frames", 6)
    assert of(run_all(scheduler), "maps") == [4, 5]
    scheduler.close("frames")
    assert sorted(of(run_all(scheduler), "maps")) == [6, 7, 8, 9]  # nothing that they read will ever come
    assert scheduler.is_done()


def test_a_failure_in_an_open_task_orphans_what_reads_it() -> None:
    scheduler = opened(max_retries=0)
    frames = scheduler._pipeline.tasks[0]
    scheduler.add(line(print, 0, task_id="maps", upstream_tasks=[frames]), is_open=True)
    scheduler.extend("frames", 3)
    scheduler.extend("maps", 3)
    indices = scheduler.acquire("frames", 3)
    outcomes = np.array([Outcome.SUCCESS, Outcome.FAILED, Outcome.SUCCESS], np.uint8)
    scheduler.release("frames", indices, outcomes)
    assert of(run_all(scheduler), "maps") == [0, 2]
    assert counts(scheduler, "maps") == {"completed": 2, "orphaned": 1}
    scheduler.close("frames")
    scheduler.close("maps")
    assert scheduler.is_done()


def test_blocks_that_come_after_what_they_read_failed_are_orphans() -> None:
    scheduler = opened(1, max_retries=0)
    frames = scheduler._pipeline.tasks[0]
    scheduler.release("frames", scheduler.acquire("frames"), np.array([Outcome.FAILED], np.uint8))
    scheduler.add(line(print, 1, task_id="late", upstream_tasks=[frames]))
    scheduler.close("frames")
    assert run_all(scheduler) == []
    assert counts(scheduler, "late") == {"orphaned": 1}
    assert scheduler.is_done()


def test_blocks_that_a_task_grows_by_after_what_they_read_failed_are_orphans() -> None:
    scheduler = opened(1, max_retries=0)
    frames = scheduler._pipeline.tasks[0]
    scheduler.add(line(print, 0, task_id="maps", upstream_tasks=[frames]), is_open=True)
    scheduler.release("frames", scheduler.acquire("frames"), np.array([Outcome.FAILED], np.uint8))
    scheduler.extend("maps", 1)
    scheduler.close("frames")
    scheduler.close("maps")
    assert run_all(scheduler) == []
    assert counts(scheduler, "maps") == {"orphaned": 1}
    assert scheduler.is_done()


# Tasks that come later ---------------------------------------------------------------------------------------------


def test_a_task_may_be_added_when_what_it_reads_is_done() -> None:
    first = line(print, 5, task_id="first")
    scheduler = Scheduler([first])
    run_all(scheduler)
    scheduler.add(line(print, 5, task_id="second", upstream_tasks=[first]))
    assert of(run_all(scheduler), "second") == list(range(5))
    assert scheduler.is_done()


def test_a_task_may_be_added_while_what_it_reads_runs() -> None:
    first = line(print, 5, task_id="first")
    scheduler = Scheduler([first])
    scheduler.release("first", scheduler.acquire("first", 2))
    held = scheduler.acquire("first", 1)
    scheduler.add(line(print, 5, task_id="second", upstream_tasks=[first]))
    assert scheduler.acquire("second", 9).tolist() == [0, 1]
    scheduler.release("first", held)
    assert scheduler.acquire("second", 9).tolist() == [2]


def test_a_task_that_can_not_be_added_is_an_error_that_says_why() -> None:
    first = line(print, 5, task_id="first")
    scheduler = Scheduler([])
    with pytest.raises(TaskError, match="'second' needs 'first': add them first"):
        scheduler.add(line(print, 5, task_id="second", upstream_tasks=[first]))
    scheduler.add(first)
    with pytest.raises(TaskError, match="named 'first' is there already"):
        scheduler.add(first)
    with pytest.raises(TaskError, match="can't be open and have read_write_conflict"):
        scheduler.add(line(print, 5, task_id="second", read_write_conflict=True), is_open=True)
    assert of(run_all(scheduler), "first") == list(range(5))


# Tasks that end early ----------------------------------------------------------------------------------------------


def test_a_cancelled_task_and_what_waits_for_it_hand_out_nothing_more() -> None:
    first = line(print, 5, task_id="first")
    second = line(print, 5, task_id="second", upstream_tasks=[first])
    other = line(print, 5, task_id="other")
    scheduler = Scheduler([second, other])
    scheduler.release("first", scheduler.acquire("first", 2))
    running = scheduler.acquire("first", 1)
    scheduler.cancel("first")
    scheduler.cancel("first")
    assert scheduler.acquire("first", 5).tolist() == []
    assert scheduler.acquire("second", 5).tolist() == []
    assert scheduler.is_cancelled("second")
    assert counts(scheduler, "first") == {"completed": 2, "processing": 1, "orphaned": 2}
    scheduler.release("first", running)
    assert counts(scheduler, "first") == {"completed": 3, "orphaned": 2}
    assert counts(scheduler, "second") == {"orphaned": 5}
    assert of(run_all(scheduler), "other") == list(range(5))
    assert scheduler.is_done()


def test_running_blocks_of_a_cancelled_task_may_fail_or_be_lost() -> None:
    scheduler = Scheduler([line(print, 3)])
    indices = scheduler.acquire("task", 3)
    scheduler.cancel("task")
    outcomes = np.array([Outcome.FAILED, Outcome.LOST, Outcome.SUCCESS], np.uint8)
    scheduler.release("task", indices, outcomes)
    assert counts(scheduler, "task") == {"failed": 1, "orphaned": 1, "completed": 1}
    assert scheduler.is_done()


def test_a_block_that_was_to_be_tried_again_when_its_task_was_cancelled_has_failed() -> None:
    scheduler = Scheduler([line(print, 3)])
    scheduler.release("task", scheduler.acquire("task", 1), np.array([Outcome.FAILED], np.uint8))
    scheduler.cancel("task")
    assert counts(scheduler, "task") == {"failed": 1, "orphaned": 2}
    assert scheduler.has_failed("task", 0)


def test_an_open_task_that_is_cancelled_is_done() -> None:
    scheduler = opened(3)
    scheduler.cancel("frames")
    assert scheduler.is_done()
    with pytest.raises(TaskError, match="is closed"):
        scheduler.extend("frames", 9)


# Order -------------------------------------------------------------------------------------------------------------


def test_the_highest_priority_goes_first_then_downstream_before_upstream() -> None:
    first = line(print, 5, task_id="first")
    second = line(print, 5, task_id="second", upstream_tasks=[first])
    urgent = line(print, 5, task_id="urgent", priority=3)
    later = line(print, 5, task_id="later", priority=-1)
    scheduler = Scheduler([second, urgent, later])
    scheduler.release("first", scheduler.acquire("first", 2))
    assert [task.task_id for task in scheduler.get_ready_tasks()] == ["urgent", "second", "first", "later"]


def test_a_task_that_no_task_is_named_as_is_an_error_that_names_those_that_there_are() -> None:
    scheduler = Scheduler([line(print, 5)])
    with pytest.raises(TaskError, match="no task is named 'tusk'; there are 'task'"):
        scheduler.acquire("tusk")


def test_what_an_earlier_run_did_is_said_before_the_start_only() -> None:
    scheduler = Scheduler([line(print, 5)])
    scheduler.mark_done("task", 1, np.array([True, True]))
    assert scheduler.acquire("task", 9).tolist() == [0, 3, 4]
    with pytest.raises(TaskError, match="has started"):
        scheduler.mark_done("task", 0, np.array([True]))
    assert scheduler.done("task").tolist() == [False, True, True, False, False]


# One block at a time -----------------------------------------------------------------------------------------------


def test_blocks_are_taken_and_given_back_one_at_a_time_as_with_daisy() -> None:
    first = line(print, 2, task_id="first", max_retries=1)
    scheduler = Scheduler([line(print, 2, task_id="second", upstream_tasks=[first])])
    block = scheduler.acquire_block("first")
    assert isinstance(block, Block)
    assert (block.block_id, block.status) == (("first", 0), BlockStatus.PROCESSING)
    assert scheduler.acquire_block("second") is None
    block.status = BlockStatus.SUCCESS
    changed = scheduler.release_block(block)
    assert set(changed) == {"first", "second"}
    assert changed["second"].ready_count == 1
    for attempt in (1, 2):
        block = scheduler.acquire_block("first")
        assert block is not None
        assert block.index == 1
        block.status = BlockStatus.FAILED
        scheduler.release_block(block)
        assert scheduler.attempts("first", 1) == attempt
    assert counts(scheduler, "first") == {"completed": 1, "failed": 1}
    assert counts(scheduler, "second") == {"ready": 1, "orphaned": 1}


def test_a_block_that_was_made_by_hand_can_be_given_back() -> None:
    scheduler = Scheduler([line(print, 3)])
    taken = scheduler.acquire_block("task")
    assert taken is not None
    again = Block(scheduler.grid("task").total_roi, taken.read_roi, taken.write_roi, taken.block_id)
    again.status = BlockStatus.SUCCESS
    scheduler.release_block(again)
    assert counts(scheduler, "task") == {"completed": 1, "ready": 2}


def test_the_order_of_all_blocks_can_be_looked_at() -> None:
    first = line(print, 2, task_id="first")
    scheduler = Scheduler([line(print, 2, task_id="second", upstream_tasks=[first])])
    graph = scheduler.dependency_graph
    assert graph.num_blocks("second") == 2
    assert [block.block_id for block in graph.upstream(scheduler.grid("second").block(1))] == [("first", 1)]


# Leases that took their machine with them --------------------------------------------------------------------------


def test_suspects_are_handed_out_in_halves_after_all_that_is_above_suspicion() -> None:
    scheduler = Scheduler([line(print, 20)])
    lost = scheduler.acquire("task", 9)
    scheduler.release("task", lost, np.full(9, Outcome.SUSPECT, np.uint8))
    assert counts(scheduler, "task") == {"ready": 20}
    assert [scheduler.acquire("task", 1000).tolist() for _ in range(3)] == [
        list(range(9, 20)), list(range(5)), list(range(5, 9))
    ]  # fmt: skip
    assert counts(scheduler, "task") == {"processing": 20}


def test_suspects_keep_to_the_limit() -> None:
    scheduler = Scheduler([line(print, 10)])
    lost = scheduler.acquire("task", 10)
    scheduler.release("task", lost, np.full(10, Outcome.SUSPECT, np.uint8))
    taken = [scheduler.acquire("task", 2).tolist() for _ in range(6)]
    assert taken == [[0, 1], [2, 3], [4], [5, 6], [7, 8], [9]]


def test_suspects_of_a_cancelled_task_are_orphans() -> None:
    scheduler = Scheduler([line(print, 10)])
    lost = scheduler.acquire("task", 4)
    scheduler.cancel("task")
    scheduler.release("task", lost, np.full(4, Outcome.SUSPECT, np.uint8))
    assert counts(scheduler, "task") == {"orphaned": 10}
