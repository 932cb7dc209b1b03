"""The inline engine: blocks in the caller's thread."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import bellis
from bellis.testing.blocks import Notes, line
from bellis.testing.engines import EngineTests

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


class TestInlineEngine(EngineTests):
    survives_dying_workers = False
    ends_blocks = False
    catches_output = False

    def engine(self) -> str:
        return "inline"


def test_blocks_run_in_the_callers_thread_so_that_a_debugger_can_step_into_them(tmp_path: Path) -> None:
    seen: set[tuple[int, int]] = set()
    report = bellis.run(
        line(lambda _: seen.add((os.getpid(), threading.get_ident())), 5), "inline", progress=False, log_dir=tmp_path
    )
    assert report.ok
    assert seen == {(os.getpid(), threading.get_ident())}


def test_what_blocks_print_goes_where_the_programs_own_output_goes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bellis.run(line(lambda block: print(block.index), 3), "inline", progress=False, log_dir=tmp_path / "logs")  # noqa: T201
    assert capsys.readouterr().out.split() == ["0", "1", "2"]
    assert not (tmp_path / "logs").exists()


def test_a_function_that_can_not_travel_runs_inline(tmp_path: Path) -> None:
    lock = threading.Lock()
    notes = Notes(tmp_path / "notes")

    def work(block: bellis.Block) -> None:
        with lock:
            notes.add(block.index)

    assert bellis.run(line(work, 5), "inline", progress=False).ok
    assert len(notes.lines()) == 5
