"""The Dask engine, when processes of the cluster are killed."""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import sys
import threading
from collections import Counter
from contextlib import suppress
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from distributed import Status, Worker

import bellis
from bellis.engines.dask import DaskEngine
from bellis.errors import EngineError
from bellis.runtime.events import Message, TaskProgress, WorkerLost
from bellis.testing.blocks import Notes, Recorder, line, noting, until
from dask_cluster import Cluster, running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from bellis import Block, RunReport

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(60)]


@pytest.fixture
def notes(tmp_path: Path) -> Notes:
    return Notes(tmp_path / "notes")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with running(tmp_path, 2) as cluster:
        yield cluster


def run(cluster: Cluster, tasks: Any, folder: Path, **options: Any) -> RunReport:
    given = {"progress": False, "log_dir": folder / "logs", **options}
    return bellis.run(tasks, DaskEngine(cluster.address), **given)


def slow(notes: Notes, seconds: float = 0.01) -> Callable[[Block], None]:
    def work(block: Block) -> None:
        sleep(seconds)
        notes.add(block.index)

    return work


@pytest.fixture
def logged() -> Iterator[Callable[[str], list[logging.LogRecord]]]:
    """Return what is logged from now on."""
    handlers: list[tuple[logging.Logger, logging.Handler]] = []

    def hear(name: str) -> list[logging.LogRecord]:
        records: list[logging.LogRecord] = []
        handler = logging.Handler()
        handler.emit = records.append  # type: ignore[method-assign]
        logging.getLogger(name).addHandler(handler)
        handlers.append((logging.getLogger(name), handler))
        return records

    yield hear
    for logger, handler in handlers:
        logger.removeHandler(handler)


def dask_worker() -> psutil.Process:
    """Return, in a block, the Dask worker that it runs on."""
    return next(one for one in psutil.Process().parents() if "bellis.runtime" not in " ".join(one.cmdline()))


def test_blocks_of_a_dask_worker_that_is_killed_run_on_others(cluster: Cluster, notes: Notes, tmp_path: Path) -> None:
    def work(block: Block) -> None:
        sleep(0.01)
        notes.add(block.index)
        if block.index == 100 and notes.count(100) == 1:
            dask_worker().kill()
            sleep(60)

    recorder = Recorder()
    report = run(cluster, line(work, 300), tmp_path, observers=[recorder])
    assert report.ok
    counts = Counter(map(int, notes.lines()))
    assert set(counts) == set(range(300))
    assert sum(counts.values()) < 400  # what was reported before the loss was not run again
    (lost,) = recorder.of(WorkerLost)
    assert re.fullmatch(r"tcp://127.0.0.1:\d+", lost.worker)
    until(lambda: len(cluster.processes("cli.dask_worker")) == 1, "the end of the killed worker's processes")


def test_blocks_of_a_dask_worker_whose_nanny_is_killed_run_on_others_and_nothing_of_it_is_left(
    notes: Notes, tmp_path: Path
) -> None:
    with running(tmp_path, 1, nanny=True) as cluster:
        other = cluster.worker()  # without a nanny
        recorder = Recorder({TaskProgress: lambda: nannies[0].kill()})
        nannies = [one for one in cluster.processes("--nanny") if one.pid != other.pid]
        report = run(cluster, line(slow(notes), 300), tmp_path, observers=[recorder])
        until(lambda: len(cluster.processes("distributed")) == 2, "the end of what the nanny had started")
    assert report.ok
    assert set(map(int, notes.lines())) == set(range(300))


def test_a_block_that_ends_its_machine_again_and_again_fails_and_the_others_do_not(
    notes: Notes, tmp_path: Path
) -> None:
    def work(block: Block) -> None:
        notes.add(dask_worker().pid)
        if block.index == 10:
            dask_worker().kill()
            sleep(60)

    with running(tmp_path, 2, nanny=True) as cluster:  # which starts another process for each that is killed
        report = run(cluster, line(work, 12, max_retries=0), tmp_path)
    assert [failure.index for failure in report.failures] == [10]
    assert re.search(r"whenever it ran this block; .* the Dask worker tcp://\S+ was lost", report.failures[0].error)
    assert report.tasks["task"].counts.completed == 11
    assert len(set(notes.lines())) > 2


