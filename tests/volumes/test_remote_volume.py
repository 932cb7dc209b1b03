"""A volume behind a server, read as an array."""

from __future__ import annotations

import pickle
import threading
from time import monotonic
from typing import TYPE_CHECKING

import h5py
import numpy as np
import pytest

from bellis.errors import ArrayError, FetchError, MissingBlockError, TransientError, VolumeError
from bellis.geometry import Coordinate, Roi
from bellis.volumes import pieces as pieces_module
from bellis.volumes.descriptions import (
    CacheDescription,
    CompositeDescription,
    CutoutDescription,
    FilesetDescription,
    RemoteDescription,
    VolumeDescription,
)
from bellis.volumes.remote import RemoteVolume
from bellis.volumes.sliceable import SliceableSource
from bellis.volumes.source import Patience
from volumes.servers_raw import raw_server, reply
from volumes.sources_for_tests import CountedSource, random_voxels

if TYPE_CHECKING:
    from pathlib import Path

VOXELS = random_voxels((20, 30, 40))
HASTY = Patience(deadline_s=0.2, first_wait_s=0.001, longest_wait_s=0.002)


def test_a_region_is_read_in_pieces_of_the_server() -> None:
    source = CountedSource(VOXELS, preferred_block=(8, 8, 8))
    volume = RemoteVolume.over(source)
    np.testing.assert_array_equal(volume[3:17, 8:30, 0:9], VOXELS[3:17, 8:30, :9])
    assert len(source.asked) == 3 * 3 * 2
    assert all(all(a // 8 == (b - 1) // 8 for a, b in zip(box.begin, box.end, strict=True)) for box in source.asked)
    assert (volume.shape, volume.dtype, volume.chunk_shape) == (VOXELS.shape, VOXELS.dtype, (8, 8, 8))
    assert (volume.write_shape, volume.is_writeable) == (None, False)


def test_a_source_without_blocks_is_asked_for_bounded_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces_module, "PIECE_BYTES", 1000)
    source = CountedSource(VOXELS)
    np.testing.assert_array_equal(RemoteVolume.over(source)[:, :, :], VOXELS)
    assert max(np.prod(box.shape) for box in source.asked) <= 1000
    monkeypatch.undo()
    RemoteVolume.over(source)[:, :, :]
    assert source.asked[-1] == source.domain


def test_no_more_than_parallel_requests_run_at_once() -> None:
    source = CountedSource(VOXELS, preferred_block=(4, 10, 40), latency_s=0.01)
    np.testing.assert_array_equal(RemoteVolume.over(source, parallel=3)[:, :, :], VOXELS)
    assert source.most_at_once == 3
    with pytest.raises(ArrayError, match="parallel=0"):
        RemoteVolume.over(source, parallel=0)


def test_the_first_failure_ends_a_read() -> None:
    def behave(box: Roi, _attempt: int) -> FetchError | None:
        return MissingBlockError("no such block") if box.begin[0] == 8 else TransientError("busy")

    patience = Patience(deadline_s=60, first_wait_s=30, longest_wait_s=30)
    source = CountedSource(VOXELS, preferred_block=(1, 30, 40), behave=behave)
    begun = monotonic()
    with pytest.raises(MissingBlockError, match="no such block"):
        RemoteVolume.over(source, patience=patience, parallel=16)[:, :, :]
    assert monotonic() - begun < 5
    assert len(source.asked) <= 20
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("bellis-remote")]


def test_a_source_that_is_never_ready_is_an_error_in_time() -> None:
    source = CountedSource(VOXELS, behave=lambda *_: TransientError("HTTP 500"))
    with pytest.raises(FetchError, match=r"HTTP 500 in all .* attempts within 0"):
        RemoteVolume.over(source, patience=HASTY)[:, :, :]


def test_data_is_read_by_lazyflows_names() -> None:
    volume = RemoteVolume.over(CountedSource(VOXELS, preferred_block=(8, 8, 8)))
    expected = VOXELS[1:11, 2:22, 3:33]
    roi = ((1, 2, 3), (11, 22, 33))
    np.testing.assert_array_equal(volume.read_data(roi), expected)
    np.testing.assert_array_equal(volume.readData(Roi((1, 2, 3), (10, 20, 30))), expected)
    out = np.zeros((10, 20, 60), "u1")[:, :, ::2]
    assert volume.read_data(roi, out) is out
    np.testing.assert_array_equal(out, expected)
    with pytest.raises(ArrayError, match=r"out_array has shape \(2, 2\) and dtype float64"):
        volume.read_data(roi, np.zeros((2, 2)))
    with pytest.raises(ArrayError, match="not inside of the volume"):
        volume.read_data(((0, 0, 0), (21, 1, 1)))
    with pytest.raises(VolumeError, match="is only read"):
        volume[0:1, 0:1, 0:1] = np.zeros((1, 1, 1), "u1")


def test_a_region_is_downloaded_into_a_file(tmp_path: Path) -> None:
    volume = RemoteVolume.over(CountedSource(VOXELS, preferred_block=(8, 8, 8)))
    volume.download_sub_volume(((1, 2, 3), (11, 22, 33)), tmp_path / "a.h5" / "volume" / "data")
    with h5py.File(tmp_path / "a.h5") as file:
        np.testing.assert_array_equal(file["volume/data"][()], VOXELS[1:11, 2:22, 3:33])
    volume.downloadSubVolume(((0, 0, 0), (1, 1, 2)), tmp_path / "a.h5" / "more")  # it is replaced, as lazyflow did
    with h5py.File(tmp_path / "a.h5") as file:
        assert list(file) == ["more"]
        np.testing.assert_array_equal(file["more"][()], VOXELS[:1, :1, :2])
    for path in ("a.zarr/x", "a.h5", "x"):
        with pytest.raises(ArrayError, match=r"ends in .h5 and a path within it"):
            volume.download_sub_volume(((0, 0, 0), (1, 1, 1)), path)
    with pytest.raises(VolumeError, match="can't be written"):
        volume.download_sub_volume(((0, 0, 0), (1, 1, 1)), tmp_path / "none" / "b.h5" / "data")


