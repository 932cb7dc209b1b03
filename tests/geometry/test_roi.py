import copy
import itertools
import math
import operator
import pickle

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from bellis.errors import GeometryError
from bellis.geometry import Coordinate, Roi, expand_roi_to_grid, expand_write_roi_to_grid
from bellis.testing.strategies import coordinates, rois

BEYOND_FLOAT = 2**60 + 1

small = rois(2, max_offset=4, max_extent=5)
small_or_unbounded = rois(2, unbounded=True, max_offset=4, max_extent=5)
pairs = st.integers(1, 4).flatmap(lambda dims: st.tuples(rois(dims), rois(dims)))


def points(roi, window=range(-12, 13)):
    """The points of a two-dimensional roi within a window larger than what the strategies draw."""
    axes = [
        [at for at in window if (begin is None or begin <= at) and (end is None or at < end)]
        for begin, end in zip(roi.begin, roi.end, strict=True)
    ]
    return set(itertools.product(*axes))


def is_canonical(roi):
    """Whether a roi could have been made by the constructor that checks."""
    return roi == Roi(tuple(roi.offset), tuple(roi.shape)) and type(roi.shape) is Coordinate


# -- defects of daisy ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("left", "right", "both"),
    [
        (Roi(0, 10), Roi((2,), (None,)), Roi(2, 8)),
        (Roi(0, 10), Roi((-2,), (None,)), Roi(0, 10)),
        (Roi((5,), (None,)), Roi((2,), (None,)), Roi((5,), (None,))),
        (Roi((None,), (None,)), Roi((2,), (None,)), Roi((2,), (None,))),
        (Roi((None,), (None,)), Roi(0, 10), Roi(0, 10)),
        (Roi((None,), (None,)), Roi((None,), (None,)), Roi((None,), (None,))),
        (Roi((0, 0), (10, None)), Roi((2, None), (None, None)), Roi((2, 0), (8, None))),
    ],
)
def test_half_bounded_intersections_are_right(left, right, both):
    assert left.intersect(right) == both
    assert right.intersect(left) == both
    assert left.intersects(right)
    assert right.intersects(left)


def test_a_half_bounded_roi_does_not_meet_what_lies_before_it():
    before, behind = Roi(0, 10), Roi((10,), (None,))
    assert not before.intersects(behind)
    assert not behind.intersects(before)
    assert before.intersect(behind).empty
    assert behind.intersect(before).empty


def test_the_offset_of_a_half_bounded_roi_is_kept():
    roi = Roi((2,), (None,))
    assert (roi.begin, roi.end) == ((2,), (None,))
    assert not roi.contains((1,))
    assert roi.contains((2**70,))


def test_a_fraction_in_a_roi_is_an_error_and_not_cut_off():
    with pytest.raises(GeometryError, match=r"2\.5"):
        Roi((0, 2.5), (10, 10))
    with pytest.raises(GeometryError, match=r"2\.5"):
        Roi((0, 0), (10, 2.5))
    with pytest.raises(GeometryError, match=r"0\.5"):
        Roi((0, 0), (10, 10)) * 0.5
    with pytest.raises(GeometryError, match=r"0\.5"):
        Roi((0, 0), (10, 10)).shift((0, 0.5))


def test_division_of_a_roi_beyond_the_integers_of_a_float_is_exact():
    roi = Roi(BEYOND_FLOAT * 3, BEYOND_FLOAT * 6)
    assert roi / 3 == roi // 3 == Roi(BEYOND_FLOAT, BEYOND_FLOAT * 2)
    assert Roi(BEYOND_FLOAT, 1).snap_to_grid(2) == Roi(2**60, 2)
    assert Roi(1, BEYOND_FLOAT).center == (2**59 + 1,)


def test_a_negative_shape_is_an_error():
    with pytest.raises(GeometryError, match=r"shape \(3, -1\) of a roi is negative in dimension 1"):
        Roi((0, 0), (3, -1))


def test_points_of_another_rank_are_errors():
    with pytest.raises(GeometryError, match=r"ranks differ: roi Roi\(\(0, 0\).* point \(1,\)"):
        Roi((0, 0), (3, 3)).contains((1,))


