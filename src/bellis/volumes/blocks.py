"""Blocks of a volume in voxels: which there are, and which a region touches. Arithmetic only."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from math import prod
from typing import TYPE_CHECKING, Any, TypeAlias

from bellis.errors import ArrayError
from bellis.geometry import Coordinate, Roi

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bellis.geometry import CoordinateLike

Index: TypeAlias = tuple[int, ...]
"""Position of a block in the grid of blocks, one number per axis."""
RoiLike: TypeAlias = "Roi | tuple[CoordinateLike, CoordinateLike] | Sequence[CoordinateLike]"
"""A `Roi`, or what lazyflow calls one: ``(start, stop)``, half-open, in voxels of all axes."""


@dataclass(frozen=True, slots=True)
class Blocks:
    """The blocks of a volume: they begin at its origin, and the last ones are clipped at its end."""

    shape: tuple[int, ...]
    """Voxels of the volume, all axes."""
    block_shape: tuple[int, ...]
    """Voxels of a block, all axes."""

    def __post_init__(self) -> None:
        if len(self.shape) != len(self.block_shape):
            raise ArrayError(f"ranks differ: volume of shape {self.shape}, blocks of shape {self.block_shape}")
        if min(self.block_shape, default=1) < 1:
            raise ArrayError(f"block_shape {self.block_shape} is not of positive numbers of voxels")

    @property
    def counts(self) -> Index:
        """Blocks per axis."""
        return tuple([-(-n // size) for n, size in zip(self.shape, self.block_shape, strict=True)])

    @property
    def num_blocks(self) -> int:
        """All blocks."""
        return prod(self.counts)

    def box(self, index: Index) -> Roi:
        """Return the voxels of a block, clipped at the end of the volume."""
        begin = [k * size for k, size in zip(index, self.block_shape, strict=True)]
        ends = zip(begin, self.block_shape, self.shape, strict=True)
        return Roi(begin, [min(size, n - at) for at, size, n in ends])

    def index_of(self, start: CoordinateLike) -> Index:
        """Return which block begins at ``start``.

        Raises
        ------
        ArrayError
            If none does.
        """
        at = Coordinate(start)
        if at.dims == len(self.shape) and None not in at:
            index = tuple([k // size for k, size in zip(at, self.block_shape, strict=True)])
            inside = all(0 <= k < n for k, n in zip(index, self.counts, strict=True))
            if inside and self.box(index).begin == at:
                return index
        raise ArrayError(
            f"no block begins at {at}: blocks of {self.block_shape} voxels cover a volume of shape {self.shape}"
        )

    def touched(self, roi: Roi) -> Iterator[Index]:
        """Yield the blocks that share voxels with a region inside of the volume, in C order."""
        if roi.empty:
            return iter(())
        spans = zip(roi.begin, roi.end, self.block_shape, strict=True)
        return product(*[range(begin // size, -(-end // size)) for begin, end, size in spans])


def parse_roi(roi: RoiLike, shape: Sequence[int], what: str = "volume") -> Roi:
    """Return a region in voxels, which must lie inside of ``shape``.

    Raises
    ------
    ArrayError
        If it is of another rank, empty, reversed or outside.
    """
    found = _parsed(roi)
    whole = Roi((0,) * len(shape), shape)
    if found.dims != whole.dims:
        raise ArrayError(f"roi {roi} has {found.dims} dimensions, the {what} has {whole.dims}: shape {tuple(shape)}")
    if found.empty or found.unbounded:
        raise ArrayError(f"roi {roi} holds no voxels: pass (start, stop) with stop > start on every axis")
    if not whole.contains(found):
        raise ArrayError(f"roi {roi} is not inside of the {what} of shape {tuple(shape)}")
    return found


def get_intersecting_blocks(block_shape: CoordinateLike, roi: RoiLike) -> list[tuple[int, ...]]:
    """Return where the blocks begin that share voxels with a region, in C order.

    Parameters
    ----------
    block_shape
        Voxels of a block; blocks begin at multiples of it.
    roi
        ``(start, stop)`` or a `Roi`, in voxels.

    Examples
    --------
    >>> get_intersecting_blocks((10, 10), ((5, 0), (11, 10)))
    [(0, 0), (10, 0)]
    """
    sizes, box = Coordinate(block_shape), _parsed(roi)
    if sizes.dims != box.dims or None in sizes or min(sizes, default=1) < 1 or box.unbounded:
        raise ArrayError(f"roi {roi} can't be cut into blocks of {tuple(sizes)} voxels")
    blocks = Blocks(tuple(box.end), tuple(sizes))
    return [tuple([k * size for k, size in zip(index, sizes, strict=True)]) for index in blocks.touched(box)]


def slices_of(roi: Roi, origin: CoordinateLike | None = None) -> tuple[slice, ...]:
    """Return the slices of a region, of an array that begins at ``origin`` (0 if not given)."""
    begin, end = roi.begin, roi.end
    if origin is not None:
        begin, end = begin - Coordinate(origin), end - Coordinate(origin)
    return tuple([slice(a, b) for a, b in zip(begin, end, strict=True)])


def roi_of(slices: tuple[slice, ...], shape: Sequence[int]) -> Roi:
    """Return the region of one slice of step 1 per axis; ends that are not given are those of ``shape``."""
    spans = [part.indices(n) for part, n in zip(slices, shape, strict=True)]
    return Roi([begin for begin, _, _ in spans], [max(0, end - begin) for begin, end, _ in spans])


def shown(roi: Roi) -> str:
    """Return a region for people: ``[0:64, 128:192]``."""
    return f"[{', '.join(f'{begin}:{end}' for begin, end in zip(roi.begin, roi.end, strict=True))}]"


def _parsed(roi: Any) -> Roi:
    if isinstance(roi, Roi):
        return roi
    if not hasattr(roi, "__len__") or len(roi) != 2:
        raise ArrayError(f"roi {roi} is not a Roi or (start, stop)")
    start, stop = Coordinate(roi[0]), Coordinate(roi[1])
    if start.dims != stop.dims or None in start or None in stop:
        raise ArrayError(f"roi {roi}: start {start} and stop {stop} must be integers of one rank")
    return Roi(start, [max(0, b - a) for a, b in zip(start, stop, strict=True)])
