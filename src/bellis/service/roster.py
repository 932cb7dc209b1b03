"""Tasks and workers as the board sees them: who may take what, what can be true, and what is lost with a worker."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bellis.errors import EngineError
from bellis.runtime.engine import WorkerEnded
from bellis.service.holding import RefusedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bellis.runtime.engine import EngineEvent
    from bellis.service.holding import Holding
    from bellis.service.messages import Join, TaskDescription, Turn

LONG_BLOCK_S = 0.005
"""Who runs a block for so long while slots are idle gives away the rest."""


class UnknownWorkerError(EngineError, LookupError):
    """No worker has this id, or it was lost: join again."""


class CrowdedError(EngineError):
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

    def name(self, slot: int = 0) -> str:
        """Return the name of one of its slots, as logs have it."""
        return f"worker-{slot if self.launched is not None else self.place + slot % self.slots}"


def may_take(worker: Worker, task: BoardTask) -> bool:
    """Whether a worker may have blocks of a task."""
    task_id = task.description.task_id
    if task_id in worker.refused:
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


def to_give_back(worker: Worker, running: set[int]) -> list[int]:
    """Return the leases of which a worker should give back what it has not begun: it is in a long block."""
    held = {lease_id: worker.holdings[lease_id] for lease_id in worker.said & worker.holdings.keys()}
    if not any(held[one].seconds >= LONG_BLOCK_S for one in running & held.keys()):
        return []
    return sorted(one for one, holding in held.items() if one not in running or holding.left() > 1)


def lost_leases(worker: Worker, reason: str, *, blames: bool, surely_s: float) -> list[EngineEvent]:
    """Say what became of all that a lost worker held.

    One loss counts as one crash of a task, however many blocks the machine ran.

    Parameters
    ----------
    worker
        The worker.
    reason
        How it was lost.
    blames
        Whether a block may be blamed for it.
    surely_s
        A block that had run so long when the worker was heard of last was still running when it was lost.
    """
    begun = [holding for holding in worker.holdings.values() if holding.position is not None]
    begun = begun or list(worker.holdings.values())[: worker.slots]  # it ended before it said that it has begun
    events: list[EngineEvent] = []
    ended = WorkerEnded(worker.name(), reason)
    crash = reason if blames else None
    for holding in worker.holdings.values():
        name = worker.name()
        position = holding.culprit(surely_s) if holding in begun else None
        if position is not None:
            error = f"{name} was lost while it ran the block: {reason}"
            events.append(holding.failed(position, name, error, crash))
            ended = WorkerEnded(name, reason, holding.lease, position)
            crash = None
        elif holding in begun and holding.left():
            events.append(holding.suspect(name, crash))
            crash = None
        else:
            events.append(holding.returned(name))
    return [*events, ended]
