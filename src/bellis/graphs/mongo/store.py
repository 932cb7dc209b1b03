"""Graphs in MongoDB, in collections as daisy keeps them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self
from urllib.parse import unquote

from pymongo import ASCENDING, DESCENDING
from pymongo.errors import DuplicateKeyError

from bellis.errors import GraphError, GraphMissingError
from bellis.graphs.metadata import Metadata
from bellis.graphs.mongo.catalogue import IS_FOREIGN, JSON, NODES, Catalogue
from bellis.graphs.mongo.connection import Address, Connection, RaceError, without_credentials
from bellis.graphs.mongo.daisy import kind_of_column, merged, metadata_of_daisy, with_met
from bellis.graphs.mongo.documents import field_of
from bellis.graphs.mongo.rows import Rows

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pymongo.client_session import ClientSession
    from pymongo.collection import Collection
    from pymongo.database import Database

    from bellis.geometry import Coordinate
    from bellis.graphs.attributes import Kind
    from bellis.graphs.backend import Change, Query
    from bellis.graphs.columns import Edges, Nodes
    from bellis.graphs.mongo.documents import Document

SAMPLE = 1000
"""How many nodes, and edges, tell the types of a graph that daisy made, of the first and of the last."""
_BAD = frozenset('/\\. "$*<>:|?\0')
"""What a database's name must not have."""


