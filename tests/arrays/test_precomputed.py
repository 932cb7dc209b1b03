"""Precomputed volumes: scales, channels, nanometres; what neuroglancer reads."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tensorstore

from bellis.arrays import open_ds, prepare_ds
from bellis.arrays.format import NewArray
from bellis.arrays.layout import Layout
from bellis.arrays.location import Location
from bellis.arrays.precomputed import DTYPES, PrecomputedFormat
from bellis.errors import ArrayError
from bellis.geometry import Roi
from bellis.testing.arrays import ArrayStoreTests, numbers

if TYPE_CHECKING:
    from pathlib import Path


class TestPrecomputed(ArrayStoreTests):
    format_name = "precomputed"
    suffix = ".precomputed"
    dtypes = DTYPES
    ndims = (3,)
    has_names = False
    has_fill_values = False
    has_any_offset = False

    def write_example(self, path: str, voxels: Any, voxel_size: Any, offset: Any) -> None:
        begin = [n // size for n, size in zip(offset, voxel_size, strict=True)]
        volume(path, voxels, list(voxel_size)[::-1], begin[::-1])


class TestPrecomputedInMemory(TestPrecomputed):
    reaches_processes = False

    def location(self, folder: Path, container: str = "a", name: str = "") -> str:
        return f"memory:/{folder / container}.precomputed"

    def write_example(self, path: str, voxels: Any, voxel_size: Any, offset: Any) -> None:
        pytest.skip("no other library knows this memory")


def volume(
    path: str | Path, voxels: Any, resolution: Any = (4, 4, 40), voxel_offset: Any = (0, 0, 0), **scale: Any
) -> None:
    """Write voxels (z, y, x) or (c, z, y, x) by tensorstore, as a further scale if there are some."""
    metadata = {"size": voxels.shape[:-4:-1], "resolution": resolution, "voxel_offset": voxel_offset}
    options = {"encoding": "raw", "chunk_size": [4, 4, 4], **scale}
    store = tensorstore.open(
        {
            "driver": "neuroglancer_precomputed",
            "kvstore": {"driver": "file", "path": f"{path}/"},
            "multiscale_metadata": {
                "type": "image",
                "data_type": voxels.dtype.name,
                "num_channels": voxels.shape[0] if voxels.ndim == 4 else 1,
            },
            "scale_metadata": {**metadata, **options},
        },
        create=True,
        open=True,
    ).result()
    store[...] = voxels.T if voxels.ndim == 4 else voxels.T[..., None]


def info_of(path: Path) -> dict[str, Any]:
    """Return the info of a volume."""
    found: dict[str, Any] = json.loads((path / "info").read_text())
    return found


# What others write ---------------------------------------------------------------------------------------------------


def test_a_resolution_that_is_no_integer_is_exact(tmp_path: Path) -> None:
    volume(tmp_path / "em", numbers((3, 5, 7), "uint8"), (4.6, 4.6, 50), (10, -20, 30))
    array = open_ds(tmp_path / "em")
    assert array.voxel_size == (50_000, 4_600, 4_600)
    assert array.roi.begin == (30 * 50_000, -20 * 4_600, 10 * 4_600)
    assert set(array.units) == {"pm"}


def test_thirds_of_a_nanometre_are_exact(tmp_path: Path) -> None:
    volume(tmp_path / "em", numbers((3, 5, 7), "uint8"), (1 / 3, 1 / 3, 1), (1, 0, 0))
    array = open_ds(tmp_path / "em")
    assert array.voxel_size == (3, 1, 1)
    assert array.roi.begin == (0, 0, 1)
    assert set(array.units) == {"nm/3"}


@pytest.mark.parametrize("layout", ["{}", "{}.precomputed", "{}.precomputed/em", "dir/{}"])
def test_scales_are_named_by_number_or_key(tmp_path: Path, layout: str) -> None:
    path = tmp_path / layout.format("a")
    fine, coarse = numbers((4, 6, 8), "uint16"), numbers((4, 3, 4), "uint16")
    volume(path, fine, (4, 4, 40))
    volume(path, coarse, (8, 8, 40), key="scales/coarse")
    for name, voxels, size in [
        (None, fine, (40, 4, 4)),
        ("0", fine, (40, 4, 4)),
        ("4_4_40", fine, (40, 4, 4)),
        ("1", coarse, (40, 8, 8)),
        ("scales/coarse", coarse, (40, 8, 8)),
    ]:
        array = open_ds(path, name)
        assert array.voxel_size == size
        np.testing.assert_array_equal(array, voxels)
    with pytest.raises(ArrayError, match=r"arrays in .*: 0, 1"):
        open_ds(path, "2")
    assert PrecomputedFormat().datasets(Location.of(path)) == ["0", "1"]


def test_several_channels_come_first(tmp_path: Path) -> None:
    voxels = numbers((2, 3, 5, 7), "uint8")
    volume(tmp_path / "em", voxels)
    array = open_ds(tmp_path / "em")
    assert array.axis_names == ("c", "z", "y", "x")
    assert array.types[0] == "channel"
    assert array.write_shape == (2, 4, 4, 4)
    np.testing.assert_array_equal(array, voxels)


def test_shards_are_read_and_not_written(tmp_path: Path) -> None:
    voxels = numbers((8, 8, 8), "uint8")
    sharding = {
        "@type": "neuroglancer_uint64_sharded_v1", "hash": "identity", "preshift_bits": 1, "minishard_bits": 1,
        "shard_bits": 1, "data_encoding": "gzip", "minishard_index_encoding": "gzip",
    }  # fmt: skip
    volume(tmp_path / "em", voxels, sharding=sharding)
    array = open_ds(tmp_path / "em")
    assert array.format == "precomputed, sharded"
    np.testing.assert_array_equal(array, voxels)
    with pytest.raises(ArrayError, match="shards"):
        open_ds(tmp_path / "em", mode="r+")


def test_what_others_add_to_an_info_stays(tmp_path: Path) -> None:
    volume(tmp_path / "em", numbers((3, 5, 7), "uint8"))
    info = {**info_of(tmp_path / "em"), "mesh": "mesh"}
    (tmp_path / "em/info").write_text(json.dumps(info))
    array = open_ds(tmp_path / "em", mode="r+")
    array[array.roi] = 7
    assert info_of(tmp_path / "em") == info
    with pytest.raises(ArrayError, match="mesh"):
        prepare_ds(tmp_path / "em", (3, 5, 7), dtype="uint8", format="precomputed", mode="w")


# What bellis writes --------------------------------------------------------------------------------------------------


def test_the_info_is_what_neuroglancer_reads(tmp_path: Path) -> None:
    prepare_ds(
        tmp_path / "a.precomputed", (5, 40, 30), (50_000, 4_600, 4_600), "uint64", units="pm",
        offset=(100_000, 0, -4_600), chunk_shape=(5, 20, 10),
    )  # fmt: skip
    info = info_of(tmp_path / "a.precomputed")
    scale = info["scales"][0]
    del scale["bellis"]
    assert info == {
        "@type": "neuroglancer_multiscale_volume", "type": "segmentation", "data_type": "uint64", "num_channels": 1,
        "scales": [scale],
    }  # fmt: skip
    assert scale == {
        "key": "4.6_4.6_50", "size": [30, 40, 5], "resolution": [4.6, 4.6, 50], "voxel_offset": [-1, 0, 2],
        "chunk_sizes": [[10, 20, 5]], "encoding": "compressed_segmentation",
        "compressed_segmentation_block_size": [8, 8, 8],
    }  # fmt: skip


def test_a_scale_that_others_have_changed_is_where_it_says(tmp_path: Path) -> None:
    """What bellis noted beside is then out of date."""
    path = tmp_path / "a.precomputed"
    prepare_ds(path, (5, 40, 30), (1, 1, 1), "uint8", units="um")
    assert open_ds(path).units == ("um",) * 3
    info = info_of(path)
    info["scales"][0]["resolution"] = [7, 7, 7]
    (path / "info").write_text(json.dumps(info))
    assert open_ds(path).voxel_size == (7, 7, 7)
    assert open_ds(path).units == ("nm",) * 3


@pytest.mark.parametrize(
    ("dtype", "compressor", "encoding"),
    [
        ("uint8", "default", "raw"),
        ("uint64", "default", "compressed_segmentation"),
        ("uint32", "compressed_segmentation", "compressed_segmentation"),
        ("uint64", None, "raw"),
    ],
)
def test_labels_are_compressed(tmp_path: Path, dtype: str, compressor: str | None, encoding: str) -> None:
    path, voxels = tmp_path / "a.precomputed", numbers((5, 6, 7), dtype)
    array = prepare_ds(path, (5, 6, 7), dtype=dtype, compressor=compressor)
    array[array.roi] = voxels
    assert info_of(path)["scales"][0]["encoding"] == encoding
    np.testing.assert_array_equal(open_ds(path), voxels)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"compressor": "gzip"}, "None, or"),
        ({"dtype": "uint8", "compressor": "compressed_segmentation"}, "labels are uint32 and uint64"),
        ({"shard_shape": (4, 4, 4)}, "without shards"),
        ({"voxel_size": (4, 4, 4), "offset": (1, 0, 0)}, "offsets of whole voxels"),
        ({"shape": (4, 4)}, r"\(z, y, x\) or"),
        ({"types": ("time", "space", "space")}, r"\(z, y, x\) or"),
        ({"units": "s"}, "lengths"),
    ],
)
def test_what_the_format_has_not_is_refused(tmp_path: Path, options: dict[str, Any], match: str) -> None:
    given = {"shape": (4, 4, 4), "dtype": "uint64", **options}
    with pytest.raises(ArrayError, match=match):
        prepare_ds(tmp_path / "a.precomputed", **given)
    assert not (tmp_path / "a.precomputed").exists()


def test_a_volume_is_not_made_over_something_else(tmp_path: Path) -> None:
    (tmp_path / "a.precomputed").mkdir()
    (tmp_path / "a.precomputed/notes.txt").write_text("mine")
    with pytest.raises(ArrayError, match="is not a precomputed volume"):
        prepare_ds(tmp_path / "a.precomputed", (4, 4, 4), dtype="uint8")


def test_a_different_volume_that_was_made_meanwhile_is_refused(tmp_path: Path) -> None:
    location, format = Location.of(tmp_path / "a.precomputed"), PrecomputedFormat()
    format.create(location, NewArray(layout=Layout.of((4, 4, 4), "uint8"), chunk_shape=(2, 2, 2)))
    format.create(location, NewArray(layout=Layout.of((4, 4, 4), "uint8"), chunk_shape=(2, 2, 2)))
    with pytest.raises(ArrayError, match="exists"):
        format.create(location, NewArray(layout=Layout.of((4, 4, 5), "uint8"), chunk_shape=(2, 2, 2)))


def test_a_volume_of_several_scales_is_not_deleted(tmp_path: Path) -> None:
    path = tmp_path / "a.precomputed"
    volume(path, numbers((4, 6, 8), "uint8"))
    volume(path, numbers((4, 3, 4), "uint8"), (8, 8, 40))
    with pytest.raises(ArrayError, match="2 scales"):
        prepare_ds(path, (4, 4, 4), dtype="uint8", mode="w")


def test_writes_reach_only_their_region(tmp_path: Path) -> None:
    array = prepare_ds(tmp_path / "a.precomputed", Roi((10, 20, 30), (8, 8, 8)), (2, 2, 2), "uint8")
    array[Roi((12, 22, 32), (2, 2, 2))] = 5
    expected = np.zeros((4, 4, 4), "uint8")
    expected[1, 1, 1] = 5
    np.testing.assert_array_equal(open_ds(tmp_path / "a.precomputed"), expected)


# What is damaged -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"data_type": "float64"}, "data type 'float64'"),
        ({"scales": [{"size": [1, 2, 3]}]}, "incomplete"),
        ({"num_channels": "many"}, "incomplete"),
    ],
)
def test_an_info_that_makes_no_sense_is_an_error_with_its_path(
    tmp_path: Path, change: dict[str, Any], match: str
) -> None:
    volume(tmp_path / "em", numbers((3, 5, 7), "uint8"))
    (tmp_path / "em/info").write_text(json.dumps({**info_of(tmp_path / "em"), **change}))
    with pytest.raises(ArrayError, match=rf"em.*{match}"):
        open_ds(tmp_path / "em")


def test_a_missing_chunk_is_an_error_if_that_is_asked(tmp_path: Path) -> None:
    volume(tmp_path / "em", numbers((3, 5, 7), "uint8"))
    (tmp_path / "em/4_4_40/0-4_0-4_0-3").unlink()
    assert open_ds(tmp_path / "em").to_ndarray()[0, 0, 1] == 0
    with pytest.raises(ArrayError, match="missing"):
        open_ds(tmp_path / "em", missing="error").to_ndarray()
