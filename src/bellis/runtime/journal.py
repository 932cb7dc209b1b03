"""What is done, on disk, while the run goes on; a journaled run that is started again goes on where it was.

A run directory holds ``bellis.sqlite`` (tasks, failures, results, timings, and the blocks completed since the last
checkpoint), one `Bitmap` per task, ``cells`` (what the workers were in) and a lock. Completions go into SQLite, one
transaction per turn of the run loop together with their results; a checkpoint moves them into the bitmaps.
"""

from __future__ import annotations

import os
import secrets
import sys
import zlib
from contextlib import closing, suppress
from time import time
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

import msgspec
import numpy as np

from bellis.errors import JournalCorruptError, JournalError, JournalMismatchError
from bellis.runtime.bitmap import Bitmap
from bellis.runtime.cell import finished_blocks
from bellis.runtime.database import DATABASE, guarded, open_database
from bellis.runtime.fingerprint import Fingerprint, kept_blocks
from bellis.runtime.lock import Lock
from bellis.runtime.output import file_name

if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from bellis.planning.grid import BlockGrid, Ints

CELLS = "cells"
CHECKPOINT_BLOCKS = 2**18
"""So many completions are kept in SQLite before they are moved into the bitmaps."""
OnChanged = Literal["refuse", "keep", "reset"]


class _Known(NamedTuple):
    """A task that the journal was bound to before."""

    number: int
    """Its number in the run that was last."""
    fingerprint: Fingerprint
    """What its finished blocks are."""
    bitmap: str
    """Name of the file that says which they are."""


class _Left(NamedTuple):
    """What a run left outside of the bitmaps, by task."""

    recent: dict[str, Ints]
    """Committed since the last checkpoint."""
    finished: dict[str, Ints]
    """Finished by workers, noted or not."""


