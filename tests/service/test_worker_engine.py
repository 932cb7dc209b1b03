"""Workers over HTTP pass what every engine must: a `Worker` beside the run, with two processes below it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from bellis.runtime.engine import Notice
from bellis.service.connection import Connection
from bellis.service.engine import ServiceEngine
from bellis.service.worker import Worker
from bellis.testing.engines import EngineTests

if TYPE_CHECKING:
    from bellis.runtime.engine import Capacity, EngineEvent, EngineSetup

pytestmark = [pytest.mark.integration, pytest.mark.slow]


class Staffed(ServiceEngine):
    """A service that starts its own worker, and hands the tasks' functions over to it."""

    worker: Worker | None = None

    def start(self, setup: EngineSetup) -> Capacity:
        programs = {program.task_id: program.packed() for program in setup.programs}
        capacity = super().start(setup)
        connection = Connection(self.url, self.keys.token)
        self.worker = Worker(connection, workers=setup.workers or 2, programs=programs)
        self.thread = threading.Thread(target=self.worker.serve, name="worker")
        self.thread.start()
        return capacity

    def events(self, timeout_s: float) -> list[EngineEvent]:
        """Leave out how to join: tests take the first message for the run's own."""
        return [event for event in super().events(timeout_s) if not isinstance(event, Notice)]

    def close(self) -> None:
        super().close()
        if self.worker is not None:
            self.thread.join(5)
            is_gone = not self.thread.is_alive()
            self.worker.stop()
            self.worker.stop()
            self.thread.join(20)
            assert is_gone


class TestServiceWorkers(EngineTests):
    def engine(self) -> Staffed:
        return Staffed(by_name=False)
