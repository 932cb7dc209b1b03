"""ops.copy and ops.rechunk: between formats, chunks and data types."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from bellis import Array, ArrayError, Coordinate, Roi, TaskError, open_ds, ops, prepare_ds

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Run


@st.composite
def volumes(draw: st.DrawFn) -> Array:
    dims = draw(st.integers(1, 4))
    shape = draw(st.lists(st.integers(1, 5), min_size=dims, max_size=dims))
    channels = draw(st.lists(st.integers(1, 3), max_size=1))
    dtype = draw(st.sampled_from(["uint8", "int64", "float32", "bool"]))
    voxels = np.arange(np.prod(channels + shape)).reshape(channels + shape).astype(dtype)
    offset = draw(st.lists(st.integers(-9, 9), min_size=dims, max_size=dims))
    return Array(voxels, voxel_size=draw(st.lists(st.integers(1, 4), min_size=dims, max_size=dims)), offset=offset)


@settings(max_examples=100)
@given(volumes(), st.integers(1, 6))
def test_a_copy_is_the_same_for_all_blocks(run: Run, source: Array, block: int) -> None:
    target = Array(np.zeros_like(source.data), voxel_size=source.voxel_size, offset=source.roi.begin)
    run(ops.copy(source, target, block_shape=block))
    assert_array_equal(target.data, source.data)


def test_a_copy_at_a_path_has_region_axes_and_attributes_of_its_source(run: Run, tmp_path: Path) -> None:
    voxels = np.arange(2 * 9 * 7, dtype="uint16").reshape(2, 9, 7)
    source = Array(voxels, voxel_size=(40, 4), offset=(80, 4), units="pm", attrs={"stain": "DAPI"})
    run(ops.copy(source, tmp_path / "a.zarr"))
    target = open_ds(tmp_path / "a.zarr")
    assert (target.roi, target.voxel_size, target.units) == (source.roi, source.voxel_size, source.units)
    assert (target.types, target.axis_names, target.dtype) == (source.types, source.axis_names, source.dtype)
    assert target.attrs["stain"] == "DAPI"
    assert_array_equal(target.to_ndarray(), voxels)


@pytest.mark.parametrize("name", ["b.zarr", "b.n5", "b.h5/raw"])
def test_formats_are_told_by_the_ending(run: Run, tmp_path: Path, name: str) -> None:
    source = prepare_ds(tmp_path / "a.zarr", shape=(20, 30), dtype="uint8", voxel_size=(4, 2), chunk_shape=(7, 9))
    source[source.roi] = np.arange(600, dtype="uint16").astype("uint8").reshape(20, 30)
    run(ops.copy(tmp_path / "a.zarr", tmp_path / name, limits=ops.Limits(num_workers=1)))
    target = open_ds(tmp_path / name)
    assert (target.roi, target.voxel_size) == (source.roi, source.voxel_size)
    assert_array_equal(target.to_ndarray(), source.to_ndarray())


def test_rechunk_gives_other_chunks(run: Run, tmp_path: Path) -> None:
    source = Array(np.arange(600).reshape(20, 30))
    run(ops.rechunk(source, tmp_path / "a.zarr", (10, 6)))
    assert open_ds(tmp_path / "a.zarr").chunk_shape == (10, 6)
    run(ops.rechunk(tmp_path / "a.zarr", tmp_path / "b.zarr", (5, 15), shard_shape=(10, 30)))
    target = open_ds(tmp_path / "b.zarr")
    assert (target.chunk_shape, target.write_shape) == ((5, 15), (10, 30))
    assert_array_equal(target.to_ndarray(), source.data)


def test_blocks_that_share_a_shard_are_refused(tmp_path: Path) -> None:
    source = Array(np.zeros((40, 40), "uint8"))
    target = prepare_ds(tmp_path / "a.zarr", shape=(40, 40), dtype="uint8", chunk_shape=(5, 5), shard_shape=(20, 20))
    with pytest.raises(TaskError, match=r"block_shape=\(20, 20\)"):
        ops.copy(source, target, block_shape=15)
    assert ops.copy(source, target).write_roi.shape % 20 == (0, 0)


def test_a_data_type_that_holds_all_values_may_be_asked_for(run: Run, tmp_path: Path) -> None:
    source = Array(np.arange(6, dtype="uint8"))
    run(ops.copy(source, tmp_path / "a.zarr", dtype="int32"))
    assert open_ds(tmp_path / "a.zarr").dtype == "int32"
    with pytest.raises(TaskError, match=r"int8 of target .* does not hold every value of uint8.*ops\.map"):
        ops.copy(source, tmp_path / "b.zarr", dtype="int8")


def test_the_region_of_an_existing_target_is_copied(run: Run) -> None:
    source = Array(np.arange(20))
    target = Array(np.zeros(30, int), offset=(-5,))
    with pytest.raises(TaskError, match=r"take the view that both have"):
        ops.copy(source, target)
    run(ops.copy(source, target[Roi((3,), (10,))], block_shape=4))
    assert_array_equal(target.data, np.r_[np.zeros(8), np.arange(3, 13), np.zeros(12)])


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    source = Array(np.zeros((4, 4)))
    with pytest.raises(TaskError, match="voxels of"):
        ops.copy(source, Array(np.zeros((2, 2)), voxel_size=Coordinate(2, 2)))
    with pytest.raises(TaskError, match="shape"):
        ops.copy(Array(np.zeros((2, 4)), voxel_size=(1,)), Array(np.zeros((3, 4)), voxel_size=(1,)))
    with pytest.raises(ArrayError):
        ops.copy(source, tmp_path / "a.zarr", chunk_shape=(4,))


@pytest.mark.slow
@pytest.mark.integration
def test_worker_processes_copy_chunks(run: Run, tmp_path: Path) -> None:
    source = prepare_ds(tmp_path / "a.zarr", shape=(60, 70, 50), dtype="uint16", chunk_shape=(16, 16, 16))
    source[source.roi] = np.arange(60 * 70 * 50).reshape(60, 70, 50).astype("uint16")
    run(ops.rechunk(tmp_path / "a.zarr", tmp_path / "b.zarr", (20, 35, 10)), "local", workers=2)
    assert_array_equal(open_ds(tmp_path / "b.zarr").to_ndarray(), source.to_ndarray())
