"""What leaves a bounded cache: the blocks that nobody read for the longest time, and nothing else."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest

from bellis.arrays.layout import Layout
from bellis.errors import VolumeError
from bellis.geometry import Roi
from bellis.volumes.cache import BlockCache

if TYPE_CHECKING:
    from pathlib import Path

SIZE = 8 * 8 * 8 + 4
"""Bytes of a block's file, with its checksum."""
LAYOUT = Layout.of((8, 8, 320), "uint8")
BLOCK = np.full((8, 8, 8), 3, "uint8")


def prepare(path: Path, max_bytes: int | None = None) -> BlockCache:
    return BlockCache.prepare(
        path, LAYOUT, (8, 8, 8), fingerprint={"url": "x"}, compression="none", max_bytes=max_bytes
    )


def there(cache: BlockCache) -> list[int]:
    return np.flatnonzero(cache.presence()).tolist()


def age(cache: BlockCache, *blocks: int) -> None:
    """Let blocks be used in the order in which they are given, long ago."""
    for k, x in enumerate(blocks):
        os.utime(cache.path_of((0, 0, x)), (1000 + k, 500))


@pytest.fixture
def ten(tmp_path: Path) -> BlockCache:
    """Return a cache without a bound, with ten blocks; block 9 was used first, block 0 last."""
    cache = prepare(tmp_path / "c")
    for x in range(10):
        cache.put((0, 0, x), BLOCK)
    age(cache, *reversed(range(10)))
    return cache


def test_the_ones_used_least_recently_are_dropped(ten: BlockCache) -> None:
    assert ten.evict(max_bytes=4 * SIZE) == 6
    assert there(ten) == [0, 1, 2, 3]
    assert ten.evict(max_bytes=4 * SIZE) == 0
    assert ten.evict(max_bytes=0) == 4
    assert there(ten) == []


def test_blocks_are_dropped_by_name(ten: BlockCache) -> None:
    assert ten.evict(indices=[(0, 0, 3), (0, 0, 4), (0, 0, 30)]) == 2
    assert there(ten) == [0, 1, 2, 5, 6, 7, 8, 9]


def test_without_a_bound_it_has_to_be_said(ten: BlockCache) -> None:
    with pytest.raises(VolumeError, match="has no bound"):
        ten.evict()
    assert len(there(ten)) == 10


def test_reading_keeps_a_block(ten: BlockCache) -> None:
    bounded = prepare(ten.directory, max_bytes=5 * SIZE)
    bounded.read(Roi((0, 0, 60), (8, 8, 6)))  # blocks 7 and 8
    bounded.read_block((0, 0, 5))
    assert bounded.evict() == 5
    assert there(bounded) == [0, 1, 5, 7, 8]


def test_a_use_is_noted_once_a_minute_and_keeps_the_time_of_change(ten: BlockCache) -> None:
    bounded, path = prepare(ten.directory, max_bytes=10**6), ten.path_of((0, 0, 7))
    bounded.touch([(0, 0, 7)])
    assert path.stat().st_atime > 10**9
    assert path.stat().st_mtime == 500
    os.utime(path, (1000, 500))
    bounded.touch([(0, 0, 7)])
    assert path.stat().st_atime == 1000


def test_a_use_of_what_is_gone_is_no_error(ten: BlockCache) -> None:
    prepare(ten.directory, max_bytes=10**6).touch([(0, 0, 33)])


def test_without_a_bound_uses_are_not_noted(ten: BlockCache) -> None:
    ten.touch([(0, 0, 9)])
    assert ten.path_of((0, 0, 9)).stat().st_atime == 1000


def test_a_bounded_cache_stays_below_its_bound(tmp_path: Path) -> None:
    cache = prepare(tmp_path / "c", max_bytes=10 * SIZE)
    for x in range(40):
        cache.put((0, 0, x), BLOCK)
        assert x in there(cache), "what was just stored is never dropped"
        assert cache.usage().num_bytes <= 10 * SIZE
    assert there(cache) == list(range(40 - len(there(cache)), 40))


def test_room_for_one_block_is_enough(tmp_path: Path) -> None:
    cache = prepare(tmp_path / "c", max_bytes=SIZE)
    for x in (3, 1, 2):
        cache.put((0, 0, x), BLOCK)
        assert there(cache) == [x]


