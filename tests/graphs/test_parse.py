"""Ids, values and tables: what fits comes through unchanged, what does not is told with its value."""

from __future__ import annotations

from typing import Any

import networkx as nx
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bellis.errors import GraphError, GraphMismatchError
from bellis.geometry import Coordinate
from bellis.graphs.attributes import Kind
from bellis.graphs.columns import Nodes, absent
from bellis.graphs.metadata import Metadata
from bellis.graphs.networks import edges_of, nodes_of, records
from bellis.graphs.parse import column_of, filter_of, ids_of, kind_of, ordered_ends
from bellis.graphs.tables import edges_of_table, nodes_of_table

IDS = st.integers(0, 2**64 - 1)
TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
INTS = st.integers(-(2**63), 2**63 - 1)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "bool": st.booleans() | st.booleans().map(np.bool_),
    "int": INTS | INTS.map(np.int64) | st.integers(0, 255).map(np.uint8),
    "float": st.floats() | st.floats(width=32).map(np.float32),
    "str": TEXTS | TEXTS.map(np.str_),
}


def columns_of(base: str, size: int | None) -> st.SearchStrategy[list[Any]]:
    """Draw columns of values, some of them None."""
    value = VALUES[base]
    if size is not None:
        makers = [list, tuple] if base != "int" else [list, tuple, Coordinate]
        value = st.builds(
            lambda make, parts: make(parts), st.sampled_from(makers), st.lists(value, min_size=size, max_size=size)
        )
    return st.lists(st.none() | value, max_size=6)


def same(one: Any, other: Any) -> bool:
    """Whether two values are equal, NaN with itself too."""
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other or (one != one and other != other)) and type(one) is not np.generic


@settings(max_examples=40)
@given(st.data(), st.sampled_from([*VALUES]), st.none() | st.integers(1, 3))
def test_values_of_every_kind_come_through(data: st.DataObject, base: Any, size: int | None) -> None:
    values = data.draw(columns_of(base, size))
    found = kind_of("a", [values])
    present = [value for value in values if value is not None]
    assert found == (Kind(base, size) if present else None)
    column = column_of("a", values, Kind(base, size))
    assert column.shape == (len(values), *Kind(base, size).row)
    assert absent(column).tolist() == [value is None for value in values]
    rows = records({}, {"a": column}) if values else []
    plain = [list(value) if size is not None else value for value in values if value is not None]
    assert all(map(same, [row["a"] for row in rows if row], plain))
    python = {type(each) for row in rows if row for each in (row["a"] if size else [row["a"]])}
    assert python <= {bool, int, float, str}


@given(st.lists(IDS, max_size=8))
def test_ids_of_64_bits_come_through_in_every_form(values: list[int]) -> None:
    for given_ids in (values, tuple(values), iter(values), np.array(values, np.uint64), [*map(np.uint64, values)]):
        column = ids_of(given_ids, "id")
        assert column.dtype == np.uint64
        assert column.tolist() == values
    assert ids_of(np.array(values, object), "id").tolist() == values


def test_ids_may_be_of_any_type_of_integers() -> None:
    assert ids_of(range(3), "id").tolist() == [0, 1, 2]
    assert ids_of([1, np.int8(2), np.uint64(2**63)], "id").tolist() == [1, 2, 2**63]
    assert ids_of(np.array([1, 2], np.int16), "id").tolist() == [1, 2]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([-1], r"-1 \(int\) is no id of a node: ids are integers from 0 to 2\^64 - 1"),
        ([2**64], "18446744073709551616"),
        ([1.0], r"1.0 \(float\)"),
        ([True], r"True \(bool\)"),
        ([np.bool_(1)], "bool"),
        (["7"], r"'7' \(str\)"),
        ([None], "None"),
        (np.array([-1, 3]), "-1"),
        (np.array([1.5]), "1.5"),
        (np.array([True]), "bool"),
        (np.array([[1, 2]]), r"shape \(1, 2\)"),
        (np.ma.masked_array([1, 2], [False, True]), "masked"),
    ],
)
def test_what_is_no_id_is_told_with_its_type(values: Any, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        ids_of(values, "id of a node")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([2**63], "has the value 9223372036854775808: integers are from"),
        ([-(2**63) - 1], "integers are from"),
        ([np.uint64(2**63), -1], "has the value 9223372036854775808"),
        ([[1, 2**63]], "has the value 9223372036854775808"),
        (["a\0b"], r"the text 'a\\x00b', with a NUL"),
        (["ok", "\ud800"], "lone surrogate"),
        ([["a", "\udc00"]], "lone surrogate"),
        ([1, "a"], "types int and str"),
        ([True, 1], "types bool and int"),
        ([[1], [True]], "types bool and int"),
        ([1, [1]], "type list|type int"),
        ([[1, 2], [1]], "vectors of 1 and 2 elements"),
        ([[]], r"shape \(0,\)"),
        ([np.zeros((2, 2))], r"shape \(2, 2\)"),
        ([[[1]]], "type list"),
        ([b"x"], "type bytes: a store has bool, int, float, str"),
        ([{"a": 1}], "type dict"),
        ([1j], "type complex"),
        ([object()], "type object"),
        ([np.datetime64("2020-01-01")], "type datetime64"),
    ],
)
def test_what_no_store_can_hold_is_told(values: list[Any], message: str) -> None:
    with pytest.raises(GraphError, match=f"(?s)attribute 'a'.*({message})"):
        column_of("a", values, kind_of("a", [values]))  # type: ignore[arg-type]