# -- construction ----------------------------------------------------------------------------------


def test_a_bare_integer_stands_for_one_dimension():
    roi = Roi((0,), 4096000)
    assert roi == Roi(0, (4096000,)) == Roi(0, 4096000) == Roi(0.0, np.int64(4096000))
    assert roi.shape == (4096000,)
    assert roi.dims == 1


@pytest.mark.parametrize("given_offset", [(1, 2), [1, 2], np.array([1, 2]), (i for i in (1, 2)), (1.0, 2.0)])
def test_offset_and_shape_are_made_coordinates(given_offset):
    roi = Roi(given_offset, [3.0, 4])
    assert type(roi.offset) is type(roi.shape) is Coordinate
    assert roi == Roi((1, 2), (3, 4))
    assert roi == Roi(offset=(1, 2), shape=(3, 4)) == Roi.of(Coordinate(1, 2), Coordinate(3, 4))


@pytest.mark.parametrize(("offset", "shape"), [((0, 0), (1, 2, 3)), (0, (1, 2)), ((0, 0), 5)])
def test_offset_and_shape_of_different_lengths_are_refused(offset, shape):
    with pytest.raises(GeometryError, match=r"ranks differ: offset \(0.*and shape \("):
        Roi(offset, shape)


@pytest.mark.parametrize("shape", [(3, 10), (None, 10), (3, 0)])
def test_an_extent_without_an_offset_is_refused(shape):
    with pytest.raises(GeometryError, match="no offset, in dimension 1"):
        Roi((0, None), shape)


@pytest.mark.parametrize("bad", ["12", True, None, 1j, object()])
def test_what_is_no_coordinate_is_refused(bad):
    with pytest.raises(GeometryError):
        Roi(bad, 1)


def test_a_roi_is_frozen():
    roi = Roi((0, 0), (3, 3))
    for name in ("offset", "shape", "begin", "other"):
        with pytest.raises(AttributeError, match="is frozen"):
            setattr(roi, name, (1, 1))
        with pytest.raises(AttributeError, match="is frozen"):
            delattr(roi, name)
    assert roi == Roi((0, 0), (3, 3))
    assert roi.copy() is roi


@given(rois(unbounded=True))
def test_repr_pickle_and_copy_give_the_same_roi(roi):
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(roi, protocol)) == roi
    assert eval(repr(roi)) == roi
    assert copy.copy(roi) == copy.deepcopy(roi) == roi
    assert hash(copy.deepcopy(roi)) == hash(roi)


def test_repr_is_the_call_that_makes_it():
    assert repr(Roi((0, 0), (10, 10))) == "Roi((0, 0), (10, 10))"
    assert str(Roi(0, None)) == "Roi((0,), (None,))"


def test_rois_are_equal_by_value_and_never_to_something_else():
    assert Roi((0, 0), (3, 3)) != Roi((0, 0), (3, 4))
    assert Roi((0, 0), (3, 3)) != Roi((0, 1), (3, 3))
    assert Roi((0, 0), (3, 3)) != ((0, 0), (3, 3))
    assert len({Roi(0, 3), Roi(0, 3), Roi(0, 4)}) == 2


# -- attributes ------------------------------------------------------------------------------------


@given(rois())
def test_attributes_of_a_bounded_roi(roi):
    assert roi.begin == roi.offset
    assert roi.end == roi.offset + roi.shape
    assert roi.center == (roi.begin + roi.end) // 2
    assert roi.size == math.prod(roi.shape)
    assert roi.empty == (roi.size == 0)
    assert roi.dims == len(roi.offset) == len(roi.shape)
    assert not roi.unbounded


def test_attributes_of_an_unbounded_roi():
    roi = Roi((None, 2, 0), (None, None, 10))
    assert roi.unbounded
    assert not roi.empty
    assert roi.size is None
    assert roi.begin == (None, 2, 0)
    assert roi.end == (None, None, 10)
    assert roi.center == (None, None, 5)


