"""The courier: a small process beside a `Client`, which talks to the run while the client's process works.

It is a process and not a thread so that a kernel that keeps the interpreter's lock for minutes is not taken for dead,
so that a block that takes too long can be ended, and so that it is known at once which block a client died in. The
client notes in shared memory where it is, as the workers of the local engine do.
"""

from __future__ import annotations

import os
import signal
import sys
from array import array
from collections import deque
from contextlib import suppress
from mmap import mmap
from multiprocessing.connection import Connection as Channel
from time import monotonic, monotonic_ns
from typing import TYPE_CHECKING, NamedTuple

from bellis.errors import ServiceError
from bellis.runtime.cell import FLAG, GIVE_BACK, LARGEST_LEASE, Cell
from bellis.runtime.lease import Outcome
from bellis.runtime.messages import Reported, RunLease
from bellis.service.connection import Connection
from bellis.service.conversation import Conversation
from bellis.service.errand import BATCH, OUTSIDE_NS, Begin, Begun, Over, decode_for_courier, encode
from bellis.service.messages import BlockReport, Join, Running
from bellis.service.watch import LOOK_S, Watch

if TYPE_CHECKING:
    from bellis.service.messages import Answer, LeaseMessage

AT_HAND = 2
"""Leases that are held: one that runs and the next."""
WAIT_S = 10.0
"""How long the service may keep a turn of a client that has nothing to do."""
PAUSE_S = 0.5
"""Between turns of a client that gets nothing, if the service does not wait, or that wants nothing."""
IDLE_S = 0.5
"""A client that is in no block for so long gives back what it holds, and gets nothing until it asks again."""
FAREWELL_S = 3.0
"""How long a last report is tried."""
END_S = 5
"""After this, a courier without a client ends, whatever it waits for."""


class _Place(NamedTuple):
    """Where the client is in its lease."""

    position: int
    batch: int
    seconds: float
    is_between: bool
    """Whether what is there is done, and the next has not begun."""

    @property
    def end(self) -> int:
        """Return the position after those that the client works on."""
        return self.position + self.batch


