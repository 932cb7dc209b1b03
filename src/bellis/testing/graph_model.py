"""What a store of graphs has to do, in dicts and networkx alone: stores are compared with it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import networkx as nx
import numpy as np

from bellis.graphs.columns import absent

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from bellis.geometry import Roi
    from bellis.graphs.columns import Edges, Nodes

Pair: TypeAlias = tuple[int, int]
Attributes: TypeAlias = dict[str, Any]
Rows: TypeAlias = tuple[dict[int, Attributes], dict[Pair, Attributes]]
"""Nodes by id, and edges by u and v."""


def is_inside(place: Sequence[float] | None, roi: Roi | None) -> bool:
    """Return whether a position is in a half-open region; None for no position, and for no region."""
    if roi is None:
        return True
    if place is None:
        return False
    for at, begin, extent in zip(place, roi.offset, roi.shape, strict=True):
        if begin is not None and at < begin:
            return False
        if extent is not None and at >= begin + extent:
            return False
    return True


def graph_of(
    nodes: Mapping[int, Mapping[str, Any]], edges: Mapping[Pair, Mapping[str, Any]], *, directed: bool = False
) -> nx.Graph:
    """Return a networkx graph of nodes and edges with their attributes."""
    graph = nx.DiGraph() if directed else nx.Graph()
    graph.add_nodes_from((node, dict(attrs)) for node, attrs in nodes.items())
    graph.add_edges_from((u, v, dict(attrs)) for (u, v), attrs in edges.items())
    return graph


def rows_of(graph: nx.Graph) -> Rows:
    """Return nodes and edges of a networkx graph as plain values, the ends of undirected edges in order."""
    directed = graph.is_directed()
    return (
        {node: plain(attrs) for node, attrs in graph.nodes(data=True)},
        {(u, v) if directed else ordered((u, v)): plain(attrs) for u, v, attrs in graph.edges(data=True)},
    )  # fmt: skip


def rows_of_columns(nodes: Nodes | Mapping[str, Any], edges: Edges | Mapping[str, Any]) -> Rows:
    """Return columns as plain values, without those that rows don't have."""
    return (
        {int(node): attrs for node, attrs in zip(nodes["id"], _rows(nodes, {"id"}), strict=True)},
        {(int(u), int(v)): attrs for u, v, attrs in zip(edges["u"], edges["v"], _rows(edges, {"u", "v"}), strict=True)},
    )


def _rows(columns: Nodes | Edges | Mapping[str, Any], keys: set[str]) -> list[Attributes]:
    count = len(columns[min(keys)])
    found: list[Attributes] = [{} for _ in range(count)]
    for name in set(columns.keys()) - keys:
        values, is_absent = columns[name], absent(columns[name])
        assert len(values) == count  # noqa: S101
        for k in np.flatnonzero(~is_absent):
            value = np.ma.getdata(values)[k]
            found[k][name] = value.tolist() if isinstance(value, np.ndarray | np.generic) else value
    return [plain(attrs) for attrs in found]


def plain(attrs: Mapping[str, Any]) -> Attributes:
    """Return values that compare: each with its type, not a number as a text, vectors as lists."""
    return {name: _plain(value) for name, value in attrs.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(element) for element in value]
    if isinstance(value, float):
        return "nan" if math.isnan(value) else f"float {value + 0.0}"
    return f"{type(value).__name__} {value}"


def ordered(pair: Iterable[int]) -> Pair:
    """Return the ends of an undirected edge, the smaller id first."""
    u, v = pair
    return (u, v) if u <= v else (v, u)


@dataclass(slots=True)
class Change:
    """What is written to a model."""

    nodes: dict[int, Attributes] = field(default_factory=dict)
    """Nodes; a value of None removes that attribute."""
    edges: dict[Pair, Attributes] = field(default_factory=dict)
    """Edges, likewise."""
    roi: Roi | None = None
    """Only what is in it is written."""
    policy: str = "upsert"
    """Or ``"insert"``, ``"update"``."""
    deletes: bool = False
    """Whether what is in the region and not given is removed."""
    node_names: frozenset[str] | None = None
    """Only these attributes are written, and the positions of nodes that are new; None is all."""
    edge_names: frozenset[str] | None = None
    """Only these attributes are written."""


