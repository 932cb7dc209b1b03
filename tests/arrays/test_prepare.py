"""Making arrays, and taking those that are just as asked."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from ome_zarr_models.v05 import Image

from bellis.arrays import open_ds, prepare_ds
from bellis.arrays.multiscale import Multiscale
from bellis.arrays.ome import images
from bellis.errors import ArrayError
from bellis.geometry import Roi
from bellis.testing.voxels import prepare_and_describe, processes

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
    assert named.types == ("channel", "space", "space")


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
    with pytest.raises(ArrayError, match="is a group, not an array; it is not replaced"):
        prepare_ds(tmp_path / "a.zarr", (4,), None, "u1", mode="w")
    with pytest.raises(ArrayError, match="inside of the array"):
        prepare_ds(tmp_path / "a.zarr/raw/deeper", (4,), None, "u1")
    (tmp_path / "empty").mkdir()
    assert prepare_ds(tmp_path / "empty", (4,), None, "u1").shape == (4,)


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
        r"voxel_size=\(4600, 4600\), units='pm'": {"dtype": "u1", "total_roi": roi, "voxel_size": (4.6, 4.6)},
        "shards of .* are not made of chunks": {
            "dtype": "u1", "total_roi": roi, "chunk_shape": (3, 3), "shard_shape": (8, 8)},
        r"shards of \(8, 8\) voxels do not divide a write_size of \(10, 8\)": {
            "dtype": "u1", "total_roi": roi, "write_size": (10, 8), "shard_shape": (8, 8)},
        "options": {"dtype": "u1", "total_roi": roi, "compressor": {"id": "zstd", "shuffle": 1}},
        "at least one": {"dtype": "u1", "shape": ()},
        "is not stored": {"dtype": "M8[s]", "total_roi": roi},
    }.items():  # fmt: skip
        with pytest.raises(ArrayError, match=match):
            prepare_ds(path, **arguments)  # type: ignore[call-overload]
        assert not path.exists()


def test_voxels_of_a_fraction_of_a_unit_are_told_in_a_smaller_one(tmp_path: Path) -> None:
    array = prepare_ds(
        tmp_path / "a.zarr", (30, 40), (50, 4.6), "u1", offset=(100, 9.2), write_size=(500, 46), axis_names="zx",
    )  # fmt: skip
    assert array.units == ("pm", "pm")
    assert array.roi == Roi((100_000, 9_200), (1_500_000, 184_000))
    assert array.chunk_shape == (10, 10)
    assert open_ds(tmp_path / "a.zarr").roi == array.roi
    with pytest.raises(ArrayError, match=r"write_size .* is not a multiple"):
        prepare_ds(tmp_path / "b.zarr", (30, 40), (50, 4.6), "u1", write_size=(500, 5))


def test_shards_are_made_of_small_chunks_and_divide_what_is_written(tmp_path: Path) -> None:
    array = prepare_ds(
        tmp_path / "a.zarr", (2, 512, 512), (8, 4), "u1", write_size=(2048, 1024), shard_shape=(1, 256, 128),
    )  # fmt: skip
    assert (array.chunk_shape, array.write_shape) == ((1, 64, 64), (1, 256, 128))
    found: Any = zarr.open_array(tmp_path / "a.zarr", mode="r")
    assert (found.chunks, found.shards) == ((1, 64, 64), (1, 256, 128))
    array[array.roi] = 5
    assert (found[:] == 5).all()
    assert sum(path.is_file() for path in (tmp_path / "a.zarr" / "c").rglob("*")) == 16
    with pytest.raises(ArrayError, match=r"shard_shape: asked \(1, 128, 128\), found \(1, 256, 128\)"):
        prepare_ds(tmp_path / "a.zarr", (2, 512, 512), (8, 4), "u1", shard_shape=(1, 128, 128))
    with pytest.raises(ArrayError, match=r"shards: \(256, 128\) do not divide write_size, \(128, 128\) voxels"):
        prepare_ds(tmp_path / "a.zarr", (2, 512, 512), (8, 4), "u1", write_size=(1024, 512))


def test_version_2_has_no_shards(tmp_path: Path) -> None:
    zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2)
    with pytest.raises(ArrayError, match="version 2 has none"):
        prepare_ds(tmp_path / "a.zarr/raw", (64, 64), dtype="u1", shard_shape=(32, 32))
    assert not (tmp_path / "a.zarr/raw").exists()


def test_another_fill_value_is_a_difference(tmp_path: Path) -> None:
    prepare_ds(tmp_path / "a.zarr", (6, 6), dtype="f4", fill_value=np.nan)
    assert np.isnan(prepare_ds(tmp_path / "a.zarr", (6, 6), dtype="f4", fill_value=np.nan).fill_value)
    with pytest.raises(ArrayError, match=r"fill_value: asked 0\.0, found nan"):
        prepare_ds(tmp_path / "a.zarr", (6, 6), dtype="f4")


def test_chunks_and_shards_divide_any_write_size(tmp_path: Path) -> None:
    for k, write_size in enumerate([(100, 30, 7), (128, 256, 64), (97, 1, 300)]):
        array = prepare_ds(tmp_path / f"{k}.zarr", (300, 300, 300), dtype="u1", write_size=write_size)
        assert array.chunk_shape == array.write_shape
        assert all(n % c == 0 for n, c in zip(write_size, array.chunk_shape or (), strict=True))


def test_what_a_process_left_behind_that_was_ended_does_not_stand_in_the_way(tmp_path: Path) -> None:
    place = tmp_path / "a.zarr" / "raw"
    place.mkdir(parents=True)
    for name in ("zarr.json.__lock", ".zattrs", "zarr.json.0123.partial"):
        (place / name).write_text("")
    assert prepare_ds(place, (6, 6), dtype="u1").shape == (6, 6)


def test_a_format_is_named_by_argument_prefix_or_ending(tmp_path: Path) -> None:
    for path, options in {
        f"{tmp_path}/a": {"format": "zarr"},
        f"zarr://{tmp_path}/b": {},
        f"{tmp_path}/c.zarr": {},
        f"{tmp_path}/d": {},
    }.items():
        assert prepare_ds(path, (6, 6), dtype="u1", **options).format == "zarr 3"  # type: ignore[call-overload]
    with pytest.raises(ArrayError, match="format 'zar' is unknown: use one of zarr, "):
        prepare_ds(tmp_path / "e", (6, 6), dtype="u1", format="zar")


# What OME-Zarr tells of it ---------------------------------------------------------------------------------------


def ome(group: Path) -> Any:
    return json.loads((group / "zarr.json").read_text())["attributes"].get("ome")


def test_the_group_tells_of_its_arrays_in_the_words_of_ome_zarr(tmp_path: Path) -> None:
    group = tmp_path / "out.zarr"
    raw = prepare_ds(group / "raw", Roi((80, 40, 40), (400, 80, 80)), (40, 4, 4), "u1")
    prepare_ds(group / "mask", (10, 20, 20), (40, 4, 4), "u1", offset=(80, 40, 40), num_channels=None)
    prepare_ds(group / "line", (10,), dtype="u1")
    prepare_ds(group / "raw", Roi((80, 40, 40), (400, 80, 80)), (40, 4, 4), "u1")

    image = Image.from_zarr(zarr.open_group(group, mode="r"))  # the reader of ome-zarr-models validates
    assert [entry.name for entry in image.ome_attributes.multiscales] == ["raw", "mask"]
    assert ome(group)["version"] == "0.5"
    (group / "raw" / "zarr.json").write_text(  # what others make says nothing itself
        json.dumps({**json.loads((group / "raw" / "zarr.json").read_text()), "attributes": {}})
    )
    found = open_ds(group, "raw")
    assert (found.roi, found.voxel_size, found.units) == (raw.roi, raw.voxel_size, raw.units)


def test_what_is_made_anew_is_told_anew(tmp_path: Path) -> None:
    group = tmp_path / "out.zarr"
    prepare_ds(group / "raw", (10, 20), (4, 4), "u1")
    prepare_ds(group / "raw", (10, 20), (8, 4), "u1", mode="w")
    assert len(ome(group)["multiscales"]) == 1
    (image,) = images({"ome": ome(group)})
    assert image.layout("raw", (10, 20), "u1").voxel_size == (8, 4)
    prepare_ds(group / "raw", (10,), dtype="u1", mode="w")
    assert not images({"ome": ome(group) or {}})


def test_an_image_of_levels_gets_no_image_beside_it(tmp_path: Path) -> None:
    image = Multiscale.prepare(tmp_path / "em.zarr", shape=(64, 64), voxel_size=(4, 4), dtype="u1")
    image.add_level((2, 2))
    before = ome(tmp_path / "em.zarr")
    prepare_ds(tmp_path / "em.zarr/mask", (64, 64), (4, 4), "u1")
    assert ome(tmp_path / "em.zarr") == before


@pytest.mark.slow
@pytest.mark.integration
def test_processes_that_prepare_at_the_same_time_are_all_told_of(tmp_path: Path) -> None:
    paths = [str(tmp_path / "out.zarr" / f"raw{k}") for k in range(6)]
    with processes(2) as pool:
        list(pool.map(prepare_and_describe, paths, [(10, 20)] * 6, [{}] * 6))
    assert sorted(entry["name"] for entry in ome(tmp_path / "out.zarr")["multiscales"]) == [f"raw{k}" for k in range(6)]


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("raw.zarr", (4, 4)), {"chunks": (2, 2)}, "unexpected keyword argument 'chunks'. It takes path, total_roi"),
        (("a.h5", "raw"), {"shape": (4, 4)}, "With a name as second argument, as in daisy, it takes filename"),
        ((), {}, "missing a required argument: 'path'"),
    ],
)
def test_a_wrong_argument_is_answered_with_those_that_there_are(arguments: Any, options: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        prepare_ds(*arguments, **options)


def test_an_unknown_dtype_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArrayError, match="dtype 'foo' is none that NumPy knows"):
        prepare_ds(tmp_path / "a.zarr", (4, 4), dtype="foo")
