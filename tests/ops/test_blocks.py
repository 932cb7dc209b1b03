"""What operations share: inputs, outputs, and the shape of blocks that is picked."""

from __future__ import annotations

import functools
import subprocess
import sys
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

import bellis
from bellis import (
    Array,
    ArrayError,
    BlockGrid,
    Coordinate,
    JournalMismatchError,
    Roi,
    TaskError,
    open_ds,
    ops,
    prepare_ds,
)
from bellis.ops.blocks import Limits, as_input, as_output, block_task

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Run


class Volume:
    """Stands for a large array on disk."""

    dtype = np.dtype("uint8")

    def __init__(self, shape: tuple[int, ...], chunks: tuple[int, ...] | None = None) -> None:
        self.shape, self.chunks = tuple(shape), chunks

    def __getitem__(self, slices: object) -> None: ...
    def __setitem__(self, slices: object, voxels: object) -> None: ...


def nothing(block: object) -> None: ...


def picked(*arrays: Array, reads: tuple[Array, ...] = ()) -> Coordinate:
    return block_task("task", nothing, reads=reads, writes=arrays).write_roi.shape


def test_the_package_imports_no_heavy_library() -> None:
    code = "import sys, bellis.ops; print([m for m in ('scipy', 'tensorstore', 'pyarrow', 'dask') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout.strip() == "[]"


def test_a_function_is_found_by_its_name_whoever_imported_its_module_first() -> None:
    code = (
        "import bellis.ops.map, bellis.ops.copy; from bellis import ops; print(callable(ops.map), callable(ops.copy))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout.split() == ["True", "True"]


def test_a_block_is_picked_of_whole_chunks_and_about_two_million_voxels() -> None:
    assert picked(Array(Volume((512,) * 3, (128,) * 3))) == (128, 128, 128)
    assert picked(Array(Volume((512,) * 3, (64,) * 3))) == (128, 128, 128)
    assert picked(Array(Volume((512,) * 3, (1, 512, 512)))) == (8, 512, 512)
    assert picked(Array(Volume((512,) * 3, (256,) * 3))) == (256, 256, 256)
    assert picked(Array(Volume((512,) * 3, (50, 50, 50)))) == (200, 100, 100)
    assert picked(Array(Volume((4096, 4096), (512, 512)))) == (2048, 1024)
    assert picked(Array(Volume((512,) * 3))) == (128, 128, 128)


def test_a_block_is_not_larger_than_the_whole() -> None:
    assert picked(Array(Volume((40, 30, 500), (64, 64, 64)), voxel_size=(4, 2, 1))) == (160, 60, 500)


def test_without_an_output_whole_chunks_of_the_input_are_read() -> None:
    source = Array(Volume((500, 500), (300, 70)))
    assert block_task("task", nothing, reads=[source]).write_roi.shape == (500, 500)
    source = Array(Volume((5000, 5000), (300, 70)))
    assert block_task("task", nothing, reads=[source]).write_roi.shape % Coordinate(300, 70) == (0, 0)


def test_blocks_are_whole_voxels_of_every_array() -> None:
    fine = Array(Volume((900,) * 3, (64,) * 3), voxel_size=(2, 2, 2))
    coarse = Array(Volume((300,) * 3), voxel_size=(6, 6, 6))
    assert picked(fine, reads=(coarse,)) % 6 == (0, 0, 0)
    assert picked(fine, reads=(coarse,)) % 128 == (0, 0, 0)


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(1, 60), st.integers(1, 60)), min_size=1, max_size=3))
def test_blocks_cover_the_output_once(axes: list[tuple[int, int, int]]) -> None:
    shape = tuple(n for n, _, _ in axes)
    output = Array(np.zeros(shape), voxel_size=[v for _, v, _ in axes], offset=[b for _, _, b in axes])
    task = block_task("task", nothing, writes=[output], block_shape=[b for _, _, b in axes], context=2)
    grid = BlockGrid.of(task)
    for k in range(min(grid.num_blocks, 500)):
        assert output.roi.contains(grid.write_roi(k))
        assert grid.read_roi(k) == grid.write_roi(k).grow(output.voxel_size * 2, output.voxel_size * 2)
    if grid.num_blocks <= 500:
        assert sum(prod(grid.write_roi(k).shape) for k in range(grid.num_blocks)) == prod(output.roi.shape)


def test_a_part_of_the_output_may_be_the_total() -> None:
    output = Array(np.zeros(100), voxel_size=(2,))
    task = block_task("task", nothing, writes=[output], block_shape=5, context=1, total=Roi((10,), (40,)))
    assert (task.total_roi, task.write_roi) == (Roi((8,), (44,)), Roi((10,), (10,)))
    with pytest.raises(TaskError, match="not a whole number of voxels"):
        block_task("task", nothing, writes=[output], total=Roi((10,), (41,)))


