"""A process that writes blocks into a graph in MongoDB, and kills itself at one of the driver's messages.

Run it with the URL, the database, the first block, the number of blocks, and at which event to die: an odd number is
before a message is sent, an even one after it was answered; 0 is never. It prints the blocks that were acknowledged.
"""

from __future__ import annotations

import os
import signal
import sys

import numpy as np
from pymongo import monitoring

from bellis.graphs.mongo.store import MongoBackend
from bellis.graphs.store import GraphStore

SIZE = 25
"""Nodes of a block."""
SHARED = 2**63
"""A node that all blocks write."""


class Killer(monitoring.CommandListener):
    """Kills this process at one of the events of writes."""

    def __init__(self) -> None:
        self.left: int | None = None

    def _count(self, event: monitoring.CommandStartedEvent | monitoring.CommandSucceededEvent) -> None:
        if self.left is None or event.command_name not in ("update", "insert", "delete", "commitTransaction"):
            return
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    started = succeeded = _count

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        pass


def write_block(store: GraphStore, block: int, value: int) -> None:
    nodes = np.arange(block * SIZE, (block + 1) * SIZE)
    store.write_columns(
        {
            "id": np.append(nodes, SHARED).astype(np.uint64),
            "position": np.append(nodes, -1.0)[:, np.newaxis],
            "value": np.full(SIZE + 1, value),
        },
        {"u": nodes, "v": nodes + 1, "value": np.full(SIZE, value)},
    )


def main() -> None:
    url, name = sys.argv[1:3]
    first, count, die_at = map(int, sys.argv[3:])
    killer = Killer()
    monitoring.register(killer)
    with GraphStore(MongoBackend(url, name), "r+") as store:
        killer.left = die_at or None
        for block in range(first, first + count):
            write_block(store, block, block)
            sys.stdout.write(f"{block}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
