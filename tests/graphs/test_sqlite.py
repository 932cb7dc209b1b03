"""Graphs in a file of SQLite."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pytest

from bellis.errors import GraphError, GraphServerError
from bellis.geometry import Roi
from bellis.graphs.backend import Change, Query
from bellis.graphs.sql import sqlite_file
from bellis.graphs.sql.sqlite import SQLiteBackend
from bellis.testing.graphs import GraphStoreTests
from graphs.sql_cases import PLAIN, SqlCases, random_graph

if TYPE_CHECKING:
    from collections.abc import Iterator


class TestSQLite(GraphStoreTests):
    def backend(self, folder: Path) -> SQLiteBackend:
        return SQLiteBackend(folder / "graph.sqlite")


class TestSQLiteCases(SqlCases):
    def make(self, folder: Path) -> SQLiteBackend:
        return SQLiteBackend(folder / "graph.sqlite")


@pytest.mark.parametrize("form", ["{}", "sqlite:////{}"])
def test_a_place_is_a_path_or_a_url(tmp_path: Path, form: str) -> None:
    place = form.format(tmp_path / "a folder" / "100%?#.sqlite").replace("sqlite://///", "sqlite:////")
    backend = SQLiteBackend.at(place.replace("%?#", "%25?#") if "://" in place else place)
    backend.save(PLAIN)
    backend.close()
    assert (tmp_path / "a folder" / "100%?#.sqlite").exists()


@pytest.mark.parametrize("place", ["sqlite://", "sqlite:///", "sqlite://host/graph"])
def test_a_url_without_a_path_is_refused(place: str) -> None:
    with pytest.raises(GraphError, match=r"sqlite:///folder/graph\.sqlite"):
        SQLiteBackend.at(place)


def test_chunks_are_refused() -> None:
    with pytest.raises(GraphError, match="chunk_size"):
        SQLiteBackend.at("graph.sqlite", chunk_size=(1, 2, 3))


@pytest.mark.parametrize(
    ("nodes", "edges"), [("a", "a"), ("a", "A"), ("bellis_graphs", "e"), ("n", "sqlite_e"), ("1n", "e"), ("n", 'e"')]
)
def test_names_that_no_table_can_have_are_refused(nodes: str, edges: str) -> None:
    with pytest.raises(GraphError):
        SQLiteBackend("graph.sqlite", nodes=nodes, edges=edges)


def test_to_look_makes_no_file(tmp_path: Path) -> None:
    assert SQLiteBackend(tmp_path / "graph.sqlite").load() is None
    assert list(tmp_path.iterdir()) == []


def test_one_file_holds_several_graphs(tmp_path: Path) -> None:
    first = SQLiteBackend(tmp_path / "graph.sqlite")
    second = SQLiteBackend(tmp_path / "graph.sqlite", nodes="skeletons", edges="bones")
    for backend, count in ((first, 10), (second, 20)):
        backend.save(PLAIN)
        backend.write(Change(nodes=(random_graph(count)[0],)), PLAIN)
    second.save(PLAIN, replace=True)
    assert first.count(Query(), PLAIN) == (10, 0)
    assert second.count(Query(), PLAIN) == (0, 0)
    first.close()
    second.close()


def test_what_is_written_is_on_disk_before_it_is_acknowledged(tmp_path: Path) -> None:
    backend = SQLiteBackend(tmp_path / "graph.sqlite")
    backend.save(PLAIN)
    with backend._reading() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
    backend.close()


def test_regions_and_ids_are_found_by_an_index(tmp_path: Path) -> None:
    backend = SQLiteBackend(tmp_path / "graph.sqlite")
    backend.save(PLAIN)
    backend.close()
    connection = sqlite3.connect(tmp_path / "graph.sqlite")
    indices = {row[1] for row in connection.execute("PRAGMA index_list(nodes)")}
    connection.close()
    assert "nodes__id" in indices


# Modules are imported by the first graph: who is nobody may not be able to read them.
READ = """
import os, sys
from bellis.errors import GraphServerError
from bellis.geometry import Roi
from bellis.graphs.backend import Change, Query
from bellis.graphs.sql.sqlite import SQLiteBackend
from graphs.sql_cases import PLAIN, random_graph

def look(path):
    backend = SQLiteBackend(path)
    metadata = backend.load()
    query = Query(roi=Roi((0, 0, 0), (1000, 1000, 1000)), both_ends=True)
    print(len(backend.read(query, metadata)[0]), flush=True)
    return backend

look(sys.argv[2]).close()
change = Change(nodes=random_graph(5)[:1])
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
backend = look(sys.argv[1])
for line in sys.stdin:
    print(backend.count(Query(edges=False), PLAIN)[0], flush=True)
try:
    backend.write(change, PLAIN)
