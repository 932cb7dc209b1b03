"""HTTP/1.1 as a test server needs it: quick, and with a hand on the connection when something is to go wrong."""

from __future__ import annotations

import select
import socket
import socketserver
import threading
import traceback
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Protocol

from bellis.testing.faults import Answer, misbehave

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bellis.geometry import Roi
    from bellis.testing.faults import Fault

_HEADER_LINES = 100


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asked for."""

    path: str
    """With the query, quoted as it came."""
    headers: Mapping[str, str]
    """Names in small letters."""
    time_s: float
    """When, on the clock of ``time.monotonic``."""
    box: Roi | None
    """Voxels of the volume, all axes, if it asked for a cut-out."""


class Served(Protocol):
    """What answers requests, from several threads."""

    latency_s: float
    """Seconds before each answer."""

    def note(self, path: str, headers: Mapping[str, str]) -> Request:
        """Remember a request."""

    def fault_of(self, request: Request) -> tuple[Fault, int] | None:
        """Return what is to go wrong with the answer, and for the how-manieth time."""

    def answer(self, request: Request, change: str = "") -> Answer:
        """Return a sound answer, or one of another ``"shape"`` or ``"dtype"``."""


class Server(socketserver.ThreadingTCPServer):
    """A thread for each connection; all of them end with it."""

    allow_reuse_address = True
    request_queue_size = 128  # by default 5: who comes sixth tries again after a second

    def __init__(self, served: Served, port: int) -> None:
        self.served = served
        self.closing = threading.Event()
        self.lines: set[socket.socket] = set()
        self.threads: list[threading.Thread] = []
        super().__init__(("127.0.0.1", port), Connection)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection in a thread that `end` waits for, but no interpreter that goes down."""
        thread = threading.Thread(target=self.process_request_thread, args=(request, client_address), daemon=True)
        self.threads = [*filter(threading.Thread.is_alive, self.threads), thread]
        thread.start()

    def shutdown_request(self, request: Any) -> None:
        """Close a connection, without a farewell that would come before a reset."""
        self.close_request(request)

    def end(self) -> None:
        """End what is waited for, and all connections."""
        self.closing.set()
        self.shutdown()
        for line in list(self.lines):
            with suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)
        for thread in self.threads:
            thread.join(10)


class Connection(socketserver.StreamRequestHandler):
    """Requests one after the other."""

    disable_nagle_algorithm = True
    server: Server

    def setup(self) -> None:
        """Begin."""
        super().setup()
        self.socket: socket.socket = self.connection
        self.server.lines.add(self.socket)

    def finish(self) -> None:
        """End."""
        self.server.lines.discard(self.socket)
        with suppress(OSError):
            super().finish()

    def handle(self) -> None:
        """Answer until the connection ends."""
        with suppress(OSError):
            while not self.server.closing.is_set() and self._exchange():
                pass

    def wait(self, seconds: float) -> bool:
        """Wait; return False if the client or the server has gone."""
        if self.server.closing.wait(seconds) if seconds else self.server.closing.is_set():
            return False
        readable, _, _ = select.select([self.socket], [], [], 0)
        return not readable or bool(self.socket.recv(1, socket.MSG_PEEK))

    def _exchange(self) -> bool:
        """Answer one request; return whether another one may come."""
        words = self.rfile.readline(65536).decode("latin1").split()
        if len(words) != 3:
            return False
        method, path, version = words
        headers = self._headers()
        served = self.server.served
        request = served.note(path, headers)
        if served.latency_s:
            self.server.closing.wait(served.latency_s)
        due = served.fault_of(request)
        try:
            sound = served.answer(request) if method in ("GET", "HEAD") else Answer(HTTPStatus.METHOD_NOT_ALLOWED)
            if due is not None:
                return misbehave(*due, path, self, sound, lambda change: served.answer(request, change))
        except OSError:
            raise
        except Exception:  # noqa: BLE001  (a test is to see what is wrong with its server)
            sound = Answer(HTTPStatus.INTERNAL_SERVER_ERROR, traceback.format_exc().encode())
        self.socket.sendall(sound.head() if method == "HEAD" else sound.head() + sound.body)
        return version == "HTTP/1.1" and headers.get("connection", "").lower() != "close"

    def _headers(self) -> dict[str, str]:
        headers: dict[str, str] = {}
        for _ in range(_HEADER_LINES):
            name, _, value = self.rfile.readline(65536).decode("latin1").partition(":")
            if not name.strip():
                break
            headers[name.strip().lower()] = value.strip()
        return headers
