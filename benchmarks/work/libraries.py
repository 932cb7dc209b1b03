"""bellis and daisy behind one face, so that the work is written once."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

WORKERS = 2
BLOCK = 8
"""Voxels along each axis of a block."""


class Counts(NamedTuple):
    """What became of the blocks of one task."""

    total: int
    completed: int
    """Done, the skipped ones among them."""
    skipped: int
    """Done by an earlier run."""
    failed: int
    orphaned: int


class Library:
    """What both have in common: tasks over grids of blocks."""

    name: str
    api: Any

    def task(
        self,
        task_id: str,
        counts: Sequence[int],
        function: Callable[[Any], Any] | None,
        *,
        context: int = 0,
        conflict: bool = False,
        begin: int = 0,
        **options: Any,
    ) -> Any:
        """Return a task of ``counts`` blocks per axis, that read ``context`` blocks more on each side.

        ``begin`` is where its total region begins, in blocks.
        """
        roi, dims, halo = self.api.Roi, len(counts), BLOCK * context
        return self.api.Task(
            task_id,
            roi((BLOCK * begin,) * dims, tuple(BLOCK * count + 2 * halo for count in counts)),
            roi((BLOCK * begin,) * dims, (BLOCK + 2 * halo,) * dims),
            roi((BLOCK * begin + halo,) * dims, (BLOCK,) * dims),
            process_function=function,
            read_write_conflict=conflict,
            max_workers=WORKERS,
            **options,
        )

    def run(self, tasks: Any, journal: Path | None = None) -> dict[str, Counts]:
        """Run tasks on two worker processes."""
        raise NotImplementedError

    def complete(self, tasks: Any, journal: Path | None = None, *, resumed: bool = False) -> int:
        """Run tasks; make sure that every block was done, now or, if ``resumed``, before; return how many there are."""
        counts = self.run(tasks, journal)
        if any(c.completed != c.total or c.skipped != c.total * resumed for c in counts.values()):
            raise RuntimeError(f"{self.name} did not do what it should: {counts}")
        return sum(c.total for c in counts.values())


class Bellis(Library):
    """This library."""

    name = "bellis"

    def __init__(self) -> None:
        import bellis
        from bellis.api import run  # loaded here, so that rates do not include an import
        from bellis.planning import plan

        self.api, self._run, self.plan = bellis, run, plan

    def run(self, tasks: Any, journal: Path | None = None) -> dict[str, Counts]:
        """Run tasks on two worker processes."""
        report = self._run(tasks, workers=WORKERS, journal=journal, progress=False)
        found = {task_id: task.counts for task_id, task in report.tasks.items()}
        return {k: Counts(c.total, c.completed, c.skipped, c.failed, c.orphaned) for k, c in found.items()}


class Daisy(Library):
    """daisy 2, by its own interface; tracking, which is its journal, is off unless the work is about it."""

    name = "daisy"

    def __init__(self) -> None:
        self.api = import_module("daisy.v2")

    def run(self, tasks: Any, journal: Path | None = None) -> dict[str, Counts]:
        """Run tasks on two worker processes; a task must name its own ``tracking_path``."""
        states = self.api.Server().run_blockwise(
            tasks, progress=False, summary=False, block_tracking=journal is not None
        )
        return {
            k: Counts(s.total_block_count, s.completed_count, s.skipped_count, s.failed_count, s.orphaned_count)
            for k, s in states.items()
        }


def load(name: str) -> Library | None:
    """Import a library; None for work that needs none."""
    libraries: dict[str, type[Library]] = {"bellis": Bellis, "daisy": Daisy}
    return libraries[name]() if name in libraries else None
