"""A server that speaks MongoDB's protocol, for tests: one that is given, or one that is started here and ended."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pymongo

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

GIVEN = "BELLIS_TEST_MONGODB_URI"
"""Environment variable with the URL of a server; without it, one of PyPI's is started."""
_PROGRAM = """
import sys, threading
from secantus import SecantusDBServer
port, folder, replica_set, lifetime_s = int(sys.argv[1]), sys.argv[2], sys.argv[3] or None, float(sys.argv[4])
server = SecantusDBServer(
    host="127.0.0.1", port=port, storage_path=folder, replica_set_name=replica_set, sync_on_commit=True,
    transaction_lifetime_seconds=lifetime_s, enable_test_commands=False,
)
server.start()
print(server.port, flush=True)
threading.Event().wait()
"""


class MongoServer:
    """A child process with a server of SecantusDB: MongoDB's protocol on WiredTiger, with transactions or without.

    It flushes its log at each commit, which it would not do of itself, not even where the driver asks for it.
    """

    def __init__(self, folder: Path, *, replica_set: bool, lifetime_s: float) -> None:
        self.folder, self.replica_set, self.lifetime_s = folder, replica_set, lifetime_s
        self.port = 0
        self.process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        return f"mongodb://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, and wait until it answers; it keeps its port."""
        name = "bellis" if self.replica_set else ""
        with (self.folder / "log").open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, str(self.port), str(self.folder / "data"), name, str(self.lifetime_s)],
                stdout=subprocess.PIPE, stderr=log, text=True,
            )  # fmt: skip
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.kill()
            raise RuntimeError(f"no server of MongoDB came up: {(self.folder / 'log').read_text()[-2000:]}")
        self.port = int(line)

    def kill(self) -> None:
        """End it without any warning."""
        process, self.process = self.process, None
        if process is None:
            return
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


@contextmanager
def mongo_server(folder: Path, *, replica_set: bool = True, lifetime_s: float = 60) -> Iterator[MongoServer]:
    """Run a server for as long as a block of code.

    A transaction without a message ends after ``lifetime_s``: that long one of a writer that died holds others up.
    """
    server = MongoServer(folder, replica_set=replica_set, lifetime_s=lifetime_s)
    try:
        server.start()
        yield server
    finally:
        server.kill()  # its folder goes as well


@contextmanager
def mongo_url(folder: Path) -> Iterator[str]:
    """Return the URL of the server that is given, or of one that runs for as long as a block of code."""
    given = os.environ.get(GIVEN)
    if given:
        yield given
        return
    with mongo_server(folder) as server:
        yield server.url


def database_of(folder: Path) -> str:
    """Return the name of the database for a folder of a test."""
    return f"bellis_test_{hashlib.sha256(str(folder).encode()).hexdigest()[:24]}"


def drop(url: str, names: Iterable[str]) -> None:
    """Remove databases from a server that was given; one of ours goes with its folder, which is faster."""
    if url != os.environ.get(GIVEN):
        return
    with pymongo.MongoClient(url) as client:
        for name in names:
            client.drop_database(name)
