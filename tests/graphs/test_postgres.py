"""Graphs in PostgreSQL, on a real server."""

from __future__ import annotations

import hashlib
import pickle
import traceback
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
import sqlalchemy as sa

from bellis.errors import GraphError
from bellis.geometry import Roi
from bellis.graphs.backend import Change, Query
from bellis.graphs.columns import Nodes
from bellis.graphs.sql.postgres import PostgresBackend
from bellis.testing.graphs import GraphStoreTests
from graphs.sql_cases import PLAIN, SqlCases, random_graph

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.integration


def tables_of(folder: Path) -> dict[str, str]:
    digest = hashlib.sha256(str(folder).encode()).hexdigest()[:16]
    return {"nodes": f"n_{digest}", "edges": f"e_{digest}"}


class TestPostgres(GraphStoreTests):
    histories = 6

    @pytest.fixture(autouse=True)
    def _database(self, postgres_shared: str) -> None:
        self.url = postgres_shared

    def backend(self, folder: Path) -> PostgresBackend:
        return PostgresBackend(self.url, **tables_of(folder))


class TestPostgresCases(SqlCases):
    @pytest.fixture(autouse=True)
    def _database(self, postgres_shared: str) -> None:
        self.url = postgres_shared

    def make(self, folder: Path) -> PostgresBackend:
        return PostgresBackend(self.url, **tables_of(folder))


def test_chunks_are_refused() -> None:
    with pytest.raises(GraphError, match="chunk_size"):
        PostgresBackend.at("postgresql://host/graphs", chunk_size=(1, 2, 3))


@pytest.mark.parametrize(
    "url",
    [
        "mysql://me:secret@host/x", "secret", "postgresql//secret", "postgresql://me:secret@host:port/x",
        "postgresql://me:x@secret@host/x", "postgresql://me:x/secret@host/x", "postgresql://me:x%secret@host/x",
        "postgresql://me:x@y?secret@host/x", "postgresql://me:x@y?z=secret@host/x", "postgresql://me:12/secret@host/x",
        "postgresql://me:secret/x", "postgresql://me@host/x?port=secret", "postgresql://me@[host?sslpassword=secret",
    ],
)  # fmt: skip
def test_what_is_no_url_of_postgresql_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(GraphError, match=r"postgresql://user:password@host:5432/database'.* '@' is '%40'") as caught:
        PostgresBackend.at(url)
    assert "secret" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("postgresql://me:a%40b%2Fc@%2Ftmp%2Fpg/em", "postgresql://%2Ftmp%2Fpg/em"),
        ("postgres://me:secret@h1:1,h2:2/em?target_session_attrs=read-write", "postgresql://h1:1,h2:2/em"),
        ("postgresql://h1,h2/em?port=5433", "postgresql://h1:5433,h2:5433/em"),
        ("postgresql://me:s?a@host/em", "postgresql://host/em"),
        ("postgresql://me@[::1]:5433/em?password=a@b", "postgresql://[::1]:5433/em"),
        ("postgresql:///em?hostaddr=127.0.0.1&sslpassword=secret", "postgresql://127.0.0.1/em"),
        ("postgresql://", "postgresql:///"),
    ],
)
def test_of_a_url_hosts_ports_and_database_are_shown(url: str, place: str) -> None:
    assert PostgresBackend.at(url).place == place


def socket_of(url: str) -> str:
    """Return the folder of a server's socket, percent-encoded."""
    host = sa.make_url(url).query.get("host")
    if not isinstance(host, str) or not host.startswith("/"):
        pytest.skip("this server has no socket")
    return quote(host, safe="")


@pytest.mark.parametrize("form", ["postgresql://postgres@{}/{}", "postgresql://postgres@127.0.0.1:1,{}:5432/{}"])
def test_a_url_is_read_by_libpq(postgres_url: str, form: str) -> None:
    url = form.format(socket_of(postgres_url), sa.make_url(postgres_url).database)
    backend = pickle.loads(pickle.dumps(PostgresBackend.at(url)))
    backend.save(PLAIN)
    assert backend.load() == PLAIN
    backend.create_database()
    backend.close()


def test_a_region_far_away_is_found_where_the_graph_begins(postgres_url: str) -> None:
    metadata = replace(PLAIN, total_roi=Roi((10**12,) * 3, (100,) * 3))
    backend = PostgresBackend(postgres_url)
    backend.save(metadata)
    nodes, _ = random_graph(500)
    moved = Nodes(id=nodes.id, attrs={**nodes.attrs, "position": nodes["position"] + 1e12})
    for is_bulk in (True, False):
        backend.write(Change(nodes=(moved,), is_bulk=is_bulk), metadata)
    assert backend.count(Query(roi=Roi((10**12,) * 3, (100,) * 3)), metadata)[0] == 500
    backend.close()


def test_a_region_is_found_by_its_keys_whatever_the_planner_knows(postgres_url: str) -> None:
    backend = PostgresBackend(postgres_url)
    backend.save(PLAIN)
    nodes, edges = random_graph(5000)
    backend.write(Change(nodes=(nodes,), edges=(edges,)), PLAIN)  # nothing was analysed
    from bellis.graphs.sql.select import Selects

    found = Selects(backend._laid_out(PLAIN), backend._lists).nodes(Query(roi=Roi((10, 10, 10), (10, 10, 10))))
    with backend._reading() as connection:
        compiled = found.statement.compile(dialect=connection.dialect)
        plan = (
            connection.exec_driver_sql(f"EXPLAIN {compiled}", compiled.construct_params(found.values)).scalars().all()
        )
    backend.close()
    assert any("nodes__key" in line for line in plan), plan


def test_a_write_waits_for_the_disk_and_is_not_compiled(postgres_url: str) -> None:
    backend = PostgresBackend(postgres_url)
    with backend._reading() as connection:
        assert connection.execute(sa.text("SHOW synchronous_commit")).scalar() == "on"
        assert connection.execute(sa.text("SHOW jit")).scalar() == "off"
    backend.close()
