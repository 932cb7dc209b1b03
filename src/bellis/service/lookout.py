"""What a run's user is told when nothing moves: nobody has joined, or who has blocks does not run them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from contextlib import AbstractContextManager

    from bellis.service.board import Board

LOGGER = logging.getLogger("bellis")
"""Warnings are shown on stderr unless the program says otherwise; so also where nothing shows the run's events."""
FIRST_S = 5.0
"""If nobody has joined by then, how to join is logged."""
AGAIN_S = 30.0
"""How often it is said that nobody is there; and after so long, of a worker that it does not run what it has."""
LOOK_S = 0.5


class Lookout:
    """Watches a board.

    Parameters
    ----------
    joining
        How workers join.
    open_tasks
        Tasks of which any worker may take blocks.
    now_s
        When the run began.
    """

    def __init__(self, joining: str, open_tasks: Iterable[str], now_s: float) -> None:
        self._joining = joining
        self._open = tuple(open_tasks)
        self._next_s = now_s
        self._waits_since_s: float | None = None
        self._is_logged = False
        self._said = 0

    def look(self, use_board: Callable[[], AbstractContextManager[Board]], now_s: float) -> list[str]:
        """Return what is to be said now."""
        if now_s < self._next_s:
            return []
        self._next_s = now_s + LOOK_S
        with use_board() as board:
            is_missed = any(board.queued(task_id) and not board.workers_of(task_id) for task_id in self._open)
            idle = board.take_idle(now_s, AGAIN_S)
        said = self._missed(now_s) if is_missed else []
        if not is_missed:
            self._waits_since_s, self._said = None, 0
        said += [f"{person} has had leases for {AGAIN_S:g} s without running a block of them" for person in idle]
        for text in said:
            LOGGER.warning("%s", text)
        return said

    def _missed(self, now_s: float) -> list[str]:
        if self._waits_since_s is None:
            self._waits_since_s = now_s
        waited_s = now_s - self._waits_since_s
        if waited_s >= FIRST_S and not self._is_logged:
            self._is_logged = True
            LOGGER.warning("%s", self._joining)
        if waited_s < (self._said + 1) * AGAIN_S:
            return []
        self._said = int(waited_s // AGAIN_S)
        return [f"blocks have waited for {waited_s:.0f} s, and no worker is there; {self._joining}"]
