"""NIfTI: axes reversed, scaled, placed; plain and compressed."""

from __future__ import annotations

import os
import pickle
from typing import TYPE_CHECKING, Any

import nibabel
import numpy as np
import pytest

from bellis.arrays import nifti, open_ds
from bellis.errors import ArrayError
from bellis.testing.arrays import ArrayStoreTests, numbers

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")


def image(
    path: str | Path,
    voxels: Any,
    sizes: Sequence[float] = (1, 1, 1),
    translation: Sequence[float] = (0, 0, 0),
    *,
    units: tuple[str | None, str | None] = ("mm", "sec"),
    affine: Any = None,
) -> Any:
    """Write voxels (..., z, y, x) by nibabel; sizes and translation are z, y, x."""
    matrix = np.diag([*sizes[::-1], 1.0])
    matrix[:3, 3] = translation[::-1]
    made = nibabel.Nifti1Image(voxels.T, matrix if affine is None else affine, dtype=voxels.dtype)
    made.header.set_xyzt_units(*units)
    made.to_filename(path)
    return made


class TestNifti(ArrayStoreTests):
    format_name = "nifti"
    suffix = ".nii"
    is_read_only = True
    has_names = False
    ndims = (3,)
    dtypes = (*INTEGERS, "float32", "float64", "complex64", "complex128")

    def write_example(self, path: str, voxels: Any, voxel_size: Any, offset: Any) -> None:
        sizes, begin = ([n / 1000 for n in values] for values in (voxel_size, offset))
        image(path, voxels, sizes, begin, units=("micron", "sec"))


class TestCompressedNifti(TestNifti):
    suffix = ".nii.gz"


