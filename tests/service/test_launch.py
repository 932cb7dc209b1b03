"""Worker functions are started where their client finds its run, watched, and ended with all that they started."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from time import sleep
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from bellis.errors import FunctionError
from bellis.planning.grid import BlockGrid
from bellis.runtime.lease import Lease, Outcome, Report
from bellis.runtime.program import Program
from bellis.service.client import Client
from bellis.service.context import Context
from bellis.service.launch import Ended, Launcher
from bellis.testing.blocks import Belongings, Notes, line, until
from service_rig import is_gone, rig

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = [pytest.mark.integration, pytest.mark.slow]


class Stage:
    """A launcher, and what it says."""

    def __init__(self, folder: Path, function: Callable[[], Any], **options: Any) -> None:
        task = line(function, 10, worker_function=True, **options)
        self.log_dir = folder / "logs"
        self.ended: list[Ended] = []
        programs = [Program.of(0, task, BlockGrid.of(task))]
        self.launcher = Launcher(programs, log_dir=self.log_dir, tell=self.ended.append)

    def end(self) -> Ended:
        """Wait for the end of a launch."""
        until(lambda: self.ended, "the launch ends")
        return self.ended.pop(0)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Callable[..., Stage]]:
    made: list[Stage] = []

    def make(function: Callable[[], Any], **options: Any) -> Stage:
        made.append(Stage(tmp_path, function, **options))
        return made[-1]

    yield make
    for each in made:
        each.launcher.close()


def test_a_function_finds_its_context_in_both_variables(stage: Any, tmp_path: Path) -> None:
    notes = Notes(tmp_path / "notes")

    def work() -> None:
        found = Context.from_env()
        assert Context.parse(os.environ["DAISY_CONTEXT"]) == found
        notes.add(f"{found['launched']} {found['worker_id']} {found['any']}")
        assert found["logdir"] == str(tmp_path / "logs")

    there = stage(work)
    context = Context(any="ü : =", port=1)
    assert [there.launcher.launch("task", context) for _ in range(3)] == [1, 2, 3]
    assert sorted((there.end() for _ in range(3)), key=lambda ended: ended.number) == [
        Ended(number, "task", None) for number in (1, 2, 3)
    ]
    assert sorted(notes.lines()) == [f"{number} {number} ü : =" for number in (1, 2, 3)]
    assert "launched" not in context
    assert "BELLIS_CONTEXT" not in os.environ


def test_what_it_prints_carries_the_number_of_the_block_that_its_client_has(stage: Any) -> None:
    def work() -> None:
        print("begins")  # noqa: T201
        client = Client()
        while True:
            with client.acquire_block() as block:
                if block is None:
                    return
                print("has it")  # noqa: T201

    with rig() as service:
        service.lease(4, 5)
        there = stage(work)
        there.launcher.launch("task", service.context)
        until(lambda: service.is_finished(1), "the lease ends")
        with service.server.board() as board:
            board.drain()
        assert there.end().error is None
        until(lambda: service.board.workers == 0, "its client has left")
    lines = (there.log_dir / "task" / "worker-0.log").read_text().splitlines()
    assert [text[9:] for text in lines] == ["block 1 | begins", "block 5 | has it", "block 6 | has it"]


def test_how_a_function_ended_is_told(stage: Any) -> None:
    def work() -> None:
        print("look here")  # noqa: T201
        raise ValueError("no licence")

    there = stage(work)
    there.launcher.launch("task", Context())
    ended = there.end()
    assert ended.error is not None
    assert "ValueError: no licence" in ended.error
    assert ended.error.count('File "') == 1  # its own line, and no frame of bellis
    assert ended.output.endswith("| look here")


def test_how_its_process_died_is_told(stage: Any) -> None:
    there = stage(lambda: os.kill(os.getpid(), 9))
    there.launcher.launch("task", Context())
    assert "SIGKILL" in (there.end().error or "")
    there.launcher.launch("task", Context())
    assert there.end().number == 2


def test_a_kill_ends_what_it_started_too(stage: Any, tmp_path: Path) -> None:
    notes = Notes(tmp_path / "notes")

    def work() -> None:
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        notes.add(child.pid)
        sleep(60)

    there = stage(work)
    number = there.launcher.launch("task", Context())
    until(notes.lines, "it runs")
    there.launcher.kill(number, "it took too long")
    assert there.end() == Ended(number, "task", "it took too long", "")
    until(lambda: is_gone(int(notes.lines()[0])), "its child has ended")


def test_a_setup_that_raises_is_how_it_ended(stage: Any) -> None:
    def prepare() -> None:
        raise OSError("no disk")

    there = stage(lambda: None, setup=prepare)
    there.launcher.launch("task", Context())
    assert "OSError: no disk" in (there.end().error or "")


def test_a_function_that_can_not_travel_is_an_error_at_once(stage: Any) -> None:
    lock = threading.Lock()
    with pytest.raises(FunctionError, match="captures variable 'lock'"):
        stage(lambda: lock)


def test_checks_run_elsewhere_before_and_after(stage: Any, tmp_path: Path) -> None:
    notes = Notes(tmp_path / "notes")

    def is_done(block: Any) -> bool:
        notes.add(os.getpid())
        return bool(block.index % 2)

    there = stage(lambda: None, check_function=is_done)
    reports: list[Report] = []
    lease = Lease(7, "task", np.array([1, 2, 3, 4], np.int64))

    def outcomes() -> bytes:
        until(lambda: reports and reports[-1].finished, "the check ends")
        assert {report.lease_id for report in reports} == {7}
        return b"".join(report.outcomes for report in reports)

    there.launcher.check(lease, "before", reports.append)
    assert outcomes() == bytes([Outcome.SKIPPED, Outcome.SUCCESS] * 2)
    reports.clear()
    there.launcher.check(lease, "after", reports.append)
    assert outcomes() == bytes([Outcome.SUCCESS, Outcome.FAILED] * 2)
    assert "is not done" in next(text for report in reports for text in report.errors.values())
    assert str(os.getpid()) not in notes.lines()


def test_a_check_that_can_not_be_loaded_says_why(stage: Any) -> None:
    def prepare() -> None:
        raise OSError("no disk")

    there = stage(lambda: None, check_function=bool, setup=prepare)
    reports: list[Report] = []
    there.launcher.check(Lease(1, "task", np.array([1], np.int64)), "before", reports.append)
    until(lambda: reports and reports[-1].finished, "the check ends")
    assert "no disk" in (reports[-1].crash or "")


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    before = Belongings()
    there = Stage(tmp_path, lambda: sleep(60), check_function=bool)
    there.launcher.launch("task", Context())
    there.launcher.check(Lease(1, "task", np.array([1], np.int64)), "before", lambda _: None)
    until(lambda: len(Belongings().children) >= len(before.children) + 3, "it runs")
    there.launcher.close()
    there.launcher.close()
    assert Belongings().since(before) == []
    assert there.ended == []
    assert not there.log_dir.exists()
