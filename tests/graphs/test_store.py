"""What every store does before a backend sees it: modes, attributes that join, regions, bad input, other processes."""

from __future__ import annotations

import copy
import logging
import pickle
from typing import TYPE_CHECKING, Any

import networkx as nx
import numpy as np
import pytest

from bellis.errors import (
    GraphError,
    GraphExistsError,
    GraphMismatchError,
    GraphMissingError,
    GraphReadOnlyError,
)
from bellis.geometry import Roi
from bellis.graphs.attributes import Kind, Vec
from bellis.graphs.memory import MemoryBackend
from bellis.graphs.store import GraphStore

if TYPE_CHECKING:
    from bellis.graphs.backend import Change
    from bellis.graphs.metadata import Metadata

ROI = Roi((0, 0), (10, 10))


def made(**options: Any) -> GraphStore:
    return GraphStore(MemoryBackend(), "w", **options)


def again(store: GraphStore, mode: str = "r+", **options: Any) -> GraphStore:
    return GraphStore(store.backend, mode, **options)


def small(**options: Any) -> GraphStore:
    store = made(**options)
    store.write_columns(
        {"id": [1, 2, 3], "position": [[0, 0], [5, 5], [20, 0]], "size": [10, 20, 30]},
        {"u": [1, 2], "v": [2, 3], "score": [0.5, 0.25]},
    )
    return store


def test_a_graph_that_is_not_there_is_made_by_mode_w_alone() -> None:
    backend = MemoryBackend("nowhere")
    for mode in ("r", "r+"):
        with pytest.raises(GraphMissingError, match=r"there is no graph in memory://nowhere.*mode='w' makes one"):
            GraphStore(backend, mode)
    GraphStore(backend, "w")
    assert GraphStore(backend, "r").num_nodes() == 0


def test_mode_w_says_what_it_replaces(caplog: pytest.LogCaptureFixture) -> None:
    store = small()
    with caplog.at_level(logging.WARNING, "bellis.graphs"):
        again(store, "w", directed=True)
    assert f"mode 'w' replaces the graph in {store.backend}, which had 3 nodes and 2 edges" in caplog.text
    assert again(store).directed
    assert again(store).num_nodes() == 0


@pytest.mark.parametrize("mode", ["a", "rw", "", None])
def test_other_modes_are_refused(mode: Any) -> None:
    with pytest.raises(GraphError, match=r"is none of 'r' \(read\), 'r\+' \(read and write\) and 'w'"):
        GraphStore(MemoryBackend(), mode)


def test_nothing_is_written_through_a_store_that_reads() -> None:
    store = again(small(), "r")
    for write in (
        lambda: store.write_graph(nx.Graph()),
        lambda: store.write_nodes([]),
        lambda: store.write_edges(None, []),
        lambda: store.bulk_write_nodes([]),
        lambda: store.write_columns({"id": []}),
        lambda: store.update_nodes([]),
        lambda: store[ROI].write_nodes(),
    ):
        with pytest.raises(GraphReadOnlyError, match=r"was opened with mode='r': open it with mode='r\+'"):
            write()


def test_what_is_stored_is_taken_if_nothing_is_asked() -> None:
    store = made(directed=True, total_roi=ROI, position_attribute=["y", "x"], endpoint_names=["a", "b"])
    for mode in ("r", "r+"):
        found = again(store, mode)
        assert (found.directed, found.total_roi, found.mode) == (True, ROI, mode)
        assert (found.position_attribute, found.endpoint_names) == (["y", "x"], ["a", "b"])
    plain = made()
    assert (plain.directed, plain.total_roi, plain.position_attribute) == (False, None, "position")
    assert again(plain, position_attribute="position", endpoint_names=("u", "v"), directed=False).metadata.is_open


