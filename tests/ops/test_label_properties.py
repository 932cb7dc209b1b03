"""Block-wise labels are those of scipy.ndimage.label on the whole array, up to their order, whatever the blocks are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

import bellis
from bellis import Array
from bellis.ops.contacts import components
from bellis.ops.label import label
from objects import assert_same_objects

if TYPE_CHECKING:
    from pathlib import Path

anywhere = settings(
    max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None
)


def labelled(mask: np.ndarray, folder: Path, **options: object) -> tuple[np.ndarray, int]:
    output = Array(np.zeros(mask.shape, np.uint64))
    report = bellis.run(label(Array(mask), output, scratch=folder, **options), "inline", progress=False)
    assert report.ok, report.failures[0].error
    return output.to_ndarray(), report.value("label")


@st.composite
def volumes(draw: st.DrawFn) -> tuple[np.ndarray, int, tuple[int, ...]]:
    dims = draw(st.integers(1, 4))
    shape = draw(st.tuples(*[st.integers(1, {1: 60, 2: 16, 3: 9, 4: 5}[dims])] * dims))
    density = draw(st.sampled_from([0.0, 0.2, 0.4, 0.6, 0.9, 1.0]))
    mask = np.random.default_rng(draw(st.integers(0, 2**32))).random(shape) < density
    blocks = tuple(draw(st.integers(1, n)) for n in shape)
    return mask, draw(st.integers(1, dims)), blocks


@pytest.mark.slow
@anywhere
@given(volumes())
@example((np.ones((3, 3, 3), bool), 1, (1, 1, 1)))
@example((np.array([[0, 0, 1, 1, 0, 0, 0], [0, 1, 0, 1, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0]], bool), 2, (3, 3)))
@example((np.array([[[1], [0], [1]]], bool), 3, (1, 3, 1)))
@example((np.zeros((3, 3), bool), 2, (1, 2)))
@example((np.eye(6, dtype=bool), 2, (1, 1)))
@example((np.eye(6, dtype=bool)[::-1].copy(), 2, (2, 3)))
def test_labels_are_those_of_the_whole_array(tmp_path: Path, volume: tuple[np.ndarray, int, tuple[int, ...]]) -> None:
    mask, connectivity, blocks = volume
    found, count = labelled(mask, tmp_path, connectivity=connectivity, block_shape=blocks)
    expected, number = ndimage.label(mask, ndimage.generate_binary_structure(mask.ndim, connectivity))
    assert count == number
    assert_same_objects(found, expected)
    assert set(np.unique(found).tolist()) - {0} == set(range(1, count + 1))


@pytest.mark.slow
@anywhere
@given(hnp.arrays(bool, st.tuples(*[st.integers(1, 6)] * 3)), st.integers(1, 3), st.tuples(*[st.integers(1, 3)] * 3))
def test_labels_are_right_for_the_masks_that_are_hardest_to_find(
    tmp_path: Path, mask: np.ndarray, connectivity: int, blocks: tuple[int, ...]
) -> None:
    found, count = labelled(mask, tmp_path, connectivity=connectivity, block_shape=blocks)
    expected, number = ndimage.label(mask, ndimage.generate_binary_structure(3, connectivity))
    assert count == number
    assert_same_objects(found, expected)
    assert set(np.unique(found).tolist()) - {0} == set(range(1, count + 1))


@pytest.mark.slow
@anywhere
@given(volumes())
def test_numbers_are_in_the_order_of_the_blocks_in_which_components_begin(
    tmp_path: Path, volume: tuple[np.ndarray, int, tuple[int, ...]]
) -> None:
    mask, connectivity, blocks = volume
    found, count = labelled(mask, tmp_path, connectivity=connectivity, block_shape=blocks)
    grid = np.zeros(mask.shape, np.int64)
    for axis, (n, step) in enumerate(zip(mask.shape, blocks, strict=True)):
        along = [1] * mask.ndim
        along[axis] = n
        grid = grid * -(-n // step) + (np.arange(n) // step).reshape(along)
    firsts = [grid[found == number].min() for number in range(1, count + 1)]
    assert firsts == sorted(firsts)


@pytest.mark.slow
@given(volumes())
def test_the_kernel_labels_foreground_and_nothing_else(volume: tuple[np.ndarray, int, tuple[int, ...]]) -> None:
    # Not to be taken for granted: see the comments in `components`.
    mask, connectivity, _ = volume
    found, count = components(mask, connectivity)
    expected, number = ndimage.label(mask, ndimage.generate_binary_structure(mask.ndim, connectivity))
    assert count == number
    assert_same_objects(found, expected)
