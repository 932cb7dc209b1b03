"""Graphs that were read know their store, and behave as those of daisy 1.x and of networkx."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import networkx as nx
import pytest

from bellis.errors import GraphError, GraphExistsError, GraphMissingError
from bellis.geometry import Coordinate, Roi
from bellis.graphs import DiGraph, Graph, GraphStore
from bellis.graphs.memory import MemoryBackend

ROI = Roi((0, 0, 0), (10, 10, 10))


def provider(backend: MemoryBackend, mode: str = "r", **options: Any) -> GraphStore:
    return GraphStore(backend, mode, **options)


def filled(*, directed: bool = False, **options: Any) -> tuple[MemoryBackend, Graph]:
    """Return the graph that daisy's tests begin with, and where it is to be stored."""
    backend = MemoryBackend()
    graph = provider(backend, "w", directed=directed, **options)[ROI]
    graph.add_node(2, comment="without position")
    graph.add_node(42, position=(1, 1, 1))
    graph.add_node(23, position=(5, 5, 5), swip="swap")
    graph.add_node(57, position=Coordinate((7, 7, 7)), zap="zip")
    graph.add_edges_from([(42, 23), (57, 23), (2, 42)])
    return backend, graph


def selected() -> MemoryBackend:
    backend = MemoryBackend()
    graph = provider(backend, "w", directed=True)[ROI]
    graph.add_node(2, position=(2, 2, 2), selected=True, test="test")
    graph.add_node(42, position=(1, 1, 1), selected=False, test="test2")
    graph.add_node(23, position=(5, 5, 5), selected=True, test="test2")
    graph.add_node(57, position=Coordinate((7, 7, 7)), selected=True, test="test")
    graph.add_edge(42, 23, selected=False, a=100, b=3)
    graph.add_edge(57, 23, selected=True, a=100, b=2)
    graph.add_edge(2, 42, selected=True, a=101, b=3)
    graph.write_nodes()
    graph.write_edges()
    return backend


def edges_of(graph: Any) -> set[frozenset[int]]:
    return set(map(frozenset, graph.edges))


# What daisy's own tests ask ----------------------------------------------------------------------------------------


def test_what_is_in_the_region_is_written_and_comes_back() -> None:
    backend, graph = filled()
    graph.write_nodes()
    graph.write_edges()
    found = provider(backend)[ROI]
    assert sorted(found.nodes) == [23, 42, 57]  # node 2 has no position
    assert edges_of(found) == {frozenset((42, 23)), frozenset((57, 23))}


def test_writing_twice_fails_if_that_is_asked() -> None:
    _, graph = filled()
    graph.write_nodes()
    graph.write_edges()
    graph.write_nodes()
    with pytest.raises(GraphExistsError, match="3 nodes are in the graph already: "):
        graph.write_nodes(fail_if_exists=True)
    with pytest.raises(GraphExistsError, match="2 edges are in the graph already: "):
        graph.write_edges(fail_if_exists=True)


def test_writing_what_is_not_there_fails_if_that_is_asked() -> None:
    _, graph = filled()
    with pytest.raises(GraphMissingError, match="3 nodes are not in the graph"):
        graph.write_nodes(fail_if_not_exists=True)
    with pytest.raises(GraphMissingError, match="2 edges are not in the graph"):
        graph.write_edges(fail_if_not_exists=True)


def test_only_the_attributes_asked_for_are_written() -> None:
    backend, graph = filled()
    graph.write_nodes(attributes=["position", "swip"])
    graph.write_edges()
    assert provider(backend)[ROI].get_nodes_in_roi() == {
        23: {"position": [5, 5, 5], "swip": "swap"},
        42: {"position": [1, 1, 1]},
        57: {"position": [7, 7, 7]},
    }


def test_a_smaller_region_can_be_written() -> None:
    backend, graph = filled()
    write_roi = Roi((0, 0, 0), (6, 6, 6))
    graph.write_nodes(roi=write_roi)
    graph.write_edges(roi=write_roi)
    found = provider(backend)[ROI]
    assert sorted(found.get_nodes_in_roi()) == [23, 42]
    assert edges_of(found) == {frozenset((42, 23)), frozenset((57, 23))}
    assert found.nodes[57] == {}