def test_a_graph_that_is_not_as_asked_is_refused_with_both_sides() -> None:
    store = small(directed=True)
    with pytest.raises(GraphMismatchError, match=r"(?s)directed: stored True, asked for False.*position: stored 'pos"):
        again(store, directed=False, position_attribute=["z"])
    with pytest.raises(GraphMismatchError, match="node_attrs 'size': stored int, asked for float"):
        again(store, "r", node_attrs={"size": float})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"endpoint_names": ["u"]}, "endpoint_names is .'u'.: it has to be two names"),
        ({"endpoint_names": "uv"}, "endpoint_names is 'uv'"),
        ({"total_roi": ((0,), (1,))}, "a region is a Roi"),
        ({"node_attrs": {"size": int}}, "no type for the position attribute 'position', only for 'size': add it"),
        ({"edge_attrs": {}}, "no type for the position attribute 'position', only for none"),
        ({"node_attrs": {"position": complex}}, "is no type of an attribute"),
        ({"position_attribute": ["y", "x"], "node_attrs": {"y": float}}, "position attribute 'x'"),
    ],
)
def test_what_no_graph_can_be_is_refused(options: Any, message: str) -> None:
    backend = MemoryBackend()
    with pytest.raises(GraphError, match=message):
        GraphStore(backend, "w", **options)
    assert backend.load() is None


def test_attributes_join_an_open_graph_with_the_type_of_their_first_values() -> None:
    store = made()
    other = again(store)
    store.write_nodes([{"id": 1, "position": (1, 2), "name": "a", "n": None}])
    assert store.node_attrs == {"position": Kind("int", 2), "name": Kind("str")}
    assert other.read_nodes() == [{"id": 1, "position": [1, 2], "name": "a"}]
    assert other.node_attrs == store.node_attrs
    with pytest.raises(GraphMismatchError, match="node attribute 'name' is str in this graph, but int is given"):
        other.write_nodes([{"id": 2, "name": 3}])
    with pytest.raises(GraphMismatchError, match=r"'position' is Vec\(int, 2\) in this graph, but Vec\(int, 3\) is"):
        other.write_nodes([{"id": 2, "position": (1, 2, 3)}])


def test_declared_attributes_join_an_open_graph() -> None:
    store = small()
    again(store, "r", node_attrs={"name": str})
    assert "name" not in again(store).node_attrs
    again(store, "r+", node_attrs={"name": str}, edge_attrs={"n": int})
    assert again(store).node_attrs["name"] == Kind("str")


def test_attributes_that_were_declared_are_all_there_are() -> None:
    store = made(node_attrs={"position": Vec(float, 2)})
    with pytest.raises(GraphMismatchError, match=r"no node attribute 'size', its attributes were declared.*position"):
        store.write_nodes([{"id": 1, "position": (1, 2), "size": 3}])
    with pytest.raises(GraphMismatchError, match="no edge attribute 'score'"):
        store.write_edges(None, [{"u": 1, "v": 2, "score": 0.5}])
    with pytest.raises(GraphError, match="this graph has no node attribute 'sizes'; it has 'position'"):
        store.write_nodes([{"id": 1, "position": (1, 2)}], attributes=["sizes"])
    with pytest.raises(GraphError, match=r"attributes of edges are 'score': give a list, like \['score'\]"):
        store.write_edges(None, [], attributes="score")
    store.write_nodes([{"id": 1, "position": (1, 2), "size": 3}], attributes=["position"])
    assert store.read_nodes() == [{"id": 1, "position": [1.0, 2.0]}]


class Rival(MemoryBackend):
    """A backend where, once, another process writes between what a store reads and what it saves."""

    rival: GraphStore | None = None
    value: Any = 0.5

    def save(self, metadata: Metadata, *, replace: bool = False) -> Metadata:
        if self.rival is not None:
            rival, self.rival = self.rival, None
            rival.write_nodes([{"id": 1, "weight": self.value}])
        return super().save(metadata, replace=replace)


def test_an_attribute_that_another_process_makes_at_the_same_time_is_taken_as_that_made_it() -> None:
    backend = Rival("rivals")
    store = GraphStore(backend, "w")
    backend.rival = GraphStore(MemoryBackend("rivals"))
    store.write_nodes([{"id": 2, "weight": 3}])
    assert store.read_nodes() == [{"id": 1, "weight": 0.5}, {"id": 2, "weight": 3.0}]
    backend = Rival("enemies")
    store = GraphStore(backend, "w")
    backend.rival, backend.value = GraphStore(MemoryBackend("enemies")), "text"
    with pytest.raises(GraphMismatchError, match=r"'weight' is str in this graph, but int is given"):
        store.write_nodes([{"id": 2, "weight": 3}])
    assert [node["id"] for node in store.read_nodes()] == [1]


def test_a_graph_that_somebody_removed_is_told() -> None:
    store = small()
    store.backend._graph.metadata = None  # type: ignore[attr-defined]
    with pytest.raises(GraphMissingError, match="is not there any more"):
        store.num_nodes()


