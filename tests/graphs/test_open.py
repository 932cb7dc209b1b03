"""A path or URL tells where a graph is; what tells nothing is answered with the choices."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from bellis.errors import GraphError, GraphMissingError
from bellis.graphs import open as opening
from bellis.graphs import open_graph
from bellis.graphs.memory import MemoryBackend
from bellis.graphs.open import CATALOGUE, SCHEMES, SUFFIXES, backend_at, load_backend, name_of

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("fragments.sqlite", "sqlite"),
        ("a/b.DB", "sqlite"),
        ("x.sqlite3", "sqlite"),
        ("sqlite://a/b", "sqlite"),
        ("fragments.graph", "files"),
        ("folder/", "files"),
        ("postgresql://me:secret@host:5433/em", "postgresql"),
        ("postgres://host/em", "postgresql"),
        ("mongodb://host/em", "mongodb"),
        ("mongodb+srv://host/em", "mongodb"),
    ],
)
def test_a_place_tells_the_backend(place: str, name: str) -> None:
    assert name_of(place) == name


def test_what_is_there_tells_more_than_its_name(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "noname")) as database:
        database.execute("CREATE TABLE a (b)")
    assert name_of(str(tmp_path / "noname")) == "sqlite"
    (tmp_path / "folder.db").mkdir()
    (tmp_path / "folder.db" / CATALOGUE).touch()
    assert name_of(str(tmp_path / "folder.db")) == "files"


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (
            "mongo://host/db",
            r"'mongo://...' is no URL of a graph: did you mean 'mongodb://'\? it can be 'fragments.sqlite'",
        ),
        ("postgre://host/db", r"did you mean 'postgres(ql)?://'\?"),
        ("xyz://host/db", r"'xyz://...' is no URL of a graph: it can be .*'memory://name'"),
        ("fragments", r"'fragments' does not tell how the graph is stored: it can be 'fragments.sqlite'"),
        ("a.txt", "does not tell how the graph is stored"),
        ("", "does not tell"),
    ],
)
def test_other_places_are_answered_with_the_choices(place: str, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        open_graph(place)


def test_a_password_is_not_in_the_message() -> None:
    with pytest.raises(GraphError) as caught:
        open_graph("postgresq://me:secret@host/db")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("postgresql:/a:SECRET@h/x", r"'postgresql:/...' is no URL of a graph: did you mean 'postgresql://'\?"),
        ("mongodb:/a:SECRET@h/x", r"'mongodb:/...' is no URL of a graph: did you mean 'mongodb://'\?"),
        ("mongodb:a:SECRET@h/x", r"'mongodb:...' is no URL"),
        ("postgresql//a:SECRET@h/x", r"'postgresql//...' is no URL of a graph: did you mean 'postgresql://'\?"),
        ("postgresql:/a:SECRET@h/x.sqlite", r"'postgresql:/...' is no URL"),
        ("mongo:/a:SECRET@h/x/", r"'mongo:/...' is no URL"),
        ("postgresql:/a:SECRET@h/x?to=mongodb://h", r"'postgresql:/...' is no URL"),
        ("a:SECRET@mongodb://h", r"'...@mongodb://h' does not tell how the graph is stored"),
        ("user:SECRET@h/x", r"'user:...' does not tell how the graph is stored"),
        ("the_user:SECRET@h/x", r"'...@h/x' does not tell how the graph is stored"),
        ("memory:fragments", r"'memory:...' is no URL of a graph: did you mean 'memory://'\?"),
    ],
)
def test_what_may_be_a_url_is_not_shown_in_full(place: str, message: str) -> None:
    with pytest.raises(GraphError, match=message) as caught:
        open_graph(place, "w")
    assert "SECRET" not in str(caught.value)


def test_a_place_that_can_not_be_looked_at_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(GraphError, match=r"'a{300}/x.sqlite' can't be looked at: File name too long"):
        open_graph("a" * 300 + "/x.sqlite")
    with pytest.raises(GraphError, match="does not tell how the graph is stored"):
        open_graph("a\0b")

    def refused(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("pathlib.Path.is_file", refused)  # who runs tests may be root, who may look at everything
    with pytest.raises(GraphError, match=r"can't be looked at: Permission denied"):
        open_graph(tmp_path / "locked" / "x.sqlite")


@pytest.mark.integration
@pytest.mark.parametrize("name", ["x.sqlite", "x.graph"])
def test_only_the_last_folder_is_made(tmp_path: Path, name: str) -> None:
    with pytest.raises(GraphError, match=f"no graph is made at .*, since there is no folder {tmp_path}/a: only the"):
        open_graph(tmp_path / "a" / "b" / name, "w", chunk_size=None if name == "x.sqlite" else 10)
    assert list(tmp_path.iterdir()) == []
    with open_graph(tmp_path / "a" / name, "w", chunk_size=None if name == "x.sqlite" else 10) as store:
        assert store.num_nodes() == 0


def test_nodes_and_edges_of_files_have_two_names(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match="nodes and edges are both called 'a': they need two names"):
        open_graph(tmp_path / "x.graph", "w", nodes="a", edges="a", chunk_size=10)


def test_a_graph_is_made_and_opened_by_its_name(tmp_path: Path) -> None:
    place = f"memory://{tmp_path}"
    with pytest.raises(GraphMissingError, match="mode='w' makes one"):
        open_graph(place)
    with open_graph(place, "w", directed=True, position_attribute=["y", "x"], node_attrs={"y": int, "x": int}) as store:
        assert isinstance(store.backend, MemoryBackend)
    assert open_graph(place.replace("memory", "MEMORY"), "r", position_attribute=["y", "x"], edge_attrs={}).directed


@pytest.mark.integration
def test_a_path_opens_a_graph_of_sqlite(tmp_path: Path) -> None:
    for place in (tmp_path / "a.sqlite", str(tmp_path / "b.db")):
        with open_graph(place, "w") as store:
            store.write_columns({"id": [1, 2], "position": [[0, 1], [2, 3]]})
        with open_graph(place, "r") as store:
            assert store.num_nodes() == 2


@pytest.mark.integration
def test_a_folder_opens_a_graph_of_files(tmp_path: Path) -> None:
    with open_graph(tmp_path / "a.graph", "w", chunk_size=(10, 10)) as store:
        store.write_columns({"id": [1, 2], "position": [[0, 1], [2, 3]]})
    with open_graph(f"{tmp_path / 'a.graph'}/", "r") as store:
        assert store.num_nodes() == 2
    (tmp_path / "a.graph").rename(tmp_path / "noname")
    with open_graph(tmp_path / "noname", "r") as store:
        assert store.num_nodes() == 2


def test_options_reach_the_backend() -> None:
    with pytest.raises(GraphError, match="no tables to name, and no chunk_size"):
        backend_at("memory://x", chunk_size=(10, 10))


@pytest.mark.slow
def test_every_backend_is_made_known() -> None:
    for name in {*SCHEMES.values(), *SUFFIXES.values()}:
        assert callable(load_backend(name).at)
    with pytest.raises(
        GraphError, match="there is no backend 'csv' for graphs; there are files, memory, mongodb, post"
    ):
        load_backend("csv")


class Missing:
    """An entry point of a backend whose library is not installed."""

    def load(self) -> object:
        raise ModuleNotFoundError("No module named 'psycopg'", name="psycopg")


def test_a_library_that_is_missing_is_told_with_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "entry_points", lambda **_: [Missing()])
    with pytest.raises(GraphError, match=r"need the module 'psycopg', .* pip install 'bellis\[postgres\]'"):
        open_graph("postgresql://host/em")


@pytest.mark.slow
def test_neither_networkx_nor_a_database_is_loaded_before_it_is_needed() -> None:
    code = (
        "import sys; import bellis.graphs as graphs; store = graphs.open_graph('memory://x', 'w'); "
        "store.write_nodes([{'id': 1}]); store.read_columns(); "
        "print(sorted({'networkx', 'sqlalchemy', 'psycopg', 'pymongo', 'pyarrow'} & set(sys.modules)))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout.strip() == "[]"
