"""A lock that the operating system releases when its holder ends, however it does."""

from __future__ import annotations

import fcntl
import os
import socket
from time import monotonic, sleep, strftime
from typing import TYPE_CHECKING

import msgspec

from bellis.errors import JournalLockedError

if TYPE_CHECKING:
    from pathlib import Path

ORPHANS_END_S = 5.0
"""How long the workers of a run that was killed may take to end."""


class Lock:
    """Exclusive hold of a file, which says who holds it; child processes that inherit ``fd`` hold it too.

    Parameters
    ----------
    path
        The file; made when it is not there, never removed.

    Raises
    ------
    JournalLockedError
        If another process, or another lock of this process, holds it. Workers of a run that was killed hold it
        until they are gone: that is waited for.
    """

    def __init__(self, path: Path) -> None:
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        until = monotonic() + ORPHANS_END_S
        while not self._try():
            holder = _Holder.read(self.fd)
            if holder.is_alive() or monotonic() > until:
                os.close(self.fd)
                raise JournalLockedError(
                    f"{path.parent} is in use by another run{holder}: wait for it, stop it, or use another journal"
                )
            sleep(0.02)
        try:
            self._sign()
        except OSError:
            os.close(self.fd)
            raise

    def _sign(self) -> None:
        os.truncate(self.fd, 0)
        me = _Holder(host=socket.gethostname(), pid=os.getpid(), start=strftime("%Y-%m-%d %H:%M:%S"))
        os.pwrite(self.fd, msgspec.json.encode(me), 0)

    def _try(self) -> bool:
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def release(self) -> None:
        """Let others have it."""
        os.close(self.fd)


class _Holder(msgspec.Struct, frozen=True):
    host: str = ""
    pid: int = 0
    start: str = ""

    @classmethod
    def read(cls, fd: int) -> _Holder:
        try:
            return msgspec.json.decode(os.pread(fd, 4096, 0), type=_Holder)
        except msgspec.DecodeError:  # it is just being written
            return cls()

    def is_alive(self) -> bool:
        """Whether it may still be there; if not, only its workers are left, and they are being ended."""
        if self.host != socket.gethostname():
            return bool(self.host)
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True

    def __str__(self) -> str:
        return f" (host {self.host}, pid {self.pid}, started {self.start})" if self.pid else ""
