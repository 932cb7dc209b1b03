"""Graphs in a file of SQLite."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar
from urllib.parse import unquote

import msgspec
import numpy as np
import sqlalchemy as sa
from sqlalchemy.dialects import sqlite

from bellis.errors import GraphError, GraphMissingError, GraphServerError
from bellis.graphs.attributes import Kind
from bellis.graphs.sql.layout import index_of, object_name
from bellis.graphs.sql.rows import in_order, sqlite_values
from bellis.graphs.sql.sqlite_file import connect, has_changed, has_log, log_of
from bellis.graphs.sql.store import SqlBackend

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy.typing as npt
    from sqlalchemy.sql.elements import ColumnElement

    from bellis.graphs.backend import Query
    from bellis.graphs.columns import Ids
    from bellis.graphs.sql.layout import Layout

T = TypeVar("T")
BUSY_S = 60.0
"""How long a writer waits for others."""
_CACHE_KB = 65536
_WAL_BYTES = 64 << 20
"""What the log may keep on disk after much was written."""
_CHUNK_ROWS = 50_000
_MAX_VALUES = 400
"""Of one statement: with many rows in each, they are written three times as fast as one by one."""
_BEGIN = "bellis_begin"


class SQLiteBackend(SqlBackend):
    """A graph in a file of SQLite, for the processes of one machine.

    Nodes are stored in the order of space, and edges in that of their ends. The file is in the mode WAL: readers see
    one moment and never wait, writers take turns, and what was written is on disk (``synchronous=FULL``). WAL needs
    memory that all processes share, and so does not work on network file systems (NFS, SMB, Lustre): take PostgreSQL
    where workers are on several machines.

    Where the file or its folder may not be written, the graph can be read. While no other process has it open, SQLite
    is told that nobody writes (``immutable=1``), and makes no file beside it; if somebody does write meanwhile, the
    call is a `GraphServerError`, and the next one reads what was written.

    Parameters
    ----------
    path
        Path of the file; it is made with the first graph, and its folder too.
    nodes, edges
        Names of the tables: one file can hold several graphs.

    Raises
    ------
    GraphError
        If a name can't be that of a table.
    """

    def __init__(self, path: str | os.PathLike[str], *, nodes: str = "nodes", edges: str = "edges") -> None:
        self.path = Path(path).absolute()
        super().__init__(str(self.path), nodes, edges)

    @classmethod
    def at(cls, place: str, *, nodes: str = "nodes", edges: str = "edges", chunk_size: Any = None) -> Self:
        """Return the backend at a path, or at a URL like ``sqlite:///folder/graph.sqlite``.

        As in SQLAlchemy, what follows three slashes is relative, and what follows four is absolute.

        Raises
        ------
        GraphError
            If a chunk size is given, or the URL has no path.
        """
        if chunk_size is not None:
            raise GraphError(f"{place}: chunk_size is {chunk_size}, but only graphs in folders of files have chunks")
        text = os.fspath(place)
        scheme, separator, rest = text.partition("://")
        if separator and scheme == "sqlite":
            if not rest.startswith("/") or len(rest) == 1:
                raise GraphError(f"{text!r} has no path: write it like 'sqlite:///folder/graph.sqlite'")
            text = unquote(rest[1:])
        return cls(text, nodes=nodes, edges=edges)

    @property
    def _lists(self) -> SQLiteLists:
        return SQLiteLists()

    def _loader(self, connection: sa.Connection, layout: Layout) -> SQLiteLoader:
        return SQLiteLoader(connection, layout)

    def _type(self, kind: Kind) -> sa.types.TypeEngine[Any]:
        if kind.size is not None:
            return sa.Text() if kind.base == "str" else sa.LargeBinary()
        types: dict[str, sa.types.TypeEngine[Any]] = {"bool": sa.Boolean(), "int": sa.BigInteger(), "str": sa.Text()}
        return types.get(kind.base, _Float())

    @property
    def _driver_error(self) -> type[Exception]:
        return sqlite3.Error

    def _make_engine(self) -> sa.Engine:
        engine = sa.create_engine(
            "sqlite://", creator=self._connect, poolclass=sa.QueuePool, pool_size=4, max_overflow=-1
        )
        sa.event.listen(engine, "begin", _begin)
        sa.event.listen(engine, "checkout", self._look_again)
        return engine

    def _look_again(self, connection: Any, _record: Any, _fairy: Any) -> None:
        """Have a connection opened anew that would not notice what others wrote since."""
        if has_changed(connection, self.path):
            raise sa.exc.DisconnectionError

    def _connect(self) -> sqlite3.Connection:
        connection = connect(self.path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute(f"PRAGMA cache_size = -{_CACHE_KB}")
            connection.execute(f"PRAGMA journal_size_limit = {_WAL_BYTES}")
            connection.execute("PRAGMA trusted_schema = OFF")
        except BaseException:
            connection.close()
            raise
        return connection

    def _is_there(self) -> bool:
        if self.path.is_dir():
            raise GraphError(f"{self.path} is a folder, not a file of SQLite")
        return self.path.exists()

    def _prepare(self) -> None:
        """Make the file, and bring it into the mode WAL."""
        if not self._is_there():
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self.path.touch()
            except OSError as error:
                raise GraphServerError(f"can't make {self.path}: {error.strerror}") from error
        deadline = time.monotonic() + BUSY_S
        with self._errors(), self._engine().connect() as connection:
            driver: Any = connection.connection.driver_connection
            while True:
                try:
                    if driver.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
                        driver.execute("PRAGMA journal_mode = WAL").fetchone()
                except sqlite3.OperationalError as error:
                    # SQLite does not wait here, as it does elsewhere, while another process does the same.
                    if _code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                        raise self._failure(error) from error
                    time.sleep(0.01)
                except sqlite3.Error as error:
                    raise self._failure(error) from error
                else:
                    return

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        with self._errors(), self._engine().connect() as connection:
            driver: Any = connection.connection.driver_connection
            try:
                with connection.begin():
                    yield connection
            finally:
                if has_changed(driver, self.path):
                    raise GraphServerError(
                        f"{self.path} was written by another process while it was read here, where it may not be "
                        "written: read again"
                    )

    def _write(self, work: Callable[[sa.Connection], T]) -> T:
        with self._errors(), self._engine().connect() as connection:
            connection.execution_options(**{_BEGIN: "IMMEDIATE"})
            with connection.begin():
                return work(connection)

    def _make_tables(self, connection: sa.Connection, layout: Layout) -> None:
        for table, names in ((layout.nodes, (layout.key, "id")), (layout.edges, ("u", "v"))):
            table.append_constraint(sa.PrimaryKeyConstraint(*names))
            table.dialect_options["sqlite"]["with_rowid"] = False
            table.create(connection)
        SQLiteLoader(connection, layout).make_indices(layout.nodes)

    def _before(self, query: Query) -> None:
        """Make an index of far ends, when they are first asked for.

        Few graphs are ever asked so, and the index would double what writing edges costs.
        """
        if not (query.both_ends and query.edges) or (query.roi is None and query.ids is None):
            return
        table, name = self.tables[1], object_name(self.tables[1], "v")
        with self._reading() as connection:
            driver: Any = connection.connection.driver_connection
            indices = sa.inspect(connection).get_indexes(table)
            if not driver.way.is_writable or any(index["name"] == name for index in indices):
                return
        make = sa.schema.CreateIndex(index_of(table, "v"), if_not_exists=True)
        with contextlib.suppress(GraphServerError):  # if others write for long, one can still look at all edges
            self._write(lambda connection: connection.execute(make))

    def _failure(self, error: BaseException) -> Exception:
        code = _code(error)
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return GraphServerError(
                f"{self.path} was locked by another process for {BUSY_S:.0f} s, nothing was written: "
                f"'fuser {self.path}' says which"
            )
        if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
            return GraphError(f"{self.path} is no file of SQLite, or is damaged: {error}")
        if code == sqlite3.SQLITE_READONLY:
            return GraphServerError(
                f"{self.path} can't be written: the file, or its folder, may only be read ({error})"
            )
        if code == sqlite3.SQLITE_CANTOPEN and has_log(self.path):
            return GraphServerError(
                f"{self.path} can't be read here: a process that ended early left a log, {log_of(self.path)}, and "
                f"nothing may be written to take it in; open the graph once where it can be written ({error})"
            )
        if code == sqlite3.SQLITE_FULL:
            return GraphServerError(f"no space is left for {self.path}, nothing was written: {error}")
        if code == sqlite3.SQLITE_ERROR and ("no such" in str(error) or "has no column" in str(error)):
            return GraphMissingError(
                f"the graph in {self.path} is not as it was when it was opened: it was removed or replaced by another "
                f"process, open it again ({error})"
            )
        if isinstance(error, sqlite3.OperationalError):
            return GraphServerError(f"{self.path} can't be used: {error}")
        return GraphError(f"{self.path}: {error}")


def _begin(connection: sa.Connection) -> None:
    connection.exec_driver_sql(f"BEGIN {connection.get_execution_options().get(_BEGIN, 'DEFERRED')}")


def _code(error: BaseException) -> int:
    """Return the primary code of an error."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


