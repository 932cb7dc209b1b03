"""What graphs are in MongoDB: documents that daisy reads, and those that daisy wrote."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from bson import ObjectId

from bellis.errors import GraphError, GraphExistsError, GraphMissingError
from bellis.geometry import Roi
from bellis.graphs import Vec
from bellis.graphs.attributes import Kind
from bellis.graphs.mongo.daisy import metadata_of_daisy
from bellis.graphs.mongo.documents import changes, edge_keys, field_of, signed, unsigned
from bellis.graphs.mongo.store import MongoBackend
from bellis.graphs.store import GraphStore
from bellis.testing.graph_model import graph_of, plain
from bellis.testing.graph_stores import contents, ids, pairs

if TYPE_CHECKING:
    from pymongo.database import Database

_ROI = Roi((0, 0, 0), (10, 10, 10))


def written_by_daisy(database: Database[dict[str, Any]], *, is_split: bool = False) -> None:
    """Write a graph with the driver calls of daisy 1.0's ``MongoDbGraphProvider``."""
    axes = ["z", "y", "x"] if is_split else [f"position.{axis}" for axis in range(3)]
    database["nodes"].create_index([(axis, 1) for axis in axes], name="position")
    database["nodes"].create_index([("id", 1)], name="id", unique=True)
    database["edges"].create_index([("u", 1), ("v", 1)], name="incident", unique=True)
    database["meta"].insert_one({"directed": False, "total_roi_offset": (0, 0, 0), "total_roi_shape": (20, 20, 20)})
    for node, place in {1: (1, 2, 3), 2: (-0.5, 0.0, 0.0), 2**63 + 5: (9.5, 9.5, 9.5), 4: (10, 0, 0)}.items():
        where = dict(zip(axes, place, strict=True)) if is_split else {"position": place}
        database["nodes"].insert_one({"id": int(np.uint64(node).astype(np.int64)), "size": node % 100, **where})
    for u, v, score in ((1, 2, 0.5), (2, 4, 1), (1, 2**63 + 5, 0.25)):
        ends = {"u": u, "v": int(np.uint64(v).astype(np.int64))}
        database["edges"].insert_one({**ends, "score": score})


# Documents ---------------------------------------------------------------------------------------------------------


def test_fields_are_the_names_of_attributes_and_never_the_key() -> None:
    names = ["id", "_id", "_id_", "_id__", "_idx", "id_", "u"]
    assert len({field_of(name) for name in names}) == len(names)
    assert "_id" not in map(field_of, names)
    assert field_of("_idx") == "_idx"


def test_ids_are_stored_in_twos_complement() -> None:
    given = np.array([0, 1, 2**63 - 1, 2**63, 2**64 - 1], np.uint64)
    assert signed(given) == [0, 1, 2**63 - 1, -(2**63), -1]
    np.testing.assert_array_equal(unsigned(signed(given)), given)
    keys = edge_keys(given, given[::-1])
    assert keys == sorted(keys)
    assert keys[1] == (1).to_bytes(8, "big") + (2**63).to_bytes(8, "big")


def test_changes_set_values_and_remove_masked_ones() -> None:
    attrs = {"a": np.ma.masked_array([1, 2], [False, True]), "_id": np.array([[0.5, 1], [2, 3]])}
    assert list(changes(attrs, 2)) == [({"a": 1, "_id_": [0.5, 1.0]}, {}), ({"_id_": [2.0, 3.0]}, {"a": ""})]
    assert list(changes({}, 2)) == [({}, {}), ({}, {})]


