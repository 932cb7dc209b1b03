"""What a web server is asked, and what to make of its answer."""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from time import monotonic
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from bellis.errors import AccessError, FetchError, MissingBlockError, TransientError
from bellis.volumes.access import public, without
from bellis.volumes.digests import is_verified

if TYPE_CHECKING:
    from collections.abc import Mapping

    import urllib3

_EXCERPT_BYTES = 64 * 1024
_ENCODINGS = ("gzip", "x-gzip", "deflate")
_TRANSIENT = (408, 425, 429)
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a server sent."""

    body: bytes = field(repr=False)
    """All of it, content encoding undone."""
    headers: Mapping[str, str] = field(repr=False)
    """By names in lower case."""
    content_type: str
    """As the server says, without parameters; empty if it does not."""
    is_checked: bool
    """Whether the body was compared with a checksum."""


class Request:
    """What is asked, and where we were sent so far."""

    def __init__(
        self, url: str, headers: dict[str, str], deadline: float, timeout_s: float, stall_s: float, limit: int
    ) -> None:
        self.url = url
        self.headers = headers
        self.deadline = deadline
        self.timeout_s = timeout_s
        self.stall_s = stall_s
        self.limit = limit
        self._secrets = headers
        self._seen = {url}

    @property
    def left_s(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - monotonic()

    @property
    def note(self) -> str:
        """Why we may not be known any more."""
        return "" if self.headers == self._secrets else " (who we are is not told to where a redirect leads)"

    def follow(self, target: str) -> None:
        """Go where the server sends us; to another one, without credentials, and none on the way back."""
        try:
            url = urljoin(self.url, target)
            check_url(url)
        except ValueError as error:
            raise self.error(FetchError, f"a redirect to what can't be asked for: {public(target)}") from error
        if url in self._seen:
            raise self.error(FetchError, f"redirects in a loop, to {public(url)}")
        self._seen.add(url)
        if _origin(url) != _origin(self.url):
            self.headers = {}
        self.url = url

    def error(self, kind: type[FetchError], text: str) -> FetchError:
        """Return an error that says what was asked."""
        return kind(f"{public(self.url)}: {self.shown(text)}")

    def shown(self, text: str) -> str:
        """Return a text without the secrets of the request."""
        return without(text, self.url, self._secrets)


def status_error(status: int) -> type[FetchError]:
    """Return the kind of error that an HTTP status is."""
    if status in _TRANSIENT or status >= 500:
        return TransientError
    if status in (401, 403, 407):
        return AccessError
    return MissingBlockError if status in (404, 410) else FetchError


def shown_status(status: int) -> str:
    """Return a status for people: ``HTTP 404 Not Found``."""
    known = status in set(HTTPStatus)
    return f"HTTP {status} {HTTPStatus(status).phrase}" if known else f"HTTP {status}"


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return how many seconds a server asks to wait; None if it does not, or nobody can tell."""
    said = headers.get("retry-after", "").strip()
    if re.fullmatch(r"\d{1,9}(\.\d*)?", said):
        return float(said)
    try:
        then = parsedate_to_datetime(said)
        now = parsedate_to_datetime(headers["date"]) if "date" in headers else datetime.now(UTC)
        return max(0.0, (then - now).total_seconds())
    except (ValueError, TypeError):  # a date without a zone can't be compared
        return None


def received(response: urllib3.BaseHTTPResponse, request: Request) -> Answer | str:
    """Return what came, or where it sends us; who calls releases the connection."""
    headers = {name.lower(): value for name, value in response.headers.items()}
    if response.status in (301, 302, 303, 307, 308) and "location" in headers:
        if (_content_length(headers) or 0) < _EXCERPT_BYTES:
            response.read(_EXCERPT_BYTES, decode_content=False)  # so that the connection is used again
        else:
            response.close()
        return headers["location"]
    if response.status != HTTPStatus.OK:
        raise _refusal(response, headers, request)
    size = _content_length(headers)
    if size is not None and size > request.limit:
        raise request.error(FetchError, f"{size} bytes came where at most {request.limit} are due")
    raw = response.read(request.limit + 1, decode_content=False)
    if len(raw) > request.limit:
        raise request.error(FetchError, f"more than {request.limit} bytes came, and more was to come")
    if size is not None and len(raw) != size:
        raise request.error(TransientError, f"the connection was cut after {len(raw)} of {size} bytes")
    coding = headers.get("content-encoding", "identity").strip().lower()
    body = raw if coding in ("identity", "") else _decoded(raw, coding, request)
    try:
        is_checked = is_verified(headers, raw, body)
    except TransientError as error:
        raise request.error(TransientError, str(error)) from None
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    return Answer(body=body, headers=headers, content_type=kind, is_checked=is_checked or coding in ("gzip", "x-gzip"))


def _refusal(response: urllib3.BaseHTTPResponse, headers: dict[str, str], request: Request) -> FetchError:
    """Return the error that a status is, with the first words of the page that came with it."""
    kind = status_error(response.status)
    page = b""
    if "content-encoding" not in headers:
        page = response.read(_EXCERPT_BYTES, decode_content=False)
        if len(page) == _EXCERPT_BYTES:
            response.close()
    text = shown_status(response.status)
    if kind in (AccessError, FetchError):
        words = " ".join(re.sub(r"<[^>]*>|[^\x20-\x7e]", " ", page.decode("utf-8", "replace")).split())
        words = request.shown(words)[:200]
        text += (f": {words!r}" if words else "") + (request.note if kind is AccessError else "")
    error = request.error(kind, text)
    if isinstance(error, TransientError):
        error.retry_after_s = retry_after(headers)
    return error


def _decoded(raw: bytes, coding: str, request: Request) -> bytes:
    """Undo a content encoding, within bounds."""
    if coding not in _ENCODINGS:
        raise request.error(FetchError, f"came with the Content-Encoding {coding!r}, which was not asked for")
    parts, size, rest = [], 0, raw
    try:
        while rest:
            # 47: with the header of gzip or of zlib; what some servers call deflate has neither.
            unpack = zlib.decompressobj(47 if coding != "deflate" or rest[0] & 15 == 8 else -15)
            parts.append(unpack.decompress(rest, request.limit + 1 - size))
            size += len(parts[-1])
            if size > request.limit:
                raise request.error(FetchError, f"{len(raw)} bytes came that unpack to more than {request.limit}")
            if not unpack.eof:
                raise request.error(TransientError, f"the {coding} stream of {len(raw)} bytes is cut short")
            rest = unpack.unused_data
    except zlib.error as error:
        raise request.error(TransientError, f"the {coding} stream of {len(raw)} bytes is damaged: {error}") from error
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _content_length(headers: Mapping[str, str]) -> int | None:
    said = headers.get("content-length", "").strip()
    return int(said) if said.isdigit() and "transfer-encoding" not in headers else None


def check_url(url: str) -> None:
    """Refuse what can't be asked for."""
    try:
        parts = urlsplit(url)
        is_url = parts.scheme in _PORTS and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_url = False
    if not is_url:
        raise FetchError(f"{public(url)} is no URL that can be asked for: http://host/path")


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or _PORTS.get(parts.scheme)
