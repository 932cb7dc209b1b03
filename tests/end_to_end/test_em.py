"""The segmentation of micrographs: near the truth, done once, and the same however often it is cut off."""

from __future__ import annotations

import functools
import importlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import bellis
from bellis.arrays import Multiscale
from bellis.graphs import open_graph
from bellis.runtime.lock import Lock
from bellis.testing import specimen
from graphs.servers import postgres

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

ndimage = pytest.importorskip("scipy.ndimage")
parquet = pytest.importorskip("pyarrow.parquet")
tifffile = pytest.importorskip("tifffile")
metrics = pytest.importorskip("skimage.metrics")
pytest.importorskip("sqlalchemy")

EXAMPLE = Path(__file__).parents[2] / "examples" / "em"
DATA = Path(__file__).parents[3] / "shared" / "data"
SMALL: dict[str, Any] = {"shape": (8, 160, 200), "num_cells": 8, "num_blobs": 4}
BLOCK = (4, 80, 100)
VOXEL_PM = (50_000, 4_600, 4_600)
IMAGES = ("raw", "boundaries", "fragments", "segments")

pytestmark = [pytest.mark.end_to_end, pytest.mark.slow]
needs_data = pytest.mark.skipif(not (DATA / "vnc_stack1_raw.tif").exists(), reason="needs the real stack")


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The module of the example, of which the real stack is out of sight, and the simulated one is small."""
    monkeypatch.syspath_prepend(str(EXAMPLE))
    module = importlib.import_module("pipeline")
    monkeypatch.setattr(module, "DATA", EXAMPLE / "no data")
    write_stack = functools.partial(specimen.write_stack, **SMALL)
    monkeypatch.setattr(specimen, "write_stack", write_stack)
    yield module
    sys.modules.pop("pipeline", None)


@pytest.fixture
def stack(tmp_path: Path) -> Path:
    """A small simulated stack."""
    path = tmp_path / "stack.tif"
    specimen.write_stack(path, **SMALL)
    return path


def run(tasks: bellis.Pipeline, tmp_path: Path, *, workers: int | None = None) -> bellis.RunReport:
    engine: dict[str, Any] = {"engine": "inline"} if workers is None else {"workers": workers}
    journal = tmp_path / "run"
    report = bellis.run(tasks, **engine, progress=False, journal=journal, on_changed="reset", log_dir=tmp_path / "logs")
    assert report.ok, report.failures[0].error
    return report


def outcome(output: Path, graph: str | None = None) -> list[object]:
    """All that is left by a run."""
    arrays = [bellis.open_ds(output / "em.zarr", name).to_ndarray().tobytes() for name in IMAGES]
    tables = [parquet.read_table(output / f"{name}.parquet").to_pydict() for name in ("fragments", "segments")]
    with open_graph(graph or output / "fragments.sqlite", "r") as store:
        rows = [column.tolist() for part in store.read_columns() for column in dict(part).values()]
    return [arrays, tables, rows]


def demo(*words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, EXAMPLE / "demo.py", *map(str, words)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=100)


def distance(labels: np.ndarray, truth: np.ndarray) -> float:
    return float(sum(metrics.variation_of_information(labels.astype(np.int64), truth.astype(np.int64))))


# A simulated stack ---------------------------------------------------------------------------------------------------


def test_cells_are_found_and_blocks_are_as_the_whole_stack_in_one(
    example: ModuleType, stack: Path, tmp_path: Path
) -> None:
    report = run(example.pipeline(str(stack), output=tmp_path, block=BLOCK, levels=2, compare=True), tmp_path)

    images = {name: Multiscale.open(tmp_path / "em.zarr", name) for name in (*IMAGES, "whole")}
    assert {image[0].voxel_size for image in images.values()} == {VOXEL_PM}
    assert [level.voxel_size for level in images["segments"]] == [(50_000, 4600 * k, 4600 * k) for k in (1, 2, 4)]
    read = {name: image[0].to_ndarray() for name, image in images.items()}
    np.testing.assert_array_equal(read["raw"], tifffile.imread(stack))
    sigma_px = [example.SIGMA_NM / 4.6] * 2
    whole = example.dark_lines(read["raw"], sigma_px=sigma_px, contrast=example.CONTRAST)
    assert np.abs(read["boundaries"].astype(int) - whole).max() <= 1
    assert distance(read["segments"], read["whole"]) < 0.05
    cells = specimen.specimen(**SMALL).cells
    assert distance(read["segments"], cells) < 1.5 < distance(np.ones_like(cells), cells) - 1  # membranes are simple

    counts = report.value("segment")
    assert counts["fragments"] == report.value("segment/region_graph")["nodes"] == len(np.unique(read["fragments"]))
    assert counts["segments"] == read["segments"].max()
    table = parquet.read_table(tmp_path / "segments.parquet").to_pydict()
    assert table["size"] == np.bincount(read["segments"].ravel().astype(int))[1:].tolist()


def test_a_boundary_map_of_the_users_own_is_taken(example: ModuleType, stack: Path, tmp_path: Path) -> None:
    cells = specimen.specimen(**SMALL).cells
    walls = ndimage.maximum_filter(cells, 3) != ndimage.minimum_filter(cells, 3)
    tifffile.imwrite(tmp_path / "walls.tif", walls.astype(np.uint8) * 255)
    run(example.pipeline(str(stack), str(tmp_path / "walls.tif"), output=tmp_path, block=BLOCK), tmp_path)

    np.testing.assert_array_equal(bellis.open_ds(tmp_path / "em.zarr", "boundaries"), walls * np.uint8(255))
    found = bellis.open_ds(tmp_path / "em.zarr", "segments").to_ndarray()
    assert distance(found[~walls], cells[~walls]) < 0.5


@pytest.mark.integration
def test_workers_and_the_place_of_the_graph_change_nothing(example: ModuleType, stack: Path, tmp_path: Path) -> None:
    pytest.importorskip("psycopg")
    found = []
    with postgres() as url:
        for workers, graph in ((None, None), (3, None), (2, url)):
            output = tmp_path / f"{workers}{graph is None}"
            run(example.pipeline(str(stack), graph=graph, output=output, block=BLOCK), output, workers=workers)
            found.append(outcome(output, graph))
            assert (output / "fragments.sqlite").exists() == (graph is None)
    assert found[0] == found[1] == found[2]


def test_another_stack_in_the_same_folder_starts_afresh(example: ModuleType, stack: Path, tmp_path: Path) -> None:
    run(example.pipeline(str(stack), output=tmp_path, block=BLOCK), tmp_path)
    smaller = tmp_path / "smaller.tif"
    tifffile.imwrite(smaller, tifffile.imread(stack)[:6, :100, :128])
    for output in (tmp_path, tmp_path / "new"):
        run(example.pipeline(str(smaller), output=output, block=BLOCK), output)
    assert outcome(tmp_path) == outcome(tmp_path / "new")

    report = run(example.pipeline(str(smaller), output=tmp_path, block=BLOCK, threshold=0.2), tmp_path)
    assert report.tasks["segment/watershed/blocks"].counts.skipped > 0  # fragments are the same
    assert report.tasks["segment/agglomerate"].counts.skipped == 0
    assert report.tasks["segment/relabel"].counts.skipped == 0


def test_without_data_a_stack_is_simulated(example: ModuleType, tmp_path: Path) -> None:
    tasks = example.pipeline(output=tmp_path, block=BLOCK)
    assert tasks is not None
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "simulated.tif"), specimen.specimen(**SMALL).grey)


# The demo ------------------------------------------------------------------------------------------------------------


@pytest.mark.integration
def test_the_demo_does_its_work_once_and_says_so(stack: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    words = ("--input", stack, "--output", "demo", "--compare", "--workers", 2)
    first = demo(*words, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    picture = (tmp_path / "demo" / "em.png").read_bytes()
    second = demo(*words, cwd=tmp_path)

    assert re.search(r"^done in \d+\.\d s$", first.stdout, re.MULTILINE)
    assert "nothing was left to do" in second.stdout
    assert first.stdout.splitlines()[:-4] == second.stdout.splitlines()[:-4]
    assert picture.startswith(b"\x89PNG")
    assert (tmp_path / "demo" / "em.png").read_bytes() == picture

    table = parquet.read_table(tmp_path / "demo" / "segments.parquet").to_pydict()
    rows = [line.split() for line in first.stdout.splitlines() if re.match(r" +\d+ +\d+ +\d+\.\d{4} +\d+$", line)]
    assert [int(row[1]) for row in rows] == sorted(table["size"], reverse=True)[:8]
    assert float(rows[0][2]) == pytest.approx(max(table["size"]) * 0.05 * 0.0046**2, abs=6e-5)
    images = (bellis.open_ds(tmp_path / "demo" / "em.zarr", name).to_ndarray() for name in ("segments", "whole"))
    said = float(re.search(r"variation of information (\d+\.\d+) bits", first.stdout)[1])
    assert said == pytest.approx(distance(*images), abs=1e-4)


@pytest.mark.integration
def test_a_run_that_was_killed_goes_on_and_ends_with_the_same(example: ModuleType, stack: Path, tmp_path: Path) -> None:
    run(example.pipeline(str(stack), output=tmp_path / "calm", block=BLOCK), tmp_path / "calm")
    options = ("--input", stack, "--block", *BLOCK)
    command = [sys.executable, "-m", "bellis", "run", f"{EXAMPLE}/pipeline.py:pipeline", *map(str, options)]

    def start(name: str) -> subprocess.Popen[bytes]:
        words = [*command, "--output", name, "--journal", f"{name}/run", "--workers", "2"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        return subprocess.Popen(words, cwd=tmp_path, start_new_session=True, **quiet)

    for sign in ("em.zarr/fragments/s0/c", "fragments.parquet"):
        with start("wild") as process:
            deadline = time.monotonic() + 60
            while not (tmp_path / "wild" / sign).exists() and process.poll() is None:
                assert time.monotonic() < deadline
            assert process.poll() is None
            os.killpg(process.pid, signal.SIGKILL)
        Lock(tmp_path / "wild" / "run" / "lock").release()  # waits until workers in other groups are gone
    assert start("wild").wait(100) == 0
    assert outcome(tmp_path / "wild") == outcome(tmp_path / "calm")


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--boundaries", "other.tif"), "the boundary map is not of the stack"),
        (("--boundaries", "none.tif"), "none.tif"),
        (("--threshold", "0,5"), "invalid float value: '0,5'"),
        (("--threshold", "5"), "threshold is 5.0, must be from 0 to 1"),
        (("--boundary", "other.tif"), "--boundary"),
        (("--graph", "postgresql://me:secret@127.0.0.1:1/db"), "127.0.0.1"),
    ],
    ids=["another shape", "no file", "no number", "too large", "typo", "no server"],
)
def test_what_can_not_be_segmented_is_refused(stack: Path, tmp_path: Path, words: tuple[str, ...], reason: str) -> None:
    tifffile.imwrite(tmp_path / "other.tif", np.zeros((8, 160, 199), np.uint8))
    answer = demo("--input", stack, *words, cwd=tmp_path)
    assert answer.returncode == 2, answer.stderr
    assert reason in answer.stderr
    assert "Traceback" not in answer.stderr
    assert "secret" not in answer.stderr


# The real one --------------------------------------------------------------------------------------------------------


@needs_data
@pytest.mark.integration
def test_membranes_of_the_real_stack_part_blocks_as_they_part_the_whole(example: ModuleType, tmp_path: Path) -> None:
    quarters = [tmp_path / f"{name}.tif" for name in ("raw", "membranes")]
    for quarter in quarters:
        voxels = tifffile.imread(DATA / f"vnc_stack1_{quarter.name}")[:, :512, :512]
        tifffile.imwrite(quarter, np.ascontiguousarray(voxels))
    tasks = example.pipeline(*map(str, quarters), output=tmp_path, compare=True, levels=1)
    run(tasks, tmp_path, workers=2)
    segments, whole = (bellis.open_ds(tmp_path / "em.zarr", name).to_ndarray() for name in ("segments", "whole"))
    assert distance(segments, whole) < 0.05