class Journal:
    """The journal of a run, held by this process alone.

    Parameters
    ----------
    path
        The run directory; made when it is not there.

    Raises
    ------
    JournalLockedError
        If another run holds it.
    JournalError
        If it can't be written.
    JournalCorruptError
        If its database is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            (path / "tasks").mkdir(parents=True, exist_ok=True)
            self._lock = Lock(path / "lock")
        except OSError as error:
            raise JournalError(f"the journal {path} can't be written: {error}; pass another path") from error
        try:
            self._check_database()
            self._db = open_database(path / DATABASE)
        except BaseException:
            self._lock.release()
            raise
        self._bitmaps: dict[str, Bitmap] = {}
        self._pending: dict[str, list[Ints]] = {}
        self._pending_blocks = 0
        self._dirty = False
        self._closed = False

    def _check_database(self) -> None:
        """Refuse to make a new database beside bitmaps that belong to one that is gone."""
        database = self.path / DATABASE
        if any((self.path / "tasks").glob("*.done")) and not (database.exists() and database.stat().st_size):
            raise JournalCorruptError(
                f"{database} is missing or empty, but there are finished blocks: put it back, or `bellis reset "
                f"{self.path}` starts afresh"
            )

    @property
    def lock_fd(self) -> int:
        """Descriptor of the lock, for child processes that must hold it too."""
        return self._lock.fd

    # Tasks ----------------------------------------------------------------------------------------------------------

    def open_tasks(self, tasks: Sequence[tuple[Fingerprint, BlockGrid]], on_changed: OnChanged = "refuse") -> list[str]:
        """Bind the journal to the tasks of a run, and take over what a killed run had finished.

        Parameters
        ----------
        tasks
            For each task of the run, in order, its fingerprint and its grid.
        on_changed
            What to do with finished blocks of a task whose code changed: ``refuse`` the run, ``keep`` them, or
            ``reset`` the task, which also helps when its blocks changed, and those that wait for it.

        Returns
        -------
        list of str
            What a user should know.

        Raises
        ------
        JournalMismatchError
            If a task's blocks, version or code are not those that the journal was written for.
        JournalCorruptError
            If its files are damaged.
        """
        notes: list[str] = []
        problems: list[str] = []
        afresh: set[str] = set()
        with guarded(self.path):
            known = self._known()
            left = _Left(self._read_recent(), self._read_cells(known))
            for fingerprint, grid in tasks:
                old = known.get(fingerprint.task_id)
                try:
                    if old is None:
                        self._new_bitmap(fingerprint.task_id, grid)
                        continue
                    why, note = self._open_task(old, fingerprint, grid, left, on_changed, afresh)
                except JournalMismatchError as error:
                    problems.append(f"task {fingerprint.task_id!r}: {error}")
                    continue
                if why:
                    self._reset(fingerprint.task_id, grid)
                    afresh.add(fingerprint.task_id)
                    note = f"task {fingerprint.task_id!r} starts afresh: {why}"
                if note:
                    notes.append(note)
            self._take_over_others(known, left, {fingerprint.task_id for fingerprint, _ in tasks})
            if problems:
                self._db.rollback()
                raise JournalMismatchError(
                    f"the journal {self.path} was written for another run:\n  "
                    + "\n  ".join(problems)
                    + "\nrun again with on_changed='reset' (--reset) to start these tasks afresh, or use another "
                    f"journal; `bellis reset {self.path}` forgets everything"
                )
            self._db.execute("DELETE FROM failure")  # what failed is run again
            for number, (fingerprint, _) in enumerate(tasks):
                self._db.execute(
                    "INSERT OR REPLACE INTO task VALUES (?, ?, ?, ?)",
                    (
                        fingerprint.task_id,
                        number,
                        msgspec.json.encode(fingerprint).decode(),
                        self._bitmaps[fingerprint.task_id].path.name,
                    ),
                )
            self._db.commit()
            self._checkpoint()
            self._remove_strays()
        return notes

    def _take_over_others(self, known: Mapping[str, _Known], left: _Left, own: Container[str]) -> None:
        """Keep what a killed run left of tasks that are not part of this one."""
        for task_id, task in known.items():
            if task_id not in own and (task_id in left.recent or task_id in left.finished):
                with suppress(JournalCorruptError):  # a run of that task will say so
                    self._open_bitmap(task, left)

    def _remove_strays(self) -> None:
        """Remove bitmaps that no task has any more, and the cells of a killed run, now that they are taken over."""
        names = {bitmap for (bitmap,) in self._db.execute("SELECT bitmap FROM task")}
        for path in (self.path / "tasks").glob("*.done"):
            if path.name not in names:
                path.unlink()
        (self.path / CELLS).unlink(missing_ok=True)

    def _known(self) -> dict[str, _Known]:
        rows = self._db.execute("SELECT task_id, number, fingerprint, bitmap FROM task")
        try:
            return {
                task_id: _Known(number, msgspec.json.decode(text, type=Fingerprint), bitmap)
                for task_id, number, text, bitmap in rows
            }
        except msgspec.DecodeError as error:
            raise JournalCorruptError(f"{self.path / DATABASE} is damaged: {error}") from error

    def _open_task(
        self, known: _Known, now: Fingerprint, grid: BlockGrid, left: _Left, on_changed: OnChanged, afresh: set[str]
    ) -> tuple[str | None, str | None]:
        """Open the bitmap of a task; return why it has to start afresh, or else what a user should know of it."""
        bitmap, old = self._open_bitmap(known, left), known.fingerprint
        differences, code_changed = old.differences(now), old.code != now.code
        if not bitmap.count() and not self._pending.get(now.task_id):
            if differences:
                self._reset(now.task_id, grid)
                return None, None
        elif renewed := [task_id for task_id in now.upstream if task_id in afresh]:
            return f"{renewed[0]!r}, which it waits for, does", None
        elif differences or code_changed:
            said = [*differences, *(["its code changed"] if code_changed else [])]
            if on_changed == "reset":
                return "; ".join(said), None
            if differences:
                raise JournalMismatchError("; ".join(differences))
            if on_changed == "refuse" and not now.version:
                raise JournalMismatchError(
                    "its code changed since its finished blocks were run; on_changed='keep' (--keep) keeps them"
                )
            why = f", as its version is still {now.version!r}" if now.version else ""
            note = f"task {now.task_id!r}: its code changed; its finished blocks are kept{why}"
            return None, self._moved(old, bitmap, grid) or note
        return None, self._moved(old, bitmap, grid)

    def _new_bitmap(self, task_id: str, grid: BlockGrid) -> Bitmap:
        """Make a bitmap under a name of its own: it takes effect when the task's row, which has the name, does."""
        path = self.path / "tasks" / f"{file_name(task_id)}-{secrets.token_hex(4)}.done"
        self._bitmaps[task_id] = Bitmap(path, grid.num_blocks)
        return self._bitmaps[task_id]

    def _open_bitmap(self, known: _Known, left: _Left) -> Bitmap:
        """Open and check the bitmap of a task that was run before; take over what a killed run left behind."""
        old, path = known.fingerprint, self.path / "tasks" / known.bitmap
        if not path.exists():
            raise JournalCorruptError(f"{path} is missing: `bellis reset {self.path}` starts afresh")
        bitmap = Bitmap(path, old.grid().num_blocks)
        recent = left.recent.get(old.task_id, _NONE)
        bitmap.verify(recent)
        bitmap.apply(recent)
        # A result that was not noted went with the run, so blocks that have one are run again.
        finished = _NONE if old.results else left.finished.get(old.task_id, _NONE)
        self._bitmaps[old.task_id] = bitmap
        if len(finished):
            self.note_done(old.task_id, finished)
        return bitmap

    def _reset(self, task_id: str, grid: BlockGrid) -> None:
        """Forget the finished blocks of a task."""
        self._bitmaps[task_id].close()
        for parts in self._pending.pop(task_id, []):
            self._pending_blocks -= len(parts)
        for table in ("recent", "failure", "result", "timing"):
            self._db.execute(f"DELETE FROM {table} WHERE task_id = ?", (task_id,))  # noqa: S608  # fixed names
        self._new_bitmap(task_id, grid)

    def _moved(self, old: Fingerprint, bitmap: Bitmap, grid: BlockGrid) -> str | None:
        """Carry the finished blocks of a task over to a grid whose total region differs, and say so."""
        if old.grid().total_roi == grid.total_roi:
            return None
        bitmap.apply(np.concatenate([_NONE, *self._pending.pop(old.task_id, [])]))
        target = self._new_bitmap(old.task_id, grid)
        kept = 0
        for indices in kept_blocks(old.grid(), bitmap.runs(), grid):
            target.apply(indices)
            kept += len(indices)
        count = bitmap.count()
        bitmap.close()
        # Block indices change with the grid: what is stored under old ones goes.
        for table in ("recent", "failure", "timing"):
            self._db.execute(f"DELETE FROM {table} WHERE task_id = ?", (old.task_id,))  # noqa: S608  # fixed names
        self._move_results(old.task_id, old.grid(), grid)
        return (
            f"task {old.task_id!r}: its total_roi was {old.grid().total_roi} and is {grid.total_roi}; "
            f"{kept} of {count} finished blocks are kept"
        )

    def _move_results(self, task_id: str, old: BlockGrid, new: BlockGrid) -> None:
        rows = list(self.results(task_id))
        self._db.execute("DELETE FROM result WHERE task_id = ?", (task_id,))
        for block, value in rows:
            flags = np.ones(1, bool)
            for indices in kept_blocks(old, iter([(block, flags)]), new):
                self.note_results(task_id, dict.fromkeys(indices.tolist(), value))

    def _read_cells(self, known: Mapping[str, _Known]) -> dict[str, Ints]:
        """Return what workers had finished when the run was killed, whether it was noted or not."""
        path = self.path / CELLS
        if not path.exists():
            return {}
        ids = {task.number: task_id for task_id, task in known.items()}
        found: dict[str, list[Ints]] = {}
        for program, indices in finished_blocks(memoryview(path.read_bytes())):
            if program in ids:
                found.setdefault(ids[program], []).append(indices)
        return {task_id: np.unique(np.concatenate(parts)) for task_id, parts in found.items()}

    def _read_recent(self) -> dict[str, Ints]:
        found: dict[str, list[Ints]] = {}
        for task_id, blob, crc in self._db.execute("SELECT task_id, indices, crc FROM recent"):
            if _crc(blob) != crc:
                raise JournalCorruptError(f"{self.path / DATABASE} is damaged: blocks of task {task_id!r}")
            found.setdefault(task_id, []).append(np.frombuffer(blob, np.int64))
        return {task_id: np.unique(np.concatenate(parts)) for task_id, parts in found.items()}

    def done(self, task_id: str) -> Iterator[tuple[int, NDArray[np.bool_]]]:
        """Yield runs of blocks and which of them are done; see `Bitmap.runs`."""
        return self._bitmaps[task_id].runs()

    # While the run goes on --------------------------------------------------------------------------------------------

    def note_done(self, task_id: str, indices: Ints) -> None:
        """Note completed blocks."""
        indices = indices[~self._bitmaps[task_id].has(indices)]
        self._insert_recent(task_id, indices)
        self._pending.setdefault(task_id, []).append(indices)
        self._pending_blocks += len(indices)

    def _insert_recent(self, task_id: str, indices: Ints) -> None:
        blob = indices.astype(np.int64).tobytes()
        self._db.execute("INSERT INTO recent VALUES (?, ?, ?)", (task_id, blob, _crc(blob)))
        self._dirty = True

    def note_results(self, task_id: str, results: Mapping[int, bytes]) -> None:
        """Keep what functions returned, as msgpack."""
        rows = [(task_id, block, value, _crc(value)) for block, value in results.items()]
        self._db.executemany("INSERT OR REPLACE INTO result VALUES (?, ?, ?, ?)", rows)
        self._dirty = True

    def note_failure(self, task_id: str, block: int, attempt: int, error: str) -> None:
        """Note a failed attempt; the last one of a block stays."""
        row = (task_id, block, attempt, error, time())
        self._db.execute("INSERT OR REPLACE INTO failure VALUES (?, ?, ?, ?, ?)", row)
        self._dirty = True

    def note_timings(self, task_id: str, indices: Ints, seconds: NDArray[np.float32]) -> None:
        """Note durations of some blocks."""
        row = (task_id, indices.astype(np.int64).tobytes(), seconds.tobytes())
        self._db.execute("INSERT INTO timing VALUES (?, ?, ?)", row)
        self._dirty = True

    def commit(self) -> None:
        """Make durable all that was noted; called before what was noted may be forgotten elsewhere."""
        if self._dirty:
            with guarded(self.path):
                self._db.commit()
                self._dirty = False
                if self._pending_blocks >= CHECKPOINT_BLOCKS:
                    self._checkpoint()

    def _checkpoint(self) -> None:
        """Move completions into the bitmaps."""
        # On disk before the bitmaps are: a bitmap that a power cut left in between is checked against them.
        self._db.execute("PRAGMA wal_checkpoint(FULL)")
        for task_id, parts in self._pending.items():
            self._bitmaps[task_id].apply(np.concatenate(parts))
        for bitmap in self._bitmaps.values():
            bitmap.flush()
        # Of the tasks whose bitmaps are open only: what others left there waits for a run of theirs.
        self._db.executemany("DELETE FROM recent WHERE task_id = ?", [(task_id,) for task_id in self._bitmaps])
        self._db.commit()
        self._pending, self._pending_blocks = {}, 0

    def set_meta(self, **values: object) -> None:
        """Keep facts about the run."""
        rows = [(key, msgspec.json.encode(value, enc_hook=str).decode()) for key, value in values.items()]
        self._db.executemany("INSERT OR REPLACE INTO run VALUES (?, ?)", rows)
        self._dirty = True

    # Afterwards -------------------------------------------------------------------------------------------------------

    def results(self, task_id: str) -> Iterator[tuple[int, bytes]]:
        """Yield block index and result, by index."""
        query = "SELECT block, value, crc FROM result WHERE task_id = ? ORDER BY block"
        for block, value, crc in self._db.execute(query, (task_id,)):
            if _crc(value) != crc:
                raise JournalCorruptError(f"{self.path / DATABASE} is damaged: a result of task {task_id!r}")
            yield block, value

    def timings(self, task_id: str) -> tuple[Ints, NDArray[np.float32]]:
        """Return block indices and durations in seconds, as far as they were kept."""
        rows = self._db.execute("SELECT indices, seconds FROM timing WHERE task_id = ?", (task_id,)).fetchall()
        indices = np.concatenate([_NONE, *(np.frombuffer(row[0], np.int64) for row in rows)])
        seconds = [np.frombuffer(row[1], np.float32) for row in rows]
        return indices, np.concatenate([np.empty(0, np.float32), *seconds])

    def close(self) -> None:
        """Write everything and let others have the journal."""
        if self._closed:
            return
        self._closed = True
        try:
            with guarded(self.path), closing(self._db):
                self._db.commit()
                self._checkpoint()
            (self.path / CELLS).unlink(missing_ok=True)
        finally:
            for bitmap in self._bitmaps.values():
                bitmap.close()
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            self.close()
        except JournalError:
            if error is None:  # else that is what the user must hear of
                raise


def environment() -> dict[str, Any]:
    """Return what is worth knowing of the process that runs."""
    return {"pid": os.getpid(), "python": sys.version.split()[0], "argv": sys.argv, "started_s": time()}


def _crc(blob: bytes) -> int:
    return zlib.crc32(blob)


_NONE = np.empty(0, np.int64)
