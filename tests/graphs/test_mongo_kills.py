"""Writers and servers of MongoDB that are killed lose nothing that was acknowledged, and leave no half of a block."""

from __future__ import annotations

import functools
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import pymongo
import pytest
from pymongo import monitoring

from bellis.errors import GraphExistsError, GraphServerError
from bellis.graphs import Vec
from bellis.graphs.mongo.store import MongoBackend
from bellis.graphs.store import GraphStore
from bellis.testing.graph_stores import contents
from graphs import mongo_writer
from graphs.mongo_server import MongoServer, mongo_server
from graphs.mongo_writer import SIZE, write_block

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.integration, pytest.mark.slow]
_WRITERS, _ROUNDS = 4, 3
_KINDS = {"node_attrs": {"position": Vec(float, 1), "value": int}, "edge_attrs": {"value": int}}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MongoServer]:
    with mongo_server(tmp_path_factory.mktemp("mongo"), lifetime_s=1) as server:
        yield server


def written(url: str, name: str, first: int, count: int, die_at: int) -> tuple[list[int], int]:
    """Run a writer to its end; return the blocks that it told of, and how it ended."""
    command = [sys.executable, mongo_writer.__file__, url, name, *map(str, (first, count, die_at))]
    found = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert found.returncode in (0, -9), found.stderr
    return [int(line) for line in found.stdout.split()], found.returncode


def blocks_of(store: GraphStore) -> dict[int, tuple[int, int, set[int]]]:
    """Return of each block the numbers of nodes and edges, and the values in them."""
    nodes, edges = store.read_columns()
    found: dict[int, tuple[int, int, set[int]]] = {}
    for block in np.unique([*(nodes.id[nodes.id < mongo_writer.SHARED] // SIZE), *(edges.u // SIZE)]).tolist():
        in_block, of_block = nodes.id // SIZE == block, edges.u // SIZE == block
        values = {*nodes["value"][in_block].tolist(), *edges["value"][of_block].tolist()}
        found[int(block)] = int(in_block.sum()), int(of_block.sum()), values
    return found


def test_killed_writers_leave_whole_blocks_and_lose_none_that_was_acknowledged(server: MongoServer) -> None:
    store = GraphStore(MongoBackend(server.url, "killed"), "w", **_KINDS)
    acknowledged: list[int] = []
    ends: list[int] = []
    with store, ThreadPoolExecutor(_WRITERS) as pool:
        for turn in range(_ROUNDS):
            runs = [
                pool.submit(written, server.url, "killed", 100 * (turn * _WRITERS + k), 3, 1 + turn * _WRITERS + k)
                for k in range(_WRITERS)
            ]
            for run in runs:
                blocks, end = run.result()
                acknowledged += blocks
                ends.append(end)
        found = blocks_of(store)
        assert ends == [-9] * (_WRITERS * _ROUNDS)
        assert set(acknowledged) <= set(found)
        assert found == {block: (SIZE, SIZE, {block}) for block in found}
        blocks, end = written(server.url, "killed", 0, 3, 0)
        assert (blocks, end) == ([0, 1, 2], 0)
        assert set(blocks_of(store)) >= {0, 1, 2}


def test_without_transactions_killed_writers_leave_whole_rows(tmp_path: Path) -> None:
    with (
        mongo_server(tmp_path, replica_set=False) as server,
        GraphStore(MongoBackend(server.url, "rows"), "w", **_KINDS) as store,
    ):
        acknowledged = []
        for die_at in (1, 2, 3, 4, 6, 7):
            acknowledged += written(server.url, "rows", 100 * die_at, 2, die_at)[0]
        nodes, edges = store.read_columns()
        assert not any(np.ma.is_masked(values) for values in (*nodes.attrs.values(), *edges.attrs.values()))
        assert len({*nodes.id.tolist()}) == len(nodes)
        found = blocks_of(store)
        assert all(found[block] == (SIZE, SIZE, {block}) for block in acknowledged)


@pytest.mark.parametrize("command", ["update", "commitTransaction"])
def test_a_server_that_dies_in_a_transaction_is_an_error_and_has_what_it_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    with mongo_server(tmp_path) as server:
        killer = ServerKiller(server, command)
        monkeypatch.setattr(pymongo, "MongoClient", functools.partial(pymongo.MongoClient, event_listeners=[killer]))
        url = f"{server.url}/?serverSelectionTimeoutMS=500"
        with GraphStore(MongoBackend(url, "dies"), "w", **_KINDS) as store:
            write_block(store, 0, 7)
            before = contents(store)
            killer.is_armed = True
            with pytest.raises(GraphServerError, match=r"127\.0\.0\.1"):
                write_block(store, 1, 8)
            with pytest.raises(GraphServerError, match=r"127\.0\.0\.1"):
                store.read_columns()
            server.start()
            assert contents(store) == before
            write_block(store, 1, 8)
            assert blocks_of(store) == {0: (SIZE, SIZE, {7}), 1: (SIZE, SIZE, {8})}


class ServerKiller(monitoring.CommandListener):
    """Kills the server before a command is sent."""

    def __init__(self, server: MongoServer, command: str) -> None:
        self.server, self.command, self.is_armed = server, command, False

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        if self.is_armed and event.command_name == self.command:
            self.is_armed = False
            self.server.kill()

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        pass

    failed = succeeded  # type: ignore[assignment]


def test_of_four_writers_of_the_same_nodes_one_makes_them(server: MongoServer) -> None:
    with GraphStore(MongoBackend(server.url, "same"), "w", **_KINDS) as store:

        def make(writer: int) -> bool:
            try:
                store.write_columns({"id": range(30), "value": [writer] * 30}, fail_if_exists=True)
            except GraphExistsError:
                return False
            return True

        with ThreadPoolExecutor(4) as pool:
            made = list(pool.map(make, range(4)))
        assert made.count(True) == 1
        assert set(store.read_columns()[0]["value"].tolist()) == {made.index(True)}


def test_four_bulk_writers_of_the_same_nodes_all_succeed(server: MongoServer) -> None:
    with GraphStore(MongoBackend(server.url, "bulk"), "w", **_KINDS) as store, ThreadPoolExecutor(4) as pool:
        ids = np.arange(40)
        list(pool.map(lambda k: store.write_columns({"id": ids, "value": np.full(40, k)}, bulk=True), range(4)))
        nodes, _ = store.read_columns()
        np.testing.assert_array_equal(nodes.id, ids)
        assert len(set(nodes["value"].tolist())) == 1


def test_a_server_that_stays_away_is_an_error_soon() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, and not listening: nobody answers here
        backend = MongoBackend.at(f"mongodb://127.0.0.1:{taken.getsockname()[1]}/gone?serverSelectionTimeoutMS=200")
        for mode in ("r", "r+", "w"):
            with pytest.raises(GraphServerError, match=r"127\.0\.0\.1:\d+/gone.*is it running"):
                GraphStore(backend, mode)
