"""What is said of a run in which nothing moves."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from typing import TYPE_CHECKING

from bellis.service.lookout import AGAIN_S, FIRST_S, Lookout
from bellis.service.messages import Running, Turn
from services import asking, board_with, joined, lease, said

if TYPE_CHECKING:
    import pytest

    from bellis.service.board import Board

HOW = "workers join with: bellis worker ..."


def looking(lookout: Lookout, board: Board, begin_s: int, end_s: int) -> list[str]:
    return [text for now_s in range(begin_s, end_s) for text in lookout.look(lambda: nullcontext(board), now_s)]


def test_how_to_join_is_logged_once_and_said_again_while_nobody_is_there(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "bellis")
    lookout, board = Lookout(HOW, ["task"], 0), board_with(lease(1))
    assert looking(lookout, board, 0, int(FIRST_S)) == []
    assert caplog.messages == []
    assert looking(lookout, board, int(FIRST_S), int(AGAIN_S)) == []
    assert caplog.messages == [HOW]
    texts = looking(lookout, board, int(AGAIN_S), int(3 * AGAIN_S))
    assert texts == [f"blocks have waited for {s} s, and no worker is there; {HOW}" for s in (30, 60)]
    assert caplog.messages == [HOW, *texts]
    joined(board)
    assert looking(lookout, board, 90, 200) == []


def test_nobody_is_missed_where_nothing_waits_or_the_run_starts_workers_itself() -> None:
    assert looking(Lookout(HOW, ["task"], 0), board_with(), 0, 100) == []
    assert looking(Lookout(HOW, [], 0), board_with(lease(1)), 0, 100) == []


def test_a_worker_that_does_not_run_what_it_has_is_named_once_until_it_moves() -> None:
    lookout, board = Lookout(HOW, ["task"], 0), board_with(lease(1))
    worker = joined(board, name="dreamer")
    board.turn(worker, asking(), 0.0)
    told = ["dreamer has had leases for 30 s without running a block of them"]
    assert looking(lookout, board, 0, 31) == []
    board.turn(worker, Turn(held=[1]), 31.0)
    assert looking(lookout, board, 31, 100) == told
    board.turn(worker, Turn(held=[1], running=[Running(lease_id=1, position=0, seconds=1.0)]), 100.0)
    assert looking(lookout, board, 100, 130) == []
    assert looking(lookout, board, 130, 140) == told
    board.turn(worker, Turn(reports=[said(1)]), 140.0)
    assert looking(lookout, board, 140, 300) == []