class MongoBackend:
    """A graph in a database of MongoDB.

    A node is a document with ``id`` and its attributes, the position among them as a list or as one field per axis; an
    edge is one with ``u``, ``v`` and attributes. That is how daisy 1.x keeps them: it can read these graphs, and graphs
    that it made can be opened. Ids of 2^63 and more are negative numbers there, as in daisy. ``_id`` is the id of a
    node, and 16 bytes of both ids of an edge: the server itself holds each apart, whatever indices are there. (In
    graphs that daisy made, documents keep their ``_id``.)

    **With transactions** (a replica set, also of one member, or a sharded cluster; MongoDB 4.4 or later) each write is
    all or nothing, and each read is of one moment. An acknowledged write is in the journals of most members. If two
    write the same nodes, one waits and is tried again, up to 120 s. A writer that is killed leaves nothing; but what
    it had touched stays locked until the server ends its transaction, after 60 s unless its parameter
    ``transactionLifetimeLimitSeconds`` says otherwise. This is also how long one read or write may take: split what
    takes longer into regions.

    **Without transactions** (a standalone server) each node and each edge is written whole or not at all, and an
    acknowledged write is in the journal. Policies are checked before the first is written; then come nodes, then edges,
    then what is removed. But a writer that is killed leaves those that it had written; a read may see a part of a write
    that goes on; and of two that write the same nodes with ``fail_if_exists``, the later may have written some of its
    others before its error. Written again, all is as it should be.

    **Graphs that daisy made** have no declared types. The first and the last 1000 nodes and edges tell attributes and
    types, and whatever is read: an attribute that nobody has met joins when all attributes are read where it is, and
    one of whole numbers is one of floats from the first fraction on. If it is asked for by name before that, nothing
    has it. Without daisy's indices, documents also tell what positions and ends are called: ``position``, else
    ``(t, z, y, x)``, ``(z, y, x)`` or ``(y, x)``, else the first vector of numbers that is as long as the total region
    has axes; ``u`` and ``v``, else the first two integers.

    **Several graphs in a database** have nodes and edges of other names, and a document each in ``meta``. daisy reads
    the first of these documents, whatever its graph is.

    In both: if the connection is lost while a write is acknowledged, it is an error, and the write may be there or not.

    Parameters
    ----------
    url
        Where the server is, ``mongodb://host:27017``, with credentials and options as MongoDB's drivers take them.
        A server that is not there is an error after 10 s, or ``serverSelectionTimeoutMS``; one that does not answer a
        question any more, after 120 s, or ``socketTimeoutMS``.
    db_name
        Name of the database.
    nodes, edges, meta
        Names of the collections.

    Raises
    ------
    GraphError
        If a name is none that MongoDB takes, or the URL can't be read.
    """

    def __init__(
        self, url: str, db_name: str, *, nodes: str = "nodes", edges: str = "edges", meta: str = "meta"
    ) -> None:
        if not isinstance(db_name, str) or not db_name or len(db_name.encode()) > 63 or set(db_name) & _BAD:
            raise GraphError(
                f'{db_name!r} is no name of a database: up to 63 bytes, without spaces and any of /\\."$*<>:|?'
            )
        for name in (nodes, edges, meta):
            if not name or name.startswith("system.") or "$" in name or "\0" in name:
                raise GraphError(f"{name!r} is no name of a collection: it has no $, and does not begin with 'system.'")
        if len({nodes, edges, meta}) < 3:
            raise GraphError(f"nodes, edges and meta need a collection each, but are {nodes!r}, {edges!r}, {meta!r}")
        self._connection = Connection(url, db_name)
        self._nodes, self._edges, self._meta = nodes, edges, meta
        self._catalogue = Catalogue(nodes, edges, meta, self._connection.where)
        # Of a graph that daisy made: attributes that were met in what was read, and those that are left out.
        self._met: tuple[dict[str, Kind], dict[str, Kind]] = {}, {}
        self._told: set[str] = set()
        self._sampled: tuple[Any, Metadata] | None = None

    @classmethod
    def at(
        cls, place: str, *, nodes: str = "nodes", edges: str = "edges", chunk_size: Coordinate | None = None
    ) -> Self:
        """Return the backend for ``mongodb://host/database``.

        Raises
        ------
        GraphError
            If the URL names no database, or a chunk size is given.
        """
        if chunk_size is not None:
            raise GraphError("a graph in MongoDB has no chunk_size: leave it out")
        name = unquote(Address.parse(place).path)
        if not name:
            raise GraphError(
                f"{without_credentials(place)} names no database: write it like 'mongodb://host:27017/fragments'"
            )
        return cls(place, name, nodes=nodes, edges=edges)

    def __str__(self) -> str:
        names = "" if self._catalogue.is_default else f" (collections {self._nodes!r} and {self._edges!r})"
        return f"{self._connection.where}{names}"

    def __repr__(self) -> str:
        return f"<MongoBackend {self}>"

    # Metadata ----------------------------------------------------------------------------------------------------

    def load(self) -> Metadata | None:
        """Return the metadata, of a graph that daisy made what can be known; or None if there is no graph."""
        with self._connection.answering() as connection:
            database = connection.database()
            stored = self._catalogue.find(database)
            return None if stored is None else self._decoded(stored, database)

    def _decoded(self, stored: Document, database: Database[Document]) -> Metadata | None:
        if JSON in stored:
            metadata = Metadata.decode(stored[JSON], where=str(self))
        elif stored.get(NODES) == self._nodes and IS_FOREIGN not in stored:
            return None  # it is being replaced
        else:
            metadata = self._guessed(stored, database)
        return with_met(metadata, *self._met) if _is_foreign(stored) else metadata

    def _guessed(self, stored: Document, database: Database[Document]) -> Metadata:
        """Return what documents tell; of a large graph they are looked at once, since each read asks."""
        if self._sampled is not None and self._sampled[0] == stored["_id"]:
            return self._sampled[1]
        indices: dict[str, list[str]] = {}
        for name in (self._nodes, self._edges):
            for index, described in database[name].index_information().items():
                indices[index] = [str(field) for field, _ in described["key"]]
        nodes, edges = (_some(database[name]) for name in (self._nodes, self._edges))
        metadata = metadata_of_daisy(stored, indices, nodes, edges, self._told)
        if max(len(nodes), len(edges)) > SAMPLE:
            self._sampled = stored["_id"], metadata
        return metadata

    def save(self, metadata: Metadata, *, replace: bool = False) -> Metadata:
        """Make a graph, or let attributes join."""
        with self._connection.answering() as connection:
            database = connection.database()
            if replace:
                old = self._catalogue.find(database)
                if old is not None:
                    self._catalogue.clear(database, old)
                self._met, self._sampled = ({}, {}), None
            while True:
                try:
                    return self._saved(metadata, database)
                except (RaceError, DuplicateKeyError):
                    continue  # another has made or changed it: look again

    def _saved(self, metadata: Metadata, database: Database[Document]) -> Metadata:
        meta, names = database[self._meta], self._catalogue.names
        stored = self._catalogue.find(database)
        known = None if stored is None else self._decoded(stored, database)
        if stored is None or known is None:
            if stored is None:
                self._catalogue.check_free(database)
            key = self._catalogue.key if stored is None else stored["_id"]
            self._index(metadata, database)
            meta.replace_one({"_id": key, JSON: {"$exists": False}}, {**names, **_described(metadata)}, upsert=True)
            return metadata
        joined = known.extended(metadata.node_attrs, metadata.edge_attrs)
        if joined == known and JSON in stored:
            return joined
        self._index(joined, database)
        described = {**names, **_described(joined), IS_FOREIGN: _is_foreign(stored)}
        if stored.get(NODES) == self._nodes or self._catalogue.is_default:
            as_found = {"_id": stored["_id"], JSON: stored.get(JSON, {"$exists": False})}
            if meta.update_one(as_found, {"$set": described}).matched_count == 0:
                raise RaceError
        else:  # daisy's document may be of several graphs
            meta.insert_one({"_id": self._catalogue.key, **described})
        return joined

    def _index(self, metadata: Metadata, database: Database[Document]) -> None:
        u, v = map(field_of, metadata.endpoints)
        _make_index(database[self._edges], [u], "bellis_u")
        _make_index(database[self._edges], [v], "bellis_v")
        fields = [field_of(name) for name in metadata.positions]
        kind = metadata.node_attrs.get(metadata.positions[0])
        if not metadata.is_split:
            if kind is None:
                return  # until positions join
            if kind.size is not None:
                fields = [f"{fields[0]}.{axis}" for axis in range(kind.size)]
        _make_index(database[self._nodes], fields, "bellis_position")

    # Nodes and edges ---------------------------------------------------------------------------------------------

    def read(self, query: Query, metadata: Metadata) -> tuple[Nodes, Edges]:
        """Return nodes and edges, as they were at one moment if the server has transactions."""
        nodes, edges = self._connection.transact(lambda *at: self._rows(metadata, *at).read(query))
        self._met = (
            _with_new(self._met[0], nodes, metadata.node_attrs),
            _with_new(self._met[1], edges, metadata.edge_attrs),
        )
        return nodes, edges

    def count(self, query: Query, metadata: Metadata) -> tuple[int, int]:
        """Return how many nodes and edges `read` would return."""
        return self._connection.transact(lambda *at: self._rows(metadata, *at).count(query))

    def write(self, change: Change, metadata: Metadata) -> None:
        """Write; all or nothing if the server has transactions."""
        self._connection.transact(lambda *at: self._rows(metadata, *at).write(change))

    def _rows(self, metadata: Metadata, database: Database[Document], session: ClientSession | None) -> Rows:
        stored = self._catalogue.find(database, session)
        if stored is None or not (JSON in stored or _is_foreign(stored)):
            raise GraphMissingError(f"the graph in {self} is gone: another process removes or replaces it")
        return Rows(
            nodes=database[self._nodes],
            edges=database[self._edges],
            session=session,
            metadata=metadata,
            is_foreign=_is_foreign(stored),
            told=self._told,
        )

    def close(self) -> None:
        """Close the connections of this process."""
        self._connection.close()