@pytest.mark.parametrize("suffix", ["nii", "nii.gz"])
def test_voxel_sizes_are_exact(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    image(path, numbers((3, 5, 7), "uint8"), (0.05, 0.0046, 0.0046), (0.1, 0.0023, -0.0023), units=("micron", "sec"))
    array = open_ds(path)
    assert array.voxel_size == (50_000, 4_600, 4_600)
    assert array.roi.begin == (100_000, 2_300, -2_300)
    assert set(array.units) == {"pm"}
    assert array.attrs["affine"][0][3] == pytest.approx(-0.0023)


def test_axes_are_reversed_and_time_comes_first(tmp_path: Path) -> None:
    voxels = numbers((2, 3, 5, 7), "int16")
    made = image(tmp_path / "a.nii", voxels, (2, 2, 2))
    made.header.set_zooms((2, 2, 2, 0.5))
    made.to_filename(tmp_path / "a.nii")
    array = open_ds(tmp_path / "a.nii")
    assert array.axis_names == ("t", "z", "y", "x")
    assert array.types == ("time", "space", "space", "space")
    assert array.voxel_size == (500, 2, 2, 2)
    assert array.units == ("ms", "mm", "mm", "mm")
    np.testing.assert_array_equal(array, np.asarray(nibabel.load(tmp_path / "a.nii").dataobj).T)


def test_vectors_are_channels(tmp_path: Path) -> None:
    voxels = numbers((3, 1, 4, 5, 7), "float32")
    image(tmp_path / "a.nii", voxels)
    array = open_ds(tmp_path / "a.nii")
    assert array.types == ("channel", "time", "space", "space", "space")
    np.testing.assert_array_equal(array, voxels)


@pytest.mark.parametrize("shape", [(7,), (5, 7)])
def test_images_of_fewer_axes_are_read(tmp_path: Path, shape: tuple[int, ...]) -> None:
    voxels = numbers(shape, "int16")
    image(tmp_path / "a.nii", voxels)
    array = open_ds(tmp_path / "a.nii")
    assert array.axis_names == ("z", "y", "x")[-len(shape) :]
    np.testing.assert_array_equal(array, voxels)


@pytest.mark.parametrize("suffix", ["nii", "nii.gz"])
def test_scaled_integers_are_what_they_stand_for(tmp_path: Path, suffix: str) -> None:
    voxels = numbers((3, 5, 7), "int16")
    made = nibabel.Nifti1Image(voxels.T, np.eye(4))
    made.header.set_slope_inter(0.5, -10)
    made.to_filename(tmp_path / f"a.{suffix}")
    array = open_ds(tmp_path / f"a.{suffix}")
    assert array.dtype == np.float32
    expected = nibabel.load(tmp_path / f"a.{suffix}").get_fdata().T
    np.testing.assert_allclose(array, expected, rtol=1e-6)
    np.testing.assert_allclose(array.data[1:2, 2:4, 3:7], expected[1:2, 2:4, 3:7], rtol=1e-6)


@pytest.mark.parametrize(
    ("affine", "begin"),
    [
        (np.diag([2.0, 2.0, 2.0, 1.0]), (0, 0, 0)),
        ([[2, 0, 0, 10], [0, 2, 0, 20], [0, 0, 2, 30], [0, 0, 0, 1]], (30, 20, 10)),
        ([[-2, 0, 0, 10], [0, 2, 0, 20], [0, 0, 2, 30], [0, 0, 0, 1]], (0, 0, 0)),
        ([[0, 2, 0, 10], [2, 0, 0, 20], [0, 0, 2, 30], [0, 0, 0, 1]], (0, 0, 0)),
        ([[1.9, 0.6, 0, 10], [-0.6, 1.9, 0, 20], [0, 0, 2, 30], [0, 0, 0, 1]], (0, 0, 0)),
    ],
)
def test_only_an_affine_that_does_not_turn_is_an_offset(tmp_path: Path, affine: Any, begin: tuple[int, ...]) -> None:
    image(tmp_path / "a.nii", numbers((3, 5, 7), "int16"), affine=np.array(affine, float))
    array = open_ds(tmp_path / "a.nii")
    assert array.roi.begin == begin
    np.testing.assert_allclose(array.attrs["affine"], affine, rtol=1e-6)


def test_without_units_lengths_are_millimetres(tmp_path: Path) -> None:
    image(tmp_path / "a.nii", numbers((3, 5, 7), "int16"), (2, 0.5, 0.5), units=(None, None))
    array = open_ds(tmp_path / "a.nii")
    assert array.voxel_size == (2_000, 500, 500)
    assert set(array.units) == {"um"}


def test_version_2_is_read(tmp_path: Path) -> None:
    voxels = numbers((3, 5, 7), "int16")
    nibabel.Nifti2Image(voxels.T, np.eye(4)).to_filename(tmp_path / "a.nii")
    np.testing.assert_array_equal(open_ds(tmp_path / "a.nii"), voxels)


def test_big_endian_is_read(tmp_path: Path) -> None:
    voxels = numbers((3, 5, 7), "int16")
    header = nibabel.Nifti1Header(endianness=">")
    header.set_data_dtype("int16")
    nibabel.Nifti1Image(voxels.T, np.eye(4), header).to_filename(tmp_path / "a.nii")
    assert (tmp_path / "a.nii").read_bytes()[:2] == b"\x00\x00"
    array = open_ds(tmp_path / "a.nii")
    assert array.to_ndarray().dtype.isnative
    np.testing.assert_array_equal(array, voxels)


def test_a_compressed_file_is_unpacked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    voxels = numbers((3, 5, 7), "int16")
    image(tmp_path / "a.nii.gz", voxels)
    array = open_ds(tmp_path / "a.nii.gz")
    array.to_ndarray()
    monkeypatch.setattr(nifti.gzip, "open", None)
    again = pickle.loads(pickle.dumps(array))
    np.testing.assert_array_equal(again.data[1:2, 0:5, 3:4], voxels[1:2, 0:5, 3:4])


def test_a_compressed_file_that_was_changed_is_unpacked_again(tmp_path: Path) -> None:
    image(tmp_path / "a.nii.gz", np.zeros((3, 5, 7), "int16"))
    assert open_ds(tmp_path / "a.nii.gz").to_ndarray().sum() == 0
    image(tmp_path / "a.nii.gz", np.ones((3, 5, 7), "int16"))
    os.utime(tmp_path / "a.nii.gz", ns=(1, 1))  # as clocks are coarser than tests
    assert open_ds(tmp_path / "a.nii.gz").to_ndarray().sum() == 105


@pytest.mark.parametrize("suffix", ["nii", "nii.gz"])
@pytest.mark.parametrize("kept", [0.001, 0.5, 0.97])
def test_a_file_that_was_cut_off_is_an_error_with_its_path(tmp_path: Path, suffix: str, kept: float) -> None:
    path = tmp_path / f"cut.{suffix}"
    image(path, np.random.default_rng(2).integers(0, 99, (20, 20, 20)).astype("int16"))
    os.truncate(path, int(path.stat().st_size * kept))
    with pytest.raises(ArrayError, match=r"cut\.nii"):
        open_ds(path).to_ndarray()


@pytest.mark.parametrize("suffix", ["nii", "nii.gz"])
def test_what_is_not_nifti_is_an_error_with_its_path(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"a.{suffix}").write_bytes(b"nothing of the kind")
    with pytest.raises(ArrayError, match=r"can't open .*a\.nii"):
        open_ds(tmp_path / f"a.{suffix}")


def test_colours_are_refused(tmp_path: Path) -> None:
    voxels = np.zeros((7, 5, 3), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    nibabel.Nifti1Image(voxels, np.eye(4)).to_filename(tmp_path / "a.nii")
    with pytest.raises(ArrayError, match="only numbers"):
        open_ds(tmp_path / "a.nii")


def test_a_url_is_refused() -> None:
    with pytest.raises(ArrayError, match="local files"):
        open_ds("https://example.org/a.nii.gz")
