"""Electron micrographs, from TIFF to a table of objects: what blocks give is what the whole stack would give."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import json
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import bellis
from bellis.arrays import Multiscale
from bellis.testing import specimen

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

    import numpy.typing as npt

ndimage = pytest.importorskip("scipy.ndimage")
parquet = pytest.importorskip("pyarrow.parquet")
tifffile = pytest.importorskip("tifffile")
pytest.importorskip("cc3d")

EXAMPLE = Path(__file__).parents[2] / "examples" / "organelles"
DATA = Path(__file__).parents[3] / "shared" / "data"
write_small = functools.partial(specimen.write_stack, shape=(10, 160, 200), num_cells=8, num_blobs=12)
BLOCK = (7, 200, 300)  # divides none of the axes
VOXEL_PM = (50_000, 4_600, 4_600)

pytestmark = [pytest.mark.end_to_end, pytest.mark.slow]
needs_data = pytest.mark.skipif(not (DATA / "vnc_stack1_raw.tif").exists(), reason="needs the real stack")


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The module of the example, of which the real stack is out of sight, and the simulated one is small."""
    monkeypatch.syspath_prepend(str(EXAMPLE))
    module = importlib.import_module("pipeline")
    monkeypatch.setattr(module, "DATA", EXAMPLE / "no data")
    monkeypatch.setattr(specimen, "write_stack", write_small)
    yield module
    sys.modules.pop("pipeline", None)


@pytest.fixture
def stack(tmp_path: Path) -> Path:
    """A small simulated stack."""
    path = tmp_path / "stack.tif"
    write_small(path)
    return path


def smoothed(voxels: npt.NDArray[Any], sigma_nm: float = 20) -> npt.NDArray[np.float32]:
    sigma_px = [sigma_nm / edge for edge in (50, 4.6, 4.6)]
    return ndimage.gaussian_filter(voxels, sigma_px, output=np.float32, truncate=4.0)


