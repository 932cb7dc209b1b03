"""The run loop against an engine that does what a test says, without processes and clocks."""

from __future__ import annotations

import itertools
from collections import deque
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from bellis.errors import DeadlockError
from bellis.runtime.engine import Capacity, EngineEvent, Notice, ProgramRefused, WorkerEnded
from bellis.runtime.events import BlockFailed, Message, TaskFinished, TaskProgress, TaskStopped, WorkerLost
from bellis.runtime.lease import Lease, Outcome, Report
from bellis.runtime.loop import MOST_CRASHES, MOST_FAILURES, Loop
from bellis.runtime.scheduler import Scheduler
from bellis.runtime.sizing import LeaseSizes
from bellis.tasks import Pipeline
from bellis.testing.blocks import Recorder, line

if TYPE_CHECKING:
    from collections.abc import Callable

GOOD, BAD, LOST, NONE = Outcome.SUCCESS, Outcome.FAILED, Outcome.LOST, Outcome.NONE
Decide = "Callable[[str, int], Outcome]"


def always(_task_id: str, _index: int) -> Outcome:
    return GOOD


class Scripted:
    """An engine whose blocks become what ``decide`` says; one lease ends per turn."""

    def __init__(self, decide: Any = always, *, error: str = "ValueError: no", seconds: float = 0.001) -> None:
        self.decide = decide
        self.error = error
        self.seconds = seconds
        self.leases: deque[Lease] = deque()
        self.most_held: dict[str, int] = {}
        self.most_in_all = 0
        self.given: list[tuple[str, int]] = []
        self.extra: deque[EngineEvent] = deque()
        self.before_turn: Callable[[], object] = lambda: None
        self.drained = False
        self.hurries: list[dict[str, bool]] = []

    def start(self, setup: Any) -> Capacity:
        raise AssertionError("a loop is given an engine that was started")

    def submit(self, lease: Lease) -> None:
        self.leases.append(lease)
        self.given += [(lease.task_id, index) for index in lease.indices.tolist()]
        held = sum(one.task_id == lease.task_id for one in self.leases)
        self.most_held[lease.task_id] = max(held, self.most_held.get(lease.task_id, 0))
        self.most_in_all = max(self.most_in_all, len(self.leases))

    def events(self, timeout_s: float) -> list[EngineEvent]:
        assert timeout_s > 0
        self.before_turn()
        if self.extra:
            return [self.extra.popleft()]
        if not self.leases:
            return []
        return [self.end(self.leases.popleft())]

    def end(self, lease: Lease, **options: Any) -> Report:
        indices = lease.indices.tolist()
        outcomes = bytes(LOST if self.drained else self.decide(lease.task_id, index) for index in indices)
        errors = {at: self.error.format(index=indices[at]) for at, outcome in enumerate(outcomes) if outcome == BAD}
        seconds = np.full(len(indices), self.seconds, np.float32).tobytes()
        return Report(lease.lease_id, 0, outcomes, seconds, errors, finished=True, worker="worker-0", **options)

    def hurry(self, **wishes: bool) -> None:
        self.hurries.append(wishes)

    def drain(self) -> None:
        self.drained = True

    def close(self) -> None: ...


def looped(
    tasks: Any, engine: Scripted, *, slots: int = 2, fail_fast: int | None = 8, **options: Any
) -> tuple[Loop, Scheduler, Recorder]:
    pipeline, recorder = Pipeline.of(tasks), Recorder()
    scheduler = Scheduler(pipeline)
    settings = {"journal": None, "resources": {}, "log_dir": None, "tasks": pipeline.tasks, **options}
    loop = Loop(scheduler, engine, Capacity(slots=slots), notify=recorder.notify, fail_fast=fail_fast, **settings)  # type: ignore[arg-type]
    return loop, scheduler, recorder


def run(tasks: Any, engine: Scripted, **options: Any) -> tuple[Loop, Scheduler, Recorder]:
    made = looped(tasks, engine, **options)
    made[0].run()
    return made


def counted(scheduler: Scheduler, task_id: str = "task") -> tuple[int, int, int]:
    state = scheduler.task_states[task_id]
    return state.completed_count, state.failed_count, state.orphaned_count


# Leases ------------------------------------------------------------------------------------------------------------


def test_every_block_is_leased_once_when_all_goes_well() -> None:
    engine = Scripted()
    _, scheduler, _ = run(line(print, 5000), engine)
    assert scheduler.is_done()
    assert sorted(engine.given) == [("task", index) for index in range(5000)]