def test_a_block_that_runs_after_two_machines_were_lost_under_it_has_not_failed(notes: Notes, tmp_path: Path) -> None:
    def work(block: Block) -> None:
        notes.add(block.index)
        if block.index == 3 and notes.count(3) <= 2:
            dask_worker().kill()
            sleep(60)

    with running(tmp_path, 1, nanny=True) as cluster:
        report = run(cluster, line(work, 5, max_retries=0), tmp_path)
    assert report.ok
    assert notes.count(3) == 3


def test_a_run_whose_scheduler_is_killed_says_how_to_go_on_and_does_when_there_is_another(
    cluster: Cluster, notes: Notes, tmp_path: Path, logged: Callable[[str], list[logging.LogRecord]]
) -> None:
    task = line(slow(notes), 200)
    recorder = Recorder({TaskProgress: cluster.scheduler.kill})
    printed = logged("distributed.client")
    began = monotonic()
    with pytest.raises(EngineError, match=r"connection to the Dask scheduler .* run the same again"):
        run(cluster, task, tmp_path, journal=tmp_path / "journal", observers=[recorder])
    assert monotonic() - began < 30
    assert [record for record in printed if record.levelno >= logging.ERROR] == []
    until(lambda: cluster.kernels() == [], "the end of all kernels", deadline_s=10)
    (tmp_path / "other").mkdir()
    with running(tmp_path / "other", 1) as other:
        report = run(other, task, tmp_path, journal=tmp_path / "journal")
    assert report.ok
    assert report.tasks["task"].counts.skipped > 0


def test_what_a_killed_program_left_on_the_cluster_ends_by_itself(
    cluster: Cluster, notes: Notes, tmp_path: Path
) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, time, bellis\n"
        "from bellis.engines.dask import DaskEngine\n"
        "from bellis.testing.blocks import Notes, line\n"
        "from pathlib import Path\n"
        "notes, cure = Notes(Path(sys.argv[3])), Path(sys.argv[4])\n"
        "def work(block):\n"
        "    notes.add(block.index)\n"
        "    time.sleep(600 if block.index > 5 and not cure.exists() else 0)\n"
        "task = line(work, 50)\n"
        "report = bellis.run(task, DaskEngine(sys.argv[1]), journal=sys.argv[2], progress=False)\n"
        "assert report.ok and report.tasks['task'].counts.skipped in {0, 6}, report.tasks\n"
    )
    arguments = [sys.executable, str(script), cluster.address, str(tmp_path / "journal")]
    arguments += [str(notes.path), str(tmp_path / "cure")]
    driver = subprocess.Popen(arguments)
    until(lambda: len(notes.lines()) >= 8, "blocks that hang")
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    until(lambda: cluster.kernels() == [], "the end of all kernels", deadline_s=10)
    (tmp_path / "cure").touch()
    subprocess.run(arguments, check=True, timeout=30)


def test_a_dask_worker_that_leaves_as_planned_finishes_its_block(
    cluster: Cluster, notes: Notes, tmp_path: Path
) -> None:
    retired = tmp_path / "retired"

    def work(block: Block) -> None:
        notes.add(block.index)
        if block.index == 30:
            until(retired.exists, "the worker to be told to leave")
            sleep(0.5)
        sleep(0.01)

    def leave() -> None:
        with cluster.client() as client:
            until(lambda: notes.count(30), "block 30")
            by_pid = client.run(os.getpid)
            found = [one.pid for kernel in cluster.kernels() for one in kernel.parents()]
            leaving = [address for address, pid in by_pid.items() if pid in found][:1]
            retired.touch()
            client.retire_workers(leaving)

    thread = threading.Thread(target=leave)
    recorder = Recorder({TaskProgress: thread.start})
    report = run(cluster, line(work, 100, max_retries=0), tmp_path, observers=[recorder])
    thread.join(10)
    assert report.failures == ()
    assert report.ok
    assert Counter(notes.lines()) == {str(index): 1 for index in range(100)}
    assert recorder.of(WorkerLost) == []


