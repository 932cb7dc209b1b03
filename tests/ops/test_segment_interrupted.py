"""A segmentation that is killed at random moments and run again is that of an undisturbed run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

import bellis
from bellis import Array, Pipeline, open_ds, ops, prepare_ds
from bellis.graphs import GraphStore, open_graph
from bellis.graphs.memory import MemoryBackend
from forked import Forked
from membranes import cells, noisy

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SCRIPT = """
import sys
from pathlib import Path
import bellis
from bellis import ops


def main(name):
    folder = Path(name)
    pipeline = ops.segment(
        "walls.zarr", folder / "cells.zarr", graph=folder / "cells.sqlite", block_shape=(4, 16, 16), max_distance=20,
        in_sections=True,
    )
    report = bellis.run(pipeline, workers=2, progress=False, journal=folder / "journal")
    assert report.ok, report
    (folder / "value").write_text(repr(report.value("segment")))
"""


def outcome(folder: Path) -> list[object]:
    arrays = [open_ds(folder / name).to_ndarray().tobytes() for name in ("cells.zarr", "cells_fragments.zarr")]
    with open_graph(folder / "cells.sqlite", "r") as graph:
        rows = [column.tolist() for part in graph.read_columns() for column in dict(part).values()]
    scratch = sorted(path.suffix for path in (folder / ".bellis" / "scratch").iterdir())
    return [*arrays, rows, (folder / "cells.parquet").read_bytes(), (folder / "value").read_text(), scratch]


@pytest.mark.integration
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_runs_killed_at_random_moments_change_nothing(tmp_path: Path) -> None:
    walls, _ = cells((8, 64, 64), 40, wall=1.5)
    source = prepare_ds(tmp_path / "walls.zarr", shape=walls.shape, dtype=np.uint8, voxel_size=(10, 5, 5))
    source[source.roi] = noisy(walls)
    with Forked(tmp_path, SCRIPT) as runs:
        runs.kill_at_random(5, (0.1, 0.6), outcome, seed=7)
    assert outcome(tmp_path / "calm")[-1] == [".done", ".done"]


def watershed(folder: Path) -> Pipeline:
    return ops.watershed(Array(cells((30, 30), 10)[0]), folder / "out.zarr", block_shape=8, max_distance=3)


def region_graph(folder: Path) -> Pipeline:
    walls, truth = cells((30, 30), 10)
    return ops.region_graph(Array(truth), Array(walls), folder / "out.sqlite", block_shape=3)


def agglomerate(folder: Path) -> Pipeline:
    store = GraphStore(MemoryBackend(str(folder)), "w", total_roi=bellis.Roi((0,), (9,)))
    store.write_columns(
        {"id": [1, 2, 3], "position": [[0.5], [4.5], [8.5]]}, {"u": [1], "v": [2], "mean": [0.1], "size": [2]}
    )
    return ops.agglomerate(store, folder / "out.parquet", block_shape=4, context=2)


OPERATIONS = [watershed, region_graph, agglomerate]


@pytest.mark.parametrize("operation", OPERATIONS)
def test_blocks_that_are_run_again_after_the_end_change_nothing(
    tmp_path: Path, operation: Callable[[Path], Pipeline]
) -> None:
    # As after a crash: a journal may have lost the newest completions, those of steps before the last among them.
    pipeline, name = operation(tmp_path), operation.__name__
    report = bellis.run(pipeline, "inline", progress=False)
    assert report.ok, report

    def files() -> dict[Path, bytes]:
        return {
            path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and "sqlite-" not in path.name
        }

    before = files()
    for task in [task for task in report.tasks.values() if task.task_id != f"{name}/prepare"]:
        for index in range(task.grid.num_blocks):
            report.run_block(task.task_id, task.grid.number(index))
    assert files() == before
    assert report.run_block(name, report.tasks[name].grid.number(0)) == report.value(name)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_steps_that_are_run_twice_before_the_end_change_nothing(
    tmp_path: Path, operation: Callable[[Path], Pipeline]
) -> None:
    name = operation.__name__
    (tmp_path / "calm").mkdir()
    value = bellis.run(operation(tmp_path / "calm"), "inline", progress=False).value(name)
    pipeline = operation(tmp_path)
    for task in pipeline.tasks[:-1]:
        again = bellis.Task(**{**vars(task), "upstream_tasks": None})
        for _ in range(2 if task.task_id != f"{name}/prepare" else 1):
            assert bellis.run(again, "inline", progress=False).ok
    assert bellis.run(pipeline.tasks[-1], "inline", progress=False).value(name) == value
    if name == "watershed":
        np.testing.assert_array_equal(
            open_ds(tmp_path / "out.zarr").to_ndarray(), open_ds(tmp_path / "calm" / "out.zarr").to_ndarray()
        )
