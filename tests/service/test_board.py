"""The board: leases up, turns in, answers out, no clock."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bellis.runtime.engine import Notice, ProgramRefused, WorkerEnded
from bellis.runtime.lease import Lease, Outcome
from bellis.service.board import Board
from bellis.service.holding import RefusedError
from bellis.service.messages import BlockReport, Join, Running, Turn
from bellis.service.roster import UnknownWorkerError
from services import RUN_ID, asking, board_task, board_with, given_ids, joined, lease, reports, said, seconds

SUCCESS, FAILED, LOST = bytes([Outcome.SUCCESS]), bytes([Outcome.FAILED]), bytes([Outcome.LOST])


def test_a_worker_gets_a_lease_reports_it_and_gets_the_next() -> None:
    board = board_with(lease(1), lease(2, 4, 8))
    worker = joined(board)
    assert given_ids(board.turn(worker, asking(), 0.0)) == [1]
    answer = board.turn(worker, asking(reports=[said(1)]), 1.0)
    assert given_ids(answer) == [2]
    (report,) = reports(board)
    assert (report.lease_id, report.outcomes, report.finished, report.worker) == (1, SUCCESS * 4, True, "worker-0")


def test_leases_travel_as_runs_of_consecutive_indices_in_order() -> None:
    board = board_with(Lease(1, "task", np.array([7, 8, 9, 2, 4, 5])))
    answer = board.turn(joined(board), asking(), 0.0)
    assert answer.leases[0].runs == [(7, 3), (2, 1), (4, 2)]


@given(st.lists(st.integers(0, 50), unique=True, min_size=1))
def test_runs_are_the_indices(indices: list[int]) -> None:
    board = board_with(Lease(1, "task", np.array(indices)))
    (message,) = board.turn(joined(board), asking(), 0.0).leases
    assert [first + k for first, count in message.runs for k in range(count)] == indices


def test_a_lost_answer_is_given_again_until_the_worker_says_it_holds_the_lease() -> None:
    board = board_with(lease(1))
    worker = joined(board)
    for _ in range(3):
        assert given_ids(board.turn(worker, asking(), 0.0)) == [1]
    assert given_ids(board.turn(worker, asking(held=[1]), 0.0)) == []


def test_a_turn_that_comes_twice_counts_once() -> None:
    board = board_with(lease(1))
    worker = joined(board)
    board.turn(worker, asking(), 0.0)
    part = Turn(reports=[said(1, 0, 2, finished=False)], held=[1])
    board.turn(worker, part, 0.0)
    board.turn(worker, part, 0.0)
    first, again = reports(board)
    assert (first.outcomes, first.seconds) == (SUCCESS * 2, seconds(2))
    assert (again.outcomes, again.seconds, again.errors) == (b"", b"", {})
    last = Turn(reports=[said(1, 2, 2)])
    answers = [board.turn(worker, last, 0.0) for _ in range(2)]
    assert [answer.lost for answer in answers] == [[], []]
    assert len(reports(board)) == 1
    assert board.take_late() == 0


def test_outcomes_first_and_their_seconds_later_count_once_each() -> None:
    board = board_with(lease(1))
    worker = joined(board)
    board.turn(worker, asking(), 0.0)
    board.turn(worker, Turn(held=[1], reports=[BlockReport(lease_id=1, begin=0, outcomes=SUCCESS * 3)]), 0.0)
    board.turn(worker, Turn(reports=[said(1)]), 0.0)
    first, last = reports(board)
    assert (first.outcomes, first.seconds) == (SUCCESS * 3, b"")
    assert (last.outcomes, last.seconds) == (b"\0\0\0" + SUCCESS, seconds(4))


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        (said(1, 2, 3), "has 4 blocks"),
        (said(1, outcomes=b"\5" * 4), "outcomes must be among"),
        (said(1, seconds=seconds(3)), "not 12 bytes"),
        (said(1, seconds=seconds(4, np.nan)), "finite"),
        (said(1, seconds=seconds(4, np.inf)), "finite"),
        (said(1, seconds=seconds(4, -1.0)), "negative"),
        (said(1, 0, 2, errors={3: "no"}), "of block 3"),
        (said(1, 1, 2, errors={0: "no"}), "of block 0"),
        (said(1, results={0: b""}), "keeps none"),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(wrong: BlockReport, complaint: str) -> None:
    board = board_with(lease(1))
    worker = joined(board)
    board.turn(worker, asking(), 0.0)
    with pytest.raises(RefusedError, match=complaint):
        board.turn(worker, Turn(reports=[said(1, 0, 1, finished=False), wrong]), 5.0)
    assert not board.has_events()
    assert board.status().tasks[0].leased == 4
    board.turn(worker, Turn(reports=[said(1)]), 5.0)
    assert [report.outcomes for report in reports(board)] == [SUCCESS * 4]


@pytest.mark.parametrize(
    ("turn", "complaint"),
    [
        (Turn(running=[Running(lease_id=1, position=4, seconds=0.0)]), "none at 4"),
        (Turn(refused={"other": "no"}), "no task 'other'"),
    ],
)
def test_a_position_or_a_task_that_is_not_there_is_refused(turn: Turn, complaint: str) -> None:
    board = board_with(lease(1))
    worker = joined(board)
    board.turn(worker, asking(), 0.0)
    with pytest.raises(RefusedError, match=complaint):
        board.turn(worker, turn, 0.0)


def test_joining_for_a_task_that_is_not_there_is_refused() -> None:
    with pytest.raises(RefusedError, match="no task 'other'; it has 'task'"):
        joined(board_with(), task_id="other")


def test_reports_on_others_leases_are_dropped_and_said_to_be_lost() -> None:
    board = board_with(lease(1))
    owner, thief = joined(board), joined(board)
    board.turn(owner, asking(), 0.0)
    answer = board.turn(thief, Turn(reports=[said(1), said(99)], held=[1, 77]), 0.0)
    assert answer.lost == [1, 77, 99]
    assert not reports(board)
    assert board.take_late() == 2
    board.turn(owner, Turn(reports=[said(1)]), 0.0)
    assert reports(board)[0].outcomes == SUCCESS * 4


def test_a_worker_gets_no_more_than_one_lease_beyond_each_slot() -> None:
    board = board_with(*(lease(k, k, k + 1) for k in range(1, 20)))
    assert len(board.turn(joined(board, slots=3), asking(wants=1000), 0.0).leases) == 6


def test_a_worker_gets_the_lease_next_to_its_last_one() -> None:
    board = board_with(lease(1, 0, 4), lease(2, 50, 54), lease(3, 4, 8))
    worker = joined(board)
    board.turn(worker, asking(), 0.0)
    assert given_ids(board.turn(worker, asking(reports=[said(1)]), 0.0)) == [3]
    assert given_ids(board.turn(worker, asking(reports=[said(3)]), 0.0)) == [2]


def test_a_worker_of_one_task_gets_no_other() -> None:
    board = Board(RUN_ID, [board_task("open"), board_task("own", is_open=False)])
    board.submit(lease(1, task_id="open"))
    board.submit(lease(2, task_id="own"))
    anyone, own = joined(board), joined(board, task_id="own")
    assert given_ids(board.turn(own, asking(wants=2), 0.0)) == [2]
    assert given_ids(board.turn(anyone, asking(wants=2), 0.0)) == [1]
    assert [task.task_id for task in board.join(Join(name=""), 0.0).tasks] == ["open"]


def test_a_lease_goes_to_a_worker_that_waits() -> None:
    board = board_with()
    first, second = joined(board), joined(board)
    for worker in (first, second):
        board.turn(worker, asking(), 0.0)
        board.begin_wait(worker, 1)
    board.submit(lease(1))
    assert board.take_to_answer() == {first}
    board.submit(lease(2, 4, 8))
    assert board.take_to_answer() == {second}
    assert given_ids(board.answer(first, 0.0)) == [1]
    assert given_ids(board.answer(second, 0.0)) == [2]


def test_a_worker_that_has_nothing_may_come_again_at_once() -> None:
    board = board_with(lease(1))
    busy, idle = joined(board), joined(board)
    busy_s, idle_s = (board.turn(worker, asking(), 0.0).report_every_s for worker in (busy, idle))
    assert idle_s < busy_s / 10


# What the run wishes -------------------------------------------------------------------------------------------------


def test_drained_workers_finish_their_block_and_then_leave() -> None:
    board = board_with(lease(1), lease(2, 4, 8), lease(3, 8, 12))
    busy, idle = joined(board), joined(board)
    board.turn(busy, asking(wants=2), 0.0)
    board.drain()
    assert [report.lease_id for report in reports(board)] == [3]
    answer = board.turn(busy, asking(held=[1]), 0.0)
    assert (answer.state, answer.leases) == ("drain", [])
    assert [report.lease_id for report in reports(board)] == [2]  # its answer had not come yet
    assert board.turn(busy, Turn(reports=[said(1, 0, 2)]), 0.0).state == "leave"
    assert board.turn(idle, asking(), 0.0).state == "leave"
    assert board.workers == 0
    board.submit(lease(4))
    assert [report.lease_id for report in reports(board)] == [1, 4]


def test_the_workers_of_a_finished_task_leave() -> None:
    board = Board(RUN_ID, [board_task("a", is_open=False), board_task("b", is_open=False)])
    a, b = joined(board, task_id="a"), joined(board, task_id="b")
    board.finish("a")
    assert board.turn(a, asking(), 0.0).state == "leave"
    assert board.turn(b, asking(), 0.0).state == "go"


def test_while_slots_are_idle_long_blocks_give_back_the_rest() -> None:
    board = board_with(lease(1), lease(2, 4, 8))
    worker = joined(board)
    board.turn(worker, asking(wants=2), 0.0)
    busy = Turn(held=[1, 2], running=[Running(lease_id=1, position=0, seconds=0.1)])
    quick = Turn(held=[1, 2], running=[Running(lease_id=1, position=0, seconds=0.001)])
    every_s = board.turn(worker, busy, 0.0).report_every_s
    board.hurry(report=True, share=True)
    answer = board.turn(worker, busy, 0.0)
    assert answer.give_back == [1, 2]
    assert answer.report_every_s < every_s
    assert board.turn(worker, quick, 0.0).give_back == []
    board.hurry(report=False, share=False)
    assert board.turn(worker, busy, 0.0).give_back == []


def test_a_task_is_refused_only_when_no_worker_can_load_it() -> None:
    board = board_with()
    first, second = joined(board), joined(board)
    refusal = {"task": "Traceback\nModuleNotFoundError: no"}
    board.turn(first, Turn(refused=refusal), 0.0)
    assert board.take_events() == [Notice("host can't load task 'task': ModuleNotFoundError: no")]
    board.submit(lease(1))
    assert given_ids(board.turn(first, asking(), 0.0)) == []
    board.turn(second, Turn(refused=refusal), 0.0)
    assert board.take_events() == [ProgramRefused("task", refusal["task"])]


def test_how_processes_of_a_worker_ended_is_passed_on() -> None:
    board = board_with()
    board.turn(joined(board, slots=2), Turn(ended=["was killed"]), 0.0)
    assert board.take_events() == [WorkerEnded("worker-0", "was killed (host)")]


def test_every_slot_has_a_log_of_its_own() -> None:
    board = board_with(*(lease(k, k, k + 1) for k in range(1, 9)), first_place=3)
    for worker in (joined(board, slots=2), joined(board, slots=2), joined(board, launched=9)):
        answer = board.turn(worker, asking(wants=2), 0.0)
        board.turn(worker, Turn(reports=[said(one.lease_id, 0, 1, slot=k) for k, one in enumerate(answer.leases)]), 0.0)
    assert [report.worker for report in reports(board)] == [f"worker-{k}" for k in (3, 4, 5, 6, 0, 1)]


def test_leases_that_nobody_takes_can_be_had_back() -> None:
    board = board_with(lease(1), lease(2, 4, 8), lease(3, 8, 12))
    board.give_up_one("task", "it ended")
    board.give_up("task")
    assert [(report.lease_id, report.crash) for report in reports(board)] == [(1, "it ended"), (2, None), (3, None)]


def test_whoever_joined_before_a_break_of_the_run_is_not_taken_for_somebody_who_joins_after_it() -> None:
    before = Board(RUN_ID, [board_task()], first_worker=10**6).join(Join(name="before"), 0.0)
    board = Board(RUN_ID, [board_task()], first_worker=77)
    after = board.join(Join(name="after"), 0.0)
    assert after.worker_id == 77
    with pytest.raises(UnknownWorkerError):
        board.turn(before.worker_id, Turn(wants=1), 0.0)
