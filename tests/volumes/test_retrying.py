"""Attempts are made again as long as there is time, and no longer."""

from __future__ import annotations

import threading
from time import monotonic
from typing import TYPE_CHECKING

import numpy as np
import pytest

from bellis.errors import AccessError, ArrayError, FetchError, MissingBlockError, TransientError
from bellis.geometry import Roi
from bellis.volumes.retrying import fetch_patiently, patiently
from bellis.volumes.source import Patience
from bellis.volumes.stopping import stoppable
from volumes.sources_for_tests import CountedSource, random_voxels

if TYPE_CHECKING:
    from collections.abc import Callable

HASTY = Patience(deadline_s=0.2, first_wait_s=0.001, longest_wait_s=0.004)


def failing(*errors: FetchError) -> tuple[Callable[[float], str], list[float]]:
    """Return an attempt that fails with each error in turn, the last one for ever, and the times it was given."""
    given: list[float] = []

    def attempt(timeout_s: float) -> str:
        given.append(timeout_s)
        if len(given) <= len(errors) or not errors[-1].args[0].startswith("once"):
            raise errors[min(len(given), len(errors)) - 1]
        return "came"

    return attempt, given


def test_a_block_comes_after_failures_and_each_is_told() -> None:
    voxels = random_voxels((4, 5, 6))
    source = CountedSource(voxels, behave=lambda _, n: TransientError(f"no {n}") if n < 4 else None)
    out, told = np.empty((2, 5, 6), "u1"), []
    fetch_patiently(source, Roi((1, 0, 0), (2, 5, 6)), out, HASTY, on_retry=told.append)
    np.testing.assert_array_equal(out, voxels[1:3])
    assert [str(error) for error in told] == ["no 1", "no 2", "no 3"]
    assert len(source.asked) == 4


@pytest.mark.parametrize("kind", [FetchError, MissingBlockError, AccessError])
def test_what_will_not_change_is_raised_at_once(kind: type[FetchError]) -> None:
    error = kind("never")
    attempt, given = failing(error)
    with pytest.raises(kind) as caught:
        patiently(attempt, HASTY)
    assert caught.value is error
    assert len(given) == 1


def test_other_errors_are_not_touched() -> None:
    def attempt(_: float) -> None:
        raise ArrayError("mistaken")

    with pytest.raises(ArrayError, match="mistaken"):
        patiently(attempt, HASTY)


def test_at_the_deadline_attempts_and_seconds_are_told() -> None:
    attempt, given = failing(TransientError("block [0:4] from http://h/a: HTTP 500 Internal Server Error"))
    begun = monotonic()
    with pytest.raises(
        FetchError, match=r"^block \[0:4\] from http://h/a: HTTP 500 Internal Server Error in all"
    ) as caught:
        patiently(attempt, HASTY)
    assert not isinstance(caught.value, TransientError)
    assert monotonic() - begun < 1
    assert f"in all {len(given)} attempts within 0.2 s (deadline_s=0.2)" in str(caught.value) or "within 0.19" in str(
        caught.value
    )
    assert len(given) > 5
    assert given == sorted(given, reverse=True)  # each gets what is left
    assert 0 < given[-1] < given[0] <= 0.2


def test_different_failures_are_told_by_the_last() -> None:
    attempt, _ = failing(TransientError("cut"), TransientError("busy", retry_after_s=100))
    with pytest.raises(FetchError, match=r"^busy: that was the last of 2 attempts within"):
        patiently(attempt, HASTY)


def test_the_server_is_given_the_time_that_it_asks_for() -> None:
    attempt, given = failing(TransientError("once", retry_after_s=0.1))
    begun = monotonic()
    assert patiently(attempt, HASTY) == "came"
    assert 0.1 <= monotonic() - begun < 1
    assert len(given) == 2


def test_a_server_that_asks_for_too_much_time_is_given_up_at_once() -> None:
    attempt, _ = failing(TransientError("HTTP 429", retry_after_s=60))
    begun = monotonic()
    with pytest.raises(FetchError, match=r"^HTTP 429: 1 attempt within .* s \(deadline_s=0.2\); .* wait another 60 s$"):
        patiently(attempt, HASTY)
    assert monotonic() - begun < 1


def test_no_wait_goes_past_the_deadline() -> None:
    attempt, given = failing(TransientError("busy"))
    begun = monotonic()
    with pytest.raises(FetchError):
        patiently(attempt, Patience(deadline_s=0.05, first_wait_s=10, longest_wait_s=10))
    assert monotonic() - begun < 1
    assert given


def test_waits_grow_and_are_random() -> None:
    from bellis.volumes.retrying import _wait

    wait = _wait(Patience(first_wait_s=1, longest_wait_s=6), float("inf"))

    class State:
        outcome = None

        def __init__(self, attempt_number: int) -> None:
            self.attempt_number = attempt_number

    for number, most in ((1, 1), (2, 2), (3, 4), (4, 6), (9, 6)):
        waits = [wait(State(number)) for _ in range(300)]  # type: ignore[arg-type]
        assert 0 <= min(waits) < most / 10
        assert most * 0.9 < max(waits) <= most


def test_what_was_stopped_is_not_asked_for_again() -> None:
    stopped = threading.Event()
    attempt, given = failing(TransientError("busy"))
    stopping = threading.Timer(0.05, stopped.set)
    stopping.start()
    begun = monotonic()
    with pytest.raises(FetchError, match="given up"), stoppable(stopped):
        patiently(attempt, Patience(deadline_s=30, first_wait_s=20, longest_wait_s=20))
    assert monotonic() - begun < 5
    assert len(given) == 1
    stopping.join()


@pytest.mark.slow
def test_the_time_there_is_is_used() -> None:
    source = CountedSource(random_voxels((4, 4, 4)), behave=lambda *_: TransientError("not now"))
    patience = Patience(deadline_s=0.5, first_wait_s=5, longest_wait_s=5)
    begun = monotonic()
    with pytest.raises(FetchError, match="not now in all"):
        fetch_patiently(source, source.domain, np.empty((4, 4, 4), "u1"), patience)
    assert 0.4 < monotonic() - begun < 1.5
    assert len(source.asked) > 3