def test_an_empty_roi_has_a_zero_in_its_shape():
    assert Roi((0, 0), (0, 5)).empty
    assert Roi((0, 0), (0, None)).empty


# -- algebra ---------------------------------------------------------------------------------------


@given(small_or_unbounded, small_or_unbounded)
def test_the_intersection_holds_the_points_of_both(left, right):
    both = left.intersect(right)
    assert points(both) == points(left) & points(right)
    assert is_canonical(both)
    assert both.empty == (not points(both))
    assert left.intersects(right) == right.intersects(left) == (not both.empty)


@given(small_or_unbounded, small_or_unbounded, small_or_unbounded)
def test_intersection_is_commutative_associative_and_idempotent(one, two, three):
    assert one.intersect(two) == two.intersect(one)
    assert one.intersect(one) == one
    left = one.intersect(two).intersect(three)
    right = one.intersect(two.intersect(three))
    assert points(left) == points(right)


@given(small, small)
def test_the_union_is_the_smallest_box_that_holds_both(left, right):
    hull = left.union(right)
    inside = points(left) | points(right)
    if not inside:
        assert hull.empty
        return
    for axis, span in enumerate(zip(hull.begin, hull.end, strict=True)):
        ordinates = [point[axis] for point in inside]
        assert span == (min(ordinates), max(ordinates) + 1)


@given(small_or_unbounded, small_or_unbounded)
def test_the_union_contains_both_and_is_unbounded_where_one_is(left, right):
    hull = left.union(right)
    assert is_canonical(hull)
    assert hull.contains(left)
    assert hull.contains(right)
    assert left.empty or right.empty or hull == right.union(left)
    assert not (left.unbounded or right.unbounded) or left.empty or right.empty or hull.unbounded


def test_an_empty_roi_does_not_count_in_a_union():
    roi, empty = Roi((0, 0), (3, 3)), Roi((90, 90), (0, 5))
    assert roi.union(empty) == empty.union(roi) == roi


@given(small_or_unbounded, small_or_unbounded)
def test_a_roi_contains_another_if_it_holds_its_points(outer, inner):
    assert outer.contains(inner) == (points(inner) <= points(outer))


@given(small_or_unbounded, coordinates(2, min_value=-12, max_value=12))
def test_a_roi_contains_its_points_only(roi, point):
    expected = tuple(point) in points(roi)
    assert roi.contains(point) == roi.contains(tuple(point)) == expected
    assert roi.contains(np.array(point)) == expected


def test_the_end_is_not_contained():
    roi = Roi((1, 1), (3, 3))
    assert roi.contains((1, 1))
    assert roi.contains((3, 3))
    assert not roi.contains((3, 4))


def test_a_point_without_an_ordinate_lies_only_where_a_roi_has_no_bounds():
    assert Roi((None, 0), (None, 3)).contains((None, 1))
    assert not Roi((0, 0), (None, 3)).contains((None, 1))
    assert not Roi((0, 0), (3, 3)).contains((None, 1))


def test_one_integer_is_a_point_of_one_dimension():
    assert Roi(0, 3).contains(2)
    assert not Roi(0, 3).contains(3)


@pytest.mark.parametrize("name", ["contains", "intersects", "intersect", "union"])
def test_rois_of_another_rank_are_errors(name):
    with pytest.raises(GeometryError, match=r"ranks differ: 2 and 3 \(Roi\(.*\) and Roi\(.*\)\)"):
        getattr(Roi((0, 0), (3, 3)), name)(Roi((0, 0, 0), (3, 3, 3)))


# -- shift, grow, scale ----------------------------------------------------------------------------


@given(st.data())
def test_a_shift_moves_every_point(data):
    roi = data.draw(small)
    by = data.draw(coordinates(2, min_value=-3, max_value=3))
    moved = {(z + by[0], y + by[1]) for z, y in points(roi)}
    for shifted in (roi.shift(by), roi + by, roi + tuple(by), roi.shift(np.array(by)), roi - -by):
        assert points(shifted) == moved
        assert shifted.shape == roi.shape


