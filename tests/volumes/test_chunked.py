"""Remote zarr, N5 and precomputed arrays as sources: strict, in time, and with errors that say what happened."""

from __future__ import annotations

import json
import multiprocessing
import pickle
import shutil
import socket
import threading
from time import monotonic
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr

from bellis.arrays import prepare_ds
from bellis.errors import AccessError, ArrayError, FetchError, MissingBlockError, TransientError
from bellis.geometry import Coordinate, Roi
from bellis.testing.servers import http_server, s3_server
from bellis.volumes.blocks import slices_of
from bellis.volumes.chunk_errors import explained
from bellis.volumes.chunked import ChunkedSource
from bellis.volumes.descriptions import Access, ChunkedDescription
from bellis.volumes.remote import RemoteVolume
from bellis.volumes.source import Patience
from volumes.servers_raw import Server, raw_server, reply
from volumes.sources_for_tests import random_voxels

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.integration
VOXELS = random_voxels((12, 14, 16), "uint16")
BOX = Roi((1, 2, 3), (8, 7, 9))
HASTY = Patience(deadline_s=0.4, stall_s=0.3, first_wait_s=0.01, longest_wait_s=0.02)


def stored(path: Path, **options: Any) -> Any:
    chunks = options.pop("chunk_shape", (4, 4, 4))
    array = prepare_ds(path, VOXELS.shape, (40, 4, 4), "uint16", offset=(80, 8, 0), chunk_shape=chunks, **options)
    array[array.roi] = VOXELS
    return array


def source(url: str, patience: Patience = HASTY, access: Access | None = None, **said: Any) -> ChunkedSource:
    return ChunkedSource(ChunkedDescription(url=url, **said), access or Access(), patience, 4, "em")


def fetch(made: ChunkedSource, box: Roi = BOX, timeout_s: float = 10.0) -> np.ndarray:
    out = np.zeros(tuple(box.shape), "uint16")
    made.fetch(box, out, timeout_s=timeout_s)
    return out


def files(folder: Path, change: Callable[..., bytes | None]) -> Callable[..., bytes | None]:
    """Serve metadata as it is, and chunks as ``change(server, connection, body, number of the request)`` says."""

    def behave(server: Server, connection: socket.socket, path: str, number: int) -> bytes | None:
        file = folder / path.lstrip("/")
        if not file.is_file():
            return reply(404)
        body = file.read_bytes()
        return change(server, connection, body, number) if "/c/" in path else reply(body=body)

    return behave


@pytest.fixture
def website(tmp_path: Path) -> Iterator[str]:
    with http_server(tmp_path) as url:
        yield url


@pytest.mark.parametrize("format", ["zarr", "zarr2", "n5", "precomputed"])
@pytest.mark.parametrize("is_local", [False, True])
def test_arrays_of_all_formats_are_sources(tmp_path: Path, website: str, format: str, is_local: bool) -> None:
    stored(tmp_path / "box" / "raw", format=format)
    made = pickle.loads(pickle.dumps(source(f"{tmp_path if is_local else website}/box/raw")))
    np.testing.assert_array_equal(fetch(made), VOXELS[slices_of(BOX)])
    assert made.domain == Roi((0, 0, 0), VOXELS.shape)
    assert (made.dtype, made.axes, made.preferred_block) == (np.dtype("u2"), ("z", "y", "x"), (4, 4, 4))
    assert (made.layout.voxel_size, made.layout.offset) == (Coordinate(40, 4, 4), Coordinate(80, 8, 0))
    np.testing.assert_array_equal(RemoteVolume.over(made)[1:5, :, 3:], VOXELS[1:5, :, 3:])
    made.close()
    np.testing.assert_array_equal(fetch(made), VOXELS[slices_of(BOX)])
    made.close()


