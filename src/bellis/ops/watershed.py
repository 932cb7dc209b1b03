"""Fragments of a boundary map: what belongs to one place in the middle of a cell."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from math import ceil, isfinite, prod
from typing import TYPE_CHECKING, Any

import numpy as np

from bellis.errors import TaskError
from bellis.geometry import Coordinate
from bellis.ops.basins import TOP, TRUNCATE, basins, heights
from bellis.ops.blocks import as_input, as_output, block_task, name_of, planned
from bellis.ops.boundaries import check_boundaries, check_threshold, read_boundary
from bellis.ops.frame import extent_of, voxels_per_axis
from bellis.ops.label import connected
from bellis.ops.memory import WORKER_BYTES
from bellis.ops.relabel import compact, look_up
from bellis.ops.steps import Steps, check_no_channels, check_same_voxels, index_of, no_step

if TYPE_CHECKING:
    import os

    import numpy.typing as npt

    from bellis.arrays import Array
    from bellis.geometry import CoordinateLike
    from bellis.ops.basins import Basins
    from bellis.ops.blocks import Limits, Source
    from bellis.ops.parts import Scratch
    from bellis.tasks import Block, Pipeline

VOXEL_BYTES = 80
"""What a worker holds per voxel that it reads."""
CELL = 1
"""Extent of a cell of the lattice that parts tops, in the distance up to which boundaries are looked for."""
DISTANCE = 12
"""Default for how far distances from boundaries are looked at, in the smallest extent of a voxel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Landscape:
    """How a boundary map becomes hills and valleys; world units."""

    threshold: float
    """What is above is a boundary."""
    distance: float
    """What is further from a boundary counts as this far."""
    sigma: float
    """Standard deviation of the Gaussian that smooths distances."""
    depth: float
    """Hills are one if the pass between them is not more than this below the lower one."""
    in_sections: bool
    """Whether sections across the first axis are taken one by one."""

    @classmethod
    def of(
        cls,
        what: str,
        voxel_size: Coordinate,
        *,
        threshold: float,
        distance: float | None,
        sigma: float | None,
        depth: float | None,
        in_sections: bool,
    ) -> Landscape:
        """Fill in what is not given.

        Raises
        ------
        TaskError
            If a number is out of range.
        """
        check_threshold(what, threshold)
        if in_sections and len(voxel_size) < 2:
            raise TaskError(f"{what}: in_sections=True needs two axes or more, but there is one")
        step = min(voxel_size[1:] if in_sections else voxel_size)
        given = {
            "max_distance": DISTANCE * step if distance is None else distance,
            "sigma": step if sigma is None else sigma,
            "depth": step if depth is None else depth,
        }
        for name, value in given.items():
            if not (isfinite(value) and value >= 0) or (name == "max_distance" and value < step):
                least = f"{step}, the smallest extent of a voxel" if name == "max_distance" else "0"
                raise TaskError(f"{what}: {name} is {value!r}, must be at least {least}; it is in world units")
        return cls(
            threshold=threshold,
            distance=given["max_distance"],
            sigma=given["sigma"],
            depth=given["depth"],
            in_sections=in_sections,
        )

    def axes(self, dims: int) -> range:
        """Return the axes along which voxels are neighbours."""
        return range(int(self.in_sections), dims)

    def reach(self, voxel_size: Coordinate) -> Coordinate:
        """Return how many voxels around a voxel decide on its fragment; of all but very few of them."""
        axes = self.axes(len(voxel_size))
        world = (CELL + 1) * self.distance + max(self.distance, TRUNCATE * self.sigma)
        return Coordinate([1 + ceil(world / size) if axis in axes else 0 for axis, size in enumerate(voxel_size)])


