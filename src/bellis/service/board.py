"""The board: leases go up, workers take them and say what became of them. No I/O, no clock, no thread.

What a worker says arrives as checked messages, with the time; what the run is to know comes out as events.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bellis.runtime.engine import ProgramRefused, WorkerEnded
from bellis.runtime.lease import Report
from bellis.service.holding import Holding, RefusedError
from bellis.service.messages import Answer, Joined, RunStatus, TaskStatus
from bellis.service.queue import LeaseQueue
from bellis.service.roster import (
    CrowdedError,
    UnknownWorkerError,
    Worker,
    blocks_of,
    check_turn,
    lost_leases,
    may_take,
    overdue_blocks,
    to_give_back,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bellis.runtime.engine import EngineEvent
    from bellis.runtime.lease import Lease
    from bellis.service.messages import Join, Turn
    from bellis.service.roster import BoardTask

SILENCE_S = 10.0
"""A worker that is not heard of for so long has lost its leases."""
HELD_UP_S = 2.0
"""If the board is not swept for so long, this process did not run."""
REPORT_EVERY_S = 0.25
HURRIED_S = 0.05
HUNGRY_S = 0.005
"""A worker that has nothing may come again so soon, to wait for leases."""
TURNS_PER_S = 1000
"""More workers than these are asked less often, so that all together take no more turns."""
MOST_WORKERS = 10_000
AT_HAND = 2
"""Leases that a worker has per slot: one that runs and the next."""


class Board:
    """What waits, who is there, and who has what.

    Parameters
    ----------
    run_id
        Name of the run.
    tasks
        Those whose leases may come.
    silence_s
        A worker that is not heard of for so long has lost its leases.
    first_place
        Number of the first log; those before are somebody else's.
    first_worker
        Id of the first worker. A run that goes on after a break begins at another one, so that nobody who joined before
        is taken for somebody who joins now.
    """

    def __init__(
        self,
        run_id: str,
        tasks: Sequence[BoardTask],
        *,
        silence_s: float = SILENCE_S,
        first_place: int = 0,
        first_worker: int = 1,
    ) -> None:
        self.run_id = run_id
        self._tasks = {task.description.task_id: task for task in tasks}
        self._queues = {task_id: LeaseQueue() for task_id in self._tasks}
        self._silence_s = silence_s
        self._workers: dict[int, Worker] = {}
        self.slots = 0
        """How many leases the workers can run at the same time."""
        self._next_worker = first_worker
        self._next_place = first_place
        self._waiting: dict[int, None] = {}
        self._to_answer: set[int] = set()
        self._events: list[EngineEvent] = []
        self._late = 0
        self._overdue: list[tuple[int, str]] = []
        self._accounted: set[int] = set()
        """Launches of which it was reported in which block they ended."""
        self._hurry = self._share = False
        self._draining = self._closed = False
        self._finished: set[str] = set()
        self._swept_s: float | None = None

    # The run's side --------------------------------------------------------------------------------------------------

    def submit(self, lease: Lease) -> None:
        """Put up a lease; a worker that waits for one gets it."""
        if self._draining:
            self._events.append(Holding(lease).returned(""))
            return
        self._queues[lease.task_id].add(lease)
        for worker_id in self._waiting:
            worker = self._workers[worker_id]
            if self._assign(worker, 1):
                worker.wants -= 1
                self._to_answer.add(worker_id)
                if not worker.wants:
                    del self._waiting[worker_id]
                return

    def hurry(self, *, report: bool, share: bool) -> None:
        """See `Engine.hurry`; workers hear of it in their next turn."""
        self._hurry, self._share = report, share

    def drain(self) -> None:
        """Give back what waits; have workers begin no further block."""
        self._draining = True
        for task_id in self._queues:
            self.give_up(task_id)
        self._to_answer.update(self._waiting)

    def give_up(self, task_id: str) -> None:
        """Give back the leases of a task that no worker has taken."""
        self._events += [Holding(lease).returned("") for lease in self._queues[task_id].take_all()]

    def give_up_one(self, task_id: str, crash: str) -> None:
        """Give back one lease that no worker has taken, because one that would have ended."""
        if self._queues[task_id]:
            lease = self._queues[task_id].take()
            self._events.append(Report(lease.lease_id, 0, b"", finished=True, crash=crash))

    def finish(self, task_id: str) -> None:
        """Let the workers of a task go: it is done."""
        self._finished.add(task_id)
        self._to_answer.update(self._waiting)

    def close(self) -> None:
        """Tell all workers to leave."""
        self._closed = True
        self._to_answer.update(self._waiting)

    def take_events(self) -> list[EngineEvent]:
        """Return what happened since this was called last."""
        events, self._events = self._events, []
        return events

    def take_late(self) -> int:
        """Return how many reports were dropped since this was called last: their workers had lost the leases."""
        late, self._late = self._late, 0
        return late

    def take_overdue(self) -> list[tuple[int, str]]:
        """Return the workers that the run launched and should end, by the number of their launch, and why."""
        overdue, self._overdue = self._overdue, []
        return overdue

    def take_idle(self, now_s: float, after_s: float) -> list[str]:
        """Return who has leases and has run nothing for ``after_s``; each once, until it does something."""
        return [worker.person for worker in self._workers.values() if worker.becomes_idle(now_s, after_s)]

    def take_to_answer(self) -> set[int]:
        """Return the workers that wait and should be answered now."""
        to_answer, self._to_answer = self._to_answer, set()
        return to_answer

    def has_events(self) -> bool:
        """Whether there is something to take."""
        return bool(self._events or self._late or self._overdue)

    @property
    def workers(self) -> int:
        """How many workers there are."""
        return len(self._workers)

    def queued(self, task_id: str) -> int:
        """Return how many leases of a task wait."""
        return len(self._queues[task_id])

    def workers_of(self, task_id: str) -> int:
        """Return how many workers may take blocks of a task."""
        return sum(may_take(worker, self._tasks[task_id]) for worker in self._workers.values())

    def is_hungry(self, task_id: str) -> bool:
        """Whether a worker could begin a block of this task now."""
        able = [worker for worker in self._workers.values() if may_take(worker, self._tasks[task_id])]
        free = sum(max(0, worker.slots - len(worker.holdings)) for worker in able)
        return free > len(self._queues[task_id])

    def status(self) -> RunStatus:
        """Return how the run goes."""
        leased = blocks_of(self._workers.values())
        tasks = [TaskStatus(task_id=one, leased=leased[one], queued=self._queues[one].blocks()) for one in self._tasks]
        return RunStatus(run_id=self.run_id, workers=self.workers, tasks=tasks)

    # The workers' side -----------------------------------------------------------------------------------------------

    def join(self, join: Join, now_s: float) -> Joined:
        """Take in a worker.

        Raises
        ------
        RefusedError
            If there is no such task.
        CrowdedError
            If there are too many workers.
        """
        if join.task_id is not None and join.task_id not in self._tasks:
            raise RefusedError(f"this run has no task {join.task_id!r}; it has {', '.join(map(repr, self._tasks))}")
        if len(self._workers) >= MOST_WORKERS:
            raise CrowdedError(f"{MOST_WORKERS} workers have joined this run; it takes no more")
        worker = Worker(self._next_worker, join, self._next_place, now_s)
        self._next_worker += 1
        self._next_place += join.slots if join.launched is None else 0
        self._workers[worker.worker_id] = worker
        self.slots += join.slots
        tasks = [task.description for task_id, task in self._tasks.items() if may_take(worker, self._tasks[task_id])]
        return Joined(worker_id=worker.worker_id, run_id=self.run_id, silence_s=self._silence_s, tasks=tasks)

    def turn(self, worker_id: int, turn: Turn, now_s: float) -> Answer:
        """Take what a worker says, and say what it should do.

        Raises
        ------
        UnknownWorkerError
            If there is no such worker.
        RefusedError
            If what it says can't be; then nothing changes.
        """
        worker = self._worker(worker_id)
        check_turn(worker, turn, self._tasks)
        self.end_wait(worker_id, now_s)
        lost, ended = set(), set()
        for report in turn.reports:
            holding = worker.holdings.get(report.lease_id)
            if holding is not None:
                self._events.append(holding.take(report, worker.name(report.slot)))
                if report.finished:
                    if report.crash is not None and worker.launched is not None:
                        self._accounted.add(worker.launched)
                    del worker.holdings[report.lease_id]
                    ended.add(report.lease_id)
            elif report.lease_id not in worker.ended:
                lost.add(report.lease_id)
        self._late += len(lost)
        worker.ended = frozenset(ended) or worker.ended
        self._note_running(worker, turn)
        self._note_refusals(worker, turn.refused)
        self._events += [WorkerEnded(worker.name(), f"{reason} ({worker.person})") for reason in turn.ended]
        worker.note_activity(turn, now_s)
        worker.said = frozenset(turn.held)
        lost.update(worker.said - worker.holdings.keys())
        return self._answer(worker, turn.wants, sorted(lost), {running.lease_id for running in turn.running})

    def begin_wait(self, worker_id: int, wants: int) -> None:
        """Keep leases that come for a worker that asked for them; whoever calls this ends it."""
        self._worker(worker_id).wants = wants
        self._waiting[worker_id] = None

    def end_wait(self, worker_id: int, now_s: float) -> None:
        """Note that a worker is there, and does not wait any more."""
        worker = self._worker(worker_id)
        worker.heard_s = now_s
        worker.wants = 0
        self._waiting.pop(worker_id, None)

    def answer(self, worker_id: int, now_s: float) -> Answer:
        """Answer a worker that waited."""
        self.end_wait(worker_id, now_s)
        return self._answer(self._worker(worker_id), 0, [], set())

    def leave(self, worker_id: int) -> None:
        """Let a worker go; what it did not report was not run."""
        if worker_id not in self._workers:
            return
        worker = self._remove(worker_id)
        self._events += [holding.returned(worker.name()) for holding in worker.holdings.values()]

    def sweep(self, now_s: float) -> None:
        """Give up workers that are silent."""
        if self._swept_s is not None and now_s - self._swept_s > HELD_UP_S:
            for worker in self._workers.values():
                worker.heard_s = min(now_s, worker.heard_s + now_s - self._swept_s)
        self._swept_s = now_s
        for worker in list(self._workers.values()):
            if worker.ends is not None and now_s > worker.ends[0]:
                self._lose(worker, worker.ends[1], is_machine=False)
            elif now_s - worker.heard_s > self._silence_s and worker.worker_id not in self._waiting:
                reason = f"it was not heard of for {self._silence_s:g} s ({worker.person})"
                self._lose(worker, reason, is_machine=True)

    def end_launch(self, launched: int, reason: str, by_s: float) -> bool:
        """Note that what the run launched has ended, so that its workers are gone or will be; they get nothing more.

        Parameters
        ----------
        launched
            Number of the launch.
        reason
            How it ended.
        by_s
            Until then their last reports may come.

        Returns
        -------
        bool
            Whether it was, or will be, reported what became of leases that it had.
        """
        workers = [worker for worker in self._workers.values() if worker.launched == launched]
        for worker in workers:
            worker.ends = by_s, reason
            if worker.worker_id in self._waiting:
                self._to_answer.add(worker.worker_id)
        return launched in self._accounted or any(worker.holdings for worker in workers)

    # What they share -------------------------------------------------------------------------------------------------

    def _worker(self, worker_id: int) -> Worker:
        if (worker := self._workers.get(worker_id)) is None:
            raise UnknownWorkerError(
                f"no worker {worker_id} is known: it never was, or was silent too long; join again"
            )
        return worker

    def _remove(self, worker_id: int) -> Worker:
        worker = self._worker(worker_id)
        del self._workers[worker_id]
        self.slots -= worker.slots
        if worker_id in self._waiting:
            del self._waiting[worker_id]
            self._to_answer.add(worker_id)
        return worker

    def _note_running(self, worker: Worker, turn: Turn) -> None:
        for holding, position, reason in overdue_blocks(worker, turn, self._tasks):
            self._events.append(holding.failed(position, worker.name(), reason, None))
            del worker.holdings[holding.lease.lease_id]
            if worker.launched is not None:
                self._overdue.append((worker.launched, reason))

    def _note_refusals(self, worker: Worker, refused: dict[str, str]) -> None:
        for task_id, error in refused.items():
            if task_id in worker.refused:
                continue
            worker.refused.add(task_id)
            others = self.workers_of(task_id) > 0  # they may have what this one lacks
            self._events.append(worker.refusal(task_id, error) if others else ProgramRefused(task_id, error))

    def _report_every_s(self) -> float:
        every_s = HURRIED_S if self._hurry else REPORT_EVERY_S
        return min(max(every_s, len(self._workers) / TURNS_PER_S), self._silence_s / 4)

    def _answer(self, worker: Worker, wants: int, lost: list[int], running: set[int]) -> Answer:
        every_s = self._report_every_s()
        if self._draining or self._closed or worker.task_id in self._finished or worker.ends is not None:
            for lease_id in worker.holdings.keys() - worker.said:
                self._events.append(worker.holdings.pop(lease_id).returned(worker.name()))
            if worker.holdings and not self._closed:
                return Answer(state="drain", lost=lost, report_every_s=every_s)
            self.leave(worker.worker_id)
            return Answer(state="leave", lost=lost, report_every_s=every_s)
        self._assign(worker, wants)
        leases = [holding.message() for lease_id, holding in worker.holdings.items() if lease_id not in worker.said]
        return Answer(
            state="go",
            leases=leases,
            lost=lost,
            give_back=to_give_back(worker, running) if self._share else [],
            report_every_s=every_s if worker.holdings else HUNGRY_S,
        )

    def _assign(self, worker: Worker, wants: int) -> int:
        """Give a worker up to ``wants`` leases; return how many."""
        most = min(wants, AT_HAND * worker.slots - len(worker.holdings))
        for given in range(most):
            if (task_id := self._choose_task(worker)) is None:
                return given
            after = worker.last_index if worker.last_task == task_id else None
            lease = self._queues[task_id].take(after)
            worker.holdings[lease.lease_id] = Holding(lease)
            worker.last_task, worker.last_index = task_id, int(lease.indices[-1])
        return max(0, most)

    def _choose_task(self, worker: Worker) -> str | None:
        """Choose the task that it ran last, or the one whose leases wait longest."""
        able = [task_id for task_id, queue in self._queues.items() if queue and may_take(worker, self._tasks[task_id])]
        if worker.last_task in able:
            return worker.last_task
        return min(able, key=lambda task_id: self._queues[task_id].oldest(), default=None)

    def _lose(self, worker: Worker, reason: str, *, is_machine: bool) -> None:
        """Account for all that a lost worker held."""
        self._remove(worker.worker_id)
        self._events += lost_leases(worker, reason, is_machine=is_machine, surely_s=2 * self._report_every_s())