def test_short_leases_are_two_in_flight_per_slot_and_long_ones_are_not() -> None:
    short, long = Scripted(seconds=1e-6), Scripted(seconds=1.0)
    run(line(print, 100_000), short)
    run(line(print, 50), long)
    assert short.most_in_all == 4
    assert long.most_in_all == 2


@pytest.mark.parametrize("seconds", [1e-6, 0.5])
@pytest.mark.parametrize("num_workers", [1, 2, 3])
def test_no_more_leases_of_a_task_are_out_than_it_may_have_workers(num_workers: int, seconds: float) -> None:
    engine = Scripted(seconds=seconds)
    run(line(print, 500, task_id="a", num_workers=num_workers) | line(print, 500, task_id="b"), engine, slots=4)
    assert engine.most_held["a"] <= num_workers


def test_a_task_holds_no_more_of_a_resource_than_there_is() -> None:
    engine = Scripted(seconds=1e-6)
    task = line(print, 3000, num_workers=8, resources={"gpu": 2, "disk": 1})
    run(task, engine, slots=8, resources={"gpu": 5, "disk": 9})
    assert engine.most_held["task"] == 2


def test_tasks_share_what_there_is_of_a_resource() -> None:
    engine = Scripted(seconds=1e-6)
    tasks = [line(print, 300, task_id=name, num_workers=8, resources={"gpu": 1}) for name in "abc"]
    run(tasks, engine, slots=8, resources={"gpu": 2})
    assert engine.most_in_all == 2
    assert len(engine.given) == 900


def test_a_retry_travels_alone() -> None:
    failed: set[int] = set()

    def decide(_task_id: str, index: int) -> Outcome:
        if index % 50 == 3 and index not in failed:
            failed.add(index)
            return BAD
        return GOOD

    engine = Scripted(decide)
    sizes: list[tuple[int, ...]] = []
    submit = engine.submit

    def noting(lease: Lease) -> None:
        sizes.append(tuple(lease.indices.tolist()))
        submit(lease)

    engine.submit = noting  # type: ignore[method-assign]
    _, scheduler, _ = run(line(print, 500), engine)
    assert counted(scheduler) == (500, 0, 0)
    again = [indices for indices in sizes[1:] if set(indices) & failed]
    assert [indices for indices in again[-len(failed) :] if len(indices) > 1] == []


# Reports -----------------------------------------------------------------------------------------------------------


def test_blocks_of_a_lease_that_were_never_reported_are_leased_again_and_count_no_attempt() -> None:
    seen: set[int] = set()

    def decide(_task_id: str, index: int) -> Outcome:
        if index % 3 == 0 and index not in seen:
            seen.add(index)
            return NONE
        return GOOD

    engine = Scripted(decide)
    loop, scheduler, _ = run(line(print, 300, max_retries=0), engine)
    assert counted(scheduler) == (300, 0, 0)
    assert len(engine.given) == 400
    assert loop.failures("task") == ()


def test_a_late_report_changes_nothing() -> None:
    engine = Scripted()
    late: list[Report] = []
    end = engine.end

    def twice(lease: Lease, **options: Any) -> Report:
        report = end(lease, **options)
        engine.extra.append(Report(lease.lease_id, 0, bytes([BAD]) * len(lease.indices), finished=True))
        late.append(report)
        return report

    engine.end = twice  # type: ignore[method-assign]
    _, scheduler, recorder = run(line(print, 100), engine)
    assert counted(scheduler) == (100, 0, 0)
    assert recorder.of(BlockFailed) == []


def test_the_first_that_is_said_of_a_block_counts() -> None:
    engine = Scripted()
    end = engine.end

    def contradicting(lease: Lease, **options: Any) -> Report:
        engine.extra.append(end(lease, **options))
        return Report(lease.lease_id, 0, bytes([GOOD]), b"")

    engine.end = contradicting  # type: ignore[method-assign]
    engine.decide = lambda _task_id, index: BAD if index == 0 else GOOD
    _, scheduler, _ = run(line(print, 20, max_retries=0), engine)
    assert counted(scheduler) == (20, 0, 0)


def test_progress_tells_of_each_block_once() -> None:
    _, _, recorder = run(line(print, 3000), Scripted())
    told = np.concatenate([event.indices for event in recorder.of(TaskProgress)])
    assert sorted(told.tolist()) == list(range(3000))
    assert sum(len(event.seconds) for event in recorder.of(TaskProgress)) == 3000


