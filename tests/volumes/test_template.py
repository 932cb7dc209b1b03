"""Servers that cut regions out: what is asked, what is taken, and what is refused."""

from __future__ import annotations

import io
import pickle
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import h5py
import numpy as np
import pytest

from bellis.errors import ArrayError, FetchError, TransientError
from bellis.geometry import Coordinate, Roi
from bellis.volumes.blocks import slices_of
from bellis.volumes.descriptions import Access, CutoutDescription, RemoteDescription
from bellis.volumes.source import Patience
from bellis.volumes.sources import source_of
from bellis.volumes.template import UrlTemplateSource
from volumes.servers_raw import Server, raw_server, reply
from volumes.sources_for_tests import random_voxels

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

pytestmark = pytest.mark.integration
VOXELS = random_voxels((6, 7, 8), "uint16")
BOX = Roi((1, 2, 3), (4, 3, 5))


def described(url: str, **changes: Any) -> CutoutDescription:
    made = CutoutDescription(
        url_format=url + "/cut?z={z_start}:{z_stop}:{z_size}&y={y_start}:{y_stop}&x={x_start}:{x_stop}",
        payload="raw",
        axes=("z", "y", "x"),
        payload_axes=("z", "y", "x"),
        dtype=np.dtype("u2"),
        payload_dtype=np.dtype("u2"),
        shape=VOXELS.shape,
        origin_offset=(100, 0, 10),
    )
    return replace(made, **changes)


def source(url: str, **changes: Any) -> UrlTemplateSource:
    return UrlTemplateSource(described(url, **changes), Access(), Patience(stall_s=2), 4, "em")


def asked_box(path: str) -> tuple[slice, ...]:
    query = {key: [int(n) for n in value[0].split(":")] for key, value in parse_qs(urlsplit(path).query).items()}
    origin = {"z": 100, "y": 0, "x": 10}
    return tuple(slice(query[axis][0] - origin[axis], query[axis][1] - origin[axis]) for axis in "zyx")


def cutting(_s: Server, _c: socket.socket, path: str, _n: int) -> bytes:
    return reply(body=VOXELS[asked_box(path)].tobytes())


def fetch(made: UrlTemplateSource, box: Roi = BOX) -> np.ndarray:
    out = np.zeros(tuple(box.shape), made.dtype)
    made.fetch(box, out, timeout_s=5)
    return out


def test_a_region_is_asked_for_in_the_coordinates_of_the_server() -> None:
    with raw_server(cutting) as server:
        made = pickle.loads(pickle.dumps(source(server.url)))
        np.testing.assert_array_equal(fetch(made), VOXELS[slices_of(BOX)])
        assert server.paths == ["/cut?z=101:105:4&y=2:5&x=13:18"]
        made.close()


def test_it_says_what_it_is_without_asking() -> None:
    made = source("http://127.0.0.1:9", voxel_size=(40, 4, 4), offset=(0, 8, 0), preferred_block=(2, 2, 2))
    assert made.domain == Roi((0, 0, 0), (6, 7, 8))
    assert made.dtype == np.uint16
    assert made.axes == ("z", "y", "x")
    assert made.preferred_block == (2, 2, 2)
    assert made.layout.voxel_size == Coordinate(40, 4, 4)
    assert made.layout.offset == Coordinate(0, 8, 0)
    assert made.is_checked is None
    assert source("http://h", payload="png").is_checked is True
    assert str(made).startswith("'em' from http://127.0.0.1:9/cut?z={z_start}")


def test_another_volume_has_another_fingerprint() -> None:
    made = source("http://h")
    others = [
        source("http://i"), source("http://h", payload="blosc"), source("http://h", shape=(6, 7, 9)),
        source("http://h", payload_axes=("x", "y", "z")), source("http://h", payload_dtype=np.dtype(">u2")),
        source("http://h", origin_offset=(0, 0, 0)), source("http://h", hdf5_dataset="a"),
    ]  # fmt: skip
    assert all(dict(made.fingerprint) != dict(other.fingerprint) for other in others)
    same = source("http://h", preferred_block=(1, 1, 1), is_confirmed=True, voxel_size=(1, 2, 3))
    assert dict(same.fingerprint) == dict(made.fingerprint)


@pytest.mark.parametrize(
    "field",
    ["{w_start}", "{}", "{0}", "{x_start.__class__}", "{x_start!r}", "{x_start:>999999999}", "{x_start[0]}", "{"],
)
def test_a_url_with_other_fields_is_refused(field: str) -> None:
    with pytest.raises(ArrayError, match="url_format"):
        source("http://h", url_format=f"http://h/{field}")


def test_numbers_may_be_padded() -> None:
    made = source("http://h", url_format="http://h/{{z}}/{z_start:05d}/{x_stop:d}")
    assert made.url(BOX) == "http://h/{z}/00101/18"