def test_one_integer_shifts_every_axis_and_keeps_unbounded_axes():
    assert Roi((1, 2), (3, 4)) + 1 == Roi((2, 3), (3, 4))
    assert Roi((1, 2), (3, 4)) - 1.0 == Roi((0, 1), (3, 4))
    assert Roi((None, 2), (None, None)) + 5 == Roi((None, 7), (None, None))


def test_a_shift_by_none_is_refused_where_the_roi_has_an_extent():
    with pytest.raises(GeometryError, match="no offset, in dimension 0"):
        Roi((0, 0), (3, 3)).shift((None, 1))
    assert Roi((None, 0), (None, 3)).shift((None, 1)) == Roi((None, 1), (None, 3))


@given(
    small,
    coordinates(2, min_value=-4, max_value=4),
    coordinates(2, min_value=-4, max_value=4),
)
def test_grow_moves_begin_and_end_and_never_makes_a_negative_shape(roi, before, after):
    grown = roi.grow(before, after)
    assert is_canonical(grown)
    assert grown.begin == roi.begin - before
    for begin, end, expected in zip(grown.begin, grown.end, roi.end + after, strict=True):
        assert end == max(begin, expected)


@given(rois(unbounded=True), st.integers(0, 50), st.integers(0, 50))
def test_growing_and_shrinking_again_changes_nothing(roi, before, after):
    assert roi.grow(before, after).grow(-before, -after) == roi
    assert roi.grow(before, after).contains(roi)
    assert roi.grow() == roi


def test_shrinking_by_too_much_gives_an_empty_roi():
    assert Roi((0, 0), (10, 10)).grow(-8, (-8, 0)) == Roi((8, 8), (0, 2))
    assert Roi((0, 0), (10, 10)).grow(-8, (-8, 0)).empty
    assert Roi((None, 0), (None, 10)).grow(-6, -6) == Roi((None, 6), (None, 0))


def test_growing_by_none_takes_the_end_away():
    assert Roi((1, 1), (3, 3)).grow(1, (None, 0)) == Roi((0, 0), (None, 4))
    assert Roi((1, 1), (3, 3)).grow((None, 0), 0) == Roi((None, 1), (None, 3))


@pytest.mark.parametrize("op", [operator.mul, operator.floordiv, operator.truediv, operator.mod])
@given(data=st.data())
def test_scaling_is_done_to_offset_and_shape(op, data):
    roi = data.draw(rois(unbounded=True))
    factor = data.draw(coordinates(roi.dims, min_value=1, max_value=9))
    expected = Roi(op(roi.offset, factor), op(roi.shape, factor))
    assert op(roi, factor) == op(roi, tuple(factor)) == op(roi, np.array(factor)) == expected
    assert op(roi, 3) == Roi(op(roi.offset, 3), op(roi.shape, 3))


@given(rois(unbounded=True), st.integers(1, 9))
def test_a_scaled_roi_divides_back(roi, factor):
    assert roi * factor / factor == roi


def test_scaling_by_a_negative_number_is_an_error():
    with pytest.raises(GeometryError, match="negative in dimension 0"):
        Roi((0, 0), (3, 3)) * -1


@pytest.mark.parametrize(
    "change",
    [
        lambda roi: operator.add(roi, (1,)),
        lambda roi: roi - (1, 2, 3),
        lambda roi: roi * (1,),
        lambda roi: roi / (1,),
        lambda roi: roi // (1,),
        lambda roi: roi % (1,),
        lambda roi: roi.shift((1,)),
        lambda roi: roi.grow((1,)),
        lambda roi: roi.grow(0, (1,)),
        lambda roi: roi.snap_to_grid((1,)),
    ],
)
def test_coordinates_of_another_rank_are_errors(change):
    with pytest.raises(GeometryError, match=r"ranks differ: 2 and [13]"):
        change(Roi((0, 0), (3, 3)))


# -- snap_to_grid ----------------------------------------------------------------------------------


def on_grid(roi, grid):
    return roi.begin.is_multiple_of(grid) and roi.end.is_multiple_of(grid)


