"""Attempts that are made again, with waits in between, until a deadline."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

from bellis.errors import ArrayError, FetchError, TransientError
from bellis.volumes.stopping import GIVEN_UP, is_stopped, sleep

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt
    import tenacity

    from bellis.geometry import Roi
    from bellis.volumes.source import Patience, Source

LEAST = 0.02
"""Part of the deadline that must be left for another attempt; in less, its error would be that time was short."""

T = TypeVar("T")


def fetch_patiently(
    source: Source,
    block_roi: Roi,
    out: npt.NDArray[Any],
    patience: Patience,
    *,
    on_retry: Callable[[TransientError], None] | None = None,
) -> None:
    """Fill ``out`` with the voxels of a region, in as many attempts as there is time for.

    Parameters
    ----------
    source, block_roi, out
        As in `Source.fetch`.
    patience
        How long all attempts may take, and what is waited between them.
    on_retry
        Called with each error after which there will be another attempt, before the wait.

    Raises
    ------
    FetchError
        If it can't be had in time: says how often and how long it was tried, and what came last.
    MissingBlockError, AccessError
        At once, as the source raises them.
    """
    patiently(
        lambda timeout_s: source.fetch(block_roi, out, timeout_s=timeout_s),
        patience,
        on_retry=on_retry,
    )


def patiently(
    attempt: Callable[[float], T],
    patience: Patience,
    *,
    on_retry: Callable[[TransientError], None] | None = None,
) -> T:
    """Return what ``attempt`` returns; it is given the seconds that are left, and called again after `TransientError`.

    Raises
    ------
    FetchError
        If it does not succeed before the deadline.
    """
    try:
        import tenacity
    except ImportError as error:
        raise ArrayError("volumes from elsewhere need tenacity: pip install 'bellis[remote]'") from error

    begun = monotonic()
    deadline = begun + patience.deadline_s
    errors: list[TransientError] = []

    def once() -> T:
        if is_stopped():
            raise FetchError(GIVEN_UP)
        try:
            return attempt(max(0.001, deadline - monotonic()))
        except TransientError as error:
            errors.append(error)
            raise

    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(TransientError),
        wait=_wait(patience, deadline),
        stop=lambda state: monotonic() + state.upcoming_sleep >= deadline - LEAST * patience.deadline_s,
        sleep=sleep,
        before_sleep=None if on_retry is None else lambda _: on_retry(errors[-1]),
    )
    try:
        return retrying(once)
    except tenacity.RetryError:
        failure = _given_up(errors, monotonic() - begun, patience)
    raise failure from errors[-1]


def _wait(patience: Patience, deadline: float) -> Callable[[tenacity.RetryCallState], float]:
    import tenacity

    jitter = tenacity.wait_random_exponential(multiplier=patience.first_wait_s, max=patience.longest_wait_s)

    def wait(state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome is not None else None
        asked = getattr(error, "retry_after_s", None) or 0.0
        # No wait takes more than half of what is left, so that there is another attempt as long as it makes sense.
        return max(min(jitter(state), (deadline - monotonic()) / 2), asked)

    return wait


def _given_up(errors: list[TransientError], seconds: float, patience: Patience) -> FetchError:
    last, count = str(errors[-1]), len(errors)
    within = f"within {seconds:.3g} s (deadline_s={patience.deadline_s:g})"
    if count == 1:
        text = f"{last}: 1 attempt {within}"
    elif {str(error) for error in errors} == {last}:
        text = f"{last} in all {count} attempts {within}"
    else:
        text = f"{last}: that was the last of {count} attempts {within}"
    asked = errors[-1].retry_after_s
    if asked is not None and seconds + asked >= (1 - LEAST) * patience.deadline_s:
        text += f"; the server asks to wait another {asked:g} s"
    return FetchError(text)
