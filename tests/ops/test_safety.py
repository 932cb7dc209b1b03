"""Write safety, against all pairs of blocks and all their chunks."""

from __future__ import annotations

import re
from itertools import combinations, product
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import bellis
from bellis import Array, BlockGrid, Coordinate, Roi, TaskError, ops, prepare_ds
from bellis.ops.blocks import Limits, block_task
from bellis.ops.safety import Lattice, is_safe, nearest_safe

if TYPE_CHECKING:
    from pathlib import Path

    from bellis import Task
    from conftest import Run


def boundaries(extent: int, step: int) -> list[int]:
    return list(range(step, extent, step))


lattices = st.lists(
    st.integers(1, 12).flatmap(lambda period: st.builds(Lattice, st.integers(0, period - 1), st.just(period))),
    min_size=1,
    max_size=3,
)


@given(st.integers(1, 60), st.integers(1, 70), lattices)
def test_blocks_are_safe_exactly_if_every_boundary_is_on_every_lattice(
    extent: int, step: int, axis: list[Lattice]
) -> None:
    expected = all((b + one.phase) % one.period == 0 for b in boundaries(extent, step) for one in axis)
    assert is_safe(extent, step, axis) == expected


@given(st.integers(1, 60), st.integers(1, 70), lattices)
def test_the_suggested_step_is_the_nearest_that_is_safe(extent: int, step: int, axis: list[Lattice]) -> None:
    if is_safe(extent, step, axis):
        assert nearest_safe(extent, step, axis) == step
        return
    safe = [n for n in range(1, extent + 1) if is_safe(extent, n, axis)]
    assert nearest_safe(extent, step, axis) == min(safe, key=lambda n: (abs(n - step), n))


def test_begin_and_origin_make_the_phase() -> None:
    assert Lattice.of(100, 30, 64) == Lattice(6, 64)
    assert Lattice.of(-10, 0, 64) == Lattice(54, 64)
    assert Lattice(6, 64).has(58)


class Chunked:
    """Stands for an array on disk, whose chunks matter."""

    dtype = np.dtype("uint8")

    def __init__(self, shape: tuple[int, ...], chunks: tuple[int, ...]) -> None:
        self.shape, self.chunks = tuple(shape), tuple(chunks)

    def __getitem__(self, slices: object) -> None: ...
    def __setitem__(self, slices: object, voxels: object) -> None: ...


def nothing(block: object) -> None: ...


