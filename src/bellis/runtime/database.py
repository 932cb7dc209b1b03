"""The SQLite file of a run directory."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

from bellis.errors import JournalCorruptError, JournalError

if TYPE_CHECKING:
    from pathlib import Path

DATABASE = "bellis.sqlite"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS run (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS task (task_id TEXT PRIMARY KEY, number INTEGER NOT NULL, fingerprint TEXT NOT NULL,
    bitmap TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS recent (task_id TEXT NOT NULL, indices BLOB NOT NULL, crc INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS failure (
    task_id TEXT NOT NULL, block INTEGER NOT NULL, attempt INTEGER NOT NULL, error TEXT NOT NULL,
    time_s REAL NOT NULL, PRIMARY KEY (task_id, block)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS result (
    task_id TEXT NOT NULL, block INTEGER NOT NULL, value BLOB NOT NULL, crc INTEGER NOT NULL,
    PRIMARY KEY (task_id, block)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS timing (task_id TEXT NOT NULL, indices BLOB NOT NULL, seconds BLOB NOT NULL);
"""


class guarded:  # noqa: N801  # reads as a statement
    """Turns errors of the file system and of SQLite into journal errors that say where and what to do."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        return

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, sqlite3.OperationalError | OSError):
            raise JournalError(
                f"the journal {self._path} can't be written: {error}; what was noted before is safe: make room or "
                "mend the rights, then run again, and it goes on from there"
            ) from error
        if isinstance(error, sqlite3.DatabaseError):
            raise JournalCorruptError(
                f"{self._path / DATABASE} is damaged: {error}; `bellis reset {self._path}` starts afresh"
            ) from error


def open_database(path: Path) -> sqlite3.Connection:
    """Open the database of a run directory, making its tables."""
    with guarded(path.parent):
        db = sqlite3.connect(path, timeout=10, check_same_thread=False)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        found = db.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            db.close()
            raise JournalCorruptError(f"{path} is damaged: {found}; `bellis reset {path.parent}` starts afresh")
        db.executescript(_SCHEMA)
        db.commit()
        return db