def test_a_dask_worker_that_leaves_in_its_first_block_finishes_it_before_its_neighbour_begins(
    cluster: Cluster, notes: Notes, tmp_path: Path
) -> None:
    def work(block: Block) -> None:
        notes.add(f"begin {block.index} {dask_worker().pid}")
        sleep(3 if len(notes.lines()) == 1 else 0.01)
        notes.add(f"end {block.index} {dask_worker().pid}")

    def leave() -> None:
        (begun,) = until(notes.lines, "the first block")
        sleep(0.5)
        with cluster.client() as client:
            pids = client.run(os.getpid)
            client.retire_workers([address for address, pid in pids.items() if pid == int(begun.split()[2])])

    thread = threading.Thread(target=leave)
    thread.start()
    recorder = Recorder()
    task = line(work, 2, read_write_conflict=True, context=(1, 1), max_retries=0)
    report = run(cluster, task, tmp_path, observers=[recorder])
    thread.join(20)
    assert report.ok
    order = [one.rpartition(" ")[0] for one in notes.lines()]
    assert order in (["begin 0", "end 0", "begin 1", "end 1"], ["begin 1", "end 1", "begin 0", "end 0"])
    assert recorder.of(WorkerLost) == []


def test_what_a_paused_dask_worker_has_not_begun_runs_on_others(cluster: Cluster, notes: Notes, tmp_path: Path) -> None:
    def pause() -> None:
        with cluster.client() as client:
            client.run(paused, workers=sorted(client.scheduler_info()["workers"])[:1])

    recorder = Recorder({TaskProgress: pause})
    report = run(cluster, line(slow(notes, 0.05), 60, num_workers=2, max_retries=0), tmp_path, observers=[recorder])
    assert report.ok
    assert Counter(notes.lines()) == {str(index): 1 for index in range(60)}


def paused(dask_worker: Worker) -> None:
    dask_worker.status = Status.paused


def test_an_interrupt_while_nobody_is_there_ends_the_run_at_once(notes: Notes, tmp_path: Path) -> None:
    interrupted: list[float] = []

    def interrupt() -> None:
        interrupted.append(monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    with running(tmp_path, 0) as cluster:
        report = run(cluster, line(noting(notes), 5), tmp_path, observers=[Recorder({Message: interrupt})])
        assert monotonic() - interrupted[0] < 3
    assert report.interrupted
    assert notes.lines() == []


def test_what_a_worker_says_after_the_end_of_a_run_is_forgotten(cluster: Cluster, tmp_path: Path) -> None:
    report = run(cluster, line(lambda _: None, 5), tmp_path)
    with cluster.client() as client:
        client.log_event(f"bellis-{report.run_id}", {"bye": True})
        assert client.run_on_scheduler(topics) != []
        until(lambda: client.run_on_scheduler(topics) == [], "the scheduler to forget")


def topics(dask_scheduler: Any) -> list[str]:
    return [name for name in dask_scheduler._broker._topics if name.startswith("bellis")]


def test_a_dask_worker_that_joins_is_used(notes: Notes, tmp_path: Path) -> None:
    def work(block: Block) -> str:
        sleep(0.02)
        return str(dask_worker().pid)

    with running(tmp_path, 1) as cluster:
        recorder = Recorder({TaskProgress: cluster.worker})
        report = run(cluster, line(work, 150, results=True), tmp_path, observers=[recorder])
    assert report.ok
    assert len(set(report.results("task").values())) == 2
    assert report.workers == 2


def test_a_run_waits_for_the_first_worker_and_says_so(notes: Notes, tmp_path: Path) -> None:
    with running(tmp_path, 0) as cluster:
        recorder = Recorder({Message: cluster.worker})
        report = run(cluster, line(noting(notes), 50), tmp_path, observers=[recorder])
    assert report.ok
    assert any("waiting for workers" in event.text for event in recorder.of(Message))
    with suppress(psutil.Error):
        assert cluster.kernels() == []
