"""N5: axes in C order, world units as its other readers know them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore

from bellis.arrays import open_ds, prepare_ds
from bellis.arrays.format import NewArray
from bellis.arrays.layout import Layout
from bellis.arrays.location import Location
from bellis.arrays.n5 import DTYPES, N5Format
from bellis.errors import ArrayError
from bellis.geometry import Roi
from bellis.testing.arrays import ArrayStoreTests, numbers


class TestN5(ArrayStoreTests):
    format_name = "n5"
    suffix = ".n5"
    dtypes = DTYPES
    has_fill_values = False

    def write_example(self, path: str, voxels: Any, voxel_size: Any, offset: Any) -> None:
        dataset(path, voxels, resolution=list(voxel_size)[::-1], offset=list(offset)[::-1])


class TestN5InMemory(TestN5):
    reaches_processes = False

    def location(self, folder: Path, container: str = "a", name: str = "raw") -> str:
        return f"memory:/{folder / container}.n5/{name}"

    def write_example(self, path: str, voxels: Any, voxel_size: Any, offset: Any) -> None:
        pytest.skip("no other library knows this memory")


def dataset(path: str | Path, voxels: Any, **attributes: Any) -> None:
    """Write voxels (z, y, x) by tensorstore, and attributes beside what it writes."""
    store = tensorstore.open(
        {
            "driver": "n5",
            "kvstore": {"driver": "file", "path": f"{path}/"},
            "metadata": {
                "dimensions": voxels.shape[::-1],
                "blockSize": [4] * voxels.ndim,
                "dataType": voxels.dtype.name,
                "compression": {"type": "gzip"},
            },
        },
        create=True,
    ).result()
    store[...] = voxels.T
    write_attributes(path, **attributes)


def write_attributes(path: str | Path, **attributes: Any) -> None:
    """Add attributes to those of an array or a group."""
    file = Path(path) / "attributes.json"
    found = json.loads(file.read_text()) if file.is_file() else {}
    file.write_text(json.dumps({**found, **attributes}))


def attributes_of(path: Path) -> dict[str, Any]:
    """Return all that attributes.json says."""
    found: dict[str, Any] = json.loads((path / "attributes.json").read_text())
    return found


# What others write ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "attributes",
    [
        {"pixelResolution": {"dimensions": [4.6, 4.6, 50], "unit": "nm"}},
        {"resolution": [4.6, 4.6, 50.0]},
        {"resolution": [2.3, 4.6, 50.0], "downsamplingFactors": [2, 1, 1]},
        {"axes": ["x", "y", "z"], "units": ["nm"] * 3, "resolution": [4.6, 4.6, 50]},
        {"axes": ["x", "y", "z"], "units": ["um", "um", "nm"], "resolution": [0.0046, 0.0046, 50]},
        {"transform": {"axes": ["z", "y", "x"], "scale": [50, 4.6, 4.6], "translate": [0, 0, 0], "units": ["nm"] * 3}},
        {"transform": {"axes": ["x", "y", "z"], "scale": [4.6, 4.6, 50], "translate": [0, 0, 0], "units": ["nm"] * 3}},
    ],
)
def test_voxel_sizes_of_any_convention_are_exact(tmp_path: Path, attributes: dict[str, Any]) -> None:
    voxels = numbers((3, 5, 7), "uint8")
    dataset(tmp_path / "a.n5/raw", voxels, **attributes)
    array = open_ds(tmp_path / "a.n5/raw")
    assert array.voxel_size == (50_000, 4_600, 4_600)
    assert set(array.units) == {"pm"}
    assert array.axis_names == ("z", "y", "x")
    np.testing.assert_array_equal(array, voxels)


def test_the_axes_of_neuroglancer_say_what_is_a_channel(tmp_path: Path) -> None:
    attributes = {"axes": ["x", "y", "z", "c"], "units": ["nm", "nm", "nm", ""], "resolution": [4, 5, 40, 1]}
    dataset(tmp_path / "a.n5/raw", numbers((2, 3, 5, 7), "uint8"), **attributes)
    array = open_ds(tmp_path / "a.n5/raw")
    assert array.axis_names == ("c", "z", "y", "x")
    assert array.types == ("channel", "space", "space", "space")
    assert array.voxel_size == (40, 5, 4)


def test_the_levels_of_n5_viewer_are_sized_by_their_group(tmp_path: Path) -> None:
    group = tmp_path / "a.n5/em"
    for k in range(2):
        dataset(group / f"s{k}", numbers((3, 5, 7), "uint8"))
    write_attributes(group, scales=[[1, 1, 1], [2, 2, 1]], pixelResolution={"dimensions": [4.6, 4.6, 50], "unit": "nm"})
    assert open_ds(group / "s0").voxel_size == (50_000, 4_600, 4_600)
    assert open_ds(group / "s1").voxel_size == (50_000, 9_200, 9_200)


def test_the_levels_of_cosem_are_sized_by_their_group(tmp_path: Path) -> None:
    group = tmp_path / "a.n5/em"
    transforms = [
        {"axes": ["z", "y", "x"], "scale": [50, 4.6, 4.6], "translate": [0, 0, 0], "units": ["nm"] * 3},
        {"axes": ["z", "y", "x"], "scale": [50, 9.2, 9.2], "translate": [0, 2.3, 2.3], "units": ["nm"] * 3},
    ]
    for k in range(2):
        dataset(group / f"s{k}", numbers((3, 5, 7), "uint8"))
    levels = [{"path": f"s{k}", "transform": transform} for k, transform in enumerate(transforms)]
    write_attributes(group, multiscales=[{"datasets": levels}])
    assert open_ds(group / "s1").voxel_size == (50_000, 9_200, 9_200)
    assert open_ds(group / "s1").roi.begin == (0, 0, 0)


def test_an_array_is_known_by_its_attributes(tmp_path: Path) -> None:
    dataset(tmp_path / "volume", numbers((3, 5, 7), "uint8"))
    assert open_ds(tmp_path / "volume").format == "n5"


# What bellis writes --------------------------------------------------------------------------------------------------


def test_what_is_written_says_the_same_in_every_convention(tmp_path: Path) -> None:
    prepare_ds(
        tmp_path / "a.n5/em/raw", (3, 5, 7), (50_000, 4_600, 9_200), "uint8", units="pm", offset=(1, 2, 3),
        attrs={"transform": "stale", "downsamplingFactors": [2, 2, 2]},
    )  # fmt: skip
    found = attributes_of(tmp_path / "a.n5/em/raw")
    assert found["dimensions"] == [7, 5, 3]
    assert found["resolution"] == found["voxel_size"] == [9_200, 4_600, 50_000]
    assert found["axes"] == found["axis_names"] == ["x", "y", "z"]
    assert found["units"] == ["pm"] * 3
    assert found["offset"] == [3, 2, 1]
    assert found["pixelResolution"] == {"dimensions": [9_200, 4_600, 50_000], "unit": "pm"}
    assert found["transform"] == {
        "order": "C", "axes": ["z", "y", "x"], "scale": [50_000, 4_600, 9_200], "translate": [1, 2, 3],
        "units": ["pm"] * 3,
    }  # fmt: skip
    assert "downsamplingFactors" not in found


@pytest.mark.parametrize("kept", ["resolution", "pixelResolution", "transform"])
def test_each_convention_alone_opens_in_the_same_place(tmp_path: Path, kept: str) -> None:
    path = tmp_path / "a.n5/raw"
    written = prepare_ds(path, (3, 5, 7), (50_000, 4_600, 9_200), "uint8", units="pm")
    found = attributes_of(path)
    keys = {"dimensions", "blockSize", "dataType", "compression", kept}
    keys |= {"axes", "units", "offset"} if kept == "resolution" else set()
    (path / "attributes.json").write_text(json.dumps({key: found[key] for key in keys}))
    array = open_ds(path)
    assert (array.roi, array.voxel_size, array.units) == (written.roi, written.voxel_size, written.units)


@pytest.mark.parametrize("names", [("x", "y", "z"), ("z", "y", "x"), ("a", "b", "d"), ("y", "x", "q")])
def test_axes_of_any_name_keep_their_order(tmp_path: Path, names: tuple[str, ...]) -> None:
    voxels = numbers((3, 5, 7), "uint8")
    array = prepare_ds(
        tmp_path / "a.n5/raw", (3, 5, 7), (1, 2, 3), "uint8", axis_names=names, types=("space",) * 3, offset=(4, 5, 6)
    )
    array[array.roi] = voxels
    again = open_ds(tmp_path / "a.n5/raw")
    assert again.axis_names == names
    assert again.roi == Roi((4, 5, 6), (3, 10, 21))
    np.testing.assert_array_equal(again, voxels)


@pytest.mark.parametrize("types", [("channel", "time", "space", "space"), ("time", "space", "space", "channel")])
def test_channels_and_times_keep_their_places(tmp_path: Path, types: tuple[str, ...]) -> None:
    voxels = numbers((2, 3, 5, 7), "uint8")
    array = prepare_ds(tmp_path / "a.n5/raw", (2, 3, 5, 7), (10, 2, 3), "uint8", types=types, units=("ms", "nm", "nm"))
    array[array.roi] = voxels
    again = open_ds(tmp_path / "a.n5/raw")
    assert again.types == types
    assert again.voxel_size == (10, 2, 3)
    assert again.units == ("ms", "nm", "nm")
    np.testing.assert_array_equal(again, voxels)


def test_groups_on_the_way_say_the_version(tmp_path: Path) -> None:
    prepare_ds(tmp_path / "a.n5/volumes/em/raw", (3, 5, 7), dtype="uint8")
    for group in ("a.n5", "a.n5/volumes", "a.n5/volumes/em"):
        assert attributes_of(tmp_path / group) == {"n5": "2.5.1"}


@pytest.mark.parametrize("compressor", ["default", "gzip", "zstd", "blosc", "bzip2", "xz", None])
def test_every_compressor_comes_back(tmp_path: Path, compressor: str | None) -> None:
    voxels = numbers((3, 5, 7), "uint16")
    array = prepare_ds(tmp_path / "a.n5/raw", (3, 5, 7), dtype="uint16", compressor=compressor)
    array[array.roi] = voxels
    np.testing.assert_array_equal(open_ds(tmp_path / "a.n5/raw"), voxels)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"compressor": "lzma"}, "gzip, zstd"),
        ({"compressor": {"id": "gzip", "clevel": 3}}, "no options clevel"),
        ({"shard_shape": (4, 4, 4)}, "no shards"),
    ],
)
def test_what_n5_has_not_is_refused(tmp_path: Path, options: dict[str, Any], match: str) -> None:
    with pytest.raises(ArrayError, match=match):
        prepare_ds(tmp_path / "a.n5/raw", (4, 4, 4), dtype="uint8", **options)


def test_an_array_is_not_made_over_or_in_something_else(tmp_path: Path) -> None:
    prepare_ds(tmp_path / "a.n5/g/raw", (3, 5, 7), dtype="uint8")
    with pytest.raises(ArrayError, match="inside of the array"):
        prepare_ds(tmp_path / "a.n5/g/raw/in", (3, 5, 7), dtype="uint8")
    with pytest.raises(ArrayError, match="is a group"):
        prepare_ds(tmp_path / "a.n5/g", (3, 5, 7), dtype="uint8")
    (tmp_path / "a.n5/other").mkdir()
    (tmp_path / "a.n5/other/notes.txt").write_text("mine")
    with pytest.raises(ArrayError, match="is not an N5 array"):
        prepare_ds(tmp_path / "a.n5/other", (3, 5, 7), dtype="uint8")


def test_a_different_array_that_was_made_meanwhile_is_refused(tmp_path: Path) -> None:
    location, format = Location.of(tmp_path / "a.n5/raw"), N5Format()
    format.create(location, NewArray(layout=Layout.of((4, 4), "uint8"), chunk_shape=(2, 2)))
    format.create(location, NewArray(layout=Layout.of((4, 4), "uint8"), chunk_shape=(2, 2)))
    with pytest.raises(ArrayError, match="exists"):
        format.create(location, NewArray(layout=Layout.of((4, 5), "uint8"), chunk_shape=(2, 2)))


# What is damaged -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attributes", "match"),
    [
        ({"dataType": "string"}, "data type 'string'"),
        ({"blockSize": None}, "incomplete"),
        ({"resolution": [1, 2, 3, 4]}, "do not fit"),
        ({"pixelResolution": {"dimensions": [1, "wide", 3], "unit": "nm"}}, "do not fit"),
    ],
)
def test_metadata_that_makes_no_sense_is_an_error_with_its_path(
    tmp_path: Path, attributes: dict[str, Any], match: str
) -> None:
    dataset(tmp_path / "a.n5/raw", numbers((3, 5, 7), "uint8"), **attributes)
    with pytest.raises(ArrayError, match=rf"a\.n5/raw.*{match}"):
        open_ds(tmp_path / "a.n5/raw")


def test_a_chunk_that_is_cut_off_is_an_error_with_its_path(tmp_path: Path) -> None:
    dataset(tmp_path / "a.n5/raw", numbers((3, 5, 7), "uint8"))
    chunk = tmp_path / "a.n5/raw/0/0/0"
    chunk.write_bytes(chunk.read_bytes()[:20])
    with pytest.raises(ArrayError, match=r"a\.n5/raw"):
        open_ds(tmp_path / "a.n5/raw").to_ndarray()


def test_a_missing_chunk_is_an_error_if_that_is_asked(tmp_path: Path) -> None:
    dataset(tmp_path / "a.n5/raw", numbers((3, 5, 7), "uint8"))
    (tmp_path / "a.n5/raw/0/0/0").unlink()
    assert open_ds(tmp_path / "a.n5/raw").to_ndarray()[0, 0, 0] == 0
    with pytest.raises(ArrayError, match="missing"):
        open_ds(tmp_path / "a.n5/raw", missing="error").to_ndarray()


def test_an_n5_group_of_levels_opens_as_its_finest(tmp_path: Path) -> None:
    for level, size in enumerate((4, 8)):
        prepare_ds(tmp_path / f"em.n5/raw/s{level}", (8 // 2**level,) * 3, (size,) * 3, "uint8")
    found = open_ds(tmp_path / "em.n5/raw")
    assert found.shape == (8, 8, 8)
    assert tuple(found.voxel_size) == (4, 4, 4)