@pytest.mark.parametrize(
    ("nodes", "edges", "message"),
    [
        ([{"id": -1}], None, "-1 .*is no id of a node"),
        ([{"id": 2.0}], None, "2.0 .*is no id of a node"),
        (
            [{"id": 1, "position": (np.nan, 0.0)}],
            None,
            r"1 nodes have a 'position' that is not finite: 1 at \[nan, 0.0\]",
        ),
        ([{"id": 1, "position": (0.0, np.inf)}], None, "not finite"),
        ([{"id": 1, "position": "here"}], None, "positions are int or float"),
        ([{"id": 1, "position": (1, 2, 3)}], None, "total_roi .* has 2 axes, but positions have 3"),
        ([{"id": 1, "a": 1}, {"id": 2, "a": "x"}], None, "types int and str"),
        (None, [{"u": 1, "v": True}], "True .*is no end 'v' of an edge"),
        (None, [{"u": 1, "v": 2}, {"u": 2, "v": 1}], r"1 edges are given twice: \(1, 2\)"),
        (None, [{"u": 1, "v": 2, "id": "a\0"}], "with a NUL"),
    ],
)
def test_bad_input_is_refused_and_nothing_is_lost(nodes: Any, edges: Any, message: str) -> None:
    store = made(total_roi=ROI)
    store.write_nodes([{"id": 7, "name": 'it\'s "here"'}])
    before = store.metadata
    with pytest.raises(GraphError, match=message):
        store.write_nodes(nodes) if nodes else store.write_edges(None, edges)
    assert store.read_nodes() == [{"id": 7, "name": 'it\'s "here"'}]
    assert again(store).metadata == before


def test_split_positions_are_checked_too() -> None:
    store = made(position_attribute=["y", "x"])
    with pytest.raises(GraphError, match="1 nodes have a 'x' that is not finite: 2 at nan"):
        store.write_columns({"id": [1, 2], "y": [0.0, 1.0], "x": [0.0, np.nan]})
    store.write_columns(
        {"id": [1, 2, 3], "y": [0.0, 1.0, 1.0], "x": np.ma.masked_array([0.0, 5, 6], [False, True, False])}
    )
    assert (store.num_unplaced(), store.num_nodes(ROI)) == (1, 2)


def test_regions_have_the_rank_of_positions() -> None:
    store, wrong = small(), Roi((0,), (1,))
    for call in (
        lambda: store[wrong],
        lambda: store.num_nodes(wrong),
        lambda: store.read_edges(wrong),
        lambda: store.read_blockwise(wrong, (1,)),
        lambda: store.write_nodes([], wrong),
        lambda: store.write_columns({"id": [1]}, roi=wrong, delete=True),
    ):
        with pytest.raises(GraphError, match=r"has 1 dimensions, but positions in this graph have 2"):
            call()
    with pytest.raises(GraphError, match="a region is a Roi, but 'everywhere' is a str"):
        store.read_graph("everywhere")  # type: ignore[arg-type]
    assert store.num_nodes() == 3


def test_in_a_region_is_written_what_is_in_it_by_given_and_by_stored_positions() -> None:
    store = small()
    store.write_nodes([{"id": node, "size": 1} for node in (1, 2, 3, 4)], ROI)
    assert {node["id"]: node["size"] for node in store.read_nodes()} == {1: 1, 2: 1, 3: 30}
    store.write_nodes([{"id": 3, "position": (9, 9), "size": 2}, {"id": 2, "position": (10, 9), "size": 2}], ROI)
    assert {node["id"]: node["size"] for node in store.read_nodes()} == {1: 1, 2: 1, 3: 2}
    store.write_nodes([{"id": 1, "position": None, "size": 5}], ROI)
    assert store.read_nodes()[0]["size"] == 1


def test_a_position_that_is_not_among_the_attributes_still_tells_the_place() -> None:
    store = small()
    store.write_nodes(
        [{"id": 1, "position": (50, 0), "size": 1}, {"id": 9, "position": (3, 3), "size": 9}], ROI, attributes=["size"]
    )
    assert store.read_nodes() == [
        {"id": 1, "position": [0, 0], "size": 10},
        {"id": 2, "position": [5, 5], "size": 20},
        {"id": 3, "position": [20, 0], "size": 30},
        {"id": 9, "position": [3, 3], "size": 9},
    ]


