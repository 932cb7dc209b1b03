"""Arrays on disk: voxels through tensorstore, read by others, used from other processes."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tensorstore
import zarr

from bellis.arrays import Array, open_ds, prepare_ds
from bellis.errors import ArrayError
from bellis.geometry import Roi
from bellis.testing.arrays import ArrayStoreTests

if TYPE_CHECKING:
    from pathlib import Path


class TestZarr3(ArrayStoreTests):
    format_name = "zarr"
    suffix = ".zarr"

    def write_example(self, path: str, voxels: Any, voxel_size: Any, offset: Any) -> None:
        attributes = {"voxel_size": list(voxel_size), "offset": list(offset)}
        zarr.create_array(path, data=voxels, chunks=(4,) * voxels.ndim, attributes=attributes)


class TestZarr3WithShards(TestZarr3):
    def storage(self, ndim: int) -> dict[str, Any]:
        return {"chunk_shape": (2,) * ndim, "shard_shape": (4,) * ndim}

    def write_example(self, path: str, voxels: Any, voxel_size: Any, offset: Any) -> None:
        attributes = {"voxel_size": list(voxel_size), "offset": list(offset)}
        chunks, shards = (2,) * voxels.ndim, (4,) * voxels.ndim
        zarr.create_array(path, data=voxels, chunks=chunks, shards=shards, attributes=attributes)


class TestZarr2(ArrayStoreTests):
    format_name = "zarr"
    suffix = ".zarr"

    def prepare(self, path: str, shape: Any, dtype: Any = "uint16", **options: Any) -> Array:
        container = path.partition(".zarr")[0] + ".zarr"
        zarr.open_group(container, mode="a", zarr_format=2)
        array = super().prepare(path, shape, dtype, **options)
        assert array.format == "zarr 2"
        return array

    def write_example(self, path: str, voxels: Any, voxel_size: Any, offset: Any) -> None:
        attributes = {"voxel_size": list(voxel_size), "offset": list(offset)}
        zarr.create_array(path, data=voxels, chunks=(4,) * voxels.ndim, attributes=attributes, zarr_format=2)


class TestZarrInMemory(ArrayStoreTests):
    format_name = "zarr"
    suffix = ".zarr"
    reaches_processes = False

    def location(self, folder: Path, container: str = "a", name: str = "raw") -> str:
        return f"memory://{folder.as_posix().strip('/')}/{container}.zarr/{name}"


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("dtype", ["?", "u1", "i2", "u4", "i8", "f2", "f4", "f8", "c8"])
def test_zarr_python_reads_what_is_written(tmp_path: Path, zarr_format: int, dtype: str) -> None:
    zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=zarr_format)  # type: ignore[arg-type]
    voxels = np.arange(60).reshape(2, 5, 6).astype(dtype)

    array = prepare_ds(
        tmp_path / "a.zarr", "raw", Roi((0, 0), (50, 12)), (10, 2), dtype,
        write_size=(20, 6), num_channels=2,
    )  # fmt: skip
    array[array.roi] = voxels

    found: Any = zarr.open_group(tmp_path / "a.zarr", mode="r")["raw"]
    np.testing.assert_array_equal(found[:], voxels)
    assert found.metadata.zarr_format == zarr_format
    assert found.dtype == np.dtype(dtype)
    assert found.chunks == (1, 2, 3)
    assert found.attrs["voxel_size"] == [10, 2]
    np.testing.assert_array_equal(open_ds(tmp_path / "a.zarr", "raw"), voxels)


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("order", ["C", "F"])
def test_what_zarr_python_writes_is_read(tmp_path: Path, zarr_format: int, order: Any) -> None:
    voxels = np.arange(60, dtype=">i4").reshape(3, 4, 5)
    made = zarr.create_array(
        tmp_path / "a.zarr", shape=voxels.shape, dtype=voxels.dtype, chunks=(1, 2, 3),
        zarr_format=zarr_format, order=order if zarr_format == 2 else None,
        attributes={"resolution": [40, 4], "offset": [80, 0]},
    )  # fmt: skip
    made[:] = voxels

    array = open_ds(tmp_path / "a.zarr")

    assert array.roi == Roi((80, 0), (160, 20))
    assert array.chunk_shape == (1, 2, 3)
    assert array.attrs["resolution"] == [40, 4]
    np.testing.assert_array_equal(array, voxels)


def test_a_shard_is_what_is_written_and_a_chunk_in_it_what_is_read(tmp_path: Path) -> None:
    made = zarr.create_array(tmp_path / "a.zarr", shape=(64,), dtype="u1", chunks=(8,), shards=(32,))
    made[:] = np.arange(64)
    array = open_ds(tmp_path / "a.zarr", mode="r+")
    array[Roi(8, 8)] = 0
    assert array.chunk_shape == (8,)
    assert array.write_shape == (32,)
    np.testing.assert_array_equal(made[:24], [*range(8), *([0] * 8), *range(16, 24)])


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize(
    "compressor",
    [None, "blosc", "zstd", "gzip", {"id": "zstd", "level": 9}, {"id": "blosc", "cname": "lz4"}],
)
def test_any_compressor_is_read_back(tmp_path: Path, zarr_format: int, compressor: Any) -> None:
    zarr.open_group(tmp_path, mode="w", zarr_format=zarr_format)  # type: ignore[arg-type]
    array = prepare_ds(tmp_path / "a", (100,), None, "u2", compressor=compressor)
    array[array.roi] = np.arange(100, dtype=np.uint16)
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "a", mode="r")[:], np.arange(100))


@pytest.mark.parametrize("compressor", ["zip", {"level": 3}, {"id": "zstd", "clevel": 3}])
def test_an_unknown_compressor_is_refused(tmp_path: Path, compressor: Any) -> None:
    with pytest.raises(ArrayError, match="compressor"):
        prepare_ds(tmp_path / "a.zarr", (100,), None, "u2", compressor=compressor)


@pytest.mark.parametrize(("dtype", "value"), [("f4", np.nan), ("f8", -np.inf), ("c8", 1 + 2j),
                                              ("?", True), ("u8", 2**64 - 1)])  # fmt: skip
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_what_was_never_written_is_the_fill_value(tmp_path: Path, dtype: str, value: complex, zarr_format: int) -> None:
    zarr.open_group(tmp_path, mode="w", zarr_format=zarr_format)  # type: ignore[arg-type]
    array = prepare_ds(tmp_path / "a", (5,), None, dtype, fill_value=value)
    np.testing.assert_array_equal(array, np.full(5, value, dtype))


def test_a_tensorstore_is_wrapped(tmp_path: Path) -> None:
    store = tensorstore.open(
        {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{tmp_path}/a/"}},
        create=True, dtype=tensorstore.int32, shape=[10, 20],
    ).result()  # fmt: skip
    array = Array(store[2:6, 5:], voxel_size=(3, 2))
    array[array.roi] = np.arange(60, dtype=np.int32).reshape(4, 15)

    assert array.roi == Roi((0, 0), (12, 30))
    travelled = pickle.loads(pickle.dumps(array))
    np.testing.assert_array_equal(travelled, np.arange(60).reshape(4, 15))
    np.testing.assert_array_equal(store[2:6, 5:].read().result(), travelled)


def test_a_tensorstore_in_memory_does_not_travel() -> None:
    array = Array(tensorstore.array(np.arange(3)))
    array[Roi(0, 1)] = 7
    assert array.to_ndarray().tolist() == [7, 1, 2]
    with pytest.raises(ArrayError, match="can't travel"):
        pickle.dumps(array)


def test_zarr_python_arrays_are_wrapped(tmp_path: Path) -> None:
    store = zarr.create_array(tmp_path / "a", shape=(10,), dtype="u1", chunks=(5,))
    array = Array(store, voxel_size=(2,))
    array[Roi(4, 4)] = np.array([1, 2], np.uint8)
    assert array.chunk_shape == (5,)
    assert array[Roi(2, 8)].to_ndarray().tolist() == [0, 1, 2, 0]
    read_only = Array(zarr.open_array(tmp_path / "a", mode="r"))
    assert not read_only.is_writeable
    with pytest.raises(ArrayError, match="read-only Array"):
        read_only[Roi(0, 1)] = 1


def test_an_array_opened_to_read_is_not_written(tmp_path: Path) -> None:
    prepare_ds(tmp_path / "a.zarr", (4,), None, "u1")
    array = open_ds(tmp_path / "a.zarr")
    assert not array.is_writeable
    with pytest.raises(ArrayError, match=r"mode='r\+'"):
        array[array.roi] = 1


def test_pickling_opens_nothing(tmp_path: Path) -> None:
    array = prepare_ds(tmp_path / "a.zarr", (4,), None, "u1")
    sent = pickle.dumps(array)
    (tmp_path / "a.zarr" / "zarr.json").unlink()
    travelled = pickle.loads(sent)
    assert travelled.shape == (4,)
    with pytest.raises(ArrayError, match="can't open"):
        travelled.to_ndarray()


def test_an_array_that_was_replaced_is_noticed(tmp_path: Path) -> None:
    sent = pickle.dumps(prepare_ds(tmp_path / "a.zarr", (4,), None, "u1"))
    prepare_ds(tmp_path / "a.zarr", (5,), None, "u1", mode="w")
    with pytest.raises(ArrayError, match=r"had shape \(4,\) and dtype uint8, now \(5,\)"):
        pickle.loads(sent).to_ndarray()


@pytest.mark.slow
@pytest.mark.integration
def test_a_fork_after_use_is_an_error_instead_of_an_abort(tmp_path: Path) -> None:
    script = """