def watershed(
    boundaries: Source,
    fragments: Source,
    *,
    threshold: float = 0.5,
    max_distance: float | None = None,
    sigma: float | None = None,
    depth: float | None = None,
    in_sections: bool = False,
    mask: Source | None = None,
    block_shape: CoordinateLike | None = None,
    context: CoordinateLike | None = None,
    dtype: npt.DTypeLike = "uint64",
    name: str = "watershed",
    scratch: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    limits: Limits | None = None,
) -> Pipeline:
    """Part a boundary map into fragments: pieces of cells, around the places that are furthest from boundaries.

    The distance from boundaries is a landscape, smoothed and cut off at a height: its hills are the middles of cells,
    boundaries are valleys. Each voxel belongs to the hill that it leads up to. Hills with hardly a dip between them are
    one. Boundaries belong to fragments too, up to the bottom of the valley.

    The number of a fragment is 1 + the index, in the whole array in C order, of the first voxel of its tops, which are
    level. Tops are parted by a lattice that is the same for all blocks. So blocks with context have the same name for
    each part of a top, without asking each other; which parts belong together is known where they touch, and one
    worker joins them, as of `label`. The result is that of the whole array but for voxels whose way up, on a ridge,
    leads further than the context: of a stack of electron micrographs, 20 x 1024 x 1024 voxels in blocks of
    10 x 256 x 256, 0.2 % were in another fragment than of the whole array in one block; with 64 voxels of context,
    none.

    Parameters
    ----------
    boundaries
        Array without channels, or the path of one: bool, unsigned integers (of which the largest is 1), or floats from
        0 to 1.
    fragments
        Array of unsigned integers with the voxels of ``boundaries``, or the path of one to make.
    threshold
        What is above is a boundary; from 0 to below 1.
    max_distance
        The height at which hills are cut off, in world units: where cells are further from a boundary, they are level.
        Through gaps in a boundary that are wider than twice this, fragments leak. 12 of the smallest extent of a voxel
        if not given.
    sigma
        Standard deviation of the Gaussian that smooths distances, in world units; the smallest extent of a voxel if
        not given.
    depth
        Hills are one if the pass between them is not more than this below the lower one, in world units; the smallest
        extent of a voxel if not given.
    in_sections
        Take sections across the first axis one by one, for images whose sections are thick or badly aligned. No
        fragment then reaches over two sections.
    mask
        Array, or the path of one; where it is 0, fragments are 0, and it is as if there were a boundary.
    block_shape
        Voxels of a block: one number for all or one per axis. Picked if not given: whole chunks of the output, about
        128^3 voxels.
    context
        Voxels that a block reads around what it writes; three times ``max_distance``, and one, if not given.
    dtype
        Unsigned integer type of new fragments; it has to hold the number of voxels.
    name
        Of the operation; its tasks are ``name/...``, the last one is ``name``.
    scratch
        Folder for what belongs together, which all workers reach; if not given, ``.bellis/scratch`` beside the output,
        or in the working directory if that is no local path. It is removed at the end, but for a note that the
        operation is over.
    overwrite
        Replace fragments that are there and have another region, voxel size, dtype or chunks; else that is an error.
    limits
        Workers, memory, retries.

    Raises
    ------
    ArrayError
        If an array can't be opened, does not have the voxels of the boundary map, or that is none. Also in a block, if
        it has values that are not from 0 to 1.
    TaskError
        If a number is out of range, ``dtype`` does not hold the fragments' numbers, or blocks could write the same
        chunk.

    Examples
    --------
    >>> import bellis, numpy as np
    >>> from bellis import Array, ops
    >>> walls = Array(np.array([1, 0, 0, 0, 1, 0, 0, 0, 1], bool))
    >>> cells = Array(np.zeros(9, np.uint64))
    >>> bellis.run(ops.watershed(walls, cells, sigma=0), "inline", progress=False).ok
    True
    >>> cells.to_ndarray().tolist()
    [3, 3, 3, 3, 3, 7, 7, 7, 7]
    """
    what = f"task {name!r}"
    source = as_input(boundaries)
    within = None if mask is None else as_input(mask)
    check_boundaries(what, source)
    if within is not None:
        check_no_channels(what, within)
        check_same_voxels(what, source, within)
    land = Landscape.of(
        what,
        source.voxel_size,
        threshold=threshold,
        distance=max_distance,
        sigma=sigma,
        depth=depth,
        in_sections=in_sections,
    )
    check_numbers(what, planned(fragments, source, dtype), source)
    margin = land.reach(source.voxel_size) if context is None else voxels_per_axis(what, context, source.dims)
    if min(margin) < 0:
        raise TaskError(f"{what}: context is {tuple(margin)}, must not be negative")
    size = extent_of(block_shape, source)
    target = as_output(fragments, source, dtype, write_size=size, overwrite=overwrite)
    check_same_voxels(what, source, target)
    plan = functools.partial(
        block_task,
        f"{name}/blocks",
        no_step,
        reads=[source] if within is None else [source, within],
        writes=[target],
        context=margin,
        limits=limits,
        version=f"{land}",
        total=source.roi,
    )
    block = plan(block_shape=block_shape, memory_bytes=0).write_roi.shape // source.voxel_size
    seen = map(min, block + 2 * margin, source.roi.shape // source.voxel_size)
    blocks = plan(block_shape=block, memory_bytes=WORKER_BYTES + VOXEL_BYTES * prod(seen))
    steps = Steps.of(name, blocks, output=target, source=source, folder=scratch, code=_STEPS)
    kept, count = steps.scratch, steps.grid.num_blocks
    each = functools.partial(watershed_block, boundaries=source, fragments=target, mask=within, land=land, scratch=kept)
    rename = functools.partial(rename_block, fragments=target, scratch=kept)
    join = steps.once("join", functools.partial(join_seeds, blocks=count, scratch=kept))
    return steps.pipeline([steps.task("blocks", each), join, steps.task("rename", rename)], no_step)


# The steps -----------------------------------------------------------------------------------------------------------


def watershed_block(
    block: Block, *, boundaries: Array, fragments: Array, mask: Array | None, land: Landscape, scratch: Scratch
) -> None:
    """Write the fragments of one block, by the numbers of their seeds; keep which seeds belong together."""
    size = boundaries.voxel_size
    read = block.read_roi.intersect(boundaries.roi)
    boundary = read_boundary(boundaries, read, land.threshold)
    outside = None if mask is None else mask.to_ndarray(read) == 0
    if outside is not None:
        boundary |= outside
    begin = (read.begin - boundaries.roi.begin) // size
    first = (block.write_roi.begin - read.begin) // size
    own = tuple(slice(b, b + n) for b, n in zip(first, block.write_roi.shape // size, strict=True))
    found = basins_in(boundary, size, land, begin=begin, own=own)
    numbers = _numbers(found.seeds, boundary.shape, begin, boundaries.roi.shape // size)
    written = numbers.astype(fragments.dtype)[found.found[own]]
    if outside is not None:
        written[outside[own]] = 0
    fragments[block.write_roi] = written
    scratch.put("blocks", index_of(block), numbers[found.joints])


def basins_in(
    boundary: npt.NDArray[np.bool_],
    voxel_size: Coordinate,
    land: Landscape,
    *,
    begin: Coordinate,
    own: tuple[slice, ...],
) -> Basins:
    """Part an array that begins at some index of the whole one; see `bellis.ops.basins.basins`."""
    height = heights(boundary, voxel_size, distance=land.distance, sigma=land.sigma, in_sections=land.in_sections)
    cell = [max(1, round(CELL * land.distance / size)) for size in voxel_size]
    depth = land.depth * TOP / land.distance
    return basins(height, land.axes(boundary.ndim), depth=depth, cell=cell, begin=begin, own=own)


def join_seeds(block: Block, *, blocks: int, scratch: Scratch) -> None:
    """Keep the number of the fragment that each seed belongs to, if that is another one."""
    del block
    pairs = np.concatenate([scratch.get("blocks", index).reshape(-1, 2) for index in range(blocks)])
    numbers, places = np.unique(pairs, return_inverse=True)
    groups = connected(len(numbers), places.reshape(-1, 2).astype(np.int64)) - 1
    _, firsts = np.unique(groups, return_index=True)
    smallest = numbers[firsts][groups]
    is_other = smallest != numbers
    scratch.save("seeds", numbers[is_other])
    scratch.save("fragments", smallest[is_other])


def rename_block(block: Block, *, fragments: Array, scratch: Scratch) -> None:
    """Give one block the numbers of fragments in place of those of seeds; once more is the same."""
    ids, dense = compact(fragments.to_ndarray(block.write_roi))
    renamed, is_seed = look_up(ids.astype(np.uint64), scratch.load("seeds"), scratch.load("fragments"))
    if is_seed.any():
        fragments[block.write_roi] = np.where(is_seed, renamed.astype(fragments.dtype), ids)[dense]


def _numbers(
    seeds: npt.NDArray[np.int64], shape: tuple[int, ...], begin: Coordinate, whole: Coordinate
) -> npt.NDArray[np.uint64]:
    """Return the numbers of seeds: 1 + their index in the whole array; 0 for 0."""
    numbers = np.zeros(len(seeds), np.uint64)
    places = zip(np.unravel_index(seeds[1:], shape), begin, whole, strict=True)
    for at, first, extent in places:
        numbers[1:] = numbers[1:] * np.uint64(extent) + (at + first).astype(np.uint64)
    numbers[1:] += np.uint64(1)
    return numbers


_STEPS = (watershed_block, join_seeds, rename_block, heights, basins)


def check_numbers(what: str, fragments: Array, boundaries: Array) -> None:
    """Refuse an array that does not hold the numbers of fragments.

    Raises
    ------
    TaskError
        With the largest number and the dtype.
    """
    dtype: np.dtype[Any] = fragments.dtype
    if dtype.kind != "u":
        raise TaskError(f"{what}: fragments are unsigned integers, but {name_of(fragments)} has dtype {dtype}")
    voxels = prod(boundaries.roi.shape // boundaries.voxel_size)
    if voxels > np.iinfo(dtype).max:
        raise TaskError(
            f"{what}: fragments have numbers up to {voxels}, the number of voxels, which {name_of(fragments)} of dtype "
            f"{dtype} does not hold: pass dtype='uint64'"
        )
