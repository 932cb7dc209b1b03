"""A run directory seen from outside: what is done in it, and how to start it afresh.

Reading takes no lock, so that it works while a run goes on.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sqlite3
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from bellis.errors import JournalCorruptError, JournalError
from bellis.runtime.bitmap import CHUNK_BLOCKS, CHUNK_BYTES
from bellis.runtime.database import DATABASE, guarded
from bellis.runtime.fingerprint import Fingerprint
from bellis.runtime.journal import CELLS
from bellis.runtime.lock import Lock

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from bellis.planning.grid import Ints

MOST_FAILURES = 1000
"""So many failures of a task are read in full."""
_STEP_BYTES = 2**20


class Holder(msgspec.Struct, frozen=True):
    """Who holds a run directory."""

    host: str = "?"
    pid: int = 0
    start: str = "?"


@dataclass(frozen=True, slots=True, kw_only=True)
class NotedFailure:
    """A block whose last attempt failed."""

    number: int
    """Its number in ``block_id``."""
    attempts: int
    """How often it failed."""
    error: str
    """The last traceback."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskStatus:
    """What a journal knows of a task."""

    task_id: str
    """The task."""
    num_blocks: int
    """All its blocks."""
    num_done: int
    """Those that are completed; blocks that a skip_mask leaves out are never noted."""
    num_failed: int
    """Those that failed and are not completed since."""
    failures: tuple[NotedFailure, ...]
    """The first of them, by index."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStatus:
    """What a run directory holds."""

    tasks: tuple[TaskStatus, ...]
    """In the order in which they run."""
    holder: Holder | None
    """The run that goes on; None if there is none."""


def read_status(run_dir: Path) -> RunStatus:
    """Read a run directory, whether a run holds it or not.

    Raises
    ------
    JournalError
        If it is not a run directory, or can't be read.
    JournalCorruptError
        If its database is damaged.
    """
    if not (run_dir / DATABASE).exists() and (run_dir / "tasks").is_dir():  # it was reset
        return RunStatus(tasks=(), holder=_holder(run_dir / "lock"))
    with _reading(run_dir) as db:
        rows = db.execute("SELECT task_id, fingerprint, bitmap FROM task ORDER BY number, rowid").fetchall()
        tasks = tuple(_task_status(run_dir / "tasks" / bitmap, db, task_id, text) for task_id, text, bitmap in rows)
    return RunStatus(tasks=tasks, holder=_holder(run_dir / "lock"))


@contextmanager
def _reading(run_dir: Path) -> Iterator[sqlite3.Connection]:
    path = run_dir / DATABASE
    if not path.is_file():
        raise JournalError(f"{run_dir} is not a run directory: there is no {DATABASE} in it")
    # Where nobody may write, SQLite can't read a file in WAL mode, unless told that nobody writes it.
    mode = "mode=ro" if os.access(run_dir, os.W_OK) else "mode=ro&immutable=1"
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?{mode}", uri=True, timeout=10)) as db:
            db.execute("BEGIN")  # all that follows is of one moment
            yield db
    except sqlite3.OperationalError as error:
        raise JournalError(f"{path} can't be read: {error}") from error
    except (sqlite3.DatabaseError, msgspec.DecodeError) as error:
        raise JournalCorruptError(f"{path} is damaged: {error}; `bellis reset {run_dir}` starts afresh") from error


def _task_status(bitmap: Path, db: sqlite3.Connection, task_id: str, text: str) -> TaskStatus:
    grid = msgspec.json.decode(text, type=Fingerprint).grid()
    recent = [np.frombuffer(blob, np.int64) for (blob,) in _rows(db, "SELECT indices FROM recent", task_id)]
    bits = _bits(bitmap, grid.num_blocks)
    fresh = np.unique(np.concatenate([np.empty(0, np.int64), *recent]))
    fresh = fresh[~_has(bits, fresh)]
    failed = np.array([block for (block,) in _rows(db, "SELECT block FROM failure", task_id)], np.int64)
    failed = np.sort(failed[~_has(bits, failed) & ~np.isin(failed, fresh)])
    failures = []
    for block in failed[:MOST_FAILURES].tolist():
        query = "SELECT attempt, error FROM failure WHERE task_id = ? AND block = ?"
        attempts, error = db.execute(query, (task_id, block)).fetchone()
        failures.append(NotedFailure(number=grid.number(block), attempts=attempts, error=error))
    return TaskStatus(
        task_id=task_id,
        num_blocks=grid.num_blocks,
        num_done=_count(bits) + len(fresh),
        num_failed=len(failed),
        failures=tuple(failures),
    )


def _rows(db: sqlite3.Connection, query: str, task_id: str) -> sqlite3.Cursor:
    return db.execute(f"{query} WHERE task_id = ?", (task_id,))


def _bits(bitmap: Path, num_blocks: int) -> NDArray[np.uint8]:
    """Map the finished blocks of a task, 8 per byte: the end of its bitmap."""
    size = -(-num_blocks // CHUNK_BLOCKS) * CHUNK_BYTES
    if not size:
        return np.empty(0, np.uint8)
    found = bitmap.stat().st_size if bitmap.exists() else 0
    if found < size:
        raise JournalCorruptError(
            f"{bitmap} is missing or truncated: `bellis reset {bitmap.parent.parent}` starts afresh"
        )
    return np.memmap(bitmap, np.uint8, "r", offset=found - size, shape=(size,))


def _has(bits: NDArray[np.uint8], indices: Ints) -> NDArray[np.bool_]:
    return (bits[indices // 8] >> (indices % 8).astype(np.uint8) & 1).astype(bool)


def _count(bits: NDArray[np.uint8]) -> int:
    parts = (bits[begin : begin + _STEP_BYTES] for begin in range(0, len(bits), _STEP_BYTES))
    return sum(int(np.count_nonzero(np.unpackbits(part))) for part in parts)


def _holder(lock: Path) -> Holder | None:
    """Return who holds a lock."""
    try:
        fd = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        # Shared, and let go of at once: nothing else tells whether somebody has it.
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        try:
            return msgspec.json.decode(os.pread(fd, 4096, 0), type=Holder)
        except msgspec.DecodeError:  # it is just being written
            return Holder()
    finally:
        os.close(fd)
    return None


def reset(run_dir: Path, task_ids: Sequence[str] = ()) -> tuple[str, ...]:
    """Forget what was done, so that the next run starts afresh.

    Parameters
    ----------
    run_dir
        The run directory.
    task_ids
        Tasks to forget, with those that wait for them; without any, everything goes, a damaged journal too, and the
        logs with it.

    Returns
    -------
    tuple of str
        The tasks that were forgotten, as far as they could be read.

    Raises
    ------
    JournalLockedError
        If a run goes on.
    JournalError
        If it is not a run directory, or has no such task.
    """
    if not (run_dir / "tasks").is_dir():
        raise JournalError(f"{run_dir} is not a run directory: there are no tasks in it")
    lock = Lock(run_dir / "lock")
    try:
        with guarded(run_dir):
            return _reset_tasks(run_dir, task_ids) if task_ids else _reset_all(run_dir)
    finally:
        lock.release()


def _reset_tasks(run_dir: Path, task_ids: Sequence[str]) -> tuple[str, ...]:
    with closing(sqlite3.connect(run_dir / DATABASE, timeout=10)) as db:
        rows = db.execute("SELECT task_id, bitmap, fingerprint FROM task ORDER BY number, rowid").fetchall()
        known = [task_id for task_id, _, _ in rows]
        if unknown := [task_id for task_id in task_ids if task_id not in known]:
            raise JournalError(
                f"{run_dir} has no task {', '.join(map(repr, unknown))}; it has {', '.join(map(repr, known))}"
            )
        forgotten: list[str] = []
        for task_id, _, text in rows:  # upstream first
            upstream = msgspec.json.decode(text, type=Fingerprint).upstream
            if task_id in task_ids or any(other in forgotten for other in upstream):
                forgotten.append(task_id)
        bitmaps = [bitmap for task_id, bitmap, _ in rows if task_id in forgotten]
        for table in ("task", "recent", "failure", "result", "timing"):
            for task_id in forgotten:
                db.execute(f"DELETE FROM {table} WHERE task_id = ?", (task_id,))  # noqa: S608  # fixed names
        db.commit()
    for bitmap in bitmaps:
        (run_dir / "tasks" / bitmap).unlink(missing_ok=True)
    return tuple(forgotten)


def _reset_all(run_dir: Path) -> tuple[str, ...]:
    try:
        tasks = tuple(task.task_id for task in read_status(run_dir).tasks)
    except JournalError:  # damaged: that is what a reset is for
        tasks = ()
    for suffix in ("", "-wal", "-shm"):
        (run_dir / f"{DATABASE}{suffix}").unlink(missing_ok=True)
    (run_dir / CELLS).unlink(missing_ok=True)
    for folder in ("tasks", "logs"):
        shutil.rmtree(run_dir / folder, ignore_errors=True)
    (run_dir / "tasks").mkdir()
    return tasks