except GraphServerError as error:
    print(error)
backend.close()
"""


@pytest.fixture
def shelf() -> Iterator[Path]:
    """A folder that anybody can look into, with a graph of 20 nodes."""
    with tempfile.TemporaryDirectory(prefix="bellis-shelf-") as name:
        folder = Path(name)
        backend = SQLiteBackend(folder / "graph.sqlite")
        backend.save(PLAIN)
        backend.write(Change(nodes=random_graph(20)[:1]), PLAIN)
        backend.close()
        folder.chmod(0o555)
        yield folder
        folder.chmod(0o755)


class Reader:
    """A process that may write nothing in a folder, and reads a graph there."""

    def __init__(self, path: Path, other: Path) -> None:
        SQLiteBackend(other).save(PLAIN)
        command = [sys.executable, "-c", READ, path, other]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self.process = subprocess.Popen(
            command,
            env=env,
            text=True,
            bufsize=1,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def __enter__(self) -> Self:
        self.process.__enter__()
        assert self.line() == "0"
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.__exit__(None, None, None)

    def line(self) -> str:
        """Return what it says next."""
        assert self.process.stdout is not None
        return str(self.process.stdout.readline()).strip()

    def count(self) -> str:
        """Have it count nodes."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        return self.line()

    def end(self) -> str:
        """Return its last words."""
        said, _ = self.process.communicate(timeout=30)
        return str(said)


@pytest.mark.integration
@pytest.mark.parametrize("is_file_closed", [False, True])
def test_a_graph_is_read_where_nothing_may_be_written(shelf: Path, tmp_path: Path, is_file_closed: bool) -> None:
    path = shelf / "graph.sqlite"
    if is_file_closed:
        path.chmod(0o444)
        shelf.chmod(0o777)
    with Reader(path, tmp_path / "other.sqlite") as reader:
        assert reader.line() == "20"
        assert sorted(shelf.iterdir()) == [path]
        assert "graph.sqlite can't be written: the file, or its folder, may only be read" in reader.end()
    assert sorted(shelf.iterdir()) == [path]


@pytest.mark.integration
@pytest.mark.skipif(os.geteuid() != 0, reason="needs two users")
def test_who_may_not_write_sees_what_others_write(shelf: Path, tmp_path: Path) -> None:
    writer = SQLiteBackend(shelf / "graph.sqlite")
    with Reader(shelf / "graph.sqlite", tmp_path / "other.sqlite") as reader:
        assert reader.line() == "20"
        for count in (30, 40):
            writer.write(Change(nodes=random_graph(count)[:1]), PLAIN)
            assert reader.count() == str(count)
        writer.close()
        assert reader.count() == "40"
        writer.write(Change(nodes=random_graph(50)[:1]), PLAIN)
        writer.close()
        assert reader.count() == "50"
        assert "may only be read" in reader.end()


@pytest.mark.integration
@pytest.mark.parametrize("is_shared", [True, False])
def test_a_log_that_was_left_is_read_or_named(shelf: Path, tmp_path: Path, is_shared: bool) -> None:
    shelf.chmod(0o755)
    writer = SQLiteBackend(shelf / "graph.sqlite")
    writer.write(Change(nodes=random_graph(30)[:1]), PLAIN)
    left = shelf / "left"
    left.mkdir()
    for path in shelf.glob("graph.sqlite*"):
        if is_shared or not path.name.endswith("-shm"):
            shutil.copy(path, left)
    writer.close()
    left.chmod(0o555)
    with Reader(left / "graph.sqlite", tmp_path / "other.sqlite") as reader:
        said = reader.end()
    left.chmod(0o755)
    if is_shared:
        assert said.startswith("30\n")
    else:
        assert "a process that ended early left a log" in said
        assert "graph.sqlite-wal" in said


def test_a_file_that_is_written_while_it_counts_as_unchanging_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = SQLiteBackend(tmp_path / "graph.sqlite")
    writer.save(PLAIN)
    writer.close()
    reader = SQLiteBackend(tmp_path / "graph.sqlite")
    may = sqlite_file._may

    def write_meanwhile() -> None:
        with reader._reading(), monkeypatch.context() as other:
            other.setattr(sqlite_file, "_may", may)
            writer.write(Change(nodes=random_graph(20)[:1]), PLAIN)
            writer.close()

    with monkeypatch.context() as patch:
        patch.setattr(sqlite_file, "_may", lambda *_: False)
        assert reader.count(Query(), PLAIN) == (0, 0)
        with pytest.raises(GraphServerError, match=r"written by another process .* read again"):
            write_meanwhile()
        assert reader.count(Query(roi=Roi((0, 0, 0), (1000, 1000, 1000))), PLAIN)[0] == 20
        reader.close()
