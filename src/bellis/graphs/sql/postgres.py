"""Graphs in a PostgreSQL server."""

from __future__ import annotations

import contextlib
import functools
import math
from typing import TYPE_CHECKING, Any, Self, TypeVar

import numpy as np
import psycopg
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from bellis.errors import GraphError, GraphMissingError, GraphServerError
from bellis.graphs.sql.conninfo import database_of, parsed, shown
from bellis.graphs.sql.copying import PostgresLoader
from bellis.graphs.sql.layout import index_of
from bellis.graphs.sql.store import ROWS, SqlBackend

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from sqlalchemy.sql.elements import ColumnElement

    from bellis.graphs.attributes import Kind
    from bellis.graphs.backend import Query
    from bellis.graphs.columns import Ids
    from bellis.graphs.metadata import Metadata
    from bellis.graphs.sql.layout import Layout

T = TypeVar("T")
CONNECT_S = 10
"""How long a connection may take."""
_DEFAULTS = {"connect_timeout": CONNECT_S, "keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}
_DIALECT = "postgresql+psycopg://"
ATTEMPTS = 10
"""How often a write is begun again that got in the way of another: nothing of it was written."""
_AGAIN = ("40001", "40P01", "23505")
"""Codes: can't be serialised, deadlock; and a row that another has just made, which is then found."""
_GONE = ("42P01", "42703")
"""Codes: no such table, no such column."""
_NO_DATABASE = "3D000"
_LOCK = 0x62656C6C6973  # "bellis"
_SETTINGS = sa.text(
    # Compiling a query costs 100 ms, ours take a few; and what was acknowledged has to survive a crash.
    "SELECT set_config('jit', 'off', false), set_config('synchronous_commit', CASE "
    "current_setting('synchronous_commit') WHEN 'off' THEN 'on' ELSE current_setting('synchronous_commit') END, false)"
)


class PostgresBackend(SqlBackend):
    """A graph in a database of a PostgreSQL server (12 or later), for many machines.

    The password is in no message, but it is in what is pickled: workers need it. Leave it out of the URL to have it
    read from ``~/.pgpass`` or ``PGPASSWORD`` wherever a worker runs.

    Parameters
    ----------
    url
        Like ``postgresql://user:password@host:5432/database``, read by libpq: a ``?`` and parameters may follow, there
        may be several hosts (``host,host:5433``), and a host may be the folder of a socket (``%2Frun%2Fpostgresql``).
        Characters of the user and the password that are not letters or digits are percent-encoded.
    nodes, edges
        Names of the tables: one database can hold several graphs.

    Raises
    ------
    GraphError
        If it is no such URL, or a name can't be that of a table.
    """

    def __init__(self, url: str, *, nodes: str = "nodes", edges: str = "edges") -> None:
        self._conninfo = parsed(url)
        super().__init__(shown(self._conninfo), nodes, edges)

    @classmethod
    def at(cls, place: str, *, nodes: str = "nodes", edges: str = "edges", chunk_size: Any = None) -> Self:
        """Return the backend at a URL.

        Raises
        ------
        GraphError
            If a chunk size is given, or it is no URL.
        """
        if chunk_size is not None:
            raise GraphError(f"chunk_size is {chunk_size}, but only graphs in folders of files have chunks")
        return cls(place, nodes=nodes, edges=edges)

    def create_database(self) -> None:
        """Make the database, if it is missing.

        Raises
        ------
        GraphServerError
            If the server can't be reached, or does not let this user make one.
        """
        name = database_of(self._conninfo)
        engine = sa.create_engine(
            _DIALECT,
            creator=self._connecting(dbname="postgres"),
            isolation_level="AUTOCOMMIT",
            poolclass=sa.NullPool,
            hide_parameters=True,
        )
        with self._errors(), engine.connect() as connection:
            find = sa.text("SELECT 1 FROM pg_database WHERE datname = :name")
            if connection.execute(find, {"name": name}).first() is None:
                quoted = connection.dialect.identifier_preparer.quote_identifier(name)
                try:
                    connection.exec_driver_sql(f"CREATE DATABASE {quoted}")
                except sa.exc.DBAPIError as error:
                    # Another process made it first: one of these, as it goes.
                    if _code(error.orig) not in ("42P04", "23505"):
                        raise

    def load(self) -> Metadata | None:
        """Return the metadata, or None if there is no graph, or no database."""
        try:
            return super().load()
        except GraphServerError as error:
            if isinstance(error.__cause__, sa.exc.DBAPIError) and _is_missing(error.__cause__.orig):
                return None
            raise

    @property
    def _lists(self) -> PostgresLists:
        return PostgresLists()

    @property
    def _driver_error(self) -> type[Exception]:
        return psycopg.Error

    def _loader(self, connection: sa.Connection, layout: Layout) -> PostgresLoader:
        return PostgresLoader(connection, layout)

    def _type(self, kind: Kind) -> sa.types.TypeEngine[Any]:
        bases: dict[str, Any] = {"bool": sa.Boolean, "int": sa.BigInteger, "float": sa.Double, "str": sa.Text}
        # An array has its elements' type, is compared by value, and is read by other tools; JSON or bytes are not.
        return bases[kind.base]() if kind.size is None else postgresql.ARRAY(bases[kind.base])

    def _connecting(self, **changed: Any) -> Callable[[], psycopg.Connection[Any]]:
        """Return what opens a connection; libpq and psycopg understand more than SQLAlchemy's URLs can say."""
        return functools.partial(psycopg.connect, **{**_DEFAULTS, **self._conninfo, **changed})

    def _make_engine(self) -> sa.Engine:
        engine = sa.create_engine(
            _DIALECT,
            creator=self._connecting(),
            pool_pre_ping=True,
            use_native_hstore=False,  # asking for it costs more than all else of a connection
            pool_size=4,
            max_overflow=-1,
            hide_parameters=True,
        )
        sa.event.listen(engine, "connect", _settle)
        sa.event.listen(engine, "before_cursor_execute", _take_binary)
        return engine

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        with self._errors(), self._engine().connect() as connection:
            connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            with connection.begin():
                yield connection

    def _write(self, work: Callable[[sa.Connection], T]) -> T:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                with self._errors(), self._engine().begin() as connection:
                    return work(connection)
            except (GraphError, GraphServerError) as error:
                if attempt == ATTEMPTS or not _is_conflict(error.__cause__):
                    raise
        raise AssertionError

    def _before_save(self, connection: sa.Connection) -> None:
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))

    def _make_tables(self, connection: sa.Connection, layout: Layout) -> None:
        for table in (layout.nodes, layout.edges):
            table.create(connection)
            PostgresLoader(connection, layout).make_indices(table, is_empty=True)

    def _before(self, query: Query) -> None:
        """Make an index of far ends, when they are first asked for.

        Few graphs are ever asked so, and the index would double what writing edges costs.
        """
        if not (query.both_ends and query.edges) or (query.roi is None and query.ids is None):
            return
        index = index_of(self.tables[1], "v")
        with self._reading() as connection:
            if any(found["name"] == index.name for found in sa.inspect(connection).get_indexes(self.tables[1])):
                return

        def make(connection: sa.Connection) -> None:
            self._before_save(connection)
            connection.execute(sa.schema.CreateIndex(index, if_not_exists=True))

        with contextlib.suppress(GraphServerError):  # who may not write can still look at all edges
            self._write(make)

    def _failure(self, error: BaseException) -> Exception:
        code, text = _code(error), str(error).strip()
        if _is_missing(error):
            return GraphServerError(f"{self.place}: there is no such database: make it, or call create_database()")
        if code in _GONE:
            return GraphMissingError(
                f"the graph in {self.place} is not as it was when it was opened: it was removed or replaced by another "
                f"process, open it again ({text})"
            )
        if code[:2] in ("40", "55", "23"):
            return GraphServerError(
                f"{self.place} is too busy, nothing was written, even by {ATTEMPTS} attempts: {text}"
            )
        if isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError)) or code[:2] in ("28", "42"):
            return GraphServerError(
                f"{self.place} can't be used, what was not acknowledged was not written: {text or type(error).__name__}"
            )
        return GraphError(f"{self.place}: {text}")