def test_a_cache_that_is_too_full_when_it_gets_its_bound_is_cut_at_the_next_block(ten: BlockCache) -> None:
    bounded = prepare(ten.directory, max_bytes=5 * SIZE)
    bounded.put((0, 0, 20), BLOCK)
    assert there(bounded) == [0, 1, 2, 20]


def test_a_reader_who_has_a_block_open_is_not_disturbed(ten: BlockCache) -> None:
    with ten.path_of((0, 0, 9)).open("rb") as file:
        assert ten.evict(max_bytes=SIZE) == 9
        assert len(file.read()) == SIZE


def test_only_one_process_drops_at_a_time_and_the_others_go_on(
    ten: BlockCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bellis.volumes.eviction.PUT_WAITS_S", 0.02)
    monkeypatch.setattr("bellis.volumes.eviction.EVICT_WAITS_S", 0.02)
    bounded = prepare(ten.directory, max_bytes=5 * SIZE)
    with (ten.directory / "cache.json").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        bounded.put((0, 0, 20), BLOCK)
        assert len(there(bounded)) == 11
        with pytest.raises(VolumeError, match="another process has been dropping"):
            bounded.evict()
    bounded.put((0, 0, 21), BLOCK)
    assert len(there(bounded)) <= 5


def test_a_process_that_was_stopped_while_it_drops_blocks_is_waited_for_once(
    ten: BlockCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bellis.volumes.eviction.PUT_WAITS_S", 0.3)
    bounded = prepare(ten.directory, max_bytes=5 * SIZE)
    begun = time.monotonic()
    with (ten.directory / "cache.json").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for k in range(20, 40):
            bounded.put((0, 0, k), BLOCK)
    assert time.monotonic() - begun < 2  # not 20 times


def test_other_files_are_neither_counted_nor_dropped(ten: BlockCache) -> None:
    names = ["c/0/0/9.x.partial", "c/0/0/notes.txt", "c/0/0/40", "c/1/0/0", "c/0/0/07", "notes.txt"]
    for name in names:
        (ten.directory / name).parent.mkdir(parents=True, exist_ok=True)
        (ten.directory / name).write_bytes(bytes(10_000))
    assert ten.evict(max_bytes=10 * SIZE) == 0
    assert ten.evict(max_bytes=0) == 10
    assert all((ten.directory / name).exists() for name in names)


def test_nothing_is_dropped_where_the_marker_is_gone(ten: BlockCache) -> None:
    (ten.directory / "cache.json").unlink()
    with pytest.raises(VolumeError, match="no cache any more"):
        ten.evict(max_bytes=0)
    assert len(there(ten)) == 10


@pytest.mark.integration
@pytest.mark.slow
def test_processes_that_fill_and_read_a_small_cache_see_no_wrong_voxel(tmp_path: Path) -> None:
    prepare(tmp_path / "c")
    code = """
import sys
import numpy as np
from bellis.errors import BlockNotReadyError
from bellis.geometry import Roi
from bellis.volumes.cache import BlockCache

cache, random = BlockCache.open(sys.argv[1], max_bytes=12 * 516), np.random.default_rng(int(sys.argv[2]))
num_read = 0
for x in random.integers(0, 39, 600):
    for k in (x, x + 1):
        if cache.read_block((0, 0, k)) is None:
            cache.put((0, 0, int(k)), np.full((8, 8, 8), k, "uint8"))
    try:
        voxels = cache.read(Roi((0, 0, 8 * x + 3), (8, 8, 8)))
    except BlockNotReadyError:
        continue
    num_read += 1
    assert (voxels[..., :5] == x).all() and (voxels[..., 5:] == x + 1).all()
print(num_read > 100)
"""
    commands = [[sys.executable, "-c", code, str(tmp_path / "c"), str(k)] for k in range(4)]
    pipe = subprocess.PIPE
    processes = [subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) for command in commands]
    assert [process.communicate() for process in processes] == [("True\n", "")] * 4
    cache = BlockCache.open(tmp_path / "c")
    assert cache is not None
    usage = cache.usage()
    assert usage.num_bytes <= (12 + 4 * 2) * SIZE
    assert usage.num_partials == 0
