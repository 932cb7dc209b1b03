"""Arrays in world units, over memory."""

from __future__ import annotations

import os
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bellis.arrays import Array
from bellis.errors import ArrayError
from bellis.geometry import Coordinate, Roi


@st.composite
def arrays(draw: st.DrawFn) -> Array:
    """Small arrays with 1-3 physical axes and 0-2 channel axes, anywhere."""
    dims = draw(st.integers(1, 3))
    channels = draw(st.lists(st.integers(1, 3), max_size=2))
    spatial = draw(st.lists(st.integers(1, 6), min_size=dims, max_size=dims))
    size = draw(st.lists(st.integers(1, 9), min_size=dims, max_size=dims))
    offset = draw(st.lists(st.integers(-50, 50), min_size=dims, max_size=dims))
    shape = (*channels, *spatial)
    voxels = np.arange(np.prod(shape), dtype=np.int32).reshape(shape)
    return Array(voxels, offset=offset, voxel_size=size)


@st.composite
def boxes(draw: st.DrawFn, array: Array) -> tuple[Roi, tuple[slice, ...]]:
    """A region of an array, and the same in its voxels."""
    begins = [draw(st.integers(0, n)) for n in array.spatial_shape]
    ends = [draw(st.integers(b, n)) for b, n in zip(begins, array.spatial_shape, strict=True)]
    begin, end = Coordinate(begins), Coordinate(ends)
    roi = Roi(array.roi.begin + begin * array.voxel_size, (end - begin) * array.voxel_size)
    return roi, (..., *(slice(b, e) for b, e in zip(begins, ends, strict=True)))


@given(st.data())
def test_reading_a_region_is_slicing_the_data(data: st.DataObject) -> None:
    array = data.draw(arrays())
    roi, slices = data.draw(boxes(array))
    expected = array.data[slices]

    assert array[roi].roi == roi
    assert array[roi].shape == expected.shape == array[roi].to_ndarray().shape
    np.testing.assert_array_equal(array[roi].to_ndarray(), expected)
    np.testing.assert_array_equal(array.to_ndarray(roi), expected)
    np.testing.assert_array_equal(np.asarray(array[roi]), expected)


@given(st.data())
def test_a_view_of_a_view_is_where_it_says(data: st.DataObject) -> None:
    array = data.draw(arrays())
    outer, _ = data.draw(boxes(array))
    inner, slices = data.draw(boxes(array[outer]))
    expected = array.data[..., *array._source.layout.slices(outer)[-array.dims :]][slices]

    np.testing.assert_array_equal(array[outer][inner].to_ndarray(), expected)
    np.testing.assert_array_equal(array[outer].materialize()[inner].to_ndarray(), expected)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(array[outer]))[inner], expected)


@given(st.data())
def test_writing_through_a_view_lands_where_the_view_is(data: st.DataObject) -> None:
    array = data.draw(arrays())
    outer, _ = data.draw(boxes(array))
    inner, _ = data.draw(boxes(array[outer]))
    expected = array.to_ndarray()
    expected[array._source.layout.slices(inner)] = 1000 + np.arange(
        np.prod(array[inner].shape), dtype=np.int32
    ).reshape(array[inner].shape)

    array[outer][inner] = expected[array._source.layout.slices(inner)]

    np.testing.assert_array_equal(array.data, expected)


@given(st.data())
def test_outside_is_filled_when_asked(data: st.DataObject) -> None:
    array = data.draw(arrays())
    before = [data.draw(st.integers(0, 3)) for _ in array.spatial_shape]
    after = [data.draw(st.integers(0, 3)) for _ in array.spatial_shape]
    channels = [(0, 0)] * (len(array.shape) - array.dims)
    padding = [*channels, *zip(before, after, strict=True)]
    roi = array.roi.grow(Coordinate(before) * array.voxel_size, Coordinate(after) * array.voxel_size)

    np.testing.assert_array_equal(array.to_ndarray(roi, fill_value=-7), np.pad(array.data, padding, constant_values=-7))


def test_a_region_far_outside_is_all_filled() -> None:
    array = Array(np.ones(4, np.uint8))
    np.testing.assert_array_equal(array.to_ndarray(Roi(100, 3), fill_value=9), [9, 9, 9])


@given(st.data())
def test_a_coordinate_gives_the_voxel_that_it_is_in(data: st.DataObject) -> None:
    array = data.draw(arrays())
    index = Coordinate([data.draw(st.integers(0, n - 1)) for n in array.spatial_shape])
    within = Coordinate([data.draw(st.integers(0, n - 1)) for n in array.voxel_size])

    value = array[array.roi.begin + index * array.voxel_size + within]

    np.testing.assert_array_equal(value, array.data[(..., *index)])


