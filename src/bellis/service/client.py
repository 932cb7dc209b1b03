"""The client: takes blocks of a run, wherever it is called, and says what became of them."""

from __future__ import annotations

import contextlib
import os
import resource
import sys
import traceback
import weakref
from array import array
from contextvars import ContextVar
from threading import get_ident
from time import monotonic_ns
from typing import TYPE_CHECKING, Self

from bellis.errors import RunError, ServiceError
from bellis.runtime.cell import CELL_BYTES, FLAG, POSITION, STARTED_NS, Cell, shared_memory
from bellis.runtime.lease import Outcome
from bellis.runtime.messages import Reported, RunLease
from bellis.service.context import Context
from bellis.service.errand import (
    BATCH,
    OUTSIDE_NS,
    Ask,
    Begun,
    Over,
    beginning,
    decode_for_client,
    encode,
    worker_number,
)
from bellis.service.escort import end_courier, start_courier
from bellis.service.imported import grid_of
from bellis.tasks.block import Block, BlockStatus

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from types import TracebackType


REPORT_EVERY_NS = 20_000_000
"""Blocks that are done are reported when one ends so long after the last report."""
LONGEST_ERROR = 20_000
"""Characters of a traceback that are kept."""
NESTED_S = 0.3
"""How long a client waits for a block while another of its thread has one out, which can't end meanwhile."""
_MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024

LATEST: ContextVar[weakref.ref[Client] | None] = ContextVar("bellis-client", default=None)
"""The client that was made last: lines that its process prints carry the number of its block."""
_BESIDE: ContextVar[weakref.WeakSet[Client] | None] = ContextVar("bellis-clients", default=None)
"""The clients that were made in this thread."""