def are_same_up_to_names(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> bool:
    """Whether each label of one array is just one label of the other, and background is background."""
    for first, second in ((one, other), (other, one)):
        names = np.zeros(int(first.max()) + 1, second.dtype)
        names[first] = second
        if names[0] != 0 or not np.array_equal(names[first], second):
            return False
    return True


def check_results(output: Path, raw: npt.NDArray[Any], mask: npt.NDArray[Any], min_size: int) -> None:
    """Compare all that the pipeline wrote with what SciPy makes of the whole stack."""
    names = ("raw", "smoothed", "labels", "objects")
    images = {name: bellis.open_ds(output / "organelles.zarr", name) for name in names}
    assert {image.voxel_size for image in images.values()} == {VOXEL_PM}
    assert {image.units for image in images.values()} == {("pm",) * 3}
    read = {name: image.to_ndarray() for name, image in images.items()}
    np.testing.assert_array_equal(read["raw"], raw)
    np.testing.assert_allclose(read["smoothed"], smoothed(raw), rtol=1e-5)

    expected, count = ndimage.label(mask)
    assert are_same_up_to_names(read["labels"], expected)
    assert read["labels"].max() == count
    flat = read["labels"].ravel().astype(np.int64)
    sizes = np.bincount(flat)
    kept = 1 + np.flatnonzero(sizes[1:] >= min_size)
    names = np.zeros(count + 1, np.uint64)
    names[kept] = kept
    np.testing.assert_array_equal(read["objects"], names[read["labels"]])

    table = parquet.read_table(output / "objects.parquet").to_pydict()
    assert table["label"] == kept.tolist()
    assert table["size"] == sizes[kept].tolist()
    for axis, name in enumerate("zyx"):
        places = np.broadcast_to(np.expand_dims(np.arange(raw.shape[axis]) + 0.5, tuple({0, 1, 2} - {axis})), raw.shape)
        centres = np.bincount(flat, places.ravel())[kept] / sizes[kept] * VOXEL_PM[axis]
        np.testing.assert_allclose(table[f"centroid_{name}"], centres)
    np.testing.assert_allclose(table["intensity_mean"], np.bincount(flat, raw.ravel())[kept] / sizes[kept])


def check_pyramids(output: Path) -> None:
    """Have OME-Zarr's validator and its reader look at the images, and look at the levels."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        zarr = pytest.importorskip("zarr")
        models = pytest.importorskip("ome_zarr_models.v05.image")
        io, reader = pytest.importorskip("ome_zarr.io"), pytest.importorskip("ome_zarr.reader")
        for name in ("raw", "objects"):
            group = output / "organelles.zarr" / name
            levels = Multiscale.open(group)
            assert [level.voxel_size for level in levels] == [(50_000, 4600 * k, 4600 * k) for k in (1, 2, 4, 8)]
            (image,) = models.Image.from_zarr(zarr.open_group(group, mode="r")).ome_attributes.multiscales
            assert [dataset.path for dataset in image.datasets] == ["s0", "s1", "s2", "s3"]
            assert {axis.unit for axis in image.axes} == {"picometer"}
            (node,) = reader.Reader(io.parse_url(str(group)))()
            assert [level.shape for level in node.data] == [level.shape for level in levels]
            np.testing.assert_array_equal(node.data[3].compute(scheduler="sync"), levels[3])
    known = parquet.read_table(output / "objects.parquet")["label"].to_pylist()
    coarsest = Multiscale.open(output / "organelles.zarr", "objects")[-1]
    assert set(np.unique(coarsest).tolist()) <= {0, *known}  # by mode: no label that is none


def run_inline(tasks: bellis.Pipeline, tmp_path: Path) -> bellis.RunReport:
    report = bellis.run(tasks, engine="inline", progress=False, log_dir=tmp_path / "logs")
    assert report.ok
    return report


def run_command(*arguments: object, cwd: Path) -> str:
    answer = subprocess.run(list(map(str, arguments)), cwd=cwd, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return answer.stdout


# A simulated stack ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [(4, 50, 60), (3, 160, 77), (10, 160, 200)])
def test_block_by_block_is_as_the_whole_stack_at_once(
    example: ModuleType, stack: Path, tmp_path: Path, block: tuple[int, int, int]
) -> None:
    run_inline(example.pipeline(str(stack), output=tmp_path, block=block, min_size=200), tmp_path)

    raw = tifffile.imread(stack)
    check_results(tmp_path, raw, smoothed(raw) < 100, min_size=200)
    check_pyramids(tmp_path)


def test_a_mask_is_labelled_in_place_of_what_is_dark(example: ModuleType, stack: Path, tmp_path: Path) -> None:
    raw = tifffile.imread(stack)
    mask = ndimage.gaussian_filter(np.random.default_rng(1).random(raw.shape), 4) > 0.503
    tifffile.imwrite(tmp_path / "mask.tif", mask.astype(np.uint8) * 7)
    pipeline = example.pipeline(str(stack), str(tmp_path / "mask.tif"), tmp_path, block=(4, 50, 60), min_size=200)
    report = run_inline(pipeline, tmp_path)

    check_results(tmp_path, raw, mask, min_size=200)
    assert report.value("label") == ndimage.label(mask)[1] > 1


def test_a_mask_of_another_stack_is_refused(example: ModuleType, stack: Path, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "mask.tif", np.zeros((10, 160, 199), np.uint8))
    with pytest.raises(bellis.ArrayError, match="the mask is not of the stack"):
        example.pipeline(str(stack), str(tmp_path / "mask.tif"), tmp_path)


def test_without_data_a_stack_is_simulated_once(example: ModuleType, tmp_path: Path) -> None:
    run_inline(example.pipeline(output=tmp_path / "a", levels=1), tmp_path)
    made = (tmp_path / "a" / "simulated.tif").stat().st_mtime_ns
    example.pipeline(output=tmp_path / "a", levels=1)
    example.pipeline(output=tmp_path / "b", levels=1)

    assert (tmp_path / "a" / "simulated.tif").stat().st_mtime_ns == made
    first, second = (tifffile.imread(tmp_path / name / "simulated.tif") for name in "ab")
    np.testing.assert_array_equal(first, second)
    assert bellis.open_ds(tmp_path / "a" / "simulated.tif").voxel_size == VOXEL_PM  # as its own metadata says
    assert len(parquet.read_table(tmp_path / "a" / "objects.parquet")) > 3


def test_the_demo_does_its_work_once(stack: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    command = (sys.executable, EXAMPLE / "demo.py", "--input", stack, "--output", "demo")
    first = run_command(*command, cwd=tmp_path)
    picture = (tmp_path / "demo" / "organelles.png").read_bytes()
    second = run_command(*command, cwd=tmp_path)

    assert first == second
    assert picture.startswith(b"\x89PNG")
    assert (tmp_path / "demo" / "organelles.png").read_bytes() == picture
    largest = [int(line.split()[1]) for line in first.splitlines() if re.match(r" +\d+ +\d+ +0\.\d{4} ", line)]
    assert largest == sorted(largest, reverse=True)
    assert largest[0] == max(parquet.read_table(tmp_path / "demo" / "objects.parquet")["size"].to_pylist())


def test_bellis_run_goes_on_where_it_was(stack: Path, tmp_path: Path) -> None:
    options = ("--input", stack, "--block", 4, 50, 60, "--output", "out")
    command = (sys.executable, "-m", "bellis", "run", f"{EXAMPLE}/pipeline.py:pipeline", *options)
    run_command(*command, cwd=tmp_path)
    table = tmp_path / "out" / "objects.parquet"
    written_ns = table.stat().st_mtime_ns
    run_command(*command, cwd=tmp_path)

    assert table.stat().st_mtime_ns == written_ns
    metadata = parquet.read_schema(table).metadata
    assert json.loads(metadata[b"bellis"])["voxel_size"] == list(VOXEL_PM)


# The real one --------------------------------------------------------------------------------------------------------


def quarter(name: str, folder: Path) -> Path:
    """Write a quarter of each section of the real stack, or of what was drawn in it; return the path."""
    path = folder / f"{name}.tif"
    tifffile.imwrite(path, np.ascontiguousarray(tifffile.imread(DATA / f"vnc_stack1_{name}.tif")[:, :512, :512]))
    return path


@needs_data
@pytest.mark.integration
def test_mitochondria_of_the_real_stack_are_labelled_as_scipy_labels_them(example: ModuleType, tmp_path: Path) -> None:
    raw, truth = quarter("raw", tmp_path), quarter("mitochondria", tmp_path)
    pipeline = example.pipeline(str(raw), str(truth), tmp_path, block=BLOCK, min_size=1000)
    report = bellis.run(pipeline, workers=2, progress=False, journal=tmp_path / "run")

    assert report.ok
    assert report.tasks["copy"].counts.total == 3 * 3 * 2
    assert report.value("label") == 16
    check_results(tmp_path, tifffile.imread(raw), tifffile.imread(truth) > 0, min_size=1000)
    check_pyramids(tmp_path)


@needs_data
@pytest.mark.integration
def test_what_is_dark_in_the_real_stack_is_labelled_as_scipy_labels_it(example: ModuleType, tmp_path: Path) -> None:
    raw = quarter("raw", tmp_path)  # without a mask: hundreds of components, one of them all over the stack
    pipeline = example.pipeline(str(raw), None, tmp_path, block=BLOCK, min_size=50)
    assert bellis.run(pipeline, workers=2, progress=False, journal=tmp_path / "run").ok

    voxels = tifffile.imread(raw)
    check_results(tmp_path, voxels, smoothed(voxels) < 100, min_size=50)
