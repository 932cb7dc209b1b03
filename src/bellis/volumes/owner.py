"""Processes, told apart on any machine at any time, and the files that they write."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path

from bellis.errors import VolumeError

PARTIAL = ".partial"
"""Ending of files that are being written."""
_NUMBERS = itertools.count(1)
"""Tell the partial files of one process apart."""
ABANDONED_S = 3600.0
"""Age from which a leftover of another machine is taken for one of a process that is gone."""


@dataclass(frozen=True, slots=True)
class Owner:
    """A process, told from every other one on any machine at any time."""

    machine: str
    """Boot of a machine, and the space in which process numbers count (containers have their own)."""
    pid: int
    """Number of the process."""
    start: int
    """When it started, in ticks since the boot; 0 where that is not known."""

    @classmethod
    def me(cls) -> Owner:
        """Return this process."""
        return _owner(os.getpid())

    @classmethod
    def parse(cls, tag: str) -> Owner | None:
        """Return what `tag` gave; None if the text is something else."""
        machine, _, rest = tag.partition("-")
        pid, _, start = rest.partition("-")
        return cls(machine, int(pid), int(start)) if pid.isdecimal() and start.isdecimal() else None

    @property
    def tag(self) -> str:
        """Text for a file name."""
        return f"{self.machine}-{self.pid}-{self.start}"

    @property
    def is_here(self) -> bool:
        """Whether it is, or was, a process of this machine."""
        return self.machine == Owner.me().machine

    @property
    def is_gone(self) -> bool:
        """Whether it is known to have ended; of another machine, nothing is known."""
        if not self.is_here:
            return False
        with contextlib.suppress(OSError):
            start, is_over = _read_stat(self.pid)
            return is_over or start != self.start
        return not _is_running(self.pid)


def partial_name(name: str) -> str:
    """Return a name in the same folder that nobody else has, and that says who writes there."""
    return f"{name}.{Owner.me().tag}.{next(_NUMBERS)}{PARTIAL}"


def is_leftover(path: Path) -> bool:
    """Return whether nobody writes a partial file any more: its process is gone, or it is old."""
    parts = path.name.removesuffix(PARTIAL).rsplit(".", 2)
    owner = Owner.parse(parts[-2]) if len(parts) == 3 else None
    return (owner is not None and owner.is_gone) or is_old(path)


def is_old(path: Path) -> bool:
    """Return whether a file was not touched for an hour."""
    try:
        return time.time() - path.lstat().st_mtime > ABANDONED_S
    except OSError:
        return False


def write_file(path: Path, text: bytes) -> None:
    """Put a file in place, all of it at once; no part of it is left if that fails.

    It is not flushed to disk: what a power cut leaves fails its checksum, and is fetched again.
    """
    partial = path.with_name(partial_name(path.name))
    try:
        try:
            _write(partial, text)
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            _write(partial, text)
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise VolumeError(f"can't store {path}: {error}") from error


def _write(path: Path, text: bytes) -> None:
    """Write a new file, in as few calls as can be: each lets another thread take over."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        rest = memoryview(text)
        while rest:
            rest = rest[os.write(file, rest) :]
    finally:
        os.close(file)


def link_file(path: Path, text: bytes) -> None:
    """Put a file in place, all of it at once, unless there is one."""
    partial = path.with_name(partial_name(path.name))
    try:
        partial.write_bytes(text)
        try:
            os.link(partial, path)
        except FileExistsError:
            return
        except OSError:  # a file system without hard links
            if not path.exists():
                partial.replace(path)
    except OSError as error:
        raise VolumeError(f"can't make {path}: {error}") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


@functools.lru_cache(maxsize=1)
def _owner(pid: int) -> Owner:
    machine = socket.gethostname()
    start = 0
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        machine = f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    with contextlib.suppress(OSError):
        start, _ = _read_stat(pid)
    return Owner(hashlib.sha256(machine.encode()).hexdigest()[:12], pid, start)


def _read_stat(pid: int) -> tuple[int, bool]:
    """Return when a process started, and whether it has ended and only waits to be noticed."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[19]), fields[0] in "ZX"


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
