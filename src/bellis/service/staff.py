"""Worker functions: how many of a task there should be, when they may go, and when to give up starting them."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

from bellis.runtime.lease import Outcome, Report

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from bellis.runtime.program import Program
    from bellis.service.context import Context
    from bellis.service.launch import Ended, Launcher
    from bellis.service.server import Server

MOST_IN_VAIN = 10
"""Launches in a row that end although blocks are left, and without one that was completed, before no more are made."""
LAST_REPORT_S = 1.5
"""When a worker function has ended, what its client had to say may be on the way so long; usually it is there first."""
_DONE = (Outcome.SUCCESS, Outcome.SKIPPED)


class _Task:
    """The launches of one task."""

    def __init__(self, most: int, blocks: int) -> None:
        self.most = most
        self.blocks = blocks
        """Those that were not completed."""
        self.launched: set[int] = set()
        self.in_vain = 0
        self.progressed = False
        """Whether a block was completed since a launch ended."""
        self.how = ""
        """How the last one ended: what is said of it."""

    def wanted(self) -> int:
        return 0 if self.in_vain >= MOST_IN_VAIN else self.most - len(self.launched)

    def note_end(self, number: int) -> bool:
        """Note that a launch ended; return whether it was in vain."""
        self.launched.discard(number)
        is_vain, self.progressed = not self.progressed, False
        self.in_vain += is_vain
        return is_vain


class Staff:
    """The worker functions of a run; used in the run's thread.

    Parameters
    ----------
    programs
        The tasks that have one.
    workers
        How many blocks the user wants to run at the same time; None: as many as the tasks say.
    left
        How many blocks of each task are not done.
    """

    def __init__(self, programs: Sequence[Program], workers: int | None, left: Mapping[str, int]) -> None:
        self._tasks = {
            program.task_id: _Task(min(program.workers, workers or program.workers), left[program.task_id])
            for program in programs
        }
        self._is_dismissed = True

    def open(self, launcher: Launcher, server: Server, context: Callable[[str], Context]) -> None:
        """Begin: with what starts them, where their clients report, and what these are told of a task."""
        self._launcher = launcher
        self._server = server
        self._context = context
        self._is_dismissed = False
        with server.board() as board:
            for task_id, task in self._tasks.items():
                if not task.blocks:
                    board.finish(task_id)

    @property
    def most(self) -> int:
        """How many there are at the same time."""
        return sum(task.most for task in self._tasks.values())

    def is_there(self) -> bool:
        """Whether any has not returned."""
        return any(task.launched for task in self._tasks.values())

    def start(self, task_id: str) -> None:
        """Start the worker functions of a task, as many as it may have; if that is given up, its leases go back."""
        task = self._tasks.get(task_id)
        if task is None or self._is_dismissed:
            return
        for _ in range(task.wanted()):
            task.launched.add(self._launcher.launch(task_id, self._context(task_id)))
        if not task.launched:
            with self._server.board() as board:
                if not board.workers_of(task_id):
                    board.give_up_one(task_id, task.how)

    def dismiss(self) -> None:
        """Start no more."""
        self._is_dismissed = True

    def counted(self, task_id: str, reports: list[Report]) -> list[Report]:
        """Take note of completed blocks: once there are no more, who works for a task may go."""
        task = self._tasks.get(task_id)
        done = sum(report.outcomes.count(outcome) for report in reports for outcome in _DONE) if task else 0
        if task is not None and done:
            task.in_vain, task.progressed = 0, True
            task.blocks -= done
            if not task.blocks:
                with self._server.board() as board:
                    board.finish(task_id)
        return reports

    def note_end(self, ended: Ended) -> None:
        """Note that a worker function has returned, raised or was killed; start another if blocks are left."""
        task = self._tasks[ended.task_id]
        how = "returned although blocks were left" if ended.error is None else f"failed:\n{ended.error}"
        task.how = how + (f"\nits last output:\n{ended.output}" if ended.output else "")
        is_vain = task.note_end(ended.number)
        if self._is_dismissed:
            return
        with self._server.board() as board:
            reason = f"its worker function {task.how}"
            had_leases = board.end_launch(ended.number, reason, monotonic() + LAST_REPORT_S)
            if is_vain and not had_leases:
                board.give_up_one(ended.task_id, task.how)
            is_queued = board.queued(ended.task_id) > 0
        if is_queued:
            self.start(ended.task_id)
