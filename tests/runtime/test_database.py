"""Errors of SQLite and of the file system become errors of the journal, which say where and what to do."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

import pytest

from bellis.errors import JournalCorruptError, JournalError
from bellis.runtime.database import DATABASE, guarded, open_database

if TYPE_CHECKING:
    from pathlib import Path


def test_a_database_has_its_tables_and_can_be_opened_again(tmp_path: Path) -> None:
    for _ in range(2):
        db = open_database(tmp_path / DATABASE)
        tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        assert {"run", "task", "recent", "failure", "result", "timing"} <= tables
        db.close()


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (sqlite3.OperationalError("database or disk is full"), JournalError),
        (OSError(28, "No space left on device"), JournalError),
        (sqlite3.DatabaseError("database disk image is malformed"), JournalCorruptError),
    ],
)
def test_an_error_says_where_and_what_to_do(tmp_path: Path, error: Exception, expected: type[Exception]) -> None:
    with pytest.raises(expected, match=str(tmp_path)) as caught, guarded(tmp_path):
        raise error
    assert type(caught.value) is expected
    assert caught.value.__cause__ is error
    assert str(error) in str(caught.value)


def test_other_errors_pass(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), guarded(tmp_path):
        raise ZeroDivisionError


def test_a_folder_that_is_not_there_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="nowhere"):
        open_database(tmp_path / "nowhere" / DATABASE)
