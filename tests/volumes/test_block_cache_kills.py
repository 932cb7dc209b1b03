"""Processes that are killed at any point leave a cache that needs no cleaning, and no wrong voxel."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from bellis.arrays.layout import Layout
from bellis.geometry import Roi
from bellis.volumes.blocks import slices_of
from bellis.volumes.cache import BlockCache

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

NUM_KILLS = 30
SHAPE, BLOCK = (70, 50, 50), (32, 32, 32)
FORKER = """
import os, sys, time
import numpy as np
import tensorstore  # not used before the fork
from bellis.arrays.layout import Layout
from bellis.errors import VolumeError
from bellis.volumes.blocks import slices_of
from bellis.volumes.cache import BlockCache

def voxels(shape):
    return (np.arange(np.prod(shape), dtype="uint32").reshape(shape) * 2654435761 >> 16).astype("uint16")

def work(path, seed):
    cache, random = BlockCache.open(path, max_bytes=400_000), np.random.default_rng(seed)
    everything, held = voxels(cache.layout.shape), []
    os.write(1, b"%d\\n" % os.getpid())
    while True:
        index = tuple(int(k) for k in random.integers(0, cache.blocks.counts))
        lease = cache.lease(index)
        if lease is not None:
            held.append(lease)
        act = random.integers(10)
        if act < 6:
            cache.put(index, everything[slices_of(cache.blocks.box(index))])
        elif act == 6:
            cache.quarantine(index, "it may be sound")
        elif act == 7:
            cache.evict(max_bytes=200_000)
        elif act == 8:
            cache.drop(index)
        else:
            cache.read_block(index)
        while len(held) > 3:
            held.pop(0).release()

def prepare(path, seed):
    os.write(1, b"%d\\n" % os.getpid())
    for k in range(10**6):
        BlockCache.prepare(f"{path}/{seed}-{k}", Layout.of((8,), "uint8"), (4,), fingerprint={"url": "x"})

for line in sys.stdin:
    what, path, seed = line.split()
    pid = os.fork()
    if not pid:
        (work if what == "work" else prepare)(path, int(seed))
    os.waitpid(pid, 0)
    os.write(1, b"ended\\n")
"""

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(300)]


def voxels(shape: tuple[int, ...]) -> npt.NDArray[Any]:
    return (np.arange(np.prod(shape), dtype="uint32").reshape(shape) * 2654435761 >> 16).astype("uint16")


class Victims:
    """Starts processes, and kills them."""

    def __init__(self, what: str, path: Path) -> None:
        self._what, self._path = what, path
        self._forker = subprocess.Popen(
            [sys.executable, "-c", FORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def kill_one(self, seed: int, seconds: float) -> None:
        """Let one work for a time, kill it, and return when it is gone."""
        assert self._forker.stdin is not None
        assert self._forker.stdout is not None
        self._forker.stdin.write(f"{self._what} {self._path} {seed}\n")
        self._forker.stdin.flush()
        pid = int(self._forker.stdout.readline())
        time.sleep(seconds)
        os.kill(pid, signal.SIGKILL)
        assert self._forker.stdout.readline() == "ended\n"

    def end(self) -> None:
        os.killpg(self._forker.pid, signal.SIGKILL)
        self._forker.communicate()


def test_a_process_killed_while_it_works_leaves_blocks_that_are_absent_or_exact(tmp_path: Path) -> None:
    path, expected, random = tmp_path / "c", voxels(SHAPE), np.random.default_rng(0)
    cache = BlockCache.prepare(path, Layout.of(SHAPE, "uint16"), BLOCK, fingerprint={"url": "x"})
    victims = Victims("work", path)
    num_found = num_leases = num_partials = 0
    try:
        for seed in range(NUM_KILLS):
            victims.kill_one(seed, float(random.uniform(0.005, 0.08)))
            usage = cache.usage()
            assert usage.num_leases == 0
            num_leases, num_partials = num_leases + usage.num_stale_leases, num_partials + usage.num_partials
            for index in np.ndindex(cache.blocks.counts):
                lease = cache.lease(index)
                assert lease is not None, "the lease of a process that was killed is taken at once"
                found = cache.read_block(index)
                assert (found is not None) == cache.has(index)
                if found is not None:
                    num_found += 1
                    np.testing.assert_array_equal(found, expected[slices_of(cache.blocks.box(index))])
                lease.release()
            cache.sweep()
            usage = cache.usage()
            assert (usage.num_partials, usage.num_leases, usage.num_stale_leases) == (0, 0, 0)
    finally:
        victims.end()
    assert num_found > 0
    assert num_leases > 0
    for index in np.argwhere(~cache.presence()):
        cache.put(tuple(index), expected[slices_of(cache.blocks.box(tuple(index)))])
    np.testing.assert_array_equal(cache.read(Roi((0, 0, 0), SHAPE)), expected)


def test_a_process_killed_while_it_makes_a_cache_leaves_one_or_none(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    victims = Victims("prepare", tmp_path)
    try:
        for seed in range(NUM_KILLS):
            victims.kill_one(seed, float(random.uniform(0.0, 0.02)))
    finally:
        victims.end()
    folders = sorted(tmp_path.iterdir())
    assert folders
    for folder in folders:
        cache = BlockCache.prepare(folder, Layout.of((8,), "uint8"), (4,), fingerprint={"url": "x"})
        cache.sweep()
        assert sorted(path.name for path in folder.iterdir()) == ["cache.json", "zarr.json"]
