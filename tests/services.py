"""What tests of the service are made of: boards, leases, reports, a server and raw connections to it."""

from __future__ import annotations

import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

import msgspec
import numpy as np

from bellis.runtime.lease import Lease, Outcome, Report
from bellis.service.board import Board
from bellis.service.messages import BlockReport, Join, Region, TaskDescription, Turn
from bellis.service.roster import BoardTask
from bellis.service.server import Server

if TYPE_CHECKING:
    from collections.abc import Iterator

TOKEN = "the-token-of-this-run-and-no-other"
RUN_ID = "run-1"
DEADLINE_S = 20.0


def board_task(task_id: str = "task", *, is_open: bool = True, **changes: Any) -> BoardTask:
    region = Region(offset=[0], shape=[1000])
    block = Region(offset=[0], shape=[1])
    description = TaskDescription(
        number=0,
        task_id=task_id,
        total_roi=region,
        read_roi=block,
        write_roi=block,
        fit="valid",
        **{"keeps_results": False, "timeout_s": None, "process": None, **changes},
    )
    return BoardTask(description=description, is_open=is_open)


def lease(lease_id: int = 1, begin: int = 0, end: int = 4, task_id: str = "task") -> Lease:
    return Lease(lease_id, task_id, np.arange(begin, end))


def seconds(count: int, each: float = 0.01) -> bytes:
    return np.full(count, each, np.float32).tobytes()


def said(lease_id: int = 1, begin: int = 0, count: int = 4, *, finished: bool = True, **changes: Any) -> BlockReport:
    outcomes = bytes([Outcome.SUCCESS]) * count
    given = {"outcomes": outcomes, "seconds": seconds(count), "finished": finished, **changes}
    return BlockReport(lease_id=lease_id, begin=begin, **given)


def asking(**changes: Any) -> Turn:
    return Turn(**{"wants": 1, **changes})


@contextmanager
def serving(board: Board | None = None, **options: Any) -> Iterator[Server]:
    server = Server(board or Board(RUN_ID, [board_task()]), TOKEN, **options)
    server.start()
    try:
        yield server
    finally:
        server.close()


class Raw:
    """A connection that sends what it likes."""

    def __init__(self, server: Server) -> None:
        self.socket = socket.create_connection(("127.0.0.1", server.port), timeout=DEADLINE_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def ask(
        self, method: str, path: str, body: bytes | msgspec.Struct = b"", headers: dict[str, str | None] | None = None
    ) -> tuple[int, bytes]:
        """Send a request as a worker of the run would, but for what ``headers`` says; return the answer."""
        self.send(request(method, path, body, headers))
        return self.answer()

    def answer(self) -> tuple[int, bytes]:
        """Return status and body of the next answer; (0, b"") if the connection was closed instead."""
        received = b""
        while b"\r\n\r\n" not in received:
            part = self._receive()
            if not part:
                return 0, b""
            received += part
        head, _, body = received.partition(b"\r\n\r\n")
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        while len(body) < int(fields.get(b"content-length", b"0")):
            body += self._receive()
        return int(head.split(b" ", 2)[1]), body

    def _receive(self) -> bytes:
        try:
            return self.socket.recv(65536)
        except ConnectionError:
            return b""

    def is_closed(self) -> bool:
        """Wait until the other side closes the connection."""
        while self._receive():
            pass
        return True


def request(
    method: str, path: str, body: bytes | msgspec.Struct = b"", headers: dict[str, str | None] | None = None
) -> bytes:
    content = body if isinstance(body, bytes) else msgspec.json.encode(body)
    fields = {
        "Host": "run",
        "Authorization": f"Bearer {TOKEN}",
        "Bellis-Run": RUN_ID,
        "Content-Length": str(len(content)),
        **(headers or {}),
    }
    lines = [f"{name}: {value}" for name, value in fields.items() if value is not None]
    return "\r\n".join([f"{method} {path} HTTP/1.1", *lines, "", ""]).encode() + content


# Boards --------------------------------------------------------------------------------------------------------------


def board_with(*leases: Lease, tasks: tuple[str, ...] = ("task",), **options: Any) -> Board:
    board = Board(RUN_ID, [board_task(task_id) for task_id in tasks], **options)
    for one in leases:
        board.submit(one)
    return board


def joined(board: Board, *, now_s: float = 0.0, **options: Any) -> int:
    return board.join(Join(**{"name": "host", **options}), now_s).worker_id


def given_ids(answer: Any) -> list[int]:
    return [one.lease_id for one in answer.leases]


def reports(board: Board) -> list[Report]:
    return [event for event in board.take_events() if isinstance(event, Report)]
