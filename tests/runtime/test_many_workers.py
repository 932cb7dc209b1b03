"""The run loop with a thousand workers, in virtual time: none of them waits."""

from __future__ import annotations

import heapq
from typing import Any

import numpy as np
import pytest

from bellis.runtime.engine import Capacity, EngineEvent
from bellis.runtime.lease import Lease, Outcome, Report
from bellis.runtime.loop import Loop
from bellis.runtime.scheduler import Scheduler
from bellis.runtime.sizing import REMOTE
from bellis.tasks import Pipeline
from bellis.testing.blocks import line

BLOCK_S = 0.1
WORKERS = 1000


class Virtual:
    """An engine whose workers take 0.1 s of its own clock per block, and never sleep."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._idle_at = [0.0] * WORKERS
        self._running: list[tuple[float, int, Lease]] = []

    def start(self, setup: Any) -> Capacity:
        raise AssertionError("a loop is given an engine that was started")

    def submit(self, lease: Lease) -> None:
        end_s = max(self.now_s, heapq.heappop(self._idle_at)) + BLOCK_S * len(lease.indices)
        heapq.heappush(self._idle_at, end_s)
        heapq.heappush(self._running, (end_s, lease.lease_id, lease))

    def events(self, timeout_s: float) -> list[EngineEvent]:
        del timeout_s
        self.now_s = self._running[0][0]
        found: list[EngineEvent] = []
        while self._running and self._running[0][0] <= self.now_s:
            lease = heapq.heappop(self._running)[2]
            size = len(lease.indices)
            seconds = np.full(size, BLOCK_S, np.float32).tobytes()
            found.append(Report(lease.lease_id, 0, bytes([Outcome.SUCCESS]) * size, seconds, finished=True))
        return found

    def hurry(self, **_: bool) -> None: ...

    def drain(self) -> None: ...

    def close(self) -> None: ...


@pytest.mark.parametrize("conflict", [False, True])
def test_a_thousand_workers_are_kept_busy_to_the_end(*, conflict: bool) -> None:
    blocks = 100_000
    context = (1, 1) if conflict else (0, 0)
    task = line(print, blocks, num_workers=WORKERS, context=context, read_write_conflict=conflict)
    pipeline, engine = Pipeline.of(task), Virtual()
    scheduler = Scheduler(pipeline)
    options: dict[str, Any] = {"journal": None, "resources": {}, "log_dir": None, "fail_fast": 8}
    capacity = Capacity(slots=WORKERS, sizes=REMOTE)
    loop = Loop(scheduler, engine, capacity, notify=lambda _: None, tasks=pipeline.tasks, **options)
    loop.run()
    assert scheduler.task_states["task"].completed_count == blocks
    assert engine.now_s <= 1.05 * blocks * BLOCK_S / WORKERS
