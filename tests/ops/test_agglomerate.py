"""Regions are joined as average linkage says: in rounds, one by one, or by another library."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import higra
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

import bellis
from bellis import Array, Roi
from bellis.errors import GraphError, GraphMissingError, TaskError
from bellis.graphs import GraphStore, Vec, open_graph
from bellis.graphs.memory import MemoryBackend
from bellis.ops import agglomeration
from bellis.ops.agglomerate import agglomerate
from bellis.ops.agglomeration import merged
from bellis.ops.relabel import relabel

if TYPE_CHECKING:
    from pathlib import Path


@st.composite
def contacts(draw: st.DrawFn) -> tuple[np.ndarray, ...]:
    """Draw a connected graph: u, v, different scores, weights."""
    count = draw(st.integers(2, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    tree = [(int(rng.integers(0, k)), k) for k in range(1, count)]
    more = [tuple(sorted(rng.choice(count, 2, replace=False).tolist())) for _ in range(draw(st.integers(0, 80)))]
    u, v = np.array(sorted({*tree, *more})).T
    score = rng.permutation(len(u)) / len(u) + rng.random(len(u)) / (2 * len(u))
    return u, v, score, rng.integers(1, 50, len(u)).astype(float)


def same_partition(a: np.ndarray, b: np.ndarray) -> bool:
    pairs = np.unique(np.stack([a, b]), axis=1).shape[1]
    return pairs == len(np.unique(a)) == len(np.unique(b))


@pytest.mark.slow
@settings(max_examples=60)
@given(contacts(), st.floats(0.05, 1.5), st.sampled_from([1, 5, 1000]))
def test_regions_are_joined_as_higra_joins_them(
    links: tuple[np.ndarray, ...], threshold: float, per_round: int
) -> None:
    u, v, score, weight = links
    count = int(v.max()) + 1
    graph = higra.UndirectedGraph(count)
    graph.add_edges(u, v)
    tree, altitudes = higra.binary_partition_tree_average_linkage(graph, score, weight)
    expected = higra.labelisation_horizontal_cut_from_threshold(tree, altitudes, threshold)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(agglomeration, "PER_ROUND", per_round)  # 1: a heap does it all
        found = merged(np.arange(count, dtype=np.uint64), u, v, score, weight, threshold)
    assert same_partition(found, expected)
    # The first one stands for all.
    assert all(found[k] == np.flatnonzero(found == found[k])[0] for k in range(count))


@given(contacts(), st.floats(0.05, 1.5), st.randoms(use_true_random=False))
@settings(max_examples=30)
def test_the_order_of_contacts_does_not_matter(links: tuple[np.ndarray, ...], threshold: float, random: Any) -> None:
    u, v, _, weight = links
    score = np.round(np.sin(u + v) ** 2, 1)  # with many that are the same
    ids = np.arange(int(v.max()) + 1, dtype=np.uint64) * np.uint64(17)
    order = list(range(len(u)))
    random.shuffle(order)
    expected = merged(ids, u, v, score, weight, threshold)
    found = merged(ids, v[order], u[order], score[order], weight[order], threshold)
    np.testing.assert_array_equal(found, expected)


def test_what_happens_elsewhere_does_not_change_the_order_of_equals() -> None:
    rng = np.random.default_rng(0)
    u, v = np.triu_indices(30, 1)
    u, v = (ends[::5] for ends in (u, v))
    score, weight = rng.choice([0.3, 0.6], len(u)), np.ones(len(u))
    ids = np.arange(100, 130, dtype=np.uint64)
    alone = merged(ids, u, v, score, weight, 0.4)
    more = np.concatenate([np.arange(7, dtype=np.uint64), ids])
    beside = merged(more, np.append(u + 7, 0), np.append(v + 7, 1), np.append(score, 0), np.append(weight, 1), 0.4)
    assert len(np.unique(alone)) > 1
    np.testing.assert_array_equal(beside[7:], alone + 7)


def test_a_region_with_many_neighbours_is_done_one_by_one() -> None:
    count = 5000
    u, v = np.zeros(count - 1, int), np.arange(1, count)
    score = np.random.default_rng(0).random(count - 1)
    found = merged(np.arange(count, dtype=np.uint64), u, v, score, np.ones(count - 1), 0.5)
    np.testing.assert_array_equal(found == 0, np.append(True, score < 0.5))


def test_without_contacts_regions_stay_apart() -> None:
    none = np.empty(0, int)
    assert merged(np.arange(3, dtype=np.uint64), none, none, np.empty(0), np.empty(0), 1).tolist() == [0, 1, 2]


# The operation -------------------------------------------------------------------------------------------------------


def grid_store(side: int = 6, *, seed: int = 0, **options: Any) -> GraphStore:
    """Make a graph of cells in a square, 10 world units each, with ids beyond 2^63."""
    rng = np.random.default_rng(seed)
    index = np.arange(side * side).reshape(side, side)
    u = np.concatenate([index[:-1].ravel(), index[:, :-1].ravel()])
    v = np.concatenate([index[1:].ravel(), index[:, 1:].ravel()])
    ids = np.arange(side * side).astype(np.uint64) * np.uint64(3) + np.uint64(2**63 + 1)
    places = np.stack(np.unravel_index(index.ravel(), (side, side)), axis=1) * 10.0 + 5
    store = GraphStore(MemoryBackend(), "w", total_roi=Roi((0, 0), (10 * side, 10 * side)), **options)
    store.write_columns(
        {"id": ids, "position": places},
        {"u": ids[u], "v": ids[v], "mean": rng.random(len(u)), "size": rng.integers(1, 9, len(u))},
    )
    return store


def empty_store(*, mean: type = float) -> GraphStore:
    attrs = {"mean": mean, "size": int}
    return GraphStore(MemoryBackend(), "w", node_attrs={"position": Vec(float, 1)}, edge_attrs=attrs)


def table_of(store: GraphStore, folder: Path, **options: Any) -> tuple[list[int], list[int]]:
    path = folder / "t" / "segments.parquet"
    report = bellis.run(agglomerate(store, path, **options), "inline", progress=False)
    assert report.ok, report.failures[0].error
    table = parquet.read_table(path)
    assert [str(kind) for kind in table.schema.types] == ["uint64", "uint64"]
    fragments, segments = table.column("fragment").to_pylist(), table.column("segment").to_pylist()
    counts = {"fragments": len(fragments), "segments": max(segments)}
    assert report.value("agglomerate") == counts
    assert counts.items() <= json.loads(table.schema.metadata[b"bellis"]).items()
    return fragments, segments


def test_the_table_has_segments_in_the_order_of_their_first_fragments(tmp_path: Path) -> None:
    store = grid_store()
    nodes, edges = store.read_columns()
    fragments, segments = table_of(store, tmp_path, threshold=0.4)
    assert fragments == nodes.id.tolist()
    firsts = [segments.index(k) for k in range(1, max(segments) + 1)]
    assert firsts == sorted(firsts)
    u, v = np.searchsorted(nodes.id, edges.u), np.searchsorted(nodes.id, edges.v)
    expected = merged(nodes.id, u, v, edges["mean"], edges["size"].astype(float), 0.4)
    assert same_partition(np.array(segments), expected)
    assert 1 < max(segments) < len(fragments)


@pytest.mark.parametrize("context", [0, 60])
def test_blocks_join_what_the_whole_graph_joins_if_they_see_enough(tmp_path: Path, context: int) -> None:
    store = grid_store()
    whole = table_of(store, tmp_path, threshold=0.4)
    blocks = table_of(store, tmp_path, threshold=0.4, block_shape=(20, 30), context=context)
    assert blocks[0] == whole[0]
    assert (blocks == whole) == (context == 60)


def test_other_attributes_and_a_region_can_be_named(tmp_path: Path) -> None:
    store = GraphStore(MemoryBackend(), "w")
    nodes = {"id": [1, 2, 3], "position": [[0.5], [1.5], [2.5]]}
    store.write_columns(nodes, {"u": [1, 2], "v": [2, 3], "cost": [5, 7], "area": [0.5, 2.0]})
    named = {"score": "cost", "weight": "area"}
    assert table_of(store, tmp_path, threshold=6, **named) == ([1, 2, 3], [1, 1, 2])
    assert table_of(store, tmp_path, threshold=8, **named) == ([1, 2, 3], [1, 1, 1])
    assert table_of(store, tmp_path, threshold=8, roi=Roi((1,), (9,)), **named) == ([2, 3], [1, 1])
    for context, segments in ((0, [1, 1, 2]), (2, [1, 1, 1])):
        options = {"block_shape": 2, "context": context, **named}
        assert table_of(store, tmp_path, threshold=8, roi=Roi((0,), (9,)), **options)[1] == segments


def test_regions_without_a_place_are_for_the_whole_graph_only(tmp_path: Path) -> None:
    store = grid_store(2)
    store.write_columns({"id": [3]})
    assert table_of(store, tmp_path)[0][0] == 3
    report = bellis.run(agglomerate(store, tmp_path / "t.parquet", block_shape=10), "inline", progress=False)
    assert "1 nodes of" in str(report.failures[0].error)
    assert "have no position" in str(report.failures[0].error)


def test_a_graph_that_does_not_suit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    with pytest.raises(TaskError, match="is directed"):
        agglomerate(grid_store(2, directed=True), path)
    with pytest.raises(TaskError, match="need the attribute 'cost', a number, but there is no 'cost' among mean, size"):
        agglomerate(grid_store(2), path, score="cost")
    with pytest.raises(GraphMissingError):
        agglomerate(tmp_path / "none.sqlite", path)
    store = empty_store(mean=str)
    with pytest.raises(TaskError, match="but 'mean' is str"):
        agglomerate(store, path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": float("nan")}, "threshold is nan, must be a number"),
        ({"threshold": True}, "threshold is True"),
        ({"table": "t.csv"}, "must be the path of a Parquet file"),
        ({"table": "s3://bucket/t.parquet"}, "must be the path of a Parquet file"),
        ({"block_shape": 0}, "one must be positive"),
        ({"block_shape": (1, 2, 3)}, "ranks differ"),
        ({"block_shape": 5, "context": -1}, "the other not negative"),
    ],
)
def test_what_is_out_of_range_is_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(TaskError, match=message):
        agglomerate(grid_store(2), options.pop("table", tmp_path / "t.parquet"), **options)


def test_blocks_of_a_graph_without_bounds_need_a_region(tmp_path: Path) -> None:
    store = empty_store()
    with pytest.raises(TaskError, match="no total_roi that is bounded: pass roi="):
        agglomerate(store, tmp_path / "t.parquet", block_shape=5)


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        ({"mean": [np.nan], "size": [1]}, r"1 edges of .* the first is \(1, 2\) with nan and 1"),
        ({"mean": [0.5], "size": [0]}, "no 'size' above 0"),
        ({"mean": np.ma.masked_array([0.5], [True]), "size": [1]}, "have no 'mean'"),
    ],
)
def test_edges_without_a_score_fail(tmp_path: Path, edges: dict[str, Any], message: str) -> None:
    store = empty_store()
    store.write_columns({"id": [1, 2]}, {"u": [1], "v": [2], **edges})
    report = bellis.run(agglomerate(store, tmp_path / "t.parquet"), "inline", progress=False)
    with pytest.raises(AssertionError, match=message):
        assert report.ok, report.failures[0].error


def test_an_empty_graph_and_one_that_is_too_large_fail(tmp_path: Path) -> None:
    store = empty_store()
    report = bellis.run(agglomerate(store, tmp_path / "t.parquet"), "inline", progress=False)
    assert "has no nodes" in str(report.failures[0].error)
    limits = bellis.ops.Limits(max_memory="1MB")
    report = bellis.run(agglomerate(grid_store(), tmp_path / "t.parquet", limits=limits), "inline", progress=False)
    assert "36 nodes and 60 edges in all need about 157 MB" in str(report.failures[0].error)
    assert not list(tmp_path.glob("*.parquet*"))


def test_labels_are_replaced_as_the_table_says(tmp_path: Path) -> None:
    store = GraphStore(MemoryBackend(), "w", total_roi=Roi((0, 0), (2, 3)))
    store.write_columns({"id": [3, 7, 9]}, {"u": [3, 7], "v": [9, 9], "mean": [0.1, 0.9], "size": [4, 4]})
    labels, output = Array(np.array([[0, 3, 7], [9, 9, 7]], np.uint64)), Array(np.zeros((2, 3), np.uint8))
    path = tmp_path / "t.parquet"
    pipeline = agglomerate(store, path) + relabel(labels, output, path, missing="error", block_shape=2)
    assert not path.exists()
    assert bellis.run(pipeline, "inline", progress=False).ok
    assert output.to_ndarray().tolist() == [[0, 1, 2], [1, 1, 2]]


def test_a_table_of_something_else_is_refused(tmp_path: Path) -> None:
    import pyarrow as pa

    labels, path = Array(np.ones((2, 2), np.uint8)), tmp_path / "t.parquet"
    for table, message in ((None, "can't be read"), ({"a": [1], "b": ["x"]}, "first two must be integers")):
        if table is not None:
            parquet.write_table(pa.table(table), path)
        report = bellis.run(relabel(labels, Array(np.zeros((2, 2), np.uint8)), path), "inline", progress=False)
        assert message in str(report.failures[0].error)
    with pytest.raises(GraphError, match="does not tell"):
        open_graph(path)
