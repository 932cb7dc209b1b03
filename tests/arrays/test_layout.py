"""Shape, axes and place of an array."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bellis.arrays.layout import CHUNK_VOXELS, Layout, default_axis_names, voxels_of
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
    again = Layout.of_attributes(layout.attributes(), layout.shape, layout.dtype)
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
