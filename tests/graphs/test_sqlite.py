"""Graphs in a file of SQLite."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

import pytest

from bellis.errors import GraphError
from bellis.graphs.backend import Change, Query
from bellis.graphs.sql.sqlite import SQLiteBackend
from bellis.testing.graphs import GraphStoreTests
from graphs.sql_cases import PLAIN, SqlCases, random_graph

if TYPE_CHECKING:
    from pathlib import Path


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