def chunks_of(roi: Roi, output: Array, origin: Coordinate) -> set[tuple[int, ...]]:
    """Which chunks a region touches, voxel by voxel."""
    assert output.chunk_shape is not None
    axes = zip(roi.begin, roi.end, origin, output.voxel_size, output.chunk_shape, strict=True)
    return set(product(*({(w - o) // s // c for w in range(b, e, s)} for b, e, o, s, c in axes)))


@st.composite
def outputs(draw: st.DrawFn) -> tuple[Array, Coordinate, Coordinate]:
    """An output, maybe a view, where its data begins, and a shape of blocks."""
    dims = draw(st.integers(1, 3))

    def some(low: int, high: int) -> Coordinate:
        return Coordinate(draw(st.lists(st.integers(low, high), min_size=dims, max_size=dims)))

    shape, voxel_size, origin = some(1, 12), some(1, 3), some(-20, 20)
    whole = Array(Chunked(shape, some(1, 8)), voxel_size=voxel_size, offset=origin)
    begin = Coordinate(draw(st.integers(0, n - 1)) for n in shape)
    extent = Coordinate(draw(st.integers(1, n - b)) for n, b in zip(shape, begin, strict=True))
    return whole[Roi(origin + begin * voxel_size, extent * voxel_size)], origin, some(1, 12)


@given(outputs())
def test_a_task_is_refused_exactly_if_two_of_its_blocks_touch_one_chunk(
    drawn: tuple[Array, Coordinate, Coordinate],
) -> None:
    output, origin, block_shape = drawn
    step = block_shape * output.voxel_size
    write = Roi(output.roi.begin, step)
    grid = BlockGrid(output.roi, write, write, "shrink")
    touched = [chunks_of(grid.write_roi(k), output, origin) for k in range(grid.num_blocks)]
    is_shared = any(a & b for a, b in combinations(touched, 2))
    try:
        block_task("task", nothing, writes=[output], block_shape=block_shape)
    except TaskError as error:
        assert is_shared
        suggested = re.search(r"block_shape=\(([\d, ]+)\)", str(error))
        assert suggested is not None
        block_task("task", nothing, writes=[output], block_shape=eval(f"({suggested[1]})"))
    else:
        assert not is_shared


@given(outputs())
def test_the_block_that_is_picked_is_safe(drawn: tuple[Array, Coordinate, Coordinate]) -> None:
    output, origin, _ = drawn
    task = block_task("task", nothing, writes=[output])
    grid = BlockGrid.of(task)
    touched = [chunks_of(grid.write_roi(k), output, origin) for k in range(grid.num_blocks)]
    assert not any(a & b for a, b in combinations(touched, 2))


@given(outputs())
def test_one_worker_may_write_any_blocks(drawn: tuple[Array, Coordinate, Coordinate]) -> None:
    output, _, block_shape = drawn
    block_task("task", nothing, writes=[output], block_shape=block_shape, limits=Limits(num_workers=1))


def test_the_error_says_which_blocks_which_chunks_and_what_to_do() -> None:
    output = Array(Chunked((100, 300), (50, 64)), voxel_size=(40, 4))
    with pytest.raises(TaskError) as caught:
        block_task("smooth", nothing, writes=[output], block_shape=(50, 100))
    text = str(caught.value)
    assert "task 'smooth', output in memory" in text
    assert "blocks 0 and 1 along x would write the same chunk at the same time" in text
    assert "a chunk is 256 long, and a block 400" in text
    assert "block_shape=(50, 128)" in text


def test_chunks_of_a_view_are_counted_from_where_the_data_begins() -> None:
    whole = Array(Chunked((100,), (10,)), offset=(5,))
    with pytest.raises(TaskError, match=r"the first begins 4 into a chunk.*block_shape=\(36,\)"):
        block_task("task", nothing, writes=[whole[Roi((9,), (60,))]], block_shape=30)
    block_task("task", nothing, writes=[whole[Roi((15,), (60,))]], block_shape=30)


def test_chunks_along_channels_do_not_matter() -> None:
    output = Array(Chunked((3, 40), (2, 20)), voxel_size=(1,))
    assert block_task("task", nothing, writes=[output], block_shape=20).write_roi.shape == (20,)


def test_two_tasks_that_may_write_one_chunk_at_the_same_time_are_refused(run: Run, tmp_path: Path) -> None:
    raw = Array(np.ones((64, 8), "uint8"))
    out = prepare_ds(tmp_path / "out.zarr", shape=(64, 8), dtype="uint8", chunk_shape=(32, 8))

    def into(begin: int, end: int, name: str) -> Task:
        return ops.copy(raw, out[Roi((begin, 0), (end - begin, 8))], name=name)

    apart = run([into(0, 32, "a"), into(32, 64, "b")])
    assert apart.ok
    with pytest.raises(TaskError, match=r"'a' and 'b' would write the same chunks of .*out.zarr at the same time"):
        bellis.run([into(0, 16, "a"), into(16, 32, "b")], "inline", progress=False)
    assert run(into(0, 16, "a") + into(16, 32, "b")).ok  # one after the other
    between = run(into(0, 16, "a") + into(32, 64, "c") + into(16, 32, "b"))
    assert between.ok


def test_two_tasks_may_write_one_hdf5_file(run: Run, tmp_path: Path) -> None:
    raw = Array(np.ones((64, 8), "uint8"))
    out = prepare_ds(tmp_path / "out.h5/raw", shape=(64, 8), dtype="uint8", chunk_shape=(32, 8))
    halves = [ops.copy(raw, out[Roi((k, 0), (20, 8))], name=f"at {k}") for k in (0, 20, 40)]
    assert run(halves).ok
