"""Basins of a boundary map: which voxels lead up to which place in the middle of a cell.

The way of each voxel is decided by what is around it alone, so that blocks with enough context find the same basins. A
flood that is ordered by height, as in `skimage.segmentation.watershed`, gives nearly the same, and takes four times as
long.
"""

from __future__ import annotations

from itertools import pairwise, product
from math import prod
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt

    Heights = npt.NDArray[np.int16]
    Mask = npt.NDArray[np.bool_]
    Places = npt.NDArray[np.int64]

TOP = 2**14
"""Height of voxels that are as far from a boundary as is looked at; -TOP is as far within one."""
TRUNCATE = 3.0
"""Standard deviations at which a Gaussian ends."""


def heights(
    boundary: Mask, voxel_size: Sequence[float], *, distance: float, sigma: float, in_sections: bool
) -> Heights:
    """Return how far voxels are from boundaries; those within a boundary, below 0, from what is not.

    Parameters
    ----------
    boundary
        Where boundaries are.
    voxel_size
        Per axis, in the units of ``distance``.
    distance
        What is further counts as this far.
    sigma
        Standard deviation of the Gaussian that smooths distances, in the same units; 0 for none.
    in_sections
        Whether sections across the first axis have nothing to do with each other.

    Returns
    -------
    numpy.ndarray
        From -TOP to TOP, in proportion to the distance.
    """
    from scipy import ndimage

    if in_sections:
        kept = [heights(each, voxel_size[1:], distance=distance, sigma=sigma, in_sections=False) for each in boundary]
        return np.stack(kept)
    if boundary.all() or not boundary.any():
        return np.full(boundary.shape, -TOP if boundary.any() else TOP, np.int16)
    far = ndimage.distance_transform_edt(~boundary, sampling=voxel_size)
    far -= ndimage.distance_transform_edt(boundary, sampling=voxel_size)
    far = np.clip(far, -distance, distance, out=far).astype(np.float32)
    if sigma:
        far = ndimage.gaussian_filter(far, [sigma / size for size in voxel_size], truncate=TRUNCATE)
    # Rounded, so that what should be level is: sums of floats are not.
    levels: Heights = np.rint(far * np.float32(TOP / distance)).astype(np.int16)
    return levels


def ascended(height: Heights, axes: Sequence[int]) -> npt.NDArray[np.int32]:
    """Follow each voxel to the end of its way up, on which each voxel leads to the highest of its neighbours.

    Parameters
    ----------
    height
        Fewer than 2^31 voxels.
    axes
        Along these, voxels that share a face are neighbours.

    Returns
    -------
    numpy.ndarray
        Index of the end, which has no higher neighbour, for each voxel in C order; shape (n,).
    """
    highest, step = height.copy(), np.zeros(height.shape, np.int32)
    for axis in axes:
        before, after = _sides(height.ndim, axis)
        stride = prod(height.shape[axis + 1 :])
        for here, there, way in ((after, before, -stride), (before, after, stride)):
            is_higher = height[there] > highest[here]
            np.copyto(highest[here], height[there], where=is_higher)
            np.copyto(step[here], np.int32(way), where=is_higher)
    end: npt.NDArray[np.int32] = step.ravel()
    end += np.arange(len(end), dtype=np.int32)
    while True:
        further = end[end]
        if np.array_equal(further, end):
            return end
        end = further