@pytest.mark.parametrize(
    ("body", "content_type", "kind", "text"),
    [
        (VOXELS[slices_of(BOX)].tobytes()[:-2], "image/x-raw", TransientError, "raw bytes"),
        (b"<html>please log in</html>", "text/html", TransientError, "please log in"),
        (VOXELS[slices_of(BOX)].tobytes(), "text/html", TransientError, "voxels were asked"),
        (VOXELS[slices_of(BOX)].tobytes(), "application/json", TransientError, "voxels were asked"),
        (VOXELS.tobytes(), "image/x-raw", FetchError, "raw bytes"),
    ],
)
def test_what_is_no_block_is_refused_and_told(
    body: bytes, content_type: str, kind: type[FetchError], text: str
) -> None:
    with raw_server(lambda *_: reply(body=body, headers={"Content-Type": f"{content_type}; x=y"})) as server:
        made = source(server.url)
        with pytest.raises(kind) as caught:
            fetch(made)
        message = str(caught.value)
        assert message.startswith(f"block [1:5, 2:5, 3:8] of 'em' from {server.url}/cut?z=101:105:4")
        assert f"({content_type}" in message
        assert text in message
        made.close()


def test_the_failure_of_a_request_names_the_block() -> None:
    with raw_server(lambda *_: reply(429, headers={"Retry-After": "3"})) as server:
        with pytest.raises(TransientError, match=r"block \[1:5, 2:5, 3:8\] of 'em' from http.*: HTTP 429") as caught:
            fetch(source(server.url))
        assert caught.value.retry_after_s == 3


def _sometimes_wrong(*wrong: int) -> Callable[..., bytes]:
    def behave(_s: Server, _c: socket.socket, path: str, number: int) -> bytes:
        voxels = VOXELS[asked_box(path)].copy()
        if number in wrong:
            voxels.flat[0] ^= number
        return reply(body=voxels.tobytes())

    return behave


@pytest.mark.parametrize(("wrong", "num_asked"), [((), 2), ((1,), 3), ((2,), 3), ((1, 2), 4), ((1, 3), 4)])
def test_what_has_no_checksum_is_taken_when_it_came_twice(wrong: tuple[int, ...], num_asked: int) -> None:
    with raw_server(_sometimes_wrong(*wrong)) as server:
        made = source(server.url, is_confirmed=True)
        np.testing.assert_array_equal(fetch(made), VOXELS[slices_of(BOX)])
        assert len(server.requests) == num_asked
        made.close()


def test_four_different_answers_are_an_error() -> None:
    with raw_server(_sometimes_wrong(1, 2, 3)) as server:
        made = source(server.url, is_confirmed=True)
        with pytest.raises(TransientError, match="4 answers are all different, none has a checksum"):
            fetch(made)
        made.close()


def test_what_has_a_checksum_is_asked_for_once() -> None:
    import base64
    import hashlib

    def behave(_s: Server, _c: socket.socket, path: str, _n: int) -> bytes:
        body = VOXELS[asked_box(path)].tobytes()
        return reply(body=body, headers={"Content-MD5": base64.b64encode(hashlib.md5(body).digest()).decode()})

    with raw_server(behave) as server:
        made = source(server.url, is_confirmed=True)
        assert made.is_checked is None
        np.testing.assert_array_equal(fetch(made), VOXELS[slices_of(BOX)])
        assert made.is_checked is True
        assert len(server.requests) == 1
        made.close()


def test_a_server_of_lazyflow_is_a_cutout_server_with_hdf5() -> None:
    def behave(_s: Server, _c: socket.socket, path: str, _n: int) -> bytes:
        file = io.BytesIO()
        with h5py.File(file, "w") as made:
            made["CUTOUT"] = VOXELS[asked_box(path)]
        return reply(body=file.getvalue())

    with raw_server(behave) as server:
        remote = RemoteDescription(
            name="kasthuri",
            axes="zyx",
            dtype=np.dtype("u2"),
            bounds=(106, 7, 18),
            origin_offset=(100, 0, 10),
            shape=(6, 7, 8),
            url_format=described(server.url).url_format,
            hdf5_dataset="CUTOUT",
        )
        made = source_of(remote, Access(), Patience(), 2)
        assert isinstance(made, UrlTemplateSource)
        assert str(made).startswith("'kasthuri' from http://")
        np.testing.assert_array_equal(fetch(made), VOXELS[slices_of(BOX)])
        made.close()


def test_an_axis_that_the_url_does_not_name_is_asked_for_as_a_whole() -> None:
    made = source("http://h", url_format="http://h/{y_start}:{y_stop}/{x_start}:{x_stop}")
    out = np.empty(tuple(BOX.shape), made.dtype)
    with pytest.raises(FetchError, match=r"does not say \{z_start\}"):
        made.fetch(BOX, out, timeout_s=1)
