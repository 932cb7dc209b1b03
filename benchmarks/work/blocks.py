"""Runs of blocks that do nothing: what a block costs."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.work.measure import Watch, peak_bytes, reset_peak

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.work.libraries import Library


def touch(block: Any) -> None:
    """Look at the region, do nothing."""
    block.write_roi  # noqa: B018  # making the region is part of the cost


def null(
    library: Library, counts: Sequence[int], context: int = 0, *, conflict: bool = False, journal: bool = False
) -> dict[str, float]:
    """One task of blocks that do nothing."""
    path = Path("journal").absolute() if journal else None
    options: dict[str, Any] = {"tracking_path": str(path)} if journal and library.name == "daisy" else {}
    return _rate(library, library.task("null", counts, touch, context=context, conflict=conflict, **options), path)


def chain(library: Library, count: int, tasks: int = 3, *, conflict: bool = False) -> dict[str, float]:
    """Tasks in 3-D, each of whose blocks reads 27 blocks of the one before."""
    sizes = [count + 2 * (tasks - 1 - k) for k in range(tasks)]
    chained = [
        library.task(f"task{k}", (size,) * 3, touch, context=1, conflict=conflict, begin=k)
        for k, size in enumerate(sizes)
    ]
    return _rate(library, sum(chained[1:], start=chained[0]), None)


def _rate(library: Library, tasks: Any, journal: Path | None) -> dict[str, float]:
    with Watch() as watch:
        blocks = library.complete(tasks, journal)
    return {
        "seconds": watch.seconds,
        "blocks_per_s": blocks / watch.seconds,
        "parent_share": watch.cpu_s / watch.seconds,
    }


def one(library: Library) -> dict[str, float]:
    """One block; what counts is the whole process."""
    return _rate(library, library.task("one", (1,), touch), None)


def fan_in(library: Library, blocks: int) -> dict[str, float]:
    """Many blocks, then a single one that reads them all."""
    parts = library.task("parts", (blocks,), touch)
    whole = parts.total_roi
    table = library.api.Task("table", whole, whole, whole, process_function=touch, read_write_conflict=False)
    return _rate(library, parts + table, None)


def run_memory(library: Library, count: int) -> dict[str, float]:
    """Memory that the process of a run needs more, per block, while a grid with conflicts runs."""
    grid = partial(library.task, function=touch, context=1, conflict=True)
    library.complete(grid("before", (4, 4, 4)))  # what is loaded once is not counted
    task = grid("null", (count,) * 3)
    before = reset_peak()
    found = _rate(library, task, None)
    return {**found, "bytes_per_block": (peak_bytes() - before) / count**3}


def failing(library: Library, blocks: int, percent: int) -> dict[str, float]:
    """Blocks of which some fail at every attempt."""
    counts = library.run(library.task("failing", (blocks,), _failing(100 // percent)))["failing"]
    bad = len(range(100 // percent // 2, blocks, 100 // percent))
    return {"done": counts.completed, "left": blocks - bad - counts.completed, "failed": counts.failed}


def _failing(every: int) -> Any:
    def process(block: Any) -> None:
        number = block.write_roi.begin[0] // block.write_roi.shape[0]
        if number % every == every // 2:
            raise ValueError(f"block {number} is bad")

    return process
