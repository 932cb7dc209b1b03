"""Labels by other names: as NumPy would, whatever the blocks and the table's form."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import bellis
from bellis import Array, open_ds
from bellis.errors import ArrayError, TaskError
from bellis.ops.relabel import compact, relabel

if TYPE_CHECKING:
    from pathlib import Path

DTYPES = [np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32, np.uint64, np.int64]


def relabelled(labels: np.ndarray, lut: Any, dtype: Any = None, **options: Any) -> np.ndarray:
    output = Array(np.zeros(labels.shape, labels.dtype if dtype is None else dtype))
    report = bellis.run(relabel(Array(labels), output, lut, **options), "inline", progress=False)
    assert report.ok, report.failures[0].error
    return output.to_ndarray()


def labels_of(dtype: Any) -> st.SearchStrategy[np.ndarray]:
    info = np.iinfo(dtype)
    few = st.sampled_from(sorted({info.min, max(info.min, -2), 0, 1, 2, 3, info.max}))
    return hnp.arrays(dtype, hnp.array_shapes(max_dims=3, max_side=7), elements=few)


@st.composite
def cases(draw: st.DrawFn) -> tuple[np.ndarray, dict[int, int], tuple[int, ...], str]:
    dtype = draw(st.sampled_from(DTYPES))
    labels = draw(labels_of(dtype))
    info = np.iinfo(dtype)
    ids = st.sampled_from([*np.unique(labels).tolist(), 1, 5, info.max])
    lut = draw(st.dictionaries(ids, st.integers(info.min, info.max)))
    blocks = tuple(draw(st.integers(1, n)) for n in labels.shape)
    return labels, lut, blocks, draw(st.sampled_from(["keep", "zero"]))


@settings(max_examples=40)
@given(cases())
def test_labels_are_replaced_as_the_table_says(case: tuple[np.ndarray, dict[int, int], tuple[int, ...], str]) -> None:
    labels, lut, blocks, missing = case
    flat = [lut.get(v, v if missing == "keep" else 0) for v in labels.ravel().tolist()]
    expected = np.array(flat, labels.dtype).reshape(labels.shape)
    np.testing.assert_array_equal(relabelled(labels, lut, missing=missing, block_shape=blocks), expected)
    pair = (np.array(list(lut), labels.dtype), np.array(list(lut.values()), labels.dtype))
    np.testing.assert_array_equal(relabelled(labels, pair, missing=missing, block_shape=blocks), expected)


@given(hnp.arrays(np.uint16, (4, 5), elements=st.integers(0, 12)), hnp.arrays(np.int64, st.integers(0, 14)))
def test_a_table_may_be_indexed_by_the_label(labels: np.ndarray, lut: np.ndarray) -> None:
    lut &= 0xFFFF
    expected = np.array([lut[v] if v < len(lut) else v for v in labels.ravel()], np.uint16).reshape(labels.shape)
    np.testing.assert_array_equal(relabelled(labels, lut, block_shape=2), expected)


@given(st.sampled_from(DTYPES).flatmap(labels_of))
def test_compact_names_every_label_once(labels: np.ndarray) -> None:
    for view in (labels, labels.T, labels[::-1]):
        ids, dense = compact(view)
        assert ids.dtype == labels.dtype
        assert len(np.unique(ids)) == len(ids)
        np.testing.assert_array_equal(ids[dense], view)


def test_a_label_that_the_table_does_not_have_can_be_an_error_but_0_is_none() -> None:
    labels = Array(np.array([0, 1, 7, 9], np.uint8))
    task = relabel(
        labels, Array(np.zeros(4, np.uint8)), {1: 2}, missing="error", limits=bellis.ops.Limits(max_retries=0)
    )
    report = bellis.run(task, "inline", progress=False)
    assert "has 2 labels that lut does not have, 7, 9: pass missing='keep' or 'zero'" in report.failures[0].error
    np.testing.assert_array_equal(relabelled(np.array([0, 1]), {1: 2}, missing="error"), [0, 2])


def test_a_kept_label_that_the_output_does_not_hold_is_an_error() -> None:
    task = relabel(Array(np.array([0, 300], np.uint16)), Array(np.zeros(2, np.uint8)), {1: 2})
    report = bellis.run(task, "inline", progress=False)
    assert "from 300 to 300" in report.failures[0].error
    np.testing.assert_array_equal(relabelled(np.array([0, 300], np.uint16), {300: 2}, np.uint8), [0, 2])


@pytest.mark.parametrize(
    ("lut", "message"),
    [
        ({1: 256}, "lut has values from 256 to 256, which uint8 does not hold"),
        ({1: -1}, "from -1 to -1"),
        (([1, 1], [2, 3]), "two new labels for 1"),
        (([1, 2], [2]), "2 old labels and 1 new ones"),
        ({1: 2.5}, "of integers"),
        (([1.0, 2.0], [1, 2]), "of integers"),
        (np.zeros((2, 2), int), "must be a mapping, a pair of arrays"),
        (np.zeros(2), "of integers"),
        ("table", "not str"),
    ],
)
def test_a_table_that_is_none_is_refused(lut: Any, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        relabel(Array(np.zeros(3, np.uint8)), Array(np.zeros(3, np.uint8)), lut)


def test_what_is_no_label_image_is_refused() -> None:
    labels = Array(np.zeros((2, 2), np.uint8))
    with pytest.raises(ArrayError, match="labels are integers"):
        relabel(Array(np.zeros((2, 2))), labels, {})
    with pytest.raises(ArrayError, match="labels are integers"):
        relabel(labels, Array(np.zeros((2, 2))), {})
    with pytest.raises(TaskError, match="missing is 'drop', must be one of keep, zero, error"):
        relabel(labels, Array(np.zeros((2, 2), np.uint8)), {}, missing="drop")  # type: ignore[arg-type]


def test_old_labels_that_can_not_occur_do_no_harm() -> None:
    labels = np.array([0, 1, 255], np.uint8)
    np.testing.assert_array_equal(relabelled(labels, {2**64 - 1: 5, 256: 7, 255: 9}), [0, 1, 9])
    np.testing.assert_array_equal(relabelled(labels, {-1: 5, 1: 7}), [0, 7, 255])


def test_an_output_is_made_of_the_labels_dtype_and_channels_stay(tmp_path: Path) -> None:
    labels = np.random.default_rng(0).integers(0, 5, (2, 20, 30)).astype(np.int32)
    source = Array(labels, voxel_size=(4, 4), offset=(8, 0))
    task = relabel(source, tmp_path / "out.zarr", {3: -3}, block_shape=(10, 10))
    assert bellis.run(task, "inline", progress=False).ok
    found = open_ds(tmp_path / "out.zarr")
    assert (found.dtype, found.roi) == (np.int32, source.roi)
    np.testing.assert_array_equal(found.to_ndarray(), np.where(labels == 3, -3, labels))


def test_another_table_is_another_identity() -> None:
    labels, output = Array(np.zeros(3, np.uint8)), Array(np.zeros(3, np.uint8))

    def identity(lut: dict[int, int]) -> str:
        return relabel(labels, output, lut).identity.partition("; out")[0]

    identities = {identity(lut) for lut in ({1: 2}, {1: 3}, {2: 2})}
    assert len(identities) == 3
    assert identity({1: 2}) == identity({1: 2})
