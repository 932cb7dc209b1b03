"""Blocks of 20 ms: how much of two workers' time is spent in blocks."""

from __future__ import annotations

import os
import struct
import tempfile
from functools import cache
from pathlib import Path
from time import monotonic, sleep, thread_time
from typing import TYPE_CHECKING, Any, BinaryIO

from benchmarks.work.libraries import WORKERS
from benchmarks.work.measure import Watch

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.work.libraries import Library

BLOCK_S = 0.02
_SPAN = "dd"
"""How the beginning and the end of a block are written."""


def efficiency(library: Library, blocks: int, *, busy: bool) -> dict[str, float]:
    """Run blocks that take 20 ms: asleep, or computing for 20 ms of processor time.

    Ideal is that every worker is in a block all the time. A sleeping block takes as long as it is measured to take
    (waking up is late by some 0.1 ms); a computing one takes its processor time, however often it is interrupted.
    """
    with tempfile.TemporaryDirectory() as directory:
        task = library.task("efficiency", (blocks,), _process(Path(directory), compute if busy else wait))
        with Watch() as watch:
            library.complete(task)
        spans = [span for file in Path(directory).iterdir() for span in struct.iter_unpack(_SPAN, file.read_bytes())]
    mean_s = BLOCK_S if busy else sum(end - begin for begin, end in spans) / len(spans)
    between_s = max(end for _, end in spans) - min(begin for begin, _ in spans)
    ideal_s = blocks * mean_s / WORKERS
    return {"seconds": watch.seconds, "efficiency": ideal_s / watch.seconds, "without_start": ideal_s / between_s}


def wait() -> None:
    """Sleep for 20 ms."""
    sleep(BLOCK_S)


def compute() -> None:
    """Use 20 ms of processor time."""
    until = thread_time() + BLOCK_S
    while thread_time() < until:
        pass


def _process(directory: Path, work: Callable[[], None]) -> Callable[[Any], None]:
    def process(block: Any) -> None:
        begin = monotonic()
        block.write_roi  # noqa: B018
        work()
        spans(directory).write(struct.pack(_SPAN, begin, monotonic()))

    return process


@cache
def spans(directory: Path) -> BinaryIO:
    """Return this worker's file of beginnings and ends; unbuffered, 2 microseconds per block."""
    return (directory / str(os.getpid())).open("ab", buffering=0)
