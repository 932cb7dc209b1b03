"""How what a thread waits for is given up: when nobody wants it any more, or the interpreter goes down."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from contextvars import ContextVar
from time import monotonic
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

SLICE_S = 0.2
"""How long a thread waits before it looks whether it is still wanted."""
GIVEN_UP = "was given up, as nobody waits for it any more"

_STOPPED: ContextVar[threading.Event | None] = ContextVar("stopped", default=None)


@contextmanager
def stoppable(stopped: threading.Event) -> Iterator[None]:
    """Let what this thread waits for end soon after ``stopped`` is set."""
    token = _STOPPED.set(stopped)
    try:
        yield
    finally:
        _STOPPED.reset(token)


def is_stopped() -> bool:
    """Return whether this thread should give up: at exit, the interpreter waits for it."""
    stopped = _STOPPED.get()
    # Nothing public says that the interpreter is at its end before it has waited for all threads.
    return (stopped is not None and stopped.is_set()) or getattr(threading, "_SHUTTING_DOWN", False)


def sleep(seconds: float) -> None:
    """Sleep, unless this thread should give up."""
    until = monotonic() + seconds
    nothing = threading.Event()
    while (left := until - monotonic()) > 0 and not is_stopped():
        nothing.wait(min(left, SLICE_S))
