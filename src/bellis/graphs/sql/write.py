"""What a change does to the tables of a graph, inside of one transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import sqlalchemy as sa

from bellis.errors import GraphExistsError, GraphMissingError
from bellis.graphs.backend import Query
from bellis.graphs.columns import Edges, Nodes, absent
from bellis.graphs.sql.rows import joined, split
from bellis.graphs.sql.select import Selects
from bellis.graphs.sql.zorder import NOWHERE, keys

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from bellis.graphs.backend import Change, Deletion
    from bellis.graphs.sql.layout import Layout
    from bellis.graphs.sql.select import Lists

_SHOWN = 5


class Loader(Protocol):
    """How a database takes many rows."""

    def store(self, table: sa.Table, columns: dict[str, npt.NDArray[Any]], *, is_new: bool) -> None:
        """Write rows; ``is_new`` says that none of them is there."""
        ...

    def lock(self, tables: list[sa.Table]) -> None:
        """Keep others from tables whose indices are to be dropped."""
        ...

    def drop_indices(self, table: sa.Table) -> None:
        """Drop what makes writing slow."""
        ...

    def make_indices(self, table: sa.Table) -> None:
        """Make what `drop_indices` drops."""
        ...


class Writer:
    """One change of one graph; nothing is committed."""

    def __init__(self, connection: sa.Connection, layout: Layout, lists: Lists, loader: Loader) -> None:
        self._connection = connection
        self._layout = layout
        self._lists = lists
        self._loader = loader
        self._selects = Selects(layout, lists)

    def run(self, change: Change) -> None:
        """Write it.

        Raises
        ------
        GraphExistsError, GraphMissingError
            If its policy forbids it.
        """
        nodes, edges = [part for part in change.nodes if len(part)], [part for part in change.edges if len(part)]
        ids = np.concatenate([part.id for part in nodes]) if nodes else np.empty(0, np.uint64)
        pairs = [np.concatenate([part[end] for part in edges]) if edges else np.empty(0, np.uint64) for end in "uv"]
        is_bulk = change.is_bulk and self._is_bulk(len(ids), len(pairs[0]))
        if change.policy != "upsert":
            self._check(change, ids, pairs)
        for table, groups in (
            (self._layout.nodes, self._rows(nodes)),
            (self._layout.edges, _ends(edges, self._layout)),
        ):
            if is_bulk and groups:
                self._store_bulk(table, groups, is_new=change.policy == "insert")
            else:
                for group in groups:
                    self._loader.store(table, group, is_new=change.policy == "insert")
        if change.deletion is not None:
            self._remove(change.deletion, ids, pairs)

    def _check(self, change: Change, ids: npt.NDArray[np.uint64], pairs: list[npt.NDArray[np.uint64]]) -> None:
        """Refuse what the policy forbids."""
        is_update = change.policy == "update"
        there, ends = self._known_nodes(ids, is_update), self._known_edges(pairs, is_update)
        if is_update:
            missing = [str(id_) for id_ in ids[~there].tolist()]
            missing_ends = [str(pair) for pair in zip(*(end[~ends].tolist() for end in pairs), strict=True)]
            _refuse(GraphMissingError, "not in the graph, so that they can't be updated", missing, missing_ends)
        else:
            present = [str(id_) for id_ in ids[there].tolist()]
            present_ends = [str(pair) for pair in zip(*(end[ends].tolist() for end in pairs), strict=True)]
            _refuse(GraphExistsError, "in the graph already", present, present_ends)

    def _known_nodes(self, ids: npt.NDArray[np.uint64], is_locked: bool) -> npt.NDArray[np.bool_]:
        """Return which nodes are in the store, and keep them there."""
        if not len(ids):
            return np.empty(0, np.bool_)
        table = self._layout.nodes
        statement = sa.select(table.c.id).where(table.c.id.in_(self._lists.ids("ids")))
        if is_locked:
            statement = statement.order_by(table.c.id).with_for_update()
        rows = self._connection.execute(statement, self._lists.bind_ids("ids", ids)).scalars().all()
        return np.isin(ids, np.array(rows, np.int64).view(np.uint64))

    def _known_edges(self, pairs: list[npt.NDArray[np.uint64]], is_locked: bool) -> npt.NDArray[np.bool_]:
        """Return which edges are in the store, and keep them there."""
        if not len(pairs[0]):
            return np.empty(0, np.bool_)
        table = self._layout.edges
        asked = self._lists.pairs("pairs", ("a", "b"))
        is_same = (table.c.u == asked.c.a) & (table.c.v == asked.c.b)
        statement = sa.select(table.c.u, table.c.v).select_from(asked.join(table, is_same))
        if is_locked:
            statement = statement.order_by(table.c.u, table.c.v).with_for_update(of=table)
        signed = [end.view(np.int64).tolist() for end in pairs]
        rows = self._connection.execute(statement, self._lists.bind_pairs("pairs", signed)).all()
        known = {tuple(row) for row in rows}
        return np.fromiter((pair in known for pair in zip(*signed, strict=True)), np.bool_, len(pairs[0]))

    def _rows(self, groups: list[Nodes]) -> list[dict[str, npt.NDArray[Any]]]:
        """Return columns of the table of nodes."""
        found = []
        for group in groups:
            columns = split(group.attrs, self._layout.node_slots)
            key = self._keys(group, columns)
            found.append({**({} if key is None else {self._layout.key: key}), "id": group.id.view(np.int64), **columns})
        return found

    def _keys(self, group: Nodes, columns: dict[str, npt.NDArray[Any]]) -> npt.NDArray[np.int64] | None:
        """Return where nodes are in the order of space; None if the group does not say."""
        axes = [slot.name for slot in self._layout.axes]
        missing = [name for name in self._layout.metadata.positions if name not in group.attrs]
        if not axes or len(missing) == len(self._layout.metadata.positions):
            return None
        places = {name: columns[name] for name in axes if name in columns}
        if missing:
            places |= self._stored_axes(group, missing)
        gone = np.any([absent(places[name]) for name in axes], axis=0)
        key = keys([np.where(gone, 0, np.ma.getdata(places[name])) for name in axes], self._layout.origin)
        return np.where(gone, np.int64(NOWHERE), key)

    def _stored_axes(self, group: Nodes, names: list[str]) -> dict[str, npt.NDArray[Any]]:
        """Return the axes of a position that a group does not give, as they are in the store."""
        query = Query(ids=np.sort(group.id), node_attrs=tuple(names))
        found = self._selects.nodes(query)
        result = self._connection.execute(found.statement.with_for_update(), found.values)
        kinds = self._layout.metadata.node_attrs
        (ids,), attrs = joined([tuple(row) for row in result], 1, names, self._layout.node_slots, kinds)
        order = np.argsort(ids)
        at = np.minimum(np.searchsorted(ids[order], group.id), max(len(ids) - 1, 0))
        stored: dict[str, npt.NDArray[Any]] = {}
        for name, values in split(attrs, self._layout.node_slots).items():
            if not len(ids):
                stored[name] = np.ma.masked_all(len(group), values.dtype)  # type: ignore[no-untyped-call]
                continue
            rows = order[at]
            gone = absent(values)[rows] | (ids[rows] != group.id)
            stored[name] = np.ma.masked_array(np.ma.getdata(values)[rows], mask=gone)
        return stored

    def _is_bulk(self, nodes: int, edges: int) -> bool:
        """Return whether indices are worth dropping: not for a small part of what is there."""

        def is_much() -> bool:
            sizes = ((self._layout.nodes, nodes), (self._layout.edges, edges))
            return all(self._count(table, up_to=size + 1) <= size for table, size in sizes if size)

        if not is_much():
            return False
        self._loader.lock([self._layout.nodes, self._layout.edges])
        return is_much()  # others may have written meanwhile

    def _count(self, table: sa.Table, up_to: int) -> int:
        some = sa.select(sa.literal(1)).select_from(table).limit(up_to).subquery()
        return int(self._connection.execute(sa.select(sa.func.count()).select_from(some)).scalar_one())

    def _store_bulk(self, table: sa.Table, groups: list[dict[str, npt.NDArray[Any]]], *, is_new: bool) -> None:
        """Write rows that are there by their index, and then those that are not without one."""
        new = groups
        if not is_new and self._count(table, up_to=1):
            new = []
            for group in groups:
                there = self._are_there(table, group)
                self._loader.store(table, _some(group, there), is_new=False)
                new.append(_some(group, ~there))
        self._loader.drop_indices(table)
        for group in new:
            self._loader.store(table, group, is_new=True)
        self._loader.make_indices(table)

    def _are_there(self, table: sa.Table, group: dict[str, npt.NDArray[Any]]) -> npt.NDArray[np.bool_]:
        if table is self._layout.nodes:
            return self._known_nodes(group["id"].view(np.uint64), is_locked=False)
        return self._known_edges([group[end].view(np.uint64) for end in "uv"], is_locked=False)

    def _remove(self, deletion: Deletion, ids: npt.NDArray[np.uint64], pairs: list[npt.NDArray[np.uint64]]) -> None:
        """Remove what is in a region and is not among what was written."""
        nodes, edges = self._layout.nodes, self._layout.edges
        region = Query(roi=deletion.roi)
        values = self._selects.values(region) | self._lists.bind_ids("kept", ids)
        values |= self._lists.bind_pairs("kept_pairs", [end.view(np.int64).tolist() for end in pairs])
        is_over = self._lists.lacks_pair((edges.c.u, edges.c.v), "kept_pairs")
        if deletion.edges:
            place = [] if deletion.roi is None else [edges.c.u.in_(self._selects.ids(region))]
            self._delete(sa.delete(edges).where(*place, is_over), values)
        if deletion.nodes:
            here = self._selects.ids(region).subquery()
            gone = sa.select(here.c.id).where(self._lists.lacks_id(here.c.id, "kept"))
            self._delete(sa.delete(edges).where(edges.c.u.in_(gone), is_over), values)
            self._delete(sa.delete(nodes).where(nodes.c.id.in_(gone)), values)

    def _delete(self, statement: sa.Delete, values: dict[str, Any]) -> None:
        """Run a statement with those of the values that it asks for."""
        names = statement.compile(dialect=self._connection.dialect).params
        self._connection.execute(statement, {name: values[name] for name in names if name in values})


def _ends(groups: list[Edges], layout: Layout) -> list[dict[str, npt.NDArray[Any]]]:
    """Return columns of the table of edges."""
    return [
        {"u": group.u.view(np.int64), "v": group.v.view(np.int64), **split(group.attrs, layout.edge_slots)}
        for group in groups
    ]


def _some(group: dict[str, npt.NDArray[Any]], rows: npt.NDArray[np.bool_]) -> dict[str, npt.NDArray[Any]]:
    return {name: values[rows] for name, values in group.items()}


def _refuse(error: type[Exception], why: str, nodes: Sequence[str], edges: Sequence[str]) -> None:
    parts = []
    for what, found in (("nodes", nodes), ("edges", edges)):
        if found:
            more = ", ..." if len(found) > _SHOWN else ""
            parts.append(f"{len(found)} {what}: {', '.join(found[:_SHOWN])}{more}")
    if parts:
        raise error(f"these are {why}: {'; '.join(parts)}; nothing was written")
