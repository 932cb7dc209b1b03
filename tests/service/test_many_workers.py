"""Many workers at once: a small crowd here, a large one in the benchmarks."""

from __future__ import annotations

import asyncio
import threading
import tracemalloc
from time import monotonic
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import bellis
from bellis.runtime.lease import Lease, Outcome, Report
from bellis.service.board import Board
from bellis.service.engine import ServiceEngine
from bellis.service.messages import BlockReport, Join, Turn
from bellis.testing.blocks import line, until
from bellis.testing.crowd import crowd
from services import RUN_ID, TOKEN, asking, board_task, serving

if TYPE_CHECKING:
    from pathlib import Path

    from bellis.runtime.engine import Capacity, EngineSetup
    from bellis.service.server import Server

pytestmark = [pytest.mark.integration, pytest.mark.slow]

WORKERS = 100
MOST_BYTES = 100_000


class Crowded(ServiceEngine):
    """A service with a crowd in a thread of this process."""

    def start(self, setup: EngineSetup) -> Capacity:
        capacity = super().start(setup)

        def work() -> None:
            self.measured = asyncio.run(crowd(self.url, self.keys.token, WORKERS, 0.05))

        self.thread = threading.Thread(target=work)
        self.thread.start()
        return capacity

    def close(self) -> None:
        super().close()
        self.thread.join()


def test_a_hundred_workers_do_every_block_once(tmp_path: Path) -> None:
    engine = Crowded(by_name=False)
    task = line(lambda block: None, 4000, num_workers=WORKERS)
    report = bellis.run(task, engine=engine, progress=False, log_dir=tmp_path / "logs")
    assert report.ok
    assert report.workers == WORKERS
    assert engine.measured.blocks == 4000
    assert engine.measured.seconds < 3 * 4000 * 0.05 / WORKERS + 2


def test_a_worker_that_waits_costs_little_memory() -> None:
    with serving() as server:
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            work = crowd(f"http://127.0.0.1:{server.port}", TOKEN, 300, 1.0)
            thread = threading.Thread(target=lambda: asyncio.run(work))
            thread.start()
            until(lambda: waiting(server) == 300, "all wait")
            each = (tracemalloc.get_traced_memory()[0] - before) / 300  # both ends are in this process
        finally:
            tracemalloc.stop()
        with server.board() as board:
            board.close()
        thread.join()
    assert each < MOST_BYTES


def waiting(server: Server) -> int:
    with server.board() as board:
        return len(board._waiting)


def test_the_board_keeps_up_with_a_thousand_workers_in_virtual_time() -> None:
    """Blocks of 100 ms, 20 in a lease, on 1000 workers: 10 s of their time in less of ours."""
    board = Board(RUN_ID, [board_task()])
    workers = [board.join(Join(name="light"), 0.0).worker_id for _ in range(1000)]
    next_lease = 0
    done = 0
    began = monotonic()
    for second in range(0, 10, 2):
        for worker in workers:
            next_lease += 1
            board.submit(Lease(next_lease, "task", blocks_of(next_lease)))
            (given,) = board.turn(worker, asking(), float(second)).leases
            board.turn(worker, Turn(held=[given.lease_id]), second + 1.0)
            report = BlockReport(
                lease_id=given.lease_id, begin=0, outcomes=bytes([Outcome.SUCCESS]) * 20, finished=True
            )
            board.turn(worker, Turn(reports=[report]), second + 2.0)
        board.sweep(second + 2.0)
        done += sum(len(event.outcomes) for event in board.take_events() if isinstance(event, Report))
    assert done == 100_000
    assert monotonic() - began < 10.0


def blocks_of(number: int) -> Any:
    return np.arange(20 * number, 20 * number + 20)
