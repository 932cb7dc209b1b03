"""The scheduler against the brute-force oracle: random pipelines, random orders of events."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from bellis.geometry import Roi
from bellis.runtime.lease import Outcome
from bellis.runtime.scheduler import Scheduler
from bellis.tasks import Block, BlockStatus, Task
from bellis.testing.pipelines import do_nothing, pipelines
from bellis.testing.pipelines import tasks as task_strategy
from oracle import Key, Model, Oracle, grid_of, region

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

LIMITS = (1, 2, 3, 7, 1000)
MOST_LOST = 25


def thorough(examples: int) -> Any:
    return settings(
        max_examples=examples,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


@dataclass(frozen=True, slots=True)
class Script:
    """What happens in a run: choices and outcomes, each list used in a circle."""

    picks: tuple[int, ...]
    outcomes: tuple[str, ...]


def scripts(*outcomes: str) -> st.SearchStrategy[Script]:
    return st.builds(
        Script,
        st.lists(st.integers(0, 255), min_size=1, max_size=60).map(tuple),
        st.lists(st.sampled_from(outcomes), min_size=1, max_size=20).map(tuple),
    )


ANYTHING = st.one_of(
    scripts("SUCCESS", "SUCCESS", "SUCCESS", "SUCCESS", "FAILED", "LOST", "SKIPPED", "SUSPECT"),
    scripts("SUCCESS", "SUCCESS", "FAILED", "FAILED"),
)
NO_FAILURE = scripts("SUCCESS", "SUCCESS", "LOST", "SKIPPED", "SUSPECT")
ALL_WELL = Script(picks=(0,), outcomes=("SUCCESS",))


class Drive:
    """One run: scheduler and model take the same events, and must agree after each."""

    def __init__(
        self,
        tasks: Sequence[Task],
        script: Script = ALL_WELL,
        *,
        stray: bool = False,
        count_all_orphans: bool = True,
        already_done: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        self.oracle = Oracle(tasks, already_done)
        self.model = Model(self.oracle)
        self.scheduler = Scheduler(list(tasks), count_all_orphans=count_all_orphans)
        for task_id, indices in (already_done or {}).items():
            flags = np.zeros(len(self.oracle.grids[task_id].blocks), dtype=bool)
            flags[list(indices)] = True
            self.scheduler.mark_done(task_id, 0, flags)
        self.script = script
        self.stray = stray
        self.count_all_orphans = count_all_orphans
        self.processing: dict[str, list[int]] = {task_id: [] for task_id in self.oracle.tasks}
        self.blocks: dict[Key, Block] = {}
        self.log: list[tuple[str, tuple[int, ...]]] = []
        self.picked = self.ended = self.lost = 0

    def pick(self, n: int) -> int:
        self.picked += 1
        picks = self.script.picks
        return picks[self.picked % len(picks)] % n

    def outcome(self) -> str:
        self.ended += 1
        outcome = self.script.outcomes[self.ended % len(self.script.outcomes)]
        is_lost = outcome in {"LOST", "SUSPECT"}
        self.lost += is_lost
        return "SUCCESS" if is_lost and self.lost > MOST_LOST else outcome

    def run(self) -> Drive:
        self.check_counts()
        while True:
            ready = self.ready_tasks()
            running = [task_id for task_id, indices in self.processing.items() if indices]
            if not ready and not running:
                break
            if ready and (not running or self.pick(2)):
                self.acquire(ready[self.pick(len(ready))])
            else:
                self.finish(running[self.pick(len(running))])
            self.check_counts()
            if self.stray and self.pick(3) == 0:
                self.release_strangers()
        self.check_end()
        return self

    def ready_tasks(self) -> list[str]:
        found = [task.task_id for task in self.scheduler.get_ready_tasks()]
        assert len(found) == len(set(found))
        assert set(found) == {t for t in self.oracle.tasks if self.model.counts[t]["ready"]}
        for place, task_id in enumerate(found):
            late = [d for d in found[place + 1 :] if self.oracle.is_upstream(task_id, of=d)]
            assert not late, f"{task_id} is offered before {late}, which come after it"
        for task_id in self.oracle.tasks:
            if task_id not in found:
                assert self.scheduler.acquire_block(task_id) is None
                assert len(self.scheduler.acquire(task_id, 5)) == 0
        return found

    def acquire(self, task_id: str) -> None:
        if self.pick(3) == 0:
            block = self.scheduler.acquire_block(task_id)
            assert block is not None, f"{task_id} has ready blocks, but handed out none"
            self.check_block(task_id, block)
            assert block.index is not None
            self.blocks[task_id, block.index] = block
            indices = [block.index]
        else:
            limit = LIMITS[self.pick(len(LIMITS))]
            leased = self.scheduler.acquire(task_id, limit)
            assert leased.dtype == np.int64
            assert leased.ndim == 1
            indices = leased.tolist()
            assert 1 <= len(indices) <= limit
        self.log.append((task_id, tuple(indices)))
        self.check_retries_last(task_id, indices)
        for index in indices:
            key = (task_id, index)
            assert all(self.model.status[n] == "completed" for n in self.oracle.needs[key])
            self.model.lease(key)
            for other in self.processing[task_id]:
                assert not self.oracle.conflict(key, (task_id, other))
            self.processing[task_id].append(index)

    def check_block(self, task_id: str, block: Block) -> None:
        expected = self.oracle.blocks[task_id, block.index]
        assert block.block_id == (task_id, expected.number)
        assert region(block.read_roi) == expected.read
        assert region(block.write_roi) == expected.write
        assert block.status is BlockStatus.PROCESSING

    def check_retries_last(self, task_id: str, indices: list[int]) -> None:
        retries = [(task_id, index) in self.model.failed_last for index in indices]
        assert retries == sorted(retries), "a retry came before a block of the same lease"
        if any(retries):
            leased = {(task_id, index) for index in indices}
            left = set(self.model.having(task_id, "ready")) - leased - self.model.released
            assert not left, f"a retry came before {left}"

    def finish(self, task_id: str) -> None:
        running = self.processing[task_id]
        start = self.pick(len(running))
        ended = running[start : start + LIMITS[self.pick(len(LIMITS))]]
        self.model.event += 1
        single = (task_id, ended[0]) in self.blocks
        ended = ended[:1] if single else ended
        outcomes = [self.outcome() for _ in ended]
        if single and outcomes[0] in {"SUCCESS", "FAILED"}:
            self.finish_block((task_id, ended[0]), outcomes[0])
        else:
            self.release(task_id, ended, outcomes)
        for index, outcome in zip(ended, outcomes, strict=True):
            running.remove(index)
            self.blocks.pop((task_id, index), None)
            self.model.finish((task_id, index), outcome)

    def release(self, task_id: str, indices: list[int], outcomes: list[str]) -> None:
        statuses = np.array([Outcome[outcome] for outcome in outcomes], dtype=np.uint8)
        self.scheduler.release(task_id, np.array(indices, dtype=np.int64), statuses)

    def finish_block(self, key: Key, outcome: str) -> None:
        block = self.blocks[key]
        how = self.pick(3)
        if how == 1:  # the user's own changes are his own
            block.read_roi = block.write_roi = block.write_roi.shift(block.write_roi.shape)
        if how == 2:  # a block that was rebuilt elsewhere
            roi = self.oracle.tasks[key[0]].total_roi
            block = Block(roi, block.read_roi, block.write_roi, block_id=block.block_id)
        block.status = BlockStatus[outcome]
        changed = self.scheduler.release_block(block)
        for task_id, state in changed.items():
            assert state is self.scheduler.task_states[task_id]

    def release_strangers(self) -> None:
        """Release blocks that nobody holds: nothing may change."""
        task_ids = sorted(self.oracle.tasks)
        task_id = task_ids[self.pick(len(task_ids))]
        held = set(self.processing[task_id])
        strangers = [b.index for b in self.oracle.grids[task_id].blocks if b.index not in held]
        if not strangers:
            return
        start = self.pick(len(strangers))
        chosen = strangers[start : start + 3]
        before = self.counts()
        outcomes = ("SUCCESS", "SKIPPED", "FAILED", "LOST", "SUSPECT")
        self.release(task_id, chosen, [outcomes[self.pick(5)] for _ in chosen])
        self.scheduler.release_block(self.stranger(task_id, chosen[0], self.pick(2)))
        assert self.counts() == before

    def stranger(self, task_id: str, index: int, success: int) -> Block:
        number = self.oracle.blocks[task_id, index].number
        roi = self.oracle.tasks[task_id].total_roi
        block = Block(roi, roi, roi, block_id=(task_id, number))
        block.status = BlockStatus.SUCCESS if success else BlockStatus.FAILED
        return block

    def counts(self) -> dict[str, dict[str, int]]:
        return {
            task_id: {
                "pending": state.pending_count,
                "ready": state.ready_count,
                "processing": state.processing_count,
                "completed": state.completed_count,
                "failed": state.failed_count,
                "orphaned": state.orphaned_count,
            }
            for task_id, state in self.scheduler.task_states.items()
        }

    def check_counts(self) -> None:
        found = self.counts()
        assert set(found) == set(self.oracle.tasks)
        for task_id, counts in found.items():
            total = len(self.oracle.grids[task_id].blocks)
            assert self.scheduler.task_states[task_id].total_block_count == total
            assert sum(counts.values()) == total
            expected = dict(self.model.counts[task_id])
            # Blocks that nobody asked for yet may be known as pending only.
            assert counts["ready"] <= expected["ready"]
            for each in (counts, expected):
                each["pending"] += each.pop("ready")
                if not self.count_all_orphans:
                    each["pending"] += each.pop("orphaned")
            assert counts == expected, task_id
            if self.count_all_orphans:
                ended = counts["completed"] + counts["failed"] + counts["orphaned"]
                assert self.scheduler.task_states[task_id].is_done() is (ended == total)

    def check_end(self) -> None:
        ends = {"completed", "failed", "orphaned"}
        assert set(self.model.status.values()) <= ends, "blocks are left, none is ready"
        failed = [key for key, status in self.model.status.items() if status == "failed"]
        orphans = self.model.orphans_of(failed)
        for task_id, state in self.scheduler.task_states.items():
            if self.count_all_orphans:
                assert state.orphaned_count == sum(key[0] == task_id for key in orphans)
                assert state.is_done()
            assert state.skipped_count == sum(key[0] == task_id for key in self.model.skipped)


@pytest.mark.slow
@thorough(300)
@given(tasks=pipelines(), script=ANYTHING)
def test_any_run_agrees_with_the_oracle_after_every_event(tasks: list[Task], script: Script) -> None:
    Drive(tasks, script).run()


@pytest.mark.slow
@thorough(80)
@given(tasks=pipelines(), script=NO_FAILURE)
def test_without_failures_every_block_is_completed(tasks: list[Task], script: Script) -> None:
    drive = Drive(tasks, script).run()
    assert set(drive.model.status.values()) <= {"completed"}


@pytest.mark.slow
@thorough(100)
@given(tasks=pipelines(), script=ANYTHING)
def test_late_and_foreign_releases_change_nothing(tasks: list[Task], script: Script) -> None:
    Drive(tasks, script, stray=True).run()


@pytest.mark.slow
@thorough(60)
@given(tasks=pipelines(), script=ANYTHING)
def test_the_same_events_give_the_same_leases(tasks: list[Task], script: Script) -> None:
    one, two = (Drive(tasks, script).run() for _ in range(2))
    assert one.log == two.log
    assert one.counts() == two.counts()


@pytest.mark.slow
@thorough(60)
@given(tasks=pipelines(), script=ANYTHING)
def test_leases_are_the_same_whether_orphans_are_counted_or_not(tasks: list[Task], script: Script) -> None:
    one, two = (Drive(tasks, script, count_all_orphans=count).run() for count in (True, False))
    assert one.log == two.log


@pytest.mark.slow
@thorough(40)
@given(tasks=pipelines(), script=ANYTHING)
def test_the_last_tasks_alone_bring_in_all_that_they_need(tasks: list[Task], script: Script) -> None:
    upstream = {up.task_id for task in tasks for up in task.requires()}
    last = [task for task in tasks if task.task_id not in upstream]
    assert set(Drive(last, script).run().oracle.tasks) == {task.task_id for task in tasks}


@pytest.mark.slow
@thorough(150)
@given(tasks=pipelines(), script=ANYTHING, bits=st.lists(st.integers(0, 2**32 - 1), min_size=4))
def test_blocks_that_an_earlier_run_completed_are_not_run_and_all_others_end(
    tasks: list[Task], script: Script, bits: list[int]
) -> None:
    done = {
        task.task_id: [i for i in range(len(grid_of(task).blocks)) if some >> i & 1]
        for task, some in zip(tasks, bits, strict=False)
    }
    Drive(tasks, script, already_done=done).run()


@pytest.mark.slow
@thorough(80)
@given(task=task_strategy(skips=False), script=ANYTHING, corner=st.integers(0, 6))
def test_a_function_that_names_regions_to_skip_skips_the_blocks_that_write_only_there(
    task: Task, script: Script, corner: int
) -> None:
    begin = np.array(task.total_write_roi.begin) + corner
    end = begin + 3

    def nothing_to_do(boxes: Any) -> Any:
        return ((boxes[:, 1] <= begin) | (boxes[:, 0] >= end)).any(axis=1)

    Drive([replace(task, skip_mask=nothing_to_do)], script).run()


@pytest.mark.slow
@thorough(80)
@given(tasks=pipelines(), script=ANYTHING)
def test_needs_of_many_blocks_that_are_counted_down_agree_with_the_oracle(tasks: list[Task], script: Script) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bellis.runtime.readiness.MOST_GATHERED", 1)
        Drive(tasks, script).run()


class Ordered(Drive):
    """A run that also asks for the order in which blocks became ready; nothing fails or is lost."""

    def acquire(self, task_id: str) -> None:
        waiting = self.model.having(task_id, "ready")
        super().acquire(task_id)
        leased = [(task_id, index) for index in self.log[-1][1]]
        left = set(waiting) - set(leased)
        ranks = [self.rank(key) for key in leased]
        assert ranks == sorted(ranks)
        assert not left or ranks[-1] <= min(self.rank(key) for key in left)

    def rank(self, key: Key) -> tuple[int, int, int]:
        event = self.model.ready_since[key]
        block = self.oracle.blocks[key]
        return (event, 0, 0) if event else (0, block.level, block.index)


@pytest.mark.slow
@thorough(100)
@given(tasks=pipelines(), script=scripts("SUCCESS"))
def test_roots_come_in_c_order_level_by_level_and_the_others_as_they_became_ready(
    tasks: list[Task], script: Script
) -> None:
    Ordered(tasks, script).run()


def line(
    task_id: str,
    total: tuple[int, int],
    write: int,
    *,
    context: tuple[int, int] = (0, 0),
    upstream: Sequence[Task] = (),
    **kwargs: Any,
) -> Task:
    """A one-dimensional task; ``total`` is offset and shape."""
    return Task(
        task_id,
        Roi((total[0],), (total[1],)),
        Roi((-context[0],), (context[0] + write + context[1],)),
        Roi((0,), (write,)),
        do_nothing,
        upstream_tasks=upstream,
        **kwargs,
    )


def fail(scheduler: Scheduler, task_id: str, index: int, attempts: int) -> None:
    """Let one block fail; every other block that comes before it succeeds."""
    while attempts:
        leased = scheduler.acquire(task_id, 1000).tolist()
        assert leased
        attempts -= index in leased
        back = [Outcome.FAILED if other == index else Outcome.SUCCESS for other in leased]
        scheduler.release(task_id, np.array(leased, dtype=np.int64), np.array(back, dtype=np.uint8))


@pytest.mark.parametrize("context", [(3, 0), (0, 3), (5, 1), (1, 5)])
@pytest.mark.parametrize("conflict", [True, False])
def test_a_chain_with_different_contexts_at_begin_and_end_runs_to_its_end(
    context: tuple[int, int], conflict: bool
) -> None:
    first = line("first", (0, 20), 2)
    second = line("second", (0, 20), 2, context=context, upstream=[first], read_write_conflict=conflict)
    drive = Drive([first, second]).run()
    assert set(drive.model.status.values()) == {"completed"}


def test_an_orphan_of_two_failures_is_counted_once() -> None:
    first = line("first", (0, 4), 1, max_retries=0)
    second = line("second", (0, 4), 4, upstream=[first])
    scheduler = Scheduler([second])
    leased = scheduler.acquire("first", 4)
    scheduler.release("first", leased, np.full(4, Outcome.FAILED, dtype=np.uint8))
    assert scheduler.task_states["first"].failed_count == 4
    assert scheduler.task_states["second"].orphaned_count == 1
    assert scheduler.task_states["second"].pending_count == 0


def test_an_orphan_at_the_end_of_a_diamond_is_counted_once() -> None:
    top = line("top", (0, 6), 2, max_retries=0)
    left = line("left", (0, 6), 2, upstream=[top])
    right = line("right", (0, 6), 3, upstream=[top])
    bottom = line("bottom", (0, 6), 2, upstream=[left, right])
    scheduler = Scheduler([bottom])
    fail(scheduler, "top", 0, attempts=1)
    orphans = {t: state.orphaned_count for t, state in scheduler.task_states.items()}
    assert orphans == {"top": 0, "left": 1, "right": 1, "bottom": 2}


def test_what_valid_leaves_out_is_not_waited_for() -> None:
    first = line("first", (0, 10), 4, fit="valid")
    second = line("second", (0, 10), 5, upstream=[first], fit="shrink")
    third = line("third", (8, 2), 2, upstream=[first])
    scheduler = Scheduler([second, third])
    assert [task.task_id for task in scheduler.get_ready_tasks()] == ["third", "first"]
    Drive([second, third]).run()


def test_a_total_smaller_than_the_context_is_done_at_once() -> None:
    first = line("first", (0, 5), 2, context=(3, 3))
    second = line("second", (0, 4), 2, upstream=[first])
    scheduler = Scheduler([first, second])
    assert scheduler.task_states["first"].total_block_count == 0
    assert scheduler.task_states["first"].is_done()
    assert [task.task_id for task in scheduler.get_ready_tasks()] == ["second"]
    assert scheduler.acquire("second", 10).tolist() == [0, 1]


def test_max_retries_of_two_means_three_attempts() -> None:
    scheduler = Scheduler([line("task", (0, 3), 1, read_write_conflict=False, max_retries=2)])
    fail(scheduler, "task", 1, attempts=2)
    assert scheduler.task_states["task"].completed_count == 2
    assert scheduler.task_states["task"].ready_count == 1
    fail(scheduler, "task", 1, attempts=1)
    assert scheduler.task_states["task"].failed_count == 1
    assert scheduler.acquire("task", 10).tolist() == []


def test_blocks_that_overlap_never_run_together_even_if_those_between_them_are_skipped() -> None:
    unit = Roi((0, 0), (1, 1))
    mask = np.array([[False, True], [False, False]])
    task = Task("task", Roi((-1, -1), (4, 4)), unit.grow(1, 1), unit, do_nothing, skip_mask=mask)
    scheduler = Scheduler([task])
    held: list[int] = []
    for _ in range(3):
        leased = scheduler.acquire("task", 4)
        assert len(leased) == 1, f"{held} and {leased} overlap"
        held += leased.tolist()
        scheduler.release("task", leased, np.array([Outcome.SUCCESS], dtype=np.uint8))
    assert held == [3, 2, 0]


def test_a_lost_block_is_no_attempt() -> None:
    scheduler = Scheduler([line("task", (0, 1), 1, max_retries=0)])
    for _ in range(5):
        leased = scheduler.acquire("task", 1)
        scheduler.release("task", leased, np.array([Outcome.LOST], dtype=np.uint8))
    assert scheduler.acquire("task", 1).tolist() == [0]
    assert scheduler.task_states["task"].failed_count == 0


def test_an_index_that_is_twice_in_one_release_counts_once() -> None:
    scheduler = Scheduler([line("task", (0, 2), 1, max_retries=1)])
    scheduler.acquire("task", 2)
    twice = np.array([0, 0], dtype=np.int64)
    scheduler.release("task", twice, np.full(2, Outcome.FAILED, dtype=np.uint8))
    assert scheduler.task_states["task"].failed_count == 0
    assert scheduler.task_states["task"].ready_count == 1
    assert scheduler.acquire("task", 2).tolist() == [0]
    scheduler.release("task", twice, np.full(2, Outcome.SUCCESS, dtype=np.uint8))
    assert scheduler.task_states["task"].completed_count == 1


def test_a_block_that_reads_two_thousand_others_waits_for_the_last_of_them() -> None:
    first = line("first", (0, 2000), 1)
    second = line("second", (0, 2000), 2000, upstream=[first])
    scheduler = Scheduler([second])
    leased = scheduler.acquire("first", 2000)
    success = np.full(2000, Outcome.SUCCESS, dtype=np.uint8)
    scheduler.release("first", leased[1:], success[1:])
    assert scheduler.acquire_block("second") is None
    scheduler.release("first", leased[:1], success[:1])
    assert scheduler.acquire("second", 1).tolist() == [0]


@pytest.mark.parametrize("dims", [1, 3])
def test_a_thousand_million_blocks_are_scheduled_in_little_memory(dims: int) -> None:
    import psutil

    side = 10 ** (9 // dims)
    process = psutil.Process()
    before = process.memory_info().rss
    unit = Roi((0,) * dims, (1,) * dims)
    total = Roi((0,) * dims, (side,) * dims)
    scheduler = Scheduler([Task("task", total, unit, unit, do_nothing)])
    assert scheduler.acquire("task", 4).tolist() == [0, 1, 2, 3]
    assert scheduler.task_states["task"].ready_count == 10**9 - 4
    assert process.memory_info().rss - before < 200 * 2**20


@example(tasks=[line("a", (0, 7), 2, context=(4, 1), fit="overhang")])
@thorough(10)
@given(tasks=pipelines(max_tasks=1))
def test_a_failure_orphans_what_waits_for_it_inside_its_own_task(tasks: list[Task]) -> None:
    Drive(tasks, Script(picks=(1,), outcomes=("FAILED",))).run()
