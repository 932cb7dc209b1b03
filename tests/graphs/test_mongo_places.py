"""Where graphs in MongoDB are: names, several in one database, what is not a graph's, URLs and their secrets."""

from __future__ import annotations

import pickle
import socket
import threading
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from bellis.errors import GraphError, GraphMismatchError, GraphMissingError, GraphServerError
from bellis.graphs import open_graph
from bellis.graphs.mongo.connection import DEFAULTS, without_credentials
from bellis.graphs.mongo.store import MongoBackend
from bellis.graphs.store import GraphStore
from bellis.testing.graph_stores import ids

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pymongo.database import Database


@pytest.fixture
def place(url: str, database: Database[dict[str, Any]]) -> str:
    before, question, options = url.partition("?")
    return f"{before.rstrip('/')}/{database.name}{question}{options}"


# What is not of a graph --------------------------------------------------------------------------------------------


@pytest.mark.integration
@pytest.mark.parametrize("name", ["cells", "contacts", "meta"])
def test_documents_that_are_of_no_graph_are_never_replaced(
    place: str, database: Database[dict[str, Any]], name: str
) -> None:
    database[name].insert_one({"patient": 7})
    with pytest.raises(GraphError, match=f"has a collection '{name}' already, that is not of this graph: pass other"):
        open_graph(place, "w", nodes="cells", edges="contacts")
    with pytest.raises(GraphMissingError, match=r"there is no graph in .*'cells' and 'contacts'"):
        open_graph(place, "r", nodes="cells", edges="contacts")
    assert database.list_collection_names() == [name]
    assert database[name].count_documents({"patient": 7}) == 1


@pytest.mark.integration
def test_documents_beside_a_graph_of_daisy_are_not_its_own(place: str, database: Database[dict[str, Any]]) -> None:
    database["meta"].insert_one({"directed": True})
    database["nodes"].insert_one({"id": 1, "position": [1, 2, 3]})
    database["edges"].insert_one({"u": 1, "v": 2})
    database["cells"].insert_one({"patient": 7})
    database["contacts"].insert_one({"name": "A"})
    for nodes, edges in (("cells", "edges"), ("nodes", "contacts"), ("cells", "contacts"), ("typo", "edges")):
        with pytest.raises(GraphMissingError):
            open_graph(place, "r", nodes=nodes, edges=edges)
    with pytest.raises(GraphError, match="'cells' and 'contacts' already"):
        open_graph(place, "w", nodes="cells", edges="contacts")
    with open_graph(place, "w", directed=False) as store:
        assert store.num_nodes() == 0
    assert [document["directed"] for document in database["meta"].find()] == [False]
    assert database["cells"].count_documents({}) == 1


@pytest.mark.integration
def test_a_graph_that_was_half_replaced_is_no_graph_and_can_be_made_again(
    place: str, database: Database[dict[str, Any]]
) -> None:
    with open_graph(place, "w", nodes="cells", edges="contacts") as store:
        store.write_columns({"id": [1]})
        catalogue = MongoBackend.at(place, nodes="cells", edges="contacts")._catalogue
        old = catalogue.find(database)
        assert old is not None
        catalogue.clear(database, old)
        database["cells"].insert_one({"id": 7})  # as if it had not come so far
        with pytest.raises(GraphMissingError, match=r"gone|removed"):
            store.write_columns({"id": [1]})
    with pytest.raises(GraphMissingError):
        open_graph(place, "r+", nodes="cells", edges="contacts")
    with open_graph(place, "w", nodes="cells", edges="contacts") as store:
        store.write_columns({"id": [2]})
        assert database["meta"].count_documents({}) == 1


# Several graphs ----------------------------------------------------------------------------------------------------


