"""Whatever workers do, the board's accounts are in order."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from bellis.runtime.lease import Lease, Outcome
from bellis.service.board import Board
from bellis.service.messages import Turn
from bellis.service.roster import UnknownWorkerError
from services import RUN_ID, board_task, joined, lease, reports, said

SUCCESS, FAILED, LOST = bytes([Outcome.SUCCESS]), bytes([Outcome.FAILED]), bytes([Outcome.LOST])


class Accounts(RuleBasedStateMachine):
    """Whatever workers do, every lease is finished once, and no block is reported twice."""

    def __init__(self) -> None:
        super().__init__()
        self.board = Board(RUN_ID, [board_task()])
        self.now_s = 0.0
        self.leases: dict[int, Lease] = {}
        self.finished: set[int] = set()
        self.outcomes: dict[int, bytearray] = {}
        self.workers: dict[int, dict[int, int]] = {}  # worker -> lease -> blocks that it did

    @rule(blocks=st.integers(1, 5))
    def submit(self, blocks: int) -> None:
        number = len(self.leases) + 1
        self.leases[number] = lease(number, number * 10, number * 10 + blocks)
        self.outcomes[number] = bytearray(blocks)
        self.board.submit(self.leases[number])

    @rule(slots=st.integers(1, 3))
    def join(self, slots: int) -> None:
        self.workers[joined(self.board, now_s=self.now_s, slots=slots)] = {}

    @precondition(lambda self: self.workers)
    @rule(data=st.data())
    def turn(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(sorted(self.workers)))
        held = self.workers[worker]
        told = []
        for lease_id, done in list(held.items()):
            more = data.draw(st.integers(0, len(self.leases[lease_id].indices) - done))
            is_finished = done + more == len(self.leases[lease_id].indices)
            told.append(said(lease_id, done, more, finished=is_finished))
            held[lease_id] += more
            if is_finished:
                del held[lease_id]
        turn = Turn(reports=told, held=list(held), wants=data.draw(st.integers(0, 3)))
        for _ in range(data.draw(st.integers(1, 2))):
            try:
                answer = self.board.turn(worker, turn, self.now_s)
            except UnknownWorkerError:
                del self.workers[worker]
                return
        if data.draw(st.booleans()):  # or the answer is lost
            for one in answer.leases:
                held.setdefault(one.lease_id, 0)
        for lease_id in answer.lost:
            held.pop(lease_id, None)

    @precondition(lambda self: self.workers)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(sorted(self.workers)))
        self.board.leave(worker)
        del self.workers[worker]

    @rule(seconds_on=st.floats(0.1, 1.9))
    def time_passes(self, seconds_on: float) -> None:
        self.now_s += seconds_on
        self.board.sweep(self.now_s)

    @invariant()
    def each_is_said_once(self) -> None:
        for report in reports(self.board):
            assert report.lease_id not in self.finished
            known = self.outcomes[report.lease_id]
            for position, outcome in enumerate(report.outcomes, report.begin):
                assert not (outcome and known[position])
                known[position] |= outcome
            if report.finished:
                self.finished.add(report.lease_id)

    def teardown(self) -> None:
        for worker in self.workers:
            self.board.leave(worker)
        self.board.drain()
        self.each_is_said_once()
        assert self.finished == set(self.leases)


TestAccounts = Accounts.TestCase
