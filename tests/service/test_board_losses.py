"""Workers that are lost, and what becomes of their leases."""

from __future__ import annotations

from typing import Any

import pytest

from bellis.runtime.engine import WorkerEnded
from bellis.runtime.lease import Outcome, Report
from bellis.service.board import SILENCE_S, Board
from bellis.service.messages import Running, Turn
from bellis.service.roster import UnknownWorkerError
from services import RUN_ID, asking, board_task, board_with, joined, lease, reports, said

NONE, SUCCESS, FAILED, LOST = (
    bytes([outcome]) for outcome in (Outcome.NONE, Outcome.SUCCESS, Outcome.FAILED, Outcome.LOST)
)


def silent(board: Board, *, heard_s: float = 0.0) -> list[Any]:
    """Sweep until workers that were heard of at ``heard_s`` are lost."""
    now_s = heard_s
    while now_s <= heard_s + SILENCE_S + 1:
        board.sweep(now_s)
        now_s += 1.0
    return board.take_events()


def test_the_one_block_that_a_silent_worker_has_not_reported_is_suspect() -> None:
    board = board_with(lease(1))
    worker = joined(board)
    board.turn(worker, asking(), 0.0)
    board.turn(worker, Turn(reports=[said(1, 0, 3, finished=False)], held=[1]), 0.0)
    board.take_events()
    report, ended = silent(board)
    assert (report.outcomes, report.finished, report.is_suspect) == (NONE * 4, True, True)
    assert report.crash == "it was not heard of for 10 s (host)"
    assert ended == WorkerEnded("worker-0", "it was not heard of for 10 s (host)", ended.lease, 3)
    with pytest.raises(UnknownWorkerError):
        board.turn(worker, Turn(), 12.0)


def test_a_block_that_ran_long_is_the_one_that_ran() -> None:
    board = board_with(lease(1))
    worker = joined(board)
    board.turn(worker, asking(), 0.0)
    board.turn(worker, Turn(held=[1], running=[Running(lease_id=1, position=1, seconds=3.0)]), 0.0)
    report = silent(board)[0]
    assert (report.outcomes, report.is_suspect) == (LOST + NONE + LOST * 2, True)


def test_a_block_fails_whose_process_ended_in_it() -> None:
    board = board_with(lease(1))
    worker = joined(board, launched=7)
    board.turn(worker, asking(), 0.0)
    board.turn(worker, Turn(held=[1], running=[Running(lease_id=1, position=1, seconds=3.0)]), 0.0)
    board.end_launch(7, "it was killed", 1.0)
    board.sweep(1.5)
    report, ended = board.take_events()
    assert (report.outcomes, report.is_suspect, report.crash) == (LOST + FAILED + LOST * 2, False, "it was killed")
    assert "worker-0 was lost while it ran the block: it was killed" in report.errors[1]
    assert ended == WorkerEnded("worker-0", "it was killed", ended.lease, 1)


def test_of_short_blocks_nobody_knows_which_ran() -> None:
    board = board_with(lease(1))
    worker = joined(board)
    board.turn(worker, asking(), 0.0)
    board.turn(worker, Turn(held=[1], running=[Running(lease_id=1, position=1, seconds=0.01)]), 0.0)
    report = silent(board)[0]
    assert (report.outcomes, report.is_suspect, report.finished) == (b"", True, True)
    assert report.crash == "it was not heard of for 10 s (host)"


def test_leases_that_a_lost_worker_had_not_begun_are_no_suspects() -> None:
    board = board_with(lease(1), lease(2, 4, 8))
    worker = joined(board)
    board.turn(worker, asking(wants=2), 0.0)
    board.turn(worker, Turn(held=[1, 2], running=[Running(lease_id=1, position=1, seconds=9.0)]), 0.0)
    first, second, _ = silent(board)
    assert (first.outcomes, first.is_suspect) == (LOST + NONE + LOST * 2, True)
    assert (second.lease_id, second.outcomes, second.is_suspect) == (2, b"", False)


