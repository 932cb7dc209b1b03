"""A boundary map becomes a segmentation: near the truth, the same for every number of workers, done once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from click.testing import CliRunner
from pyarrow import parquet
from skimage.metrics import variation_of_information

import bellis
from bellis import Array, open_ds, ops, prepare_ds
from bellis.cli.commands import main
from bellis.errors import ArrayError, GraphError, GraphMismatchError, TaskError
from bellis.graphs import GraphStore, open_graph
from bellis.graphs.memory import MemoryBackend
from bellis.ops.segment import segment
from membranes import cells, noisy

if TYPE_CHECKING:
    from pathlib import Path

    from ops.conftest import Run


def segmented(boundaries: Array, folder: Path, **options: Any) -> np.ndarray:
    like: dict[str, Any] = {"voxel_size": boundaries.voxel_size, "offset": boundaries.roi.begin}
    fragments, segments = (Array(np.zeros(boundaries.shape, np.uint64), **like) for _ in range(2))
    pipeline = segment(
        boundaries,
        segments,
        graph=GraphStore(MemoryBackend(), "w"),
        fragments=fragments,
        table=folder / "table.parquet",
        scratch=folder,
        **options,
    )
    report = bellis.run(pipeline, "inline", progress=False)
    assert report.ok, report.failures[0].error
    found = segments.to_ndarray()
    assert report.value("segment")["segments"] == len(np.unique(found[found > 0])) == found.max()
    assert report.value("segment")["fragments"] == len(np.unique(fragments.to_ndarray()[found > 0]))
    return found.astype(np.int64)


@pytest.mark.slow
@pytest.mark.parametrize("in_sections", [False, True])
def test_blocks_give_nearly_what_the_whole_volume_gives_and_that_is_near_the_truth(
    tmp_path: Path, in_sections: bool
) -> None:
    walls, truth = cells((12, 96, 96), 60, wall=1.5, seed=3)
    source = Array(noisy(walls), voxel_size=(3, 1, 1), offset=(6, -5, 0))
    options: dict[str, Any] = {"max_distance": 5, "in_sections": in_sections}
    whole = segmented(source, tmp_path, block_shape=(12, 96, 96), context=0, **options)
    blocks = segmented(source, tmp_path, block_shape=(6, 32, 48), **options)
    assert sum(variation_of_information(whole, blocks)) < 0.05
    inside = ~walls
    # Cells that taper off from section to section are not followed to the end.
    assert sum(variation_of_information(truth[inside], whole[inside])) < (0.8 if in_sections else 0.4)


def test_the_threshold_says_what_stays_apart(tmp_path: Path) -> None:
    image = np.zeros((9, 20), np.float32)
    image[:, 9:11] = 0.6
    options: dict[str, Any] = {"max_distance": 3, "block_shape": 8}
    assert segmented(Array(image), tmp_path, **options, threshold=0.5).max() == 2
    assert segmented(Array(image), tmp_path, **options, threshold=0.7).max() == 1
    assert segmented(Array(image), tmp_path, **options, threshold=0.5, boundary_threshold=0.65).max() == 1


def stored(folder: Path, shape: tuple[int, ...] = (8, 64, 64)) -> Path:
    walls, _ = cells(shape, 40, wall=1.5)
    source = prepare_ds(folder / "walls.zarr", shape=shape, dtype=np.uint8, voxel_size=(10, 5, 5))
    source[source.roi] = noisy(walls)
    return folder / "walls.zarr"


@pytest.mark.integration
@pytest.mark.slow
def test_one_and_four_workers_give_the_same(tmp_path: Path, run: Run) -> None:
    walls, found = stored(tmp_path), []
    for workers in (1, 4):
        folder = tmp_path / str(workers)
        pipeline = segment(
            walls, folder / "cells.zarr", graph=folder / "cells.sqlite", block_shape=(4, 32, 32), in_sections=True
        )
        value = run(pipeline, workers=workers).value("segment")
        with open_graph(folder / "cells.sqlite", "r") as graph:
            rows = [{name: column.tolist() for name, column in dict(part).items()} for part in graph.read_columns()]
        arrays = [open_ds(folder / name).to_ndarray().tobytes() for name in ("cells.zarr", "cells_fragments.zarr")]
        found.append([value, rows, arrays, (folder / "cells.parquet").read_bytes()])
    assert found[0] == found[1]
    names = [path.name for path in (tmp_path / "4").iterdir() if not path.name.startswith("cells.sqlite-")]
    assert sorted(names) == [".bellis", "cells.parquet", "cells.sqlite", "cells.zarr", "cells_fragments.zarr"]


def test_a_run_that_is_repeated_does_nothing(tmp_path: Path, run: Run) -> None:
    walls = stored(tmp_path, (4, 30, 30))

    def again(**options: Any) -> Any:
        pipeline = segment(
            walls, tmp_path / "em.zarr" / "cells", graph=tmp_path / "cells.sqlite", max_distance=20, **options
        )
        return run(pipeline, journal=tmp_path / "journal")

    first = again()
    assert (tmp_path / "em.zarr" / "cells_fragments").is_dir()
    assert (tmp_path / "cells.parquet").is_file()
    names = ("watershed/blocks", "region_graph/write", "agglomerate", "relabel")
    assert all(first.tasks[f"segment/{name}"].counts.completed > 0 for name in names)
    second = again()
    assert all(task.counts.skipped == task.counts.total for task in second.tasks.values())
    assert second.value("segment") == first.value("segment")


def test_other_thresholds_need_no_new_fragments(tmp_path: Path) -> None:
    walls = Array(cells((40, 40), 12)[0])
    store = GraphStore(MemoryBackend(), "w", total_roi=walls.roi)
    fragments, segments = (Array(np.zeros(walls.shape, np.uint64)) for _ in range(2))
    path = tmp_path / "t.parquet"
    pipeline = segment(walls, segments, graph=store, fragments=fragments, table=path, scratch=tmp_path)
    assert bellis.run(pipeline, "inline", progress=False).ok
    before = segments.to_ndarray().max()
    pipeline = ops.agglomerate(store, path, threshold=1.1) + ops.relabel(fragments, segments, path)
    assert bellis.run(pipeline, "inline", progress=False).ok
    assert before > segments.to_ndarray().max() == 1
    assert parquet.read_schema(path).names == ["fragment", "segment"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 1.5}, "threshold is 1.5, must be from 0 to 1"),
        ({"boundary_threshold": 1}, "threshold is 1, must be at least 0 and below 1"),
        ({"dtype": "uint8"}, "numbers up to 400"),
        ({"max_distance": 0}, "max_distance is 0, must be at least 1"),
        ({"segments": Array(np.zeros((20, 20), np.uint64))}, "pass fragments=, as segments are no path"),
        (
            {"segments": Array(np.zeros((20, 20), np.uint64)), "fragments": Array(np.zeros((20, 20), np.uint64))},
            "pass table=",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_made(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    target = options.pop("segments", tmp_path / "cells.zarr")
    with pytest.raises(TaskError, match=message):
        segment(Array(np.zeros((20, 20), bool)), target, graph=tmp_path / "g.sqlite", **options)
    with pytest.raises(ArrayError, match="boundary maps are bool"):
        segment(Array(np.zeros((20, 20), int)), target, graph=tmp_path / "g.sqlite")
    with pytest.raises(GraphError, match=r"graph\.txt"):
        segment(Array(np.zeros((20, 20), bool)), tmp_path / "cells.zarr", graph=tmp_path / "graph.txt")
    assert not list(tmp_path.iterdir())


def test_a_graph_of_another_volume_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    open_graph(tmp_path / "g.sqlite", "w", total_roi=bellis.Roi((0, 0), (30, 30))).close()
    with pytest.raises(GraphMismatchError, match="of another volume: pass another graph"):
        segment(Array(np.zeros((20, 20), bool)), tmp_path / "cells.zarr", graph=tmp_path / "g.sqlite")
    assert [path.name for path in tmp_path.iterdir()] == ["g.sqlite"]


@pytest.mark.slow
def test_a_graph_in_files_gets_chunks_as_large_as_blocks(tmp_path: Path, run: Run) -> None:
    walls, folder = stored(tmp_path, (4, 30, 30)), tmp_path / "cells.graph"
    pipeline = segment(walls, tmp_path / "cells.zarr", graph=folder, block_shape=(4, 15, 30), in_sections=True)
    assert run(pipeline).ok
    size = open_ds(walls).voxel_size
    with open_graph(folder, "r", chunk_size=(4, 15, 30) * size) as graph:
        assert graph.num_edges() > graph.num_nodes() > 3


@pytest.mark.slow
def test_the_command_segments_a_volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    stored(tmp_path, (4, 30, 30))
    words = ["segment", "walls.zarr", "cells.zarr", "--graph", "cells.sqlite", "--max-distance", "20", "--workers", "1"]
    result = CliRunner().invoke(main, [*words, "--in-sections", "--quiet"])
    assert result.exit_code == 0, result.output
    assert open_ds("cells.zarr").to_ndarray().max() > 3
    with open_graph("cells.sqlite", "r") as graph:
        assert graph.num_edges() > graph.num_nodes() > 3
