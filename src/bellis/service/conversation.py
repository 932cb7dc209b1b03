"""A worker's side of the conversation with a run: what it holds, what it has to say, and that nothing is said twice."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import msgspec

from bellis.runtime.lease import Outcome
from bellis.service.connection import Connection, UnknownWorker
from bellis.service.messages import (
    LONGEST_NAME,
    LONGEST_TEXT,
    MOST_REPORTS,
    Answer,
    BlockReport,
    Join,
    LeaseMessage,
    Running,
    TaskDescription,
    Turn,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

MOST_BYTES = 8 * 2**20
"""Results and output in one turn; one report may be larger."""
LARGEST_RESULT_BYTES = 4 * 2**20
"""What a function returns for one block travels in one message with others."""


class Conversation:
    """A worker that has joined a run.

    Parameters
    ----------
    connection
        The way to the run.
    join
        How the worker presents itself.

    Attributes
    ----------
    tasks
        What there is to do.
    held
        Leases that the worker has been given and has not ended.
    worker_id
        What the run calls it.

    Raises
    ------
    ServiceError
        If the run can't be reached, or does not take the worker.
    """

    def __init__(self, connection: Connection, join: Join) -> None:
        self._connection = connection
        self._join = msgspec.structs.replace(join, name=join.name[:LONGEST_NAME])
        self._reports: list[BlockReport] = []
        self._refused: dict[str, str] = {}
        self._ended: list[str] = []
        self.held: dict[int, LeaseMessage] = {}
        joined = connection.join(self._join)
        self.worker_id = joined.worker_id
        self.tasks: Sequence[TaskDescription] = joined.tasks

    @property
    def has_reports(self) -> bool:
        """Whether there is something to say."""
        return bool(self._reports or self._refused)

    def report(self, report: BlockReport) -> None:
        """Say with the next turn what became of blocks; nothing is said of leases that are not held."""
        if report.lease_id in self.held:
            self._reports.append(_fitting(report))

    def refuse(self, task_id: str, error: str) -> None:
        """Say with the next turn that a task's functions can't be loaded here."""
        self._refused[task_id] = _text(error)

    def ended(self, reason: str) -> None:
        """Say with the next turn that a worker process ended."""
        self._ended.append(_text(reason))

    def turn(self, *, wants: int, wait_s: float = 0.0, running: Sequence[Running] = ()) -> Answer:
        """Say what there is to say, and take leases.

        Parameters
        ----------
        wants
            How many more leases the worker would take.
        wait_s
            How long it would wait for them.
        running
            Where it is in the leases that it has begun.

        Returns
        -------
        Answer
            Its leases are new ones.

        Raises
        ------
        ServiceError
            If the run can't be reached any more, or is another one.
        """
        reports = self._next_reports()
        ended = {report.lease_id for report in reports if report.finished}
        refused, told = dict(self._refused), self._ended[:MOST_REPORTS]
        turn = Turn(
            reports=reports,
            running=[where for where in running if where.lease_id in self.held],
            held=[lease_id for lease_id in self.held if lease_id not in ended],
            wants=wants,
            wait_s=wait_s,
            refused=refused,
            ended=told,
        )
        try:
            answer = self._connection.turn(self.worker_id, turn)
        except UnknownWorker:
            return self._join_again()
        del self._reports[: len(reports)]
        del self._ended[: len(told)]
        self._refused = {task_id: error for task_id, error in self._refused.items() if task_id not in refused}
        for lease_id in (*ended, *answer.lost):
            self.held.pop(lease_id, None)
        self._reports = [report for report in self._reports if report.lease_id in self.held]
        new = [lease for lease in answer.leases if lease.lease_id not in self.held]
        self.held.update({lease.lease_id: lease for lease in new})
        return msgspec.structs.replace(answer, leases=new)

    def leave(self) -> None:
        """Say goodbye, and close the connection."""
        self._connection.leave(self.worker_id)

    def _join_again(self) -> Answer:
        """Begin afresh where nothing is known of this worker: the service was away, or the worker was."""
        lost = list(self.held)
        self.held.clear()
        self._reports.clear()
        self.worker_id = self._connection.join(self._join).worker_id
        return Answer(state="go", lost=lost)

    def _next_reports(self) -> list[BlockReport]:
        size = 0
        for count, report in enumerate(self._reports[:MOST_REPORTS]):
            size += len(report.output) + sum(map(len, report.results.values()))
            if count and size > MOST_BYTES:
                return self._reports[:count]
        return self._reports[:MOST_REPORTS]


def own_name() -> str:
    """Return what a person would call this process."""
    return f"{socket.gethostname()}:{os.getpid()}"


def _text(text: str) -> str:
    """Return a text that can be sent: not too long, and nothing that is no character."""
    if len(text) > LONGEST_TEXT:
        half = LONGEST_TEXT // 2 - 50
        text = f"{text[:half]}\n... {len(text) - 2 * half} characters left out ...\n{text[-half:]}"
    return text.encode(errors="replace").decode()


def _fitting(report: BlockReport) -> BlockReport:
    """Return a report that can be sent; a result that is too large is its block's failure."""
    outcomes = bytearray(report.outcomes)
    errors = {position: _text(error) for position, error in report.errors.items()}
    results = dict(report.results)
    for position, result in report.results.items():
        if len(result) > LARGEST_RESULT_BYTES:
            del results[position]
            outcomes[position - report.begin] = Outcome.FAILED
            errors[position] = (
                f"the function returned {len(result) >> 20} MiB, and results=True keeps at most "
                f"{LARGEST_RESULT_BYTES >> 20} MiB for each block: write data to an array or a file"
            )
    crash = None if report.crash is None else _text(report.crash)
    return msgspec.structs.replace(report, outcomes=bytes(outcomes), errors=errors, results=results, crash=crash)
