"""ops.download: groups of blocks, what a run leaves out, what it fetches, and what it says of what did not come."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from math import prod
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

import bellis
from bellis import DownloadError, Roi, TaskError, ops
from bellis.arrays.layout import Layout
from bellis.ops.download import verification
from bellis.ops.groups import Groups, Skip
from bellis.planning import BlockGrid
from bellis.planning.skip import skipped_blocks
from bellis.volumes import CachedVolume
from bellis.volumes.blocks import Blocks
from bellis.volumes.setup import view_layout
from forked import Forked
from volumes.served import NUM_BLOCKS, Served, served

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import Run

# Groups ---------------------------------------------------------------------------------------------------------


@dataclass
class Kept:
    """What groups ask of a volume, with blocks that are there by decree."""

    layout: Layout
    view: Roi
    blocks: Blocks
    there: np.ndarray
    name: str = "kept"
    path: str = "/kept"

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.layout.dtype

    @property
    def cache(self) -> SimpleNamespace:
        return SimpleNamespace(presence=self.presence)

    def presence(self, roi: Roi) -> np.ndarray:
        spans = zip(roi.begin, roi.end, self.blocks.block_shape, strict=True)
        return self.there[tuple(slice(begin // n, -(-end // n)) for begin, end, n in spans)]

    def block_indices(self, roi: Roi) -> Iterator[tuple[int, ...]]:
        return self.blocks.touched(roi)


@st.composite
def kept_volumes(draw: st.DrawFn) -> Kept:
    dims = draw(st.integers(1, 3))
    axes = draw(st.permutations(["c", *"zyx"[3 - dims :]])) if draw(st.booleans()) else list("zyx"[3 - dims :])
    numbers = st.lists(st.integers(1, 9), min_size=len(axes), max_size=len(axes))
    shape, block_shape, at, extent = draw(numbers), draw(numbers), draw(numbers), draw(numbers)
    begin = [k % n for k, n in zip(at, shape, strict=True)]
    ends = [min(k, n - b) for k, n, b in zip(extent, shape, begin, strict=True)]
    sizes = draw(st.lists(st.integers(1, 5), min_size=dims, max_size=dims))
    offset = draw(st.lists(st.integers(-9, 9), min_size=dims, max_size=dims))
    whole = Layout.of(shape, "uint8", voxel_size=sizes, offset=offset, axis_names=axes)
    view, blocks = Roi(begin, ends), Blocks(tuple(shape), tuple(block_shape))
    seed = draw(st.integers(0, 99))
    there = np.random.default_rng(seed).random(blocks.counts) < draw(st.sampled_from([0.0, 0.5, 0.9, 1.0]))
    return Kept(view_layout(whole, view), view, blocks, there)


@st.composite
def parts_of(draw: st.DrawFn, roi: Roi) -> Roi:
    begin = [draw(st.integers(a, b - 1)) for a, b in zip(roi.begin, roi.end, strict=True)]
    return Roi(begin, [draw(st.integers(1, b - a)) for a, b in zip(begin, roi.end, strict=True)])


def grid_of(groups: Groups) -> BlockGrid:
    block = Roi(groups.roi.begin, groups.step)
    return BlockGrid(groups.roi, block, block, "shrink", "download")


@settings(max_examples=80)
@given(st.data(), kept_volumes(), st.integers(1, 20))
def test_each_block_that_a_region_touches_is_in_one_group(data: st.DataObject, kept: Any, most: int) -> None:
    roi = data.draw(st.one_of(st.none(), parts_of(kept.layout.roi)))
    groups = Groups.of(kept, roi, most)
    grid = grid_of(groups)
    found = [list(groups.blocks(grid.write_roi(index))) for index in range(grid.num_blocks)]
    voxels = kept.view if roi is None else groups.voxels(kept.layout.snap(roi))
    expected = Counter(kept.blocks.touched(voxels))
    assert Counter(index for group in found for index in group) == expected
    channels = prod(n for n, kind in zip(kept.blocks.counts, kept.layout.types, strict=True) if kind == "channel")
    assert max(map(len, found)) <= max(most, channels)


@settings(max_examples=80)
@given(st.data(), kept_volumes(), st.integers(1, 20), st.integers(1, 4), st.booleans())
def test_a_mask_leaves_out_groups_in_which_nothing_is_to_be_done(
    data: st.DataObject, kept: Any, most: int, count: int, present: bool
) -> None:
    part = data.draw(st.one_of(st.none(), st.tuples(st.integers(1, count), st.just(count))))
    groups = Groups.of(kept, None, most)
    grid, skip = grid_of(groups), Skip(groups, part, present=present)
    for _ in range(2):
        task = SimpleNamespace(task_id="download", skip_mask=skip)
        [(_, flags)] = skipped_blocks(task, grid)  # type: ignore[arg-type]
        blocks = [list(groups.blocks(grid.write_roi(index))) for index in range(grid.num_blocks)]
        ours = [part is None or number % part[1] == part[0] - 1 for number in range(grid.num_blocks)]
        todo = [any(kept.there[index] == present for index in group) for group in blocks]
        assert [not flag for flag in flags] == [own and some for own, some in zip(ours, todo, strict=True)]
        pairs = [index for own, group in zip(ours, blocks, strict=True) if own for index in group]
        assert skip.absent().tolist() == sorted([list(index) for index in pairs if not kept.there[index]])
        kept.there[...] = ~kept.there  # a second run looks again


# Runs -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def em(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path) as found:
        yield found


def everything(volume: CachedVolume) -> np.ndarray:
    return volume[tuple(slice(0, n) for n in volume.shape)]


@pytest.mark.integration
@pytest.mark.parametrize("engine", ["inline", pytest.param("local", marks=pytest.mark.slow)])
def test_a_download_asks_for_each_block_once_and_the_next_for_nothing(run: Run, em: Served, engine: str) -> None:
    with CachedVolume(em.description) as volume:
        report = run(ops.download(volume, group=4), engine, workers=2)
        assert report.tasks["download"].counts.skipped == 0
        assert set(em.asked.values()) == {1}
        assert len(em.asked) == NUM_BLOCKS
        em.statuses = dict.fromkeys(em.asked, 500)
        again = run(ops.download(em.description, group=4), engine, workers=2)
        counts = again.tasks["download"].counts
        assert counts.skipped == counts.total
        assert_array_equal(everything(volume), em.voxels)
    assert sum(em.asked.values()) == NUM_BLOCKS


@pytest.mark.integration
def test_parts_fill_a_volume_without_asking_twice(run: Run, em: Served) -> None:
    for number in (1, 2, 3):
        run(ops.download(em.description, part=(number, 3), group=2))
        assert set(em.asked.values()) == {1}
    assert len(em.asked) == NUM_BLOCKS


@pytest.mark.integration
def test_only_blocks_of_a_region_are_fetched(run: Run, em: Served) -> None:
    with CachedVolume(em.description) as volume:
        region = Roi(volume.array.roi.begin, (400, 36, 4))  # 10, 9 and 1 voxels
        run(ops.download(volume, roi=region))
        assert set(em.asked) == {"0/0/0", "0/1/0", "1/0/0", "1/1/0"}
        beyond = Roi((399, 1, 9), (1, 1, 1))
        with pytest.raises(TaskError, match="is not a region inside of volume 'em', which covers"):
            ops.download(volume, roi=beyond)


@pytest.mark.integration
def test_blocks_that_fail_are_named_after_all_others_came(em: Served) -> None:
    em.statuses = {"0/0/0": 404, "2/2/1": 403}
    report = bellis.run(ops.download(em.description, group=NUM_BLOCKS), "inline", progress=False)
    [failure] = report.failures
    assert failure.attempts == 2
    assert "2 of 18 blocks of 'em' did not come" in failure.error
    assert "block (0, 0, 0): " in failure.error
    assert "block (16, 16, 8): " in failure.error
    assert "403" in failure.error
    assert em.asked.keys() - {"0/0/0", "2/2/1"} == {each for each, count in em.asked.items() if count == 1}
    em.statuses.clear()
    assert report.retry_failed().ok
    assert len(em.asked) == NUM_BLOCKS


@pytest.mark.integration
def test_a_download_does_not_stop_after_the_first_failures(em: Served) -> None:
    em.statuses = {f"{z}/{y}/{x}": 404 for z in (0, 1) for y in range(3) for x in range(2)}
    report = bellis.run(ops.download(em.description, group=1), "inline", progress=False)
    assert report.tasks["download"].counts.failed == 12
    assert report.tasks["download"].counts.completed == 6
    assert len(em.asked) == NUM_BLOCKS


@pytest.mark.integration
def test_the_error_has_the_begin_of_each_block_that_failed(em: Served) -> None:
    em.statuses = {"0/1/0": 404}
    task = ops.download(em.description, group=NUM_BLOCKS)
    with pytest.raises(DownloadError) as caught:
        task.process_function(BlockGrid.of(task).block(0))
    assert [begin for begin, _ in caught.value.failed] == [(0, 8, 0)]


@pytest.mark.integration
def test_channels_are_fetched_with_their_place(run: Run, tmp_path: Path) -> None:
    with served(tmp_path, (3, 10, 12, 6), (2, 8, 8, 8)) as em, CachedVolume(em.description) as volume:
        task = ops.download(volume, group=2)
        assert task.total_roi.dims == 3
        run(task)
        assert_array_equal(everything(volume), em.voxels)
    assert set(em.asked.values()) == {1}


@pytest.mark.integration
@pytest.mark.slow
def test_two_downloads_of_one_volume_may_run_side_by_side(run: Run, em: Served) -> None:
    both = [ops.download(em.description, name="first"), ops.download(em.description, name="second")]
    run(both, "local", workers=2)  # type: ignore[arg-type]
    assert len(em.asked) == NUM_BLOCKS


@pytest.mark.integration
@pytest.mark.slow
def test_a_map_reads_the_volume_while_a_download_runs(run: Run, em: Served, tmp_path: Path) -> None:
    em.latency_s = 0.02
    with CachedVolume(em.description) as volume:
        double = ops.map(np.negative, volume.array, tmp_path / "out.zarr", block_shape=8)
        run([ops.download(volume, group=1), double], "local", workers=4)  # type: ignore[arg-type]
    assert_array_equal(bellis.open_ds(tmp_path / "out.zarr").to_ndarray(), np.negative(em.voxels))
    assert set(em.asked.values()) == {1}


@pytest.mark.integration
def test_what_can_not_be_done_is_refused(em: Served) -> None:
    with pytest.raises(TaskError, match="there is no part 5 of 4: parts are"):
        ops.download(em.description, part=(5, 4))
    with pytest.raises(TaskError, match="group is 0"):
        ops.download(em.description, group=0)
    with pytest.raises(TaskError, match="may have 10 MB"):
        ops.download(em.description, limits=ops.Limits(max_memory="10MB"))


@pytest.mark.integration
def test_a_verification_tells_of_damaged_blocks_and_changes_nothing(run: Run, em: Served) -> None:
    with CachedVolume(em.description) as volume:
        run(ops.download(volume))
        volume.cache.drop((2, 2, 1))
        path = volume.cache.path_of((1, 0, 1))
        body = bytearray(path.read_bytes())
        body[len(body) // 2] ^= 1
        path.write_bytes(body)
        report = run(verification(volume))
        [found] = report.results("verify").values()
        assert found["num_read"] == NUM_BLOCKS - 1
        [[index, reason]] = found["damaged"]
        assert index == [1, 0, 1]
        assert reason
        assert path.read_bytes() == body


# Killed ---------------------------------------------------------------------------------------------------------

DOWNLOAD = """
import bellis
import bellis.volumes.cached
import tensorstore
from bellis import ops

