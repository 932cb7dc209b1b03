"""Tasks and workers as the board sees them: who may take what, what can be true, and what is lost with a worker."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bellis.runtime.engine import Notice, WorkerEnded
from bellis.service.holding import RefusedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from bellis.runtime.engine import EngineEvent
    from bellis.service.holding import Holding
    from bellis.service.messages import Join, TaskDescription, Turn

TIMEOUT_GRACE_S = 5.0
"""Workers end blocks that take too long themselves; one that has not done so after this much longer loses its lease."""
LONG_BLOCK_S = 0.005
"""Who runs a block for so long while slots are idle gives away the rest."""


class UnknownWorkerError(LookupError):
    """No worker has this id, or it was lost: join again."""


class CrowdedError(RuntimeError):
    """There are too many workers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardTask:
    """A task as the board knows it."""

    description: TaskDescription
    """What workers are told."""
    is_open: bool
    """Whether workers that joined for no task in particular may have its blocks."""


class Worker:
    """A worker as the board sees it."""

    def __init__(self, worker_id: int, join: Join, place: int, now_s: float) -> None:
        self.worker_id = worker_id
        self.person = join.name
        self.task_id = join.task_id
        self.slots = join.slots
        self.launched = join.launched
        self.place = place
        self.heard_s = now_s
        self.active_s = now_s
        """When it last ran, reported, or had nothing."""
        self.is_idle = False
        """Whether it was said that it does not run what it has."""
        self.holdings: dict[int, Holding] = {}
        self.said: frozenset[int] = frozenset()
        """Leases that it says it holds."""
        self.ended: frozenset[int] = frozenset()
        """Leases that it finished in its last turn, in case that turn comes again."""
        self.refused: set[str] = set()
        self.wants = 0
        """Leases that it waits for now."""
        self.ends: tuple[float, str] | None = None
        """When it is given up, and why: the process that it belonged to has ended."""
        self.last_task: str | None = None
        self.last_index: int | None = None

    def note_activity(self, turn: Turn, now_s: float) -> None:
        """Take note of whether it does something."""
        if turn.running or turn.reports or not self.holdings:
            self.active_s, self.is_idle = now_s, False

    def becomes_idle(self, now_s: float, after_s: float) -> bool:
        """Whether it has leases, has run nothing for so long, and that was not said yet."""
        if self.is_idle or not self.holdings or now_s - self.active_s <= after_s:
            return False
        self.is_idle = True
        return True

    def refusal(self, task_id: str, error: str) -> Notice:
        """Say that it can't load a task's functions."""
        why = error.rstrip().rpartition("\n")[2]
        return Notice(f"{self.person} can't load task {task_id!r}: {why}")

    def name(self, slot: int = 0) -> str:
        """Return the name of one of its slots, as logs have it."""
        return f"worker-{slot if self.launched is not None else self.place + slot % self.slots}"


def blocks_of(workers: Iterable[Worker]) -> Counter[str]:
    """Return how many blocks of each task workers have and have not reported."""
    leased: Counter[str] = Counter()
    for worker in workers:
        for holding in worker.holdings.values():
            leased[holding.lease.task_id] += holding.left()
    return leased


def may_take(worker: Worker, task: BoardTask) -> bool:
    """Whether a worker may have blocks of a task."""
    task_id = task.description.task_id
    if task_id in worker.refused or worker.ends is not None:
        return False
    return task.is_open if worker.task_id is None else worker.task_id == task_id


def check_turn(worker: Worker, turn: Turn, tasks: Mapping[str, BoardTask]) -> None:
    """Check what a worker says against what it has.

    Raises
    ------
    RefusedError
        If it can't be so.
    """
    for report in turn.reports:
        holding = worker.holdings.get(report.lease_id)
        if holding is not None:
            keeps_results = tasks[holding.lease.task_id].description.keeps_results
            holding.check(report, keeps_results=keeps_results)
    for running in turn.running:
        holding = worker.holdings.get(running.lease_id)
        if holding is not None and running.position >= len(holding.known):
            blocks = len(holding.known)
            raise RefusedError(f"the lease {running.lease_id} has {blocks} blocks, none at {running.position}")
    unknown = turn.refused.keys() - tasks.keys()
    if unknown:
        raise RefusedError(f"this run has no task {min(unknown)!r}")


def overdue_blocks(worker: Worker, turn: Turn, tasks: Mapping[str, BoardTask]) -> Iterator[tuple[Holding, int, str]]:
    """Take note of where a worker is; return the leases whose block takes far too long, which block, and why."""
    for running in turn.running:
        holding = worker.holdings.get(running.lease_id)
        if holding is None:
            continue
        holding.position, holding.seconds = running.position, running.seconds
        timeout_s = tasks[holding.lease.task_id].description.timeout_s
        if timeout_s is not None and running.seconds > timeout_s + TIMEOUT_GRACE_S:
            yield holding, running.position, f"the block took longer than its timeout of {timeout_s:g} s"


def to_give_back(worker: Worker, running: set[int]) -> list[int]:
    """Return the leases of which a worker should give back what it has not begun: it is in a long block."""
    held = {lease_id: worker.holdings[lease_id] for lease_id in worker.said & worker.holdings.keys()}
    if not any(held[one].seconds >= LONG_BLOCK_S for one in running & held.keys()):
        return []
    return sorted(one for one, holding in held.items() if one not in running or holding.left() > 1)


def lost_leases(worker: Worker, reason: str, *, is_machine: bool, surely_s: float) -> list[EngineEvent]:
    """Say what became of all that a lost worker held.

    Parameters
    ----------
    worker
        The worker.
    reason
        How it was lost.
    is_machine
        Whether nothing is known but its silence: it may have been the network, the job, or the machine. Otherwise its
        process ended, so the block that it was in has failed.
    surely_s
        A block that had run so long when the worker was heard of last was still running when it was lost.
    """
    begun = [holding for holding in worker.holdings.values() if holding.position is not None]
    begun = begun or list(worker.holdings.values())[: worker.slots]  # it ended before it said that it has begun
    name = worker.name()
    events: list[EngineEvent] = []
    ended = WorkerEnded(name, reason)
    crash: str | None = reason  # one process ended, so one crash is said, however many blocks it ran
    for holding in worker.holdings.values():
        position = holding.culprit(surely_s) if holding in begun else None
        if position is not None:
            ended = WorkerEnded(name, reason, holding.lease, position)
        if holding not in begun or not holding.left():
            events.append(holding.returned(name))
        elif is_machine or position is None:
            events.append(holding.suspect(position, name, reason))
        else:
            error = f"{name} was lost while it ran the block: {reason}"
            events.append(holding.failed(position, name, error, crash))
            crash = None
    return [*events, ended]
