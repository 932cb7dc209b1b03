"""What is known of one task's blocks: counts, queues, cursors."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bellis.planning.grid import BlockGrid
from bellis.planning.levels import Levels
from bellis.runtime.state import DONE, Cursor, IndexQueue, TaskBlocks, TaskState
from bellis.testing.blocks import line
from bellis.testing.pipelines import Geometry, geometries


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


ACTIONS = st.lists(st.one_of(st.integers(0, 30), st.lists(st.integers(0, 2**31 - 2), max_size=30)), max_size=60)


@given(actions=ACTIONS, num_blocks=st.sampled_from([2**31 - 1, 2**31, 10**15]))
def test_a_queue_gives_back_what_was_put_in_in_that_order(actions: list[int | list[int]], num_blocks: int) -> None:
    queue, expected = IndexQueue(num_blocks), deque[int]()
    for action in actions:
        if isinstance(action, list):
            large = [value + num_blocks - 2**31 for value in action] if num_blocks > 2**31 else action
            queue.push(ints(*large))
            expected.extend(large)
        else:
            popped = queue.pop(action)
            assert popped.dtype == np.int64
            assert popped.tolist() == [expected.popleft() for _ in range(min(action, len(expected)))]
        assert len(queue) == len(expected)


def test_an_empty_queue_gives_nothing() -> None:
    assert IndexQueue(5).pop(3).tolist() == []


@given(geometry=geometries(), conflict=st.booleans(), limits=st.lists(st.integers(1, 20), min_size=1, max_size=5))
def test_a_cursor_gives_each_block_once_level_by_level(geometry: Geometry, conflict: bool, limits: list[int]) -> None:
    grid = BlockGrid(geometry.total_roi, geometry.read_roi, geometry.write_roi, geometry.fit, "task")
    levels = Levels(grid, conflict=conflict)
    cursor, found, turn = Cursor(levels, levels.num_levels), [], 0
    while not cursor.exhausted:
        taken = cursor.take(limits[turn % len(limits)])
        assert len(taken) <= limits[turn % len(limits)]
        found += taken.tolist()
        turn += 1
    assert sorted(found) == list(range(grid.num_blocks))
    if found:
        of_level = levels.level_of(grid.coordinates(ints(*found))).tolist()
        assert of_level == sorted(of_level)
        for level in set(of_level):
            same = [index for index, own in zip(found, of_level, strict=True) if own == level]
            assert same == sorted(same)


def test_a_cursor_ends_with_its_last_level() -> None:
    levels = Levels(BlockGrid.of(line(print, 9, context=(1, 1))), conflict=True)
    cursor = Cursor(levels, 0)
    assert cursor.take(100).tolist() == [1, 3, 5, 7]
    assert cursor.exhausted


def test_blocks_that_nothing_else_is_known_of_are_pending() -> None:
    state = TaskState(total_block_count=10, ready_count=2, processing_count=1, completed_count=3, failed_count=1)
    assert state.pending_count == 3
    assert not state.is_done()
    assert TaskState(
        total_block_count=6, completed_count=3, skipped_count=2, failed_count=1, orphaned_count=2
    ).is_done()
    assert TaskState().is_done()


def blocks(count: int = 10, **options: object) -> TaskBlocks:
    task = line(print, count, **options)
    return TaskBlocks(task, BlockGrid.of(task))


def test_skipped_blocks_are_completed_and_counted_once() -> None:
    known = blocks()
    for _ in range(2):
        known.skip(2, np.array([True, False, True]))
    assert (known.counts.completed_count, known.counts.skipped_count) == (2, 2)
    assert np.flatnonzero(known.state == DONE).tolist() == [2, 4]


def test_a_task_that_waits_for_nothing_is_ready_as_a_whole_at_the_start() -> None:
    known = blocks()
    known.start()
    assert (known.counts.ready_count, known.counts.pending_count) == (10, 0)


def test_a_task_with_conflicts_starts_with_its_first_level() -> None:
    known = blocks(context=(1, 1), read_write_conflict=True)
    known.start()
    assert known.counts.ready_count == 5


def test_a_block_of_a_later_level_waits_for_its_neighbours() -> None:
    known = blocks(9, context=(1, 1), read_write_conflict=True)
    assert known.satisfied(np.arange(9)).tolist() == [False, True] * 4 + [False]
    known.state[ints(1, 3)] = DONE
    assert known.satisfied(np.arange(9)).tolist() == [True, True, True, True, False, True, False, True, False]
    waiting = np.concatenate(list(known.waiting(ints(3))))
    assert sorted(waiting.tolist()) == [2, 4]


@pytest.mark.parametrize("more", [1, 5, 1000])
def test_a_task_that_grows_keeps_what_is_known(more: int) -> None:
    task = line(print, 10)
    known = TaskBlocks(task, BlockGrid.of(task), is_open=True)
    known.start()
    known.state[ints(3)] = DONE
    known.grow(BlockGrid.of(line(print, 10 + more)))
    assert known.counts.total_block_count == 10 + more
    assert known.state[3] == DONE
    assert len(known.state) >= 10 + more
    assert known.ready.pop(10**6).tolist() == list(range(10, 10 + more))
