"""The service as an engine: whole runs, with worker functions, light workers, and an engine beside."""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import os
import re
import signal
import socket
import stat
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import bellis
from bellis import Client
from bellis.api.engines import engine_named
from bellis.engines.inline import InlineEngine
from bellis.engines.local import LocalEngine
from bellis.errors import EngineError, FunctionError, TaskError
from bellis.runtime.events import Message, TaskStopped, WorkerLost
from bellis.service import lookout
from bellis.service.engine import ServiceEngine
from bellis.service.functions import why_unnamed
from bellis.tasks import Pipeline
from bellis.testing.blocks import Belongings, Notes, Recorder, interrupt_self, line, noting, until
from bellis.testing.crowd import crowd
from services import Raw, asking, request

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from bellis.runtime.engine import Capacity, EngineSetup
    from bellis.runtime.report import RunReport
    from bellis.tasks import Block, Task

pytestmark = [pytest.mark.integration, pytest.mark.slow]


def run(tmp_path: Path, *tasks: Task, **options: Any) -> RunReport:
    return bellis.run(Pipeline(tasks), **{"progress": False, "log_dir": tmp_path / "logs", **options})


class Crowded(ServiceEngine):
    """A service that light workers join, from a thread of this process."""

    def __init__(self, workers: int, block_s: float = 0.001, **options: Any) -> None:
        super().__init__(**options)
        self.workers, self.block_s = workers, block_s

    def start(self, setup: EngineSetup) -> Capacity:
        capacity = super().start(setup)
        work = crowd(self.url, self.keys.token, self.workers, self.block_s)
        self.thread = threading.Thread(target=lambda: asyncio.run(work), name="crowd")
        self.thread.start()
        self.mode = stat.S_IMODE(self.keys.token_file.stat().st_mode)
        return capacity

    def close(self) -> None:
        super().close()
        self.thread.join()


def named(block: Block) -> None:
    """Do nothing, at the top level of a module."""


def taking(notes: Notes, do: Callable[[Block], object] = lambda block: None) -> Callable[[], None]:
    """Return a worker function that notes each block that it takes."""

    def work() -> None:
        client = Client()
        while True:
            with client.acquire_block() as block:
                if block is None:
                    return
                notes.add(block.index)
                do(block)

    return work


def test_workers_that_join_share_the_blocks_and_nothing_is_left_afterwards(tmp_path: Path) -> None:
    before = Belongings()
    engine = Crowded(5, by_name=False)
    recorder = Recorder()
    report = run(tmp_path, line(lambda block: None, 300, num_workers=10), engine=engine, observers=[recorder])
    assert (report.ok, report.tasks["task"].counts.completed, report.workers) == (True, 300, 5)
    assert engine.mode == 0o600
    joining = f"bellis worker {engine.url} --token-file {engine.keys.token_file}"
    assert any(joining in message.text for message in recorder.of(Message))
    assert not engine.keys.folder.exists()
    assert Belongings().since(before) == []


def test_no_more_leases_are_made_than_the_user_wants_workers(tmp_path: Path) -> None:
    report = run(tmp_path, line(lambda block: None, 50, num_workers=10), engine=Crowded(5, by_name=False), workers=2)
    assert (report.ok, report.workers) == (True, 2)


def test_functions_without_a_name_are_refused_before_anything_is_started(tmp_path: Path) -> None:
    for function in (lambda block: None, functools.partial(named), noting(Notes(tmp_path / "notes"))):
        with pytest.raises(FunctionError, match=r"task 'task': .* its process function .*beside=LocalEngine"):
            run(tmp_path, line(function, 3), engine=ServiceEngine())
    with pytest.raises(FunctionError, match="its post function"):
        run(tmp_path, line(os.path.exists, 3, check_function=(None, lambda block: True)), engine=ServiceEngine())


def test_a_name_is_what_a_worker_can_import() -> None:
    assert why_unnamed(os.path.exists) is None
    assert "functools.partial" in str(why_unnamed(functools.partial(os.path.exists)))
    assert "not at the top level" in str(why_unnamed(Notes.add))
    assert "has no name" in str(why_unnamed(3))


def test_results_of_a_worker_function_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="'task' has results=True, but a worker function"):
        run(tmp_path, line(taking(Notes(tmp_path / "notes")), 3, results=True))


@pytest.mark.parametrize("address", ["h:1:2", "1:2:3", "[h]:1", "[127.0.0.1]:1", "::1]:0", "h:²", "[::1]:99999"])
def test_what_is_no_address_is_refused_at_once(address: str) -> None:
    with pytest.raises(EngineError, match="is no address to listen on"):
        ServiceEngine(address)


