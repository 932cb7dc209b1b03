"""Servers of PostgreSQL and MongoDB for tests, and a database for each test."""

from __future__ import annotations

import contextlib
import secrets
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pymongo.database import Database

    from bellis.graphs.mongo.store import MongoBackend

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


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a server that speaks MongoDB's protocol."""
    from graphs.mongo_server import mongo_url

    with mongo_url(tmp_path_factory.mktemp("mongo")) as url:
        yield url


@pytest.fixture
def database(url: str, tmp_path: Path) -> Iterator[Database[dict[str, Any]]]:
    """An empty database of MongoDB, as its own driver sees it."""
    import pymongo

    from graphs.mongo_server import database_of, drop

    name = database_of(tmp_path)
    with pymongo.MongoClient[dict[str, Any]](url) as client:
        yield client[name]
    drop(url, [name])


@pytest.fixture
def backend(url: str, database: Database[dict[str, Any]]) -> Iterator[MongoBackend]:
    """The same database, as a backend."""
    from bellis.graphs.mongo.store import MongoBackend

    backend = MongoBackend(url, database.name)
    yield backend
    backend.close()


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
