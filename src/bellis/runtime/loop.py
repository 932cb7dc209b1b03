"""The run loop: leases go to the engine, reports come back to the scheduler and the journal, events go to observers."""

from __future__ import annotations

from dataclasses import replace
from time import monotonic
from typing import TYPE_CHECKING

import numpy as np

from bellis.errors import DeadlockError
from bellis.runtime.engine import Capacity, Engine, EngineEvent, Notice, ProgramRefused, WorkerEnded
from bellis.runtime.events import (
    AnyEvent,
    BlockFailed,
    Message,
    TaskFinished,
    TaskProgress,
    TaskStopped,
    WorkerLost,
)
from bellis.runtime.lease import Lease, Outcome, Report
from bellis.runtime.output import last_lines, log_path
from bellis.runtime.record import Held, TaskRecord, signature
from bellis.runtime.report import Counts, Failure
from bellis.runtime.sizing import Pace

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from bellis.planning.grid import Ints
    from bellis.runtime.journal import Journal
    from bellis.runtime.scheduler import Scheduler
    from bellis.runtime.state import Accepted
    from bellis.tasks import Task

MOST_FAILURES = 1000
"""Failed blocks of a task that are kept with their tracebacks."""
MOST_CRASHES = 10
"""Blocks that end their workers, with no success of the task between them, before the task is stopped."""
MOST_LOSSES = 2
"""A block that was lost with so many machines, and then alone with one more, counts as having ended that one."""
MOST_TIMINGS = 200_000
"""Durations kept per task; of larger tasks, those of every n-th block."""
TICK_S = 0.2
LAST_REPORTS_S = 1.0
GRACE_S = 10.0
"""How long running blocks may take to finish after an interrupt."""