class Courier:
    """Serves one client until it, or the run, is over.

    Parameters
    ----------
    channel
        To the client.
    cell
        Shared with the client.
    connection
        To the run.
    conversation
        Over that connection.
    timeout_s
        Most seconds that one block may take.
    watch
        Over the client.
    """

    def __init__(
        self,
        channel: Channel,
        cell: Cell,
        connection: Connection,
        conversation: Conversation,
        timeout_s: float | None,
        watch: Watch,
    ) -> None:
        self._channel = channel
        self._cell = cell
        self._connection = connection
        self._conversation = conversation
        self._timeout_s = timeout_s
        self._watch = watch
        self._parent = watch.parent
        self._queue: deque[LeaseMessage] = deque()
        self._current: LeaseMessage | None = None
        """What the client runs."""
        self._size = 0
        """Its blocks."""
        self._is_lost = False
        """Whether that is somebody else's by now."""
        self._reported = 0
        """How much of it was reported."""
        self._is_returned = False
        """Whether what follows in it was given back."""
        self._next_s = 0.0
        self._report_every_s = IDLE_S
        self._state = "go"

    def serve(self) -> None:
        """Work until the client has gone, or the run wants nothing more."""
        while self._state != "leave":
            try:
                if monotonic() >= self._next_s:
                    self._turn()
            except ServiceError:
                if self._listen(0.0):
                    raise
            wait_s = min(LOOK_S, max(0.0, self._next_s - monotonic()))
            if not self._listen(wait_s):
                self._bid_farewell()
                return
            if self._is_overdue():
                self._end_client()
                return
        self._cell.words[FLAG] = GIVE_BACK
        self._conversation.leave()
        self._send(Over(None, is_other_run=False))

    # The client --------------------------------------------------------------------------------------------------

    def _listen(self, timeout_s: float) -> bool:
        """Hear what the client says; return whether it is still there."""
        try:
            while self._channel.poll(timeout_s):
                message = decode_for_courier(self._channel.recv_bytes())
                if isinstance(message, Reported):
                    self._take(message)
                else:
                    self._next_s = 0.0
                timeout_s = 0.0
        except (EOFError, OSError):
            return False
        return self._watch.is_there()

    def _take(self, message: Reported) -> None:
        """Take what the client says of its lease; what is known from the cell already comes again, with durations."""
        report = BlockReport(
            lease_id=message.lease_id,
            begin=message.begin,
            outcomes=message.outcomes,
            seconds=message.seconds,
            errors=message.errors,
            finished=message.finished,
            peak_memory_bytes=message.peak_memory_bytes,
        )
        self._reported = max(self._reported, message.begin + len(message.outcomes))
        if not self._is_lost:
            self._conversation.report(report)
        if message.finished:
            self._current = None
            self._is_lost = self._is_returned = False
            self._cell.words[FLAG] = 0
            self._next_s = 0.0
            self._pass_on()

    def _pass_on(self) -> None:
        """Give the client its next lease."""
        if self._current is not None or not self._queue:
            return
        lease = self._current = self._queue.popleft()
        indices = array("q")
        for first, count in lease.runs:
            indices.extend(range(first, first + count))
        self._size = len(indices)
        self._reported = 0
        self._send(RunLease(lease.lease_id, 0, indices.tobytes()))

    def _send(self, message: RunLease | Over) -> None:
        with suppress(OSError):  # it has gone, which is heard of
            self._channel.send_bytes(encode(message))

    def _place(self) -> _Place | None:
        """Return where the client is; None if it is in no lease."""
        if self._current is None:
            return None
        lease_id, position, started_ns = self._cell.current()
        if lease_id != self._current.lease_id:
            return None
        batch = max(1, min(self._cell.words[BATCH], self._size - position))
        seconds = max(0, monotonic_ns() - started_ns) * 1e-9 / batch
        is_between = self._cell.outcomes(lease_id)[position] != Outcome.NONE
        return _Place(position, batch, seconds, is_between)

    # The run -----------------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        is_idle = self._is_idle()
        if is_idle:
            self._give_all_back()
        place = self._place()
        self._harvest(place)
        running = []
        if place is not None and self._current is not None and not place.is_between:
            running.append(Running(lease_id=self._current.lease_id, position=place.position, seconds=place.seconds))
        held = len(self._queue) + (self._current is not None)
        wants = 0 if is_idle or self._is_lost or self._state == "drain" else max(0, AT_HAND - held)
        waits = wants > 0 and not held and not self._conversation.has_reports
        began = monotonic()
        answer = self._conversation.turn(wants=wants, wait_s=WAIT_S if waits else 0.0, running=running)
        self._report_every_s = answer.report_every_s
        self._next_s = monotonic() + (answer.report_every_s if wants or self._conversation.held else PAUSE_S)
        self._follow(answer)
        has_waited = not waits or monotonic() - began > PAUSE_S
        if self._conversation.has_reports or (wants and has_waited and not self._conversation.held):
            self._next_s = 0.0

    def _follow(self, answer: Answer) -> None:
        self._state = answer.state
        self._queue = deque(lease for lease in self._queue if lease.lease_id not in answer.lost)
        if self._current is not None and self._current.lease_id in answer.lost:
            self._is_lost = True
            self._cell.words[FLAG] = GIVE_BACK
        for lease in answer.leases:
            if not 0 < sum(count for _, count in lease.runs) <= LARGEST_LEASE:
                raise ServiceError(f"the lease {lease.lease_id} must have 1 to {LARGEST_LEASE} blocks")
            self._queue.append(lease)
        self._give_back(set(self._conversation.held) if answer.state == "drain" else set(answer.give_back))
        self._pass_on()

    def _give_back(self, leases: set[int]) -> None:
        for lease in [waiting for waiting in self._queue if waiting.lease_id in leases]:
            self._queue.remove(lease)
            self._conversation.report(BlockReport(lease_id=lease.lease_id, begin=0, finished=True))
            self._next_s = 0.0
        if self._current is not None and self._current.lease_id in leases and not self._is_lost:
            self._cell.words[FLAG] = GIVE_BACK

    def _is_idle(self) -> bool:
        """Whether the client has been in no block for a while; a shorter one if somebody waits for what it holds."""
        since_ns = self._cell.words[OUTSIDE_NS]
        return since_ns > 0 and (monotonic_ns() - since_ns) * 1e-9 > min(IDLE_S, 2 * self._report_every_s)

    def _give_all_back(self) -> None:
        """Return all that the client holds: it is elsewhere, nobody knows for how long."""
        self._give_back({lease.lease_id for lease in self._queue})
        if self._current is None or self._is_lost:
            return
        words = self._cell.words
        words[FLAG] = GIVE_BACK
        # The client notes that it is back before it reads the flag: if it has not by now, it will find it.
        if not words[OUTSIDE_NS]:
            return
        self._harvest_done(self._place())
        lease_id = self._current.lease_id
        self._conversation.report(BlockReport(lease_id=lease_id, begin=self._reported, finished=True))
        self._is_lost = True

    def _harvest(self, place: _Place | None) -> None:
        """Report what the client has done and not said, since it is in a long block; return what it will not begin."""
        if place is None or self._is_lost or self._current is None:
            return
        self._harvest_done(place)
        # The client notes its position before it reads the flag: one that was set before this look is heeded.
        if self._cell.words[FLAG] & GIVE_BACK and not self._is_returned:
            self._is_returned = True
            if place.end < self._size:
                self._report(place.end, bytes([Outcome.LOST]) * (self._size - place.end))

    def _harvest_done(self, place: _Place | None) -> None:
        if place is None or self._current is None:
            return
        end = place.end if place.is_between else place.position
        done = self._cell.outcomes(self._current.lease_id)[self._reported : end]
        done = done[: len(done) - len(done.lstrip(bytes([Outcome.SUCCESS])))]
        if done:
            self._report(self._reported, done)
            self._reported += len(done)

    def _report(self, begin: int, outcomes: bytes) -> None:
        if self._current is not None:
            report = BlockReport(lease_id=self._current.lease_id, begin=begin, outcomes=outcomes)
            self._conversation.report(report)

    # Ends --------------------------------------------------------------------------------------------------------

    def _is_overdue(self) -> bool:
        place = None if self._timeout_s is None else self._place()
        return place is not None and not place.is_between and place.seconds > (self._timeout_s or 0.0)

    def _end_client(self) -> None:
        """End the client's process: its block takes too long, and nothing else could stop it."""
        reason = f"the block took longer than its timeout of {self._timeout_s:g} s"
        print(f"bellis: {reason}: process {self._parent} is killed", file=sys.stderr, flush=True)  # noqa: T201
        with suppress(ProcessLookupError):
            os.kill(self._parent, signal.SIGKILL)
        self._account(reason, None)

    def _bid_farewell(self) -> None:
        """Say what the client left unsaid."""
        host = os.uname().nodename
        reason = f"process {self._parent} on {host}, which had taken the block by a Client, ended while it ran it"
        self._account(reason, reason)

    def _account(self, error: str, crash: str | None) -> None:
        signal.alarm(END_S)
        place = self._place()
        self._harvest(place)
        if self._current is not None and not self._is_lost:
            lease_id, begin = self._current.lease_id, self._reported
            report = BlockReport(lease_id=lease_id, begin=begin, finished=True)
            if place is not None and not place.is_between:
                positions = range(place.position, place.end)
                report = BlockReport(
                    lease_id=lease_id,
                    begin=place.position,
                    outcomes=bytes([Outcome.FAILED]) * len(positions),
                    errors=dict.fromkeys(positions, error),
                    finished=True,
                    crash=crash,
                )
            self._conversation.report(report)
        self._current = None
        self._give_back({lease.lease_id for lease in self._queue})
        self._watch.end()
        self._connection.resume(FAREWELL_S, is_last=True)
        with suppress(ServiceError):
            while self._conversation.has_reports:
                self._conversation.turn(wants=0)
            self._conversation.leave()