snaps = st.integers(1, 3).flatmap(lambda dims: st.tuples(rois(dims), coordinates(dims, min_value=1, max_value=20)))


@given(snaps)
def test_snapping_grows_to_the_smallest_roi_of_the_grid_around(drawn):
    roi, grid = drawn
    assume(not roi.empty)
    snapped = roi.snap_to_grid(grid)
    assert snapped == roi.snap_to_grid(tuple(grid), mode="grow")
    assert on_grid(snapped, grid)
    assert snapped.contains(roi)
    assert all(gap < step for gap, step in zip(roi.begin - snapped.begin, grid, strict=True))
    assert all(gap < step for gap, step in zip(snapped.end - roi.end, grid, strict=True))


@given(snaps)
def test_snapping_shrinks_to_the_largest_roi_of_the_grid_within(drawn):
    roi, grid = drawn
    snapped = roi.snap_to_grid(grid, "shrink")
    assert is_canonical(snapped)
    assert on_grid(snapped, grid)
    assert roi.contains(snapped)
    if not snapped.empty:
        assert all(gap < step for gap, step in zip(snapped.begin - roi.begin, grid, strict=True))
        assert all(gap < step for gap, step in zip(roi.end - snapped.end, grid, strict=True))
    else:
        assert any(
            math.ceil(begin / step) >= end // step for begin, end, step in zip(roi.begin, roi.end, grid, strict=True)
        )


@given(snaps)
def test_snapping_to_the_closest_moves_no_end_by_more_than_half_a_step(drawn):
    roi, grid = drawn
    snapped = roi.snap_to_grid(grid, "closest")
    assert is_canonical(snapped)
    assert on_grid(snapped, grid)
    if not roi.empty:
        assert all(2 * abs(gap) <= step for gap, step in zip(snapped.begin - roi.begin, grid, strict=True))
        assert all(2 * abs(gap) <= step for gap, step in zip(snapped.end - roi.end, grid, strict=True))


@pytest.mark.parametrize("mode", ["grow", "shrink", "closest"])
@given(drawn=snaps)
def test_snapping_twice_changes_nothing_more(mode, drawn):
    roi, grid = drawn
    once = roi.snap_to_grid(grid, mode)
    assert once.snap_to_grid(grid, mode) == once
    assert roi.snap_to_grid(1, mode) == roi


def test_the_three_ways_to_snap():
    roi = Roi((1, -1), (9, 9))
    assert roi.snap_to_grid((4, 4)) == Roi((0, -4), (12, 12))
    assert roi.snap_to_grid((4, 4), mode="shrink") == Roi((4, 0), (4, 8))
    assert roi.snap_to_grid((4, 4), mode="closest") == Roi((0, 0), (8, 8))
    assert Roi(2, 4).snap_to_grid(4, mode="closest") == Roi(0, 4)


@pytest.mark.parametrize("mode", ["grow", "shrink", "closest"])
def test_an_empty_axis_stays_empty_on_a_grid(mode):
    assert Roi((5, 0), (0, 8)).snap_to_grid((4, 4), mode).shape == (0, 8)


def test_shrinking_to_a_coarse_grid_gives_an_empty_roi():
    assert Roi(1, 2).snap_to_grid(4, "shrink") == Roi(4, 0)


def test_unbounded_axes_stay_so_on_a_grid():
    assert Roi((None, 5), (None, None)).snap_to_grid(4) == Roi((None, 4), (None, None))


@pytest.mark.parametrize("grid", [0, -4, (4, 0), (4, None)])
def test_a_grid_needs_a_positive_spacing(grid):
    with pytest.raises(GeometryError, match=r"voxel_size \(.*\) is not positive"):
        Roi((0, 0), (3, 3)).snap_to_grid(grid)


def test_an_unknown_way_to_snap_is_refused_with_those_that_exist():
    with pytest.raises(GeometryError, match="mode is 'round', but must be 'grow', 'shrink'"):
        Roi((0, 0), (3, 3)).snap_to_grid(2, mode="round")


# -- slices, squeeze -------------------------------------------------------------------------------


