"""A Dask cluster of real processes, each of which can be killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import psutil
from distributed import Client

from bellis.testing.blocks import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MARK = "BELLIS_TEST_CLUSTER"


class Cluster:
    """A scheduler, and workers that are started one by one.

    Parameters
    ----------
    folder
        For files of Dask.
    options
        Of the command lines of all.
    """

    def __init__(self, folder: Path, options: tuple[str, ...] = ()) -> None:
        self._folder = folder
        self._options = options
        self._processes: list[subprocess.Popen[bytes]] = []
        self.scheduler, self.address = self._start_scheduler()

    def _start_scheduler(self) -> tuple[subprocess.Popen[bytes], str]:
        file = self._folder / f"scheduler-{len(self._processes)}.json"
        process = self._start(
            "distributed.cli.dask_scheduler", "--port=0", "--no-dashboard", "--scheduler-file", str(file),
            "--host", "127.0.0.1",
        )  # fmt: skip
        found = until(lambda: file.exists() and file.stat().st_size and json.loads(file.read_text()), "a scheduler")
        return process, found["address"]

    def worker(self, *options: str, nanny: bool = False) -> subprocess.Popen[bytes]:
        """Start a worker; it joins soon."""
        return self._start(
            "distributed.cli.dask_worker", self.address, "--nthreads=1", "--no-dashboard", "--memory-limit=0",
            "--local-directory", str(self._folder), "--nanny" if nanny else "--no-nanny", *options,
        )  # fmt: skip

    def _start(self, module: str, *arguments: str) -> subprocess.Popen[bytes]:
        with (self._folder / "dask.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments, *self._options],
                stdout=log, stderr=log,
                env={**os.environ, MARK: str(self._folder), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )  # fmt: skip
        self._processes.append(process)
        return process

    def processes(self, what: str) -> list[psutil.Process]:
        """Return the processes of this cluster, and of what it runs, that have ``what`` in their command line."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                is_ours = process.environ().get(MARK) == str(self._folder)
                if is_ours and what in " ".join(process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def kernels(self) -> list[psutil.Process]:
        """Return what runs blocks on the workers, and what starts them."""
        return self.processes("bellis.runtime")

    @contextmanager
    def client(self) -> Iterator[Client]:
        """Connect as a user does."""
        with Client(self.address, set_as_default=False) as client:
            yield client

    def close(self) -> None:
        """End all processes."""
        for process in self._processes:
            process.kill()
            process.wait()
        for left in self.processes(""):
            with suppress(psutil.NoSuchProcess):
                left.kill()


@contextmanager
def running(folder: Path, workers: int, *options: str, nanny: bool = False) -> Iterator[Cluster]:
    """Start a cluster with so many workers, and end it."""
    cluster = Cluster(folder)
    try:
        for _ in range(workers):
            cluster.worker(*options, nanny=nanny)
        if workers:
            with cluster.client() as client:
                client.wait_for_workers(workers, timeout=30)
        yield cluster
    finally:
        cluster.close()
