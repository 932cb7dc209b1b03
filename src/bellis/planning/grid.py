"""The grid of a task's blocks: index to region and region to indices, in O(1) memory.

A block is known by its linear index in C order. Every question can be asked for one index (plain integers, fast for
a worker that walks through its blocks) or for an array of them (NumPy, fast for the scheduler).
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from bellis.errors import GeometryError, TaskError
from bellis.geometry import Coordinate, Roi
from bellis.tasks.block import Block, cantor_coordinate, cantor_number

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bellis.tasks.task import Fit, Task

Ints: TypeAlias = "NDArray[np.int64]"


class BlockGrid:
    """The blocks of one task.

    Parameters
    ----------
    total_roi
        Region to cover, context included.
    read_roi, write_roi
        Regions of one block; only their position relative to each other matters.
    fit
        ``valid`` leaves out blocks that do not fit, ``overhang`` keeps them, ``shrink`` clips them to the total.
    task_id
        Name of the task, for the blocks' ids.

    Attributes
    ----------
    counts
        Blocks per axis.
    num_blocks
        Blocks in all.
    write_shape
        Shape of one write region, which is the step of the grid.
    total_write_roi
        The total region without the context.
    """

    __slots__ = (
        "_read_begin",
        "_read_shape",
        "_strides",
        "_total_end",
        "_write_begin",
        "_write_end",
        "context_begin",
        "context_end",
        "counts",
        "fit",
        "num_blocks",
        "task_id",
        "total_roi",
        "total_write_roi",
        "write_shape",
    )

    def __init__(self, total_roi: Roi, read_roi: Roi, write_roi: Roi, fit: Fit = "valid", task_id: str = "") -> None:
        if not total_roi.dims == read_roi.dims == write_roi.dims:
            raise GeometryError(
                f"ranks differ: total_roi has {total_roi.dims}, read_roi {read_roi.dims}, write_roi {write_roi.dims}"
            )
        if fit not in {"valid", "overhang", "shrink"}:
            raise TaskError(f"fit is {fit!r}, must be one of valid, overhang, shrink")
        self.task_id = task_id
        self.total_roi = total_roi
        self.fit: Fit = fit
        self.context_begin: Coordinate = write_roi.begin - read_roi.begin
        self.context_end: Coordinate = read_roi.end - write_roi.end
        if any(c < 0 for c in (*self.context_begin, *self.context_end)):
            raise GeometryError(f"read_roi {read_roi} does not contain write_roi {write_roi}")
        self.write_shape: Coordinate = write_roi.shape
        self.total_write_roi: Roi = total_roi.grow(-self.context_begin, -self.context_end)
        extents = self.total_write_roi.shape
        self.counts: tuple[int, ...] = tuple(
            extent // step if fit == "valid" else -(-extent // step)
            for extent, step in zip(extents, self.write_shape, strict=True)
        )
        if 0 in self.counts:
            self.counts = (0,) * len(self.counts)
        self.num_blocks = prod(self.counts)
        self._strides = tuple(prod(self.counts[axis + 1 :]) for axis in range(self.dims))
        self._read_begin = tuple(total_roi.begin)
        self._read_shape: Coordinate = read_roi.shape
        self._write_begin = tuple(self._read_begin[d] + self.context_begin[d] for d in range(self.dims))
        self._write_end = tuple(self._write_begin[d] + extents[d] for d in range(self.dims))
        self._total_end = tuple(total_roi.end)

    @classmethod
    def of(cls, task: Task) -> BlockGrid:
        """Make the grid of ``task``."""
        return cls(task.total_roi, task.read_roi, task.write_roi, task.fit, task.task_id)

    @property
    def dims(self) -> int:
        """Number of axes."""
        return len(self.counts)

    @property
    def written_end(self) -> int:
        """Where the last block stops writing along the first axis."""
        return min(self._write_begin[0] + self.counts[0] * self.write_shape[0], self._write_end[0])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BlockGrid) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[object, ...]:
        return (self.task_id, self.total_roi, self.context_begin, self.context_end, self.write_shape, self.fit)

    def __reduce__(self) -> tuple[object, ...]:
        read = Roi(self.total_roi.begin, self._read_shape)
        write = Roi(self.total_roi.begin + self.context_begin, self.write_shape)
        return BlockGrid, (self.total_roi, read, write, self.fit, self.task_id)

    def __repr__(self) -> str:
        return f"BlockGrid({self.task_id!r}, {' x '.join(map(str, self.counts))} blocks of {self.write_shape})"

    # One block -----------------------------------------------------------------------------------------------

    def coordinate(self, index: int) -> tuple[int, ...]:
        """Return the position of block ``index`` in the grid."""
        position = []
        for stride in self._strides:
            step, index = divmod(index, stride)
            position.append(step)
        return tuple(position)

    def write_roi(self, index: int) -> Roi:
        """Return the region that block ``index`` writes."""
        begin = []
        for stride, first, step in zip(self._strides, self._write_begin, self.write_shape, strict=True):
            k, index = divmod(index, stride)
            begin.append(first + k * step)
        offset = Coordinate.of(begin)
        if self.fit != "shrink":
            return Roi.of(offset, self.write_shape)
        ends = zip(begin, self.write_shape, self._write_end, strict=True)
        return Roi.of(offset, Coordinate.of([min(b + step, end) - b for b, step, end in ends]))

    def read_roi(self, index: int) -> Roi:
        """Return the region that block ``index`` reads."""
        begin = []
        for stride, first, step in zip(self._strides, self._read_begin, self.write_shape, strict=True):
            k, index = divmod(index, stride)
            begin.append(first + k * step)
        offset = Coordinate.of(begin)
        if self.fit != "shrink":
            return Roi.of(offset, self._read_shape)
        ends = zip(begin, self._read_shape, self._total_end, strict=True)
        return Roi.of(offset, Coordinate.of([min(b + extent, end) - b for b, extent, end in ends]))

    def number(self, index: int) -> int:
        """Return daisy's number of block ``index``."""
        corner = zip(self.coordinate(index), self.context_begin, self.write_shape, strict=True)
        return cantor_number([k + context // step for k, context, step in corner])

    def index_of(self, number: int) -> int:
        """Return the index of the block that daisy numbers ``number``.

        Raises
        ------
        GeometryError
            If the grid has no such block.
        """
        index = 0
        position = cantor_coordinate(number, self.dims)
        for axis, (k, context, step) in enumerate(zip(position, self.context_begin, self.write_shape, strict=True)):
            own = k - context // step
            if not 0 <= own < self.counts[axis]:
                raise GeometryError(f"task {self.task_id!r} has no block number {number} ({self.num_blocks} blocks)")
            index += own * self._strides[axis]
        return index

    def index_at(self, write_begin: Coordinate) -> int:
        """Return the index of the block whose write region begins at ``write_begin``.

        Raises
        ------
        GeometryError
            If no block begins there.
        """
        index = 0
        for axis, (begin, first, step) in enumerate(zip(write_begin, self._write_begin, self.write_shape, strict=True)):
            k, rest = divmod(begin - first, step)
            if rest or not 0 <= k < self.counts[axis]:
                raise GeometryError(f"task {self.task_id!r} has no block that writes from {write_begin}")
            index += k * self._strides[axis]
        return index

    def block(self, index: int) -> Block:
        """Return block ``index``."""
        if not 0 <= index < self.num_blocks:
            raise GeometryError(f"task {self.task_id!r} has {self.num_blocks} blocks, no block {index}")
        return Block.at(self, index)

    # Many blocks ---------------------------------------------------------------------------------------------

    def coordinates(self, indices: Ints) -> list[Ints]:
        """Return the positions of blocks, one array per axis."""
        axes = []
        rest = indices
        for stride in self._strides[:-1]:
            position = rest // stride
            rest = rest - position * stride
            axes.append(position)
        axes.append(rest)
        return axes

    def indices(self, coordinates: list[Ints]) -> Ints:
        """Return the linear indices of positions that are given per axis."""
        index = coordinates[0] * self._strides[0]
        for position, stride in zip(coordinates[1:], self._strides[1:], strict=True):
            index = index + position * stride
        return index

    @property
    def strides(self) -> tuple[int, ...]:
        """Steps of the linear index along each axis."""
        return self._strides

    def write_boxes(self, indices: Ints) -> Ints:
        """Return the regions that blocks write, shape (n, 2, dims): [:, 0] begin, [:, 1] end."""
        return self._boxes(indices, self._write_begin, self.write_shape, self._write_end)

    def read_boxes(self, indices: Ints) -> Ints:
        """Return the regions that blocks read, shape (n, 2, dims): [:, 0] begin, [:, 1] end."""
        return self._boxes(indices, self._read_begin, self._read_shape, self._total_end)

    def _boxes(self, indices: Ints, first: tuple[int, ...], shape: Coordinate, last: tuple[int, ...]) -> Ints:
        boxes = np.empty((len(indices), 2, self.dims), np.int64)
        for axis, position in enumerate(self.coordinates(indices)):
            begin = boxes[:, 0, axis]
            np.multiply(position, self.write_shape[axis], out=begin)
            begin += first[axis]
            np.add(begin, shape[axis], out=boxes[:, 1, axis])
        if self.fit == "shrink":
            np.minimum(boxes[:, 1], last, out=boxes[:, 1])
        return boxes

    def writers(self, boxes: Ints) -> tuple[Ints, Ints]:
        """Return the boxes of block positions whose write regions overlap ``boxes``.

        Parameters
        ----------
        boxes
            Regions, shape (n, 2, dims): [:, 0] begin, [:, 1] end.

        Returns
        -------
        low, high
            Half-open boxes of positions, each of shape (n, dims); empty where ``high <= low`` along an axis.
        """
        return self._touched(boxes, self._write_begin, self.write_shape, self._write_end)

    def readers(self, boxes: Ints) -> tuple[Ints, Ints]:
        """Return the boxes of block positions whose read regions overlap ``boxes``; as `writers`."""
        return self._touched(boxes, self._read_begin, self._read_shape, self._total_end)

    def _touched(
        self, boxes: Ints, first: tuple[int, ...], shape: Coordinate, last: tuple[int, ...]
    ) -> tuple[Ints, Ints]:
        begin, end = boxes[:, 0] - np.array(first), boxes[:, 1] - np.array(first)
        step = np.array(self.write_shape)
        low = (begin - np.array(shape)) // step + 1
        high = -(-end // step)
        np.clip(low, 0, self.counts, out=low)
        np.clip(high, 0, self.counts, out=high)
        if self.fit == "shrink":  # the last block ends where the total does
            beyond = boxes[:, 0] >= np.array(last)
            high[beyond] = low[beyond]
        high[boxes[:, 1] <= boxes[:, 0]] = 0
        return low, high
