"""One request: it ends in time whatever the server does, and says what became of it."""

from __future__ import annotations

import base64
import gzip
import hashlib
import multiprocessing
import pickle
import shutil
import socket
import ssl
import subprocess
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pytest

from bellis.errors import AccessError, FetchError, MissingBlockError, TransientError
from bellis.volumes import http as http_module
from bellis.volumes.answers import retry_after
from bellis.volumes.descriptions import Access
from bellis.volumes.http import HttpClient
from volumes.servers_raw import Server, raw_server, reply

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.integration
SPARE_S = 0.5
"""Machines that run tests are busy; on one that is not, 0.01 s is enough."""


@pytest.fixture
def client() -> Iterator[HttpClient]:
    made = HttpClient(Access(), 4)
    yield made
    made.close()


def ask(client: HttpClient, url: str, timeout_s: float = 5.0, stall_s: float = 5.0, **options: Any) -> Any:
    return client.get(url, timeout_s=timeout_s, stall_s=stall_s, **options)


def answering(said: bytes) -> Callable[..., bytes | None]:
    return lambda *_: said


def test_a_body_comes_whole_and_connections_are_used_again(client: HttpClient) -> None:
    body = bytes(range(256)) * 4000
    with raw_server(answering(reply(body=body, headers={"Content-Type": "image/PNG; q=1", "X-A": "b"}))) as server:
        for _ in range(3):
            answer = ask(client, f"{server.url}/a")
        assert answer.body == body
        assert answer.content_type == "image/png"
        assert answer.headers["x-a"] == "b"
        assert not answer.is_checked
        assert server.num_connections == 1


def test_chunked_and_unbounded_bodies_come_whole(client: HttpClient) -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    with raw_server(answering(chunked)) as server:
        assert [ask(client, server.url).body for _ in range(2)] == [b"abcde"] * 2
        assert server.num_connections == 1

    def closing(_server: Server, connection: socket.socket, *_: object) -> None:
        connection.sendall(b"HTTP/1.0 200 OK\r\n\r\nabcde")

    with raw_server(closing) as server:
        assert ask(client, server.url).body == b"abcde"


# What a server does to keep us -----------------------------------------------------------------------------------


def _silent(server: Server, *_: object) -> None:
    server.ended.wait()


def _stall(server: Server, connection: socket.socket, *_: object) -> None:
    connection.sendall(reply(body=b"a" * 100)[:-50])
    server.ended.wait()


def _trickle(said: bytes) -> Callable[..., None]:
    def behave(server: Server, connection: socket.socket, *_: object) -> None:
        for k in range(len(said)):
            connection.sendall(said[k : k + 1])
            if server.ended.wait(0.01):
                return

    return behave


def _endless(server: Server, connection: socket.socket, *_: object) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    while not server.ended.wait(0.005):
        connection.sendall(b"x" * 1000)


def _endless_chunks(server: Server, connection: socket.socket, *_: object) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while not server.ended.wait(0.005):
        connection.sendall(b"3\r\nabc\r\n")


KEEPERS = {
    "silent": _silent,
    "stall": _stall,
    "trickled headers": _trickle(b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 90 + reply()),
    "trickled body": _trickle(reply(body=b"x" * 900)),
    "trickled error page": _trickle(reply(404, b"x" * 900)),
    "trickled redirect page": _trickle(reply(302, b"x" * 900, {"Location": "/b"})),
    "endless": _endless,
    "endless chunks": _endless_chunks,
}


@pytest.mark.parametrize("keeper", KEEPERS)
def test_no_server_keeps_us_past_the_deadline(client: HttpClient, keeper: str) -> None:
    with raw_server(KEEPERS[keeper]) as server:
        begun = monotonic()
        with pytest.raises(TransientError, match=r"127.0.0.1.*: did not answer in full within 0.15 s"):
            ask(client, f"{server.url}/a", timeout_s=0.15)
        assert monotonic() - begun < 0.15 + SPARE_S


@pytest.mark.parametrize("keeper", ["silent", "stall"])
def test_a_server_that_sends_nothing_is_given_up_early(client: HttpClient, keeper: str) -> None:
    with raw_server(KEEPERS[keeper]) as server:
        begun = monotonic()
        with pytest.raises(TransientError, match=r": sent no byte for 0.1 s"):
            ask(client, f"{server.url}/a", stall_s=0.1)
        assert monotonic() - begun < 0.1 + SPARE_S


