"""What observers are told of a run, and in which order."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields, is_dataclass
from time import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import bellis
from bellis.runtime import events
from bellis.runtime.events import (
    BlockFailed,
    Event,
    Message,
    RunFinished,
    RunStarted,
    TaskFinished,
    TaskProgress,
    TaskStopped,
)
from bellis.testing.blocks import Recorder, line

if TYPE_CHECKING:
    from pathlib import Path

    from bellis.tasks import Block

KINDS = [kind for kind in vars(events).values() if isinstance(kind, type) and issubclass(kind, Event)]


@pytest.mark.parametrize("kind", KINDS)
def test_events_are_frozen_values_with_a_time(kind: type) -> None:
    assert is_dataclass(kind)
    assert "time_s" in {field.name for field in fields(kind)}
    assert kind.__doc__
    assert "__slots__" in vars(kind)


def test_an_event_knows_when_it_happened() -> None:
    message = Message(text="hello")
    assert abs(message.time_s - time()) < 5
    assert Message(text="hello", time_s=3.0) == Message(text="hello", time_s=3.0)
    with pytest.raises(FrozenInstanceError):
        message.text = "bye"  # type: ignore[misc]


@pytest.fixture(params=["inline", pytest.param("local", marks=[pytest.mark.integration, pytest.mark.slow])])
def told(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Recorder, Any]:
    """What was told of a run in which a block fails and a task is stopped."""

    def work(block: Block) -> None:
        if block.index == 77:
            raise ValueError("no")

    def bad(block: Block) -> None:
        raise KeyError(block.index)

    first = line(work, 200, task_id="first", max_retries=1)
    second = line(lambda _: None, 200, task_id="second", upstream_tasks=[first], fit="valid", step=1)
    third = line(bad, 100, task_id="third")
    recorder = Recorder()
    report = bellis.run(
        [second, third], request.param, workers=2, observers=[recorder], progress=False, log_dir=tmp_path / "logs"
    )
    return recorder, report


def test_the_run_begins_and_ends_with_its_own_events(told: tuple[Recorder, Any]) -> None:
    recorder, report = told
    assert isinstance(recorder.events[0], RunStarted)
    assert isinstance(recorder.events[-1], RunFinished)
    assert recorder.events[-1].report is report
    assert len(recorder.of(RunStarted)) == len(recorder.of(RunFinished)) == 1
    assert recorder.is_closed
    times = [event.time_s for event in recorder.events]
    assert times == sorted(times)


def test_the_start_tells_of_all_tasks(told: tuple[Recorder, Any]) -> None:
    (started,) = told[0].of(RunStarted)
    assert {info.task_id: (info.grid_counts, info.counts.total) for info in started.tasks} == {
        "first": ((200,), 200),
        "second": ((200,), 200),
        "third": ((100,), 100),
    }
    assert started.run_dir is None
    assert 1 <= started.workers <= 2


def test_every_completed_block_is_told_of_once(told: tuple[Recorder, Any]) -> None:
    recorder, report = told
    for task_id, task in report.tasks.items():
        progress = [event for event in recorder.of(TaskProgress) if event.task_id == task_id]
        indices = np.concatenate([event.indices for event in progress])
        assert len(indices) == len(set(indices.tolist())) == task.counts.completed
        assert progress[-1].counts == task.counts


def test_counts_add_up_at_every_moment(told: tuple[Recorder, Any]) -> None:
    for event in told[0].of(TaskProgress):
        c = event.counts
        assert c.completed + c.failed + c.orphaned + c.pending + c.ready + c.processing == c.total


def test_failures_stops_and_ends_are_told_of(told: tuple[Recorder, Any]) -> None:
    recorder, _ = told
    failed = [event for event in recorder.of(BlockFailed) if event.task_id == "first"]
    assert [(event.index, event.attempt, event.final) for event in failed] == [(77, 1, False), (77, 2, True)]
    assert "ValueError: no" in failed[0].error
    assert [event.task_id for event in recorder.of(TaskStopped)] == ["third"]
    assert sorted(event.task_id for event in recorder.of(TaskFinished)) == ["first", "second", "third"]
