"""A graph in the memory of one process: for tests, and as the model that databases are compared with."""

from __future__ import annotations

import itertools
import os
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self
from weakref import WeakValueDictionary

import numpy as np

from bellis.errors import GraphError, GraphExistsError, GraphMissingError, GraphServerError
from bellis.graphs.columns import Edges, Nodes, absent, column

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Iterator, Mapping

    import numpy.typing as npt

    from bellis.geometry import Coordinate, Roi
    from bellis.graphs.attributes import Kind
    from bellis.graphs.backend import Change, Deletion, Policy, Query
    from bellis.graphs.metadata import Metadata

SCHEME = "memory://"
_NAMED: dict[str, _Graph] = {}
"""Graphs that live as long as the process: a name is all that is needed to find one again."""
_ALIVE: WeakValueDictionary[str, _Graph] = WeakValueDictionary()
"""All graphs, also those without a name of the user's: a backend that is unpickled finds its own."""
_LOCK = threading.Lock()
_SERIALS = itertools.count()


class _Graph:
    """What all backends of one name share."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.process = os.getpid()
        self.metadata: Metadata | None = None
        self.nodes: dict[int, dict[str, Any]] = {}
        self.edges: dict[tuple[int, int], dict[str, Any]] = {}


class MemoryBackend:
    """A graph in dictionaries, behind one lock.

    Parameters
    ----------
    name
        All backends of one name in one process are the same graph, until the process ends. Without a name, the graph
        lives as long as what refers to it.
    """

    def __init__(self, name: str | None = None) -> None:
        with _LOCK:
            self._key = f"{SCHEME}{name}" if name is not None else f"{SCHEME}#{next(_SERIALS)}"
            self._graph = _ALIVE.get(self._key) or _Graph()
            _ALIVE[self._key] = self._graph
            if name is not None:
                _NAMED[self._key] = self._graph

    @classmethod
    def at(
        cls, place: str, *, nodes: str = "nodes", edges: str = "edges", chunk_size: Coordinate | None = None
    ) -> Self:
        """Return the backend for ``memory://name``.

        Raises
        ------
        GraphError
            If there is no name, or options are given that only others have.
        """
        name = place.removeprefix(SCHEME)
        if not name:
            raise GraphError(f"{place!r} has no name: write it like 'memory://fragments'")
        if (nodes, edges) != ("nodes", "edges") or chunk_size is not None:
            raise GraphError(f"{place} is a graph in memory: it has no tables to name, and no chunk_size")
        return cls(name)

    def __str__(self) -> str:
        return self._key

    def __getstate__(self) -> str:
        return self._key

    def __setstate__(self, key: str) -> None:
        found = _ALIVE.get(key)
        if found is None:
            raise GraphServerError(
                f"the graph {key} is in the memory of another process, or of none any more: keep a graph that several "
                "processes need in a file or a database"
            )
        self._key, self._graph = key, found

    def load(self) -> Metadata | None:
        """Return the metadata, or None if there is no graph."""
        with self._locked() as graph:
            return graph.metadata

    def save(self, metadata: Metadata, *, replace: bool = False) -> Metadata:
        """Make a graph, or let attributes join."""
        with self._locked() as graph:
            if replace or graph.metadata is None:
                graph.metadata = metadata
                graph.nodes, graph.edges = {}, {}
            else:
                graph.metadata = graph.metadata.extended(metadata.node_attrs, metadata.edge_attrs)
            return graph.metadata

    def read(self, query: Query, metadata: Metadata) -> tuple[Nodes, Edges]:
        """Return what a query asks for."""
        with self._locked() as graph:
            ids, pairs = _found(graph, query, metadata)
            node_kinds = {name: metadata.node_attrs[name] for name in query.node_attrs}
            edge_kinds = {name: metadata.edge_attrs[name] for name in query.edge_attrs}
            return (
                Nodes(id=np.array(ids, np.uint64), attrs=_columns([graph.nodes[node] for node in ids], node_kinds)),
                Edges(
                    u=np.array([u for u, _ in pairs], np.uint64),
                    v=np.array([v for _, v in pairs], np.uint64),
                    attrs=_columns([graph.edges[pair] for pair in pairs], edge_kinds),
                ),
            )

    def count(self, query: Query, metadata: Metadata) -> tuple[int, int]:
        """Return how many nodes and edges a query finds."""
        with self._locked() as graph:
            ids, pairs = _found(graph, query, metadata)
            return len(ids), len(pairs)

    def write(self, change: Change, metadata: Metadata) -> None:
        """Write, all or nothing: what may be refused is looked at before anything is written."""
        nodes = {
            node: data for group in change.nodes for node, data in zip(group.id.tolist(), _rows(group), strict=True)
        }
        edges = {
            pair: data
            for group in change.edges
            for pair, data in zip(zip(group.u.tolist(), group.v.tolist(), strict=True), _rows(group), strict=True)
        }
        with self._locked() as graph:
            _check("node", change.policy, nodes, graph.nodes)
            _check("edge", change.policy, edges, graph.edges)
            _update(graph.nodes, nodes)
            _update(graph.edges, edges)
            if change.deletion is not None:
                _delete(graph, change.deletion, nodes, edges, metadata)

    def close(self) -> None:
        """Do nothing: there is no connection."""

    @contextmanager
    def _locked(self) -> Iterator[_Graph]:
        if self._graph.process != os.getpid():
            raise GraphServerError(
                f"the graph {self._key} is in the memory of process {self._graph.process}, and this is its child "
                f"{os.getpid()}: keep a graph that several processes need in a file or a database"
            )
        with self._graph.lock:
            yield self._graph


def _found(graph: _Graph, query: Query, metadata: Metadata) -> tuple[list[int], list[tuple[int, int]]]:
    """Return the ids and pairs that a query asks for, sorted."""
    asked = None if query.ids is None else set(query.ids.tolist())
    chosen = {
        node
        for node, data in graph.nodes.items()
        if (asked is None or node in asked)
        and (query.roi is None or _is_inside(data, query.roi, metadata))
        and _has(data, query.nodes_filter)
    }
    is_everywhere = query.roi is None and query.ids is None and not query.nodes_filter
    pairs = [
        (u, v)
        for (u, v), data in graph.edges.items()
        if query.edges
        and (is_everywhere or u in chosen or (query.both_ends and v in chosen))
        and _has(data, query.edges_filter)
    ]
    ends = {end for pair in pairs for end in pair if end in graph.nodes} if query.both_ends else set()
    return sorted(chosen | ends) if query.nodes else [], sorted(pairs)


def _is_inside(data: Mapping[str, Any], roi: Roi, metadata: Metadata) -> bool:
    """Whether a node is in a half-open region: never, if it has no position."""
    if any(name not in data for name in metadata.positions):
        return False
    values = [data[name] for name in metadata.positions]
    at = values[0] if isinstance(values[0], tuple) else values
    return all(
        (begin is None or begin <= x) and (end is None or x < end)
        for x, begin, end in zip(at, roi.begin, roi.end, strict=True)
    )


def _has(data: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    return all(name in data and data[name] == value for name, value in wanted.items())


def _columns(rows: list[dict[str, Any]], kinds: Mapping[str, Kind]) -> dict[str, npt.NDArray[Any]]:
    """Put rows into columns, masked where there is no value."""
    columns = {}
    for name, kind in kinds.items():
        values = np.zeros((len(rows), *kind.row), kind.dtype)
        if kind.base == "str":
            values.fill("")
        is_absent = np.array([name not in row for row in rows], np.bool_)
        for at, row in enumerate(rows):
            if name in row:
                values[at] = row[name]
        columns[name] = column(values, is_absent)
    return columns


def _rows(group: Nodes | Edges) -> Iterator[dict[str, Any]]:
    """Yield what is given of each row; None is a value that is to be removed."""
    columns = {}
    for name, values in group.attrs.items():
        as_list: list[Any] = np.ma.getdata(values).tolist()
        if values.ndim == 2:
            as_list = [tuple(value) for value in as_list]
        columns[name] = [None if no else value for value, no in zip(as_list, absent(values).tolist(), strict=True)]
    for at in range(len(group)):
        yield {name: values[at] for name, values in columns.items()}


def _check(what: str, policy: Policy, given: Iterable[Hashable], there: Mapping[Any, Any]) -> None:
    """Refuse rows that are there, or are not, if the policy forbids it."""
    if policy == "upsert":
        return
    wrong = [key for key in given if (key in there) == (policy == "insert")]
    if not wrong:
        return
    shown = ", ".join(map(str, wrong[:5])) + (", ..." if len(wrong) > 5 else "")
    if policy == "insert":
        raise GraphExistsError(f"{len(wrong)} {what}s are in the graph already: {shown}; nothing was written")
    raise GraphMissingError(f"{len(wrong)} {what}s are not in the graph: {shown}; nothing was written")


def _update(there: dict[Any, dict[str, Any]], given: Mapping[Any, dict[str, Any]]) -> None:
    for key, data in given.items():
        joined = {**there.get(key, {}), **data}
        there[key] = {name: value for name, value in joined.items() if value is not None}


def _delete(
    graph: _Graph,
    deletion: Deletion,
    nodes: Mapping[int, Any],
    edges: Mapping[tuple[int, int], Any],
    metadata: Metadata,
) -> None:
    """Remove what is in the region and was not written."""
    roi = deletion.roi
    inside = {node for node, data in graph.nodes.items() if roi is None or _is_inside(data, roi, metadata)}
    gone = inside - nodes.keys() if deletion.nodes else set()
    for pair in [pair for pair in graph.edges if pair not in edges]:
        is_chosen = deletion.edges and (roi is None or pair[0] in inside)
        if is_chosen or pair[0] in gone:
            del graph.edges[pair]
    for node in gone:
        del graph.nodes[node]