class Client:
    """Takes blocks of a task from a run, and reports them.

    ::

        client = Client()
        while True:
            with client.acquire_block() as block:
                if block is None:
                    break
                process(block)

    Blocks come in leases, ahead of time, by a small process beside this one, which also says that this one is alive.
    A block whose ``with`` body raises has failed; the exception is shown and goes no further, as in daisy 1, save for
    ``SystemExit``, ``KeyboardInterrupt`` and their like. Where a task has a time-out, a process that takes longer for a
    block is killed. A client serves one thread of one process.

    A client holds blocks only while it is used: those that it was given ahead go back to the run when it is closed or
    forgotten, and when it has been in no ``with`` for about half a second. While a thread has a block out, a second
    client in it waits for another block for 0.3 s at most; then it gives None, and may be asked again.

    Parameters
    ----------
    context
        How to find the run; taken from the environment if None.

    Raises
    ------
    ContextError
        If there is no context, or something is missing in it.
    ServiceError
        If the run can't be reached, does not know the token, or is another one by now.

    Attributes
    ----------
    context
        How it found the run.
    task_id
        The task that it takes blocks of.
    host
        Where the run is.
    port
        The port that it listens on.
    worker_id
        The number of the worker function's call, as in daisy; of a client that bellis did not launch, a number that no
        other worker of the run has.
    """

    def __init__(self, context: Context | None = None) -> None:
        self.context = Context.from_env() if context is None else context
        begin = beginning(self.context)
        self.task_id = begin.task_id
        self.host, self.port = self.context["hostname"], int(self.context["port"])
        cells_fd, self._memory = shared_memory(CELL_BYTES, None)
        self._cell = Cell(memoryview(self._memory), 0)
        self._words = self._cell.words
        self._words[OUTSIDE_NS] = 1
        try:
            self._channel, self._courier = start_courier(cells_fd)
        finally:
            os.close(cells_fd)
        self._pid = os.getpid()
        self._finalizer = weakref.finalize(self, end_courier, self._channel, self._courier, self._pid)
        self._lease: int | None = None
        self._indices: memoryview = memoryview(b"")
        self._size = self._position = self._reported = 0
        self._outcomes = memoryview(b"")
        self._seconds = array("f")
        self._errors: dict[int, str] = {}
        self._out: list[Block] = []
        """Blocks that are out."""
        self._thread = 0
        self._report_ns = 0
        self._is_over = False
        self._channel.send_bytes(encode(begin))
        message = self._receive()
        if isinstance(message, Over):
            self.close()
            raise ServiceError(message.error or "the run is over", is_other_run=message.is_other_run)
        if not isinstance(message, Begun):
            raise TypeError(f"the courier began with {type(message).__name__}")
        self._grid = grid_of(message.task)
        self.worker_id = worker_number(self.context, message.worker_id)
        LATEST.set(weakref.ref(self))
        self._beside: weakref.WeakSet[Client] = _BESIDE.get() or weakref.WeakSet()
        self._beside.add(self)
        _BESIDE.set(self._beside)

    def acquire_block(self) -> AbstractContextManager[Block | None, bool]:
        """Take a block, for a ``with`` statement; it is None when there will be no more.

        What the body leaves in ``block.status`` counts: ``BlockStatus.FAILED`` has the block tried again.
        """
        return _Acquired(self)

    def acquire_blocks(self, most: int) -> AbstractContextManager[list[Block], bool]:
        """Take up to ``most`` blocks to be worked on together; the list is empty when there will be no more.

        If the body raises, those whose status it had not set to ``SUCCESS`` have failed.
        """
        if most < 1:
            raise ValueError(f"acquire_blocks takes at least 1, not {most}")
        return _AcquiredMany(self, most)

    def release_block(self, block: Block) -> None:
        """Say that a block is done before its ``with`` ends, as in daisy 1; its status counts.

        Raises
        ------
        RunError
            If the block is not out.
        """
        if not any(block is each for each in self._out):
            raise RunError(f"{block} is not out: this Client has not handed it out, or has it back")
        if block.status is BlockStatus.PROCESSING:
            block.status = BlockStatus.SUCCESS
        if len(self._out) == 1:
            self.end(self._out, None)

    def close(self) -> None:
        """Leave the run; what was not begun goes to others."""
        self._is_over = True
        if os.getpid() == self._pid and self._lease is not None:
            self._finish()
        self._finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def block_number(self) -> int | None:
        """Return the number of the block that was handed out last; None if none is out."""
        return self._grid.number(self._indices[self._position]) if self._out else None

    def is_in_block(self, thread: int) -> bool:
        """Whether a thread has a block of this client out."""
        return bool(self._out) and self._thread == thread

    # Blocks ------------------------------------------------------------------------------------------------------

    def begin(self, most: int) -> list[Block]:
        """Hand out the next blocks; none if there are no more."""
        if self._out or os.getpid() != self._pid:
            self._refuse()
        words = self._words
        words[OUTSIDE_NS] = 0
        while True:
            if self._position == self._size and not self._advance():
                words[OUTSIDE_NS] = monotonic_ns()
                return []
            position = self._position
            count = min(most, self._size - position)
            # That the client is in a block, and in which, is noted before the flag is read, and the courier writes the
            # flag before it reads these: so it never gives back a block that runs.
            words[BATCH] = count
            words[POSITION] = position
            words[STARTED_NS] = began = monotonic_ns()
            if not words[FLAG]:
                break
            self._finish()
        self._began_ns = began
        grid, indices = self._grid, self._indices
        blocks = [Block.at(grid, indices[k]) for k in range(position, position + count)]
        for block in blocks:
            block.status = BlockStatus.PROCESSING
        self._out = blocks
        return blocks

    def end(self, blocks: list[Block], error: BaseException | None) -> None:
        """Take back blocks that were handed out, with what went wrong."""
        if blocks is not self._out or os.getpid() != self._pid:  # released, or a copy of the process that took them
            return
        position = self._position
        ended = monotonic_ns()
        took_s = (ended - self._began_ns) * 1e-9 / len(blocks)
        failed = False
        for block in blocks:
            self._seconds.append(took_s)
            status = block.status
            if status is BlockStatus.SUCCESS or (error is None and status is BlockStatus.PROCESSING):
                self._outcomes[position] = Outcome.SUCCESS
            elif isinstance(error, KeyboardInterrupt):
                self._outcomes[position] = Outcome.LOST
            else:
                failed = True
                self._errors[position] = _told(error, block)
                self._outcomes[position] = Outcome.FAILED
            position += 1
        self._out = []
        self._position = position
        self._words[OUTSIDE_NS] = ended
        if position == self._size or self._words[FLAG]:
            self._finish()
        elif failed or ended >= self._report_ns:
            self._report(finished=False)

    def _refuse(self) -> None:
        if os.getpid() != self._pid:
            raise RunError("this Client was made by another process, which was forked: make one in each process")
        raise RunError(
            "a block of this Client is out, and it hands out one at a time: leave its `with` first, make a Client for "
            "each thread, or take several blocks with acquire_blocks(n)"
        )

    # The courier ---------------------------------------------------------------------------------------------------

    def _advance(self) -> bool:
        """Wait for the next lease; return False if there is none."""
        if self._is_over or not self._wait():
            return False
        message = self._receive()
        if isinstance(message, RunLease):
            self._indices = memoryview(message.indices).cast("q")
            self._outcomes = self._cell.begin(message.lease_id, 0, message.indices)
            self._size = len(self._indices)
            self._position = self._reported = 0
            self._lease = message.lease_id
            self._report_ns = monotonic_ns() + REPORT_EVERY_NS
            return True
        self._is_over = True
        self._finalizer()
        if isinstance(message, Over) and message.error is not None:
            raise ServiceError(message.error, is_other_run=message.is_other_run)
        return False

    def _wait(self) -> bool:
        """Wait for the courier; return False if it has nothing that comes before another block of this thread ends."""
        self._thread = get_ident()
        try:
            if self._channel.poll(0.0):
                return True
            with contextlib.suppress(OSError):  # it has gone, which is about to be heard
                self._channel.send_bytes(encode(Ask()))
            is_nested = any(other.is_in_block(self._thread) for other in self._beside)
            return self._channel.poll(NESTED_S if is_nested else None)
        except BaseException:
            self._words[OUTSIDE_NS] = monotonic_ns()
            raise

    def _receive(self) -> Begun | RunLease | Over:
        try:
            message: Begun | RunLease | Over = decode_for_client(self._channel.recv_bytes())
        except (EOFError, OSError) as error:
            self._is_over = True
            self._finalizer()
            raise ServiceError(
                "the process that takes blocks for this Client has ended: it was killed, or memory ran out"
            ) from error
        return message

    def _finish(self) -> None:
        """Return the lease, as far as it was run."""
        self._report(finished=True)
        self._lease = None
        self._size = self._position = 0

    def _report(self, *, finished: bool) -> None:
        begin, end = self._reported, self._position
        self._report_ns = monotonic_ns() + REPORT_EVERY_NS
        if self._lease is None or (end == begin and not finished):
            return
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _MAXRSS_UNIT
        outcomes, seconds = bytes(self._outcomes[begin:end]), self._seconds.tobytes()
        message = Reported(self._lease, begin, outcomes, seconds, self._errors, {}, finished, peak)
        self._reported = end
        self._seconds = array("f")
        self._errors = {}
        with contextlib.suppress(OSError):  # it has gone; why is in what it left to be read
            self._channel.send_bytes(encode(message))


