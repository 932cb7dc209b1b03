"""Graphs in files that many processes write at once, and that processes are killed over at any moment."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import pytest

from bellis.geometry import Roi
from bellis.graphs.attributes import Kind
from bellis.graphs.backend import Change, Query
from bellis.graphs.columns import Edges, Nodes
from bellis.graphs.files.catalogue import connected
from bellis.graphs.files.store import FileBackend
from bellis.graphs.metadata import Metadata

if TYPE_CHECKING:
    from pathlib import Path

NUM_KILLS = 12
NUM_WRITERS = 8
NUM_WRITES = 4
META = Metadata(
    node_attrs={"position": Kind("float", 1), "turn": Kind("int")}, edge_attrs={"turn": Kind("int")}, is_open=False
)
ALL = Query(node_attrs=("position", "turn"), edge_attrs=("turn",))
EVERYWHERE = Query(roi=Roi((None,), (None,)), node_attrs=("turn",), edge_attrs=("turn",), both_ends=True)

pytestmark = [pytest.mark.integration, pytest.mark.slow]

FORKER = """
import os, sys
import numpy as np
from bellis.graphs.backend import Change
from bellis.graphs.columns import Edges, Nodes
from bellis.graphs.files.store import FileBackend

def state(turn):
    '''20 nodes in 3 chunks, one of which goes from chunk to chunk; and an edge from each to the next.'''
    ids, turns = np.arange(20, dtype=np.uint64), np.full(20, turn)
    places = np.arange(20.0)
    places[0] = turn % 20
    return Change(
        nodes=(Nodes(id=ids, attrs={"position": places[:, np.newaxis] * 1.5, "turn": turns}),),
        edges=(Edges(u=ids, v=ids + np.uint64(1), attrs={"turn": turns}),),
    )

def rewrite(backend, metadata, turn):
    '''Write one state after the other, for ever.'''
    while True:
        turn += 1
        backend.write(state(turn), metadata)
        os.write(1, b"%d\\n" % turn)

def grow(backend, metadata, number):
    '''Write nodes of ones own, one by one, into chunks of all, and say to a node of all that it was done.'''
    for k in range(NUM_WRITES):
        ids = np.array([1000 * number + k, 0], np.uint64)
        places = np.array([[10.0 * (k % 3)], [5.0]])
        backend.write(Change(
            nodes=(Nodes(id=ids, attrs={"position": places, "turn": np.full(2, k)}),),
            edges=(Edges(u=np.zeros(1, np.uint64), v=ids[:1], attrs={"turn": ids[:1].astype(np.int64)}),),
        ), metadata)
        os.write(1, b"%d\\n" % ids[0])

NUM_WRITES = 4
for line in sys.stdin:
    what, number, path = line.rstrip("\\n").split(" ", 2)
    pid = os.fork()
    if not pid:
        try:
            backend = FileBackend(path)
            {"rewrite": rewrite, "grow": grow}[what](backend, backend.load(), int(number))
        finally:
            os._exit(0)
    if what == "rewrite":
        os.write(1, b"pid %d\\n" % pid)
        os.waitpid(pid, 0)
        os.write(1, b"ended\\n")
while True:
    try:
        os.wait()
    except ChildProcessError:
        break
