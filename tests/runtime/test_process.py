"""A worker process, as its run sees it: messages in, messages out, and a log."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from time import sleep
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pytest

from bellis.planning.grid import BlockGrid
from bellis.runtime.lease import Outcome
from bellis.runtime.messages import LoadFailed, LoadProgram, Reported, RunLease, decode_from_worker, encode
from bellis.runtime.program import Program
from bellis.testing.blocks import DEADLINE_S, Notes, line, until
from runtime.test_nursery import Tended, is_gone

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.connection import Connection
    from pathlib import Path

    from bellis.tasks import Block

pytestmark = [pytest.mark.integration, pytest.mark.slow]


class Worker:
    """A worker and the channel to it."""

    def __init__(self, nursery: Tended) -> None:
        self.nursery = nursery
        self.pid: int
        self.channel: Connection
        self.pid, self.channel = nursery.worker(0)

    def load(self, function: Any, number: int = 0, **options: Any) -> None:
        task = line(function, 100, **options)
        payload = Program.of(number, task, BlockGrid.of(task)).dumps()
        self.channel.send_bytes(encode(LoadProgram(number, task.task_id, payload)))

    def lease(self, *indices: int, number: int = 0, lease_id: int = 1) -> None:
        self.channel.send_bytes(encode(RunLease(lease_id, number, np.array(indices, np.int64).tobytes())))

    def hear(self) -> Any:
        assert self.channel.poll(DEADLINE_S), "the worker says nothing"
        return decode_from_worker(self.channel.recv_bytes())

    def outcomes(self) -> list[Outcome]:
        """Return what is said until a lease is finished."""
        found: list[Outcome] = []
        while True:
            report = self.hear()
            assert isinstance(report, Reported)
            found += map(Outcome, report.outcomes)
            if report.finished:
                return found


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    nursery = Tended(tmp_path / "logs")
    yield Worker(nursery)
    nursery.close()


def test_it_runs_leases_of_the_programs_that_it_was_given(worker: Worker) -> None:
    worker.load(lambda block: block.index, 0, task_id="first", results=True)
    worker.load(lambda block: -block.index, 1, task_id="second", results=True)
    worker.lease(3, 4, number=1, lease_id=7)
    report = worker.hear()
    assert (report.lease_id, report.finished) == (7, True)
    assert report.results == {0: b"\xfd", 1: b"\xfc"}
    assert report.peak_memory_bytes > 10_000_000
    worker.lease(3, number=0, lease_id=8)
    assert worker.hear().results == {0: b"\x03"}


def test_a_program_that_can_not_be_loaded_is_said_and_its_leases_are_left_out(worker: Worker) -> None:
    def setup() -> None:
        raise OSError("no such licence")

    worker.load(print, 0, setup=setup)
    worker.lease(1)
    worker.load(lambda block: None, 1, task_id="good")
    worker.lease(2, number=1, lease_id=9)
    failed = worker.hear()
    assert isinstance(failed, LoadFailed)
    assert failed.number == 0
    assert "no such licence" in failed.error
    assert worker.hear().lease_id == 9


def test_a_program_whose_modules_are_missing_in_the_worker_is_said(worker: Worker) -> None:
    class Pickled:
        def __reduce__(self) -> Any:
            return __import__, ("no_such_module_at_all",)

    missing = Pickled()
    worker.load(lambda block: missing)
    assert "ModuleNotFoundError: No module named 'no_such_module_at_all'" in worker.hear().error


def test_a_setup_that_exits_is_a_program_that_can_not_be_loaded(worker: Worker) -> None:
    worker.load(print, setup=lambda: sys.exit(3))
    assert "sys.exit(3)" in worker.hear().error


def test_a_forked_child_that_returns_neither_reports_nor_runs_blocks(worker: Worker, tmp_path: Path) -> None:
    notes = Notes(tmp_path / "notes")

    def work(block: Block) -> None:
        if block.index == 1:
            os.fork()
        notes.add(block.index)

    worker.load(work)
    worker.lease(0, 1, 2, 3)
    assert worker.outcomes() == [Outcome.SUCCESS] * 4
    until(lambda: len(notes.lines()) == 5, "the end of the child")
    assert sorted(notes.lines()) == ["0", "1", "1", "2", "3"]
    assert not worker.channel.poll(0.05)
    until(lambda: not psutil.Process(worker.pid).children() or is_zombie(worker), "the end of the child")


def is_zombie(worker: Worker) -> bool:
    return all(child.status() == psutil.STATUS_ZOMBIE for child in psutil.Process(worker.pid).children())


def test_a_forked_child_that_raises_reports_nothing(worker: Worker) -> None:
    def work(block: Block) -> None:
        if os.fork() == 0:
            raise ValueError("the child")
        os.wait()

    worker.load(work)
    worker.lease(0, 1)
    assert worker.outcomes() == [Outcome.SUCCESS] * 2


def test_what_a_worker_started_ends_with_it(worker: Worker, tmp_path: Path) -> None:
    notes = Notes(tmp_path / "notes")

    def work(block: Block) -> None:
        notes.add(subprocess.Popen(["sleep", "600"]).pid)

    worker.load(work)
    worker.lease(0)
    worker.outcomes()
    (pid,) = map(int, notes.lines())
    assert psutil.pid_exists(pid)
    worker.channel.close()
    assert worker.nursery.ended()[0] == worker.pid
    until(lambda: is_gone(pid), "its end")


def test_a_worker_ends_though_a_block_runs_when_the_run_is_gone(worker: Worker) -> None:
    worker.load(lambda _: sleep(600))
    worker.lease(0)
    worker.nursery.control.shutdown(socket.SHUT_RDWR)
    until(lambda: is_gone(worker.pid), "the end of the worker")


def test_an_error_in_the_worker_itself_ends_it_and_is_in_a_log(worker: Worker, tmp_path: Path) -> None:
    worker.load(print)
    worker.lease(0)
    worker.outcomes()
    worker.channel.send_bytes(b"garbage")
    pid, status = worker.nursery.ended()
    assert (pid, os.waitstatus_to_exitcode(status)) == (worker.pid, 1)
    (log,) = (tmp_path / "logs").rglob("worker-0.log")
    assert "DecodeError" in log.read_text() or "ValidationError" in log.read_text()


def test_a_crash_leaves_a_traceback_in_the_log(worker: Worker, tmp_path: Path) -> None:
    def work(block: Block) -> None:
        import ctypes

        ctypes.string_at(0)

    worker.load(work)
    worker.lease(0)
    assert os.WIFSIGNALED(worker.nursery.ended()[1])
    (log,) = (tmp_path / "logs").rglob("worker-0.log")
    assert "Segmentation fault" in log.read_text()
    assert "in work" in log.read_text()
