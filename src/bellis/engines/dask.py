"""The Dask engine: workers of a Dask cluster, on this machine or on others.

One lease is one Dask task, sent to a Dask worker of the engine's choice; there it is run by worker processes of bellis
(see `bellis.engines.dask_node`). Dask carries messages, starts and secures workers; attempts, time-outs and losses are
counted here as on any engine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bellis.errors import EngineError
from bellis.runtime.cores import available_cores

if TYPE_CHECKING:
    from distributed import Client, LocalCluster, Security
    from distributed.deploy.cluster import Cluster

    from bellis.engines.dask_run import DaskRun
    from bellis.runtime.engine import Capacity, EngineEvent, EngineSetup
    from bellis.runtime.lease import Lease

CLOSE_S = 5.0


class DaskEngine:
    """Runs blocks on the workers of a Dask cluster.

    Parameters
    ----------
    client
        A connected `distributed.Client`, or a cluster (``LocalCluster``, ``SLURMCluster``...): it is used, and left
        alone otherwise; or the address of a scheduler, ``host:port``; None for a cluster of this run's own here.
    security
        Certificates for a scheduler that is given by its address.

    Raises
    ------
    EngineError
        If Dask is not installed, or what was passed is none of these.
    """

    _run: DaskRun

    def __init__(self, client: Client | Cluster | str | None = None, *, security: Security | None = None) -> None:
        try:
            import distributed  # noqa: F401
        except ImportError as error:
            raise EngineError(f"the engine 'dask' needs Dask ({error}): pip install 'bellis[dask]'") from error
        from bellis.engines.dask_connect import check_place

        check_place(client)
        self._given = client
        self._security = security
        self._cluster: LocalCluster | None = None

    def start(self, setup: EngineSetup) -> Capacity:
        """Connect to the scheduler; see who is there.

        Raises
        ------
        EngineError
            If there is no scheduler, or it does not answer.
        TaskError
            If a task's blocks fit on no worker.
        """
        from bellis.engines.dask_connect import place_of
        from bellis.engines.dask_link import Link, local_cluster
        from bellis.engines.dask_run import DaskRun

        packed = {program.task_id: program.packed() for program in setup.programs}  # may fail: before all else
        if self._given is None:
            self._cluster = local_cluster(setup.slots(available_cores()))
            address, security = self._cluster.scheduler_address, self._security
        else:
            address, security = place_of(self._given, self._security)
        link = Link(address, security, setup.run_id)
        try:
            self._run = DaskRun(link, setup, packed)
        except BaseException:
            link.disconnect()
            raise
        return self._run.capacity()

    def submit(self, lease: Lease) -> None:
        """Send a lease to a Dask worker; or, while there is none, to the first that comes."""
        self._run.submit(lease)

    def events(self, timeout_s: float) -> list[EngineEvent]:
        """Wait for news from workers, and for changes among them.

        Raises
        ------
        EngineError
            If the scheduler is gone, or its workers can't run leases.
        """
        return self._run.events(timeout_s)

    def hurry(self, *, report: bool, share: bool) -> None:
        """Have each block reported at once, or in groups; have leases shared out, or kept."""
        self._run.hurry(report=report, share=share)

    def drain(self) -> None:
        """Have every worker stop after the block that it runs."""
        self._run.drain()

    def close(self) -> None:
        """Give up all leases, end what bellis started on the cluster, and leave the cluster as it was."""
        try:
            if hasattr(self, "_run"):
                self._run.close()
                del self._run
        finally:
            if self._cluster is not None:
                cluster, self._cluster = self._cluster, None
                cluster.close(timeout=CLOSE_S)
