"""Connections that never wait past a deadline, whatever the other side does.

The time-out of a socket begins anew with each byte: a server that sends one now and then keeps a reader for ever. Here
each wait is cut to what is left until the deadline, so that headers, bodies and handshakes end in time. Looking up a
host's name is the resolver's, and is not interrupted.
"""

from __future__ import annotations

import socket
import ssl
from contextlib import contextmanager
from contextvars import ContextVar
from time import monotonic
from typing import TYPE_CHECKING, Any

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError

from bellis.volumes.stopping import GIVEN_UP, SLICE_S, is_stopped

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_LIMITS: ContextVar[tuple[float, float]] = ContextVar("limits")


@contextmanager
def limited(deadline: float, stall_s: float) -> Iterator[None]:
    """Let what this thread asks end at ``deadline`` (of the monotonic clock), or ``stall_s`` after the last byte."""
    token = _LIMITS.set((deadline, stall_s))
    try:
        yield
    finally:
        _LIMITS.reset(token)


def left() -> float:
    """Return how many seconds this thread may wait for the next byte.

    Raises
    ------
    TimeoutError
        If there are none.
    """
    deadline, stall_s = _LIMITS.get()
    seconds = min(deadline - monotonic(), stall_s)
    if seconds <= 0:
        raise TimeoutError("the deadline is over")
    return seconds


def _slice(until: float) -> float:
    """Return how long to wait before it is looked whether to wait on.

    Raises
    ------
    TimeoutError
        If not.
    """
    seconds = until - monotonic()
    if seconds <= 0:
        raise TimeoutError("nothing came in time")
    if is_stopped():
        raise TimeoutError(GIVEN_UP)
    return min(seconds, SLICE_S)


def pools(parallel: int, proxy: str | None, *, is_secure: bool) -> urllib3.PoolManager:
    """Return pools of connections that heed `limited`; at most ``parallel`` to one server."""
    options: dict[str, Any] = {"num_pools": 16, "maxsize": parallel, "block": True}
    if is_secure:
        context = urllib3.util.create_urllib3_context()
        context.load_default_certs()  # takes 50 ms
        context.sslsocket_class = _SecureSocket
        options["ssl_context"] = context
    if proxy is None:
        manager = urllib3.PoolManager(**options)
    else:
        auth = urllib3.util.parse_url(proxy).auth
        headers = urllib3.util.make_headers(proxy_basic_auth=auth) if auth else None
        manager = urllib3.ProxyManager(proxy, proxy_headers=headers, **options)
    manager.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}
    return manager


class _Limited(socket.socket):
    """A socket whose every wait is cut to what is left, and ends when nobody waits for it."""

    def recv_into(self, *args: Any, **options: Any) -> int:
        until = monotonic() + left()
        while True:
            self.settimeout(_slice(until))
            try:
                return super().recv_into(*args, **options)
            except TimeoutError:
                continue

    def sendall(self, *args: Any, **options: Any) -> None:
        self.settimeout(left())
        super().sendall(*args, **options)


class _SecureSocket(_Limited, ssl.SSLSocket):
    """The same, with TLS."""


class _Connection(HTTPConnection):
    def _new_conn(self) -> socket.socket:
        return _connected(self)


class _SecureConnection(HTTPSConnection):
    def _new_conn(self) -> socket.socket:
        return _connected(self)


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Connection


class _SecurePool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


def _connected(connection: HTTPConnection) -> socket.socket:
    """Return a socket to the first address of the host that takes it."""
    host = connection.host
    try:
        addresses = socket.getaddrinfo(host.strip("[]"), connection.port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        if isinstance(error, UnicodeError):
            error = socket.gaierror(socket.EAI_NONAME, f"no host can be called so: {error}")
        raise NameResolutionError(host, connection, error) from error
    failure: OSError = ConnectionError(f"{host} has no address")
    for family, kind, protocol, _, address in addresses:
        try:
            return _to(address, _Limited(family, kind, protocol), connection.socket_options or ())
        except OSError as error:
            failure = error
    if isinstance(failure, TimeoutError):
        raise ConnectTimeoutError(connection, "connection timed out") from failure
    raise NewConnectionError(connection, str(failure)) from failure


def _to(address: Any, made: _Limited, options: Sequence[Any]) -> _Limited:
    try:
        for option in options:
            made.setsockopt(*option)
        made.settimeout(left())
        made.connect(address)
        made.settimeout(left())  # that of a handshake, which has one for all its parts
    except BaseException:
        made.close()
        raise
    return made