def test_shards_and_images_are_found_in_their_containers(tmp_path: Path, website: str) -> None:
    stored(tmp_path / "em.zarr" / "fine" / "s0", shard_shape=(8, 8, 8))
    for made in (
        source(f"{website}/em.zarr/fine"),
        source(f"{website}/em.zarr", name="fine/s0"),
        source(f"zarr://{website}/em.zarr/fine"),
    ):
        np.testing.assert_array_equal(fetch(made), VOXELS[slices_of(BOX)])
        assert made.preferred_block == (4, 4, 4)
        assert made.layout.voxel_size == Coordinate(40, 4, 4)
        made.close()


def test_an_image_of_others_is_read_at_its_finest_level(tmp_path: Path, website: str) -> None:
    group = zarr.open_group(tmp_path / "a b.zarr", mode="w", zarr_format=2)
    group.create_array("0", data=VOXELS, chunks=(4, 4, 4))
    group.create_array("1", data=VOXELS[::2, ::2, ::2], chunks=(4, 4, 4))
    axes = [{"name": name, "type": "space", "unit": "nanometer"} for name in "zyx"]
    levels = [
        {"path": path, "coordinateTransformations": [{"type": "scale", "scale": scale}]}
        for path, scale in (("0", [40, 4, 4]), ("1", [80, 8, 8]))
    ]
    group.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": levels}]
    made = source(f"{website}/a%20b.zarr")
    np.testing.assert_array_equal(fetch(made), VOXELS[slices_of(BOX)])
    assert made.layout.voxel_size == Coordinate(40, 4, 4)
    made.close()


def test_what_the_description_says_of_the_place_counts(tmp_path: Path, website: str) -> None:
    stored(tmp_path / "a.zarr")
    made = source(f"{website}/a.zarr", voxel_size=(30, 3, 3), offset=(3, 3, 3), units="um")
    assert (made.layout.voxel_size, made.layout.offset) == (Coordinate(30, 3, 3), Coordinate(3, 3, 3))
    assert set(made.layout.units) == {"um"}
    made.close()


def test_a_bucket_is_a_source(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: dict[str, bytes] = {}
    with s3_server(kept) as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        monkeypatch.setenv("AWS_REGION", "us-east-1")
        monkeypatch.setenv("AWS_NO_SIGN_REQUEST", "yes")
        stored("s3://bucket/a.zarr")  # type: ignore[arg-type]
        made = source("s3://bucket/a.zarr")
        np.testing.assert_array_equal(fetch(made), VOXELS[slices_of(BOX)])
        assert len(made.fingerprint["metadata"]) == 64
        del kept["bucket/a.zarr/c/0/0/0"]
        with pytest.raises(MissingBlockError, match="is missing"):
            fetch(made)
        made.close()


def test_nothing_is_asked_before_it_is_needed_and_metadata_once(tmp_path: Path) -> None:
    stored(tmp_path / "a.zarr")
    with raw_server(files(tmp_path, lambda _s, _c, body, _n: reply(body=body))) as server:
        made = source(f"{server.url}/a.zarr")
        assert made.is_checked is None
        assert not server.requests
        assert made.dtype == np.uint16
        assert made.fingerprint["url"] == f"{server.url}/a.zarr"
        assert server.paths == ["/a.zarr/zarr.json"]
        made.close()


@pytest.mark.slow
def test_another_array_has_another_fingerprint(tmp_path: Path, website: str) -> None:
    stored(tmp_path / "a.zarr")
    first = dict(source(f"{website}/a.zarr").fingerprint)
    assert set(first) == {"url", "name", "metadata", "etag"}
    assert dict(source(f"{website}/a.zarr").fingerprint) == first
    shutil.rmtree(tmp_path / "a.zarr")
    stored(tmp_path / "a.zarr", chunk_shape=(4, 4, 5))
    assert dict(source(f"{website}/a.zarr").fingerprint) != first
    assert dict(source(f"{tmp_path}/a.zarr").fingerprint)["name"] is None


@pytest.mark.parametrize(
    ("codecs", "is_checked"),
    [
        ([], False),
        ([{"name": "crc32c"}], True),
        ([{"name": "gzip", "configuration": {"level": 1}}], True),
        ([{"name": "zstd", "configuration": {"level": 1, "checksum": False}}], False),
        ([{"name": "zstd", "configuration": {"level": 1, "checksum": True}}], True),
    ],
)
def test_it_is_known_whether_chunks_have_checksums(
    tmp_path: Path,
    codecs: list[dict[str, Any]],
    is_checked: bool,
) -> None:
    array = stored(tmp_path / "a.zarr")
    metadata = json.loads((tmp_path / "a.zarr" / "zarr.json").read_text())
    metadata["codecs"] = [{"name": "bytes", "configuration": {"endian": "little"}}, *codecs]
    (tmp_path / "a.zarr" / "zarr.json").write_text(json.dumps(metadata))
    made = source(str(tmp_path / "a.zarr"))
    assert made.domain.shape == array.shape
    assert made.is_checked is is_checked


# What goes wrong -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        *((status, TransientError) for status in (408, 425, 429, 500, 501, 502, 503, 504, 507)),
        *((status, AccessError) for status in (401, 403)),
        *((status, FetchError) for status in (302, 400, 416, 418)),
        (410, MissingBlockError),
    ],
)
def test_a_status_is_an_error_of_its_kind(tmp_path: Path, status: int, kind: type[FetchError]) -> None:
    stored(tmp_path / "a.zarr")
    with raw_server(files(tmp_path, lambda *_: reply(status, b"<html>oops</html>"))) as server:
        made = source(f"{server.url}/a.zarr")
        with pytest.raises(FetchError) as caught:
            fetch(made)
        assert type(caught.value) is kind
        text = str(caught.value)
        assert text.startswith(f"block [1:9, 2:9, 3:12] of 'em' from {server.url}/a.zarr: {server.url}/a.zarr/c/")
        assert f": HTTP {status}" in text
        assert "oops" not in text
        made.close()


