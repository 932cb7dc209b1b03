"""Nodes and edges as columns: rows are picked, sorted and joined, and what has no value stays without."""

from __future__ import annotations

import numpy as np

from bellis.graphs.attributes import Kind
from bellis.graphs.columns import Edges, Nodes, absent, column

NODES = Nodes(
    id=np.array([5, 2**63, 1], np.uint64),
    attrs={
        "position": np.ma.masked_array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], [[0, 0], [1, 1], [0, 0]]),
        "size": np.array([7, 8, 9]),
    },
)


def test_columns_are_found_by_name() -> None:
    assert len(NODES) == 3
    assert list(NODES) == ["id", "position", "size"]
    assert NODES["id"] is NODES.id
    assert dict(NODES).keys() == {"id", "position", "size"}
    edges = Edges(u=NODES.id, v=NODES.id[::-1], attrs={"score": np.zeros(3)})
    assert list(edges) == ["u", "v", "score"]
    assert edges["v"].tolist() == [1, 2**63, 5]
    assert dict(edges)["score"].shape == (3,)


def test_rows_are_sorted_by_unsigned_ids() -> None:
    ordered = NODES.sorted()
    assert ordered.id.tolist() == [1, 5, 2**63]
    assert ordered["size"].tolist() == [9, 7, 8]
    assert absent(ordered["position"]).tolist() == [False, False, True]


def test_a_column_is_masked_only_where_something_is_missing() -> None:
    assert isinstance(NODES.select(np.array([0, 1]))["position"], np.ma.MaskedArray)
    assert type(NODES.select(np.array([True, False, True]))["position"]) is np.ndarray
    assert type(column(np.arange(3), np.zeros(3, bool))) is np.ndarray
    masked = column(np.zeros((2, 3)), np.array([True, False]))
    assert absent(masked).tolist() == [True, False]
    assert masked.shape == (2, 3)


def test_parts_are_put_together() -> None:
    joined = Nodes.concatenate([NODES.select(slice(0, 1)), NODES.select(slice(1, 3))])
    assert joined.id.tolist() == NODES.id.tolist()
    assert absent(joined["position"]).tolist() == [False, True, False]
    edges = Edges(u=np.array([3, 1], np.uint64), v=np.array([4, 2], np.uint64), attrs={"n": np.array([1, 2])})
    both = Edges.concatenate([edges, edges.select(np.array([1]))]).sorted()
    assert list(zip(both.u.tolist(), both.v.tolist(), both["n"].tolist(), strict=True)) == [(1, 2, 2)] * 2 + [(3, 4, 1)]


def test_no_rows_have_the_columns_of_their_kinds() -> None:
    nothing = Nodes.empty({"position": Kind("float", 3), "name": Kind("str")})
    assert (len(nothing), nothing["position"].shape, nothing["name"].dtype) == (0, (0, 3), object)
    assert Edges.empty({"flag": Kind("bool")})["flag"].dtype == np.bool_
