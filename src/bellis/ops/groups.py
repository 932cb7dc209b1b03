"""Groups of neighbouring blocks of a volume's cache: what one block of a task fetches, or verifies."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from bellis.errors import TaskError
from bellis.geometry import Coordinate, Roi

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

    import numpy.typing as npt

    from bellis.volumes.blocks import Index
    from bellis.volumes.cached import CachedVolume

LARGEST_BYTES = 256 * 10**6
"""Voxels of a group, about, at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Groups:
    """A cut of a part of a volume into groups of whole blocks; a group has all channels."""

    volume: CachedVolume
    """The volume."""
    roi: Roi
    """World units, physical axes: from the corner of the first block to the end of the last one."""
    step: Coordinate
    """World units of a group; the last ones are smaller."""

    @classmethod
    def of(cls, volume: CachedVolume, roi: Roi | None, most_blocks: int) -> Self:
        """Cut the blocks that a region touches into groups of about ``most_blocks``.

        Parameters
        ----------
        volume
            The volume.
        roi
            World units, inside of the volume's view; all of the view if None.
        most_blocks
            Of a group; fewer if they would have more than `LARGEST_BYTES`.

        Raises
        ------
        TaskError
            If the region is of another rank, unbounded, empty or outside of the view.
        """
        layout = volume.layout
        region = layout.roi if roi is None else _checked(volume, roi)
        size, origin = _block_size(volume), _origin(volume)
        whole = region.shift(-origin).snap_to_grid(size, "grow")
        end = map(min, whole.end, layout.spatial(volume.blocks.shape) * layout.voxel_size)
        total = Roi(whole.begin, Coordinate(end) - whole.begin).shift(origin)
        counts = total.shape.ceil_division(size)
        channels = prod(counts_of(volume, total)) // prod(counts)
        block_bytes = prod(volume.blocks.block_shape) * volume.dtype.itemsize
        most = max(1, min(most_blocks, LARGEST_BYTES // block_bytes) // channels)
        return cls(volume=volume, roi=total, step=_grown(size, counts, most))

    def voxels(self, roi: Roi) -> Roi:
        """Return the voxels of the volume, all axes, that a region of the world and the view have in common."""
        return _voxels(self.volume, roi)

    def blocks(self, roi: Roi) -> Iterator[Index]:
        """Return the blocks of a region."""
        return self.volume.block_indices(self.voxels(roi))

    @property
    def counts(self) -> Coordinate:
        """Groups per physical axis."""
        return self.roi.shape.ceil_division(self.step)

    def wanted(self, part: tuple[int, int] | None, *, present: bool) -> npt.NDArray[np.bool_]:
        """Return which groups of a part have blocks that are there, or else blocks that are not; looked up now."""
        flags = self.volume.cache.presence(self.voxels(self.roi))
        if not present:
            flags = ~flags
        physical = self.volume.layout.physical
        flags = np.asarray(flags.any(axis=tuple(k for k in range(flags.ndim) if k not in physical)))
        per_group = self.step // _block_size(self.volume)
        padding = [(0, n * size - have) for n, size, have in zip(self.counts, per_group, flags.shape, strict=True)]
        pairs = [n for pair in zip(self.counts, per_group, strict=True) for n in pair]
        wanted: Any = np.pad(flags, padding).reshape(pairs).any(axis=tuple(range(1, len(pairs), 2)))
        return np.asarray(wanted if part is None else wanted & self.of_part(part))

    def of_part(self, part: tuple[int, int]) -> npt.NDArray[np.bool_]:
        """Return which groups belong to part i of n: every n-th, so that all parts have about as much to do."""
        number, count = part
        flags: npt.NDArray[np.bool_] = np.arange(prod(self.counts)) % count == number - 1
        return flags.reshape(self.counts)

    def num_absent(self, part: tuple[int, int] | None = None) -> int:
        """Return how many blocks of a part of the groups are not there."""
        return int(np.count_nonzero(self._absent(part)))

    def absent(self, part: tuple[int, int] | None = None) -> npt.NDArray[np.int64]:
        """Return the indices of blocks that are not there, of a part of the groups: shape (n, axes), in C order."""
        sizes = self.volume.blocks.block_shape
        first = [at // size for at, size in zip(self.voxels(self.roi).begin, sizes, strict=True)]
        return np.asarray(np.argwhere(self._absent(part)) + np.array(first), np.int64)

    def _absent(self, part: tuple[int, int] | None) -> npt.NDArray[np.bool_]:
        absent = ~self.volume.cache.presence(self.voxels(self.roi))
        if part is None:
            return absent
        flags, layout = self.of_part(part), self.volume.layout
        for axis, size in enumerate(self.step // _block_size(self.volume)):
            flags = flags.repeat(size, axis)
        flags = flags[tuple(slice(absent.shape[k]) for k in layout.physical)]
        channels = tuple(k for k in range(absent.ndim) if k not in layout.physical)
        return absent & np.expand_dims(flags, channels)


class Skip:
    """A skip mask: leaves out groups in which nothing is wanted; what is there is looked up when a run begins."""

    def __init__(self, groups: Groups, part: tuple[int, int] | None = None, *, present: bool = False) -> None:
        self._groups, self._part, self._present = groups, part, present
        self._sums: npt.NDArray[np.int64] | None = None

    def __call__(self, regions: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Return whether nothing is wanted anywhere in each region: int64, shape (n, 2, dims), world units."""
        groups = self._groups
        whole = np.array([groups.roi.begin, groups.roi.end])
        # A run asks about the whole first.
        if self._sums is None or (len(regions) == 1 and (regions[0] == whole).all()):
            self._sums = _summed(groups.wanted(self._part, present=self._present))
        low = (regions[:, 0] - whole[0]) // groups.step
        high = -((whole[0] - regions[:, 1]) // groups.step)
        found = np.zeros(len(regions), np.int64)
        for corner in product((0, 1), repeat=len(groups.step)):
            at = np.where(corner, high, low)
            found += (-1) ** (len(corner) - sum(corner)) * self._sums[tuple(at.T)]
        answers: npt.NDArray[np.bool_] = found == 0
        return answers

    def num_absent(self) -> int:
        """Return how many blocks of the task are not there now."""
        return self._groups.num_absent(self._part)

    def absent(self) -> npt.NDArray[np.int64]:
        """Return the indices of blocks of the task that are not there now: shape (n, axes), in C order."""
        return self._groups.absent(self._part)


def counts_of(volume: CachedVolume, roi: Roi) -> tuple[int, ...]:
    """Return how many blocks per axis a region of the world touches, all axes."""
    region, sizes = _voxels(volume, roi), volume.blocks.block_shape
    return tuple([-(-end // n) - begin // n for begin, end, n in zip(region.begin, region.end, sizes, strict=True)])


def _voxels(volume: CachedVolume, roi: Roi) -> Roi:
    layout, origin = volume.layout, _origin(volume)
    begin, end = ((at - origin) // layout.voxel_size for at in (roi.begin, roi.end))
    first, last = layout.woven(begin, volume.view.begin), layout.woven(end, volume.view.end)
    return Roi(first, Coordinate(last) - Coordinate(first)).intersect(volume.view)


def _origin(volume: CachedVolume) -> Coordinate:
    """Return where voxel 0 of the volume is, in world units; its layout is that of the view."""
    layout = volume.layout
    return layout.offset - layout.spatial(volume.view.begin) * layout.voxel_size


def _block_size(volume: CachedVolume) -> Coordinate:
    return volume.layout.spatial(volume.blocks.block_shape) * volume.layout.voxel_size


def _checked(volume: CachedVolume, roi: Roi) -> Roi:
    layout = volume.layout
    if roi.dims != layout.dims:
        raise TaskError(f"roi {roi} has {roi.dims} dimensions, volume {volume.name!r} has {layout.axes()}")
    if roi.unbounded or roi.empty or not layout.roi.contains(roi):
        raise TaskError(
            f"roi {roi} is not a region inside of volume {volume.name!r}, which covers {layout.roi}: take "
            "volume.array.roi.intersect(roi)"
        )
    return layout.snap(roi)


def _grown(size: Coordinate, counts: Coordinate, most: int) -> Coordinate:
    """Double a group where it is shortest, as long as it has no more than ``most`` blocks."""
    group = [1] * len(size)
    while True:
        longer = [(n * size[k], k) for k, n in enumerate(group) if n < counts[k]]
        longer = [(length, k) for length, k in longer if prod(group) // group[k] * min(2 * group[k], counts[k]) <= most]
        if not longer:
            return Coordinate(group) * size
        _, k = min(longer)
        group[k] = min(2 * group[k], counts[k])


def _summed(flags: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Return how many are set before each corner: a sum over a box is a few of these."""
    sums = np.pad(flags.astype(np.int64), [(1, 0)] * flags.ndim)
    for axis in range(flags.ndim):
        sums.cumsum(axis, out=sums)
    return sums
