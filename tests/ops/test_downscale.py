"""ops.downscale: block by block as all at once, level by level."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

import bellis
from bellis import Array, ArrayError, Coordinate, JournalMismatchError, Task, TaskError, ops, prepare_ds
from bellis.arrays.multiscale import Multiscale
from bellis.ops.downscale import downscaled

if TYPE_CHECKING:
    from conftest import Run

METHODS = ("mean", "mode", "stride", "min", "max", "median")


def image(path: Path, voxels: Any, voxel_size: Any, **options: Any) -> Multiscale:
    made = Multiscale.prepare(path, shape=voxels.shape, voxel_size=voxel_size, dtype=voxels.dtype, **options)
    made[0][made[0].roi] = voxels
    return made


def boxes(voxels: Any, factors: Any) -> dict[tuple[int, ...], Any]:
    """The voxels of each coarse voxel, by slicing."""
    counts = [-(-n // f) for n, f in zip(voxels.shape, factors, strict=True)]
    return {
        at: voxels[tuple(slice(k * f, (k + 1) * f) for k, f in zip(at, factors, strict=True))]
        for at in product(*map(range, counts))
    }


def coarse(voxels: Any, factors: Any, method: str) -> Any:
    """A level by definition, voxel by voxel; the mode is left out, which has ties."""
    of = {"mean": np.mean, "min": np.min, "max": np.max, "stride": lambda box: box.flat[0]}[method]
    found = {at: of(box) for at, box in boxes(voxels, factors).items()}
    out = np.zeros([max(at[d] for at in found) + 1 for d in range(voxels.ndim)])
    for at, value in found.items():
        out[at] = value
    return np.rint(out) if voxels.dtype.kind in "iu" else out


@settings(max_examples=60)
@given(
    st.lists(st.integers(1, 9), min_size=2, max_size=3).flatmap(
        lambda shape: st.tuples(
            st.just(shape), st.lists(st.integers(1, 3), min_size=len(shape), max_size=len(shape)), st.integers(0, 99)
        )
    ),
    st.sampled_from(["mean", "min", "max", "stride"]),
    st.sampled_from(["uint8", "float32", "uint64"]),
)
def test_a_voxel_is_made_of_its_box(drawn: Any, method: Any, dtype: str) -> None:
    shape, factors, seed = drawn
    voxels = np.random.default_rng(seed).integers(0, 255, shape).astype(dtype)
    np.testing.assert_allclose(downscaled(voxels, factors, method), coarse(voxels, factors, method), rtol=1e-6)


def test_the_mode_is_the_most_frequent_label() -> None:
    voxels = np.random.default_rng(3).integers(0, 4, (9, 8, 7)).astype("uint64")
    found = downscaled(voxels, (2, 2, 2), "mode")
    for at, box in boxes(voxels, (2, 2, 2)).items():
        counts = Counter(box.ravel().tolist())
        assert counts[int(found[at])] == max(counts.values())


@pytest.mark.slow
@settings(max_examples=40)
@given(
    shape=st.lists(st.integers(1, 15), min_size=2, max_size=3),
    channels=st.integers(0, 2),
    chunk=st.integers(3, 6),
    method=st.sampled_from(METHODS),
    dtype=st.sampled_from(["uint8", "uint64", "float32"]),
    factors=st.lists(st.lists(st.integers(1, 3), min_size=3, max_size=3), min_size=1, max_size=3),
    offset=st.integers(-5, 5),
)
def test_levels_are_those_of_the_whole_image(
    run: Run, shape: Any, channels: int, chunk: int, method: Any, dtype: str, factors: Any, offset: int
) -> None:
    dims = len(shape)
    steps = [tuple(one[:dims]) if max(one[:dims]) > 1 else (2,) * dims for one in factors]
    whole = ((channels,) if channels else ()) + tuple(shape)
    voxels = np.random.default_rng(chunk).integers(0, 99, whole).astype(dtype)
    with tempfile.TemporaryDirectory() as folder:
        made = image(
            Path(folder) / "em.zarr",
            voxels,
            (4,) + (2,) * (dims - 1),
            offset=(offset,) * dims,
            chunk_shape=(1,) * bool(channels) + (chunk,) * dims,
        )
        run(ops.downscale(made, steps, method=method))
        levels = Multiscale.open(Path(folder) / "em.zarr")
        assert len(levels) == len(steps) + 1
        expected = voxels
        for level, step in zip(levels.levels[1:], steps, strict=True):
            expected = downscaled(expected, (1,) * bool(channels) + step, method)
            assert_array_equal(level.to_ndarray(), expected)
            assert level.roi.begin == (offset,) * dims


def test_a_number_of_levels_brings_voxels_nearer_to_cubes(tmp_path: Path) -> None:
    made = image(tmp_path / "em.zarr", np.zeros((20, 256, 256), "uint8"), (40, 4, 4))
    pipeline = ops.downscale(made, 5)
    assert [task.task_id for task in pipeline.tasks] == [f"downscale/s{k}" for k in range(1, 6)]
    assert [tuple(level.voxel_size) for level in made] == [
        (40, 4, 4), (40, 8, 8), (40, 16, 16), (40, 32, 32), (80, 64, 64), (160, 128, 128),
    ]  # fmt: skip


def test_time_and_channels_are_not_downscaled(tmp_path: Path) -> None:
    made = Multiscale.prepare(
        tmp_path / "em.zarr",
        shape=(3, 2, 16, 16),
        voxel_size=(1, 1, 1),
        dtype="uint8",
        axis_names=["t", "c", "y", "x"],
        types=["time", "channel", "space", "space"],
        units=["s", "nm", "nm"],
    )
    ops.downscale(made, 1)
    assert made[1].shape == (3, 2, 8, 8)


def test_each_level_waits_for_the_one_above(tmp_path: Path) -> None:
    made = image(tmp_path / "em.zarr", np.zeros((64, 64), "uint8"), (1, 1))
    pipeline = ops.downscale(made, 3, name="down")
    assert {(up.task_id, down.task_id) for up, down in pipeline.edges} == {
        ("down/s1", "down/s2"),
        ("down/s2", "down/s3"),
    }


def test_one_level_may_be_made_of_one_task(tmp_path: Path) -> None:
    made = image(tmp_path / "em.zarr", np.zeros((8, 8), "uint8"), (1, 1))
    (task,) = ops.downscale(made, [(1, 2)], block_shape=(8, 4)).tasks
    assert isinstance(task, Task)
    assert task.write_roi.shape == Coordinate(8, 8)


def test_levels_that_are_there_as_asked_are_kept_and_others_refused(run: Run, tmp_path: Path) -> None:
    voxels = np.arange(64, dtype="uint8").reshape(8, 8)
    image(tmp_path / "em.zarr", voxels, (1, 1))
    run(ops.downscale(tmp_path / "em.zarr", 2))
    ops.downscale(tmp_path / "em.zarr", 2)
    levels = Multiscale.open(tmp_path / "em.zarr")
    assert len(levels) == 3
    assert levels[2].to_ndarray().any()
    with pytest.raises(ArrayError, match="voxel_size"):
        ops.downscale(tmp_path / "em.zarr", [(1, 2)])
    run(ops.downscale(tmp_path / "em.zarr", [(1, 2), (2, 2)], overwrite=True))
    assert Multiscale.open(tmp_path / "em.zarr")[1].shape == (8, 4)


def test_what_makes_no_level_is_refused(tmp_path: Path) -> None:
    made = image(tmp_path / "em.zarr", np.zeros((4, 4), "uint8"), (1, 1))
    with pytest.raises(TaskError, match=r"asks for 3 levels, but \(4, 4\) voxels make 1 to 2"):
        ops.downscale(made, 3)
    with pytest.raises(TaskError, match="factors=0"):
        ops.downscale(made, 0)
    with pytest.raises(TaskError, match=r"as in \[\(2, 2\)\]"):
        ops.downscale(made, (2, 2))
    with pytest.raises(TaskError, match="method is 'average', must be one of mean, mode"):
        ops.downscale(made, 1, method="average")  # type: ignore[arg-type]
    with pytest.raises(ArrayError, match="there is no multi-scale image"):
        ops.downscale(tmp_path / "none.zarr", 1)
    with pytest.raises(ArrayError, match="factors"):
        ops.downscale(made, [(1, 1)])
    assert len(made) == 1


def test_the_output_of_map_is_an_image_that_can_be_downscaled(run: Run, tmp_path: Path) -> None:
    raw = Array(np.arange(60, dtype="uint8").reshape(6, 10), voxel_size=(4, 4))
    path = tmp_path / "out.zarr"
    run(ops.map(np.negative, raw, path))
    run(ops.downscale(path, 1, method="max"))
    assert_array_equal(Multiscale.open(path)[1].to_ndarray(), downscaled(-raw.data, (2, 2), "max"))


def test_a_plain_array_at_the_path_stays_one(run: Run, tmp_path: Path) -> None:
    out = prepare_ds(tmp_path / "out.zarr", shape=(6,), dtype="uint8")
    run(ops.map(np.negative, Array(np.arange(6, dtype="uint8")), tmp_path / "out.zarr"))
    assert_array_equal(out.to_ndarray(), -np.arange(6, dtype="uint8"))


def test_an_image_that_was_made_anew_is_not_taken_for_done(run: Run, tmp_path: Path) -> None:
    voxels = np.arange(64, dtype="uint8").reshape(8, 8)
    image(tmp_path / "em.zarr", voxels, (1, 1))
    journal = tmp_path / "journal"
    run(ops.downscale(tmp_path / "em.zarr", 2), journal=journal)
    report = run(ops.downscale(tmp_path / "em.zarr", 2), journal=journal)
    assert not any(task.wall_s for task in report.tasks.values())
    image(tmp_path / "em.zarr", voxels, (1, 1), mode="w")
    with pytest.raises(JournalMismatchError, match="s0"):
        bellis.run(ops.downscale(tmp_path / "em.zarr", 2), "inline", progress=False, journal=journal)


SCRIPT = """
import os, signal, sys, threading, time
from pathlib import Path
import bellis
from bellis import ops