@dataclass(slots=True)
class GraphModel:
    """A graph in memory, of which every rule is written down as plainly as can be."""

    directed: bool = False
    """Whether (u, v) and (v, u) are two edges."""
    position: str | tuple[str, ...] = "position"
    """Name of the position, or of its axes."""
    nodes: dict[int, Attributes] = field(default_factory=dict)
    """Attributes by id."""
    edges: dict[Pair, Attributes] = field(default_factory=dict)
    """Attributes by u and v."""

    def place(self, attrs: Mapping[str, Any]) -> tuple[float, ...] | None:
        """Return the position among attributes; None for no position."""
        if not isinstance(self.position, str):
            values = tuple(attrs[name] for name in self.position if attrs.get(name) is not None)
            return values if len(values) == len(self.position) else None
        value = attrs.get(self.position)
        return None if value is None else tuple(value) if isinstance(value, list | tuple) else (value,)

    def _is_in(self, node: int, roi: Roi | None) -> bool:
        if roi is None:
            return True
        return node in self.nodes and is_inside(self.place(self.nodes[node]), roi)

    def write(self, change: Change) -> str | None:
        """Write; or return why not, ``"exists"`` or ``"missing"``, and write nothing."""
        nodes, edges = self._asked(change)
        if change.deletes:
            nodes, edges = self._spared((nodes, edges), change)
        known = [node in self.nodes for node in nodes] + [pair in self.edges for pair in edges]
        if change.policy == "insert" and any(known):
            return "exists"
        if change.policy == "update" and not all(known):
            return "missing"
        _update(self.nodes, nodes)
        _update(self.edges, edges)
        if change.deletes:
            self._remove(nodes, edges, change.roi)
        return None

    def _asked(self, change: Change) -> Rows:
        """Return what of a change is to be written: of its region, the attributes that it names."""
        nodes, edges = self._within(change)
        if change.edge_names is not None:
            edges = {pair: _among(attrs, change.edge_names) for pair, attrs in edges.items()}
        if change.node_names is None:
            return nodes, edges
        places = {self.position} if isinstance(self.position, str) else set(self.position)
        return {
            node: _among(attrs, change.node_names if node in self.nodes else change.node_names | places)
            for node, attrs in nodes.items()
            if change.policy != "update" or not change.node_names.isdisjoint(attrs)
        }, edges

    def _spared(self, rows: Rows, change: Change) -> Rows:
        """Return what is to be written, and with nothing to write whatever else is given and in the region."""
        nodes: dict[int, Attributes] = {
            node: {} for node in change.nodes if node in self.nodes and self._is_in(node, change.roi)
        }
        pairs = change.edges if self.directed else map(ordered, change.edges)
        edges: dict[Pair, Attributes] = {
            pair: {} for pair in pairs if pair in self.edges and self._is_in(pair[0], change.roi)
        }
        return {**nodes, **rows[0]}, {**edges, **rows[1]}

    def _within(self, change: Change) -> Rows:
        """Return what of a change is in its region: by the positions that it gives, else by those that are stored."""
        edges = change.edges if self.directed else {ordered(pair): attrs for pair, attrs in change.edges.items()}
        if change.roi is None:
            return change.nodes, edges
        inside = {
            node
            for node in {*change.nodes, *(u for u, _ in edges)}
            if is_inside(self.place({**self.nodes.get(node, {}), **change.nodes.get(node, {})}), change.roi)
        }
        return (
            {node: attrs for node, attrs in change.nodes.items() if node in inside},
            {pair: attrs for pair, attrs in edges.items() if pair[0] in inside},
        )

    def _remove(self, nodes: Mapping[int, Any], edges: Mapping[Pair, Any], roi: Roi | None) -> None:
        inside = {node for node in self.nodes if self._is_in(node, roi)}
        gone = inside - set(nodes)
        self.edges = {
            (u, v): attrs for (u, v), attrs in self.edges.items() if (u, v) in edges or not (roi is None or u in inside)
        }
        self.nodes = {node: attrs for node, attrs in self.nodes.items() if node not in gone}

    def read(
        self,
        roi: Roi | None = None,
        *,
        nodes_filter: Mapping[str, Any] | None = None,
        edges_filter: Mapping[str, Any] | None = None,
        fetch_on_v: bool = False,
    ) -> Rows:
        """Return nodes and edges as `read_columns` should."""
        inside = {
            node
            for node, attrs in self.nodes.items()
            if self._is_in(node, roi) and _meets(attrs, nodes_filter)
        }  # fmt: skip
        is_all = roi is None and not nodes_filter
        edges = {
            (u, v): attrs
            for (u, v), attrs in self.edges.items()
            if _meets(attrs, edges_filter) and (is_all or u in inside or (fetch_on_v and v in inside))
        }
        if fetch_on_v:
            inside |= {end for pair in edges for end in pair} & set(self.nodes)
        return (
            {node: plain(self.nodes[node]) for node in sorted(inside)},
            {pair: plain(edges[pair]) for pair in sorted(edges)},
        )

    def read_graph(self, roi: Roi | None = None, **options: Any) -> Rows:
        """Return nodes and edges as `read_graph` should: with far ends as bare nodes."""
        nodes, edges = self.read(roi, **options)
        ends: dict[int, Attributes] = {end: {} for pair in edges for end in pair}
        return {**ends, **nodes}, edges


def _update(rows: dict[Any, Attributes], written: Mapping[Any, Attributes]) -> None:
    """Set and remove attributes of rows, which are made if they are not there."""
    for key, attrs in written.items():
        merged = {**rows.get(key, {}), **attrs}
        rows[key] = {name: value for name, value in merged.items() if value is not None}


def _among(attrs: Attributes, names: Iterable[str]) -> Attributes:
    return {name: attrs[name] for name in names if name in attrs}


def _meets(attrs: Mapping[str, Any], wanted: Mapping[str, Any] | None) -> bool:
    return all(name in attrs and _plain(attrs[name]) == _plain(value) for name, value in (wanted or {}).items())
