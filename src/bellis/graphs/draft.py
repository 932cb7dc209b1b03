"""What is to be written, parsed, and cut to a region."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from bellis.graphs.asking import known
from bellis.graphs.backend import Change, Query
from bellis.graphs.columns import Edges, Nodes
from bellis.graphs.networks import edges_of, nodes_of
from bellis.graphs.places import check_finite, is_inside
from bellis.graphs.tables import edges_of_table, nodes_of_table

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from bellis.geometry import Roi
    from bellis.graphs.attributes import Kind
    from bellis.graphs.backend import Backend, Deletion, Policy
    from bellis.graphs.columns import Ids
    from bellis.graphs.metadata import Metadata

    Names: TypeAlias = Collection[str] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """Nodes and edges as they were given."""

    nodes: tuple[Nodes, ...] = ()
    """Groups of nodes to write, with their positions."""
    bare: tuple[Nodes, ...] = ()
    """Groups of nodes that have none of the attributes to write, like the far ends of edges that left a region."""
    edges: tuple[Edges, ...] = ()
    """Groups of edges to write."""
    places: tuple[Nodes, ...] = ()
    """Groups of nodes that tell positions, of those to write or of others."""
    is_picked: bool = False
    """Whether attributes of nodes were asked for by name: then updates leave bare nodes out."""
    unasked: frozenset[str] = frozenset()
    """Positions that are known and were not asked for: those of nodes that are new are written in any case."""
    node_kinds: Mapping[str, Kind] = field(default_factory=dict)
    """Attributes of nodes to write."""
    place_kinds: Mapping[str, Kind] = field(default_factory=dict)
    """Attributes that tell positions."""
    edge_kinds: Mapping[str, Kind] = field(default_factory=dict)
    """Attributes of edges to write."""

    def within(self, roi: Roi, metadata: Metadata, backend: Backend) -> Draft:
        """Return the draft without nodes that are outside of a region, and without edges whose u is.

        A node is where it is said to be; else, where it is in the store.
        """
        us = np.concatenate([np.empty(0, np.uint64), *(group.u for group in self.edges)])
        inside = _inside(self.places, us, roi, metadata, backend)
        return replace(
            self,
            nodes=tuple(group.select(np.isin(group.id, inside)) for group in self.nodes),
            bare=tuple(group.select(np.isin(group.id, inside)) for group in self.bare),
            edges=tuple(group.select(np.isin(group.u, inside)) for group in self.edges),
        )

    def settled(self, policy: Policy, metadata: Metadata, backend: Backend) -> Draft:
        """Return the draft with all nodes to write, and with positions that were not asked for of new ones only."""
        groups = self.nodes if self.is_picked and policy == "update" else (*self.nodes, *self.bare)
        kinds = dict(self.node_kinds)
        if self.unasked:
            groups = _placed(groups, self.unasked, policy, metadata, backend)
            named = {name for group in groups for name in group.attrs}
            kinds |= _among(self.place_kinds, named & self.unasked)
        return replace(self, nodes=groups, bare=(), unasked=frozenset(), node_kinds=kinds)

    def sparing(self, given: Draft, deletion: Deletion, metadata: Metadata, backend: Backend) -> Draft:
        """Return the draft with what else was given and would be removed: as bare rows, which change nothing.

        What was given, but lies outside of the region by the positions that were given too, stays where it is; so does
        what an update leaves out.
        """
        ids = np.setdiff1d(_ids((*given.nodes, *given.bare)), _ids(self.nodes))
        us = np.concatenate([np.empty(0, np.uint64), *(group.u for group in self.edges)])
        edges = Edges.concatenate([Edges(u=group.u, v=group.v) for group in (*given.edges, Edges.empty({}))])
        edges = edges.select(~np.isin(edges.u, us))  # of the edges of one u, all are written, or none
        if not len(ids) and not len(edges):
            return self
        query = Query(roi=deletion.roi, ids=np.union1d(ids, edges.u), edges=len(edges) > 0)
        nodes_there, edges_there = backend.read(query, metadata)
        ids = ids[np.isin(ids, nodes_there.id)]
        pairs = set(zip(edges_there.u.tolist(), edges_there.v.tolist(), strict=True))
        asked = zip(edges.u.tolist(), edges.v.tolist(), strict=True)
        edges = edges.select(np.fromiter((pair in pairs for pair in asked), np.bool_, len(edges)))
        return replace(self, nodes=(*self.nodes, Nodes(id=ids)), edges=(*self.edges, edges))

    def change(self, policy: Policy, deletion: Deletion | None, *, is_bulk: bool) -> Change | None:
        """Return what is to be written; None if that is nothing."""
        nodes, edges = tuple(filter(len, self.nodes)), tuple(filter(len, self.edges))
        if not nodes and not edges and deletion is None:
            return None
        return Change(nodes=nodes, edges=edges, policy=policy, deletion=deletion, is_bulk=is_bulk)


def draft_of_graph(
    metadata: Metadata,
    *,
    nodes: Any = None,
    edges: Any = None,
    places: Any = None,
    node_attrs: Names = None,
    edge_attrs: Names = None,
) -> Draft:
    """Parse nodes and edges of a networkx graph, or records; None is none.

    Parameters
    ----------
    places
        Nodes that tell positions, if those to write are not given.
    node_attrs, edge_attrs
        Attributes to write; all if not given.

    Raises
    ------
    GraphError
        If ids, values or positions are none that can be stored, or an attribute is unknown where all were declared.
    """
    known(node_attrs, metadata.node_attrs, metadata, "node")
    known(edge_attrs, metadata.edge_attrs, metadata, "edge")
    draft = Draft()
    if nodes is not None:
        draft = _with_nodes(draft, nodes, metadata, node_attrs)
    elif places is not None:
        groups, kinds = nodes_of(places, metadata, metadata.positions)
        draft = replace(draft, places=tuple(group for _, group in groups), place_kinds=kinds)
    for group in draft.places:
        check_finite(group, metadata)
    if edges is not None:
        edge_groups, kinds = edges_of(edges, metadata, edge_attrs)
        draft = replace(draft, edges=edge_groups, edge_kinds=kinds)
    return draft


def _with_nodes(draft: Draft, given: Any, metadata: Metadata, wanted: Names) -> Draft:
    """Return a draft with nodes; their positions tell places even if they are not wanted."""
    groups, kinds = nodes_of(given, metadata, None if wanted is None else {*wanted, *metadata.positions})
    asked = frozenset(wanted if wanted is not None else (name for names, _ in groups for name in names))
    place_kinds = _among(kinds, metadata.positions)
    return replace(
        draft,
        nodes=tuple(group for names, group in groups if not names.isdisjoint(asked)),
        bare=tuple(group for names, group in groups if names.isdisjoint(asked)),
        places=tuple(group for _, group in groups),
        is_picked=wanted is not None,
        unasked=frozenset(place_kinds.keys() - asked),
        node_kinds=_among(kinds, asked),
        place_kinds=place_kinds,
    )


def draft_of_tables(metadata: Metadata, *, nodes: Any = None, edges: Any = None) -> Draft:
    """Parse nodes and edges that are given as columns; None is none."""
    draft = Draft()
    if nodes is not None:
        group, kinds = nodes_of_table(nodes, metadata)
        check_finite(group, metadata)
        draft = replace(draft, nodes=(group,), places=(group,), node_kinds=kinds)
    if edges is not None:
        edge_group, kinds = edges_of_table(edges, metadata)
        draft = replace(draft, edges=(edge_group,), edge_kinds=kinds)
    return draft


def _placed(
    groups: tuple[Nodes, ...], names: frozenset[str], policy: Policy, metadata: Metadata, backend: Backend
) -> tuple[Nodes, ...]:
    """Return nodes without some attributes, but for those nodes that are not in the store."""
    ids = np.unique(_ids([group for group in groups if not names.isdisjoint(group.attrs)]))
    if policy == "insert":  # what is there is an error, and what is missing in an update too
        there = ids[:0]
    elif policy == "update" or not len(ids):
        there = ids
    else:
        there = backend.read(Query(ids=ids, edges=False), metadata)[0].id
    parts = []
    for group in groups:
        is_there = np.isin(group.id, there)
        old = group.select(is_there)
        kept = _among(old.attrs, old.attrs.keys() - names)
        parts += [Nodes(id=old.id, attrs=kept), group.select(~is_there)]
    return tuple(filter(len, parts))


def _among(given: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    return {name: value for name, value in given.items() if name in names}


def _inside(places: tuple[Nodes, ...], us: Ids, roi: Roi, metadata: Metadata, backend: Backend) -> Ids:
    """Return the ids of nodes in a region, among those given and others."""
    names = metadata.positions
    told = [group for group in places if all(name in group.attrs for name in names)]
    partly = [group for group in places if not all(name in group.attrs for name in names)]
    asked = np.unique(np.concatenate([us, *(group.id for group in partly)]))
    stored = _stored(asked[~np.isin(asked, _ids(told))], metadata, backend)
    joined = [_joined(group, stored, names) for group in partly]
    others = stored.select(~np.isin(stored.id, _ids(partly)))
    return _ids([group.select(is_inside(group.attrs, len(group), roi, metadata)) for group in (*told, *joined, others)])


def _ids(groups: Collection[Nodes]) -> Ids:
    return np.concatenate([np.empty(0, np.uint64), *(group.id for group in groups)])


def _stored(ids: Ids, metadata: Metadata, backend: Backend) -> Nodes:
    """Return nodes with their positions in the store, as far as they are there."""
    names = tuple(name for name in metadata.positions if name in metadata.node_attrs)
    if not len(ids) or not names:
        return Nodes.empty({name: metadata.node_attrs[name] for name in names})
    return backend.read(Query(ids=ids, edges=False, node_attrs=names), metadata)[0]


def _joined(group: Nodes, stored: Nodes, names: tuple[str, ...]) -> Nodes:
    """Return those of a group's nodes that are stored, with positions of which some axes are given anew."""
    group = group.select(np.isin(group.id, stored.id))
    there = stored.select(np.searchsorted(stored.id, group.id))
    return Nodes(id=group.id, attrs={**there.attrs, **_among(group.attrs, names)})
