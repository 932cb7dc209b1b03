"""After a run, whatever happened in it: no process, no thread, no descriptor, no shared memory."""

from __future__ import annotations

import gc
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from time import sleep
from typing import TYPE_CHECKING, Any

import psutil
import pytest

import bellis
from bellis.errors import BellisError
from bellis.runtime.events import TaskProgress
from bellis.testing.blocks import Belongings, Notes, Recorder, dying, interrupt_self, line, noting, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bellis import Block

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(60)]

MARK = "BELLIS_TEST_MARK"
LOCK = threading.Lock()


@pytest.fixture
def mark(monkeypatch: pytest.MonkeyPatch) -> str:
    """What every process that this test starts, directly or not, has in its environment."""
    value = secrets.token_hex(8)
    monkeypatch.setenv(MARK, value)
    return value


def marked(value: str) -> list[str]:
    """Return the processes, whoever their parent is, that were started under a mark."""
    found = []
    for process in psutil.process_iter():
        try:
            is_marked = process.environ().get(MARK) == value
            if is_marked and process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(f"{process.pid} {process.cmdline()}")
        except psutil.Error:
            continue
    return found


def shared_memory() -> set[str]:
    return {path.name for path in Path("/dev/shm").iterdir() if "bellis" in path.name}


def temporary() -> set[str]:
    return {path.name for path in Path(os.environ.get("TMPDIR", "/tmp")).glob("bellis-*")}


@pytest.fixture
def clean(mark: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "tmp").mkdir()  # other tests run at the same time, and have their own things there
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    bellis.run(line(lambda _: None, 3), workers=2, progress=False, log_dir=tmp_path / "before")
    gc.collect()
    before, names = Belongings(), shared_memory() | temporary()
    yield
    gc.collect()
    assert Belongings().since(before) == []
    until(lambda: not marked(mark), f"the end of all processes: {marked(mark)}", deadline_s=5)
    assert shared_memory() | temporary() == names


def nothing(block: Block) -> None:
    del block


def sleeping(block: Block) -> None:
    if block.index:
        sleep(600)


def starting_others(block: Block) -> None:
    subprocess.Popen(["sleep", "600"])
    if block.index == 3 and os.fork() == 0:
        sleep(600)


def unserialisable(block: Block) -> None:
    with LOCK:
        del block


def bad_setup() -> None:
    raise OSError("no")


CASES: dict[str, Callable[[Notes], dict[str, Any]]] = {
    "success": lambda _: {"tasks": line(nothing, 500)},
    "failures": lambda notes: {"tasks": line(dying("raise", {3: 9, 7: 1}, notes), 50)},
    "workers that die": lambda notes: {"tasks": line(dying("SIGKILL", {3: 9, 7: 1}, notes), 50)},
    "time-out": lambda _: {"tasks": line(sleeping, 2, timeout=0.3, max_retries=0)},
    "interrupt": lambda _: {"tasks": line(nothing, 5000), "observers": [Recorder({TaskProgress: interrupt_self()})]},
    "fail fast": lambda notes: {"tasks": line(dying("raise", dict.fromkeys(range(99), 9), notes), 99)},
    "bad setup": lambda _: {"tasks": line(nothing, 50, setup=bad_setup)},
    "blocks that start processes": lambda _: {"tasks": line(starting_others, 10)},
    "no blocks": lambda _: {"tasks": line(nothing, 0)},
    "unserialisable function": lambda _: {"tasks": line(unserialisable, 3)},
    "unknown engine": lambda _: {"tasks": line(nothing, 3), "engine": "lokal"},
    "logs that can't be written": lambda notes: {"tasks": line(noting(notes), 3), "log_dir": Path("/dev/null/logs")},
}


@pytest.mark.usefixtures("clean")
@pytest.mark.parametrize("journaled", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_nothing_is_left_after(case: str, journaled: bool, tmp_path: Path) -> None:
    options = {"workers": 2, "progress": False, "log_dir": tmp_path / "logs"}
    options |= CASES[case](Notes(tmp_path / "notes"))
    if journaled:
        options["journal"] = tmp_path / "journal"
    try:
        bellis.run(**options)
    except BellisError:
        assert case in {"unserialisable function", "unknown engine", "logs that can't be written"}
    if journaled and (tmp_path / "journal").exists():
        assert {path.name for path in (tmp_path / "journal").iterdir()} <= {"bellis.sqlite", "lock", "tasks"}


@pytest.mark.usefixtures("clean")
def test_nothing_is_left_after_an_observer_ended_the_run() -> None:
    class Rude(Recorder):
        def notify(self, event: Any) -> None:
            if isinstance(event, TaskProgress):
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bellis.run(line(nothing, 5000), workers=2, progress=False, observers=[Rude()])


@pytest.mark.usefixtures("clean")
def test_nothing_is_left_of_many_runs(tmp_path: Path) -> None:
    for number in range(8):
        engine = ("local", "inline")[number % 2]
        report = bellis.run(
            line(nothing, 20),
            engine,
            workers=2,
            progress=False,
            journal=tmp_path / "journal",
            log_dir=tmp_path / "logs",
        )
        assert report.ok


def test_empty_logs_are_not_left(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    report = bellis.run(line(nothing, 20), workers=2, progress=False, log_dir=logs)
    assert not logs.exists()
    assert report.log_dir is None


SCRIPT = """
import sys, time
from pathlib import Path
import bellis
from bellis.testing.blocks import Notes, line

notes = Notes(Path("notes"))

def work(block):
    notes.add(block.index)
    time.sleep(600)

if __name__ == "__main__":
    bellis.run(line(work, 10), workers=2, journal="journal", progress=False)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGQUIT, signal.SIGABRT])
def test_no_process_is_left_when_the_run_is_killed(tmp_path: Path, mark: str, number: signal.Signals) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    with subprocess.Popen([sys.executable, "script.py"], cwd=tmp_path, stderr=subprocess.DEVNULL) as process:
        until(lambda: len(Notes(tmp_path / "notes").lines()) == 2, "two running blocks")
        assert len(marked(mark)) == 4  # the run, the nursery, two workers
        process.send_signal(number)
        process.wait(30)
    until(lambda: not marked(mark), "the end of all processes", deadline_s=10)


def test_no_process_is_left_when_run_and_nursery_are_killed_at_once(tmp_path: Path, mark: str) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    with subprocess.Popen([sys.executable, "script.py"], cwd=tmp_path) as process:
        until(lambda: len(Notes(tmp_path / "notes").lines()) == 2, "two running blocks")
        (nursery,) = psutil.Process(process.pid).children()
        process.send_signal(signal.SIGSTOP)
        nursery.kill()
        process.kill()
    until(lambda: not marked(mark), "the end of all processes", deadline_s=10)
