"""Checks of worker functions: whatever is skipped, run, lost or refused, each block is said once, at its own place."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bellis.runtime.lease import Lease, Outcome, Report
from bellis.service.checks import Checks

SUCCESS, SKIPPED, FAILED, LOST = Outcome.SUCCESS, Outcome.SKIPPED, Outcome.FAILED, Outcome.LOST


class Play:
    """One lease on its way through checks; what happens to each block is written down beforehand."""

    def __init__(self, *, before: bool, after: bool, cuts: set[int]) -> None:
        self.steps: list[tuple[str, Lease]] = []
        self.cuts = cuts
        functions = SimpleNamespace(pre=bool if before else None, post=bool if after else None)
        program: Any = SimpleNamespace(task_id="task", functions=functions)
        self.checks = Checks(
            [program],
            lambda lease, when: self.steps.append((when, lease)),
            lambda lease: self.steps.append(("run", lease)),
        )

    def run(self, lease: Lease, fates: dict[str, dict[int, int]]) -> list[Report]:
        said: list[Report] = []
        self.checks.submit(lease)
        while self.steps:
            step, part = self.steps.pop()
            take = self.checks.reported if step == "run" else self.checks.answered
            for report in self.reports(part, fates[step]):
                said += take(report)
        return said

    def reports(self, lease: Lease, fate: dict[int, int]) -> list[Report]:
        count = len(lease.indices)
        edges = sorted({0, count, *(cut for cut in self.cuts if cut < count)})
        parts = []
        for begin, end in pairwise(edges):
            indices = lease.indices[begin:end].tolist()
            outcomes = bytes(fate[index] for index in indices)
            seconds = np.array(indices, np.float32).tobytes()
            errors = {begin + k: f"no {index}" for k, index in enumerate(indices) if fate[index] == FAILED}
            is_last = end == count
            parts.append(Report(lease.lease_id, begin, outcomes, seconds, errors, {}, is_last, "worker-1"))
        return parts


fates = st.fixed_dictionaries(
    {
        "before": st.sampled_from([SKIPPED, SUCCESS, FAILED, LOST]),
        "run": st.sampled_from([SUCCESS, FAILED, LOST]),
        "after": st.sampled_from([SUCCESS, FAILED, LOST]),
    }
)


@given(
    blocks=st.lists(fates, min_size=1, max_size=12),
    before=st.booleans(),
    after=st.booleans(),
    cuts=st.sets(st.integers(1, 11)),
)
def test_each_block_ends_as_it_should(blocks: list[dict[str, int]], before: bool, after: bool, cuts: set[int]) -> None:
    indices = [10 * k + 3 for k in range(len(blocks))]
    by_step = {step: {index: block[step] for index, block in zip(indices, blocks, strict=True)} for step in blocks[0]}
    lease = Lease(1, "task", np.array(indices))
    said = Play(before=before, after=after, cuts=cuts).run(lease, by_step)
    outcomes, seconds, errors = [0] * len(blocks), [0.0] * len(blocks), {}
    for report in said:
        for position, outcome in enumerate(report.outcomes, report.begin):
            assert not (outcome and outcomes[position])
            outcomes[position] |= outcome
        for position, taken in enumerate(np.frombuffer(report.seconds, np.float32), report.begin):
            seconds[position] += float(taken)
        errors |= {position: text for position, text in report.errors.items() if outcomes[position] == FAILED}
    assert [report.finished for report in said] == [False] * (len(said) - 1) + [True]
    for position, (index, block) in enumerate(zip(indices, blocks, strict=True)):
        steps = [step for step, asked in (("before", before), ("run", True), ("after", after)) if asked]
        expected = next((block[step] for step in steps if block[step] != SUCCESS), SUCCESS)
        assert outcomes[position] == expected
        is_run = not before or block["before"] == SUCCESS
        assert seconds[position] == (index if is_run else 0)
        assert errors.get(position) == (f"no {index}" if expected == FAILED else None)


def test_a_lost_worker_leaves_suspects_among_the_blocks_that_it_was_to_run() -> None:
    play = Play(before=True, after=False, cuts=set())
    play.checks.submit(Lease(1, "task", np.arange(4)))
    play.checks.answered(Report(1, 0, bytes([SKIPPED, SUCCESS, SKIPPED, SUCCESS]), finished=True))
    (_, part) = play.steps[-1]
    assert part.indices.tolist() == [1, 3]
    (report,) = play.checks.reported(Report(1, 0, b"", finished=True, is_suspect=True, crash="gone"))
    assert (report.finished, report.is_suspect, report.crash, report.outcomes) == (True, True, "gone", b"")
