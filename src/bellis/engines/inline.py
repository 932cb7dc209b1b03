"""The inline engine: blocks run in the caller's thread, one after the other, so that a debugger can step into them."""

from __future__ import annotations

from bdb import BdbQuit
from collections import deque
from typing import TYPE_CHECKING

from bellis.runtime.cell import CELL_BYTES, FLAG, GIVE_BACK, Cell
from bellis.runtime.engine import Capacity, EngineEvent, EngineSetup, ProgramRefused
from bellis.runtime.lease import Report
from bellis.runtime.worker import LeaseRunner, describe

if TYPE_CHECKING:
    from bellis.runtime.lease import Lease
    from bellis.runtime.program import Program


class InlineEngine:
    """Runs leases in this thread while events are asked for.

    A time-out can't be enforced here; output goes where the program's own goes.
    """

    def __init__(self) -> None:
        self._programs: dict[str, Program] = {}
        self._set_up: set[str] = set()
        self._leases: deque[Lease] = deque()
        self._cell = Cell(memoryview(bytearray(CELL_BYTES)), 0)

    def start(self, setup: EngineSetup) -> Capacity:
        """Take the programs; one lease runs at a time."""
        self._programs = {program.task_id: program for program in setup.programs}
        self._cell.words[FLAG] = 0  # an earlier run may have been interrupted
        return Capacity(slots=1)

    def submit(self, lease: Lease) -> None:
        """Keep a lease until events are asked for."""
        self._leases.append(lease)

    def events(self, timeout_s: float) -> list[EngineEvent]:
        """Run one lease."""
        del timeout_s
        events: list[EngineEvent] = []
        if not self._leases:
            return events
        lease = self._leases.popleft()
        program = self._programs[lease.task_id]
        if lease.task_id not in self._set_up:
            try:
                if program.functions.setup is not None:
                    program.functions.setup()
            except Exception as error:  # noqa: BLE001  # the user's function
                return [ProgramRefused(lease.task_id, describe(error)), Report(lease.lease_id, 0, b"", finished=True)]
            self._set_up.add(lease.task_id)
        indices = lease.indices.tobytes()
        outcomes = self._cell.begin(lease.lease_id, program.number, indices)
        view = memoryview(indices).cast("q")
        runner = LeaseRunner(program, lease.lease_id, view, self._cell, outcomes, events.append)
        runner.lets_out = (BdbQuit, KeyboardInterrupt)  # a person at a debugger's prompt wants out
        runner.run()
        return events

    def hurry(self, *, report: bool, share: bool) -> None:
        """Do nothing: whoever asks has the events of all that ran."""

    def drain(self) -> None:
        """Give back the rest of all leases."""
        self._cell.words[FLAG] = GIVE_BACK

    def close(self) -> None:
        """Let go of the functions."""
        self._programs = {}
