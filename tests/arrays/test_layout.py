"""Shape, axes and place of an array."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bellis.arrays.axes import default_axis_names
from bellis.arrays.conventions import layout_of
from bellis.arrays.layout import CHUNK_VOXELS, Layout, parse_voxel_size, voxels_of
from bellis.errors import ArrayError
from bellis.geometry import Coordinate, Roi


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=4))
def test_picked_chunks_divide_what_is_written_and_are_not_huge(write: list[int]) -> None:
    layout = Layout.of((2, *write), "u1", voxel_size=[1] * len(write))
    chunks = layout.pick_chunks(Coordinate(write))
    layout.check_chunks(chunks, Coordinate(write))
    limit = round(CHUNK_VOXELS ** (1 / len(write)))
    for chunk, extent in zip(chunks[1:], write, strict=True):
        assert extent % chunk == 0
        assert chunk <= 4 * limit or chunk == extent
        assert 4 * chunk >= min(limit, extent)


@pytest.mark.parametrize(
    ("write", "chunks"),
    [
        ((256, 200, 96), (128, 100, 96)),
        ((64, 64, 64), (64, 64, 64)),
        ((509, 509, 509), (509, 509, 509)),
        ((16384,), (16384,)),
        ((4 * 2**20,), (2 * 2**20,)),
    ],
)
def test_chunks_are_picked_by_the_size_of_a_write(write: tuple, chunks: tuple) -> None:
    assert Layout.of(write, "u1").pick_chunks(Coordinate(write)) == chunks


def test_without_a_write_size_chunks_fit_the_array() -> None:
    assert Layout.of((3, 1000, 50, 0), "u1", voxel_size=(1,) * 3).pick_chunks() == (1, 128, 50, 1)


def test_attributes_are_read_as_they_are_written() -> None:
    layout = Layout.of(
        (2, 5, 6, 7), "f4", voxel_size=(40, 4, 4), offset=(0, -8, 12), units=("um", "nm", "nm"),
        types=("channel", "time", "space", "space"), axis_names="ctyx",
    )  # fmt: skip
    again = layout_of(layout.attributes(), layout.shape, layout.dtype)
    assert again == layout
    assert layout.differences(again) == []
    assert layout.roi == Roi((0, -8, 12), (200, 24, 28))


@pytest.mark.parametrize(
    ("ndim", "dims", "names"),
    [(1, 1, "x"), (3, 3, "zyx"), (4, 4, "tzyx"), (4, 3, "czyx"), (3, 1, ("c0", "c1", "x")),
     (6, 6, ("d0", "d1", "t", "z", "y", "x"))],
)  # fmt: skip
def test_axes_have_names(ndim: int, dims: int, names: str) -> None:
    assert default_axis_names(ndim, dims) == tuple(names)


def test_an_extent_is_whole_voxels() -> None:
    assert voxels_of((40, 8), Coordinate(4, 2), "write_size") == (10, 4)
    assert voxels_of((1024 / 16,), Coordinate(1), "write_size") == (64,)
    for extent in [(40, 7), (-4, 2), (None, 2), (4,)]:
        with pytest.raises(ArrayError, match="write_size"):
            voxels_of(extent, Coordinate(4, 2), "write_size")


def test_one_number_is_an_extent_of_one_dimension() -> None:
    layout = Layout.of((3, 8), "u1", voxel_size=2, offset=4)
    assert layout.roi == Roi(4, 16)
    assert voxels_of(4, layout.voxel_size, "write_size") == (2,)


def test_every_difference_is_described() -> None:
    one = Layout.of((4,), np.uint8)
    other = Layout.of((5,), np.uint8, units="um")
    assert one.differences(other) == [
        "shape: asked (4,), found (5,)",
        "units: asked ('nm',), found ('um',)",
    ]


@pytest.mark.parametrize(
    ("names", "size", "types"),
    [
        ("zyxc", (3, 3, 3), ("space", "space", "space", "channel")),
        ("czyx", (3, 3, 3), ("channel", "space", "space", "space")),
        ("tcyx", (3, 3, 3), ("time", "channel", "space", "space")),
        (("z", "y", "x", "b^"), (3, 3, 3), ("space", "space", "space", "channel")),
        ("zyxc", None, ("space", "space", "space", "channel")),
        ("zyxc", (3, 3, 3, 3), ("space",) * 4),
        ("abcd", (3, 3, 3), ("channel", "space", "space", "space")),
        (None, (3, 3, 3), ("channel", "space", "space", "space")),
        (None, None, ("time", "space", "space", "space")),
    ],
)
def test_channels_are_found_by_name_or_are_first(names: str, size: tuple | None, types: tuple[str, ...]) -> None:
    if names == "abcd":
        names = ("a", "b", "d", "e")  # type: ignore[assignment]
    layout = Layout.of((2, 3, 4, 5), "u1", voxel_size=size, axis_names=names)
    assert layout.types == types
    assert "^" not in "".join(layout.axis_names)
    assert layout.spatial_shape == tuple(n for n, kind in zip((2, 3, 4, 5), types, strict=True) if kind != "channel")


def test_one_unit_goes_to_the_axes_that_it_measures() -> None:
    layout = Layout.of((2, 3, 4), "u1", axis_names="tyx", units="micron")
    assert layout.units == ("s", "um", "um")
    assert Layout.of((2, 3, 4), "u1", axis_names="tyx", units="ms").units == ("ms", "nm", "nm")
    assert Layout.of((3, 4), "u1", units="voxel").units == ("voxel", "voxel")


def test_a_fractional_voxel_size_becomes_integers_of_a_smaller_unit() -> None:
    layout = Layout.of((2, 3), "u1", voxel_size=(50, 4.6), offset=(100, 0.1))
    assert layout.voxel_size == (50_000, 4600)
    assert layout.offset == (100_000, 100)
    assert layout.units == ("pm", "pm")


def test_axes_in_space_share_a_unit() -> None:
    layout = Layout.of((5, 2, 3), "u1", voxel_size=(0.5, 1, 4.6), axis_names="tzx", units=("s", "um", "nm"))
    assert layout.voxel_size == (500, 1_000_000, 4600)
    assert layout.units == ("ms", "pm", "pm")


def test_an_array_that_reaches_beyond_64_bits_is_refused() -> None:
    with pytest.raises(ArrayError, match="beyond 64 bits"):
        Layout.of((2**40,), "u1", voxel_size=(2**40,))


def test_a_unit_can_be_asked_for() -> None:
    layout = Layout.of((2, 3), "u1", voxel_size=(40, 4), offset=(8, 0))
    assert layout.in_unit("pm").voxel_size == (40_000, 4000)
    assert layout.in_unit("pm").offset == (8000, 0)
    assert layout.in_unit("pm").in_unit("nanometer") == layout
    with pytest.raises(ArrayError, match=r"\(0.04, 0.004\) .* are not of integers.*use 'nm'"):
        layout.in_unit("um")
    with pytest.raises(ArrayError, match=r"one of time, the axes 2 \(y, x\) are in"):
        layout.in_unit("ms")


def test_a_voxel_size_beside_a_region_is_of_integers() -> None:
    assert parse_voxel_size((50.0, "4")) == (50, 4)
    with pytest.raises(ArrayError, match=r"pass voxel_size=\(50000, 4600\), units='pm', and the region in pm"):
        parse_voxel_size((50, 4.6))
    with pytest.raises(ArrayError, match="not positive"):
        parse_voxel_size((1, -1))


@given(st.data())
def test_chunks_of_channels_anywhere_divide_what_is_written(data: st.DataObject) -> None:
    types = data.draw(st.permutations(["channel", "space", "space"]))
    write = Coordinate(data.draw(st.lists(st.integers(1, 300), min_size=2, max_size=2)))
    layout = Layout.of((7, 7, 7), "u1", types=types)
    chunks = layout.pick_chunks(write)
    assert chunks[types.index("channel")] == 1
    layout.check_chunks(chunks, write)
    layout.check_chunks(chunks, write, "shard")
    with pytest.raises(ArrayError, match="two blocks would write the same shard"):
        layout.check_chunks(layout.woven(write + 1, chunks), write, "shard")
