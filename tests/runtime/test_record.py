"""What the run loop notes: kinds of errors."""

from __future__ import annotations

from bellis.runtime.record import signature
from bellis.runtime.worker import describe


def fail(number: int) -> None:
    if number % 2:
        raise ValueError(f"block {number} is odd")
    raise ValueError(f"block {number} is even")


def failed(number: int) -> str:
    try:
        fail(number)
    except ValueError as error:
        return describe(error)
    raise AssertionError("it did not fail")


def test_errors_are_alike_when_type_and_line_are() -> None:
    assert signature(failed(2)) == signature(failed(4))
    assert signature(failed(2)) != signature(failed(3))


def test_errors_without_a_traceback_are_alike_when_their_first_words_are() -> None:
    assert signature("worker-0 crashed: SIGSEGV") == signature("worker-0 crashed: SIGBUS")
    assert signature("") == ""
