"""ops.map: what it asks for, what it refuses, and that it goes on after a kill."""

from __future__ import annotations

import functools
import os
import shutil
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile
from numpy.testing import assert_array_equal

import bellis
from bellis import Array, ArrayError, FunctionError, JournalMismatchError, Roi, TaskError, open_ds, ops, prepare_ds
from bellis.runtime.program import code_hash

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Run


def double(voxels: Any) -> Any:
    return voxels * 2


def halve(voxels: Any) -> Any:
    return voxels // 2


def image(*shape: int, dtype: str = "uint8", **options: Any) -> Array:
    return Array(np.arange(np.prod(shape)).reshape(shape).astype(dtype), **options)


def blank(like: Array, dtype: str | None = None) -> Array:
    return Array(np.zeros(like.shape, dtype or like.dtype), voxel_size=like.voxel_size, offset=like.roi.begin)


# What is asked for ------------------------------------------------------------------------------------------------


def test_a_path_becomes_a_dataset_like_the_first_input_before_anything_runs(run: Run, tmp_path: Path) -> None:
    raw = image(20, 30, voxel_size=(40, 4), offset=(80, -8), units="nm")
    task = ops.map(double, raw, tmp_path / "out.zarr", block_shape=10)
    out = open_ds(tmp_path / "out.zarr")
    assert (out.roi, out.voxel_size, out.dtype, out.axis_names) == (raw.roi, raw.voxel_size, raw.dtype, ("y", "x"))
    assert not out.to_ndarray().any()
    run(task)
    assert_array_equal(open_ds(tmp_path / "out.zarr").to_ndarray(), raw.data * 2)


def test_an_input_may_be_a_path(run: Run, tmp_path: Path) -> None:
    raw = prepare_ds(tmp_path / "raw.zarr", shape=(10,), dtype="uint8")
    raw[raw.roi] = np.arange(10, dtype="uint8")
    out = blank(raw)
    run(ops.map(double, tmp_path / "raw.zarr", out))
    assert_array_equal(out.data, np.arange(10) * 2)


def test_the_task_is_named_after_the_function_if_not_told_otherwise() -> None:
    raw = image(4)
    assert ops.map(double, raw, blank(raw)).task_id == "double"
    assert ops.map(functools.partial(double), raw, blank(raw)).task_id == "double"
    assert ops.map(lambda voxels: voxels, raw, blank(raw)).task_id == "map"
    assert ops.map(double, raw, blank(raw), name="twice").task_id == "twice"


def test_limits_reach_the_task() -> None:
    raw = image(4)
    limits = ops.Limits(num_workers=3, max_retries=5, timeout_s=7, resources={"gpu": 1})
    task = ops.map(double, raw, blank(raw), limits=limits)
    assert (task.num_workers, task.max_retries, task.timeout, task.resources) == (3, 5, 7, {"gpu": 1})
    assert not task.read_write_conflict
    assert ops.map(double, raw, blank(raw)).num_workers > 1000


def test_blocks_and_context_are_in_voxels_of_the_first_output() -> None:
    raw = image(40, 40, voxel_size=(8, 4))
    task = ops.map(double, raw, blank(raw), block_shape=(10, 20), context=(1, 2))
    assert task.write_roi == Roi((0, 0), (80, 80))
    assert task.read_roi == Roi((-8, -8), (96, 96))
    assert task.total_roi == Roi((-8, -8), (336, 176))


def test_a_function_may_return_just_what_is_to_be_written(run: Run) -> None:
    raw = image(23, dtype="int64")
    out = Array(np.zeros(21, int), offset=(1,))
    run(ops.map(functools.partial(np.convolve, v=[1, 1, 1], mode="valid"), raw, out, block_shape=4, context=1))
    assert_array_equal(out.data, np.convolve(raw.data, [1, 1, 1], "valid"))


def test_the_output_may_have_other_channels_than_the_input(run: Run) -> None:
    affinities = image(3, 6, 5, voxel_size=(1, 1))
    out = Array(np.zeros((6, 5), "uint8"))
    run(ops.map(lambda voxels: voxels.max(axis=0), affinities, out, block_shape=2, context=1))
    assert_array_equal(out.data, affinities.data.max(axis=0))


