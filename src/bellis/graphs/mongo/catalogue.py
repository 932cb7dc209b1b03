"""Which collections of a database are of which graph: one document per graph in the collection ``meta``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from bellis.errors import GraphError, GraphMismatchError
from bellis.graphs.mongo.daisy import are_edges, are_nodes, is_of_daisy

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession
    from pymongo.database import Database

Document: TypeAlias = dict[str, Any]

JSON = "bellis"
"""Field of a graph's document with all metadata; others are those that daisy reads."""
IS_FOREIGN = "has_other_keys"
"""Its field that says that daisy made the graph."""
NODES, EDGES = "nodes", "edges"
"""Its fields with the names of the collections; a document of daisy has none of them."""
_DEFAULT = ("nodes", "edges")
_LOOKED_AT = 16
"""How many documents tell what a collection is of."""


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The documents of graphs in a database, for one of the graphs.

    That of a graph with the usual names has the key ``graph``, others ``graph:`` and the name of the nodes. One without
    metadata is left where a graph is being replaced: the collections are that graph's, but there is none.
    """

    nodes: str
    edges: str
    meta: str
    where: str
    """What messages call the database."""

    @property
    def is_default(self) -> bool:
        """Whether collections are called as daisy calls them."""
        return (self.nodes, self.edges) == _DEFAULT

    @property
    def key(self) -> str:
        """Key of the graph's document, if we make it."""
        return "graph" if self.is_default else f"graph:{self.nodes}"

    @property
    def names(self) -> dict[str, str]:
        """The fields with the names of the collections."""
        return {NODES: self.nodes, EDGES: self.edges}

    def find(self, database: Database[Document], session: ClientSession | None = None) -> Document | None:
        """Return the graph's document; of a graph that daisy made, daisy's, which may be of several graphs.

        In a transaction, it was looked before whether the collections are that graph's.

        Raises
        ------
        GraphMismatchError
            If the nodes are those of a graph with other edges.
        """
        meta = database[self.meta]
        own = meta.find_one({NODES: self.nodes}, session=session)
        if own is not None and isinstance(own.get(EDGES), str):
            if own[EDGES] != self.edges:
                raise GraphMismatchError(
                    f"the graph with the collection {self.nodes!r} in {self.where} has its edges in {own[EDGES]!r}, "
                    f"not in {self.edges!r}: pass edges={own[EDGES]!r}"
                )
            return own
        asked = [{field: {"$exists": True}} for field in ("directed", "total_roi_offset")]
        for document in meta.find({"$or": asked}, session=session):
            if (NODES not in document or document.get(IS_FOREIGN)) and is_of_daisy(document):
                shared = {name: value for name, value in document.items() if NODES not in document or name != JSON}
                return shared if session is not None or self._are_ours(database) else None
        return None

    def _are_ours(self, database: Database[Document]) -> bool:
        """Return whether the collections look like those of a graph, and are of no other."""
        there = set(database.list_collection_names())
        if self.nodes not in there or (self.edges not in there and not self.is_default) or self._others(database):
            return False
        return are_nodes(database[self.nodes].find({}, limit=_LOOKED_AT)) and are_edges(
            list(database[self.edges].find({}, limit=_LOOKED_AT))
        )

    def _others(self, database: Database[Document]) -> list[Document]:
        """Return the documents of other graphs that have a collection of these names."""
        names = {"$in": [self.nodes, self.edges]}
        found = database[self.meta].find({"$or": [{NODES: names}, {EDGES: names}]})
        return [one for one in found if isinstance(one.get(EDGES), str) and one[NODES] != self.nodes]

    def check_free(self, database: Database[Document]) -> None:
        """Refuse to make a graph in collections that are of something else.

        Raises
        ------
        GraphMismatchError
            If one is another graph's.
        GraphError
            If one has documents of something else.
        """
        for other in self._others(database):
            raise GraphMismatchError(
                f"{self.nodes!r} or {self.edges!r} in {self.where} is of the graph with the collections "
                f"{other[NODES]!r} and {other[EDGES]!r}: pass these, or other names as nodes and edges"
            )
        taken = [name for name in (self.nodes, self.edges) if database[name].find_one({}) is not None]
        if not taken and not self._is_catalogue(database):
            taken = [self.meta]
        if taken:
            raise GraphError(
                f"{self.where} has a collection {' and '.join(map(repr, taken))} already, that is not of this graph: "
                "pass other names as nodes and edges, or another database"
            )

    def _is_catalogue(self, database: Database[Document]) -> bool:
        """Return whether there are documents of graphs, or none at all."""
        found = list(database[self.meta].find({}, limit=_LOOKED_AT))
        return not found or any(is_of_daisy(one) or (NODES in one and EDGES in one) for one in found)

    def clear(self, database: Database[Document], old: Document) -> None:
        """Remove a graph, but for its document, which has no metadata from now on.

        That comes first, so that whoever comes after a crash finds no graph, and not a half.
        """
        meta = database[self.meta]
        if NODES in old and old.get(NODES) == self.nodes:
            meta.replace_one({"_id": old["_id"]}, self.names)
        else:
            meta.replace_one({"_id": self.key}, self.names, upsert=True)
            if self.is_default or _DEFAULT[0] not in database.list_collection_names():  # else it is another graph's
                meta.delete_one({"_id": old["_id"]})
        for name in (self.nodes, self.edges):
            database[name].drop()