def test_a_coordinate_without_channels_gives_a_scalar() -> None:
    value = Array(np.arange(6).reshape(2, 3), voxel_size=(10, 10))[Coordinate(10, 25)]
    assert value == 5
    assert isinstance(value, np.integer)


def test_the_first_axes_are_channels() -> None:
    array = Array(np.zeros((3, 4, 5)), voxel_size=(2, 2), axis_names=["c", "y", "x"], units="um")
    assert array.dims == 2
    assert array.roi == Roi((0, 0), (8, 10))
    assert array.spatial_shape == (4, 5)
    assert array.shape == (3, 4, 5)
    assert array.units == ("um", "um")
    assert array.types == ("channel", "space", "space")
    assert array.chunk_shape is None


def test_types_say_whether_time_is_physical() -> None:
    array = Array(np.zeros((7, 4, 5)), types=("time", "space", "space"), axis_names="tyx")
    assert array.dims == 3
    assert Array(np.zeros((7, 4, 5)), types=("channel", "space", "space")).dims == 2


def test_values_without_channels_are_written_to_each() -> None:
    array = Array(np.zeros((2, 3), np.int32), voxel_size=(1,))
    array[Roi(1, 2)] = np.array([5, 6], np.int32)
    np.testing.assert_array_equal(array.data, [[0, 5, 6], [0, 5, 6]])


def test_an_array_is_a_value_to_write() -> None:
    source = Array(np.arange(10, dtype=np.uint8))
    target = Array(np.zeros(10, np.uint16))
    target[Roi(0, 3)] = source[Roi(7, 3)]
    np.testing.assert_array_equal(target.data[:4], [7, 8, 9, 0])
    with pytest.raises(ArrayError, match="voxel size"):
        target[Roi(0, 3)] = Array(np.zeros(3, np.uint8), voxel_size=(2,))


@pytest.mark.parametrize(
    ("dtype", "value"),
    [("u1", 255), ("u1", True), ("i2", -7), ("f4", 0.1), ("f4", 3), ("f4", np.nan), ("f4", np.inf),
     ("f4", np.float64(0.1)), ("u1", np.int64(3)), ("c8", 1j), ("?", False), ("u8", 2**64 - 1)],
)  # fmt: skip
def test_a_scalar_that_fits_is_written(dtype: str, value: complex) -> None:
    array = Array(np.zeros(3, dtype))
    array[array.roi] = value
    np.testing.assert_array_equal(array.data, np.full(3, value, dtype))


@pytest.mark.parametrize(
    ("dtype", "value"),
    [("u1", 256), ("u1", -1), ("i4", 0.5), ("i4", 1.0), ("f4", 1e300), ("f4", 1j), ("?", 2),
     ("f4", 2**24 + 1), ("f8", np.uint64(2**63 + 1)),
     ("u1", np.int64(300)), ("u8", 2**64), ("f4", "1")],
)  # fmt: skip
def test_a_scalar_that_does_not_fit_is_refused(dtype: str, value: complex) -> None:
    array = Array(np.zeros(3, dtype))
    with pytest.raises(ArrayError, match="does not hold the value"):
        array[array.roi] = value
    with pytest.raises(ArrayError, match="does not hold the value"):
        array.to_ndarray(Roi(-1, 3), fill_value=value)


@pytest.mark.parametrize(
    ("to", "of"),
    [("u1", "i8"), ("f4", "f8"), ("f8", "i8"), ("c16", "u8"), ("f4", "u4"), ("i4", "f4"), ("u2", "i1"), ("?", "u1")],
)
def test_nothing_is_cast_down(to: str, of: str) -> None:
    array = Array(np.zeros(3, to))
    with pytest.raises(ArrayError, match=r"value has dtype .* convert it first"):
        array[array.roi] = np.zeros(3, of)


def test_another_shape_is_refused() -> None:
    array = Array(np.zeros((2, 3, 4)), voxel_size=(1, 1))
    for shape in [(3,), (4, 3), (1, 3, 4), (2, 3, 1), (2, 3, 5)]:
        with pytest.raises(ArrayError, match=r"value has shape .* of the array has shape"):
            array[array.roi] = np.zeros(shape)


def test_an_error_about_a_region_shows_both_sides() -> None:
    array = Array(np.zeros((4, 4)), offset=(5, 0), voxel_size=(10, 2))
    with pytest.raises(ArrayError) as off_grid:
        array[Roi((6, 0), (10, 2))]
    assert "Roi((6, 0), (10, 2))" in str(off_grid.value)
    assert "voxels of size (10, 2)" in str(off_grid.value)
    assert "Roi((5, 0), (20, 2))" in str(off_grid.value)
    with pytest.raises(ArrayError, match="outside") as outside:
        array[Roi((5, 0), (50, 2))]
    assert "Roi((5, 0), (50, 2))" in str(outside.value)
    assert str(array.roi) in str(outside.value)
    with pytest.raises(ArrayError, match=r"1 dimensions, the array has 2 \(y, x\)"):
        array[Roi(0, 2)]
    with pytest.raises(ArrayError, match="unbounded"):
        array[Roi((None, 0), (None, 2))]
    with pytest.raises(ArrayError, match="in world units"):
        array[0]  # type: ignore[call-overload]
    with pytest.raises(ArrayError, match="outside"):
        array[Coordinate(4, 0)]
    with pytest.raises(ArrayError, match="1 dimensions"):
        array[Coordinate(4)]


