"""multiprocessing.Pool: no regions, no order between blocks, no journal, nothing known of a dead worker."""

from __future__ import annotations

from multiprocessing import Pool

from benchmarks.work.libraries import WORKERS
from benchmarks.work.measure import Watch


def nothing(number: int) -> None:
    """Do nothing."""


def imap(_: None, blocks: int, chunksize: int) -> dict[str, float]:
    """Map a function that does nothing over numbers."""
    with Watch() as watch, Pool(WORKERS) as pool:
        done = sum(1 for _ in pool.imap_unordered(nothing, range(blocks), chunksize))
    if done != blocks:
        raise RuntimeError(f"{done} of {blocks} calls came back")
    return {
        "seconds": watch.seconds,
        "blocks_per_s": blocks / watch.seconds,
        "parent_share": watch.cpu_s / watch.seconds,
    }
