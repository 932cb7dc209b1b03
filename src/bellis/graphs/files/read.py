"""How a store of files is read: which chunks, which columns, which rows."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np

from bellis.errors import GraphMismatchError
from bellis.graphs.columns import Edges, Nodes, absent, column
from bellis.graphs.files import catalogue
from bellis.graphs.files.rows import Rows, blank, contains, distinct, joined
from bellis.graphs.places import is_inside

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import numpy.typing as npt

    from bellis.geometry import Roi
    from bellis.graphs.attributes import Kind
    from bellis.graphs.backend import Query
    from bellis.graphs.columns import Ids
    from bellis.graphs.files.catalogue import Chunk
    from bellis.graphs.files.view import View
    from bellis.graphs.metadata import Metadata


class Lookup:
    """One query.

    Parameters
    ----------
    view
        Of the store.
    query
        What to read.
    metadata
        As whoever asks knows them.
    """

    def __init__(self, view: View, query: Query, metadata: Metadata) -> None:
        self._view = view
        self._query = query
        self._metadata = metadata
        self._ends = metadata.endpoints
        self._node_kinds = _chosen(query.node_attrs, metadata.node_attrs)
        self._edge_kinds = _chosen(query.edge_attrs, metadata.edge_attrs)
        names = {*query.nodes_filter, *(metadata.positions if query.roi is not None else ())}
        self._tests = _chosen(names, metadata.node_attrs)
        self._edge_tests = _chosen(query.edges_filter, metadata.edge_attrs)
        self._is_everywhere = query.roi is None and query.ids is None and not query.nodes_filter

    def read(self) -> tuple[Nodes, Edges]:
        """Return what the query asks for, sorted."""
        _, chunks = self._cover(counts=False)
        nodes, edges = self._rows(chunks)
        ids, u, v = map(_own, (*nodes.keys, *edges.keys))
        return (
            Nodes(id=ids, attrs=_completed(nodes, self._node_kinds)),
            Edges(u=u, v=v, attrs=_completed(edges, self._edge_kinds)),
        )

    def count(self) -> tuple[int, int]:
        """Return how many nodes and edges there are; chunks that are whole in a region are not read for that."""
        query = self._query
        whole, chunks = self._cover(counts=query.ids is None and not (query.both_ends or self._tests_values))
        nodes, edges = self._rows(chunks)
        return (
            len(nodes) + sum(chunk.num_nodes for chunk in whole if query.nodes),
            len(edges) + sum(chunk.num_edges for chunk in whole if query.edges),
        )

    def _cover(self, *, counts: bool) -> tuple[list[Chunk], list[Chunk]]:
        """Return chunks of which all is asked for, if that counts; and others in which there may be nodes."""
        view, query = self._view, self._query
        node_kinds, edge_kinds = self._node_kinds | self._tests, self._edge_kinds | self._edge_tests
        check_current(self._metadata, node_kinds, edge_kinds, view)
        box, roi, dims = None, query.roi, view.metadata.dims
        if roi is not None:
            if roi.empty or dims is None:
                return [], []
            box = view.grid(dims).box(roi)
        with view.step():
            if query.ids is not None:
                numbers = np.unique(view.ask(catalogue.find, query.ids))
                found = view.ask(catalogue.by_number, numbers[numbers >= 0].tolist())
            else:
                found = view.ask(catalogue.in_box, box)
            is_whole = [counts and _is_inside(chunk, roi, view) for chunk in found]
            whole = list(itertools.compress(found, is_whole))
            chunks = [chunk for chunk, is_done in zip(found, is_whole, strict=True) if not is_done]
            view.open(chunks, nodes=self._needs_nodes, edges=query.edges)
        return whole, chunks

    def _rows(self, chunks: list[Chunk]) -> tuple[Rows, Rows]:
        """Return the nodes and edges of the query, sorted, of which u (or the node) is in these chunks."""
        query = self._query
        nodes = {chunk.number: self._nodes_in(chunk) for chunk in chunks} if self._needs_nodes else {}
        edges = Rows.empty(2)
        if query.edges and (query.both_ends and not self._is_everywhere):
            edges = self._edges_of_both(chunks, nodes)
            if query.nodes:
                nodes[-1] = self._far_ends(nodes, edges)
        elif query.edges:
            edges = _put_together(
                [self._edges_in(chunk, nodes.get(chunk.number)) for chunk in chunks], self._edge_kinds, 2
            )
        found = _put_together(list(nodes.values()), self._node_kinds, 1) if query.nodes else Rows.empty(1)
        return found, edges

    @property
    def _tests_values(self) -> bool:
        return bool(self._query.nodes_filter or self._query.edges_filter)

    @property
    def _needs_nodes(self) -> bool:
        return self._query.nodes or not self._is_everywhere

    def _nodes_in(self, chunk: Chunk) -> Rows:
        query = self._query
        kinds = self._tests | (self._node_kinds if query.nodes else {})
        rows = self._view.read(chunk.nodes, ("id",), kinds)
        if self._is_everywhere:
            return rows
        keep = _meets(rows, query.nodes_filter)
        if query.ids is not None:
            keep &= contains(query.ids, rows.keys[0])
        if query.roi is not None:
            keep &= is_inside(rows.attrs, len(rows), query.roi, self._metadata)
        return Rows(rows.keys, {name: rows.attrs[name] for name in rows.attrs if name in self._node_kinds}).select(keep)

    def _edges_in(self, chunk: Chunk, nodes: Rows | None) -> Rows:
        """Return edges of which u is one of these nodes, or all."""
        if chunk.edges is None or not (self._is_everywhere or nodes):
            return Rows.empty(2)
        rows = self._view.read(chunk.edges, self._ends, self._edge_kinds | self._edge_tests)
        keep = _meets(rows, self._query.edges_filter)
        if nodes is not None and not self._is_everywhere:
            keep &= nodes.has(rows.keys[:1])
        return rows if keep.all() else rows.select(keep)

    def _edges_of_both(self, chunks: list[Chunk], nodes: Mapping[int, Rows]) -> Rows:
        """Return edges of which u or v is one of these nodes."""
        ids = _ids_of(nodes)
        own = [chunk.number for chunk in chunks if len(nodes[chunk.number])]
        with self._view.step():
            far = set(self._view.ask(catalogue.crossing, ids))
            found = self._view.ask(catalogue.by_number, sorted(far.union(own)))
            self._view.open(found, nodes=False)
        parts = []
        for chunk in found:
            rows = self._view.read(chunk.edges, self._ends, self._edge_kinds | self._edge_tests)
            keep = contains(ids, rows.keys[0]) | contains(ids, rows.keys[1])
            parts.append(rows.select(keep & _meets(rows, self._query.edges_filter)))
        return _put_together(parts, self._edge_kinds, 2)

    def _far_ends(self, nodes: Mapping[int, Rows], edges: Rows) -> Rows:
        """Return the nodes at the other ends of edges."""
        ends = distinct(np.concatenate(edges.keys))
        ends = ends[~contains(_ids_of(nodes), ends)]
        with self._view.step():
            numbers = np.unique(self._view.ask(catalogue.find, ends))
            chunks = self._view.ask(catalogue.by_number, numbers[numbers >= 0].tolist())
            self._view.open(chunks, edges=False)
        parts = [self._view.read(chunk.nodes, ("id",), self._node_kinds) for chunk in chunks]
        return _put_together([rows.select(contains(ends, rows.keys[0])) for rows in parts], self._node_kinds, 1)


def check_current(mine: Metadata, node_attrs: Mapping[str, Kind], edge_attrs: Mapping[str, Kind], view: View) -> None:
    """Refuse metadata, or attributes, that are not those of the store any more.

    Raises
    ------
    GraphMismatchError
        If the graph was replaced since it was opened.
    """
    asked = {"directed": mine.directed, "position": mine.position, "endpoints": mine.endpoints}
    stored = view.metadata
    found = stored.differences(asked)
    for what, kinds, known in (("node", node_attrs, stored.node_attrs), ("edge", edge_attrs, stored.edge_attrs)):
        found += [f"{what} attribute {name!r}: {known[name]}, was {kind}" for name, kind in kinds.items()
                  if known.get(name, kind) != kind]  # fmt: skip
    if found:
        raise GraphMismatchError(
            f"the graph in {view.folder} was replaced by another one since it was opened: open it again\n  "
            + "\n  ".join(found)
        )


def _is_inside(chunk: Chunk, roi: Roi | None, view: View) -> bool:
    """Return whether all of a chunk is in a region."""
    return roi is None or view.grid(roi.dims).is_inside(chunk.place, roi)


def _chosen(names: Iterable[str], kinds: Mapping[str, Kind]) -> dict[str, Kind]:
    return {name: kinds[name] for name in names if name in kinds}


def _ids_of(nodes: Mapping[int, Rows]) -> Ids:
    parts = [rows.keys[0] for rows in nodes.values()]
    return np.sort(np.concatenate(parts)) if parts else np.empty(0, np.uint64)


def _meets(rows: Rows, wanted: Mapping[str, Any]) -> npt.NDArray[np.bool_]:
    """Return which rows have these values."""
    keep = np.ones(len(rows), np.bool_)
    for name, value in wanted.items():
        values = rows.attrs.get(name)
        if values is None:
            return np.zeros(len(rows), np.bool_)
        plain = np.ma.getdata(values)
        is_equal = np.all(plain == np.array(value, plain.dtype), axis=1) if plain.ndim == 2 else plain == value
        keep &= np.asarray(is_equal, np.bool_) & ~absent(values)
    return keep


def _put_together(parts: list[Rows], kinds: Mapping[str, Kind], num_keys: int) -> Rows:
    return joined(parts, kinds).sorted() if parts else Rows.empty(num_keys)


def _completed(rows: Rows, kinds: Mapping[str, Kind]) -> dict[str, npt.NDArray[Any]]:
    """Return a column for each attribute."""
    count = len(rows)
    return {
        name: _own(rows.attrs[name]) if name in rows.attrs else column(blank(count, kind), np.ones(count, np.bool_))
        for name, kind in kinds.items()
    }


def _own(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return values that may be written, not those in a file's buffer; masked only where something is missing."""
    plain = np.ma.getdata(values)
    return column(plain if plain.flags.writeable else plain.copy(), absent(values))
