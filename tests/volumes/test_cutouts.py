"""The server that tests of volumes talk to: what it sends when it is sound, and when it is told to go wrong."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from bellis.arrays import open_ds
from bellis.geometry import Roi
from bellis.testing.cutouts import simulated, volume_server
from bellis.testing.faults import KINDS, Fault
from bellis.testing.payloads import PAYLOADS
from bellis.testing.stored import FORMATS
from bellis.volumes.description import read_description
from bellis.volumes.descriptions import CutoutDescription, VolumeDescription
from bellis.volumes.payload import decode

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from bellis.testing.cutouts import VolumeServer

pytestmark = pytest.mark.integration
VOLUME = simulated(32)[:16, :24]
PATH = "/cutout/raw/0-4/0-3/0-2"


@pytest.fixture
def server() -> Iterator[VolumeServer]:
    with volume_server(VOLUME, chunk_shape=(8, 8, 8)) as server:
        yield server


def get(url: str, timeout_s: float = 1.0, **headers: str) -> tuple[int, dict[str, str], bytes]:
    """Ask once, on a connection of its own, and follow nothing."""
    host, _, path = url.removeprefix("http://").partition("/")
    connection = http.client.HTTPConnection(host, timeout=timeout_s)
    try:
        connection.request("GET", f"/{path}", headers=headers)
        answer = connection.getresponse()
        return answer.status, dict(answer.headers), answer.read()
    finally:
        connection.close()


def source_of(described: dict[str, Any], folder: Path) -> CutoutDescription:
    path = folder / "a.json"
    path.write_text(json.dumps(described))
    found = read_description(path)
    assert isinstance(found, VolumeDescription)
    assert isinstance(found.source, CutoutDescription)
    return found.source


@pytest.mark.parametrize("payload", PAYLOADS)
@pytest.mark.parametrize("axes", ["zyx", "czyx", "tzyxc"])
def test_it_sends_what_its_description_says(tmp_path: Path, payload: Any, axes: str) -> None:
    shape = {"z": 4, "y": 6, "x": 5, "c": 2, "t": 3}
    volume = np.add.outer(np.arange(16), np.arange(6 * 5 * 9)).ravel()[: np.prod([shape[a] for a in axes])]
    volume = (volume % 7 + 100).astype("u1").reshape([shape[a] for a in axes])
    origin = tuple(range(10, 10 + len(axes)))
    with volume_server(volume, axes=axes, origin=origin) as server:
        for more in ({}, {"payload_axes": axes[::-1], "byte_order": "big"}):
            described = source_of(server.description(payload, **more), tmp_path)
            box = Roi((1,) * len(axes), [n - 1 for n in volume.shape])
            ends = zip(axes, box.begin, box.end, origin, strict=True)
            spans = {f"{a}_{k}": n + at for a, begin, end, at in ends for k, n in (("start", begin), ("stop", end))}
            status, _, body = get(described.url_format.format(**spans))
            assert status == 200, body
            found = decode(body, described, tuple(box.shape)).voxels.astype(int)
            expected = volume[tuple([slice(1, None)] * len(axes))]
            assert np.abs(found - expected).max() <= (8 if payload == "jpeg" else 0)
            assert server.requests_of(box)[-1].path.startswith(f"/cutout/{payload}/")


@pytest.mark.parametrize("format", FORMATS)
def test_it_has_the_volume_in_chunked_formats(server: VolumeServer, format: str) -> None:
    array = open_ds(server.chunked_description(format)["source"]["url"])
    np.testing.assert_array_equal(np.asarray(array).reshape(VOLUME.shape), VOLUME)
    if format == "zarr-crc32c":
        metadata = json.loads(get(f"{server.url}/stored/{format}/zarr.json")[2])
        assert metadata["codecs"][-1]["name"] == "crc32c"


def test_its_descriptions_are_read(server: VolumeServer, tmp_path: Path) -> None:
    for k, described in enumerate([
        server.description("hdf5", block_shape=[8, 8, 8], confirm=True, missing="fill", parallel=3),
        server.chunked_description("zarr", patience={"deadline_s": 3.0}),
        server.legacy_description(block_shape=[8, 8, 8], view_origin=[8, 8, 8]),
        json.loads(get(f"{server.url}/description/npz")[2]),
        json.loads(get(f"{server.url}/description/precomputed")[2]),
        json.loads(get(f"{server.url}/description/legacy")[2]),
    ]):  # fmt: skip
        path = tmp_path / f"{k}.json"
        path.write_text(json.dumps(described))
        read_description(path)


def test_requests_are_noted_and_forgotten(server: VolumeServer) -> None:
    get(f"{server.url}{PATH}", Accept="x")
    get(f"{server.url}/nothing")
    first, second = server.requests
    assert (first.path, first.box, first.headers["accept"]) == (PATH, Roi((0, 0, 0), (2, 3, 4)), "x")
    assert second.box is None
    assert first.time_s <= second.time_s
    assert server.num_requests == 2
    assert server.requests_of("/nothing") == (second,)
    server.clear()
    assert server.num_requests == 0


def test_a_token_and_checksums_are_sent(server: VolumeServer) -> None:
    server.token, server.checksums = "secret", "Content-MD5"
    assert get(f"{server.url}{PATH}")[0] == 401
    _, headers, body = get(f"{server.url}{PATH}", Authorization="Bearer secret")
    assert headers["Content-MD5"] == base64.b64encode(hashlib.md5(body).digest()).decode()
    server.checksums = "Repr-Digest"
    _, headers, body = get(f"{server.url}{PATH}", Authorization="Bearer secret")
    assert headers["Repr-Digest"] == f"sha-256=:{base64.b64encode(hashlib.sha256(body).digest()).decode()}:"


def test_a_connection_is_used_again(server: VolumeServer) -> None:
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"))
    try:
        used = set()
        for _ in range(3):
            connection.request("GET", PATH)
            connection.getresponse().read()
            used.add(connection.sock.getsockname())
    finally:
        connection.close()
    assert len(used) == 1


# Faults ----------------------------------------------------------------------------------------------------------


def outcome(url: str) -> Any:
    """Return what came, or which error; and how many bytes."""
    try:
        status, headers, body = get(url, timeout_s=0.15)
    except (OSError, http.client.HTTPException) as error:
        return type(error).__name__
    return status, headers, body


SOUND = np.ascontiguousarray(VOLUME[:2, :3, :4]).tobytes()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("endless", "trickle")])
def test_each_fault_is_what_it_says(server: VolumeServer, kind: Any) -> None:
    server.faults = [Fault(kind)]
    found = outcome(f"{server.url}{PATH}")
    expected = {
        "cut": ("ConnectionResetError",),
        "cut in body": ("IncompleteRead", "ConnectionResetError"),
        "truncated": ("IncompleteRead",),
        "stall": ("TimeoutError",),
        "stall in body": ("TimeoutError",),
    }.get(kind)
    if expected:
        assert found in expected
        return
    status, headers, body = found
    if kind[:3].isdigit():
        assert status == int(kind[:3])
        retry_after = {"429": r"1", "429 date": r"\w{3}, \d\d \w{3} \d{4} [\d:]{8} GMT"}.get(kind, "")
        assert re.fullmatch(retry_after, headers.get("Retry-After", ""))
    elif kind.startswith("redirect"):
        assert status == 302
        assert headers["Location"] == PATH + ("?again" if kind == "redirect" else "")
    else:
        assert status == 200
        differing = np.frombuffer(SOUND, "u1") != np.frombuffer(body.ljust(24, b"?")[:24], "u1")
        lengths = {"short body": 12, "bit flip": 24, "wrong shape": 18, "wrong dtype": 192}
        assert len(body) == lengths.get(kind, len(body))
        assert differing.any()
        assert kind != "bit flip" or differing.sum() == 1


def test_faults_happen_as_often_as_they_should(server: VolumeServer) -> None:
    other = PATH.replace("/0-2", "/1-3")
    server.faults = [Fault("503", times=1)]
    assert [get(f"{server.url}{path}")[0] for path in (PATH, other, PATH, other)] == [503, 503, 200, 200]
    server.faults = [Fault("503", times=1, per="all")]
    assert [get(f"{server.url}{path}")[0] for path in (PATH, other, PATH, other)] == [503, 200, 200, 200]
    server.faults = [Fault("500", when=lambda path: "/1-3" in path)]
    assert [get(f"{server.url}{path}")[0] for path in (PATH, other, PATH, other)] == [200, 500, 200, 500]
    assert len(server.faults) == 1
    server.faults = []
    assert get(f"{server.url}{other}")[0] == 200


def test_metadata_is_sound_unless_it_is_meant(server: VolumeServer) -> None:
    url = server.chunked_description("zarr")["source"]["url"]
    server.faults = [Fault("404")]
    assert get(f"{url}/zarr.json")[0] == 200
    assert get(f"{url}/c/0/0/0")[0] == 404
    server.faults = [Fault("500", when=lambda path: path.endswith("zarr.json"))]
    assert get(f"{url}/zarr.json")[0] == 500


def test_two_flips_are_never_the_same(server: VolumeServer) -> None:
    server.faults = [Fault("bit flip")]
    bodies = {get(f"{server.url}{PATH}")[2] for _ in range(4)}
    assert len(bodies) == 4


def test_a_checksum_is_that_of_the_sound_body(server: VolumeServer) -> None:
    server.checksums, server.faults = "Content-MD5", [Fault("bit flip")]
    _, headers, body = get(f"{server.url}{PATH}")
    assert headers["Content-MD5"] == base64.b64encode(hashlib.md5(SOUND).digest()).decode()
    assert body != SOUND


def test_a_redirect_leads_to_another_server_and_shows_it_the_headers(server: VolumeServer) -> None:
    with volume_server(VOLUME) as other:
        server.faults = [Fault("redirect", to=other.url)]
        with urllib.request.urlopen(urllib.request.Request(f"{server.url}{PATH}", headers={"X-Me": "1"})) as answer:
            assert answer.read() == SOUND
        assert other.requests[0].headers["x-me"] == "1"
    server.faults = [Fault("redirect loop")]
    with pytest.raises(urllib.error.HTTPError, match="redirect") as refused:
        urllib.request.urlopen(f"{server.url}{PATH}")
    refused.value.close()


@pytest.mark.slow
def test_a_trickle_is_a_byte_at_a_time_and_an_endless_body_does_not_end(server: VolumeServer) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    for kind, fewest, most in (("trickle", 1, 4), ("endless", 4 << 20, 1 << 40)):
        server.faults = [Fault(kind)]  # type: ignore[arg-type]
        with socket.create_connection((host, int(port)), timeout=0.1) as line:
            line.sendall(f"GET {PATH} HTTP/1.1\r\n\r\n".encode())
            num_bytes, until = 0, time.monotonic() + 0.5
            while time.monotonic() < until and num_bytes <= fewest + 512 * (kind == "endless"):
                try:
                    num_bytes += len(line.recv(1 << 20).rpartition(b"\r\n\r\n")[2])
                except TimeoutError:
                    continue
        assert fewest <= num_bytes <= most


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["stall", "stall in body", "trickle", "endless"])
def test_no_thread_is_left_when_the_server_ends(kind: Any) -> None:
    before = set(threading.enumerate())
    with volume_server(VOLUME) as server:
        server.faults = [Fault(kind)]
        host, port = server.url.removeprefix("http://").split(":")
        lines = [socket.create_connection((host, int(port))) for _ in range(4)]
        for line in lines[:3]:
            line.sendall(f"GET {PATH} HTTP/1.1\r\n\r\n".encode())
        deadline = time.monotonic() + 2
        while server.num_requests < 3 and time.monotonic() < deadline:
            lines[3].settimeout(0.01)
            with pytest.raises(TimeoutError):
                lines[3].recv(1)
        begin = time.monotonic()
    assert time.monotonic() - begin < 1
    assert set(threading.enumerate()) == before
    for line in lines:
        line.close()


def test_a_fault_that_is_not_known_is_refused() -> None:
    with pytest.raises(ValueError, match="none of 400, 401"):
        Fault("fire")  # type: ignore[arg-type]


@pytest.mark.slow
def test_it_runs_as_a_process_until_it_is_terminated(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", VOLUME)
    for what, volume in ((str(tmp_path / "a.npy"), VOLUME), ("--simulated=16", simulated(16))):
        command = [sys.executable, "-m", "bellis.testing.cutouts", what, "--latency=0.001", "--chunk=8"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            assert get(f"{url}{PATH}")[2] == np.ascontiguousarray(volume[:2, :3, :4]).tobytes()
            array = open_ds(json.loads(get(f"{url}/description/zarr")[2])["source"]["url"])
            np.testing.assert_array_equal(array, volume)
            process.send_signal(signal.SIGTERM)
            assert process.wait(5) == 0