@given(rois(2, max_offset=4, max_extent=5))
def test_slices_cut_the_roi_out_of_an_array(roi):
    assume(min(roi.begin) >= 0)
    cut = np.moveaxis(np.indices((10, 10)), 0, -1)[roi.to_slices()]
    assert {tuple(map(int, point)) for point in cut.reshape(-1, 2)} == points(roi)
    assert roi.get_bounding_box() == roi.to_slices()


def test_slices_of_unbounded_axes_are_open():
    roi = Roi((None, 2, 3), (None, None, 4))
    assert roi.to_slices() == (slice(None, None), slice(2, None), slice(3, 7))


def test_no_slices_before_the_origin_since_they_would_count_from_the_end():
    with pytest.raises(GeometryError, match=r"Roi\(\(0, -1\), \(3, 3\)\) begins before the origin"):
        Roi((0, -1), (3, 3)).to_slices()


def test_squeeze_drops_one_dimension():
    roi = Roi((1, 2, 3), (4, None, 6))
    assert roi.squeeze() == Roi((2, 3), (None, 6))
    assert roi.squeeze(-1) == Roi((1, 2), (4, None))
    with pytest.raises(GeometryError, match="no dimension 3"):
        roi.squeeze(3)


# -- grids of blocks -------------------------------------------------------------------------------


@st.composite
def grids(draw):
    """A total, the regions of one block, and a roi of the same rank."""
    dims = draw(st.integers(1, 3))
    total = draw(rois(dims))
    write = Roi(draw(coordinates(dims)), draw(coordinates(dims, min_value=1, max_value=9)))
    read = write.grow(
        draw(coordinates(dims, min_value=0, max_value=5)),
        draw(coordinates(dims, min_value=0, max_value=5)),
    )
    return draw(rois(dims)), total, read, write


@given(grids())
def test_expanding_to_the_grid_of_a_task_gives_whole_blocks(drawn):
    sub, total, read, write = drawn
    assume(not sub.empty)
    expanded = expand_roi_to_grid(sub, total, read, write)
    first = total.begin + (write.begin - read.begin)

    assert expanded.contains(sub)
    assert (expanded.begin - first).is_multiple_of(write.shape)
    assert (expanded.end - first).is_multiple_of(write.shape)
    added = expanded.shape - sub.shape
    assert all(more <= 2 * (step - 1) for more, step in zip(added, write.shape, strict=True))
    assert expand_roi_to_grid(expanded, total, read, write) == expanded


@given(grids(), st.integers(-20, 20))
def test_where_the_regions_of_a_block_lie_matters_only_relative_to_each_other(drawn, by):
    sub, total, read, write = drawn
    assert expand_roi_to_grid(sub, total, read + by, write + by) == expand_roi_to_grid(sub, total, read, write)


def test_expanding_an_empty_roi_adds_no_block():
    read, write = Roi(0, 7), Roi(2, 3)
    assert expand_roi_to_grid(Roi(6, 0), Roi(0, 100), read, write).empty


def test_expanding_to_multiples_of_the_write_shape_starts_at_the_origin():
    assert expand_write_roi_to_grid(Roi((5, -1), (1, 1)), Roi((1, 1), (4, 4))) == Roi((4, -4), (4, 4))


def test_expanding_over_another_rank_is_an_error():
    with pytest.raises(GeometryError, match="ranks differ"):
        expand_write_roi_to_grid(Roi((0, 0), (3, 3)), Roi(0, 3))
    with pytest.raises(GeometryError, match="ranks differ"):
        expand_roi_to_grid(Roi((0, 0), (3, 3)), Roi(0, 9), Roi(0, 3), Roi(0, 3))


# -- trusted constructors and bounded fast paths ---------------------------------------------------


@given(pairs)
def test_bounded_rois_combine_as_coordinates_do(drawn):
    left, right = drawn
    both = left.intersect(right)
    assert both.begin == tuple(map(max, left.begin, right.begin))
    expected_end = map(max, both.begin, map(min, left.end, right.end))
    assert both.end == tuple(expected_end)
    assert left.contains(both)
    assert right.contains(both)
