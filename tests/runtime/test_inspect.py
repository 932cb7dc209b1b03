"""A run directory seen from outside."""

from __future__ import annotations

import os
import sqlite3
from typing import TYPE_CHECKING

import numpy as np
import pytest

from bellis import Roi, Task
from bellis.errors import JournalCorruptError, JournalError, JournalLockedError
from bellis.planning import BlockGrid
from bellis.runtime import inspect
from bellis.runtime.fingerprint import Fingerprint
from bellis.runtime.inspect import read_status, reset
from bellis.runtime.journal import CELLS, Journal

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bellis.planning.grid import Ints


def bound(task_id: str, num_blocks: int = 100) -> tuple[Fingerprint, BlockGrid]:
    block = Roi((0, 0), (10, 10))
    task = Task(task_id, Roi((0, 0), (20, 5 * num_blocks)), block, block, print)
    grid = BlockGrid.of(task)
    return Fingerprint.of(task, grid, "code"), grid


def blocks(*indices: int) -> Ints:
    return np.array(indices, np.int64)


def counts(run_dir: Path) -> dict[str, tuple[int, int, int]]:
    return {task.task_id: (task.num_done, task.num_blocks, task.num_failed) for task in read_status(run_dir).tasks}


def journal(run_dir: Path, task_ids: Sequence[str] = ("a", "b/c"), num_blocks: int = 100) -> Journal:
    journal = Journal(run_dir)
    journal.open_tasks([bound(task_id, num_blocks) for task_id in task_ids])
    return journal


def test_a_run_that_goes_on_is_seen_with_who_holds_it(tmp_path: Path) -> None:
    with journal(tmp_path) as held:
        held.note_done("a", blocks(*range(40)))
        held.note_failure("a", 50, 2, "Traceback\nValueError: x")
        held.commit()
        status = read_status(tmp_path)
        assert status.holder is not None
        assert status.holder.pid == os.getpid()
        assert counts(tmp_path) == {"a": (40, 100, 1), "b/c": (0, 100, 0)}
        held.note_done("b/c", blocks(99))
        held.commit()
        assert counts(tmp_path)["b/c"] == (1, 100, 0)
    assert read_status(tmp_path).holder is None
    assert counts(tmp_path) == {"a": (40, 100, 1), "b/c": (1, 100, 0)}


def test_looking_leaves_the_lock_to_runs(tmp_path: Path) -> None:
    journal(tmp_path).close()
    read_status(tmp_path)
    journal(tmp_path).close()


def test_blocks_count_once_whether_noted_in_the_bitmap_or_not_yet(tmp_path: Path) -> None:
    with journal(tmp_path) as first:
        first.note_done("a", blocks(1, 2, 3))
    with journal(tmp_path) as second:
        second.note_done("a", blocks(3, 4))
        second.note_done("a", blocks(4, 5))
        second.commit()
        assert counts(tmp_path)["a"] == (5, 100, 0)


def test_a_failure_counts_until_the_block_is_done(tmp_path: Path) -> None:
    with journal(tmp_path) as held:
        for index in (3, 12, 60):
            held.note_failure("a", index, 1, f"E: {index}")
        held.note_done("a", blocks(12))
        held.commit()
        (task, _) = read_status(tmp_path).tasks
        assert task.num_failed == 2
        grid = bound("a")[1]
        assert [(f.number, f.attempts, f.error) for f in task.failures] == [
            (grid.number(3), 1, "E: 3"),
            (grid.number(60), 1, "E: 60"),
        ]


def test_only_the_first_failures_are_read_in_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspect, "MOST_FAILURES", 3)
    with journal(tmp_path) as held:
        for index in range(10):
            held.note_failure("a", index, 1, "E: x")
    (task, _) = read_status(tmp_path).tasks
    assert (task.num_failed, len(task.failures)) == (10, 3)


def test_large_bitmaps_are_counted_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspect, "_STEP_BYTES", 1000)
    with journal(tmp_path, ["a"], 100_000) as held:
        held.note_done("a", np.arange(7, 99_999, 3))
    assert counts(tmp_path) == {"a": (len(range(7, 99_999, 3)), 100_000, 0)}