def test_channels_may_be_last(run: Run) -> None:
    colours = Array(np.arange(60, dtype="uint8").reshape(4, 5, 3), types=("space", "space", "channel"))
    out = Array(np.zeros((4, 5, 3), "uint8"), types=("space", "space", "channel"))
    run(ops.map(double, colours, out, block_shape=2, context=1, edge="reflect"))
    assert_array_equal(out.data, colours.data * 2)


def test_outputs_may_have_a_data_type_each(run: Run, tmp_path: Path) -> None:
    paths = [tmp_path / "low.zarr", tmp_path / "high.zarr"]
    run(ops.map(lambda v: (v, v / 2), image(9), paths, block_shape=4, dtype=["uint8", "float64"]))
    assert [open_ds(path).dtype for path in paths] == ["uint8", "float64"]
    assert_array_equal(open_ds(paths[1]).to_ndarray(), np.arange(9) / 2)


def test_a_function_may_change_what_it_is_given(run: Run) -> None:
    def in_place(voxels: Any) -> Any:
        voxels += 1
        return voxels

    raw, before = image(12), np.arange(12)
    out = blank(raw)
    run(ops.map(in_place, raw, out, block_shape=5, context=2))
    assert_array_equal(raw.data, before)
    assert_array_equal(out.data, before + 1)


def test_a_coarser_second_output_gets_the_voxels_that_a_block_touches(run: Run) -> None:
    raw, fine = image(12), Array(np.zeros(12, "uint8"))
    coarse = Array(np.zeros(6, "uint8"), voxel_size=(2,))
    run(ops.map(lambda v: (v, v[::2]), raw, [fine, coarse], block_shape=4))
    assert_array_equal(coarse.data, raw.data[::2])


