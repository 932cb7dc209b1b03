"""Web servers of bare sockets: a test says byte by byte what they do."""

from __future__ import annotations

import contextlib
import socket
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator, Mapping


@dataclass
class Server:
    """What a test knows of its server."""

    url: str
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    num_connections: int = 0
    ended: threading.Event = field(default_factory=threading.Event)
    """Set when the test is over: what waits in a handler waits for this."""

    @property
    def paths(self) -> list[str]:
        return [path for path, _ in self.requests]


def reply(status: int = 200, body: bytes = b"", headers: Mapping[str, str] | None = None) -> bytes:
    said = {"Content-Length": str(len(body)), **(headers or {})}
    lines = [f"HTTP/1.1 {status} Whatever", *(f"{name}: {value}" for name, value in said.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@contextmanager
def raw_server(
    behave: Callable[[Server, socket.socket, str, int], bytes | None], tls: ssl.SSLContext | None = None
) -> Iterator[Server]:
    """Serve on this machine.

    ``behave`` is called with the server, the connection, the path and the number of the request (from 1); it returns
    what to send, or None to close the connection.
    """
    listening = socket.create_server(("127.0.0.1", 0))
    server = Server(f"{'https' if tls else 'http'}://127.0.0.1:{listening.getsockname()[1]}")
    lock = threading.Lock()
    connections: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def talk(plain: socket.socket) -> None:
        with (
            plain,
            contextlib.suppress(OSError),
            tls.wrap_socket(plain, server_side=True) if tls else plain as connection,
        ):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            rest = b""
            while True:
                while b"\r\n\r\n" not in rest:
                    part = connection.recv(65536)
                    if not part:
                        return
                    rest += part
                head, _, rest = rest.partition(b"\r\n\r\n")
                first, *lines = head.decode().split("\r\n")
                headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
                with lock:
                    server.requests.append((first.split()[1], headers))
                    number = len(server.requests)
                said = behave(server, connection, first.split()[1], number)
                if said is None:
                    return
                connection.sendall(said)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listening.accept()
                with lock:
                    server.num_connections += 1
                    connections.append(connection)
                thread = threading.Thread(target=talk, args=(connection,))
                threads.append(thread)
                thread.start()

    accepting = threading.Thread(target=accept)
    accepting.start()
    try:
        yield server
    finally:
        server.ended.set()
        with contextlib.suppress(OSError):
            listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        accepting.join()
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()
