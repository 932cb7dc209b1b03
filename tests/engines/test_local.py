"""The local engine: worker processes on this machine."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from time import sleep
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pytest

import bellis
from bellis.errors import BellisError, EngineError
from bellis.runtime.crew import THREAD_LIMITS
from bellis.runtime.events import TaskProgress, WorkerLost
from bellis.testing.blocks import Notes, Recorder, line, noting, until
from bellis.testing.engines import EngineTests

if TYPE_CHECKING:
    from pathlib import Path

    from bellis import Block, RunReport

pytestmark = [pytest.mark.integration, pytest.mark.slow]
MARK = "BELLIS_TEST_MARK"


class TestLocalEngine(EngineTests):
    def engine(self) -> str:
        return "local"


@pytest.fixture
def notes(tmp_path: Path) -> Notes:
    return Notes(tmp_path / "notes")


@pytest.fixture
def run(tmp_path: Path) -> Any:
    def run(tasks: Any, **options: Any) -> RunReport:
        return bellis.run(tasks, **{"workers": 2, "progress": False, "log_dir": tmp_path / "logs", **options})

    return run


def nurseries() -> list[psutil.Process]:
    found = []
    for child in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):
            if "bellis.runtime.nursery" in " ".join(child.cmdline()):
                found.append(child)
    return found


def workers() -> list[psutil.Process]:
    """Return all processes that run a worker's code, whoever their parent is now."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(MARK) == str(os.getpid()) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


@pytest.fixture(autouse=True)
def _mark(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MARK, str(os.getpid()))


def kill_nursery() -> None:
    for process in nurseries():
        process.kill()


# Leases ------------------------------------------------------------------------------------------------------------


def test_a_worker_in_a_long_block_gives_away_the_rest_of_its_lease(run: Any, notes: Notes) -> None:
    def work(block: Block) -> None:
        if block.index == 200:  # without help from the other worker it would wait in vain
            until(lambda: len(notes.lines()) == 399, "all other blocks", deadline_s=15)
        else:
            sleep(0.001)
        notes.add(block.index)

    report = run(line(work, 400, max_retries=0))
    assert report.failures == ()
    assert sorted(map(int, notes.lines())) == list(range(400))


def test_a_finished_block_is_reported_while_the_next_of_its_lease_runs_if_others_wait_for_it(
    run: Any, notes: Notes
) -> None:
    def first(block: Block) -> None:
        if block.index % 100 == 99:
            until(lambda: notes.count(block.index - 1), "what reads the block before", deadline_s=10)

    upstream = line(first, 300, task_id="first", num_workers=1, max_retries=0)
    downstream = line(noting(notes), 300, task_id="second", num_workers=1, upstream_tasks=[upstream])
    report = run(downstream)
    assert report.failures == ()
    assert report.ok


def test_a_block_runs_twice_only_if_its_worker_died_in_it(run: Any, notes: Notes) -> None:
    def work(block: Block) -> None:
        notes.add(block.index)
        if block.index in {50, 1000, 1999} and notes.count(block.index) == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    report = run(line(work, 2000))
    assert report.ok
    assert Counter(notes.lines()) == {str(n): 2 if n in {50, 1000, 1999} else 1 for n in range(2000)}


@pytest.mark.timeout(15)
def test_a_program_that_is_large_reaches_a_worker_that_sends_much(run: Any) -> None:
    large = np.zeros(4_000_000, np.uint8)

    def much(block: Block) -> bytes:
        sleep(0.001)
        return bytes(400_000)

    def little(block: Block) -> None:
        assert not large.any()

    report = run(
        line(much, 60, task_id="much", results=True, priority=1) | line(little, 60, task_id="little"), workers=1
    )
    assert report.ok


# Workers -----------------------------------------------------------------------------------------------------------


