"""Everything that goes wrong on the way, for every kind of source: a read is exact, or an error in time."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from bellis.errors import AccessError, FetchError, MissingBlockError, TransientError
from bellis.geometry import Roi
from bellis.testing.cutouts import simulated, volume_server
from bellis.testing.faults import Fault
from bellis.volumes import CachedVolume

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from bellis.testing.cutouts import VolumeServer
    from bellis.testing.faults import FaultKind

pytestmark = [pytest.mark.integration, pytest.mark.slow]

VOLUME = simulated(16)
BLOCK = Roi((0, 0, 0), (8, 8, 8))
EXPECTED = VOLUME[:8, :8, :8]
SPARE_S = 1.0
"""How much later than its deadline a read may end, on a machine that is busy."""

CUTOUTS = ("hdf5", "npz", "raw with checksum", "raw")
CHUNKED = ("zarr", "zarr-crc32c", "precomputed")
SOURCES = (*CUTOUTS, *CHUNKED)
CHECKED = ("npz", "raw with checksum", "zarr-crc32c")
"""Those that notice a flipped bit."""


@dataclass(frozen=True)
class Row:
    """A fault, and what is to come of it."""

    kind: FaultKind
    times: int | None
    error: type[FetchError] | None = None
    """None if the read is to be exact."""
    is_final: bool | tuple[str, ...] = False
    """Whether, or for which sources, it must not be tried again."""
    retry_after_s: float = 0.0
    sources: tuple[str, ...] = SOURCES

    def __str__(self) -> str:
        return f"{self.kind} {'always' if self.times is None else 'once'}"

    def final(self, source: str) -> bool:
        return self.is_final if isinstance(self.is_final, bool) else source in self.is_final


ROWS = (
    Row("400", None, FetchError, is_final=True),
    Row("401", None, AccessError, is_final=True),
    Row("403", None, AccessError, is_final=True),
    Row("404", None, MissingBlockError, is_final=True),
    Row("410", None, MissingBlockError, is_final=True),
    Row("429", 1, retry_after_s=0.4),
    Row("429 date", 1, retry_after_s=0.1),
    Row("500", 1),
    Row("500", None, FetchError),
    Row("503", 1),
    Row("503", None, FetchError),
    Row("cut", 1),
    Row("cut", None, FetchError),
    Row("cut in body", 1),
    Row("cut in body", None, FetchError),
    Row("truncated", 1),
    Row("truncated", None, FetchError),
    Row("short body", 1),
    Row("short body", None, FetchError),
    Row("html", 1),
    Row("html", None, FetchError),
    Row("bit flip", 1, sources=CHECKED),
    Row("bit flip", None, FetchError, sources=CHECKED),
    Row("stall", 1),
    Row("stall", None, FetchError),
    Row("stall in body", 1),
    Row("stall in body", None, FetchError),
    Row("trickle", 1, sources=CHUNKED),  # cut-outs: an attempt may take all of the time that there is
    Row("trickle", None, FetchError),
    Row("wrong shape", None, FetchError, is_final=("hdf5", "npz")),
    Row("wrong dtype", None, FetchError, is_final=CUTOUTS),
    Row("endless", None, FetchError, sources=CUTOUTS),  # tensorstore reads on, even when nobody waits any more
    Row("redirect", 1, sources=CUTOUTS),
    Row("redirect", None, FetchError, is_final=True, sources=CHUNKED),  # tensorstore follows none
    Row("redirect loop", None, FetchError),
)


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[bool, VolumeServer]]:
    """A server without checksums in headers, and one that has them."""
    options: dict[str, Any] = {"chunk_shape": (8, 8, 8)}
    with ExitStack() as stack:
        yield {
            checksums: stack.enter_context(volume_server(VOLUME, checksums=checksums, **options))
            for checksums in (False, True)
        }


@pytest.fixture
def server_of(servers: dict[bool, VolumeServer]) -> Any:
    def chosen(source: str) -> VolumeServer:
        server = servers["with checksum" in source]
        server.faults = ()
        return server

    return chosen


def opened(server: VolumeServer, source: str, folder: Path, deadline_s: float, **more: Any) -> CachedVolume:
    """Return the volume that a cell is about: the reader under test."""
    patience = {"deadline_s": deadline_s, "stall_s": 0.25, "first_wait_s": 0.01, "longest_wait_s": 0.1}
    common = {"block_shape": [8, 8, 8], "patience": patience, **more}
    if source in CHUNKED:
        said = server.chunked_description(source, **common)
    else:
        said = server.description(source.split()[0], **common)  # type: ignore[arg-type]
    path = folder / "volume.json"
    path.write_text(json.dumps(said))
    return CachedVolume(path)


def read(volume: CachedVolume) -> Any:
    return np.asarray(volume[:8, :8, :8] if volume.layout.shape == VOLUME.shape else volume[0, :8, :8, :8])


def attempts(server: VolumeServer, source: str) -> list[float]:
    """Return when the block was asked for, in the order of time."""
    what: Any = BLOCK if source in CUTOUTS else {"precomputed": "0-8_0-8_0-8"}.get(source, "c/0/0/0")
    place = f"/cutout/{source.split()[0]}/" if source in CUTOUTS else f"/stored/{source}/"
    return [
        request.time_s
        for request in server.requests_of(what)
        if request.path.startswith(place) and not request.path.endswith("again")
    ]


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_a_read_is_exact_or_an_error_in_time(row: Row, servers: dict[bool, VolumeServer], tmp_path: Path) -> None:
    """A row of the matrix, with all of its sources at once: most of the time is waiting."""
    failed = failures(row, servers, tmp_path)
    if failed:
        raise ExceptionGroup("cells that are wrong", failed)


def failures(row: Row, servers: dict[bool, VolumeServer], folder: Path) -> list[Exception]:
    """Return what goes wrong in the first step of a row in which something does."""
    cells = [Cell(row, source, servers["with checksum" in source], folder / source) for source in row.sources]
    with ThreadPoolExecutor(len(cells)) as pool:
        faults = {
            "open": (),
            "read": (Fault(row.kind, row.times, retry_after_s=row.retry_after_s),),
            "read_again": (),
        }
        for step, each in faults.items():
            for server in servers.values():
                server.faults = each
                server.clear()
            failed = [error for error in pool.map(lambda cell, step=step: cell.outcome(step), cells) if error]
            if failed:
                return failed
    return []


class Cell:
    """A fault and a source."""

    def __init__(self, row: Row, source: str, server: VolumeServer, folder: Path) -> None:
        self.row, self.source, self.server, self.folder = row, source, server, folder
        self.deadline_s = 1.0 if row.error else 4.0
        folder.mkdir()

    def outcome(self, step: str) -> Exception | None:
        """Return what went wrong in a step, with the source."""
        try:
            getattr(self, step)()
        except (Exception, pytest.fail.Exception) as error:  # noqa: BLE001  (shown by the row's test)
            failure = AssertionError(f"{self.row}, {self.source}: {error!r}")
            failure.__cause__ = error
            return failure
        return None

    def open(self) -> None:
        self.volume = opened(self.server, self.source, self.folder, self.deadline_s)

    def read(self) -> None:
        """Read, and compare with what is due."""
        row = self.row
        begin = time.monotonic()
        if row.error is None:
            np.testing.assert_array_equal(read(self.volume), EXPECTED)
        else:
            with pytest.raises(row.error) as failed:
                read(self.volume)
            assert not isinstance(failed.value, TransientError)
            assert "0:8, 0:8, 0:8" in str(failed.value)
        assert time.monotonic() - begin <= self.deadline_s + SPARE_S
        asked = attempts(self.server, self.source)
        if row.final(self.source):
            assert len(asked) == 1
            assert self.volume.statistics.num_retries == 0
        elif row.times == 1:
            assert len(asked) == (1 if row.kind == "redirect" else 2)
        if row.retry_after_s and self.source in CUTOUTS:
            assert asked[1] - asked[0] >= row.retry_after_s * 0.98

    def read_again(self) -> None:
        """Nothing wrong was kept, and nothing has to be cleaned by hand."""
        again = opened(self.server, self.source, self.folder, 4.0)
        for volume in (self.volume, again) if self.row.error is None else (again, again, self.volume):
            np.testing.assert_array_equal(read(volume), EXPECTED)
        self.volume.close()
        again.close()


@pytest.mark.parametrize("source", [source for source in SOURCES if source not in CHECKED])
def test_a_flipped_bit_that_nothing_can_notice_is_said_to_be_possible(
    source: str, server_of: Any, tmp_path: Path
) -> None:
    server = server_of(source)
    volume = opened(server, source, tmp_path, 4.0)
    server.faults = [Fault("bit flip", times=1)]
    read(volume)
    assert volume.is_checked is False
    volume.close()


@pytest.mark.parametrize("source", CHECKED)
def test_what_has_checksums_is_said_to_have_them(source: str, server_of: Any, tmp_path: Path) -> None:
    volume = opened(server_of(source), source, tmp_path, 4.0)
    read(volume)
    assert volume.is_checked is True
    volume.close()


@pytest.mark.parametrize("source", [source for source in CUTOUTS if source not in CHECKED])
@pytest.mark.parametrize("times", [1, 2])
def test_what_is_confirmed_is_exact_without_a_checksum(source: str, times: int, server_of: Any, tmp_path: Path) -> None:
    server = server_of(source)
    volume = opened(server, source, tmp_path, 4.0, confirm=True)
    server.clear()
    server.faults = [Fault("bit flip", times)]
    np.testing.assert_array_equal(read(volume), EXPECTED)
    assert len(attempts(server, source)) == 2 + times
    volume.close()


@pytest.mark.parametrize("source", CHUNKED)
@pytest.mark.parametrize("kind", ["503", "cut", "html", "truncated", "stall"])
def test_faults_of_metadata_pass_as_well(source: str, kind: Any, server_of: Any, tmp_path: Path) -> None:
    server = server_of(source)
    said = server.chunked_description(source)  # so that it is written
    name = "info" if source == "precomputed" else "zarr.json"
    assert said["source"]["url"].endswith(source)
    server.faults = [Fault(kind, times=1, when=lambda path: path.endswith(name))]
    begin = time.monotonic()
    try:
        volume = opened(server, source, tmp_path, 4.0)
    except FetchError:
        assert kind == "html"
        volume = opened(server, source, tmp_path, 4.0)
    np.testing.assert_array_equal(read(volume), EXPECTED)
    assert time.monotonic() - begin <= 4.0 + SPARE_S
    volume.close()


def test_who_we_are_is_not_told_to_another_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BELLIS_TEST_TOKEN", "s3cret")
    with volume_server(VOLUME, token="s3cret") as server, volume_server(VOLUME) as other:
        server.faults = [Fault("redirect", to=other.url)]
        volume = opened(server, "npz", tmp_path, 4.0, access={"token_env": "BELLIS_TEST_TOKEN"})
        np.testing.assert_array_equal(read(volume), EXPECTED)
        assert server.requests[0].headers["authorization"] == "Bearer s3cret"
        assert other.num_requests > 0
        assert not any("authorization" in request.headers for request in other.requests)
        volume.close()


def test_a_wrong_token_is_refused_and_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BELLIS_TEST_TOKEN", "wr0ng")
    with volume_server(VOLUME, token="s3cret") as server:
        volume = opened(server, "npz", tmp_path, 4.0, access={"token_env": "BELLIS_TEST_TOKEN"})
        with pytest.raises(AccessError) as refused:
            read(volume)
        assert "wr0ng" not in str(refused.value)
        assert server.num_requests == 1
        volume.close()


@pytest.mark.parametrize("source", ["raw", "zarr-crc32c"])
def test_zeros_are_a_policy_for_blocks_that_are_missing(source: str, server_of: Any, tmp_path: Path) -> None:
    server = server_of(source)
    server.faults = [Fault("404")]
    volume = opened(server, source, tmp_path, 4.0, missing="fill")
    np.testing.assert_array_equal(read(volume), np.zeros_like(EXPECTED))
    server.faults = [Fault("503")]
    with pytest.raises(FetchError):
        opened(server, source, tmp_path, 0.3, missing="fill")[8:, 8:, 8:]
    volume.close()
