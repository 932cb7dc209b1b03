"""One run, from its description to its report."""

from __future__ import annotations

import secrets
import signal
import socket
import threading
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from time import monotonic
from typing import TYPE_CHECKING

from bellis.api.engines import engine_for
from bellis.errors import RunError, TaskError
from bellis.observe.hub import Hub
from bellis.observe.progress import progress_observer
from bellis.observe.summary import summary
from bellis.runtime.cores import available_cores
from bellis.runtime.engine import Capacity, Engine, EngineSetup
from bellis.runtime.events import Message, Observer, RunFinished, RunStarted, TaskInfo
from bellis.runtime.fingerprint import Fingerprint
from bellis.runtime.journal import CELLS, Journal, environment
from bellis.runtime.loop import Loop
from bellis.runtime.output import DEFAULT_LOG_DIR, has_logs, is_worker
from bellis.runtime.program import Program, code_hash
from bellis.runtime.report import Counts, RunReport, TaskReport
from bellis.runtime.scheduler import Scheduler

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path
    from types import FrameType

    import numpy as np
    from numpy.typing import NDArray

    from bellis.planning import Plan, TaskPlan
    from bellis.runtime.journal import OnChanged


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How to run; see `bellis.run`."""

    engine: str | Engine
    workers: int | None
    journal: Path | None
    on_changed: OnChanged
    progress: bool
    resources: Mapping[str, int]
    fail_fast: int | None
    observers: tuple[Observer, ...]
    log_dir: Path | None


@dataclass(frozen=True, slots=True)
class Carried:
    """What a run without a journal hands on to the next one."""

    done: Mapping[str, NDArray[np.bool_]]
    """For each task, which blocks are completed."""
    results: Mapping[str, Mapping[int, bytes]]
    """For each task, what they returned."""


class Session:
    """One run of a plan.

    Parameters
    ----------
    plan
        What to run.
    options
        How.
    carried
        What an earlier run of this process, without a journal, completed.
    """

    def __init__(self, plan: Plan, options: RunOptions, carried: Carried | None = None) -> None:
        self._plan = plan
        self._options = options
        self._carried = carried or Carried({}, {})
        self._log_dir = (options.log_dir or _default_logs(options.journal)).absolute()
        self._run_id = secrets.token_hex(6)
        self._check()

    def _check(self) -> None:
        """Refuse, before anything is started, what could only fail or hang later."""
        if is_worker():  # it would start workers, which would start workers
            raise RunError(
                "bellis.run was called in a worker process. If a script that a worker imports calls it at its top "
                "level, put that call under `if __name__ == '__main__':`; a block's function can't start a run"
            )
        workers = self._options.workers
        if workers is not None and (not isinstance(workers, int) or workers < 1):
            raise TaskError(f"workers must be an int > 0, not {workers!r}")

    def _check_resources(self, capacity: Capacity) -> None:
        resources = {**capacity.resources, **self._options.resources}
        for part in self._plan.tasks:
            for name, amount in part.task.resources.items():
                there = resources.get(name, 0)
                if amount > there:
                    raise TaskError(
                        f"task {part.task.task_id!r} needs {amount} {name!r} for each block, but the run has {there}: "
                        f"pass run(..., resources={{{name!r}: {amount}}}) or more"
                    )

    def run(self) -> RunReport:
        """Run it."""
        began = monotonic()
        engine = engine_for(self._options.engine, [part.task for part in self._plan.tasks])
        with ExitStack() as stack:
            shown = [progress_observer(live=self._options.engine != "inline")] if self._options.progress else []
            hub = stack.enter_context(Hub([*shown, *self._options.observers]))
            scheduler = Scheduler(self._plan.pipeline)
            notes = list(self._plan.warnings)
            journal = None
            if self._options.journal is not None:
                journal = stack.enter_context(Journal(self._options.journal))
                notes += self._bind(journal)
            self._mark_done(scheduler, journal)
            setup = self._setup(journal, scheduler)
            capacity = Capacity(slots=setup.slots(available_cores()))
            with ExitStack() as workers:
                if not scheduler.is_done():
                    workers.callback(engine.close)
                    capacity = engine.start(setup)
                    self._check_resources(capacity)
                hub.notify(self._started(scheduler, capacity.slots))
                for note in notes:
                    hub.notify(Message(text=note))
                loop = Loop(
                    scheduler,
                    engine,
                    capacity,
                    journal=journal,
                    notify=hub.notify,
                    resources=self._options.resources,
                    fail_fast=self._options.fail_fast,
                    log_dir=self._log_dir,
                    tasks=self._plan.pipeline.tasks,
                )
                with _interrupts(loop):
                    loop.run()
            report = self._report(scheduler, loop, journal, monotonic() - began)
            hub.notify(RunFinished(report=report))
        return report

    def _bind(self, journal: Journal) -> list[str]:
        upstream = self._plan.pipeline.upstream
        bound = [
            (Fingerprint.of(part.task, part.grid, code_hash(part.task), upstream(part.task)), part.grid)
            for part in self._plan.tasks
        ]
        notes = journal.open_tasks(bound, self._options.on_changed)
        journal.set_meta(host=socket.gethostname(), run_id=self._run_id, **environment())
        journal.commit()
        return notes

    def _mark_done(self, scheduler: Scheduler, journal: Journal | None) -> None:
        for part in self._plan.tasks:
            task_id = part.grid.task_id
            for begin, flags in journal.done(task_id) if journal is not None else ():
                scheduler.mark_done(task_id, begin, flags)
            if task_id in self._carried.done:
                scheduler.mark_done(task_id, 0, self._carried.done[task_id])

    def _started(self, scheduler: Scheduler, slots: int) -> RunStarted:
        def info(part: TaskPlan) -> TaskInfo:
            task_id = part.grid.task_id
            return TaskInfo(task_id, part.grid.counts, Counts.of(scheduler.task_states[task_id]))

        tasks = tuple(info(part) for part in self._plan.tasks)
        return RunStarted(run_id=self._run_id, run_dir=self._options.journal, workers=slots, tasks=tasks)

    def _setup(self, journal: Journal | None, scheduler: Scheduler) -> EngineSetup:
        states = scheduler.task_states
        return EngineSetup(
            left={task_id: state.total_block_count - state.completed_count for task_id, state in states.items()},
            run_id=self._run_id,
            run_dir=self._options.journal,
            programs=[Program.of(number, part.task, part.grid) for number, part in enumerate(self._plan.tasks)],
            resources=self._options.resources,
            useful=sum(part.task.num_workers for part in self._plan.tasks),
            workers=self._options.workers,
            log_dir=self._log_dir,
            keeps_logs=journal is not None,
            cells_path=None if journal is None else journal.path / CELLS,
            lock_fd=None if journal is None else journal.lock_fd,
        )

    def _report(self, scheduler: Scheduler, loop: Loop, journal: Journal | None, wall_s: float) -> RunReport:
        tasks = {part.grid.task_id: _task_report(part, scheduler, loop, journal) for part in self._plan.tasks}
        results: dict[str, Mapping[int, bytes]] = {}
        for task_id, record in loop.records.items():
            if record.task.results:
                kept = dict(journal.results(task_id)) if journal is not None else record.results
                results[task_id] = {**self._carried.results.get(task_id, {}), **kept}

        def again() -> RunReport:
            carried = None
            if journal is None:
                carried = Carried({task_id: scheduler.done(task_id) for task_id in tasks}, results)
            return Session(self._plan, replace(self._options, on_changed="keep"), carried).run()

        return RunReport(
            run_id=self._run_id,
            tasks=tasks,
            wall_s=wall_s,
            workers=loop.slots,
            run_dir=self._options.journal,
            log_dir=self._log_dir if self._options.engine != "inline" and has_logs(self._log_dir, tasks) else None,
            interrupted=loop.is_interrupted and not scheduler.is_done(),
            _again=again,
            _results=results.__getitem__,
            _summary=summary,
        )


def _task_report(part: TaskPlan, scheduler: Scheduler, loop: Loop, journal: Journal | None) -> TaskReport:
    task_id = part.grid.task_id
    record = loop.records[task_id]
    return TaskReport(
        task=part.task,
        grid=part.grid,
        counts=Counts.of(scheduler.task_states[task_id]),
        failures=loop.failures(task_id),
        stopped=record.stopped,
        seconds=record.seconds,
        wall_s=0.0 if record.first_s is None else record.last_s - record.first_s,
        durations=loop.durations(task_id) if journal is None else journal.timings(task_id),
        peak_memory_bytes=record.peak_memory_bytes,
    )


def _default_logs(journal: Path | None) -> Path:
    return DEFAULT_LOG_DIR if journal is None else journal / "logs"


@contextmanager
def _interrupts(loop: Loop) -> Iterator[None]:
    """Turn Ctrl-C and SIGTERM into the end of leasing, as long as the loop runs in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        del number, frame
        loop.interrupt()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