def test_a_chunk_that_is_not_there_is_an_error_and_never_zeros(tmp_path: Path, website: str) -> None:
    stored(tmp_path / "a.zarr")
    (tmp_path / "a.zarr" / "c" / "0" / "1" / "1").unlink()
    for place in (website, tmp_path):
        made = source(f"{place}/a.zarr")
        with pytest.raises(MissingBlockError, match=r"block \[1:9, 2:9, 3:12\] of 'em' from .*c/0/1/1\"? is missing"):
            fetch(made)
        np.testing.assert_array_equal(fetch(made, Roi((4, 0, 0), (8, 14, 16))), VOXELS[4:])
        made.close()


@pytest.mark.parametrize(
    "damage",
    {
        "html": lambda _s, _c, _b, _n: reply(body=b"<html>please log in</html>"),
        "short": lambda _s, _c, body, _n: reply(body=body[:-7]),
        "empty": lambda *_: reply(),
        "flip": lambda _s, _c, body, _n: reply(body=body[:-6] + bytes([body[-6] ^ 1]) + body[-5:]),
        "cut": lambda _s, connection, body, _n: connection.sendall(reply(body=body)[:-3]),
        "nothing": lambda *_: None,
    }.items(),
    ids=lambda item: item[0],
)
def test_a_damaged_chunk_may_be_asked_for_again(tmp_path: Path, damage: tuple[str, Callable[..., Any]]) -> None:
    stored(tmp_path / "a.zarr", compressor="gzip")
    with raw_server(files(tmp_path, damage[1])) as server:
        made = source(f"{server.url}/a.zarr")
        with pytest.raises(TransientError, match=r"block \[1:9, 2:9, 3:12\] of 'em' from http"):
            fetch(made)
        made.close()


def test_a_damaged_chunk_on_a_disk_stays_damaged(tmp_path: Path) -> None:
    stored(tmp_path / "a.zarr", compressor="gzip")
    (tmp_path / "a.zarr" / "c" / "0" / "0" / "0").write_bytes(b"rubbish")
    with pytest.raises(FetchError, match=r"block \[1:9") as caught:
        fetch(source(str(tmp_path / "a.zarr")))
    assert not isinstance(caught.value, TransientError)


