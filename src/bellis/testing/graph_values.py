"""What every graph store must hold: ids, types, texts, names. And what it must refuse, leaving all as it was."""

# ruff: noqa: D102, S101  # the name of a test says what it does; a test asserts

from __future__ import annotations

from typing import Any

import networkx as nx
import numpy as np
import pytest

from bellis.errors import GraphError
from bellis.geometry import Roi
from bellis.graphs import Vec
from bellis.testing.graph_model import graph_of, plain
from bellis.testing.graph_stores import GraphStoreCase, contents, each_refused, ids, pairs

TEXTS = (
    "", " ", "it's", 'say "hi"', "`", "\\", "\\N", "\\.", "\t\n\r", "%s {0} :x $1 ?", "'; DROP TABLE nodes; --",
    "\u65e5\u672c\u8a9e", "e\u0301", "\U0001f9e0", "\u202e", "\ufeff", "NULL", "null", "nan", "x" * 5000, "$id", "a.b",
)  # fmt: skip
"""Texts that a careless store would change."""
NAMES = (
    "a b", 'a"b', "it's", "select", "from", "ID", "Id", "gr\u00f6\u00dfe", "\u4f4d\u7f6e", "a-b", ":a", "%s", "100",
    "_id", "rowid", "u", "v", "x" * 63, "[0]", "a\\b", "?", "node",
)  # fmt: skip
"""Names of attributes that a careless store would trip over."""
_BIG = (0, 1, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**63 + 1, 2**64 - 1)
_VALUES: dict[str, tuple[Any, list[Any]]] = {
    "bool": (bool, [True, False]),
    "int": (int, [0, -1, 2**63 - 1, -(2**63), 2**53 + 1]),
    "float": (float, [0.0, 0.1, -1e300, 5e-324, float("inf"), float("-inf"), float("nan"), 3.0]),
    "str": (str, list(TEXTS)),
    "Vec(bool, 2)": (Vec(bool, 2), [[True, False], [False, False]]),
    "Vec(int, 3)": (Vec(int, 3), [[1, -2, 2**62], [0, 0, 0]]),
    "Vec(float, 1)": (Vec(float, 1), [[0.1], [float("nan")]]),
    "Vec(float, 2)": (Vec(float, 2), [[0.1, float("-inf")], [3.0, 4.0]]),
    "Vec(str, 2)": (Vec(str, 2), [["", "it's"], ["\u65e5\u672c", 'a,"b"{}']]),
}


