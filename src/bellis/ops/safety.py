"""Which blocks could write the same chunk at the same time. Pure arithmetic, exact, in world units."""

from __future__ import annotations

from dataclasses import dataclass
from math import lcm
from typing import TYPE_CHECKING

from bellis.errors import TaskError
from bellis.geometry import Coordinate

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Lattice:
    """Where blocks may be parted along one axis: at the distances ``k * period - phase`` from the first block."""

    phase: int
    """How far beyond a point of the lattice the first block begins; from 0 to below ``period``."""
    period: int
    """Distance between two points; positive."""

    @classmethod
    def of(cls, begin: int, origin: int, period: int) -> Lattice:
        """Make the lattice with a point at ``origin`` for blocks that begin at ``begin``."""
        return cls((begin - origin) % period, period)

    def has(self, distance: int) -> bool:
        """Whether blocks may be parted at ``distance`` from the first one's begin."""
        return (distance + self.phase) % self.period == 0


def is_safe(extent: int, step: int, lattices: Sequence[Lattice]) -> bool:
    """Return whether blocks of ``step`` along an axis of ``extent`` are parted on every lattice only.

    It is exact: where it is False, there are two blocks that share a cell (a chunk, or a voxel) of a lattice.

    Examples
    --------
    >>> chunks = Lattice(0, 64)
    >>> is_safe(256, 128, [chunks]), is_safe(256, 100, [chunks]), is_safe(90, 100, [chunks])
    (True, False, True)
    """
    count = -(-extent // step)
    # Parted at step and at 2 step means that step itself is a period: no further boundary need be looked at.
    return all(lattice.has(k * step) for lattice in lattices for k in range(1, min(count, 3)))


def nearest_safe(extent: int, step: int, lattices: Sequence[Lattice]) -> int:
    """Return the step nearest to ``step`` that is safe; the smaller one of two.

    Examples
    --------
    >>> nearest_safe(1000, 100, [Lattice(0, 64)])
    128
    >>> nearest_safe(1000, 100, [Lattice(32, 64)])  # off the grid of chunks, so that only two blocks are ever safe
    544
    """
    if is_safe(extent, step, lattices):
        return step
    found = [extent]
    if all(lattice.phase == 0 for lattice in lattices):
        period = lcm(*(lattice.period for lattice in lattices))
        below = max(step // period, 1) * period
        found += [below, below + period]
    else:
        widest = max(lattices, key=lambda lattice: lattice.period)
        half = -(-extent // 2)
        first = half + (-half - widest.phase) % widest.period
        found += range(first, extent, widest.period)
    safe = (n for n in found if n <= extent and is_safe(extent, n, lattices))
    return min(safe, key=lambda n: (abs(n - step), n))


def safe_block(extent: Coordinate, block: Coordinate, axes: Sequence[Sequence[Lattice]]) -> Coordinate:
    """Return the safe block nearest to ``block``: axes do not depend on each other."""
    return Coordinate(nearest_safe(n, step, axis) for n, step, axis in zip(extent, block, axes, strict=True))


def check_chunks(
    what: str,
    advice: str,
    *,
    extent: Coordinate,
    block: Coordinate,
    chunks: Sequence[Lattice],
    axis_names: Sequence[str],
) -> None:
    """Refuse blocks of which two could write one chunk.

    Parameters
    ----------
    what, advice
        Names the task and the dataset, and says what to do: the begin and the end of the message.
    extent, block
        World units per physical axis that all blocks, and that one block, write.
    chunks
        The dataset's grid of chunks, or of shards, per axis.
    axis_names
        One per physical axis.

    Raises
    ------
    TaskError
        If two blocks would; it says which.
    """
    for name, n, step, lattice in zip(axis_names, extent, block, chunks, strict=True):
        if is_safe(n, step, [lattice]):
            continue
        second = 2 if lattice.has(step) else 1
        begins = f" (the first begins {lattice.phase} into a chunk)" if lattice.phase else ""
        raise TaskError(
            f"{what}: blocks {second - 1} and {second} along {name} would write the same chunk at the same time, and "
            f"voxels of one of them would be lost: in world units, a chunk is {lattice.period} long, and a block "
            f"{step}{begins}; {advice}"
        )
