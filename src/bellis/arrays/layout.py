"""Shape, axes and place of an array: parsed, compared and cut into chunks. No I/O."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from bellis.arrays import axes
from bellis.arrays.units import convert, integral_unit, parse_unit, rationals, shown
from bellis.errors import ArrayError, GeometryError
from bellis.geometry import Coordinate, Roi

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy.typing as npt

    from bellis.arrays.units import RationalLike
    from bellis.geometry import CoordinateLike

RationalsLike: TypeAlias = "RationalLike | Iterable[RationalLike] | CoordinateLike"
"""What stands for one exact number per physical axis; a number stands for one axis."""

CHUNK_VOXELS = 128**3
"""About the largest number of voxels in a chunk that bellis picks."""

_KINDS = {"b": 0, "i": 1, "u": 1, "f": 2, "c": 3}


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What one array must have in common with another to stand in for it."""

    shape: tuple[int, ...]
    """Voxels per axis, in the order of the data."""
    dtype: np.dtype[Any]
    """Data type of a voxel."""
    voxel_size: Coordinate
    """World units per voxel, per physical axis."""
    offset: Coordinate
    """Where the array begins, in world units."""
    axis_names: tuple[str, ...]
    """One per axis."""
    units: tuple[str, ...]
    """One per physical axis; one for all axes of a type that measure the same."""
    types: tuple[str, ...]
    """``"channel"``, ``"time"`` or ``"space"`` per axis."""

    @classmethod
    def of(
        cls,
        shape: Sequence[int],
        dtype: npt.DTypeLike,
        *,
        voxel_size: RationalsLike | None = None,
        offset: RationalsLike | None = None,
        axis_names: Sequence[str] | None = None,
        units: str | Sequence[str] | None = None,
        types: Sequence[str] | None = None,
    ) -> Layout:
        """Fill in what is not given: voxel size 1, offset 0, default names, nm (s for time).

        A voxel size or offset that is not of integers is taken to a smaller unit in which it is:
        voxels of 4.6 nm are 4600 pm, and one of 50 nm beside it 50000 pm. Axes are named by
        ``names_and_types`` of the module ``axes``.

        Raises
        ------
        ArrayError
            If the number of axes is not the same everywhere, or world units would leave 64 bits.
        """
        size = None if voxel_size is None else rationals(voxel_size, "voxel size")
        begin = None if offset is None else rationals(offset, "offset")
        if size is not None and min(size, default=1) <= 0:
            raise ArrayError(f"voxel size {shown(size)} is not positive")
        voxels = Coordinate(shape)
        if None in voxels or min(voxels, default=0) < 0:
            raise ArrayError(f"shape {voxels} is not of whole numbers of voxels")
        names, types = axes.names_and_types(
            len(voxels), voxel_size=size, offset=begin, axis_names=axis_names, types=types
        )
        units = axes.unit_per_axis(units, types)
        dims = len(units)
        physical = [kind for kind in types if kind != "channel"]
        whole = axes.whole(size or (Fraction(1),) * dims, begin or (Fraction(0),) * dims, units, physical)
        layout = cls(
            shape=tuple(voxels),
            dtype=parse_dtype(dtype),
            voxel_size=whole[0],
            offset=whole[1],
            axis_names=names,
            units=whole[2],
            types=types,
        )
        axes.check_extent(layout.offset, layout.spatial_shape, layout.voxel_size, layout.units)
        return layout

    @property
    def physical(self) -> tuple[int, ...]:
        """Positions of the physical axes among all; the others are channels."""
        return tuple([k for k, kind in enumerate(self.types) if kind != "channel"])

    @property
    def dims(self) -> int:
        """Number of physical axes; the others are channels."""
        return len(self.voxel_size)

    @property
    def channels(self) -> int:
        """Number of channel axes; they may stand anywhere."""
        return len(self.shape) - len(self.voxel_size)

    @property
    def spatial_shape(self) -> Coordinate:
        """Voxels per physical axis."""
        return self.spatial(self.shape)

    @property
    def roi(self) -> Roi:
        """Region of the array, in world units."""
        return Roi(self.offset, self.spatial_shape * self.voxel_size)

    def axes(self) -> str:
        """Return the number and the names of the physical axes."""
        return f"{self.dims} ({', '.join(self.axis_names[k] for k in self.physical)})"

    def scales(self) -> tuple[tuple[str, Fraction], ...]:
        """Return quantity and voxel size per physical axis, in metres or seconds: comparable between units."""
        found = [(parse_unit(unit), size) for unit, size in zip(self.units, self.voxel_size, strict=True)]
        return tuple((unit.quantity, unit.size * size) for unit, size in found)

    def spatial(self, values: Sequence[int]) -> Coordinate:
        """Return the entries of the physical axes, of one per axis."""
        return Coordinate.of([values[k] for k in self.physical])

    def woven(self, values: Iterable[Any], channels: Sequence[Any]) -> tuple[Any, ...]:
        """Return one entry per axis: ``values`` for the physical ones, those of ``channels`` for the others.

        Parameters
        ----------
        values
            One per physical axis.
        channels
            One per axis; those of physical axes are not looked at.
        """
        entries = list(channels)
        for k, value in zip(self.physical, values, strict=True):
            entries[k] = value
        return tuple(entries)

    def shape_of(self, roi: Roi) -> tuple[int, ...]:
        """Return the voxels per axis of a region."""
        return self.woven(roi.shape // self.voxel_size, self.shape)

    def slices(self, roi: Roi, begin: Coordinate | None = None) -> tuple[slice, ...]:
        """Return the voxels of a region, counted from ``begin``: by default, from the offset."""
        pieces = []
        origin = self.offset if begin is None else begin
        # One loop over plain integers: this is in the way of every read, and may cost a few microseconds.
        for at, extent, zero, size in zip(roi.offset, roi.shape, origin, self.voxel_size, strict=True):
            first = (at - zero) // size
            pieces.append(slice(first, first + extent // size))
        if len(pieces) == len(self.shape):
            return tuple(pieces)
        return self.woven(pieces, (slice(None),) * len(self.shape))

    def snap(self, roi: Roi, mode: Any = "grow") -> Roi:
        """Return a region with its begin and end moved to voxels; modes as in `Roi.snap_to_grid`.

        Raises
        ------
        ArrayError
            If ``roi`` is of another rank, or the mode is unknown.
        """
        self._check_rank(roi)
        try:
            return roi.shift(-self.offset).snap_to_grid(self.voxel_size, mode).shift(self.offset)
        except GeometryError as error:
            raise ArrayError(f"roi {roi} can't be snapped to voxels of size {self.voxel_size}: {error}") from error

    def in_unit(self, unit: str) -> Layout:
        """Return the layout with the axes that ``unit`` measures in it.

        Raises
        ------
        ArrayError
            If no axis is measured so, or voxel size and offset are no integers then.
        """
        to = parse_unit(unit)
        size, begin, units = list(self.voxel_size), list(self.offset), list(self.units)
        change = [k for k, own in enumerate(units) if parse_unit(own).quantity == to.quantity]
        if not change:
            raise ArrayError(f"unit {unit!r} is one of {to.quantity}, the axes {self.axes()} are in {self.units}")
        scales = [convert(Fraction(size[k]), units[k], unit) for k in change]
        offsets = [convert(Fraction(begin[k]), units[k], unit) for k in change]
        if any(value.denominator != 1 for value in (*scales, *offsets)):
            raise ArrayError(
                f"voxel size {shown(scales)} and offset {shown(offsets)} in {unit} are not of integers, which "
                f"regions are: use {integral_unit([*scales, *offsets], unit)!r}, or {self.units[change[0]]!r} as it is"
            )
        for k, scale, offset in zip(change, scales, offsets, strict=True):
            size[k], begin[k], units[k] = int(scale), int(offset), to.symbol
        axes.check_extent(Coordinate(begin), self.spatial_shape, Coordinate(size), units)
        return replace(self, voxel_size=Coordinate(size), offset=Coordinate(begin), units=tuple(units))

    def check_grid(self, roi: Roi) -> None:
        """Refuse what is no region of whole voxels.

        Raises
        ------
        ArrayError
            If ``roi`` is unbounded, of another rank, or off the voxel grid.
        """
        self._check_rank(roi)
        if roi.unbounded:
            raise ArrayError(f"roi {roi} is unbounded: take array.roi.intersect(roi)")
        size = self.voxel_size
        if not ((roi.begin - self.offset).is_multiple_of(size) and roi.shape.is_multiple_of(size)):
            raise ArrayError(
                f"roi {roi} does not begin or end on voxels of size {size} of the array with roi "
                f"{self.roi}: the voxels that it touches are {self.snap(roi)}, by array.snap(roi)"
            )

    def _check_rank(self, roi: Roi) -> None:
        if not isinstance(roi, Roi):
            raise ArrayError(
                f"an Array is indexed by a Roi or Coordinate in world units, not by {roi!r}: for "
                "voxel indices, use array.to_ndarray()"
            )
        if roi.dims != self.dims:
            raise ArrayError(f"roi {roi} has {roi.dims} dimensions, the array has {self.axes()}")

    def attributes(self) -> dict[str, Any]:
        """Return the attributes that are stored with the array."""
        names = ("voxel_size", "offset", "axis_names", "units", "types")
        return {name: list(getattr(self, name)) for name in names}

    def differences(self, found: Layout) -> list[str]:
        """Describe each field in which ``found`` is not as this layout asks."""
        pairs = ((f.name, getattr(self, f.name), getattr(found, f.name)) for f in fields(self))
        return [f"{name}: asked {ask}, found {is_}" for name, ask, is_ in pairs if ask != is_]

    def pick_chunks(self, write_voxels: Coordinate | None = None) -> tuple[int, ...]:
        """Pick a chunk shape that divides what is written at once; one channel per chunk.

        >>> Layout.of((1000, 1000, 1000), "uint8").pick_chunks(Coordinate(256, 200, 96))
        (128, 100, 96)
        """
        limit = round(CHUNK_VOXELS ** (1 / self.dims))
        if write_voxels is None:
            spatial = [max(1, min(n, limit)) for n in self.spatial_shape]
        else:
            spatial = [_divisor(n, limit) for n in write_voxels]
        return self.woven(spatial, (1,) * len(self.shape))

    def check_chunks(self, chunk_shape: Sequence[int], write_voxels: Coordinate | None, what: str = "chunk") -> None:
        """Refuse chunks (or shards) of another rank, and those that two blocks would write."""
        chunks = Coordinate(chunk_shape)
        if chunks.dims != len(self.shape) or None in chunks or min(chunks) < 1:
            raise ArrayError(f"{what}_shape {chunks} does not fit an array of shape {self.shape}")
        spatial = self.spatial(chunks)
        if write_voxels is not None and not write_voxels.is_multiple_of(spatial):
            raise ArrayError(
                f"{what}s of {spatial} voxels do not divide a write_size of {write_voxels} voxels: "
                f"two blocks would write the same {what}"
            )


def parse_dtype(dtype: npt.DTypeLike) -> np.dtype[Any]:
    """Return the data type that is meant.

    Raises
    ------
    ArrayError
        If NumPy knows none of that name.
    """
    try:
        return np.dtype(dtype)
    except TypeError as error:
        raise ArrayError(f"dtype {dtype!r} is none that NumPy knows: use 'uint8', 'float32' or the like") from error


def parse_voxel_size(value: RationalsLike, unit: str = "nm") -> Coordinate:
    """Return a voxel size as a Coordinate, where a region says the unit already; it must be positive integers.

    Raises
    ------
    ArrayError
        For 4.6 nm, say: that is 4600 pm.
    """
    size = rationals(value, "voxel size")
    if not size or min(size) <= 0:
        raise ArrayError(f"voxel size {shown(size)} is not positive")
    if any(n.denominator != 1 for n in size):
        finer = integral_unit(size, unit)
        whole = shown([convert(n, unit, finer) for n in size])
        raise ArrayError(
            f"voxel size {shown(size)} {unit} is not of integers, which a region is measured in: pass "
            f"voxel_size={whole}, units={finer!r}, and the region in {finer} too"
        )
    return Coordinate(map(int, size))


def voxels_of(world: CoordinateLike, voxel_size: Coordinate, what: str) -> Coordinate:
    """Return an extent in voxels.

    Raises
    ------
    ArrayError
        If it is not a positive multiple of the voxel size.
    """
    extent = Coordinate(world)
    if extent.dims != voxel_size.dims:
        raise ArrayError(f"{what} {extent} and voxel_size {voxel_size} differ in their dimensions")
    if None in extent or min(extent) < 0 or not extent.is_multiple_of(voxel_size):
        raise ArrayError(f"{what} {extent} is not a multiple of voxel_size {voxel_size}")
    return extent // voxel_size


def scalar_as(value: Any, dtype: np.dtype[Any]) -> Any:
    """Return a scalar as a NumPy scalar of ``dtype``.

    A float is rounded to what a smaller float type holds, an integer never.

    Raises
    ------
    ArrayError
        If ``dtype`` does not hold the value: a fraction in integers, or out of range.
    """
    kind = np.asarray(value).dtype.kind
    fits = _KINDS.get(kind, 4) <= _KINDS.get(dtype.kind, -1)
    if kind in "iu" and dtype.kind == "b":
        fits = value in (0, 1)
    if fits and kind in "iu" and dtype.kind in "iu":
        fits = np.iinfo(dtype).min <= int(value) <= np.iinfo(dtype).max
    if fits:
        with np.errstate(over="ignore"):
            voxel = np.asarray(value).astype(dtype)[()]
        fits = bool(np.isfinite(voxel) or not np.isfinite(value))
        if fits and kind in "iu" and dtype.kind in "fc":
            fits = int(voxel.real) == int(value)
    if not fits:
        raise ArrayError(f"dtype {dtype} does not hold the value {value!r}")
    return voxel


def _divisor(extent: int, limit: int) -> int:
    """Return the largest divisor up to ``limit``, unless that is tiny: then the next above it."""
    divisors = [n for n in range(1, min(extent, 4 * limit) + 1) if extent % n == 0]
    below = max(n for n in divisors if n <= limit)
    above = min((n for n in divisors if n > limit), default=extent)
    return below if 4 * below >= min(limit, extent) else above
