"""The catalogue of a store of files: which file is the present one of each chunk, and in which chunk each node is."""

from __future__ import annotations

import contextlib
import re
import secrets
import sqlite3
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from bellis.errors import BellisError, GraphError, GraphServerError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from bellis.graphs.columns import Ids
    from bellis.graphs.files.grid import Box, Place

CATALOGUE = "catalogue.sqlite"
CHUNKS = "chunks"
"""Folder with the files of chunks."""
_FORMAT = 0x62656C67
"""Tells the catalogue from other SQLite files."""
BUSY_S = 120.0
"""How long a process waits for others that commit."""
_BATCH = 500
"""How many ids one statement asks for: any SQLite takes 999."""
_FILE = re.compile(r"chunks/(?:(?:-?\d+\.)+|unplaced\.)[0-9a-f]{16}\.(?:nodes|edges)\.parquet")
_SCHEMA = (
    "CREATE TABLE state (version INTEGER NOT NULL, epoch TEXT NOT NULL, metadata TEXT NOT NULL, "
    "chunk_size TEXT NOT NULL)",
    "CREATE TABLE chunk (number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, version INTEGER NOT NULL, "
    "nodes TEXT, edges TEXT, num_nodes INTEGER NOT NULL, num_edges INTEGER NOT NULL)",
    "CREATE INDEX chunk_version ON chunk (version)",
    "CREATE TABLE node (id INTEGER PRIMARY KEY, chunk INTEGER NOT NULL)",
    "CREATE TABLE crossing (v INTEGER NOT NULL, chunk INTEGER NOT NULL, PRIMARY KEY (v, chunk)) WITHOUT ROWID",
    "CREATE TABLE replaced (file TEXT PRIMARY KEY) WITHOUT ROWID",
    "INSERT INTO chunk VALUES (0, 'unplaced', 0, NULL, NULL, 0, 0)",
)
_TABLES = ("state", "chunk", "node", "crossing")
_UNPLACED = "unplaced"


@dataclass(frozen=True, slots=True)
class State:
    """What a catalogue says of the whole graph."""

    version: int
    """Counts commits."""
    epoch: str
    """Another one each time the graph is made anew."""
    metadata: str
    """JSON."""
    chunk_size: tuple[int, ...] | int
    """World units of a chunk in each axis, or in all."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A chunk, as it was at one moment."""

    number: int
    """What it is called in the index of nodes; 0 is that of nodes without position, and edges of unknown u."""
    place: Place
    """Where it is."""
    version: int
    """That of the commit that changed it last."""
    nodes: str | None
    """File with its nodes, relative to the folder; None if there are none."""
    edges: str | None
    """File with the edges of which u is one of its nodes."""
    num_nodes: int
    """How many rows the files have."""
    num_edges: int
    """Likewise."""


@contextlib.contextmanager
def guarded(folder: Path) -> Iterator[None]:
    """Turn errors of the file system and of SQLite into errors of graphs that say where."""
    try:
        yield
    except BellisError:
        raise
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise GraphServerError(
                f"the graph in {folder} was kept busy by others for {BUSY_S:.0f} s: nothing was written; try again"
            ) from error
        raise GraphServerError(
            f"the graph in {folder} can't be reached: {folder / CATALOGUE}: {error}; nothing was written: make room or "
            "mend the rights, then try again"
        ) from error
    except sqlite3.DatabaseError as error:
        raise GraphError(f"{folder / CATALOGUE} is damaged, or is no catalogue of a graph: {error}") from error
    except OSError as error:
        raise GraphServerError(
            f"the graph in {folder} can't be reached: {error}; nothing was written: make room or mend the rights, then "
            "try again"
        ) from error


@contextlib.contextmanager
def connected(folder: Path, *, makes: bool = False) -> Iterator[sqlite3.Connection]:
    """Open the catalogue; it takes less than a tenth of a millisecond, so that nothing has to be kept open.

    The journal is one that is rolled back (not a write-ahead log, whose shared memory no network file system has). So
    as long as somebody reads in a transaction, nobody commits.
    """
    uri = f"{(folder / CATALOGUE).as_uri()}?mode={'rwc' if makes else 'rw'}"
    db = sqlite3.connect(uri, uri=True, timeout=BUSY_S, isolation_level=None)
    try:
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA cache_spill = OFF")  # what is spilled locks readers out until the commit
        yield db
    finally:
        db.close()


