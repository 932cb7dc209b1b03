"""What became of a run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bellis.errors import RunError, TaskError
from bellis.tasks.values import unpack

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from bellis.geometry import Roi
    from bellis.planning.grid import BlockGrid, Ints
    from bellis.runtime.state import TaskState
    from bellis.tasks import Task


@dataclass(frozen=True, slots=True)
class Counts:
    """How many blocks are in which state: a `TaskState` that does not change any more."""

    total: int
    """All blocks."""
    ready: int
    """Waiting for a worker."""
    processing: int
    """Running."""
    completed: int
    """Done, the skipped ones among them."""
    skipped: int
    """Done before this run, found done by the pre-check, or left out by the mask."""
    failed: int
    """Failed for the last time."""
    orphaned: int
    """Will never run, because a block that they need failed or their task was stopped."""
    pending: int
    """Waiting for other blocks."""

    @classmethod
    def of(cls, state: TaskState) -> Counts:
        """Copy the counts of a running task."""
        return cls(
            state.total_block_count,
            state.ready_count,
            state.processing_count,
            state.completed_count,
            state.skipped_count,
            state.failed_count,
            state.orphaned_count,
            state.pending_count,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A block that failed for the last time."""

    task_id: str
    """The task."""
    number: int
    """The block's number in ``block_id``."""
    index: int
    """Its linear index, C order."""
    read_roi: Roi
    """What it reads."""
    write_roi: Roi
    """What it should have written."""
    attempts: int
    """How often it was tried."""
    error: str
    """The last traceback."""
    log: Path | None
    """What the worker printed."""

    @property
    def block_id(self) -> tuple[str, int]:
        """The block's id."""
        return self.task_id, self.number


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskReport:
    """What became of a task."""

    task: Task
    """The task."""
    grid: BlockGrid
    """Its blocks."""
    counts: Counts
    """How many ended in which state."""
    failures: tuple[Failure, ...]
    """Blocks that failed, the first 1000."""
    stopped: str | None
    """Why the task was stopped before its end; None if it was not."""
    seconds: float
    """Durations of all blocks, added up."""
    wall_s: float
    """From its first block to its last."""
    durations: tuple[Ints, NDArray[np.float32]]
    """Linear indices and seconds of blocks; a sample for large tasks."""
    peak_memory_bytes: int
    """Largest resident set of a worker that ran it; 0 if not known."""

    @property
    def task_id(self) -> str:
        """Name of the task."""
        return self.task.task_id

    @property
    def is_ok(self) -> bool:
        """Whether every block is completed."""
        return self.counts.completed == self.counts.total and self.stopped is None


@dataclass(frozen=True, kw_only=True)
class RunReport:
    """What became of a run.

    ``str(report)`` is the summary that a run prints.
    """

    run_id: str
    """Name of the run."""
    tasks: Mapping[str, TaskReport]
    """By task id, each after those that it waits for."""
    wall_s: float
    """From start to end."""
    workers: int
    """How many blocks could run at the same time."""
    run_dir: Path | None = None
    """The journal."""
    log_dir: Path | None = None
    """Where workers' output is."""
    interrupted: bool = False
    """Whether the user or the system ended the run before its end."""
    _again: Callable[[], RunReport] | None = field(default=None, repr=False)
    _results: Callable[[str], Mapping[int, bytes]] | None = field(default=None, repr=False)
    _summary: Callable[[RunReport], str] | None = field(default=None, repr=False)

    @property
    def ok(self) -> bool:
        """Whether every block of every task is completed."""
        return all(task.is_ok for task in self.tasks.values())

    @property
    def failures(self) -> tuple[Failure, ...]:
        """Blocks that failed, of all tasks."""
        return tuple(failure for task in self.tasks.values() for failure in task.failures)

    def retry_failed(self) -> RunReport:
        """Run again what failed, was orphaned or never ran; return the new report."""
        if self._again is None:
            raise RunError("this report was not made by a run in this process: run the pipeline again with its journal")
        return self._again()

    def run_block(self, task_id: str, number: int) -> Any:
        """Run one block, after ``setup``, in this thread, for a debugger; return what its function returns.

        Parameters
        ----------
        task_id
            The task.
        number
            The block's number, the second part of its ``block_id``.
        """
        report = self._task(task_id)
        if report.task.setup is not None:
            report.task.setup()
        return report.task.process_function(report.grid.block(report.grid.index_of(number)))

    def results(self, task_id: str) -> dict[int, Any]:
        """Return what the function of a task with ``results=True`` returned, by block number, in C order of blocks."""
        report = self._task(task_id)
        if not report.task.results:
            raise TaskError(f"task {task_id!r} keeps no results: describe it with results=True")
        found = self._results(task_id) if self._results is not None else {}
        return {report.grid.number(index): unpack(value) for index, value in sorted(found.items())}

    def value(self, task_id: str) -> Any:
        """Return the result of a task that has a single block, as `results` keeps it.

        Raises
        ------
        TaskError
            If the task keeps no results, or has another number of blocks.
        RunError
            If its block is not completed.
        """
        blocks = self._task(task_id).counts.total
        found = self.results(task_id)
        if blocks != 1:
            raise TaskError(f"task {task_id!r} has {blocks} blocks, not one: report.results({task_id!r}) has them all")
        if not found:
            raise RunError(f"task {task_id!r} has no value, because its block is not completed: print the report")
        return next(iter(found.values()))

    def _task(self, task_id: str) -> TaskReport:
        if task_id not in self.tasks:
            raise TaskError(f"no task is named {task_id!r}; there are {', '.join(map(repr, self.tasks))}")
        return self.tasks[task_id]

    def __str__(self) -> str:
        return self._summary(self) if self._summary is not None else repr(self)
