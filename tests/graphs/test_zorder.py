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
origins = st.one_of(st.just(0), st.integers(-(10**6), 10**6), integers)
dims = st.integers(1, 7)


def beside(origin: int, *, is_whole: bool) -> st.SearchStrategy[Any]:
    """Numbers near an origin, where cells are small."""
    if is_whole:
        return st.integers(max(origin - 10**5, -(2**63)), min(origin + 10**5, 2**63 - 1))
    return st.floats(origin - 1e5, origin + 1e5)


def key_of(position: list[float]) -> int:
    return int(keys([np.array([number]) for number in position])[0])


def corners(one: list[Any], other: list[Any]) -> tuple[list[Any], list[Any]]:
    pairs = list(zip(one, other, strict=True))
    return [min(pair) for pair in pairs], [max(pair) for pair in pairs]


def is_in(key: int, parts: list[tuple[int, int]]) -> bool:
    return any(begin <= key <= end for begin, end in parts)


@given(st.lists(finite, min_size=2, max_size=20).map(sorted), origins)
def test_keys_keep_the_order_of_floats(numbers: list[float], origin: int) -> None:
    found = keys([np.array(numbers)], [origin])
    assert (np.diff(found) >= 0).all()
    assert (found >= 0).all()


@given(st.lists(integers, min_size=2, max_size=20).map(sorted), origins)
def test_keys_keep_the_order_of_integers(numbers: list[int], origin: int) -> None:
    found = keys([np.array(numbers, np.int64)], [origin])
    assert (np.diff(found) >= 0).all()
    assert (found >= 0).all()


@given(st.data(), dims, st.booleans())
def test_no_point_of_a_box_is_missed(data: st.DataObject, rank: int, is_whole: bool) -> None:
    numbers, dtype = (integers, np.int64) if is_whole else (finite, np.float64)
    origin = data.draw(st.lists(origins, min_size=rank, max_size=rank))
    near = [st.one_of(numbers, beside(at, is_whole=is_whole)) for at in origin]
    first, last = corners(*(data.draw(st.tuples(*near)) for _ in range(2)))
    point = data.draw(st.tuples(*near))
    inside = [min(max(at, low), high) for at, low, high in zip(point, first, last, strict=True)]
    parts = ranges(first, last, origin)
    for position in (inside, first, last):
        (key,) = keys([np.array([at], dtype) for at in position], origin)
        assert is_in(int(key), parts)


@given(integers, st.integers(-(2**15), 2**15 - 1))
def test_near_the_origin_each_unit_has_a_cell(origin: int, apart: int) -> None:
    at = min(max(origin + apart, -(2**63)), 2**63 - 2)
    axis = np.array([at, at + 1], np.int64)
    cells = keys([axis, np.full(2, origin), np.full(2, origin)], [origin] * 3)
    assert cells[0] < cells[1]


@given(st.integers(-(2**50), 2**50), st.floats(-(2**15) + 1, 2**15 - 1))
def test_what_no_region_can_tell_apart_has_one_key(origin: int, apart: float) -> None:
    at = origin + apart
    both = keys([np.array([at, math.floor(at)])] * 3, [origin] * 3)
    assert both[0] == both[1]


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
    assert is_in(key_of([-1e6, 5.0]), parts)
    assert not is_in(key_of([-1e6, 1e9]), parts)


def test_an_empty_box_has_no_ranges() -> None:
    assert ranges([0.0, 5.0], [1.0, 4.0]) == []


def test_zero_has_one_key_whatever_its_sign() -> None:
    assert key_of([0.0, 1.0]) == key_of([-0.0, 1.0])


def held(points: Any, first: list[float], last: list[float], origin: list[int]) -> tuple[int, int]:
    """Return how many points a box's ranges hold, and how many are in it."""
    found = np.sort(keys(list(points.T), origin))
    parts = ranges(first, last, origin)
    inside = ((points >= first) & (points <= last)).all(axis=1).sum()
    return sum(np.searchsorted(found, end, "right") - np.searchsorted(found, low) for low, end in parts), int(inside)


@pytest.mark.parametrize(
    ("offset", "origin"), [(0.0, 0), (-3e4, 0), (1e5, 0), (1e9, 10**9), (-1e12, -(10**12)), (1e12, 10**12 - 1000)]
)
def test_ranges_hold_little_that_is_outside_of_a_box(offset: float, origin: int) -> None:
    rng = np.random.default_rng(7)
    points = rng.random((50_000, 3)) * 1e5 + offset
    shares = []
    for begin in rng.random((8, 3)) * 8e4 + offset:
        count, inside = held(points, list(begin), list(begin + 2e4), [origin] * 3)
        shares.append(count / inside)
    assert np.median(shares) < 2.5


@pytest.mark.parametrize("width", [1, 100, 10_000])
def test_a_line_through_the_origin_is_found_like_what_fills_space(width: int) -> None:
    points = np.zeros((200_000, 3))
    points[:, 2] = np.arange(len(points))
    last = np.nextafter([width, width, 151_000], 0)
    count, inside = held(points, [0, 0, 150_000], last.tolist(), [0, 0, 0])
    assert inside == 1000
    assert count < 8 * inside
