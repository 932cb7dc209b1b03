"""The journal: what was noted stays noted, whatever happens to the run, and damage is never read as "nothing done"."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bellis.errors import JournalCorruptError, JournalError, JournalLockedError, JournalMismatchError
from bellis.geometry import Roi
from bellis.planning.grid import BlockGrid
from bellis.runtime import journal as journal_module
from bellis.runtime.cell import CELL_BYTES, Cell
from bellis.runtime.fingerprint import Fingerprint
from bellis.runtime.journal import CELLS, Journal, environment
from bellis.runtime.lease import Outcome
from bellis.testing.blocks import line

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from bellis.tasks import Task

ODD_IDS = [
    "a/b",
    "..",
    ".",
    "a b",
    "ü/é",
    "quo\"te's",
    "%2F",
    "x" * 300,
    "line\nbreak",
    "a*?[b]",
    "-rf",
    "\0",
    "a/b%2F",
]


def bound(task: Task, code: str = "code") -> tuple[Fingerprint, BlockGrid]:
    grid = BlockGrid.of(task)
    return Fingerprint.of(task, grid, code), grid


def opened(path: Path, *tasks: Task, code: str = "code", on_changed: Any = "refuse") -> Journal:
    journal = Journal(path)
    try:
        journal.notes = journal.open_tasks([bound(task, code) for task in tasks], on_changed)  # type: ignore[attr-defined]
    except BaseException:
        journal.close()
        raise
    return journal


def done(journal: Journal, task_id: str = "task") -> list[int]:
    return [int(begin + i) for begin, flags in journal.done(task_id) for i in np.flatnonzero(flags)]


def note(journal: Journal, *indices: int, task_id: str = "task") -> None:
    journal.note_done(task_id, np.array(indices, np.int64))


def killed(journal: Journal, to: Path) -> Path:
    """Return a copy of a journal as it would be found if its process were killed now."""
    shutil.copytree(journal.path, to)
    return to


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal"


@pytest.fixture
def task() -> Task:
    return line(print, 100)


# Noting ------------------------------------------------------------------------------------------------------------


def test_what_was_done_is_done_when_the_journal_is_opened_again(path: Path, task: Task) -> None:
    with opened(path, task) as journal:
        assert done(journal) == []
        note(journal, 5, 7)
        note(journal, 99)
    with opened(path, task) as journal:
        assert done(journal) == [5, 7, 99]
        note(journal, 0)
    with opened(path, task) as journal:
        assert done(journal) == [0, 5, 7, 99]


def test_what_was_committed_survives_a_kill(path: Path, tmp_path: Path, task: Task) -> None:
    with opened(path, task) as journal:
        note(journal, 5, 7)
        journal.commit()
        note(journal, 8)
        copy = killed(journal, tmp_path / "copy")
    with opened(copy, task) as journal:
        assert done(journal) == [5, 7]
    with opened(path, task) as journal:
        assert done(journal) == [5, 7, 8]


STEPS = st.lists(st.one_of(st.just("commit"), st.just("kill"), st.lists(st.integers(0, 99), max_size=20)), max_size=25)


@pytest.mark.slow
@settings(max_examples=25)
@given(steps=STEPS, checkpoint=st.sampled_from([1, 30, 10**6]))
def test_a_replay_is_what_was_committed_wherever_the_run_is_killed(
    steps: list[Any], checkpoint: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("journal")
    task = line(print, 100)
    path, committed, noted = folder / "0", set(), set()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal_module, "CHECKPOINT_BLOCKS", checkpoint)
        journal = opened(path, task)
        for number, step in enumerate(steps):
            if step == "commit":
                journal.commit()
                committed = set(noted)
            elif step == "kill":
                path = killed(journal, folder / str(number + 1))
                journal.close()
                journal = opened(path, task)
                assert set(done(journal)) == committed
                noted = set(committed)
            else:
                note(journal, *set(step) - noted)  # a block is done once
                noted |= set(step)
        journal.close()
        with opened(path, task) as journal:
            assert set(done(journal)) == noted
    shutil.rmtree(folder)


def test_what_workers_had_finished_counts_though_it_was_never_noted(path: Path, tmp_path: Path, task: Task) -> None:
    other = line(print, 50, task_id="other")
    with opened(path, other, task) as journal:
        note(journal, 1)
        journal.commit()
        memory = bytearray(2 * CELL_BYTES)
        outcomes = Cell(memoryview(memory), 1).begin(9, 1, np.array([2, 3, 4, 5], np.int64).tobytes())
        outcomes[:] = bytes([Outcome.SUCCESS, Outcome.FAILED, Outcome.SKIPPED, Outcome.NONE])
        (path / CELLS).write_bytes(memory)
        copy = killed(journal, tmp_path / "copy")
    with opened(copy, other, task) as journal:
        assert done(journal) == [1, 2, 4]
        assert done(journal, "other") == []
        assert not (copy / CELLS).exists()
        again = killed(journal, tmp_path / "again")
    with opened(again, other, task) as journal:
        assert done(journal) == [1, 2, 4]


def test_a_block_whose_result_went_with_its_worker_is_not_done(path: Path, tmp_path: Path, task: Task) -> None:
    task = replace(task, results=True)
    with opened(path, task) as journal:
        memory = bytearray(CELL_BYTES)
        Cell(memoryview(memory), 0).begin(1, 0, np.array([2], np.int64).tobytes())[0] = Outcome.SUCCESS
        (path / CELLS).write_bytes(memory)
        copy = killed(journal, tmp_path / "copy")
    with opened(copy, task) as journal:
        assert done(journal) == []


def test_results_failures_timings_and_facts_are_kept(path: Path, task: Task) -> None:
    with opened(path, task) as journal:
        note(journal, 2, 4)
        journal.note_results("task", {4: b"four", 2: b"two"})
        journal.note_results("task", {4: b"FOUR"})
        journal.note_failure("task", 7, 1, "first")
        journal.note_failure("task", 7, 2, "second")
        journal.note_timings("task", np.array([2, 4]), np.array([0.5, 0.25], np.float32))
        journal.note_timings("task", np.array([6]), np.array([1], np.float32))
        journal.set_meta(**environment())
    with closing(sqlite3.connect(path / "bellis.sqlite")) as db:
        assert db.execute("SELECT block, attempt, error FROM failure").fetchall() == [(7, 2, "second")]
        assert {"pid", "python", "argv", "started_s"} <= {key for (key,) in db.execute("SELECT key FROM run")}
    with opened(path, task) as journal:
        assert list(journal.results("task")) == [(2, b"two"), (4, b"FOUR")]
        indices, seconds = journal.timings("task")
        assert indices.tolist() == [2, 4, 6]
        assert seconds.tolist() == [0.5, 0.25, 1]


def test_a_new_run_forgets_the_failures_of_the_last_one(path: Path, task: Task) -> None:
    with opened(path, task) as journal:
        note(journal, 1)
        journal.note_failure("task", 7, 1, "first")
    opened(path, task).close()
    with closing(sqlite3.connect(path / "bellis.sqlite")) as db:
        assert db.execute("SELECT * FROM failure").fetchall() == []


@pytest.mark.parametrize("task_id", ODD_IDS, ids=repr)
def test_odd_characters_in_task_ids_are_kept_apart(path: Path, task_id: str) -> None:
    tasks = [line(print, 20, task_id=task_id), line(print, 20, task_id=f"{task_id}.")]
    with opened(path, *tasks) as journal:
        note(journal, 3, task_id=task_id)
        note(journal, 4, task_id=f"{task_id}.")
    with opened(path, *tasks) as journal:
        assert done(journal, task_id) == [3]
        assert done(journal, f"{task_id}.") == [4]
    assert {entry.parent for entry in path.rglob("*.done")} == {path / "tasks"}


def test_closing_twice_is_closing_once(path: Path, task: Task) -> None:
    journal = opened(path, task)
    journal.close()
    journal.close()


def test_nothing_but_the_journal_is_left_after_a_run(path: Path, task: Task) -> None:
    opened(path, task).close()
    names = {entry.name for entry in path.iterdir()}
    assert names == {"bellis.sqlite", "lock", "tasks"}
    assert len(list((path / "tasks").iterdir())) == 1


# Parts of a pipeline -----------------------------------------------------------------------------------------------


def test_a_run_of_other_tasks_leaves_what_a_killed_run_had_done(path: Path, tmp_path: Path) -> None:
    first, second = line(print, 50, task_id="first"), line(print, 50, task_id="second")
    with opened(path, first, second) as journal:
        note(journal, 1, 2, task_id="first")
        note(journal, 3, 4, task_id="second")
        journal.commit()
        copy = killed(journal, tmp_path / "copy")
    with opened(copy, first) as journal:
        assert done(journal, "first") == [1, 2]
    with opened(copy, first, second) as journal:
        assert done(journal, "first") == [1, 2]
        assert done(journal, "second") == [3, 4]


def test_a_task_may_be_added_to_a_pipeline(path: Path, task: Task) -> None:
    with opened(path, task) as journal:
        note(journal, 1)
    with opened(path, line(print, 5, task_id="new"), task) as journal:
        assert done(journal) == [1]
        assert done(journal, "new") == []


# Changes -----------------------------------------------------------------------------------------------------------


def with_blocks(path: Path, task: Task, *indices: int, code: str = "code") -> None:
    with opened(path, task, code=code) as journal:
        note(journal, *indices)
        journal.note_results(task.task_id, {index: str(index).encode() for index in indices})


def test_a_changed_total_roi_keeps_the_finished_blocks_that_still_exist(path: Path, task: Task) -> None:
    with_blocks(path, task, 10, 20, 90)
    with opened(path, replace(task, total_roi=Roi((-5,), (50,)))) as journal:
        assert done(journal) == [15, 25]
        assert [(index, int(value)) for index, value in journal.results("task")] == [(15, 10), (25, 20)]
        (said,) = journal.notes  # type: ignore[attr-defined]
        assert "2 of 3 finished blocks are kept" in said
        note(journal, 0)
    with opened(path, task) as journal:
        assert done(journal) == [10, 20]
    assert len(list((path / "tasks").iterdir())) == 1


def test_a_changed_total_roi_after_a_kill_keeps_what_was_committed(path: Path, tmp_path: Path, task: Task) -> None:
    with opened(path, task) as journal:
        note(journal, 10, 20)
        journal.commit()
        copy = killed(journal, tmp_path / "copy")
    with opened(copy, replace(task, total_roi=Roi((0,), (15,)))) as journal:
        assert done(journal) == [10]
    with opened(copy, replace(task, total_roi=Roi((0,), (15,)))) as journal:
        assert done(journal) == [10]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"write_roi": Roi((0,), (2,)), "read_roi": Roi((0,), (2,))},
            r"the shape of write_roi was \(1,\) and is \(2,\)",
        ),
        ({"version": 2}, "version was '' and is '2'"),
        ({"fit": "shrink"}, "fit was 'valid' and is 'shrink'"),
    ],
)
def test_other_blocks_are_refused_and_it_is_said_what_differs_and_how_to_reset(
    path: Path, task: Task, change: dict[str, Any], said: str
) -> None:
    with_blocks(path, task, 10)
    changed = replace(task, **change)
    for on_changed in ("refuse", "keep"):
        with pytest.raises(JournalMismatchError, match=f"task 'task': {said}") as caught:
            opened(path, changed, on_changed=on_changed)
        assert f"bellis reset {path}" in str(caught.value)
    with opened(path, task) as journal:  # nothing was touched
        assert done(journal) == [10]
    with opened(path, changed, on_changed="reset") as journal:
        assert done(journal) == []
        assert list(journal.results("task")) == []
        assert "starts afresh" in journal.notes[0]  # type: ignore[attr-defined]


def test_every_task_that_differs_is_named_at_once(path: Path) -> None:
    tasks = [line(print, 9, task_id=task_id) for task_id in "abc"]
    with opened(path, *tasks) as journal:
        for task_id in "abc":
            note(journal, 1, task_id=task_id)
    changed = [replace(tasks[0], version=1), tasks[1], replace(tasks[2], version=1)]
    with pytest.raises(JournalMismatchError, match=r"(?s)task 'a'.*task 'c'") as caught:
        opened(path, *changed)
    assert "'b'" not in str(caught.value)


def test_changed_code_is_refused_kept_or_reset(path: Path, task: Task) -> None:
    with_blocks(path, task, 10)
    with pytest.raises(JournalMismatchError, match=r"code changed .* on_changed='keep'"):
        opened(path, task, code="new")
    with opened(path, task, code="new", on_changed="keep") as journal:
        assert done(journal) == [10]
        assert "code changed; its finished blocks are kept" in journal.notes[0]  # type: ignore[attr-defined]
    with opened(path, task, code="new") as journal:  # it is the known code now
        assert done(journal) == [10]
        assert journal.notes == []  # type: ignore[attr-defined]
    with opened(path, task, code="newer", on_changed="reset") as journal:
        assert done(journal) == []


def test_a_version_decides_instead_of_the_code(path: Path, task: Task) -> None:
    task = replace(task, version="1")
    with_blocks(path, task, 10)
    with opened(path, task, code="new") as journal:
        assert done(journal) == [10]
    with pytest.raises(JournalMismatchError, match="version was '1' and is '2'"):
        opened(path, replace(task, version="2"), code="new")


def test_a_reset_forgets_only_tasks_that_changed(path: Path, task: Task) -> None:
    other = line(print, 20, task_id="other")
    with opened(path, task, other) as journal:
        note(journal, 1)
        note(journal, 2, task_id="other")
    with opened(path, replace(task, version=3), other, on_changed="reset") as journal:
        assert done(journal) == []
        assert done(journal, "other") == [2]


def test_a_task_of_which_nothing_was_done_may_change_freely(path: Path, task: Task) -> None:
    opened(path, task).close()
    with opened(path, replace(task, version=3, fit="shrink"), code="new") as journal:
        assert done(journal) == []


# Trouble -----------------------------------------------------------------------------------------------------------


def test_two_runs_on_one_journal_are_an_error_that_names_the_first(path: Path, task: Task) -> None:
    with opened(path, task), pytest.raises(JournalLockedError, match=r"host .*, pid \d+, started"):
        Journal(path)
    opened(path, task).close()


def bitmaps(path: Path) -> list[Path]:
    return sorted((path / "tasks").iterdir())


def truncate(path: Path, size: int) -> None:
    with path.open("r+b") as file:
        file.truncate(size)


@pytest.mark.parametrize("size", [0, 30, 64, 2000])
def test_a_truncated_journal_is_an_error_and_not_read_as_nothing_done(path: Path, task: Task, size: int) -> None:
    with_blocks(path, task, 10)
    truncate(bitmaps(path)[0], size)
    for on_changed in ("refuse", "keep"):
        with pytest.raises(JournalCorruptError, match="truncated or replaced"):
            opened(path, task, on_changed=on_changed)


@pytest.mark.parametrize("at", [3, 12, 16, 66, 69, 4000])
def test_a_flipped_byte_is_an_error_and_not_read_as_nothing_done(path: Path, task: Task, at: int) -> None:
    with_blocks(path, task, 10)
    data = bytearray(bitmaps(path)[0].read_bytes())
    data[at] ^= 4
    bitmaps(path)[0].write_bytes(data)
    with pytest.raises(JournalCorruptError):
        opened(path, task)


def test_a_missing_bitmap_is_an_error_and_not_read_as_nothing_done(path: Path, task: Task) -> None:
    with_blocks(path, task, 10)
    bitmaps(path)[0].unlink()
    with pytest.raises(JournalCorruptError, match="is missing"):
        opened(path, task)


@pytest.mark.parametrize("size", [0, 50, 5000])
def test_a_truncated_database_is_an_error_and_not_read_as_nothing_done(path: Path, task: Task, size: int) -> None:
    with_blocks(path, task, 10)
    truncate(path / "bellis.sqlite", size)
    with pytest.raises(JournalCorruptError, match=r"bellis\.sqlite"):
        opened(path, task)


def test_a_missing_database_is_an_error_and_not_read_as_nothing_done(path: Path, task: Task) -> None:
    with_blocks(path, task, 10)
    (path / "bellis.sqlite").unlink()
    with pytest.raises(JournalCorruptError, match=r"bellis\.sqlite"):
        opened(path, task)


def test_something_else_in_place_of_the_database_is_an_error(path: Path, task: Task) -> None:
    with_blocks(path, task, 10)
    (path / "bellis.sqlite").write_bytes(b"not a database at all\n" * 500)
    with pytest.raises(JournalCorruptError, match=r"bellis\.sqlite is damaged.*bellis reset"):
        opened(path, task)


def changed_row(path: Path, sql: str, *values: Any) -> None:
    with closing(sqlite3.connect(path / "bellis.sqlite")) as db:
        assert db.execute(sql, values).rowcount == 1
        db.commit()


def test_flipped_blocks_in_the_database_are_an_error(path: Path, tmp_path: Path, task: Task) -> None:
    with opened(path, task) as journal:
        note(journal, 10)
        journal.commit()
        copy = killed(journal, tmp_path / "copy")
    changed_row(copy, "UPDATE recent SET indices = ?", np.array([11], np.int64).tobytes())
    with pytest.raises(JournalCorruptError, match="blocks of task 'task'"):
        opened(copy, task)


def test_a_flipped_description_of_a_task_is_an_error(path: Path, task: Task) -> None:
    with_blocks(path, task, 10)
    changed_row(path, "UPDATE task SET fingerprint = ?", '{"task_id": 3}')
    with pytest.raises(JournalCorruptError, match=r"bellis\.sqlite is damaged"):
        opened(path, task)


def test_a_flipped_result_is_an_error(path: Path, task: Task) -> None:
    with_blocks(path, task, 10)
    changed_row(path, "UPDATE result SET value = ?", b"11")
    with pytest.raises(JournalCorruptError), opened(path, task) as journal:
        list(journal.results("task"))


def test_damage_to_one_task_does_not_lose_the_blocks_of_another(path: Path, tmp_path: Path) -> None:
    first, second = line(print, 50, task_id="first"), line(print, 50, task_id="second")
    with opened(path, first, second) as journal:
        note(journal, 1, 2, task_id="first")
        note(journal, 3, 4, task_id="second")
        journal.commit()
        copy = killed(journal, tmp_path / "copy")
    good = bitmaps(copy)[0].read_bytes()
    truncate(bitmaps(copy)[0], 10)
    with pytest.raises(JournalCorruptError):
        opened(copy, first, second)
    bitmaps(copy)[0].write_bytes(good)  # from a backup
    with opened(copy, first, second) as journal:
        assert done(journal, "first") == [1, 2]
        assert done(journal, "second") == [3, 4]


def test_a_file_in_place_of_the_folder_is_an_error_that_names_it(path: Path, task: Task) -> None:
    path.write_text("mine")
    with pytest.raises(JournalError, match=str(path)):
        opened(path, task)
    assert path.read_text() == "mine"


def test_an_error_in_the_run_is_not_hidden_by_the_journal(path: Path, task: Task) -> None:
    def run() -> None:
        with opened(path, task) as journal:
            note(journal, 3)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run()
    with opened(path, task) as journal:
        assert done(journal) == [3]


def test_a_journal_reads_what_it_notes(path: Path, task: Task) -> None:
    indices: Iterable[int] = range(100)
    with opened(path, task) as journal:
        journal.note_results("task", {index: bytes([index]) for index in indices})
        assert dict(journal.results("task")) == {index: bytes([index]) for index in indices}