class ValueTests(GraphStoreCase):
    """Values that come back as they were, and values that are refused."""

    # What comes back ---------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("declared", [False, True])
    @pytest.mark.parametrize("kind", _VALUES)
    def test_values_of_every_type_come_back(self, kind: str, declared: bool) -> None:
        type_, values = _VALUES[kind]
        options: dict[str, Any] = {}
        if declared:
            options = {"node_attrs": {"a": type_, "position": Vec(float, 3)}, "edge_attrs": {"a": type_}}
        store = self.make(**options)
        nodes = {k: {"a": value} for k, value in enumerate(values)}
        edges = {(k, k + 1): {"a": value} for k, value in enumerate(values)}
        store.write_graph(graph_of({**nodes, len(values): {}}, edges))
        again = self.again("r")
        graph = again.read_graph()
        assert {k: plain(graph.nodes[k]) for k in nodes} == {k: plain(attrs) for k, attrs in nodes.items()}
        assert {pair: plain(graph.edges[pair]) for pair in edges} == {
            pair: plain(attrs) for pair, attrs in edges.items()
        }
        found = again.read_columns()[1]["a"]
        assert found.shape == np.shape(np.array(values))
        assert str(again.node_attrs["a"]) == kind == str(again.edge_attrs["a"])

    def test_columns_have_the_types_of_their_attributes(self) -> None:
        store = self.make()
        store.write_graph(graph_of({1: {"b": True, "i": 1, "f": 1.5, "s": "a", "v": [1.0, 2.0]}, 2: {}}, {}))
        nodes, _ = store.read_columns()
        kinds = {name: nodes[name].dtype for name in nodes}
        assert kinds == {
            "id": np.dtype(np.uint64), "b": np.dtype(bool), "i": np.dtype(np.int64), "f": np.dtype(np.float64),
            "s": np.dtype(object), "v": np.dtype(np.float64),
        }  # fmt: skip
        assert nodes["v"].shape == (2, 2)
        assert all(np.ma.getmaskarray(nodes[name])[1].all() for name in "bifsv")

    def test_numpy_scalars_and_arrays_are_values(self) -> None:
        store = self.make()
        given = {
            "b": np.True_, "i": np.uint8(200), "f": np.float32(0.5), "s": np.str_("a"), "position": np.array([1, 2.5]),
            "w": np.array([1, 2], np.int32),
        }  # fmt: skip
        graph = nx.Graph()
        graph.add_node(np.uint64(2**63), **given)
        graph.add_edge(np.int32(3), np.uint64(2**63), score=np.float64(0.25))
        store.write_graph(graph)
        expected = {"b": True, "i": 200, "f": 0.5, "s": "a", "position": [1.0, 2.5], "w": [1, 2]}
        assert contents(store) == ({2**63: plain(expected), 3: {}}, {(3, 2**63): plain({"score": 0.25})})
        node = store.read_graph().nodes[2**63]
        assert {name: type(value) for name, value in node.items()} == {
            "b": bool, "i": int, "f": float, "s": str, "position": list, "w": list,
        }  # fmt: skip

    def test_an_int_is_taken_for_a_float(self) -> None:
        store = self.make(node_attrs={"position": Vec(float, 2), "f": float})
        store.write_graph(graph_of({1: {"position": [1, 2], "f": 3}}, {}))
        store.write_columns({"id": [2], "position": np.array([[3, 4]]), "f": np.array([5])})
        assert contents(store)[0] == {
            1: plain({"position": [1.0, 2.0], "f": 3.0}),
            2: plain({"position": [3.0, 4.0], "f": 5.0}),
        }

    def test_ids_are_64_bits_without_a_sign(self) -> None:
        store = self.make(directed=True)
        chain = {(u, v): {"k": k} for k, (u, v) in enumerate(zip(_BIG, reversed(_BIG), strict=True))}
        store.write_graph(
            graph_of({node: {"position": [float(k)]} for k, node in enumerate(_BIG)}, chain, directed=True)
        )
        assert tuple(ids(store.read_nodes())) == _BIG
        assert all(type(row["id"]) is int for row in store.read_nodes())
        assert pairs(store.read_edges()) == list(zip(_BIG, reversed(_BIG), strict=True))
        assert ids(store.read_nodes(Roi((6,), (2,)))) == [2**63, 2**63 + 1]
        assert pairs(store.read_edges(nodes=[{"id": 2**63}, {"id": 2**64 - 1}])) == [(2**63, 2**31), (2**64 - 1, 0)]
        store.write_graph(graph_of({2**64 - 1: {}}, {}, directed=True), delete=True)
        assert contents(store) == ({2**64 - 1: plain({"position": [8.0]})}, {})

    def test_large_ids_are_the_larger_ends(self) -> None:
        store = self.make()
        store.write_columns(edges={"u": np.array([2**63, 2**64 - 1], np.uint64), "v": np.array([1, 2**63], np.uint64)})
        assert pairs(store.read_edges()) == [(1, 2**63), (2**63, 2**64 - 1)]
        assert store.read_graph().has_edge(2**63, 1)

    def test_integer_positions_are_exact(self) -> None:
        store, far = self.make(node_attrs={"position": Vec(int, 2)}), 2**53
        store.write_columns({"id": [1, 2, 3], "position": np.array([[far, 0], [far + 1, 0], [far + 2, 0]])})
        assert ids(store.read_nodes(Roi((far + 1, 0), (1, 1)))) == [2]
        assert store[Roi((far + 1, 0), (1, 1))].nodes[2] == {"position": [far + 1, 0]}

    def test_any_name_is_one_of_an_attribute(self) -> None:
        store = self.make(position_attribute=["it's z", 'y"'], endpoint_names=["a u", "a v"])
        values = {name: k for k, name in enumerate(NAMES)}
        graph = graph_of({1: {**values, "it's z": 0.5, 'y"': 1.5}, 2: {}}, {(1, 2): values})
        store.write_graph(graph)
        again = self.again()
        assert again.read_graph().edges[1, 2] == values
        assert again.read_graph(Roi((0, 1), (1, 1))).nodes[1] == graph.nodes[1]
        for k, name in enumerate(NAMES):
            assert ids(again.read_nodes(Roi((0, 1), (1, 1)), attr_filter={name: k})) == [1]
        assert again.read_graph(node_attrs=["a b"], edge_attrs=['a"b']).edges[1, 2] == {'a"b': 1}
        again.write_columns({"id": [1], "select": [77]})
        assert again.read_nodes()[0]["select"] == 77

    # What is refused ---------------------------------------------------------------------------------------------

    def refused(self, match: str, *writes: Any) -> None:
        """Assert that each of these writes, to a graph of one node and edge, is an error and changes nothing."""
        store = self.make(
            node_attrs={"position": Vec(float, 2), "i": int, "f": float, "s": str, "b": bool, "w": Vec(int, 2)},
            edge_attrs={"i": int, "s": str},
        )
        store.write_graph(graph_of({5: {"position": [1.0, 2.0], "i": 5, "s": "five"}}, {(5, 6): {"i": 56}}))
        before = contents(store)
        for write in writes:
            with pytest.raises(GraphError, match=match):
                write(store)
            assert contents(store) == before
        assert contents(self.again("r")) == before

    @pytest.mark.parametrize("bad", [-1, 2**64, 1.0, True, "1", None, np.float64(1), np.int64(-7)], ids=repr)
    def test_what_is_no_id_is_refused(self, bad: Any) -> None:
        graph = nx.Graph()
        graph.add_nodes_from([7, 8] if bad is None else [7, bad, 8], i=1)
        self.refused(
            "id|endpoint|end",
            lambda store: store.write_nodes([{"id": 7, "i": 1}, {"id": bad, "i": 1}]),
            lambda store: store.write_edges([], [{"u": 7, "v": 8, "i": 1}, {"u": 5, "v": bad, "i": 1}]),
            lambda store: store.write_graph(graph) if bad is not None else store.write_nodes([{"i": 1}]),
        )

    @pytest.mark.parametrize("bad", [[-1], [1.5], [True], ["1"], [[1]]], ids=repr)
    def test_what_is_no_column_of_ids_is_refused(self, bad: Any) -> None:
        self.refused(
            "id|endpoint|end",
            lambda store: store.write_columns({"id": np.array(bad), "i": [1]}),
            lambda store: store.write_columns(edges={"u": [1], "v": np.array(bad), "i": [1]}),
        )

    @pytest.mark.parametrize(
        ("name", "bad"),
        [
            ("i", 1.5), ("i", "1"), ("i", True), ("i", 2**63), ("i", [1]), ("f", "1.0"), ("f", True), ("f", 1j),
            ("s", 1), ("s", b"a"), ("s", "a\0b"), ("s", "\ud800"), ("b", 1), ("b", "True"),
            ("w", [1]), ("w", [1, 2, 3]), ("w", 1), ("w", [1.5, 2]), ("w", [1, None]), ("w", "12"), ("i", {"a": 1}),
        ],
        ids=repr,
    )  # fmt: skip
    def test_a_value_of_another_type_is_refused(self, name: str, bad: Any) -> None:
        self.refused(
            name,
            lambda store: store.write_graph(graph_of({7: {"i": 1}, 5: {"i": 6, name: bad}}, {(5, 7): {"i": 1}})),
            lambda store: store.update_nodes([{"id": 5, name: bad}]),
            lambda store: store.write_edges([], [{"u": 5, "v": 6, "i": 7}, {"u": 5, "v": 9, name: bad}]),
        )

    @pytest.mark.parametrize(
        ("name", "bad"),
        [
            ("i", [1.5, 2.5]), ("i", ["1", "2"]), ("i", [True, False]), ("i", [1, 2, 3]), ("f", ["a", "b"]),
            ("s", [1, 2]), ("s", ["a\0", "b"]), ("s", ["a", "\ud800"]), ("w", [1, 2]), ("w", [[1, 2, 3], [4, 5, 6]]),
            ("i", np.array([2**63, 1], np.uint64)), ("b", [1, 0]),
        ],
        ids=repr,
    )  # fmt: skip
    def test_a_column_of_another_type_or_length_is_refused(self, name: str, bad: Any) -> None:
        self.refused(
            name,
            lambda store: store.write_columns({"id": [7, 5], name: bad}),
            lambda store: store.write_columns({"id": [7]}, {"u": [5, 6], "v": [7, 8], name: bad}),
        )

    @pytest.mark.parametrize(
        "bad", [[float("nan"), 0], [0, float("inf")], [1.0], [1.0, 2.0, 3.0], 1.0, [0, "a"]], ids=repr
    )
    def test_a_position_that_is_none_is_refused(self, bad: Any) -> None:
        self.refused(
            "position",
            lambda store: store.write_graph(graph_of({7: {"i": 1}, 5: {"position": bad}}, {})),
            lambda store: store.write_graph(graph_of({5: {"position": bad}}, {}), Roi((0, 0), (9, 9))),
            lambda store: store.write_columns({"id": [7, 5], "position": np.array([bad, bad])}),
        )

    def test_an_axis_of_a_position_that_is_nan_is_refused(self) -> None:
        store = self.make(position_attribute=["z", "y"])
        for bad in (float("nan"), float("inf")):
            with pytest.raises(GraphError, match="y"):
                store.write_columns({"id": [1, 2], "z": [1.0, 2.0], "y": [1.0, bad]})
            with pytest.raises(GraphError, match="y"):
                store.write_graph(graph_of({1: {"z": 1.0, "y": bad}}, {}))
        assert store.num_nodes() == 0

    def test_what_is_there_twice_is_refused(self) -> None:
        self.refused(
            "7",
            lambda store: store.write_columns({"id": [7, 8, 7], "i": [1, 2, 3]}),
            lambda store: store.write_columns({"id": [9]}, {"u": [7, 7], "v": [8, 8], "i": [1, 2]}),
            lambda store: store.write_columns(edges={"u": [7, 8], "v": [8, 7], "i": [1, 2]}),
            lambda store: store.write_nodes([{"id": 7, "i": 1}, {"id": 7, "i": 2}]),
            lambda store: store.write_edges([], [{"u": 7, "v": 8}, {"u": 8, "v": 7}]),
        )

    def test_an_attribute_that_was_not_declared_is_refused(self) -> None:
        self.refused(
            "colour",
            lambda store: store.write_graph(graph_of({5: {"i": 1, "colour": 1}}, {})),
            lambda store: store.write_columns({"id": [5], "colour": [1]}),
            lambda store: store.write_columns({"id": [5], "i": [6]}, {"u": [5], "v": [6], "colour": ["red"]}),
        )

    @pytest.mark.parametrize("bad", ["", "a.b", "$a", "a\0", "\ud800", "x" * 64, 7], ids=repr)
    def test_what_is_no_name_of_an_attribute_is_refused(self, bad: Any) -> None:
        store = self.make()
        each_refused(
            GraphError,
            r".",
            lambda: store.write_graph(graph_of({1: {"a": 1, bad: 1}}, {})),
            lambda: store.write_columns({"id": [1], bad: [1]}),
            lambda: store.write_columns(edges={"u": [1], "v": [2], bad: [1]}),
        )
        assert (store.num_nodes(), store.num_edges()) == (0, 0)

    def test_a_roi_of_another_rank_is_refused_before_anything_is_written(self) -> None:
        self.refused(
            r"(?s)(2.*1|1.*2)",
            lambda store: store.write_graph(graph_of({5: {"i": 6}}, {}), Roi((0,), (9,))),
            lambda store: store.write_columns({"id": [5], "i": [6]}, roi=Roi((0,), (9,)), delete=True),
        )
