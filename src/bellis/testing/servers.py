"""Servers on this machine for arrays that are elsewhere: of files by HTTP, and of objects as S3 has them."""

from __future__ import annotations

import hashlib
import re
import threading
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


@contextmanager
def http_server(folder: Path, refuse: Callable[[str], int | None] = lambda _: None) -> Iterator[str]:
    """Serve the files of a folder to readers, with ranges, and yield the URL.

    Parameters
    ----------
    folder
        What is served.
    refuse
        Called with the path of each request; returns the status to answer with in place of the file, or None.
    """

    class Handler(_Handler):
        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            if (status := refuse(path)) is not None:
                self.answer(status)
                return
            self.send_part(_bytes_of(folder / path.lstrip("/")))

        do_HEAD = do_GET  # noqa: N815  (http.server's name)

    with _serving(Handler) as url:
        yield url


@contextmanager
def s3_server(objects: dict[str, bytes]) -> Iterator[str]:
    """Serve and take objects, called ``bucket/key``, as S3 does, without asking who it is; yield the endpoint."""
    lock = threading.Lock()

    class Handler(_Handler):
        def do_GET(self) -> None:
            url = urlsplit(self.path)
            name, query = unquote(url.path).strip("/"), parse_qs(url.query)
            with lock:
                if "list-type" in query:
                    self.answer(200, _listing(objects, name, query.get("prefix", [""])[0]))
                else:
                    self.send_part(objects.get(name) if "/" in name else b"")

        do_HEAD = do_GET  # noqa: N815  (http.server's name)

        def do_PUT(self) -> None:
            name = unquote(urlsplit(self.path).path).strip("/")
            body = self.rfile.read(int(self.headers["Content-Length"]))
            with lock:
                found = objects.get(name)
                match, none_match = self.headers.get("If-Match"), self.headers.get("If-None-Match")
                if (none_match == "*" and found is not None) or (match and (found is None or match != _etag(found))):
                    self.answer(HTTPStatus.PRECONDITION_FAILED)
                    return
                objects[name] = body
            self.answer(200, etag=_etag(body))

        def do_DELETE(self) -> None:
            with lock:
                objects.pop(unquote(urlsplit(self.path).path).strip("/"), None)
            self.answer(HTTPStatus.NO_CONTENT)

    with _serving(Handler) as url:
        yield url


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16  # an answer in one piece: in two, each waits 40 ms for the acknowledgement of the first
    disable_nagle_algorithm = True

    def answer(self, status: int, body: bytes = b"", *, etag: str = "", content_range: str = "") -> None:
        self.send_response(status)
        if etag:
            self.send_header("ETag", etag)
        if content_range:
            self.send_header("Content-Range", content_range)
        self.send_header("x-amz-bucket-region", "us-east-1")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_part(self, body: bytes | None) -> None:
        """Answer with what the request's range asks for."""
        if body is None:
            self.answer(HTTPStatus.NOT_FOUND)
            return
        etag = _etag(body)
        if self.headers.get("If-None-Match") == etag:
            self.answer(HTTPStatus.NOT_MODIFIED, etag=etag)
            return
        found = _RANGE.fullmatch(self.headers.get("Range", ""))
        if found is None:
            self.answer(HTTPStatus.OK, body, etag=etag)
            return
        first, last = found.groups()
        begin = int(first) if first else max(0, len(body) - int(last))
        end = min(int(last) + 1 if first and last else len(body), len(body))
        said = f"bytes {begin}-{end - 1}/{len(body)}"
        self.answer(HTTPStatus.PARTIAL_CONTENT, body[begin:end], etag=etag, content_range=said)

    def log_message(self, format: str, *args: object) -> None:
        """Be quiet."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # by default 5: who comes sixth tries again after a second


@contextmanager
def _serving(handler: type[_Handler]) -> Iterator[str]:
    server = _Server(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _bytes_of(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _etag(body: bytes) -> str:
    return f'"{hashlib.sha256(body).hexdigest()[:32]}"'


def _listing(objects: dict[str, bytes], bucket: str, prefix: str) -> bytes:
    keys = sorted(name.removeprefix(f"{bucket}/") for name in objects if name.startswith(f"{bucket}/{prefix}"))
    entries = "".join(f"<Contents><Key>{escape(key)}</Key><Size>1</Size></Contents>" for key in keys)
    return (
        '<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"<IsTruncated>false</IsTruncated><KeyCount>{len(keys)}</KeyCount>{entries}</ListBucketResult>"
    ).encode()
