"""Graphs in PostgreSQL, on a real server."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from bellis.errors import GraphError
from bellis.graphs.backend import Change, Query
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
    "url", ["mysql://me:secret@host/x", "secret", "postgresql//secret", "postgresql://me:secret@host:port/x"]
)
def test_what_is_no_url_of_postgresql_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(GraphError, match="postgresql://user:password@host:5432/database") as caught:
        PostgresBackend.at(url)
    assert "secret" not in str(caught.value)


def test_a_region_is_found_by_its_keys_whatever_the_planner_knows(postgres_url: str) -> None:
    backend = PostgresBackend(postgres_url)
    backend.save(PLAIN)
    nodes, edges = random_graph(5000)
    backend.write(Change(nodes=(nodes,), edges=(edges,)), PLAIN)  # nothing was analysed
    from bellis.geometry import Roi
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