"""


class Forker:
    """Starts writers quickly: all that they import is there."""

    def __init__(self, path: Path) -> None:
        self._path = path
        command = [sys.executable, "-c", FORKER]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )

    def start(self, what: str, number: int) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{what} {number} {self._path}\n")
        self.process.stdin.flush()

    def kill_one(self, turn: int, num_writes: int, seconds: float) -> int:
        """Let a writer write, kill it, and return its last turn that was acknowledged."""
        assert self.process.stdout is not None
        self.start("rewrite", turn)
        pid = int(self.process.stdout.readline().removeprefix("pid "))
        for _ in range(num_writes):
            turn = int(self.process.stdout.readline())
        select.select([], [], [], seconds)  # a moment within a write
        os.kill(pid, signal.SIGKILL)
        while (line := self.process.stdout.readline()) != "ended\n":
            turn = int(line)
        return turn

    def end(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()


def turn_of(backend: FileBackend, query: Query = ALL) -> int:
    """Return the turn of the state in which a graph is: that of one, in all its chunks."""
    nodes, edges = backend.read(query, META)
    assert nodes.id.tolist() == list(range(20))
    assert edges.u.tolist() == list(range(20))
    (turn,) = {*nodes["turn"].tolist(), *edges["turn"].tolist()}
    if query is ALL:
        assert nodes["position"][0] == 1.5 * (turn % 20)
    return int(turn)


def state(turn: int) -> Change:
    ids, turns, places = np.arange(20, dtype=np.uint64), np.full(20, turn), np.arange(20.0)
    places[0] = turn % 20
    return Change(
        nodes=(Nodes(id=ids, attrs={"position": places[:, np.newaxis] * 1.5, "turn": turns}),),
        edges=(Edges(u=ids, v=ids + np.uint64(1), attrs={"turn": turns}),),
    )


def check_files(backend: FileBackend) -> None:
    """Assert that there are the files of the catalogue, and no other."""
    with connected(backend.folder) as db:
        used = {name for pair in db.execute("SELECT nodes, edges FROM chunk") for name in pair if name}
    assert {f"chunks/{path.name}" for path in (backend.folder / "chunks").iterdir()} == used
    assert list((backend.folder / "writers").iterdir()) == []


def test_a_writer_that_is_killed_at_any_moment_leaves_the_graph_as_before_or_after(tmp_path: Path) -> None:
    backend, random = FileBackend(tmp_path / "g", 10), np.random.default_rng(0)
    backend.save(META)
    backend.write(state(0), META)
    forker, turn, num_left = Forker(tmp_path / "g"), 0, 0
    try:
        for _ in range(NUM_KILLS):
            acknowledged = forker.kill_one(turn, int(random.integers(0, 3)), float(random.uniform(0, 0.04)))
            num_left += any((backend.folder / "writers").iterdir())
            turn = turn_of(backend)
            assert turn in (acknowledged, acknowledged + 1)
            assert turn_of(backend, EVERYWHERE) == turn
    finally:
        forker.end()
    assert turn > 5
    assert num_left > 2
    backend.write(state(turn + 1), META)
    assert turn_of(backend) == turn + 1
    check_files(backend)


def test_eight_processes_that_write_the_same_chunks_lose_nothing(tmp_path: Path) -> None:
    backend = FileBackend(tmp_path / "g", 10)
    backend.save(META)
    forker = Forker(tmp_path / "g")
    try:
        for number in range(1, NUM_WRITERS + 1):
            forker.start("grow", number)
        out, _ = forker.process.communicate(timeout=100)
    finally:
        if forker.process.poll() is None:
            forker.end()
    written = sorted(1000 * number + k for number in range(1, NUM_WRITERS + 1) for k in range(NUM_WRITES))
    assert sorted(map(int, out.split())) == written
    nodes, edges = backend.read(ALL, META)
    assert nodes.id.tolist() == [0, *written]
    assert edges.v.tolist() == edges["turn"].tolist() == written
    for k in range(3):
        found, _ = backend.read(Query(roi=Roi((10 * k,), (10,))), META)
        assert found.id.tolist() == [0] * (k == 0) + [node for node in written if node % 1000 % 3 == k]
    check_files(backend)


def test_a_reader_amid_fifty_rewrites_always_sees_one_of_them(tmp_path: Path) -> None:
    backend, reader = FileBackend(tmp_path / "g", 10), FileBackend(tmp_path / "g")
    backend.save(META)
    backend.write(state(0), META)
    seen = [0]
    with ThreadPoolExecutor(1) as pool:
        writes = pool.submit(lambda: [backend.write(state(turn), META) for turn in range(1, 51)])
        while not writes.done():
            seen += [turn_of(reader, query) for query in (ALL, EVERYWHERE)]
        writes.result()
    assert seen == sorted(seen)
    assert len(set(seen)) > 5
    assert turn_of(reader) == 50
    check_files(backend)
