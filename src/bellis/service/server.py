"""The service's thread: a port, connections, and the board behind them."""

from __future__ import annotations

import asyncio
import resource
import socket
import ssl
import threading
from contextlib import contextmanager, suppress
from time import monotonic
from typing import TYPE_CHECKING, Any

from uvicorn.config import Config
from uvicorn.server import ServerState

from bellis.errors import EngineError
from bellis.service.app import App
from bellis.service.messages import LONGEST_WAIT_S, Answer
from bellis.service.protocol import IDLE_S, LOGGER, LimitedProtocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

    from bellis.service.board import Board
    from bellis.service.messages import Join, Joined, RunStatus, Turn

SWEEP_S = 0.25
START_S = 10.0
END_S = 1.0
"""What is under way when the service ends gets so long."""
HANDSHAKE_S = 10.0
DESCRIPTORS = 16_384
"""So many files the process should be able to have open: each worker holds one connection."""


class Server:
    """Serves a board over HTTP, from a thread of its own.

    Parameters
    ----------
    board
        Used by nobody else, but through `board`.
    token
        What workers must know.
    host, port
        Where to listen; port 0 for any that is free.
    certificate, key
        Files for TLS, PEM; without a certificate, connections are not encrypted.
    tell
        Called from any thread when the board has events.

    Raises
    ------
    EngineError
        If it can't listen there, or the certificate can't be used.
    """

    def __init__(
        self,
        board: Board,
        token: str,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        certificate: Path | None = None,
        key: Path | None = None,
        tell: Callable[[], None] = lambda: None,
    ) -> None:
        self.run_id = board.run_id
        self._board = board
        self._tell = tell
        self._lock = threading.Lock()
        self._waits: dict[int, asyncio.Future[None]] = {}
        self._tls = _tls(certificate, key)
        _raise_limit()
        self._app = App(self, token)
        self._socket = _bind(host, port)
        self.port: int = self._socket.getsockname()[1]
        self.scheme = "http" if self._tls is None else "https"
        self._loop = asyncio.new_event_loop()
        self._ending = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="bellis-service", daemon=True)
        self._started = threading.Event()

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()
        if not self._started.wait(START_S):
            raise EngineError(f"the service did not start within {START_S:g} s")

    def close(self) -> None:
        """End all connections, the thread and the port."""
        if self._thread.is_alive():
            with suppress(RuntimeError):  # it has ended meanwhile
                self._loop.call_soon_threadsafe(self._ending.set)
            self._thread.join()
        elif not self._loop.is_closed():
            self._loop.close()
        self._socket.close()

    @contextmanager
    def board(self) -> Iterator[Board]:
        """Use the board; workers that wait for what is done to it are answered afterwards. For any thread."""
        with self._lock:
            yield self._board
            to_answer, has_events = self._board.take_to_answer(), self._board.has_events()
        if to_answer:
            with suppress(RuntimeError):  # the service has ended
                self._loop.call_soon_threadsafe(self._rouse, to_answer)
        if has_events:
            self._tell()

    def _rouse(self, workers: set[int]) -> None:
        for worker_id in workers:
            wait = self._waits.get(worker_id)
            if wait is not None and not wait.done():
                wait.set_result(None)

    # Requests, in the service's thread -------------------------------------------------------------------------------

    def join(self, join: Join) -> Joined:
        """Take in a worker."""
        with self.board() as board:
            joined = board.join(join, monotonic())
        self._tell()
        return joined

    def leave(self, worker_id: int) -> None:
        """Let a worker go."""
        with self.board() as board:
            board.leave(worker_id)
        self._tell()

    def status(self) -> RunStatus:
        """Return how the run goes."""
        with self.board() as board:
            return board.status()

    async def turn(self, worker_id: int, turn: Turn, gone: Callable[[], Awaitable[Any]]) -> Answer:
        """Take a worker's turn; if it wants leases and there is nothing to say, wait for some."""
        wait: asyncio.Future[None] | None = None
        with self.board() as board:
            answer = board.turn(worker_id, turn, monotonic())
            earlier = self._waits.pop(worker_id, None)
            if turn.wants and turn.wait_s and _says_nothing(answer):
                board.begin_wait(worker_id, turn.wants)
                wait = self._waits[worker_id] = self._loop.create_future()
        if earlier is not None:
            earlier.cancel()
        if wait is None:
            return answer
        left = asyncio.ensure_future(gone())
        try:
            await asyncio.wait((wait, left), timeout=min(turn.wait_s, LONGEST_WAIT_S), return_when="FIRST_COMPLETED")
        finally:
            left.cancel()
        if wait.cancelled():  # the worker has taken another turn since: that one is answered
            return answer
        del self._waits[worker_id]
        with self.board() as board:
            return board.answer(worker_id, monotonic())

    # The thread ------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        self._loop.set_exception_handler(lambda _, context: LOGGER.warning("%s", context.get("message")))
        try:
            self._loop.run_until_complete(self._serve())
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        config = Config(
            self._app.asgi,
            http=LimitedProtocol,
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            proxy_headers=False,
            timeout_keep_alive=int(IDLE_S),
            limit_concurrency=max(64, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 128),
        )
        config.load()
        state = ServerState()
        strangers: dict[LimitedProtocol, None] = {}

        def protocol() -> LimitedProtocol:
            return LimitedProtocol(
                config=config, server_state=state, app_state={}, _loop=self._loop, strangers=strangers
            )

        listener = await self._loop.create_server(
            protocol,
            sock=self._socket,
            ssl=self._tls,
            backlog=1024,
            ssl_handshake_timeout=None if self._tls is None else HANDSHAKE_S,
        )
        sweeper = asyncio.ensure_future(self._sweep())
        self._started.set()
        await self._ending.wait()
        sweeper.cancel()
        listener.close()
        await self._end(state)

    async def _end(self, state: ServerState) -> None:
        """Let answers that are on the way out arrive; then end what is left."""
        self._rouse(set(self._waits))
        for connection in list(state.connections):
            connection.shutdown()
        until = monotonic() + END_S
        while (state.connections or state.tasks) and monotonic() < until:
            await asyncio.sleep(0.01)
        for connection in list(state.connections):
            connection.transport.abort()
        for task in list(state.tasks):
            task.cancel()
        await asyncio.sleep(0)
        await asyncio.gather(*state.tasks, return_exceptions=True)

    async def _sweep(self) -> None:
        while True:
            with self.board() as board:
                board.sweep(monotonic())
            await asyncio.sleep(SWEEP_S)


def _says_nothing(answer: Answer) -> bool:
    return answer.state == "go" and not (answer.leases or answer.lost or answer.give_back)


def _bind(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        listener = socket.create_server((host, port), family=family, backlog=1024)
    except (OSError, OverflowError) as error:
        raise EngineError(
            f"the service can't listen on {host}:{port}: {error}; pass an address of this machine, with port 0 for "
            "any that is free"
        ) from error
    listener.setblocking(False)
    # Connections inherit it. asyncio sets it only for sockets that were made for IPPROTO_TCP by name; without it, an
    # answer's body waits 40 ms for the acknowledgement of its head.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _tls(certificate: Path | None, key: Path | None) -> ssl.SSLContext | None:
    if certificate is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise EngineError(f"the certificate {certificate} can't be used: {error}") from error
    return context


def _raise_limit() -> None:
    """Let this process have more files open, as far as it may; for good, since another service may count on it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