def test_the_end_of_each_task_is_told_once_with_its_counts() -> None:
    first = line(print, 30, task_id="first")
    _, _, recorder = run(line(print, 30, task_id="second", upstream_tasks=[first]), Scripted())
    assert [(event.task_id, event.counts.completed) for event in recorder.of(TaskFinished)] == [
        ("first", 30),
        ("second", 30),
    ]


def test_a_task_without_blocks_is_finished_at_the_start() -> None:
    _, scheduler, recorder = run(line(print, 0), Scripted())
    assert scheduler.is_done()
    assert [event.task_id for event in recorder.of(TaskFinished)] == ["task"]


def test_durations_are_kept_by_block() -> None:
    loop, _, _ = run(line(print, 100), Scripted(seconds=0.25))
    indices, seconds = loop.durations("task")
    assert sorted(indices.tolist()) == list(range(100))
    assert set(seconds.tolist()) == {0.25}
    assert loop.records["task"].seconds == pytest.approx(25)


# Failures ----------------------------------------------------------------------------------------------------------


def test_failures_keep_their_last_error_and_their_attempts() -> None:
    engine = Scripted(lambda _, index: BAD if index in {40, 50} else GOOD, error="ValueError: block {index}")
    loop, scheduler, recorder = run(line(print, 100, max_retries=1), engine)
    assert counted(scheduler) == (98, 2, 0)
    assert [(one.index, one.attempts, one.error) for one in loop.failures("task")] == [
        (40, 2, "ValueError: block 40"),
        (50, 2, "ValueError: block 50"),
    ]
    assert [event.final for event in recorder.of(BlockFailed)] == [False, False, True, True]


def test_a_block_that_succeeds_at_last_is_no_failure() -> None:
    tried: list[int] = []

    def decide(_task_id: str, index: int) -> Outcome:
        tried.append(index)
        return BAD if index == 7 and tried.count(7) < 3 else GOOD

    loop, scheduler, _ = run(line(print, 30), Scripted(decide))
    assert counted(scheduler) == (30, 0, 0)
    assert loop.failures("task") == ()


def test_only_so_many_failures_are_kept_in_full() -> None:
    engine = Scripted(lambda _, index: BAD if index > 10 else GOOD)
    loop, scheduler, _ = run(line(print, MOST_FAILURES + 500, max_retries=0), engine)
    assert counted(scheduler) == (11, MOST_FAILURES + 489, 0)
    assert len(loop.failures("task")) == MOST_FAILURES


@pytest.mark.parametrize("fail_fast", [1, 3, 8])
def test_a_task_whose_first_blocks_all_fail_alike_is_stopped_with_the_error(fail_fast: int) -> None:
    engine = Scripted(lambda task_id, _: BAD if task_id == "bad" else GOOD)
    bad = line(print, 10_000, task_id="bad")
    after = line(print, 10, task_id="after", upstream_tasks=[bad])
    loop, scheduler, recorder = run([after, line(print, 10, task_id="good")], engine, fail_fast=fail_fast)
    stopped = loop.records["bad"].stopped
    assert stopped is not None
    assert f"first {fail_fast} blocks all failed alike" in stopped
    assert "ValueError: no" in stopped
    assert "'bad'" in (loop.records["after"].stopped or "")
    assert [event.task_id for event in recorder.of(TaskStopped)] == ["bad", "after"]
    assert counted(scheduler, "good") == (10, 0, 0)
    assert scheduler.is_done()
    assert sum(task_id == "bad" for task_id, _ in engine.given) < 20
    assert len(loop.failures("bad")) >= fail_fast


@pytest.mark.parametrize(
    ("decide", "error", "fail_fast"),
    [
        (lambda _, index: GOOD if index == 0 else BAD, "ValueError: no", 8),  # one succeeded
        (lambda _task_id, _index: BAD, "Error{index}: no", 8),  # not alike
        (lambda _task_id, _index: BAD, "ValueError: no", None),
    ],
)
def test_a_task_goes_on_when_its_first_blocks_do_not_all_fail_alike(
    decide: Any, error: str, fail_fast: int | None
) -> None:
    loop, scheduler, _ = run(line(print, 50, max_retries=0), Scripted(decide, error=error), fail_fast=fail_fast)
    assert loop.records["task"].stopped is None
    assert counted(scheduler)[1] >= 49


