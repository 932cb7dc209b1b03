"""Who we are is told to the server that is meant, and to nobody else."""

from __future__ import annotations

import base64
import logging
import pickle
import traceback
from typing import TYPE_CHECKING

import numpy as np
import pytest

from bellis.errors import AccessError, BellisError, FetchError
from bellis.geometry import Roi
from bellis.volumes.access import credentials, public
from bellis.volumes.descriptions import Access, ChunkedDescription, CutoutDescription
from bellis.volumes.http import HttpClient
from bellis.volumes.source import Patience
from bellis.volumes.sources import source_of
from volumes.servers_raw import Server, raw_server, reply

if TYPE_CHECKING:
    import socket
    from pathlib import Path

SECRET = "s3cr3t-pa55phrase"
IN_QUERY = "qu3ry-5ecret"
TOKEN = Access(token_env="BELLIS_TEST_TOKEN")
URL = "https://example.org/a"


@pytest.fixture(autouse=True)
def _token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BELLIS_TEST_TOKEN", SECRET)


def test_a_token_and_headers_come_from_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHO", " me\n")
    access = Access(token_env="BELLIS_TEST_TOKEN", headers_env={"X-Who": "WHO"})
    assert credentials(access, URL) == {"X-Who": "me", "Authorization": f"Bearer {SECRET}"}
    assert credentials(Access(), URL) == {}


@pytest.mark.parametrize("value", [None, "", "  "])
def test_a_variable_that_is_not_set_is_named(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    monkeypatch.delenv("BELLIS_TEST_TOKEN")
    if value is not None:
        monkeypatch.setenv("BELLIS_TEST_TOKEN", value)
    for access in (TOKEN, Access(headers_env={"X-Key": "BELLIS_TEST_TOKEN"})):
        with pytest.raises(AccessError, match=r"environment variable BELLIS_TEST_TOKEN, .* is not set: export"):
            credentials(access, URL)


def test_what_no_header_can_hold_is_refused_unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in (f"{SECRET}\nX-Injected: 1", f"{SECRET}é"):
        monkeypatch.setenv("BELLIS_TEST_TOKEN", value)
        with pytest.raises(AccessError, match="BELLIS_TEST_TOKEN") as caught:
            credentials(TOKEN, URL)
        assert SECRET not in str(caught.value)
    with pytest.raises(AccessError, match="'a b' is no name of a header"):
        credentials(Access(headers_env={"a b": "BELLIS_TEST_TOKEN"}), URL)


def test_two_ways_to_say_who_we_are_are_refused() -> None:
    access = Access(token_env="BELLIS_TEST_TOKEN", headers_env={"authorization": "BELLIS_TEST_TOKEN"})
    with pytest.raises(AccessError, match="pass one of them"):
        credentials(access, URL)
    with pytest.raises(AccessError, match="the URL has a user or a password in it") as caught:
        credentials(Access(), f"https://me:{SECRET}@example.org/a")
    assert SECRET not in str(caught.value)


def test_netrc_is_heeded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = f"machine example.org login me password {SECRET}\n"
    (tmp_path / "named").write_text(text)
    (tmp_path / ".netrc").write_text(text.replace("me", "home"))
    monkeypatch.setenv("HOME", str(tmp_path))
    for variable, user in ((str(tmp_path / "named"), "me"), ("", "home")):
        monkeypatch.setenv("NETRC", variable)
        said = credentials(Access(netrc=True), URL)["Authorization"]
        assert base64.b64decode(said.removeprefix("Basic ")).decode() == f"{user}:{SECRET}"
    with pytest.raises(AccessError, match=r"\.netrc, .* has no entry for other.org"):
        credentials(Access(netrc=True), "https://other.org:8080/a")


def test_a_broken_netrc_is_an_error_that_does_not_quote_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "netrc"
    monkeypatch.setenv("NETRC", str(path))
    with pytest.raises(AccessError, match=r"netrc, .* can't be read: No such file"):
        credentials(Access(netrc=True), URL)
    path.write_text(f"machine example.org login me\npassword {SECRET} {SECRET}\n")
    with pytest.raises(AccessError, match=r"netrc, .* has a mistake in line [23]") as caught:
        credentials(Access(netrc=True), URL)
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    path.write_bytes(b"\xff\xfe\x80")
    with pytest.raises(AccessError, match="is not text"):
        credentials(Access(netrc=True), URL)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://u:p@h:1/a", "http://h:1/a"),
        ("http://h/a?x=1&token=abc", "http://h/a?x=1&token=***"),
        (
            "http://h/a?X-Amz-Signature=abc&X-Amz-Credential=k#f",
            "http://h/a?X-Amz-Signature=***&X-Amz-Credential=***#f",
        ),
        ("http://h/a?sig=abc;key=k;api_key=z", "http://h/a?sig=***;key=***;api_key=***"),
        ("http://h/{x_start}@2?compression=gzip&monkey=1", "http://h/{x_start}@2?compression=gzip&monkey=1"),
        ("s3://bucket/a", "s3://bucket/a"),
    ],
)
def test_a_url_is_shown_without_secrets(url: str, shown: str) -> None:
    assert public(url) == shown


