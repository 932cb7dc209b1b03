"""The half of a graph store that reads; `GraphStore` adds the writing."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self, cast

from bellis.errors import GraphError, GraphMissingError
from bellis.geometry import Roi
from bellis.graphs.asking import ids_among, is_unmet, known
from bellis.graphs.attributes import kinds_of
from bellis.graphs.backend import Query
from bellis.graphs.blocks import blocks_of, without_repeats
from bellis.graphs.columns import Edges, Nodes
from bellis.graphs.networks import fill, records
from bellis.graphs.opening import found, made, pair_of
from bellis.graphs.parse import filter_of
from bellis.graphs.places import check_rank, region

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    import numpy.typing as npt

    from bellis.geometry import CoordinateLike
    from bellis.graphs.attributes import AttributeType, Kind
    from bellis.graphs.backend import Backend
    from bellis.graphs.columns import Ids
    from bellis.graphs.graph import DiGraph, Graph
    from bellis.graphs.metadata import Metadata
    from bellis.graphs.store import GraphStore


class GraphReader:
    """A graph that is stored, to be read by region; see `GraphStore`."""

    def __init__(
        self,
        backend: Backend,
        mode: str = "r+",
        *,
        directed: bool | None = None,
        total_roi: Roi | None = None,
        position_attribute: str | Sequence[str] | None = None,
        endpoint_names: Sequence[str] | None = None,
        node_attrs: Mapping[str, AttributeType] | None = None,
        edge_attrs: Mapping[str, AttributeType] | None = None,
    ) -> None:
        if mode not in ("r", "r+", "w"):
            raise GraphError(f"mode {mode!r} is none of 'r' (read), 'r+' (read and write) and 'w' (make or replace)")
        self.backend, self.mode = backend, mode
        asked = {
            "directed": directed,
            "total_roi": region(total_roi),
            "position": position_attribute if isinstance(position_attribute, str | None) else tuple(position_attribute),
            "endpoints": None if endpoint_names is None else pair_of(endpoint_names),
            "node_attrs": None if node_attrs is None else kinds_of(node_attrs),
            "edge_attrs": None if edge_attrs is None else kinds_of(edge_attrs),
        }
        try:
            self._metadata = made(backend, asked) if mode == "w" else found(backend, mode, asked)
        except BaseException:
            backend.close()
            raise

    @property
    def metadata(self) -> Metadata:
        """What is known of the graph; attributes that other processes added are seen with the next read or write."""
        return self._metadata

    @property
    def directed(self) -> bool:
        """Whether (u, v) and (v, u) are two edges."""
        return self._metadata.directed

    @property
    def total_roi(self) -> Roi | None:
        """Region of the whole graph, if it was given."""
        return self._metadata.total_roi

    @property
    def position_attribute(self) -> str | list[str]:
        """The attribute that is a node's position, or one per axis."""
        position = self._metadata.position
        return position if isinstance(position, str) else list(position)

    @property
    def endpoint_names(self) -> list[str]:
        """What the ends of an edge are called in records and columns."""
        return list(self._metadata.endpoints)

    @property
    def node_attrs(self) -> dict[str, Kind]:
        """Attributes of nodes, and their types."""
        return dict(self._metadata.node_attrs)

    @property
    def edge_attrs(self) -> dict[str, Kind]:
        """Attributes of edges, and their types."""
        return dict(self._metadata.edge_attrs)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.backend}, mode={self.mode!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __deepcopy__(self, _: Any) -> Self:
        return self  # a graph that is copied stays in the same store

    def close(self) -> None:
        """Close connections; the next call opens them again."""
        self.backend.close()

    # Graphs and records -----------------------------------------------------------------------------------------

    def __getitem__(self, roi: Roi) -> Graph | DiGraph:
        """Return what is in a region, as `read_graph` does."""
        return self.read_graph(roi)

    def read_graph(
        self,
        roi: Roi | None = None,
        *,
        read_edges: bool = True,
        node_attrs: Collection[str] | None = None,
        edge_attrs: Collection[str] | None = None,
        nodes_filter: Mapping[str, Any] | None = None,
        edges_filter: Mapping[str, Any] | None = None,
        fetch_on_v: bool = False,
    ) -> Graph | DiGraph:
        """Read a region into a networkx graph, nodes and edges in the order of their ids.

        Edges that leave the region come with the id of their far end, as a node without attributes.

        Parameters
        ----------
        roi
            Half-open region of nodes, and of the u of edges; one of funlib is taken too. None is everything, nodes
            without a position too.
        read_edges
            Whether edges are read.
        node_attrs, edge_attrs
            Attributes to read; all if not given. Positions always come.
        nodes_filter, edges_filter
            Values of attributes: only nodes and edges that have them, and of edges only those whose u is such a node.
        fetch_on_v
            Whether edges come whose v is in the region, and the far ends of all edges with their attributes.

        Raises
        ------
        GraphError
            If the region has another rank than the positions, or an attribute is unknown where all were declared.
        """
        from bellis.graphs.graph import DiGraph, Graph

        nodes, edges = self.read_columns(
            roi,
            read_edges=read_edges,
            node_attrs=self._with_positions(node_attrs),
            edge_attrs=edge_attrs,
            nodes_filter=nodes_filter,
            edges_filter=edges_filter,
            fetch_on_v=fetch_on_v,
        )
        graph = (DiGraph if self.directed else Graph)(store=cast("GraphStore", self), roi=roi)
        fill(graph, nodes, edges)
        return graph

    def get_graph(
        self,
        roi: Roi | None = None,
        nodes_filter: Mapping[str, Any] | None = None,
        edges_filter: Mapping[str, Any] | None = None,
        node_attrs: Collection[str] | None = None,
        edge_attrs: Collection[str] | None = None,
    ) -> Graph | DiGraph:
        """Read a region into a networkx graph: `read_graph` by daisy's name."""
        return self.read_graph(
            roi, node_attrs=node_attrs, edge_attrs=edge_attrs, nodes_filter=nodes_filter, edges_filter=edges_filter
        )

    def get_connected_components(self) -> list[Graph | DiGraph]:
        """Read everything, and return the parts that hang together as graphs of their own."""
        return self.read_graph().get_connected_components()

    def read_nodes(
        self,
        roi: Roi | None = None,
        attr_filter: Mapping[str, Any] | None = None,
        read_attrs: Collection[str] | None = None,
    ) -> list[dict[str, Any]]:
        """Return nodes as dicts of attributes and ``"id"``; see `read_graph`."""
        nodes, _ = self.read_columns(
            roi, read_edges=False, node_attrs=self._with_positions(read_attrs), nodes_filter=attr_filter
        )
        return records({"id": nodes.id}, nodes.attrs)

    def read_edges(
        self,
        roi: Roi | None = None,
        nodes: Iterable[Any] | None = None,
        attr_filter: Mapping[str, Any] | None = None,
        read_attrs: Collection[str] | None = None,
        fetch_on_v: bool = False,
    ) -> list[dict[str, Any]]:
        """Return edges as dicts of attributes and both ends; see `read_graph`.

        Parameters
        ----------
        nodes
            Only edges whose u is one of these: dicts as `read_nodes` returns them, ids, or `Nodes`.
        """
        ids = None if nodes is None else ids_among(nodes)
        _, edges = self._read(
            roi=roi, ids=ids, nodes=False, edge_attrs=read_attrs, edges_filter=attr_filter, both_ends=fetch_on_v
        )
        u, v = self._metadata.endpoints
        return records({u: edges.u, v: edges.v}, edges.attrs)

    # Columns ----------------------------------------------------------------------------------------------------

    def read_columns(
        self,
        roi: Roi | None = None,
        *,
        read_edges: bool = True,
        node_attrs: Collection[str] | None = None,
        edge_attrs: Collection[str] | None = None,
        nodes_filter: Mapping[str, Any] | None = None,
        edges_filter: Mapping[str, Any] | None = None,
        fetch_on_v: bool = False,
    ) -> tuple[Nodes, Edges]:
        """Read a region into one array per attribute; see `read_graph`.

        Returns
        -------
        tuple
            Nodes sorted by id, and edges sorted by u and v, as they were at one moment. The far ends of edges that
            leave the region are in ``edges.v`` alone. Columns are masked where rows have no value.
        """
        return self._read(
            roi=roi,
            edges=read_edges,
            node_attrs=node_attrs,
            edge_attrs=edge_attrs,
            nodes_filter=nodes_filter,
            edges_filter=edges_filter,
            both_ends=fetch_on_v,
        )

    def read_blockwise(
        self, roi: Roi, block_size: CoordinateLike, num_workers: int = 1
    ) -> tuple[dict[str, npt.NDArray[Any]], dict[str, npt.NDArray[Any]]]:
        """Read a region in blocks, several at a time.

        Parameters
        ----------
        roi
            The region, bounded.
        block_size
            Shape of a block, in the units of positions; at the region's end they are cut.
        num_workers
            Number of threads.

        Returns
        -------
        tuple
            Nodes and edges as dicts of columns, sorted as `read_columns` sorts them. Each block is as it was at one
            moment, but not all at the same.

        Raises
        ------
        GraphError
            If the region is unbounded, or there are no threads to read it.
        """
        if not isinstance(num_workers, int) or num_workers < 1:
            raise GraphError(f"num_workers is {num_workers!r}: it is the number of threads, at least 1")
        metadata, bounded = self._current(), region(roi)
        if bounded is None:
            raise GraphError("roi is None: give a region with an end in every axis, or use read_columns")
        check_rank(bounded, metadata.dims)
        whole = Query(node_attrs=tuple(metadata.node_attrs), edge_attrs=tuple(metadata.edge_attrs))
        queries = [replace(whole, roi=block) for block in blocks_of(bounded, block_size)]
        with ThreadPoolExecutor(num_workers, thread_name_prefix="bellis-graph") as pool:
            parts = list(pool.map(lambda query: self.backend.read(query, metadata), queries))
        nothing = Nodes.empty(metadata.node_attrs), Edges.empty(metadata.edge_attrs)
        nodes, edges = without_repeats(parts or [nothing])
        u, v = metadata.endpoints
        return dict(nodes), {u: edges.u, v: edges.v, **edges.attrs}

    # Counts -----------------------------------------------------------------------------------------------------

    def num_nodes(self, roi: Roi | None = None) -> int:
        """Return the number of nodes in a region; of all, with and without a position, if there is none."""
        return self._count(roi, edges=False)[0]

    def num_edges(self, roi: Roi | None = None) -> int:
        """Return the number of edges whose u is in a region; of all edges if there is none."""
        return self._count(roi, nodes=False)[1]

    def has_edges(self, roi: Roi | None = None) -> bool:
        """Return whether there is an edge whose u is in a region."""
        return self.num_edges(roi) > 0

    def num_unplaced(self) -> int:
        """Return the number of nodes without a position, which are in no region."""
        dims = self._current().dims
        if dims is None:
            return self.num_nodes()
        return self.num_nodes() - self.num_nodes(Roi((None,) * dims, (None,) * dims))

    def _count(self, roi: Roi | None, *, nodes: bool = True, edges: bool = True) -> tuple[int, int]:
        metadata, roi = self._current(), region(roi)
        check_rank(roi, metadata.dims)
        return self.backend.count(Query(roi=roi, nodes=nodes, edges=edges), metadata)

    # What all reads share ---------------------------------------------------------------------------------------

    def _read(
        self,
        *,
        roi: Roi | None,
        ids: Ids | None = None,
        nodes: bool = True,
        edges: bool = True,
        node_attrs: Collection[str] | None = None,
        edge_attrs: Collection[str] | None = None,
        nodes_filter: Mapping[str, Any] | None = None,
        edges_filter: Mapping[str, Any] | None = None,
        both_ends: bool = False,
    ) -> tuple[Nodes, Edges]:
        metadata, roi = self._current(), region(roi)
        check_rank(roi, metadata.dims)
        node_names = known(node_attrs, metadata.node_attrs, metadata, "node")
        edge_names = known(edge_attrs, metadata.edge_attrs, metadata, "edge")
        is_no_node = is_unmet(nodes_filter, metadata.node_attrs, metadata, "node")
        is_no_edge = is_unmet(edges_filter, metadata.edge_attrs, metadata, "edge")
        if is_no_node:
            return (
                Nodes.empty({name: metadata.node_attrs[name] for name in node_names}),
                Edges.empty({name: metadata.edge_attrs[name] for name in edge_names}),
            )
        query = Query(
            roi=roi,
            ids=ids,
            nodes=nodes,
            edges=edges and not is_no_edge,
            both_ends=both_ends,
            node_attrs=node_names,
            edge_attrs=edge_names,
            nodes_filter=filter_of(nodes_filter or {}, metadata.node_attrs, "node"),
            edges_filter={} if is_no_edge else filter_of(edges_filter or {}, metadata.edge_attrs, "edge"),
        )
        return self.backend.read(query, metadata)

    def _current(self) -> Metadata:
        """Return the metadata, with what other processes added to an open graph."""
        if self._metadata.is_open:
            current = self.backend.load()
            if current is None:
                raise GraphMissingError(f"the graph in {self.backend} is not there any more: somebody has removed it")
            self._metadata = current
        return self._metadata

    def _with_positions(self, names: Collection[str] | None) -> Collection[str] | None:
        """Return names and those of positions, as far as they are known: parts of a graph can be written back."""
        if names is None:
            return None
        return [*names, *(name for name in self._metadata.positions if name in self._current().node_attrs)]
