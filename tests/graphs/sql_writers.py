"""A process that forks writers of a graph: run as ``python sql_writers.py [kills|together] PLACE SEED``.

Block ``b`` is written whole, again and again, with a version that grows: it has to be of one version at all times.
"""

from __future__ import annotations

import itertools
import os
import random
import select
import signal
import sys
import time
from typing import TYPE_CHECKING

import numpy as np

from bellis.graphs.attributes import Kind
from bellis.graphs.backend import Change, Query
from bellis.graphs.columns import Edges, Nodes
from bellis.graphs.metadata import Metadata

if TYPE_CHECKING:
    from bellis.graphs.sql.store import SqlBackend

METADATA = Metadata(
    node_attrs={"position": Kind("float", 3), "version": Kind("int"), "note": Kind("str")},
    edge_attrs={"version": Kind("int")},
)
SIZE = 60
SHARED = 6
KILLS = 12
WRITERS = 8
ROUNDS = 6


def write(backend: SqlBackend, block: int, version: int) -> None:
    """Write one block: its nodes, and its edges."""
    ids = np.arange(block * SIZE, (block + 1) * SIZE, dtype=np.uint64)
    versions = np.full(SIZE, version)
    places = np.random.default_rng(block).random((SIZE, 3)) + block
    notes = np.full(SIZE, f"it's \N{SNOWMAN} {version}", object)
    nodes = Nodes(id=ids, attrs={"position": places, "version": versions, "note": notes})
    edges = Edges(u=ids, v=ids + np.uint64(1), attrs={"version": versions})
    order = np.random.default_rng().permutation(SIZE)
    change = Change(nodes=(nodes.select(order[:20]), nodes.select(order[20:])), edges=(edges.select(order),))
    backend.write(change, METADATA)


def versions_in(backend: SqlBackend) -> dict[int, int]:
    """Return the version of each block; each has to be whole."""
    nodes, edges = backend.read(Query(node_attrs=("version", "note"), edge_attrs=("version",)), METADATA)
    found = {}
    for block in np.unique(nodes.id // SIZE).tolist():
        rows, ends = nodes.id // SIZE == block, edges.u // SIZE == block
        seen = {*nodes["version"][rows].tolist(), *edges["version"][ends].tolist()}
        assert rows.sum() == ends.sum() == SIZE, f"block {block} has {rows.sum()} nodes and {ends.sum()} edges"
        assert len(seen) == 1, f"block {block} has rows of the versions {seen}"
        found[block] = seen.pop()
        assert set(nodes["note"][rows]) == {f"it's \N{SNOWMAN} {found[block]}"}
    assert set((edges.u // SIZE).tolist()) == set(found)
    return found


def kills(backend: SqlBackend, seed: int) -> None:
    """Kill writers at random moments; look what is there after each."""
    rng, first, acknowledged = random.Random(seed), 0, -1
    for _ in range(KILLS):
        reader, writer = os.pipe()
        pid = os.fork()
        if not pid:
            _write_on(backend, first, writer)
        os.close(writer)
        for _ in range(rng.randint(1, 3)):
            acknowledged = _acknowledged(reader, acknowledged)
        end = time.monotonic() + rng.random() * 0.02
        while (left := end - time.monotonic()) > 0:
            if select.select([reader], [], [], left)[0]:
                acknowledged = _acknowledged(reader, acknowledged)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        while (more := _acknowledged(reader, acknowledged)) != acknowledged:
            acknowledged = more
        os.close(reader)
        found = versions_in(backend)
        for version in range(max(acknowledged - SHARED + 1, 0), acknowledged + 1):
            assert found[version % SHARED] >= version, f"version {version} was acknowledged, and is lost"
        assert max(found.values()) <= acknowledged + 1
        first = acknowledged + 1
    print(acknowledged)  # noqa: T201


def _write_on(backend: SqlBackend, first: int, writer: int) -> None:
    """Write one version after the other, and say so after each."""
    try:
        for version in itertools.count(first):
            write(backend, version % SHARED, version)
            os.write(writer, version.to_bytes(8, "little"))
    finally:
        os._exit(1)


def _acknowledged(reader: int, before: int) -> int:
    """Return the version that is acknowledged next, or the one before if there is none any more."""
    said = os.read(reader, 8)
    return int.from_bytes(said, "little") if said else before


def together(backend: SqlBackend) -> None:
    """Write with many processes at once, blocks of their own and blocks of all."""
    pids = []
    for number in range(1, WRITERS + 1):
        pid = os.fork()
        if not pid:
            code = 1
            try:
                for version in range(ROUNDS):
                    write(backend, 100 * number + version, number)
                    write(backend, (number + version) % SHARED, 100 * number + version)
                code = 0
            finally:
                os._exit(code)
        pids.append(pid)
    codes = [os.waitpid(pid, 0)[1] for pid in pids]
    assert codes == [0] * WRITERS, codes
    found = versions_in(backend)
    own = {100 * number + version: number for number in range(1, WRITERS + 1) for version in range(ROUNDS)}
    assert {block: version for block, version in found.items() if block >= 100} == own
    assert {block for block in found if block < 100} == set(range(SHARED))


def opened(place: str) -> SqlBackend:
    """Return the backend for a place."""
    from bellis.graphs.sql.postgres import PostgresBackend
    from bellis.graphs.sql.sqlite import SQLiteBackend

    return PostgresBackend.at(place) if place.startswith("postgresql:") else SQLiteBackend.at(place)


def main() -> None:
    """Run what the command line asks for."""
    what, place, seed = sys.argv[1:]
    backend = opened(place)
    backend.save(METADATA)
    versions_in(backend)  # so that there is a connection when writers are forked
    if what == "kills":
        kills(backend, int(seed))
    else:
        together(backend)
    backend.close()


if __name__ == "__main__":
    main()
