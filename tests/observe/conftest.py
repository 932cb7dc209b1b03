"""A run as its observers see it, without running anything."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import bellis
from bellis.planning import BlockGrid
from bellis.runtime.events import (
    AnyEvent,
    BlockFailed,
    RunFinished,
    RunStarted,
    TaskFinished,
    TaskInfo,
    TaskProgress,
)
from bellis.runtime.report import Counts, Failure, RunReport, TaskReport

if TYPE_CHECKING:
    from pathlib import Path

BEGAN_S = 1_700_000_000.0
ERROR = 'Traceback (most recent call last):\n  File "a.py", line 3, in f\n    g()\nValueError: bad voxel'


class Run:
    """Makes the events and the report of a run with tasks of 100 blocks."""

    def __init__(self, *task_ids: str, run_dir: Path | None = None, log_dir: Path | None = None) -> None:
        self.task_ids = task_ids
        self.run_dir = run_dir
        self.log_dir = log_dir

    def counts(self, **some: int) -> Counts:
        """Return counts of 100 blocks; what is not named is pending."""
        named = dict.fromkeys(("ready", "processing", "completed", "failed", "orphaned"), 0) | some
        skipped = named.pop("skipped", 0)
        total = named.pop("total", 100)
        return Counts(total=total, skipped=skipped, pending=total - sum(named.values()), **named)

    def started(self, *, workers: int = 2, **some: int) -> RunStarted:
        infos = tuple(TaskInfo(task_id, (100,), self.counts(**some)) for task_id in self.task_ids)
        return RunStarted(run_id="r", run_dir=self.run_dir, workers=workers, tasks=infos, time_s=BEGAN_S)

    def progress(self, after_s: float, *, task_id: str = "", **some: int) -> TaskProgress:
        return TaskProgress(
            task_id=task_id or self.task_ids[0], counts=self.counts(**some), indices=np.empty(0, np.int64),
            seconds=np.empty(0, np.float32), time_s=BEGAN_S + after_s,
        )  # fmt: skip

    def finished_task(self, after_s: float, *, task_id: str = "", **some: int) -> TaskFinished:
        task_id = task_id or self.task_ids[0]
        return TaskFinished(task_id=task_id, counts=self.counts(**some), time_s=BEGAN_S + after_s)

    def failed(self, number: int, *, final: bool = True, error: str = ERROR, log: Path | None = None) -> BlockFailed:
        return BlockFailed(
            task_id=self.task_ids[0], index=number, number=number, attempt=3, final=final, error=error,
            worker="worker-0", log=log,
        )  # fmt: skip

    def failure(self, number: int, *, error: str = ERROR, log: Path | None = None, attempts: int = 3) -> Failure:
        write = bellis.Roi((number * 10,), (10,))
        return Failure(
            task_id=self.task_ids[0], number=number, index=number, read_roi=write, write_roi=write,
            attempts=attempts, error=error, log=log,
        )  # fmt: skip

    def report(self, *counts: Counts, **some: Any) -> RunReport:
        """Return a report with these counts, one per task; ``failures`` and ``stopped`` are those of the first."""
        tasks = {}
        for task_id, each in zip(self.task_ids, counts, strict=True):
            block = bellis.Roi((0,), (10,))
            task = bellis.Task(task_id, bellis.Roi((0,), (1000,)), block, block, print)
            tasks[task_id] = TaskReport(
                task=task, grid=BlockGrid.of(task), counts=each, failures=some.pop("failures", ()),
                stopped=some.pop("stopped", None), seconds=some.pop("seconds", 2.5),
                wall_s=some.pop("task_wall_s", 1.25),
                durations=(np.empty(0, np.int64), np.empty(0, np.float32)), peak_memory_bytes=2**27,
            )  # fmt: skip
        return RunReport(
            run_id="r", tasks=tasks, wall_s=some.pop("wall_s", 1.5), workers=2, run_dir=self.run_dir,
            log_dir=self.log_dir, **some,
        )  # fmt: skip

    def ended(self, *counts: Counts, **some: Any) -> RunFinished:
        return RunFinished(report=self.report(*counts, _summary=lambda _: "THE SUMMARY", **some))

    def whole(self) -> list[AnyEvent]:
        """Return the events of a run of one task in which all went well."""
        done = {"completed": 100}
        return [
            self.started(ready=100),
            *(self.progress(step, completed=10 * step, processing=100 - 10 * step) for step in range(1, 11)),
            self.finished_task(10, **done),
            self.ended(self.counts(**done)),
        ]


@pytest.fixture
def run_of() -> type[Run]:
    """Return a maker of runs."""
    return Run