def test_the_kind_of_an_engine_may_be_in_capitals() -> None:
    assert isinstance(engine_named("SERVICE://127.0.0.1:0"), ServiceEngine)


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        (["key"], "key=.* without a certificate"),
        (["ca_file"], "ca_file=.* without a certificate"),
        (["certificate", "no_key"], "key=.*no_key.pem'.*no such file"),
        (["no_certificate"], "certificate=.*no_certificate.pem'.*no such file"),
        (["certificate", "no_ca_file"], "ca_file=.*no_ca_file.pem'.*no such file"),
    ],
)
def test_files_that_are_missing_are_said_when_the_engine_is_made(
    tmp_path: Path, files: list[str], complaint: str
) -> None:
    for name in ("certificate", "key", "ca_file"):
        (tmp_path / f"{name}.pem").touch()
    options: dict[str, Any] = {name.removeprefix("no_"): tmp_path / f"{name}.pem" for name in files}
    with pytest.raises(EngineError, match=complaint):
        ServiceEngine(**options)


def test_a_start_at_a_port_that_is_taken_leaves_no_keys(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        engine = ServiceEngine(f"127.0.0.1:{other.getsockname()[1]}", by_name=False)
        with pytest.raises(EngineError, match="can't listen"):
            run(tmp_path, line(named, 3), engine=engine, journal=tmp_path / "run")
    assert not (tmp_path / "run" / "service").exists()


@pytest.mark.parametrize(("address", "is_said"), [("0.0.0.0", True), ("127.0.0.1", False), ("localhost", False)])
def test_that_others_can_see_what_is_said_is_said(tmp_path: Path, address: str, is_said: bool) -> None:
    recorder = Recorder()
    engine = Crowded(1, address=address, by_name=False)
    assert run(tmp_path, line(named, 3), engine=engine, observers=[recorder]).ok
    assert any("are not encrypted" in message.text for message in recorder.of(Message)) == is_said


def test_a_run_that_nobody_joins_and_nobody_watches_logs_how_to_join(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Awaited(Crowded):
        def start(self, setup: EngineSetup) -> Capacity:
            capacity = ServiceEngine.start(self, setup)
            self.thread = threading.Thread(target=self.join_late, name="crowd")
            self.thread.start()
            return capacity

        def join_late(self) -> None:
            until(lambda: any("bellis worker http://" in text for text in caplog.messages), "it is logged")
            asyncio.run(crowd(self.url, self.keys.token, self.workers, self.block_s))

    caplog.set_level(logging.WARNING, "bellis")
    monkeypatch.setattr(lookout, "FIRST_S", 0.1)
    assert run(tmp_path, line(named, 3), engine=Awaited(1, by_name=False)).ok


@pytest.mark.parametrize("address", ["host:port", "127.0.0.1:70000", "", "256.0.0.1"])
def test_an_address_that_is_none_is_said(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BELLIS_HOST", "no host at all")
    with pytest.raises(EngineError, match=r"(is no address to listen on|can't listen on).*port 0"):
        run(tmp_path, line(named, 3), engine=ServiceEngine(address, by_name=False))


def test_a_worker_function_may_return_once_its_task_is_done_though_the_run_goes_on(tmp_path: Path) -> None:
    notes, ended = Notes(tmp_path / "notes"), tmp_path / "ended"
    work = taking(notes)

    def then_end() -> None:
        work()
        ended.touch()

    def wait(_: Block) -> None:
        until(ended.exists, "the end of the worker function", deadline_s=15)

    first = line(then_end, 20, task_id="first", num_workers=1, skip_mask=np.arange(20) < 12)
    report = run(tmp_path, first, line(wait, 1, task_id="second", max_retries=0))
    assert report.failures == ()
    assert sorted(map(int, notes.lines())) == list(range(12, 20))


def test_the_environment_says_where_to_listen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BELLIS_HOST", "127.0.0.2")
    engine = Crowded(1, by_name=False)
    assert run(tmp_path, line(named, 3), engine=engine).ok
    assert engine.url.startswith("http://127.0.0.2:")


# Worker functions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("beside", ["local", "inline"])
def test_worker_functions_and_functions_of_blocks_run_side_by_side(tmp_path: Path, beside: str) -> None:
    before, notes = Belongings(), Notes(tmp_path / "notes")
    first = line(taking(notes), 20, task_id="first")
    second = line(lambda block: None, 20, task_id="second", upstream_tasks=[first])
    third = line(taking(notes), 20, task_id="third", upstream_tasks=[second])
    report = run(tmp_path, first, second, third, engine=beside)
    assert report.ok
    assert sorted(map(int, notes.lines())) == sorted([*range(20), *range(20)])
    assert Belongings().since(before) == []


def test_a_worker_function_that_always_fails_stops_its_task(tmp_path: Path) -> None:
    def fail() -> None:
        print("before it fails")  # noqa: T201
        raise ValueError("never works")

    recorder = Recorder()
    report = run(tmp_path, line(fail, 30), observers=[recorder])
    (stopped,) = recorder.of(TaskStopped)
    assert not report.ok
    said = "10 workers in a row.*; the last one failed:.*ValueError: never works.*before it fails"
    assert re.search(said, stopped.reason, re.DOTALL)


def test_a_worker_function_that_takes_no_blocks_stops_its_task(tmp_path: Path) -> None:
    recorder = Recorder()
    report = run(tmp_path, line(lambda: None, 30), observers=[recorder])
    assert not report.ok
    assert "returned although blocks were left" in recorder.of(TaskStopped)[0].reason


def test_a_worker_function_that_takes_one_block_at_a_time_is_started_again(tmp_path: Path) -> None:
    notes = Notes(tmp_path / "notes")

    def take_one() -> None:
        with Client().acquire_block() as block:
            if block is not None:
                notes.add(block.index)

    assert run(tmp_path, line(take_one, 12)).ok
    assert sorted(map(int, notes.lines())) == list(range(12))


def test_a_worker_function_that_is_killed_is_started_again(tmp_path: Path) -> None:
    notes = Notes(tmp_path / "notes")

    def die_once(block: Block) -> None:
        if block.index == 7 and notes.count(7) == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    recorder = Recorder()
    report = run(tmp_path, line(taking(notes, die_once), 20), observers=[recorder])
    assert report.ok
    assert notes.count(7) == 2
    assert {int(number) for number in notes.lines()} == set(range(20))


@pytest.mark.parametrize("kind", ["before", "after", "both"])
def test_blocks_of_worker_functions_are_checked(tmp_path: Path, kind: str) -> None:
    notes, driver = Notes(tmp_path / "notes"), os.getpid()

    def is_third(block: Block) -> bool:
        assert os.getpid() != driver
        return bool(block.index % 3 == 0)

    def is_done(block: Block) -> bool:
        assert os.getpid() != driver
        return notes.count(block.index) == again(block.index)

    def again(index: int) -> int:
        return 2 if kind != "before" and index % 5 == 1 else 1

    pre = None if kind == "after" else is_third
    post = None if kind == "before" else is_done
    report = run(tmp_path, line(taking(notes), 30, check_function=(pre, post)))
    assert report.ok
    counts = report.tasks["task"].counts
    to_run = [k for k in range(30) if pre is None or k % 3]
    assert counts.skipped == 30 - len(to_run)
    assert sorted(map(int, notes.lines())) == [index for index in to_run for _ in range(again(index))]


def test_a_block_that_takes_too_long_fails_and_its_worker_function_is_started_again(tmp_path: Path) -> None:
    notes = Notes(tmp_path / "notes")

    def hang_once(block: Block) -> None:
        if block.index == 3 and notes.count(3) == 1:
            threading.Event().wait()

    report = run(tmp_path, line(taking(notes, hang_once), 8, timeout=0.5))
    assert report.ok
    assert notes.count(3) == 2


def test_what_an_interrupted_run_left_is_run_on_the_same_engine(tmp_path: Path) -> None:
    notes, parent = Notes(tmp_path / "notes"), os.getpid()

    def stop_once(block: Block) -> None:
        if block.index == 5:
            os.kill(parent, signal.SIGINT)

    report = run(tmp_path, line(taking(notes, stop_once), 40, task_id="a"), engine=ServiceEngine(beside=LocalEngine()))
    assert report.interrupted
    assert report.retry_failed().ok
    assert {int(number) for number in notes.lines()} == set(range(40))


def test_interrupting_ends_worker_functions(tmp_path: Path) -> None:
    before, notes = Belongings(), Notes(tmp_path / "notes")

    def stop(block: Block) -> None:
        if block.index == 5:
            os.kill(parent, signal.SIGINT)

    parent = os.getpid()
    report = run(tmp_path, line(taking(notes, stop), 100_000))
    assert report.interrupted
    assert Belongings().since(before) == []


# Callbacks -----------------------------------------------------------------------------------------------------------


def test_the_callback_is_told_how_to_find_the_run(tmp_path: Path) -> None:
    contexts: list[Any] = []
    task = line(named, 5, init_callback_fn=contexts.append)
    report = run(tmp_path, task)
    assert report.ok
    (context,) = contexts
    assert context["task_id"] == "task"
    assert {"hostname", "port", "token", "run_id"} <= context.keys()


def test_a_callback_that_fails_stops_its_task(tmp_path: Path) -> None:
    def fail(context: Any) -> None:
        raise ValueError(f"no room for {context['task_id']}")

    recorder = Recorder()
    report = run(tmp_path, line(named, 5, init_callback_fn=fail), observers=[recorder])
    assert not report.ok
    assert "no room for task" in recorder.of(TaskStopped)[0].reason


def test_clients_that_a_callback_starts_take_blocks_beside_this_machine(tmp_path: Path) -> None:
    here, there = Notes(tmp_path / "here"), Notes(tmp_path / "there")
    threads = []

    def start(context: Any) -> None:
        def work() -> None:
            client = Client(context)
            while True:
                with client.acquire_block() as block:
                    if block is None:
                        return
                    there.add(block.index)

        threads.append(threading.Thread(target=work))
        threads[0].start()

    def slow(block: Block) -> None:
        here.add(block.index)
        threading.Event().wait(0.01)

    report = run(tmp_path, line(slow, 60, init_callback_fn=start))
    threads[0].join(20)
    assert report.ok
    assert len(there.lines()) > 0
    assert sorted(map(int, [*here.lines(), *there.lines()])) == list(range(60))


# A run that goes on --------------------------------------------------------------------------------------------------


class Interrupted(Crowded):
    """A service whose run is interrupted once the first blocks are done."""

    seen = 0

    def events(self, timeout_s: float) -> list[Any]:
        events = super().events(timeout_s)
        self.seen += len(events)
        if self.seen > 20:
            interrupt_self()()
        return events


def test_a_run_that_goes_on_is_the_same_to_its_workers(tmp_path: Path) -> None:
    task = line(named, 2000, num_workers=4, version=1)
    first = Interrupted(2, 0.005, by_name=False)
    report = run(tmp_path, task, engine=first, journal=tmp_path / "run")
    assert report.interrupted
    assert first.keys.folder == tmp_path / "run" / "service"
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in first.keys.folder.iterdir()} == {
        "run.json": 0o600,
        "token": 0o600,
    }
    second = Crowded(4, 0.0001, by_name=False)
    report = run(tmp_path, task, engine=second, journal=tmp_path / "run")
    assert report.ok
    assert (second.keys.run_id, second.keys.token, second.url) == (first.keys.run_id, first.keys.token, first.url)
    assert not first.keys.folder.exists()


def test_a_worker_that_vanishes_is_said_and_its_blocks_are_run_by_others(tmp_path: Path) -> None:
    class Vanishing(Crowded):
        def start(self, setup: EngineSetup) -> Capacity:
            capacity = super().start(setup)
            assert self._server is not None
            headers: dict[str, str | None] = {
                "Authorization": f"Bearer {self.keys.token}",
                "Bellis-Run": self.keys.run_id,
            }
            self.vanished = Raw(self._server)
            _, answer = self.vanished.ask("POST", "/v1/workers", b'{"name": "vanishing"}', headers)
            turn = f"/v1/workers/{json.loads(answer)['worker_id']}/turn"
            self.vanished.send(request("POST", turn, asking(wait_s=10), headers))
            return capacity

    recorder = Recorder()
    engine = Vanishing(2, 0.005, by_name=False, silence_s=0.5)
    report = run(tmp_path, line(named, 200, num_workers=4), engine=engine, observers=[recorder])
    engine.vanished.socket.close()
    assert report.ok
    assert "it was not heard of for 0.5 s (vanishing)" in recorder.of(WorkerLost)[0].reason


def test_an_engine_beside_that_cannot_start_leaves_nothing(tmp_path: Path) -> None:
    before = Belongings()
    (tmp_path / "logs").write_text("no folder")
    for beside in (LocalEngine(), InlineEngine()):
        with pytest.raises(EngineError, match="logs can't be written"):
            run(tmp_path, line(named, 3), line(lambda: None, 3, task_id="b"), engine=ServiceEngine(beside=beside))
    assert Belongings().since(before) == []
