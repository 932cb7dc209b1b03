"""What a journal is bound to, and which finished blocks outlive a change of the region."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bellis.geometry import Roi
from bellis.planning.grid import BlockGrid
from bellis.runtime.fingerprint import Fingerprint, kept_blocks
from bellis.tasks import Task
from bellis.testing.blocks import line
from bellis.testing.pipelines import Geometry, geometries


def task(**options: Any) -> Task:
    return line(print, 20, step=5, context=(2, 3), **options)


def of(described: Task) -> Fingerprint:
    return Fingerprint.of(described, BlockGrid.of(described), "code")


def grid_of(geometry: Geometry) -> BlockGrid:
    return BlockGrid(geometry.total_roi, geometry.read_roi, geometry.write_roi, geometry.fit, "task")


@given(geometries())
def test_a_fingerprint_gives_back_the_grid_that_it_was_taken_of(geometry: Geometry) -> None:
    grid = grid_of(geometry)
    described = Task("task", geometry.total_roi, geometry.read_roi, geometry.write_roi, print, fit=geometry.fit)
    again = msgspec.json.decode(msgspec.json.encode(Fingerprint.of(described, grid, "")), type=Fingerprint).grid()
    assert (again.counts, again.total_roi, again.fit) == (grid.counts, grid.total_roi, grid.fit)
    for index in range(grid.num_blocks):
        assert (again.read_roi(index), again.write_roi(index)) == (grid.read_roi(index), grid.write_roi(index))


def test_where_the_regions_of_one_block_lie_makes_no_difference() -> None:
    moved = replace(task(), read_roi=task().read_roi.shift((700,)), write_roi=task().write_roi.shift((700,)))
    assert of(moved) == of(task())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": "2"}, "version was '' and is '2'"),
        ({"write_roi": Roi((0,), (4,)), "read_roi": Roi((-2,), (9,))}, "the shape of write_roi was (5,) and is (4,)"),
        ({"read_roi": Roi((-1,), (9,))}, "the context before write_roi was (2,) and is (1,)"),
        ({"read_roi": Roi((-2,), (11,))}, "the context after write_roi was (3,) and is (4,)"),
        ({"fit": "shrink"}, "fit was 'valid' and is 'shrink'"),
        ({"results": True}, "results= was False and is True"),
        ({"total_roi": Roi((-1,), (105,))}, "the grid began at (-2,) and begins at (-1,)"),
    ],
)
def test_what_differs_is_said_with_both_values(change: dict[str, Any], said: str) -> None:
    (found,) = of(task()).differences(of(replace(task(), **change)))
    assert found.startswith(said)


@pytest.mark.parametrize(
    "change",
    [
        {"num_workers": 1},
        {"timeout": 3.0},
        {"max_retries": 9},
        {"process_function": repr},
        {"total_roi": Roi((-12,), (300,))},
        {"total_roi": Roi((-2,), (7,))},
    ],
)
def test_what_blocks_mean_is_not_changed_by_limits_code_or_the_total_on_the_same_grid(change: dict[str, Any]) -> None:
    assert of(task()).differences(of(replace(task(), **change))) == []


@given(
    geometry=geometries(),
    shifts=st.lists(st.integers(-3, 3), min_size=4, max_size=4),
    grows=st.lists(st.integers(-4, 4), min_size=4, max_size=4),
    bits=st.integers(0, 2**64 - 1),
)
def test_blocks_are_kept_that_are_the_same_region_for_region(
    geometry: Geometry, shifts: list[int], grows: list[int], bits: int
) -> None:
    old = grid_of(geometry)
    total = geometry.total_roi
    begin = [b + k * step for b, k, step in zip(total.begin, shifts, geometry.write_roi.shape, strict=False)]
    shape = [max(0, extent + more) for extent, more in zip(total.shape, grows, strict=False)]
    new = BlockGrid(Roi(begin, shape), geometry.read_roi, geometry.write_roi, geometry.fit, "task")
    flags = np.array([bits >> (index % 64) & 1 for index in range(old.num_blocks)], bool)
    half = old.num_blocks // 2
    runs = [(0, flags[:half]), (half, flags[half:])]
    found = np.concatenate([np.empty(0, np.int64), *kept_blocks(old, iter(runs), new)])
    was_done = {(old.read_roi(index), old.write_roi(index)) for index in np.flatnonzero(flags).tolist()}
    expected = {index for index in range(new.num_blocks) if (new.read_roi(index), new.write_roi(index)) in was_done}
    assert len(found) == len(set(found.tolist()))
    assert set(found.tolist()) == expected
