"""Blocks are read side by side; nodes can be named in many forms."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from bellis.errors import GraphError
from bellis.geometry import Roi
from bellis.graphs.memory import MemoryBackend
from bellis.graphs.store import GraphStore

if TYPE_CHECKING:
    from bellis.graphs.backend import Query
    from bellis.graphs.metadata import Metadata

ROI = Roi((0, 0), (10, 10))


def small() -> GraphStore:
    store = GraphStore(MemoryBackend(), "w")
    store.write_columns(
        {"id": [1, 2, 3], "position": [[0, 0], [5, 5], [20, 0]], "size": [10, 20, 30]},
        {"u": [1, 2], "v": [2, 3], "score": [0.5, 0.25]},
    )
    return store


@pytest.mark.parametrize("workers", [1, 3])
def test_blocks_are_read_side_by_side_and_put_together(workers: int) -> None:
    store = small()
    nodes, edges = store.read_blockwise(Roi((-5, -5), (27, 11)), (4, 7), workers)
    assert nodes["id"].tolist() == [1, 2, 3]
    assert nodes["position"].tolist() == [[0, 0], [5, 5], [20, 0]]
    assert {name: column.tolist() for name, column in edges.items()} == {"u": [1, 2], "v": [2, 3], "score": [0.5, 0.25]}
    empty, none = store.read_blockwise(Roi((0, 0), (0, 5)), (4, 4), workers)
    assert (empty["position"].shape, none["u"].shape) == ((0, 2), (0,))


class Moving(MemoryBackend):
    """A backend where a node moves on after each read."""

    def read(self, query: Query, metadata: Metadata) -> Any:
        found = super().read(query, metadata)
        for data in self._graph.nodes.values():
            data["position"] = tuple(at + 10 for at in data["position"])
        return found


def test_what_moves_from_block_to_block_comes_once() -> None:
    store = GraphStore(Moving(), "w")
    store.write_columns({"id": [1], "position": [[0]]}, {"u": [1], "v": [2]})
    nodes, edges = store.read_blockwise(Roi((0,), (30,)), (10,))
    assert nodes["id"].tolist() == [1]
    assert edges["v"].tolist() == [2]


@pytest.mark.parametrize(
    ("roi", "size", "message"),
    [
        (Roi((0, None), (5, None)), (1, 1), "is unbounded: give one with an end in every axis, or use read_columns"),
        (ROI, (1,), "block_size is .* for a roi of 2 dimensions"),
        (ROI, (1, 0), "give one extent > 0 per dimension"),
        (ROI, (1, None), "give one extent > 0 per dimension"),
    ],
)
def test_blocks_need_an_end(roi: Roi, size: Any, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        small().read_blockwise(roi, size)


def test_edges_can_be_asked_for_by_nodes_in_many_forms() -> None:
    store = small()
    graph = store[Roi((5, 5), (1, 1))]
    columns, _ = store.read_columns(Roi((5, 5), (1, 1)))
    for nodes in ([2], [{"id": 2}], np.array([2]), columns, store.read_nodes(Roi((5, 5), (1, 1))), graph.subgraph([2])):
        assert store.read_edges(nodes=nodes) == [{"u": 2, "v": 3, "score": 0.25}]
    with pytest.raises(GraphError, match="has no 'id'"):
        store.read_edges(nodes=[{"size": 3}])


def test_one_attribute_is_a_list_of_one() -> None:
    with pytest.raises(GraphError, match=r"attributes of nodes are 'size': give a list, like \['size'\]"):
        small().read_columns(node_attrs="size")


def test_a_value_that_nothing_has_finds_nothing_in_any_form() -> None:
    store = small()
    nodes, edges = store.read_columns(nodes_filter={"colour": 1, "size": 10}, node_attrs=["size", "colour"])
    assert (len(nodes), len(edges), list(nodes.attrs), list(edges.attrs)) == (0, 0, ["size"], ["score"])
    nodes, edges = store.read_columns(edges_filter={"colour": 1})
    assert (len(nodes), len(edges)) == (3, 0)


def test_a_graph_is_read_with_its_positions_whatever_is_asked_for() -> None:
    store = small()
    assert store.read_graph(node_attrs=[]).nodes[1] == {"position": [0, 0]}
    assert store.read_nodes(read_attrs=["size", "size"])[0] == {"id": 1, "size": 10, "position": [0, 0]}
    assert list(store.read_columns(node_attrs=["size"])[0].attrs) == ["size"]


@pytest.mark.parametrize("workers", [0, -1, 1.5, None])
def test_blocks_need_a_thread(workers: Any) -> None:
    with pytest.raises(GraphError, match=r"num_workers is .*: it is the number of threads, at least 1"):
        small().read_blockwise(ROI, (5, 5), workers)


def test_blocks_need_a_region() -> None:
    with pytest.raises(GraphError, match="roi is None: give a region with an end in every axis"):
        small().read_blockwise(None, (5, 5))  # type: ignore[arg-type]


class Foreign:
    """A region as funlib has it."""

    def __init__(self, offset: Any, shape: Any) -> None:
        self.offset, self.shape = offset, shape


def test_what_has_an_offset_and_a_shape_is_a_region() -> None:
    store: Any = GraphStore(small().backend, "w", total_roi=Foreign((0, 0), (30, 10)))  # type: ignore[arg-type]
    assert store.total_roi == Roi((0, 0), (30, 10))
    store = small()
    here = Foreign((0, 0), [10, 10])
    for graph in (store[here], store.get_graph(here)):
        assert (list(graph.nodes), graph.roi) == ([1, 2, 3], ROI)
        assert list(graph.get_nodes_in_roi()) == [1, 2]
    assert (store.num_nodes(here), store.num_edges(here), store.has_edges(here)) == (2, 2, True)
    assert [node["id"] for node in store.read_nodes(Foreign((None, 5), (None, None)))] == [2]
    assert [edge["u"] for edge in store.read_edges(here)] == [1, 2]
    assert len(store.read_blockwise(here, (5, 5))[0]["id"]) == 2
    store.write_nodes([{"id": 1, "size": 1}, {"id": 3, "size": 1}], here, delete=True)
    assert [(node["id"], node["size"]) for node in store.read_nodes()] == [(1, 1), (3, 30)]


@pytest.mark.parametrize(
    ("region", "message"),
    [
        (Foreign((0,), (1, 2)), "can't be taken as a Roi: ranks differ"),
        (Foreign(3, None), "can't be taken as a Roi"),
        (np.zeros(3), r"a region is a Roi, but array.* is a numpy.ndarray"),
        (((0, 0), (10, 10)), r"a region is a Roi, but .* is a tuple"),
    ],
)
def test_other_regions_are_refused_with_where_they_come_from(region: Any, message: str) -> None:
    for read in (small().read_graph, small().num_nodes):
        with pytest.raises(GraphError, match=message):
            read(region)
