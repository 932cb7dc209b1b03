"""Stores by daisy's and funlib's names open the same graphs, with the arguments that those have."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bellis
from bellis.errors import GraphError, GraphMismatchError, GraphMissingError
from bellis.geometry import Coordinate, Roi
from bellis.graphs import (
    FileGraphProvider,
    MongoDbGraphProvider,
    PgSQLGraphDatabase,
    SharedGraphProvider,
    SQLiteGraphDataBase,
    Vec,
    daisy_names,
)
from bellis.graphs.daisy_names import mongodb_url, postgresql_url
from bellis.graphs.memory import MemoryBackend

ROI = Roi((0, 0), (10, 10))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[Any, ...]]:
    """Put graphs into memory, and return what their backends were asked for."""
    calls: list[tuple[Any, ...]] = []

    class Recorded(MemoryBackend):
        def create_database(self) -> None:
            calls.append(("create_database",))

    def load(name: str) -> Any:
        def make(*args: Any, **options: Any) -> Recorded:
            calls.append((name, args, options))
            return Recorded(f"{tmp_path} {name}")

        make.at = make  # type: ignore[attr-defined]
        return make

    monkeypatch.setattr(daisy_names, "load_backend", load)
    return calls


@pytest.mark.integration
@pytest.mark.slow
def test_a_script_for_funlib_opens_sqlite(tmp_path: Path) -> None:
    path, types = tmp_path / "graph.sqlite", {"position": Vec(float, 2), "size": int}
    with SQLiteGraphDataBase(path, "position", "w", node_attrs=types, edge_attrs={"score": float}) as store:
        graph = store[ROI]
        graph.add_nodes_from([(1, {"position": (1, 2), "size": 3}), (2, {"position": (4, 5), "size": 6})])
        graph.add_edge(1, 2, score=0.5)
        store.write_graph(graph)
    with SQLiteGraphDataBase(path, "position", mode="r") as store:
        assert isinstance(store, SharedGraphProvider)
        assert store.read_nodes(ROI)[0] == {"id": 1, "position": [1.0, 2.0], "size": 3}
        assert store.read_graph(ROI).edges[1, 2] == {"score": 0.5}
    with pytest.raises(GraphMissingError):
        SQLiteGraphDataBase(tmp_path / "none.sqlite", "position")


@pytest.mark.integration
@pytest.mark.slow
def test_a_script_for_daisy_opens_files(tmp_path: Path) -> None:
    with FileGraphProvider(tmp_path / "graph", (5, 5), "w", directed=True) as store:
        graph = store[ROI]
        graph.add_node(1, position=(1, 2), size=3)
        graph.add_edge(1, 2)
        graph.write_nodes()
        graph.write_edges()
    with FileGraphProvider(tmp_path / "graph", (5, 5)) as store:
        assert isinstance(store, SharedGraphProvider)
        assert store[ROI].nodes[1] == {"position": [1, 2], "size": 3}
        assert list(store[ROI].edges) == [(1, 2)]


def test_a_script_for_daisy_opens_mongodb(asked: list[tuple[Any, ...]]) -> None:
    store = bellis.persistence.MongoDbGraphProvider(
        "em", "db.lab", "w", True, ROI, "n", "e", ["from", "to"], "m", ["y", "x"]
    )
    assert asked == [("mongodb", ("mongodb://db.lab", "em"), {"nodes": "n", "edges": "e", "meta": "m"})]
    assert isinstance(store, SharedGraphProvider)
    assert (store.directed, store.total_roi, store.endpoint_names) == (True, ROI, ["from", "to"])
    assert store.position_attribute == ["y", "x"]
    assert MongoDbGraphProvider("em", mode="r").position_attribute == ["y", "x"]  # nothing was said of it
    with pytest.raises(GraphMismatchError, match=r"position: stored .'y', 'x'., asked for 'position'"):
        MongoDbGraphProvider("em", mode="r", position_attribute="position")
    assert MongoDbGraphProvider("em", mode="r+", position_attribute=["y", "x"]).mode == "r+"


def test_a_graph_of_mongodb_has_to_be_there(asked: list[tuple[Any, ...]]) -> None:
    with pytest.raises(GraphMissingError, match="mode='w' makes one"):
        MongoDbGraphProvider("em")
    assert asked[0][1] == ("mongodb://localhost:27017", "em")


def test_a_script_for_funlib_opens_postgresql(asked: list[tuple[Any, ...]]) -> None:
    types = {"position": Vec(float, 3)}
    PgSQLGraphDatabase("position", "em", "db.lab", "me", "a b", 5433, "w", node_attrs=types, nodes_table="n")
    url = "postgresql://me:a%20b@db.lab:5433/em"
    assert asked == [("postgresql", (url,), {"nodes": "n", "edges": "edges"}), ("create_database",)]
    store = PgSQLGraphDatabase("position", "em")
    assert asked[2:] == [("postgresql", ("postgresql://localhost/em",), {"nodes": "nodes", "edges": "edges"})]
    assert isinstance(store, SharedGraphProvider)
    assert not store.metadata.is_open


def test_files_are_asked_for_by_their_chunks(asked: list[tuple[Any, ...]]) -> None:
    FileGraphProvider(Path("folder"), [5, 6], "w", edges_collection="e")
    assert asked == [("files", ("folder",), {"nodes": "nodes", "edges": "e", "chunk_size": Coordinate(5, 6)})]


def test_the_position_has_its_usual_name_only_where_a_graph_is_made(asked: list[tuple[Any, ...]]) -> None:
    assert MongoDbGraphProvider("em", mode="w").position_attribute == "position"
    assert FileGraphProvider("folder", [5, 6], "w").position_attribute == "position"
    FileGraphProvider("folder", [5, 6], "w", position_attribute=["y", "x"])
    assert FileGraphProvider("folder", [5, 6], "r").position_attribute == ["y", "x"]
    assert len(asked) == 4


PARTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6)


@settings(max_examples=50)
@given(name=PARTS, user=PARTS, password=PARTS, port=st.integers(1, 65535))
def test_whatever_is_in_a_name_or_password_stays_there(name: str, user: str, password: str, port: int) -> None:
    parts = urlsplit(postgresql_url(name, "db.lab", user=user, password=password, port=port))
    assert (parts.scheme, parts.hostname, parts.port) == ("postgresql", "db.lab", port)
    assert [unquote(each or "") for each in (parts.path[1:], parts.username, parts.password)] == [name, user, password]


@pytest.mark.parametrize(
    ("host", "where"),
    [("::1", "[::1]"), ("[::1]", "[::1]"), ("db", "db"), (None, ""), ("", "")],
)
def test_hosts_may_be_addresses_and_none(host: str | None, where: str) -> None:
    assert postgresql_url("em", host) == f"postgresql://{where}/em"


def test_hosts_may_be_folders_of_sockets() -> None:
    assert postgresql_url("em", "/tmp/a b") == "postgresql:///em?host=%2Ftmp%2Fa%20b"  # libpq takes a + for a +
    url = postgresql_url("em", "/tmp/pg", user="me", password="a@b", port=5433)
    assert url == "postgresql://me:a%40b@/em?host=%2Ftmp%2Fpg&port=5433"
    assert postgresql_url("em", None, user="me", port=5433) == "postgresql://me@/em?port=5433"


@pytest.mark.integration
@pytest.mark.slow
def test_a_server_is_found_by_the_folder_of_its_socket(
    postgres_shared: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = urlsplit(postgres_shared)
    folder = dict(parse_qsl(parts.query)).get("host")
    if folder is None:
        pytest.skip(f"the server at {parts.hostname} was given with a host, not with the folder of a socket")
    name = hashlib.sha256(str(tmp_path).encode()).hexdigest()[:16]
    tables = {"nodes_table": f"n_{name}", "edges_table": f"e_{name}"}
    with PgSQLGraphDatabase("position", "postgres", folder, parts.username, mode="w", **tables) as store:
        store.write_columns({"id": [1], "position": [[1.0]]})
    monkeypatch.setenv("PGHOST", folder)
    monkeypatch.setenv("PGUSER", str(parts.username))
    with PgSQLGraphDatabase("position", "postgres", None, **tables) as store:
        assert store.num_nodes() == 1


def test_a_password_needs_a_user() -> None:
    with pytest.raises(
        GraphError, match="a password is given for database 'em', but no user: pass db_user too"
    ) as caught:
        postgresql_url("em", "db", password="secret")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("host", "url"),
    [
        (None, "mongodb://localhost:27017"),
        ("db.lab", "mongodb://db.lab"),
        ("db.lab:27018", "mongodb://db.lab:27018"),
        ("mongodb://me:pw@db.lab/?replicaSet=a", "mongodb://me:pw@db.lab/?replicaSet=a"),
    ],
)
def test_a_host_of_mongodb_may_be_a_name_or_a_url(host: str | None, url: str) -> None:
    assert mongodb_url(host) == url