def test_integers_among_floats_are_floats() -> None:
    assert kind_of("a", [[1], [2.5]]) == Kind("float")
    assert kind_of("a", [[(1, 2)], [[0.5, np.float32(1)]], [np.array([1, 2])]]) == Kind("float", 2)
    assert column_of("a", [1, 2.5, None], Kind("float")).tolist() == [1.0, 2.5, None]
    with pytest.raises(GraphError, match="attribute 'a' has a value beyond float64"):
        column_of("a", [10**400], Kind("float"))


def test_undirected_ends_are_ordered_by_unsigned_ids() -> None:
    u, v = np.array([2**63, 1], np.uint64), np.array([1, 1], np.uint64)
    assert [end.tolist() for end in ordered_ends(u, v, is_directed=False)] == [[1, 1], [2**63, 1]]
    assert [end.tolist() for end in ordered_ends(u, v, is_directed=True)] == [[2**63, 1], [1, 1]]
    both = np.array([1, 2], np.uint64)
    assert ordered_ends(both, both[::-1], is_directed=True)[0].tolist() == [1, 2]
    with pytest.raises(GraphError, match=r"1 edges are given twice: \(1, 2\); in an undirected graph"):
        ordered_ends(both, both[::-1], is_directed=False)


@settings(max_examples=40)
@given(
    st.dictionaries(IDS, st.fixed_dictionaries({}, optional={"size": INTS, "name": TEXTS, "at": st.none()}), max_size=6)
)
def test_a_graph_becomes_groups_of_the_same_attributes(rows: dict[int, dict[str, Any]]) -> None:
    graph = nx.Graph()
    graph.add_nodes_from(rows.items())
    for nodes in (graph.nodes, graph.nodes.data(), rows, [{"id": node, **data} for node, data in rows.items()]):
        groups, kinds = nodes_of(nodes, Metadata(), None)
        found = {
            node: data
            for _, group in groups
            for node, data in zip(group.id.tolist(), records({"id": group.id}, group.attrs), strict=True)
        }
        expected = {
            node: {"id": node, **{k: v for k, v in data.items() if v is not None}} for node, data in rows.items()
        }
        assert found == expected
        assert set(kinds) == {name for data in rows.values() for name, value in data.items() if value is not None}
        assert len(groups) <= 8


@pytest.mark.parametrize("kind", [nx.Graph, nx.DiGraph])
@settings(max_examples=40)
@given(pairs=st.lists(st.tuples(IDS, IDS), max_size=8))
def test_edges_come_through_in_every_form(kind: Any, pairs: list[tuple[int, int]]) -> None:
    graph = kind()
    graph.add_edges_from((u, v, {"n": number}) for number, (u, v) in enumerate(pairs))
    expected = {
        (u, v) if graph.is_directed() else (min(u, v), max(u, v)): data["n"] for u, v, data in graph.edges.data()
    }
    metadata = Metadata(directed=graph.is_directed())
    listed = [{"u": u, "v": v, **data} for u, v, data in graph.edges.data()]
    mapping = {(u, v): data for u, v, data in graph.edges.data()}
    for edges in (graph.edges, graph.edges.data(), mapping, listed, graph.subgraph(list(graph)).edges):
        groups, _ = edges_of(edges, metadata, None)
        found = {
            (u, v): n
            for group in groups
            for u, v, n in zip(group.u.tolist(), group.v.tolist(), group.attrs["n"].tolist(), strict=True)
        }
        assert found == expected


