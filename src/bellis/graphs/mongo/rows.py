"""Reads and writes of nodes and edges in collections of MongoDB, within one transaction or without."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from pymongo import DeleteOne, InsertOne, UpdateOne
from pymongo.errors import BulkWriteError

from bellis.errors import GraphExistsError, GraphMissingError
from bellis.graphs.columns import Edges, Nodes
from bellis.graphs.mongo.connection import RaceError
from bellis.graphs.mongo.daisy import kinds_of_documents
from bellis.graphs.mongo.documents import (
    all_of,
    changes,
    edge_keys,
    edges_of,
    field_of,
    having,
    inside,
    nodes_of,
    signed,
    unsigned,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from pymongo.client_session import ClientSession
    from pymongo.collection import Collection

    from bellis.graphs.attributes import Kind
    from bellis.graphs.backend import Change, Deletion, Policy, Query
    from bellis.graphs.columns import Ids
    from bellis.graphs.metadata import Metadata
    from bellis.graphs.mongo.documents import Document

Key: TypeAlias = "int | bytes"
Write: TypeAlias = "InsertOne[Document] | UpdateOne | DeleteOne"

ASKED_AT_ONCE = 256
"""How many ids one question has."""
WRITTEN_AT_ONCE = 1024
"""How many documents one message has, at most."""
_DUPLICATE = 11000


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """The nodes and edges of a graph, as one session sees them."""

    nodes: Collection[Document]
    """Documents with ``id`` and attributes. Their ``_id`` is the id as well, so that it is there once."""
    edges: Collection[Document]
    """Documents with both ends and attributes. Their ``_id`` is made of both ends."""
    session: ClientSession | None
    """The transaction; None without one."""
    metadata: Metadata
    """What the graph is like."""
    is_foreign: bool
    """Whether daisy made it, and documents have keys that tell nothing, and attributes that nobody declared."""
    told: set[str] = field(default_factory=set)
    """Attributes that are left out, and of which that was said."""

    # Reads -------------------------------------------------------------------------------------------------------

    def read(self, query: Query) -> tuple[Nodes, Edges]:
        """Return what a query asks for."""
        nodes = self._nodes(query)
        edges = self._edges(query, None if self._is_all(query) else nodes.id) if query.edges else self._no_edges(query)
        if query.both_ends and query.nodes:
            ends = np.unique(np.concatenate([edges.u, edges.v]))
            others = self._nodes_by_id(np.setdiff1d(ends, nodes.id, assume_unique=True), query)
            nodes = Nodes.concatenate([nodes, others]).sorted()
        return (nodes if query.nodes else nodes.select(slice(0))), edges

    def count(self, query: Query) -> tuple[int, int]:
        """Return how many nodes and edges `read` would return."""
        if query.both_ends:
            nodes, edges = self.read(replace(query, node_attrs=(), edge_attrs=()))
            return len(nodes), len(edges)
        count = sum(self._count(self.nodes, match) for match in self._matches(query)) if query.nodes else 0
        if not query.edges:
            return count, 0
        wanted = having(query.edges_filter)
        if self._is_all(query):
            return count, self._count(self.edges, all_of(wanted))
        ids = self._nodes(replace(query, node_attrs=())).id
        u = self._ends()[0]
        return count, sum(
            self._count(self.edges, all_of([{u: {"$in": some}}, *wanted])) for some in _parts(signed(ids))
        )

    @staticmethod
    def _is_all(query: Query) -> bool:
        return query.roi is None and query.ids is None and not query.nodes_filter

    def _ends(self) -> tuple[str, str]:
        u, v = self.metadata.endpoints
        return field_of(u), field_of(v)

    def _matches(self, query: Query) -> Iterator[Document]:
        conditions = having(query.nodes_filter)
        if query.roi is not None:
            conditions += inside(query.roi, self.metadata)
        if query.ids is None:
            yield all_of(conditions)
        else:
            for ids in _parts(signed(query.ids)):
                yield all_of([self._is_one_of(ids), *conditions])

    def _is_one_of(self, ids: list[Any]) -> Document:
        return {"id" if self.is_foreign else "_id": {"$in": ids}}

    def _nodes(self, query: Query) -> Nodes:
        names = query.node_attrs if query.nodes else ()
        if not query.nodes and self._is_all(query):
            return Nodes.empty({})
        return self._nodes_that(self._matches(query), names)

    def _nodes_by_id(self, ids: Ids, query: Query) -> Nodes:
        return self._nodes_that((self._is_one_of(some) for some in _parts(signed(ids))), query.node_attrs)

    def _nodes_that(self, matches: Iterable[Document], names: tuple[str, ...]) -> Nodes:
        known = self.metadata.node_attrs
        shown = self._shown(names, known)
        found = [document for match in matches for document in self._find(self.nodes, match, ("id",), shown)]
        kinds = {name: known[name] for name in names}
        if shown is None:
            kinds |= kinds_of_documents("node", found, {"_id", "id", *map(field_of, names)}, self.told)
        return nodes_of(found, kinds, is_foreign=self.is_foreign)

    def _shown(self, names: tuple[str, ...], known: Mapping[str, Kind]) -> tuple[str, ...] | None:
        """Return which attributes to read, None for whatever there is.

        If all are wanted of a graph that daisy made, so are those that were not known until now.
        """
        return None if self.is_foreign and set(names) == set(known) else names

    def _edges(self, query: Query, ids: Ids | None) -> Edges:
        """Return edges of these nodes; of None, all."""
        ends, wanted = self._ends(), having(query.edges_filter)
        matches = [all_of(wanted)]
        if ids is not None:
            asked = ends if query.both_ends else ends[:1]
            matches = [all_of([{end: {"$in": some}}, *wanted]) for end in asked for some in _parts(signed(ids))]
        known = self.metadata.edge_attrs
        shown = self._shown(query.edge_attrs, known)
        found = {
            (document[ends[0]], document[ends[1]]): document
            for match in matches
            for document in self._find(self.edges, match, ends, shown)
        }
        kinds = {name: known[name] for name in query.edge_attrs}
        if shown is None:
            keys = {"_id", *ends, *map(field_of, kinds)}
            kinds |= kinds_of_documents("edge", found.values(), keys, self.told)
        return edges_of(list(found.values()), kinds, ends, is_foreign=self.is_foreign)

    def _no_edges(self, query: Query) -> Edges:
        return Edges.empty({name: self.metadata.edge_attrs[name] for name in query.edge_attrs})

    def _find(
        self, where: Collection[Document], match: Document, keys: tuple[str, ...], names: tuple[str, ...] | None
    ) -> Iterator[Document]:
        """Yield documents with these attributes, None for all."""
        fields = {} if names is None else dict.fromkeys((*keys, *map(field_of, names)), 1)
        with where.find(match, {"_id": 0, **fields}, session=self.session) as cursor:
            yield from cursor

    def _count(self, where: Collection[Document], match: Document) -> int:
        return where.count_documents(match, session=self.session)

    # Writes ------------------------------------------------------------------------------------------------------

    def write(self, change: Change) -> None:
        """Write a change: all policies are checked before the first document is written; what is removed comes last."""
        nodes = [group for group in change.nodes if len(group)]
        edges = [group for group in change.edges if len(group)]
        asks = change.policy != "upsert" or self.is_foreign or change.is_bulk
        # what each group's rows are called in the database, for those that are there; None if nobody asked
        groups: tuple[Nodes | Edges, ...] = (*nodes, *edges)
        there = [self._there(group) if asks else None for group in groups]
        self._check("node", change.policy, nodes, there[: len(nodes)])
        self._check("edge", change.policy, edges, there[len(nodes) :])
        for group, known in zip(groups, there, strict=True):
            self._write_group(group, known, change.policy)
        if change.deletion is not None:
            self._delete(change.deletion, nodes, edges)

    def _there(self, group: Nodes | Edges) -> dict[Key, Any]:
        """Return ``_id`` by key of the rows that are in the database."""
        where = self.nodes if isinstance(group, Nodes) else self.edges
        if not self.is_foreign:
            found = (
                document
                for some in _parts(_keys(group))
                for document in where.find({"_id": {"$in": some}}, {"_id": 1}, session=self.session)
            )
            return {document["_id"]: document["_id"] for document in found}
        if isinstance(group, Nodes):
            fields, ids = ("id",), group.id
        else:
            fields, ids = self._ends(), np.unique(group.u)  # type: ignore[assignment]
        shown = dict.fromkeys(("_id", *fields), 1)
        documents = [
            document
            for some in _parts(signed(ids))
            for document in where.find({fields[0]: {"$in": some}}, shown, session=self.session)
        ]
        columns = [unsigned(document[field] for document in documents) for field in fields]
        keys: list[Any] = signed(columns[0]) if len(columns) == 1 else edge_keys(*columns)
        wanted = set(_keys(group))
        named = zip(keys, documents, strict=True)
        return {key: document["_id"] for key, document in named if key in wanted}

    def _check(
        self, what: str, policy: Policy, groups: list[Any], there: Sequence[Mapping[Key, Any] | None]
    ) -> None:  # fmt: skip
        if policy == "upsert":
            return
        wrong: list[str] = []
        for group, known in zip(groups, there, strict=True):
            assert known is not None  # noqa: S101  # asked for by every policy but upsert
            wrong += [
                name for name, key in zip(_names(group), _keys(group), strict=True)
                if (key in known) == (policy == "insert")
            ]  # fmt: skip
        if not wrong:
            return
        shown = ", ".join(wrong[:5]) + (", ..." if len(wrong) > 5 else "")
        if policy == "insert":
            raise GraphExistsError(f"{len(wrong)} {what}s are in the graph already: {shown}; nothing was written")
        raise GraphMissingError(f"{len(wrong)} {what}s are not in the graph: {shown}; nothing was written")

    def _write_group(self, group: Nodes | Edges, known: Mapping[Key, Any] | None, policy: Policy) -> None:
        if isinstance(group, Nodes):
            where, fields, ends = self.nodes, ("id",), [signed(group.id)]
        else:
            where, fields, ends = self.edges, self._ends(), [signed(group.u), signed(group.v)]  # type: ignore[assignment]
        writes: list[Write] = []
        rows = zip(_keys(group), zip(*ends, strict=True), changes(group.attrs, len(group)), strict=True)
        for key, ids, (given, gone) in rows:
            named = dict(zip(fields, ids, strict=True))
            if known is None:
                update = {
                    "$setOnInsert": named,
                    **({"$set": given} if given else {}),
                    **({"$unset": gone} if gone else {}),
                }
                writes.append(UpdateOne({"_id": key}, update, upsert=True))
            elif key not in known:
                writes.append(InsertOne({"_id": key, **named, **given}))
            elif given or gone:
                update = {**({"$set": given} if given else {}), **({"$unset": gone} if gone else {})}
                writes.append(UpdateOne({"_id": known[key]}, update))
            if len(writes) == WRITTEN_AT_ONCE:
                self._send(where, writes, policy)
                writes = []
        self._send(where, writes, policy)

    def _send(self, where: Collection[Document], writes: list[Write], policy: Policy) -> None:
        if not writes:
            return
        try:
            where.bulk_write(writes, ordered=False, session=self.session)
        except BulkWriteError as error:
            failed = error.details.get("writeErrors", [])
            if not failed or any(one.get("code") != _DUPLICATE for one in failed):
                raise
            if policy != "insert" or self.session is not None:
                raise RaceError from error
            raise GraphExistsError(
                f"{len(failed)} nodes or edges were written by another program at the same time; the server has no "
                "transactions, so that the others of these are in the graph now"
            ) from error

    # What is removed ---------------------------------------------------------------------------------------------

    def _delete(self, deletion: Deletion, nodes: list[Nodes], edges: list[Edges]) -> None:
        match = all_of([] if deletion.roi is None else inside(deletion.roi, self.metadata))
        here = np.sort(unsigned(document["id"] for document in self._find(self.nodes, match, ("id",), ())))
        gone = here
        if deletion.nodes and nodes:
            gone = np.setdiff1d(here, np.concatenate([group.id for group in nodes]), assume_unique=True)
        kept = {pair for group in edges for pair in zip(signed(group.u), signed(group.v), strict=True)}
        if deletion.edges:
            self._delete_edges(None if deletion.roi is None else here, kept)
        else:
            self._delete_edges(gone, kept)
        if deletion.nodes:
            for some in _parts(signed(gone)):
                self.nodes.delete_many(self._is_one_of(some), session=self.session)

    def _delete_edges(self, of: Ids | None, kept: set[tuple[int, int]]) -> None:
        """Remove edges of these nodes, None for all, but for some."""
        u, v = self._ends()
        matches: list[Document] = [{}] if of is None else [{u: {"$in": some}} for some in _parts(signed(of))]
        shown = {"_id": 1, u: 1, v: 1}
        for match in matches:
            found = list(self.edges.find(match, shown, session=self.session))
            writes: list[Write] = [DeleteOne({"_id": edge["_id"]}) for edge in found if (edge[u], edge[v]) not in kept]
            for start in range(0, len(writes), WRITTEN_AT_ONCE):
                self.edges.bulk_write(writes[start : start + WRITTEN_AT_ONCE], ordered=False, session=self.session)


def _keys(group: Nodes | Edges) -> list[Any]:
    return signed(group.id) if isinstance(group, Nodes) else edge_keys(group.u, group.v)


def _names(group: Nodes | Edges) -> Iterator[str]:
    if isinstance(group, Nodes):
        return map(str, group.id.tolist())
    return (f"({u}, {v})" for u, v in zip(group.u.tolist(), group.v.tolist(), strict=True))


def _parts(values: list[Any]) -> Iterator[list[Any]]:
    for start in range(0, len(values), ASKED_AT_ONCE):
        yield values[start : start + ASKED_AT_ONCE]
