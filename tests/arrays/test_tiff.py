"""TIFF: every layout that microscopes and ImageJ write, read as tifffile reads it; real data."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from bellis.arrays import open_ds, tiff_pages
from bellis.arrays.format import DTYPES
from bellis.errors import ArrayError
from bellis.testing.arrays import ArrayStoreTests, numbers

REAL = Path(__file__).parents[3] / "shared/data/vnc_stack1_raw.tif"


class TestTiff(ArrayStoreTests):
    format_name = "tiff"
    suffix = ".tif"
    is_read_only = True
    has_names = False
    has_places = False
    dtypes = tuple(name for name in DTYPES if name != "bool")

    def write_example(self, path: str, voxels: Any, voxel_size: Any, offset: Any) -> None:
        tifffile.imwrite(path, voxels, metadata={"axes": "ZYX"[-voxels.ndim :]}, photometric="minisblack")


class TestCompressedTiff(TestTiff):
    def write_example(self, path: str, voxels: Any, voxel_size: Any, offset: Any) -> None:
        options = {"compression": "zlib", "photometric": "minisblack", "bigtiff": True}
        tifffile.imwrite(path, voxels, metadata={"axes": "ZYX"[-voxels.ndim :]}, rowsperstrip=3, **options)


class TestTiledBigEndianTiff(TestTiff):
    def write_example(self, path: str, voxels: Any, voxel_size: Any, offset: Any) -> None:
        options = {"compression": "zlib", "photometric": "minisblack", "byteorder": ">"}
        tifffile.imwrite(path, voxels, metadata={"axes": "ZYX"[-voxels.ndim :]}, tile=(16, 16), **options)


LAYOUTS: dict[str, tuple[tuple[int, ...], str, dict[str, Any]]] = {
    "2-D": ((40, 50), "uint16", {}),
    "pages": ((5, 40, 50), "uint16", {"photometric": "minisblack", "metadata": None}),
    "one page": ((5, 40, 50), "uint16", {"photometric": "minisblack"}),
    "big endian": ((5, 40, 50), "uint16", {"photometric": "minisblack", "byteorder": ">"}),
    "BigTIFF": ((5, 40, 50), "float32", {"photometric": "minisblack", "bigtiff": True}),
    "strips": ((5, 40, 50), "uint8", {"photometric": "minisblack", "rowsperstrip": 7, "compression": "zlib"}),
    "lzma": ((5, 40, 50), "uint8", {"photometric": "minisblack", "compression": "lzma"}),
    "tiles": ((5, 40, 50), "uint16", {"photometric": "minisblack", "tile": (16, 32)}),
    "tiled pages": ((5, 40, 50), "uint16", {"photometric": "minisblack", "tile": (16, 32), "metadata": None}),
    "deep tiles": ((5, 40, 50), "uint16", {"photometric": "minisblack", "tile": (16, 16, 16), "volumetric": True}),
    "colour": ((40, 50, 3), "uint8", {"photometric": "rgb"}),
    "colour strips": ((40, 50, 3), "uint8", {"photometric": "rgb", "rowsperstrip": 7, "compression": "zlib"}),
    "colour tiles": ((5, 40, 50, 3), "uint8", {"photometric": "rgb", "tile": (16, 16), "compression": "zlib"}),
    "colour planes": ((3, 40, 50), "uint8", {"photometric": "rgb", "planarconfig": "separate", "rowsperstrip": 7}),
    "ImageJ": ((5, 40, 50), "uint16", {"imagej": True, "metadata": {"axes": "ZYX"}}),
    "ImageJ hyperstack": ((2, 3, 2, 40, 50), "uint16", {"imagej": True, "metadata": {"axes": "TZCYX"}}),
    "OME": ((2, 3, 2, 40, 50), "uint16", {"ome": True, "metadata": {"axes": "TCZYX"}}),
    "OME tiles": ((3, 2, 40, 50), "uint16", {"ome": True, "metadata": {"axes": "CZYX"}, "tile": (32, 16)}),
    "bits": ((40, 50), "bool", {}),
}  # fmt: skip


def layout(path: Path, name: str) -> Any:
    """Write a layout by tifffile; return its voxels."""
    shape, dtype, options = LAYOUTS[name]
    voxels = np.random.default_rng(7).integers(0, 2 if dtype == "bool" else 200, shape).astype(dtype)
    tifffile.imwrite(path, voxels, **options)
    return voxels


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_is_read_as_tifffile_reads_it(tmp_path: Path, name: str) -> None:
    voxels = layout(tmp_path / "a.tif", name)
    array = open_ds(tmp_path / "a.tif")
    assert array.shape == voxels.shape
    assert array.dtype == voxels.dtype
    assert array.to_ndarray().dtype.isnative
    np.testing.assert_array_equal(array, voxels)


@pytest.mark.slow
@given(data=st.data())
def test_any_region_of_every_layout_is_what_numpy_slices(tmp_path_factory: Any, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(LAYOUTS)))
    path = tmp_path_factory.mktemp("layout") / "a.tif"
    voxels = layout(path, name)
    stored = open_ds(path).data
    for _ in range(3):
        ends = [sorted(data.draw(st.lists(st.integers(0, n), min_size=2, max_size=2))) for n in voxels.shape]
        slices = tuple(slice(*pair) for pair in ends)
        np.testing.assert_array_equal(stored[slices], voxels[slices])


@pytest.mark.parametrize(
    ("name", "names", "types"),
    [
        ("2-D", "yx", "ss"),
        ("pages", "zyx", "sss"),
        ("colour", "yxc", "ssc"),
        ("colour tiles", "zyxc", "sssc"),
        ("colour planes", "cyx", "css"),
        ("ImageJ hyperstack", "tzcyx", "tscss"),
        ("OME", "tczyx", "tcsss"),
    ],
)
def test_axes_are_what_the_file_says(tmp_path: Path, name: str, names: str, types: str) -> None:
    layout(tmp_path / "a.tif", name)
    array = open_ds(tmp_path / "a.tif")
    assert "".join(array.axis_names) == names
    assert "".join(kind[0] for kind in array.types) == types


# Voxel sizes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", ["um", "micron", "\\u00B5m"])
def test_the_voxel_size_of_imagej_is_exact(tmp_path: Path, unit: str) -> None:
    voxels = numbers((2, 5, 7), "uint8")
    tifffile.imwrite(
        tmp_path / "a.tif", voxels, imagej=True, resolution=((217391304, 1000000), (217391304, 1000000)),
        metadata={"axes": "ZYX", "spacing": 0.05, "unit": unit},
    )  # fmt: skip
    array = open_ds(tmp_path / "a.tif")
    assert array.voxel_size == (50_000, 4_600, 4_600)
    assert set(array.units) == {"pm"}


@pytest.mark.parametrize(
    ("resolution", "voxel_size", "unit"),
    [
        ((1000, 1), 1, "nm"),
        ((3, 1), 1, "um/3"),
        ((3_000_000, 1_000_000), 1, "um/3"),
        ((15_384_615, 1_000_000), 65, "nm"),
        ((9_259_259, 1_000_000), 108, "nm"),
        ((6_211_180, 1_000_000), 161, "nm"),
        ((2, 1), 500, "nm"),
    ],
)
def test_a_resolution_that_imagej_has_rounded_is_the_decimal_that_was_meant(
    tmp_path: Path, resolution: tuple[int, int], voxel_size: int, unit: str
) -> None:
    tifffile.imwrite(
        tmp_path / "a.tif", numbers((5, 7), "uint8"), imagej=True, resolution=(resolution, resolution),
        metadata={"unit": "um"},
    )  # fmt: skip
    array = open_ds(tmp_path / "a.tif")
    assert (array.voxel_size, array.units) == ((voxel_size, voxel_size), (unit, unit))


def test_the_voxel_size_of_ome_is_exact(tmp_path: Path) -> None:
    sizes = {"PhysicalSizeX": 4.6, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 4.6, "PhysicalSizeYUnit": "nm"}
    tifffile.imwrite(
        tmp_path / "a.ome.tif", numbers((3, 2, 5, 7), "uint8"), ome=True,
        metadata={"axes": "TZYX", **sizes, "PhysicalSizeZ": 0.05, "TimeIncrement": 0.5, "TimeIncrementUnit": "s"},
    )  # fmt: skip
    array = open_ds(tmp_path / "a.ome.tif")
    assert array.voxel_size == (500, 50_000, 4_600, 4_600)
    assert array.units == ("ms", "pm", "pm", "pm")


def test_time_of_imagej_is_in_seconds(tmp_path: Path) -> None:
    tifffile.imwrite(
        tmp_path / "a.tif", numbers((3, 5, 7), "uint8"), imagej=True, metadata={"axes": "TYX", "finterval": 0.1}
    )
    array = open_ds(tmp_path / "a.tif")
    assert (array.voxel_size[0], array.units[0]) == (100, "ms")


@pytest.mark.parametrize("options", [{}, {"resolution": (72, 72), "resolutionunit": "inch"}])
def test_without_a_claim_a_voxel_is_one(tmp_path: Path, options: dict[str, Any]) -> None:
    """Dots per inch are what programs write that know nothing."""
    tifffile.imwrite(tmp_path / "a.tif", numbers((5, 7), "uint8"), **options)
    array = open_ds(tmp_path / "a.tif")
    assert array.voxel_size == (1, 1)
    assert open_ds(tmp_path / "a.tif", voxel_size=(4.6, 4.6)).voxel_size == (4_600, 4_600)


# Several images, several files ---------------------------------------------------------------------------------------


def test_series_are_named_by_their_numbers(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(numbers((5, 7), "uint8"))
        file.write(numbers((2, 8, 9), "uint16"), photometric="minisblack")
    assert open_ds(tmp_path / "a.tif").shape == (5, 7)
    assert open_ds(tmp_path / "a.tif", "1").shape == (2, 8, 9)
    for name in ("2", "raw"):
        with pytest.raises(ArrayError, match=r"arrays in .*: 0, 1"):
            open_ds(tmp_path / "a.tif", name)


def planes(folder: Path, count: int, shape: tuple[int, ...] = (5, 7), **options: Any) -> Any:
    """Write a stack of files; return their voxels."""
    folder.mkdir()
    voxels = numbers((count, *shape), "uint16")
    for k, plane in enumerate(voxels):
        tifffile.imwrite(folder / f"plane_{k + 8}.tif", plane, **options)
    return voxels


@pytest.mark.parametrize("pattern", ["", "/*.tif"])
def test_a_directory_of_planes_is_a_stack_in_the_order_of_their_numbers(tmp_path: Path, pattern: str) -> None:
    voxels = planes(tmp_path / "stack", 5)
    (tmp_path / "stack/notes.txt").write_text("mine")
    array = open_ds(f"{tmp_path / 'stack'}{pattern}")
    assert array.axis_names == ("z", "y", "x")
    assert array.chunk_shape == (1, 5, 7)
    np.testing.assert_array_equal(array, voxels)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(array))[array.roi], voxels)
    np.testing.assert_array_equal(array.data[2:4, 1:3, 2:5], voxels[2:4, 1:3, 2:5])


def test_more_planes_are_read_than_files_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bellis.arrays.tiff.OPEN_FILES", 2)
    voxels = planes(tmp_path / "stack", 5)
    array = open_ds(tmp_path / "stack")
    for _ in range(2):
        np.testing.assert_array_equal(array, voxels)


def test_planes_in_colour_are_a_stack(tmp_path: Path) -> None:
    voxels = planes(tmp_path / "stack", 2, (5, 7, 3), photometric="rgb")
    array = open_ds(tmp_path / "stack")
    assert array.axis_names == ("z", "y", "x", "c")
    np.testing.assert_array_equal(array, voxels)


def test_a_plane_that_is_missing_is_not_closed_up(tmp_path: Path) -> None:
    planes(tmp_path / "stack", 5)
    (tmp_path / "stack/plane_10.tif").unlink()
    with pytest.raises(ArrayError, match=r"missing after plane_9\.tif, where plane_11\.tif follows"):
        open_ds(tmp_path / "stack")


def test_planes_of_different_shapes_are_no_stack(tmp_path: Path) -> None:
    planes(tmp_path / "stack", 3)
    tifffile.imwrite(tmp_path / "stack/plane_9.tif", numbers((5, 8), "uint16"))
    with pytest.raises(ArrayError, match=r"plane_9\.tif has shape \(5, 8\)"):
        open_ds(tmp_path / "stack").to_ndarray()


def test_volumes_are_no_stack(tmp_path: Path) -> None:
    planes(tmp_path / "stack", 2, (3, 5, 7), photometric="minisblack", metadata={"axes": "ZYX"})
    with pytest.raises(ArrayError, match="two-dimensional"):
        open_ds(tmp_path / "stack")


# What is read, and what is damaged -----------------------------------------------------------------------------------


def test_a_file_without_compression_is_mapped_and_one_with_is_decoded_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = []
    original = tiff_pages.TiffImage._decoded_from

    def counted(self: Any, *args: Any) -> Any:
        decoded.append(args[-1])
        return original(self, *args)

    monkeypatch.setattr(tiff_pages.TiffImage, "_decoded_from", counted)
    layout(tmp_path / "plain.tif", "pages")
    open_ds(tmp_path / "plain.tif").to_ndarray()
    assert decoded == []
    voxels = layout(tmp_path / "strips.tif", "strips")
    stored = open_ds(tmp_path / "strips.tif").data
    for _ in range(2):
        np.testing.assert_array_equal(stored[1:2, 7:20, 0:5], voxels[1:2, 7:20, 0:5])
    assert len(decoded) == 2


def test_what_is_decoded_is_kept_in_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiff_pages, "CACHE_BYTES", 1_000)
    voxels = layout(tmp_path / "a.tif", "strips")
    image = open_ds(tmp_path / "a.tif").data._image(0)
    np.testing.assert_array_equal(image.read((slice(None),) * 3), voxels)
    assert image._decoded_bytes == sum(strip.nbytes for strip in image._decoded.values()) <= 1_000


def test_tiles_that_were_never_written_are_0_or_an_error(tmp_path: Path) -> None:
    tiles = [np.full((16, 16), 7, "uint8"), None, None, np.full((16, 16), 9, "uint8")]
    tifffile.imwrite(tmp_path / "a.tif", iter(tiles), shape=(32, 32), dtype="uint8", tile=(16, 16))
    voxels = open_ds(tmp_path / "a.tif").to_ndarray()
    assert voxels[:16, :16].sum() + voxels[16:, 16:].sum() == voxels.sum() == 256 * 16
    with pytest.raises(ArrayError, match="missing"):
        open_ds(tmp_path / "a.tif", missing="error").to_ndarray()


@pytest.mark.parametrize("name", ["strips", "colour tiles"])
def test_threads_read_at_the_same_time(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiff_pages, "CACHE_BYTES", 5_000)
    voxels = layout(tmp_path / "a.tif", name)
    lazy = open_ds(tmp_path / "a.tif").to_dask((1, 8, 8, *voxels.shape[3:]))
    np.testing.assert_array_equal(lazy.compute(scheduler="threads", num_workers=4), voxels)


@pytest.mark.parametrize("name", ["pages", "one page", "strips", "OME tiles", "ImageJ"])
@pytest.mark.parametrize("kept", [0.003, 0.3, 0.97])
def test_a_file_that_was_cut_off_is_an_error_with_its_path(tmp_path: Path, name: str, kept: float) -> None:
    path = tmp_path / "cut.tif"
    layout(path, name)
    os.truncate(path, int(path.stat().st_size * kept))
    with pytest.raises(ArrayError, match=r"cut\.tif"):
        open_ds(path).to_ndarray()


def test_a_strip_that_is_damaged_is_an_error_with_its_path(tmp_path: Path) -> None:
    layout(tmp_path / "a.tif", "strips")
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        offset = file.pages[0].dataoffsets[0]
    with (tmp_path / "a.tif").open("r+b") as raw:
        raw.seek(offset)
        raw.write(b"\xff" * 20)
    with pytest.raises(ArrayError, match=r"can't read .*a\.tif"):
        open_ds(tmp_path / "a.tif").to_ndarray()


def test_what_is_not_tiff_is_an_error_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(b"nothing of the kind")
    with pytest.raises(ArrayError, match=r"can't open .*a\.tif: TiffFileError"):
        open_ds(tmp_path / "a.tif")


def test_a_codec_that_is_not_installed_is_an_error_with_the_cure(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", numbers((5, 7), "uint8"), compression="zlib")
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        place = file.pages[0].tags["Compression"].valueoffset
    with (tmp_path / "a.tif").open("r+b") as raw:
        raw.seek(place)
        raw.write((34887).to_bytes(2, "little"))  # LERC, which few have
    try:
        import imagecodecs  # noqa: F401
    except ImportError:
        with pytest.raises(ArrayError, match="pip install imagecodecs"):
            open_ds(tmp_path / "a.tif").to_ndarray()


def test_a_url_is_refused() -> None:
    with pytest.raises(ArrayError, match="local files"):
        open_ds("https://example.org/a.tif")


@pytest.mark.skipif(not REAL.is_file(), reason="the folder of real data is not here")
def test_a_real_stack_is_read() -> None:
    array = open_ds(REAL, voxel_size=(50, 4.6, 4.6))
    assert array.shape == (20, 1024, 1024)
    assert array.dtype == np.uint8
    assert array.roi.shape == (20 * 50_000, 1024 * 4_600, 1024 * 4_600)
    voxels = tifffile.imread(REAL)
    np.testing.assert_array_equal(array.data[3:9, 100:300, 500:700], voxels[3:9, 100:300, 500:700])
