"""What tests of engines and runs are made of: small tasks, functions that go wrong, and ways to watch them."""

from __future__ import annotations

import os
import re
import signal
import threading
from collections import Counter
from contextlib import suppress
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

from bellis.geometry import Roi
from bellis.tasks import Task

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bellis.runtime.events import AnyEvent
    from bellis.tasks import Block

DEADLINE_S = 30.0
"""So long a test waits for what should come at once."""


def line(process_function: Callable[..., Any], num_blocks: int, *, task_id: str = "task", **options: Any) -> Task:
    """Make a task of ``num_blocks`` blocks in a row, each one unit long, that two workers may run.

    Parameters
    ----------
    process_function
        Called with each block.
    num_blocks
        Number of blocks.
    task_id
        Name of the task.
    **options
        Further fields of `Task`; ``context=(before, after)`` grows the read region, and ``step`` the block.
    """
    step = options.pop("step", 1)
    before, after = options.pop("context", (0, 0))
    write = Roi((0,), (step,))
    total = Roi((0,), (num_blocks * step,))
    return Task(
        task_id,
        total.grow((before,), (after,)),
        write.grow((before,), (after,)),
        write,
        process_function,
        **{"read_write_conflict": False, "num_workers": 2, **options},
    )


class Notes:
    """Lines in a file, which blocks append in whatever process they run.

    Parameters
    ----------
    path
        The file; made with the first note.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, text: object) -> None:
        """Append a line; never torn, as it is one write."""
        fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(fd, f"{text}\n".encode())
        finally:
            os.close(fd)

    def lines(self) -> list[str]:
        """Return all lines, in the order in which they were written."""
        return self.path.read_text().splitlines() if self.path.exists() else []

    def count(self, text: object) -> int:
        """Return how often a line was written."""
        return self.lines().count(str(text))


class Recorder:
    """An observer that keeps all events, and does something when one of a kind comes for the first time.

    Parameters
    ----------
    on
        Kind of event -> what to do.
    """

    def __init__(self, on: dict[type, Callable[[], object]] | None = None) -> None:
        self.events: list[AnyEvent] = []
        self.is_closed = False
        self._on = dict(on or {})

    def notify(self, event: AnyEvent) -> None:
        """Keep an event."""
        self.events.append(event)
        action = self._on.pop(type(event), None)
        if action is not None:
            action()

    def close(self) -> None:
        """Note that nothing more comes."""
        self.is_closed = True

    def of(self, kind: type) -> list[Any]:
        """Return the events of a kind."""
        return [event for event in self.events if isinstance(event, kind)]


def until(condition: Callable[[], Any], what: str, *, deadline_s: float = DEADLINE_S) -> Any:
    """Ask again and again until ``condition`` holds; return what it returned.

    Raises
    ------
    AssertionError
        If it does not hold in time; the message says ``what`` was waited for.
    """
    end = monotonic() + deadline_s
    while not (found := condition()):
        if monotonic() > end:
            raise AssertionError(f"waited {deadline_s:g} s in vain: {what}")
        sleep(0.005)
    return found


def interrupt_self(number: int = signal.SIGINT) -> Callable[[], None]:
    """Return a function that sends a signal to this process."""
    return lambda: os.kill(os.getpid(), number)


class Belongings:
    """What this process holds of its system: children, threads, file descriptors, shared memory."""

    def __init__(self) -> None:
        self.children = set(_descendants(os.getpid()))
        self.threads = {thread.name for thread in threading.enumerate()}
        self.descriptors = Counter(_descriptors())
        self.shared_memory = {line for line in Path("/proc/self/maps").read_text().splitlines() if "bellis" in line}

    def since(self, before: Belongings) -> list[str]:
        """Say what there is that there was not before."""
        more = [f"process {pid}" for pid in self.children - before.children]
        more += [f"thread {name}" for name in self.threads - before.threads]
        more += [f"descriptor of {what}" for what in self.descriptors - before.descriptors]
        return more + [f"shared memory {line}" for line in self.shared_memory - before.shared_memory]


def _descendants(pid: int) -> Iterator[int]:
    """Yield the process ids of children and of theirs."""
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in _read(path).split():
            yield int(child)
            yield from _descendants(int(child))


def _descriptors() -> Iterator[str]:
    """Yield what each file descriptor is, without the numbers of sockets and pipes."""
    for path in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the one that lists them
            yield re.sub(r"\d+", "", str(path.readlink()))


def _read(path: Path) -> str:
    """Return the text of a file; nothing if its process has just ended."""
    try:
        return path.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def noting(notes: Notes) -> Callable[[Block], None]:
    """Return a function that notes the index of each block that it is called with."""
    return lambda block: notes.add(block.index)


def counting(notes: Notes) -> Callable[[Block], int]:
    """Return a function that returns how many notes there are."""
    return lambda block: len(notes.lines()) if block is not None else 0


def failing_once(notes: Notes) -> Callable[[Block], None]:
    """Return a function that notes each block, and raises the first time that it sees it."""

    def work(block: Block) -> None:
        notes.add(block.index)
        if notes.count(block.index) == 1:
            raise ValueError("the first time never works")

    return work


def dying(death: str, times: dict[int, int], notes: Notes) -> Callable[[Block], None]:
    """Return a function that notes each block and ends its process, for some blocks and so many times."""

    def work(block: Block) -> None:
        notes.add(block.index)
        if block.index is None or notes.count(block.index) > times.get(block.index, 0):
            return
        if death == "raise":
            raise ValueError("no")
        if death.startswith("os._exit"):
            os._exit(int(death[9]))
        os.kill(os.getpid(), getattr(signal, death))

    return work
