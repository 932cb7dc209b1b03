"""What went wrong with lazyflow's ``RESTfulBlockwiseFileset``, each against a server that brings it about."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from bellis.arrays import open_ds
from bellis.errors import BellisError, DownloadError, FetchError
from bellis.geometry import Roi
from bellis.testing.cutouts import simulated, volume_server
from bellis.testing.faults import Fault
from bellis.volumes import BlockCache, CachedVolume
from bellis.volumes.retrying import fetch_patiently
from bellis.volumes.source import Patience
from bellis.volumes.sources import source_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bellis.testing.cutouts import VolumeServer

pytestmark = [pytest.mark.integration, pytest.mark.slow]
VOLUME = simulated(40)[:16, :24]
"""2 x 3 x 5 blocks, none of them clipped; those at the end of `CLIPPED` are."""
CLIPPED = simulated(40)[:13, :21, :19]
PATIENCE = {"deadline_s": 5.0, "stall_s": 0.5, "first_wait_s": 0.01, "longest_wait_s": 0.05}


@pytest.fixture
def server() -> Iterator[VolumeServer]:
    with volume_server(VOLUME) as server:
        yield server


def describe(folder: Path, said: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "volume.json"
    path.write_text(json.dumps(said))
    return path


def described(server: VolumeServer, folder: Path, payload: Any = "npz", **more: Any) -> Path:
    patience = {**PATIENCE, **more.pop("patience", {})}
    return describe(folder, server.description(payload, block_shape=[8, 8, 8], patience=patience, **more))


@contextmanager
def opened(path: Path) -> Iterator[CachedVolume]:
    volume = CachedVolume(path)
    try:
        yield volume
    finally:
        volume.close()


READER = """
import sys, time
import numpy as np
from bellis.volumes import CachedVolume
volume = CachedVolume(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
begin = time.monotonic()
voxels = volume[tuple([slice(None)] * len(volume.shape))]
print(time.monotonic() - begin, int(np.asarray(voxels).astype("u8").sum()), flush=True)
volume.close()
"""


class Reader:
    """Another process, which opens a volume, waits for a word, and reads all of it."""

    def __init__(self, path: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", READER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.input, self.output = self.process.stdin, self.process.stdout
        assert self.output.readline() == "ready\n"

    def go(self) -> None:
        self.input.write("go\n")
        self.input.flush()

    def result(self) -> tuple[float, int]:
        """Return how long it took, and the sum of the voxels."""
        seconds, total = self.output.readline().split()
        self.close()
        return float(seconds), int(total)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.close()

    def close(self) -> None:
        self.input.close()
        self.output.close()
        self.process.wait(10)


def wait_until(happened: Any, seconds: float = 5.0) -> None:
    until = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < until, "it did not happen in time"
        threading.Event().wait(0.005)


# Locks and processes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_legacy", [False, True])
def test_a_leftover_lock_after_a_crash_hangs_no_reader(server: VolumeServer, tmp_path: Path, is_legacy: bool) -> None:
    """A process is killed while it fetches; the next one reads at once, and nothing was cleaned by hand."""
    path = described(server, tmp_path)
    if is_legacy:
        path = describe(tmp_path, server.legacy_description(block_shape=[8, 8, 8]))
    server.faults = [Fault("stall")]
    killed = Reader(path)
    killed.go()
    wait_until(lambda: server.num_requests >= 4)
    killed.kill()
    server.faults = ()
    if is_legacy:  # and what lazyflow itself would have left
        folder = tmp_path / "blocks" / "z_00000000" / "y_00000000" / "x_00000000"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "block-([0, 0, 0], [8, 8, 8]).h5.lock").write_text("")
    with opened(path) as volume:
        begin = time.monotonic()
        np.testing.assert_array_equal(volume[:, :, :], VOLUME)
        assert time.monotonic() - begin < 3


def test_a_killed_process_leaves_nothing_that_is_taken_for_a_block(server: VolumeServer, tmp_path: Path) -> None:
    path = described(server, tmp_path)
    server.latency_s = 0.01
    for count in (3, 12, 20):
        killed = Reader(path)
        server.clear()
        killed.go()
        wait_until(lambda least=count: server.num_requests >= least)
        killed.kill()
        with opened(path) as volume:
            for index in np.argwhere(volume.cache.presence()):
                box = volume.cache.blocks.box(tuple(map(int, index)))
                slices = tuple(slice(a, b) for a, b in zip(box.begin, box.end, strict=True))
                np.testing.assert_array_equal(volume.cache.read_block(tuple(map(int, index))), VOLUME[slices])
            volume.cache.drop((0, 0, 0))
    with opened(path) as volume:
        np.testing.assert_array_equal(volume[:, :, :], VOLUME)


def test_a_second_process_does_not_wait_5_s_for_a_block_that_took_200_ms(server: VolumeServer, tmp_path: Path) -> None:
    path = describe(tmp_path, server.description("raw", block_shape=[16, 24, 40], patience=PATIENCE))
    server.latency_s = 0.2
    readers = [Reader(path) for _ in range(2)]
    for reader in readers:
        reader.go()
    found = [reader.result() for reader in readers]
    assert {total for _, total in found} == {int(VOLUME.astype("u8").sum())}
    assert max(seconds for seconds, _ in found) < 1.5
    assert server.num_requests == 1


def test_one_process_asks_once_for_a_block_that_many_threads_want(server: VolumeServer, tmp_path: Path) -> None:
    server.latency_s = 0.02
    with opened(described(server, tmp_path)) as volume, ThreadPoolExecutor(8) as pool:
        for found in pool.map(lambda _: volume[:, :, :], range(8)):
            np.testing.assert_array_equal(found, VOLUME)
        assert server.num_requests == volume.cache.blocks.num_blocks == 30
        assert volume.statistics.num_fetched == 30


# Replies that are no blocks --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["html", "truncated", "short body", "wrong shape", "wrong dtype", "cut in body"])
@pytest.mark.parametrize("payload", ["hdf5", "raw"])
def test_a_reply_that_is_no_block_is_never_stored(
    kind: Any, payload: Any, server: VolumeServer, tmp_path: Path
) -> None:
    """An HTML error page, a truncated body, a reply of a wrong shape: of none is there anything afterwards."""
    path = described(server, tmp_path, payload, patience={"deadline_s": 0.3})
    server.faults = [Fault(kind)]
    with opened(path) as volume:
        with pytest.raises(FetchError):
            volume[:8, :8, :8]
        assert not volume.cache.has((0, 0, 0))
        assert volume.cache.usage().num_present == 0
        assert not list((tmp_path / "blocks").rglob("*0.partial*"))
        server.faults = ()
        np.testing.assert_array_equal(volume[:8, :8, :8], VOLUME[:8, :8, :8])


def test_an_html_error_page_is_quoted(server: VolumeServer, tmp_path: Path) -> None:
    server.faults = [Fault("html")]
    path = described(server, tmp_path, "hdf5", patience={"deadline_s": 0.1})
    with opened(path) as volume, pytest.raises(FetchError, match=r"DOCTYPE html"):
        volume[:8, :8, :8]


@pytest.mark.parametrize("payload", ["hdf5", "npz"])
def test_a_wrong_shaped_reply_is_not_marked_available_for_ever(
    payload: Any, server: VolumeServer, tmp_path: Path
) -> None:
    server.faults = [Fault("wrong shape", times=1)]
    with opened(described(server, tmp_path, payload)) as volume:
        with pytest.raises(FetchError, match=r"shape \(8, 8, 8\).*shape \(8, 8, 7\)"):
            volume[:8, :8, :8]
        assert volume.get_block_status((0, 0, 0)) == volume.BLOCK_NOT_AVAILABLE
        np.testing.assert_array_equal(volume[:8, :8, :8], VOLUME[:8, :8, :8])
        assert volume.get_block_status((0, 0, 0)) == volume.BLOCK_AVAILABLE


@pytest.mark.parametrize("is_legacy", [False, True])
def test_a_clipped_edge_block_is_not_stored_under_the_full_blocks_name(tmp_path: Path, is_legacy: bool) -> None:
    """A view that cuts blocks, then a larger one on the same folder: what the first has kept is whole."""
    with volume_server(CLIPPED) as server:
        if is_legacy:
            small = server.legacy_description(block_shape=[8, 8, 8], view_shape=[5, 10, 3])
            whole = server.legacy_description(block_shape=[8, 8, 8])
        else:
            small = server.description("npz", block_shape=[8, 8, 8], view={"shape": [5, 10, 3]})
            whole = server.description("npz", block_shape=[8, 8, 8])
        with opened(describe(tmp_path, small)) as volume:
            assert volume.shape == (5, 10, 3)
            np.testing.assert_array_equal(volume[:, :, :], CLIPPED[:5, :10, :3])
        asked = server.num_requests
        with opened(describe(tmp_path, whole)) as volume:
            np.testing.assert_array_equal(volume[:8, :16, :8], CLIPPED[:8, :16, :8])
            assert server.num_requests == asked
            np.testing.assert_array_equal(volume[:, :, :], CLIPPED)
            np.testing.assert_array_equal(open_ds(volume.cache.directory), CLIPPED)


# Bulk download ---------------------------------------------------------------------------------------------------


def test_a_download_that_fails_is_seen_by_the_caller(server: VolumeServer, tmp_path: Path) -> None:
    """A download thread died, and the caller saw nothing: bulk download stopped after the first errors, with None."""
    bad = ("/8-16/8-16/0-8", "/32-40/16-24/8-16")
    server.faults = [Fault("404", when=lambda path: path.endswith(bad))]
    with opened(described(server, tmp_path)) as volume:
        with pytest.raises(DownloadError, match="2 blocks") as failed:
            volume.download_all_blocks(max_parallel=4)
        assert {begin for begin, _ in failed.value.failed} == {(0, 8, 8), (8, 16, 32)}
        assert all("404" in reason for _, reason in failed.value.failed)
        assert volume.cache.usage().num_present == 28
        with pytest.raises(DownloadError):
            volume.download_all_blocks(max_parallel=4)
        server.clear()
        server.faults = ()
        volume.download_all_blocks(max_parallel=4)
        assert server.num_requests == 2
        np.testing.assert_array_equal(volume[:, :, :], VOLUME)


def test_fetch_blocks_goes_on_after_failures_and_returns_them(server: VolumeServer, tmp_path: Path) -> None:
    server.faults = [Fault("404", when=lambda path: path.endswith("/8-16/8-16/0-8"))]
    with opened(described(server, tmp_path)) as volume:
        indices = list(volume.cache.blocks.touched(Roi((0, 0, 0), VOLUME.shape)))
        (failure,) = volume.fetch_blocks(indices)
        assert failure[0] == (0, 1, 1)
        assert "404" in failure[1]
        assert volume.cache.usage().num_present == 29


@pytest.mark.parametrize("error", [RuntimeError("a bug"), KeyError("a bug"), OSError("a disk")])
def test_a_source_that_breaks_is_seen_by_the_reader(tmp_path: Path, error: Exception) -> None:
    """Whatever is raised in a thread of ours reaches who asked, and leaves no reader waiting."""
    with volume_server(VOLUME) as server, opened(described(server, tmp_path)) as good:
        source = good._setup.connect()

        class Broken:
            """A source with a bug."""

            def __getattr__(self, name: str) -> Any:
                return getattr(source, name)

            def fetch(self, block_roi: Roi, out: Any, *, timeout_s: float) -> None:
                raise error

        broken = Broken()
        volume = CachedVolume.over(broken, tmp_path / "own", block_shape=(8, 8, 8))  # type: ignore[arg-type]
        try:
            for _ in range(2):
                with pytest.raises((BellisError, type(error)), match=r"a bug|a disk"):
                    volume[:8, :8, :8]
        finally:
            volume.close()


# Threads and files -----------------------------------------------------------------------------------------------


def test_threads_have_a_bound(server: VolumeServer, tmp_path: Path) -> None:
    """There was one thread for each block."""
    before, most = set(threading.enumerate()), []
    server.latency_s = 0.005
    with opened(described(server, tmp_path, parallel=4)) as volume:
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(lambda: volume[:, :, :])
            while not running.done():
                ours = [thread.name for thread in threading.enumerate() if thread not in before]
                most.append(sum("bellis-fetch" in name for name in ours))
            np.testing.assert_array_equal(running.result(), VOLUME)
        assert 1 <= max(most) <= 4
    left = [thread for thread in threading.enumerate() if "bellis-fetch" in thread.name and thread not in before]
    assert not left


def test_the_server_is_asked_for_no_more_blocks_at_a_time_than_said(tmp_path: Path) -> None:
    counts = {"now": 0, "most": 0}
    lock = threading.Lock()

    with volume_server(VOLUME, latency_s=0.005) as server:
        answer = server.answer

        def counted(*args: Any) -> Any:
            with lock:
                counts["now"] += 1
                counts["most"] = max(counts.values())
            try:
                time.sleep(0.005)
                return answer(*args)
            finally:
                with lock:
                    counts["now"] -= 1

        server.answer = counted  # type: ignore[method-assign]
        with opened(described(server, tmp_path, parallel=3)) as volume:
            volume.download_all_blocks(max_parallel=3)
    assert 2 <= counts["most"] <= 3


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_no_file_is_left_open(server: VolumeServer, tmp_path: Path) -> None:
    path = described(server, tmp_path, "hdf5")
    counts = []
    for round_ in range(6):
        with opened(path) as volume:
            for _ in range(5):
                np.testing.assert_array_equal(volume[:, :, :], VOLUME)
            if round_ % 2:
                volume.cache.drop((0, 0, 0))
        wait_until(lambda: open_files() <= (counts[0] if counts else 1 << 20) + 2)
        counts.append(open_files())
    assert max(counts[1:]) <= counts[0] + 2


# What is on the disk ---------------------------------------------------------------------------------------------


def test_a_bit_flip_on_disk_is_not_served_as_data(server: VolumeServer, tmp_path: Path) -> None:
    with opened(described(server, tmp_path)) as volume:
        volume.download_all_blocks()
        file = volume.cache.path_of((1, 1, 1))
        sound = file.read_bytes()
        for k, place in enumerate(range(0, len(sound), max(1, len(sound) // 12)), start=1):
            body = bytearray(sound)
            body[place] ^= 1 << place % 8
            file.write_bytes(body)
            server.clear()
            np.testing.assert_array_equal(volume[:, :, :], VOLUME)
            assert server.num_requests == 1
            assert volume.statistics.num_damaged == k
        assert file.read_bytes() == sound
        assert volume.cache.usage().num_quarantined >= 1


@pytest.mark.parametrize("end", [0, 1, 20, -5, -1])
def test_a_file_that_is_cut_off_on_disk_is_fetched_again(server: VolumeServer, tmp_path: Path, end: int) -> None:
    with opened(described(server, tmp_path)) as volume:
        volume.download_all_blocks()
        file = volume.cache.path_of((0, 2, 4))
        file.write_bytes(file.read_bytes()[:end])
        np.testing.assert_array_equal(volume[:, :, :], VOLUME)
        assert volume.statistics.num_damaged == 1


def test_what_is_damaged_is_not_served_without_a_server(tmp_path: Path) -> None:
    with volume_server(VOLUME) as server:
        with opened(described(server, tmp_path)) as volume:
            volume.download_all_blocks()
        path = described(server, tmp_path, patience={"deadline_s": 0.2})
    with opened(path) as volume:
        np.testing.assert_array_equal(volume[:, :, :], VOLUME)
        file = volume.cache.path_of((0, 0, 0))
        body = bytearray(file.read_bytes())
        body[-1] ^= 1
        file.write_bytes(body)
        with pytest.raises(FetchError, match=r"\[0:8, 0:8, 0:8\]"):
            volume[:, :, :]
        np.testing.assert_array_equal(volume[8:, :, :], VOLUME[8:])


def test_the_cache_of_another_volume_is_refused(server: VolumeServer, tmp_path: Path) -> None:
    with opened(described(server, tmp_path)) as volume:
        volume.download_all_blocks()
    with pytest.raises(BellisError, match=r"payload|url_format"):
        CachedVolume(described(server, tmp_path, "raw"))
    cache = BlockCache.open(tmp_path / "blocks")
    assert cache is not None
    assert cache.usage().num_present == 30


def test_a_source_alone_gives_up_in_time(server: VolumeServer, tmp_path: Path) -> None:
    """Without a cache as well."""
    server.faults = [Fault("stall")]
    with opened(described(server, tmp_path)) as volume:
        patience = Patience(deadline_s=0.2, stall_s=0.1, first_wait_s=0.01)
        said: Any = volume.description
        source: Any = source_of(said.source, said.access, patience, 2)
        begin = time.monotonic()
        with pytest.raises(FetchError):
            fetch_patiently(source, Roi((0, 0, 0), (8, 8, 8)), np.empty((8, 8, 8), "u1"), patience)
        assert time.monotonic() - begin < 1.2
        source.close()