import os, sys, warnings
warnings.simplefilter("ignore")
from bellis.arrays import open_ds
array = open_ds(sys.argv[1])
array.to_ndarray()
if (pid := os.fork()) == 0:
    try:
        array.to_ndarray()
    except ValueError as error:
        print(error, flush=True)
    os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
"""
    prepare_ds(tmp_path / "a.zarr", (4,), None, "u1")
    answer = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "a.zarr"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "forkserver" in answer.stdout


def test_opening_needs_no_tensorstore(tmp_path: Path) -> None:
    script = """
import sys
sys.modules["tensorstore"] = None
from bellis.arrays import open_ds
array = open_ds(sys.argv[1])
print(array.roi)
try:
    array.to_ndarray()
except ValueError as error:
    print(error)
"""
    prepare_ds(tmp_path / "a.zarr", (4,), None, "u1")
    answer = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "a.zarr"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "Roi((0,), (4,))" in answer.stdout
    assert "pip install 'bellis[zarr]'" in answer.stdout


@pytest.mark.parametrize(
    "metadata",
    [
        "not json",
        "[]",
        json.dumps({"node_type": "array", "shape": [3]}),
        json.dumps({"node_type": "array", "shape": [3], "data_type": "string", "chunk_grid":
                    {"name": "regular", "configuration": {"chunk_shape": [3]}}}),
        json.dumps({"node_type": "array", "shape": [3], "data_type": "int8", "chunk_grid":
                    {"name": "rectilinear"}}),
        json.dumps({"node_type": "array", "shape": [3], "data_type": "int8", "chunk_grid":
                    {"name": "regular", "configuration": {"chunk_shape": [3]}},
                    "attributes": {"voxel_size": [-4]}}),
    ],
)  # fmt: skip
def test_metadata_that_is_not_understood_is_an_error_with_the_path(tmp_path: Path, metadata: str) -> None:
    (tmp_path / "zarr.json").write_text(metadata)
    with pytest.raises(ArrayError, match=str(tmp_path)):
        open_ds(tmp_path)


def test_version_2_is_made_where_it_is_asked_for(tmp_path: Path) -> None:
    array = prepare_ds(tmp_path / "a.zarr/raw", (4, 6), (2, 3), "uint16", format="zarr2")
    array[array.roi] = 7
    found = zarr.open_group(tmp_path / "a.zarr", mode="r")
    assert found.metadata.zarr_format == 2
    assert (found["raw"][:] == 7).all()
    assert open_ds(tmp_path / "a.zarr/raw").format == "zarr 2"
    assert tuple(open_ds(tmp_path / "a.zarr/raw").voxel_size) == (2, 3)
    prepare_ds(tmp_path / "b.zarr/raw", (4, 6), (2, 3), "uint16")
    with pytest.raises(ArrayError, match="would be zarr 2 in a group of zarr 3"):
        prepare_ds(tmp_path / "b.zarr/other", (4, 6), (2, 3), "uint16", format="zarr2")
