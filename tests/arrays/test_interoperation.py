"""What bellis writes is read by the formats' own libraries, and the other way round."""

from __future__ import annotations

import functools
import http.server
import threading
from typing import TYPE_CHECKING, Any

import dask.array
import h5py
import nibabel
import numpy as np
import ome_zarr.io
import ome_zarr.reader
import pytest
import tensorstore
import tifffile
import xarray
import zarr
from ome_zarr_models.v05 import Image

from bellis.arrays import Array, Multiscale, open_ds, prepare_ds
from bellis.geometry import Roi
from bellis.testing.arrays import numbers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SHAPE = (6, 10, 14)
VOXEL_SIZE = (50_000, 4_600, 4_600)
"""In pm: 50 nm and 4.6 nm."""
OFFSET = (100_000, 46_000, -9_200)
WRITTEN = ("a.zarr/raw", "a.n5/raw", "a.h5/raw", "a.precomputed")


@pytest.fixture
def voxels() -> Any:
    return numbers(SHAPE, "uint16")


def written(path: Path, voxels: Any) -> Array:
    """Write voxels by bellis."""
    array = prepare_ds(
        path, shape=SHAPE, voxel_size=VOXEL_SIZE, offset=OFFSET, units="pm", dtype=voxels.dtype, chunk_shape=(4, 4, 4)
    )
    array[array.roi] = voxels
    return array


# Zarr ----------------------------------------------------------------------------------------------------------------


def test_zarr_python_reads_what_bellis_writes(tmp_path: Path, voxels: Any) -> None:
    written(tmp_path / "a.zarr/raw", voxels)
    array = zarr.open_array(tmp_path / "a.zarr/raw", mode="r")
    np.testing.assert_array_equal(array[:], voxels)
    assert array.metadata.dimension_names == ("z", "y", "x")
    assert array.attrs["voxel_size"] == list(VOXEL_SIZE)


def test_zarr_python_reads_shards_that_bellis_writes(tmp_path: Path, voxels: Any) -> None:
    array = prepare_ds(tmp_path / "a.zarr/raw", SHAPE, dtype="uint16", chunk_shape=(2, 2, 2), shard_shape=(4, 4, 4))
    array[array.roi] = voxels
    found = zarr.open_array(tmp_path / "a.zarr/raw", mode="r")
    assert (found.chunks, found.shards) == ((2, 2, 2), (4, 4, 4))
    np.testing.assert_array_equal(found[:], voxels)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_bellis_reads_what_zarr_python_writes(tmp_path: Path, voxels: Any, zarr_format: Any) -> None:
    attributes = {"resolution": [50, 4.6, 4.6], "offset": [100, 46, -9.2]}
    zarr.create_array(
        tmp_path / "a.zarr", data=voxels, chunks=(4, 4, 4), attributes=attributes, zarr_format=zarr_format
    )
    in_world_units(open_ds(tmp_path / "a.zarr"), voxels)


def test_the_group_is_a_valid_image_of_ome_zarr(tmp_path: Path, voxels: Any) -> None:
    written(tmp_path / "a.zarr/raw", voxels)
    image = Image.from_zarr(zarr.open_group(tmp_path / "a.zarr", mode="r"))
    multiscale = image.attributes.ome.multiscales[0]
    assert [axis.name for axis in multiscale.axes] == ["z", "y", "x"]
    assert {axis.unit for axis in multiscale.axes} == {"picometer"}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_ome_zarr_reads_what_bellis_writes(tmp_path: Path, voxels: Any) -> None:
    image = Multiscale.prepare(
        tmp_path / "a.zarr", shape=SHAPE, voxel_size=VOXEL_SIZE, offset=OFFSET, units="pm", dtype="uint16"
    )
    image[0][image[0].roi] = voxels
    image.add_level((1, 2, 2))
    Image.from_zarr(zarr.open_group(tmp_path / "a.zarr", mode="r"))
    location = ome_zarr.io.parse_url(tmp_path / "a.zarr")
    assert location is not None
    node = next(iter(ome_zarr.reader.Reader(location)()))
    assert [level.shape for level in node.data] == [SHAPE, (6, 5, 7)]
    np.testing.assert_array_equal(np.asarray(node.data[0]), voxels)
    scales = [steps[0]["scale"] for steps in node.metadata["coordinateTransformations"]]
    assert scales == [[50_000, 4_600, 4_600], [50_000, 9_200, 9_200]]


# N5 and precomputed --------------------------------------------------------------------------------------------------