class _Acquired:
    """One block, as long as a ``with`` statement lasts."""

    __slots__ = ("_blocks", "_client")

    def __init__(self, client: Client) -> None:
        self._client = client
        self._blocks: list[Block] = []

    def __enter__(self) -> Block | None:
        self._blocks = self._client.begin(1)
        return self._blocks[0] if self._blocks else None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, frames: TracebackType | None
    ) -> bool:
        blocks, self._blocks = self._blocks, []
        if not blocks:
            return False
        self._client.end(blocks, error)
        return isinstance(error, Exception)


class _AcquiredMany(_Acquired):
    """Several blocks, as long as a ``with`` statement lasts."""

    __slots__ = ("_most",)

    def __init__(self, client: Client, most: int) -> None:
        super().__init__(client)
        self._most = most

    def __enter__(self) -> list[Block]:  # type: ignore[override]
        self._blocks = self._client.begin(self._most)
        return list(self._blocks)


def _told(error: BaseException | None, block: Block) -> str:
    """Show why a block failed, and return it."""
    if error is None:
        return f"block.status was {block.status.name} at the end of the `with` that took it"
    text = "".join(traceback.format_exception(type(error), error, error.__traceback__)).rstrip()
    text = text.encode(errors="replace").decode()
    if len(text) > LONGEST_ERROR:
        half = LONGEST_ERROR // 2
        text = f"{text[:half]}\n... {len(text) - LONGEST_ERROR} characters left out ...\n{text[-half:]}"
    with contextlib.suppress(OSError, ValueError):  # where it went to may be closed
        print(f"{block} failed:\n{text}", file=sys.stderr, flush=True)  # noqa: T201
    return text
