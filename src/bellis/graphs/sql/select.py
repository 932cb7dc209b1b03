"""Statements that find nodes and edges, and the values that go with them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import sqlalchemy as sa

from bellis.graphs.sql.zorder import ranges

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy.sql.elements import ColumnElement

    from bellis.geometry import Roi
    from bellis.graphs.attributes import Kind
    from bellis.graphs.backend import Query
    from bellis.graphs.columns import Ids
    from bellis.graphs.sql.layout import Layout, Slot

_INT64 = np.iinfo(np.int64)


class Lists(Protocol):
    """How a database takes many numbers as one value, and compares what is in a column."""

    def ids(self, name: str) -> sa.Select[Any]:
        """Return a select of one column, from the ids bound to ``name``."""
        ...

    def pairs(self, name: str, columns: tuple[str, str]) -> sa.FromClause:
        """Return a table of two columns, from the pairs of integers bound to ``name``."""
        ...

    def near(
        self, name: str, table: sa.Table, key: str, columns: list[Any], conditions: list[ColumnElement[bool]]
    ) -> sa.Select[Any]:
        """Return a select of the rows with a ``key`` in the ranges bound to ``name``, in that order of work."""
        ...

    def bind_ids(self, name: str, ids: Ids) -> dict[str, Any]:
        """Return what binds ids to ``name``."""
        ...

    def bind_pairs(self, name: str, pairs: Sequence[Sequence[int]]) -> dict[str, Any]:
        """Return what binds pairs, as two sequences, to ``name``."""
        ...

    def lacks_id(self, column: ColumnElement[Any], name: str) -> ColumnElement[bool]:
        """Return whether a column is none of the ids bound to ``name``."""
        ...

    def lacks_pair(self, columns: tuple[sa.Column[Any], sa.Column[Any]], name: str) -> ColumnElement[bool]:
        """Return whether two columns are none of the pairs bound to ``name``."""
        ...

    def is_vector(self, column: sa.Column[Any], kind: Kind, value: Sequence[Any]) -> ColumnElement[bool]:
        """Return whether a column of vectors has a value of as many elements, none of them NaN."""
        ...


@dataclass(frozen=True, slots=True)
class Found:
    """A statement, and what is bound to it."""

    statement: sa.Select[Any] | sa.CompoundSelect[Any]
    """What to run."""
    values: dict[str, Any]
    """Values by name."""


class Selects:
    """Statements on the tables of one graph."""

    def __init__(self, layout: Layout, lists: Lists) -> None:
        self.layout = layout
        self.lists = lists

    def nodes(self, query: Query, *, count: bool = False) -> Found:
        """Return what reads the nodes of a query: ids and attributes."""

        def make() -> sa.Select[Any]:
            table = self.layout.nodes
            columns = [table.c.id, *_columns(table, query.node_attrs, self.layout.node_slots)]
            return self._of_nodes(query, [sa.func.count()] if count else columns)

        key = ("count nodes",) if count else ("nodes", query.node_attrs)
        return Found(self._kept(query, key, make), self.values(query))

    def edges(self, query: Query, *, count: bool = False) -> Found:
        """Return what reads the edges of a query: both ends and attributes."""

        def make() -> sa.Select[Any] | sa.CompoundSelect[Any]:
            table = self.layout.edges
            attributes = [] if count else _columns(table, query.edge_attrs, self.layout.edge_slots)
            found = self._of_edges(query, [table.c.u, table.c.v, *attributes])
            return sa.select(sa.func.count()).select_from(found.subquery()) if count else found

        key = ("count edges",) if count else ("edges", query.edge_attrs)
        return Found(self._kept(query, (*key, query.both_ends), make), self.values(query))

    def edges_of(self, query: Query, ids: Ids) -> Found:
        """Return what reads the edges of nodes that are known to be those of a query."""

        def make() -> sa.Select[Any] | sa.CompoundSelect[Any]:
            table, asked = self.layout.edges, self.lists.ids("ids").subquery()
            columns = [table.c.u, table.c.v, *_columns(table, query.edge_attrs, self.layout.edge_slots)]
            conditions = self._edge_filters(query)
            parts = [
                sa.select(*columns).select_from(asked.join(table, end == asked.c[0])).where(*conditions)
                for end in ((table.c.u, table.c.v) if query.both_ends else (table.c.u,))
            ]
            return sa.union(*parts) if query.both_ends else parts[0]

        statement = self._kept(query, ("edges of", query.edge_attrs, query.both_ends), make)
        return Found(statement, self.lists.bind_ids("ids", ids))

    def ids(self, query: Query) -> sa.Select[Any]:
        """Return a select of the ids of a query's nodes."""
        return self._of_nodes(query, [self.layout.nodes.c.id])

    def values(self, query: Query) -> dict[str, Any]:
        """Return what is bound to the statements of a query."""
        found: dict[str, Any] = {} if query.ids is None else self.lists.bind_ids("ids", query.ids)
        if query.roi is not None:
            box = bounds(query.roi, self.layout.axes)
            first, last = [low for low, _ in box or ()], [high for _, high in box or ()]
            if query.ids is None:
                parts = ranges(first, last, self.layout.origin) if box else []
                found |= self.lists.bind_pairs("ranges", list(zip(*parts, strict=True)) or [[], []])
            for axis, (low, high) in enumerate(box or [(1, 0)] * len(self.layout.axes)):
                found |= {f"low_{axis}": low, f"high_{axis}": high}
        return found

    def _kept(self, query: Query, key: tuple[Any, ...], make: Any) -> Any:
        """Return a statement, made once for all queries that differ in values only."""
        if query.nodes_filter or query.edges_filter:  # values are in it
            return make()
        key = (*key, query.roi is None, query.ids is None)
        found = self.layout.statements.get(key)
        if found is None:
            found = self.layout.statements[key] = make()
        return found

    def _of_nodes(self, query: Query, columns: list[Any]) -> sa.Select[Any]:
        table = self.layout.nodes
        conditions = self._filters(table, query.nodes_filter, self.layout.node_slots, self.layout.metadata.node_attrs)
        if query.roi is not None:
            conditions += self._inside()
        if query.ids is not None:
            conditions.append(table.c.id.in_(self.lists.ids("ids")))
        elif query.roi is not None:
            return self.lists.near("ranges", table, self.layout.key, columns, conditions)
        return sa.select(*columns).select_from(table).where(*conditions)

    def _inside(self) -> list[ColumnElement[bool]]:
        """Return whether a node is in a region: keys are but near."""
        if not self.layout.axes:
            return [sa.false()]
        found = []
        for axis, slot in enumerate(self.layout.axes):
            place: sa.Column[Any] = self.layout.nodes.c[slot.name]
            kind: sa.types.TypeEngine[Any] = sa.BigInteger() if slot.kind.base == "int" else sa.Double()
            found.append(place >= sa.bindparam(f"low_{axis}", type_=kind))
            found.append(place <= sa.bindparam(f"high_{axis}", type_=kind))
        return found

    def _of_edges(self, query: Query, columns: list[Any]) -> sa.Select[Any] | sa.CompoundSelect[Any]:
        table = self.layout.edges
        statement = sa.select(*columns).where(*self._edge_filters(query))
        if is_whole(query):
            return statement
        near = statement.where(table.c.u.in_(self.ids(query)))
        return near.union(statement.where(table.c.v.in_(self.ids(query)))) if query.both_ends else near

    def _edge_filters(self, query: Query) -> list[ColumnElement[bool]]:
        layout = self.layout
        return self._filters(layout.edges, query.edges_filter, layout.edge_slots, layout.metadata.edge_attrs)

    def _filters(
        self,
        table: sa.Table,
        wanted: Mapping[str, Any],
        slots: Mapping[str, tuple[Slot, ...]],
        kinds: Mapping[str, Kind],
    ) -> list[ColumnElement[bool]]:
        found: list[ColumnElement[bool]] = []
        for name, value in wanted.items():
            if name not in slots:
                return [sa.false()]
            columns, kind = slots[name], kinds[name]
            parts = [_as_stored(part, kind) for part in (value if isinstance(value, (tuple, list)) else (value,))]
            is_vector = isinstance(value, (tuple, list))
            if any(part is None for part in parts) or is_vector != (kind.size is not None):
                return [sa.false()]
            if is_vector and len(parts) != kind.size:
                return [sa.false()]
            if is_vector and columns[0].kind.size is not None:
                found.append(self.lists.is_vector(table.c[columns[0].name], kind, parts))
            else:
                found += [
                    table.c[slot.name] == sa.literal(part, table.c[slot.name].type)
                    for slot, part in zip(columns, parts, strict=True)
                ]
        return found


