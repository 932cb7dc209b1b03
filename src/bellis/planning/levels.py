"""Levels: sets of blocks of one task that never touch each other.

With a read/write conflict, a block must not run while a neighbour runs that writes what it reads. Blocks at the same
offset modulo a stride that is larger than the context never touch; all blocks of one offset are a level, and the
levels run one after the other, each block waiting only for its neighbours of the level before.
"""

from __future__ import annotations

from itertools import product
from math import prod
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from bellis.planning.grid import BlockGrid, Ints


class Levels:
    """The levels of a grid.

    Parameters
    ----------
    grid
        The blocks.
    conflict
        Whether blocks that touch must not run at the same time; if not, there is a single level.

    Attributes
    ----------
    strides
        Distance between two blocks of a level along each axis, in blocks.
    num_levels
        Number of levels; 0 for an empty grid.
    """

    __slots__ = ("grid", "num_levels", "strides")

    def __init__(self, grid: BlockGrid, *, conflict: bool) -> None:
        self.grid = grid
        if conflict:
            contexts = zip(grid.context_begin, grid.context_end, grid.write_shape, grid.counts, strict=True)
            self.strides = tuple(
                max(1, min(-(-(max(begin, end) + step) // step), count)) for begin, end, step, count in contexts
            )
        else:
            self.strides = (1,) * grid.dims
        self.num_levels = prod(self.strides) if grid.num_blocks else 0

    def offset(self, level: int) -> tuple[int, ...]:
        """Return the position of the first block of ``level``: the first level has the largest."""
        rest = self.num_levels - 1 - level
        offset = []
        for stride in reversed(self.strides):
            rest, position = divmod(rest, stride)
            offset.append(position)
        return tuple(reversed(offset))

    def level_of(self, coordinates: list[Ints]) -> Ints:
        """Return the level of blocks whose positions are given per axis."""
        rest = coordinates[0] % self.strides[0]
        for position, stride in zip(coordinates[1:], self.strides[1:], strict=True):
            rest = rest * stride + position % stride
        return self.num_levels - 1 - rest

    def counts(self, level: int) -> tuple[int, ...]:
        """Return how many blocks ``level`` has along each axis."""
        shape = zip(self.grid.counts, self.strides, self.offset(level), strict=True)
        return tuple(-(-(count - first) // stride) for count, stride, first in shape)

    def size(self, level: int) -> int:
        """Return how many blocks ``level`` has."""
        return prod(self.counts(level))

    def blocks(self, level: int, begin: int, end: int) -> Ints:
        """Return the indices of the blocks ``begin`` to ``end`` of ``level``, counted in C order."""
        rest = np.arange(begin, end, dtype=np.int64)
        if self.num_levels == 1:
            return rest
        index = np.zeros_like(rest)
        axes = zip(self.counts(level), self.strides, self.offset(level), self.grid.strides, strict=True)
        for count, stride, first, step in reversed(tuple(axes)):
            rest, position = np.divmod(rest, count)
            index += (position * stride + first) * step
        return index

    def upstream(self, level: int) -> list[tuple[int, ...]]:
        """Return where, relative to a block of ``level``, the blocks lie that it waits for."""
        if level <= 0:
            return []
        return list(product(*self.upstream_axes(level)))

    def upstream_axes(self, level: int) -> list[tuple[int, ...]]:
        """Return `upstream` as offsets per axis, whose product it is."""
        axes: list[tuple[int, ...]] = []
        for before, own, stride in zip(self.offset(level - 1), self.offset(level), self.strides, strict=True):
            step = before - own
            if step == 0:
                axes.append((0,))
            else:
                axes.append((step, step + stride) if step < 0 else (step - stride, step))
        return axes

    def downstream_axes(self, level: int) -> list[tuple[int, ...]]:
        """Return where the blocks lie that wait for a block of ``level``, as offsets per axis."""
        if level >= self.num_levels - 1:
            return []
        return [tuple(-step for step in steps) for steps in self.upstream_axes(level + 1)]

    def overlapping(self, level: int, *, earlier: bool) -> list[list[tuple[int, ...]]]:
        """Return where all blocks of earlier (or later) levels lie that touch a block of ``level``.

        Returns
        -------
        list
            One entry per block: its offset, as a tuple of one per axis.
        """
        own = self.offset(level)
        steps = []
        for begin, end, step in zip(self.grid.context_begin, self.grid.context_end, self.grid.write_shape, strict=True):
            reach = -(-max(begin, end) // step)
            steps.append(range(-reach, reach + 1))
        found: list[list[tuple[int, ...]]] = []
        for offset in product(*steps):
            if not self._touches(offset):
                continue
            rest = 0
            for position, move, stride in zip(own, offset, self.strides, strict=True):
                rest = rest * stride + (position + move) % stride
            other = self.num_levels - 1 - rest
            if other < level if earlier else other > level:
                found.append([(move,) for move in offset])
        return found

    def _touches(self, offset: tuple[int, ...]) -> bool:
        """Whether a block reads what the block at ``offset`` from it writes, or the other way round."""
        axes = list(zip(offset, self.grid.context_begin, self.grid.context_end, self.grid.write_shape, strict=True))
        # A block reads from -begin to step + end; the other one writes from move * step to (move + 1) * step.
        reads = all((move + 1) * step > -begin and move * step < step + end for move, begin, end, step in axes)
        is_read = all((1 - move) * step > -begin and -move * step < step + end for move, begin, end, step in axes)
        return reads or is_read

    def downstream(self, level: int) -> list[tuple[int, ...]]:
        """Return where, relative to a block of ``level``, the blocks lie that wait for it."""
        axes = self.downstream_axes(level)
        return list(product(*axes)) if axes else []