def _is_foreign(stored: Document) -> bool:
    """Return whether daisy made a graph."""
    return bool(stored.get(IS_FOREIGN, JSON not in stored and NODES not in stored))


def _some(where: Collection[Document]) -> list[Document]:
    """Return some documents, the first and the last: attributes change with the years."""
    first = list(where.find({}, limit=SAMPLE))
    return first if len(first) < SAMPLE else [*first, *where.find({}, limit=SAMPLE, sort=[("_id", DESCENDING)])]


def _with_new(met: dict[str, Kind], rows: Nodes | Edges, known: Mapping[str, Kind]) -> dict[str, Kind]:
    """Return attributes that were met, and those of rows that are not as they are known."""
    found = {name: kind_of_column(values) for name, values in rows.attrs.items()}
    new = {name: kind for name, kind in found.items() if known.get(name) != kind}
    return merged(met, new) if new else met


def _make_index(where: Collection[Document], fields: list[str], name: str) -> None:
    """Make an index, if there is none of these fields; daisy has its own, and none can be there by two names."""
    there = [[str(field) for field, _ in index["key"]] for index in where.index_information().values()]
    if fields not in there:
        where.create_index([(field, ASCENDING) for field in fields], name=name)


def _described(metadata: Metadata) -> dict[str, Any]:
    """Return metadata as we read them, and beside them what daisy reads."""
    found: dict[str, Any] = {JSON: metadata.encode(), "directed": metadata.directed}
    if metadata.total_roi is not None:
        found["total_roi_offset"] = list(metadata.total_roi.offset)
        found["total_roi_shape"] = list(metadata.total_roi.shape)
    return found