def is_whole(query: Query) -> bool:
    """Return whether all edges are asked for, also those of which u is no node."""
    return query.roi is None and query.ids is None and not query.nodes_filter


def _columns(table: sa.Table, attrs: tuple[str, ...], slots: Mapping[str, tuple[Slot, ...]]) -> list[sa.Column[Any]]:
    return [table.c[slot.name] for name in attrs for slot in slots[name]]


def _as_stored(value: Any, kind: Kind) -> Any:
    """Return a value that only equal ones in a database are equal to; None if no stored one can be."""
    if kind.base == "str":
        return value if isinstance(value, str) and "\0" not in value and not _has_surrogates(value) else None
    if isinstance(value, str) or value != value:
        return None
    try:
        found = {"bool": bool, "int": int, "float": float}[kind.base](value)
    except (OverflowError, ValueError, TypeError):
        return None
    is_same = found == value and (kind.base != "int" or _INT64.min <= found <= _INT64.max)
    return found if is_same else None


def _has_surrogates(text: str) -> bool:
    return any("\ud800" <= letter <= "\udfff" for letter in text)


def bounds(roi: Roi, axes: Sequence[Slot]) -> list[tuple[float, float]] | None:
    """Return the smallest and the largest number along each axis that are in a region; None if there are none.

    Of the type of each axis, so that comparing with them is exact for integers and for floats of any size.
    """
    found: list[tuple[float, float]] = []
    for begin, end, slot in zip(roi.offset, roi.end, axes, strict=False):
        if slot.kind.base == "int":
            low: float = _INT64.min if begin is None else max(begin, _INT64.min)
            high: float = _INT64.max if end is None else min(end - 1, _INT64.max)
        else:
            low = -math.inf if begin is None else _float_from(begin)
            high = math.inf if end is None else math.nextafter(_float_from(end), -math.inf)
        if low > high:
            return None
        found.append((low, high))
    return found or None


def _float_from(number: int) -> float:
    """Return the smallest float that is not below an integer."""
    try:
        found = float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf
    return math.nextafter(found, math.inf) if found < number else found