def n5(path: Path, voxels: Any) -> None:
    """Write voxels by tensorstore, with the units that it knows itself."""
    store = tensorstore.open(
        {
            "driver": "n5",
            "kvstore": {"driver": "file", "path": f"{path}/"},
            "metadata": {
                "dimensions": SHAPE[::-1], "blockSize": [4, 4, 4], "dataType": "uint16",
                "compression": {"type": "blosc", "cname": "zstd", "clevel": 1, "shuffle": 1},
                "axes": ["x", "y", "z"], "units": ["nm"] * 3, "resolution": [4.6, 4.6, 50], "offset": [-9.2, 46, 100],
            },
        },
        create=True,
    ).result()  # fmt: skip
    store[...] = voxels.T


def precomputed(path: Path, voxels: Any) -> None:
    """Write voxels by tensorstore."""
    store = tensorstore.open(
        {
            "driver": "neuroglancer_precomputed",
            "kvstore": {"driver": "file", "path": f"{path}/"},
            "multiscale_metadata": {"type": "image", "data_type": "uint16", "num_channels": 1},
            "scale_metadata": {
                "size": SHAPE[::-1], "voxel_offset": [-2, 10, 2], "resolution": [4.6, 4.6, 50], "encoding": "raw",
                "chunk_size": [4, 4, 4],
            },
        },
        create=True,
    ).result()  # fmt: skip
    store[...] = voxels.T[..., None]


def in_world_units(array: Array, voxels: Any) -> None:
    """Check that an array is where all the examples are."""
    assert array.voxel_size == VOXEL_SIZE
    assert array.units == ("pm", "pm", "pm")
    assert array.roi == Roi(OFFSET, tuple(n * size for n, size in zip(SHAPE, VOXEL_SIZE, strict=True)))
    np.testing.assert_array_equal(array, voxels)
    part = Roi(
        tuple(b + 2 * size for b, size in zip(OFFSET, VOXEL_SIZE, strict=True)), tuple(3 * size for size in VOXEL_SIZE)
    )
    np.testing.assert_array_equal(array.to_ndarray(part), voxels[2:5, 2:5, 2:5])


@pytest.mark.parametrize("write", [n5, precomputed])
def test_bellis_reads_what_tensorstore_writes_in_world_units(tmp_path: Path, voxels: Any, write: Any) -> None:
    write(tmp_path / "em", voxels)
    in_world_units(open_ds(tmp_path / "em"), voxels)


@pytest.mark.parametrize(
    ("path", "driver"), [("a.n5/raw", "n5"), ("a.precomputed", "neuroglancer_precomputed"), ("a.zarr/raw", "zarr3")]
)
def test_tensorstore_reads_what_bellis_writes(tmp_path: Path, voxels: Any, path: str, driver: str) -> None:
    written(tmp_path / path, voxels)
    spec = {"driver": driver, "kvstore": {"driver": "file", "path": f"{tmp_path / path}/"}}
    store = tensorstore.open(spec, read=True).result()
    found = store.read().result()
    np.testing.assert_array_equal(found if driver == "zarr3" else found.T.reshape(SHAPE), voxels)
    if driver == "n5":
        assert store.dimension_units == tuple(tensorstore.Unit(n, "pm") for n in VOXEL_SIZE[::-1])
    if driver == "neuroglancer_precomputed":
        assert store.dimension_units[:3] == tuple(tensorstore.Unit(n, "nm") for n in (4.6, 4.6, 50))
        assert store.domain.origin[:3] == (-2, 10, 2)


