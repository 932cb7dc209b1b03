"""How a file of SQLite is opened: to be written, or only to be read where one may not write."""

from __future__ import annotations

import os
import sqlite3
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

if TYPE_CHECKING:
    from pathlib import Path

_EFFECTIVE = os.access in os.supports_effective_ids


@dataclass(frozen=True, slots=True)
class Way:
    """How a file can be opened at this moment."""

    is_writable: bool
    """Whether the file and its folder may be written: a log in the mode WAL is made even to read."""
    version: tuple[int, ...] | None = None
    """Of a file that is taken for one that nobody writes, since SQLite does not look whether it changes."""

    def options(self) -> str:
        """Return parameters of a URI. No file is made: one that is not there is not made by accident."""
        return "mode=rw" if self.is_writable else "mode=ro" if self.version is None else "mode=ro&immutable=1"


class Connection(sqlite3.Connection):
    """A connection that knows how its file was opened."""

    way = Way(is_writable=True)


def way_to(path: Path) -> Way:
    """Return how a file can be opened.

    Where one may not write, SQLite reads along with a process that has the file open: then there are a log, and the
    memory that they share. Without these it would have to make them, unless it is told that nobody writes.
    """
    path = path.resolve()  # a log lies beside the file itself
    if _may(path, os.W_OK) and _may(path.parent, os.W_OK | os.X_OK):
        return Way(is_writable=True)
    log_bytes = _size(log_of(path))
    if log_bytes or (log_bytes is not None and _size(path.with_name(f"{path.name}-shm")) is not None):
        return Way(is_writable=False)
    found = path.stat()
    return Way(is_writable=False, version=(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns))


def log_of(path: Path) -> Path:
    """Return where the log of a file is."""
    path = path.resolve()
    return path.with_name(f"{path.name}-wal")


def has_log(path: Path) -> bool:
    """Return whether there is a log with something in it."""
    return bool(_size(log_of(path)))


def connect(path: Path, **options: Any) -> Connection:
    """Open a file that is there, as it can be.

    Parameters
    ----------
    path
        Path of the file.
    options
        Of `sqlite3.connect`.
    """
    way = way_to(path) if path.exists() else Way(is_writable=True)
    connection = sqlite3.connect(f"file:{quote(str(path))}?{way.options()}", uri=True, factory=Connection, **options)
    connection.way = way
    return connection


def has_changed(connection: Connection, path: Path) -> bool:
    """Return whether a file that was opened as one that nobody writes was written, or is open elsewhere."""
    if connection.way.version is None:
        return False
    try:
        return way_to(path) != connection.way
    except OSError:
        return True


def _may(path: Path, what: int) -> bool:
    return os.access(path, what, effective_ids=_EFFECTIVE)


def _size(path: Path) -> int | None:
    """Return the size of a file, None if there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return None
