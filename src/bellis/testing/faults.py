"""What goes wrong on the way from a server: one name for each fault, and how it is done to an answer."""

from __future__ import annotations

import socket
import struct
import threading
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from http import HTTPStatus
from math import ceil
from time import time
from typing import TYPE_CHECKING, Literal, Protocol, get_args

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

FaultKind = Literal[
    "400", "401", "403", "404", "410", "429", "429 date", "500", "503",
    "cut", "cut in body", "truncated", "short body", "html", "bit flip", "wrong shape", "wrong dtype",
    "stall", "stall in body", "trickle", "endless", "redirect", "redirect loop",
]  # fmt: skip
"""
- a status, ``429`` with ``Retry-After`` in seconds or as a date;
- ``cut``: the connection is reset before the answer; ``cut in body``: in the middle of it;
- ``truncated``: the answer ends before its Content-Length; ``short body``: half of it, and its length says so;
- ``html``: a page for people, with status 200;
- ``bit flip``: near the end of the body, at another place each time; a checksum in a header is that of the sound body;
- ``wrong shape``, ``wrong dtype``: a sound answer of other voxels;
- ``stall``: no answer; ``stall in body``: its headers and nothing else; ``trickle``: a byte each 0.2 s;
- ``endless``: a body that does not end;
- ``redirect``: to the same place with ``?again``, or on another server; ``redirect loop``: to itself.
"""
KINDS: tuple[FaultKind, ...] = get_args(FaultKind)
"""All of them."""
TRICKLE_S = 0.2
"""Seconds between bytes."""

_PAGE = b"<!DOCTYPE html><html><head><title>Sign in</title></head><body>Please sign in.</body></html>\n"
_AGAIN = "again"
_NO_LINGER = struct.pack("ii", 1, 0)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server sends."""

    status: int
    """As in HTTP."""
    body: bytes = b""
    """After the headers."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Without Content-Length."""

    def head(self, num_bytes: int | None = None) -> bytes:
        """Return the status and headers; they say the length of the body, or another one."""
        lines = [f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        lines.append(f"Content-Length: {len(self.body) if num_bytes is None else num_bytes}")
        return "\r\n".join([*lines, "", ""]).encode("latin1")


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that goes wrong."""

    kind: FaultKind
    """What."""
    times: int | None = None
    """How often, for each ``per``; None for always."""
    when: Callable[[str], bool] | None = None
    """For which paths; for all that have voxels if not given."""
    per: Literal["url", "all"] = field(default="url", kw_only=True)
    """Whether ``times`` counts for each URL, or for all together."""
    retry_after_s: float = field(default=1.0, kw_only=True)
    """What 429 asks to wait; a date has whole seconds."""
    to: str = field(default="", kw_only=True)
    """Where a redirect leads: the URL of another server; to the same one if not given."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"fault {self.kind!r} is none of {', '.join(KINDS)}")


class Faults:
    """Faults of a server, and how often each was done."""

    def __init__(self, faults: Iterable[Fault] = ()) -> None:
        self.all = tuple(faults)
        self._counts: dict[tuple[int, str], int] = {}
        self._lock = threading.Lock()

    def due(self, path: str, *, is_data: bool) -> tuple[Fault, int] | None:
        """Return which fault happens to a request, and how often it did so before; None for none."""
        with self._lock:
            for k, fault in enumerate(self.all):
                is_meant = fault.when(path) if fault.when else is_data
                if not is_meant or (fault.kind == "redirect" and path.endswith(_AGAIN)):
                    continue
                key = (k, path if fault.per == "url" else "")
                count = self._counts.get(key, 0)
                if fault.times is None or count < fault.times:
                    self._counts[key] = count + 1
                    return fault, count
        return None


class Line(Protocol):
    """A connection to a client."""

    socket: socket.socket
    """The connection."""

    def wait(self, seconds: float) -> bool:
        """Wait; return False if the client or the server has gone."""


def misbehave(fault: Fault, count: int, path: str, line: Line, sound: Answer, variant: Callable[[str], Answer]) -> bool:
    """Answer a request as a fault has it; return whether the connection goes on.

    Parameters
    ----------
    fault, count
        What goes wrong, for the how-manieth time.
    path
        What was asked for.
    line
        Where to answer.
    sound
        What the answer would be.
    variant
        Makes a sound answer of another ``"shape"`` or ``"dtype"``.
    """
    answer = _other_answer(fault, count, path, sound, variant)
    if answer is not None:
        line.socket.sendall(answer.head() + answer.body)
        return True
    half = sound.body[: len(sound.body) // 2]
    if fault.kind == "cut in body":
        line.socket.sendall(sound.head() + half)
        line.wait(0.02)  # a reset overtakes what was not yet read
    if fault.kind in ("cut", "cut in body"):
        line.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
    elif fault.kind == "truncated":
        line.socket.sendall(sound.head() + half)
    elif fault.kind == "trickle":
        _trickle(line, sound)
    elif fault.kind == "endless":
        line.socket.sendall(sound.head().replace(b"Content-Length", b"X-Length"))
        while line.wait(0.005):  # as fast as a network is, and no faster: others need the processor as well
            line.socket.sendall(bytes(1 << 19))
    else:
        if fault.kind == "stall in body":
            line.socket.sendall(sound.head())
        while line.wait(0.05):
            pass
    return False


def _other_answer(
    fault: Fault, count: int, path: str, sound: Answer, variant: Callable[[str], Answer]
) -> Answer | None:
    """Return what is sent in place of a sound answer, if it is a whole one."""
    kind = fault.kind
    if kind[:3].isdigit():
        headers = {"Content-Type": "text/plain"}
        if kind == "429":
            headers["Retry-After"] = f"{fault.retry_after_s:g}"
        elif kind == "429 date":
            headers["Retry-After"] = formatdate(ceil(time() + fault.retry_after_s), usegmt=True)
        return Answer(int(kind[:3]), f"this server answers {kind}\n".encode(), headers)
    if kind == "redirect loop":
        return Answer(HTTPStatus.FOUND, headers={"Location": path})
    if kind == "redirect":
        again = f"{path}{'&' if '?' in path else '?'}{_AGAIN}"
        return Answer(HTTPStatus.FOUND, headers={"Location": f"{fault.to}{path}" if fault.to else again})
    if kind == "html":
        return Answer(200, _PAGE, {"Content-Type": "text/html; charset=utf-8"})
    if kind == "short body":
        return replace(sound, body=sound.body[: len(sound.body) // 2])
    if kind == "bit flip":
        body = bytearray(sound.body)
        # In the voxels, neither in headers in front of them nor in what is behind; 64 different ones.
        body[(len(body) * 5 // 6 + count % 8) % len(body)] ^= 1 << (3 + count // 8) % 8
        return replace(sound, body=bytes(body))
    return variant(kind.removeprefix("wrong ")) if kind.startswith("wrong ") else None


def _trickle(line: Line, sound: Answer) -> None:
    line.socket.sendall(sound.head())
    for k in range(len(sound.body)):
        if not line.wait(TRICKLE_S):
            return
        line.socket.sendall(sound.body[k : k + 1])
