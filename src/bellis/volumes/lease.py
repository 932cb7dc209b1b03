"""Leases: who fetches a block. They only save work; a block is right whoever stores it, and however often."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import socket
import threading
import time
from typing import TYPE_CHECKING, Any, Self

from bellis.errors import VolumeError
from bellis.volumes.owner import Owner, is_old, partial_name

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import TracebackType

HEARTBEAT_S = 10.0
"""How often the holder of a lease says that it lives."""
EXPIRY_S = 30.0
"""After how long without a heartbeat a lease is taken from a holder on another machine."""
_TOKENS = itertools.count(1)
"""Tell the leases of one process apart."""
LEASE = ".lease"
"""Ending of a lease."""


class Lease:
    """The right to fetch a block, for as long as this process lives or until `release`."""

    __slots__ = ("_begun", "_book", "_pid", "path", "text")

    def __init__(self, book: Leases, path: Path, text: bytes) -> None:
        self._begun = time.monotonic()
        self._book = book
        self._pid = os.getpid()
        self.path = path
        self.text = text

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.release()

    def release(self) -> None:
        """Let others have it; nothing happens if it was taken over meanwhile, or belongs to the parent process."""
        if self._pid != os.getpid() or not self._book.forget(self):
            return
        if time.monotonic() - self._begun < self._book.expiry_s / 2:  # nobody can have taken it over
            with contextlib.suppress(OSError):
                self.path.unlink()
        elif _read(self.path)[0] == self.text:
            remove(self.path, self.text)


class Leases:
    """The leases in one folder.

    A lease is a symbolic link, which is made in one step: where it points to says who holds it, and its time of change
    is the heartbeat. It is taken from a process of this machine as soon as that is gone, and from one of another
    machine when its link was seen unchanged for ``expiry_s`` by our own clock: clocks of two machines are never
    compared. A process that was forked needs leases of its own.

    Parameters
    ----------
    folder
        Where they are; made at the first lease.
    expiry_s
        Seconds without a heartbeat after which a lease is void; heartbeats come three times as often.
    """

    def __init__(self, folder: Path, expiry_s: float = EXPIRY_S) -> None:
        self.folder = folder
        self.expiry_s = expiry_s
        self._lock = threading.Lock()
        self._held: dict[Path, Lease] = {}
        self._seen: dict[Path, tuple[bytes, int, float]] = {}
        self._thread: threading.Thread | None = None

    def acquire(self, name: str) -> Lease | None:
        """Take a lease; None if somebody else holds it.

        Raises
        ------
        VolumeError
            If the folder can't be written.
        """
        path = self.folder / f"{name}{LEASE}"
        owner = {"owner": Owner.me().tag, "host": socket.gethostname(), "token": next(_TOKENS)}
        lease = Lease(self, path, json.dumps(owner).encode())
        try:
            is_ours = self._is_free(path) and _make(path, lease.text)
        except OSError as error:
            raise VolumeError(f"can't take the lease {path}: {error}") from error
        if not is_ours:
            return None
        with self._lock:
            self._seen.pop(path, None)
            self._held[path] = lease
            if self._thread is None:
                self._thread = threading.Thread(target=self._beat, name="bellis-leases", daemon=True)
                self._thread.start()
        return lease

    def forget(self, lease: Lease) -> bool:
        """Send no heartbeats for a lease any more; return whether some were sent."""
        with self._lock:
            is_held = self._held.get(lease.path) is lease
            if is_held:
                del self._held[lease.path]
            return is_held

    def _is_free(self, path: Path) -> bool:
        """Return whether there is no lease, or none any more: that of a holder who is gone or silent is removed."""
        text, beat = _read(path)
        if text is None:
            return True
        if not _is_owner_gone(text):
            now, known = time.monotonic(), self._seen.get(path)
            if known is None or known[:2] != (text, beat):
                self._seen[path] = text, beat, now
                return False
            if now - known[2] < self.expiry_s:
                return False
        return remove(path, text)

    def _beat(self) -> None:
        while True:
            time.sleep(min(HEARTBEAT_S, self.expiry_s / 3))
            with self._lock:
                leases = list(self._held.values())
                if not leases:
                    self._thread = None
                    return
            for lease in leases:
                # If we were stopped for long, it may be another's by now, who may be gone: it must not live on by us.
                if _read(lease.path)[0] == lease.text:
                    with contextlib.suppress(OSError):
                        os.utime(lease.path, follow_symlinks=False)


def leases_in(folder: Path) -> Iterator[tuple[Path, bytes, bool]]:
    """Yield each lease of a folder: its path, what it says, and whether its holder is gone."""
    with contextlib.suppress(OSError):
        for path in sorted(folder.glob(f"*{LEASE}")):
            text, _ = _read(path)
            if text is not None:
                yield path, text, _is_stale(path, text)


def remove(path: Path, text: bytes) -> bool:
    """Remove a lease that says ``text``; return whether it is gone.

    It is renamed away first, so that of several who do so only one has it, and can look at what it has without haste:
    another's lease is put back.
    """
    taken = path.with_name(partial_name(path.name))
    try:
        path.rename(taken)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    is_right = _read(taken)[0] == text
    if not is_right:
        found, _ = _read(taken)
        if found is not None:
            with contextlib.suppress(OSError):
                _make(path, found)
    with contextlib.suppress(OSError):
        taken.unlink()
    return is_right


def _make(path: Path, text: bytes) -> bool:
    """Make a lease that is not there, all of it at once; return False if it is there."""
    try:
        os.symlink(text, path)  # noqa: PTH211  (bytes)
    except FileExistsError:
        return False
    except FileNotFoundError:
        path.parent.mkdir(exist_ok=True)
        return _make(path, text)
    except OSError:
        return _make_without_links(path, text)
    return True


def _make_without_links(path: Path, text: bytes) -> bool:
    """Do the same on a file system without links, where others may see the file before it says who made it."""
    try:
        file = path.open("xb")
    except FileExistsError:
        return False
    try:
        with file:
            file.write(text)
    except OSError:
        path.unlink()
        raise
    return True


def _read(path: Path) -> tuple[bytes | None, int]:
    """Return what a lease says, and its heartbeat."""
    try:
        return os.readlink(os.fsencode(path)), os.lstat(path).st_mtime_ns  # noqa: PTH115  (bytes)
    except FileNotFoundError:
        return None, 0
    except OSError:
        return _read_file(path)


def _read_file(path: Path) -> tuple[bytes | None, int]:
    """Return the same of a lease that is no link; it is opened, since network file systems are exact then."""
    try:
        with path.open("rb", buffering=0) as file:
            return file.read(4096), os.fstat(file.fileno()).st_mtime_ns
    except OSError:
        return None, 0


def _is_owner_gone(text: bytes) -> bool:
    owner = _owner(text)
    return owner is not None and owner.is_gone


def _is_stale(path: Path, text: bytes) -> bool:
    """Return whether the holder is gone, or of another machine and silent for an hour."""
    owner = _owner(text)
    return owner.is_gone if owner is not None and owner.is_here else is_old(path)


def _owner(text: bytes) -> Owner | None:
    try:
        found: Any = json.loads(text)
        return Owner.parse(found["owner"])
    except (ValueError, TypeError, KeyError, AttributeError):
        return None  # it may just be being written