@pytest.mark.integration
def test_graphs_of_one_database_keep_to_themselves(place: str, database: Database[dict[str, Any]]) -> None:
    with open_graph(place, "w", directed=True) as store:
        store.write_columns({"id": [1]})
    with open_graph(place, "w", nodes="cells", edges="contacts", endpoint_names=["a", "b"]) as store:
        store.write_columns({"id": [2, 3]})
    first = database["meta"].find_one({})
    assert first is not None
    assert (first["_id"], first["directed"], database["meta"].count_documents({})) == ("graph", True, 2)
    with open_graph(place, "r") as one, open_graph(place, "r", nodes="cells", edges="contacts") as two:
        assert (one.directed, one.endpoint_names, ids(one.read_nodes())) == (True, ["u", "v"], [1])
        assert (two.directed, two.endpoint_names, ids(two.read_nodes())) == (False, ["a", "b"], [2, 3])
        with open_graph(place, "w"):
            pass
        assert (one.num_nodes(), two.num_nodes()) == (0, 2)
    for mode in ("r", "r+"):
        with pytest.raises(GraphMissingError, match="'typo'"):
            open_graph(place, mode, nodes="typo")


@pytest.mark.integration
def test_collections_of_another_graph_are_not_taken(place: str) -> None:
    with open_graph(place, "w", nodes="cells", edges="contacts") as store:
        store.write_columns({"id": [2, 3]})
        for mode in ("r", "r+", "w"):
            with pytest.raises(GraphMismatchError, match="has its edges in 'contacts', not in 'edges': pass edges="):
                open_graph(place, mode, nodes="cells")
        for names in ({"edges": "contacts"}, {"edges": "cells"}, {"nodes": "contacts"}):
            with pytest.raises(GraphMismatchError, match="is of the graph with the collections 'cells' and 'contacts'"):
                open_graph(place, "w", **names)  # type: ignore[arg-type]
        assert store.num_nodes() == 2


@pytest.mark.integration
def test_two_graphs_that_daisy_described_once_are_both_opened(place: str, database: Database[dict[str, Any]]) -> None:
    database["meta"].insert_one({"directed": True})
    for nodes, edges in (("nodes", "edges"), ("cells", "contacts")):
        database[nodes].insert_one({"id": 1, "position": [1, 2, 3]})
        database[edges].insert_one({"u": 1, "v": 2})
    for names in ({}, {"nodes": "cells", "edges": "contacts"}):
        with open_graph(place, "r+", **names) as store:  # type: ignore[arg-type]
            store.write_columns({"id": [1, 2], "".join(names) or "size": [5, 6]})
    for names in ({}, {"nodes": "cells", "edges": "contacts"}):
        with open_graph(place, "r", **names) as store:  # type: ignore[arg-type]
            assert list(store.node_attrs) == ["position", "".join(names) or "size"]
            assert (store.directed, store.num_nodes()) == (True, 2)


# Places and secrets ------------------------------------------------------------------------------------------------


def test_credentials_are_not_shown() -> None:
    url = "mongodb://me:se%2Fcret@127.0.0.1:1,127.0.0.1:2/graphs?authSource=admin&serverSelectionTimeoutMS=50"
    backend = MongoBackend.at(url)
    assert str(backend) == "mongodb://127.0.0.1:1,127.0.0.1:2/graphs"
    assert "cret" not in f"{backend!r} {backend}"
    with pytest.raises(GraphServerError) as failed:
        GraphStore(backend, "r")
    assert "cret" not in str(failed.value)
    assert str(pickle.loads(pickle.dumps(backend))) == str(backend)
    for bad in (
        "mongodb://me:se?cr/et@127.0.0.1:99999999/graphs",
        "mongodb://me:secret@:/x",
        "mongodb://a:secret@h:p/x",
        "mongodb://me:se/cret@h/x",
        "mongodb://me:1/cret@h/x",
        "mongodb://me:1?cret@h/x",
        "mongodb://me:se@cret@h/x",
        "mongodb://me:se:cret@h/x",
    ):
        with pytest.raises(GraphError, match=r"can't be read.*percent-encoded") as refused:
            GraphStore(MongoBackend(bad, "graphs"), "r")
        assert "cret" not in str(refused.value)
        assert str(refused.value).startswith("the URL of MongoDB can't be read: write it like")


