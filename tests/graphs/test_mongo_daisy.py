"""Graphs that daisy wrote, of which nothing was declared: types that change, attributes that come late, no indices."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from bellis.errors import GraphError
from bellis.geometry import Roi
from bellis.graphs.attributes import Kind
from bellis.graphs.mongo.daisy import metadata_of_daisy
from bellis.graphs.mongo.store import MongoBackend
from bellis.graphs.store import GraphStore

if TYPE_CHECKING:
    from pymongo.database import Database

_COUNT = 50
_META = {"directed": False, "total_roi_offset": [0, 0, 0], "total_roi_shape": [_COUNT, 10, 10]}


def many_by_daisy(database: Database[dict[str, Any]]) -> None:
    """Write nodes of which those in the middle are like none of the first and the last."""
    nodes: list[dict[str, Any]] = [{"id": at, "position": [at, 0, 0], "size": 1, "score": 0} for at in range(_COUNT)]
    nodes[25].update({"position": [25.5, 0, 0], "score": 0.5, "late": "a"})
    nodes[-1].update({"last": 7, "size": 0.25})
    edges: list[dict[str, Any]] = [{"u": at, "v": at + 1, "score": 0} for at in range(_COUNT)]
    edges[30].update({"score": 0.5, "late": True})
    database["meta"].insert_one(dict(_META))
    database["nodes"].insert_many(nodes)
    database["edges"].insert_many(edges)
    database["nodes"].create_index([("id", 1)], name="id", unique=True)
    database["edges"].create_index([("u", 1), ("v", 1)], name="incident", unique=True)


def present(column: Any) -> int:
    """Return how many rows have a value."""
    return len(column) - int(np.ma.getmaskarray(column).sum())


@pytest.mark.integration
def test_whole_numbers_become_floats_and_late_attributes_join(
    backend: MongoBackend, database: Database[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bellis.graphs.mongo.store.SAMPLE", 10)
    many_by_daisy(database)
    with GraphStore(backend, "r") as store:
        known = {"position": Kind("int", 3), "size": Kind("float"), "score": Kind("int"), "last": Kind("int")}
        assert store.node_attrs == known  # as the first and the last are
        first, _ = store.read_columns(Roi((0, 0, 0), (3, 10, 10)))
        assert (first["score"].dtype.kind, first["position"].dtype.kind) == ("i", "i")
        blocks, links = store.read_blockwise(Roi((0, 0, 0), (_COUNT, 10, 10)), (10, 10, 10))
        nodes, edges = store.read_columns()
        for columns, ends in ((blocks, links), (nodes, edges)):
            assert columns["score"][25:27].tolist() == [0.5, 0.0]
            assert columns["position"][25].tolist() == [25.5, 0, 0]
            assert (columns["late"][25], present(columns["late"]), columns["last"][-1]) == ("a", 1, 7)
            assert (ends["score"][30], present(ends["late"])) == (0.5, 1)
        more = {"position": Kind("float", 3), "score": Kind("float"), "late": Kind("str")}
        assert store.num_nodes(Roi((25, 0, 0), (1, 10, 10))) == 1
        assert store.node_attrs == known | more
        assert [node["id"] for node in store.read_nodes(attr_filter={"late": "a"})] == [25]
    with GraphStore(backend, "r+") as store:  # and what is written keeps to it
        store.write_columns({"id": [1], "score": [0.25], "new": [1]})
        assert store.read_nodes(attr_filter={"score": 0.25})[0]["id"] == 1
    with GraphStore(MongoBackend(backend._connection.url, database.name), "r") as store:
        assert store.node_attrs == known | more | {"new": Kind("int")}


@pytest.mark.integration
def test_a_graph_of_daisy_that_was_extended_is_still_widened(
    backend: MongoBackend, database: Database[dict[str, Any]]
) -> None:
    database["meta"].insert_one(dict(_META))
    database["nodes"].insert_one({"id": 1, "position": [1, 2, 3], "n": 1})
    with GraphStore(backend, "r+") as store:
        store.write_columns({"id": [2], "mine": [5]})
        database["nodes"].insert_one({"id": 3, "n": 0.5, "theirs": "a"})
        assert store.read_nodes()[2] == {"id": 3, "n": 0.5, "theirs": "a"}
        store.write_columns({"id": [2], "n": [2.5], "other": [1]})
        assert str(store.node_attrs["n"]) == "float"
        database["nodes"].insert_one({"id": 4, "n": "many"})
        with pytest.raises(GraphError, match=r"node 4 has 'n' 'many'.*read other attributes"):
            store.read_nodes()
        assert store.read_nodes(read_attrs=["mine"])[1] == {"id": 2, "mine": 5}


@pytest.mark.integration
def test_it_is_said_once_what_is_left_out(
    backend: MongoBackend, database: Database[dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    database["meta"].insert_one(dict(_META))
    database["nodes"].insert_one({"id": 1, "position": [1, 2, 3], "tree": {"a": 1}})
    with caplog.at_level(logging.WARNING, "bellis.graphs"), GraphStore(backend, "r") as store:
        for _ in range(3):
            assert store.read_nodes() == [{"id": 1, "position": [1, 2, 3]}]
    assert [record.getMessage() for record in caplog.records if "'tree'" in record.getMessage()] == [
        "nodes have 'tree' in the database, which is left out: it has no one type that a graph stores"
    ]


@pytest.mark.integration
@pytest.mark.parametrize(
    ("node", "asked"),
    [
        ({"z": 1, "y": 2, "x": 3.5}, ["z", "y", "x"]),
        ({"colour": [1, 2], "loc": [1, 2.5, 3]}, "loc"),
        ({"z": 1, "y": 2, "x": 3, "position": [1, 2, 3]}, "position"),
    ],
)
def test_without_indices_documents_tell_positions_and_ends(
    backend: MongoBackend, database: Database[dict[str, Any]], node: dict[str, Any], asked: str | list[str]
) -> None:
    database["meta"].insert_one(dict(_META))
    database["nodes"].insert_many([{"id": 1, **node}, {"id": 2, "t": 1}])
    database["edges"].insert_one({"source": 1, "target": 2, "size": 5})
    for mode in ("r", "r+"):
        ends = ["source", "target"]
        with GraphStore(backend, mode, position_attribute=asked, endpoint_names=ends) as store:
            assert store.num_nodes(Roi((0, 0, 0), (5, 5, 5))) == 1
            assert store.read_edges() == [{"source": 1, "target": 2, "size": 5}]


def test_positions_have_as_many_axes_as_the_region() -> None:
    node = {"id": 1, "t": 0, "z": 1, "y": 2, "x": 3, "a": [1, 2], "b": [1.5, 2]}

    def position(shape: list[int] | None, **more: Any) -> Any:
        meta = {} if shape is None else {"total_roi_offset": [0] * len(shape), "total_roi_shape": shape}
        return metadata_of_daisy(meta, {}, [{**node, **more}], []).position

    assert position(None) == position([9] * 4) == ("t", "z", "y", "x")
    assert position([9] * 3) == ("z", "y", "x")
    assert position([9] * 2) == ("y", "x")
    assert position([9] * 2, x="left") == "a"
    assert position([9] * 5) == position(None, position=[1, 2]) == "position"
