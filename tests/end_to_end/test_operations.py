"""`bellis map`, `copy`, `downscale`, `label` and `info`."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
from click.testing import CliRunner
from scipy import ndimage

from bellis import Multiscale, open_ds, prepare_ds
from bellis.cli import main

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy.typing as npt
    from click.testing import Result

pytestmark = pytest.mark.end_to_end

FUNCTIONS = """
def double(voxels, times=2):
    return voxels * times

def larger(first, second):
    return (first > second).astype("uint8")

def wrong(voxels):
    return voxels[1:]

number = 3
"""


def bellis(*words: str, code: int = 0) -> Result:
    result = CliRunner().invoke(main, words, catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result


@pytest.fixture
def voxels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[npt.NDArray[np.uint8]]:
    """Voxels of ``raw.zarr`` in a new working directory, beside the functions in ``work.py``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "work.py").write_text(FUNCTIONS)
    made = np.random.default_rng(0).integers(0, 100, (20, 30, 40), dtype=np.uint8)
    array = prepare_ds("raw.zarr/em", made.shape, (50, 4, 4), "uint8", chunk_shape=(10, 10, 10))
    array[array.roi] = made
    yield made
    sys.modules.pop("work", None)


def test_map_calls_a_function_of_a_library_with_context(voxels: npt.NDArray[np.uint8]) -> None:
    words = ("--block", "10,20,20", "--context", "4,8,8", "--set", "sigma=1", "--set", "truncate=4.0")
    bellis("map", "scipy.ndimage:gaussian_filter", "raw.zarr/em", "smooth.zarr", *words, "--workers", "2")
    smooth = open_ds("smooth.zarr")
    assert (smooth.to_ndarray() == ndimage.gaussian_filter(voxels, 1)).all()
    assert tuple(smooth.voxel_size) == (50, 4, 4)


def test_map_takes_several_inputs_and_a_function_of_a_file(voxels: npt.NDArray[np.uint8]) -> None:
    run = ("--engine", "inline", "--no-journal", "--block", "10")
    bellis("map", "work.py:double", "raw.zarr/em", "double.zarr", "--set", "times=1", *run)
    bellis("map", "work.py:larger", "raw.zarr/em", "double.zarr", "larger.zarr", *run)
    assert (open_ds("double.zarr").to_ndarray() == voxels).all()
    assert not open_ds("larger.zarr").to_ndarray().any()


def test_a_second_map_does_nothing_and_other_options_are_refused(voxels: npt.NDArray[np.uint8], tmp_path: Path) -> None:
    words = ("map", "work.py:double", "raw.zarr/em", "out.zarr", "--block", "10", "--engine", "inline")
    bellis(*words)
    assert "24 skipped" in bellis(*words).output
    assert "made with other options" in bellis(*words, "--set", "times=3", code=2).output
    bellis(*words, "--set", "times=0", "--reset")
    assert not open_ds("out.zarr").to_ndarray().any()
    assert (tmp_path / ".bellis" / "map-out.zarr").is_dir()


def test_a_failed_map_is_retried_by_its_journal(voxels: npt.NDArray[np.uint8], tmp_path: Path) -> None:
    words = ("map", "work.py:wrong", "raw.zarr/em", "out.zarr", "--block", "10", "--engine", "inline")
    assert "it must be (10, 10, 10)" in bellis(*words, code=1).output
    (tmp_path / "work.py").write_text(FUNCTIONS.replace("voxels[1:]", "voxels"))
    sys.modules.pop("work")
    bellis("retry", ".bellis/map-out.zarr")
    assert (open_ds("out.zarr").to_ndarray() == voxels).all()


def test_copy_writes_another_format(voxels: npt.NDArray[np.uint8]) -> None:
    bellis("copy", "raw.zarr/em", "copy.h5/em", "--chunks", "5,10,10", "--engine", "inline")
    copied = open_ds("copy.h5", "em")
    assert (copied.to_ndarray() == voxels).all()
    assert copied.chunk_shape == (5, 10, 10)
    assert tuple(copied.voxel_size) == (50, 4, 4)


