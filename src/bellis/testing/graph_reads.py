"""What every graph store must do when it is read."""

# ruff: noqa: D102, S101  # the name of a test says what it does; a test asserts

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import networkx as nx
import numpy as np
import pytest

from bellis.errors import GraphError
from bellis.geometry import Roi
from bellis.graphs import Vec
from bellis.testing.graph_model import graph_of, is_inside, rows_of, rows_of_columns
from bellis.testing.graph_stores import GraphStoreCase, contents, ids, pairs

if TYPE_CHECKING:
    from bellis.graphs.store import GraphStore

_PLACES = {1: [0.0, 0.0], 2: [-0.5, 0.0], 3: [9.999, 5.0], 4: [10.0, 5.0], 5: [5.0, 9.5]}
_ROI = Roi((0, 0), (10, 10))
"""Nodes 1, 3 and 5 are in it."""


class ReadTests(GraphStoreCase):
    """Regions, filters, edges and counts."""

    def small(self, **options: Any) -> GraphStore:
        """Make a graph of six nodes, the last without a position."""
        store = self.make(**options)
        nodes: dict[int, dict[str, Any]] = {
            node: {"position": place, "size": 10 * node, "name": "even" if node % 2 == 0 else "odd"}
            for node, place in _PLACES.items()
        }
        nodes[6] = {"size": 60, "name": "even"}
        edges = {(1, 2): 0.5, (2, 3): 0.25, (3, 4): 0.5, (3, 5): 0.75, (4, 5): 0.5, (5, 6): 0.25}
        graph = graph_of(nodes, {pair: {"score": score} for pair, score in edges.items()}, directed=store.directed)
        store.write_graph(graph)
        return store

    # Nodes in a region -------------------------------------------------------------------------------------------

    def test_a_region_is_half_open_and_no_float_is_cut(self) -> None:
        store = self.small()
        assert ids(store.read_nodes(_ROI)) == [1, 3, 5]
        assert ids(store.read_nodes(Roi((-1, 0), (1, 1)))) == [2]
        assert ids(store.read_nodes(Roi((10, 5), (1, 1)))) == [4]

    def test_an_empty_region_has_nothing(self) -> None:
        store = self.small()
        assert store.read_nodes(Roi((0, 0), (0, 10))) == []
        assert store.num_nodes(Roi((0, 0), (10, 0))) == 0
        assert store.num_edges(Roi((0, 0), (0, 0))) == 0

    @pytest.mark.parametrize(
        ("roi", "expected"),
        [
            (Roi((None, None), (None, None)), [1, 2, 3, 4, 5]),
            (Roi((0, None), (None, None)), [1, 3, 4, 5]),
            (Roi((None, 5), (None, 1)), [3, 4]),
            (Roi((5, 0), (None, 6)), [3, 4]),
        ],
    )
    def test_a_region_may_be_unbounded(self, roi: Roi, expected: list[int]) -> None:
        store = self.small()
        assert ids(store.read_nodes(roi)) == expected
        assert store.num_nodes(roi) == len(expected)

    def test_nodes_without_a_position_are_in_no_region_and_are_counted(self) -> None:
        store = self.small()
        assert 6 not in ids(store.read_nodes(Roi((None, None), (None, None))))
        assert ids(store.read_nodes()) == [1, 2, 3, 4, 5, 6]
        assert store.num_unplaced() == 1
        assert (store.num_nodes(), store.num_nodes(_ROI)) == (6, 3)

    @pytest.mark.parametrize("dims", [1, 2, 3, 4])
    @pytest.mark.parametrize("is_split", [False, True])
    def test_positions_have_any_number_of_axes(self, dims: int, is_split: bool) -> None:
        names = ["t", "z", "y", "x"][-dims:]
        store = self.make(position_attribute=names if is_split else "position")
        places = list(itertools.product([-1.0, 0.0, 2.5], repeat=dims))
        split = {name: [place[axis] for place in places] for axis, name in enumerate(names)}
        store.write_columns({"id": range(len(places)), **(split if is_split else {"position": places})})
        for roi in (Roi((0,) * dims, (2,) * dims), Roi((0,) * dims, (3, *(None,) * (dims - 1)))):
            expected = [k for k, place in enumerate(places) if is_inside(place, roi)]
            assert ids(store.read_nodes(roi)) == expected
            assert store.num_nodes(roi) == len(expected)

    def test_in_one_dimension_a_position_may_be_a_number(self) -> None:
        store = self.make(node_attrs={"position": float})
        store.write_columns({"id": [1, 2, 3], "position": [0.5, 1.0, -0.5]})
        assert ids(store.read_nodes(Roi((0,), (1,)))) == [1]
        assert store[Roi((0,), (1,))].nodes[1] == {"position": 0.5}

    def test_a_region_of_another_rank_is_refused_with_both(self) -> None:
        store = self.small()
        for call in (store.read_graph, store.read_nodes, store.read_edges, store.num_nodes, store.num_edges):
            with pytest.raises(GraphError, match=r"(?s)(2.*3|3.*2)"):
                call(Roi((0, 0, 0), (1, 1, 1)))

    @pytest.mark.slow
    def test_among_many_nodes_a_region_has_those_that_are_in_it(self) -> None:
        store, random = self.make(), np.random.default_rng(5)
        places = np.round(random.uniform(-100, 100, (self.many, 3)), 1)
        u, v = random.permutation(self.many), random.permutation(self.many)
        edges = np.unique(np.sort(np.stack([u, v]), axis=0), axis=1)
        store.write_columns({"id": np.arange(self.many), "position": places, "size": np.arange(self.many) % 7})
        store.write_columns(edges={"u": edges[0], "v": edges[1], "weight": (edges[0] + edges[1]) / 2})
        for offset, shape in (((-100,) * 3, (200,) * 3), ((-7, -50, 3), (40, 90, 60)), ((0, 0, 0), (1, 200, 200))):
            roi = Roi(offset, shape)
            inside = np.all((places >= offset) & (places < np.add(offset, shape)), axis=1)
            nodes, found = store.read_columns(roi)
            np.testing.assert_array_equal(nodes.id, np.flatnonzero(inside))
            np.testing.assert_array_equal(nodes["position"], places[inside])
            assert pairs(found) == sorted(map(tuple, edges.T[inside[edges[0]]].tolist()))
            assert (store.num_nodes(roi), store.num_edges(roi)) == (inside.sum(), inside[edges[0]].sum())
            assert store.num_nodes() == self.many

    # Edges -------------------------------------------------------------------------------------------------------

    def test_an_edge_belongs_to_the_region_of_its_u(self) -> None:
        store = self.small(directed=True)
        assert pairs(store.read_edges(_ROI)) == [(1, 2), (3, 4), (3, 5), (5, 6)]
        assert pairs(store.read_edges(Roi((-1, 0), (1, 1)))) == [(2, 3)]
        assert store.num_edges(_ROI) == 4

    def test_an_edge_that_leaves_the_region_comes_with_a_bare_far_end(self) -> None:
        store = self.small()
        graph = store[_ROI]
        assert set(graph.nodes) == {1, 2, 3, 4, 5, 6}
        assert graph.nodes[2] == {} == graph.nodes[4]
        assert graph.nodes[1] == {"position": [0.0, 0.0], "size": 10, "name": "odd"}
        assert graph.edges[1, 2] == {"score": 0.5}
        nodes, edges = store.read_columns(_ROI)
        assert ids(nodes) == [1, 3, 5]
        assert pairs(edges) == [(1, 2), (3, 4), (3, 5), (5, 6)]

    def test_the_other_ends_come_with_their_attributes_if_that_is_asked(self) -> None:
        store = self.small()
        graph = store.read_graph(_ROI, fetch_on_v=True)
        assert set(map(frozenset, graph.edges)) == set(map(frozenset, [(1, 2), (2, 3), (3, 4), (3, 5), (4, 5), (5, 6)]))
        assert {node: attrs["size"] for node, attrs in graph.nodes(data=True)} == {k: 10 * k for k in range(1, 7)}
        assert "position" not in graph.nodes[6]
        assert ids(store.read_columns(_ROI, fetch_on_v=True)[0]) == [1, 2, 3, 4, 5, 6]
        assert pairs(store.read_edges(Roi((10, 5), (1, 1)), fetch_on_v=True)) == [(3, 4), (4, 5)]

    def test_an_undirected_edge_is_there_once_and_from_the_smaller_id(self) -> None:
        store = self.make(directed=False, total_roi=_ROI)
        store.write_columns(
            {"id": [7, 3], "position": [[1, 1], [20, 20]]}, {"u": [7], "v": [3], "score": [0.5]}
        )  # fmt: skip
        store.write_columns(edges={"u": [3], "v": [7], "more": [1]})
        assert contents(store)[1] == {(3, 7): {"score": "float 0.5", "more": "int 1"}}
        assert store.num_edges(Roi((0, 0), (10, 10))) == 0
        assert store.num_edges(Roi((20, 20), (1, 1))) == 1

    def test_directed_edges_go_both_ways(self) -> None:
        store = self.make(directed=True)
        store.write_graph(graph_of({}, {(7, 3): {"score": 1.0}, (3, 7): {"score": 2.0}}, directed=True))
        graph = store.read_graph()
        assert graph.is_directed()
        assert isinstance(graph, nx.DiGraph)
        assert [graph.edges[pair]["score"] for pair in [(7, 3), (3, 7)]] == [1.0, 2.0]

    @pytest.mark.parametrize("directed", [False, True])
    def test_an_edge_may_go_from_a_node_to_itself(self, directed: bool) -> None:
        store = self.make(directed=directed)
        store.write_columns({"id": [4], "position": [[1, 1]]}, {"u": [4], "v": [4], "score": [0.5]})
        assert pairs(store.read_edges(_ROI, fetch_on_v=True)) == [(4, 4)]
        assert store.read_graph(_ROI).edges[4, 4] == {"score": 0.5}

    def test_an_edge_whose_u_is_no_node_is_in_no_region(self) -> None:
        store = self.make(total_roi=_ROI)
        store.write_columns({"id": [5], "position": [[1, 1]], "size": [1]}, {"u": [2, 3], "v": [5, 4]})
        anywhere = Roi((None, None), (None, None))
        assert pairs(store.read_edges()) == [(2, 5), (3, 4)]
        assert store.num_edges() == 2
        assert store.read_edges(anywhere) == []
        assert pairs(store.read_edges(anywhere, fetch_on_v=True)) == [(2, 5)]
        assert pairs(store.read_columns(nodes_filter={"size": 1})[1]) == []
        assert rows_of(store.read_graph())[0].keys() == {2, 3, 4, 5}
        assert set(store.read_graph(anywhere, fetch_on_v=True).nodes) == {2, 5}

    def test_edges_can_be_asked_for_by_nodes(self) -> None:
        store = self.small()
        assert pairs(store.read_edges(nodes=store.read_nodes(_ROI))) == [(1, 2), (3, 4), (3, 5), (5, 6)]
        assert pairs(store.read_edges(nodes=[{"id": 2}, {"id": 4}])) == [(2, 3), (4, 5)]
        assert store.read_edges(nodes=[]) == []
        some = store.read_edges(nodes=[{"id": 3}], attr_filter={"score": 0.75}, read_attrs=["score"])
        assert some == [{"u": 3, "v": 5, "score": 0.75}]

    def test_a_region_tells_whether_it_has_edges(self) -> None:
        store = self.small()
        assert store.has_edges()
        assert store.has_edges(_ROI)
        assert not store.has_edges(Roi((100, 100), (5, 5)))

    def test_the_ends_of_edges_have_the_names_that_were_asked_for(self) -> None:
        store = self.make(endpoint_names=["from", 'to "there"'])
        store.write_columns(edges={"from": [1], 'to "there"': [2], "u": [3], "v": ["x"]})
        assert self.again("r").read_edges() == [{"from": 1, 'to "there"': 2, "u": 3, "v": "x"}]

    # Filters and attributes --------------------------------------------------------------------------------------

    def test_a_filter_of_nodes_narrows_nodes_and_their_edges(self) -> None:
        store = self.small()
        nodes, edges = store.read_columns(nodes_filter={"name": "even"})
        assert ids(nodes) == [2, 4, 6]
        assert pairs(edges) == [(2, 3), (4, 5)]
        nodes, edges = store.read_columns(_ROI, nodes_filter={"name": "odd", "size": 30})
        assert ids(nodes) == [3]
        assert pairs(edges) == [(3, 4), (3, 5)]

    def test_a_filter_of_edges_narrows_edges_alone(self) -> None:
        store = self.small()
        nodes, edges = store.read_columns(_ROI, edges_filter={"score": 0.5})
        assert ids(nodes) == [1, 3, 5]
        assert pairs(edges) == [(1, 2), (3, 4)]

    def test_with_both_ends_a_filter_of_nodes_is_met_by_one_end(self) -> None:
        store = self.small()
        nodes, edges = store.read_columns(nodes_filter={"size": 30}, edges_filter={"score": 0.5}, fetch_on_v=True)
        assert pairs(edges) == [(3, 4)]
        assert ids(nodes) == [3, 4]

    def test_vectors_bools_and_texts_can_be_filtered(self) -> None:
        store = self.make()
        texts = ["it's", 'a "b"', "\u65e5\u672c", "%", "$x", ""]
        columns = {"id": range(6), "name": texts, "flag": [True, False] * 3, "vec": [[k // 2, 0] for k in range(6)]}
        store.write_columns(columns)
        for k, text in enumerate(texts):
            assert ids(store.read_nodes(attr_filter={"name": text})) == [k]
        assert ids(store.read_nodes(attr_filter={"flag": False})) == [1, 3, 5]
        assert ids(store.read_nodes(attr_filter={"vec": [1, 0]})) == [2, 3]
        assert ids(store.read_nodes(attr_filter={"vec": (1, 0), "flag": True})) == [2]

    def test_a_filter_is_not_met_where_there_is_no_value(self) -> None:
        store = self.make()
        store.write_columns({"id": [1, 2, 3], "size": np.ma.masked_array([0, 0, 1], [False, True, False])})
        assert ids(store.read_nodes(attr_filter={"size": 0})) == [1]

    def test_only_the_attributes_that_are_asked_for_come(self) -> None:
        store = self.small()
        graph = store.read_graph(_ROI, node_attrs=["size"], edge_attrs=[])
        assert {node: attrs.get("size") for node, attrs in graph.nodes(data=True) if attrs} == {1: 10, 3: 30, 5: 50}
        assert "name" not in graph.nodes[1]
        assert graph.edges[1, 2] == {}
        assert set(store.read_columns(_ROI, node_attrs=["name"], edge_attrs=["score"])[1]) == {"u", "v", "score"}
        assert "size" not in store.read_nodes(_ROI, read_attrs=["name"])[0]

    def test_unknown_attributes_of_an_open_graph_are_not_there(self) -> None:
        store = self.small()
        assert store.read_nodes(attr_filter={"colour": "red"}) == []
        assert store.read_edges(attr_filter={"colour": "red"}) == []
        assert store.read_graph(node_attrs=["colour", "size"]).nodes[6] == {"size": 60}
        assert store.num_nodes() == 6

    def test_unknown_attributes_of_a_declared_graph_are_refused_with_those_that_are_known(self) -> None:
        store = self.make(node_attrs={"position": Vec(float, 2), "size": int}, edge_attrs={"score": float})
        for options in ({"nodes_filter": {"colour": 1}}, {"node_attrs": ["colour"]}):
            with pytest.raises(GraphError, match=r"(?s)colour.*size"):
                store.read_graph(**options)
        for options in ({"edges_filter": {"colour": 1}}, {"edge_attrs": ["colour"]}):
            with pytest.raises(GraphError, match=r"(?s)colour.*score"):
                store.read_graph(**options)

    def test_edges_are_left_out_if_that_is_asked(self) -> None:
        store = self.small()
        graph = store.read_graph(_ROI, read_edges=False)
        assert set(graph.nodes) == {1, 3, 5}
        assert graph.number_of_edges() == 0
        assert len(store.read_columns(_ROI, read_edges=False)[1]) == 0

    # Other ways to read ------------------------------------------------------------------------------------------

    def test_what_is_read_is_in_order(self) -> None:
        store = self.make(directed=True)
        big = [2**64 - 1, 5, 2**63, 0, 2**63 - 1]
        store.write_columns({"id": np.array(big, np.uint64)}, {"u": [9, 1, 9, 1], "v": [1, 9, 0, 2]})
        assert ids(store.read_nodes()) == sorted(big)
        assert pairs(store.read_edges()) == [(1, 2), (1, 9), (9, 0), (9, 1)]

    def test_all_ways_to_read_agree(self) -> None:
        store = self.small()
        graph = store[_ROI]
        assert rows_of(store.get_graph(_ROI)) == rows_of(graph) == rows_of(store.read_graph(_ROI))
        nodes, edges = rows_of_columns(*store.read_columns(_ROI))
        assert {node: attrs for node, attrs in rows_of(graph)[0].items() if attrs} == nodes
        assert rows_of(graph)[1] == edges
        assert store.read_edges(_ROI)[0] == {"u": 1, "v": 2, "score": 0.5}
        assert store.read_nodes(_ROI)[0] == {"id": 1, "position": [0.0, 0.0], "size": 10, "name": "odd"}

    @pytest.mark.parametrize("workers", [1, 2])
    def test_read_by_blocks_is_read_at_once(self, workers: int) -> None:
        store = self.small()
        for roi, size in ((_ROI, (4, 3)), (Roi((-3, -3), (20, 20)), (7, 20))):
            assert rows_of_columns(*store.read_blockwise(roi, size, workers)) == rows_of_columns(
                *store.read_columns(roi)
            )

    def test_connected_components_are_graphs(self) -> None:
        store = self.make()
        store.write_graph(graph_of({k: {"size": k} for k in range(6)}, {(0, 1): {}, (1, 2): {}, (4, 5): {}}))
        found = store.get_connected_components()
        assert sorted(sorted(graph.nodes) for graph in found) == [[0, 1, 2], [3], [4, 5]]
        assert all(graph.nodes[node] == {"size": node} for graph in found for node in graph.nodes)
        assert sorted(sorted(part.nodes) for part in store.read_graph().get_connected_components()) == [
            [0, 1, 2],
            [3],
            [4, 5],
        ]

    def test_an_empty_graph_can_be_read(self) -> None:
        store = self.make()
        assert store.read_graph().number_of_nodes() == 0
        assert (store.read_nodes(), store.read_edges()) == ([], [])
        assert (store.num_nodes(), store.num_edges(), store.num_unplaced(), store.has_edges()) == (0, 0, 0, False)
        assert contents(store) == ({}, {})
        fixed = self.make("fixed", node_attrs={"position": Vec(float, 2), "size": int})
        nodes, edges = fixed.read_columns(_ROI)
        assert (nodes["position"].shape, nodes["size"].dtype, len(edges)) == ((0, 2), np.dtype(np.int64), 0)
