"""Graphs in MongoDB pass the suite that all backends pass; what is of MongoDB alone is in other files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from bellis.graphs.mongo.store import MongoBackend
from bellis.testing.graph_history import HistoryTests
from bellis.testing.graph_writes import WriteTests
from bellis.testing.graphs import GraphStoreTests
from graphs.mongo_server import database_of, drop, mongo_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def standalone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with mongo_server(tmp_path_factory.mktemp("standalone"), replica_set=False) as server:
        yield server.url


class TestMongo(GraphStoreTests):
    many = 400
    histories = 6
    history_steps = 10

    @pytest.fixture(autouse=True)
    def _databases(self, url: str) -> Iterator[None]:
        self.url = url
        self.names: set[str] = set()
        yield
        drop(url, self.names)

    def backend(self, folder: Path) -> MongoBackend:
        name = database_of(folder)
        self.names.add(name)
        return MongoBackend(self.url, name)


class TestMongoWithoutTransactions(WriteTests, HistoryTests):
    """What one process writes and reads is the same on a server without transactions."""

    many = 300
    histories = 4
    history_steps = 8

    @pytest.fixture(autouse=True)
    def _server(self, standalone: str) -> None:
        self.url = standalone

    def backend(self, folder: Path) -> MongoBackend:
        return MongoBackend(self.url, database_of(folder))