def test_a_task_that_ends_worker_after_worker_is_stopped() -> None:
    engine = Scripted(lambda _task_id, _index: BAD)
    end = engine.end
    engine.end = lambda lease: end(lease, crash="was killed by SIGKILL")  # type: ignore[method-assign]
    loop, scheduler, _ = run(line(print, 100, max_retries=100), engine, fail_fast=None)
    stopped = loop.records["task"].stopped
    assert stopped is not None
    assert f"{MOST_CRASHES} workers in a row ended" in stopped
    assert "was killed by SIGKILL" in stopped
    assert scheduler.is_done()


def test_a_few_blocks_that_end_their_workers_have_all_their_attempts() -> None:
    class Ending(Scripted):
        def end(self, lease: Lease, **options: Any) -> Report:
            is_bad = any(index % 10 == 3 for index in lease.indices.tolist())
            return super().end(lease, **options, **({"crash": "was killed by SIGKILL"} if is_bad else {}))

    engine = Ending(lambda _, index: BAD if index % 10 == 3 else GOOD)
    loop, scheduler, recorder = run(line(print, 40, max_retries=5), engine, fail_fast=None)
    assert loop.records["task"].stopped is None
    assert counted(scheduler) == (36, 4, 0)
    assert len(recorder.of(BlockFailed)) == 4 * 6


def test_a_task_that_can_not_be_loaded_is_stopped_and_no_other() -> None:
    engine = Scripted()
    bad = line(print, 50, task_id="bad", priority=1)

    def end(lease: Lease) -> Report:
        if lease.task_id != "bad":
            return Scripted.end(engine, lease)
        engine.extra.append(Report(lease.lease_id, 0, b"", finished=True))
        return ProgramRefused("bad", "ImportError: no module")  # type: ignore[return-value]

    engine.end = end  # type: ignore[method-assign]
    loop, scheduler, _ = run([bad, line(print, 50, task_id="good")], engine)
    assert "ImportError: no module" in (loop.records["bad"].stopped or "")
    assert counted(scheduler, "good") == (50, 0, 0)
    assert counted(scheduler, "bad") == (0, 0, 50)


def test_observers_are_told_of_a_worker_that_ended() -> None:
    engine = Scripted()
    engine.extra.append(WorkerEnded("worker-1", "crashed with SIGSEGV"))
    _, scheduler, recorder = run(line(print, 5), engine)
    (lost,) = recorder.of(WorkerLost)
    assert (lost.worker, lost.reason, lost.task_id) == ("worker-1", "crashed with SIGSEGV", None)
    assert counted(scheduler) == (5, 0, 0)


def test_nothing_ready_nothing_running_and_not_done_is_an_error_that_names_blocks() -> None:
    loop, scheduler, _ = looped(line(print, 5), Scripted())
    scheduler.start()
    scheduler.task_states["task"].ready_count = 0
    scheduler._tasks["task"].cursor = None
    with pytest.raises(DeadlockError, match="5 of task 'task'"):
        loop.run()


# Interrupts --------------------------------------------------------------------------------------------------------


def test_after_an_interrupt_nothing_is_leased_and_the_engine_is_told() -> None:
    engine = Scripted(seconds=1.0)
    loop, scheduler, recorder = looped(line(print, 100), engine)
    turns = iter(range(10**6))
    engine.before_turn = lambda: loop.interrupt() if next(turns) == 5 else None
    loop.run()
    assert loop.is_interrupted
    assert engine.drained
    given = len(engine.given)
    assert given < 20
    state = scheduler.task_states["task"]
    assert (state.completed_count > 0, state.processing_count) == (True, 0)
    assert state.ready_count + state.completed_count == 100
    assert [event.text.partition(":")[0] for event in recorder.of(Message)] == ["stopping"]


def test_a_second_interrupt_does_not_wait_for_what_runs() -> None:
    engine = Scripted()
    loop, scheduler, _ = looped(line(print, 100), engine)

    def interrupt() -> None:
        loop.interrupt()
        engine.leases.clear()  # these blocks would run for ever

    engine.before_turn = interrupt
    loop.run()
    assert scheduler.task_states["task"].processing_count > 0
    assert loop.is_interrupted


def test_an_interrupt_before_anything_ran_is_no_error() -> None:
    engine = Scripted()
    loop, scheduler, _ = looped(line(print, 100), engine)
    loop.interrupt()
    loop.run()
    assert engine.given == []
    assert not scheduler.is_done()


