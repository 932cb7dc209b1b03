"""Opening arrays on disk, and making them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr

from bellis.arrays import open_ds, prepare_ds
from bellis.errors import ArrayError
from bellis.geometry import Roi

if TYPE_CHECKING:
    from pathlib import Path


def test_the_two_forms_make_the_same_array(tmp_path: Path) -> None:
    roi, size = Roi((10, 0, 40), (200, 100, 80)), (10, 5, 4)
    bellis = prepare_ds(tmp_path / "b.zarr/volumes/raw", roi, size, "uint8", write_size=(100, 50, 40))
    daisy = prepare_ds(
        str(tmp_path / "d.zarr"), "volumes/raw", roi, size, np.uint8,
        write_roi=Roi((0, 0, 0), (100, 50, 40)),
    )  # fmt: skip
    keywords = prepare_ds(
        filename=str(tmp_path / "k.zarr"), ds_name="volumes/raw", total_roi=roi, voxel_size=size,
        dtype=np.uint8, write_size=(100, 50, 40),
    )  # fmt: skip
    for array in (bellis, daisy, keywords):
        assert array.roi == roi
        assert array.voxel_size == size
        assert array.shape == (20, 20, 20)
        assert array.chunk_shape == (10, 10, 10)
        assert array.is_writeable
        assert array.units == ("nm", "nm", "nm")
        assert array.axis_names == ("z", "y", "x")
    assert open_ds(tmp_path / "b.zarr", "volumes/raw").roi == roi
    assert open_ds(tmp_path / "b.zarr/volumes/raw").roi == roi


def test_a_shape_is_in_voxels(tmp_path: Path) -> None:
    array = prepare_ds(
        tmp_path / "a.zarr", (3, 20, 30), (8, 4), "float32",
        offset=(16, -4), axis_names="cyx", units="um", attrs={"stain": "DAPI"},
    )  # fmt: skip
    assert array.roi == Roi((16, -4), (160, 120))
    assert array.shape == (3, 20, 30)
    again = open_ds(tmp_path / "a.zarr")
    assert again.units == ("um", "um")
    assert again.types == ("channel", "space", "space")
    assert again.attrs["stain"] == "DAPI"
    named = prepare_ds(tmp_path / "b.zarr", shape=(20, 30), dtype="u1", num_channels=2)
    assert named.shape == (2, 20, 30)
    assert named.dims == 3


def test_channels_come_first(tmp_path: Path) -> None:
    array = prepare_ds(tmp_path / "a.zarr", "affs", Roi(0, 10), (1,), "f4", num_channels=3)
    assert array.shape == (3, 10)
    assert array.axis_names == ("c", "x")
    assert array.chunk_shape == (1, 10)


def test_what_is_made_is_a_tree_that_zarr_python_walks(tmp_path: Path) -> None:
    prepare_ds(tmp_path / "a.zarr/volumes/raw", (10,), None, "u1")
    prepare_ds(tmp_path / "a.zarr/volumes/labels/fine", (10,), None, "u1")
    prepare_ds(tmp_path / "plain", "raw", Roi(0, 10), (1,), "u1")
    prepare_ds(tmp_path / "alone", (10,), None, "u1")
    root = zarr.open_group(tmp_path / "a.zarr", mode="r")
    assert sorted(dict(root.members(max_depth=None))) == [
        "volumes", "volumes/labels", "volumes/labels/fine", "volumes/raw",
    ]  # fmt: skip
    assert "raw" in zarr.open_group(tmp_path / "plain", mode="r")
    assert not (tmp_path / "zarr.json").exists()


def test_an_array_that_is_as_asked_is_kept(tmp_path: Path) -> None:
    def prepare(**options: Any) -> Any:
        return prepare_ds(tmp_path / "a.zarr", (6,), (2,), "u1", write_size=(4,), **options)

    first = prepare()
    first[Roi(0, 4)] = 7
    assert prepare().to_ndarray().tolist() == [7, 7, 0, 0, 0, 0]
    assert prepare(mode="w").to_ndarray().tolist() == [0] * 6


def test_another_array_is_refused_with_each_difference(tmp_path: Path) -> None:
    prepare_ds(tmp_path / "a.zarr", (6, 6), (2, 2), "u1", write_size=(8, 8))
    with pytest.raises(ArrayError) as refused:
        prepare_ds(
            tmp_path / "a.zarr", (6, 8), (2, 3), "u2",
            offset=(0, 1), axis_names="ab", units="um", write_size=(4, 9),
        )  # fmt: skip
    assert str(refused.value).splitlines()[1:-1] == [
        "  shape: asked (6, 8), found (6, 6)",
        "  dtype: asked uint16, found uint8",
        "  voxel_size: asked (2, 3), found (2, 2)",
        "  offset: asked (0, 1), found (0, 0)",
        "  axis_names: asked ('a', 'b'), found ('y', 'x')",
        "  units: asked ('um', 'um'), found ('nm', 'nm')",
        "  chunks: (4, 4) do not divide write_size, (2, 3) voxels",
    ]
    assert "mode='w'" in str(refused.value)
    assert prepare_ds(tmp_path / "a.zarr", (6, 8), (2, 3), "u2", mode="w").shape == (6, 8)
    with pytest.raises(ArrayError, match="chunk_shape: asked"):
        prepare_ds(tmp_path / "a.zarr", (6, 8), (2, 3), "u2", chunk_shape=(3, 3))


def test_delete_of_daisy_replaces_only_what_differs(tmp_path: Path) -> None:
    args = (tmp_path / "a.zarr", "raw", Roi(0, 4), (1,))
    prepare_ds(*args, "u1")[Roi(0, 4)] = 5
    assert prepare_ds(*args, "u1", delete=True).to_ndarray().tolist() == [5] * 4
    with pytest.raises(ArrayError, match="dtype: asked float32, found uint8"):
        prepare_ds(*args, "f4")
    assert prepare_ds(*args, "f4", delete=True).to_ndarray().tolist() == [0] * 4


def test_daisys_write_size_can_be_the_chunk_size(tmp_path: Path) -> None:
    array = prepare_ds(
        tmp_path / "a.zarr", "raw", Roi((0, 0), (6000, 40)), (2, 2), "u1",
        write_size=(4000, 20), num_channels=2, force_exact_write_size=True,
    )  # fmt: skip
    assert array.chunk_shape == (2, 2000, 10)


def test_nothing_but_an_array_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").write_text("...")
    prepare_ds(tmp_path / "a.zarr/raw", (4,), None, "u1")
    with pytest.raises(ArrayError, match="is not a zarr array; it is not replaced"):
        prepare_ds(tmp_path / "precious", (4,), None, "u1", mode="w")
    with pytest.raises(ArrayError, match="is a group, not an array; arrays in it: raw;"):
        prepare_ds(tmp_path / "a.zarr", (4,), None, "u1", mode="w")
    with pytest.raises(ArrayError, match="inside of the array"):
        prepare_ds(tmp_path / "a.zarr/raw/deeper", (4,), None, "u1")
    (tmp_path / "empty").mkdir()
    assert prepare_ds(tmp_path / "empty", (4,), None, "u1").shape == (4,)


def test_a_missing_array_is_an_error_that_says_what_is_there(tmp_path: Path) -> None:
    prepare_ds(tmp_path / "a.zarr/volumes/raw", (4,), None, "u1")
    prepare_ds(tmp_path / "a.zarr/mask", (4,), None, "u1")
    with pytest.raises(ArrayError, match=r"is a group.*: mask, volumes/raw"):
        open_ds(tmp_path / "a.zarr")
    with pytest.raises(ArrayError, match=r"there is no array .*rwa; arrays in .*: mask, volumes"):
        open_ds(tmp_path / "a.zarr", "rwa")
    with pytest.raises(ArrayError, match="there is no array"):
        open_ds(tmp_path / "b.zarr")
    with pytest.raises(ArrayError, match="not a zarr array"):
        open_ds(tmp_path)
    with pytest.raises(ArrayError, match="prepare_ds makes new arrays"):
        open_ds(tmp_path / "a.zarr", "mask", mode="w")


@pytest.mark.parametrize("path", ["http://x.org/a.zarr", "s3://b/a.zarr", "a.n5", "a.h5"])
def test_other_places_and_formats_are_refused(path: str) -> None:
    with pytest.raises(ArrayError, match="this version"):
        open_ds(path)
    with pytest.raises(ArrayError, match="this version"):
        prepare_ds(path, "raw", Roi(0, 4), (1,), "u1")


def test_arguments_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path, roi = tmp_path / "a.zarr", Roi((0, 0), (40, 40))
    for match, arguments in {
        "dtype is missing": {"total_roi": roi},
        "one of total_roi and shape": {"dtype": "u1"},
        "says where": {"dtype": "u1", "total_roi": roi, "offset": (0, 0)},
        r"shape of total_roi \(40, 40\) is not a multiple": {
            "dtype": "u1", "total_roi": roi, "voxel_size": (3, 4)},
        "differ in their dimensions": {"dtype": "u1", "total_roi": roi, "voxel_size": (4,)},
        r"write_size \(10, 11\) is not a multiple": {
            "dtype": "u1", "total_roi": roi, "voxel_size": (2, 2), "write_size": (10, 11)},
        r"chunks of \(3, 5\) voxels do not divide a write_size of \(10, 10\)": {
            "dtype": "u1", "total_roi": roi, "write_size": (10, 10), "chunk_shape": (3, 5)},
        "does not fit an array of shape": {"dtype": "u1", "total_roi": roi, "chunk_shape": (3,)},
        "does not hold the value -1": {"dtype": "u1", "total_roi": roi, "fill_value": -1},
        "mode 'x'": {"dtype": "u1", "total_roi": roi, "mode": "x"},
        "4600 pm": {"dtype": "u1", "shape": (3, 3), "voxel_size": (4.6, 4.6)},
        "at least one": {"dtype": "u1", "shape": ()},
        "is not stored": {"dtype": "M8[s]", "total_roi": roi},
    }.items():  # fmt: skip
        with pytest.raises(ArrayError, match=match):
            prepare_ds(path, **arguments)  # type: ignore[call-overload]
        assert not path.exists()


def test_attributes_of_daisy_are_understood(tmp_path: Path) -> None:
    (tmp_path / ".zarray").write_text(json.dumps(
        {"zarr_format": 2, "shape": [2, 6], "dtype": "<f4", "chunks": [2, 3], "compressor": None,
         "fill_value": 0, "order": "C", "filters": None}
    ))  # fmt: skip
    (tmp_path / ".zattrs").write_text(json.dumps({"resolution": [4.0], "offset": [8.0]}))
    array = open_ds(tmp_path)
    assert array.roi == Roi(8, 24)
    assert array.to_ndarray().shape == (2, 6)
