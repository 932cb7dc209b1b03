"""The service as an engine: workers join a run over the network, and take what they can."""

from __future__ import annotations

import os
import secrets
import sys
import threading
from collections import deque
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING

from bellis.errors import EngineError
from bellis.runtime.engine import Capacity, EngineEvent, Notice, ProgramRefused
from bellis.runtime.lease import Report
from bellis.runtime.output import remove_logs
from bellis.runtime.sizing import REMOTE
from bellis.runtime.worker import describe
from bellis.service.board import SILENCE_S, Board
from bellis.service.checks import Checks
from bellis.service.functions import board_tasks
from bellis.service.keys import Keys, parsed_address
from bellis.service.logs import WorkerLogs
from bellis.service.lookout import Lookout
from bellis.service.place import Files, Place
from bellis.service.staff import Staff

if TYPE_CHECKING:
    from collections.abc import Callable

    from bellis.runtime.engine import Engine, EngineSetup
    from bellis.runtime.lease import Lease
    from bellis.runtime.program import Program
    from bellis.service.checks import When
    from bellis.service.context import Context
    from bellis.service.launch import Ended, Launcher
    from bellis.service.roster import BoardTask
    from bellis.service.server import Server

HOST_VARIABLE = "BELLIS_HOST"
"""In the environment: where to listen if nothing is said, for scripts whose workers run on other machines."""
TICK_S = 0.01
"""How long the engine beside is waited for while workers may have something to say too."""
GATHER_S = 1e-5
"""Per worker, so long reports are gathered: two threads that work at the same time hold each other up."""
FAREWELL_S = 2.0
"""Workers have so long to hear that the run is over."""
LAST_WORDS_S = 5.0
"""Worker functions have so long to return after their last block."""
SAY_EVERY_S = 10.0
"""How often it is said that reports came too late."""


