"""The worker: runs the blocks of leases, one after the other, and lives on when one raises.

The same code runs in worker processes and, for the inline engine, in the caller's thread.
"""

from __future__ import annotations

import os
import sys
import traceback
from array import array
from time import monotonic_ns
from typing import TYPE_CHECKING, Any

from bellis.runtime.cell import EAGER, FLAG, GIVE_BACK, POSITION, STARTED_NS
from bellis.runtime.lease import Outcome, Report
from bellis.tasks.block import Block
from bellis.tasks.values import pack

if TYPE_CHECKING:
    from collections.abc import Callable

    from bellis.runtime.cell import Cell
    from bellis.runtime.program import Program

REPORT_EVERY_NS = 20_000_000
"""A finished block is reported at the latest when the next one begins this much later."""
LONGEST_ERROR = 20_000
"""Characters of a traceback that are kept."""
_CALLERS = (__name__, "bellis.service.launch")
"""Modules whose frames are around a user's function."""


class LeaseRunner:
    """Runs one lease.

    Parameters
    ----------
    program
        The task.
    lease_id
        The lease.
    indices
        Its blocks, int64.
    cell
        Where progress is noted and wishes of the parent are read; begun for this lease.
    outcomes
        Where outcomes are noted, one byte per block.
    report
        Called with each `Report`.
    """

    def __init__(
        self,
        program: Program,
        lease_id: int,
        indices: memoryview,
        cell: Cell,
        outcomes: memoryview,
        report: Callable[[Report], None],
    ) -> None:
        self.program = program
        self.lease_id = lease_id
        self.indices = indices
        self.cell = cell
        self._outcomes = outcomes
        self._send = report
        self._reported = 0
        self._seconds = array("f")
        self._errors: dict[int, str] = {}
        self._results: dict[int, bytes] = {}
        self._value: Any = None
        self.lets_out: tuple[type[BaseException], ...] = ()
        """Exceptions that are not a block's failure, but end the run."""
        self.is_copy = False
        """Set in a child that the user's function forked, and that came back from it."""

    def run(self) -> None:
        """Run the blocks in order, until the end or until the parent wants the rest back."""
        words, outcomes, seconds, grid = self.cell.words, self._outcomes, self._seconds, self.program.grid
        process, checked = self._process()
        success = int(Outcome.SUCCESS)
        position = 0
        began = monotonic_ns()
        report_at = began + REPORT_EVERY_NS
        for position, index in enumerate(self.indices):
            # The position is noted before the flag is read, and the parent writes the flag before it reads the
            # position: so it never takes back a block that runs.
            words[POSITION] = position
            words[STARTED_NS] = began
            if words[FLAG] or began >= report_at:
                if words[FLAG] & GIVE_BACK:
                    break
                if words[FLAG] & EAGER or began >= report_at:
                    self._report(position, finished=False)
                    report_at = monotonic_ns() + REPORT_EVERY_NS
            try:
                outcome = process(Block.at(grid, index))
                if not checked:
                    outcome = success
            except BaseException as error:  # whatever a user's function raises, SystemExit too
                if isinstance(error, self.lets_out):
                    raise
                self._errors[position] = describe(error)
                outcome = Outcome.FAILED
            if self.is_copy:
                os._exit(0)
            outcomes[position] = outcome
            if self._value is not None:
                self._results[position], self._value = self._value, None
            ended = monotonic_ns()
            seconds.append((ended - began) * 1e-9)
            began = ended
        else:
            position = len(self.indices)
        self._report(position, finished=True)

    def block_number(self) -> int:
        """Return the number of the block that runs."""
        return self.program.grid.number(self.indices[self.cell.words[POSITION]])

    def _process(self) -> tuple[Callable[[Block], Any], bool]:
        functions = self.program.functions
        plain = functions.pre is None and functions.post is None and not self.program.keeps_results
        return (functions.process, False) if plain else (self._checked, True)

    def _checked(self, block: Block) -> int:
        functions = self.program.functions
        if functions.pre is not None and self._is_done_before(functions.pre, block):
            return Outcome.SKIPPED
        value = functions.process(block)
        if functions.post is not None and not functions.post(block):
            raise PostCheckFailed(f"the function returned, but check_function says that {block} is not done")
        if self.program.keeps_results:
            self._value = _packed(value, block)
        return Outcome.SUCCESS

    def _is_done_before(self, check: Callable[[Block], bool], block: Block) -> bool:
        try:
            return bool(check(block))
        except Exception as error:  # noqa: BLE001  # it could not say: the block is run
            self._errors[self.cell.words[POSITION]] = describe(error)
            print(f"check_function failed before {block}; it is run:", file=sys.stderr)  # noqa: T201
            traceback.print_exc()
            return False

    def _report(self, end: int, *, finished: bool) -> None:
        begin = self._reported
        if end == begin and not finished:
            return
        report = Report(
            self.lease_id,
            begin,
            bytes(self._outcomes[begin:end]),
            self._seconds.tobytes(),
            self._errors,
            self._results,
            finished,
        )
        self._reported = end
        del self._seconds[:]
        self._errors, self._results = {}, {}
        self._send(report)


class PostCheckFailed(Exception):  # noqa: N818  # a user reads it in a report, as a sentence
    """The check function says that a block is not done although its function returned."""


def _packed(value: Any, block: Block) -> bytes:
    try:
        return pack(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise TypeError(
            f"{block}: results=True keeps what the function returns, but {type(value).__name__} can't be kept "
            f"({error}): return numbers, strings, bytes, NumPy arrays, lists and dicts of them"
        ) from error


def describe(error: BaseException) -> str:
    """Return the traceback of an error in a user's function, without the frames of bellis."""
    own = error.__traceback__
    while own is not None and own.tb_frame.f_globals.get("__name__") in _CALLERS:
        own = own.tb_next
    if isinstance(error, SystemExit):
        text = "".join(traceback.format_tb(own)) + f"SystemExit: the function called sys.exit({error.code!r})"
    else:
        text = "".join(traceback.format_exception(type(error), error, own))
    if len(text) > LONGEST_ERROR:
        half = LONGEST_ERROR // 2
        text = f"{text[:half]}\n... {len(text) - LONGEST_ERROR} characters left out ...\n{text[-half:]}"
    return text.rstrip()