class _Float(sa.types.UserDefinedType[float]):
    """A column without affinity: in a REAL one, SQLite makes 0.0 of -0.0."""

    cache_ok = True

    def get_col_spec(self, **_options: Any) -> str:
        """Return how it is declared."""
        return "BLOB"


class SQLiteLists:
    """Many numbers as one text of JSON, which SQLite takes as a table."""

    def ids(self, name: str) -> sa.Select[Any]:
        """Return a select of ids."""
        return sa.select(_json(name).c.value)

    def pairs(self, name: str, columns: tuple[str, str]) -> sa.FromClause:
        """Return a table of pairs."""
        value = _json(name).c.value
        parts = [sa.func.json_extract(value, f"$[{at}]", type_=sa.BigInteger) for at in (0, 1)]
        found = [part.label(column) for part, column in zip(parts, columns, strict=True)]
        return sa.select(*found).subquery()

    def near(
        self, name: str, table: sa.Table, key: str, columns: list[Any], conditions: list[ColumnElement[bool]]
    ) -> sa.Select[Any]:
        """Return a select of the rows whose keys are in some ranges."""
        ranges = self.pairs(name, ("low", "high"))
        is_near = table.c[key].between(ranges.c.low, ranges.c.high)
        return sa.select(*columns).select_from(ranges.join(table, is_near)).where(*conditions)

    def bind_ids(self, name: str, ids: Ids) -> dict[str, Any]:
        """Return what binds ids."""
        return {name: msgspec.json.encode(ids.view(np.int64).tolist()).decode()}

    def bind_pairs(self, name: str, pairs: Sequence[Sequence[int]]) -> dict[str, Any]:
        """Return what binds pairs."""
        return {name: msgspec.json.encode(list(zip(*pairs, strict=True))).decode()}

    def lacks_id(self, column: ColumnElement[Any], name: str) -> ColumnElement[bool]:
        """Return whether a column is none of some ids: SQLite makes an index of what follows NOT IN."""
        return column.not_in(self.ids(name))

    def lacks_pair(self, columns: tuple[sa.Column[Any], sa.Column[Any]], name: str) -> ColumnElement[bool]:
        """Return whether two columns are none of some pairs."""
        return sa.tuple_(*columns).not_in(sa.select(self.pairs(name, ("a", "b"))))

    def is_vector(self, column: sa.Column[Any], kind: Kind, value: Sequence[Any]) -> ColumnElement[bool]:
        """Return whether vectors are equal: their bytes, but that 0.0 equals -0.0."""
        if kind.base != "float" or 0.0 not in value:
            values = np.empty((1, len(value)), kind.dtype)
            values[0] = value
            return column == sa.literal(sqlite_values(values, kind)[0], column.type)
        element = Kind(kind.base, 1)
        parts = []
        for at, number in enumerate(value):
            same = [0.0, -0.0] if number == 0 else [number]
            texts = [sa.literal(sqlite_values(np.array([[each]]), element)[0], column.type) for each in same]
            parts.append(sa.func.substr(column, at * 8 + 1, 8, type_=column.type).in_(texts))
        return sa.and_(*parts)


