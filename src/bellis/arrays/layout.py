"""Shape, axes and place of an array: parsed, compared and cut into chunks. No I/O."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from bellis.errors import ArrayError, GeometryError
from bellis.geometry import Coordinate, Roi

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from bellis.geometry import CoordinateLike

CHUNK_VOXELS = 128**3
"""About the largest number of voxels in a chunk that bellis picks."""

_KINDS = {"b": 0, "i": 1, "u": 1, "f": 2, "c": 3}


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What one array must have in common with another to stand in for it."""

    shape: tuple[int, ...]
    """Voxels per axis, channels first."""
    dtype: np.dtype[Any]
    """Data type of a voxel."""
    voxel_size: Coordinate
    """World units per voxel, per physical axis."""
    offset: Coordinate
    """Where the array begins, in world units."""
    axis_names: tuple[str, ...]
    """One per axis."""
    units: tuple[str, ...]
    """One per physical axis."""
    types: tuple[str, ...]
    """``"channel"``, ``"time"`` or ``"space"`` per axis."""

    @classmethod
    def of(
        cls,
        shape: Sequence[int],
        dtype: npt.DTypeLike,
        *,
        voxel_size: CoordinateLike | None = None,
        offset: CoordinateLike | None = None,
        axis_names: Sequence[str] | None = None,
        units: str | Sequence[str] | None = None,
        types: Sequence[str] | None = None,
    ) -> Layout:
        """Fill in what is not given: voxel size 1, offset 0, default names, nm, space.

        Raises
        ------
        ArrayError
            If the number of axes is not the same everywhere.
        """
        begin = None if offset is None else Coordinate(offset)
        size = None if voxel_size is None else parse_voxel_size(voxel_size)
        dims = physical_dims(len(shape), voxel_size=size, offset=begin, types=types)
        units = (units,) * dims if isinstance(units, str) else units
        kinds = ("channel",) * (len(shape) - dims) + ("space",) * dims
        return cls(
            shape=tuple(Coordinate(shape)),
            dtype=np.dtype(dtype),
            voxel_size=size or Coordinate((1,) * dims),
            offset=begin or Coordinate((0,) * dims),
            axis_names=per_axis(axis_names, default_axis_names(len(shape), dims), "axis_names"),
            units=per_axis(units, ("nm",) * dims, "units"),
            types=per_axis(types, kinds, "types"),
        )

    @classmethod
    def of_attributes(cls, attributes: Mapping[str, Any], shape: Sequence[int], dtype: np.dtype[Any]) -> Layout:
        """Parse the attributes of a stored array; ``resolution`` is daisy's word."""
        return cls.of(
            shape,
            dtype,
            voxel_size=attributes.get("voxel_size", attributes.get("resolution")),
            offset=attributes.get("offset"),
            axis_names=attributes.get("axis_names"),
            units=attributes.get("units"),
            types=attributes.get("types"),
        )

    @property
    def dims(self) -> int:
        """Number of physical axes; the axes before them are channels."""
        return len(self.voxel_size)

    @property
    def channels(self) -> int:
        """Number of channel axes."""
        return len(self.shape) - len(self.voxel_size)

    @property
    def roi(self) -> Roi:
        """Region of the array, in world units."""
        return Roi(self.offset, Coordinate(self.shape[self.channels :]) * self.voxel_size)

    def axes(self) -> str:
        """Return the number and the names of the physical axes."""
        return f"{self.dims} ({', '.join(self.axis_names[self.channels :])})"

    def shape_of(self, roi: Roi) -> tuple[int, ...]:
        """Return the voxels per axis of a region, channels first."""
        return (*self.shape[: self.channels], *(roi.shape // self.voxel_size))

    def slices(self, roi: Roi, begin: Coordinate | None = None) -> tuple[slice, ...]:
        """Return the voxels of a region, counted from ``begin``: by default, from the offset."""
        first = (roi.offset - (self.offset if begin is None else begin)) // self.voxel_size
        last = first + roi.shape // self.voxel_size
        return (slice(None),) * self.channels + tuple(map(slice, first, last))

    def check_grid(self, roi: Roi) -> None:
        """Refuse what is no region of whole voxels.

        Raises
        ------
        ArrayError
            If ``roi`` is unbounded, of another rank, or off the voxel grid.
        """
        if not isinstance(roi, Roi):
            raise ArrayError(
                f"an Array is indexed by a Roi or Coordinate in world units, not by {roi!r}: for "
                "voxel indices, use array.to_ndarray()"
            )
        if roi.dims != self.dims:
            raise ArrayError(f"roi {roi} has {roi.dims} dimensions, the array has {self.axes()}")
        if roi.unbounded:
            raise ArrayError(f"roi {roi} is unbounded: take array.roi.intersect(roi)")
        size = self.voxel_size
        if not ((roi.begin - self.offset).is_multiple_of(size) and roi.shape.is_multiple_of(size)):
            nearest = roi.shift(-self.offset).snap_to_grid(size).shift(self.offset)
            raise ArrayError(
                f"roi {roi} does not begin or end on voxels of size {size} of the array with roi "
                f"{self.roi}: the voxels that it touches are {nearest}"
            )

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
            spatial = [max(1, min(n, limit)) for n in self.shape[self.channels :]]
        else:
            spatial = [_divisor(n, limit) for n in write_voxels]
        return (1,) * self.channels + tuple(spatial)

    def check_chunks(self, chunk_shape: Sequence[int], write_voxels: Coordinate | None) -> None:
        """Refuse chunks of another rank, and chunks that two blocks would write."""
        chunks = Coordinate(chunk_shape)
        if chunks.dims != len(self.shape) or min(chunks) < 1:
            raise ArrayError(f"chunk_shape {chunks} does not fit an array of shape {self.shape}")
        spatial = Coordinate(chunks[self.channels :])
        if write_voxels is not None and not write_voxels.is_multiple_of(spatial):
            raise ArrayError(
                f"chunks of {spatial} voxels do not divide a write_size of {write_voxels} voxels: "
                "two blocks would write the same chunk"
            )


def parse_voxel_size(value: CoordinateLike) -> Coordinate:
    """Return a voxel size as a Coordinate; it must be positive integers.

    Raises
    ------
    ArrayError
        For 4.6 nm, say: that is 4600 pm.
    """
    try:
        size = Coordinate(value)
    except GeometryError as error:
        raise ArrayError(
            f"voxel size {value} is not of integers: use a smaller unit, like 4600 pm for 4.6 nm"
        ) from error
    if None in size or min(size, default=0) <= 0:
        raise ArrayError(f"voxel size {size} is not positive")
    return size


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
    if not fits:
        raise ArrayError(f"dtype {dtype} does not hold the value {value!r}")
    return voxel


def default_axis_names(ndim: int, dims: int) -> tuple[str, ...]:
    """Return names for channels and physical axes: c, then the last of t, z, y, x.

    >>> default_axis_names(4, 3)
    ('c', 'z', 'y', 'x')
    """
    channels = ndim - dims
    names = ("c",) if channels == 1 else tuple(f"c{k}" for k in range(channels))
    extra = tuple(f"d{k}" for k in range(dims - 4))
    return names + extra + ("t", "z", "y", "x")[4 - min(dims, 4) :]


def per_axis(given: Sequence[str] | None, default: tuple[str, ...], what: str) -> tuple[str, ...]:
    """Return what was given, or the default; as many entries are due as the default has."""
    if given is None:
        return default
    if len(given) != len(default):
        raise ArrayError(f"{what} {tuple(given)} has {len(given)} entries, {len(default)} are due")
    return tuple(given)


def physical_dims(
    ndim: int,
    *,
    voxel_size: Coordinate | None,
    offset: Coordinate | None,
    types: Sequence[str] | None,
) -> int:
    """Return the number of physical axes, on which all that is given must agree.

    Raises
    ------
    ArrayError
        If it does not, or if channels are not the first axes of ``types``.
    """
    said = {}
    if voxel_size is not None:
        said[f"voxel_size {voxel_size}"] = voxel_size.dims
    if offset is not None:
        said[f"offset {offset}"] = offset.dims
    if types is not None:
        physical = [kind != "channel" for kind in types]
        if physical != sorted(physical):
            raise ArrayError(f"types {tuple(types)}: channels must be the first axes")
        said[f"types {tuple(types)}"] = sum(physical)
    dims = next(iter(said.values()), ndim)
    if dims == 0:
        raise ArrayError("the array has no physical axis: at least one is due")
    if any(n != dims for n in said.values()) or dims > ndim:
        given = ", ".join(f"{name} with {n}" for name, n in said.items())
        raise ArrayError(f"physical dimensions differ: {given}, data with {ndim} axes")
    return dims


def _divisor(extent: int, limit: int) -> int:
    """Return the largest divisor up to ``limit``, unless that is tiny: then the next above it."""
    divisors = [n for n in range(1, min(extent, 4 * limit) + 1) if extent % n == 0]
    below = max(n for n in divisors if n <= limit)
    above = min((n for n in divisors if n > limit), default=extent)
    return below if 4 * below >= min(limit, extent) else above
