"""The graph of regions is that of the whole array, voxel by voxel, whatever the blocks are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import bellis
from bellis import Array
from bellis.errors import ArrayError, GraphError, GraphMismatchError, TaskError
from bellis.graphs import GraphStore, Vec, open_graph
from bellis.graphs.memory import MemoryBackend
from bellis.ops.region_graph import region_graph
from bellis.ops.regions import contacts_in, joined, parted, regions_in

if TYPE_CHECKING:
    from pathlib import Path

anywhere = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=40)
IDS = st.sampled_from([0, 1, 2, 5, 2**40, 2**64 - 1])
SCALES = {"bool": 1, "uint8": 255, "uint16": 2**16 - 1, "uint32": 2**32 - 1, "float32": 1, "float64": 1}


def written(labels: Array, boundaries: Array, folder: Path, **options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    store = GraphStore(MemoryBackend(), "w", directed=False)
    report = bellis.run(region_graph(labels, boundaries, store, scratch=folder, **options), "inline", progress=False)
    assert report.ok, report.failures[0].error
    nodes, edges = store.read_columns()
    assert report.value("region_graph") == {"nodes": len(nodes), "edges": len(edges)}
    return ({name: column.tolist() for name, column in dict(table).items()} for table in (nodes, edges))  # type: ignore[return-value]


def expected(labels: Array, boundaries: Array) -> tuple[dict[str, Any], dict[str, Any]]:
    """Visit each pair of voxels."""
    voxels, image = labels.to_ndarray(), boundaries.to_ndarray().astype(float) / SCALES[str(boundaries.dtype)]
    ids = sorted(set(voxels.ravel().tolist()) - {0})
    places = {i: np.argwhere(voxels == i) for i in ids}
    pairs: dict[tuple[int, int], list[float]] = {}
    for at in np.ndindex(voxels.shape):
        for axis in range(voxels.ndim):
            other = tuple(n + (k == axis) for k, n in enumerate(at))
            if other[axis] == voxels.shape[axis] or voxels[at] == voxels[other] or 0 in (voxels[at], voxels[other]):
                continue
            pair = sorted((int(voxels[at]), int(voxels[other])))
            pairs.setdefault((pair[0], pair[1]), []).append(max(image[at], image[other]))
    keys = sorted(pairs)
    size, begin = np.array(labels.voxel_size), np.array(labels.roi.begin)
    return (
        {
            "id": ids,
            "size": [len(places[i]) for i in ids],
            "position": [((places[i] + 0.5).mean(axis=0) * size + begin).tolist() for i in ids],
        },
        {
            "u": [u for u, _ in keys],
            "v": [v for _, v in keys],
            "size": [len(pairs[key]) for key in keys],
            "mean": [np.mean(pairs[key]) for key in keys],
            "min": [min(pairs[key]) for key in keys],
            "max": [max(pairs[key]) for key in keys],
        },
    )


@st.composite
def volumes(draw: st.DrawFn) -> tuple[Array, Array, tuple[int, ...]]:
    labels = draw(hnp.arrays(np.uint64, hnp.array_shapes(max_dims=4, max_side=6), elements=IDS))
    labels.flat[0] = 5
    dtype = draw(st.sampled_from(sorted(SCALES)))
    values = st.floats(0, 1, width=32) if dtype.startswith("f") else None
    image = draw(hnp.arrays(dtype, labels.shape, elements=values))
    place = {
        "voxel_size": draw(st.tuples(*[st.integers(1, 9)] * labels.ndim)),
        "offset": draw(st.tuples(*[st.integers(-(10**6), 10**6)] * labels.ndim)),
    }
    return Array(labels, **place), Array(image, **place), tuple(draw(st.integers(1, n)) for n in labels.shape)


@pytest.mark.slow
@anywhere
@given(volumes())
@example((Array(np.ones(1, np.uint64)), Array(np.ones(1, bool)), (1,)))
def test_nodes_and_edges_are_those_of_the_whole_array(
    tmp_path: Path, volume: tuple[Array, Array, tuple[int, ...]]
) -> None:
    labels, boundaries, block = volume
    nodes, edges = written(labels, boundaries, tmp_path, block_shape=block)
    for found, known in zip((nodes, edges), expected(labels, boundaries), strict=True):
        assert found.keys() == known.keys()
        for name in ("id", "u", "v", "size"):
            assert found.get(name) == known.get(name)
        for name in ("position", "mean", "min", "max"):
            if name in known:
                np.testing.assert_allclose(found[name], known[name], rtol=1e-9, atol=1e-9)
    # Not nearly, but bit by bit.
    whole = written(labels, boundaries, tmp_path, block_shape=tuple(labels.shape))
    assert [nodes, edges] == list(whole)


def test_many_blocks_are_gathered_in_groups_and_written_in_buckets(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels, image = Array(rng.integers(0, 200, (40, 40))), Array(rng.integers(0, 256, (40, 40)).astype(np.uint8))
    pipeline = region_graph(labels, image, GraphStore(MemoryBackend(), "w"), block_shape=2, scratch=tmp_path)
    assert {task.task_id: bellis.planning.BlockGrid.of(task).num_blocks for task in pipeline.tasks} == {
        "region_graph/prepare": 1,
        "region_graph/blocks": 400,
        "region_graph/gather": 9,
        "region_graph/clear": 1,
        "region_graph/write": 9,
        "region_graph": 1,
    }
    assert list(written(labels, image, tmp_path, block_shape=2)) == list(
        written(labels, image, tmp_path, block_shape=40)
    )


def test_what_was_in_the_graph_is_removed(tmp_path: Path) -> None:
    place = tmp_path / "regions.sqlite"
    labels, image = np.array([[1, 1, 2], [1, 3, 3]]), Array(np.zeros((2, 3), bool))
    for voxels, edges in ((labels, 3), (np.minimum(labels, 2), 1), (labels, 3)):
        report = bellis.run(region_graph(Array(voxels), image, place), "inline", progress=False)
        assert report.ok, report
        with open_graph(place, "r") as store:
            assert store.num_nodes() == voxels.max()
            assert store.num_edges() == edges
            assert store.total_roi == image.roi
            assert not store.directed
            assert {name: str(kind) for name, kind in store.node_attrs.items()} == {
                "position": "Vec(float, 2)",
                "size": "int",
            }
    assert [path.name for path in tmp_path.rglob("*") if "region" in path.name and path.suffix == ".done"]


@pytest.mark.parametrize("position", ["centre", ["y", "x"]])
def test_positions_go_where_the_graph_has_them(tmp_path: Path, position: str | list[str]) -> None:
    store = GraphStore(MemoryBackend(), "w", position_attribute=position, endpoint_names=["from", "to"])
    labels = Array(np.array([[1, 1], [2, 2]]), voxel_size=(4, 2))
    assert bellis.run(
        region_graph(labels, Array(np.zeros((2, 2)), voxel_size=(4, 2)), store, scratch=tmp_path), "inline",
        progress=False,
    ).ok  # fmt: skip
    first = store.read_nodes()[0]
    assert (first["centre"] == [2, 2]) if position == "centre" else ((first["y"], first["x"]) == (2, 2))
    assert store.read_edges() == [{"from": 1, "to": 2, "size": 2, "mean": 0.0, "min": 0.0, "max": 0.0}]


def test_a_graph_that_does_not_suit_is_refused(tmp_path: Path) -> None:
    labels, image = Array(np.ones((2, 2), int)), Array(np.zeros((2, 2)))

    def graph(**options: Any) -> GraphStore:
        return GraphStore(MemoryBackend(), "w", **options)

    with pytest.raises(TaskError, match="is directed"):
        region_graph(labels, image, graph(directed=True))
    with pytest.raises(GraphMismatchError, match="'size' is float in this graph, but int is given"):
        region_graph(labels, image, graph(node_attrs={"position": Vec(float, 2), "size": float}))
    with pytest.raises(GraphMismatchError, match="no edge attribute 'size'"):
        region_graph(labels, image, graph(node_attrs={"position": Vec(float, 2), "size": int}, edge_attrs={}))
    place = tmp_path / "other.sqlite"
    region_graph(labels, image, place)
    with pytest.raises(GraphMismatchError, match=r"total_roi"):
        region_graph(Array(np.ones((3, 3), int)), Array(np.zeros((3, 3))), place)
    with pytest.raises(TaskError, match="was opened with mode='r'"):
        region_graph(labels, image, open_graph(place, "r"))
    with pytest.raises(GraphError, match="does not tell how the graph is stored"):
        region_graph(labels, image, tmp_path / "other.graph.txt")


def test_arrays_that_do_not_suit_are_refused() -> None:
    store = GraphStore(MemoryBackend(), "w")
    with pytest.raises(ArrayError, match="labels are integers"):
        region_graph(Array(np.ones((2, 2))), Array(np.zeros((2, 2))), store)
    with pytest.raises(ArrayError, match="boundary maps are bool"):
        region_graph(Array(np.ones((2, 2), int)), Array(np.zeros((2, 2), int)), store)
    with pytest.raises(ArrayError, match="reaches over"):
        region_graph(Array(np.ones((2, 3), int)), Array(np.zeros((2, 2))), store)


@pytest.mark.parametrize(
    ("labels", "value", "message"),
    [
        (np.zeros((3, 3), int), 0, "has no label but 0"),
        (np.full((3, 3), -7), 0, "has the label -7 in"),
        (np.ones((3, 3), int), np.nan, r"has nan at voxel \(0, 0\), and 4 such values"),
    ],
)
def test_voxels_that_do_not_suit_fail_and_leave_the_graph_as_it_was(
    tmp_path: Path, labels: np.ndarray, value: float, message: str
) -> None:
    store = GraphStore(MemoryBackend(), "w")
    store.write_columns({"id": [3], "position": [[0.5, 0.5]]})
    pipeline = region_graph(Array(labels), Array(np.full((3, 3), float(value))), store, block_shape=2, scratch=tmp_path)
    report = bellis.run(pipeline, "inline", progress=False)
    with pytest.raises(AssertionError, match=message):
        assert report.ok, report.failures[0].error
    assert store.num_nodes() == 1


def test_sums_are_exact_far_from_the_begin_of_a_large_array() -> None:
    labels = np.repeat(np.array([[3, 4]], np.uint16), 5, axis=1)
    far = 2**45 + 1
    assert regions_in(labels, (7, far))["index"].tolist() == [[35, 5 * far + 10], [35, 5 * far + 35]]


def test_tables_are_parted_without_loss() -> None:
    labels = np.random.default_rng(0).integers(0, 50, (20, 20)).astype(np.uint64)
    for table in (regions_in(labels, (0, 0)), contacts_in(labels, labels.astype(np.uint8), (0, 0))):
        again = joined(parted(table, 7))
        assert all(np.array_equal(table[name], again[name]) for name in table)
    sizes = [len(part["id"]) for part in parted(regions_in(labels, (0, 0)), 4)]
    assert max(sizes) < 3 * min(sizes)
