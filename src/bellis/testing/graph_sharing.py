"""What every graph store must do when threads and processes share it."""

# ruff: noqa: D102, S101  # the name of a test says what it does; a test asserts

from __future__ import annotations

import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import pytest

from bellis.geometry import Roi
from bellis.graphs import Vec
from bellis.testing.graph_stores import GraphStoreCase, contents, ids
from bellis.testing.voxels import processes

if TYPE_CHECKING:
    from bellis.graphs.store import GraphStore


def write_block(store: GraphStore, block: int, size: int) -> int:
    """Write the nodes of one block, an edge from each to the next, and one attribute of a node that all share."""
    nodes = np.arange(block * size, (block + 1) * size)
    store.write_columns(
        {"id": nodes, "position": nodes[:, np.newaxis] + 0.5, "size": np.full(size, block)},
        {"u": nodes, "v": nodes + 1, "score": nodes / 2},
        Roi((block * size,), (size,)),
    )
    store.write_columns({"id": [2**63], "size": [block]})
    return os.getpid()


def write_block_elsewhere(sent: bytes, block: int, size: int) -> int:
    """Write a block of a store that was sent to this process."""
    with pickle.loads(sent) as store:  # noqa: S301  (the suite's own)
        return write_block(store, block, size)


def fork_and_read(store: GraphStore) -> tuple[list[int], list[int]]:
    """Return the ids that a forked child reads, and writes one node there; then those that are read here."""
    out, into = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            found = ids(store.read_nodes())
            store.write_columns({"id": [77]})
            store.close()
            os.write(into, b"".join(node.to_bytes(8, "little") for node in found))
            code = 0
        finally:
            os._exit(code)
    os.close(into)
    with os.fdopen(out, "rb") as pipe:
        sent = pipe.read()
    _, status = os.waitpid(child, 0)
    assert status == 0
    return np.frombuffer(sent, "<u8").tolist(), ids(store.read_nodes())


class SharingTests(GraphStoreCase):
    """Threads, processes and forks."""

    def blocks(self) -> GraphStore:
        """Make a graph for blocks of a row."""
        return self.make(node_attrs={"position": Vec(float, 1), "size": int}, edge_attrs={"score": float})

    def check_blocks(self, store: GraphStore, blocks: int, size: int) -> None:
        """Assert that all blocks are there, and whole."""
        nodes, edges = store.read_columns()
        ours = np.arange(blocks * size)
        np.testing.assert_array_equal(nodes.id, [*ours, 2**63])
        np.testing.assert_array_equal(nodes["size"][:-1], ours // size)
        assert nodes["size"][-1] in range(blocks)
        np.testing.assert_array_equal(edges.u, ours)
        np.testing.assert_array_equal(edges["score"], ours / 2)

    @pytest.mark.slow
    def test_eight_threads_write_and_read_one_store(self) -> None:
        store, size = self.blocks(), 20
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda block: write_block(store, block, size), range(8)))
            found = list(pool.map(lambda block: ids(store.read_nodes(Roi((block * size,), (size,)))), range(8)))
        assert found == [list(range(block * size, (block + 1) * size)) for block in range(8)]
        self.check_blocks(store, 8, size)

    def test_threads_let_attributes_join_at_the_same_time(self) -> None:
        store = self.make()
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda k: store.write_columns({"id": [k], f"a{k % 4}": [k]}), range(16)))
        assert contents(self.again("r"))[0] == {k: {f"a{k % 4}": f"int {k}"} for k in range(16)}

    @pytest.mark.slow
    def test_a_read_sees_each_write_whole_or_not_at_all(self) -> None:
        store = self.make(node_attrs={"position": Vec(float, 1), "size": int}, edge_attrs={"score": int})
        rows = np.arange(30)
        writer, reader = self.again(), self.again("r")

        def write(turn: int) -> None:
            sizes = np.full(30, turn)
            writer.write_columns(
                {"id": rows, "position": rows[:, np.newaxis], "size": sizes}, {"u": rows, "v": rows + 1, "score": sizes}
            )

        write(0)
        with ThreadPoolExecutor(1) as pool:
            writes = pool.submit(lambda: list(map(write, range(1, 9))))
            seen = set()
            while not writes.done():
                nodes, edges = reader.read_columns()
                assert (len(nodes), len(edges)) == (30, 30)
                assert len({*nodes["size"].tolist(), *edges["score"].tolist()}) == 1
                seen.add(int(nodes["size"][0]))
            writes.result()
        assert seen <= set(range(9))
        assert set(store.read_columns()[0]["size"].tolist()) == {8}

    def test_a_store_travels_in_a_pickle(self) -> None:
        store = self.blocks()
        write_block(store, 0, 5)
        with pickle.loads(pickle.dumps(store)) as copy:  # noqa: S301  (the suite's own)
            assert contents(copy) == contents(store)
            copy.write_columns({"id": [99]})
        assert 99 in ids(store.read_nodes())

    @pytest.mark.slow
    @pytest.mark.integration
    def test_processes_write_into_the_same_graph(self) -> None:
        self.needs(ability=self.reaches_processes)
        store = self.blocks()
        sent = pickle.dumps(store)
        with processes(2) as pool:
            pids = set(pool.map(write_block_elsewhere, [sent] * 6, range(6), [20] * 6))
        assert os.getpid() not in pids
        self.check_blocks(store, 6, 20)

    @pytest.mark.integration
    @pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
    def test_a_forked_child_opens_its_own_connections(self) -> None:
        self.needs(ability=self.reaches_processes)
        store = self.blocks()
        store.write_columns({"id": [1, 2]})
        assert fork_and_read(store) == ([1, 2], [1, 2, 77])
        assert fork_and_read(store) == ([1, 2, 77], [1, 2, 77])
