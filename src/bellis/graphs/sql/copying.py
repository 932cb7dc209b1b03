"""PostgreSQL's binary format of COPY, made by NumPy: many rows at once, without a Python object for each value.

https://www.postgresql.org/docs/current/sql-copy.html, "Binary Format": each row is a count of fields and, for each
field, its length (-1: NULL) and its bytes, big endian.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

import numpy as np
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from bellis.graphs.attributes import Kind
from bellis.graphs.columns import absent
from bellis.graphs.sql.layout import index_of, object_name
from bellis.graphs.sql.rows import in_order

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy.typing as npt

    from bellis.graphs.sql.layout import Layout

HEAD = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TAIL = b"\xff\xff"
_CHUNK_ROWS = 100_000
_WRITTEN = {"bool": ">i1", "int": ">i8", "float": ">f8"}
_OIDS = {"bool": 16, "int": 20, "float": 701}
_NAMES = {"bool": "bool", "int": "int8", "float": "float8", "str": "text"}


class PostgresLoader:
    """Rows by COPY, into the table itself or, where some may be there, by way of a temporary one."""

    def __init__(self, connection: sa.Connection, layout: Layout) -> None:
        self._connection = connection
        self._layout = layout

    def store(self, table: sa.Table, columns: dict[str, npt.NDArray[Any]], *, is_new: bool) -> None:
        """Write rows."""
        columns = {column.name: columns[column.name] for column in table.columns if column.name in columns}
        if is_new:
            order = in_order(columns, self._layout.key)
            self._copy(table, {name: values[order] for name, values in columns.items()})
            return
        copied = [sa.Column(name, table.c[name].type) for name in columns]
        stage = sa.Table(
            f"bellis_{secrets.token_hex(8)}",
            sa.MetaData(),
            *copied,
            prefixes=["TEMPORARY"],
            postgresql_on_commit="DROP",
        )
        stage.create(self._connection, checkfirst=False)
        self._copy(stage, columns)
        keys = self._keys(table)
        # All take their locks in the same order: none waits for one that waits for it.
        rows = sa.select(stage).order_by(*(stage.c[name] for name in keys))
        insert = postgresql.insert(table).from_select(list(columns), rows)
        changed = {name: insert.excluded[name] for name in columns if name not in keys}
        insert = (
            insert.on_conflict_do_update(index_elements=keys, set_=changed)
            if changed
            else insert.on_conflict_do_nothing(index_elements=keys)
        )
        self._connection.execute(insert)

    def lock(self, tables: list[sa.Table]) -> None:
        """Keep others from tables whose indices are to be dropped."""
        names = ", ".join(self._quoted(table) for table in tables)
        self._connection.exec_driver_sql(f"LOCK TABLE {names} IN ACCESS EXCLUSIVE MODE")

    def drop_indices(self, table: sa.Table) -> None:
        """Drop the primary key, and the indices of places or of far ends."""
        self._connection.execute(
            sa.schema.DropIndex(
                index_of(table.name, self._layout.key if table is self._layout.nodes else "v"), if_exists=True
            )
        )
        constraint = sa.PrimaryKeyConstraint(name=object_name(table.name, "pk"))
        sa.Table(table.name, sa.MetaData(), constraint)
        self._connection.execute(sa.schema.DropConstraint(constraint, if_exists=True))

    def make_indices(self, table: sa.Table, *, is_empty: bool = False) -> None:
        """Make the primary key and the index of places; that of far ends is made when it is needed."""
        columns = [sa.Column(name, sa.BigInteger) for name in self._keys(table)]
        constraint = sa.PrimaryKeyConstraint(*columns, name=object_name(table.name, "pk"))
        sa.Table(table.name, sa.MetaData(), *columns, constraint)
        self._connection.execute(sa.schema.AddConstraint(constraint))
        if table is self._layout.nodes:
            self._connection.execute(sa.schema.CreateIndex(index_of(table.name, self._layout.key)))
        if not is_empty:
            # Else the planner takes a table that was filled just now for an empty one.
            self._connection.exec_driver_sql(f"ANALYZE {self._quoted(table)}")

    def _keys(self, table: sa.Table) -> list[str]:
        return ["id"] if table is self._layout.nodes else ["u", "v"]

    def _quoted(self, table: sa.Table) -> str:
        return self._connection.dialect.identifier_preparer.format_table(table)

    def _copy(self, table: sa.Table, columns: dict[str, npt.NDArray[Any]]) -> None:
        quote = self._connection.dialect.identifier_preparer.quote
        names = ", ".join(quote(name) for name in columns)
        slots = [*self._layout.node_slots.values(), *self._layout.edge_slots.values()]
        known = {slot.name: slot.kind for group in slots for slot in group}
        kinds = {name: known.get(name, Kind("int")) for name in columns}
        driver: Any = self._connection.connection.driver_connection
        with driver.cursor() as cursor:
            write(cursor, f"COPY {self._quoted(table)} ({names}) FROM STDIN (FORMAT BINARY)", columns, kinds)


def write(cursor: Any, statement: str, columns: Mapping[str, npt.NDArray[Any]], kinds: Mapping[str, Kind]) -> None:
    """Send rows.

    Parameters
    ----------
    cursor
        Of psycopg.
    statement
        ``COPY ... FROM STDIN (FORMAT BINARY)``.
    columns
        In the order of the statement.
    kinds
        Kind of each column.
    """
    with cursor.copy(statement) as copy:
        if any(kinds[name].base == "str" for name in columns):
            copy.set_types([_NAMES[kinds[name].base] + ("[]" if kinds[name].size else "") for name in columns])
            for row in _rows(columns):
                copy.write_row(row)
            return
        copy.write(HEAD)
        for part in _records(columns, kinds):
            copy.write(part)
        copy.write(TAIL)


def _rows(columns: Mapping[str, npt.NDArray[Any]]) -> Iterator[tuple[Any, ...]]:
    """Yield rows of Python values, with None for no value."""
    lists = []
    for values in columns.values():
        found = np.ma.getdata(values).tolist()
        for row in np.flatnonzero(absent(values)).tolist():
            found[row] = None
        lists.append(found)
    return zip(*lists, strict=True)


def _records(columns: Mapping[str, npt.NDArray[Any]], kinds: Mapping[str, Kind]) -> Iterator[memoryview]:
    """Yield rows, those without a value in the same columns together: they have the same length."""
    gone = np.array([absent(values) for values in columns.values()])
    patterns, which = np.unique(np.packbits(gone, axis=0), axis=1, return_inverse=True)
    which = which.ravel()
    for number in range(patterns.shape[1]):
        rows = np.flatnonzero(which == number)
        missing = dict(zip(columns, gone[:, rows[0]].tolist(), strict=True))
        record = _record({name: None if missing[name] else kinds[name] for name in columns})
        for begin in range(0, len(rows), _CHUNK_ROWS):
            some = rows[begin : begin + _CHUNK_ROWS]
            block = np.zeros(len(some), record)
            _fill(block, columns, kinds, some, missing)
            yield block.view(np.uint8).data


def _record(kinds: Mapping[str, Kind | None]) -> np.dtype[Any]:
    """Return the layout of a row; of None, there is no value."""
    fields: list[Any] = [("fields", ">i2")]
    for number, kind in enumerate(kinds.values()):
        fields.append((f"length {number}", ">i4"))
        if kind is not None and kind.size is not None:
            element = [("length", ">i4"), ("value", _WRITTEN[kind.base])]
            fields += [(f"head {number}", ">i4", 5), (f"value {number}", element, kind.size)]
        elif kind is not None:
            fields.append((f"value {number}", _WRITTEN[kind.base]))
    return np.dtype(fields)


def _fill(
    block: npt.NDArray[Any],
    columns: Mapping[str, npt.NDArray[Any]],
    kinds: Mapping[str, Kind],
    rows: npt.NDArray[np.intp],
    missing: Mapping[str, bool],
) -> None:
    block["fields"] = len(columns)
    for number, (name, values) in enumerate(columns.items()):
        if missing[name]:
            block[f"length {number}"] = -1
            continue
        kind, field = kinds[name], block[f"value {number}"]
        data = np.ma.getdata(values)[rows]
        if kind.size is None:
            block[f"length {number}"] = field.dtype.itemsize
            field[...] = data
        else:
            # An array: its number of dimensions, whether it has NULLs, its type, and length and first index.
            block[f"head {number}"] = (1, 0, _OIDS[kind.base], kind.size, 1)
            block[f"length {number}"] = 20 + field.dtype.itemsize * kind.size
            field["length"] = field.dtype["value"].itemsize
            field["value"] = data