def test_cloud_volume_reads_what_bellis_writes(tmp_path: Path, voxels: Any) -> None:
    cloudvolume = pytest.importorskip("cloudvolume")
    written(tmp_path / "a.precomputed", voxels)
    volume = cloudvolume.CloudVolume(f"file://{tmp_path / 'a.precomputed'}", progress=False)
    np.testing.assert_array_equal(np.asarray(volume[:])[..., 0].T, voxels)


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """Serve the test's directory; return its URL."""
    handler = functools.partial(Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.parametrize("path", ["a.n5/raw", "a.precomputed", "a.zarr/raw"])
def test_what_is_behind_a_web_server_is_read(tmp_path: Path, server: str, voxels: Any, path: str) -> None:
    written(tmp_path / path, voxels)
    array = open_ds(f"{server}/{path}")
    in_world_units(array, voxels)
    assert not array.is_writeable


# HDF5, TIFF, NIfTI ---------------------------------------------------------------------------------------------------


def test_h5py_reads_what_bellis_writes(tmp_path: Path, voxels: Any) -> None:
    written(tmp_path / "a.h5/raw", voxels)
    with h5py.File(tmp_path / "a.h5") as file:
        np.testing.assert_array_equal(file["raw"][:], voxels)
        assert [dimension.label for dimension in file["raw"].dims] == ["z", "y", "x"]
        assert list(file["raw"].attrs["voxel_size"]) == list(VOXEL_SIZE)


def test_bellis_reads_what_h5py_writes(tmp_path: Path, voxels: Any) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["raw"] = voxels
        file["raw"].attrs.update(resolution=[50, 4.6, 4.6], offset=[100, 46, -9.2])
    in_world_units(open_ds(tmp_path / "a.h5", "raw"), voxels)


def test_bellis_reads_what_tifffile_writes(tmp_path: Path, voxels: Any) -> None:
    tifffile.imwrite(
        tmp_path / "a.tif", voxels, imagej=True, resolution=(1 / 0.0046, 1 / 0.0046),
        metadata={"axes": "ZYX", "spacing": 0.05, "unit": "um"},
    )  # fmt: skip
    array = open_ds(tmp_path / "a.tif")
    assert (array.voxel_size, array.units) == (VOXEL_SIZE, ("pm", "pm", "pm"))
    np.testing.assert_array_equal(array, voxels)


@pytest.mark.parametrize("suffix", ["nii", "nii.gz"])
def test_bellis_reads_what_nibabel_writes(tmp_path: Path, voxels: Any, suffix: str) -> None:
    affine = np.diag([0.0046, 0.0046, 0.05, 1])
    affine[:3, 3] = (-0.0092, 0.046, 0.1)
    image = nibabel.Nifti1Image(voxels.T, affine)
    image.header.set_xyzt_units("micron")
    image.to_filename(tmp_path / f"a.{suffix}")
    in_world_units(open_ds(tmp_path / f"a.{suffix}"), voxels)


# Wrapped -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", WRITTEN)
def test_dask_and_xarray_wrap_every_format(tmp_path: Path, voxels: Any, path: str) -> None:
    array = written(tmp_path / path, voxels)
    lazy = array.to_dask()
    assert isinstance(lazy, dask.array.Array)
    np.testing.assert_array_equal(lazy[1:5, ::2, 3].compute(scheduler="synchronous"), voxels[1:5, ::2, 3])
    labelled = array.to_xarray()
    assert isinstance(labelled, xarray.DataArray)
    assert labelled.dims == ("z", "y", "x")
    np.testing.assert_array_equal(labelled.coords["z"], np.arange(6) * 50_000 + 100_000)
    np.testing.assert_array_equal(labelled.isel(z=2).compute(scheduler="synchronous"), voxels[2])


@pytest.mark.parametrize("path", ["a.tif", "a.nii"])
def test_dask_wraps_what_is_only_read(tmp_path: Path, voxels: Any, path: str) -> None:
    if path == "a.tif":
        tifffile.imwrite(tmp_path / path, voxels, metadata={"axes": "ZYX"}, photometric="minisblack")
    else:
        nibabel.Nifti1Image(voxels.T, np.eye(4)).to_filename(tmp_path / path)
    found = open_ds(tmp_path / path).to_dask()[1:5, ::2, 3].compute(scheduler="synchronous")
    np.testing.assert_array_equal(found, voxels[1:5, ::2, 3])


@pytest.mark.parametrize("source", WRITTEN)
@pytest.mark.parametrize("target", WRITTEN)
def test_every_format_carries_the_place_to_every_other(tmp_path: Path, voxels: Any, source: str, target: str) -> None:
    one = written(tmp_path / "one" / source, voxels)
    other = prepare_ds(
        tmp_path / "other" / target, one.roi, one.voxel_size, one.dtype, units=one.units[0], axis_names=one.axis_names,
        attrs=one.attrs,
    )  # fmt: skip
    other[other.roi] = one
    in_world_units(open_ds(tmp_path / "other" / target), voxels)


def test_multiscale_volumes_of_other_formats_open_by_level(tmp_path: Path, voxels: Any) -> None:
    n5(tmp_path / "a.n5/em/s0", voxels)
    n5(tmp_path / "a.n5/em/s1", voxels)
    assert open_ds(tmp_path / "a.n5", "em/s1").voxel_size == VOXEL_SIZE
