"""Checks of worker functions: they take blocks by themselves, so the run asks before and after, on worker processes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import numpy as np

from bellis.runtime.lease import Lease, Outcome, Report

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from bellis.planning.grid import Ints
    from bellis.runtime.program import Program

When = Literal["before", "after"]


@dataclass(slots=True)
class _Checked:
    """A lease whose blocks are checked."""

    lease: Lease
    asks_after: bool
    outcomes: NDArray[np.uint8]
    """What workers said."""
    rest: Ints
    """Positions of the blocks that are with workers, or being asked about."""
    when: When = "before"
    worker: str = ""


class Checks:
    """Leases on their way through checks; in the run's thread.

    Parameters
    ----------
    programs
        The tasks with worker functions.
    ask
        Begins a check: given a lease and when. What it finds is given to `answered`.
    run
        Puts up a lease for workers. What they say is given to `reported`.
    """

    def __init__(
        self, programs: list[Program], ask: Callable[[Lease, When], None], run: Callable[[Lease], None]
    ) -> None:
        self._before = {program.task_id for program in programs if program.functions.pre is not None}
        self._after = {program.task_id for program in programs if program.functions.post is not None}
        self._ask = ask
        self._run = run
        self._leases: dict[int, _Checked] = {}

    def submit(self, lease: Lease) -> None:
        """Take a lease."""
        if lease.task_id not in self._before | self._after:
            self._run(lease)
            return
        everything = np.arange(len(lease.indices))
        outcomes = np.zeros(len(lease.indices), np.uint8)
        self._leases[lease.lease_id] = _Checked(lease, lease.task_id in self._after, outcomes, everything)
        if lease.task_id in self._before:
            self._ask(lease, "before")
        else:
            self._run(lease)

    def answered(self, report: Report) -> list[Report]:
        """Take what a check found; return what is to be said of it."""
        checked = self._leases[report.lease_id]
        if checked.when == "after":
            return self._answered_after(checked, report)
        is_to_run = np.frombuffer(report.outcomes, np.uint8) == Outcome.SUCCESS
        said = report.outcomes.translate(bytes.maketrans(bytes([Outcome.SUCCESS]), bytes([Outcome.NONE])))
        checked.outcomes[report.begin : report.begin + len(said)] += np.where(is_to_run, Outcome.SUCCESS, 0).astype(
            np.uint8
        )
        passed_on = replace(report, outcomes=said, seconds=b"", finished=False)
        if not report.finished:
            return [passed_on]
        checked.rest = np.flatnonzero(checked.outcomes == Outcome.SUCCESS)
        checked.outcomes[:] = Outcome.NONE
        if not len(checked.rest):
            del self._leases[report.lease_id]
            return [replace(passed_on, finished=True)]
        self._run(Lease(report.lease_id, checked.lease.task_id, checked.lease.indices[checked.rest]))
        return [passed_on]

    def _answered_after(self, checked: _Checked, report: Report) -> list[Report]:
        if report.finished:
            del self._leases[report.lease_id]
        named = replace(report, seconds=b"", worker=report.worker if report.crash else checked.worker)
        return list(_placed(named, checked.rest))

    def reported(self, report: Report) -> list[Report]:
        """Take what a worker said of a lease; return what is to be said of it now."""
        checked = self._leases.get(report.lease_id)
        if checked is None:
            return [report]
        if checked.asks_after:
            now = np.frombuffer(report.outcomes, np.uint8)
            positions = checked.rest[report.begin : report.begin + len(now)]
            checked.outcomes[positions[now == Outcome.SUCCESS]] = Outcome.SUCCESS
            said = report.outcomes.translate(bytes.maketrans(bytes([Outcome.SUCCESS]), bytes([Outcome.NONE])))
            report = replace(report, outcomes=said)
        checked.worker = report.worker
        if not report.finished:
            return list(_placed(report, checked.rest))
        to_ask = np.flatnonzero(checked.outcomes == Outcome.SUCCESS)
        if not len(to_ask):
            del self._leases[report.lease_id]
            return list(_placed(report, checked.rest))
        said_now = list(_placed(replace(report, finished=False), checked.rest))
        checked.when, checked.rest = "after", to_ask
        self._ask(Lease(report.lease_id, checked.lease.task_id, checked.lease.indices[to_ask]), "after")
        return said_now


def _placed(report: Report, positions: Ints) -> Iterator[Report]:
    """Yield a report of some blocks of a lease, at ``positions``, as reports of consecutive blocks of that lease."""
    own = positions[report.begin : report.begin + len(report.outcomes)]
    cuts = [0, *(np.flatnonzero(np.diff(own) != 1) + 1).tolist(), len(own)]
    errors = {int(positions[at]): text for at, text in report.errors.items()}
    for begin, end in pairwise(cuts):
        is_last = end == len(own)
        first = int(own[begin]) if end > begin else 0
        part = range(first, first + end - begin)
        yield replace(
            report,
            begin=first,
            outcomes=report.outcomes[begin:end],
            seconds=report.seconds[4 * begin : 4 * end],
            errors={at: text for at, text in errors.items() if at in part},
            results={},
            finished=report.finished and is_last,
            crash=report.crash if is_last else None,
            is_suspect=report.is_suspect and is_last,
        )
