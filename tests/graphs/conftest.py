"""A PostgreSQL server per process of tests, and a database per test."""

from __future__ import annotations

import contextlib
import secrets
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest.register_assert_rewrite(
    *(
        f"bellis.testing.graph_{part}"
        for part in ("deletions", "history", "openings", "reads", "sharing", "values", "writes")
    )
)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of a server's database ``postgres``."""
    from graphs.servers import postgres

    with postgres() as url:
        yield url


@pytest.fixture(scope="session")
def postgres_shared(postgres_server: str) -> Iterator[str]:
    """The URL of a database for tests whose tables have names of their own."""
    with _database(postgres_server) as url:
        yield url


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """The URL of an empty database, for one test."""
    with _database(postgres_server) as url:
        yield url


@contextlib.contextmanager
def _database(server: str) -> Iterator[str]:
    import sqlalchemy as sa

    name = f"bellis_{secrets.token_hex(8)}"
    _execute(server, f"CREATE DATABASE {name}")
    try:
        yield sa.make_url(server).set(database=name).render_as_string(hide_password=False)
    finally:
        _execute(server, f"DROP DATABASE {name} WITH (FORCE)")


def _execute(server: str, statement: str) -> None:
    """Execute a statement in a connection of its own: one that stays open would be shut by a child of a fork."""
    import psycopg

    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(statement)
