"""What databases do when something is wrong: errors that say what, nothing half written, and work goes on after."""

from __future__ import annotations

import sqlite3
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import psycopg
import pytest
import sqlalchemy as sa

from bellis.errors import GraphError, GraphExistsError, GraphServerError
from bellis.graphs.backend import Change, Query
from bellis.graphs.sql import sqlite as sqlite_module
from bellis.graphs.sql.copying import PostgresLoader
from bellis.graphs.sql.postgres import PostgresBackend
from bellis.graphs.sql.sqlite import SQLiteBackend
from graphs.servers import LOCKED
from graphs.sql_cases import ALL, PLAIN, assert_same, random_graph

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def file(tmp_path: Path) -> Iterator[SQLiteBackend]:
    backend = SQLiteBackend(tmp_path / "graph.sqlite")
    backend.save(PLAIN)
    yield backend
    backend.close()


@pytest.fixture
def server(postgres_url: str) -> Iterator[PostgresBackend]:
    backend = PostgresBackend(postgres_url)
    backend.save(PLAIN)
    yield backend
    backend.close()


def change(count: int = 20, seed: int = 0, **options: Any) -> Change:
    nodes, edges = random_graph(count, seed=seed)
    return Change(nodes=(nodes,), edges=(edges,), **options)


@pytest.mark.parametrize("call", [SQLiteBackend.load, lambda backend: backend.save(PLAIN)])
def test_a_file_that_is_no_database_is_left_as_it_is(tmp_path: Path, call: Any) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("these are notes\n" * 100)
    backend = SQLiteBackend(path)
    with pytest.raises(GraphError, match=r"notes\.txt is no file of SQLite"):
        call(backend)
    backend.close()
    assert path.read_text() == "these are notes\n" * 100


@pytest.mark.parametrize("call", [SQLiteBackend.load, lambda backend: backend.save(PLAIN)])
def test_a_folder_is_no_database(tmp_path: Path, call: Any) -> None:
    with pytest.raises(GraphError, match="is a folder"):
        call(SQLiteBackend(tmp_path))


def test_a_file_that_can_not_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(GraphServerError, match=r"can't make .*file/graph\.sqlite"):
        SQLiteBackend(tmp_path / "file" / "graph.sqlite").save(PLAIN)


