"""The lock of a run directory: held by one, let go of by the system, and honest about who holds it."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from bellis.errors import JournalLockedError
from bellis.runtime import lock as lock_module
from bellis.runtime.lock import Lock
from bellis.testing.blocks import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HOLDER = """
import os, subprocess, sys
from pathlib import Path
from bellis.runtime.lock import Lock
lock = Lock(Path(sys.argv[1]))
worker = subprocess.Popen(["sleep", "60"], pass_fds=[lock.fd]) if len(sys.argv) > 2 else None
print(worker.pid if worker else 0, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lock"


@pytest.fixture
def holder(path: Path) -> Iterator[subprocess.Popen[str]]:
    arguments = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


def test_a_lock_can_be_had_again_after_it_was_released(path: Path) -> None:
    for _ in range(3):
        Lock(path).release()
    assert path.exists()


def test_two_runs_of_one_process_do_not_share_a_lock(path: Path) -> None:
    held = Lock(path)
    with pytest.raises(JournalLockedError, match=f"pid {os.getpid()}"):
        Lock(path)
    held.release()
    Lock(path).release()


def test_the_error_names_host_pid_and_start_of_the_holder(path: Path, holder: subprocess.Popen[str]) -> None:
    with pytest.raises(JournalLockedError) as caught:
        Lock(path)
    text = str(caught.value)
    assert str(path.parent) in text
    assert f"host {socket.gethostname()}, pid {holder.pid}" in text
    assert re.search(r"started \d{4}-\d\d-\d\d \d\d:\d\d:\d\d", text)
    assert "wait for it, stop it, or use another journal" in text


def test_a_lock_is_free_when_its_holder_was_killed(path: Path, holder: subprocess.Popen[str]) -> None:
    holder.kill()
    holder.wait()
    Lock(path).release()


def orphan(path: Path) -> int:
    """Start a holder with a worker, kill the holder, return the worker's pid."""
    arguments = [sys.executable, "-c", HOLDER, str(path), "with a worker"]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        process.kill()
    return pid


@pytest.mark.slow
def test_workers_of_a_killed_run_are_waited_for(path: Path) -> None:
    pid = orphan(path)
    taken: list[Lock] = []
    waiting = threading.Thread(target=lambda: taken.append(Lock(path)))
    waiting.start()
    assert not taken
    os.kill(pid, 9)
    waiting.join(10)
    assert taken
    taken[0].release()


@pytest.mark.slow
def test_workers_of_a_killed_run_that_do_not_end_are_not_waited_for_for_ever(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock_module, "ORPHANS_END_S", 0.1)
    pid = orphan(path)
    try:
        with pytest.raises(JournalLockedError, match="in use by another run"):
            Lock(path)
    finally:
        os.kill(pid, 9)
    until(lambda: taken(path), "the lock of a worker that was killed")


def taken(path: Path) -> bool:
    try:
        Lock(path).release()
    except JournalLockedError:
        return False
    return True


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b'{"pid": "x"}'])
def test_whatever_an_unheld_lock_says_does_not_matter(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    Lock(path).release()


def test_a_holder_on_another_host_is_taken_to_be_alive(path: Path) -> None:
    held = Lock(path)
    path.write_text('{"host": "elsewhere", "pid": 1, "start": "2020-01-01 00:00:00"}')
    with pytest.raises(JournalLockedError, match="host elsewhere, pid 1, started 2020-01-01"):
        Lock(path)
    held.release()
