"""Which blocks leave a cache that has a bound: those that nobody has read for the longest time."""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
from typing import TYPE_CHECKING

from bellis.errors import VolumeError
from bellis.volumes.marker import MARKER
from bellis.volumes.scan import block_files, path_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from bellis.volumes.blocks import Blocks, Index

TOUCH_S = 60.0
"""How often a process notes the use of a block."""
RESCAN = 1 / 16
"""Part of the bound that a process stores before it looks again what all processes have stored."""
IMPATIENT_S = 60.0
"""How long nobody waits again who only stores a block, after it waited in vain."""
PUT_WAITS_S, EVICT_WAITS_S = 5.0, 60.0
"""How long another process is waited for that drops blocks; then who stores one goes on, who drops some fails."""
ROOM = 0.9
"""Part of the bound that is left when blocks were dropped, so that not each new block drops an old one."""


class Evictor:
    """Keeps the files of a cache below a number of bytes.

    The time of last access of a file says when its block was used. It is set by us, since most file systems do so once
    a day at most. Readers that have a dropped file open read on: it is only gone from its folder.

    Parameters
    ----------
    directory, blocks
        The cache.
    max_bytes
        Bytes of all block files; None for no bound.
    """

    def __init__(self, directory: Path, blocks: Blocks, max_bytes: int | None) -> None:
        self._directory = directory
        self._spans = tuple(map(range, blocks.counts))
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._total = 0
        self._unseen = RESCAN * (max_bytes or 0)  # the first block that is stored makes us look
        self._patient_from = 0.0
        self._touched: set[Index] = set()
        self._touched_since = time.monotonic()

    def touch(self, indices: Iterable[Index]) -> None:
        """Note that blocks were used, unless that was noted a short time ago; on a read-only folder, do nothing."""
        now = time.monotonic()
        if now - self._touched_since > TOUCH_S:
            self._touched, self._touched_since = set(), now
        for index in indices:
            if index not in self._touched:
                self._touched.add(index)
                path = path_of(self._directory, index)
                with contextlib.suppress(OSError):
                    os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))

    def stored(self, index: Index, num_bytes: int) -> None:
        """Make room, if there is too little with a block that was just stored."""
        if self._max_bytes is None:
            return
        with self._lock:
            self._total += num_bytes
            self._unseen += num_bytes
            if self._total <= self._max_bytes and self._unseen < RESCAN * self._max_bytes:
                return
            # Who drops blocks makes room for others too; they wait for it once they have stored twice their part,
            # but not again and again: it may have been stopped.
            is_far_above = self._unseen >= 2 * RESCAN * self._max_bytes and time.monotonic() > self._patient_from
            with self._turn(PUT_WAITS_S if is_far_above else 0.0) as is_ours:
                if is_far_above and not is_ours:
                    self._patient_from = time.monotonic() + IMPATIENT_S
                if is_ours:
                    self._make_room(self._max_bytes, ROOM, spared=path_of(self._directory, index))

    def evict(self, max_bytes: int) -> int:
        """Drop blocks until the others have at most ``max_bytes``; return how many."""
        with self._lock, self._turn(EVICT_WAITS_S) as is_ours:
            if not is_ours:
                raise VolumeError(
                    f"another process has been dropping blocks of {self._directory} for {EVICT_WAITS_S:g} s: try later"
                )
            return self._make_room(max_bytes, 1.0)

    def _make_room(self, max_bytes: int, room: float, spared: Path | None = None) -> int:
        files = sorted(block_files(self._directory, self._spans), key=lambda file: file.used_ns)
        self._total, self._unseen = sum(file.size for file in files), 0.0
        if self._total <= max_bytes:
            return 0
        num_dropped = 0
        for file in files:
            if self._total <= room * max_bytes:
                break
            try:
                if file.path == str(spared) or os.stat(file.path).st_atime_ns != file.used_ns:  # noqa: PTH116
                    continue  # somebody has just used it, or stored it anew
                os.unlink(file.path)  # noqa: PTH108  (thousands, of which each is a string here)
            except FileNotFoundError:
                self._total -= file.size  # dropped by somebody else
                continue
            except OSError as error:
                raise VolumeError(f"can't drop the block {file.path}: {error}") from error
            self._total -= file.size
            num_dropped += 1
        return num_dropped

    @contextlib.contextmanager
    def _turn(self, wait_s: float) -> Iterator[bool]:
        """Be the only process that drops blocks; where files can't be locked, several do, and drop too many."""
        try:
            handle = os.open(self._directory / MARKER, os.O_RDONLY)
        except OSError as error:
            raise VolumeError(
                f"{self._directory} is no cache any more, and nothing in it is dropped: {error}"
            ) from error
        try:
            yield _locked(handle, wait_s)
        finally:
            os.close(handle)


def _locked(handle: int, wait_s: float) -> bool:
    """Lock a file; return False if another process holds it for longer than we wait."""
    until = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                return False
            time.sleep(0.01)
        except OSError:
            return True
        else:
            return True
