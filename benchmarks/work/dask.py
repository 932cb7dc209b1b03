"""The Dask engine, and Dask by itself, on two worker processes of one cluster on this machine."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from distributed import Client, LocalCluster

from benchmarks.work import blocks as null_blocks
from benchmarks.work import waiting
from benchmarks.work.libraries import WORKERS, Bellis, Counts
from benchmarks.work.measure import Watch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from benchmarks.work.libraries import Library

MAPPED = 2000
"""Single blocks that Dask maps, for a rate to compare with."""


class OnDask(Bellis):
    """bellis with its Dask engine."""

    def __init__(self, client: Client) -> None:
        from bellis.engines.dask import DaskEngine

        super().__init__()
        self._engine = DaskEngine(client)

    def run(self, tasks: Any, journal: Path | None = None) -> dict[str, Counts]:
        """Run tasks on two worker processes of the cluster."""
        report = self._run(tasks, self._engine, workers=WORKERS, journal=journal, progress=False)
        found = {task_id: task.counts for task_id, task in report.tasks.items()}
        return {k: Counts(c.total, c.completed, c.skipped, c.failed, c.orphaned) for k, c in found.items()}


@contextmanager
def cluster() -> Iterator[Client]:
    """Start two worker processes; this time is not measured."""
    with (
        LocalCluster(
            n_workers=WORKERS, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0"
        ) as started,
        Client(started.scheduler_address, set_as_default=False) as client,
    ):
        yield client


def null(_: Library, blocks: int) -> dict[str, float]:
    """Blocks that do nothing, by leases; and some of them one by one, by ``client.map``."""
    with cluster() as client:
        mapped = _map(client, min(blocks, MAPPED))
        library = OnDask(client)
        library.complete(library.task("warm", (8,), null_blocks.touch))
        with Watch() as watch:
            library.complete(library.task("null", (blocks,), null_blocks.touch))
    per_s = blocks / watch.seconds
    return {"seconds": watch.seconds, "blocks_per_s": per_s, "of_map": per_s / mapped}


def mapped(_: None, blocks: int) -> dict[str, float]:
    """Calls that do nothing, one Dask task each."""
    with cluster() as client:
        return {"blocks_per_s": _map(client, blocks)}


def efficiency(_: Library, blocks: int, *, busy: bool) -> dict[str, float]:
    """Run blocks that take 20 ms; see `benchmarks.work.waiting`."""
    with cluster() as client:
        return waiting.efficiency(OnDask(client), blocks, busy=busy)


def _map(client: Client, blocks: int) -> float:
    with Watch() as watch:
        done = len(client.gather(client.map(_nothing, range(blocks), pure=False)))
    if done != blocks:
        raise RuntimeError(f"{done} of {blocks} calls came back")
    return blocks / watch.seconds


def _nothing(number: int) -> None:
    """Do nothing."""
