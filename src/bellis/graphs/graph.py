"""networkx graphs that know the store that they come from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from bellis.errors import GraphError
from bellis.graphs.places import is_place_inside, region

try:
    import networkx as nx
except ModuleNotFoundError as error:
    raise GraphError(
        "graphs of networkx need networkx, which is not installed: pip install 'bellis[graphs]'; read_columns and "
        "read_nodes do without"
    ) from error

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from bellis.geometry import Roi
    from bellis.graphs.store import GraphStore


class Graph(nx.Graph):  # type: ignore[misc]  # networkx has no types
    """A networkx graph, read from a store or to be written to one.

    Attributes
    ----------
    store
        Where the graph comes from; None if it was made by hand.
    roi
        The region that was read; None is everything.
    """

    store: GraphStore | None
    roi: Roi | None

    def __init__(
        self,
        incoming_graph_data: Any = None,
        *,
        store: GraphStore | None = None,
        roi: Roi | None = None,
        **attributes: Any,
    ) -> None:
        self.store, self.roi = store, region(roi)
        super().__init__(incoming_graph_data, **attributes)

    def write_nodes(
        self,
        roi: Roi | None = None,
        attributes: Collection[str] | None = None,
        fail_if_exists: bool = False,
        fail_if_not_exists: bool = False,
        delete: bool = False,
    ) -> None:
        """Write nodes to the store, as `GraphStore.write_nodes` does.

        Parameters
        ----------
        roi
            Only nodes in this region; in the one that was read, if not given.

        Raises
        ------
        GraphError
            If the graph comes from no store.
        """
        self._home().write_nodes(
            self.nodes,
            self._region(roi),
            attributes=attributes,
            fail_if_exists=fail_if_exists,
            fail_if_not_exists=fail_if_not_exists,
            delete=delete,
        )

    def write_edges(
        self,
        roi: Roi | None = None,
        attributes: Collection[str] | None = None,
        fail_if_exists: bool = False,
        fail_if_not_exists: bool = False,
        delete: bool = False,
    ) -> None:
        """Write edges to the store, as `GraphStore.write_edges` does.

        Parameters
        ----------
        roi
            Only edges whose u is in this region; in the one that was read, if not given.

        Raises
        ------
        GraphError
            If the graph comes from no store.
        """
        self._home().write_edges(
            self.nodes,
            self.edges,
            self._region(roi),
            attributes=attributes,
            fail_if_exists=fail_if_exists,
            fail_if_not_exists=fail_if_not_exists,
            delete=delete,
        )

    def update_node_attrs(
        self,
        roi: Roi | None = None,
        attributes: Collection[str] | None = None,
        unset: bool = False,
    ) -> None:
        """Write attributes of nodes that are in the store.

        Parameters
        ----------
        roi
            Only nodes in this region; in the one that was read, if not given.
        attributes
            Only these; all if not given.
        unset
            Whether these attributes are removed from the nodes instead, in the store; the graph stays as it is.

        Raises
        ------
        GraphMissingError
            If a node is not in the store; then nothing is written.
        """
        store, nodes = self._home(), self.nodes
        if unset:
            nodes = _without(nodes.data(), attributes, store.node_attrs)
        store.update_nodes(nodes, self._region(roi), attributes)

    def update_edge_attrs(
        self,
        roi: Roi | None = None,
        attributes: Collection[str] | None = None,
        unset: bool = False,
    ) -> None:
        """Write attributes of edges that are in the store; like `update_node_attrs`.

        Raises
        ------
        GraphMissingError
            If an edge is not in the store; then nothing is written.
        """
        store, edges = self._home(), self.edges
        if unset:
            triples = (((u, v), data) for u, v, data in edges.data())
            edges = _without(triples, attributes, store.edge_attrs, with_bare=True)
        store.update_edges(self.nodes, edges, self._region(roi), attributes)

    def get_nodes_in_roi(self) -> dict[Any, dict[str, Any]]:
        """Return the nodes in the region that was read, with their attributes: not the far ends of edges that leave."""
        names = ("position",) if self.store is None else self.store.metadata.positions
        return {node: data for node, data in self.nodes.data() if is_place_inside(data, names, self.roi)}

    def get_connected_components(self) -> list[Self]:
        """Return the parts that hang together, the directions of edges aside, as graphs of their own."""
        find = nx.weakly_connected_components if self.is_directed() else nx.connected_components
        return [self.subgraph(nodes).copy() for nodes in find(self)]

    def copy(self, as_view: bool = False) -> Self:
        """Return a copy as networkx does; it knows the same store."""
        return self._at_home(super().copy(as_view))

    def subgraph(self, nodes: Iterable[Any]) -> Self:
        """Return a view of some nodes as networkx does; it knows the same store."""
        return self._at_home(super().subgraph(nodes))

    def _at_home(self, graph: Any) -> Self:
        graph.store, graph.roi = self.store, self.roi
        return graph  # type: ignore[no-any-return]

    def _home(self) -> GraphStore:
        if self.store is None:
            raise GraphError("this graph comes from no store: pass it to the write_graph of one")
        return self.store

    def _region(self, roi: Roi | None) -> Roi | None:
        return self.roi if roi is None else roi


class DiGraph(Graph, nx.DiGraph):  # type: ignore[misc]
    """A directed networkx graph, read from a store or to be written to one; see `Graph`."""


def _without(
    items: Iterable[tuple[Any, Mapping[str, Any]]],
    attributes: Collection[str] | None,
    known: Collection[str],
    *,
    with_bare: bool = False,
) -> dict[Any, dict[str, None]]:
    """Return nodes or edges with None for each attribute that is to be removed.

    Bare nodes are the far ends of edges, and not for this graph to change; bare edges are edges like others.
    """
    if attributes is None:
        raise GraphError("unset removes attributes: say which, like attributes=['score']")
    names = [name for name in attributes if name in known]
    return {key: dict.fromkeys(names) for key, data in items if data or with_bare}