def test_a_server_that_takes_no_connection_is_given_up() -> None:
    client = HttpClient(Access())
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        address = full.getsockname()
        waiting = [socket.socket() for _ in range(4)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(address)
        begun = monotonic()
        with pytest.raises(TransientError, match=r"did not answer in full within 0.15 s|sent no byte"):
            ask(client, f"http://127.0.0.1:{address[1]}/", timeout_s=0.15)
        assert monotonic() - begun < 0.15 + SPARE_S
        for each in waiting:
            each.close()


def test_a_tls_handshake_that_stalls_is_given_up(client: HttpClient) -> None:
    def behave(*_: object) -> None:
        raise AssertionError("no request came")

    with raw_server(behave) as server:
        begun = monotonic()
        with pytest.raises(TransientError, match=r"did not answer in full within 0.15 s"):
            ask(client, server.url.replace("http", "https"), timeout_s=0.15)
        assert monotonic() - begun < 0.15 + SPARE_S


def test_a_failed_request_gives_its_connection_back() -> None:
    """A pool that loses a connection with each failure would be empty after two."""
    client = HttpClient(Access(), 2)
    faults = [_stall, lambda *_: None, lambda *_: b"rubbish\r\n\r\n", lambda *_: reply(500, b"x" * 200_000)]

    def behave(server: Server, connection: socket.socket, path: str, number: int) -> bytes | None:
        if path == "/good":
            return reply(body=b"good")
        return faults[number % len(faults)](server, connection, path, number)

    with raw_server(behave) as server:
        for _ in range(9):
            with pytest.raises(TransientError):
                ask(client, f"{server.url}/bad", stall_s=0.02)
        assert ask(client, f"{server.url}/good", timeout_s=1).body == b"good"
    client.close()


@pytest.mark.slow
def test_who_waits_for_a_connection_waits_no_longer_than_the_deadline() -> None:
    client = HttpClient(Access(), 1)
    asked = threading.Event()

    def behave(server: Server, *_: object) -> None:
        asked.set()
        server.ended.wait()

    with raw_server(behave) as server, ThreadPoolExecutor() as threads:
        first = threads.submit(ask, client, f"{server.url}/a", timeout_s=0.4)
        assert asked.wait(5)
        begun = monotonic()
        with pytest.raises(TransientError, match="did not answer in full"):
            ask(client, f"{server.url}/b", timeout_s=0.1)
        assert monotonic() - begun < 0.1 + SPARE_S
        assert isinstance(first.exception(), TransientError)
    client.close()


@pytest.fixture(scope="module")
def certified(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, str]:
    """Return what a TLS server of this machine needs, and the file by which it is trusted."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl, which makes the certificate, is not installed")
    folder = tmp_path_factory.mktemp("tls")
    key, certificate = str(folder / "key.pem"), str(folder / "certificate.pem")
    asked = ["-subj", "/CN=here", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2", "-nodes"]
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    command = [openssl, "req", "-x509", *kind, *asked, "-keyout", key, "-out", certificate]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context, certificate


def test_tls_is_spoken_and_its_trickle_ends_in_time(
    client: HttpClient, certified: tuple[ssl.SSLContext, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    body = bytes(range(256)) * 4000

    def behave(server: Server, connection: socket.socket, path: str, number: int) -> bytes | None:
        return reply(body=body) if path == "/" else KEEPERS[unquote(path[1:])](server, connection, path, number)

    with raw_server(behave, certified[0]) as server:
        with pytest.raises(
            FetchError, match=r"its certificate can't be trusted: .*CERTIFICATE_VERIFY_FAILED"
        ) as caught:
            ask(client, f"{server.url}/")
        assert not isinstance(caught.value, TransientError)
        client.close()
        monkeypatch.setenv("SSL_CERT_FILE", certified[1])
        assert [ask(client, f"{server.url}/").body for _ in range(2)] == [body] * 2
        assert server.num_connections == 2
        for keeper in ("trickled headers", "trickled body", "silent"):
            begun = monotonic()
            with pytest.raises(TransientError, match=r"did not answer in full within 0.15 s"):
                ask(client, f"{server.url}/{keeper}".replace(" ", "%20"), timeout_s=0.15)
            assert monotonic() - begun < 0.15 + SPARE_S


# What became of it -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        *((status, TransientError) for status in (408, 425, 429, 500, 502, 503, 504, 507, 599)),
        *((status, AccessError) for status in (401, 403, 407)),
        *((status, MissingBlockError) for status in (404, 410)),
        *((status, FetchError) for status in (204, 206, 304, 300, 400, 405, 416, 418)),
    ],
)
def test_a_status_is_an_error_of_its_kind(client: HttpClient, status: int, kind: type[FetchError]) -> None:
    body = b"" if status in (204, 304) else b"<html><b>no</b> such thing</html>"
    headers = {} if body else {"Content-Length": "0"}
    with raw_server(answering(reply(status, body, headers))) as server:
        with pytest.raises(FetchError, match=f"^{server.url}/a: HTTP {status}") as caught:
            ask(client, f"{server.url}/a")
        assert type(caught.value) is kind
        if status == 400:
            assert "HTTP 400 Bad Request: 'no such thing'" in str(caught.value)


def test_a_redirect_without_an_address_is_an_error(client: HttpClient) -> None:
    with raw_server(answering(reply(302))) as server, pytest.raises(FetchError, match="HTTP 302 Found"):
        ask(client, server.url)


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("7", 7.0),
        ("0", 0.0),
        ("Wed, 21 Oct 2015 07:28:10 GMT", 10.0),
        ("Wed, 21 Oct 2015 07:27:10 GMT", 0.0),
        ("soon", None),
        ("", None),
        ("-3", None),
    ],
)
def test_retry_after_is_seconds_or_a_date_by_the_clock_of_the_server(said: str, seconds: float | None) -> None:
    assert retry_after({"retry-after": said, "date": "Wed, 21 Oct 2015 07:28:00 GMT"}) == seconds


def test_what_the_server_asks_to_wait_is_in_the_error(client: HttpClient) -> None:
    with raw_server(answering(reply(429, headers={"Retry-After": "7"}))) as server:
        with pytest.raises(TransientError) as caught:
            ask(client, server.url)
        assert caught.value.retry_after_s == 7


@pytest.mark.parametrize(
    "said",
    [reply(body=b"abcdef")[:-2], b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nabc", b"HTTP/1.1 2", b""],
)
def test_a_cut_connection_may_be_tried_again(client: HttpClient, said: bytes) -> None:
    def behave(_: Server, connection: socket.socket, *__: object) -> None:
        connection.sendall(said)

    with raw_server(behave) as server, pytest.raises(TransientError, match=f"^{server.url}/a: the connection"):
        ask(client, f"{server.url}/a")


def test_nobody_there_may_be_tried_again(client: HttpClient) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, and not listening
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/a"
        with pytest.raises(TransientError, match=f"^{url}: can't be connected to: .*refused"):
            ask(client, url)


@pytest.mark.parametrize("url", ["http:///a", "http://[::1/a", "http://127.0.0.1:99999/a", "ftp://host/a"])
def test_what_is_no_url_is_never_tried_again(client: HttpClient, url: str) -> None:
    with pytest.raises(FetchError) as caught:
        ask(client, url)
    assert not isinstance(caught.value, TransientError)


def test_a_body_is_bounded(client: HttpClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_module, "SPARE_BYTES", 1000)
    big = b"x" * 2000
    bomb = gzip.compress(bytes(1_000_000))
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7d0\r\n" + big + b"\r\n0\r\n\r\n"
    for said, text in (
        (reply(body=big), "2000 bytes came where at most 1400 are due"),
        (chunked, "more than 1400 bytes came"),
        (reply(body=bomb[:], headers={"Content-Encoding": "gzip"}), f"{len(bomb)} bytes came that unpack to more"),
    ):
        with raw_server(answering(said)) as server:
            with pytest.raises(FetchError, match=text) as caught:
                ask(client, server.url, expected_bytes=100)
            assert not isinstance(caught.value, TransientError)


# Encodings and checksums -----------------------------------------------------------------------------------------

BODY = b"voxels " * 100
RAW_DEFLATE = zlib.compress(BODY)[2:-4]


@pytest.mark.parametrize(
    ("coding", "sent"),
    [
        ("gzip", gzip.compress(BODY, mtime=0)),
        ("GZIP", gzip.compress(BODY[:100], mtime=0) + gzip.compress(BODY[100:], mtime=0)),
        ("deflate", zlib.compress(BODY)),
        ("deflate", RAW_DEFLATE),
        ("identity", BODY),
    ],
)
def test_content_encodings_are_undone(client: HttpClient, coding: str, sent: bytes) -> None:
    with raw_server(answering(reply(body=sent, headers={"Content-Encoding": coding}))) as server:
        answer = ask(client, server.url)
    assert answer.body == BODY
    assert answer.is_checked == (coding.lower() == "gzip")


def test_a_damaged_encoding_may_be_tried_again(client: HttpClient) -> None:
    packed = gzip.compress(BODY, mtime=0)
    for sent in (packed[:-9], packed[:-6] + b"\0" + packed[-5:], b"<html>"):
        with (
            raw_server(answering(reply(body=sent, headers={"Content-Encoding": "gzip"}))) as server,
            pytest.raises(TransientError, match="the gzip stream of"),
        ):
            ask(client, server.url)
    with (
        raw_server(answering(reply(body=BODY, headers={"Content-Encoding": "br"}))) as server,
        pytest.raises(FetchError, match="Content-Encoding 'br', which was not asked for"),
    ):
        ask(client, server.url)


def _b64(digest: bytes) -> str:
    return base64.b64encode(digest).decode()


MD5, SHA = _b64(hashlib.md5(BODY).digest()), _b64(hashlib.sha256(BODY).digest())
DIGESTS = [
    {"Content-MD5": MD5},
    {"Digest": f"SHA-256={SHA}"},
    {"Digest": f"unknown=AAAA, md5={MD5}"},
    {"Repr-Digest": f"sha-256=:{SHA}:"},
    {"x-goog-hash": f"md5={MD5}"},
]


@pytest.mark.parametrize("headers", DIGESTS, ids=str)
def test_checksums_of_the_server_are_compared(client: HttpClient, headers: dict[str, str]) -> None:
    with raw_server(answering(reply(body=BODY, headers=headers))) as server:
        assert ask(client, server.url).is_checked
    with (
        raw_server(answering(reply(body=b"V" + BODY[1:], headers=headers))) as server,
        pytest.raises(TransientError, match="they were damaged on their way"),
    ):
        ask(client, server.url)


def test_a_checksum_of_the_stored_or_of_the_sent_bytes_fits(client: HttpClient) -> None:
    for body in (BODY, gzip.compress(BODY, mtime=0)):
        headers = {"Content-Encoding": "gzip", "Content-MD5": _b64(hashlib.md5(body).digest())}
        with raw_server(answering(reply(body=gzip.compress(BODY, mtime=0), headers=headers))) as server:
            assert ask(client, server.url).body == BODY
    headers = {"x-goog-stored-content-encoding": "gzip", "x-goog-hash": "md5=AAAAAAAAAAAAAAAAAAAAAA=="}
    with raw_server(answering(reply(body=BODY, headers=headers))) as server:
        assert not ask(client, server.url).is_checked
    with raw_server(answering(reply(body=BODY, headers={"Digest": "md5=no base 64"}))) as server:
        assert not ask(client, server.url).is_checked


# Redirects -------------------------------------------------------------------------------------------------------


def test_redirects_are_followed_to_the_end_or_refused(client: HttpClient) -> None:
    def behave(_server: Server, _connection: socket.socket, path: str, _number: int) -> bytes:
        if path.startswith("/step"):
            return reply(307, b"gone", {"Location": f"step{int(path[5:]) - 1}" if path != "/step0" else "/end"})
        if path.startswith("/for-ever"):
            return reply(302, headers={"Location": path + "x"})
        if path == "/loop":
            return reply(301, headers={"Location": "/loop"})
        if path == "/file":
            return reply(301, headers={"Location": "file:///etc/passwd"})
        return reply(body=b"end")

    with raw_server(behave) as server:
        assert ask(client, f"{server.url}/step8").body == b"end"
        assert server.num_connections == 1
        for path, text in (
            ("/step12", "more than 10 redirects, the last to"),
            ("/for-ever", "more than 10 redirects"),
            ("/loop", "redirects in a loop"),
            ("/file", "a redirect to what can.t be asked for: file:///etc/passwd"),
        ):
            with pytest.raises(FetchError, match=text) as caught:
                ask(client, f"{server.url}{path}")
            assert not isinstance(caught.value, TransientError)


# Processes and threads -------------------------------------------------------------------------------------------


def _asked_by_child(client: HttpClient, url: str, pipe: Any) -> None:
    pipe.send(ask(client, url).body)


def test_a_forked_process_has_connections_of_its_own(client: HttpClient) -> None:
    with raw_server(answering(reply(body=b"whole"))) as server:
        ask(client, server.url)
        context = multiprocessing.get_context("fork")
        mine, theirs = context.Pipe()
        child = context.Process(target=_asked_by_child, args=(client, server.url, theirs))
        child.start()
        assert mine.poll(10)
        assert mine.recv() == b"whole"
        child.join()
        assert server.num_connections == 2
        assert ask(client, server.url).body == b"whole"
        assert server.num_connections == 2
        mine.close(), theirs.close()


@pytest.mark.slow
def test_many_threads_ask_at_once_over_few_connections() -> None:
    client = pickle.loads(pickle.dumps(HttpClient(Access(), 4)))
    with (
        raw_server(lambda _s, _c, path, _n: reply(body=path.encode() * 1000)) as server,
        ThreadPoolExecutor(32) as threads,
    ):
        answers = list(threads.map(lambda k: ask(client, f"{server.url}/{k}").body, range(200)))
        assert answers == [f"/{k}".encode() * 1000 for k in range(200)]
        assert server.num_connections <= 4
        client.close()
        assert ask(client, f"{server.url}/again").body == b"/again" * 1000
        client.close()


def test_a_proxy_of_the_environment_is_used_for_other_machines(
    client: HttpClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    with raw_server(answering(reply(body=b"by proxy"))) as proxy, raw_server(answering(reply(body=b"direct"))) as here:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.setenv("no_proxy", "left.out.invalid")
        assert ask(client, "http://elsewhere.invalid/a").body == b"by proxy"
        assert proxy.paths == ["http://elsewhere.invalid/a"]
        assert ask(client, here.url).body == b"direct"
