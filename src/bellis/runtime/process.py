"""The main function of a worker process."""

from __future__ import annotations

import ctypes
import faulthandler
import mmap
import os
import resource
import signal
import sys
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

import cloudpickle

from bellis.runtime.cell import Cell
from bellis.runtime.messages import LoadFailed, LoadProgram, Ready, Reported, RunLease, decode_for_worker, encode
from bellis.runtime.output import Output
from bellis.runtime.worker import LeaseRunner, describe

if TYPE_CHECKING:
    from bellis.runtime.lease import Report
    from bellis.runtime.program import Program

_MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024
_M_ARENA_MAX = -8


class WorkerProcess:
    """Takes programs and leases from a channel until it closes.

    Parameters
    ----------
    channel
        Both ways to the run.
    cell
        This worker's cell.
    output
        Where prints go.
    """

    def __init__(self, channel: Connection, cell: Cell, output: Output) -> None:
        self._channel = channel
        self._cell = cell
        self._output = output
        self._programs: dict[int, Program] = {}
        self._is_copy = False
        os.register_at_fork(after_in_child=self._become_copy)

    def serve(self) -> None:
        """Work until the run closes the channel."""
        self._channel.send_bytes(encode(Ready(os.getpid())))
        while not self._is_copy:
            try:
                message = decode_for_worker(self._channel.recv_bytes())
            except (EOFError, OSError):
                return
            if isinstance(message, LoadProgram):
                self._load(message)
            else:
                self._run(message)

    def _become_copy(self) -> None:
        """In a child that a user's function forked: it must neither take nor report blocks."""
        self._is_copy = True
        if self._output.runner is not None:
            self._output.runner.is_copy = True
        os.close(self._channel.fileno())

    def _load(self, message: LoadProgram) -> None:
        try:
            self._output.switch(message.task_id)
            program: Program = cloudpickle.loads(message.payload)
            if program.functions.setup is not None:
                program.functions.setup()
        except BaseException as error:  # noqa: BLE001  # imports and setup are the user's code
            self._channel.send_bytes(encode(LoadFailed(message.number, describe(error))))
            return
        self._programs[message.number] = program

    def _run(self, lease: RunLease) -> None:
        program = self._programs.get(lease.program)
        if program is None:
            return  # it could not be loaded, which was said
        self._output.switch(program.task_id)
        outcomes = self._cell.begin(lease.lease_id, lease.program, lease.indices)
        indices = memoryview(lease.indices).cast("q")
        runner = LeaseRunner(program, lease.lease_id, indices, self._cell, outcomes, self._send)
        self._output.runner = runner
        runner.run()
        self._output.runner = None
        sys.stdout.flush()
        sys.stderr.flush()

    def _send(self, report: Report) -> None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _MAXRSS_UNIT
        message = Reported(
            report.lease_id,
            report.begin,
            report.outcomes,
            report.seconds,
            report.errors,
            report.results,
            report.finished,
            peak,
        )
        self._channel.send_bytes(encode(message))


def main(channel_fd: int, cells_fd: int, slot: int, log_dir: str) -> None:
    """Run a worker in this process until the run ends; never returns.

    Parameters
    ----------
    channel_fd
        Socket to the run.
    cells_fd
        Memory of all workers' cells.
    slot
        Number of this worker.
    log_dir
        Folder for logs.
    """
    code = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _share_one_heap()
        memory = memoryview(mmap.mmap(cells_fd, 0))
        os.close(cells_fd)
        output = Output(Path(log_dir), slot)
        faulthandler.enable(file=2)
        WorkerProcess(Connection(channel_fd), Cell(memory, slot), output).serve()
        code = 0
    except BrokenPipeError:  # the run is gone
        code = 0
    except BaseException:  # noqa: BLE001  # into the log: nobody else is left to hear it
        traceback.print_exc()
    finally:
        try:
            sys.stdout.flush()
        finally:
            os._exit(code)


def _share_one_heap() -> None:
    """Let all threads of this process allocate from one heap.

    By default glibc gives each thread of an I/O library a heap of its own, in which freed chunks stay: with
    tensorstore, a worker that filters blocks of 128^3 voxels then takes 200 MB in place of 160 MB, and is no faster.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)