def test_an_input_is_an_array_or_opened(tmp_path: Path) -> None:
    array = Array(np.zeros(3))
    assert as_input(array) is array
    made = prepare_ds(tmp_path / "a.zarr", shape=(4, 5), dtype="int16", voxel_size=(3, 2), offset=(1, 1))
    for path in (tmp_path / "a.zarr", str(tmp_path / "a.zarr")):
        opened = as_input(path)
        assert (opened.roi, opened.dtype, opened.is_writeable) == (made.roi, np.dtype("int16"), False)
    with pytest.raises(ArrayError, match="no array"):
        as_input(tmp_path / "b.zarr")


def test_an_output_has_the_axes_of_its_like(tmp_path: Path) -> None:
    like = Array(
        np.zeros((3, 6, 5), "uint8"), voxel_size=(40, 4), offset=(80, -4), axis_names=["c", "y", "x"], units="um"
    )
    made = as_output(tmp_path / "a.zarr", like, "float32", write_size=(80, 8), attrs={"stain": "DAPI"})
    assert (made.roi, made.voxel_size, made.units) == (like.roi, like.voxel_size, like.units)
    assert (made.shape, made.types, made.axis_names, made.dtype) == (like.shape, like.types, like.axis_names, "float32")
    assert made.attrs["stain"] == "DAPI"
    assert made.chunk_shape is not None
    assert 2 % made.chunk_shape[1] == 0
    assert open_ds(tmp_path / "a.zarr").roi == like.roi


def test_a_view_gives_an_output_its_region(tmp_path: Path) -> None:
    view = Array(np.zeros(20, "uint8"), voxel_size=(2,))[Roi((6,), (10,))]
    assert as_output(tmp_path / "a.zarr", view, "uint8").roi == view.roi


def test_an_output_in_another_format_is_known_by_its_ending(tmp_path: Path, run: Run) -> None:
    pytest.importorskip("h5py")
    raw = Array(np.arange(24, dtype="uint8").reshape(4, 6), voxel_size=(2, 3))
    out = as_output(tmp_path / "a.h5/raw", raw, "uint8")
    run(block_task("task", functools.partial(copied, source=raw, target=out), reads=[raw], writes=[out],
                   limits=Limits(num_workers=1)))  # fmt: skip
    assert_array_equal(open_ds(tmp_path / "a.h5/raw").to_ndarray(), raw.data)


def copied(block: Any, *, source: Array, target: Array) -> None:
    target[block.write_roi] = source.to_ndarray(block.write_roi)


def test_the_identity_tells_datasets_apart(tmp_path: Path) -> None:
    def identity() -> str:
        path = tmp_path / "a.zarr"
        return str(block_task("task", nothing, writes=[as_output(path, Array(np.zeros(4)), "uint8")]).identity)

    first = identity()
    array = open_ds(tmp_path / "a.zarr", mode="r+")
    array[array.roi] = 1
    assert identity() == first
    as_output(tmp_path / "a.zarr", Array(np.zeros(4)), "int8", overwrite=True)
    as_output(tmp_path / "a.zarr", Array(np.zeros(4)), "uint8", overwrite=True)
    assert identity() != first
    assert "a.zarr" in first


def test_results_are_kept_if_asked(run: Run) -> None:
    task = block_task("task", lambda block: block.index, reads=[Array(np.zeros(10))], block_shape=5, results=True)
    assert list(run(task).results("task").values()) == [0, 1]


def test_arrays_in_memory_are_told_apart_by_what_they_hold(run: Run, tmp_path: Path) -> None:
    def task(value: int, name: str) -> Any:
        return ops.copy(Array(np.full(8, value, "uint8")), tmp_path / f"{name}.zarr", name=name)

    run(task(1, "a"), journal=tmp_path / "journal")
    assert run(task(1, "a"), journal=tmp_path / "journal").tasks["a"].counts.skipped == 1
    with pytest.raises(JournalMismatchError, match="in memory"):
        bellis.run(task(2, "a"), "inline", progress=False, journal=tmp_path / "journal")


def test_no_run_takes_what_another_one_wrote_to_memory_for_done(run: Run, tmp_path: Path) -> None:
    def task() -> Any:
        return ops.copy(Array(np.ones(8, "uint8")), Array(np.zeros(8, "uint8")))

    run(task(), journal=tmp_path / "journal")
    with pytest.raises(JournalMismatchError, match="in memory"):
        bellis.run(task(), "inline", progress=False, journal=tmp_path / "journal")


@pytest.mark.parametrize("name", ["block_shape", "context"])
def test_a_shape_of_another_rank_is_named(name: str) -> None:
    options: Any = {name: (2, 2)}
    with pytest.raises(TaskError, match=rf"{name} is \(2, 2\): pass one whole number of voxels, or 3 of them"):
        block_task("task", nothing, reads=[Array(np.zeros((4, 4, 4)))], **options)