def test_a_short_password_does_not_change_what_is_said() -> None:
    with pytest.raises(GraphServerError) as failed:
        open_graph("mongodb://u:p@127.0.0.1:1/graphs?serverSelectionTimeoutMS=50", "r")
    assert "Topology Description" in str(failed.value)
    assert "u:p@" not in str(failed.value)
    assert without_credentials("mongodb://u:p@[::1]:27017,h/x?appName=me@home") == "mongodb://[::1]:27017,h"


@contextmanager
def forwarded(port: int) -> Iterator[tuple[int, threading.Event]]:
    """Pass connections on to a server, until an event is set; then nothing is answered any more."""
    is_silent = threading.Event()
    threads: list[threading.Thread] = []
    sockets: list[socket.socket] = []

    def passing(source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                if not is_silent.is_set():
                    target.sendall(data)
        except OSError:
            pass

    def accepting() -> None:
        while True:
            try:
                here, _ = listener.accept()
            except OSError:
                return
            there = socket.create_connection(("127.0.0.1", port))
            sockets.extend((here, there))
            for pair in ((here, there), (there, here)):
                threads.append(threading.Thread(target=passing, args=pair))
                threads[-1].start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        acceptor = threading.Thread(target=accepting)
        acceptor.start()
        try:
            yield listener.getsockname()[1], is_silent
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            acceptor.join()
            for one in sockets:
                with closing(one):
                    try:
                        one.shutdown(socket.SHUT_RDWR)
                    except OSError:
                        continue
            for thread in threads:
                thread.join()


@pytest.mark.integration
@pytest.mark.slow
@pytest.mark.timeout(60)
def test_a_server_that_falls_silent_is_an_error(database: Database[dict[str, Any]]) -> None:
    assert DEFAULTS["socketTimeoutMS"] == 120_000
    _, port = database.client.address or ("", 0)
    with forwarded(port) as (near, is_silent):
        options = "directConnection=true&socketTimeoutMS=200&connectTimeoutMS=200&serverSelectionTimeoutMS=500"
        with open_graph(f"mongodb://127.0.0.1:{near}/{database.name}?{options}", "w") as store:
            store.write_columns({"id": [1]})
            is_silent.set()
            for ask in (store.num_nodes, lambda: store.write_columns({"id": [2]})):
                with pytest.raises(GraphServerError, match=str(near)):
                    ask()
        with pytest.raises(GraphServerError, match=str(near)):
            open_graph(f"mongodb://127.0.0.1:{near}/{database.name}?{options}", "r")


@pytest.mark.parametrize("name", ["", "a b", "a.b", "a/b", "$a", "a\0", "x" * 64])
def test_names_that_mongodb_does_not_take_are_refused(name: str) -> None:
    with pytest.raises(GraphError, match="name of a database"):
        MongoBackend("mongodb://localhost", name)


def test_collections_need_names_of_their_own() -> None:
    with pytest.raises(GraphError, match="a collection each"):
        MongoBackend("mongodb://localhost", "a", nodes="x", edges="x")
    with pytest.raises(GraphError, match=r"system\."):
        MongoBackend("mongodb://localhost", "a", nodes="system.x")


def test_a_url_has_to_name_a_database_and_no_chunks() -> None:
    for url in ("mongodb://h:1/a-b", "mongodb://me:p%2Fw@h:1,i/a-b?x=1", "mongodb+srv://h/a%2Db?appName=me@home"):
        assert MongoBackend.at(url)._connection.db_name == "a-b"
    for url in ("mongodb://localhost", "mongodb://me:secret@localhost/"):
        with pytest.raises(GraphError, match="names no database") as failed:
            MongoBackend.at(url)
        assert "secret" not in str(failed.value)
    with pytest.raises(GraphError, match="chunk_size"):
        MongoBackend.at("mongodb://localhost/a", chunk_size=(1, 1))  # type: ignore[arg-type]
