"""Block by block is as all at once: filters of SciPy, on whole arrays and on blocks."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from scipy import ndimage

from bellis import Array, Coordinate, Roi, ops

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Run

pytestmark = pytest.mark.slow

DTYPES = ("bool", "uint8", "int16", "uint64", "float32", "float64")


@dataclass
class Filter:
    """A filter that looks ``radius`` voxels far, along the physical axes only."""

    name: str
    radius: int

    def at(self, mode: str, cval: float, channels: int) -> Callable[[Any], Any]:
        size = 2 * self.radius + 1
        options: dict[str, Any] = {"mode": mode, "cval": cval}
        if self.name == "gaussian":
            return functools.partial(gaussian, radius=self.radius, channels=channels, **options)
        name = {"median": "median_filter", "maximum": "maximum_filter"}[self.name]
        return functools.partial(of_size, name=name, size=size, channels=channels, **options)


def gaussian(voxels: Any, *, radius: int, channels: int, mode: str, cval: float) -> Any:
    sigma = (0,) * channels + (0.8,) * (voxels.ndim - channels)
    wide = voxels.astype("float64")
    return ndimage.gaussian_filter(wide, sigma, mode=mode, cval=cval, truncate=radius / 0.8).astype(voxels.dtype)


def of_size(voxels: Any, *, name: str, size: int, channels: int, mode: str, cval: float) -> Any:
    sizes = (1,) * channels + (size,) * (voxels.ndim - channels)
    return getattr(ndimage, name)(voxels, size=sizes, mode=mode, cval=cval)


@dataclass
class Case:
    voxels: Any
    channels: int
    voxel_size: Coordinate
    offset: Coordinate
    block_shape: Coordinate
    context: Coordinate
    filter: Filter


@st.composite
def cases(draw: st.DrawFn) -> Case:
    dims = draw(st.integers(1, 4))
    most = {1: 40, 2: 14, 3: 7, 4: 4}[dims]

    def some(low: int, high: int) -> Coordinate:
        return Coordinate(draw(st.lists(st.integers(low, high), min_size=dims, max_size=dims)))

    channels = draw(st.integers(0, 1)) if dims < 4 else 0
    shape = (2,) * channels + tuple(some(1, most))
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    random = np.random.default_rng(draw(st.integers(0, 1000)))
    high = 2 if dtype.kind == "b" else 100
    filter_ = Filter(draw(st.sampled_from(["gaussian", "median", "maximum"])), draw(st.integers(0, 2)))
    return Case(
        random.integers(0, high, shape).astype(dtype),
        channels,
        some(1, 5),
        some(-50, 50),
        some(1, most),
        some(filter_.radius, filter_.radius + 2),
        filter_,
    )


def arrays(case: Case) -> tuple[Array, Array]:
    def around(voxels: Any) -> Array:
        return Array(voxels, voxel_size=case.voxel_size, offset=case.offset)

    return around(case.voxels), around(np.zeros_like(case.voxels))


@settings(max_examples=60)
@given(cases(), st.sampled_from(["reflect", "nearest", "constant", "mirror"]))
def test_with_smaller_arrays_at_the_edge_a_filter_keeps_its_own_mode(run: Run, case: Case, mode: str) -> None:
    image, output = arrays(case)
    fn = case.filter.at(mode, 1, case.channels)
    run(ops.map(fn, image, output, block_shape=case.block_shape, context=case.context))
    assert_array_equal(output.data, fn(case.voxels))


@settings(max_examples=60)
@given(cases(), st.sampled_from(["reflect", "nearest", "constant"]), st.integers(0, 1))
def test_edges_are_filled_as_scipy_fills_them(run: Run, case: Case, edge: Any, constant: int) -> None:
    image, output = arrays(case)
    fn = case.filter.at("wrap", 0, case.channels)  # a mode that shows if it ever sees an edge of a block
    task = ops.map(fn, image, output, block_shape=case.block_shape, context=case.context, edge=edge, constant=constant)
    run(task)
    assert_array_equal(output.data, case.filter.at(edge, constant, case.channels)(case.voxels))


@settings(max_examples=50)
@given(cases(), st.data())
def test_a_view_as_output_gets_that_part_of_the_whole(run: Run, case: Case, data: st.DataObject) -> None:
    image, output = arrays(case)
    shape = case.voxels.shape[case.channels :]
    begin = Coordinate(data.draw(st.integers(0, n - 1)) for n in shape)
    extent = Coordinate(data.draw(st.integers(1, n - b)) for n, b in zip(shape, begin, strict=True))
    part = Roi(case.offset + begin * case.voxel_size, extent * case.voxel_size)
    fn = case.filter.at("nearest", 0, case.channels)
    run(ops.map(fn, image, output[part], block_shape=case.block_shape, context=case.context))
    expected = Array(np.zeros_like(case.voxels), voxel_size=case.voxel_size, offset=case.offset)
    expected[part] = Array(fn(case.voxels), voxel_size=case.voxel_size, offset=case.offset)[part]
    assert_array_equal(output.data, expected.data)


def coarser_sum(fine: Any, coarse: Any, *, factor: int) -> Any:
    for axis in range(fine.ndim):
        coarse = coarse.repeat(factor, axis)
    return fine + coarse[tuple(map(slice, fine.shape))]


@settings(max_examples=50)
@given(
    st.integers(1, 3), st.integers(1, 3), st.integers(1, 30), st.integers(1, 4), st.integers(0, 2), st.integers(-9, 9)
)
@example(dims=2, factor=2, length=7, block=1, context=1, offset=0)
def test_inputs_of_different_voxel_sizes_are_read_at_the_same_place(
    run: Run, dims: int, factor: int, length: int, block: int, context: int, offset: int
) -> None:
    shape = (length,) + (5,) * (dims - 1)
    fine_voxels = np.arange(np.prod(shape)).reshape(shape)
    coarse_shape = tuple(-(-n // factor) for n in shape)
    coarse_voxels = np.arange(np.prod(coarse_shape)).reshape(coarse_shape) * 1000
    begin, fine_size, coarse_size = (offset,) * dims, (3,) * dims, (3 * factor,) * dims
    fine = Array(fine_voxels, voxel_size=fine_size, offset=begin)
    coarse = Array(coarse_voxels, voxel_size=coarse_size, offset=begin)
    output = Array(np.zeros(shape, int), voxel_size=fine_size, offset=begin)
    fn = functools.partial(coarser_sum, factor=factor)
    run(ops.map(fn, [fine, coarse], output, block_shape=block * factor, context=context * factor))
    assert_array_equal(output.data, coarser_sum(fine_voxels, coarse_voxels, factor=factor))


def lowest_and_highest(voxels: Any) -> tuple[Any, Any]:
    return ndimage.minimum_filter(voxels, 3), ndimage.maximum_filter(voxels, 3)


@settings(max_examples=50)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 5), st.integers(1, 3))
def test_several_outputs_are_each_as_on_the_whole(run: Run, rows: int, columns: int, block: int, context: int) -> None:
    voxels = np.random.default_rng(rows * columns).integers(0, 99, (rows, columns))
    outputs = [Array(np.zeros_like(voxels)), Array(np.zeros_like(voxels))]
    run(ops.map(lowest_and_highest, Array(voxels), outputs, block_shape=block, context=context))
    for output, expected in zip(outputs, lowest_and_highest(voxels), strict=True):
        assert_array_equal(output.data, expected)


@pytest.mark.integration
@pytest.mark.parametrize("edge", ["shrink", "reflect"])
def test_worker_processes_write_on_disk_what_the_whole_array_gives(run: Run, tmp_path: Any, edge: Any) -> None:
    voxels = np.random.default_rng(3).integers(0, 255, (70, 50, 60)).astype("uint8")
    image = Array(voxels, voxel_size=(4, 2, 2), offset=(8, -2, 0))
    fn = functools.partial(ndimage.gaussian_filter, sigma=1.5, truncate=2)
    task = ops.map(fn, image, tmp_path / "smooth.zarr", block_shape=(16, 32, 20), context=3, edge=edge)
    run(task, "local", workers=2)
    assert_array_equal(ops.blocks.as_input(tmp_path / "smooth.zarr").to_ndarray(), fn(voxels))
