"""Running: puts scheduler, engine, journal and observers together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bellis.api.session import RunOptions, Session
from bellis.planning import plan

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Mapping, Sequence

    from bellis.runtime.engine import Engine
    from bellis.runtime.events import Observer
    from bellis.runtime.journal import OnChanged
    from bellis.runtime.report import Counts, RunReport
    from bellis.tasks import Pipeline, Task

__all__ = ["SerialServer", "Server", "run", "run_blockwise"]


def run(
    tasks: Task | Pipeline | Iterable[Task | Pipeline],
    engine: str | Engine = "local",
    *,
    workers: int | None = None,
    journal: str | os.PathLike[str] | None = None,
    on_changed: OnChanged = "refuse",
    progress: bool = True,
    resources: Mapping[str, int] | None = None,
    fail_fast: int | None = 8,
    observers: Sequence[Observer] = (),
    log_dir: str | os.PathLike[str] | None = None,
) -> RunReport:
    """Run tasks block by block.

    Every block runs at least once and counts exactly once. A function should therefore write whole blocks, and give
    the same when it is run again.

    Parameters
    ----------
    tasks
        A task, a pipeline, or several; upstream tasks are taken in.
    engine
        Where blocks run: ``"local"`` (processes on this machine), ``"inline"`` (this thread, for a debugger), the name
        of an installed engine, or an engine.
    workers
        How many blocks may run at the same time; the cores that this process may use if None. A task's
        ``num_workers`` caps it further.
    journal
        Run directory. Finished blocks are noted there, and skipped when the same tasks are run again.
    on_changed
        When a task's code changed since its journaled blocks were run: ``"refuse"`` to run, ``"keep"`` its finished
        blocks, or ``"reset"`` it, which also helps when its blocks themselves changed.
    progress
        Show progress on the terminal, and a summary at the end.
    resources
        What there is of each resource that tasks name, for example ``{"gpu": 2}``.
    fail_fast
        Stop a task when its first so many blocks all fail alike; None for never.
    observers
        Further observers of the run's events.
    log_dir
        Where workers' output goes; ``logs`` in the journal, or ``bellis_logs``, if None.

    Returns
    -------
    RunReport
        Counts, failures, timings. A failing block is not an error of the run: see `RunReport.ok`.

    Raises
    ------
    TaskError, FunctionError
        If the tasks can't be run as they are described; nothing has run then.
    JournalError
        If the journal is in use, damaged, was written for other blocks, or can't be written.
    EngineError
        If the engine can't be found, or can't keep its workers alive.
    """
    options = RunOptions(
        engine=engine,
        workers=workers,
        journal=None if journal is None else Path(journal),
        on_changed=on_changed,
        progress=progress,
        resources=dict(resources or {}),
        fail_fast=fail_fast,
        observers=tuple(observers),
        log_dir=None if log_dir is None else Path(log_dir),
    )
    return Session(plan(tasks), options).run()


def run_blockwise(tasks: Task | Pipeline | Iterable[Task | Pipeline], multiprocessing: bool = True) -> bool:
    """Run tasks as daisy does.

    Parameters
    ----------
    tasks
        Tasks; upstream tasks are taken in.
    multiprocessing
        Whether to run blocks in worker processes; if not, one after the other in this thread.

    Returns
    -------
    bool
        Whether every block of every task succeeded, or was done before.

    Raises
    ------
    KeyboardInterrupt
        If the run was interrupted, after its running blocks have finished: what a script does next is not run on
        half of the data.
    """
    report = run(tasks, "local" if multiprocessing else "inline")
    if report.interrupted:
        raise KeyboardInterrupt
    return report.ok


class Server:
    """Runs tasks on worker processes, under daisy's name."""

    _engine = "local"

    def run_blockwise(self, tasks: Task | Pipeline | Iterable[Task | Pipeline]) -> dict[str, Counts]:
        """Run tasks; return the final counts of each."""
        report = run(tasks, self._engine)
        return {task_id: task.counts for task_id, task in report.tasks.items()}


class SerialServer(Server):
    """Runs tasks in this thread, one block after the other, under daisy's name."""

    _engine = "inline"