def test_nodes_and_edges_are_found_by_values() -> None:
    store = provider(selected())
    for wanted, nodes in (({"selected": True}, [2, 23, 57]), ({"selected": True, "test": "test"}, [2, 57])):
        assert sorted(node["id"] for node in store.read_nodes(ROI, attr_filter=wanted)) == nodes
    for wanted, edges in (({"selected": True}, [(2, 42), (57, 23)]), ({"selected": True, "a": 100}, [(57, 23)])):
        assert sorted((edge["u"], edge["v"]) for edge in store.read_edges(ROI, attr_filter=wanted)) == edges
        graph = store.get_graph(ROI, nodes_filter={"selected": True}, edges_filter=wanted)
        assert sorted(node for node, data in graph.nodes.data() if "position" in data) == [2, 23, 57]
        assert sorted(graph.edges) == edges


def test_some_attributes_are_read_and_updated() -> None:
    store = provider(selected(), "r+")
    graph = store.get_graph(ROI, node_attrs=["selected"], edge_attrs=["c"])
    for _, data in graph.nodes.data():
        assert set(data) == {"selected", "position"}
        data["selected"] = True
    assert all(data == {} for _, _, data in graph.edges.data())
    nx.set_edge_attributes(graph, 5, "c")
    graph.update_edge_attrs(attributes=["c"])
    graph.update_node_attrs(attributes=["selected"])
    updated = store.get_graph(ROI)
    assert all(data["selected"] and "test" in data for _, data in updated.nodes.data())
    assert all(data["c"] == 5 and "a" in data for _, _, data in updated.edges.data())


def test_attributes_can_be_unset() -> None:
    backend = selected()
    graph = provider(backend, "r+")[ROI]
    graph.update_edge_attrs(attributes=["c"], unset=True)
    graph.update_edge_attrs(attributes=["a"], unset=True)
    graph.update_node_attrs(attributes=["test", "selected"], unset=True)
    assert "test" in graph.nodes[2]
    found = provider(backend).get_graph(ROI)
    assert all(set(data) == {"position"} for _, data in found.nodes.data())
    assert all(set(data) == {"selected", "b"} for _, _, data in found.edges.data())
    with pytest.raises(GraphError, match=r"say which, like attributes=\['score'\]"):
        graph.update_node_attrs(unset=True)


def test_bare_edges_and_far_ends_are_told_apart_when_attributes_are_unset() -> None:
    backend = selected()
    store = provider(backend, "r+")
    graph = store.read_graph(Roi((2, 2, 2), (1, 1, 1)), edge_attrs=[])
    assert graph.nodes[42] == {} == graph.edges[2, 42]
    graph.update_node_attrs(attributes=["selected"], unset=True)
    graph.update_edge_attrs(attributes=["selected"], unset=True)
    assert [node["id"] for node in store.read_nodes() if "selected" in node] == [23, 42, 57]
    assert [(edge["u"], edge["v"]) for edge in store.read_edges() if "selected" in edge] == [(42, 23), (57, 23)]


def test_an_unbounded_region_has_all_that_is_placed() -> None:
    graph = provider(selected()).get_graph(Roi((None,) * 3, (None,) * 3), node_attrs=["selected"], edge_attrs=["c"])
    assert sorted(graph.nodes) == [2, 23, 42, 57]
    assert all("test" not in data and "selected" in data for _, data in graph.nodes.data())


def test_what_was_given_when_a_graph_was_made_is_found() -> None:
    backend = MemoryBackend()
    provider(backend, "w", directed=True, total_roi=ROI)
    store = provider(backend)
    assert (store.directed, store.total_roi) == (True, ROI)
    with pytest.raises(ValueError, match="directed: stored True, asked for False"):
        provider(backend, directed=False)
    with pytest.raises(ValueError, match="total_roi"):
        provider(backend, total_roi=Roi((1, 0, 0), (10, 10, 10)))


# What is ours ------------------------------------------------------------------------------------------------------


