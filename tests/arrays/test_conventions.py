"""What attributes of an array say of its place."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bellis.arrays.conventions import layout_of, says_layout
from bellis.arrays.layout import Layout
from bellis.errors import ArrayError
from bellis.geometry import Roi

SHAPE = (6, 8, 10)
COSEM = {
    "transform": {
        "axes": ["z", "y", "x"],
        "scale": [5.24, 4.0, 4.0],
        "translate": [0.0, 4.0, 8.0],
        "units": ["nm", "nm", "nm"],
    },
    "pixelResolution": {"dimensions": [4.0, 4.0, 5.24], "unit": "nm"},
}


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    types = draw(st.permutations(["space"] * draw(st.integers(1, 3)) + ["channel"] * draw(st.integers(0, 2))))
    dims = types.count("space")
    return Layout.of(
        [draw(st.integers(0, 9)) for _ in types],
        draw(st.sampled_from(["u1", "f4"])),
        voxel_size=[draw(st.fractions(min_value=1, max_value=99, max_denominator=20)) for _ in range(dims)],
        offset=[draw(st.fractions(min_value=-99, max_value=99, max_denominator=20)) for _ in range(dims)],
        units=draw(st.sampled_from(["nm", "um", "angstrom"])),
        types=types,
    )


@given(layouts(), st.booleans())
def test_what_bellis_writes_is_read_as_it_was(layout: Layout, is_reversed: bool) -> None:
    found = layout_of(layout.attributes(), layout.shape, layout.dtype, is_reversed=is_reversed)
    assert found == layout
    assert layout.differences(found) == []


@pytest.mark.parametrize(
    ("attributes", "size", "offset", "units"),
    [
        ({}, (1, 1, 1), (0, 0, 0), "nm"),
        ({"voxel_size": [40, 4, 4], "offset": [40, 0, 8]}, (40, 4, 4), (40, 0, 8), "nm"),
        ({"resolution": [40.0, 4.0, 4.0], "offset": [40.0, 0, 8]}, (40, 4, 4), (40, 0, 8), "nm"),
        ({"voxel_size": [40, 4, 4], "units": ["um"] * 3}, (40, 4, 4), (0, 0, 0), "um"),
        ({"voxel_size": [40, 4, 4], "units": ["", "", ""]}, (40, 4, 4), (0, 0, 0), "nm"),
        ({"voxel_size": [40, 4, 4], **COSEM}, (40, 4, 4), (0, 0, 0), "nm"),
        (COSEM, (5240, 4000, 4000), (0, 4000, 8000), "pm"),
        ({"pixelResolution": COSEM["pixelResolution"]}, (5240, 4000, 4000), (0, 0, 0), "pm"),
        ({"pixelResolution": {"dimensions": [1, 2, 3]}}, (3, 2, 1), (0, 0, 0), "nm"),
        ({"pixelResolution": {"dimensions": [1, 2, 3]}, "downsamplingFactors": [4, 2, 1]}, (3, 4, 4), (0, 0, 0), "nm"),
        ({"transform": {"scale": [3, 2, 1], "units": "um"}}, (3, 2, 1), (0, 0, 0), "um"),
    ],
)
def test_attributes_of_others_are_understood(
    attributes: dict[str, Any], size: tuple[int, ...], offset: tuple[int, ...], units: str
) -> None:
    layout = layout_of(attributes, SHAPE, "u1")
    assert layout.voxel_size == size
    assert layout.offset == offset
    assert set(layout.units) == {units}


@pytest.mark.parametrize(
    ("attributes", "size", "offset"),
    [
        ({"resolution": [4, 5, 40], "offset": [1, 2, 3]}, (40, 5, 4), (3, 2, 1)),
        ({"resolution": [4, 5, 40], "downsamplingFactors": [2, 2, 1]}, (40, 10, 8), (0, 0, 0)),
        ({"voxel_size": [4, 5, 40], "offset": [1, 2, 3]}, (40, 5, 4), (3, 2, 1)),
        ({"voxel_size": [40, 5, 4], "offset": [3, 2, 1], "axis_names": ["z", "y", "x"]}, (40, 5, 4), (3, 2, 1)),
        ({"voxel_size": [4, 5, 40], "offset": [1, 2, 3], "axis_names": ["x", "y", "z"]}, (40, 5, 4), (3, 2, 1)),
        ({"transform": {"axes": ["x", "y", "z"], "scale": [4, 5, 40], "translate": [1, 2, 3]}}, (40, 5, 4), (3, 2, 1)),
        ({"transform": {"axes": ["z", "y", "x"], "scale": [40, 5, 4], "translate": [3, 2, 1]}}, (40, 5, 4), (3, 2, 1)),
        ({"transform": {"scale": [4, 5, 40], "translate": [1, 2, 3]}}, (40, 5, 4), (3, 2, 1)),
        ({"pixelResolution": {"dimensions": [4, 5, 40]}}, (40, 5, 4), (0, 0, 0)),
    ],
)
def test_lists_of_n5_count_from_x_unless_they_are_named(
    attributes: dict[str, Any], size: tuple[int, ...], offset: tuple[int, ...]
) -> None:
    layout = layout_of(attributes, SHAPE, "u1", is_reversed=True)
    assert layout.voxel_size == size
    assert layout.offset == offset
    assert layout.axis_names == ("z", "y", "x")


def test_a_transform_may_tell_of_channels() -> None:
    transform = {"axes": ["c", "z", "y", "x"], "scale": [1, 3, 2, 1], "translate": [0, 30, 20, 10]}
    layout = layout_of({"transform": {**transform, "units": ["", "um", "um", "um"]}}, (2, *SHAPE), "u1")
    assert layout.types == ("channel", "space", "space", "space")
    assert layout.roi == Roi((30, 20, 10), (18, 16, 10))
    turned = {"axes": ["x", "y", "z", "c"], "order": "F", "scale": [1, 2, 3, 1], "translate": [10, 20, 30, 0]}
    assert layout_of({"transform": turned}, (2, *SHAPE), "u1").roi == layout.roi


def test_names_of_the_format_are_used_where_attributes_have_none() -> None:
    assert layout_of({}, SHAPE, "u1", dimension_names=("y", "x", "c")).types == ("space", "space", "channel")
    assert layout_of({}, SHAPE, "u1", dimension_names=(None, "y", "x")).axis_names == ("z", "y", "x")
    assert layout_of({"_ARRAY_DIMENSIONS": ["t", "y", "x"]}, SHAPE, "u1").types == ("time", "space", "space")
    named = {"axis_names": ["a", "b", "c^"], "voxel_size": [2, 3]}
    assert layout_of(named, SHAPE, "u1", dimension_names=("z", "y", "x")).axis_names == ("a", "b", "c")


def test_what_the_caller_says_counts_more() -> None:
    layout = layout_of(COSEM, SHAPE, "u1", voxel_size=(4, 4, 4), offset=(0, 0, 0), units="um", axis_names="abd")
    assert layout == Layout.of(SHAPE, "u1", voxel_size=(4, 4, 4), units="um", axis_names="abd")
    assert layout_of({"voxel_size": [2, 2]}, SHAPE, "u1", types=("space", "space", "channel")).roi == Roi(
        (0, 0), (12, 16)
    )


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"voxel_size": "fine"}, "voxel size 'fine' is no finite number"),
        ({"voxel_size": [4, None, 4]}, "voxel size None is no number"),
        ({"voxel_size": [4, 0, 4]}, "is not positive"),
        ({"voxel_size": [4, 4, 4, 4]}, r"voxel_size \(4, 4, 4, 4\) with 4, data with 3 axes"),
        ({"voxel_size": {"x": 1}}, "voxel size 'x' is no finite number"),
        ({"voxel_size": [4, 4], "offset": [1, 2, 3]}, "physical dimensions differ"),
        ({"voxel_size": [4, 4, 4], "units": ["nm"]}, "units .* 3 are due"),
        ({"axis_names": ["y", "x"]}, r"name 2 axes, \('y', 'x'\), but the array has shape \(6, 8, 10\)"),
        ({"voxel_size": [4, 4, 4], "types": ["space", "space", "spice"]}, "'spice' is none of"),
        ({"transform": {"axes": ["y", "x"], "scale": [1, 2, 3]}}, "one entry for each axis"),
        ({"resolution": [1, 2, 3], "downsamplingFactors": [1]}, "differ in their dimensions"),
    ],
)
def test_attributes_that_do_not_fit_are_refused(attributes: dict[str, Any], message: str) -> None:
    with pytest.raises(ArrayError, match=message):
        layout_of(attributes, SHAPE, np.uint8)


def test_only_bellis_own_words_say_the_place_of_a_level_by_itself() -> None:
    assert says_layout({"voxel_size": [1]})
    assert not says_layout(COSEM)
    assert not says_layout({})