class ServiceEngine:
    """Runs leases on workers that join over HTTP: `Client`, ``bellis worker``, worker functions.

    Parameters
    ----------
    address
        Where to listen, as ``host:port``; port 0 for any that is free. Without one: this machine only, or the address
        in the environment variable ``BELLIS_HOST``.
    beside
        Engine for tasks whose function is called with blocks; without one, workers take these too, and import the
        functions by name.
    token_file
        File for the run's token, which workers must know. One that is there is read; otherwise it is made, readable
        for its owner only.
    certificate, key
        Files for TLS, PEM. Without, connections are not encrypted: let only machines that you trust see them.
    ca_file
        What worker functions that the run starts trust instead of the certificate itself.
    by_name
        Whether the functions must have names that workers can import; False if workers get them in another way.
    silence_s
        A worker that is not heard of for so long is given up, and its blocks go to others.

    Attributes
    ----------
    url
        Where it listens, once it is started.
    """

    url: str

    def __init__(
        self,
        address: str = "",
        *,
        beside: Engine | None = None,
        token_file: str | Path | None = None,
        certificate: str | Path | None = None,
        key: str | Path | None = None,
        ca_file: str | Path | None = None,
        by_name: bool = True,
        silence_s: float = SILENCE_S,
    ) -> None:
        self._host, self._port = parsed_address(address or os.environ.get(HOST_VARIABLE, "") or "127.0.0.1")
        self._given_beside = beside
        self._token_file = None if token_file is None else Path(token_file)
        self._files = Files.of(certificate, key, ca_file)
        self._by_name = by_name
        self._silence_s = silence_s
        self._reset()

    def _reset(self) -> None:
        """Be as new: a report's `retry_failed` or `resume` runs on the engine of the run before."""
        self._bell = threading.Event()
        self._arrived: deque[Callable[[], list[EngineEvent]]] = deque()
        self._keys: Keys | None = None
        self._server: Server | None = None
        self._launcher: Launcher | None = None
        self._beside: Engine | None = None
        self._staff = Staff((), None, {})
        self._is_draining = False

    @property
    def keys(self) -> Keys:
        """The run's name, its token, and the file of the token, once it is started."""
        if self._keys is None:
            raise EngineError("the service is not started")
        return self._keys

    # Start -----------------------------------------------------------------------------------------------------------

    def start(self, setup: EngineSetup) -> Capacity:
        """Listen, and start what this machine does itself."""
        self._reset()
        self._setup = setup
        self._programs = {program.task_id: program for program in setup.programs}
        self._beside_leases: set[int] = set()
        self._task_of: dict[int, str] = {}
        self._said_late_s = -SAY_EVERY_S
        self._late = 0
        self._logs = WorkerLogs(setup.log_dir, self._notify)
        functions = [one for one in setup.programs if one.is_worker_function]
        others = [one for one in setup.programs if not one.is_worker_function]
        is_open = self._given_beside is None
        tasks = board_tasks(setup.programs, is_open=is_open, by_name=self._by_name)
        self._staff = Staff(functions, setup.workers, setup.left)
        self._checks = Checks(functions, self._ask, self._put_up)
        self._beside_slots, sizes = 0, REMOTE
        self._resources: dict[str, int] = {}
        if self._given_beside is not None and others:
            sizes = self._start_beside(self._given_beside, others).sizes
        self._start_server(tasks)
        if not setup.keeps_logs:
            own = setup.programs if is_open else functions
            remove_logs(setup.log_dir, [program.task_id for program in own], only_empty=False)
        if functions:
            self._start_launcher(functions)
        self._sizes = sizes
        self._capacity = self._capacity_now()
        self._call_back()
        how = f"workers join with: bellis worker {self.url} --token-file {self.keys.token_file}"
        to_be_joined = [program.task_id for program in others if is_open]
        self._lookout = Lookout(how, to_be_joined, monotonic())
        if to_be_joined:
            self._notify(how)
        if self._place.is_exposed:
            self._notify(
                f"connections to {self.url} are not encrypted: whoever sees that network can take the run's token; "
                "pass ServiceEngine(certificate=...), or listen on 127.0.0.1"
            )
        return self._capacity

    def _notify(self, text: str) -> None:
        self._arrived.append(lambda: [Notice(text)])

    def _start_beside(self, beside: Engine, programs: list[Program]) -> Capacity:
        self._beside = beside
        useful = sum(program.workers for program in programs)
        capacity = beside.start(replace(self._setup, programs=programs, useful=useful))
        self._beside_slots, self._resources = capacity.slots, dict(capacity.resources)
        return capacity

    def _start_server(self, tasks: list[BoardTask]) -> None:
        try:
            from bellis.service.server import Server
        except ImportError as error:
            raise EngineError(f"the service needs {error.name}: pip install bellis[service]") from error
        keys = self._keys = Keys.of(self._setup.run_id, self._setup.run_dir, self._token_file)
        board = Board(
            keys.run_id,
            tasks,
            silence_s=self._silence_s,
            first_place=max(self._beside_slots, self._staff.most),
            first_worker=1 + secrets.randbelow(2**40),
        )
        certificate, key = self._files.certificate, self._files.key
        make = partial(
            Server, board, keys.token, host=self._host, certificate=certificate, key=key, tell=self._bell.set
        )
        try:
            self._server = make(port=self._port or keys.port or 0)
        except EngineError:
            if self._port or not keys.port:
                if keys.is_new:
                    keys.remove()
                raise
            self._server = make(port=0)
            self._notify(f"workers of the interrupted run would look for it at port {keys.port}, which is taken by now")
        self._server.start()
        self._place = Place.of(self._host, self._server.port, self._files)
        self.url = self._place.url
        if self._setup.run_dir is not None:
            keys.keep(self._server.port)

    def _start_launcher(self, programs: list[Program]) -> None:
        from bellis.service.launch import Launcher

        self._launcher = Launcher(programs, log_dir=self._setup.log_dir, tell=self._hear_end)
        self._staff.open(self._launcher, self._desk(), self._context)

    def _call_back(self) -> None:
        for program in self._programs.values():
            if program.init is None:
                continue
            try:
                program.init(self._context(program.task_id))
            except Exception as error:  # noqa: BLE001  # the user's function
                refused = ProgramRefused(program.task_id, f"init_callback_fn failed:\n{describe(error)}")
                self._arrived.append(lambda refused=refused: [refused])  # type: ignore[misc]

    def _context(self, task_id: str) -> Context:
        return self._place.context(self.keys, task_id, self._setup.log_dir)

    def _capacity_now(self) -> Capacity:
        with self._desk().board() as board:
            there = board.slots + self._beside_slots
            self._crowd_s = board.workers * GATHER_S
        return Capacity(slots=self._setup.slots(there), resources=self._resources, sizes=self._sizes)

    # Leases ----------------------------------------------------------------------------------------------------------

    def submit(self, lease: Lease) -> None:
        """Put a lease up for workers, or pass it on to the engine beside."""
        program = self._programs[lease.task_id]
        if program.is_worker_function:
            self._checks.submit(lease)
        elif self._beside is None or (program.init is not None and self._is_hungry(lease.task_id)):
            self._put_up(lease)
        else:
            self._beside_leases.add(lease.lease_id)
            self._beside.submit(lease)

    def _is_hungry(self, task_id: str) -> bool:
        with self._desk().board() as board:
            return board.is_hungry(task_id)

    def _put_up(self, lease: Lease) -> None:
        self._task_of[lease.lease_id] = lease.task_id
        with self._desk().board() as board:
            board.submit(lease)
        self._staff.start(lease.task_id)

    def _ask(self, lease: Lease, when: When) -> None:
        assert self._launcher is not None  # noqa: S101
        self._launcher.check(lease, when, partial(self._hear_check, lease.task_id))

    # Events ----------------------------------------------------------------------------------------------------------

    def events(self, timeout_s: float) -> list[EngineEvent]:
        """Wait until something happened here or beside."""
        until = monotonic() + timeout_s
        while True:
            self._bell.clear()
            events = self._gather()
            left_s = until - monotonic()
            if events or left_s <= 0:
                return events
            if self._beside_leases and self._beside is not None:
                is_alone = not self._staff.most and self._capacity.slots == self._beside_slots
                events = self._take_beside(left_s if is_alone else min(left_s, TICK_S))
                if events:
                    return events
            elif self._bell.wait(left_s) and self._crowd_s:
                sleep(min(left_s, self._crowd_s))

    def _gather(self) -> list[EngineEvent]:
        events: list[EngineEvent] = []
        while self._arrived:
            events += self._arrived.popleft()()
        with self._desk().board() as board:
            reported, overdue = board.take_events(), board.take_overdue()
            self._late += board.take_late()
            for program in self._programs.values():
                is_shared = self._beside is not None and program.init is not None and not program.is_worker_function
                if is_shared and board.queued(program.task_id) and not board.workers_of(program.task_id):
                    board.give_up(program.task_id)
        events += map(Notice, self._lookout.look(self._desk().board, monotonic()))
        for event in reported:
            events += self._passed_on(event) if isinstance(event, Report) else [event]
        for number, reason in overdue:
            if self._launcher is not None:
                self._launcher.kill(number, reason)
        if self._beside is not None:
            events += self._take_beside(0.0)
        capacity = self._capacity_now()
        if capacity.slots != self._capacity.slots or capacity.resources != self._capacity.resources:
            self._capacity = capacity
            events.append(capacity)
        if self._late and monotonic() - self._said_late_s > SAY_EVERY_S:
            text = f"{self._late} reports came too late and were dropped: others have got these blocks since"
            self._said_late_s, self._late = monotonic(), 0
            events.append(Notice(text))
        return events

    def _take_beside(self, timeout_s: float) -> list[EngineEvent]:
        assert self._beside is not None  # noqa: S101
        events: list[EngineEvent] = []
        for event in self._beside.events(timeout_s):
            if isinstance(event, Capacity):
                self._beside_slots, self._resources = event.slots, dict(event.resources)
                continue
            if isinstance(event, Report) and event.finished:
                self._beside_leases.discard(event.lease_id)
            events.append(event)
        return events

    def _passed_on(self, report: Report) -> list[EngineEvent]:
        """Return what is to be said of a report from a worker."""
        task_id = self._task_of.get(report.lease_id, "")
        if report.finished:
            self._task_of.pop(report.lease_id, None)
        if report.output:
            self._logs.add(task_id, report)
            report = replace(report, output=b"")
        return list(self._staff.counted(task_id, self._checks.reported(report)))

    def _hear_end(self, ended: Ended) -> None:
        def note() -> list[EngineEvent]:
            self._staff.note_end(ended)
            return []

        self._arrived.append(note)
        self._bell.set()

    def _hear_check(self, task_id: str, report: Report) -> None:
        self._arrived.append(lambda: list(self._staff.counted(task_id, self._checks.answered(report))))
        self._bell.set()

    # The end ---------------------------------------------------------------------------------------------------------

    def hurry(self, *, report: bool, share: bool) -> None:
        """Have blocks reported at once, and leases shared out."""
        with self._desk().board() as board:
            board.hurry(report=report, share=share)
        if self._beside is not None:
            self._beside.hurry(report=report, share=share)

    def drain(self) -> None:
        """Finish the blocks that run and give back the rest."""
        self._is_draining = True
        self._staff.dismiss()
        with self._desk().board() as board:
            board.drain()
        if self._beside is not None:
            self._beside.drain()

    def close(self) -> None:
        """Tell workers that the run is over, and end what was started here."""
        is_over = not self._is_draining and sys.exc_info()[0] is None
        self._is_draining = True
        self._staff.dismiss()
        with ExitStack() as parts:  # each is ended even if another can't be; the last one first
            if self._keys is not None and (is_over or self._setup.run_dir is None):
                parts.callback(self._keys.remove)
            if self._server is not None:
                parts.callback(self._server.close)
            if self._launcher is not None:
                parts.callback(self._launcher.close)
            if self._server is not None:
                parts.callback(self._say_goodbye, LAST_WORDS_S if is_over else 0.0)
            if self._beside is not None:
                parts.callback(self._beside.close)

    def _say_goodbye(self, last_words_s: float) -> None:
        with self._desk().board() as board:
            board.close()
        until = monotonic() + FAREWELL_S
        while monotonic() < until:
            with self._desk().board() as board:
                if not board.workers:
                    break
            self._bell.wait(TICK_S)
        until = monotonic() + last_words_s
        while self._staff.is_there() and monotonic() < until:
            self._bell.clear()
            while self._arrived:
                self._arrived.popleft()()
            self._bell.wait(TICK_S)

    def _desk(self) -> Server:
        if self._server is None:
            raise EngineError("the service is not started")
        return self._server