def test_positions_that_were_not_asked_for_join_only_with_nodes_that_are_new() -> None:
    store = made()
    store.write_nodes([{"id": 1}])
    store.write_nodes([{"id": 1, "position": (1, 2), "size": 1}], attributes=["size"])
    assert store.node_attrs == {"size": Kind("int")}
    store.update_nodes([{"id": 1, "position": (1, 2), "size": 2}], attributes=["size"])
    assert store.read_nodes() == [{"id": 1, "size": 2}]
    store.write_nodes([{"id": 1, "position": (1,)}, {"id": 2, "position": (3,)}], attributes=["size"])
    assert store.node_attrs["position"] == Kind("int", 1)
    assert store.read_nodes() == [{"id": 1, "size": 2}, {"id": 2, "position": [3]}]


def test_places_of_edges_have_the_rank_of_the_region() -> None:
    store = made()
    with pytest.raises(GraphError, match="has 2 dimensions, but positions in this graph have 3"):
        store.write_edges([{"id": 1, "position": (1, 2, 3)}], [{"u": 1, "v": 2}], ROI)


def test_a_float_for_what_began_as_an_integer_is_refused_with_the_cure() -> None:
    store = made()
    store.write_graph(nx.Graph([(1, 2, {"score": 1})]))
    store.write_nodes([{"id": 1, "position": (1, 2, 3), "size": 1}])
    for write, cure in (
        (lambda: store.write_columns({"id": [2], "size": [0.5]}), "node_attrs={'size': float}"),
        (lambda: store.write_nodes([{"id": 2, "position": (1.5, 2.0, 3.0)}]), "node_attrs={'position': Vec(float, 3)}"),
        (lambda: store.write_edges(None, [{"u": 1, "v": 2, "score": 0.5}]), "edge_attrs={'score': float}"),
    ):
        with pytest.raises(GraphMismatchError) as refused:
            write()
        assert f"declare {cure} when the graph is made" in str(refused.value)
    with pytest.raises(GraphMismatchError, match="convert the values, or give them another name"):
        store.write_nodes([{"id": 1, "size": "a"}])


def test_of_a_split_position_one_axis_may_be_given() -> None:
    store = made(position_attribute=["y", "x"])
    store.write_columns({"id": [1, 2], "y": [0, 50], "x": [50, 0]})
    store.write_nodes([{"id": 1, "x": 5, "n": 1}, {"id": 2, "x": 5, "n": 1}, {"id": 3, "x": 5, "n": 1}], ROI)
    assert store.read_nodes() == [{"id": 1, "y": 0, "x": 5, "n": 1}, {"id": 2, "y": 50, "x": 0}]


def test_edges_are_written_where_their_u_is() -> None:
    store = small()
    edges = [{"u": 3, "v": 1, "n": 1}, {"u": 3, "v": 4, "n": 2}, {"u": 8, "v": 9, "n": 3}, {"u": 2, "v": 9, "n": 4}]
    store.write_edges([{"id": 8, "position": (1, 1)}, {"id": 2, "position": (70, 1)}], edges, ROI)
    assert [(edge["u"], edge["v"]) for edge in store.read_edges() if "n" in edge] == [(1, 3), (8, 9)]


def test_rows_may_come_from_a_generator() -> None:
    store = made()
    store.write_nodes({"id": node, "n": node} for node in range(3))
    store.write_edges((), ({"u": 0, "v": node} for node in range(3)))
    assert (store.num_nodes(), store.num_edges()) == (3, 3)


def test_updates_leave_out_nodes_without_the_attributes_asked_for() -> None:
    store = small()
    graph = store[Roi((0, 0), (6, 6))]
    assert graph.nodes[3] == {}
    graph.add_node(99)
    nx.set_node_attributes(graph, {1: 11}, "size")
    store.update_nodes(graph.nodes, attributes=["size"])
    assert [node["size"] for node in store.read_nodes()] == [11, 20, 30]
    with pytest.raises(GraphMissingError, match="1 nodes are not in the graph: 4; nothing was written"):
        store.update_nodes([{"id": 4, "size": 1}, {"id": 1, "size": 1}])
    with pytest.raises(GraphMissingError, match="1 nodes are not in the graph: 4"):
        store.update_nodes([{"id": 4, "unheard of": None}])
    with pytest.raises(GraphMissingError, match=r"1 edges are not in the graph: \(1, 3\)"):
        store.update_edges(None, [{"u": 3, "v": 1}])
    assert store.read_nodes()[0]["size"] == 11