# Workers that come and go ------------------------------------------------------------------------------------------


def test_workers_that_join_are_given_leases_and_those_that_leave_are_not() -> None:
    engine = Scripted(seconds=1.0)
    engine.extra.append(Capacity(slots=5))
    run(line(print, 60, num_workers=9), engine)
    assert engine.most_in_all == 5
    engine = Scripted(seconds=1.0)
    engine.extra.append(Capacity(slots=1))
    loop, _, _ = run(line(print, 60, num_workers=9), engine, slots=1)
    assert engine.most_in_all == 1
    assert loop.slots == 1


def test_a_run_without_workers_waits_for_one() -> None:
    engine = Scripted()
    turns = []

    def join() -> None:
        turns.append(len(engine.given))
        if len(turns) == 3:
            engine.extra.append(Capacity(slots=1))

    engine.before_turn = join
    _, scheduler, _ = run(line(print, 5), engine, slots=0)
    assert turns[:3] == [0, 0, 0]
    assert scheduler.is_done()


def test_resources_that_workers_bring_are_counted_with_them() -> None:
    engine = Scripted(seconds=1.0)
    engine.extra.append(Capacity(slots=4, resources={"gpu": 3}))
    run(line(print, 30, num_workers=9, resources={"gpu": 1}), engine, slots=4)
    assert engine.most_held["task"] == 3


def test_what_the_user_says_of_resources_stands_whatever_workers_bring() -> None:
    engine = Scripted(seconds=1.0)
    engine.extra.append(Capacity(slots=4, resources={"gpu": 3}))
    run(line(print, 30, num_workers=9, resources={"gpu": 1}), engine, slots=4, resources={"gpu": 2})
    assert engine.most_held["task"] == 2


@pytest.mark.parametrize("slots", [1, 2, 40])
def test_a_block_that_takes_its_machine_with_it_is_found_by_halving_and_alone_fails(slots: int) -> None:
    lost = []

    class Losing(Scripted):
        def end(self, lease: Lease, **options: Any) -> Report:
            if 777 not in lease.indices:
                return super().end(lease, **options)
            lost.append(len(lease.indices))
            return Report(lease.lease_id, 0, b"", finished=True, is_suspect=True, crash="node 7 is gone")

    _, scheduler, recorder = run(
        line(print, 20_000, num_workers=slots, max_retries=1), Losing(seconds=1e-6), slots=slots
    )
    assert counted(scheduler) == (19_999, 1, 0)
    assert [(event.index, event.attempt) for event in recorder.of(BlockFailed)] == [(777, 1), (777, 2)]
    assert all("node 7 is gone" in event.error for event in recorder.of(BlockFailed))
    assert lost[-2:] == [1, 1]
    assert all(later <= (earlier + 1) // 2 for earlier, later in itertools.pairwise(lost) if earlier > 1)


def test_machines_that_are_lost_at_the_start_fail_no_block_and_stop_no_task() -> None:
    lost = []

    class Losing(Scripted):
        def end(self, lease: Lease, **options: Any) -> Report:
            if len(lost) < 2 * 12:
                lost.append(lease.lease_id)
                return Report(lease.lease_id, 0, b"", finished=True, is_suspect=True, crash="the job has ended")
            return super().end(lease, **options)

    _, scheduler, recorder = run(line(print, 50, num_workers=12, max_retries=0), Losing(), slots=12)
    assert counted(scheduler) == (50, 0, 0)
    assert recorder.of(TaskStopped) == []
    assert len(lost) == 24


def test_a_capacity_that_comes_later_says_how_large_leases_are_from_then_on() -> None:
    engine = Scripted(seconds=0.01)
    sizes = LeaseSizes(target_s=10.0, least_s=1.0, short_s=20.0)
    engine.extra.append(Capacity(slots=1, sizes=sizes))
    loop, _, _ = run(line(print, 20_000), engine, slots=1)
    assert loop.records["task"].pace.size(remaining=10**6, ready=10**6, slots=1) in {1000, 1001}


def test_what_an_engine_wants_told_is_a_message() -> None:
    engine = Scripted()
    engine.extra.append(Notice("two workers are waiting"))
    _, _, recorder = run(line(print, 5), engine)
    assert [event.text for event in recorder.of(Message)] == ["two workers are waiting"]
