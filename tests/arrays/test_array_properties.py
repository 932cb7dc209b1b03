"""Arrays in world units, whatever the order of their axes: reading, writing, views, snapping, places."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bellis.arrays import Array
from bellis.errors import ArrayError
from bellis.geometry import Coordinate, Roi

CHANNELS = ("first", "last", "middle", "none")


@st.composite
def arrays(draw: st.DrawFn, channels: str | None = None) -> Array:
    """Arrays of 2 or 3 physical axes, with a channel axis before, behind or between them, or without one."""
    dims = draw(st.integers(2, 3))
    where = draw(st.sampled_from(CHANNELS)) if channels is None else channels
    types = ["space"] * dims
    if where != "none":
        types.insert({"first": 0, "last": dims, "middle": 1}[where], "channel")
    shape = [draw(st.integers(1, 4)) for _ in types]
    voxels = np.arange(np.prod(shape), dtype=np.int32).reshape(shape)
    return Array(
        voxels,
        offset=[draw(st.integers(-50, 50)) for _ in range(dims)],
        voxel_size=[draw(st.integers(1, 9)) for _ in range(dims)],
        types=types,
    )


@st.composite
def parts(draw: st.DrawFn, array: Array) -> tuple[Roi, tuple[slice, ...]]:
    """A region of an array or view, and the same as slices of its ``to_ndarray()``, found in another way."""
    begins, ends, pieces = [], [], []
    extents = iter(zip(array.roi.begin, array.voxel_size, strict=True))
    for n, kind in zip(array.shape, array.types, strict=True):
        if kind == "channel":
            pieces.append(slice(None))
            continue
        first = draw(st.integers(0, n))
        last = draw(st.integers(first, n))
        begin, size = next(extents)
        begins.append(begin + first * size)
        ends.append(begin + last * size)
        pieces.append(slice(first, last))
    return Roi(begins, Coordinate(ends) - Coordinate(begins)), tuple(pieces)


@given(st.data())
def test_a_write_through_a_view_of_a_view_lands_where_the_view_is(data: st.DataObject) -> None:
    array = data.draw(arrays())
    outer, outer_slices = data.draw(parts(array))
    inner, inner_slices = data.draw(parts(array[outer]))
    expected = array.to_ndarray()
    part = expected[outer_slices][inner_slices]
    part[...] = -1 - np.arange(part.size).reshape(part.shape)

    array[outer][inner][inner] = part.copy()

    np.testing.assert_array_equal(array.data, expected)
    np.testing.assert_array_equal(array[outer][inner].to_ndarray(), part)


@given(st.data())
def test_reading_a_region_is_slicing_the_physical_axes(data: st.DataObject) -> None:
    array = data.draw(arrays())
    roi, slices = data.draw(parts(array))
    expected = array.data[slices]
    assert array[roi].shape == expected.shape
    np.testing.assert_array_equal(array.to_ndarray(roi), expected)
    np.testing.assert_array_equal(array[roi].materialize().to_ndarray(), expected)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(array[roi])).to_ndarray(), expected)


@given(st.data())
def test_a_value_without_channels_goes_to_every_channel_wherever_they_are(data: st.DataObject) -> None:
    array = data.draw(arrays())
    roi, slices = data.draw(parts(array))
    value = -1 - np.arange(np.prod(array[roi].spatial_shape), dtype=np.int32).reshape(array[roi].spatial_shape)
    expected = array.to_ndarray()
    if "channel" in array.types:
        axis = array.types.index("channel")
        np.moveaxis(expected[slices], axis, 0)[...] = value
    else:
        expected[slices] = value

    array[roi] = value

    np.testing.assert_array_equal(array.data, expected)


@given(st.data())
def test_the_voxel_at_a_coordinate_has_all_channels(data: st.DataObject) -> None:
    array = data.draw(arrays())
    index = Coordinate([data.draw(st.integers(0, n - 1)) for n in array.spatial_shape])
    entries = iter(index)
    key = tuple(slice(None) if kind == "channel" else next(entries) for kind in array.types)
    within = Coordinate([data.draw(st.integers(0, n - 1)) for n in array.voxel_size])
    value = array[array.to_world_space(index) + within]
    np.testing.assert_array_equal(value, array.data[key])
    assert np.ndim(value) == array.types.count("channel")


@given(st.data())
def test_filling_outside_is_padding(data: st.DataObject) -> None:
    array = data.draw(arrays())
    padding = [
        (0, 0) if kind == "channel" else (data.draw(st.integers(0, 2)), data.draw(st.integers(0, 2)))
        for kind in array.types
    ]
    physical = [pair for pair, kind in zip(padding, array.types, strict=True) if kind != "channel"]
    before, after = (Coordinate(column) * array.voxel_size for column in zip(*physical, strict=True))
    expected = np.pad(array.data, padding, constant_values=-7)
    np.testing.assert_array_equal(array.to_ndarray(array.roi.grow(before, after), fill_value=-7), expected)


@given(st.data())
def test_pixels_and_world_are_two_ways_to_say_the_same(data: st.DataObject) -> None:
    array = data.draw(arrays())
    view, _ = data.draw(parts(array))
    roi, _ = data.draw(parts(array))
    array = array[view]
    assert array.to_world_space(array.to_pixel_space(roi)) == roi
    assert array.to_pixel_space(array.roi) == Roi((0,) * array.dims, array.spatial_shape)
    pixel = Coordinate([data.draw(st.integers(-5, 5)) for _ in range(array.dims)])
    assert array.to_pixel_space(array.to_world_space(pixel)) == pixel
    point = Coordinate([data.draw(st.integers(-99, 99)) for _ in range(array.dims)])
    corner = array.to_world_space(array.to_pixel_space(point))
    assert all(0 <= p - c < size for p, c, size in zip(point, corner, array.voxel_size, strict=True))


@given(st.data())
def test_a_snapped_region_is_of_whole_voxels(data: st.DataObject) -> None:
    array = data.draw(arrays())
    begin = [data.draw(st.integers(-80, 80)) for _ in range(array.dims)]
    extent = [data.draw(st.integers(0, 60)) for _ in range(array.dims)]
    roi = Roi(begin, extent)
    grown, shrunk, closest = (array.snap(roi, mode) for mode in ("grow", "shrink", "closest"))
    for snapped in (grown, shrunk, closest):
        array.to_pixel_space(snapped)
        assert array.snap(snapped) == snapped
        np.testing.assert_array_equal(
            array.to_ndarray(snapped, fill_value=-7).shape, array._source.layout.shape_of(snapped)
        )
    assert grown.contains(roi)
    assert roi.contains(shrunk)
    np.testing.assert_array_equal(
        array.to_ndarray(roi, fill_value=-7, snap="grow"), array.to_ndarray(grown, fill_value=-7)
    )


@given(st.data())
def test_an_array_written_to_another_arrives_voxel_by_voxel(data: st.DataObject) -> None:
    source = data.draw(arrays())
    roi, slices = data.draw(parts(source))
    target = Array(np.zeros_like(source.data), source.roi, source.voxel_size, types=source.types)
    target[roi] = source[roi]
    expected = np.zeros_like(source.data)
    expected[slices] = source.data[slices]
    np.testing.assert_array_equal(target.data, expected)


@given(st.data())
def test_dask_sees_the_same_voxels(data: st.DataObject) -> None:
    array = data.draw(arrays())
    view, _ = data.draw(parts(array))
    if array[view].roi.empty:
        return
    lazy = array[view].to_dask(chunks=2)
    np.testing.assert_array_equal(lazy.compute(scheduler="sync"), array[view].to_ndarray())
    np.testing.assert_array_equal(
        lazy[..., ::2][-1:].compute(scheduler="sync"), array[view].to_ndarray()[..., ::2][-1:]
    )


def test_a_snap_mode_that_is_unknown_is_refused() -> None:
    array = Array(np.zeros(4), voxel_size=(2,))
    with pytest.raises(ArrayError, match="must be 'grow', 'shrink' or 'closest'"):
        array.snap(Roi(1, 2), "round")  # type: ignore[arg-type]
    with pytest.raises(ArrayError, match=r"coordinate .* has 2 dimensions"):
        array.to_pixel_space((1, 2))