# With servers ----------------------------------------------------------------------------------------------------


@pytest.mark.integration
def test_credentials_stay_with_the_server_that_they_are_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHO", SECRET)
    access = Access(token_env="BELLIS_TEST_TOKEN", headers_env={"X-Who": "WHO"})
    client = HttpClient(access)
    with raw_server(lambda *_: reply(body=b"elsewhere")) as other:

        def behave(_s: Server, _c: socket.socket, path: str, _n: int) -> bytes:
            target = {"/away": f"{other.url}/b", "/near": "/here", "/name": other.url.replace("127.0.0.1", "localhost")}
            return reply(302, headers={"Location": target[path]}) if path in target else reply(body=b"here")

        with raw_server(behave) as server:
            assert client.get(f"{server.url}/near", timeout_s=5, stall_s=5).body == b"here"
            assert all(headers["authorization"] == f"Bearer {SECRET}" for _, headers in server.requests)
            assert all(headers["x-who"] == SECRET for _, headers in server.requests)
            for path in ("/away", "/name"):
                assert client.get(f"{server.url}{path}", timeout_s=5, stall_s=5).body == b"elsewhere"
            assert len(other.requests) == 2
            assert SECRET not in str(other.requests)
    client.close()


@pytest.mark.integration
def test_credentials_do_not_come_back_on_a_way_over_another_server() -> None:
    client = HttpClient(TOKEN)

    def behave(_s: Server, _c: socket.socket, path: str, _n: int) -> bytes:
        return reply(302, headers={"Location": f"{other.url}/"}) if path == "/a" else reply(403, SECRET.encode())

    with (
        raw_server(behave) as server,
        raw_server(lambda *_: reply(302, headers={"Location": f"{server.url}/b"})) as other,
    ):
        with pytest.raises(AccessError, match=r"/b: HTTP 403 Forbidden: '\*\*\*' \(who we are is not told") as caught:
            client.get(f"{server.url}/a", timeout_s=5, stall_s=5)
        assert SECRET not in str(caught.value)
        assert "authorization" not in dict(server.requests)["/b"]
    client.close()


def _gossip(path: str, number: int) -> bytes | None:
    """Answer with everything that a request said, in every way there is."""
    said = f"you said Bearer {SECRET} at {path}".encode()
    return [reply(403, said), reply(400, said), reply(503, said), reply(body=said), None][number % 5]


@pytest.mark.integration
@pytest.mark.slow
def test_no_message_repr_pickle_or_fingerprint_has_a_secret(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    patience = Patience(deadline_s=0.3, stall_s=0.2, first_wait_s=0.01)
    texts: list[str] = []
    with raw_server(lambda _s, _c, path, number: _gossip(path, number)) as server:
        cutout = CutoutDescription(
            url_format=f"{server.url}/{{x_start}}?token={IN_QUERY}",
            payload="raw",
            axes=("x",),
            payload_axes=("x",),
            dtype=np.dtype("u1"),
            payload_dtype=np.dtype("u1"),
            shape=(10,),
            origin_offset=(0,),
        )
        chunked = ChunkedDescription(url=f"{server.url}/a.zarr")
        for description in (cutout, chunked):
            for _ in range(6):
                source = source_of(description, TOKEN, patience, 2, name="v")
                pickled = pickle.dumps(source)
                if description is chunked:
                    assert SECRET.encode() not in pickled
                texts += [repr(source), str(source), source.path]
                for act in (
                    lambda s: s.fetch(Roi((0,), (10,)), np.empty(10, "u1"), timeout_s=0.2),
                    lambda s: s.fingerprint,
                ):
                    try:
                        texts.append(repr(act(source)))
                    except BellisError as error:
                        texts += [str(error), repr(error), "".join(traceback.format_exception(error))]
                        texts.append(repr(pickle.dumps(error)))
                source.close()
        assert any(SECRET in str(headers) for _, headers in server.requests)
    assert len(texts) > 30
    assert not [text for text in texts if SECRET in text or IN_QUERY in text]
    assert SECRET not in caplog.text


@pytest.mark.integration
def test_nothing_is_asked_without_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BELLIS_TEST_TOKEN")
    with raw_server(lambda *_: reply()) as server:
        source = source_of(ChunkedDescription(url=f"{server.url}/a.zarr"), TOKEN, Patience(), 2)
        with pytest.raises(FetchError, match="BELLIS_TEST_TOKEN"):
            source.fetch(Roi((0,), (10,)), np.empty(10, "u1"), timeout_s=1)
        with pytest.raises(AccessError, match="BELLIS_TEST_TOKEN"):
            HttpClient(TOKEN).get(server.url, timeout_s=1, stall_s=1)
        assert not server.requests
