"""The examples run as they are."""

from __future__ import annotations

import csv
import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

import bellis

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

    report = bellis.run(
        brain.pipeline(scan, tmp_path, block=block, sigma_mm=sigma_mm, threshold=100),
        engine="inline", progress=False, log_dir=tmp_path / "logs",
    )  # fmt: skip

    assert report.ok
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
    scan = write_nifti(tmp_path / "scan.nii", voxels, (1, 1, 1))
    stack = tmp_path / "scan.tif"
    tifffile.imwrite(stack, voxels)
    for source in (scan, stack):
        brain.pipeline(source, tmp_path / source.suffix)
        raw = bellis.open_ds(tmp_path / source.suffix / "brain.zarr" / "raw")
        np.testing.assert_array_equal(raw, voxels)
        assert raw.voxel_size == (1_000_000,) * 3
    tasks = brain.pipeline(tmp_path / ".nii" / "brain.zarr" / "raw", tmp_path / "zarr").tasks
    assert [task.task_id for task in tasks] == ["smooth", "mask", "measure"]
    assert not (tmp_path / "zarr" / "brain.zarr" / "raw").exists()


def test_a_volume_is_converted_once(
    brain: ModuleType, voxels: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = write_nifti(tmp_path / "scan.nii.gz", voxels, (1, 1, 1))
    brain.pipeline(scan, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(brain, "load_volume", None)
        brain.pipeline(scan, tmp_path)
    write_nifti(scan, voxels + 1, (1, 1, 1))
    brain.pipeline(scan, tmp_path)
    np.testing.assert_array_equal(bellis.open_ds(tmp_path / "brain.zarr/raw"), voxels + 1)


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
    with pytest.raises(FileNotFoundError, match="pip install --no-deps nilearn"):
        brain.pipeline(None, tmp_path)


@pytest.mark.skipif(importlib.util.find_spec("nilearn") is None, reason="needs nilearn's data")
def test_the_template_is_found_without_importing_nilearn(brain: ModuleType, tmp_path: Path) -> None:
    brain.pipeline(None, tmp_path)
    raw = bellis.open_ds(tmp_path / "brain.zarr/raw")
    assert raw.shape == (189, 233, 197)
    assert raw.to_ndarray().max() == 255
    assert "nilearn" not in sys.modules