def test_an_output_that_is_there_is_kept_if_it_is_as_asked_and_refused_if_not(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "out.zarr"
    run(ops.map(double, image(9), path, block_shape=3))
    ops.map(double, image(9), path, block_shape=3)
    assert open_ds(path).to_ndarray().any()
    with pytest.raises(ArrayError, match="not as asked"):
        ops.map(double, image(9), path, block_shape=3, dtype="float32")
    ops.map(double, image(9), path, block_shape=3, overwrite=True)
    assert open_ds(path).to_ndarray().any()
    ops.map(double, image(9), path, block_shape=3, dtype="float32", overwrite=True)
    assert open_ds(path).dtype == "float32"
    assert not open_ds(path).to_ndarray().any()


@pytest.mark.slow
@pytest.mark.integration
def test_a_function_of_a_module_that_workers_do_not_find_travels_along(run: Run, tmp_path: Path) -> None:
    raw = image(9, 9)
    run(ops.map(double, raw, tmp_path / "out.zarr", block_shape=3), "local", workers=2)
    assert_array_equal(open_ds(tmp_path / "out.zarr").to_ndarray(), raw.data * 2)


@pytest.mark.slow
@pytest.mark.integration
def test_memory_of_this_process_is_no_output_for_worker_processes() -> None:
    raw = image(9)
    task = ops.map(double, raw, blank(raw), limits=ops.Limits(max_retries=0))
    report = bellis.run(task, "local", workers=1, progress=False)
    assert "lives in the memory of the process that made it" in report.failures[0].error


# What is refused before anything runs -----------------------------------------------------------------------------


def test_a_function_that_takes_another_number_of_arrays_is_refused() -> None:
    raw = image(4)
    with pytest.raises(FunctionError, match=r"double takes \(voxels.*\).*called with 2 arrays, one for each input"):
        ops.map(double, [raw, raw], blank(raw))
    with pytest.raises(FunctionError, match="can't be called"):
        ops.map("double", raw, blank(raw))  # type: ignore[arg-type]

    def lazy(voxels: Any) -> Any:
        yield voxels

    with pytest.raises(FunctionError, match="generator"):
        ops.map(lazy, raw, blank(raw))


def test_an_output_that_is_also_an_input_is_refused(tmp_path: Path) -> None:
    raw = image(4)
    with pytest.raises(TaskError, match="blocks would see their neighbours' output"):
        ops.map(double, raw, raw)
    prepare_ds(tmp_path / "a.zarr", shape=(4,), dtype="uint8")
    with pytest.raises(TaskError, match=r"a\.zarr.* would be written while it is read"):
        ops.map(double, tmp_path / "a.zarr", open_ds(tmp_path / "a.zarr", mode="r+"))
    out = blank(raw)
    with pytest.raises(TaskError, match="would be written while"):
        ops.map(lambda v: (v, v), raw, [out, out])


def test_overwriting_never_removes_an_input(run: Run, tmp_path: Path) -> None:
    first, second = tmp_path / "a.zarr", tmp_path / "b.zarr"
    run(ops.map(double, image(4, 4), first))
    run(ops.map(double, image(4, 4), second))
    for inputs in ([first, second], [second, first], [first / "s0", second], [first], [image(4, 4), first]):
        with pytest.raises(ArrayError, match=r"would remove the input .*a\.zarr"):
            ops.map(lambda *arrays: arrays[0], inputs, first, dtype="float64", overwrite=True)
    with pytest.raises(ArrayError, match="would remove the input"):
        ops.copy(first, first, dtype="int32", overwrite=True)
    assert open_ds(first).to_ndarray().any()


def test_what_is_refused_makes_and_replaces_nothing(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "out.zarr"
    tiny = ops.Limits(max_memory=1000)
    with pytest.raises(TaskError, match="may have"):
        ops.map(double, image(4, 4), path, limits=tiny)
    with pytest.raises(TaskError, match="context"):
        ops.map(double, image(4, 4), path, context=-1)
    with pytest.raises(TaskError, match=r"int8 of target '.*out\.zarr' does not hold"):
        ops.copy(image(4, 4), path, dtype="int8")
    assert not path.exists()
    run(ops.map(double, image(4, 4), path))
    for op in (lambda **o: ops.map(double, image(4, 4), path, **o), lambda **o: ops.copy(image(4, 4), path, **o)):
        with pytest.raises(TaskError, match="may have"):
            op(limits=tiny, overwrite=True)
    assert open_ds(path).to_ndarray().any()


def test_a_builtin_whose_signature_is_not_known_is_tried() -> None:
    assert ops.map(max, image(4), blank(image(4))).task_id == "max"


def test_a_plain_array_is_refused_as_it_has_no_place() -> None:
    raw = image(4)
    with pytest.raises(ArrayError, match=r"not ndarray: wrap it, Array\(data, voxel_size=\.\.\.\)"):
        ops.map(double, np.zeros(4), blank(raw))  # type: ignore[arg-type]
    with pytest.raises(ArrayError, match=r"not ndarray: wrap it"):
        ops.map(double, raw, np.zeros(4))  # type: ignore[arg-type]


def test_a_read_only_output_is_refused(tmp_path: Path) -> None:
    prepare_ds(tmp_path / "a.zarr", shape=(4,), dtype="uint8")
    with pytest.raises(ArrayError, match=r"a\.zarr.* is read-only.*mode='r\+'"):
        ops.map(double, image(4), open_ds(tmp_path / "a.zarr"))


def test_inputs_must_contain_the_output() -> None:
    raw = image(10)
    with pytest.raises(TaskError, match=r"covers Roi\(\(5,\), \(10,\)\), but input .* only Roi\(\(0,\), \(10,\)\)"):
        ops.map(double, raw, Array(np.zeros(10, "uint8"), offset=(5,)))


def test_voxels_that_blocks_would_cut_are_an_error_with_the_nearest_fit() -> None:
    fine, coarse = image(12), image(3, voxel_size=(4,))
    out = blank(fine)
    with pytest.raises(TaskError, match=r"blocks of \(6,\) voxels .* would cut voxels of .*block_shape=\(4,\)"):
        ops.map(lambda a, b: a, [fine, coarse], out, block_shape=6)
    with pytest.raises(TaskError, match=r"a context of \(3,\) voxels .* would cut voxels .*context=\(4,\)"):
        ops.map(lambda a, b: a, [fine, coarse], out, block_shape=4, context=3)
    with pytest.raises(TaskError, match="does not begin on a voxel"):
        ops.map(lambda a, b: a, [fine, coarse], out[Roi((2,), (8,))], block_shape=4)
    assert ops.map(lambda a, b: a, [fine, coarse], out).write_roi.shape[0] % 4 == 0


def test_arrays_in_other_units_or_dimensions_are_refused() -> None:
    with pytest.raises(TaskError, match=r"\(x \[pm\]\).*\(x \[nm\]\).*same unit="):
        ops.map(double, image(4, units="pm"), blank(image(4)))
    with pytest.raises(TaskError, match=r"one space, but .*\(x \[nm\]\)"):
        ops.map(double, image(4), blank(image(4, 4)))


def test_parameters_out_of_range_are_refused() -> None:
    raw = image(4)
    with pytest.raises(TaskError, match="edge is 'wrap', must be one of shrink, reflect, nearest, constant"):
        ops.map(double, raw, blank(raw), edge="wrap")  # type: ignore[arg-type]
    with pytest.raises(ArrayError, match="does not hold the value 300"):
        ops.map(double, raw, blank(raw), edge="constant", constant=300)
    with pytest.raises(TaskError, match="block_shape is"):
        ops.map(double, raw, blank(raw), block_shape=0)
    with pytest.raises(TaskError, match="context is"):
        ops.map(double, raw, blank(raw), context=-1)
    with pytest.raises(TaskError, match="needs an input and an output"):
        ops.map(double, [], blank(raw))
    with pytest.raises(TaskError, match="dtype has 2 entries"):
        ops.map(double, raw, blank(raw), dtype=["uint8", "uint8"])
    with pytest.raises(TaskError, match="empty region"):
        ops.map(double, raw, raw[Roi((0,), (0,))])


# What fails in a block --------------------------------------------------------------------------------------------


def error_of(fn: Any, out: Array, **options: Any) -> str:
    task = ops.map(fn, image(10), out, block_shape=4, limits=ops.Limits(max_retries=0), name="task", **options)
    report = bellis.run(task, "inline", progress=False)
    assert not report.ok
    return report.failures[0].error


def test_what_a_function_returns_must_be_an_array_of_the_right_shape_and_type() -> None:
    def three(voxels: Any) -> Any:
        return np.zeros(3, "uint8")

    out = blank(image(10))
    assert "two returned 2 arrays, but there are 1 outputs" in error_of(named(lambda v: (v, v), "two"), out)
    assert "none returned NoneType" in error_of(named(lambda v: None, "none"), out)
    text = error_of(three, out, context=1)
    assert "three returned an array of shape (3,)" in text
    assert "must be (5,) (the region that was read) or (4,) (the region to be written)" in text
    assert "must be (4,) (the region to be written)" in error_of(three, out)
    assert "wide returned float64" in error_of(named(lambda v: v / 2, "wide"), out)
    assert "dtype='float64'" in error_of(named(lambda v: v / 2, "wide"), out)


def named(fn: Any, name: str) -> Any:
    fn.__name__ = name
    return fn


# Going on ---------------------------------------------------------------------------------------------------------


def test_the_code_of_the_function_and_its_parameters_are_part_of_the_task() -> None:
    raw = image(4)
    hashes = [
        code_hash(ops.map(fn, raw, blank(raw)))
        for fn in (double, halve, functools.partial(np.add, 1), functools.partial(np.add, 2))
    ]
    assert len(set(hashes)) == 4
    assert code_hash(ops.map(double, raw, blank(raw))) == hashes[0]
    identities = {ops.map(double, raw, blank(raw), edge=edge).identity for edge in ("shrink", "reflect", "constant")}  # type: ignore[arg-type]
    assert len(identities) == 3


def counted(voxels: Any, *, log: Path) -> Any:
    with log.open("a") as lines:
        lines.write("block\n")
    return voxels * 2


def test_a_finished_task_is_not_run_again_unless_its_output_or_input_was_made_anew(run: Run, tmp_path: Path) -> None:
    def task(**options: Any) -> Any:
        fn = functools.partial(counted, log=tmp_path / "log")
        return ops.map(fn, tmp_path / "raw.zarr", tmp_path / "out.zarr", block_shape=4, **options)

    def lines() -> int:
        return len((tmp_path / "log").read_text().splitlines())

    def make_raw(mode: Any) -> None:
        raw = prepare_ds(tmp_path / "raw.zarr", shape=(12,), dtype="uint8", mode=mode)
        raw[raw.roi] = np.arange(12, dtype="uint8")

    make_raw("w")
    journal = tmp_path / "journal"
    run(task(), journal=journal)
    run(task(), journal=journal)
    make_raw("a")  # other voxels, but the same dataset: the user's business
    run(task(), journal=journal)
    assert lines() == 3
    shutil.rmtree(tmp_path / "out.zarr")
    with pytest.raises(JournalMismatchError, match=r"out\.zarr"):
        bellis.run(task(), "inline", progress=False, journal=journal)
    run(task(), journal=journal, on_changed="reset")
    assert lines() == 6
    assert open_ds(tmp_path / "out.zarr").to_ndarray().any()
    make_raw("w")
    with pytest.raises(JournalMismatchError, match=r"raw\.zarr"):
        bellis.run(task(), "inline", progress=False, journal=journal)


def test_an_hdf5_dataset_and_a_file_that_are_made_anew_are_not_taken_for_done(run: Run, tmp_path: Path) -> None:
    def copied() -> Any:
        return ops.copy(tmp_path / "raw.tif", tmp_path / "out.h5/raw", block_shape=4)

    journal = tmp_path / "journal"
    tifffile.imwrite(tmp_path / "raw.tif", np.ones((8, 8), "uint8"))
    run(copied(), journal=journal)
    assert run(copied(), journal=journal).tasks["copy"].counts.skipped == 4
    (tmp_path / "out.h5").unlink()
    with pytest.raises(JournalMismatchError, match=r"out\.h5"):
        bellis.run(copied(), "inline", progress=False, journal=journal)
    run(copied(), journal=journal, on_changed="reset")
    assert open_ds(tmp_path / "out.h5/raw").to_ndarray().all()
    tifffile.imwrite(tmp_path / "raw.tif", np.zeros((8, 8), "uint8"))
    with pytest.raises(JournalMismatchError, match=r"raw\.tif"):
        bellis.run(copied(), "inline", progress=False, journal=journal)


SCRIPT = """
import functools, os, signal, sys
from pathlib import Path
from scipy import ndimage
import bellis
from bellis import ops

folder = Path(sys.argv[1])


def smooth(voxels):
    line = os.open(folder / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(line, b"block\\n")
    if (folder / "dies").exists() and (folder / "log").stat().st_size > 6 * 10:
        os.killpg(int((folder / "main").read_text()), signal.SIGKILL)
    return ndimage.gaussian_filter(voxels, 1, truncate=2)


if __name__ == "__main__":
    task = ops.map(smooth, folder / "raw.zarr", folder / "out.zarr", block_shape=8, context=2)
    (folder / "main").write_text(str(os.getpid()))
    report = bellis.run(task, workers=2, progress=False, journal=folder / "journal")
    sys.exit(0 if report.ok else 1)
"""


@pytest.mark.slow
@pytest.mark.integration
def test_a_run_that_was_killed_and_is_run_again_writes_what_the_whole_gives(tmp_path: Path) -> None:
    from scipy import ndimage

    voxels = np.random.default_rng(1).integers(0, 255, (40, 40, 8)).astype("uint8")
    raw = prepare_ds(tmp_path / "raw.zarr", shape=voxels.shape, dtype="uint8")
    raw[raw.roi] = voxels
    (tmp_path / "script.py").write_text(SCRIPT)

    def start() -> int:
        arguments = [sys.executable, str(tmp_path / "script.py"), str(tmp_path)]
        child = subprocess.Popen(arguments, cwd=tmp_path, start_new_session=True)
        try:
            return child.wait(timeout=60)
        finally:
            if child.returncode is None:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()

    (tmp_path / "dies").touch()
    assert start() == -signal.SIGKILL
    (tmp_path / "dies").unlink()
    before = len((tmp_path / "log").read_text().splitlines())
    assert 10 < before < 25
    assert start() == 0
    assert_array_equal(open_ds(tmp_path / "out.zarr").to_ndarray(), ndimage.gaussian_filter(voxels, 1, truncate=2))
    assert len((tmp_path / "log").read_text().splitlines()) < before + 25
