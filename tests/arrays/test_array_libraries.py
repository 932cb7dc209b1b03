"""Arrays over what other libraries hold, and as what other libraries take."""

from __future__ import annotations

import pickle
import sys
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from bellis.arrays import Array, open_ds, prepare_ds
from bellis.errors import ArrayError
from bellis.geometry import Roi

if TYPE_CHECKING:
    from pathlib import Path

VOXELS = np.arange(6 * 8 * 2, dtype=np.uint16).reshape(6, 8, 2)


def _zarr(path: Path) -> Any:
    zarr = pytest.importorskip("zarr")
    data = zarr.create_array(path / "a.zarr", shape=VOXELS.shape, dtype="u2", chunks=(2, 4, 2), shards=(4, 8, 2))
    data[:] = VOXELS
    return data


def _hdf5(path: Path) -> Any:
    h5py = pytest.importorskip("h5py")
    return h5py.File(path / "a.h5", "w").create_dataset("raw", data=VOXELS, chunks=(2, 4, 2))


def _dask(path: Path) -> Any:
    return pytest.importorskip("dask.array").from_array(VOXELS.copy(), chunks=(2, 3, 2))


@pytest.mark.parametrize(
    ("make", "chunks", "writes"),
    [(_zarr, (2, 4, 2), (4, 8, 2)), (_hdf5, (2, 4, 2), (2, 4, 2)), (_dask, None, None)],
)
def test_data_of_other_libraries_is_read_and_written(make: Any, chunks: Any, writes: Any, tmp_path: Path) -> None:
    array = Array(make(tmp_path), offset=(10, 0), voxel_size=(2, 3), axis_names="yxc")
    roi = Roi((12, 3), (4, 6))
    assert array.chunk_shape == chunks
    assert array.write_shape == writes
    assert array.is_writeable
    np.testing.assert_array_equal(array.to_ndarray(), VOXELS)
    found = array[roi].to_ndarray()
    assert type(found) is np.ndarray
    np.testing.assert_array_equal(found, VOXELS[1:3, 1:3])
    found[...] = 0
    array[roi][roi] = VOXELS[1:3, 1:3, 0] + np.uint16(500)
    expected = VOXELS.copy()
    expected[1:3, 1:3] = (VOXELS[1:3, 1:3, 0] + np.uint16(500))[..., None]
    np.testing.assert_array_equal(array.to_ndarray(), expected)