def test_both_failures_at_once_can_not_be_asked_for() -> None:
    with pytest.raises(GraphError, match="fail_if_exists and fail_if_not_exists were both asked for"):
        small().write_nodes([], fail_if_exists=True, fail_if_not_exists=True)


def test_what_exists_is_told_with_up_to_five_ids() -> None:
    store = made()
    store.write_columns({"id": range(9)})
    with pytest.raises(GraphExistsError, match=r"9 nodes are in the graph already: 0, 1, 2, 3, 4, ...; nothing was"):
        store.write_columns({"id": range(20)}, fail_if_exists=True)
    assert store.num_nodes() == 9


def test_bulk_writes_say_so_to_the_backend() -> None:
    seen: list[Change] = []

    class Watched(MemoryBackend):
        def write(self, change: Change, metadata: Metadata) -> None:
            seen.append(change)
            super().write(change, metadata)

    store, graph = GraphStore(Watched(), "w"), nx.Graph([(1, 2)])
    store.bulk_write_graph(graph)
    store.bulk_write_nodes(graph.nodes)
    store.bulk_write_edges(graph.nodes, graph.edges)
    store.write_columns({"id": [5]}, bulk=True)
    store.write_graph(graph)
    store.write_graph(nx.Graph())
    assert [change.is_bulk for change in seen] == [True, True, True, True, False]
    assert (store.num_nodes(), store.num_edges()) == (3, 1)


def test_a_directed_graph_in_an_undirected_store_has_each_edge_once() -> None:
    store = made()
    store.write_graph(nx.DiGraph([(2, 1)]))
    assert store.read_edges() == [{"u": 1, "v": 2}]
    with pytest.raises(GraphError, match=r"1 edges are given twice: \(1, 2\); in an undirected graph"):
        store.write_graph(nx.DiGraph([(2, 1), (1, 2)]))


def test_an_undirected_graph_has_to_be_made_directed_for_a_directed_store() -> None:
    store, graph = made(directed=True), nx.Graph([(2, 1, {"score": 0.5})])
    for write in (
        lambda: store.write_graph(graph),
        lambda: store.bulk_write_graph(graph),
        lambda: store.write_edges(None, graph.edges),
        lambda: store.write_edges(None, graph.edges(data=True)),
    ):
        with pytest.raises(GraphError, match=r"make them directed, graph.to_directed\(\) in both directions"):
            write()
    store.write_graph(graph, write_edges=False)
    assert (store.num_nodes(), store.num_edges()) == (2, 0)
    store.write_graph(graph.to_directed())
    store.write_edges(None, nx.DiGraph([(3, 1)]).edges.data())
    assert [(edge["u"], edge["v"]) for edge in store.read_edges()] == [(1, 2), (2, 1), (3, 1)]


@pytest.mark.parametrize("graph", [None, {1: {}}, [(1, 2)], nx.Graph, "graph"])
def test_what_is_no_graph_is_refused(graph: Any) -> None:
    store = small()
    for write in (store.write_graph, store.bulk_write_graph, store.write_attrs):
        with pytest.raises(GraphError, match=r"graph is \w+: give a graph of networkx; write_nodes and write_edges"):
            write(graph)
    assert store.num_nodes() == 3


def test_what_are_no_nodes_and_edges_is_refused() -> None:
    store = small()
    for write, message in (
        (lambda: store.write_nodes(None, delete=True), "nodes are NoneType: give nodes of a networkx graph, or a list"),
        (lambda: store.write_nodes(5), "nodes are int"),
        (lambda: store.bulk_write_nodes(None), "nodes are NoneType"),
        (lambda: store.write_edges(None, None, delete=True), "edges are NoneType: give edges .* read_edges returns"),
        (lambda: store.write_edges(5, []), "nodes are int"),
    ):
        with pytest.raises(GraphError, match=message):
            write()
    assert (store.num_nodes(), store.num_edges()) == (3, 2)


def test_a_store_can_be_pickled_copied_and_closed() -> None:
    with small() as store:
        twin = pickle.loads(pickle.dumps(store))
        assert twin.read_nodes() == store.read_nodes()
        assert copy.deepcopy(store) is store
        assert repr(store) == f"GraphStore({store.backend}, mode='w')"
    assert store.num_nodes() == 3
