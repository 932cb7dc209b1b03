"""The crew: worker processes on this machine, started when there is work, and shared by all tasks of a run.

The local engine is one crew. On a cluster there is one on every node, behind a `bellis.runtime.host.Host`.
"""

from __future__ import annotations

import contextlib
import math
import os
import selectors
import signal
import socket
from collections import deque
from multiprocessing.connection import Connection
from time import monotonic, monotonic_ns
from typing import TYPE_CHECKING

import numpy as np

from bellis.errors import EngineError, JournalError
from bellis.runtime.cell import CELL_BYTES, EAGER, FLAG, GIVE_BACK, LEASE, POSITION, Cell, shared_memory
from bellis.runtime.engine import EngineEvent, ProgramRefused, WorkerEnded
from bellis.runtime.lease import Lease, Outcome, Report
from bellis.runtime.messages import LoadFailed, LoadProgram, Ready, Reported, RunLease, decode_from_worker, encode
from bellis.runtime.nursery import ENDED, STARTED, Nursery, cause
from bellis.runtime.output import last_lines, log_path, remove_logs

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from bellis.runtime.program import PackedProgram

THREAD_LIMITS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)
"""Set to 1 in workers unless the environment sets them: one worker per core is parallel enough."""
MOST_FAILED_STARTS = 5
"""After so many workers in a row that ended before they were ready, the run ends."""
MOST_NURSERIES = 4
WATCH_S = 0.02
"""How often cells are looked at while a time-out or an idle slot asks for it."""
TAKE_BACK_AFTER_NS = 5_000_000
"""A block that runs this long while slots are idle gives away the rest of its lease."""
CLOSE_S = 0.5
"""How long idle workers get to end by themselves."""


class _Worker:
    """One worker process as its parent sees it."""

    def __init__(self, slot: int, channel: Connection, cell: Cell) -> None:
        self.slot = slot
        self.name = f"worker-{slot}"
        self.channel = channel
        self.cell = cell
        self.pid: int | None = None
        self.is_ready = False
        self.leases: dict[int, Lease] = {}
        self.unsent: deque[Lease] = deque()
        """Leases for it of a task that it does not know yet."""
        self.programs: set[int] = set()
        self.task_id: str | None = None
        self.last_index = 0
        self.killed_for: str | None = None
        self.returning: set[int] = set()
        """Leases whose rest it was told to give back."""
        self.told_s = 0.0
        self.peak_memory_bytes = 0


