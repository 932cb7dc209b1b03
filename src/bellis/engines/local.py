"""The local engine: worker processes on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bellis.runtime.cores import available_cores
from bellis.runtime.crew import Crew
from bellis.runtime.engine import Capacity

if TYPE_CHECKING:
    from bellis.runtime.engine import EngineEvent, EngineSetup
    from bellis.runtime.lease import Lease


class LocalEngine:
    """A crew of worker processes, one per core if nothing else is said."""

    _crew: Crew

    def start(self, setup: EngineSetup) -> Capacity:
        """Start the crew; workers are started when there is work for them."""
        packed = [program.packed() for program in setup.programs]  # an error here comes before any process
        workers = setup.slots(available_cores())
        self._crew = Crew(
            workers,
            setup.log_dir,
            keeps_logs=setup.keeps_logs,
            cells_path=setup.cells_path,
            lock_fd=setup.lock_fd,
        )
        for program in packed:
            self._crew.add(program)
        return Capacity(slots=workers)

    def submit(self, lease: Lease) -> None:
        """Send a lease to a worker, or start one."""
        self._crew.submit(lease)

    def events(self, timeout_s: float) -> list[EngineEvent]:
        """Wait for reports, watch over time-outs, notice workers that ended."""
        return self._crew.events(timeout_s)

    def hurry(self, *, report: bool, share: bool) -> None:
        """Have each block reported at once, or in groups; have leases shared out, or kept."""
        self._crew.hurry(report=report, share=share)

    def drain(self) -> None:
        """Have every worker stop after the block that it runs."""
        self._crew.drain()

    def close(self) -> None:
        """End all workers, the busy ones at once."""
        if hasattr(self, "_crew"):
            self._crew.close()