def test_a_download_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def behave(box: Roi, _: int) -> FetchError | None:
        return MissingBlockError("gone") if box.begin[0] else None

    volume = RemoteVolume.over(CountedSource(VOXELS, preferred_block=(8, 30, 40), behave=behave))
    with pytest.raises(MissingBlockError, match="gone"):
        volume.download_sub_volume(((0, 0, 0), VOXELS.shape), tmp_path / "a.h5" / "data")
    assert not list(tmp_path.iterdir())


def test_a_closed_volume_is_not_read() -> None:
    with RemoteVolume.over(CountedSource(VOXELS)) as volume:
        assert volume[0:1, 0:1, 0:1].shape == (1, 1, 1)
    with pytest.raises(VolumeError, match="is closed: reopen"):
        volume[0:1, 0:1, 0:1]
    volume.reopen()
    assert volume[0:1, 0:1, 0:1].shape == (1, 1, 1)
    with pytest.raises(ArrayError, match="only read"):
        volume.reopen("w")


def test_it_is_an_array_in_world_units_and_travels() -> None:
    source = SliceableSource(VOXELS, fingerprint={"name": "a"})
    array = pickle.loads(pickle.dumps(RemoteVolume.over(source))).array
    assert array.roi == Roi((0, 0, 0), VOXELS.shape)
    np.testing.assert_array_equal(array[Roi((1, 2, 3), (4, 5, 6))].to_ndarray(), VOXELS[1:5, 2:7, 3:9])
    assert RemoteVolume.over(source)[2:2, 0:1, 0:1].shape == (0, 1, 1)


CUTOUT = CutoutDescription(
    url_format="http://127.0.0.1:9/{z_start}-{z_stop}/{y_start}-{y_stop}/{x_start}-{x_stop}",
    payload="raw",
    axes=("z", "y", "x"),
    payload_axes=("z", "y", "x"),
    dtype=np.dtype("u1"),
    payload_dtype=np.dtype("u1"),
    shape=VOXELS.shape,
    origin_offset=(0, 0, 0),
    preferred_block=(8, 8, 8),
    voxel_size=(40, 4, 4),
)


def _cut(path: str) -> bytes:
    box = tuple(slice(*map(int, part.split("-"))) for part in path.strip("/").split("/"))
    return reply(body=VOXELS[box].tobytes())


@pytest.mark.integration
def test_the_view_of_a_description_is_read() -> None:
    from dataclasses import replace

    with raw_server(lambda _s, _c, path, _n: _cut(path)) as server:
        description = VolumeDescription(
            name="em",
            source=replace(CUTOUT, url_format=CUTOUT.url_format.replace("http://127.0.0.1:9", server.url)),
            cache=CacheDescription(directory="/nowhere"),
            view_origin=(4, 5, 6),
            view_shape=(10, 11, 12),
            parallel=4,
        )
        volume = pickle.loads(pickle.dumps(RemoteVolume(preparsed_description=description)))
        assert volume.shape == (10, 11, 12)
        assert volume.layout.offset == Coordinate(160, 20, 24)
        np.testing.assert_array_equal(volume[:, :, :], VOXELS[4:14, 5:16, 6:18])
        np.testing.assert_array_equal(volume.read_data(((1, 1, 1), (3, 3, 3))), VOXELS[5:7, 6:8, 7:9])
        assert server.num_connections <= 4
        volume.close()
    outside = RemoteVolume(preparsed_description=replace(description, view_shape=(17, 1, 1)))
    with pytest.raises(ArrayError, match="is not inside of"):
        _ = outside.shape


def test_of_a_composite_description_the_server_is_meant(tmp_path: Path) -> None:
    remote = RemoteDescription(
        name="em",
        axes="zyx",
        dtype=np.dtype("u1"),
        bounds=(20, 30, 40),
        origin_offset=(0, 0, 0),
        shape=(20, 30, 40),
        url_format=CUTOUT.url_format,
        hdf5_dataset="cutout",
    )
    local = FilesetDescription(
        name="em",
        axes="zyx",
        shape=(20, 30, 40),
        dtype=np.dtype("u1"),
        block_shape=(8, 8, 8),
        view_origin=(0, 0, 0),
        view_shape=(20, 30, 40),
        block_file_name_format="block-{roiString}.h5/cube",
    )
    volume = RemoteVolume(
        preparsed_description=CompositeDescription(remote_description=remote, local_description=local)
    )
    assert volume.shape == (20, 30, 40)
    assert "'em' from http" in str(volume.source)
    with pytest.raises(ArrayError, match="describes no server, but files"):
        RemoteVolume(preparsed_description=local)
    with pytest.raises(ArrayError, match="pass a description file"):
        RemoteVolume()
    path = tmp_path / "remote.json"
    RemoteVolume.write_description(path, remote)
    assert RemoteVolume.readDescription(path) == remote
    assert RemoteVolume(path).shape == (20, 30, 40)
