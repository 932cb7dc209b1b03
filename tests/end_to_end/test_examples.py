"""The examples run as they are."""

from __future__ import annotations

import csv
import importlib
import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

import bellis
from bellis.arrays import Multiscale

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

nibabel = pytest.importorskip("nibabel")
ndimage = pytest.importorskip("scipy.ndimage")
tifffile = pytest.importorskip("tifffile")

EXAMPLES = Path(__file__).parents[2] / "examples"

pytestmark = [pytest.mark.end_to_end, pytest.mark.slow]


@pytest.fixture
def brain(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The module of the brain example."""
    monkeypatch.syspath_prepend(str(EXAMPLES / "brain"))
    yield importlib.import_module("pipeline")
    sys.modules.pop("pipeline", None)


def run_inline(tasks: bellis.Pipeline | bellis.Task, tmp_path: Path) -> bellis.RunReport:
    report = bellis.run(tasks, engine="inline", progress=False, log_dir=tmp_path / "logs")
    assert report.ok
    return report


@pytest.fixture
def voxels() -> np.ndarray:
    """A noisy ball, bright up to the borders; axes z, y, x."""
    z, y, x = np.ogrid[-1:1:30j, -1:1:41j, -1:1:37j]
    noise = np.random.default_rng(7).integers(0, 60, (30, 41, 37))
    return (150 * (z**2 + y**2 + x**2 < 1) + noise).astype(np.uint8)


def write_nifti(path: Path, voxels: np.ndarray, zooms_zyx: tuple[float, ...]) -> Path:
    affine = np.diag([*reversed(zooms_zyx), 1.0])
    nibabel.save(nibabel.Nifti1Image(voxels.T, affine), path)
    return path


def run_script(*arguments: object, cwd: Path) -> str:
    command = [sys.executable, *map(str, arguments)]
    answer = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return answer.stdout


def test_the_quickstart_runs(tmp_path: Path) -> None:
    answer = run_script(EXAMPLES / "quickstart.py", cwd=tmp_path)
    assert "the first sums are [ 1240  9176 25304 49624]" in answer


@pytest.mark.parametrize(
    ("block", "sigma_mm", "zooms"),
    [(16, 1.0, (1, 1, 1)), (10, 2.3, (2, 1, 0.5)), (64, 1.0, (1, 1, 1)), (7, 3, (1, 1, 1))],
)
def test_block_by_block_is_as_the_whole_volume_at_once(
    brain: ModuleType,
    voxels: np.ndarray,
    tmp_path: Path,
    block: int,
    sigma_mm: float,
    zooms: tuple[float, ...],
) -> None:
    scan = write_nifti(tmp_path / "scan.nii.gz", voxels, zooms)

    tasks = brain.pipeline(scan, tmp_path, block=block, sigma_mm=sigma_mm, threshold=100)
    report = run_inline(tasks, tmp_path)

    store = tmp_path / "brain.zarr"
    sigma_px = [sigma_mm / zoom for zoom in zooms]
    whole = ndimage.gaussian_filter(voxels, sigma_px, output=np.float32)
    np.testing.assert_array_equal(bellis.open_ds(store, "raw"), voxels)
    np.testing.assert_allclose(bellis.open_ds(store, "smoothed"), whole, rtol=1e-6)
    np.testing.assert_array_equal(bellis.open_ds(store, "mask"), whole > 100)
    tissue = voxels[whole > 100]
    rows = report.results("measure").values()
    tissue_ml = sum(row["tissue_ml"] for row in rows)
    assert tissue_ml == pytest.approx(tissue.size * np.prod(zooms) / 1000)
    mean = sum(row["mean"] * row["tissue_ml"] for row in rows) / tissue_ml
    assert mean == pytest.approx(tissue.mean())


def test_nifti_tiff_and_zarr_are_the_same(brain: ModuleType, voxels: np.ndarray, tmp_path: Path) -> None:
    sources = [write_nifti(tmp_path / "scan.nii", voxels, (1, 1, 1)), tmp_path / "scan.tif", tmp_path / "scan.zarr"]
    tifffile.imwrite(sources[1], voxels)
    stored = bellis.prepare_ds(sources[2], voxels.shape, (1, 1, 1), "uint8")
    stored[stored.roi] = voxels

    for source in sources:
        output = tmp_path / source.suffix
        run_inline(brain.pipeline(source, output), tmp_path)

        raw = bellis.open_ds(output / "brain.zarr", "raw")
        np.testing.assert_array_equal(raw, voxels)
        assert raw.scale("mm") == (1, 1, 1)


def test_the_results_are_image_pyramids(brain: ModuleType, voxels: np.ndarray, tmp_path: Path) -> None:
    scan = write_nifti(tmp_path / "scan.nii", voxels, (1, 1, 1))
    run_inline(brain.pipeline(scan, tmp_path, block=16, threshold=100), tmp_path)

    images = {name: Multiscale.open(tmp_path / "brain.zarr", name) for name in ("raw", "smoothed", "mask")}
    for image in images.values():
        assert [level.shape for level in image] == [(30, 41, 37), (15, 21, 19), (8, 11, 10)]
        assert [level.scale("mm") for level in image] == [(edge,) * 3 for edge in (1, 2, 4)]
    eighths = voxels[:, :40, :36].astype(float).reshape(15, 2, 20, 2, 18, 2).mean(axis=(1, 3, 5))
    np.testing.assert_array_equal(images["raw"][1].to_ndarray()[:, :20, :18], np.rint(eighths))
    assert set(np.unique(images["mask"][2])) == {0, 1}  # by mode, not by mean


def test_another_scan_starts_afresh(brain: ModuleType, voxels: np.ndarray, tmp_path: Path) -> None:
    def counts(source: Path, **options: object) -> set[tuple[int, int]]:
        tasks = brain.pipeline(source, tmp_path, **options)
        report = bellis.run(
            tasks, engine="inline", progress=False, log_dir=tmp_path / "logs", journal=tmp_path / "run",
            on_changed="reset",
        )  # fmt: skip
        assert report.ok
        return {(task.counts.total, task.counts.skipped) for task in report.tasks.values()}

    scan = write_nifti(tmp_path / "scan.nii.gz", voxels, (1, 1, 1))
    assert counts(scan) == {(1, 0)}
    assert counts(scan) == {(1, 1)}
    write_nifti(scan, voxels + 1, (1, 1, 1))  # of the same shape, at the same place
    assert counts(scan) == {(1, 0)}
    np.testing.assert_array_equal(bellis.open_ds(tmp_path / "brain.zarr", "raw"), voxels + 1)
    smaller = write_nifti(tmp_path / "smaller.nii.gz", voxels[:20], (1, 1, 1))
    assert counts(smaller) == {(1, 0)}
    assert bellis.open_ds(tmp_path / "brain.zarr", "mask").shape == (20, 41, 37)
    assert counts(smaller, threshold=50.0) == {(1, 0), (1, 1)}  # the mask and what is made of it


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("none.nii.gz", None, "there is no array .*none.nii.gz"),
        ("flat.tif", (40, 40), "has the axes y, x and the shape"),
        ("colours.tif", (40, 40, 3), "has the axes y, x, c and the shape"),
        ("scan.jpg", None, "scan.jpg is not an array of format"),
    ],
)
@pytest.mark.parametrize("example", ["brain", "em"])
def test_an_input_that_is_no_volume_is_refused_in_one_line(
    example: str, name: str, shape: tuple[int, ...] | None, message: str, tmp_path: Path
) -> None:
    (tmp_path / "scan.jpg").write_text("no volume")
    if shape is not None:
        tifffile.imwrite(tmp_path / name, np.zeros(shape, np.uint8))

    command = [sys.executable, EXAMPLES / example / "demo.py", "--input", name]
    answer = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert answer.returncode == 2
    assert answer.stdout == ""
    assert re.fullmatch(f"demo.py: .*{message}.*\n", answer.stderr), answer.stderr
    assert {path.name for path in tmp_path.iterdir()} <= {"scan.jpg", name}


def test_a_filter_that_is_wider_than_the_volume_is_refused(
    brain: ModuleType, voxels: np.ndarray, tmp_path: Path
) -> None:
    scan = write_nifti(tmp_path / "scan.nii", voxels, (1, 1, 1))
    with pytest.raises(bellis.ArrayError, match="a Gaussian of 35 mm is wider than the volume"):
        brain.pipeline(scan, tmp_path, sigma_mm=35)
    assert not (tmp_path / "brain.zarr").exists()


def test_results_are_not_taken_for_the_input(brain: ModuleType, voxels: np.ndarray, tmp_path: Path) -> None:
    scan = write_nifti(tmp_path / "scan.nii", voxels, (1, 1, 1))
    run_inline(brain.pipeline(scan, tmp_path), tmp_path)
    with pytest.raises(bellis.TaskError, match="would be written while it is read"):
        brain.pipeline(tmp_path / "brain.zarr" / "raw", tmp_path)
    np.testing.assert_array_equal(bellis.open_ds(tmp_path / "brain.zarr", "raw"), voxels)


def test_the_demo_does_its_work_once(voxels: np.ndarray, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    scan = write_nifti(tmp_path / "scan.nii.gz", voxels, (1, 1, 1))
    output = tmp_path / "demo"
    command = (EXAMPLES / "brain/demo.py", "--input", scan, "--output", output, "--block", 16)

    first = run_script(*command, cwd=tmp_path)
    written = {path: path.stat().st_mtime_ns for path in output.rglob("*/c/*") if path.is_file()}
    picture = (output / "brain.png").read_bytes()
    second = run_script(*command, cwd=tmp_path)

    assert "tissue (ml)" in first
    assert first.split("z (mm)")[1] == second.split("z (mm)")[1]
    assert picture.startswith(b"\x89PNG")
    assert (output / "brain.png").read_bytes() == picture
    assert written == {path: path.stat().st_mtime_ns for path in written}
    with (output / "blocks.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 3 * 3
    assert sum(float(row["volume_ml"]) for row in rows) == pytest.approx(voxels.size / 1000)


def test_without_nilearn_the_error_says_how_to_get_it(
    brain: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(bellis.ArrayError, match="pip install --no-deps nilearn"):
        brain.pipeline(None, tmp_path)


@pytest.mark.skipif(importlib.util.find_spec("nilearn") is None, reason="needs nilearn's data")
def test_the_template_is_found_without_importing_nilearn(brain: ModuleType, tmp_path: Path) -> None:
    run_inline(brain.pipeline(None, tmp_path).tasks[0], tmp_path)
    raw = bellis.open_ds(tmp_path / "brain.zarr", "raw")
    assert raw.shape == (189, 233, 197)
    assert raw.scale("mm") == (1, 1, 1)
    assert raw.roi.begin == (-72, -134, -98)  # as its affine says
    assert raw.to_ndarray().max() == 255
    assert "nilearn" not in sys.modules