def state_of(db: sqlite3.Connection, folder: Path) -> State | None:
    """Return the state; None if there is no graph.

    Raises
    ------
    GraphError
        If it is the database of something else.
    """
    (identity,) = db.execute("PRAGMA application_id").fetchone()
    names = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not names:
        return None
    if identity != _FORMAT or not names >= {*_TABLES, "replaced"}:
        raise GraphError(f"{folder / CATALOGUE} is the database of something else, not the catalogue of a graph")
    rows = db.execute("SELECT version, epoch, metadata, chunk_size FROM state").fetchall()
    try:
        ((version, epoch, metadata, chunk_size),) = rows
        sizes = msgspec.json.decode(chunk_size, type=tuple[int, ...] | int)
    except (ValueError, msgspec.DecodeError) as error:
        raise GraphError(f"{folder / CATALOGUE} is damaged: its state is {rows!r}") from error
    return State(version, epoch, metadata, sizes)


def make(db: sqlite3.Connection, metadata: str, chunk_size: tuple[int, ...] | int, *, version: int = 0) -> None:
    """Make the tables of a graph, in place of those that are there; its files are noted as replaced."""
    if version:
        for column in ("nodes", "edges"):
            db.execute(f"INSERT OR IGNORE INTO replaced SELECT {column} FROM chunk WHERE {column} IS NOT NULL")  # noqa: S608
        for name in _TABLES:
            db.execute(f"DROP TABLE {name}")
    for statement in _SCHEMA:
        if not (version and "replaced" in statement):
            db.execute(statement)
    db.execute(f"PRAGMA application_id = {_FORMAT}")
    sizes = msgspec.json.encode(chunk_size).decode()
    db.execute("INSERT INTO state VALUES (?, ?, ?, ?)", (version + 1, secrets.token_hex(8), metadata, sizes))


def place_axes(db: sqlite3.Connection, dims: int) -> None:
    """Let chunks have as many axes as positions, as soon as that is known."""
    known = {row[1] for row in db.execute("PRAGMA table_info(chunk)")}
    axes = [f"axis_{axis}" for axis in range(dims)]
    if axes[0] not in known:
        for axis in axes:
            db.execute(f"ALTER TABLE chunk ADD COLUMN {axis} INTEGER")
        db.execute(f"CREATE INDEX chunk_place ON chunk ({', '.join(axes)})")


def find(db: sqlite3.Connection, ids: Ids) -> npt.NDArray[np.int64]:
    """Return the chunk of each node, -1 of those that are not there; ids are sorted."""
    found = np.full(len(ids), -1, np.int64)
    if not len(ids) or db.execute("SELECT 1 FROM node LIMIT 1").fetchone() is None:
        return found
    signed = ids.view(np.int64).tolist()
    rows = []
    for begin in range(0, len(signed), _BATCH):
        batch = signed[begin : begin + _BATCH]
        marks = ",".join("?" * len(batch))
        rows += db.execute(f"SELECT id, chunk FROM node WHERE id IN ({marks})", batch).fetchall()  # noqa: S608
    if rows:
        there = np.array(rows, np.int64)
        found[np.searchsorted(ids, there[:, 0].view(np.uint64))] = there[:, 1]
    return found


def crossing(db: sqlite3.Connection, ids: Ids) -> list[int]:
    """Return the chunks, other than their own, whose edges may have these nodes as v."""
    found: set[int] = set()
    signed = ids.view(np.int64).tolist()
    for begin in range(0, len(signed), _BATCH):
        batch = signed[begin : begin + _BATCH]
        marks = ",".join("?" * len(batch))
        rows = db.execute(f"SELECT DISTINCT chunk FROM crossing WHERE v IN ({marks})", batch)  # noqa: S608
        found.update(number for (number,) in rows)
    return sorted(found)


_CHUNK = "SELECT number, name, version, nodes, edges, num_nodes, num_edges FROM chunk"


def by_number(db: sqlite3.Connection, numbers: Sequence[int]) -> tuple[Chunk, ...]:
    """Return chunks."""
    found = (db.execute(f"{_CHUNK} WHERE number = ?", (number,)).fetchone() for number in numbers)
    return tuple(_chunk(row) for row in found if row is not None)


def by_place(db: sqlite3.Connection, places: Sequence[Place]) -> tuple[Chunk, ...]:
    """Return those chunks of places that are there."""
    found = (db.execute(f"{_CHUNK} WHERE name = ?", (name_of(place),)).fetchone() for place in places)
    return tuple(_chunk(row) for row in found if row is not None)


