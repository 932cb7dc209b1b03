"""HTTP on one connection, with limits: whoever is slow, idle, or sends too much hurts only itself."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from bellis.service.messages import LARGEST_BODY_BYTES

if TYPE_CHECKING:
    from asyncio import TimerHandle, Transport

HEAD_S = 10.0
"""A request's head must be there so soon after its first byte, and the first one after the connection."""
LARGEST_HEAD_BYTES = 64 * 1024
LARGEST_REQUEST_BYTES = LARGEST_HEAD_BYTES + LARGEST_BODY_BYTES
"""With all that is around a body: sizes of chunks, their extensions, trailers."""
IDLE_S = 60.0
"""A connection on which no further request comes is closed."""
MOST_STRANGERS = 1024
"""Connections on which nobody has shown the token yet; of more, the oldest is closed."""

LOGGER = logging.getLogger("bellis.service")
LOGGER.addHandler(logging.NullHandler())
LOGGER.propagate = False
EXTENSION = "bellis"
_HEAD = b"HTTP/1.1 "
_INTERIM = b"HTTP/1.1 1"
"""An answer before the answer, such as 100 Continue."""


class Corked:
    """A transport that sends the head of an answer together with its body.

    Each system call lets other threads of the process run; a busy run would keep the service waiting twice per answer.

    Parameters
    ----------
    transport
        What sends.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._head = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send, or keep what begins an answer."""
        if data.startswith(_HEAD) and not data.startswith(_INTERIM):
            self._head = data
        elif data or self._head:
            self._transport.write(self._head + data)
            self._head = b""

    def flush(self) -> None:
        """Send what was kept: the answer has no body."""
        if self._head:
            self.write(b"")

    def close(self) -> None:
        """Close the connection after what was to be sent."""
        self.flush()
        self._transport.close()


class LimitedProtocol(HttpToolsProtocol):
    """uvicorn's protocol; the head of a request has a deadline and a largest size, strangers are counted."""

    def __init__(self, *arguments: Any, strangers: dict[LimitedProtocol, None], **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.logger = LOGGER
        self._strangers = strangers
        self._head_timer: TimerHandle | None = None
        self._head_bytes = 0
        self._request_bytes = 0

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """Give the first request some time, and make room."""
        super().connection_made(cast("Transport", Corked(transport)))
        self._await_head()
        self._strangers[self] = None
        if len(self._strangers) > MOST_STRANGERS:
            oldest = next(iter(self._strangers))
            del self._strangers[oldest]
            oldest.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._end_head()
        self._strangers.pop(self, None)
        super().connection_lost(exc)

    def welcome(self) -> None:
        """Note that whoever is at the other end knows the token."""
        self._strangers.pop(self, None)

    def data_received(self, data: bytes) -> None:
        """Take bytes."""
        self._request_bytes += len(data)
        super().data_received(data)
        if self._head_timer is not None:
            self._head_bytes += len(data)
            if self._head_bytes > LARGEST_HEAD_BYTES:
                self._refuse("The request's head is too large.")
        if self._request_bytes > LARGEST_REQUEST_BYTES:
            self._refuse("The request is too large.")

    def _refuse(self, text: str) -> None:
        """Take nothing more on this connection."""
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            self.send_400_response(text)
        else:
            self.transport.close()

    def on_message_begin(self) -> None:
        """Begin a request."""
        super().on_message_begin()
        self._request_bytes = 0  # what came together with its first byte is not counted: one reading, at most 256 KiB
        cast("dict[str, Any]", self.scope)["extensions"] = {EXTENSION: self}
        self._await_head()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a line of the head; those after the body, which nobody asks for, are not kept."""
        if self._head_timer is not None:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Begin to answer."""
        self._end_head()
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        """Go on after an answer."""
        cast("Corked", self.transport).flush()
        super().on_response_complete()

    def _await_head(self) -> None:
        if self._head_timer is None:
            self._head_bytes = 0
            self._head_timer = self.loop.call_later(HEAD_S, self.transport.abort)

    def _end_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