def test_a_full_disk_leaves_what_was_there(file: SQLiteBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write(change(), PLAIN)
    file.close()
    connect = file._connect

    def connect_to_small_disk() -> sqlite3.Connection:
        connection = connect()
        connection.execute("PRAGMA max_page_count = 40")
        return connection

    with monkeypatch.context() as patch:
        patch.setattr(file, "_connect", connect_to_small_disk)
        with pytest.raises(GraphServerError, match=r"no space is left for .*graph\.sqlite, nothing was written"):
            file.write(change(5000, seed=1), PLAIN)
        file.close()
    assert_same(file.read(ALL, PLAIN)[0], change().nodes[0].sorted())
    file.write(change(5000, seed=1), PLAIN)


def test_a_file_that_stays_locked_says_how_to_find_by_whom(
    file: SQLiteBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.close()
    monkeypatch.setattr(sqlite_module, "BUSY_S", 0.05)
    other = sqlite3.connect(file.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(GraphServerError, match=r"locked by another process .* 'fuser .*graph\.sqlite' says which"):
        file.write(change(), PLAIN)
    assert file.count(Query(), PLAIN) == (0, 0)  # readers do not wait
    other.execute("ROLLBACK")
    other.close()
    file.write(change(), PLAIN)
    assert file.count(Query(), PLAIN)[0] == 20


def test_damaged_metadata_are_refused(file: SQLiteBackend) -> None:
    other = sqlite3.connect(file.path)
    other.execute("UPDATE bellis_graphs SET metadata = '{\"version\": 1, \"directed\": \"__import__(''os'')\"}'")
    other.commit()
    other.close()
    with pytest.raises(GraphError, match=r"metadata of the graph in .*graph\.sqlite can't be read"):
        file.load()


@pytest.mark.parametrize(
    "call", [PostgresBackend.load, PostgresBackend.create_database, lambda backend: backend.save(PLAIN)]
)
def test_a_server_that_is_not_there_is_named_without_the_password(call: Any) -> None:
    backend = PostgresBackend("postgresql://me:secret@127.0.0.1:1/graphs")
    with pytest.raises(GraphServerError, match=r"postgresql://127\.0\.0\.1:1/graphs can't be used") as caught:
        call(backend)
    assert "secret" not in "".join(traceback.format_exception(caught.value)) + repr(backend) + repr(caught.value)
    backend.close()


@pytest.mark.parametrize("name", ["password", "sslpassword"])
def test_a_password_among_the_parameters_is_not_shown(name: str) -> None:
    backend = PostgresBackend(f"postgresql://me@127.0.0.1:1/graphs?{name}=secret&connect_timeout=3")
    with pytest.raises(GraphServerError) as caught:
        backend.load()
    assert "secret" not in "".join(traceback.format_exception(caught.value)) + repr(backend)
    assert backend._conninfo[name] == "secret"
    backend.close()


@pytest.mark.integration
def test_a_wrong_password_is_not_shown(postgres_url: str) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        if connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [LOCKED]).fetchone() is None:
            pytest.skip("this server has no user who needs a password")
    url = sa.make_url(postgres_url).set(username=LOCKED, password="secret")
    backend = PostgresBackend(url.render_as_string(hide_password=False))
    with pytest.raises(GraphServerError, match="password authentication failed") as caught:
        backend.load()
    assert "secret" not in "".join(traceback.format_exception(caught.value)) + repr(backend)
    backend.close()


@pytest.mark.integration
def test_a_database_that_is_missing_is_made_once_by_many(postgres_server: str) -> None:
    name = 'bellis it\'s a "test" %s'
    url = sa.make_url(postgres_server).set(database="NAME").render_as_string(hide_password=False)
    url = url.replace("NAME", quote(name))
    backend = PostgresBackend(url)
    assert backend.load() is None
    with pytest.raises(GraphServerError, match=r"no such database: .*create_database\(\)"):
        backend.save(PLAIN)
    try:
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(lambda _: PostgresBackend(url).create_database(), range(4)))
        assert backend.save(PLAIN) == PLAIN
    finally:
        backend.close()
        with psycopg.connect(postgres_server, autocommit=True) as connection:
            connection.execute(psycopg.sql.SQL("DROP DATABASE {}").format(psycopg.sql.Identifier(name)))


def end_others(url: str) -> None:
    """End all other connections to a database."""
    with psycopg.connect(url, autocommit=True) as connection:
        others = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        connection.execute(f"SELECT pg_terminate_backend(pid, 5000) {others}")


@pytest.mark.integration
@pytest.mark.parametrize("is_bulk", [False, True])
def test_a_connection_that_drops_in_a_transaction_leaves_nothing_of_it(
    server: PostgresBackend, postgres_url: str, monkeypatch: pytest.MonkeyPatch, is_bulk: bool
) -> None:
    store = PostgresLoader.store

    def store_and_drop(self: PostgresLoader, table: sa.Table, *args: Any, **options: Any) -> None:
        if table.name == "edges":
            end_others(postgres_url)
        store(self, table, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(PostgresLoader, "store", store_and_drop)
        with pytest.raises(GraphServerError, match="what was not acknowledged was not written"):
            server.write(change(is_bulk=is_bulk), PLAIN)
    assert server.count(Query(), PLAIN) == (0, 0)
    server.write(change(is_bulk=is_bulk), PLAIN)
    assert server.count(Query(), PLAIN)[0] == 20


@pytest.mark.integration
def test_idle_connections_that_died_are_replaced(server: PostgresBackend, postgres_url: str) -> None:
    server.write(change(), PLAIN)
    end_others(postgres_url)
    assert server.count(Query(), PLAIN)[0] == 20
    end_others(postgres_url)
    server.write(change(30), PLAIN)
    assert server.count(Query(), PLAIN)[0] == 30


@pytest.mark.integration
def test_of_those_who_insert_the_same_one_succeeds(server: PostgresBackend) -> None:
    start = threading.Barrier(4)

    def insert(number: int) -> bool:
        start.wait(10)
        try:
            server.write(change(seed=number, policy="insert"), PLAIN)
        except GraphExistsError:
            return False
        return True

    with ThreadPoolExecutor(4) as threads:
        assert sum(threads.map(insert, range(4))) == 1
    assert server.count(Query(), PLAIN)[0] == 20


@pytest.mark.integration
def test_writers_that_wait_for_each_other_both_succeed(server: PostgresBackend) -> None:
    nodes, _ = random_graph(200)
    groups = [nodes.select(slice(0, 100)), nodes.select(slice(100, 200))]
    start = threading.Barrier(2)

    def write(number: int) -> None:
        start.wait(10)
        for _ in range(5):
            server.write(Change(nodes=tuple(groups[:: 1 - 2 * number])), PLAIN)

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(write, range(2)))
    assert server.count(Query(), PLAIN)[0] == 200
