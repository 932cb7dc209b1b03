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
    """Groups of nodes to write."""
    bare: tuple[Nodes, ...] = ()
    """Nodes of networkx without attributes, which may be far ends of edges that left a region: not for updates."""
    edges: tuple[Edges, ...] = ()
    """Groups of edges to write."""
    places: tuple[Nodes, ...] = ()
    """Groups of nodes that tell positions, of those to write or of others."""
    node_kinds: Mapping[str, Kind] = field(default_factory=dict)
    """Attributes of nodes to write."""
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

    def change(self, policy: Policy, deletion: Deletion | None, *, is_bulk: bool) -> Change | None:
        """Return what is to be written; None if that is nothing."""
        nodes = tuple(filter(len, self.nodes if policy == "update" else (*self.nodes, *self.bare)))
        edges = tuple(filter(len, self.edges))
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
        groups, _ = nodes_of(places, metadata, metadata.positions)
        draft = replace(draft, places=tuple(group for _, group in groups))
    for group in draft.places:
        check_finite(group, metadata)
    if edges is not None:
        edge_groups, kinds = edges_of(edges, metadata, edge_attrs)
        draft = replace(draft, edges=edge_groups, edge_kinds=kinds)
    return draft


def _with_nodes(draft: Draft, given: Any, metadata: Metadata, wanted: Names) -> Draft:
    """Return a draft with nodes; their positions tell places even if they are not wanted."""
    if wanted is None:
        groups, kinds = nodes_of(given, metadata, None)
        wanted = {name for names, _ in groups for name in names}
    else:
        groups, kinds = nodes_of(given, metadata, {*wanted, *metadata.positions})
    written = [(names, Nodes(id=group.id, attrs=_among(group.attrs, wanted))) for names, group in groups]
    return replace(
        draft,
        nodes=tuple(group for names, group in written if not names.isdisjoint(wanted)),
        bare=tuple(group for names, group in written if names.isdisjoint(wanted)),
        places=tuple(group for _, group in groups),
        node_kinds=_among(kinds, wanted),
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
