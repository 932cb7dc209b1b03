"""Where the blocks of a task are, what they touch, and how they may be cut. No I/O."""

from __future__ import annotations

import os
from math import lcm, prod
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bellis.errors import GeometryError, TaskError
from bellis.geometry import Coordinate
from bellis.geometry.coordinate import broadcast
from bellis.ops.safety import Lattice, check_chunks, is_safe, safe_block

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bellis.arrays import Array
    from bellis.geometry import CoordinateLike, Roi

BLOCK_VOXELS = 128**3
"""About the number of voxels in a block that bellis picks."""


class Frame(NamedTuple):
    """The region of a task, and the arrays that its blocks touch; all of them in one space."""

    name: str
    """Id of the task."""
    roi: Roi
    """What all blocks write together."""
    reads: tuple[Array, ...]
    """Arrays that are read."""
    writes: tuple[Array, ...]
    """Arrays that are written, each a dataset of its own."""

    @classmethod
    def of(cls, name: str, reads: Sequence[Array], writes: Sequence[Array], total: Roi | None) -> Frame:
        """Check that the arrays fit each other.

        Raises
        ------
        TaskError
            If axes or units differ, a dataset is written and read, or there is nothing to do.
        """
        first = (*writes, *reads)[0]
        for array in (*writes, *reads):
            if array.dims != first.dims or array.units != first.units:
                raise TaskError(
                    f"task {name!r}: arrays lie in one space, but {name_of(array)} has the physical axes "
                    f"{_axes(array)}, and {name_of(first)} {_axes(first)}: open them with the same unit="
                )
        roi = first.roi if total is None else total
        if roi.empty:
            raise TaskError(f"task {name!r}: {name_of(first)} has the empty region {roi}: there is nothing to do")
        if not roi.shape.is_multiple_of(first.voxel_size):
            raise TaskError(f"task {name!r}: {roi} is not a whole number of voxels of {first.voxel_size}")
        everything = [*writes, *reads]
        for k, output in enumerate(writes):
            if any(is_same_data(output, other) for other in everything[k + 1 :]):
                raise TaskError(
                    f"task {name!r}: {name_of(output)} would be written while it is read or written as another array: "
                    "blocks would see their neighbours' output; pass an output of its own"
                )
        return cls(name, roi, tuple(reads), tuple(writes))

    @property
    def dims(self) -> int:
        """Number of physical axes."""
        return self.roi.dims

    @property
    def first(self) -> Array:
        """The array in whose voxels blocks are counted: the first output, or input."""
        return (*self.writes, *self.reads)[0]

    @property
    def voxel_size(self) -> Coordinate:
        """Voxel size of the first array."""
        return self.first.voxel_size

    def lattices(self, *, is_parallel: bool) -> list[list[Lattice]]:
        """Return, per axis, where blocks may be parted: between voxels of each array, and chunks of each output."""
        grids = [(array, array.voxel_size) for array in (*self.writes, *self.reads)]
        if is_parallel:
            grids += [(array, size) for array in self.writes if (size := write_size_of(array))]
        rows = [self._lattice(array, size) for array, size in grids]
        return [list(axis) for axis in zip(*rows, strict=True)]

    def block(self, asked: CoordinateLike | None, lattices: list[list[Lattice]]) -> Coordinate:
        """Return the shape of a block, in voxels of the first array; not larger than the whole.

        Raises
        ------
        TaskError
            If what is asked for is not positive.
        """
        whole = self.roi.shape // self.voxel_size
        if asked is not None:
            block = voxels_per_axis(f"task {self.name!r}: block_shape", asked, self.dims)
            if min(block) < 1:
                raise TaskError(f"task {self.name!r}: block_shape is {tuple(block)}, must be positive")
            return Coordinate(map(min, block, whole))
        if not self.writes and self.first.chunk_shape is not None:
            # Nothing is at stake, but whole chunks are read once.
            size = self.first.layout.spatial(self.first.chunk_shape) * self.voxel_size
            lattices = [[*axis, one] for axis, one in zip(lattices, self._lattice(self.first, size), strict=True)]
        shape = _grown(self.units(whole, lattices), whole)
        return safe_block(self.roi.shape, shape * self.voxel_size, lattices) // self.voxel_size

    def units(self, block: Coordinate, lattices: list[list[Lattice]]) -> Coordinate:
        """Return the voxels per axis of the smallest block between lattice points, or of ``block`` if that is less."""
        cells = (lcm(*(lattice.period for lattice in axis)) for axis in lattices)
        return Coordinate(map(min, Coordinate(cells) // self.voxel_size, block))

    def check(
        self, block: Coordinate, context: Coordinate, lattices: list[list[Lattice]], *, is_parallel: bool
    ) -> None:
        """Refuse blocks that would cut a voxel or share a chunk.

        Raises
        ------
        TaskError
            With the nearest block, or context, that does not.
        """
        step = block * self.voxel_size
        safe = safe_block(self.roi.shape, step, lattices) // self.voxel_size
        for array in (*self.writes, *self.reads):
            self._check_voxels(array, block, safe, context)
        for output in self.writes if is_parallel else ():
            size = write_size_of(output)
            if size is not None:
                advice = f"the nearest safe block is block_shape={tuple(safe)}; or write with Limits(num_workers=1)"
                check_chunks(
                    f"task {self.name!r}, output {name_of(output)}",
                    advice,
                    extent=self.roi.shape,
                    block=step,
                    chunks=self._lattice(output, size),
                    axis_names=physical_names(output),
                )

    def touched(self) -> dict[str, Roi]:
        """Return, by dataset, the region of all chunks that blocks write a part of."""
        found = {}
        for output in self.writes:
            origin = origin_of(output)
            whole = self.roi.shift(-origin).snap_to_grid(write_size_of(output) or output.voxel_size, "grow")
            found[_dataset(output)] = whole.shift(origin)
        return found

    def _lattice(self, array: Array, size: Coordinate) -> list[Lattice]:
        return [Lattice.of(*axis) for axis in zip(self.roi.begin, origin_of(array), size, strict=True)]

    def _check_voxels(self, array: Array, block: Coordinate, safe: Coordinate, context: Coordinate) -> None:
        own, size = self.voxel_size, array.voxel_size
        if not (self.roi.begin - array.roi.begin).is_multiple_of(size):
            raise TaskError(
                f"task {self.name!r}: the region {self.roi} of all blocks does not begin on a voxel of "
                f"{name_of(array)}, which begins at {array.roi.begin} and has voxels of {size}: choose another region"
            )
        grid = [[Lattice(0, n)] for n in size]
        if not all(is_safe(*axis) for axis in zip(self.roi.shape, block * own, grid, strict=True)):
            raise TaskError(
                f"task {self.name!r}: blocks of {tuple(block)} voxels of {own} would cut voxels of {name_of(array)}, "
                f"which are {size}: the nearest block that does not is block_shape={tuple(safe)}"
            )
        if not (context * own).is_multiple_of(size):
            steps = Coordinate(map(lcm, size, own)) // own
            raise TaskError(
                f"task {self.name!r}: a context of {tuple(context)} voxels of {own} would cut voxels of "
                f"{name_of(array)}, which are {size}: the next that does not is "
                f"context={tuple(context.ceil_division(steps) * steps)}"
            )


def name_of(array: Array) -> str:
    """Return what people call an array: its path, or what it is like."""
    path = array.path or getattr(array.data, "path", None)
    return repr(path) if path else f"in memory ({array!r})"


def is_same_data(first: Array, second: Array) -> bool:
    """Return whether two arrays, or views, have their voxels in one dataset."""
    if first.data is second.data:
        return True
    if isinstance(first.data, np.ndarray) and isinstance(second.data, np.ndarray):
        return np.may_share_memory(first.data, second.data)
    if first.path is None or second.path is None:
        return False
    return os.path.realpath(first.path) == os.path.realpath(second.path)


def _dataset(array: Array) -> str:
    """Name the dataset that an array is a view of."""
    if array.path is not None:
        return array.path if "://" in array.path else os.path.realpath(array.path)
    return f"{type(array.data).__module__}.{type(array.data).__name__} at {id(array.data):#x}"


def physical_names(array: Array) -> tuple[str, ...]:
    """Return the names of the physical axes."""
    return tuple(array.axis_names[k] for k in array.layout.physical)


def region_bytes(array: Array, extent: Coordinate) -> int:
    """Return the bytes of a region of ``extent`` world units, with all channels, and at most of the whole array."""
    voxels = zip(extent.ceil_division(array.voxel_size), array.spatial_shape, strict=True)
    channels = prod(n for n, kind in zip(array.shape, array.types, strict=True) if kind == "channel")
    return prod(min(n, most) for n, most in voxels) * channels * array.dtype.itemsize


def voxels_per_axis(what: str, value: CoordinateLike, dims: int) -> Coordinate:
    """Parse one number of voxels for all axes, or one for each.

    Raises
    ------
    TaskError
        If it is neither.
    """
    try:
        return broadcast(value, dims)
    except GeometryError as error:
        raise TaskError(
            f"{what} is {value!r}: pass one whole number of voxels, or {dims} of them, one per axis"
        ) from error


def extent_of(block_shape: CoordinateLike | None, array: Array) -> Coordinate | None:
    """Return the world units of a block that is given in voxels of an array; None if none is given."""
    return None if block_shape is None else voxels_per_axis("block_shape", block_shape, array.dims) * array.voxel_size


def write_size_of(array: Array) -> Coordinate | None:
    """Return the world units, per physical axis, that one worker at a time may write; None if it does not matter."""
    shape = array.write_shape
    return None if shape is None else array.layout.spatial(shape) * array.voxel_size


def origin_of(array: Array) -> Coordinate:
    """Return where the data of an array, or of what it is a view of, begins: there its chunks do, too."""
    return array._source.layout.offset  # noqa: SLF001  # known to no public name


def _grown(unit: Coordinate, whole: Coordinate) -> Coordinate:
    """Double a block where it is shortest, as long as it has no more than `BLOCK_VOXELS`."""
    shape = list(unit)
    while True:
        longer = [(n, k, min(2 * n, most)) for k, (n, most) in enumerate(zip(shape, whole, strict=True)) if n < most]
        longer = [(n, k, m) for n, k, m in longer if prod(shape) // n * m <= BLOCK_VOXELS]
        if not longer:
            return Coordinate(shape)
        _, axis, shape[axis] = min(longer)


def _axes(array: Array) -> str:
    named = zip(physical_names(array), array.units, strict=True)
    return f"({', '.join(f'{name} [{unit}]' for name, unit in named)})"
