"""Keys of positions: they keep the order along each axis, and ranges of them hold whole boxes."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bellis.graphs.sql.zorder import MAX_AXES, MAX_RANGES, NOWHERE, keys, ranges

finite = st.floats(allow_nan=False, allow_infinity=False)
integers = st.integers(-(2**63), 2**63 - 1)
dims = st.integers(1, 7)


def key_of(position: list[float]) -> int:
    return int(keys([np.array([number]) for number in position])[0])


def corners(one: list[Any], other: list[Any]) -> tuple[list[Any], list[Any]]:
    pairs = list(zip(one, other, strict=True))
    return [min(pair) for pair in pairs], [max(pair) for pair in pairs]


def is_in(key: int, parts: list[tuple[int, int]]) -> bool:
    return any(begin <= key <= end for begin, end in parts)


@given(st.lists(finite, min_size=2, max_size=20).map(sorted))
def test_keys_keep_the_order_of_floats(numbers: list[float]) -> None:
    found = keys([np.array(numbers)])
    assert (np.diff(found) >= 0).all()
    assert (found >= 0).all()


@given(st.lists(integers, min_size=2, max_size=20).map(sorted))
def test_keys_keep_the_order_of_integers(numbers: list[int]) -> None:
    assert (np.diff(keys([np.array(numbers, np.int64)])) >= 0).all()


@given(st.data(), dims)
def test_no_point_of_a_box_is_missed(data: st.DataObject, rank: int) -> None:
    one, other, point = (data.draw(st.lists(finite, min_size=rank, max_size=rank)) for _ in range(3))
    first, last = (
        [min(pair) for pair in zip(one, other, strict=True)],
        [max(pair) for pair in zip(one, other, strict=True)],
    )
    inside = [min(max(at, low), high) for at, low, high in zip(point, first, last, strict=True)]
    parts = ranges(first, last)
    assert is_in(key_of(inside), parts)
    assert is_in(key_of(first), parts)
    assert is_in(key_of(last), parts)


@given(st.data(), dims)
def test_no_integer_of_a_box_is_missed(data: st.DataObject, rank: int) -> None:
    one, other = (data.draw(st.lists(integers, min_size=rank, max_size=rank)) for _ in range(2))
    first, last = (
        [min(pair) for pair in zip(one, other, strict=True)],
        [max(pair) for pair in zip(one, other, strict=True)],
    )
    inside = [data.draw(st.integers(low, high)) for low, high in zip(first, last, strict=True)]
    key = int(keys([np.array([at], np.int64) for at in inside])[0])
    assert is_in(key, ranges(first, last))


@given(st.data(), dims)
def test_ranges_are_few_sorted_and_apart(data: st.DataObject, rank: int) -> None:
    one, other = (data.draw(st.lists(finite, min_size=rank, max_size=rank)) for _ in range(2))
    parts = ranges(
        [min(pair) for pair in zip(one, other, strict=True)], [max(pair) for pair in zip(one, other, strict=True)]
    )
    assert 1 <= len(parts) <= MAX_RANGES
    assert all(begin <= end for begin, end in parts)
    assert all(end + 1 < begin for (_, end), (begin, _) in itertools.pairwise(parts))
    assert not is_in(NOWHERE, parts)


@pytest.mark.parametrize("rank", range(1, MAX_AXES + 3))
def test_a_box_without_limits_is_all_keys_of_any_rank(rank: int) -> None:
    parts = ranges([-math.inf] * rank, [math.inf] * rank)
    assert len(parts) == 1
    assert is_in(key_of([-1e300] * rank), parts)
    assert is_in(key_of([1e300] * rank), parts)


def test_an_axis_may_be_unbounded_on_one_side() -> None:
    parts = ranges([-math.inf, 0.0], [math.inf, 10.0])
    assert is_in(key_of([-1e9, 5.0]), parts)
    assert not is_in(key_of([-1e9, 1e6]), parts)


def test_an_empty_box_has_no_ranges() -> None:
    assert ranges([0.0, 5.0], [1.0, 4.0]) == []


def test_zero_has_one_key_whatever_its_sign() -> None:
    assert key_of([0.0, 1.0]) == key_of([-0.0, 1.0])


@pytest.mark.parametrize("offset", [0.0, -3e4, 1e5])
def test_ranges_hold_little_that_is_outside_of_a_box(offset: float) -> None:
    rng = np.random.default_rng(7)
    points = rng.random((200_000, 3)) * 1e5 + offset
    found = np.sort(keys(list(points.T)))
    shares = []
    for begin in rng.random((20, 3)) * 8e4 + offset:
        inside = ((points >= begin) & (points <= begin + 1e4)).all(axis=1).sum()
        parts = ranges(list(begin), list(begin + 1e4))
        held = sum(np.searchsorted(found, end, "right") - np.searchsorted(found, start) for start, end in parts)
        shares.append(held / inside)
    assert np.median(shares) < 3


def test_what_is_near_zero_and_small_is_told_apart() -> None:
    nanometres = keys([np.array([1e-9, 3e-9, 5e-9, 8e-9])])
    assert len(set(nanometres.tolist())) == 4