def main(channel_fd: int, cells_fd: int, parent: int) -> None:
    """Serve the client at the other end of ``channel_fd``, of the process ``parent``; never returns."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the client decides what they mean; when it goes, so does the courier
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    channel = Channel(channel_fd)
    cell = Cell(memoryview(mmap(cells_fd, 0)), 0)
    try:
        begin = decode_for_courier(channel.recv_bytes())
        if isinstance(begin, Begin):
            _serve(channel, cell, begin, parent)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        os._exit(0)
    os._exit(0)


def _serve(channel: Channel, cell: Cell, begin: Begin, parent: int) -> None:
    try:
        connection = Connection(
            begin.url, begin.token, run_id=begin.run_id, ca_file=begin.ca_file, patience_s=begin.patience_s
        )
        watch = Watch(channel, parent, connection)
        join = Join(name=begin.name, task_id=begin.task_id, launched=begin.launched)
        conversation = Conversation(connection, join)
        task = next(task for task in conversation.tasks if task.task_id == begin.task_id)
        channel.send_bytes(encode(Begun(conversation.worker_id, connection.run_id or "", task)))
        Courier(channel, cell, connection, conversation, task.timeout_s, watch).serve()
    except ServiceError as error:
        with suppress(OSError):
            channel.send_bytes(encode(Over(str(error), is_other_run=error.is_other_run)))
