"""A service without a run behind it: what tests of clients and workers talk to."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bellis.runtime.lease import Lease, Outcome, Report
from bellis.service.board import Board
from bellis.service.context import Context
from bellis.service.messages import Region, TaskDescription
from bellis.service.roster import BoardTask
from bellis.service.server import Server
from bellis.testing.blocks import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bellis.runtime.engine import EngineEvent
    from bellis.service.client import Client

TOKEN = secrets.token_urlsafe(32)


class Rig:
    """A board behind a real server; the test plays the run.

    Parameters
    ----------
    num_blocks
        Blocks of its one task, each one unit long, with a context of one unit.
    server
        Further arguments of the server.
    task
        Further fields of the task's description.
    """

    def __init__(self, num_blocks: int, *, server: dict[str, Any] | None = None, **task: Any) -> None:
        fields: dict[str, Any] = {
            "number": 0,
            "task_id": "task",
            "total_roi": Region(offset=[0], shape=[num_blocks + 2]),
            "read_roi": Region(offset=[-1], shape=[3]),
            "write_roi": Region(offset=[0], shape=[1]),
            "fit": "valid",
            "keeps_results": False,
            "timeout_s": None,
            "process": None,
        }
        self.task = TaskDescription(**{**fields, **task})
        self.num_blocks = num_blocks
        self.run_id = "rig"
        self.events: list[EngineEvent] = []
        self._leases = 0
        self._server_options = server or {}
        self.start()

    def start(self, port: int = 0) -> None:
        """Start the service, or start it anew, knowing nothing, where it was."""
        self.board = Board(self.run_id, [BoardTask(description=self.task, is_open=self.task.process is not None)])
        self.server = Server(self.board, TOKEN, port=port, **self._server_options)
        self.server.start()

    def close(self) -> None:
        self.server.close()

    @property
    def url(self) -> str:
        return f"{self.server.scheme}://127.0.0.1:{self.server.port}"

    @property
    def context(self) -> Context:
        context = Context(
            hostname="127.0.0.1", port=self.server.port, task_id="task", worker_id=0, token=TOKEN, run_id=self.run_id
        )
        context["scheme"] = self.server.scheme
        return context

    def lease(self, *indices: int) -> int:
        """Put up a lease; return its number."""
        self._leases += 1
        with self.server.board() as board:
            board.submit(Lease(self._leases, "task", np.array(indices, np.int64)))
        return self._leases

    def lease_all(self, size: int) -> None:
        """Put up all blocks, in leases of a size."""
        for begin in range(0, self.num_blocks, size):
            self.lease(*range(begin, min(begin + size, self.num_blocks)))

    def finish(self) -> None:
        """Let all workers go."""
        with self.server.board() as board:
            board.close()

    def reports(self, lease_id: int | None = None) -> list[Report]:
        """Return what came so far."""
        with self.server.board() as board:
            self.events += board.take_events()
        found = [event for event in self.events if isinstance(event, Report)]
        return [report for report in found if lease_id in {None, report.lease_id}]

    def is_finished(self, lease_id: int) -> bool:
        return any(report.finished for report in self.reports(lease_id))

    def outcomes(self, lease_id: int, size: int) -> list[Outcome]:
        """Wait for the end of a lease; return what became of its blocks: the first that was said of each."""
        until(lambda: self.is_finished(lease_id), f"lease {lease_id} ends")
        known = [Outcome.NONE] * size
        for report in self.reports(lease_id):
            for position, outcome in enumerate(report.outcomes, report.begin):
                known[position] = known[position] or Outcome(outcome)
        return known

    def errors(self, lease_id: int) -> dict[int, str]:
        return {at: text for report in self.reports(lease_id) for at, text in report.errors.items()}


def is_gone(pid: int) -> bool:
    """Whether a process has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


@contextmanager
def rig(num_blocks: int = 100, **options: Any) -> Iterator[Rig]:
    """Serve, as long as a ``with`` statement lasts."""
    made = Rig(num_blocks, **options)
    try:
        yield made
    finally:
        made.close()


def take_all(client: Client) -> list[int]:
    taken = []
    while True:
        with client.acquire_block() as block:
            if block is None:
                return taken
            taken.append(block.index)


def script(text: str, context: Context, *arguments: str, **options: Any) -> subprocess.Popen[str]:
    """Run a script that takes blocks."""
    environment = {**os.environ, **context.environment()}
    return subprocess.Popen([sys.executable, "-c", text, *arguments], env=environment, text=True, **options)
