"""What every engine must do: tests that a plugin subclasses."""
# ruff: noqa: D102, S101, T201  # the name of a test says what it does; a test asserts; its blocks print

from __future__ import annotations

import os
import re
import signal
import sys
from collections import Counter
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

import bellis
from bellis.runtime.events import BlockFailed, Message, TaskProgress, WorkerLost
from bellis.tasks import Pipeline, Task
from bellis.testing.blocks import (
    DEADLINE_S,
    Belongings,
    Notes,
    Recorder,
    counting,
    dying,
    failing_once,
    interrupt_self,
    line,
    noting,
)

if TYPE_CHECKING:
    from pathlib import Path

    from bellis.runtime.engine import Engine
    from bellis.runtime.report import RunReport
    from bellis.tasks import Block


class EngineTests:
    """What every engine must do.

    Subclass it, give it an `engine`, and say in the class attributes what the engine can't do::

        class TestMyEngine(EngineTests):
            def engine(self):
                return MyEngine()

    For failures that show values, let pytest rewrite it, in a ``conftest.py``:
    ``pytest.register_assert_rewrite("bellis.testing.engines")``.
    """

    workers: ClassVar[int] = 2
    """How many blocks the engine is asked to run at the same time."""
    survives_dying_workers: ClassVar[bool] = True
    """Whether blocks run in processes of their own, which may die."""
    ends_blocks: ClassVar[bool] = True
    """Whether a block that takes too long is ended."""
    catches_output: ClassVar[bool] = True
    """Whether what blocks print goes to logs."""

    def engine(self) -> str | Engine:
        """Return the name of the engine, or a new one for each call."""
        raise NotImplementedError("a suite of tests for an engine has a method engine()")

    @pytest.fixture(autouse=True)
    def _place(self, tmp_path: Path) -> None:
        self.folder = tmp_path
        self.notes = Notes(tmp_path / "notes")

    def run(self, tasks: Any, **options: Any) -> RunReport:
        """Run tasks on the engine, quietly."""
        given = {"workers": self.workers, "log_dir": self.folder / "logs", "progress": False, **options}
        return bellis.run(tasks, self.engine(), **given)

    def needs(self, *, ability: bool) -> None:
        """Skip a test of what the engine can't do."""
        if not ability:
            pytest.skip("this engine can't do that, and says so")

    # Order -------------------------------------------------------------------------------------------------------

    def test_every_block_runs_once(self) -> None:
        report = self.run(line(noting(self.notes), 200))
        assert report.ok
        assert report.tasks["task"].counts.completed == 200
        assert sorted(map(int, self.notes.lines())) == list(range(200))

    def test_neighbours_that_conflict_never_run_at_the_same_time(self) -> None:
        notes = self.notes

        def work(block: Block) -> None:
            notes.add(f"begin {block.index}")
            sleep(0.001)
            notes.add(f"end {block.index}")

        assert self.run(line(work, 60, context=(1, 1), read_write_conflict=True)).ok
        running: set[int] = set()
        for what, index in (text.split() for text in notes.lines()):
            if what == "begin":
                assert not running & {int(index) - 1, int(index) + 1}
                running.add(int(index))
            else:
                running.remove(int(index))

    def test_a_block_runs_after_all_that_it_reads(self) -> None:
        notes = self.notes

        def read(block: Block) -> None:
            done = {int(text) for text in notes.lines()}
            wanted = set(range(max(0, block.read_roi.begin[0]), min(80, block.read_roi.end[0])))
            if not wanted <= done:
                raise ValueError(f"{wanted - done} are missing")

        before = line(noting(notes), 80, task_id="before")
        after = line(read, 80, task_id="after", context=(3, 1), upstream_tasks=[before], max_retries=0)
        report = self.run(after)
        assert not report.failures
        assert report.ok

    def test_a_block_that_reads_many_runs_after_the_last_of_them(self) -> None:
        first = line(noting(self.notes), 500, task_id="first")
        last = Task("last", first.total_roi, first.total_roi, first.total_roi, counting(self.notes), results=True)
        report = self.run(first + last)
        assert report.results("last") == {0: 500}

    # Failures ----------------------------------------------------------------------------------------------------

    def test_bad_blocks_do_not_cost_workers_and_the_rest_finishes(self) -> None:
        notes, recorder = self.notes, Recorder()

        def work(block: Block) -> None:
            notes.add(os.getpid())
            if block.index is not None and block.index % 100 == 7:
                raise ValueError(f"block {block.index} is bad")

        report = self.run(line(work, 512), observers=[recorder])
        counts = report.tasks["task"].counts
        assert (counts.completed, counts.failed, counts.orphaned) == (506, 6, 0)
        assert [failure.index for failure in report.failures] == [7, 107, 207, 307, 407, 507]
        assert {failure.attempts for failure in report.failures} == {3}
        assert all("is bad" in failure.error for failure in report.failures)
        assert recorder.of(WorkerLost) == []
        assert len(set(notes.lines())) <= self.workers

    @pytest.mark.parametrize("retries", [0, 1, 4])
    def test_a_block_is_tried_again_as_often_as_its_task_says(self, retries: int) -> None:
        notes, recorder = self.notes, Recorder()

        def work(block: Block) -> None:
            notes.add(block.index)
            if block.index == 3:
                raise ValueError("never")

        report = self.run(line(work, 10, max_retries=retries), observers=[recorder])
        assert notes.count(3) == retries + 1
        assert [failure.attempts for failure in report.failures] == [retries + 1]
        failed = recorder.of(BlockFailed)
        assert [event.attempt for event in failed] == list(range(1, retries + 2))
        assert [event.final for event in failed] == [False] * retries + [True]

    def test_a_block_that_succeeds_when_it_is_tried_again_is_no_failure(self) -> None:
        report = self.run(line(failing_once(self.notes), 20), fail_fast=None)
        assert report.ok
        assert report.failures == ()
        assert Counter(self.notes.lines()) == dict.fromkeys(map(str, range(20)), 2)

    def test_what_waits_for_a_failed_block_is_orphaned(self) -> None:
        def work(block: Block) -> None:
            if block.index == 4:
                raise ValueError("no")

        first = line(work, 10, task_id="first", max_retries=0)
        second = line(noting(self.notes), 10, task_id="second", context=(1, 0), upstream_tasks=[first])
        report = self.run(second)
        counts = report.tasks["second"].counts
        assert (counts.completed, counts.orphaned) == (8, 2)
        assert sorted(map(int, self.notes.lines())) == [0, 1, 2, 3, 6, 7, 8, 9]

    @pytest.mark.parametrize("code", [0, 3, None])
    def test_a_block_that_calls_sys_exit_fails_and_costs_no_worker(self, code: int | None) -> None:
        def work(block: Block) -> None:
            if block.index == 5:
                sys.exit(code)

        recorder = Recorder()
        report = self.run(line(work, 30), observers=[recorder])
        assert [failure.index for failure in report.failures] == [5]
        assert f"sys.exit({code!r})" in report.failures[0].error
        assert report.tasks["task"].counts.completed == 29
        assert recorder.of(WorkerLost) == []

    # What workers are given, and give ----------------------------------------------------------------------------

    def test_what_functions_return_comes_home(self) -> None:
        values: list[Any] = [None, True, -1, 2**40, 0.5, "ü", b"\xff", [1, [2]], {"a": {"b": []}}]
        report = self.run(line(lambda block: values[block.index], len(values), results=True))
        assert report.results("task") == dict(enumerate(values))

    def test_a_result_that_cannot_be_kept_is_a_failure_that_names_it(self) -> None:
        report = self.run(line(lambda block: object() if block.index == 2 else 1, 6, results=True, max_retries=0))
        assert [failure.index for failure in report.failures] == [2]
        assert "results=True" in report.failures[0].error
        assert "object can't be kept" in report.failures[0].error

    def test_setup_is_called_once_per_worker_before_its_first_block(self) -> None:
        notes = self.notes

        def prepare() -> None:
            notes.add(f"setup {os.getpid()}")

        def work(block: Block) -> None:
            notes.add(f"block {os.getpid()} {block.index}")
            sleep(0.001)

        assert self.run(line(work, 100, setup=prepare)).ok
        ready = set()
        for what, pid, *_ in (text.split() for text in notes.lines()):
            if what == "setup":
                assert pid not in ready
                ready.add(pid)
            assert pid in ready
        assert 1 <= len(ready) <= self.workers

    @pytest.mark.timeout(15)
    def test_a_raising_setup_stops_its_task_and_no_other(self) -> None:
        def prepare() -> None:
            raise OSError("no such licence")

        bad = line(noting(self.notes), 50, task_id="bad", setup=prepare)
        after = line(noting(self.notes), 50, task_id="after", upstream_tasks=[bad])
        good = line(lambda _: None, 50, task_id="good")
        report = self.run(Pipeline.of(after) | good)
        assert "no such licence" in (report.tasks["bad"].stopped or "")
        assert "'bad'" in (report.tasks["after"].stopped or "")
        assert report.tasks["good"].counts.completed == 50
        assert report.tasks["bad"].counts.orphaned == 50
        assert self.notes.lines() == []
        assert not report.ok

    # Going on ----------------------------------------------------------------------------------------------------

    def test_a_journaled_run_that_is_run_again_runs_nothing(self) -> None:
        task = line(noting(self.notes), 100, results=True)
        first = self.run(task, journal=self.folder / "journal")
        again = self.run(task, journal=self.folder / "journal")
        assert first.ok
        assert again.ok
        assert (again.tasks["task"].counts.completed, again.tasks["task"].counts.skipped) == (100, 100)
        assert len(self.notes.lines()) == 100
        assert again.results("task") == first.results("task")

    @pytest.mark.parametrize("journaled", [True, False])
    def test_a_retry_runs_what_failed_and_what_waited_for_it(self, *, journaled: bool) -> None:
        notes, cure = self.notes, self.folder / "cure"

        def work(block: Block) -> int:
            notes.add(block.index)
            if block.index == 4 and not cure.exists():
                raise ValueError("not yet")
            return block.index or 0

        first = line(work, 10, task_id="first", max_retries=0, results=True)
        second = line(lambda _: None, 10, task_id="second", upstream_tasks=[first])
        report = self.run(second, journal=self.folder / "journal" if journaled else None)
        assert report.tasks["second"].counts.orphaned == 1
        cure.touch()
        again = report.retry_failed()
        assert again.ok
        assert again.tasks["first"].counts.skipped == 9
        assert Counter(notes.lines()) == {str(index): 2 if index == 4 else 1 for index in range(10)}
        assert again.results("first") == {index: index for index in range(10)}

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
    def test_an_interrupted_run_finishes_what_runs_and_goes_on_where_it_was(self, number: signal.Signals) -> None:
        notes = self.notes

        def work(block: Block) -> None:
            sleep(0.01)
            notes.add(block.index)

        task = line(work, 100)
        recorder = Recorder({TaskProgress: interrupt_self(number)})
        report = self.run(task, journal=self.folder / "journal", observers=[recorder])
        counts = report.tasks["task"].counts
        assert report.interrupted
        assert not report.ok
        assert 0 < counts.completed < 100
        assert counts.processing == 0
        assert len(notes.lines()) == counts.completed
        again = self.run(task, journal=self.folder / "journal")
        assert again.ok
        assert not again.interrupted
        assert again.tasks["task"].counts.skipped == counts.completed
        assert sorted(map(int, notes.lines())) == list(range(100))

    # Workers that die --------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("death", ["SIGKILL", "SIGSEGV", "SIGABRT", "os._exit(0)", "os._exit(3)"])
    def test_a_block_that_ends_its_worker_is_one_failed_attempt(self, death: str) -> None:
        self.needs(ability=self.survives_dying_workers)
        recorder = Recorder()
        report = self.run(line(dying(death, {17: 1, 30: 9}, self.notes), 64, max_retries=1), observers=[recorder])
        counts = report.tasks["task"].counts
        assert (counts.completed, counts.failed) == (63, 1)
        assert [(failure.index, failure.attempts) for failure in report.failures] == [(30, 2)]
        assert len(recorder.of(WorkerLost)) == 3
        expected = f"exited with code {death[9]}" if death.startswith("os") else death
        assert all(expected in event.reason for event in recorder.of(WorkerLost))
        assert expected in report.failures[0].error
        runs = Counter(self.notes.lines())
        assert runs.pop("17") == 2
        assert runs.pop("30") == 2
        assert set(runs.values()) == {1}

    @pytest.mark.timeout(15)
    def test_a_task_whose_blocks_all_end_their_workers_is_stopped(self) -> None:
        self.needs(ability=self.survives_dying_workers)
        bad = line(dying("SIGKILL", dict.fromkeys(range(100), 9), self.notes), 100, task_id="bad", max_retries=9)
        good = line(lambda _: None, 100, task_id="good")
        report = self.run(bad | good)
        assert "SIGKILL" in (report.tasks["bad"].stopped or "")
        assert report.tasks["good"].counts.completed == 100
        assert len(self.notes.lines()) <= 20

    def test_timeouts_end_a_block_and_it_is_tried_again(self) -> None:
        self.needs(ability=self.ends_blocks)
        notes = self.notes

        def work(block: Block) -> None:
            notes.add(block.index)
            if block.index == 9 or (block.index == 5 and notes.count(5) == 1):
                sleep(60)

        report = self.run(line(work, 40, timeout=1.0, max_retries=1))
        assert [(failure.index, failure.attempts) for failure in report.failures] == [(9, 2)]
        assert "timeout of 1 s" in report.failures[0].error
        assert report.tasks["task"].counts.completed == 39
        assert Counter(notes.lines()) == {str(index): 2 if index in {5, 9} else 1 for index in range(40)}

    def test_a_second_interrupt_ends_blocks_at_once(self) -> None:
        self.needs(ability=self.ends_blocks)
        began = monotonic()
        recorder = Recorder({TaskProgress: interrupt_self(), Message: interrupt_self()})
        task = line(lambda block: sleep(60) if block.index else None, 10)
        report = self.run(task, observers=[recorder])
        assert report.interrupted
        assert report.tasks["task"].counts.completed == 1
        assert monotonic() - began < DEADLINE_S

    # What is left ------------------------------------------------------------------------------------------------

    def test_what_blocks_print_is_in_the_logs_with_time_and_block(self) -> None:
        self.needs(ability=self.catches_output)

        def work(block: Block) -> None:
            print(f"out {block.block_id[1]}\nmore ü")
            print(f"err {block.block_id[1]}", file=sys.stderr)
            if block.index == 3:
                raise ValueError("no")

        report = self.run(line(work, 20, task_id="a/b", max_retries=0))
        assert report.log_dir is not None
        lines = [text for log in report.log_dir.glob("a%2Fb/*.log") for text in log.read_text().splitlines()]
        found = [re.fullmatch(r"\d\d:\d\d:\d\d block (\d+) \| (.*)", text) for text in lines]
        assert all(found)
        said = sorted((int(match[1]), match[2]) for match in found if match)
        assert said == sorted((n, text) for n in range(20) for text in (f"out {n}", "more ü", f"err {n}"))
        log = report.failures[0].log
        assert log is not None
        assert "err 3" in log.read_text()

    def test_nothing_is_left_behind(self) -> None:
        self.run(line(noting(self.notes), 10))  # what is loaded once may stay
        before = Belongings()
        self.run(line(dying("raise", {3: 9}, self.notes), 50), journal=self.folder / "journal")
        assert Belongings().since(before) == []
