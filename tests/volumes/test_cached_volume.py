"""A remote volume behind a cache: what is read is exact, and each block is asked for once."""

from __future__ import annotations

import json
import pickle
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bellis
from bellis import Roi, open_ds, prepare_ds
from bellis.errors import (
    AccessError,
    ArrayError,
    BlockNotReadyError,
    CacheMismatchError,
    DownloadError,
    FetchError,
    MissingBlockError,
    TransientError,
    VolumeError,
)
from bellis.volumes import CachedVolume, Patience
from volumes.sources_for_tests import CountedSource, random_voxels

if TYPE_CHECKING:
    from pathlib import Path

SHAPE, BLOCK = (20, 33, 17), (8, 16, 8)
QUICK = Patience(deadline_s=1.0, stall_s=0.5, first_wait_s=0.001, longest_wait_s=0.01)


@pytest.fixture
def source() -> CountedSource:
    return CountedSource(random_voxels(SHAPE))


@pytest.fixture
def volume(source: CountedSource, tmp_path: Path) -> CachedVolume:
    return CachedVolume.over(source, tmp_path / "cache", block_shape=BLOCK, patience=QUICK)


def everything(volume: CachedVolume) -> np.ndarray:
    return volume[tuple(slice(0, n) for n in volume.shape)]


def test_a_read_is_exact_and_asks_for_each_block_once(source: CountedSource, volume: CachedVolume) -> None:
    np.testing.assert_array_equal(volume[3:19, 5:33, 0:17], source.voxels[3:19, 5:33, 0:17])
    np.testing.assert_array_equal(everything(volume), source.voxels)
    assert len(source.asked) == len(set(source.asked)) == volume.blocks.num_blocks
    assert volume.statistics.num_fetched == volume.blocks.num_blocks


def test_what_was_read_once_is_never_asked_for_again(
    source: CountedSource, volume: CachedVolume, tmp_path: Path
) -> None:
    everything(volume)
    again = CountedSource(source.voxels)
    second = CachedVolume.over(again, tmp_path / "cache", block_shape=BLOCK)
    np.testing.assert_array_equal(everything(second), source.voxels)
    assert again.asked == []


def test_a_read_touches_only_its_blocks(source: CountedSource, volume: CachedVolume) -> None:
    volume[0:8, 0:16, 0:9]
    assert sorted(roi.begin for roi in source.asked) == [(0, 0, 0), (0, 0, 8)]


def test_threads_that_want_one_block_share_one_request(tmp_path: Path) -> None:
    source = CountedSource(random_voxels(SHAPE), latency_s=0.05)
    volume = CachedVolume.over(source, tmp_path, block_shape=BLOCK)
    start = threading.Barrier(8)

    def read(_: int) -> np.ndarray:
        start.wait()
        return everything(volume)

    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(read, range(8)):
            np.testing.assert_array_equal(found, source.voxels)
    assert len(source.asked) == volume.blocks.num_blocks


def test_no_more_requests_run_at_once_than_asked(tmp_path: Path) -> None:
    source = CountedSource(random_voxels(SHAPE), latency_s=0.01)
    volume = CachedVolume.over(source, tmp_path, block_shape=BLOCK, parallel=3)
    everything(volume)
    assert source.most_at_once <= 3


def test_an_attempt_that_fails_is_made_again(source: CountedSource, volume: CachedVolume) -> None:
    source.behave = lambda _, attempt: TransientError("not now") if attempt < 3 else None
    np.testing.assert_array_equal(everything(volume), source.voxels)
    assert volume.statistics.num_retries == 2 * volume.blocks.num_blocks
    assert volume.statistics.num_requests == len(source.asked)


@pytest.mark.parametrize("error", [AccessError("who are you?"), FetchError("a wrong shape"), MissingBlockError("none")])
def test_what_will_never_succeed_is_asked_for_once(
    source: CountedSource, volume: CachedVolume, error: FetchError
) -> None:
    source.behave = lambda *_: error
    with pytest.raises(type(error)):
        volume[0:8, 0:16, 0:8]
    assert len(source.asked) == 1
    source.behave = lambda *_: None
    np.testing.assert_array_equal(everything(volume), source.voxels)


@pytest.mark.slow
def test_a_source_that_always_fails_is_given_up_at_the_deadline(source: CountedSource, volume: CachedVolume) -> None:
    source.behave = lambda *_: TransientError("HTTP 500")
    with pytest.raises(FetchError, match="HTTP 500"):
        volume[0:8, 0:16, 0:8]


