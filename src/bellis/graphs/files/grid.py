"""The blocks of space that a store of files cuts a graph into: exact for all positions, of any size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from bellis.errors import GraphError
from bellis.graphs.columns import absent

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from bellis.geometry import Roi

Place: TypeAlias = "tuple[int, ...] | None"
"""Index of a block along each axis; None for what has no position."""
Box: TypeAlias = "tuple[tuple[int | None, int | None], ...]"
"""First and last index of blocks along each axis; None where there is no limit."""
_LEAST, _MOST = -(2**63), 2**63 - 1


@dataclass(frozen=True, slots=True)
class Grid:
    """Blocks of one size; one of them begins at the origin."""

    sizes: tuple[int, ...]
    """Extent of a block along each axis, in world units, > 0."""

    @classmethod
    def parse(cls, chunk_size: Any) -> tuple[int, ...] | int:
        """Return a chunk size as it is stored: one number for all axes, or one per axis.

        Raises
        ------
        GraphError
            If it is none.
        """
        sizes = chunk_size if hasattr(chunk_size, "__iter__") else (chunk_size,)
        try:
            whole = tuple(size.__index__() for size in sizes)
        except AttributeError:
            whole = ()
        if not whole or min(whole) < 1 or max(whole) > _MOST or isinstance(chunk_size, bool):
            raise GraphError(f"chunk_size is {chunk_size!r}: it is a whole number of world units > 0, or one per axis")
        return whole if hasattr(chunk_size, "__iter__") else whole[0]

    @classmethod
    def of(cls, chunk_size: tuple[int, ...] | int, dims: int) -> Grid:
        """Return the grid in a number of dimensions."""
        return cls((chunk_size,) * dims if isinstance(chunk_size, int) else chunk_size)

    def places(
        self, attrs: Mapping[str, npt.NDArray[Any]], names: tuple[str, ...], count: int
    ) -> tuple[list[Place], npt.NDArray[np.int64]]:
        """Return the blocks in which rows are, and which one of them each is in.

        Parameters
        ----------
        attrs
            Columns; rows for which one of the positions' columns is missing or masked have no position.
        names
            The positions' columns.
        """
        if any(name not in attrs for name in names):
            return [None], np.zeros(count, np.int64)
        is_placed = ~np.any([absent(attrs[name]) for name in names], axis=0)
        if not is_placed.any():
            return [None], np.zeros(count, np.int64)
        values = [np.ma.getdata(attrs[name])[is_placed] for name in names]
        axes = [axis for value in values for axis in ([value] if value.ndim == 1 else value.T)]
        found, which = _unique([_floor(axis) // size for axis, size in zip(axes, self.sizes, strict=True)])
        if is_placed.all():
            return found, which
        labels = np.zeros(count, np.int64)
        labels[is_placed] = which + 1
        return [None, *found], labels

    def box(self, roi: Roi) -> Box:
        """Return the blocks that a region touches; it is not empty."""
        return tuple(
            (
                None if begin is None else _clip(begin) // size,
                None if end is None else _clip(end - 1) // size,
            )
            for begin, end, size in zip(roi.begin, roi.end, self.sizes, strict=True)
        )

    def is_inside(self, place: Place, roi: Roi) -> bool:
        """Return whether all of a block is in a region; what is farther than 64 bits is in the last blocks."""
        return place is not None and all(
            (begin is None or (begin <= at * size and at != _LEAST // size))
            and (end is None or ((at + 1) * size <= end and at != _MOST // size))
            for at, size, begin, end in zip(place, self.sizes, roi.begin, roi.end, strict=True)
        )


def is_in_box(place: Place, box: Box) -> bool:
    """Return whether a block is one of those."""
    return place is not None and all(
        (low is None or low <= at) and (high is None or at <= high) for at, (low, high) in zip(place, box, strict=True)
    )


def _floor(values: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Round down. All floats from 2^53 on are whole; those that 64 bits can't hold become the least or the most."""
    if values.dtype.kind != "f":
        return np.asarray(values, np.int64)
    with np.errstate(invalid="ignore"):
        whole: npt.NDArray[np.int64] = np.floor(values).astype(np.int64)
    whole[values >= 2.0**63] = _MOST
    whole[values < -(2.0**63)] = _LEAST
    return whole


def _clip(value: int) -> int:
    return max(_LEAST, min(value, _MOST))


def _unique(axes: list[npt.NDArray[np.int64]]) -> tuple[list[Place], npt.NDArray[np.int64]]:
    """Return the different points, and which one each row has.

    Axes become one number, as long as 64 bits hold it: NumPy sorts whole rows a hundred times slower.
    """
    label, bound = np.zeros(len(axes[0]), np.int64), 1
    for axis in axes:
        low, step = int(axis.min()), int(axis.max()) - int(axis.min()) + 1
        number = axis
        if bound * step > _MOST:
            number, label = _numbered(axis), _numbered(label)
            low, step, bound = 0, len(axis), len(axis)
        label, bound = label * step + (number - low), bound * step
    _, first, which = np.unique(label, return_index=True, return_inverse=True)
    return [tuple(int(axis[row]) for axis in axes) for row in first], which.reshape(-1)


def _numbered(values: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return which of the different values each is, in their order."""
    numbers: npt.NDArray[np.int64] = np.unique(values, return_inverse=True)[1].reshape(-1)
    return numbers
