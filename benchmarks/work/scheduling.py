"""Plans and schedulers alone, without workers: time and memory."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from benchmarks.work.measure import Watch, peak_bytes, reset_peak

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.work.libraries import Library

LEASE = 4096
OUTSTANDING = 4


def planned(library: Library, counts: Sequence[int]) -> dict[str, float]:
    """Plan a grid with conflicts, make its scheduler, take the first blocks."""
    task = library.task("planned", counts, id, context=1, conflict=True)
    with Watch() as watch:
        if library.name == "bellis":
            first = library.api.Scheduler(library.api.plan(task).pipeline).acquire("planned", LEASE)
        else:
            first = [library.api.Scheduler(library.api.Pipeline([task])).acquire_block("planned")]
    if first is None or not len(first):
        raise RuntimeError("no block is ready")
    return {"seconds": watch.seconds, "peak_mb": peak_bytes() / 1e6}


def memory(library: Library, count: int) -> dict[str, float]:
    """Drive a scheduler through a grid with conflicts as two workers would; what memory it adds, per block."""
    drive = _drive_bellis if library.name == "bellis" else _drive_daisy
    drive(library, library.task("memory", (4, 4, 4), id, context=1, conflict=True), 64)
    task = library.task("memory", (count,) * 3, id, context=1, conflict=True)
    before = reset_peak()
    with Watch() as watch:
        drive(library, task, count**3)
    return {
        "bytes_per_block": (peak_bytes() - before) / count**3,
        "seconds": watch.seconds,
        "blocks_per_s": count**3 / watch.seconds,
    }


def _drive_bellis(library: Library, task: Any, blocks: int) -> None:
    scheduler = library.api.Scheduler([task])
    held: deque[Any] = deque()
    while not scheduler.is_done():
        while len(held) < OUTSTANDING and len(indices := scheduler.acquire("memory", LEASE)):
            held.append(indices)
        scheduler.release("memory", held.popleft())
    _check(scheduler.task_states["memory"], blocks)


def _drive_daisy(library: Library, task: Any, blocks: int) -> None:
    scheduler = library.api.Scheduler(library.api.Pipeline([task]))
    held: deque[Any] = deque()
    while True:
        while len(held) < LEASE * OUTSTANDING and (block := scheduler.acquire_block("memory")) is not None:
            held.append(block)
        if not held:
            break
        block = held.popleft()
        block.status = library.api.BlockStatus.SUCCESS
        scheduler.release_block(block)
    _check(scheduler.task_states["memory"], blocks)


def _check(state: Any, blocks: int) -> None:
    if state.completed_count != blocks:
        raise RuntimeError(f"{state.completed_count} of {blocks} blocks are done")