def test_downscale_adds_levels(voxels: npt.NDArray[np.uint8]) -> None:
    bellis("copy", "raw.zarr/em", "image.zarr", "--engine", "inline")
    bellis("downscale", "image.zarr", "--factors", "1,2,2", "--factors", "2,2,2", "--method", "stride", "-q")
    image = Multiscale.open("image.zarr")
    assert "0 tasks" in bellis("downscale", "image.zarr", "--no-journal").output  # all axes are short
    assert [tuple(level.shape) for level in image.levels] == [(20, 30, 40), (20, 15, 20), (10, 8, 10)]
    assert (image[2].to_ndarray() == voxels[::2, ::4, ::4]).all()


def test_label_numbers_the_components(voxels: npt.NDArray[np.uint8]) -> None:
    mask = prepare_ds("mask.zarr/m", voxels.shape, dtype="uint8", chunk_shape=(10, 10, 10))
    mask[mask.roi] = (voxels < 30).astype(np.uint8)
    bellis("label", "mask.zarr/m", "labels.zarr", "--connectivity", "2", "--block", "10", "--workers", "2")
    labels = open_ds("labels.zarr").to_ndarray()
    expected, number = ndimage.label(voxels < 30, ndimage.generate_binary_structure(3, 2))
    assert labels.max() == number
    assert len(np.unique(np.stack([labels.ravel(), expected.ravel()]), axis=1).T) == number + 1


def test_info_describes_an_array_an_image_and_a_group(voxels: npt.NDArray[np.uint8]) -> None:
    shown = bellis("info", "raw.zarr/em").output
    assert "zarr 3" in shown
    assert "20 x 30 x 40, uint8, 24 kB" in shown
    assert "voxel size   50 x 4 x 4 nm" in shown
    found = json.loads(bellis("info", "raw.zarr/em", "--json").output)
    assert found["chunks"] == [10, 10, 10]
    prepare_ds("raw.zarr/other", (5, 5), dtype="int16")
    assert "is a group of 2 arrays" in bellis("info", "raw.zarr").output
    Multiscale.prepare("image.zarr", (8, 8, 8), (4, 4, 4), "uint8").add_level((2, 2, 2))
    assert "s1: 4 x 4 x 4 uint8, voxels of 8 x 8 x 8 nm" in bellis("info", "image.zarr").output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("map", "work.py:doubel", "raw.zarr/em", "o.zarr"), "did you mean 'double'?"),
        (("map", "work.py:number", "raw.zarr/em", "o.zarr"), "is 3, not a function"),
        (("map", "work.py:double", "nothing.zarr", "o.zarr"), "there is no array"),
        (("map", "work.py:double", "raw.zarr/em"), "Missing argument"),
        (("map", "work.py:double", "raw.zarr/em", "o.zarr", "--block", "ten"), "--block 'ten' is not voxels per axis"),
        (("map", "work.py:double", "raw.zarr/em", "o.zarr", "--set", "times"), "is not NAME=VALUE"),
        (("map", "work.py:double", "raw.zarr/em", "o.zarr", "--set", "tims=2"), "tims"),
        (("map", "work.py:larger", "raw.zarr/em", "o.zarr"), "called with 1 array"),
        (("map", "work.py:double", "raw.zarr/em", "o.zarr", "--max-memory", "lots"), "like 500MB or 2GB"),
        (("map", "work.py:double", "raw.zarr/em", "o.zarr", "--max-memory", "1MB"), "memory"),
        (("downscale", "raw.zarr/em", "--levels", "1", "--factors", "2"), "exclude each other"),
        (("info", "nothing.zarr"), "there is no array"),
    ],
)
def test_bad_input_is_a_message(voxels: npt.NDArray[np.uint8], words: tuple[str, ...], message: str) -> None:
    result = bellis(*words, code=2)
    assert message in result.output
    assert "Traceback" not in result.output
