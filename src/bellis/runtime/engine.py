"""What an engine is: a place where workers live. It knows leases and workers, nothing of the tasks' geometry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

from bellis.runtime.lease import Lease, Report

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bellis.runtime.program import Program


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSetup:
    """What a run gives its engine at the start."""

    programs: Sequence[Program]
    """The tasks, by number."""
    workers: int
    """How many blocks may run at the same time."""
    log_dir: Path
    """Where workers' output goes."""
    keeps_logs: bool = False
    """Whether logs of an earlier run are appended to, or removed."""
    cells_path: Path | None = None
    """File for the workers' cells, so that they outlive a killed run; None: memory only."""
    lock_fd: int | None = None
    """Descriptor of the journal's lock, to be held by whatever may still run blocks after this process was killed."""


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


EngineEvent: TypeAlias = Report | WorkerEnded | ProgramRefused


class Engine(Protocol):
    """Runs leases on workers."""

    def start(self, setup: EngineSetup) -> int:
        """Get ready; return how many leases can run at the same time."""

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
