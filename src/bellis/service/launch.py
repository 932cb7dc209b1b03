"""Worker functions: started on processes of this machine, watched, and ended; and the checks of their tasks.

A launch is a lease of one block, of a task whose function calls the user's: so logs, tracebacks, crashes and kills are
those of any other worker process. What the function starts in turn is in its process group, and ends with it.
"""

from __future__ import annotations

import functools
import os
import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from bellis.runtime.cores import available_cores
from bellis.runtime.engine import ProgramRefused
from bellis.runtime.host import Host
from bellis.runtime.lease import Lease, Report
from bellis.runtime.output import last_lines, log_path
from bellis.runtime.program import Functions
from bellis.service.client import LATEST
from bellis.service.context import Context

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from bellis.runtime.host import HostEvent
    from bellis.runtime.program import Program
    from bellis.tasks.block import Block

When: TypeAlias = Literal["before", "after"]


@dataclass(frozen=True, slots=True)
class Ended:
    """A launched worker function has ended."""

    number: int
    """Of the launch."""
    task_id: str
    """The task."""
    error: str | None
    """Its traceback, or how its process ended; None if it returned."""
    output: str = ""
    """The last lines of its log."""


@dataclass(frozen=True, slots=True)
class _Launches:
    """In place of a grid: the blocks are launches. Lines that they print carry the number of their client's block."""

    task_id: str

    def number(self, index: int) -> int:
        """Return the number of the block that the client of this process handed out last; or else of the launch."""
        client = LATEST.get()
        found = None if client is None else client()
        number = None if found is None else found.block_number()
        return index if number is None else number


def _call(function: Callable[..., Any], values: Mapping[str, str], launch: Block) -> None:
    """Call a worker function where its `Client`, and whatever it starts, find their context."""
    context = Context.of(values)
    context["worker_id"] = context["launched"] = launch.index
    os.environ.update(context.environment())
    try:
        function()
    finally:
        client = LATEST.get()
        found = None if client is None else client()
        if found is not None:
            found.close()


def _do_nothing(block: Block) -> None:
    """Stand in for a function that has run, or is to run, elsewhere."""


class Launcher:
    """Starts worker functions on this machine, and asks the check functions of their tasks.

    Parameters
    ----------
    programs
        The tasks of the run; those whose functions are no worker functions are not touched.
    log_dir
        Where their output goes.
    tell
        Called from another thread when a launch has ended.

    Raises
    ------
    FunctionError
        If a function, or something that it captures, can't be pickled.
    """

    def __init__(self, programs: Sequence[Program], *, log_dir: Path, tell: Callable[[Ended], None]) -> None:
        self._programs = {program.task_id: program for program in programs if program.is_worker_function}
        for program in self._programs.values():
            program.packed()  # an error here comes before any process, and names the function as its task has it
        self._log_dir = log_dir
        self._tell = tell
        self._launched = 0
        self._launches: Host | None = None
        self._checks: Host | None = None
        self._errors: dict[int, str] = {}
        self._closing = threading.Event()

    def launch(self, task_id: str, context: Context) -> int:
        """Start the worker function of a task.

        Parameters
        ----------
        task_id
            The task.
        context
            How to find the run; the same for all launches of the task.

        Returns
        -------
        int
            Its number, from 1; the function finds it as ``launched`` and ``worker_id`` in its context, and the folder
            of its log as ``logdir``.

        Raises
        ------
        EngineError
            If logs can't be written.
        """
        program = self._programs[task_id]
        if self._launches is None:
            self._launches = Host(sum(each.workers for each in self._programs.values()), log_dir=self._log_dir)
        if not self._launches.knows(program.number):
            function = functools.partial(_call, program.functions.process, {**context, "logdir": str(self._log_dir)})
            functions = Functions(function, None, None, program.functions.setup)
            self._launches.add(_standing_in(program, functions, grid=_Launches(task_id)).packed())
        self._launched += 1
        number = self._launched
        lease = Lease(number, task_id, np.array([number], np.int64))
        self._launches.submit(lease, functools.partial(self._hear, number, task_id))
        return number

    def kill(self, number: int, reason: str) -> None:
        """End a launch, and all that it started, at once."""
        if self._launches is not None:
            self._launches.cancel(number, reason)

    def check(self, lease: Lease, when: When, tell: Callable[[Report], None]) -> None:
        """Ask a task's check function about blocks; reports come from another thread, the last one ``finished``.

        Parameters
        ----------
        lease
            Blocks of a task with a worker function.
        when
            ``before``: those that are done are reported as ``SKIPPED``, the others as ``SUCCESS``; ``after``: those
            that are not done as ``FAILED``.
        tell
            Called with each report; its lease is that one.
        """
        program = self._programs[lease.task_id]
        if self._checks is None:
            self._checks = Host(available_cores(), log_dir=self._log_dir)
        name = f"{lease.task_id} ({when})"
        number = 2 * program.number + (when == "after")
        if not self._checks.knows(number):
            pre, post = program.functions.pre, program.functions.post
            setup = program.functions.setup
            functions = (
                Functions(_do_nothing, pre, None, setup)
                if when == "before"
                else Functions(_do_nothing, None, post, setup)
            )
            packed = _standing_in(program, functions).packed()
            self._checks.add(replace(packed, number=number, task_id=name))
        self._checks.submit(Lease(lease.lease_id, name, lease.indices), _Check(tell))

    def close(self) -> None:
        """End everything that was launched, now."""
        self._closing.set()
        for host in (self._launches, self._checks):
            if host is not None:
                host.close()
        self._launches = self._checks = None

    def _hear(self, number: int, task_id: str, event: HostEvent) -> None:
        if isinstance(event, ProgramRefused):
            self._errors[number] = event.error
        elif isinstance(event, Report):
            if event.errors:
                self._errors[number] = next(iter(event.errors.values()))
            if event.finished and not self._closing.is_set():
                slot = event.worker.rpartition("-")[2]
                lines = last_lines(log_path(self._log_dir, task_id, int(slot))) if slot.isdigit() else ""
                self._tell(Ended(number, task_id, self._errors.pop(number, event.crash), lines))


class _Check:
    """Hears of one check; a function that can't be loaded is told as how the workers ended."""

    def __init__(self, tell: Callable[[Report], None]) -> None:
        self._tell = tell
        self._refusal: str | None = None

    def __call__(self, event: HostEvent) -> None:
        if isinstance(event, ProgramRefused):
            self._refusal = event.error
        elif isinstance(event, Report):
            self._tell(replace(event, crash=self._refusal) if self._refusal is not None else event)


def _standing_in(program: Program, functions: Functions, **changes: Any) -> Program:
    return replace(program, functions=functions, keeps_results=False, timeout_s=None, init=None, **changes)