def _take_binary(_connection: Any, cursor: Any, _statement: str, _values: Any, context: Any, _is_many: bool) -> None:
    """Take rows as they are: three times as fast as by text. SQLAlchemy's own queries need text."""
    if context is not None and context.execution_options.get(ROWS):
        cursor.format = psycopg.pq.Format.BINARY


def _settle(connection: Any, _record: Any) -> None:
    """Set what every transaction of a connection needs."""
    connection.execute(_SETTINGS.text)
    connection.commit()


def _code(error: BaseException | None) -> str:
    return getattr(error, "sqlstate", None) or ""


def _is_missing(error: BaseException | None) -> bool:
    """Return whether there is no such database; of a failed connection, only the text is known."""
    text = str(error)
    return _code(error) == _NO_DATABASE or (
        isinstance(error, psycopg.OperationalError) and 'FATAL:  database "' in text and "does not exist" in text
    )


def _is_conflict(error: BaseException | None) -> bool:
    """Return whether a transaction failed only because of another one."""
    cause = error.orig if isinstance(error, sa.exc.DBAPIError) else error
    return _code(cause) in _AGAIN


class PostgresLists:
    """Many numbers as arrays."""

    def ids(self, name: str) -> sa.Select[Any]:
        """Return a select of ids."""
        return sa.select(_unnested(name, "id").c.id)

    def pairs(self, name: str, columns: tuple[str, str]) -> sa.FromClause:
        """Return a table of pairs."""
        return _unnested(name, *columns)

    def near(
        self, name: str, table: sa.Table, key: str, columns: list[Any], conditions: list[ColumnElement[bool]]
    ) -> sa.Select[Any]:
        """Return a select of the rows whose keys are in some ranges.

        The planner knows nothing of ranges that come from an array, and would look through the whole table: OFFSET
        has it go from each range to its rows.
        """
        ranges = _unnested(name, "low", "high")
        is_near = table.c[key].between(ranges.c.low, ranges.c.high)
        wanted = [column for column in columns if isinstance(column, sa.Column)]
        rows = sa.select(*(wanted or [table.c.id])).where(is_near, *conditions).offset(0).lateral(f"{name}_rows")
        shown = [rows.c[column.name] if isinstance(column, sa.Column) else column for column in columns]
        return sa.select(*shown).select_from(ranges.join(rows, sa.true()))

    def bind_ids(self, name: str, ids: Ids) -> dict[str, Any]:
        """Return what binds ids."""
        return {f"{name}_id": ids.view(np.int64).tolist()}

    def bind_pairs(self, name: str, pairs: Sequence[Sequence[int]]) -> dict[str, Any]:
        """Return what binds pairs."""
        return {f"{name}_{column}": list(values) for column, values in zip(_PAIRS[name], pairs, strict=True)}

    def lacks_id(self, column: ColumnElement[Any], name: str) -> ColumnElement[bool]:
        """Return whether a column is none of some ids: of many, NOT IN would look through all for each row."""
        kept = _unnested(name, "id")
        return ~sa.exists().where(kept.c.id == column)

    def lacks_pair(self, columns: tuple[sa.Column[Any], sa.Column[Any]], name: str) -> ColumnElement[bool]:
        """Return whether two columns are none of some pairs."""
        kept = _unnested(name, "a", "b")
        return ~sa.exists().where(kept.c.a == columns[0], kept.c.b == columns[1])

    def is_vector(self, column: sa.Column[Any], kind: Kind, value: Sequence[Any]) -> ColumnElement[bool]:
        """Return whether arrays are equal."""
        if kind.base == "float" and any(math.isnan(number) for number in value):
            return sa.false()
        return column == sa.literal(list(value), column.type)


_PAIRS = {"ranges": ("low", "high"), "pairs": ("a", "b"), "kept_pairs": ("a", "b")}


def _unnested(name: str, *columns: str) -> sa.TableValuedAlias:
    arrays = [sa.bindparam(f"{name}_{column}", type_=postgresql.ARRAY(sa.BigInteger)) for column in columns]
    return (
        sa.func.unnest(*arrays)
        .table_valued(*(sa.column(column, sa.BigInteger) for column in columns), name=f"{name}_list")
        .render_derived()
    )
