"""Tables of a graph in a database: which column holds which attribute."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import sqlalchemy as sa

from bellis.errors import GraphError
from bellis.graphs.attributes import MAX_NAME_BYTES, Kind, check_identifier

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from bellis.graphs.metadata import Metadata

    Types: TypeAlias = Callable[[Kind], sa.types.TypeEngine[Any]]

GRAPHS = "bellis_graphs"
"""The table of all graphs of a database."""
_PLAIN = re.compile("[a-z][a-z0-9]*(_[a-z0-9]+)*")
_INT64 = np.iinfo(np.int64)
_MAX_PLAIN = 48
"""Longer names would have no room for the number of an axis."""
_TAKEN = frozenset(
    ("id", "key", "u", "v", "rowid", "oid", "ctid", "tableoid", "xmin", "xmax", "cmin", "cmax")  # ours and databases'
)


@dataclass(frozen=True, slots=True)
class Slot:
    """A column of a table."""

    name: str
    """Its name."""
    kind: Kind
    """What its values are: of a position, a single number."""


def column_name(attribute: str) -> str:
    """Return the column of an attribute: its own name if that is plain, else one that resembles it.

    No two attributes share a column, also where upper and lower case are the same; and none has a column of ours.

    Examples
    --------
    >>> column_name("size"), column_name("Size")
    ('size', '_size_1af851907331c0ed')
    """
    is_plain = _PLAIN.fullmatch(attribute) and len(attribute) <= _MAX_PLAIN and attribute not in _TAKEN
    return attribute if is_plain else f"_{_readable(attribute)}_{_digest(attribute)}"


def object_name(table: str, purpose: str) -> str:
    """Return the name of an index or constraint of a table, short enough for PostgreSQL."""
    name = f"{table}__{purpose}"
    return name if len(name) <= MAX_NAME_BYTES else f"{table[:36]}__{purpose}_{_digest(table)}"


def index_of(table: str, column: str, *, is_unique: bool = False) -> sa.Index:
    """Return an index of one column, to be made and dropped alone: the table in a layout does not know of it."""
    indexed: sa.Column[Any] = sa.Column(column, sa.BigInteger)
    sa.Table(table, sa.MetaData(), indexed)
    return sa.Index(object_name(table, column), indexed, unique=is_unique)


def _readable(text: str) -> str:
    return re.sub("[^a-z0-9]+", "_", text.lower())[:24].strip("_")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def check_tables(nodes: str, edges: str) -> tuple[str, str]:
    """Return the names of the tables of nodes and edges.

    Raises
    ------
    GraphError
        If one is no name, both are the same, or one is taken by the library or the database.
    """
    names = check_identifier("nodes", nodes), check_identifier("edges", edges)
    lower = [name.lower() for name in names]
    if lower[0] == lower[1] or GRAPHS in lower or any(name.startswith(("sqlite_", "pg_")) for name in lower):
        raise GraphError(
            f"tables are called nodes={nodes!r} and edges={edges!r}: they need two names, neither {GRAPHS!r}, nor "
            "beginning with 'sqlite_' or 'pg_'"
        )
    return names


def graphs_table() -> sa.Table:
    """Return the table of all graphs of a database."""
    return sa.Table(
        GRAPHS,
        sa.MetaData(),
        sa.Column("nodes", sa.Text, primary_key=True),
        sa.Column("edges", sa.Text, nullable=False, unique=True),
        sa.Column("metadata", sa.Text, nullable=False),
    )


@dataclass(slots=True)
class Layout:
    """The tables of one graph."""

    metadata: Metadata
    """What they were made for."""
    nodes: sa.Table
    """Keys, ids and attributes of nodes."""
    edges: sa.Table
    """Ends and attributes of edges."""
    node_slots: Mapping[str, tuple[Slot, ...]]
    """Columns of each attribute of nodes; a position has one per axis."""
    edge_slots: Mapping[str, tuple[Slot, ...]]
    """Columns of each attribute of edges."""
    axes: tuple[Slot, ...]
    """Columns of the position; none as long as it is not known."""
    origin: tuple[int, ...]
    """From where keys are counted along each axis: where the whole graph begins, if that is known, else 0."""
    key: str
    """Column of the keys."""
    statements: dict[Any, Any] = field(default_factory=dict)
    """What was made for these tables once."""

    @classmethod
    def of(cls, metadata: Metadata, nodes: str, edges: str, types: Types) -> Layout:
        """Lay out tables.

        Parameters
        ----------
        metadata
            Of the graph.
        nodes, edges
            Names of the tables.
        types
            Returns the type of a column.
        """
        whole = () if metadata.is_split else metadata.positions
        node_slots = {name: _slots(name, kind, name in whole) for name, kind in metadata.node_attrs.items()}
        edge_slots = {name: _slots(name, kind, is_split=False) for name, kind in metadata.edge_attrs.items()}
        is_placed = all(name in node_slots for name in metadata.positions)
        origin = _origin(metadata)
        key = key_name(origin)
        tables = sa.MetaData()
        return cls(
            metadata=metadata,
            nodes=sa.Table(
                nodes,
                tables,
                sa.Column(key, sa.BigInteger, nullable=False, server_default=sa.text("-1")),
                sa.Column("id", sa.BigInteger, nullable=False, autoincrement=False),
                *_columns(node_slots, types),
            ),
            edges=sa.Table(
                edges,
                tables,
                sa.Column("u", sa.BigInteger, nullable=False, autoincrement=False),
                sa.Column("v", sa.BigInteger, nullable=False, autoincrement=False),
                *_columns(edge_slots, types),
            ),
            node_slots=node_slots,
            edge_slots=edge_slots,
            axes=tuple(slot for name in metadata.positions for slot in node_slots[name]) if is_placed else (),
            origin=origin,
            key=key,
        )


def key_name(origin: tuple[int, ...]) -> str:
    """Return the column of keys that are counted from an origin.

    Whoever still has the metadata of a graph that was replaced by one with another origin would write keys by which
    nobody finds the nodes, but for the column that is missing.

    Examples
    --------
    >>> key_name((0, 0)), key_name((0, 1000))
    ('key', 'key__398d420981caa20f')
    """
    return f"key__{_digest(repr(origin))}" if any(origin) else "key"


def _origin(metadata: Metadata) -> tuple[int, ...]:
    roi = metadata.total_roi
    begins = (0,) * (metadata.dims or 0) if roi is None else roi.offset
    return tuple(min(max(begin or 0, _INT64.min), _INT64.max) for begin in begins)


def _slots(name: str, kind: Kind, is_split: bool) -> tuple[Slot, ...]:
    column = column_name(name)
    if not is_split or kind.size is None:
        return (Slot(column, kind),)
    return tuple(Slot(f"{column}__{axis}", Kind(kind.base)) for axis in range(kind.size))


def _columns(slots: Mapping[str, tuple[Slot, ...]], types: Types) -> list[sa.Column[Any]]:
    return [sa.Column(slot.name, types(slot.kind)) for group in slots.values() for slot in group]
