"""What the graph in memory has of its own: names, and an end at the border of the process."""

from __future__ import annotations

import gc
import os
import pickle
import subprocess
import sys

import pytest

from bellis.errors import GraphError, GraphServerError
from bellis.graphs import GraphStore
from bellis.graphs.memory import MemoryBackend


def test_a_name_is_one_graph_in_a_process(tmp_path: object) -> None:
    name = f"shared {tmp_path}"
    GraphStore(MemoryBackend(name), "w").write_columns({"id": [7]})
    gc.collect()
    assert GraphStore(MemoryBackend.at(f"memory://{name}"), "r").num_nodes() == 1
    assert MemoryBackend(f"other {tmp_path}").load() is None


def test_without_a_name_each_is_its_own() -> None:
    one, other = MemoryBackend(), MemoryBackend()
    assert str(one) != str(other)
    GraphStore(one, "w").write_columns({"id": [7]})
    assert other.load() is None
    assert GraphStore(pickle.loads(pickle.dumps(one)), "r").num_nodes() == 1


def test_a_graph_whose_backends_are_gone_is_gone() -> None:
    pickled = pickle.dumps(MemoryBackend())
    gc.collect()
    with pytest.raises(GraphServerError, match="is in the memory of another process, or of none any more"):
        pickle.loads(pickled)


@pytest.mark.integration
@pytest.mark.slow
def test_another_process_is_told_that_it_has_no_such_graph() -> None:
    code = "import pickle, sys; pickle.loads(sys.stdin.buffer.read())"
    ended = subprocess.run(
        [sys.executable, "-c", code],
        input=pickle.dumps(MemoryBackend("mine")),
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert b"GraphServerError: the graph memory://mine is in the memory of another process" in ended.stderr


@pytest.mark.integration
def test_a_child_is_told_that_the_graph_is_its_parents() -> None:
    backend = MemoryBackend()
    GraphStore(backend, "w")
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            backend.load()
        except GraphServerError as error:
            os.write(writing, str(error).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(writing)
    with os.fdopen(reading) as told:
        assert f"is in the memory of process {os.getpid()}, and this is its child {child}" in told.read()


def test_what_a_graph_in_memory_does_not_have_is_refused() -> None:
    with pytest.raises(GraphError, match="'memory://' has no name: write it like 'memory://fragments'"):
        MemoryBackend.at("memory://")
    with pytest.raises(GraphError, match="it has no tables to name, and no chunk_size"):
        MemoryBackend.at("memory://x", nodes="mine")
