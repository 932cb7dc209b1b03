"""Blocks through the service: clients of a run, and crowds of light workers."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

from benchmarks.work.libraries import WORKERS
from benchmarks.work.measure import Watch, reset_peak
from benchmarks.work.waiting import BLOCK_S, compute, spans, wait

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.work.libraries import Library

IDLE_S = 2.0
"""How long idle workers are looked at."""


def null(library: Library, blocks: int, at_once: int) -> dict[str, float]:
    """Blocks that do nothing, by two worker functions: one by one, or ``at_once`` in a group."""

    def singly() -> None:
        client = library.api.Client()
        while True:
            with client.acquire_block() as block:
                if block is None:
                    return

    def grouped() -> None:
        client = library.api.Client()
        while True:
            with client.acquire_blocks(at_once) as group:
                if not group:
                    return

    task = library.task("null", (blocks,), singly if at_once == 1 else grouped)
    with Watch() as watch:
        library.complete(task)
    return {
        "seconds": watch.seconds,
        "blocks_per_s": blocks / watch.seconds,
        "parent_share": watch.cpu_s / watch.seconds,
    }


def efficiency(library: Library, blocks: int, *, busy: bool) -> dict[str, float]:
    """Blocks of 20 ms, by two worker functions; see `benchmarks.work.waiting`."""
    work = compute if busy else wait
    with tempfile.TemporaryDirectory() as directory:
        task = library.task("efficiency", (blocks,), _timed(library.api.Client, Path(directory), work))
        with Watch() as watch:
            library.complete(task)
        found = [span for file in Path(directory).iterdir() for span in struct.iter_unpack("dd", file.read_bytes())]
    mean_s = BLOCK_S if busy else sum(end - begin for begin, end in found) / len(found)
    between_s = max(end for _, end in found) - min(begin for begin, _ in found)
    ideal_s = blocks * mean_s / WORKERS
    return {"seconds": watch.seconds, "efficiency": ideal_s / watch.seconds, "without_start": ideal_s / between_s}


def _timed(make_client: Callable[[], Any], directory: Path, work: Callable[[], None]) -> Callable[[], None]:
    def take() -> None:
        client = make_client()
        while True:
            with client.acquire_block() as block:
                if block is None:
                    return
                begin = monotonic()
                work()
                spans(directory).write(struct.pack("dd", begin, monotonic()))

    return take


def crowd(library: Library, workers: int, blocks: int, block_s: float) -> dict[str, float]:
    """Blocks that take ``block_s`` on many light workers, which are one process: what the run can keep up with."""
    from bellis.service.engine import ServiceEngine

    class Crowded(ServiceEngine):
        def start(self, setup: Any) -> Any:
            capacity = super().start(setup)
            self.crowd = _start_crowd(self.url, self.keys.token_file, workers, block_s)
            return capacity

    engine = Crowded(by_name=False)
    roi = library.api.Roi
    task = library.api.Task(
        "crowd", roi((0,), (blocks,)), roi((0,), (1,)), roi((0,), (1,)), len,
        read_write_conflict=False, num_workers=workers, worker_function=False,
    )  # fmt: skip
    try:
        with Watch() as watch:
            report = library.api.run(task, engine=engine, progress=False)
        measured = json.loads(engine.crowd.communicate(timeout=30)[0])
    finally:
        engine.crowd.kill()
        engine.crowd.wait()
    if not report.ok:
        raise RuntimeError(f"it did not do what it should: {report}")
    return {
        "seconds": watch.seconds,
        "blocks_per_s": blocks / measured["seconds"],
        "of_ideal": blocks * block_s / workers / measured["seconds"],
        "p50_s": measured["p50_ms"] / 1000,
        "p99_s": measured["p99_ms"] / 1000,
        "parent_share": watch.cpu_s / watch.seconds,
    }


def idle(library: Library, workers: int) -> dict[str, float]:
    """Workers that wait for leases: what each costs the run in memory."""
    del library
    from bellis.service.board import Board
    from bellis.service.server import Server
    from bellis.service.token import new_token

    token = new_token()
    server = Server(Board("idle", []), token)
    server.start()
    with tempfile.NamedTemporaryFile("w") as file:
        file.write(token)
        file.flush()
        url = f"http://127.0.0.1:{server.port}"
        before = reset_peak()
        process = _start_crowd(url, Path(file.name), workers, 1.0)
        try:
            while server.status().workers < workers:
                sleep(0.01)
            sleep(IDLE_S)
            each = (reset_peak() - before) / workers
        finally:
            with server.board() as board:
                board.close()
            server.close()
            process.kill()
            process.communicate()
    return {"bytes_per_worker": each}


def _start_crowd(url: str, token_file: Path, workers: int, block_s: float) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "bellis.testing.crowd", url, str(token_file), str(workers), str(block_s)]
    return subprocess.Popen(command, stdout=subprocess.PIPE)
