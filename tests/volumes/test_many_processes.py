"""Many processes share one cold cache, and are killed at any point: every read is exact, each block is fetched once."""

from __future__ import annotations

import json
import multiprocessing
import random
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from bellis.testing.cutouts import volume_server
from bellis.volumes import CachedVolume
from volumes.sources_for_tests import random_voxels

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.integration, pytest.mark.slow]

SHAPE, BLOCK = (64, 64, 64), (16, 16, 16)
NUM_BLOCKS = 64


@pytest.fixture(scope="module")
def processes() -> Any:
    """Processes that are there at once: their modules are loaded already, and no thread has run."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        [
            "bellis.testing.cutouts",
            "bellis.volumes.cached",
            "bellis.volumes.template",
            "pytest",
            "tensorstore",
            "urllib3",
        ]
    )
    return context


@pytest.fixture
def voxels() -> np.ndarray:
    return random_voxels(SHAPE)


@pytest.fixture
def server(voxels: np.ndarray) -> Iterator[Any]:
    with volume_server(voxels, latency_s=0.005) as server:
        yield server


@pytest.fixture
def description(server: Any, tmp_path: Path) -> Path:
    path = tmp_path / "volume.json"
    cache = {"directory": "blocks", "block_shape": list(BLOCK)}
    path.write_text(json.dumps({**server.description(payload="npz"), "cache": cache}))
    return path


def read_regions(description: Path, seed: int, answers: Any) -> None:
    """Read the view in an order of one's own, and say what it added up to."""
    edges = list(np.ndindex(3, 3, 3))
    random.Random(seed).shuffle(edges)
    found = np.zeros(SHAPE, "uint8")
    with CachedVolume(description) as volume:
        for edge in edges:
            where = tuple(slice(max(0, 24 * k - 3), min(64, 24 * k + 24)) for k in edge)
            found[where] = volume[where]
    answers.put((seed, found.tobytes()))


def download(description: Path, *_: Any) -> None:
    with CachedVolume(description) as volume:
        volume.download_all_blocks(8)


def test_eight_processes_read_one_cold_view_with_a_request_per_block(
    processes: Any, server: Any, description: Path, voxels: np.ndarray
) -> None:
    CachedVolume(description).close()
    answers = processes.Queue()
    readers = [processes.Process(target=read_regions, args=(description, seed, answers)) for seed in range(8)]
    for reader in readers:
        reader.start()
    found = dict(answers.get(timeout=60) for _ in readers)
    for reader in readers:
        reader.join(30)
        assert reader.exitcode == 0
    assert sorted(found) == list(range(8))
    for body in found.values():
        np.testing.assert_array_equal(np.frombuffer(body, "uint8").reshape(SHAPE), voxels)
    assert NUM_BLOCKS <= server.num_requests <= 1.05 * NUM_BLOCKS


@pytest.mark.timeout(180)
def test_readers_and_downloaders_killed_at_twenty_points_leave_nothing_in_the_way(
    processes: Any, server: Any, description: Path, voxels: np.ndarray
) -> None:
    rng = random.Random(7)
    answers = processes.Queue()
    volume = CachedVolume(description)
    indices, num_amid = list(volume.block_indices()), 0
    for k in range(20):
        for index in rng.sample(indices, 40):
            volume.cache.drop(index)
        server.clear()
        before = volume.cache.usage().num_present
        process = processes.Process(target=read_regions if k % 2 else download, args=(description, k, answers))
        process.start()
        point = rng.randrange(40)  # so many blocks are on their way, or done
        while server.num_requests < point and process.is_alive():
            time.sleep(0.0005)
        process.kill()
        process.join()
        num_amid += before < volume.cache.usage().num_present < NUM_BLOCKS
        if k % 5 == 4:  # what is there is exact, and a reader gets the rest
            where = tuple(slice(a, a + 20) for a in (rng.randrange(44) for _ in range(3)))
            began = time.monotonic()
            np.testing.assert_array_equal(volume[where], voxels[where])
            assert time.monotonic() - began < 10
    assert num_amid >= 14, "too many kills came before or after the work"
    np.testing.assert_array_equal(volume[:, :, :], voxels)
    assert volume.statistics.num_damaged == 0
    assert all(volume.verify_block(index) is None for index in volume.block_indices())
    volume.close()
    again = CachedVolume(description)
    server.clear()
    np.testing.assert_array_equal(again[:, :, :], voxels)
    assert server.num_requests == 0


def test_a_waiter_has_a_block_soon_after_the_other_process_does(
    processes: Any, server: Any, description: Path, voxels: np.ndarray
) -> None:
    del server
    CachedVolume(description).close()
    answers = processes.Queue()
    began = time.monotonic()
    readers = [processes.Process(target=read_regions, args=(description, 0, answers)) for _ in range(2)]
    for reader in readers:
        reader.start()
    for _ in readers:
        _, body = answers.get(timeout=60)
        np.testing.assert_array_equal(np.frombuffer(body, "uint8").reshape(SHAPE), voxels)
    for reader in readers:
        reader.join(30)
    assert time.monotonic() - began < 5  # lazyflow slept 5 s before it looked again