@pytest.mark.slow
def test_stalls_end_in_time_and_leave_no_place_taken(tmp_path: Path) -> None:
    """Requests that stall keep their place among the parallel ones; four of them would stop all others."""
    stored(tmp_path / "a.zarr")
    is_stalled = True

    def change(server: Server, connection: socket.socket, body: bytes, _: int) -> bytes | None:
        if is_stalled:
            connection.sendall(reply(body=body)[:-3])
            server.ended.wait()
            return None
        return reply(body=body)

    with raw_server(files(tmp_path, change)) as server:
        made = source(f"{server.url}/a.zarr", Patience(deadline_s=5, stall_s=0.2))
        assert made.dtype == np.uint16
        for _ in range(3):
            begun = monotonic()
            with pytest.raises(TransientError, match=r"nothing came within 0.2 s"):
                fetch(made, timeout_s=0.3)
            assert monotonic() - begun < 0.3 + 0.5
        is_stalled = False
        np.testing.assert_array_equal(fetch(made, timeout_s=10.0), VOXELS[slices_of(BOX)])
        made.close()


@pytest.mark.slow
def test_nobody_there_is_an_error_in_time() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        made = source(f"http://127.0.0.1:{taken.getsockname()[1]}/a.zarr")
        with pytest.raises(TransientError, match="can't be connected to"):
            fetch(made)
        with pytest.raises(FetchError, match=r"can't be connected to: .* in all .* attempts"):
            _ = made.dtype


def test_metadata_is_asked_for_again_after_failures(tmp_path: Path) -> None:
    stored(tmp_path / "a.zarr")
    text = (tmp_path / "a.zarr" / "zarr.json").read_bytes()
    faults = {1: reply(503), 2: reply(body=text[:-20]), 3: None}
    with raw_server(lambda _s, _c, _p, number: faults.get(number, reply(body=text))) as server:
        made = source(f"{server.url}/a.zarr")
        assert made.domain.shape == Coordinate(VOXELS.shape)
        assert len(server.requests) == 4
        made.close()


@pytest.mark.parametrize(
    ("metadata", "text"),
    [
        (None, "there is no array http.*/a.zarr"),
        (b"<!doctype html>", "there is no array"),
        (b"[1]", "zarr.json holds a JSON list, not an object"),
        (b'{"zarr_format": 3, "node_type": "group", "attributes": {}}', "there is no array .*; there is zarr.json"),
    ],
)
def test_what_is_no_array_is_an_error(metadata: bytes | None, text: str) -> None:
    def behave(_s: Server, _c: socket.socket, path: str, _n: int) -> bytes:
        return reply(404) if metadata is None or "zarr.json" not in path else reply(body=metadata)

    with raw_server(behave) as server:
        made = source(f"{server.url}/a.zarr")
        with pytest.raises(FetchError, match=text):
            fetch(made)
        made.close()


def test_metadata_that_is_not_understood_is_an_error() -> None:
    with raw_server(lambda *_: reply(body=b'{"zarr_format": 3, "node_type": "array"}')) as server:
        made = source(f"{server.url}/a.zarr")
        with pytest.raises(FetchError, match=f"{server.url}/a.zarr has incomplete zarr metadata"):
            fetch(made)
        made.close()


def test_a_file_of_another_format_is_no_chunked_source(tmp_path: Path) -> None:
    stored(tmp_path / "a.h5" / "raw")
    with pytest.raises(FetchError, match=r"is of format hdf5.*: pass zarr, n5 or precomputed"):
        fetch(source(str(tmp_path / "a.h5/raw")))