def in_box(db: sqlite3.Connection, box: Box | None) -> tuple[Chunk, ...]:
    """Return the chunks in a box that have something; None are all, also that of what has no place."""
    terms, values = ["(num_nodes > 0 OR num_edges > 0)"], []
    if box is not None:
        terms.append("number > 0")
        for axis, limits in enumerate(box):
            for sign, limit in zip((">=", "<="), limits, strict=True):
                if limit is not None:
                    terms.append(f"axis_{axis} {sign} ?")
                    values.append(limit)
    rows = db.execute(f"{_CHUNK} WHERE {' AND '.join(terms)} ORDER BY number", values)
    return tuple(_chunk(row) for row in rows)


def _chunk(row: tuple[Any, ...]) -> Chunk:
    number, name, version, nodes, edges, num_nodes, num_edges = row
    for file in (nodes, edges):
        check_file(file)
    try:
        place = None if name == _UNPLACED else tuple(map(int, name.split(".")))
    except ValueError as error:
        raise GraphError(f"the catalogue is damaged: it has a chunk called {name!r}") from error
    return Chunk(number, place, version, nodes, edges, num_nodes, num_edges)


def check_file(name: str | None) -> str | None:
    """Return the name of a file, if it is one of ours: files that are named in a catalogue get removed.

    Raises
    ------
    GraphError
        If it is none.
    """
    if name is not None and not _FILE.fullmatch(name):
        raise GraphError(f"the catalogue is damaged: it names {name!r}, which is no file of a chunk")
    return name


def name_of(place: Place) -> str:
    """Return how the chunk at a place is called."""
    return _UNPLACED if place is None else ".".join(map(str, place))


def file_of(place: Place, token: str, what: str) -> str:
    """Return a name for the file of a chunk, relative to the folder."""
    return f"{CHUNKS}/{name_of(place)}.{token}.{what}.parquet"


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """A chunk that changed, as it goes into the catalogue."""

    place: Place
    """Where it is."""
    nodes: str | None
    """Its files."""
    edges: str | None
    """Likewise."""
    num_nodes: int
    """Their rows."""
    num_edges: int
    """Likewise."""


def put(db: sqlite3.Connection, entry: Entry, version: int) -> None:
    """Note what a chunk is now."""
    values = (version, entry.nodes, entry.edges, entry.num_nodes, entry.num_edges)
    axes = dict(enumerate(entry.place or ()))
    names = "".join(f", axis_{axis}" for axis in axes)
    db.execute(
        f"INSERT INTO chunk (version, nodes, edges, num_nodes, num_edges, name{names}) "  # noqa: S608
        f"VALUES (?, ?, ?, ?, ?, ?{', ?' * len(axes)}) ON CONFLICT (name) DO UPDATE SET version = excluded.version, "
        "nodes = excluded.nodes, edges = excluded.edges, num_nodes = excluded.num_nodes, "
        "num_edges = excluded.num_edges",
        (*values, name_of(entry.place), *axes.values()),
    )


def number_of(db: sqlite3.Connection, place: Place) -> int:
    """Return the number of a chunk; it is there."""
    (number,) = db.execute("SELECT number FROM chunk WHERE name = ?", (name_of(place),)).fetchone()
    return int(number)


def put_nodes(db: sqlite3.Connection, ids: Ids, numbers: npt.NDArray[np.int64]) -> None:
    """Note in which chunks nodes are."""
    order = np.argsort(ids.view(np.int64))  # rows that are next to each other go in several times as fast
    pairs = zip(ids.view(np.int64)[order].tolist(), numbers[order].tolist(), strict=True)
    db.executemany("INSERT OR REPLACE INTO node VALUES (?, ?)", pairs)


def drop_nodes(db: sqlite3.Connection, ids: Ids) -> None:
    """Forget nodes."""
    db.executemany("DELETE FROM node WHERE id = ?", ((node,) for node in np.sort(ids.view(np.int64)).tolist()))


def put_crossings(db: sqlite3.Connection, ids: Ids, numbers: npt.NDArray[np.int64]) -> None:
    """Note that edges of a chunk may have these nodes as v."""
    v = ids.view(np.int64)
    order = np.lexsort((numbers, v))
    pairs = zip(v[order].tolist(), numbers[order].tolist(), strict=True)
    db.executemany("INSERT OR IGNORE INTO crossing VALUES (?, ?)", pairs)


def replaced(db: sqlite3.Connection) -> list[str]:
    """Return files that are in use no more, some of which may be there yet."""
    return [name for (name,) in db.execute("SELECT file FROM replaced")]


def note_replaced(db: sqlite3.Connection, names: Sequence[str], removed: Sequence[str]) -> None:
    """Note files that are in use no more, and forget those that are removed."""
    db.executemany("DELETE FROM replaced WHERE file = ?", ((name,) for name in removed))
    db.executemany("INSERT OR IGNORE INTO replaced VALUES (?)", ((name,) for name in names))
