"""A host: a crew on a machine of a cluster, and the thread that looks after it.

Leases come to it from elsewhere, through a Dask worker or over HTTP, and from any thread; what becomes of them is told
to whoever brought them, with what the workers printed. Timeouts, crashes and prints are the crew's matter, so they are
the same as on the machine of the run.
"""

from __future__ import annotations

import shutil
import threading
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

from bellis.errors import BellisError, EngineError
from bellis.runtime.crew import Crew
from bellis.runtime.engine import ProgramRefused, WorkerEnded
from bellis.runtime.folders import own_folder
from bellis.runtime.lease import Report
from bellis.runtime.output import log_path

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from bellis.runtime.lease import Lease
    from bellis.runtime.program import PackedProgram

LOOK_S = 0.5
"""The crew is asked this often for news if there is none."""
MOST_OUTPUT_BYTES = 256 * 1024
"""Of what a worker prints between two reports, no more is sent home."""

HostEvent: TypeAlias = "Report | WorkerEnded | ProgramRefused"
Tell: TypeAlias = "Callable[[HostEvent], None]"


@dataclass(slots=True)
class _Brought:
    """A lease, and who brought it."""

    lease: Lease
    tell: Tell
    is_told: bool = False
    """Whether it was said that its task can't be loaded."""


class Host:
    """Runs leases that come from elsewhere on worker processes of this machine.

    Its methods may be called from any thread.

    Parameters
    ----------
    workers
        How many worker processes there are at most.
    environment
        What they find in their environment besides that of this process; None takes a variable out of it.
    log_dir
        Where their logs are kept; None: nowhere, reports carry what was printed.

    Raises
    ------
    EngineError
        If there is no room for logs.
    """

    def __init__(
        self, workers: int, *, environment: Mapping[str, str | None] | None = None, log_dir: Path | None = None
    ) -> None:
        folder = log_dir or own_folder("host")
        self._own_folder = folder if log_dir is None else None
        try:
            self._crew = Crew(workers, folder, environment=environment, keeps_logs=True)
        except BaseException:
            self._remove_folder()
            raise
        self._lock = threading.Lock()
        self._wishes: deque[Callable[[], None]] = deque()
        self._brought: dict[int, _Brought] = {}
        self._programs: set[int] = set()
        self._read: dict[Path, int] = {}
        self._closing = False
        self._failure: BellisError | None = None
        self._thread = threading.Thread(target=self._look_after, name="bellis-host", daemon=True)
        self._thread.start()

    # From any thread -------------------------------------------------------------------------------------------------

    def knows(self, number: int) -> bool:
        """Whether it was given the program with this number."""
        return number in self._programs

    def add(self, program: PackedProgram) -> None:
        """Take a task whose leases may come."""
        with self._lock:
            if program.number in self._programs:
                return
            self._programs.add(program.number)
        self._wish(lambda: self._crew.add(program))

    def submit(self, lease: Lease, tell: Tell) -> None:
        """Run a lease; ``tell`` is called from the host's thread with its reports, the last one ``finished``.

        Raises
        ------
        BellisError
            If the crew can't keep its workers alive.
        """
        if self._failure is not None:
            raise self._failure

        def begin() -> None:
            self._brought[lease.lease_id] = _Brought(lease, tell)
            self._crew.submit(lease)

        self._wish(begin)

    def cancel(self, lease_id: int, reason: str) -> None:
        """End a lease at once."""
        self._wish(lambda: self._crew.cancel(lease_id, reason))

    def hurry(self, *, report: bool, share: bool) -> None:
        """See `Engine.hurry`."""
        self._wish(lambda: self._crew.hurry(report=report, share=share))

    def running(self) -> list[tuple[int, int, float]]:
        """Return where workers are now: lease, position in it, seconds in that block; see `Crew.running`."""
        found: list[tuple[int, int, float]] = []
        is_there = threading.Event()

        def look() -> None:
            found.extend(self._crew.running())
            is_there.set()

        self._wish(look)
        return found if is_there.wait(LOOK_S) else []

    def drain(self) -> None:
        """Have every worker stop after the block that it runs."""
        self._wish(self._crew.drain)

    def close(self) -> None:
        """End all workers, now, and leave nothing behind; leases that run are not reported any more."""
        self._closing = True
        self._crew.wake()
        self._thread.join()

    def _wish(self, wish: Callable[[], None]) -> None:
        self._wishes.append(wish)
        self._crew.wake()

    # In the host's own thread ----------------------------------------------------------------------------------------

    def _look_after(self) -> None:
        try:
            while not self._closing:
                while self._wishes:
                    self._wishes.popleft()()
                for event in self._crew.events(LOOK_S):
                    if isinstance(event, Report | WorkerEnded | ProgramRefused):
                        self._pass_on(event)
        except Exception as error:  # noqa: BLE001  # no worker can be started here, or there is an error in bellis
            # Whoever waits, and who comes later, must hear of it: otherwise leases would never end.
            self._failure = error if isinstance(error, BellisError) else EngineError(f"the host failed: {error!r}")
            for brought in list(self._brought.values()):
                self._finish(brought, Report(brought.lease.lease_id, 0, b"", finished=True, crash=str(error)))
        finally:
            self._crew.close()
            self._remove_folder()

    def _remove_folder(self) -> None:
        if self._own_folder is not None:
            shutil.rmtree(self._own_folder, ignore_errors=True)

    def _finish(self, brought: _Brought, report: Report) -> None:
        del self._brought[brought.lease.lease_id]
        brought.tell(report)

    def _pass_on(self, event: HostEvent) -> None:
        if isinstance(event, ProgramRefused):
            for brought in list(self._brought.values()):
                if brought.lease.task_id == event.task_id and not brought.is_told:
                    brought.is_told = True
                    brought.tell(event)
        elif isinstance(event, WorkerEnded):
            running = self._brought.get(event.lease.lease_id) if event.lease is not None else None
            if running is not None:
                running.tell(event)
        else:
            found = self._brought.get(event.lease_id)
            if found is None:
                return
            if event.finished:
                self._finish(found, replace(event, output=self._output(found.lease.task_id, event.worker)))
            else:
                found.tell(event)

    def _output(self, task_id: str, worker: str) -> bytes:
        """Return what a worker printed for a task since this was asked last."""
        slot = worker.rpartition("-")[2]
        if self._own_folder is None or not slot.isdigit():
            return b""
        path = log_path(self._own_folder, task_id, int(slot))
        begin = self._read.get(path, 0)
        try:
            with path.open("rb") as log:
                log.seek(begin)
                output = log.read()
        except OSError:
            return b""
        self._read[path] = begin + len(output)
        if len(output) > MOST_OUTPUT_BYTES:
            half = MOST_OUTPUT_BYTES // 2
            left_out = f"\n[bellis: {len(output) - 2 * half} bytes left out]\n".encode()
            output = output[:half] + left_out + output[-half:]
        return output
