"""Graphs in MongoDB, in collections as daisy keeps them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self
from urllib.parse import unquote

from pymongo import ASCENDING
from pymongo.errors import DuplicateKeyError

from bellis.errors import GraphError, GraphMissingError
from bellis.graphs.metadata import Metadata
from bellis.graphs.mongo.connection import Connection, RaceError
from bellis.graphs.mongo.documents import field_of, metadata_of_daisy
from bellis.graphs.mongo.rows import Rows

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession
    from pymongo.collection import Collection
    from pymongo.database import Database

    from bellis.geometry import Coordinate
    from bellis.graphs.backend import Change, Query
    from bellis.graphs.columns import Edges, Nodes
    from bellis.graphs.mongo.documents import Document

_META = "graph"
"""Key of the document that describes a graph made by us."""
_JSON = "bellis"
"""Its field with all metadata; others are those that daisy reads."""
_IS_FOREIGN = "has_other_keys"
"""Its field that says that daisy made the graph."""
_SAMPLE = 1000
"""How many nodes, and edges, tell the types of a graph that daisy made."""
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

    In both: if the connection is lost while a write is acknowledged, it is an error, and the write may be there or not.

    Parameters
    ----------
    url
        Where the server is, ``mongodb://host:27017``, with credentials and options as MongoDB's drivers take them.
        A server that is not there is an error after 10 s, or ``serverSelectionTimeoutMS``.
    db_name
        Name of the database.
    nodes, edges, meta
        Names of the collections.

    Raises
    ------
    GraphError
        If a name is none that MongoDB takes.
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
        before_options = place.partition("://")[2].partition("?")[0]
        name = unquote(before_options.rpartition("@")[2].partition("/")[2])
        if not name:
            where = Connection(place, "").where
            raise GraphError(f"{where} names no database: write it like 'mongodb://host:27017/fragments'")
        return cls(place, name, nodes=nodes, edges=edges)

    def __str__(self) -> str:
        return self._connection.where

    def __repr__(self) -> str:
        return f"<MongoBackend {self}>"

    # Metadata ----------------------------------------------------------------------------------------------------

    def load(self) -> Metadata | None:
        """Return the metadata, of a graph that daisy made what can be known; or None if there is no graph."""
        with self._connection.answering() as connection:
            database = connection.database()
            stored = database[self._meta].find_one({})
            return None if stored is None else self._decoded(stored, database)

    def _decoded(self, stored: Document, database: Database[Document]) -> Metadata:
        if _JSON in stored:
            return Metadata.decode(stored[_JSON], where=str(self))
        indices: dict[str, list[str]] = {}
        for name in (self._nodes, self._edges):
            for index, described in database[name].index_information().items():
                indices[index] = [str(field) for field, _ in described["key"]]
        return metadata_of_daisy(
            stored,
            {name: indices[name] for name in ("position", "incident") if name in indices},
            list(database[self._nodes].find({}, limit=_SAMPLE)),
            list(database[self._edges].find({}, limit=_SAMPLE)),
        )

    def save(self, metadata: Metadata, *, replace: bool = False) -> Metadata:
        """Make a graph, or let attributes join."""
        with self._connection.answering() as connection:
            database = connection.database()
            if replace:
                # first of all, so that whoever comes after a crash finds no graph, and not a half
                for name in (self._meta, self._nodes, self._edges):
                    database[name].drop()
            while True:
                try:
                    return self._saved(metadata, database)
                except (RaceError, DuplicateKeyError):
                    continue  # another has made or changed it: look again

    def _saved(self, metadata: Metadata, database: Database[Document]) -> Metadata:
        meta = database[self._meta]
        stored = meta.find_one({})
        if stored is None:
            self._index(metadata, database)
            meta.insert_one({"_id": _META, **_described(metadata)})
            return metadata
        known = self._decoded(stored, database)
        joined = known.extended(metadata.node_attrs, metadata.edge_attrs)
        if joined != known or _JSON not in stored:
            self._index(joined, database)
            as_found = {"_id": stored["_id"], _JSON: stored.get(_JSON, {"$exists": False})}
            is_foreign = stored.get(_IS_FOREIGN, _JSON not in stored)
            update = {"$set": {**_described(joined), _IS_FOREIGN: is_foreign}}
            if meta.update_one(as_found, update).matched_count == 0:
                raise RaceError
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
        return self._connection.transact(lambda *at: self._rows(metadata, *at).read(query))

    def count(self, query: Query, metadata: Metadata) -> tuple[int, int]:
        """Return how many nodes and edges `read` would return."""
        return self._connection.transact(lambda *at: self._rows(metadata, *at).count(query))

    def write(self, change: Change, metadata: Metadata) -> None:
        """Write; all or nothing if the server has transactions."""
        self._connection.transact(lambda *at: self._rows(metadata, *at).write(change))

    def _rows(self, metadata: Metadata, database: Database[Document], session: ClientSession | None) -> Rows:
        stored = database[self._meta].find_one({}, {_IS_FOREIGN: 1, _JSON: 1}, session=session)
        if stored is None:
            raise GraphMissingError(f"the graph in {self} is gone: another process removes or replaces it")
        return Rows(
            nodes=database[self._nodes],
            edges=database[self._edges],
            session=session,
            metadata=metadata,
            is_foreign=stored.get(_IS_FOREIGN, _JSON not in stored),
        )

    def close(self) -> None:
        """Close the connections of this process."""
        self._connection.close()


def _make_index(where: Collection[Document], fields: list[str], name: str) -> None:
    """Make an index, if there is none of these fields; daisy has its own, and none can be there by two names."""
    there = [[str(field) for field, _ in index["key"]] for index in where.index_information().values()]
    if fields not in there:
        where.create_index([(field, ASCENDING) for field in fields], name=name)


def _described(metadata: Metadata) -> dict[str, Any]:
    """Return metadata as we read them, and beside them what daisy reads."""
    found: dict[str, Any] = {_JSON: metadata.encode(), "directed": metadata.directed}
    if metadata.total_roi is not None:
        found["total_roi_offset"] = list(metadata.total_roi.offset)
        found["total_roi_shape"] = list(metadata.total_roi.shape)
    return found
