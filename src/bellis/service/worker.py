"""Workers that join a run over HTTP: a `Host` of worker processes, and the conversation that feeds it."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING

import numpy as np

from bellis.errors import FunctionError, ServiceError
from bellis.runtime.cell import LARGEST_LEASE
from bellis.runtime.engine import ProgramRefused, WorkerEnded
from bellis.runtime.host import Host
from bellis.runtime.lease import Lease, Outcome
from bellis.service.conversation import Conversation, own_name
from bellis.service.imported import packed
from bellis.service.messages import BlockReport, Join, Running
from bellis.service.patience import Aside, PatientConnection
from bellis.service.signals import heard

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from bellis.runtime.host import HostEvent
    from bellis.runtime.lease import Report
    from bellis.runtime.program import PackedProgram
    from bellis.service.connection import Connection
    from bellis.service.messages import Answer, LeaseMessage

AT_HAND = 2
"""Leases per worker process: one that runs and the next."""
WAIT_S = 10.0
"""How long the service may keep a turn of a worker that has nothing to do."""
SHORT_WAIT_S = 0.1
"""The same, of one some of whose processes are busy: when they are done, that should be said soon."""
CROWDED_S = 0.25
"""A service that wants to be told less often than this has many workers: then that wait is longer."""
MOST_TURNS_S = 0.02
"""Between turns of a worker some of whose processes are idle, if the service does not wait."""
SETTLE_S = 10.0
"""So long running blocks may take to finish when the worker is asked to end."""
FAREWELL_S = 1.0
"""So long it may take to say goodbye; the service notices anyway."""
PAUSE_S = 0.2
"""Between attempts to report what was done when the worker is asked to end."""
SHORT_LEASE_S = 0.1
"""Against a longer lease, the wait for the next one is nothing."""


@dataclass(slots=True)
class _Held:
    """A lease, and what was said of it."""

    lease: LeaseMessage
    size: int
    known: int = 0
    """Blocks from its begin that were reported."""


def _size(lease: LeaseMessage) -> int:
    return sum(count for _, count in lease.runs)


class Worker:
    """Worker processes of this machine, in the service of a run elsewhere.

    Parameters
    ----------
    connection
        To the run.
    workers
        How many blocks to run at the same time.
    name
        What a person would call it; host and process if None.
    task_id
        The one task to take blocks of; None: any whose functions can be imported here.
    programs
        Functions that are known already, by task; those of others are imported by name.
    environment
        What the processes find in their environment besides that of this process.
    say
        Called with what a person should know.

    Attributes
    ----------
    has_joined
        Whether the run has taken it.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        workers: int,
        name: str | None = None,
        task_id: str | None = None,
        programs: Mapping[str, PackedProgram] | None = None,
        environment: Mapping[str, str] | None = None,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._connection = connection
        self._say = say
        self.has_joined = False
        self._slots = workers
        self._join = Join(name=name or own_name(), task_id=task_id, slots=workers)
        self._given = dict(programs or {})
        self._environment = environment
        self._queue: deque[LeaseMessage] = deque()
        """Leases that no process has yet."""
        self._held: dict[int, _Held] = {}
        """Leases that were given to processes."""
        self._block_s = SHORT_LEASE_S
        """How long a block of the last one took."""
        self._news: deque[HostEvent] = deque()
        self._bell = threading.Event()
        self._stops = 0
        self._settle_s = 0.0
        self._settling: threading.Timer | None = None
        self._is_drained = self._is_away = self._is_over = False
        self._state = "go"
        self._next_s = 0.0
        self._short_wait_s = SHORT_WAIT_S

    def stop(self) -> None:
        """Finish what runs, for at most 10 s, and leave; the second time, leave at once. From any thread.

        A turn that waits for its answer is broken off, and taken again: the run may be away.
        """
        if self._is_over:
            return
        if not self._settle_s:
            self._settle_s = monotonic() + SETTLE_S
            self._settling = threading.Timer(SETTLE_S, self._connection.interrupt)
            self._settling.daemon = True
            self._settling.start()
        self._stops += 1
        self._connection.interrupt()
        self._bell.set()

    def serve(self) -> None:
        """Work until the run has no more to do, or `stop`.

        Raises
        ------
        ServiceError
            If the run can't be reached any more, or is another one.
        EngineError
            If no worker process can be kept alive here.
        """
        try:
            if self._find_run():
                self._work()
        finally:
            self._is_over = True
            if self._settling is not None:
                self._settling.cancel()
                self._settling.join()

    def _find_run(self) -> bool:
        """Join; return whether that was possible before somebody asked the worker to end."""
        joining = Aside(lambda: Conversation(self._connection, self._join), self._bell)
        while not (joining.is_done or self._stops):
            self._bell.wait()
            self._bell.clear()
        if self._stops:
            joining.wait(FAREWELL_S)
            if not joining.is_done:
                return False
        try:
            self._conversation = joining.result()
        except ServiceError:
            if not self._stops:
                raise
            return False
        self._tasks = {task.task_id: task for task in self._conversation.tasks}
        self.has_joined = True
        processes = f"{self._slots} process{'es' if self._slots > 1 else ''}"
        self._say(f"joined run {self._connection.run_id} with {processes}")
        return True

    def _work(self) -> None:
        host = Host(self._slots, environment=self._environment)
        try:
            while self._state != "leave" and not self._is_settled():
                try:
                    self._step(host)
                except ServiceError as error:
                    if not self._stops or error.is_other_run:
                        raise
                    self._is_away = self._is_drained
                    self._next_s = monotonic() + (PAUSE_S if self._is_away else 0.0)
        finally:
            host.close()
            if not self._is_away:
                Aside(self._conversation.leave, self._bell).wait(FAREWELL_S)

    # The loop ------------------------------------------------------------------------------------------------------

    def _step(self, host: Host) -> None:
        if self._stops and not self._is_drained:
            self._is_drained = True
            self._next_s = 0.0
            self._drain(host)
        self._bell.clear()
        while self._news:
            self._hear(self._news.popleft())
        self._fill(host)
        now = monotonic()
        if now >= self._next_s:
            self._turn(host)
        else:
            self._bell.wait(self._next_s - now)

    def _drain(self, host: Host) -> None:
        self._return([lease.lease_id for lease in self._queue])
        host.drain()

    def _is_settled(self) -> bool:
        if not self._stops:
            return False
        is_done = not self._held and not self._queue and not self._conversation.has_reports
        return self._stops > 1 or is_done or monotonic() >= self._settle_s

    def _turn(self, host: Host) -> None:
        if self._stops:
            self._connection.resume(max(0.0, self._settle_s - monotonic()))
            if self._is_settled():  # what has just been taken back was the second wish to end, or the end of patience
                return
        held = len(self._held) + len(self._queue)
        takes = self._state == "go" and not self._stops
        wants = max(0, AT_HAND * self._slots - held) if takes else 0
        waits = wants > 0 and not held and not self._conversation.has_reports
        is_partly_idle = wants > 0 and 0 < held < self._slots
        began = monotonic()
        running = self._running(host)
        wait_s = 0.0 if self._stops else WAIT_S if waits else self._short_wait_s if is_partly_idle else 0.0
        answer = self._conversation.turn(wants=wants, wait_s=wait_s, running=running)
        self._is_away = False
        self._short_wait_s = answer.report_every_s if answer.report_every_s > CROWDED_S else SHORT_WAIT_S
        self._next_s = monotonic() + answer.report_every_s
        self._follow(answer, host)
        has_waited = wait_s == 0 or monotonic() - began > wait_s / 2
        if self._conversation.has_reports or (takes and has_waited and len(self._held) < self._slots):
            self._next_s = began + MOST_TURNS_S

    def _follow(self, answer: Answer, host: Host) -> None:
        self._forget(set(answer.lost), host)
        self._queue += answer.leases
        self._return([lease.lease_id for lease in self._queue] if self._is_drained else answer.give_back)
        if answer.state == "drain" and self._state == "go":
            self._drain(host)
        self._state = answer.state
        self._fill(host)
        host.hurry(report=bool(answer.give_back), share=bool(answer.give_back))

    def _forget(self, lost: set[int], host: Host) -> None:
        """End leases that are others' by now; to end one, its process is killed, so not for one that only waits."""
        self._queue = deque(lease for lease in self._queue if lease.lease_id not in lost)
        begun = list(self._held)[: self._slots]
        is_all = lost >= self._held.keys()
        for lease_id in lost & self._held.keys():
            del self._held[lease_id]
            if is_all or lease_id in begun:
                host.cancel(lease_id, "the run has given the lease to another worker")

    def _return(self, leases: Iterable[int]) -> None:
        """Give back those of the leases that no process has yet."""
        for lease in [lease for lease in self._queue if lease.lease_id in leases]:
            self._queue.remove(lease)
            self._conversation.report(BlockReport(lease_id=lease.lease_id, begin=0, finished=True))
            self._next_s = 0.0

    def _fill(self, host: Host) -> None:
        """Give leases to idle processes; where leases are short, one more, so that no process waits for it."""
        while self._queue and len(self._held) <= self._slots:
            largest = max(_size(self._queue[0]), *(held.size for held in self._held.values()), 1)
            if len(self._held) == self._slots and self._block_s * largest > SHORT_LEASE_S:
                return
            self._begin(self._queue.popleft(), host)

    def _begin(self, lease: LeaseMessage, host: Host) -> None:
        """Give a lease to the worker processes; where that can't be, say so."""
        size = _size(lease)
        indices = np.concatenate([np.arange(first, first + count, dtype=np.int64) for first, count in lease.runs])
        try:
            task = self._tasks.get(lease.task_id)
            if task is None or not 0 < size <= LARGEST_LEASE:
                raise ServiceError(f"the run gave a lease that can't be: {size} blocks of task {lease.task_id!r}")
            if not host.knows(task.number):
                host.add(self._given.get(task.task_id) or packed(task))
            self._held[lease.lease_id] = _Held(lease, size)
            host.submit(Lease(lease.lease_id, lease.task_id, indices), self._tell)
        except FunctionError as error:
            self._conversation.refuse(lease.task_id, str(error))
            self._conversation.report(BlockReport(lease_id=lease.lease_id, begin=0, finished=True))

    def _tell(self, event: HostEvent) -> None:
        """Take news, in the host's thread."""
        self._news.append(event)
        self._bell.set()

    def _hear(self, event: HostEvent) -> None:
        if isinstance(event, ProgramRefused):
            self._conversation.refuse(event.task_id, event.error)
            self._next_s = 0.0
        elif isinstance(event, WorkerEnded):
            self._conversation.ended(event.reason)
        else:
            self._take(event)

    def _take(self, report: Report) -> None:
        held = self._held.get(report.lease_id)
        if held is None:
            return
        slot = report.worker.rpartition("-")[2]
        new = len(report.outcomes) - max(0, held.known - report.begin)
        if new > 0 and report.begin <= held.known and report.outcomes[-1] != Outcome.LOST:
            held.known = report.begin + len(report.outcomes)
        elif not (report.finished or report.seconds or report.errors or Outcome.LOST in report.outcomes):
            return  # what is read from the cells again and again while slots are idle
        self._conversation.report(
            BlockReport(
                lease_id=report.lease_id,
                begin=report.begin,
                outcomes=report.outcomes,
                seconds=report.seconds,
                errors=report.errors,
                results=report.results,
                finished=report.finished,
                crash=report.crash,
                peak_memory_bytes=report.peak_memory_bytes,
                output=report.output,
                slot=int(slot) if slot.isdigit() else 0,
            )
        )
        if report.finished:
            del self._held[report.lease_id]
            self._next_s = 0.0
        if report.seconds:
            self._block_s = float(np.frombuffer(report.seconds, np.float32).mean())

    def _running(self, host: Host) -> list[Running]:
        """Return where the processes are."""
        return [
            Running(lease_id=lease_id, position=position, seconds=seconds)
            for lease_id, position, seconds in host.running()
            if lease_id in self._held
        ]


def work(
    url: str,
    token: str,
    *,
    workers: int,
    name: str | None = None,
    ca_file: str | Path | None = None,
    task_id: str | None = None,
    programs: Mapping[str, PackedProgram] | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> str:
    """Work for a run until it has no more to do; SIGINT and SIGTERM end it early.

    Parameters
    ----------
    url, token
        The run.
    workers
        How many blocks to run at the same time.
    name
        What a person would call this worker; host and process if None.
    ca_file
        Certificates to trust besides the system's, as PEM.
    task_id
        The one task to take blocks of; None: any whose functions can be imported here.
    programs
        Functions that are known already, by task; those of others are imported by name.
    say
        Called, from any thread, with what a person should know.

    Returns
    -------
    str
        Name of the run; empty if the worker was asked to end before it had found one.

    Raises
    ------
    ServiceError
        If the run can't be reached, does not know the token, or is another one by now.
    """
    connection = PatientConnection(url, token, ca_file=ca_file, say=say)
    worker = Worker(connection, workers=workers, name=name, task_id=task_id, programs=programs, say=say)
    with heard(worker.stop):
        worker.serve()
    return (connection.run_id or "") if worker.has_joined else ""