def test_a_view_does_not_reach_beyond_itself() -> None:
    view = Array(np.arange(10))[Roi(2, 3)]
    for roi in (Roi(1, 2), Roi(4, 2)):
        with pytest.raises(ArrayError, match="outside"):
            view[roi]
        with pytest.raises(ArrayError, match="outside"):
            view[roi] = 0
    with pytest.raises(ArrayError, match="outside"):
        view[Coordinate(5)]
    assert view.to_ndarray(Roi(1, 2), fill_value=-1).tolist() == [-1, 2]


def test_what_is_read_belongs_to_the_caller() -> None:
    array = Array(np.arange(3))
    array.to_ndarray()[0] = 7
    array.materialize()[Roi(0, 1)] = 7
    assert array.data.tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="copy=False"):
        np.array(array, copy=False)
    assert np.asarray(array, dtype=np.float32).dtype == np.float32


def test_intersecting_keeps_what_is_common() -> None:
    array = Array(np.arange(10), voxel_size=(2,))
    assert array.intersect(Roi(14, 100)).to_ndarray().tolist() == [7, 8, 9]
    assert array.intersect(Roi(100, 100)).to_ndarray().size == 0


def test_descriptions_that_do_not_fit_are_refused() -> None:
    data = np.zeros((2, 3))
    for kwargs in (
        {"roi": Roi((0, 0), (2, 4))},
        {"roi": Roi((0, 0), (2, 3)), "voxel_size": (2, 1)},
        {"roi": Roi((0, 0), (2, 3)), "offset": (0, 0)},
        {"voxel_size": (1, 1, 1)},
        {"voxel_size": (1, 1), "offset": (0,)},
        {"voxel_size": (0, 1)},
        {"axis_names": ("x",)},
        {"units": ("nm",)},
        {"types": ("space", "spice")},
        {"axis_names": ("c0", "c1")},
        {"voxel_size": (5e18, 5e18)},
        {"voxel_size": (1, float("nan"))},
        {"voxel_size": "fine"},
        {"units": "nm/0"},
        {"types": ("space",)},
        {"types": ("channel", "channel")},
    ):
        with pytest.raises(ArrayError):
            Array(data, **kwargs)  # type: ignore[arg-type]
    with pytest.raises(ArrayError, match=r"pass voxel_size=\(50000, 4600\), units='pm'"):
        Array(data, Roi((0, 0), (100, 14)), voxel_size=(50, 4.6))
    with pytest.raises(ArrayError, match="list has no shape"):
        Array([1, 2])


def test_read_only_memory_is_not_written() -> None:
    data = np.zeros(3)
    data.flags.writeable = False
    array = Array(data)
    assert not array.is_writeable
    with pytest.raises(ArrayError, match="read-only NumPy array"):
        array[array.roi] = 1


def test_memory_of_another_process_is_not_written() -> None:
    """A pickled array is a copy, and what is written to a copy elsewhere is lost."""
    here = pickle.loads(pickle.dumps(Array(np.zeros(3))))
    here[here.roi] = 1.0

    read_end, write_end = os.pipe()
    if (pid := os.fork()) == 0:
        try:
            here[here.roi] = 2.0
        except ArrayError as error:
            os.write(write_end, str(error).encode())
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    os.close(write_end)
    with os.fdopen(read_end) as answer:
        assert "lives in the memory of the process that made it" in answer.read()


def test_a_pickled_view_takes_only_its_voxels_along() -> None:
    array = Array(np.zeros(1_000_000), attrs={"stain": "DAPI"})
    sent = pickle.dumps(array[Roi(10, 5)])
    assert len(sent) < 5_000
    assert pickle.loads(sent).attrs == {"stain": "DAPI"}


def test_the_representation_says_what_it_is() -> None:
    array = Array(np.zeros((2, 3), np.uint8), offset=(4, 0))
    assert repr(array) == "Array(y=2, x=3, uint8, roi=Roi((4, 0), (2, 3)), voxel_size=(1, 1) nm)"
    time = Array(np.zeros((2, 3, 4)), voxel_size=(1, 2, 3), axis_names="tyx")
    assert repr(time).endswith("voxel_size=(1, 2, 3) (s, nm, nm))")
