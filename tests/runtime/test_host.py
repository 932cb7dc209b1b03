"""A host: leases that come from elsewhere, on worker processes of this machine."""

from __future__ import annotations

import os
import signal
import threading
from queue import Empty, SimpleQueue
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from bellis.planning.grid import BlockGrid
from bellis.runtime.engine import ProgramRefused, WorkerEnded
from bellis.runtime.host import MOST_OUTPUT_BYTES, Host
from bellis.runtime.lease import Lease, Outcome, Report
from bellis.runtime.program import PackedProgram, Program
from bellis.testing.blocks import Belongings, Notes, line, noting, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from bellis import Block

pytestmark = [pytest.mark.integration, pytest.mark.slow]
WAIT_S = 20.0


@pytest.fixture
def notes(tmp_path: Path) -> Notes:
    return Notes(tmp_path / "notes")


@pytest.fixture
def host() -> Iterator[Host]:
    host = Host(2)
    yield host
    host.close()


def packed(function: Any, blocks: int = 100, *, number: int = 0, **options: Any) -> PackedProgram:
    task = line(function, blocks, **{"task_id": f"task {number}", **options})
    return Program.of(number, task, BlockGrid.of(task)).packed()


class Told:
    """What was told of leases."""

    def __init__(self) -> None:
        self.events: SimpleQueue[Any] = SimpleQueue()
        self.reports: list[Report] = []
        self.others: list[Any] = []

    def __call__(self, event: Any) -> None:
        self.events.put(event)

    def wait(self, finished: int = 1) -> list[Report]:
        """Wait until so many leases have finished; return all reports."""
        until_s = monotonic() + WAIT_S
        while sum(report.finished for report in self.reports) < finished:
            try:
                event = self.events.get(timeout=max(0.0, until_s - monotonic()))
            except Empty:
                raise AssertionError(f"{finished} leases did not finish: {self.reports} {self.others}") from None
            (self.reports if isinstance(event, Report) else self.others).append(event)
        return self.reports

    def outcomes(self, lease_id: int, size: int) -> list[int]:
        known = [0] * size
        for report in self.reports:
            if report.lease_id == lease_id:
                for at, outcome in enumerate(report.outcomes, report.begin):
                    known[at] = known[at] or outcome
        return known


def lease(number: int, begin: int, end: int, *, task: int = 0) -> Lease:
    return Lease(number, f"task {task}", np.arange(begin, end))


def test_leases_are_run_and_told_to_whoever_brought_them(host: Host, notes: Notes) -> None:
    first, second = Told(), Told()
    host.add(packed(noting(notes)))
    host.submit(lease(1, 0, 10), first)
    host.submit(lease(2, 10, 30), second)
    first.wait()
    second.wait()
    assert {report.lease_id for report in first.reports} == {1}
    assert {report.lease_id for report in second.reports} == {2}
    assert first.outcomes(1, 10) == [Outcome.SUCCESS] * 10
    assert sorted(map(int, notes.lines())) == list(range(30))


