"""The seam between the graph that users see and the databases that hold it: six methods, and what passes through them.

What reaches a backend was checked by `GraphStore`: ids, types, names, regions. Backends only store and find.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bellis.geometry import Roi
    from bellis.graphs.columns import Edges, Ids, Nodes
    from bellis.graphs.metadata import Metadata

Policy: TypeAlias = Literal["upsert", "insert", "update"]
"""What becomes of rows that are there or not: both are written; those that are there are an error; those that are not
there are an error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """What to read. A node has to meet all of it; edges are those whose u is such a node."""

    roi: Roi | None = None
    """Half-open region of the nodes; nodes without a position are in none. None: all nodes, with and without one."""
    ids: Ids | None = None
    """Only these nodes, sorted."""
    nodes: bool = True
    """Whether nodes come; else none do, but edges may."""
    edges: bool = True
    """Whether edges come; else none do."""
    both_ends: bool = False
    """Edges whose v is such a node come too. And the other ends of all edges come as nodes, whatever their place."""
    node_attrs: tuple[str, ...] = ()
    """Attributes of nodes to read: all known to the store."""
    edge_attrs: tuple[str, ...] = ()
    """Attributes of edges to read: all known to the store."""
    nodes_filter: Mapping[str, Any] = field(default_factory=dict)
    """Only nodes with these values, all of them; Python's bool, int, float, str, or a tuple for a vector.

    If it is empty, and there are no roi and no ids, edges come whether or not their u is a node of the store.
    """
    edges_filter: Mapping[str, Any] = field(default_factory=dict)
    """Only edges with these values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deletion:
    """What to remove: what is in a region, and is not among what is written."""

    roi: Roi | None
    """The region; None is everywhere, and then also nodes without a position, and edges of which u is no node."""
    nodes: bool = False
    """Whether nodes are removed, and with them all edges of which they are u, but for those that are written."""
    edges: bool = False
    """Whether edges are removed whose u lies in the region."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What to write, all of it or nothing.

    Rows with the same columns are one group. Columns that a group does not have are left as they are in the store, or
    are without a value in new rows; where a column is masked, the value in the store is removed.
    """

    nodes: tuple[Nodes, ...] = ()
    """Groups of nodes; no id is there twice."""
    edges: tuple[Edges, ...] = ()
    """Groups of edges; no pair is there twice, and in undirected graphs u <= v."""
    policy: Policy = "upsert"
    """For nodes and edges that are there or not."""
    deletion: Deletion | None = None
    """What to remove, judged by positions after the nodes are written: edges first, then nodes."""
    is_bulk: bool = False
    """Whether it is much, so that indices may be dropped before and made again after it, also for other writers."""


class Backend(Protocol):
    """Where a graph is stored.

    A backend is made without touching the store. It can be pickled, and used by several threads and, after a fork, by
    the child: connections are each process's own.

    Raises
    ------
    GraphServerError
        By each method, if the database can't be reached, went away or stays busy; what was not acknowledged is as if
        it had never been asked for.
    """

    def load(self) -> Metadata | None:
        """Return the metadata, or None if there is no graph."""
        ...

    def save(self, metadata: Metadata, *, replace: bool = False) -> Metadata:
        """Make a graph with these metadata, or let their attributes join those that are there; return all.

        Parameters
        ----------
        metadata
            What the graph is like, with all attributes that are known to whoever asks.
        replace
            Whether a graph that is there is removed before.

        Raises
        ------
        GraphMismatchError
            If another process has made an attribute of another type.
        """
        ...

    def read(self, query: Query, metadata: Metadata) -> tuple[Nodes, Edges]:
        """Return nodes, sorted by id, and edges, sorted by u and v, as they were at one moment.

        Of each, there is a column for every attribute that the query asks for, of its kind in ``metadata``; masked
        where rows have no value.
        """
        ...

    def count(self, query: Query, metadata: Metadata) -> tuple[int, int]:
        """Return how many nodes and edges `read` would return."""
        ...

    def write(self, change: Change, metadata: Metadata) -> None:
        """Write, all or nothing; when it returns, a crash of this process or machine loses none of it.

        Raises
        ------
        GraphExistsError, GraphMissingError
            If the policy forbids it, with up to five ids; then nothing is written.
        """
        ...

    def close(self) -> None:
        """Close connections of this process; the next call opens them again."""
        ...