def test_types_that_no_graph_stores_are_left_out_and_it_is_said(caplog: pytest.LogCaptureFixture) -> None:
    nodes = [
        {"_id": 1, "id": 1, "n": 1, "mixed": 1, "tree": {"a": 1}, "ragged": [1], "x": 1, "_id_": 3, "ok": [1, 0.5]},
        {"_id": 2, "id": 2, "n": 2.5, "mixed": "a", "ragged": [1, 2], "x": None, "flag": True, "ok": [1.0, 2.0]},
    ]
    with caplog.at_level(logging.WARNING, "bellis.graphs"):
        found = metadata_of_daisy(
            {"directed": True}, {"position": ["position.0"]}, nodes, [{"_id": 1, "u": 1, "v": 2, "s": "a", "list": []}]
        )
    assert found.node_attrs == {"n": Kind("float"), "x": Kind("int"), "flag": Kind("bool"), "ok": Kind("float", 2)}
    assert found.edge_attrs == {"s": Kind("str")}
    assert (found.directed, found.total_roi, found.position, found.is_open) == (True, None, "position", True)
    for name in ("mixed", "tree", "ragged", "_id_", "list"):
        assert repr(name) in caplog.text


@pytest.mark.integration
def test_documents_are_those_of_daisy(backend: MongoBackend, database: Database[dict[str, Any]]) -> None:
    with GraphStore(backend, "w", total_roi=_ROI) as store:
        nodes: dict[int, dict[str, Any]] = {2**63: {"position": [1.0, 2.0, 3.0], "size": 7}, 3: {"name": "a"}}
        store.write_graph(graph_of(nodes, {(2**63, 3): {"score": 0.5}}))
        assert list(database["nodes"].find({}, {"_id": 0}, sort=[("id", -1)])) == [
            {"id": 3, "name": "a"},
            {"id": -(2**63), "position": [1.0, 2.0, 3.0], "size": 7},
        ]
        assert list(database["edges"].find({}, {"_id": 0})) == [{"u": 3, "v": -(2**63), "score": 0.5}]
        (meta,) = database["meta"].find()
        assert (meta["directed"], meta["total_roi_offset"], meta["total_roi_shape"]) == (False, [0] * 3, [10] * 3)
        assert {document["_id"] for document in database["nodes"].find()} == {3, -(2**63)}
        keys = {name: [field for field, _ in key["key"]] for name, key in database["nodes"].index_information().items()}
        assert keys["bellis_position"] == ["position.0", "position.1", "position.2"]
        assert {"bellis_u", "bellis_v"} <= set(database["edges"].index_information())


# What daisy wrote --------------------------------------------------------------------------------------------------


@pytest.mark.integration
@pytest.mark.parametrize("is_split", [False, True])
def test_a_graph_that_daisy_wrote_is_read(
    backend: MongoBackend, database: Database[dict[str, Any]], is_split: bool
) -> None:  # fmt: skip
    written_by_daisy(database, is_split=is_split)
    with GraphStore(backend, "r") as store:
        assert store.metadata.position == (("z", "y", "x") if is_split else "position")
        assert store.total_roi == Roi((0, 0, 0), (20, 20, 20))
        assert {name: str(kind) for name, kind in store.edge_attrs.items()} == {"score": "float"}
        assert ids(store.read_nodes(_ROI)) == [1, 2**63 + 5]
        assert pairs(store.read_edges(_ROI)) == [(1, 2), (1, 2**63 + 5)]
        graph = store.read_graph(_ROI, fetch_on_v=True)
        assert graph.nodes[2]["size"] == 2
        assert {name: graph.nodes[1][name] for name in graph.nodes[1] if name != "size"} == (
            {"z": 1.0, "y": 2.0, "x": 3.0} if is_split else {"position": [1.0, 2.0, 3.0]}
        )
        assert (store.num_nodes(), store.num_edges(_ROI), store.num_unplaced()) == (4, 2, 0)
        assert ids(store.read_nodes(attr_filter={"size": 4})) == [4]
    assert set(database["meta"].find_one({}) or {}) == {"_id", "directed", "total_roi_offset", "total_roi_shape"}