def _json(name: str) -> sa.TableValuedAlias:
    return sa.func.json_each(sa.bindparam(name, type_=sa.Text)).table_valued(sa.column("value", sa.BigInteger))


class SQLiteLoader:
    """Rows by statements of many rows each, in the order in which they are stored."""

    def __init__(self, connection: sa.Connection, layout: Layout) -> None:
        self._connection = connection
        self._layout = layout

    def store(self, table: sa.Table, columns: dict[str, npt.NDArray[Any]], *, is_new: bool) -> None:
        """Write rows."""
        columns = {column.name: columns[column.name] for column in table.columns if column.name in columns}
        order = in_order(columns, self._layout.key)
        kinds = {slot.name: slot.kind for slots in self._slots(table).values() for slot in slots}
        driver: Any = self._connection.connection.driver_connection
        per_statement = max(_MAX_VALUES // len(columns), 1)
        for begin in range(0, len(order), _CHUNK_ROWS):
            rows = order[begin : begin + _CHUNK_ROWS]
            width, flat = len(columns), [None] * (len(columns) * len(rows))
            for at, (name, values) in enumerate(columns.items()):
                flat[at::width] = sqlite_values(values[rows], kinds.get(name, Kind("int")))
            cut = len(rows) // per_statement * per_statement * width
            for first, last, count in ((0, cut, per_statement), (cut, len(flat), 1)):
                if first < last:
                    step = count * width
                    statement = self._insert(table, tuple(columns), count, is_new=is_new)
                    driver.executemany(statement, (flat[at : at + step] for at in range(first, last, step)))

    def lock(self, tables: list[sa.Table]) -> None:
        """Do nothing: only one process writes at a time."""

    def drop_indices(self, table: sa.Table) -> None:
        """Drop the index of ids, or of far ends."""
        index = index_of(table.name, "id" if table is self._layout.nodes else "v")
        self._connection.execute(sa.schema.DropIndex(index, if_exists=True))

    def make_indices(self, table: sa.Table) -> None:
        """Make the index of ids; that of far ends is made when it is needed."""
        if table is self._layout.nodes:
            self._connection.execute(sa.schema.CreateIndex(index_of(table.name, "id", is_unique=True)))

    def _slots(self, table: sa.Table) -> Any:
        return self._layout.node_slots if table is self._layout.nodes else self._layout.edge_slots

    def _insert(self, table: sa.Table, names: tuple[str, ...], count: int, *, is_new: bool) -> str:
        """Return a statement that writes some rows."""
        key = ("insert", table.name, names, count, is_new)
        found: str | None = self._layout.statements.get(key)
        if found is None:
            statement = sqlite.insert(table).values([dict.fromkeys(names, 0)] * count)
            if not is_new:
                keys = ["id"] if table is self._layout.nodes else ["u", "v"]
                changed = {name: statement.excluded[name] for name in names if name not in keys}
                if changed:
                    statement = statement.on_conflict_do_update(index_elements=keys, set_=changed)
                else:
                    statement = statement.on_conflict_do_nothing(index_elements=keys)
            found = self._layout.statements[key] = str(statement.compile(dialect=self._connection.dialect))
        return found
