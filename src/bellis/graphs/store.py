"""The face of a stored graph: regions are read and written, as networkx graphs or as columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

from bellis.errors import GraphError, GraphMismatchError, GraphReadOnlyError
from bellis.graphs.backend import Deletion
from bellis.graphs.draft import Draft, draft_of_graph, draft_of_tables
from bellis.graphs.networks import parts_of
from bellis.graphs.places import check_rank, region
from bellis.graphs.reader import GraphReader

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from bellis.geometry import Roi
    from bellis.graphs.backend import Policy
    from bellis.graphs.metadata import Metadata

    Names: TypeAlias = Collection[str] | None


class GraphStore(GraphReader):
    """A graph whose nodes have places, stored where many workers read and write regions of it.

    Nodes have ids from 0 to 2^64 - 1, and attributes: bool, int, float, str, and vectors of them. A node belongs to
    the regions that its position is in; an edge to those of its u, which in an undirected graph is the smaller id.

    A store can be pickled, and used by several threads; it is a context manager that closes its connections.

    Parameters
    ----------
    backend
        Where the graph is stored; `open_graph` picks one.
    mode
        ``"r"`` to read, ``"r+"`` to read and write, ``"w"`` to make a graph, in place of one that is there. Several
        workers use ``"r+"``, after one process made it.
    directed
        Whether (u, v) and (v, u) are two edges; False if not given.
    total_roi
        Region of the whole graph, for those who read it; nothing is refused outside.
    position_attribute
        The attribute that is a node's position: a vector, or in one dimension a number; or one attribute per axis.
        ``"position"`` if not given.
    endpoint_names
        What the ends of an edge are called in records and columns; ``("u", "v")`` if not given.
    node_attrs, edge_attrs
        Types of attributes, like ``{"position": Vec(float, 3), "size": int}``. If both are left out, attributes join
        as they are written, with the type of their first values.

    Raises
    ------
    GraphMissingError
        If there is no graph, and ``mode`` is not ``"w"``.
    GraphMismatchError
        If there is a graph, and it is not as asked.
    """

    def write_graph(
        self,
        graph: Any,
        roi: Roi | None = None,
        *,
        write_nodes: bool = True,
        write_edges: bool = True,
        node_attrs: Names = None,
        edge_attrs: Names = None,
        fail_if_exists: bool = False,
        fail_if_not_exists: bool = False,
        delete: bool = False,
    ) -> None:
        """Write nodes and edges of a networkx graph, all of it or nothing.

        What is there is updated: of its attributes those that are given, and others stay. An attribute that is None
        is removed.

        Parameters
        ----------
        graph
            The graph. Nodes without attributes are written if they are not there, and change nothing if they are.
        roi
            Only nodes that are in this region, and edges whose u is. A node is where the graph says; else, where it is
            in the store.
        write_nodes, write_edges
            Whether nodes are written, and whether edges are.
        node_attrs, edge_attrs
            Only these attributes; and the positions of nodes that are not in the store yet.
        fail_if_exists
            Whether it is an error if a node or edge is in the store already.
        fail_if_not_exists
            Whether it is an error if one is not. Where ``node_attrs`` are named, nodes that have none are left out.
        delete
            Whether to remove what is in the region (None: everywhere) and is not in the graph: nodes with the edges of
            which they are u, and edges. What is in the graph stays, also if the graph says that it is elsewhere.

        Raises
        ------
        GraphError
            If ids, attributes or positions are none that can be stored.
        GraphExistsError, GraphMissingError
            As asked, with up to five ids.
        GraphReadOnlyError
            If the store was opened to be read.
        """
        nodes, edges = parts_of(graph)
        self._write(
            lambda metadata: draft_of_graph(
                metadata,
                nodes=nodes if write_nodes else None,
                edges=edges if write_edges else None,
                places=nodes if roi is not None else None,
                node_attrs=node_attrs,
                edge_attrs=edge_attrs,
            ),
            roi,
            policy=_policy(is_insert=fail_if_exists, is_update=fail_if_not_exists),
            deletion=Deletion(roi=roi, nodes=write_nodes, edges=write_edges) if delete else None,
        )

    def write_nodes(
        self,
        nodes: Any,
        roi: Roi | None = None,
        *,
        attributes: Names = None,
        fail_if_exists: bool = False,
        fail_if_not_exists: bool = False,
        delete: bool = False,
    ) -> None:
        """Write nodes; see `write_graph`.

        Parameters
        ----------
        nodes
            Nodes of a networkx graph, or dicts with ``"id"`` as `read_nodes` returns them.
        """
        nodes = _kept(nodes, "nodes")
        self._write(
            lambda metadata: draft_of_graph(metadata, nodes=nodes, node_attrs=attributes),
            roi,
            policy=_policy(is_insert=fail_if_exists, is_update=fail_if_not_exists),
            deletion=Deletion(roi=roi, nodes=True) if delete else None,
        )

    def write_edges(
        self,
        nodes: Any,
        edges: Any,
        roi: Roi | None = None,
        *,
        attributes: Names = None,
        fail_if_exists: bool = False,
        fail_if_not_exists: bool = False,
        delete: bool = False,
    ) -> None:
        """Write edges; see `write_graph`.

        Parameters
        ----------
        nodes
            Nodes that tell positions, which matter where there is a ``roi``; others are looked up. May be None.
        edges
            Edges of a networkx graph, or dicts with both ends as `read_edges` returns them.
        """
        nodes, edges = None if nodes is None else _kept(nodes, "nodes"), _kept(edges, "edges")
        self._write(
            lambda metadata: draft_of_graph(
                metadata, edges=edges, places=nodes if roi is not None else None, edge_attrs=attributes
            ),
            roi,
            policy=_policy(is_insert=fail_if_exists, is_update=fail_if_not_exists),
            deletion=Deletion(roi=roi, edges=True) if delete else None,
        )

    def write_attrs(
        self, graph: Any, roi: Roi | None = None, *, node_attrs: Names = None, edge_attrs: Names = None
    ) -> None:
        """Write attributes of nodes and edges that are in the store; see `write_graph`, ``fail_if_not_exists``."""
        self.write_graph(graph, roi, node_attrs=node_attrs, edge_attrs=edge_attrs, fail_if_not_exists=True)

    def update_nodes(self, nodes: Any, roi: Roi | None = None, attributes: Names = None) -> None:
        """Write attributes of nodes that are in the store; see `write_nodes`, ``fail_if_not_exists``."""
        self.write_nodes(nodes, roi, attributes=attributes, fail_if_not_exists=True)

    def update_edges(self, nodes: Any, edges: Any, roi: Roi | None = None, attributes: Names = None) -> None:
        """Write attributes of edges that are in the store; see `write_edges`, ``fail_if_not_exists``."""
        self.write_edges(nodes, edges, roi, attributes=attributes, fail_if_not_exists=True)

    def bulk_write_graph(
        self,
        graph: Any,
        roi: Roi | None = None,
        *,
        write_nodes: bool = True,
        write_edges: bool = True,
        node_attrs: Names = None,
        edge_attrs: Names = None,
    ) -> None:
        """Write much of a graph at once; as `write_graph`, but indices may be made anew for it."""
        nodes, edges = parts_of(graph)
        self._write(
            lambda metadata: draft_of_graph(
                metadata,
                nodes=nodes if write_nodes else None,
                edges=edges if write_edges else None,
                places=nodes if roi is not None else None,
                node_attrs=node_attrs,
                edge_attrs=edge_attrs,
            ),
            roi,
            is_bulk=True,
        )

    def bulk_write_nodes(self, nodes: Any, roi: Roi | None = None, attributes: Names = None) -> None:
        """Write many nodes at once; as `write_nodes`, but indices may be made anew for it."""
        nodes = _kept(nodes, "nodes")
        self._write(lambda metadata: draft_of_graph(metadata, nodes=nodes, node_attrs=attributes), roi, is_bulk=True)

    def bulk_write_edges(self, nodes: Any, edges: Any, roi: Roi | None = None, attributes: Names = None) -> None:
        """Write many edges at once; as `write_edges`, but indices may be made anew for it."""
        nodes, edges = None if nodes is None else _kept(nodes, "nodes"), _kept(edges, "edges")
        places = nodes if roi is not None else None
        self._write(
            lambda metadata: draft_of_graph(metadata, edges=edges, places=places, edge_attrs=attributes),
            roi,
            is_bulk=True,
        )

    def write_columns(
        self,
        nodes: Any = None,
        edges: Any = None,
        roi: Roi | None = None,
        *,
        fail_if_exists: bool = False,
        fail_if_not_exists: bool = False,
        delete: bool = False,
        bulk: bool = False,
    ) -> None:
        """Write nodes and edges that are given as one array per attribute, all of them or nothing; see `write_graph`.

        Parameters
        ----------
        nodes
            `Nodes`, a mapping of columns like ``{"id": ids, "position": places, "size": sizes}``, or an Arrow table.
            Arrays have the shape (n,), or (n, size) for vectors. Values that are masked, None or null are removed.
        edges
            `Edges`, a mapping of columns like ``{"u": first, "v": second, "score": scores}``, or an Arrow table.
        bulk
            Whether it is much, so that indices may be made anew for it.
        """
        self._write(
            lambda metadata: draft_of_tables(metadata, nodes=nodes, edges=edges),
            roi,
            policy=_policy(is_insert=fail_if_exists, is_update=fail_if_not_exists),
            deletion=Deletion(roi=roi, nodes=nodes is not None, edges=edges is not None) if delete else None,
            is_bulk=bulk,
        )

    def _write(
        self,
        parse: Callable[[Metadata], Draft],
        roi: Roi | None,
        *,
        policy: Policy = "upsert",
        deletion: Deletion | None = None,
        is_bulk: bool = False,
    ) -> None:
        if self.mode == "r":
            raise GraphReadOnlyError(f"{self.backend} was opened with mode='r': open it with mode='r+' to write")
        roi = region(roi)
        deletion = None if deletion is None else replace(deletion, roi=roi)
        draft, metadata = self._joined(parse, roi, policy, deletion)
        change = draft.change(policy, deletion, is_bulk=is_bulk)
        if change is not None:
            self.backend.write(change, metadata)

    def _joined(
        self, parse: Callable[[Metadata], Draft], roi: Roi | None, policy: Policy, deletion: Deletion | None
    ) -> tuple[Draft, Metadata]:
        """Parse, cut to the region, and let new attributes join; return the metadata that have them."""
        while True:
            known = self._current()
            given = draft = parse(known)
            if roi is not None:
                check_rank(roi, known.extended({**draft.node_kinds, **draft.place_kinds}, {}).dims)
                draft = draft.within(roi, known, self.backend)
            draft = draft.settled(policy, known, self.backend)
            if deletion is not None:
                draft = draft.sparing(given, deletion, known, self.backend)
            joined = known.extended(draft.node_kinds, draft.edge_kinds)
            if joined == known:
                return draft, known
            try:
                self._metadata = self.backend.save(joined)
            except GraphMismatchError:
                if self._current() == known:
                    raise
                continue  # another process was faster; it may have made floats of what are integers here
            return draft, self._metadata


def _policy(*, is_insert: bool, is_update: bool) -> Policy:
    if is_insert and is_update:
        raise GraphError("fail_if_exists and fail_if_not_exists were both asked for: then nothing could be written")
    return "insert" if is_insert else "update" if is_update else "upsert"


def _kept(given: Any, what: str) -> Any:
    """Return what can be looked at twice.

    Raises
    ------
    GraphError
        If it is nothing that could be looked at.
    """
    if not isinstance(given, Iterable):
        raise GraphError(
            f"{what} are {type(given).__name__}: give {what} of a networkx graph, or a list of dicts as read_{what} "
            "returns them"
        )
    return list(given) if isinstance(given, Iterator) else given


SharedGraphProvider = GraphStore
"""daisy's name."""