def test_a_bucket_that_forbids_what_it_has_not_is_read(tmp_path: Path) -> None:
    stored(tmp_path / "box" / "a", format="zarr2")

    def behave(_s: Server, _c: socket.socket, path: str, _n: int) -> bytes:
        file = tmp_path / path.lstrip("/")
        return reply(body=file.read_bytes()) if file.is_file() else reply(403, b"<Error>AccessDenied</Error>")

    with raw_server(behave) as server:
        made = source(f"{server.url}/box/a")
        np.testing.assert_array_equal(fetch(made), VOXELS[slices_of(BOX)])
        made.close()
        with pytest.raises(AccessError, match=r"box/b/zarr.json: HTTP 403 Forbidden: 'AccessDenied'"):
            fetch(source(f"{server.url}/box/b"))


@pytest.mark.parametrize("is_silent", [False, True])
def test_a_bucket_that_does_not_answer_is_an_error_in_time(monkeypatch: pytest.MonkeyPatch, is_silent: bool) -> None:
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_NO_SIGN_REQUEST", "yes")

    may_answer = threading.Event()

    def behave(*_: object) -> bytes:
        if is_silent:
            may_answer.wait()
        return reply(403)

    with raw_server(behave) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        made = source("s3://bucket/a.zarr")
        begun = monotonic()
        with pytest.raises(FetchError, match=r"in time|there is no array"):
            fetch(made, timeout_s=0.3)
        assert monotonic() - begun < 0.3 + 0.5
        may_answer.set()
        for thread in threading.enumerate():  # none may go on when the variables are as they were before
            if thread.name == "bellis-metadata":
                thread.join()


# Who we are, and processes ---------------------------------------------------------------------------------------


def test_a_token_goes_with_metadata_and_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored(tmp_path / "a.zarr")
    monkeypatch.setenv("BELLIS_TEST_TOKEN", "s3cr3t-value")
    monkeypatch.setenv("BELLIS_TEST_WHO", "wh0-value")
    access = Access(token_env="BELLIS_TEST_TOKEN", headers_env={"X-Who": "BELLIS_TEST_WHO"})
    with raw_server(files(tmp_path, lambda _s, _c, body, _n: reply(body=body))) as server:
        made = source(f"{server.url}/a.zarr", access=access)
        np.testing.assert_array_equal(fetch(made), VOXELS[slices_of(BOX)])
        assert len(server.requests) > 8
        assert {headers.get("authorization") for _, headers in server.requests} == {"Bearer s3cr3t-value"}
        assert {headers.get("x-who") for _, headers in server.requests} == {"wh0-value"}
        assert b"s3cr3t" not in pickle.dumps(made)
        assert "s3cr3t" not in repr(vars(made)["_found"])
        made.close()


def test_what_tensorstore_says_of_its_spec_is_not_repeated() -> None:
    text = (
        'UNAVAILABLE: Error opening "zarr3" driver: Error reading http://h/a/zarr.json: CURL error '
        '[tensorstore_spec=\'{"kvstore":{"headers":["Authorization: Bearer s3cr3t"]}}\']'
    )
    error = explained(ValueError(text), "block [0:1] from http://h/a:", is_remote=True)
    assert isinstance(error, TransientError)
    assert "s3cr3t" not in str(error)


def _fetched_by_child(made: ChunkedSource, pipe: Any) -> None:
    try:
        pipe.send(fetch(made).tobytes())
    except ArrayError as error:
        pipe.send(str(error))


@pytest.mark.slow
def test_a_process_that_was_forked_after_a_read_is_refused_and_a_spawned_one_reads(
    tmp_path: Path, website: str
) -> None:
    stored(tmp_path / "a.zarr")
    made = source(f"{website}/a.zarr")
    expected = fetch(made).tobytes()
    for method in ("fork", "forkserver"):
        context = multiprocessing.get_context(method)
        mine, theirs = context.Pipe()
        child = context.Process(target=_fetched_by_child, args=(made, theirs))
        child.start()
        assert mine.poll(30)
        answer = mine.recv()
        child.join()
        mine.close(), theirs.close()
        assert "was forked from process" in answer if method == "fork" else answer == expected
    made.close()