def test_all_tasks_of_a_run_share_its_workers(run: Any, notes: Notes) -> None:
    def work(block: Block) -> None:
        notes.add(os.getpid())
        sleep(0.002)

    first = line(work, 20, task_id="first")
    assert run(line(work, 20, task_id="second", upstream_tasks=[first]) | line(work, 20, task_id="third")).ok
    assert len(set(notes.lines())) == 2
    assert str(os.getpid()) not in notes.lines()


def test_libraries_use_one_thread_in_a_worker_unless_the_environment_says_else(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in THREAD_LIMITS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MKL_NUM_THREADS", "3")
    report = run(line(lambda _: [os.environ[name] for name in THREAD_LIMITS], 1, results=True))
    assert report.results("task")[0] == ["3" if name == "MKL_NUM_THREADS" else "1" for name in THREAD_LIMITS]


def test_a_run_says_how_much_memory_its_workers_used(run: Any) -> None:
    report = run(line(lambda _: len(b"x" * 300_000_000), 4))
    assert report.tasks["task"].peak_memory_bytes > 300_000_000


def test_workers_find_the_modules_that_the_program_finds(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_own_module.py").write_text("def answer(block):\n    return 42\n")
    monkeypatch.syspath_prepend(tmp_path)

    def work(block: Block) -> int:
        import my_own_module

        return int(my_own_module.answer(block))

    assert run(line(work, 3, results=True)).results("task") == {0: 42, 1: 42, 2: 42}


def test_the_run_goes_on_when_the_process_that_starts_workers_is_killed(run: Any, notes: Notes) -> None:
    def work(block: Block) -> None:
        sleep(0.002)
        notes.add(block.index)

    recorder = Recorder({TaskProgress: kill_nursery})
    report = run(line(work, 200), observers=[recorder])
    assert report.ok
    assert recorder.of(WorkerLost)
    assert set(map(int, notes.lines())) == set(range(200))
    assert nurseries() == []


def test_a_run_whose_workers_can_not_be_started_ends_with_an_error(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "cloudpickle.py").write_text("raise ImportError('this installation is broken')\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "broken"), *sys.path])
    with pytest.raises(EngineError, match="ended"):
        run(line(lambda _: None, 10))
    assert "this installation is broken" in capfd.readouterr().err
    assert nurseries() == []


def test_workers_are_gone_when_a_run_returns_so_that_it_can_be_run_again_at_once(run: Any, tmp_path: Path) -> None:
    def work(block: Block) -> None:
        if block.index:
            large = b"x" * (400 << 20)  # the end of a process takes as long as freeing its memory
            sleep(600)
            del large

    def interrupt() -> None:
        until(lambda: any(child.memory_info().rss > 400 << 20 for child in workers()), "a large worker")
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    recorder = Recorder({TaskProgress: interrupt})
    task = line(work, 3)
    assert run(task, journal=tmp_path / "journal", observers=[recorder]).interrupted
    assert workers() == []
    quick = replace(task, process_function=noting(Notes(tmp_path / "notes")))
    assert run(quick, journal=tmp_path / "journal", on_changed="keep").ok


@pytest.mark.timeout(15)
def test_a_setup_that_ends_its_worker_stops_the_task(run: Any) -> None:
    bad = line(lambda _: None, 20, task_id="bad", setup=lambda: os._exit(3))
    report = run(bad | line(lambda _: None, 20, task_id="good"))
    assert "exited with code 3" in (report.tasks["bad"].stopped or "")
    assert report.tasks["good"].counts.completed == 20


@pytest.mark.timeout(15)
def test_a_log_directory_that_can_not_be_written_is_an_error_that_names_it(run: Any, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BellisError, match=re.escape(str(tmp_path / "file"))):
        run(line(lambda _: None, 20), log_dir=tmp_path / "file")


def test_an_engine_that_was_used_can_be_used_again(run: Any) -> None:
    from bellis.engines.local import LocalEngine

    engine = LocalEngine()
    task = line(lambda block: block.index, 10, results=True)
    assert run(task, engine=engine).ok
    assert run(task, engine=engine).ok
