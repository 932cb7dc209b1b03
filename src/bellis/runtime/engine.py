"""What an engine is: a place where workers live. It knows leases and workers, nothing of the tasks' geometry."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeAlias

from bellis.runtime.lease import Lease, Report
from bellis.runtime.sizing import LOCAL, LeaseSizes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from bellis.runtime.program import Program


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSetup:
    """What a run gives its engine at the start."""

    programs: Sequence[Program]
    """The tasks, by number."""
    useful: int
    """No more blocks than these can ever run at the same time: what all tasks allow together."""
    workers: int | None = None
    """How many the user wants to run at the same time; None: as many as the engine has places for."""
    log_dir: Path
    """Where workers' output goes."""
    left: Mapping[str, int] = field(default_factory=dict)
    """How many blocks of each task are not done before the start."""
    resources: Mapping[str, int] = field(default_factory=dict)
    """What the user says there is of resources."""
    run_id: str = ""
    """Name of the run."""
    run_dir: Path | None = None
    """The journal, which outlives this process; None if there is none."""
    keeps_logs: bool = False
    """Whether logs of an earlier run are appended to, or removed."""
    cells_path: Path | None = None
    """File for the workers' cells, so that they outlive a killed run; None: memory only."""
    lock_fd: int | None = None
    """Descriptor of the journal's lock, to be held by whatever may still run blocks after this process was killed."""

    def slots(self, there: int) -> int:
        """Return how many blocks to run at the same time where there are places for ``there``."""
        return max(1, min(self.workers or there, self.useful))


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """What an engine can run at the same time; said at the start, and again when workers join or leave."""

    slots: int
    """How many leases."""
    resources: Mapping[str, int] = field(default_factory=dict)
    """What its workers have of the resources that tasks ask for, as far as the engine knows."""
    sizes: LeaseSizes = LOCAL
    """How large its leases should be."""


@dataclass(frozen=True, slots=True)
class WorkerEnded:
    """A worker ended although nobody asked it to."""

    worker: str
    """Name of the worker."""
    reason: str
    """How it ended."""
    lease: Lease | None = None
    """The lease that it was running."""
    position: int | None = None
    """The block of that lease that it was running."""


@dataclass(frozen=True, slots=True)
class ProgramRefused:
    """A worker can't load a task's functions."""

    task_id: str
    """The task."""
    error: str
    """The traceback."""


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that the engine wants its user to be told."""

    text: str
    """A sentence."""


EngineEvent: TypeAlias = Report | WorkerEnded | ProgramRefused | Capacity | Notice


class Engine(Protocol):
    """Runs leases on workers."""

    def start(self, setup: EngineSetup) -> Capacity:
        """Get ready; return what can run at the same time."""

    def submit(self, lease: Lease) -> None:
        """Run a lease; returns at once. Its reports come as events, the last one ``finished``."""

    def events(self, timeout_s: float) -> list[EngineEvent]:
        """Wait until something happened, at most ``timeout_s``, and return it."""

    def hurry(self, *, report: bool, share: bool) -> None:
        """Say that slots are idle, or that they are not any more.

        Parameters
        ----------
        report
            Report each block at once: others may wait for it.
        share
            Give back what a worker holds beyond the block that it runs: others could run it.
        """

    def drain(self) -> None:
        """Finish the blocks that run and give back the rest of all leases."""

    def close(self) -> None:
        """End all workers, now, and leave nothing behind."""