def test_parallel_edges_are_given_twice() -> None:
    graph = nx.MultiGraph([(1, 2), (1, 2)])
    with pytest.raises(GraphError, match="1 edges are given twice"):
        edges_of(graph.edges, Metadata(), None)
    assert len(edges_of(nx.MultiGraph([(1, 2), (2, 3)]).edges, Metadata(), None)[0][0]) == 2


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([{"size": 1}], r"\{'size': 1\} is no node: give nodes of a networkx graph, or dicts that have 'id'"),
        ([7], "7 is no node"),
        ({7: None}, "attributes of a node are NoneType: they have to be a dict"),
        ([{"id": 1}, {"id": 1}], "1 nodes are given twice: 1; give each id once"),
        ([{"id": 1, "a.b": 1}], "'a.b' is no name of an attribute"),
        ([{"id": 1, 5: 1}], "5 is no name of an attribute"),
        ([{"id": "x"}], "'x' .*is no id of a node"),
    ],
)
def test_what_is_no_node_is_told(nodes: Any, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        nodes_of(nodes, Metadata(), None)


def test_what_is_no_edge_is_told() -> None:
    with pytest.raises(
        GraphError, match=r"\{'u': 1\} is no edge: give edges of a networkx graph, or dicts that have 'v'"
    ):
        edges_of([{"u": 1}], Metadata(), None)
    with pytest.raises(GraphError, match="end 'to' of an edge"):
        edges_of([{"from": 1, "to": -1}], Metadata(endpoints=("from", "to")), None)


def table(**columns: Any) -> tuple[Nodes, dict[str, Kind]]:
    return nodes_of_table({"id": [1, 2], **columns}, Metadata(node_attrs={"known": Kind("float")}))


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        (np.array([1, 2], np.uint8), Kind("int"), [1, 2]),
        (np.array([0.5, np.nan], np.float32), Kind("float"), [0.5, np.nan]),
        (np.array([True, False]), Kind("bool"), [True, False]),
        (np.array(["a", "日本"]), Kind("str"), ["a", "日本"]),
        (np.array([[1, 2], [3, 4]]), Kind("int", 2), [[1, 2], [3, 4]]),
        (np.array(["a", None], object), Kind("str"), ["a", None]),
        (np.ma.masked_array([1, 2], [False, True]), Kind("int"), [1, None]),
        (np.ma.masked_array(np.array(["a", "b"], object), [True, False]), Kind("str"), [None, "b"]),
        (np.ma.masked_array(["a", "b"], [True, False]), Kind("str"), [None, "b"]),
        ([(1, 2.5), None], Kind("float", 2), [[1.0, 2.5], None]),
        (pa.array([1, None]), Kind("int"), [1, None]),
        (pa.chunked_array([[1], [None]]), Kind("int"), [1, None]),
    ],
)
def test_columns_come_through_in_every_form(values: Any, kind: Kind, expected: list[Any]) -> None:
    nodes, kinds = table(a=values)
    assert kinds == {"a": kind}
    assert nodes.id.tolist() == [1, 2]
    rows = records({"id": nodes.id}, nodes.attrs)
    assert all(same(row.get("a"), value) or (row.get("a") is value) for row, value in zip(rows, expected, strict=True))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"a": [1]}, "column 'a' has 1 rows, but there are 2 nodes"),
        ({"a": np.zeros((2, 2, 2))}, r"column 'a' has the shape \(2, 2, 2\)"),
        ({"a": np.zeros((2, 0))}, r"shape \(2, 0\)"),
        ({"a": np.array(["2020-01-01"] * 2, "M8[D]")}, "column 'a' has the type datetime64"),
        ({"a": np.array([1j, 2])}, "complex128"),
        ({"a": np.array([1, 2**63], np.uint64)}, "column 'a' has the value 9223372036854775808"),
        ({"a": np.array(["x", "y\0z"])}, "with a NUL"),
        ({"known": ["a", "b"]}, "node attribute 'known' is float in this graph, but str is given"),
        ({"known": np.array([True, False])}, "node attribute 'known' is float in this graph, but bool is given"),
        ({"a.b": [1, 2]}, "'a.b' is no name"),
        ({"id": [1, 1]}, "1 nodes are given twice: 1"),
        ({"id": [[1, 2]]}, "is no id of a node"),
    ],
)
def test_columns_that_no_store_can_hold_are_told(columns: Any, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        table(**columns)


def test_an_integer_column_of_a_float_attribute_becomes_one_of_floats() -> None:
    nodes, kinds = table(known=np.array([1, 2]))
    assert kinds == {"known": Kind("float")}
    assert nodes["known"].dtype == np.float64
    with pytest.raises(GraphMismatchError):
        table(known=[True, False])


def test_a_column_without_any_value_removes_what_is_known_and_is_nothing_else() -> None:
    nodes, kinds = table(known=[None, None], other=[None, None])
    assert kinds == {"known": Kind("float")}
    assert absent(nodes["known"]).tolist() == [True, True]


def test_keys_that_are_missing_are_told_with_what_is_there() -> None:
    with pytest.raises(GraphError, match="nodes have no column 'id'; they have 'position'"):
        nodes_of_table({"position": []}, Metadata())
    with pytest.raises(GraphError, match="edges have no column 'u' and 'v'; they have none"):
        edges_of_table({}, Metadata())
    with pytest.raises(GraphError, match=r"nodes are list: give columns by name, like {'id': "):
        nodes_of_table([1, 2], Metadata())
    with pytest.raises(GraphError, match="columns 'u' and 'v' have 1 and 2 rows"):
        edges_of_table({"u": [1], "v": [1, 2]}, Metadata())


def test_arrow_tables_come_through_with_their_nulls() -> None:
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(8.0)), 2)
    given_table = pa.table(
        {
            "id": pa.array([1, 2**64 - 1, 3], pa.uint64()),
            "position": vectors.slice(1),
            "size": pa.array([1, None, 3], pa.int16()),
            "name": pa.array(["a", None, "日本"]).dictionary_encode(),
            "flag": pa.chunked_array([[True], [None, False]]),
            "list": pa.array([[1, 2], None, [3, 4]]),
            "half": pa.array(np.array([0.5, 1, 2], np.float16)),
            "nothing": pa.nulls(3),
        }
    )
    for source in (given_table, given_table.slice(0), given_table.combine_chunks().to_batches()[0]):
        nodes, kinds = nodes_of_table(source, Metadata())
        assert {name: str(kind) for name, kind in kinds.items()} == {
            "position": "Vec(float, 2)", "size": "int", "name": "str", "flag": "bool", "list": "Vec(int, 2)",
            "half": "float",
        }  # fmt: skip
        assert nodes.id.tolist() == [1, 2**64 - 1, 3]
        rows = records({}, nodes.attrs)
        assert rows[0] == {"position": [2.0, 3.0], "size": 1, "name": "a", "flag": True, "list": [1, 2], "half": 0.5}
        assert rows[1] == {"position": [4.0, 5.0], "half": 1.0}
    empty = given_table.slice(0, 0)
    assert len(nodes_of_table(empty, Metadata())[0]) == 0
    assert len(nodes_of_table(empty.schema.empty_table(), Metadata())[0]) == 0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (pa.array([0, 1], pa.timestamp("s")), "type datetime|type Timestamp"),
        (pa.array([b"x", b"y"]), "type bytes"),
        (pa.array([{"a": 1}, {"a": 2}]), "type dict"),
    ],
)
def test_arrow_columns_that_no_store_can_hold_are_told(values: Any, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        nodes_of_table(pa.table({"id": [1, 2], "a": values}), Metadata())


def test_columns_of_an_arrow_table_need_names_of_their_own() -> None:
    twice = pa.table([pa.array([1]), pa.array([1])], names=["id", "id"])
    with pytest.raises(GraphError, match="the columns of the table are id, id: each needs a name of its own"):
        nodes_of_table(twice, Metadata())


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        (np.int32(3), Kind("int"), 3),
        (3, Kind("float"), 3.0),
        (np.array([1, 2]), Kind("int", 2), (1, 2)),
        ("it's", Kind("str"), "it's"),
        (np.bool_(1), Kind("bool"), True),
    ],
)
def test_filters_have_plain_values(value: Any, kind: Kind, expected: Any) -> None:
    parsed = filter_of({"a": value}, {"a": kind}, "node")["a"]
    assert parsed == expected
    assert type(parsed) is type(expected)


@pytest.mark.parametrize("value", ["x", 1.5, True, [1], None])
def test_filters_of_another_type_are_refused(value: Any) -> None:
    with pytest.raises(GraphError, match="node attribute 'a' is"):
        filter_of({"a": value}, {"a": Kind("int")}, "node")