class Loop:
    """Runs the tasks of a scheduler on an engine.

    Parameters
    ----------
    scheduler
        What may run.
    engine
        Started.
    capacity
        What it said that it can run at the same time.
    journal
        Where completions are noted; None for nowhere.
    notify
        Called with events.
    resources
        What the user says there is of each resource that tasks ask for; of others, what the engine says.
    fail_fast
        Stop a task when its first so many blocks all fail alike; None for never.
    log_dir
        Where workers' output goes; None if it is not caught.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        engine: Engine,
        capacity: Capacity,
        *,
        journal: Journal | None,
        notify: Callable[[AnyEvent], None],
        resources: Mapping[str, int],
        fail_fast: int | None,
        log_dir: Path | None,
        tasks: tuple[Task, ...],
    ) -> None:
        self._scheduler = scheduler
        self._engine = engine
        self._slots = capacity.slots
        self._sizes = capacity.sizes
        self._journal = journal
        self._notify = notify
        self._fail_fast = fail_fast
        self._log_dir = log_dir
        self._held: dict[int, Held] = {}
        self._load = 0.0
        self._given = dict(resources)
        self._there = {**capacity.resources, **resources}
        self._free = dict(self._there)
        self._next_lease = 1
        self._interrupts = 0
        self._late = 0
        self.records = {task.task_id: self._record(task) for task in tasks}

    def _record(self, task: Task) -> TaskRecord:
        state = self._scheduler.task_states[task.task_id]
        sampled = max(1, -(-state.total_block_count // MOST_TIMINGS))
        record = TaskRecord(task, self._most_leases(task), sampled, Pace(self._sizes))
        if state.completed_count:  # its first blocks did not fail: an earlier run completed them
            record.first_errors = None
        return record

    def _most_leases(self, task: Task) -> int:
        # A queued lease would hold resources that it does not use yet, or run beside the cap.
        is_capped = task.num_workers < self._slots or bool(task.resources)
        return min(task.num_workers, self._slots) if is_capped else 2 * self._slots

    def _resize(self, capacity: Capacity) -> None:
        """Go on with more or fewer workers."""
        self._slots = capacity.slots
        for record in self.records.values():
            record.pace.sizes = capacity.sizes
            record.most_leases = self._most_leases(record.task)
        there = {**capacity.resources, **self._given}
        for name in there.keys() | self._there.keys():
            change = there.get(name, 0) - self._there.get(name, 0)
            self._free[name] = self._free.get(name, 0) + change
        self._there = there

    @property
    def slots(self) -> int:
        """How many leases run at the same time, as the engine said last."""
        return self._slots

    # The turns -------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Run until every block is completed, failed or orphaned, or the user interrupts.

        Raises
        ------
        DeadlockError
            If nothing is ready and nothing runs, yet blocks are left.
        """
        self._finish_tasks()
        while not self._scheduler.is_done() and not self._interrupts:
            self._fill()
            if not self._held:
                self._check_deadlock()
                self._turn(TICK_S)  # what is ready waits for a worker that has it
                continue
            idle = self._load < self._slots
            shareable = any(0 < record.leases < record.most_leases for record in self.records.values())
            self._engine.hurry(report=idle, share=idle and shareable)
            self._turn(TICK_S)
        if self._interrupts:
            self._wind_up()
        until = monotonic() + LAST_REPORTS_S
        while self._held and not self._interrupts and monotonic() < until:  # all is done; the timings still come
            self._turn(TICK_S)

    def interrupt(self) -> None:
        """Stop leasing; called a second time, do not even wait for what runs. Safe in a signal handler."""
        self._interrupts += 1

    @property
    def is_interrupted(self) -> bool:
        """Whether `interrupt` was called."""
        return self._interrupts > 0

    def _turn(self, timeout_s: float) -> None:
        for event in self._engine.events(timeout_s):
            self._handle(event)
        # What a worker's cell still holds may be overwritten once it gets another lease: so commit before.
        if self._journal is not None:
            self._journal.commit()

    def _wind_up(self) -> None:
        """Let running blocks finish."""
        self._engine.drain()
        if not self._held:
            return
        self._notify(Message(text="stopping: running blocks may finish; press Ctrl-C again to end them at once"))
        until = monotonic() + GRACE_S
        while self._held and self._interrupts < 2 and monotonic() < until:
            self._turn(TICK_S / 2)

    def _fill(self) -> None:
        """Lease what is ready while there is room."""
        for task in self._scheduler.get_ready_tasks():
            record = self.records[task.task_id]
            while self._has_room(record) and self._lease(record):
                pass

    def _has_room(self, record: TaskRecord) -> bool:
        return (
            self._load < self._slots
            and record.leases < record.most_leases
            and all(amount <= self._free.get(name, 0) for name, amount in record.task.resources.items())
        )

    def _lease(self, record: TaskRecord) -> bool:
        task_id = record.task.task_id
        state = self._scheduler.task_states[task_id]
        size = record.pace.size(
            remaining=state.ready_count + state.pending_count, ready=state.ready_count, slots=self._slots
        )
        indices = self._scheduler.acquire(task_id, size)
        if not len(indices):
            return False
        lease = Lease(self._next_lease, task_id, indices)
        self._next_lease += 1
        is_short = record.most_leases > self._slots and record.pace.is_short(len(indices))
        self._held[lease.lease_id] = Held(lease, np.zeros(len(indices), np.uint8), is_short)
        self._load += 0.5 if is_short else 1.0
        record.leases += 1
        for name, amount in record.task.resources.items():
            self._free[name] -= amount
        if record.first_s is None:
            record.first_s = monotonic()
        self._engine.submit(lease)
        return True

    def _check_deadlock(self) -> None:
        if self._scheduler.is_done() or self._scheduler.get_ready_tasks():
            return
        left = {k: s.pending_count for k, s in self._scheduler.task_states.items() if s.pending_count}
        blocks = ", ".join(f"{count} of task {task_id!r}" for task_id, count in left.items())
        raise DeadlockError(
            f"nothing is ready and nothing runs, but blocks are left: {blocks}; this is an error in bellis"
        )

    # Events ----------------------------------------------------------------------------------------------------------

    def _handle(self, event: EngineEvent) -> None:
        if isinstance(event, Report):
            self._take(event)
        elif isinstance(event, WorkerEnded):
            task_id = event.lease.task_id if event.lease is not None else None
            self._notify(WorkerLost(worker=event.worker, reason=event.reason, task_id=task_id))
        elif isinstance(event, Capacity):
            self._resize(event)
        elif isinstance(event, Notice):
            self._notify(Message(text=event.text))
        elif isinstance(event, ProgramRefused):
            self._stop(event.task_id, f"its functions can't be loaded in a worker:\n{event.error}")

    def _take(self, report: Report) -> None:
        held = self._held.get(report.lease_id)
        if held is None:
            self._late += 1
            return
        record = self.records[held.lease.task_id]
        now = np.frombuffer(report.outcomes, np.uint8)
        end = report.begin + len(now)
        known = held.outcomes[report.begin : end]
        fresh = (known == Outcome.NONE) & (now != Outcome.NONE)
        known[fresh] = now[fresh]
        positions = report.begin + np.flatnonzero(fresh)
        if report.finished:
            del self._held[report.lease_id]
            self._load -= 0.5 if held.is_short else 1.0
            record.leases -= 1
            for name, amount in record.task.resources.items():
                self._free[name] += amount
            rest = np.flatnonzero(held.outcomes == Outcome.NONE)
            held.outcomes[rest] = Outcome.LOST
            if report.is_suspect:
                report = self._suspect(record, held, rest, report)
            positions = np.concatenate([positions, rest])
        indices, outcomes = held.lease.indices[positions], held.outcomes[positions]
        accepted = self._scheduler.release(held.lease.task_id, indices, outcomes)
        seconds = self._note_timings(record, held.lease, report)
        self._note_outcomes(record, held.lease, report, accepted)
        self._publish(record, accepted, seconds)

    @staticmethod
    def _suspect(record: TaskRecord, held: Held, rest: Ints, report: Report) -> Report:
        """Have blocks that were lost with their machine tried apart from others; blame one that is always there."""
        held.outcomes[rest] = Outcome.SUSPECT
        record.losses.update(held.lease.indices[rest].tolist())
        if len(rest) != 1 or record.losses[int(held.lease.indices[rest[0]])] <= MOST_LOSSES:
            return report
        held.outcomes[rest] = Outcome.FAILED
        error = f"its machine was lost whenever it ran this block; the last time: {report.crash or 'nobody knows why'}"
        return replace(report, errors={**report.errors, int(rest[0]): error})

    def _note_timings(self, record: TaskRecord, lease: Lease, report: Report) -> NDArray[np.float32]:
        seconds = np.frombuffer(report.seconds, np.float32)
        record.peak_memory_bytes = max(record.peak_memory_bytes, report.peak_memory_bytes)
        record.last_s = monotonic()
        if not len(seconds):
            return seconds
        total = float(seconds.sum(dtype=np.float64))
        record.pace.note(len(seconds), total)
        record.seconds += total
        indices = lease.indices[report.begin : report.begin + len(seconds)]
        if record.sampled > 1:
            chosen = indices % record.sampled == 0
            indices, kept = indices[chosen], seconds[chosen]
        else:
            kept = seconds
        if len(indices):
            record.timings.append((indices, kept))
            if self._journal is not None:
                self._journal.note_timings(record.task.task_id, indices, kept)
        return seconds

    def _note_outcomes(self, record: TaskRecord, lease: Lease, report: Report, accepted: Accepted) -> None:
        task_id = record.task.task_id
        if report.results:
            results = {int(lease.indices[position]): value for position, value in report.results.items()}
            if self._journal is not None:
                self._journal.note_results(task_id, results)
            else:
                record.results.update(results)
        if len(accepted.done):
            record.crashed.clear()
            record.first_errors = None
            if self._journal is not None:
                self._journal.note_done(task_id, accepted.done)
        errors = {int(lease.indices[position]): error for position, error in report.errors.items()}
        for index in (*accepted.retried, *accepted.failed):
            self._note_failure(record, index, errors.get(index, ""), report.worker, final=index in accepted.failed)
            if not report.is_suspect:  # of the loss of machines, nothing follows for the next block
                self._fail_fast_on(record, index, errors.get(index, ""))
        checked = errors.keys() - {*accepted.retried, *accepted.failed}
        if checked and not record.is_warned:
            record.is_warned = True
            index = min(checked)
            last = errors[index].rpartition("\n")[2]
            number = self._scheduler.grid(task_id).number(index)
            what = f"check_function failed before block {number}, so it was run: {last}"
            self._notify(Message(text=f"task {task_id!r}: {what} (others are in the logs)"))
        if report.crash is not None and not report.is_suspect:
            self._note_crash(record, report.crash, next(iter(errors.items()), (-report.lease_id, "")))

    def _note_failure(self, record: TaskRecord, index: int, error: str, worker: str, *, final: bool) -> None:
        task_id = record.task.task_id
        grid = self._scheduler.grid(task_id)
        attempt = self._scheduler.attempts(task_id, index)
        log = self._log_of(task_id, worker)
        number = grid.number(index)
        is_kept = index in record.failures or len(record.failures) < (2 if final else 1) * MOST_FAILURES
        if is_kept:  # also of a block that will be tried again: its task may be stopped before
            record.failures[index] = Failure(
                task_id=task_id,
                number=number,
                index=index,
                read_roi=grid.read_roi(index),
                write_roi=grid.write_roi(index),
                attempts=attempt,
                error=error,
                log=log,
            )
        if self._journal is not None:
            self._journal.note_failure(task_id, index, attempt, error if is_kept else signature(error))
        self._notify(
            BlockFailed(
                task_id=task_id,
                index=index,
                number=number,
                attempt=attempt,
                final=final,
                error=error,
                worker=worker,
                log=log,
            )
        )

    def _fail_fast_on(self, record: TaskRecord, index: int, error: str) -> None:
        if self._fail_fast is None or record.first_errors is None or record.stopped is not None:
            return
        record.first_errors.setdefault(index, signature(error))
        kinds = set(record.first_errors.values())
        if len(kinds) > 1:
            record.first_errors = None
        elif len(record.first_errors) >= self._fail_fast:
            count = len(record.first_errors)
            self._stop(record.task.task_id, f"its first {count} blocks all failed alike; the last one:\n{error}")

    def _note_crash(self, record: TaskRecord, crash: str, culprit: tuple[int, str]) -> None:
        index, error = culprit
        record.crashed.add(index)
        if len(record.crashed) >= MOST_CRASHES:
            self._stop(
                record.task.task_id,
                f"{len(record.crashed)} workers in a row ended while they ran it; the last one {crash}\n{error}",
            )

    def _stop(self, task_id: str, reason: str) -> None:
        """Stop a task, and those that wait for it."""
        record = self.records[task_id]
        if record.stopped is not None:
            return
        record.stopped = reason
        self._scheduler.cancel(task_id)
        self._notify(TaskStopped(task_id=task_id, reason=reason))
        for other in self.records.values():  # blocks that failed before count as failed, though not tried again
            if other.stopped is None and self._scheduler.is_cancelled(other.task.task_id):
                other.stopped = f"task {task_id!r}, which it needs, was stopped"
                self._notify(TaskStopped(task_id=other.task.task_id, reason=other.stopped))
        self._finish_tasks()

    def _publish(self, record: TaskRecord, accepted: Accepted, seconds: NDArray[np.float32]) -> None:
        for task_id in accepted.tasks:
            own = task_id == record.task.task_id
            self._notify(
                TaskProgress(
                    task_id=task_id,
                    counts=Counts.of(self._scheduler.task_states[task_id]),
                    indices=accepted.done if own else accepted.done[:0],
                    seconds=seconds if own else seconds[:0],
                )
            )
        self._finish_tasks()

    def failures(self, task_id: str) -> tuple[Failure, ...]:
        """Return the blocks of a task that failed for the last time, by index, the first 1000."""
        found = self.records[task_id].failures
        failed = [index for index in sorted(found) if self._scheduler.has_failed(task_id, index)]
        return tuple(found[index] for index in failed[:MOST_FAILURES])

    def durations(self, task_id: str) -> tuple[Ints, NDArray[np.float32]]:
        """Return indices and durations in seconds of a task's blocks; a sample for large tasks."""
        timings = self.records[task_id].timings
        indices = np.concatenate([np.empty(0, np.int64), *(part[0] for part in timings)])
        return indices, np.concatenate([np.empty(0, np.float32), *(part[1] for part in timings)])

    def _finish_tasks(self) -> None:
        for task_id, record in self.records.items():
            state = self._scheduler.task_states[task_id]
            if not record.is_finished and state.is_done():
                record.is_finished = True
                self._notify(TaskFinished(task_id=task_id, counts=Counts.of(state)))

    def _log_of(self, task_id: str, worker: str) -> Path | None:
        slot = worker.rpartition("-")[2]
        if self._log_dir is None or not slot.isdigit():
            return None
        path = log_path(self._log_dir, task_id, int(slot))
        return path if last_lines(path, 1) else None
