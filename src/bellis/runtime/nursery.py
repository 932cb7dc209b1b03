"""The nursery: a small process that has loaded what workers need, and forks them.

A fork of the user's own process would inherit the threads and locks of its I/O libraries in a broken state; a fresh
interpreter per worker costs its imports each time. The nursery has no threads, so its forks are safe and take
milliseconds. It ends its workers when the run goes away, however that happens.

Requests and notices are frames of two int64: an operation and its argument.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import socket
import struct
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

FRAME = struct.Struct("qq")
SPAWN, KILL = 1, 2
"""Requests: start a worker for slot ``argument`` (the channel comes along), kill worker ``argument`` (a pid)."""
STARTED, ENDED = 3, 4
"""Notices: ``argument`` is the pid of the worker asked for last; or pid << 16 | wait status."""

_PR_SET_PDEATHSIG = 1


class Nursery:
    """A nursery, as the run sees it.

    Parameters
    ----------
    cells_fd
        Memory of the workers' cells.
    log_dir
        Folder for the workers' logs.
    env
        Environment of the workers.
    inherited
        Descriptors that the nursery and its workers have, ``cells_fd`` among them.
    """

    def __init__(self, cells_fd: int, log_dir: str, env: dict[str, str], inherited: Sequence[int]) -> None:
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            code = (
                f"import sys; sys.path[:] = {sys.path!r}; from bellis.runtime.nursery import main; "
                f"main({theirs.fileno()}, {cells_fd}, {log_dir!r})"
            )
            self._process = subprocess.Popen(  # noqa: S603  # this very interpreter
                [sys.executable, "-c", code],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), *inherited),
                env=env,
                start_new_session=True,
            )

    def spawn(self, slot: int, channel_fd: int) -> None:
        """Ask for a worker for ``slot``; a `STARTED` notice with its pid will come."""
        self._request(SPAWN, slot, [channel_fd])

    def kill(self, pid: int) -> None:
        """Ask for the end of a worker and of all that it started; an `ENDED` notice will come."""
        self._request(KILL, pid, [])

    def _request(self, operation: int, argument: int, fds: list[int]) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # its end is heard of as a notice
            socket.send_fds(self.control, [FRAME.pack(operation, argument)], fds)

    def notice(self) -> tuple[int, int] | None:
        """Read the next notice and its argument; None if the nursery has ended."""
        try:
            frame = self.control.recv(FRAME.size, socket.MSG_WAITALL)
        except ConnectionResetError:
            return None
        if len(frame) < FRAME.size:
            return None
        notice, argument = FRAME.unpack(frame)
        return notice, argument

    def close(self) -> None:
        """End the nursery, which ends its workers."""
        self.control.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def main(control_fd: int, cells_fd: int, log_dir: str) -> None:
    """Serve requests until the run closes the control socket; then kill what is left."""
    from bellis.runtime import process  # what is loaded here, no worker needs to load again

    control = socket.socket(fileno=control_fd)
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    os.set_blocking(wake_read, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    children: set[int] = set()
    try:
        while True:
            readable, _, _ = select.select([control_fd, wake_read], [], [])
            if wake_read in readable:
                with contextlib.suppress(BlockingIOError):
                    os.read(wake_read, 4096)
                _report_ended(control, children)
            if control_fd in readable:
                frame, fds, _, _ = socket.recv_fds(control, FRAME.size, 1)
                if len(frame) < FRAME.size:
                    break
                operation, argument = FRAME.unpack(frame)
                if operation == KILL:
                    _kill(argument, children)
                    continue
                pid = os.fork()
                if pid == 0:
                    signal.set_wakeup_fd(-1)
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    for fd in (wake_read, wake_write, control_fd):
                        os.close(fd)
                    os.setsid()
                    _die_with_parent()
                    process.main(fds[0], cells_fd, argument, log_dir)
                os.close(fds[0])
                children.add(pid)
                control.sendall(FRAME.pack(STARTED, pid))
    except (BrokenPipeError, ConnectionResetError):
        pass
    for pid in list(children):
        _kill(pid, children)
    for pid in children:  # who waits for this process may count on them being gone
        os.waitpid(pid, 0)
    os._exit(0)


def _report_ended(control: socket.socket, children: set[int]) -> None:
    while children:
        ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if ended is None:
            return
        pid = ended.si_pid
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)  # what the worker started and left behind
        _, status = os.waitpid(pid, 0)
        children.discard(pid)
        control.sendall(FRAME.pack(ENDED, pid << 16 | status))


def _kill(pid: int, children: set[int]) -> None:
    if pid in children:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _die_with_parent() -> None:
    """Have the kernel kill this worker when the nursery ends, by whatever cause (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == 1:
            os._exit(0)


def cause(status: int, peak_memory_bytes: int) -> str:
    """Say in words how a process ended, from its wait status."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        name = signal.Signals(number).name
        if number == signal.SIGKILL:
            peak = f" (it last said that it had used {peak_memory_bytes >> 20} MiB)" if peak_memory_bytes else ""
            return f"was killed by {name}: by the system, if memory ran out{peak}, or by a person"
        return f"crashed with {name}"
    return f"exited with code {os.waitstatus_to_exitcode(status)}, which no block's function should do"
