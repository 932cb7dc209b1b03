"""The courier: a small process beside a `Client`, which talks to the run while the client's process works.

It is a process and not a thread so that a kernel that keeps the interpreter's lock for minutes is not taken for dead,
so that a block that takes too long can be ended, and so that it is known at once which block a client died in. The
client notes in shared memory where it is, as the workers of the local engine do.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
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
from bellis.service.errand import Begin, Begun, Over, decode_for_courier, encode
from bellis.service.messages import BlockReport, Join, Running

if TYPE_CHECKING:
    from bellis.service.messages import Answer, LeaseMessage

BATCH = 4
"""Word of the cell: how many blocks the client works on at the same time, from the position on."""
AT_HAND = 2
"""Leases that are held: one that runs and the next."""
WAIT_S = 10.0
"""How long the service may keep a turn of a client that has nothing to do."""
PAUSE_S = 0.5
"""Between turns of a client that gets nothing, if the service does not wait."""
LOOK_S = 0.5
"""How often the courier looks whether its client is still there."""
FAREWELL_S = 3.0
"""How long a last report may take."""


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
    """

    def __init__(
        self,
        channel: Channel,
        cell: Cell,
        connection: Connection,
        conversation: Conversation,
        timeout_s: float | None,
    ) -> None:
        self._channel = channel
        self._cell = cell
        self._connection = connection
        self._conversation = conversation
        self._timeout_s = timeout_s
        self._parent = os.getppid()
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
        self._state = "go"
        self._watch = threading.Thread(target=self._wait_for_end, name="bellis-courier", daemon=True)

    def serve(self) -> None:
        """Work until the client has gone, or the run wants nothing more."""
        self._watch.start()
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

    def _wait_for_end(self) -> None:
        """Interrupt whatever waits for the run when the client closes its end."""
        poll = select.poll()
        poll.register(self._channel.fileno(), 0)
        poll.poll()
        self._connection.interrupt()

    # The client --------------------------------------------------------------------------------------------------

    def _listen(self, timeout_s: float) -> bool:
        """Hear what the client says; return whether it is still there."""
        try:
            while self._channel.poll(timeout_s):
                message = decode_for_courier(self._channel.recv_bytes())
                if isinstance(message, Reported):
                    self._take(message)
                timeout_s = 0.0
        except (EOFError, OSError):
            return False
        return os.getppid() == self._parent

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
        place = self._place()
        self._harvest(place)
        running = []
        if place is not None and self._current is not None and not place.is_between:
            running.append(Running(lease_id=self._current.lease_id, position=place.position, seconds=place.seconds))
        held = len(self._queue) + (self._current is not None)
        wants = 0 if self._is_lost or self._state == "drain" else max(0, AT_HAND - held)
        waits = wants > 0 and not held and not self._conversation.has_reports
        began = monotonic()
        answer = self._conversation.turn(wants=wants, wait_s=WAIT_S if waits else 0.0, running=running)
        self._next_s = monotonic() + answer.report_every_s
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

    def _harvest(self, place: _Place | None) -> None:
        """Report what the client has done and not said, since it is in a long block; return what it will not begin."""
        if place is None or self._is_lost or self._current is None:
            return
        end = place.end if place.is_between else place.position
        done = self._cell.outcomes(self._current.lease_id)[self._reported : end]
        done = done[: len(done) - len(done.lstrip(bytes([Outcome.SUCCESS])))]
        if done:
            self._report(self._reported, done)
            self._reported += len(done)
        # The client notes its position before it reads the flag: one that was set before this look is heeded.
        if self._cell.words[FLAG] & GIVE_BACK and not self._is_returned:
            self._is_returned = True
            if place.end < self._size:
                self._report(place.end, bytes([Outcome.LOST]) * (self._size - place.end))

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
        self._watch.join(LOOK_S)
        self._connection.resume(FAREWELL_S)
        with suppress(ServiceError):
            while self._conversation.has_reports:
                self._conversation.turn(wants=0)
            self._conversation.leave()


def main(channel_fd: int, cells_fd: int) -> None:
    """Serve the client at the other end of ``channel_fd``; never returns."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the client decides what they mean; when it goes, so does the courier
    channel = Channel(channel_fd)
    cell = Cell(memoryview(mmap(cells_fd, 0)), 0)
    try:
        begin = decode_for_courier(channel.recv_bytes())
        if isinstance(begin, Begin):
            _serve(channel, cell, begin)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        os._exit(0)
    os._exit(0)


def _serve(channel: Channel, cell: Cell, begin: Begin) -> None:
    try:
        connection = Connection(
            begin.url, begin.token, run_id=begin.run_id, ca_file=begin.ca_file, patience_s=begin.patience_s
        )
        join = Join(name=begin.name, task_id=begin.task_id, launched=begin.launched)
        conversation = Conversation(connection, join)
        task = next(task for task in conversation.tasks if task.task_id == begin.task_id)
        channel.send_bytes(encode(Begun(connection.run_id or "", task)))
        Courier(channel, cell, connection, conversation, task.timeout_s).serve()
    except ServiceError as error:
        with suppress(OSError):
            channel.send_bytes(encode(Over(str(error), is_other_run=error.is_other_run)))
