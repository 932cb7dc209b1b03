"""Small labels are removed by their size in the whole array, not in a block."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import bellis
from bellis import Array, open_ds
from bellis.errors import ArrayError, TaskError
from bellis.ops.remove_small import remove_small

if TYPE_CHECKING:
    from pathlib import Path

IDS = [0, 1, 2, 3, 2**32, 2**63, 2**64 - 1]


def without_small(labels: np.ndarray, min_size: int) -> np.ndarray:
    ids, places, counts = np.unique(labels, return_inverse=True, return_counts=True)
    return np.where(counts < min_size, 0, ids)[places].reshape(labels.shape).astype(labels.dtype)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    hnp.arrays(np.uint64, hnp.array_shapes(max_dims=3, max_side=8), elements=st.sampled_from(IDS)),
    st.integers(0, 40),
    st.integers(1, 8),
)
def test_labels_with_too_few_voxels_in_all_become_0(
    tmp_path: Path, labels: np.ndarray, min_size: int, block: int
) -> None:
    output = Array(np.full(labels.shape, 7, np.uint64))
    pipeline = remove_small(Array(labels), output, min_size, block_shape=block, scratch=tmp_path)
    report = bellis.run(pipeline, "inline", progress=False)
    assert report.ok, report.failures[0].error
    expected = without_small(labels, min_size)
    np.testing.assert_array_equal(output.to_ndarray(), expected)
    assert report.value("remove_small") == len(np.unique(labels[(labels != 0) & (expected == 0)]))


@pytest.mark.integration
@pytest.mark.slow
def test_many_blocks_are_counted_in_a_tree_by_several_workers(tmp_path: Path) -> None:
    labels = np.random.default_rng(0).zipf(1.3, (30, 30, 30)) % 5000
    source = Array(labels)
    pipeline = remove_small(source, tmp_path / "out.zarr", 3, block_shape=5, dtype="uint16")
    assert [task.task_id for task in pipeline.tasks] == [
        *("remove_small/prepare", "remove_small/blocks", "remove_small/combine-1", "remove_small/find"),
        *("remove_small/erase", "remove_small"),
    ]
    report = bellis.run(pipeline, workers=2, progress=False, log_dir=tmp_path / "logs")
    assert report.ok, report
    np.testing.assert_array_equal(open_ds(tmp_path / "out.zarr").to_ndarray(), without_small(labels, 3))


@pytest.mark.parametrize("min_size", [-1, 1.5, True, "3"])
def test_a_size_that_is_none_is_refused(min_size: Any) -> None:
    labels, output = Array(np.zeros(4, np.uint8)), Array(np.zeros(4, np.uint8))
    with pytest.raises(TaskError, match="must be a number of voxels, 0 or more"):
        remove_small(labels, output, min_size)


def test_what_is_no_label_image_is_refused() -> None:
    with pytest.raises(ArrayError, match="labels are integers"):
        remove_small(Array(np.zeros(4)), Array(np.zeros(4, np.uint8)), 3)


def test_a_label_that_stays_must_fit_into_the_output(tmp_path: Path) -> None:
    labels = np.array([300, 300, 300, 1], np.uint16)
    pipeline = remove_small(Array(labels), Array(np.zeros(4, np.uint8)), 2, scratch=tmp_path)
    report = bellis.run(pipeline, "inline", progress=False)
    assert "labels are from 0 to 300" in report.failures[0].error
