"""What happens in a run, as typed values; progress bars, reports and dashboards are observers of the same stream."""

from __future__ import annotations

from dataclasses import dataclass, field
from time import time
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from bellis.planning.grid import Ints
    from bellis.runtime.report import Counts, RunReport


@dataclass(frozen=True, slots=True)
class TaskInfo:
    """A task, as observers know it."""

    task_id: str
    """Its name."""
    grid_counts: tuple[int, ...]
    """Blocks per axis."""
    counts: Counts
    """How many blocks are in which state at the start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened."""

    time_s: float = field(default_factory=time)
    """When, in seconds since 1970."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStarted(Event):
    """The run begins."""

    run_id: str
    """Name of the run."""
    run_dir: Path | None
    """Its journal."""
    workers: int
    """How many blocks may run at the same time."""
    tasks: tuple[TaskInfo, ...]
    """The tasks, each after those that it waits for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskProgress(Event):
    """Counts of a task changed."""

    task_id: str
    """The task."""
    counts: Counts
    """How many blocks are in which state."""
    indices: Ints
    """Blocks that were completed now."""
    seconds: NDArray[np.float32]
    """Durations of blocks that were reported now, not always of the same ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockFailed(Event):
    """An attempt at a block failed."""

    task_id: str
    """The task."""
    index: int
    """Linear index of the block."""
    number: int
    """Its number in ``block_id``."""
    attempt: int
    """How many attempts failed so far."""
    final: bool
    """Whether it will not be tried again."""
    error: str
    """The traceback."""
    worker: str
    """Where it ran."""
    log: Path | None
    """What the worker printed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerLost(Event):
    """A worker ended although nobody asked it to."""

    worker: str
    """Its name."""
    reason: str
    """How it ended."""
    task_id: str | None
    """The task that it worked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskStopped(Event):
    """A task was stopped before its end."""

    task_id: str
    """The task."""
    reason: str
    """Why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFinished(Event):
    """Every block of a task is completed, failed or orphaned."""

    task_id: str
    """The task."""
    counts: Counts
    """How many blocks are in which state."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message(Event):
    """Something that a user should be told."""

    text: str
    """A sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFinished(Event):
    """The run has ended."""

    report: RunReport
    """What became of it."""


AnyEvent: TypeAlias = (
    RunStarted | TaskProgress | BlockFailed | WorkerLost | TaskStopped | TaskFinished | Message | RunFinished
)


class Observer(Protocol):
    """Watches a run; one that raises is dropped with a warning, and the run goes on."""

    def notify(self, event: AnyEvent) -> None:
        """Take note of an event; must return quickly."""

    def close(self) -> None:
        """Let go of terminals and files."""