@pytest.mark.integration
def test_a_graph_that_daisy_wrote_is_written_and_nothing_is_there_twice(
    backend: MongoBackend, database: Database[dict[str, Any]]
) -> None:
    written_by_daisy(database)
    keys = {node["_id"] for node in database["nodes"].find()}
    with GraphStore(backend, "r+") as store:
        new = {"position": [5.0, 5.0, 5.0], "colour": "red"}
        store.write_graph(
            graph_of({2**63 + 5: {"size": 77}, 8: new}, {(1, 2): {"score": 0.75}, (8, 1): {"score": 1.5}})
        )
        store.write_graph(graph_of({8: {"size": 8}}, {}))
        assert store.num_nodes() == 5
        nodes, edges = contents(store)
        assert nodes[2**63 + 5] == plain({"position": [9.5, 9.5, 9.5], "size": 77})
        assert nodes[8] == plain({**new, "size": 8})
        assert (edges[1, 2], edges[1, 8]) == (plain({"score": 0.75}), plain({"score": 1.5}))
        with pytest.raises(GraphExistsError, match=r"2.*nodes.* 4, 8"):
            store.write_nodes([{"id": 4}, {"id": 8}, {"id": 9}], fail_if_exists=True)
        with pytest.raises(GraphMissingError, match="9"):
            store.update_edges([], [{"u": 2, "v": 4, "score": 2.5}, {"u": 2, "v": 9, "score": 2.5}])
        assert contents(store) == (nodes, edges)
        store.write_graph(graph_of({8: {}}, {}), _ROI, delete=True)
        assert contents(store)[0].keys() == {2, 4, 8}
        assert contents(store)[1].keys() == {(2, 4)}
    left = list(database["nodes"].find())
    assert len(left) == 3
    assert {node["_id"] for node in left if isinstance(node["_id"], ObjectId)} < keys
    with GraphStore(backend, "r") as store:  # and what it is like is known now
        assert str(store.node_attrs["colour"]) == "str"


@pytest.mark.integration
def test_a_value_that_another_program_wrote_wrong_is_an_error_with_its_place(
    backend: MongoBackend, database: Database[dict[str, Any]]
) -> None:
    with GraphStore(backend, "w", node_attrs={"position": Vec(float, 2), "size": int}) as store:
        store.write_columns({"id": [5], "position": [[1, 2]], "size": [1]})
        database["nodes"].update_one({"id": 5}, {"$set": {"size": "large"}})
        with pytest.raises(GraphError, match=r"node 5 has 'size' 'large'.*int"):
            store.read_nodes()
        database["nodes"].update_one({"id": 5}, {"$set": {"size": None}})
        assert store.read_nodes() == [{"id": 5, "position": [1.0, 2.0]}]
        database["nodes"].update_one({"id": 5}, {"$set": {"position": [3]}})
        with pytest.raises(GraphError, match=r"node 5 has 'position' \[3\].*Vec\(float, 2\)"):
            store.read_nodes()


@pytest.mark.integration
def test_a_graph_that_is_removed_under_a_store_is_an_error(
    backend: MongoBackend, database: Database[dict[str, Any]]
) -> None:
    with GraphStore(backend, "w", node_attrs={"position": Vec(float, 2)}) as store:
        database["meta"].drop()
        with pytest.raises(GraphMissingError, match=database.name):
            store.write_columns({"id": [5]})
        assert database["nodes"].find_one({}) is None


@pytest.mark.integration
def test_collections_have_the_names_that_were_asked_for(url: str, database: Database[dict[str, Any]]) -> None:
    for name in ("one", "two"):
        backend = MongoBackend(url, database.name, nodes=f"{name}-n", edges=f"{name}-e", meta=f"{name}-m")
        with GraphStore(backend, "w") as store:
            store.write_columns({"id": [1 if name == "one" else 2]})
    assert set(database.list_collection_names()) == {f"{name}-{kind}" for name in ("one", "two") for kind in "nem"}
    assert [node["id"] for node in database["one-n"].find()] == [1]
