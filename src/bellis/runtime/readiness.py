"""Which blocks became ready: array arithmetic on states, without a stored graph."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from bellis.planning.dependencies import Link

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from bellis.planning.grid import BlockGrid, Ints
    from bellis.runtime.state import TaskBlocks

MOST_GATHERED = 64
"""Needs of more blocks than this are counted down; gathering 20 000 states per completion would take minutes."""

_DONE = 1


def shifted(
    grid: BlockGrid, indices: Ints, places: list[Ints], axes: Sequence[Sequence[int]]
) -> Iterator[tuple[Ints, NDArray[np.bool_] | None]]:
    """Yield ``indices`` moved by each offset of ``product(*axes)``, as far as they stay in the grid.

    Parameters
    ----------
    grid
        The grid.
    indices
        Blocks, no two the same.
    places
        Their positions, per axis.
    axes
        Offsets per axis.

    Yields
    ------
    moved, inside
        The moved indices that lie in the grid, and which of ``indices`` they come from; None for all.
    """
    choices = []
    for place, steps, count, stride in zip(places, axes, grid.counts, grid.strides, strict=True):
        options: list[tuple[int, NDArray[np.bool_] | None]] = []
        for step in steps:
            inside = None
            if step > 0:
                inside = place < count - step
            elif step < 0:
                inside = place >= -step
            options.append((step * stride, None if inside is None or inside.all() else inside))
        choices.append(options)
    yield from _moved(indices, choices)


def members(grid: BlockGrid, low: Ints, high: Ints) -> Iterator[tuple[Ints, NDArray[np.bool_] | None]]:
    """Yield the blocks of boxes of positions, the first of each box, then the second, and so on; as `shifted`.

    Parameters
    ----------
    grid
        The grid.
    low, high
        Half-open boxes of positions, shape (n, dims).
    """
    extents = high - low
    choices = []
    for axis, stride in enumerate(grid.strides):
        extent = extents[:, axis]
        largest, smallest = int(extent.max(initial=0)), int(extent.min(initial=0))
        choices.append([(k * stride, None if k < smallest else extent > k) for k in range(largest)])
    yield from _moved(low @ np.array(grid.strides, np.int64), choices)


def _moved(
    base: Ints, choices: list[list[tuple[int, NDArray[np.bool_] | None]]]
) -> Iterator[tuple[Ints, NDArray[np.bool_] | None]]:
    for options in product(*choices):
        step = sum(option[0] for option in options)
        masks = [mask for _, mask in options if mask is not None]
        if not masks:
            yield base + step, None
            continue
        inside = masks[0]
        for mask in masks[1:]:
            inside = inside & mask
        yield base[inside] + step, inside


class Need:
    """What the blocks of one task need of an upstream task.

    Small needs are looked up in the upstream states each time. Large ones are counted down: few blocks have a need
    that is large, exactly because it is large.
    """

    __slots__ = ("_left", "_link", "downstream", "upstream")

    def __init__(self, upstream: TaskBlocks, downstream: TaskBlocks) -> None:
        self.upstream = upstream
        self.downstream = downstream
        self._left: NDArray[np.int32] | None = None
        self.relink()

    def relink(self) -> None:
        """Follow a grid that grew."""
        self._link = Link(self.upstream.grid, self.downstream.grid)
        counted = self._link.largest_need > MOST_GATHERED and not self.upstream.is_open
        self._left = np.zeros(self.downstream.grid.num_blocks, np.int32) if counted else None

    def has_unmet_roots(self) -> bool:
        """Whether some downstream block reads nothing that the upstream task writes."""
        return not self.upstream.is_open and self._link.has_unmet_roots()

    def readers(self, indices: Ints) -> Iterator[Ints]:
        """Yield the downstream blocks that read what the upstream blocks ``indices`` write."""
        low, high = self._link.readers(indices)
        for moved, _ in members(self.downstream.grid, low, high):
            yield moved

    def note(self, indices: Ints) -> Iterator[Ints]:
        """Yield the downstream blocks for which the completion of ``indices`` may be the last that they need."""
        if self._left is None:
            yield from self.readers(indices)
            return
        touched = list(self.readers(indices))
        if not touched:
            return
        found, times = np.unique(np.concatenate(touched), return_counts=True)
        known = self._left[found] > 0
        self._left[found[known]] -= times[known].astype(np.int32)
        self._count(found[~known])
        yield found[self._left[found] == 1]

    def satisfied(self, indices: Ints) -> NDArray[np.bool_]:
        """Whether all that each of the downstream blocks ``indices`` needs is done."""
        if self._left is not None:
            self._count(indices[self._left[indices] == 0])
            counted: NDArray[np.bool_] = self._left[indices] == 1
            return counted
        low, high = self._link.needs(indices)
        met = np.ones(len(indices), bool)
        if self.upstream.is_open:  # what lies beyond the end may still come
            reach = self.downstream.grid.read_boxes(indices)[:, 1, 0]
            met &= reach <= self.upstream.grid.written_end
        state = self.upstream.state
        for moved, inside in members(self.upstream.grid, low, high):
            done = (state[moved] & _DONE).view(bool)
            if inside is None:
                met &= done
            else:
                met[inside] &= done
        return met

    def _count(self, indices: Ints) -> None:
        """Count, once per block, how many blocks it still needs; kept plus one, 0 being "not counted yet"."""
        if self._left is None or not len(indices):
            return
        grid = self.upstream.grid
        states = self.upstream.state[: grid.num_blocks].reshape(grid.counts)
        low, high = self._link.needs(indices)
        for index, begin, end in zip(indices.tolist(), low.tolist(), high.tolist(), strict=True):
            box = states[tuple(map(slice, begin, end))]
            self._left[index] = 1 + box.size - np.count_nonzero(box & _DONE)
