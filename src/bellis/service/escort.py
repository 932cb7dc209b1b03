"""The beginning and the end of a courier, as its client sees them."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from multiprocessing.connection import Connection as Channel

CLOSE_S = 5.0
"""How long a courier gets to say goodbye."""


def start_courier(cells_fd: int) -> tuple[Channel, subprocess.Popen[bytes]]:
    """Start a courier; return the channel to it, and its process."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with theirs:
        code = (
            f"import sys; sys.path[:] = {sys.path!r}; from bellis.service.courier import main; "
            f"main({theirs.fileno()}, {cells_fd}, {os.getpid()})"
        )
        courier = subprocess.Popen(  # noqa: S603  # this very interpreter
            [sys.executable, "-c", code],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=(theirs.fileno(), cells_fd),
            start_new_session=True,  # who kills this process's group must hear from it which block it was in
        )
    return Channel(ours.detach()), courier


def end_courier(channel: Channel, courier: subprocess.Popen[bytes], pid: int) -> None:
    """Let the courier go, and wait until it has."""
    if os.getpid() != pid:
        return
    with contextlib.suppress(OSError):
        duplicate = socket.socket(fileno=os.dup(channel.fileno()))
        with duplicate:
            duplicate.shutdown(socket.SHUT_RDWR)  # also if a forked process has the channel too
    try:
        courier.wait(CLOSE_S)
    except subprocess.TimeoutExpired:
        courier.kill()
        courier.wait()
    channel.close()
