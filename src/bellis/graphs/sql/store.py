"""A graph in a relational database: what SQLite and PostgreSQL share."""

from __future__ import annotations

import contextlib
import functools
import os
import threading
import weakref
from abc import ABC, abstractmethod
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import sqlalchemy as sa

from bellis.errors import GraphError, GraphMismatchError
from bellis.graphs.backend import Query
from bellis.graphs.columns import Edges, Nodes
from bellis.graphs.metadata import Metadata
from bellis.graphs.sql.layout import Layout, check_tables, graphs_table
from bellis.graphs.sql.rows import joined
from bellis.graphs.sql.select import Selects, is_whole
from bellis.graphs.sql.write import Writer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bellis.graphs.attributes import Kind
    from bellis.graphs.backend import Change
    from bellis.graphs.columns import Ids
    from bellis.graphs.sql.select import Found, Lists
    from bellis.graphs.sql.write import Loader

T = TypeVar("T")
ROWS = "bellis_rows"
"""Option of statements whose rows are nodes or edges."""


class SqlBackend(ABC):
    """Two tables, one row per node and per edge, and one row of metadata in a table of all graphs.

    Nodes have a key that places them in a z-order, so that a region is a few ranges of keys; then positions decide.

    Parameters
    ----------
    place
        What messages call the database; without a password.
    nodes, edges
        Names of the tables.
    """

    def __init__(self, place: str, nodes: str, edges: str) -> None:
        self.place = place
        self.tables = check_tables(nodes, edges)
        self._set_up()

    def _set_up(self) -> None:
        self._lock = threading.Lock()
        self._opened: tuple[int, sa.Engine] | None = None
        self._layout: Layout | None = None
        self._left: list[sa.Engine] = []
        self._is_watching = False

    def __str__(self) -> str:
        tables = "" if self.tables == ("nodes", "edges") else f", tables {' and '.join(self.tables)}"
        return f"{self.place}{tables}"

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.place}, tables {' and '.join(self.tables)}>"

    def __getstate__(self) -> dict[str, Any]:
        own = ("_lock", "_opened", "_layout", "_left", "_is_watching")
        return {name: value for name, value in self.__dict__.items() if name not in own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._set_up()

    def load(self) -> Metadata | None:
        """Return the metadata, or None if there is no graph."""
        if not self._is_there():
            return None
        with self._reading() as connection:
            return self._stored(connection)

    def save(self, metadata: Metadata, *, replace: bool = False) -> Metadata:
        """Make a graph with these metadata, or let their attributes join those that are there; return all."""
        self._prepare()
        return self._write(functools.partial(self._save, metadata=metadata, is_replaced=replace))

    def read(self, query: Query, metadata: Metadata) -> tuple[Nodes, Edges]:
        """Return nodes, sorted by id, and edges, sorted by u and v, as they were at one moment."""
        layout = self._laid_out(metadata)
        self._before(query)
        with self._reading() as connection:
            nodes = self._nodes(connection, layout, query) if query.nodes else _no_nodes(metadata, query)
            if not query.edges:
                edges = _no_edges(metadata, query)
            elif query.nodes and not is_whole(query):
                edges = self._edges(connection, layout, query, nodes.id)
            else:
                edges = self._edges(connection, layout, query)
            if query.nodes and query.both_ends:
                ends = np.setdiff1d(np.concatenate([edges.u, edges.v]), nodes.id)
                others = Query(ids=ends, node_attrs=query.node_attrs)
                nodes = Nodes.concatenate([nodes, self._nodes(connection, layout, others)]).sorted()
        return nodes, edges

    def count(self, query: Query, metadata: Metadata) -> tuple[int, int]:
        """Return how many nodes and edges `read` would return."""
        if query.both_ends and query.edges and query.nodes:
            nodes, edges = self.read(replace(query, node_attrs=(), edge_attrs=()), metadata)
            return len(nodes), len(edges)
        selects = Selects(self._laid_out(metadata), self._lists)
        self._before(query)
        with self._reading() as connection:
            found = [
                int(self._run(connection, find(query, count=True))[0][0]) if is_asked else 0
                for find, is_asked in ((selects.nodes, query.nodes), (selects.edges, query.edges))
            ]
        return found[0], found[1]

    def write(self, change: Change, metadata: Metadata) -> None:
        """Write, all or nothing; when it returns, a crash of this process or machine loses none of it."""
        layout = self._laid_out(metadata)

        def work(connection: sa.Connection) -> None:
            Writer(connection, layout, self._lists, self._loader(connection, layout)).run(change)

        self._write(work)

    def close(self) -> None:
        """Close connections of this process; the next call opens them again."""
        with self._lock:
            opened, self._opened = self._opened, None
        if opened is not None and opened[0] == os.getpid():
            opened[1].dispose()

    @property
    @abstractmethod
    def _lists(self) -> Lists:
        """How the database takes many numbers."""

    @abstractmethod
    def _loader(self, connection: sa.Connection, layout: Layout) -> Loader:
        """Return how the database takes many rows."""

    @abstractmethod
    def _type(self, kind: Kind) -> sa.types.TypeEngine[Any]:
        """Return the type of a column."""

    @abstractmethod
    def _make_engine(self) -> sa.Engine:
        """Return what opens connections."""

    @property
    @abstractmethod
    def _driver_error(self) -> type[Exception]:
        """What the driver raises."""

    @abstractmethod
    def _failure(self, error: BaseException) -> Exception:
        """Return what an error of the database is called here."""

    @abstractmethod
    def _reading(self) -> contextlib.AbstractContextManager[sa.Connection]:
        """Open a transaction that sees one moment."""

    @abstractmethod
    def _write(self, work: Callable[[sa.Connection], T]) -> T:
        """Do some work in a transaction that is written to disk when this returns."""

    @abstractmethod
    def _make_tables(self, connection: sa.Connection, layout: Layout) -> None:
        """Make the tables of a graph, with their keys and indices."""

    def _is_there(self) -> bool:
        """Return whether there may be a graph."""
        return True

    def _prepare(self) -> None:  # noqa: B027  (nothing, where nothing has to be done)
        """Do what has to be done before a graph can be made."""

    def _before_save(self, connection: sa.Connection) -> None:  # noqa: B027
        """Keep others from making or extending graphs until this transaction ends."""

    def _before(self, query: Query) -> None:  # noqa: B027
        """Do what makes a query fast."""

    def _engine(self) -> sa.Engine:
        """Return what opens connections: each process has its own."""
        with self._lock:
            pid = os.getpid()
            if self._opened is None or self._opened[0] != pid:
                if self._opened is not None:
                    # The parent's: to close a connection here could end it there.
                    self._left.append(self._opened[1])
                self._opened = pid, self._make_engine()
            if not self._is_watching:
                self._is_watching = True
                os.register_at_fork(
                    before=functools.partial(_close_before_fork, weakref.ref(self)),
                    after_in_child=functools.partial(_renew_lock, weakref.ref(self)),
                )
            return self._opened[1]

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Raise our errors for those of the database."""
        try:
            yield
        except sa.exc.DBAPIError as error:
            raise self._failure(error.orig or error) from error
        except self._driver_error as error:
            raise self._failure(error) from error
        except sa.exc.SQLAlchemyError as error:
            raise GraphError(f"{self.place}: {error}") from error

    def _laid_out(self, metadata: Metadata) -> Layout:
        layout = self._layout
        if layout is None or (layout.metadata is not metadata and layout.metadata != metadata):
            layout = self._layout = Layout.of(metadata, *self.tables, self._type)
        return layout

    def _stored(self, connection: sa.Connection, *, is_locked: bool = False) -> Metadata | None:
        table = graphs_table()
        if not sa.inspect(connection).has_table(table.name):
            return None
        statement = sa.select(table.c.edges, table.c.metadata).where(table.c.nodes == self.tables[0])
        found = connection.execute(statement.with_for_update() if is_locked else statement).one_or_none()
        if found is None:
            return None
        if found.edges != self.tables[1]:
            raise GraphMismatchError(
                f"the graph with the table {self.tables[0]!r} in {self.place} has its edges in {found.edges!r}, not in "
                f"{self.tables[1]!r}: pass edges={found.edges!r}"
            )
        return Metadata.decode(found.metadata, where=self.place)

    def _save(self, connection: sa.Connection, *, metadata: Metadata, is_replaced: bool) -> Metadata:
        self._before_save(connection)
        table = graphs_table()
        table.create(connection, checkfirst=True)
        stored = self._stored(connection, is_locked=True)
        row = {"nodes": self.tables[0], "edges": self.tables[1]}
        if stored is not None and not is_replaced:
            return self._extend(connection, stored, metadata)
        if stored is not None:
            Layout.of(stored, *self.tables, self._type).nodes.metadata.drop_all(connection)
            connection.execute(sa.delete(table).where(table.c.nodes == self.tables[0]))
        self._check_free(connection)
        self._make_tables(connection, Layout.of(metadata, *self.tables, self._type))
        connection.execute(sa.insert(table), {**row, "metadata": metadata.encode()})
        return metadata

    def _check_free(self, connection: sa.Connection) -> None:
        known = {name.lower() for name in sa.inspect(connection).get_table_names()}
        taken = [name for name in self.tables if name.lower() in known]
        if taken:
            raise GraphError(
                f"{self.place} has a table {' and '.join(map(repr, taken))} already, that is not of this graph: pass "
                "other names as nodes and edges"
            )

    def _extend(self, connection: sa.Connection, stored: Metadata, metadata: Metadata) -> Metadata:
        """Let attributes join those of a graph that is there."""
        asked = {name: getattr(metadata, name) for name in ("directed", "total_roi", "position", "endpoints")}
        stored.check(asked, where=self.place)
        found = stored.extended(metadata.node_attrs, metadata.edge_attrs)
        if found == stored:
            return stored
        before, after = (Layout.of(each, *self.tables, self._type) for each in (stored, found))
        for old, new in ((before.nodes, after.nodes), (before.edges, after.edges)):
            for column in new.columns:
                if column.name not in old.columns:
                    self._add_column(connection, new, column)
        table = graphs_table()
        change = sa.update(table).where(table.c.nodes == self.tables[0]).values(metadata=found.encode())
        connection.execute(change)
        return found

    def _add_column(self, connection: sa.Connection, table: sa.Table, column: sa.Column[Any]) -> None:
        """Add a column: SQLAlchemy has no such statement."""
        quote = connection.dialect.identifier_preparer
        described = connection.dialect.ddl_compiler(connection.dialect, None).get_column_specification(column)  # type: ignore[arg-type]
        connection.exec_driver_sql(f"ALTER TABLE {quote.format_table(table)} ADD COLUMN {described}")

    def _nodes(self, connection: sa.Connection, layout: Layout, query: Query) -> Nodes:
        rows = self._run(connection, Selects(layout, self._lists).nodes(query))
        kinds = layout.metadata.node_attrs
        (ids,), attrs = joined(rows, 1, query.node_attrs, layout.node_slots, kinds)
        found = Nodes(id=ids, attrs=attrs)
        return found if (ids[1:] > ids[:-1]).all() else found.sorted()

    def _edges(self, connection: sa.Connection, layout: Layout, query: Query, ids: Ids | None = None) -> Edges:
        """Return edges, of known nodes or of those of a query."""
        selects = Selects(layout, self._lists)
        rows = self._run(connection, selects.edges(query) if ids is None else selects.edges_of(query, ids))
        kinds = layout.metadata.edge_attrs
        (u, v), attrs = joined(rows, 2, query.edge_attrs, layout.edge_slots, kinds)
        found = Edges(u=u, v=v, attrs=attrs)
        is_sorted = (u[1:] > u[:-1]) | ((u[1:] == u[:-1]) & (v[1:] > v[:-1]))
        return found if is_sorted.all() else found.sorted()

    def _run(self, connection: sa.Connection, found: Found) -> list[tuple[Any, ...]]:
        """Return rows as the driver makes them: SQLAlchemy's cost half as much again."""
        with connection.execute(found.statement, found.values, execution_options={ROWS: True}) as result:
            cursor: Any = result.cursor
            rows: list[tuple[Any, ...]] = cursor.fetchall()
            return rows


def _no_nodes(metadata: Metadata, query: Query) -> Nodes:
    return Nodes.empty({name: metadata.node_attrs[name] for name in query.node_attrs})


def _no_edges(metadata: Metadata, query: Query) -> Edges:
    return Edges.empty({name: metadata.edge_attrs[name] for name in query.edge_attrs})


def _close_before_fork(reference: weakref.ref[SqlBackend]) -> None:
    """Close idle connections, so that a child inherits none: what SQLite knows of locks is wrong there."""
    backend = reference()
    if backend is not None:
        backend.close()


def _renew_lock(reference: weakref.ref[SqlBackend]) -> None:
    """Free a child of a lock that another thread of its parent held."""
    backend = reference()
    if backend is not None:
        backend._lock = threading.Lock()  # noqa: SLF001
