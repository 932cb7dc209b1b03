"""Operations of several steps, killed at random moments and run again, give what an undisturbed run gives."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy import ndimage

import bellis
from bellis import Array, Pipeline, open_ds, ops, prepare_ds
from forked import Forked

if TYPE_CHECKING:
    from pathlib import Path

SCRIPT = """
import json, sys
from pathlib import Path
import numpy as np
from scipy import ndimage
import bellis
from bellis import Array, open_ds, prepare_ds
from bellis.ops.label import label
from bellis.ops.measure import measure
from bellis.ops.reduce import reduce
from bellis.ops.remove_small import remove_small


def histogram(voxels):
    return np.bincount(voxels.ravel() != 0, minlength=2)


def add(a, b):
    return a + b


def output(folder, name, dtype):
    return prepare_ds(folder / "out.zarr" / name, shape=(32, 32, 32), dtype=dtype, chunk_shape=(8, 8, 8))


def pipeline(folder):
    mask = open_ds("mask.zarr")
    labels, large = output(folder, "labels", "uint32"), output(folder, "large", "uint32")
    numbers = label(mask, labels, block_shape=8)
    table = measure(large, folder / "table.parquet", block_shape=8)
    counts = reduce(histogram, add, large, block_shape=8, scratch=folder)
    return numbers + remove_small(labels, large, 10, block_shape=8) + (table | counts)


def main(name):
    folder = Path(name)
    report = bellis.run(pipeline(folder), workers=2, progress=False, journal=folder / "journal")
    assert report.ok, report
    values = [report.value(name) for name in ("label", "remove_small", "measure")]
    (folder / "values").write_text(json.dumps([*values, report.value("reduce").tolist()]))
"""


def outcome(folder: Path) -> tuple[object, ...]:
    arrays = [open_ds(folder / "out.zarr" / name).to_ndarray().tobytes() for name in ("labels", "large")]
    scratch = sorted(path.suffix for path in folder.rglob("*-????????*") if "journal" not in str(path))
    return *arrays, (folder / "table.parquet").read_bytes(), (folder / "values").read_text(), scratch


@pytest.mark.integration
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_ten_runs_killed_at_random_moments_change_nothing(tmp_path: Path) -> None:
    smooth = ndimage.gaussian_filter(np.random.default_rng(0).random((32, 32, 32), np.float32), 1.2)
    mask = prepare_ds(tmp_path / "mask.zarr", shape=smooth.shape, dtype=bool, chunk_shape=(16, 16, 16))
    mask[mask.roi] = smooth > np.quantile(smooth, 0.8)
    with Forked(tmp_path, SCRIPT) as runs:
        runs.kill_at_random(10, (0.05, 0.5), outcome, seed=5)
    calm = outcome(tmp_path / "calm")
    assert json.loads(calm[3])[0] > json.loads(calm[3])[2] > 10  # type: ignore[arg-type]


def operations(folder: Path) -> dict[str, Pipeline]:
    labels, _ = ndimage.label(np.random.default_rng(0).random((20, 20, 20)) < 0.3)
    source, path = Array(labels.astype(np.uint32)), folder / "out.zarr"
    return {
        "label": ops.label(source, path / "a", block_shape=7),
        "remove_small": ops.remove_small(source, path / "b", 5, block_shape=4),
        "measure": ops.measure(source, folder / "table", intensity=source, block_shape=4),
        "reduce": ops.reduce(np.max, max, source, block_shape=4, scratch=folder),
    }


@pytest.mark.parametrize("name", ["label", "remove_small", "measure", "reduce"])
def test_blocks_that_are_run_again_after_the_end_change_nothing(tmp_path: Path, name: str) -> None:
    # As after a crash: a journal may have lost the newest completions, those of steps before the last among them.
    pipeline = operations(tmp_path)[name]
    report = bellis.run(pipeline, "inline", progress=False)
    assert report.ok, report

    def files() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    before = files()
    for task in [task for task in report.tasks.values() if task.task_id != f"{name}/prepare"]:
        for index in range(task.grid.num_blocks):
            report.run_block(task.task_id, task.grid.number(index))
    assert files() == before
    assert report.run_block(name, report.tasks[name].grid.number(0)) == report.value(name)


@pytest.mark.parametrize("name", ["label", "remove_small", "measure", "reduce"])
def test_steps_that_are_run_twice_before_the_end_change_nothing(tmp_path: Path, name: str) -> None:
    value = bellis.run(operations(tmp_path)[name], "inline", progress=False).value(name)
    pipeline = operations(tmp_path)[name]
    for task in pipeline.tasks[:-1]:
        again = bellis.Task(**{**vars(task), "upstream_tasks": None})
        for _ in range(2 if task.task_id != f"{name}/prepare" else 1):
            assert bellis.run(again, "inline", progress=False).ok
    assert bellis.run(pipeline.tasks[-1], "inline", progress=False).value(name) == value
