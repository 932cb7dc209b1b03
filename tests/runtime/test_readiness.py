"""Readiness by arithmetic on states, against the same by loops."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bellis.geometry import Roi
from bellis.planning.grid import BlockGrid
from bellis.runtime import readiness
from bellis.runtime.readiness import Need, members, shifted
from bellis.runtime.state import DONE, TaskBlocks
from bellis.tasks import Task
from bellis.testing.blocks import line
from bellis.testing.pipelines import pipelines


def grid_of(*counts: int) -> BlockGrid:
    zero = (0,) * len(counts)
    one = Roi(zero, (1,) * len(counts))
    return BlockGrid(Roi(zero, counts), one, one, "valid", "task")


COUNTS = st.lists(st.integers(1, 6), min_size=1, max_size=3)


@given(COUNTS, st.data())
def test_shifted_blocks_are_those_that_stay_in_the_grid(counts: list[int], data: st.DataObject) -> None:
    grid = grid_of(*counts)
    steps = st.lists(st.integers(-7, 7), min_size=1, max_size=3, unique=True)
    axes = [data.draw(steps) for _ in counts]
    indices = data.draw(st.lists(st.integers(0, grid.num_blocks - 1), unique=True, max_size=20))
    known = np.array(indices, np.int64)
    found = []
    for moved, inside in shifted(grid, known, grid.coordinates(known), axes):
        origin = known if inside is None else known[inside]
        assert len(moved) == len(origin)
        found += list(zip(origin.tolist(), moved.tolist(), strict=True))
    expected = set()
    for index in indices:
        place = np.unravel_index(index, counts)
        for step in product(*axes):
            target = [int(p) + s for p, s in zip(place, step, strict=True)]
            if all(0 <= t < c for t, c in zip(target, counts, strict=True)):
                expected.add((index, int(np.ravel_multi_index(target, counts))))
    assert len(found) == len(set(found))
    assert set(found) == expected


@given(COUNTS, st.data())
def test_members_are_the_blocks_of_boxes(counts: list[int], data: st.DataObject) -> None:
    grid = grid_of(*counts)
    corner = st.tuples(*(st.integers(0, count) for count in counts))
    pairs = data.draw(st.lists(st.tuples(corner, corner), min_size=1, max_size=6))
    low = np.array([pair[0] for pair in pairs], np.int64)
    high = np.array([pair[1] for pair in pairs], np.int64)
    found: list[tuple[int, int]] = []
    for moved, inside in members(grid, low, high):
        origin = np.arange(len(pairs)) if inside is None else np.flatnonzero(inside)
        found += list(zip(origin.tolist(), moved.tolist(), strict=True))
    expected = {
        (number, int(np.ravel_multi_index(place, counts)))
        for number, (begin, end) in enumerate(pairs)
        for place in product(*map(range, begin, end))
    }
    assert len(found) == len(set(found))
    assert set(found) == expected


def pair(upstream: Task, downstream: Task) -> tuple[TaskBlocks, TaskBlocks, Need]:
    above, below = (TaskBlocks(task, BlockGrid.of(task)) for task in (upstream, downstream))
    return above, below, Need(above, below)


def overlaps(above: TaskBlocks, below: TaskBlocks) -> dict[int, set[int]]:
    writes = [above.grid.write_roi(index) for index in range(above.grid.num_blocks)]
    return {
        index: {up for up, roi in enumerate(writes) if roi.intersects(below.grid.read_roi(index))}
        for index in range(below.grid.num_blocks)
    }


@pytest.mark.parametrize("gathered", [0, 64])
@given(tasks=pipelines(max_tasks=2, skips=False, max_blocks=24), seed=st.integers(0, 2**32 - 1))
def test_a_block_is_ready_when_all_that_it_reads_is_done(tasks: list[Task], seed: int, gathered: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(readiness, "MOST_GATHERED", gathered)
        above, below, need = pair(tasks[0], tasks[-1])
        needs = overlaps(above, below)
        everything = np.arange(below.grid.num_blocks)
        order = np.random.default_rng(seed).permutation(above.grid.num_blocks)
        done: set[int] = set()
        parts = np.array_split(order, 4)
        for part in parts:
            if not len(part):
                continue
            above.state[part] = DONE
            done |= set(part.tolist())
            announced = {int(index) for found in need.note(part) for index in found}
            last = {
                index for index, wanted in needs.items() if wanted and wanted <= done and wanted & set(part.tolist())
            }
            assert last <= announced  # nothing that became ready is overlooked
            met = need.satisfied(everything)
            assert set(np.flatnonzero(met).tolist()) == {index for index, wanted in needs.items() if wanted <= done}
        assert need.has_unmet_roots() == any(not wanted for wanted in needs.values())


def test_readers_are_all_blocks_that_read_what_was_written() -> None:
    above, below, need = pair(line(print, 20, task_id="a"), line(print, 20, task_id="b", context=(3, 1)))
    found = {int(index) for part in need.readers(np.array([10], np.int64)) for index in part}
    assert found == {index for index, wanted in overlaps(above, below).items() if 10 in wanted} == {9, 10, 11, 12, 13}


def test_a_block_that_reads_many_is_counted_down_and_not_looked_up() -> None:
    first = line(print, 20_000, task_id="first")
    total = first.total_roi
    above, _, need = pair(first, Task("last", total, total, total, print))
    one = np.zeros(1, np.int64)
    for begin in range(0, 20_000, 100):
        assert not need.satisfied(one)[0]
        part = np.arange(begin, begin + 100)
        above.state[part] = DONE
        announced: list[Any] = [int(index) for found in need.note(part) for index in found]
    assert announced == [0]
    assert need.satisfied(one)[0]