def test_a_file_that_is_open_to_read_is_not_written(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    _hdf5(tmp_path).file.close()
    with h5py.File(tmp_path / "a.h5", "r") as file:
        array = Array(file["raw"], voxel_size=(1, 1), axis_names="yxc")
        assert not array.is_writeable
        with pytest.raises(ArrayError, match="read-only Dataset"):
            array[array.roi] = 1


def test_memory_that_numpy_maps_is_memory(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", VOXELS)
    array = Array(np.load(tmp_path / "a.npy", mmap_mode="r"), axis_names="yxc")
    assert type(array.to_ndarray()) is np.ndarray
    assert array.write_shape is None
    assert not array.is_writeable


def test_what_was_read_of_a_store_is_not_copied_again() -> None:
    """It costs as much as reading does."""

    class Store:
        shape, dtype, chunk_shape, write_shape, is_writeable = (4,), np.dtype("u1"), (2,), (2,), False

        def __getitem__(self, slices: tuple[slice, ...]) -> np.ndarray:
            self.last = np.zeros(4, "u1")[slices]
            return self.last

    store = Store()
    found = Array(store).to_ndarray(Roi(1, 2))
    assert found is store.last


def test_an_array_on_disk_says_where_and_what_it_is(tmp_path: Path) -> None:
    array = prepare_ds(
        tmp_path / "a.zarr/raw", shape=(8, 8), voxel_size=(4, 4), dtype="u1", fill_value=7, chunk_shape=(2, 2),
        shard_shape=(4, 4),
    )  # fmt: skip
    assert array.path == str(tmp_path / "a.zarr/raw")
    assert array.format == "zarr 3"
    assert array.fill_value == 7
    assert array.compressor
    assert (array.chunk_shape, array.write_shape) == ((2, 2), (4, 4))
    assert repr(array).endswith(f"voxel_size=(4, 4) nm, zarr 3, {tmp_path / 'a.zarr/raw'})")
    assert pickle.loads(pickle.dumps(array)).path == array.path
    memory = array.materialize()
    assert (memory.path, memory.format, memory.write_shape, memory.chunk_shape) == (None, None, None, None)
    with pytest.raises(ArrayError, match=r"a.zarr/raw is read-only: open_ds\(..., mode='r\+'\)"):
        open_ds(tmp_path / "a.zarr/raw")[Roi((0, 0), (4, 4))] = 1


def test_chunks_of_dask_end_where_stored_chunks_do(tmp_path: Path) -> None:
    pytest.importorskip("dask.array")
    array = prepare_ds(tmp_path / "a.zarr", shape=(10, 12), dtype="u2", chunk_shape=(4, 4))
    array[array.roi] = np.arange(120, dtype=np.uint16).reshape(10, 12)
    lazy = array[Roi((3, 4), (7, 8))].to_dask()
    assert lazy.chunks == ((1, 4, 2), (4, 4))
    np.testing.assert_array_equal(lazy.compute(scheduler="sync"), array.to_ndarray()[3:, 4:])
    assert int(array.to_dask().sum().compute(scheduler="sync")) == sum(range(120))
    assert array.intersect(Roi((50, 50), (1, 1))).to_dask().compute(scheduler="sync").size == 0


def test_xarray_knows_where_voxels_begin() -> None:
    pytest.importorskip("xarray")
    array = Array(VOXELS, offset=(10, 0), voxel_size=(2, 3), axis_names="yxc", attrs={"stain": "DAPI"})
    found = array[Roi((12, 3), (4, 6))].to_xarray()
    assert found.dims == ("y", "x", "c")
    assert found.coords["y"].values.tolist() == [12, 14]
    assert found.coords["x"].attrs["units"] == "nm"
    assert "c" not in found.coords
    assert found.attrs["voxel_size"] == (2, 3)
    assert found.attrs["offset"] == (12, 3)
    assert found.attrs["stain"] == "DAPI"
    np.testing.assert_array_equal(found.sel(y=14, x=3).values, VOXELS[2, 1])


def test_xarray_reads_a_stored_array_when_it_is_computed(tmp_path: Path) -> None:
    pytest.importorskip("xarray")
    array = prepare_ds(tmp_path / "a.zarr", shape=(4, 4), dtype="u2", fill_value=3)
    assert int(array.to_xarray().sum().compute(scheduler="sync")) == 48


def test_the_scale_is_exact_in_any_unit() -> None:
    array = Array(np.zeros((2, 3, 4)), voxel_size=(0.04, 50, 4.6), axis_names="tyx", units=("s", "nm", "nm"))
    assert array.units == ("ms", "pm", "pm")
    assert array.scale() == (Fraction(1, 25), 50, Fraction(23, 5))
    assert array.scale("um", "ms") == (40, Fraction(1, 20), Fraction(23, 5000))
    with pytest.raises(ArrayError, match="do not convert"):
        Array(np.zeros(3), units="voxel").scale()


def test_an_array_in_other_units_of_the_same_size_is_a_value() -> None:
    target = Array(np.zeros((2, 2), np.uint8), voxel_size=(4, 4))
    target[target.roi] = Array(np.ones((2, 2), np.uint8), voxel_size=(4000, 4000), units="pm")
    assert target.to_ndarray().tolist() == [[1, 1], [1, 1]]
    with pytest.raises(ArrayError, match=r"value has voxel size \(4, 4\) um, the array has \(4, 4\) nm"):
        target[target.roi] = Array(np.ones((2, 2), np.uint8), voxel_size=(4, 4), units="um")
    with pytest.raises(ArrayError, match="value has axes x, y, the array has y, x"):
        target[target.roi] = Array(np.ones((2, 2), np.uint8), voxel_size=(4, 4), axis_names="xy")


@pytest.mark.parametrize(("method", "package"), [("to_dask", r"dask\[array\]"), ("to_xarray", "xarray")])
def test_a_library_that_is_not_installed_is_named(method: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dask.array", None)
    monkeypatch.setitem(sys.modules, "xarray", None)
    with pytest.raises(ArrayError, match=rf"{method}\(\) needs .*, which is not installed: pip install '{package}'"):
        getattr(Array(VOXELS), method)()


def test_a_tensorstore_is_wrapped(tmp_path: Path) -> None:
    tensorstore = pytest.importorskip("tensorstore")
    handle = tensorstore.array(VOXELS.copy())
    array = Array(handle[2:5], voxel_size=(2, 2), axis_names="yxc")
    assert array.roi == Roi((0, 0), (6, 16))
    np.testing.assert_array_equal(array[Roi((2, 0), (2, 4))].to_ndarray(), VOXELS[3:4, :2])


def test_dask_in_memory_has_chunks_of_its_own() -> None:
    pytest.importorskip("dask.array")
    lazy = Array(VOXELS).to_dask()
    assert lazy.shape == VOXELS.shape
    np.testing.assert_array_equal(lazy[1, ::-1].compute(scheduler="sync"), VOXELS[1, ::-1])


def test_what_knows_its_place_by_other_means_is_not_wrapped() -> None:
    pytest.importorskip("xarray")
    array = Array(np.zeros((4, 4)), offset=(10, 10))
    with pytest.raises(ArrayError, match="is an Array already"):
        Array(array)
    with pytest.raises(ArrayError, match=r"voxel_size=..., offset=..."):
        Array(array.to_xarray())