def test_a_task_without_blocks_is_done(tmp_path: Path) -> None:
    journal(tmp_path, ["a"], 0).close()
    assert counts(tmp_path) == {"a": (0, 0, 0)}


def test_what_is_no_run_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="is not a run directory"):
        read_status(tmp_path)
    with pytest.raises(JournalError, match="is not a run directory"):
        reset(tmp_path)
    assert not any(tmp_path.iterdir())


def test_a_damaged_database_is_said_to_be_damaged_and_can_be_reset(tmp_path: Path) -> None:
    journal(tmp_path).close()
    (tmp_path / "bellis.sqlite").write_bytes(b"this is no database" * 1000)
    with pytest.raises(JournalCorruptError, match="bellis reset"):
        read_status(tmp_path)
    assert reset(tmp_path) == ()
    journal(tmp_path).close()


def test_a_missing_bitmap_is_said_to_be_missing(tmp_path: Path) -> None:
    journal(tmp_path, ["a"]).close()
    (bitmap,) = (tmp_path / "tasks").iterdir()
    bitmap.unlink()
    with pytest.raises(JournalCorruptError, match="is missing"):
        read_status(tmp_path)


def test_a_read_only_run_directory_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with journal(tmp_path, ["a"]) as held:
        held.note_done("a", blocks(1))
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert counts(tmp_path) == {"a": (1, 100, 0)}


def test_reset_forgets_everything_but_the_command(tmp_path: Path) -> None:
    with journal(tmp_path) as held:
        held.note_done("a", blocks(1, 2))
    (tmp_path / "command.json").write_text("{}")
    (tmp_path / CELLS).write_bytes(b"left by a killed run")
    (tmp_path / "logs" / "a").mkdir(parents=True)
    (tmp_path / "logs" / "a" / "worker-0.log").write_text("hello")

    assert reset(tmp_path) == ("a", "b/c")

    assert {path.name for path in tmp_path.rglob("*")} == {"command.json", "lock", "tasks"}
    assert read_status(tmp_path).tasks == ()
    journal(tmp_path).close()
    assert counts(tmp_path) == {"a": (0, 100, 0), "b/c": (0, 100, 0)}


def test_reset_of_one_task_leaves_the_others_alone(tmp_path: Path) -> None:
    with journal(tmp_path, ["a", "a-12345678", "b/c"]) as held:
        for task_id in ("a", "a-12345678", "b/c"):
            held.note_done(task_id, blocks(1, 2))
            held.note_results(task_id, {1: b"x"})
            held.note_failure(task_id, 5, 1, "E: x")
    # As a killed run leaves it: completions that no checkpoint has moved into the bitmaps.
    with sqlite3.connect(tmp_path / "bellis.sqlite") as db:
        late = blocks(7).tobytes()
        db.execute("INSERT INTO recent VALUES ('a', ?, 0), ('b/c', ?, 0)", (late, late))
    db.close()

    assert reset(tmp_path, ["a"]) == ("a",)

    assert counts(tmp_path) == {"a-12345678": (2, 100, 1), "b/c": (3, 100, 1)}


def test_a_task_that_was_reset_runs_again_as_a_whole(tmp_path: Path) -> None:
    with journal(tmp_path) as held:
        held.note_done("a", blocks(1, 2))
        held.note_done("b/c", blocks(3))
    reset(tmp_path, ["a"])
    with journal(tmp_path) as held:
        assert not any(flags.any() for _, flags in held.done("a"))
        assert sum(int(flags.sum()) for _, flags in held.done("b/c")) == 1


def test_reset_of_a_task_that_is_not_there_changes_nothing(tmp_path: Path) -> None:
    with journal(tmp_path) as held:
        held.note_done("a", blocks(1, 2))
    with pytest.raises(JournalError, match=r"has no task 'x', 'y'; it has 'a', 'b/c'"):
        reset(tmp_path, ["a", "x", "y"])
    assert counts(tmp_path)["a"] == (2, 100, 0)


def test_a_run_that_goes_on_is_not_reset(tmp_path: Path) -> None:
    with journal(tmp_path) as held:
        held.note_done("a", blocks(1, 2))
        with pytest.raises(JournalLockedError, match="in use"):
            reset(tmp_path)
    assert counts(tmp_path)["a"] == (2, 100, 0)