def test_a_block_that_the_source_does_not_have_is_zeros_if_asked(tmp_path: Path) -> None:
    source = CountedSource(random_voxels(SHAPE), behave=lambda *_: MissingBlockError("none"))
    volume = CachedVolume.over(source, tmp_path, block_shape=BLOCK, missing="fill")
    assert not everything(volume).any()
    assert volume.statistics.num_filled == volume.blocks.num_blocks
    assert not everything(volume).any()
    assert len(source.asked) == volume.blocks.num_blocks
    with pytest.raises(CacheMismatchError, match="missing"):
        CachedVolume.over(source, tmp_path, block_shape=BLOCK)


def test_a_flipped_bit_on_disk_is_found_and_fetched_again(source: CountedSource, volume: CachedVolume) -> None:
    everything(volume)
    path = volume.cache.path_of((1, 1, 1))
    body = bytearray(path.read_bytes())
    body[len(body) // 2] ^= 4
    path.write_bytes(body)
    np.testing.assert_array_equal(everything(volume), source.voxels)
    assert volume.statistics.num_damaged == 1
    assert len(source.asked) == volume.blocks.num_blocks + 1
    assert volume.cache.usage().num_quarantined == 1


def test_a_cache_of_another_source_is_refused(source: CountedSource, volume: CachedVolume, tmp_path: Path) -> None:
    other = CountedSource(source.voxels.astype("uint16"))
    with pytest.raises(CacheMismatchError, match="dtype"):
        CachedVolume.over(other, tmp_path / "cache", block_shape=BLOCK)


def test_a_source_that_is_another_one_behind_the_same_address_is_refused_before_a_block_is_stored(
    source: CountedSource, volume: CachedVolume
) -> None:
    changed = CountedSource(source.voxels[:10])
    volume._setup = bellis_replace(volume._setup, connect=lambda: changed)
    with pytest.raises(CacheMismatchError, match="shape"):
        everything(volume)
    assert volume.cache.usage().num_present == 0


def bellis_replace(setup: object, **changes: object) -> object:
    from dataclasses import replace

    return replace(setup, **changes)  # type: ignore[type-var]


def test_it_travels_as_a_description(source: CountedSource, tmp_path: Path) -> None:
    class Plain(CountedSource):
        def __reduce__(self) -> object:
            return CountedSource, (self.voxels,)

    volume = CachedVolume.over(Plain(source.voxels), tmp_path, block_shape=BLOCK)
    everything(volume)
    travelled = pickle.loads(pickle.dumps(volume))
    np.testing.assert_array_equal(everything(travelled), source.voxels)
    assert travelled.statistics.num_fetched == 0


def test_it_is_an_array_in_world_units(source: CountedSource, volume: CachedVolume) -> None:
    array = volume.array
    assert array.roi == Roi((0, 0, 0), SHAPE)
    np.testing.assert_array_equal(array[Roi((2, 3, 4), (5, 6, 7))].to_ndarray(), source.voxels[2:7, 3:9, 4:11])
    assert not array.is_writeable
    with pytest.raises(ArrayError, match="read-only"):
        array[array.roi] = 0


def test_the_cache_is_an_array_that_others_open(source: CountedSource, volume: CachedVolume, tmp_path: Path) -> None:
    everything(volume)
    np.testing.assert_array_equal(open_ds(tmp_path / "cache").to_ndarray(), source.voxels)


def test_the_path_of_an_array_or_an_array_is_a_source(source: CountedSource, tmp_path: Path) -> None:
    made = prepare_ds(tmp_path / "far.zarr", shape=SHAPE, dtype="uint8", voxel_size=(4, 2, 2), chunk_shape=(8, 8, 8))
    made[made.roi] = source.voxels
    for number, far in enumerate((tmp_path / "far.zarr", str(tmp_path / "far.zarr"), open_ds(tmp_path / "far.zarr"))):
        for _ in range(2):
            with CachedVolume.over(far, tmp_path / f"near-{number}") as near:
                assert near.blocks.block_shape == (8, 8, 8)
                assert near.array.roi == made.roi
                np.testing.assert_array_equal(near[0:20, 0:33, 0:17], source.voxels)
    with pytest.raises(ArrayError, match="fingerprint"):
        CachedVolume.over(source.voxels, tmp_path / "near")


class TestLazyflowsNames:
    def test_data_and_statuses(self, source: CountedSource, volume: CachedVolume) -> None:
        start, stop = (8, 16, 8), (16, 32, 16)
        assert volume.getBlockStatus(start) == volume.BLOCK_NOT_AVAILABLE
        out = np.empty((8, 16, 8), "uint8")
        assert volume.readData((start, stop), out) is out
        np.testing.assert_array_equal(out, source.voxels[8:16, 16:32, 8:16])
        assert volume.getBlockStatus(start) == volume.BLOCK_AVAILABLE
        volume.setBlockStatus(start, volume.BLOCK_NOT_AVAILABLE)
        assert volume.getBlockStatus(start) == volume.BLOCK_NOT_AVAILABLE
        with pytest.raises(BlockNotReadyError, match="not there"):
            volume.setBlockStatus(start, volume.BLOCK_AVAILABLE)
        with pytest.raises(VolumeError, match="only read"):
            volume.writeData((start, stop), out)

    def test_rois(self, volume: CachedVolume) -> None:
        rois = volume.getAllBlockRois()
        assert len(rois) == volume.blocks.num_blocks
        assert rois[-1] == volume.getEntireBlockRoi((16, 32, 16)) == ((16, 32, 16), SHAPE)
        with pytest.raises(ArrayError, match="no block of the view"):
            volume.getEntireBlockRoi((1, 0, 0))

    def test_components_of_a_path_name_the_chunk(self, volume: CachedVolume) -> None:
        assert volume.getDatasetPathComponents((8, 16, 8)).externalPath.endswith("c/1/1/1")

    def test_a_closed_volume_refuses_until_it_is_opened_again(
        self, source: CountedSource, volume: CachedVolume
    ) -> None:
        with volume:
            everything(volume)
        with pytest.raises(VolumeError, match="closed"):
            everything(volume)
        volume.reopen("r")
        np.testing.assert_array_equal(everything(volume), source.voxels)
        with pytest.raises(ArrayError, match="only read"):
            volume.reopen("a")

    def test_downloading_goes_on_after_failures_and_names_them(
        self, source: CountedSource, volume: CachedVolume
    ) -> None:
        bad = {(0, 0, 0), (8, 16, 8)}
        source.behave = lambda roi, _: FetchError("it is broken") if roi.begin in bad else None
        with pytest.raises(DownloadError, match="2 blocks") as caught:
            volume.downloadAllBlocks(4)
        assert {begin for begin, _ in caught.value.failed} == bad
        assert volume.cache.usage().num_present == volume.blocks.num_blocks - 2
        source.behave = lambda *_: None
        assert volume.downloadAllBlocks(4, skip_preparation=True) is None
        assert volume.cache.usage().num_present == volume.blocks.num_blocks


@pytest.mark.parametrize(
    ("roi", "match"),
    [
        (((0, 0), (1, 1)), "2 dimensions"),
        (((0, 0, 0), (0, 1, 1)), "no voxels"),
        (((5, 5, 5), (4, 9, 9)), "no voxels"),
        (((0, 0, 0), (21, 1, 1)), "not inside"),
        (((-1, 0, 0), (1, 1, 1)), "not inside"),
        (((0, 0, 0),), r"not a Roi or \(start, stop\)"),
    ],
)
def test_regions_that_make_no_sense_are_refused(volume: CachedVolume, roi: tuple[object, ...], match: str) -> None:
    with pytest.raises(ArrayError, match=match):
        volume.read_data(roi)


def test_a_view_may_begin_within_a_block(source: CountedSource, tmp_path: Path) -> None:
    far = prepare_ds(tmp_path / "far.zarr", shape=SHAPE, dtype="uint8", chunk_shape=BLOCK)
    far[far.roi] = source.voxels
    said = {
        "_schema_name": "bellis-volume-description", "_schema_version": 1.0, "name": "em",
        "source": {"url": "far.zarr"}, "view": {"origin": [3, 5, 7]},
    }  # fmt: skip
    (tmp_path / "em.json").write_text(json.dumps(said))
    with CachedVolume(tmp_path / "em.json") as volume:
        rois = volume.get_all_block_rois()
        assert rois[:2] == [((0, 0, 0), (5, 11, 1)), ((0, 0, 1), (5, 11, 9))]
        for start, stop in rois:
            assert volume.get_entire_block_roi(start) == (start, stop)
            assert not volume.get_block_status(start)
            volume.read_data((start, stop))
            assert volume.get_block_status(start)
        with pytest.raises(ArrayError, match="no block of the view"):
            volume.get_block_status((1, 0, 0))
        np.testing.assert_array_equal(everything(volume), source.voxels[3:, 5:, 7:])


def test_an_array_that_vanishes_is_not_taken_for_missing_blocks(
    source: CountedSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bellis.volumes.chunked.LOOK_AGAIN_S", 0.0)
    far = prepare_ds(tmp_path / "far.zarr", shape=SHAPE, dtype="uint8", chunk_shape=BLOCK)
    far[Roi((0, 0, 0), (8, 16, 8))] = 7
    with CachedVolume.over(tmp_path / "far.zarr", tmp_path / "near", missing="fill", patience=QUICK) as volume:
        assert (volume[0:8, 0:16, 0:8] == 7).all()
        assert not volume[8:16, 0:16, 0:8].any()
        shutil.rmtree(tmp_path / "far.zarr")
        with pytest.raises(FetchError, match="not there any more"):
            volume[16:20, 0:16, 0:8]


@pytest.mark.slow
def test_a_server_that_gives_nothing_is_not_asked_for_every_block(tmp_path: Path) -> None:
    source = CountedSource(random_voxels((16, 16, 16)), behave=lambda *_: TransientError("HTTP 500"))
    hasty = Patience(deadline_s=0.2, first_wait_s=0.01, longest_wait_s=0.1)
    volume = CachedVolume.over(source, tmp_path, block_shape=(2, 2, 2), patience=hasty, parallel=4)
    failed = volume.fetch_blocks(volume.block_indices())
    assert len(failed) == 512
    assert len(set(source.asked)) < 30
    assert sum("was not tried" in reason and "HTTP 500" in reason for _, reason in failed) > 480
    source.behave = lambda *_: None
    np.testing.assert_array_equal(volume[0:2, 0:2, 0:2], source.voxels[0:2, 0:2, 0:2])  # a reader does ask
    assert volume.fetch_blocks(volume.block_indices()) == []


@pytest.mark.slow
def test_who_waits_for_another_process_does_not_compute_meanwhile(source: CountedSource, tmp_path: Path) -> None:
    patience = Patience(deadline_s=3.0, first_wait_s=0.01, longest_wait_s=0.1)
    volume = CachedVolume.over(source, tmp_path, block_shape=BLOCK, patience=patience)
    other = CachedVolume.over(source, tmp_path, block_shape=BLOCK)
    lease = other.cache.lease((0, 0, 0))
    assert lease is not None
    begun, cpu_s = time.monotonic(), time.process_time()
    np.testing.assert_array_equal(volume[0:8, 0:16, 0:8], source.voxels[0:8, 0:16, 0:8])
    assert 1.4 < time.monotonic() - begun < 3.0  # half of the time is for waiting, half for fetching
    assert time.process_time() - cpu_s < 0.5
    lease.release()


@pytest.mark.slow
def test_waiting_and_fetching_share_one_deadline(source: CountedSource, tmp_path: Path) -> None:
    patience = Patience(deadline_s=1.0, first_wait_s=0.01, longest_wait_s=0.1)
    source.behave = lambda *_: TransientError("HTTP 500")
    volume = CachedVolume.over(source, tmp_path, block_shape=BLOCK, patience=patience)
    other = CachedVolume.over(source, tmp_path, block_shape=BLOCK)
    with other.cache.lease((0, 0, 0)):  # type: ignore[union-attr]
        begun = time.monotonic()
        with pytest.raises(FetchError, match="HTTP 500"):
            volume[0:8, 0:16, 0:8]
        assert time.monotonic() - begun < 1.5


@st.composite
def reads(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...], list[tuple[slice, ...]]]:
    ndim = draw(st.integers(1, 4))
    shape = tuple(draw(st.lists(st.integers(1, 9), min_size=ndim, max_size=ndim)))
    block = tuple(draw(st.lists(st.integers(1, 6), min_size=ndim, max_size=ndim)))

    def region() -> tuple[slice, ...]:
        spans = [sorted(draw(st.tuples(st.integers(0, n), st.integers(0, n)))) for n in shape]
        return tuple(slice(a, b) for a, b in spans)

    return shape, block, [region() for _ in range(draw(st.integers(1, 4)))]


@given(reads(), st.sampled_from(["uint8", "int16", "float32", "uint64", "bool"]))
@settings(max_examples=30, deadline=None)
def test_any_reads_in_any_order_are_what_numpy_reads(
    tmp_path_factory: pytest.TempPathFactory,
    case: tuple[tuple[int, ...], tuple[int, ...], list[tuple[slice, ...]]],
    dtype: str,
) -> None:
    shape, block, regions = case
    source = CountedSource(random_voxels(shape, dtype), axes=tuple("tzyx"[-len(shape) :]))
    volume = CachedVolume.over(source, tmp_path_factory.mktemp("cache"), block_shape=block, parallel=2)
    with volume:
        for region in regions:
            found = volume[region]
            np.testing.assert_array_equal(found, source.voxels[region])
            assert found.dtype == source.dtype
    touched = {
        index
        for region in regions
        if all(s.stop > s.start for s in region)
        for index in product(*[range(s.start // n, -(-s.stop // n)) for s, n in zip(region, block, strict=True)])
    }
    assert len(source.asked) == len(touched)


def test_bellis_names_the_room() -> None:
    assert bellis.volumes.RESTfulBlockwiseFileset is CachedVolume
