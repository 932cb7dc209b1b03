"""What a person is told while a worker tries to reach its run, and calls that need not be waited for."""

from __future__ import annotations

import http.client
import ssl
import threading
from time import monotonic
from typing import TYPE_CHECKING, Generic, TypeVar

from bellis.service.connection import Connection, _Unanswered

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SAY_S = 2.0
"""A run that does not answer for so long is said to be waited for."""

_T = TypeVar("_T")


class PatientConnection(Connection):
    """A connection that says when the run does not answer, and when it does again.

    Parameters
    ----------
    url, token, ca_file
        As of `Connection`.
    say
        Called, from any thread, with what a person should know.
    """

    def __init__(
        self, url: str, token: str, *, ca_file: str | Path | None = None, say: Callable[[str], None] = lambda text: None
    ) -> None:
        super().__init__(url, token, ca_file=ca_file)
        self._say = say
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        self._reason = ""
        self._has_said = False

    def _repeatedly(self, attempt: Callable[[], _T]) -> _T:
        def heeded() -> _T:
            try:
                answer = attempt()
            except _Unanswered as error:
                text = f"{error}{self._hint(error.__cause__)}"
                self._miss(text)
                raise _Unanswered(text) from error
            self._found()
            return answer

        if self.run_id is None:  # an answer may also just take long, where it is known that somebody is there
            self._miss("it has not answered yet")
        try:
            return super()._repeatedly(heeded)
        finally:
            self._forget()

    def _hint(self, cause: BaseException | None) -> str:
        """Return what may be wrong, if something else than HTTP, or HTTPS, answers."""
        if self.url.startswith("http:") and isinstance(cause, http.client.BadStatusLine):
            return f"; if the run has a certificate, its address is https{self.url.removeprefix('http')}"
        if isinstance(cause, ssl.SSLError) and "WRONG_VERSION_NUMBER" in str(cause.reason):
            return f"; if the run has no certificate, its address is http{self.url.removeprefix('https')}"
        return ""

    def _miss(self, reason: str) -> None:
        with self._lock:
            self._reason = reason
            if self._timer is None and not self._has_said and not self._interrupted.is_set():
                self._timer = threading.Timer(SAY_S, self._say_so, [monotonic()])
                self._timer.daemon = True
                self._timer.start()

    def _say_so(self, began_s: float) -> None:
        with self._lock:
            if self._timer is None:
                return
            self._has_said = True
            left_s = self.patience_s - (monotonic() - began_s)
            self._say(f"waiting for the run at {self.url} ({self._reason}), for up to {max(0.0, left_s):.0f} s")

    def _found(self) -> None:
        if self._forget() and self.run_id is not None:
            self._say(f"the run at {self.url} answers")

    def _forget(self) -> bool:
        """Stop the clock; return whether it had been said that the run is waited for."""
        with self._lock:
            had_said, self._has_said = self._has_said, False
            timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
            timer.join()
        return had_said


class Aside(Generic[_T]):
    """A call in a thread of its own; whoever made it may stop waiting for it.

    Parameters
    ----------
    call
        What to call.
    bell
        Set when it has returned.
    """

    def __init__(self, call: Callable[[], _T], bell: threading.Event) -> None:
        self._call = call
        self._bell = bell
        self._returned: list[_T] = []
        self._raised: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="bellis-aside", daemon=True)
        self._thread.start()

    @property
    def is_done(self) -> bool:
        """Whether it has returned, or raised."""
        return self._raised is not None or bool(self._returned)

    def wait(self, timeout_s: float) -> None:
        """Wait for its end, at most so long."""
        self._thread.join(timeout_s)

    def result(self) -> _T:
        """Return what it returned, or raise what it raised; it must be done."""
        if self._raised is not None:
            raise self._raised
        return self._returned[0]

    def _run(self) -> None:
        try:
            self._returned.append(self._call())
        except Exception as error:  # noqa: BLE001  # it is raised where it is waited for
            self._raised = error
        self._bell.set()
