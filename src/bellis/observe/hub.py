"""Passes the events of a run to its observers, and keeps the run safe from them."""

from __future__ import annotations

import warnings
from time import monotonic
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bellis.runtime.events import AnyEvent, Observer

MOST_DEBT_S = 2.0
"""So long may an observer keep the run waiting at once."""
SHARE = 0.1
"""This part of the run's time may an observer take in the long run."""


class Hub:
    """The observers of one run.

    Observers are called in the run's own thread, so an observer owes the run the time that it takes. A debt is paid
    back at a tenth of the time that passes; an observer that owes more than two seconds is dropped as slow, and so is
    one that raises, with a `RuntimeWarning`. The run goes on without it.

    Parameters
    ----------
    observers
        Called in this order; closed when the hub is.
    """

    def __init__(self, observers: Iterable[Observer]) -> None:
        self._debts_s: dict[int, float] = {}
        self._observers = list(observers)
        self._last_s = monotonic()

    def notify(self, event: AnyEvent) -> None:
        """Pass an event on."""
        before_s = monotonic()
        paid_s = SHARE * (before_s - self._last_s)
        self._last_s = before_s
        reasons: list[tuple[Observer, str]] = []
        for observer in self._observers:
            try:
                observer.notify(event)
            except Exception as error:  # noqa: BLE001  # whatever an observer raises
                reasons.append((observer, f"it failed with {type(error).__name__}: {error}"))
            after_s = monotonic()
            debt_s = max(0.0, self._debts_s.get(id(observer), 0.0) - paid_s) + after_s - before_s
            self._debts_s[id(observer)] = debt_s
            before_s = after_s
            if debt_s > MOST_DEBT_S and (not reasons or reasons[-1][0] is not observer):
                reasons.append((observer, f"it is slow: it kept the run waiting for {debt_s:.1f} s"))
        self._drop(reasons)

    def _drop(self, reasons: list[tuple[Observer, str]]) -> None:
        for observer, _ in reasons:
            self._observers = [other for other in self._observers if other is not observer]
        warned = [f"observer {observer!r} was dropped: {reason}" for observer, reason in reasons]
        warned += _close([observer for observer, _ in reasons])
        for text in warned:
            warnings.warn(text, RuntimeWarning, stacklevel=3)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        observers, self._observers = self._observers, []
        for text in _close(observers):
            warnings.warn(text, RuntimeWarning, stacklevel=2)


def _close(observers: Iterable[Observer]) -> list[str]:
    """Close observers; return what went wrong."""
    problems = []
    for observer in observers:
        try:
            observer.close()
        except Exception as error:  # noqa: BLE001  # whatever an observer raises
            problems.append(f"observer {observer!r} could not be closed: {type(error).__name__}: {error}")
    return problems
