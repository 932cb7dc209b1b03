"""HDF5 files that processes share: opened under a lock, for one access.

HDF5 is not safe for several processes: what one caches, another has changed. So every access holds an `flock` on the
file, shared to read and exclusive to write, and opens the file for itself. HDF5's own lock, which lasts as long as a
file is open, is off; other programs, that lock a file as HDF5 does by default, are refused or waited for.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import os
import threading
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

from bellis.errors import ArrayError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)
LOCK_WAIT_S = 120.0
"""How long a file that another program has locked is waited for."""


class Turns:
    """How one process opens HDF5 files: one thread at a time, and never across a fork.

    No file stays open between two accesses. That costs 0.25 ms each, and spares us stale caches, files that the user's
    own h5py can't open because we have, and open files in forked processes.
    """

    def __init__(self) -> None:
        # HDF5 runs one thread at a time anyway; held by whoever forks, so that no file is open then.
        self._busy = threading.RLock()
        os.register_at_fork(
            before=self._busy.acquire, after_in_parent=self._busy.release, after_in_child=self._busy.release
        )

    @contextmanager
    def reading(self, path: str) -> Iterator[Any]:
        """Open a file to read."""
        with self._locked(path, exclusive=False), self._busy, _open_to_read(path) as file:
            yield file

    @contextmanager
    def writing(self, path: str, *, create: bool = False) -> Iterator[Any]:
        """Open a file to write; it is closed, and thereby written, before anybody else opens it."""
        with self._locked(path, exclusive=True, create=create) as is_empty, self._busy:
            if self._is_open_here(path):
                raise ArrayError(f"{path} is open in this process, in h5py: close it before bellis writes to it")
            with library().File(path, "w" if is_empty else "r+", locking=False) as file:
                yield file

    @contextmanager
    def _locked(self, path: str, *, exclusive: bool, create: bool = False) -> Iterator[bool]:
        """Hold the lock of a file, and say whether the file is empty."""
        flags = (os.O_RDWR if exclusive else os.O_RDONLY) | (os.O_CREAT if create else 0) | os.O_CLOEXEC
        while True:
            descriptor = os.open(path, flags, 0o666)
            try:
                self._lock(descriptor, path, exclusive=exclusive)
                found = os.fstat(descriptor)
                # Whoever had the lock before may have removed the file, or put another in its place.
                if _is_at(path, found):
                    yield found.st_size == 0
                    return
            finally:
                # By closing alone it would stay locked if another thread had forked in the meantime.
                with contextlib.suppress(OSError):
                    fcntl.flock(descriptor, fcntl.LOCK_UN)
                os.close(descriptor)

    def _lock(self, descriptor: int, path: str, *, exclusive: bool) -> None:
        """Wait for a lock, but not for ever: other programs keep it as long as they have the file open."""
        kind = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
        begun = monotonic()
        while True:
            try:
                fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                if self._is_open_here(path):
                    raise ArrayError(f"{path} is open in this process, in h5py: close it first") from None
                if monotonic() > begun + LOCK_WAIT_S:
                    raise ArrayError(
                        f"{path} has been locked for {LOCK_WAIT_S:.0f} s: close it in the program that has it open"
                    ) from None
                sleep(0.002)
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
                if exclusive:
                    raise ArrayError(
                        f"{path} is on a file system without locks, where processes would destroy what others write: "
                        "use zarr, or another file system"
                    ) from error
                return
            else:
                return

    def _is_open_here(self, path: str) -> bool:
        """Whether the user has the file open in h5py; we have none open while nobody is busy."""
        h5f = library().h5f
        with self._busy:
            names = [file.name for file in h5f.get_obj_ids(h5f.OBJ_ALL, h5f.OBJ_FILE)]
        return any(os.path.realpath(os.fsdecode(name)) == os.path.realpath(path) for name in names)


@functools.cache
def turns() -> Turns:
    """Return how this process opens files."""
    return Turns()


@functools.cache
def library() -> ModuleType:
    """Return the module h5py."""
    try:
        import h5py  # type: ignore[import-untyped, unused-ignore]
    except ImportError as error:
        raise ArrayError("HDF5 needs h5py, which is not installed: pip install 'bellis[hdf5]'") from error
    return h5py  # type: ignore[no-any-return, unused-ignore]


def _open_to_read(path: str) -> Any:
    try:
        return library().File(path, "r", locking=False)
    except OSError as error:
        if "locking flag" not in str(error):
            raise
        # Within one process HDF5 opens a file as it is open already: by the user, with its own lock.
        return library().File(path, "r")


def _is_at(path: str, found: os.stat_result) -> bool:
    try:
        return os.path.samestat(Path(path).stat(), found)
    except FileNotFoundError:
        return False
