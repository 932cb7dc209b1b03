"""Reductions: the value of the whole array, whatever the blocks, the workers and the interruptions are."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import bellis
from bellis import Array, prepare_ds
from bellis.errors import RunError, TaskError
from bellis.ops.reduce import reduce
from bellis.runtime.program import code_hash

if TYPE_CHECKING:
    from pathlib import Path

    from bellis import Pipeline

anywhere = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def value_of(pipeline: Pipeline, name: str = "reduce", **options: Any) -> Any:
    report = bellis.run(pipeline, **{"engine": "inline", "progress": False, **options})
    assert report.ok, report
    return report.value(name)


def total(voxels: np.ndarray) -> int:
    return int(voxels.sum())


def add(a: Any, b: Any) -> Any:
    return a + b


def extremes(voxels: np.ndarray) -> list[Any]:
    return [voxels.min(), voxels.max()]


def wider(a: list[Any], b: list[Any]) -> list[Any]:
    return [min(a[0], b[0]), max(a[1], b[1])]


def histogram(voxels: np.ndarray) -> np.ndarray:
    return np.bincount(voxels.ravel(), minlength=256)


@anywhere
@given(hnp.arrays(np.uint8, hnp.array_shapes(max_dims=4, max_side=9)), st.data())
def test_statistics_are_those_of_the_whole_array(tmp_path: Path, voxels: np.ndarray, data: st.DataObject) -> None:
    blocks = tuple(data.draw(st.integers(-(-n // 3), n)) for n in voxels.shape)
    source = Array(voxels, offset=(-7,) * voxels.ndim, voxel_size=(3,) * voxels.ndim)
    options: dict[str, Any] = {"block_shape": blocks, "scratch": tmp_path}
    counts = value_of(reduce(histogram, add, source, **options))
    np.testing.assert_array_equal(counts, np.bincount(voxels.ravel(), minlength=256))
    assert value_of(reduce(extremes, wider, source, **options)) == [voxels.min(), voxels.max()]
    assert value_of(reduce(total, add, source, **options)) == voxels.sum()


@anywhere
@given(st.tuples(*[st.integers(1, 9)] * 3), st.tuples(*[st.integers(1, 4)] * 3))
def test_values_are_combined_in_an_order_that_does_not_depend_on_the_run(
    tmp_path: Path, shape: tuple[int, ...], blocks: tuple[int, ...]
) -> None:
    # Each block's value is its first voxel: an expression of all of them shows the order and the tree.
    source = Array(np.arange(np.prod(shape)).reshape(shape))
    pipeline = reduce(lambda v: str(v.flat[0]), "({} {})".format, source, block_shape=blocks, scratch=tmp_path)
    text = value_of(pipeline)
    assert text == value_of(pipeline)
    firsts = source.to_ndarray()[tuple(slice(None, None, step) for step in blocks)]
    assert sorted(map(int, text.replace("(", " ").replace(")", " ").split())) == sorted(firsts.ravel().tolist())


@pytest.mark.integration
@pytest.mark.slow
def test_sums_of_floats_are_the_same_with_one_worker_and_with_several(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    voxels = np.random.default_rng(0).normal(size=(40, 40, 40)) * 10.0 ** np.arange(-8, 32).reshape(-1, 1, 1)
    image = prepare_ds(tmp_path / "image.zarr", shape=voxels.shape, dtype=float, chunk_shape=(16, 16, 16))
    image[image.roi] = voxels
    pipeline = reduce(np.sum, add, image, block_shape=5)
    inline = value_of(pipeline)
    for workers in (1, 2):
        assert value_of(pipeline, engine="local", workers=workers, log_dir=tmp_path / "logs") == inline
    assert isinstance(inline, np.float64)
    assert np.isclose(inline, voxels.sum())
    left = [path.name for path in (tmp_path / ".bellis" / "scratch").iterdir()]
    assert len(left) == 1
    assert left[0].startswith("reduce-")
    assert left[0].endswith(".done")


def test_of_the_tuple_of_two_blocks_a_list_comes_back(tmp_path: Path) -> None:
    source = Array(np.arange(10))
    pipeline = reduce(lambda v: (int(v.min()), {"n": v.size}), lambda a, b: b, source, block_shape=5, scratch=tmp_path)
    assert value_of(pipeline) == [5, {"n": 5}]
    assert value_of(reduce(lambda _: None, lambda a, b: a, source, block_shape=2, scratch=tmp_path)) is None


def test_a_run_that_failed_goes_on_where_it_was(tmp_path: Path) -> None:
    calls: list[int] = []

    def fn(voxels: np.ndarray, folder: Path) -> int:
        calls.append(int(voxels[0]))
        if voxels[0] == 60 and not (folder / "repaired").exists():
            raise OSError("the disk has a hiccup")
        return int(voxels.sum())

    limits = bellis.ops.Limits(max_retries=0)
    options: dict[str, Any] = {"block_shape": 10, "scratch": tmp_path / "scratch", "limits": limits}
    pipeline = reduce(partial(fn, folder=tmp_path), add, Array(np.arange(100)), **options)
    report = bellis.run(pipeline, "inline", progress=False, journal=tmp_path / "journal")
    assert [failure.block_id[0] for failure in report.failures] == ["reduce/blocks"]
    with pytest.raises(RunError, match="has no value"):
        report.value("reduce")
    (tmp_path / "repaired").touch()
    calls.clear()
    assert value_of(pipeline, journal=tmp_path / "journal") == 4950
    assert calls == [60]
    calls.clear()
    assert value_of(pipeline, journal=tmp_path / "journal") == 4950
    assert calls == []


def test_any_block_may_be_run_again_after_the_end(tmp_path: Path) -> None:
    # As after a crash: a journal may have lost the newest completions of any number of steps.
    pipeline = reduce(total, add, Array(np.arange(1000)), block_shape=2, scratch=tmp_path)
    report = bellis.run(pipeline, "inline", progress=False)
    before = sorted(tmp_path.rglob("*"))
    for task in report.tasks.values():
        if task.task_id != "reduce/prepare":
            for index in (0, task.grid.num_blocks - 1):
                report.run_block(task.task_id, task.grid.number(index))
    assert report.run_block("reduce", report.tasks["reduce"].grid.number(0)) == 499500
    assert sorted(tmp_path.rglob("*")) == before
    assert value_of(pipeline) == 499500


def test_a_change_of_any_function_changes_the_code_of_every_task(tmp_path: Path) -> None:
    source = Array(np.arange(10))
    one = reduce(total, add, source, block_shape=1, scratch=tmp_path)
    two = reduce(total, lambda a, b: a * b, source, block_shape=1, scratch=tmp_path)
    other = reduce(extremes, add, source, block_shape=1, scratch=tmp_path)
    for tasks in zip(one.tasks, two.tasks, other.tasks, strict=True):
        assert len({code_hash(task) for task in tasks}) == 3
    assert len({task.version for task in one.tasks}) == 1


def test_a_value_that_can_not_be_kept_fails_its_block_and_says_why(tmp_path: Path) -> None:
    report = bellis.run(
        reduce(lambda _: object(), add, Array(np.arange(4)), scratch=tmp_path), "inline", progress=False
    )
    assert "object is no type that can be kept" in report.failures[0].error


def test_an_operation_may_have_another_name(tmp_path: Path) -> None:
    one = reduce(total, add, Array(np.arange(4)), name="a/b", scratch=tmp_path)
    two = reduce(total, add, Array(np.arange(5)), name="c", scratch=tmp_path)
    report = bellis.run(one | two, "inline", progress=False)
    assert (report.value("a/b"), report.value("c")) == (6, 10)
    with pytest.raises(TaskError, match="keeps no results"):
        report.value("c/blocks")


def test_two_functions_on_one_array_share_no_scratch_folder() -> None:
    source = Array(np.arange(8.0))
    folders = {
        reduce(fn, combine, source).tasks[0].process_function.keywords["scratch"].folder
        for fn, combine in ((np.min, min), (np.max, max), (np.max, min))
    }
    assert len(folders) == 3
