"""A worker's connection to a run: requests that are repeated until they are answered, and answers of known types.

The token is sent only over a connection on which the other side has just proved that it knows the token too: a port may
belong to somebody else by the time that a worker comes back to it.
"""

from __future__ import annotations

import hmac
import http.client
import secrets
import socket
import ssl
import threading
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

import msgspec

from bellis.errors import ServiceError
from bellis.service.messages import Answer, Hello, Join, Joined, Problem, Turn

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PATIENCE_S = 60.0
"""So long a worker tries to reach a run that does not answer."""
CONNECT_S = 5.0
ANSWER_S = 15.0
"""An answer takes no longer than this, besides what it was asked to wait."""
LARGEST_ANSWER_BYTES = 64 * 2**20
LARGEST_HELLO_BYTES = 64 * 2**10
LONGEST_PAUSE_S = 5.0
"""Between two attempts."""
_TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})

_T = TypeVar("_T")
_Struct = TypeVar("_Struct", bound=msgspec.Struct)


class UnknownWorker(Exception):  # noqa: N818  # an answer, not an error that anybody sees
    """The service does not know the worker (any more): it has to join again."""


class _Unanswered(Exception):  # noqa: N818
    """An attempt that may succeed if it is made again."""


class Connection:
    """One worker's way to its run; for one thread at a time, but for `interrupt`.

    Parameters
    ----------
    url
        ``http://host:port`` or ``https://host:port``.
    token
        The run's token.
    run_id
        The run; None: whichever knows the token and answers first.
    ca_file
        Certificates to trust besides the system's, as PEM.
    patience_s
        For so long a request is repeated.

    Raises
    ------
    ServiceError
        If the address is none.
    """

    def __init__(
        self,
        url: str,
        token: str,
        *,
        run_id: str | None = None,
        ca_file: str | Path | None = None,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self.url = url.rstrip("/")
        self.run_id = run_id
        self.patience_s = patience_s
        self._scheme, self._host, self._port = _parts(url)
        self._token = token
        self._tls = _tls(ca_file) if self._scheme == "https" else None
        self._http: http.client.HTTPConnection | None = None
        self._interrupted = threading.Event()
        self._is_last = False

    # Requests ----------------------------------------------------------------------------------------------------

    def join(self, join: Join) -> Joined:
        """Say that a worker is there."""
        return self._request("POST", "/v1/workers", join, Joined)

    def turn(self, worker_id: int, turn: Turn) -> Answer:
        """Bring reports and take leases.

        Raises
        ------
        UnknownWorker
            If the service has forgotten the worker.
        ServiceError
            If it can't be reached, or refuses.
        """
        return self._request("POST", f"/v1/workers/{worker_id}/turn", turn, Answer, turn.wait_s)

    def leave(self, worker_id: int) -> None:
        """Say that a worker goes; one attempt, since the service will notice anyway."""
        if self._interrupted.is_set():
            self.close()
        try:
            self._attempt("DELETE", f"/v1/workers/{worker_id}", b"", CONNECT_S)
        except (_Unanswered, UnknownWorker, ServiceError):
            return
        finally:
            self.close()

    def hello(self) -> str:
        """Connect; return the name of the run."""
        self._repeatedly(self._connected)
        return self.run_id or ""

    def interrupt(self) -> None:
        """Have a request that waits, in whatever thread, fail at once, and others be tried only once."""
        self._interrupted.set()
        http_connection = self._http
        if http_connection is not None and http_connection.sock is not None:
            try:
                http_connection.sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                return

    def resume(self, patience_s: float, *, is_last: bool = False) -> None:
        """Go on after `interrupt`, with another patience; for last words: not if nobody listens any more."""
        self._is_last = is_last
        if self._interrupted.is_set():
            self.close()
            self._interrupted.clear()
        self.patience_s = patience_s

    def close(self) -> None:
        """Close it; the next request opens it again."""
        if self._http is not None:
            self._http.close()
            self._http = None

    # One request ---------------------------------------------------------------------------------------------------

    def _request(
        self, method: str, path: str, message: msgspec.Struct, kind: type[_Struct], wait_s: float = 0.0
    ) -> _Struct:  # fmt: skip
        body = msgspec.json.encode(message)
        answer = self._repeatedly(lambda: self._attempt(method, path, body, ANSWER_S + wait_s))
        return self._decoded(answer, kind)

    def _repeatedly(self, attempt: Callable[[], _T]) -> _T:
        try:
            import tenacity
        except ImportError as error:
            raise ServiceError(f"clients and workers need {error.name}: pip install 'bellis[service]'") from error
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(_Unanswered),
            stop=tenacity.stop_any(
                tenacity.stop_after_delay(self.patience_s), tenacity.stop_when_event_set(self._interrupted)
            ),
            wait=tenacity.wait_random_exponential(multiplier=0.1, max=LONGEST_PAUSE_S),
            sleep=tenacity.sleep_using_event(self._interrupted),
            reraise=True,
        )
        try:
            return retrying(attempt)
        except _Unanswered as error:
            tried = "" if self._interrupted.is_set() else f", for {self.patience_s:g} s"
            raise ServiceError(
                f"the run at {self.url} does not answer{tried}: {error}. If it is over, there is nothing left to do; "
                "if not, look whether that address can be reached from here"
            ) from error

    def _attempt(self, method: str, path: str, body: bytes, timeout_s: float) -> bytes:
        was_open = self._http is not None and self._http.sock is not None
        try:
            return self._exchange(method, path, body, timeout_s)
        except _Unanswered:
            if not was_open or self._interrupted.is_set():
                raise
        return self._exchange(method, path, body, timeout_s)  # one that idled may just have been closed

    def _exchange(self, method: str, path: str, body: bytes, timeout_s: float) -> bytes:
        connection = self._connected()
        headers = {
            "Authorization": f"Bearer {self._token}",
            "Bellis-Run": self.run_id or "",
            "Content-Type": "application/json",
        }
        status, answer = self._sent(connection, method, path, body, headers, timeout_s)
        if status < http.client.MULTIPLE_CHOICES:
            return answer
        problem = _problem(answer) or http.client.responses.get(status, "")
        if status in _TRANSIENT:
            raise _Unanswered(f"it said {status} ({problem})")
        if status == http.client.NOT_FOUND and "/workers/" in path:
            raise UnknownWorker(problem)
        if status == http.client.CONFLICT:
            raise ServiceError(f"{self.url}: {problem}", is_other_run=True)
        raise ServiceError(f"the run at {self.url} refused {method} {path} with {status}: {problem}")

    def _sent(
        self, connection: http.client.HTTPConnection, method: str, path: str, body: bytes, headers: dict[str, str],
        timeout_s: float, *, most_bytes: int = LARGEST_ANSWER_BYTES,
    ) -> tuple[int, bytes]:  # fmt: skip
        """Send a request over an open connection; return status and body of the answer."""
        try:
            if connection.sock is not None:
                connection.sock.settimeout(timeout_s)
            connection.request(method, path, body or None, headers)
            response = connection.getresponse()
            answer = response.read(most_bytes + 1)
            if len(answer) > most_bytes:
                raise ServiceError(f"{self.url} answered {method} {path} with more than {most_bytes >> 10} KiB")
        except (OSError, http.client.HTTPException) as error:
            self.close()
            if isinstance(error, ServiceError):
                raise
            raise _Unanswered(_said(error)) from error
        if connection.sock is None:  # it was the answer's wish
            self.close()
        return response.status, answer

    def _connected(self) -> http.client.HTTPConnection:
        """Return an open connection to a service that knows the token."""
        if self._http is not None and self._http.sock is not None:
            return self._http
        connection: http.client.HTTPConnection
        if self._tls is not None:
            connection = http.client.HTTPSConnection(self._host, self._port, timeout=CONNECT_S, context=self._tls)
        else:
            connection = http.client.HTTPConnection(self._host, self._port, timeout=CONNECT_S)
        connection.auto_open = 0  # it would connect again by itself, to nobody knows whom
        try:
            connection.connect()
        except ssl.SSLCertVerificationError as error:
            raise ServiceError(
                f"the certificate of {self.url} is not to be trusted: {error.verify_message}; pass the file of the "
                "certificate that signed it (--ca-file, or ca_file in the context)"
            ) from error
        except (OSError, UnicodeError) as error:
            if self._is_last and isinstance(error, ConnectionRefusedError):
                raise ServiceError(f"the run at {self.url} is over: {_said(error)}") from error
            raise _Unanswered(_said(error)) from error
        self._http = connection
        self._prove(connection)
        return connection

    def _prove(self, connection: http.client.HTTPConnection) -> None:
        """Have the other side prove that it knows the token, before it is sent there."""
        nonce = secrets.token_hex(16)
        path = f"/v1/hello?nonce={nonce}"
        status, answer = self._sent(connection, "GET", path, b"", {}, CONNECT_S, most_bytes=LARGEST_HELLO_BYTES)
        if status in _TRANSIENT:
            raise _Unanswered(f"it said {status} ({_problem(answer)})")
        try:
            hello = msgspec.json.decode(answer, type=Hello)
        except msgspec.DecodeError as error:
            self.close()
            raise ServiceError(f"what answers at {self.url} is no run of bellis (status {status})") from error
        proof = hmac.digest(self._token.encode(), f"bellis:{hello.run_id}:{nonce}".encode(), "sha256").hex()
        if not hmac.compare_digest(proof.encode(), hello.proof.encode(errors="replace")):
            self.close()
            raise ServiceError(
                f"the run at {self.url} does not know this token: it is another run's, or an old one; nothing was sent"
            )
        if self.run_id not in {None, hello.run_id}:
            self.close()
            raise ServiceError(
                f"the run at {self.url} is {hello.run_id} by now, not {self.run_id}: there is nothing left to do here",
                is_other_run=True,
            )
        self.run_id = hello.run_id

    def _decoded(self, answer: bytes, kind: type[_Struct]) -> _Struct:
        try:
            return msgspec.json.decode(answer, type=kind)
        except msgspec.DecodeError as error:
            raise ServiceError(
                f"the run at {self.url} answered what this version can't read ({error}): run the same version of "
                "bellis on both sides"
            ) from error


def _parts(url: str) -> tuple[str, str, int]:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ServiceError(f"{url!r} is no address of a run ({error}): pass http://HOST:PORT") from error
    if parts.scheme not in {"http", "https"} or not parts.hostname or port is None or parts.path.strip("/"):
        raise ServiceError(f"{url!r} is no address of a run: pass http://HOST:PORT or https://HOST:PORT")
    return parts.scheme, parts.hostname, port


def _tls(ca_file: str | Path | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if ca_file is not None:
        try:
            context.load_verify_locations(cafile=ca_file)
        except (OSError, ssl.SSLError) as error:
            raise ServiceError(f"the certificates in {ca_file} can't be read: {error}; pass a file in PEM") from error
    return context


def _problem(answer: bytes) -> str:
    try:
        return msgspec.json.decode(answer, type=Problem).error
    except msgspec.DecodeError:
        return answer[:200].decode(errors="replace")


def _said(error: BaseException) -> str:
    return str(error) or type(error).__name__
