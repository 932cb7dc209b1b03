"""The nursery: starts workers, tells how they ended, and leaves none behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

import psutil
import pytest

from bellis.runtime import nursery
from bellis.runtime.cell import CELL_BYTES, shared_memory
from bellis.runtime.messages import Ready, decode_from_worker
from bellis.testing.blocks import DEADLINE_S, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.integration, pytest.mark.slow]


class Tended(nursery.Nursery):
    """A nursery, its cells, and channels to its workers."""

    def __init__(self, folder: Path) -> None:
        self.cells_fd, self.memory = shared_memory(4 * CELL_BYTES, None)
        super().__init__(self.cells_fd, str(folder), dict(os.environ), [self.cells_fd])
        self.control.settimeout(DEADLINE_S)
        self.channels: list[Connection] = []

    @property
    def pid(self) -> int:
        return self._process.pid

    def worker(self, slot: int) -> tuple[int, Connection]:
        """Start a worker; return its pid and the channel to it."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            self.spawn(slot, theirs.fileno())
        channel = Connection(ours.detach())
        self.channels.append(channel)
        notice = self.notice()
        assert notice is not None
        assert notice[0] == nursery.STARTED
        assert channel.poll(DEADLINE_S)
        assert decode_from_worker(channel.recv_bytes()) == Ready(notice[1])
        return notice[1], channel

    def ended(self) -> tuple[int, int]:
        """Wait for the end of a worker; return its pid and its wait status."""
        notice = self.notice()
        assert notice is not None
        assert notice[0] == nursery.ENDED
        return notice[1] >> 16, notice[1] & 0xFFFF

    def close(self) -> None:
        super().close()
        for channel in self.channels:
            channel.close()
        self.memory.close()
        os.close(self.cells_fd)


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Tended]:
    one = Tended(tmp_path / "logs")
    yield one
    one.close()


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_workers_are_processes_of_their_own_session(made: Tended) -> None:
    first, _ = made.worker(0)
    second, _ = made.worker(1)
    assert first != second
    assert os.getsid(first) == first
    assert os.getsid(made.pid) == made.pid
    assert psutil.Process(first).ppid() == made.pid


def test_a_worker_ends_by_itself_when_its_channel_is_closed(made: Tended) -> None:
    pid, channel = made.worker(0)
    channel.close()
    assert made.ended() == (pid, 0)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_it_tells_how_a_worker_ended(made: Tended, number: signal.Signals) -> None:
    pid, _ = made.worker(0)
    os.kill(pid, number)
    ended, status = made.ended()
    assert ended == pid
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == number


def test_ctrl_c_does_not_reach_workers(made: Tended) -> None:
    pid, channel = made.worker(0)
    os.kill(pid, signal.SIGINT)
    os.kill(pid, signal.SIGINT)
    channel.close()
    assert made.ended() == (pid, 0)


def test_it_kills_a_worker_when_it_is_asked_to_and_no_other_process(made: Tended) -> None:
    pid, _ = made.worker(0)
    with subprocess.Popen(["sleep", "60"]) as other:
        made.kill(other.pid)
        made.kill(pid)
        ended, status = made.ended()
        assert (ended, os.WTERMSIG(status)) == (pid, signal.SIGKILL)
        made.kill(pid)  # it is gone already
        assert made.worker(0)[0] != pid
        assert other.poll() is None
        other.kill()


def test_all_workers_end_with_the_nursery_when_the_run_is_gone(made: Tended) -> None:
    pids = [made.worker(slot)[0] for slot in range(3)]
    made.control.shutdown(socket.SHUT_RDWR)
    until(lambda: all(map(is_gone, pids)), "the end of all workers")
    assert made.notice() is None
    until(lambda: is_gone(made.pid), "the end of the nursery")


def test_all_workers_end_when_the_nursery_is_killed(made: Tended) -> None:
    pids = [made.worker(slot)[0] for slot in range(3)]
    os.kill(made.pid, signal.SIGKILL)
    until(lambda: all(map(is_gone, pids)), "the end of all workers")


def test_many_workers_that_end_at_once_are_all_told_of(made: Tended) -> None:
    pids = {made.worker(slot)[0] for slot in range(4)}
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    assert {made.ended()[0] for _ in pids} == pids


@pytest.mark.parametrize(
    ("status", "peak", "said"),
    [
        (signal.SIGKILL, 0, "was killed by SIGKILL: by the system, if memory ran out, or by a person"),
        (signal.SIGKILL, 3 << 20, "(it last said that it had used 3 MiB)"),
        (signal.SIGSEGV, 0, "crashed with SIGSEGV"),
        (signal.SIGSEGV | 0x80, 0, "crashed with SIGSEGV"),
        (3 << 8, 0, "exited with code 3, which no block's function should do"),
        (0, 0, "exited with code 0"),
    ],
)
def test_the_end_of_a_process_is_said_in_words(status: int, peak: int, said: str) -> None:
    assert said in nursery.cause(int(status), peak)