def main(description, logs, number=1, count=1):
    task = ops.download(description, group=3, part=(int(number), int(count)))
    report = bellis.run(task, "local", workers=2, progress=False, log_dir=logs)
    assert report.ok, report
"""


@pytest.fixture(scope="module")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forked]:
    with Forked(tmp_path_factory.mktemp("downloads"), DOWNLOAD) as runs:
        yield runs


@pytest.mark.integration
@pytest.mark.slow
@pytest.mark.parametrize("num_asked", [1, 4, 9, 15])
def test_a_download_that_is_killed_goes_on_with_the_rest(tmp_path: Path, downloads: Forked, num_asked: int) -> None:
    with served(tmp_path) as em:
        em.latency_s = 0.05
        words = [str(em.description), str(tmp_path / "logs")]
        process = downloads.start(*words)
        while sum(em.asked.values()) < num_asked:
            assert downloads.code(timeout_s=0.002) is None
        downloads.kill(process)
        time.sleep(em.latency_s)
        with CachedVolume(em.description) as volume:
            there = volume.cache.presence()
            stored = {"/".join(map(str, at)) for at in np.argwhere(there)}
        assert len(stored) < NUM_BLOCKS
        em.asked.clear()
        downloads.start(*words)
        assert downloads.code() == 0
        assert stored.isdisjoint(em.asked)
        assert len(stored) + len(em.asked) == NUM_BLOCKS
        with CachedVolume(em.description) as volume:
            assert_array_equal(everything(volume), em.voxels)


@pytest.mark.integration
@pytest.mark.slow
def test_two_processes_that_take_a_part_each_fill_everything(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with served(tmp_path) as em, Forked(tmp_path, DOWNLOAD) as one, Forked(tmp_path / "other", DOWNLOAD) as other:
        for number, runs in enumerate((one, other), start=1):
            runs.start(str(em.description), str(tmp_path / "logs"), str(number), "2")
        assert [runs.code() for runs in (one, other)] == [0, 0]
        assert set(em.asked.values()) == {1}
        assert len(em.asked) == NUM_BLOCKS
