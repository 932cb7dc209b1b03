"""The hub passes events on, and drops observers that fail or are slow."""

from __future__ import annotations

import pytest

from bellis.observe import hub as hub_module
from bellis.observe.hub import MOST_DEBT_S, Hub
from bellis.runtime.events import AnyEvent, Message


class Recorder:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.closed = 0

    def notify(self, event: AnyEvent) -> None:
        assert isinstance(event, Message)
        self.texts.append(event.text)

    def close(self) -> None:
        self.closed += 1


class Failing(Recorder):
    """Fails at the second event."""

    def notify(self, event: AnyEvent) -> None:
        super().notify(event)
        if len(self.texts) == 2:
            raise ValueError("no more paper")

    def __repr__(self) -> str:
        return "Failing()"


class Clock:
    """Time that goes on only when it is told to."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Slow(Recorder):
    """Takes its time."""

    def __init__(self, clock: Clock, takes_s: float) -> None:
        super().__init__()
        self.clock, self.takes_s = clock, takes_s

    def notify(self, event: AnyEvent) -> None:
        super().notify(event)
        self.clock.now_s += self.takes_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(hub_module, "monotonic", clock)
    return clock


def tell(hub: Hub, *texts: str) -> None:
    for text in texts:
        hub.notify(Message(text=text))


def test_every_observer_hears_every_event_in_order_and_is_closed_once() -> None:
    one, two = Recorder(), Recorder()
    with Hub([one, two]) as hub:
        tell(hub, "a", "b", "c")
        assert one.closed == 0
    assert one.texts == two.texts == ["a", "b", "c"]
    assert one.closed == two.closed == 1


def test_an_observer_that_raises_is_dropped_with_a_warning_and_the_others_go_on() -> None:
    failing, other = Failing(), Recorder()
    with Hub([failing, other]) as hub:
        tell(hub, "a")
        with pytest.warns(RuntimeWarning, match=r"Failing\(\) was dropped: .*ValueError: no more paper") as caught:
            tell(hub, "b")
        tell(hub, "c")
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert failing.texts == ["a", "b"]
    assert failing.closed == 1
    assert other.texts == ["a", "b", "c"]


def test_an_observer_that_raises_in_close_is_told_of_and_the_others_are_closed() -> None:
    class Sticky(Recorder):
        def close(self) -> None:
            raise OSError("the disk is full")

    last = Recorder()
    with pytest.warns(RuntimeWarning, match="could not be closed: OSError: the disk is full"), Hub([Sticky(), last]):
        pass
    assert last.closed == 1


def test_all_are_closed_even_if_warnings_are_errors() -> None:
    class Sticky(Recorder):
        def close(self) -> None:
            super().close()
            raise OSError("the disk is full")

    first, last = Sticky(), Recorder()
    with pytest.raises(RuntimeWarning), Hub([first, last]):
        pass
    assert first.closed == last.closed == 1


def test_observers_are_closed_when_the_run_fails() -> None:
    observer = Recorder()
    with pytest.raises(ZeroDivisionError), Hub([observer]):
        _ = 1 // 0
    assert observer.closed == 1


def test_ctrl_c_in_an_observer_is_not_caught() -> None:
    class Interrupted(Recorder):
        def notify(self, event: AnyEvent) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), Hub([Interrupted()]) as hub:
        tell(hub, "a")


def test_one_slow_call_is_enough_to_be_dropped(clock: Clock) -> None:
    slow, other = Slow(clock, MOST_DEBT_S + 1), Recorder()
    with Hub([slow, other]) as hub:
        with pytest.warns(RuntimeWarning, match="it is slow: it kept the run waiting for 3.0 s"):
            tell(hub, "a")
        tell(hub, "b")
    assert slow.texts == ["a"]
    assert other.texts == ["a", "b"]


def test_many_calls_that_are_a_little_slow_add_up(clock: Clock) -> None:
    slow = Slow(clock, 0.25)
    with Hub([slow]) as hub, pytest.warns(RuntimeWarning, match="slow"):
        tell(hub, *"abcdefghijklmnopqrstuvwxyz")
    assert 8 <= len(slow.texts) <= 12


def test_a_debt_is_paid_back_as_time_passes(clock: Clock) -> None:
    slow = Slow(clock, 1.5)
    with Hub([slow]) as hub:
        for text in "abcde":
            tell(hub, text)
            clock.now_s += 15
    assert slow.texts == list("abcde")


def test_who_fails_and_is_slow_is_warned_of_once(clock: Clock) -> None:
    class Both(Slow):
        def notify(self, event: AnyEvent) -> None:
            super().notify(event)
            raise ValueError("no more paper")

    with Hub([Both(clock, 10)]) as hub, pytest.warns(RuntimeWarning) as caught:
        tell(hub, "a")
    assert len(caught) == 1