class Crew:
    """Worker processes on this machine.

    Parameters
    ----------
    workers
        How many there are at most.
    log_dir
        Folder for their logs.
    keeps_logs
        Whether logs of an earlier run are appended to, or removed.
    cells_path
        File for the workers' cells, so that they outlive a killed run; None: memory only.
    lock_fd
        Descriptor that the workers hold.
    environment
        What workers find in their environment besides that of this process; None takes a variable out of it.

    Raises
    ------
    EngineError
        If logs can't be written.
    JournalError
        If there is no room for the cells.
    """

    def __init__(
        self,
        workers: int,
        log_dir: Path,
        *,
        keeps_logs: bool = False,
        cells_path: Path | None = None,
        lock_fd: int | None = None,
        environment: Mapping[str, str | None] | None = None,
    ) -> None:
        self._most_workers = workers
        self._log_dir = log_dir
        self._keeps_logs = keeps_logs
        self._lock_fd = lock_fd
        self._environment = dict(environment or {})
        self._programs: dict[str, PackedProgram] = {}
        self._workers: dict[int, _Worker] = {}
        self._starting: deque[_Worker] = deque()
        self._events: list[EngineEvent] = []
        self._failed_starts = 0
        self._nurseries = 0
        self._hurry = self._share = False
        self._draining = self._closed = False
        self._looked_at = 0.0
        try:
            log_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EngineError(f"logs can't be written to {log_dir}: {error}; pass another log_dir") from error
        try:
            self._cells_fd, self._memory = shared_memory(workers * CELL_BYTES, cells_path)
        except OSError as error:
            where = cells_path or "memory"
            raise JournalError(
                f"there is no room for the state of the workers in {where}: {error}; make room"
            ) from error
        self._cells = memoryview(self._memory)
        self._selector = selectors.DefaultSelector()
        self._bell, ringer = socket.socketpair()
        self._ringer = ringer
        self._bell.setblocking(False)
        ringer.setblocking(False)
        self._selector.register(self._bell, selectors.EVENT_READ, self._bell)
        self._nursery = self._start_nursery()

    def add(self, program: PackedProgram) -> None:
        """Take a task whose leases may come."""
        self._programs[program.task_id] = program
        if not self._keeps_logs:
            remove_logs(self._log_dir, [program.task_id], only_empty=False)

    # Leases --------------------------------------------------------------------------------------------------

    def submit(self, lease: Lease) -> None:
        """Send a lease to an idle worker, or start one, or queue it behind the least busy one."""
        program = self._programs[lease.task_id]
        worker = self._choose(program, int(lease.indices[0]))
        if worker.leases and program.number not in worker.programs:
            worker.unsent.append(lease)  # a busy worker does not read, and a program may be large
        else:
            self._send(worker, lease)

    def _send(self, worker: _Worker, lease: Lease) -> None:
        program = self._programs[lease.task_id]
        worker.last_index = int(lease.indices[-1])
        worker.leases[lease.lease_id] = lease
        worker.task_id = lease.task_id
        try:
            if program.number not in worker.programs:
                worker.programs.add(program.number)
                worker.channel.send_bytes(encode(LoadProgram(program.number, program.task_id, program.payload)))
            worker.channel.send_bytes(encode(RunLease(lease.lease_id, program.number, lease.indices.tobytes())))
        except OSError:
            pass  # it has just ended; the nursery will say so, and the lease comes back then

    def _choose(self, program: PackedProgram, first: int) -> _Worker:
        """Choose a worker that has little to do, knows the task, and last had the blocks next to ``first``."""

        def cost(worker: _Worker) -> tuple[int, bool, int]:
            is_new = worker.task_id != program.task_id
            return len(worker.leases) + len(worker.unsent), is_new, abs(worker.last_index - first)

        able = [worker for worker in self._workers.values() if not worker.returning]
        idle = [worker for worker in able if not worker.leases]
        if idle:
            return min(idle, key=cost)
        if len(self._workers) < self._most_workers:
            return self._spawn()
        loaded = [worker for worker in able if program.number in worker.programs]
        return min(loaded or able or list(self._workers.values()), key=cost)

    def _spawn(self) -> _Worker:
        slot = next(slot for slot in range(self._most_workers) if slot not in self._workers)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        cell = Cell(self._cells, slot)
        cell.clear()
        cell.words[FLAG] = EAGER if self._hurry else 0
        worker = _Worker(slot, Connection(ours.detach()), cell)
        with theirs:
            self._nursery.spawn(slot, theirs.fileno())
        self._workers[slot] = worker
        self._starting.append(worker)
        self._selector.register(worker.channel, selectors.EVENT_READ, worker)
        return worker

    # Events ----------------------------------------------------------------------------------------------------

    def events(self, timeout_s: float) -> list[EngineEvent]:
        """Wait for reports, watch over time-outs, notice workers that ended."""
        watch = self._hurry or any(self._programs[w.task_id].timeout_s for w in self._workers.values() if w.task_id)
        wait = 0.0 if self._events else min(timeout_s, WATCH_S) if watch else timeout_s
        for key, _ in self._selector.select(wait):
            if key.data is None:
                self._hear_nursery()
            elif key.data is self._bell:
                self._bell.recv(4096)
            else:
                self._hear(key.data)
        if watch and monotonic() - self._looked_at >= WATCH_S / 2:
            self._look()
        events, self._events = self._events, []
        return events

    def wake(self) -> None:
        """Have `events` return soon; the one method that other threads may call."""
        with contextlib.suppress(BlockingIOError, OSError):
            self._ringer.send(b"!")

    def running(self) -> list[tuple[int, int, float]]:
        """Return where workers are: lease, position in it, and for how many seconds they have been in that block."""
        now, found = monotonic_ns(), []
        for worker in self._workers.values():
            lease_id, position, started_ns = worker.cell.current()
            lease = worker.leases.get(lease_id)
            if lease is not None and worker.cell.outcomes(lease_id)[position] == Outcome.NONE:
                found.append((lease_id, position, max(0, now - started_ns) * 1e-9))
        return found

    def cancel(self, lease_id: int, reason: str) -> None:
        """End a lease at once; if a worker is in it, by killing the worker."""
        for worker in self._workers.values():
            unsent = [lease for lease in worker.unsent if lease.lease_id == lease_id]
            if unsent:
                worker.unsent.remove(unsent[0])
                self._give_up(unsent, worker.name)
            elif lease_id in worker.leases:
                self._kill(worker, reason)

    def _hear(self, worker: _Worker) -> None:
        try:
            message = decode_from_worker(worker.channel.recv_bytes())
        except (EOFError, OSError):
            self._forget_channel(worker)
            self._kill(worker, None)  # usually it has ended; if only its channel has, it is of no more use
            return
        if isinstance(message, Reported):
            worker.peak_memory_bytes = message.peak_memory_bytes
            if message.finished:
                self._end_lease(worker, message.lease_id)
            self._events.append(
                Report(
                    message.lease_id,
                    message.begin,
                    message.outcomes,
                    message.seconds,
                    message.errors,
                    message.results,
                    message.finished,
                    worker.name,
                    message.peak_memory_bytes,
                )
            )
        elif isinstance(message, Ready):
            worker.is_ready = True
            self._failed_starts = 0
        elif isinstance(message, LoadFailed):
            task_id = next(one.task_id for one in self._programs.values() if one.number == message.number)
            self._events.append(ProgramRefused(task_id, message.error))
            worker.programs.discard(message.number)
            for lease in [held for held in worker.leases.values() if held.task_id == task_id]:
                self._end_lease(worker, lease.lease_id)
                self._events.append(Report(lease.lease_id, 0, b"", finished=True, worker=worker.name))

    def _look(self) -> None:
        """Read the cells: who takes too long, and, while slots are idle, what is done and what can be given away."""
        self._looked_at = monotonic()
        now = monotonic_ns()
        for worker in self._workers.values():
            lease_id, position, started_ns = worker.cell.current()
            lease = worker.leases.get(lease_id)
            if lease is None:
                continue
            program = self._programs[lease.task_id]
            running_ns = now - started_ns
            if program.timeout_s is not None and running_ns > program.timeout_s * 1e9:
                self._kill(worker, f"the block took longer than its timeout of {program.timeout_s:g} s")
            elif self._hurry:
                if self._share:
                    self._give_up(worker.unsent, worker.name)
                    worker.unsent.clear()
                if not program.keeps_results:
                    self._harvest(worker, lease)
                self._take_back(worker, lease, position, running_ns)

    def _give_up(self, leases: Iterable[Lease], name: str) -> None:
        """Say that leases were not begun."""
        for lease in list(leases):
            self._events.append(Report(lease.lease_id, 0, b"", finished=True, worker=name))

    def _harvest(self, worker: _Worker, lease: Lease) -> None:
        """Pass on what succeeded so far; failures come with their tracebacks."""
        outcomes = worker.cell.outcomes(lease.lease_id).replace(bytes([Outcome.FAILED]), b"\0").rstrip(b"\0")
        if outcomes:
            self._events.append(Report(lease.lease_id, 0, outcomes, worker=worker.name))

    def _take_back(self, worker: _Worker, lease: Lease, position: int, running_ns: int) -> None:
        """Take away what a worker in a long block holds beyond it; in two looks, so that it has seen the flag."""
        # Leases run in the order of their ids; an earlier one has ended, and its last report is on the way.
        waiting = [held for held in worker.leases.values() if held.lease_id > lease.lease_id]
        if worker.returning:  # what came since was sent knowingly
            waiting = [held for held in waiting if held.lease_id in worker.returning]
        rest = len(lease.indices) - position - 1
        if not worker.returning:
            if self._share and (rest > 0 or waiting) and running_ns > TAKE_BACK_AFTER_NS:
                worker.cell.words[FLAG] |= GIVE_BACK
                worker.returning = set(worker.leases)
                worker.told_s = monotonic()
        elif lease.lease_id in worker.returning and monotonic() - worker.told_s >= WATCH_S / 4:
            worker.told_s = math.inf  # once is enough
            lost = bytes([Outcome.LOST])
            if rest > 0:
                self._events.append(Report(lease.lease_id, position + 1, lost * rest, worker=worker.name))
            for held in waiting:
                self._events.append(Report(held.lease_id, 0, lost * len(held.indices), worker=worker.name))

    def _end_lease(self, worker: _Worker, lease_id: int) -> None:
        worker.leases.pop(lease_id, None)
        if not worker.leases and worker.unsent:
            self._send(worker, worker.unsent.popleft())
        if lease_id in worker.returning:
            worker.returning.discard(lease_id)
            if not worker.returning and not self._draining:
                worker.cell.words[FLAG] &= ~GIVE_BACK

    def hurry(self, *, report: bool, share: bool) -> None:
        """Have each block reported at once, or in groups; have leases shared out, or kept."""
        self._share = share
        if report != self._hurry:
            self._hurry = report
            for worker in self._workers.values():
                worker.cell.words[FLAG] ^= EAGER

    def drain(self) -> None:
        """Have every worker stop after the block that it runs."""
        self._draining = True
        for worker in self._workers.values():
            worker.cell.words[FLAG] |= GIVE_BACK

    # Workers that end --------------------------------------------------------------------------------------------

    def _kill(self, worker: _Worker, reason: str | None) -> None:
        if worker.killed_for is None:
            worker.killed_for = reason
            if worker.pid is not None:
                self._nursery.kill(worker.pid)

    def _bury(self, worker: _Worker, status: int) -> None:
        """Account for all that an ended worker held."""
        if worker.channel.closed is False:
            with contextlib.suppress(EOFError, OSError):
                while worker.channel.poll(0):
                    self._hear(worker)
        self._forget_channel(worker)
        self._workers.pop(worker.slot, None)
        reason = worker.killed_for or cause(status, worker.peak_memory_bytes)
        words = worker.cell.words
        current = worker.leases.get(words[LEASE])
        position = words[POSITION] if current is not None else None
        self._events.append(WorkerEnded(worker.name, reason, current, position))
        held = [*worker.leases.values(), *worker.unsent]
        if current is not None:
            self._events.append(self._last_report(worker, current, reason))
        elif held and worker.is_ready and worker.killed_for is None:  # it ended while it loaded a task
            self._events.append(Report(held.pop(0).lease_id, 0, b"", finished=True, worker=worker.name, crash=reason))
        self._give_up([lease for lease in held if lease is not current], worker.name)
        worker.cell.release()
        if self._failed_starts >= MOST_FAILED_STARTS:
            raise EngineError(
                f"{self._failed_starts} workers in a row ended before they were ready; the last one {reason}. "
                f"Its log:\n{self._log_tail(worker) or '(empty)'}"
            )

    def _last_report(self, worker: _Worker, lease: Lease, reason: str) -> Report:
        program = self._programs[lease.task_id]
        position = worker.cell.words[POSITION]
        outcomes = np.frombuffer(worker.cell.outcomes(lease.lease_id), np.uint8).copy()
        if program.keeps_results:  # a result that was not reported went with the worker
            outcomes[outcomes == Outcome.SUCCESS] = Outcome.LOST
        lost = f"the block failed, but its traceback was lost: {worker.name} {reason}"
        errors = dict.fromkeys(np.flatnonzero(outcomes == Outcome.FAILED).tolist(), lost)
        crash = None
        if outcomes[position] == Outcome.NONE:
            outcomes[position] = Outcome.FAILED
            tail = self._log_tail(worker, lease.task_id)
            ended = worker.killed_for or f"{worker.name} {reason}"
            errors[position] = ended + (f"\nits last output:\n{tail}" if tail else "")
            crash = None if worker.killed_for else reason
        outcomes[outcomes == Outcome.NONE] = Outcome.LOST
        return Report(
            lease.lease_id, 0, outcomes.tobytes(), b"", errors, {}, True, worker.name, worker.peak_memory_bytes, crash
        )

    def _log_tail(self, worker: _Worker, task_id: str | None = None) -> str:
        task_id = task_id or worker.task_id
        return last_lines(log_path(self._log_dir, task_id, worker.slot)) if task_id else ""

    def _forget_channel(self, worker: _Worker) -> None:
        if not worker.channel.closed:
            self._selector.unregister(worker.channel)
            worker.channel.close()

    # The nursery -------------------------------------------------------------------------------------------------

    def _start_nursery(self) -> Nursery:
        self._nurseries += 1
        if self._nurseries > MOST_NURSERIES:
            raise EngineError(f"the process that starts workers ended {MOST_NURSERIES} times: giving up")
        wanted = {**dict.fromkeys(THREAD_LIMITS, "1"), **os.environ, **self._environment}
        env = {name: value for name, value in wanted.items() if value is not None}
        held = [fd for fd in (self._cells_fd, self._lock_fd) if fd is not None]
        nursery = Nursery(self._cells_fd, str(self._log_dir), env, held)
        self._selector.register(nursery.control, selectors.EVENT_READ, None)
        return nursery

    def _hear_nursery(self) -> None:
        notice = self._nursery.notice()
        if notice is None:
            self._replace_nursery()
        elif notice[0] == STARTED:
            worker = self._starting.popleft()
            worker.pid = notice[1]
            if worker.killed_for is not None or worker.channel.closed:
                self._nursery.kill(worker.pid)
        else:
            pid, status = notice[1] >> 16, notice[1] & 0xFFFF
            for worker in list(self._workers.values()):
                if worker.pid == pid:
                    self._failed_starts += not worker.is_ready
                    self._bury(worker, status)

    def _replace_nursery(self) -> None:
        """Go on after the nursery, and with it all workers, was killed."""
        self._selector.unregister(self._nursery.control)
        self._nursery.close()
        for worker in list(self._workers.values()):
            self._bury(worker, signal.SIGKILL)
        self._starting.clear()
        self._nursery = self._start_nursery()

    def close(self) -> None:
        """End all workers, the busy ones at once."""
        if self._closed:
            return
        self._closed = True
        self._selector.unregister(self._bell)
        self.drain()
        for worker in self._workers.values():
            self._forget_channel(worker)
        until = monotonic() + CLOSE_S
        idle = {worker.pid for worker in self._workers.values() if not worker.leases} - {None}
        while idle and self._selector.select(max(0.0, until - monotonic())):
            notice = self._nursery.notice()
            if notice is None:
                break
            if notice[0] == ENDED:
                idle.discard(notice[1] >> 16)
        self._nursery.close()
        self._selector.close()
        self._bell.close()
        self._ringer.close()
        for worker in self._workers.values():
            worker.cell.release()
        self._workers.clear()
        self._cells.release()
        self._memory.close()
        os.close(self._cells_fd)
        remove_logs(self._log_dir, self._programs, only_empty=True)