def test_graphs_are_of_networkx() -> None:
    for directed, kind, base in ((False, Graph, nx.Graph), (True, DiGraph, nx.DiGraph)):
        _, graph = filled(directed=directed)
        assert type(graph) is kind
        assert isinstance(graph, base)
        assert graph.is_directed() == directed
        assert (graph.store is not None, graph.roi) == (True, ROI)


@pytest.mark.parametrize("directed", [False, True])
def test_what_is_read_is_what_networkx_builds(*, directed: bool) -> None:
    backend, written = filled(directed=directed)
    written.add_edge(42, 42, score=1.0)
    written.add_edge(23, 99)
    store = provider(backend, "r+")
    store.write_graph(written)
    read = store.read_graph()
    made = (nx.DiGraph if directed else nx.Graph)()
    made.add_nodes_from(read.nodes.data())
    made.add_edges_from(read.edges.data())
    assert nx.utils.graphs_equal(read, made)
    assert edges_of(read) == edges_of(written)
    assert sorted(read.nodes) == sorted(written.nodes)
    read.remove_node(23)
    assert 23 not in read.adj[42]
    read.edges[42, 42]["score"] = 2.0
    assert read.adj[42][42] == {"score": 2.0}
    if directed:
        assert list(read.pred[42]) == [2, 42]


def test_copies_and_parts_know_the_store() -> None:
    backend, graph = filled()
    for part in (
        graph.copy(),
        graph.subgraph([23]),
        graph.subgraph([23]).copy(),
        copy.deepcopy(graph),
        copy.copy(graph),
    ):
        assert part.store is graph.store
        assert part.roi == ROI
    assert type(graph.copy()) is Graph
    assert pickle.loads(pickle.dumps(graph)).nodes.keys() == graph.nodes.keys()
    graph.subgraph([23]).write_nodes()
    assert [node["id"] for node in provider(backend).read_nodes()] == [23]


@pytest.mark.parametrize("directed", [False, True])
def test_components_are_graphs_of_the_same_store(*, directed: bool) -> None:
    _, graph = filled(directed=directed)
    graph.add_edge(8, 9)
    parts = graph.get_connected_components()
    assert sorted(sorted(part.nodes) for part in parts) == [[2, 23, 42, 57], [8, 9]]
    assert all(type(part) is type(graph) and part.store is graph.store for part in parts)
    assert parts[0].nodes[23] == {"position": (5, 5, 5), "swip": "swap"}


def test_nodes_in_the_region_are_those_with_a_position_there() -> None:
    backend, graph = filled()
    graph.store.write_graph(graph)  # type: ignore[union-attr]
    found = provider(backend).read_graph(Roi((5, 5, 5), (1, 1, 1)), fetch_on_v=True)
    assert sorted(found.nodes) == [23, 42, 57]
    assert list(found.get_nodes_in_roi()) == [23]
    assert list(provider(backend).read_graph().get_nodes_in_roi()) == [23, 42, 57]
    split = Graph(store=provider(MemoryBackend(), "w", position_attribute=["y", "x"]), roi=Roi((0, 0), (5, 5)))
    split.add_nodes_from([(1, {"y": 1, "x": 1}), (2, {"y": 1}), (3, {"y": 1, "x": 5}), (4, {"y": 1, "x": None})])
    assert list(split.get_nodes_in_roi()) == [1]
    assert Graph([(1, 2)]).get_nodes_in_roi() == {}


def test_what_is_gone_from_the_region_is_removed_if_that_is_asked() -> None:
    backend = selected()
    store = provider(backend, "r+")
    graph = store[Roi((0, 0, 0), (6, 6, 6))]
    graph.remove_node(2)
    graph.remove_edge(42, 23)
    graph.write_edges(delete=True)
    assert [(edge["u"], edge["v"]) for edge in store.read_edges()] == [(57, 23)]
    graph.write_nodes(delete=True)
    assert [node["id"] for node in store.read_nodes()] == [23, 42, 57]


def test_a_graph_without_a_store_says_so() -> None:
    graph = Graph([(1, 2)])
    assert graph.number_of_edges() == 1
    for write in (graph.write_nodes, graph.write_edges, graph.update_node_attrs, graph.update_edge_attrs):
        with pytest.raises(GraphError, match="this graph comes from no store: pass it to the write_graph of one"):
            write()
