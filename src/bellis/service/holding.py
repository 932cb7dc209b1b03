"""A lease that a worker holds: what is known of its blocks, and what is said of it when it is taken away."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bellis.runtime.lease import Outcome, Report
from bellis.service.messages import LeaseMessage

if TYPE_CHECKING:
    from bellis.runtime.lease import Lease
    from bellis.service.messages import BlockReport

_OUTCOMES = bytes(range(Outcome.LOST + 1))


class RefusedError(ValueError):
    """A worker said what can't be; nothing of it was taken."""


class Holding:
    """A lease that a worker holds.

    Parameters
    ----------
    lease
        The lease.
    """

    __slots__ = ("known", "lease", "position", "seconds", "timed")

    def __init__(self, lease: Lease) -> None:
        self.lease = lease
        self.known = np.zeros(len(lease.indices), np.uint8)
        """Outcomes that were reported."""
        self.timed = 0
        """Durations were reported of the blocks before this position."""
        self.position: int | None = None
        """The block that ran when it was heard of last."""
        self.seconds = 0.0
        """For how long that had run then."""

    def left(self) -> int:
        """Return how many blocks nothing was said of."""
        return len(self.known) - int(np.count_nonzero(self.known))

    def check(self, report: BlockReport, *, keeps_results: bool) -> None:
        """Check what a worker says of this lease.

        Raises
        ------
        RefusedError
            If it can't be so.
        """
        end = report.begin + len(report.outcomes)
        there = f"the lease {self.lease.lease_id} has {len(self.known)} blocks"
        if end > len(self.known):
            raise RefusedError(f"blocks {report.begin} to {end} were reported, but {there}")
        if report.outcomes.translate(None, _OUTCOMES):
            raise RefusedError(f"outcomes must be among {list(_OUTCOMES)}, but {max(report.outcomes)} was reported")
        if report.seconds:
            self._check_seconds(report)
        if report.results and not keeps_results:
            raise RefusedError(f"results were reported, but the task {self.lease.task_id!r} keeps none")
        for position in (*report.errors, *report.results):
            if not report.begin <= position < end:
                raise RefusedError(
                    f"an error or result is of block {position}, but the report of {report.begin} to {end}"
                )

    def _check_seconds(self, report: BlockReport) -> None:
        count, given = len(report.outcomes), len(report.seconds)
        if given != 4 * count:
            raise RefusedError(f"seconds must be a float32 for each of {count} outcomes, not {given} bytes")
        seconds = np.frombuffer(report.seconds, np.float32)
        if not (np.isfinite(seconds) & (seconds >= 0)).all():
            raise RefusedError("seconds must be finite and not negative")

    def take(self, report: BlockReport, worker: str) -> Report:
        """Take note of a report, and return it without what was known before."""
        begin, outcomes, seconds = report.begin, report.outcomes, report.seconds
        errors, results = report.errors, report.results
        if seconds:
            again = min(max(0, self.timed - begin), len(outcomes))
            self.timed = max(self.timed, begin + len(outcomes))
            begin, outcomes, seconds = begin + again, outcomes[again:], seconds[4 * again :]
            if again:
                errors = {position: text for position, text in errors.items() if position >= begin}
                results = {position: value for position, value in results.items() if position >= begin}
        now = np.frombuffer(outcomes, np.uint8)
        known = self.known[begin : begin + len(now)]
        if known.any():
            now = np.where(known == Outcome.NONE, now, np.uint8(Outcome.NONE))
            outcomes = now.tobytes()
        known += now
        return Report(
            self.lease.lease_id,
            begin,
            outcomes,
            seconds,
            errors,
            results,
            report.finished,
            worker,
            report.peak_memory_bytes,
            report.crash if report.finished else None,
            output=report.output,
        )

    def message(self) -> LeaseMessage:
        """Return the lease as it is sent."""
        indices = self.lease.indices
        cuts = np.flatnonzero(np.diff(indices) != 1) + 1
        begins = [0, *cuts.tolist()]
        ends = [*begins[1:], len(indices)]
        runs = [(int(indices[begin]), end - begin) for begin, end in zip(begins, ends, strict=True)]
        return LeaseMessage(lease_id=self.lease.lease_id, task_id=self.lease.task_id, runs=runs)

    # When it is taken away -------------------------------------------------------------------------------------------

    def returned(self, worker: str) -> Report:
        """Say that what was not reported was not run."""
        return Report(self.lease.lease_id, 0, b"", finished=True, worker=worker)

    def failed(self, position: int, worker: str, error: str, crash: str | None) -> Report:
        """Say that one block failed, and that the others that were not reported were not run."""
        outcomes = np.where(self.known == Outcome.NONE, np.uint8(Outcome.LOST), np.uint8(Outcome.NONE))
        outcomes[position] = Outcome.FAILED
        said = outcomes.tobytes()
        return Report(self.lease.lease_id, 0, said, errors={position: error}, finished=True, worker=worker, crash=crash)

    def suspect(self, position: int | None, worker: str, crash: str) -> Report:
        """Say that a block that was not reported, if it is known the one at ``position``, may have ended the worker."""
        said = b""
        if position is not None:
            outcomes = np.where(self.known == Outcome.NONE, np.uint8(Outcome.LOST), np.uint8(Outcome.NONE))
            outcomes[position] = Outcome.NONE
            said = outcomes.tobytes()
        return Report(self.lease.lease_id, 0, said, finished=True, worker=worker, crash=crash, is_suspect=True)

    def culprit(self, surely_s: float) -> int | None:
        """Return the block that must have been running, if it is known which.

        Parameters
        ----------
        surely_s
            A block that had run so long was still running when the worker was lost.
        """
        unreported = np.flatnonzero(self.known == Outcome.NONE)
        if len(unreported) == 1:
            return int(unreported[0])
        position = self.position
        is_sure = position is not None and self.seconds >= surely_s and self.known[position] == Outcome.NONE
        return position if is_sure else None