def test_the_loss_of_machines_fails_no_block() -> None:
    leases = [lease(k, k, k + 1) for k in range(20)]
    board = board_with(*leases)
    for _ in range(2):
        worker = joined(board, slots=10)
        board.turn(worker, asking(wants=10), 0.0)
        held = [k for k in range(20) if k // 10 == worker - 1]
        running = [Running(lease_id=k, position=0, seconds=5.0) for k in held]
        board.turn(worker, Turn(held=held, running=running), 0.0)
    lost = [event for event in silent(board) if isinstance(event, Report)]
    assert [(report.outcomes, report.is_suspect) for report in lost] == [(NONE, True)] * 20


def test_a_worker_that_leaves_has_failed_nothing() -> None:
    board = board_with(lease(1))
    worker = joined(board)
    board.turn(worker, asking(), 0.0)
    board.leave(worker)
    board.leave(worker)
    (report,) = board.take_events()
    assert (report.outcomes, report.finished, report.is_suspect, report.crash) == (b"", True, False, None)


def test_a_worker_that_waits_is_not_silent() -> None:
    board = board_with()
    worker = joined(board)
    board.turn(worker, asking(), 0.0)
    board.begin_wait(worker, 1)
    assert not silent(board)
    assert board.workers == 1


def test_when_the_service_itself_was_held_up_nobody_was_silent() -> None:
    board = board_with()
    joined(board)
    board.sweep(1.0)
    board.sweep(100.0)
    assert board.workers == 1
    assert silent(board, heard_s=100.0)
    assert board.workers == 0


def test_a_launch_that_ended_has_a_moment_for_its_last_report() -> None:
    board = board_with(lease(1))
    worker = joined(board, launched=5)
    board.turn(worker, asking(), 0.0)
    assert board.end_launch(5, "it was killed", 2.0)
    assert not board.end_launch(6, "it was killed", 2.0)
    board.sweep(1.0)
    assert not board.has_events()
    board.sweep(2.5)
    report, ended = board.take_events()
    assert report.is_suspect
    assert ended.reason == "it was killed"


def test_a_worker_that_does_not_end_a_block_in_time_loses_it() -> None:
    board = Board(RUN_ID, [board_task(timeout_s=1.0)])
    board.submit(lease(1))
    worker = joined(board, launched=3)
    board.turn(worker, asking(), 0.0)
    board.turn(worker, Turn(held=[1], running=[Running(lease_id=1, position=2, seconds=5.0)]), 0.0)
    assert not board.has_events()
    answer = board.turn(worker, Turn(held=[1], running=[Running(lease_id=1, position=2, seconds=7.0)]), 0.0)
    assert answer.lost == [1]
    (report,) = reports(board)
    assert report.outcomes == LOST * 2 + FAILED + LOST
    assert report.errors == {2: "the block took longer than its timeout of 1 s"}
    assert board.take_overdue() == [(3, "the block took longer than its timeout of 1 s")]


def test_a_launch_that_ended_gets_nothing_more_and_goes_when_it_has_reported() -> None:
    board = board_with(lease(1))
    worker = joined(board, launched=5)
    board.turn(worker, asking(), 0.0)
    board.turn(worker, Turn(held=[1], running=[Running(lease_id=1, position=1, seconds=0.1)]), 0.0)
    assert board.end_launch(5, "it was killed", 2.0)
    board.submit(lease(2, 4, 8))
    assert board.turn(worker, Turn(held=[1], wants=1), 0.5).state == "drain"
    report = said(1, 1, 1, outcomes=FAILED, errors={1: "it ended"}, crash="it ended")
    assert board.turn(worker, Turn(reports=[report], wants=1), 1.0).state == "leave"
    assert board.workers == 0
    assert [event.crash for event in reports(board)] == ["it ended"]
    assert board.queued("task") == 1


def test_a_launch_that_waited_for_blocks_when_it_ended_gets_none() -> None:
    board = board_with()
    worker = joined(board, launched=5)
    board.turn(worker, asking(), 0.0)
    board.begin_wait(worker, 1)
    assert not board.end_launch(5, "it returned", 2.0)
    assert board.take_to_answer() == {worker}
    board.submit(lease(1))
    assert board.queued("task") == 1
    assert board.answer(worker, 0.5).state == "leave"


def test_an_end_that_was_reported_before_it_was_noticed_is_accounted_for_once() -> None:
    board = board_with(lease(1))
    worker = joined(board, launched=5)
    board.turn(worker, asking(), 0.0)
    report = said(1, 0, 1, outcomes=FAILED, errors={0: "it ended"}, crash="it ended")
    board.turn(worker, Turn(reports=[report]), 0.0)
    board.leave(worker)
    assert board.end_launch(5, "it was killed", 2.0)
    assert not board.end_launch(6, "it was killed", 2.0)