def _sides(dims: int, axis: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Return the slices of all voxels but the last along an axis, and of all but the first."""
    before, after = [slice(None)] * dims, [slice(None)] * dims
    before[axis], after[axis] = slice(None, -1), slice(1, None)
    return tuple(before), tuple(after)


class Basins(NamedTuple):
    """Voxels, parted by the seeds that they lead up to."""

    found: npt.NDArray[np.int32]
    """Basin of each voxel, from 1; 0 where a boundary has no other way than to itself."""
    seeds: Places
    """Index of the first voxel of each basin's seed, in C order; -1 for 0."""
    joints: Places
    """Pairs of basins that belong together, shape (n, 2)."""


def basins(
    height: Heights,
    axes: Sequence[int],
    *,
    depth: float,
    cell: Sequence[int],
    begin: Sequence[int],
    own: tuple[slice, ...],
) -> Basins:
    """Part voxels by the seed that they lead up to.

    Seeds are the tops of the landscape: voxels without a higher neighbour, those that touch taken together as far as
    they are in one cell of a lattice. Seeds belong together if the pass between them is not more than ``depth`` below
    the lower one; joints tell so. A basin that is a boundary all over is a part of the one across its highest pass.

    The middle of a large cell is level, or nearly, over any distance. Because of the lattice, a block with context has
    all of a seed in view or nothing of it, so that what a voxel belongs to is decided near by.

    Parameters
    ----------
    height
        As `heights` returns it.
    axes
        Along these, voxels that share a face are neighbours.
    depth
        In the units of ``height``.
    cell
        Voxels per axis of a cell.
    begin
        Index of the first voxel in the whole array, where the lattice begins.
    own
        Where joints are looked for: between its voxels, and between them and those before it.
    """
    flat = height.ravel()
    end = ascended(height, axes)
    tops = _tops((end == np.arange(len(end), dtype=np.int32)).reshape(height.shape), axes, cell, begin)
    at = np.flatnonzero(tops)[::-1]
    first = np.full(int(tops.max(initial=0)) + 1, -1, np.int64)
    first[tops.ravel()[at]] = at  # the last one stays: the first in C order
    peaks = np.concatenate([[-TOP - 1], flat[first[1:]]]).astype(np.int64)
    found = tops.ravel()[end].reshape(height.shape)
    passes = _passes(found, height, axes, peaks, depth, own)
    is_sunken = passes.lower <= 0
    into = _absorbed(peaks, passes.select(is_sunken))
    into[peaks[into] <= 0] = 0
    kept, numbers = np.unique(np.append(0, into), return_inverse=True)
    renamed: npt.NDArray[np.int32] = numbers[1:].astype(np.int32)
    joining = passes.select(passes.is_own & ~is_sunken)
    joints = np.unique(np.sort(np.stack([renamed[joining.a], renamed[joining.b]], axis=1), axis=1), axis=0)
    return Basins(renamed[found], first[kept], joints.astype(np.int64))


def _tops(is_top: Mask, axes: Sequence[int], cell: Sequence[int], begin: Sequence[int]) -> npt.NDArray[np.int32]:
    """Return the seed of each voxel, from 1; 0 for those that are no top."""
    from scipy import ndimage

    faces = np.zeros((3,) * is_top.ndim, bool)
    for axis in axes:
        faces[tuple(slice(None) if axis == k else 1 for k in range(is_top.ndim))] = True
    tops = np.zeros(is_top.shape, np.int32)
    total = 0
    for part in _cells(is_top.shape, axes, cell, begin):
        found, count = ndimage.label(is_top[part], faces)
        found[found > 0] += total
        tops[part] = found
        total += count
    return tops


def _cells(
    shape: tuple[int, ...], axes: Sequence[int], cell: Sequence[int], begin: Sequence[int]
) -> Iterator[tuple[slice, ...]]:
    parts = []
    for axis, extent in enumerate(shape):
        cuts = range(cell[axis] - begin[axis] % cell[axis], extent, cell[axis]) if axis in axes else ()
        parts.append([slice(*ends) for ends in pairwise((0, *cuts, extent))])
    return product(*parts)


class _Passes(NamedTuple):
    """Neighbouring voxels of different basins."""

    level: Places
    """Height of the lower one."""
    lower: Places
    """Height of the lower one of both seeds."""
    a: npt.NDArray[np.int32]
    b: npt.NDArray[np.int32]
    """Basins."""
    is_own: Mask
    """Whether the second one is in a block's own part."""

    def select(self, rows: Mask) -> _Passes:
        return _Passes(self.level[rows], self.lower[rows], self.a[rows], self.b[rows], self.is_own[rows])


def _passes(
    found: npt.NDArray[np.int32],
    height: Heights,
    axes: Sequence[int],
    peaks: Places,
    depth: float,
    own: tuple[slice, ...],
) -> _Passes:
    """Return the passes by which basins belong together, or one that is a boundary all over to another one."""
    rows = []
    for axis in axes:
        before, after = _sides(height.ndim, axis)
        at = np.nonzero(found[before] != found[after])
        a, b = found[before][at], found[after][at]
        level = np.minimum(height[before][at], height[after][at]).astype(np.int64)
        lower = np.minimum(peaks[a], peaks[b])
        near = np.flatnonzero((lower - level <= depth) | (lower <= 0))
        is_own = np.ones(len(near), bool)
        for other, (places, part) in enumerate(zip(at, own, strict=True)):
            there = places[near] + int(other == axis)
            is_own &= (there >= part.start) & (there < part.stop)
        rows.append((level[near], lower[near], a[near], b[near], is_own))
    return _Passes(*(np.concatenate(column) for column in zip(*rows, strict=True)))


def _absorbed(peaks: Places, passes: _Passes) -> Places:
    """Return, for each basin, the one that absorbs it: itself, if its seed is no boundary."""
    into, peak = list(range(len(peaks))), peaks.tolist()

    def root(k: int) -> int:
        while into[k] != k:
            into[k] = k = into[into[k]]
        return k

    a, b = np.minimum(passes.a, passes.b), np.maximum(passes.a, passes.b)
    # The highest pass first; of equals, the one that comes first absorbs the other.
    for _, one, other in np.unique(np.stack([-passes.level, a, b], axis=1), axis=0).tolist():
        lower, higher = sorted((root(one), root(other)), key=lambda k: (peak[k], -k))
        if lower != higher and peak[lower] <= 0:
            into[lower] = higher
    return np.array([root(k) for k in range(len(into))])
