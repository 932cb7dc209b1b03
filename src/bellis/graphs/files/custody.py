"""Who writes and who reads a store of files, so that files are removed that nobody needs, and no other."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import sqlite3
from typing import TYPE_CHECKING

from bellis.graphs.files.catalogue import CHUNKS, check_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

WRITERS = "writers"
"""Folder with a file for each writer at work, which the writer has locked: the lock ends with the process."""
READERS = "readers.lock"
"""Locked by those who read many files."""


@contextlib.contextmanager
def writing(folder: Path, db: sqlite3.Connection) -> Iterator[str]:
    """Yield a token for the names of files that are written.

    If that fails, they are removed; or else by the next writer, as if this process were gone.
    """
    token, number = _marked(folder / WRITERS)
    try:
        try:
            yield token
        except BaseException:
            with contextlib.suppress(OSError, sqlite3.Error):
                discard(folder, db, token)
                (folder / WRITERS / token).unlink()
            raise
        (folder / WRITERS / token).unlink(missing_ok=True)
    finally:
        _unlock(number)


def _marked(writers: Path) -> tuple[str, int]:
    while True:
        token = secrets.token_hex(8)
        try:
            number = os.open(writers / token, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        except FileNotFoundError:
            writers.mkdir(exist_ok=True)
            continue
        fcntl.flock(number, fcntl.LOCK_EX)
        if (writers / token).exists():  # else it was swept before it was locked
            return token, number
        _unlock(number)


def sweep(folder: Path, db: sqlite3.Connection) -> None:
    """Remove the files of writers that are gone, but for those that they could commit."""
    try:
        tokens = [path.name for path in (folder / WRITERS).iterdir()]
    except FileNotFoundError:
        return
    for token in tokens:
        with contextlib.suppress(OSError):
            number = os.open(folder / WRITERS / token, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
                discard(folder, db, token)
                (folder / WRITERS / token).unlink()
            finally:
                _unlock(number)


def discard(folder: Path, db: sqlite3.Connection, token: str) -> None:
    """Remove the files of a writer that are not in the catalogue; nobody can have them open."""
    mine = [path for path in (folder / CHUNKS).glob(f"*.{token}.*") if token.isalnum()]
    if mine:
        known = {
            name
            for (name,) in db.execute(
                "SELECT nodes FROM chunk UNION SELECT edges FROM chunk UNION SELECT file FROM replaced"
            )
        }
        for path in mine:
            if path.relative_to(folder).as_posix() not in known:
                path.unlink(missing_ok=True)


@contextlib.contextmanager
def reading(folder: Path) -> Iterator[None]:
    """Keep files from being removed, as far as the file system has locks, and its folder may be written."""
    number = None
    with contextlib.suppress(OSError):
        number = os.open(folder / READERS, os.O_RDONLY | os.O_CLOEXEC)
        fcntl.flock(number, fcntl.LOCK_SH)
    try:
        yield
    finally:
        if number is not None:
            _unlock(number)


def remove(folder: Path, names: Iterable[str]) -> bool:
    """Remove files that were replaced, unless somebody may read them; return whether they are gone.

    They were replaced by a commit. Who found them in the catalogue before that either had all of them open before, or
    holds the lock.
    """
    number = os.open(folder / READERS, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for name in names:
            if check_file(name):
                (folder / name).unlink(missing_ok=True)
    except OSError:
        return False
    finally:
        _unlock(number)
    return True


def _unlock(number: int) -> None:
    """Give a lock back also if a process that was forked meanwhile has the file open, too."""
    with contextlib.suppress(OSError):
        fcntl.flock(number, fcntl.LOCK_UN)
    os.close(number)