folder = Path(sys.argv[1])


class Deadly:
    seen = 0

    def notify(self, event):
        self.seen += 1
        if self.seen == 12:
            os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    observers = [Deadly()] if sys.argv[2] == "die" else []
    pipeline = ops.downscale(folder / "em.zarr", 3, block_shape=4)
    report = bellis.run(pipeline, workers=2, progress=False, journal=folder / "journal", observers=observers)
    sys.exit(0 if report.ok else 1)
"""


@pytest.mark.slow
@pytest.mark.integration
def test_a_pipeline_that_was_killed_and_is_run_again_fills_all_levels(tmp_path: Path) -> None:
    voxels = np.random.default_rng(5).integers(0, 255, (64, 64)).astype("uint8")
    image(tmp_path / "em.zarr", voxels, (1, 1), chunk_shape=(4, 4))
    (tmp_path / "script.py").write_text(SCRIPT)

    def start(what: str) -> int:
        arguments = [sys.executable, str(tmp_path / "script.py"), str(tmp_path), what]
        child = subprocess.Popen(arguments, cwd=tmp_path, start_new_session=True)
        try:
            return child.wait(timeout=60)
        finally:
            if child.returncode is None:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()

    assert start("die") == -signal.SIGKILL
    assert start("live") == 0
    expected = voxels
    for level in Multiscale.open(tmp_path / "em.zarr").levels[1:]:
        expected = downscaled(expected, (2, 2), "mean")
        assert_array_equal(level.to_ndarray(), expected)


def test_without_factors_levels_are_made_until_no_axis_is_long(tmp_path: Path) -> None:
    Multiscale.prepare(tmp_path / "em.zarr", (20, 600, 300), (50, 4, 4), "uint8")
    ops.downscale(tmp_path / "em.zarr")
    image = Multiscale.open(tmp_path / "em.zarr")
    assert [level.shape for level in image.levels] == [(20, 600, 300), (20, 300, 150), (20, 150, 75), (20, 75, 38)]