def test_leases_may_be_brought_by_many_threads_at_once(host: Host, notes: Notes) -> None:
    host.add(packed(noting(notes), 800))
    told = [Told() for _ in range(8)]

    def bring(at: int) -> None:
        for k in range(10):
            begin = (at * 10 + k) * 10
            host.submit(lease(1 + at * 10 + k, begin, begin + 10), told[at])

    threads = [threading.Thread(target=bring, args=(at,)) for at in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    for one in told:
        one.wait(10)
    assert sorted(map(int, notes.lines())) == list(range(800))


def test_what_blocks_print_comes_with_the_last_report_once(host: Host) -> None:
    def work(block: Block) -> None:
        print(f"here is {block.index}")  # noqa: T201

    host.add(packed(work))
    told = Told()
    for number in range(1, 4):
        host.submit(lease(number, number * 10, number * 10 + 10), told)
    printed = b"".join(report.output for report in told.wait(3)).decode()
    assert sorted(int(text.rpartition(" ")[2]) for text in printed.splitlines()) == list(range(10, 40))


def test_of_a_block_that_prints_without_end_only_the_ends_come(host: Host) -> None:
    def work(_: Block) -> None:
        print("begin")  # noqa: T201
        for _ in range(40):
            print("x" * 50_000)  # noqa: T201
        print("end")  # noqa: T201

    host.add(packed(work))
    told = Told()
    host.submit(lease(1, 0, 1), told)
    output = told.wait()[-1].output
    assert len(output) < MOST_OUTPUT_BYTES + 200
    assert b"begin" in output
    assert output.rstrip().endswith(b"end")
    assert b"bytes left out" in output


def test_a_worker_that_dies_costs_one_block_and_is_told(host: Host) -> None:
    def work(block: Block) -> None:
        if block.index == 5:
            os.kill(os.getpid(), signal.SIGKILL)

    host.add(packed(work))
    told = Told()
    host.submit(lease(1, 0, 10), told)
    told.wait()
    assert told.outcomes(1, 10) == [1, 1, 1, 1, 1, Outcome.FAILED, *[Outcome.LOST] * 4]
    assert [type(event) for event in told.others] == [WorkerEnded]
    assert "SIGKILL" in told.others[0].reason


def test_a_task_that_cannot_be_loaded_is_told_to_each_of_its_leases(host: Host) -> None:
    def prepare() -> None:
        raise OSError("no such licence")

    host.add(packed(print, setup=prepare))
    told = [Told(), Told()]
    for number, one in enumerate(told, 1):
        host.submit(lease(number, number, number + 1), one)
    for one in told:
        one.wait()
        assert [type(event) for event in one.others] == [ProgramRefused]
        assert "no such licence" in one.others[0].error


def test_a_cancelled_lease_ends_at_once_and_others_go_on(host: Host, notes: Notes) -> None:
    def work(block: Block) -> None:
        notes.add(block.index)
        if block.index == 0:
            sleep(60)

    host.add(packed(work))
    stuck, fine = Told(), Told()
    host.submit(lease(1, 0, 3), stuck)
    until(lambda: notes.count(0), "the long block")
    host.cancel(1, "nobody wants it")
    host.submit(lease(2, 10, 13), fine)
    stuck.wait()
    fine.wait()
    assert stuck.outcomes(1, 3) == [Outcome.FAILED, Outcome.LOST, Outcome.LOST]
    assert "nobody wants it" in stuck.reports[-1].errors[0]
    assert fine.outcomes(2, 3) == [1, 1, 1]


def test_a_drained_host_finishes_the_blocks_that_run_and_gives_back_the_rest(host: Host, notes: Notes) -> None:
    gate = notes.path.with_name("gate")

    def work(block: Block) -> None:
        notes.add(block.index)
        while not gate.exists():
            sleep(0.01)

    host.add(packed(work))
    told = Told()
    host.submit(lease(1, 0, 50), told)
    until(lambda: notes.lines(), "a block")
    host.drain()
    gate.touch()
    told.wait()
    done = told.outcomes(1, 50)
    assert done[0] == Outcome.SUCCESS
    assert len(notes.lines()) == done.count(Outcome.SUCCESS) < 50


def test_nothing_is_left_of_a_host_that_is_closed_while_it_works(notes: Notes, tmp_path: Path) -> None:
    def work(block: Block) -> None:
        notes.add(block.index)
        sleep(60)

    before = Belongings()
    host = Host(2, environment={"TMPDIR": str(tmp_path)})
    host.add(packed(work))
    host.submit(lease(1, 0, 3), Told())
    until(lambda: notes.lines(), "a block")
    began = monotonic()
    host.close()
    assert monotonic() - began < 10
    assert Belongings().since(before) == []


def test_logs_are_kept_where_a_folder_is_given(notes: Notes, tmp_path: Path) -> None:
    host = Host(1, log_dir=tmp_path / "logs")
    told = Told()
    try:
        host.add(packed(lambda _: print("kept")))  # noqa: T201
        host.submit(lease(1, 0, 1), told)
        told.wait()
    finally:
        host.close()
    assert told.reports[-1].output == b""
    assert [log.read_text().rpartition("| ")[2] for log in (tmp_path / "logs").glob("*/*.log")] == ["kept\n"]


def test_workers_have_what_is_given_for_their_environment() -> None:
    host = Host(1, environment={"BELLIS_TEST_HOST": "ü = 1"})
    told = Told()
    try:
        host.add(packed(lambda _: os.environ["BELLIS_TEST_HOST"], results=True))
        host.submit(lease(1, 0, 1), told)
        assert b"\xc3\xbc = 1" in told.wait()[-1].results[0]
    finally:
        host.close()
