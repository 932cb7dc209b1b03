"""Fragments of a boundary map: the same for every shape of blocks, and one or more in each cell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.metrics import variation_of_information
from skimage.segmentation import watershed as flooded

import bellis
from bellis import Array, Roi, open_ds
from bellis.errors import ArrayError, TaskError
from bellis.ops.basins import TOP, ascended, basins, heights
from bellis.ops.watershed import watershed
from membranes import cells

if TYPE_CHECKING:
    from pathlib import Path

    from ops.conftest import Run

anywhere = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=40)


def fragments_of(boundaries: Array, folder: Path, *, dtype: str = "uint64", **options: Any) -> np.ndarray:
    output = Array(
        np.zeros(boundaries.shape, dtype), voxel_size=boundaries.voxel_size, offset=boundaries.roi.begin, units="nm"
    )
    report = bellis.run(watershed(boundaries, output, scratch=folder, **options), "inline", progress=False)
    assert report.ok, report.failures[0].error
    return output.to_ndarray()


@pytest.mark.slow
@pytest.mark.parametrize("in_sections", [False, True])
def test_blocks_with_context_have_the_fragments_of_the_whole_array(tmp_path: Path, in_sections: bool) -> None:
    walls, _ = cells((16, 64, 64), 40)
    source = Array(walls, voxel_size=(2, 1, 1), offset=(-8, 3, 0))
    options: dict[str, Any] = {"max_distance": 4, "in_sections": in_sections}
    whole = fragments_of(source, tmp_path, block_shape=(16, 64, 64), context=0, **options)
    assert len(np.unique(whole)) >= 40
    for block in ((16, 32, 32), (8, 21, 40)):
        found = fragments_of(source, tmp_path, block_shape=block, **options)
        cut, joined = variation_of_information(whole.astype(int), found.astype(int))
        assert cut < 0.3
        assert joined < 1e-9
        further = (0 if in_sections else 10, 24, 24)
        np.testing.assert_array_equal(
            fragments_of(source, tmp_path, block_shape=block, context=further, **options), whole
        )


@st.composite
def landscapes(draw: st.DrawFn) -> tuple[np.ndarray, tuple[int, ...], bool]:
    dims = draw(st.integers(1, 3))
    shape = draw(st.tuples(*[st.integers(1, {1: 60, 2: 20, 3: 10}[dims])] * dims))
    noise = np.random.default_rng(draw(st.integers(0, 2**32))).random(shape)
    smooth = ndimage.gaussian_filter(noise, draw(st.sampled_from([0, 1, 2])))
    walls = smooth > np.quantile(smooth, draw(st.sampled_from([0.3, 0.6, 0.9, 1.0])))
    return walls, tuple(draw(st.integers(1, n)) for n in shape), draw(st.booleans()) and dims > 1


@pytest.mark.slow
@anywhere
@given(landscapes())
@example((np.zeros((3, 7), bool), (2, 2), False))
@example((np.ones((3, 7), bool), (2, 2), True))
@example((np.indices((9, 9)).sum(0) % 4 == 0, (4, 5), False))
def test_blocks_that_see_everything_have_the_fragments_of_the_whole_array(
    tmp_path: Path, landscape: tuple[np.ndarray, tuple[int, ...], bool]
) -> None:
    walls, block, in_sections = landscape
    options: dict[str, Any] = {"max_distance": 2, "in_sections": in_sections}
    whole = fragments_of(Array(walls), tmp_path, block_shape=walls.shape, context=0, **options)
    blockwise = fragments_of(Array(walls), tmp_path, block_shape=block, context=max(walls.shape), **options)
    np.testing.assert_array_equal(blockwise, whole)
    numbers = np.unique(whole[whole > 0]).astype(np.int64) - 1
    # The number of a fragment is the place of a voxel of its own, which is no boundary.
    np.testing.assert_array_equal(whole.ravel()[numbers], numbers + 1)


def test_no_fragment_reaches_over_two_cells(tmp_path: Path) -> None:
    walls, truth = cells((60, 60), 25)
    found = fragments_of(Array(walls), tmp_path, max_distance=6, block_shape=20)
    within = ~walls
    pairs = np.unique(np.stack([found[within], truth[within]]), axis=1)
    assert len(np.unique(pairs[0])) == pairs.shape[1]
    assert np.all(found > 0)
    assert len(np.unique(found)) < 2 * len(np.unique(truth[within]))


def test_no_fragment_reaches_over_two_sections(tmp_path: Path) -> None:
    walls, _ = cells((4, 30, 30), 10)
    found = fragments_of(Array(walls), tmp_path, in_sections=True, block_shape=(2, 30, 16))
    in_section = [set(np.unique(section).tolist()) - {0} for section in found]
    assert sum(map(len, in_section)) == len(set.union(*in_section))
    alone = fragments_of(Array(walls[1]), tmp_path)
    np.testing.assert_array_equal(found[1], alone + 30 * 30)


def test_basins_are_nearly_those_of_a_flood_from_the_same_seeds() -> None:
    walls, _ = cells((100, 100), 40)
    height = heights(walls, (1, 1), distance=8, sigma=1, in_sections=False)
    found, seeds, _ = basins(
        height, (0, 1), depth=TOP / 8, cell=(100, 100), begin=(0, 0), own=(slice(0, 100), slice(0, 100))
    )
    markers = np.zeros(walls.shape, np.int32)
    markers.ravel()[seeds[1:]] = np.arange(1, len(seeds))
    assert np.mean(flooded(-height.astype(int), markers) == found) > 0.97


def test_each_voxel_leads_up_to_the_highest_of_its_neighbours() -> None:
    height = np.array([[1, 2, 3, 2], [5, 1, 1, 9]], np.int16)
    assert ascended(height, (0, 1)).tolist() == [4, 2, 2, 7, 4, 4, 7, 7]
    assert ascended(height, (1,)).tolist() == [2, 2, 2, 2, 4, 4, 7, 7]


@pytest.mark.parametrize("cell", [2, 7])
def test_hills_are_one_if_there_is_hardly_a_dip_between_them(cell: int) -> None:
    height, own = np.array([0, 9, 7, 8, 2, 6, 0], np.int16), (slice(0, 7),)
    for depth, joints in ((0.5, []), (1, [[1, 3]]), (4, [[1, 3], [3, 5]])):
        found = basins(height, (0,), depth=depth, cell=(cell,), begin=(0,), own=own)
        assert found.seeds[found.found].tolist() == [1, 1, 1, 3, 3, 5, 5]
        assert found.seeds[found.joints].tolist() == joints
    level = basins(np.full(7, 5, np.int16), (0,), depth=0, cell=(cell,), begin=(0,), own=own)
    assert level.seeds.tolist() == [-1, *range(0, 7, cell)]
    assert len(level.joints) == len(level.seeds) - 2


def test_what_is_a_boundary_all_over_is_a_part_of_its_highest_neighbour() -> None:
    height, own = np.array([8, -4, -1, -3, 7], np.int16), (slice(0, 5),)
    found = basins(height, (0,), depth=0, cell=(9,), begin=(0,), own=own)
    assert found.seeds[found.found].tolist() == [0, 0, 4, 4, 4]
    assert not len(found.joints)
    assert not basins(-abs(height), (0,), depth=0, cell=(9,), begin=(0,), own=own).found.any()


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64"])
def test_boundary_maps_of_all_types_have_the_same_fragments(tmp_path: Path, dtype: str) -> None:
    walls, _ = cells((30, 30), 8)
    scale = np.iinfo(dtype).max if dtype.startswith("u") else 1
    other = np.where(walls, scale, scale // 3).astype(dtype)
    expected = fragments_of(Array(walls), tmp_path)
    np.testing.assert_array_equal(fragments_of(Array(other), tmp_path, block_shape=16, context=30), expected)
    assert len(np.unique(fragments_of(Array(other), tmp_path, threshold=0.2))) < len(np.unique(expected)) or (
        scale // 3 == 0
    )


def test_outside_of_a_mask_is_nothing(tmp_path: Path) -> None:
    walls, _ = cells((30, 30), 8)
    inside = np.zeros((30, 30), np.uint8)
    inside[5:25, 3:] = 7
    found = fragments_of(Array(walls), tmp_path, mask=Array(inside), block_shape=11)
    np.testing.assert_array_equal(found > 0, inside > 0)


def test_nothing_but_boundaries_are_no_fragments_and_no_boundary_is_one(tmp_path: Path) -> None:
    assert not fragments_of(Array(np.ones((5, 5), bool)), tmp_path, block_shape=2).any()
    assert (fragments_of(Array(np.zeros((40, 50), bool)), tmp_path, block_shape=16) == 1).all()


def test_fragments_at_a_path_are_an_image_with_the_voxels_of_the_map(tmp_path: Path, run: Run) -> None:
    walls, _ = cells((20, 20), 5)
    source = Array(walls, voxel_size=(8, 4), offset=(16, 0))
    run(watershed(source, tmp_path / "cells.zarr", dtype="uint32", block_shape=10))
    made = open_ds(tmp_path / "cells.zarr")
    assert (made.dtype, made.voxel_size, made.roi) == (np.uint32, (8, 4), Roi((16, 0), (160, 80)))
    assert sorted(path.name for path in tmp_path.rglob("*watershed*")) == [
        path.name for path in tmp_path.rglob("*.done")
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 1}, "threshold is 1, must be at least 0 and below 1"),
        ({"threshold": -0.1}, "threshold is -0.1"),
        ({"threshold": float("nan")}, "threshold is nan"),
        ({"max_distance": 0.5}, "max_distance is 0.5, must be at least 1"),
        ({"sigma": -1}, "sigma is -1, must be at least 0"),
        ({"depth": float("inf")}, "depth is inf"),
        ({"context": -1}, "must not be negative"),
        ({"dtype": "int64"}, "fragments are unsigned integers"),
        ({"dtype": "uint8"}, "numbers up to 400, the number of voxels"),
    ],
)
def test_what_is_out_of_range_is_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(TaskError, match=message):
        watershed(Array(np.zeros((20, 20), bool)), tmp_path / "cells.zarr", **options)
    assert not list(tmp_path.iterdir())


def test_what_is_no_boundary_map_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArrayError, match=r"has dtype int8, but boundary maps are bool"):
        watershed(Array(np.zeros((4, 4), np.int8)), tmp_path / "cells.zarr")
    with pytest.raises(ArrayError, match="has channels"):
        watershed(Array(np.zeros((2, 4, 4)), voxel_size=(1, 1)), tmp_path / "cells.zarr")
    with pytest.raises(ArrayError, match="does not have the voxels of"):
        watershed(Array(np.zeros((4, 4))), tmp_path / "cells.zarr", mask=Array(np.zeros((4, 4)), voxel_size=(2, 2)))
    with pytest.raises(TaskError, match="in_sections=True needs two axes"):
        watershed(Array(np.zeros(4)), tmp_path / "cells.zarr", in_sections=True)


@pytest.mark.parametrize("value", [np.nan, -0.5, 1.5, np.inf])
def test_a_value_that_is_not_from_0_to_1_fails_with_its_place(tmp_path: Path, value: float) -> None:
    image = np.zeros((4, 6), np.float32)
    image[3, 4] = value
    task = watershed(Array(image), Array(np.zeros((4, 6), np.uint64)), block_shape=3, scratch=tmp_path)
    report = bellis.run(task, "inline", progress=False)
    assert not report.ok
    assert rf"has {value} at voxel (3, 4), and 1 such values" in str(report.failures[0].error)


def test_blocks_that_need_too_much_memory_are_refused(tmp_path: Path) -> None:
    walls = Array(np.zeros((200, 200, 200), bool))
    limits = bellis.ops.Limits(max_memory=400_000_000)
    with pytest.raises(TaskError, match=r"a worker would need about \d+ MB .* pass block_shape="):
        watershed(walls, Array(np.zeros(walls.shape, np.uint64)), block_shape=150, limits=limits)
