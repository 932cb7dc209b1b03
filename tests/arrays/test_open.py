"""Opening arrays of any format."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING

import numpy as np
import pytest
import zarr

from bellis.arrays import open_ds, prepare_ds
from bellis.arrays.open import GROUP, format_names, load_format
from bellis.errors import ArrayError
from bellis.geometry import Roi

if TYPE_CHECKING:
    from pathlib import Path


def test_a_missing_array_is_an_error_that_says_what_is_there(tmp_path: Path) -> None:
    prepare_ds(tmp_path / "a.zarr/volumes/raw", (4,), None, "u1")
    prepare_ds(tmp_path / "a.zarr/mask", (4,), None, "u1")
    with pytest.raises(ArrayError, match=r"is a group.*: mask, volumes/raw"):
        open_ds(tmp_path / "a.zarr")
    with pytest.raises(ArrayError, match=r"there is no array .*rwa; arrays in .*: mask, volumes"):
        open_ds(tmp_path / "a.zarr", "rwa")
    with pytest.raises(ArrayError, match="there is no array"):
        open_ds(tmp_path / "b.zarr")
    with pytest.raises(ArrayError, match="is not an array of format zarr, "):
        open_ds(tmp_path)
    with pytest.raises(ArrayError, match="prepare_ds makes new arrays"):
        open_ds(tmp_path / "a.zarr", "mask", mode="w")


def test_attributes_of_daisy_are_understood(tmp_path: Path) -> None:
    (tmp_path / ".zarray").write_text(json.dumps(
        {"zarr_format": 2, "shape": [2, 6], "dtype": "<f4", "chunks": [2, 3], "compressor": None,
         "fill_value": 0, "order": "C", "filters": None}
    ))  # fmt: skip
    (tmp_path / ".zattrs").write_text(json.dumps({"resolution": [4.0], "offset": [8.0]}))
    array = open_ds(tmp_path)
    assert array.roi == Roi(8, 24)
    assert array.to_ndarray().shape == (2, 6)


def ome_image(path: Path, *, levels: int = 2, version: int = 3, scale: float = 4.0) -> None:
    """Make an image as others do: what it is, is said by the group alone."""
    group = zarr.open_group(path, mode="w", zarr_format=version)  # type: ignore[arg-type]
    for k in range(levels):
        data = np.full((32 >> k, 32 >> k), k, np.uint8)
        group.create_array(str(k), data=data, chunks=(16, 16))
    multiscales = [{
        "name": "em",
        "axes": [{"name": name, "type": "space", "unit": "nanometer"} for name in "yx"],
        "datasets": [
            {"path": str(k), "coordinateTransformations": [{"type": "scale", "scale": [scale * 2**k, 10.0 * 2**k]}]}
            for k in range(levels)
        ],
    }]  # fmt: skip
    if version == 3:
        group.attrs["ome"] = {"version": "0.5", "multiscales": multiscales}
    else:
        group.attrs["multiscales"] = [{**entry, "version": "0.4"} for entry in multiscales]


@pytest.mark.parametrize("version", [2, 3])
def test_of_an_image_the_finest_level_is_opened(tmp_path: Path, version: int) -> None:
    ome_image(tmp_path / "em.zarr", version=version)
    finest, coarse = open_ds(tmp_path / "em.zarr"), open_ds(tmp_path / "em.zarr", "1")
    assert (finest.voxel_size, finest.roi) == ((4, 10), Roi((0, 0), (128, 320)))
    assert (coarse.voxel_size, coarse.roi) == ((8, 20), Roi((0, 0), (128, 320)))
    assert (finest.to_ndarray() == 0).all()
    assert (coarse.to_ndarray() == 1).all()


def test_an_image_may_be_deep_in_a_container(tmp_path: Path) -> None:
    ome_image(tmp_path / "em.zarr" / "volumes" / "em", scale=4.6)
    for array in (open_ds(tmp_path / "em.zarr", "volumes/em"), open_ds(tmp_path / "em.zarr/volumes/em/0")):
        assert array.units == ("pm", "pm")
        assert array.voxel_size == (4600, 10_000)


def test_of_several_arrays_one_is_to_be_named(tmp_path: Path) -> None:
    prepare_ds(tmp_path / "a.zarr/raw", (8, 8), dtype="u1")
    assert open_ds(tmp_path / "a.zarr").path == str(tmp_path / "a.zarr/raw")
    prepare_ds(tmp_path / "a.zarr/mask", (8, 8), dtype="u1")
    with pytest.raises(ArrayError, match="is a group, not an array; arrays in it: mask, raw"):
        open_ds(tmp_path / "a.zarr")
    prepare_ds(tmp_path / "b.zarr/raw", (8, 8), dtype="u1")
    prepare_ds(tmp_path / "b.zarr/line", (8,), dtype="u1")
    with pytest.raises(ArrayError, match="is a group, not an array; arrays in it: line, raw"):
        open_ds(tmp_path / "b.zarr")


def test_what_the_caller_says_wins_over_the_metadata(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    prepare_ds(path, (3, 20, 30), (8, 4), "u1", offset=(16, -4), units="um")
    assert open_ds(path, voxel_size=(2, 2)).roi == Roi((16, -4), (40, 60))
    assert open_ds(path, voxel_size=(2, 2)).units == ("um", "um")
    assert open_ds(path, offset=(0, 0)).roi == Roi((0, 0), (160, 120))
    assert open_ds(path, units="nm").units == ("nm", "nm")
    assert open_ds(path, axis_names=("c", "a", "b")).axis_names == ("c", "a", "b")
    volume = open_ds(path, voxel_size=(5, 2, 2))
    assert (volume.roi, volume.axis_names) == (Roi((0, 0, 0), (15, 40, 60)), ("z", "y", "x"))
    frames = open_ds(path, types=("time", "space", "space"), axis_names="tyx")
    assert frames.types == ("time", "space", "space")
    with pytest.raises(ArrayError, match="physical dimensions differ"):
        open_ds(path, voxel_size=(2,), offset=(1, 1))


def test_regions_can_be_given_in_another_unit(tmp_path: Path) -> None:
    prepare_ds(tmp_path / "a.zarr", (20, 30), (4000, 8000), "u1")
    assert open_ds(tmp_path / "a.zarr", unit="um").voxel_size == (4, 8)
    assert open_ds(tmp_path / "a.zarr", unit="pm").voxel_size == (4_000_000, 8_000_000)
    with pytest.raises(ArrayError, match="integers"):
        open_ds(tmp_path / "a.zarr", unit="mm")


def test_a_missing_chunk_is_the_fill_value_or_an_error_as_asked(tmp_path: Path) -> None:
    prepare_ds(tmp_path / "a.zarr", (20, 30), dtype="u1", fill_value=7)
    assert (open_ds(tmp_path / "a.zarr").to_ndarray() == 7).all()
    with pytest.raises(ArrayError, match="missing='fill'"):
        open_ds(tmp_path / "a.zarr", missing="error").to_ndarray()
    with pytest.raises(ArrayError, match="none of 'fill', 'error'"):
        open_ds(tmp_path / "a.zarr", missing="zero")  # type: ignore[arg-type]


def test_a_format_is_named_or_known_by_its_ending_or_found_out(tmp_path: Path) -> None:
    prepare_ds(tmp_path / "plain", (6, 6), dtype="u1")
    shutil.copytree(tmp_path / "plain", tmp_path / "wrongly.n5")
    for path in ("plain", "wrongly.n5"):
        assert open_ds(tmp_path / path).format == "zarr 3"
        assert open_ds(tmp_path / path, format="zarr").format == "zarr 3"
        assert open_ds(f"zarr://{tmp_path / path}").format == "zarr 3"
    with pytest.raises(ArrayError, match="is not an array of format n5"):
        open_ds(tmp_path / "plain", format="n5")
    with pytest.raises(ArrayError, match="format 'tar' is unknown: use one of zarr, "):
        open_ds(tmp_path / "plain", format="tar")


def test_a_format_that_can_not_be_loaded_is_an_error_for_those_who_ask_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = (EntryPoint("broken", "bellis.arrays.nowhere:Format", GROUP), *entry_points(group=GROUP))

    def points(*, group: str, name: str | None = None) -> list[EntryPoint]:
        return [point for point in found if group == GROUP and name in (None, point.name)]

    monkeypatch.setattr("bellis.arrays.open.entry_points", points)
    format_names.cache_clear()
    load_format.cache_clear()
    try:
        with pytest.raises(ArrayError, match=r"format 'broken' can't be loaded from bellis\.arrays\.nowhere:Format"):
            open_ds(tmp_path / "a", format="broken")
        with pytest.raises(ArrayError, match="there is no array"):
            open_ds(tmp_path / "a")
    finally:
        format_names.cache_clear()
        load_format.cache_clear()


def test_only_the_libraries_that_are_needed_are_imported(tmp_path: Path) -> None:
    prepare_ds(tmp_path / "a.zarr", (6, 6), dtype="u1")
    script = "import sys; from bellis import open_ds; print(open_ds(sys.argv[1]).roi, *sys.modules)"
    answer = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "a.zarr"], capture_output=True, text=True, check=True
    )
    assert not {"tensorstore", "h5py", "tifffile", "nibabel", "zarr", "dask", "scipy"} & set(answer.stdout.split())
