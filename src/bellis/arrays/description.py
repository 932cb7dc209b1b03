"""What an array or a view of one is: its region, its axes, and where voxels are in the world."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, overload

from bellis.arrays.units import convert, parse_unit
from bellis.errors import ArrayError
from bellis.geometry import Coordinate, Roi

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    from bellis.arrays.layout import Layout
    from bellis.arrays.source import Source
    from bellis.geometry import CoordinateLike

Snap: TypeAlias = Literal["grow", "shrink", "closest"]
"""How a region is moved to whole voxels, as by `Roi.snap_to_grid`."""


_READ = "read it with to_ndarray(roi, fill_value=...), or take array.intersect(roi)"


class Description:
    """The part of `Array` that touches no voxel."""

    __slots__ = ("_roi", "_source")

    _source: Source
    _roi: Roi

    @property
    def roi(self) -> Roi:
        """Region of this array or view, in world units."""
        return self._roi

    @property
    def voxel_size(self) -> Coordinate:
        """World units per voxel, per physical axis."""
        return self._source.layout.voxel_size

    @property
    def dims(self) -> int:
        """Physical axes, without channels."""
        return self._roi.dims

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels per axis of this array or view, in the order of the data."""
        return self._source.layout.shape_of(self._roi)

    @property
    def spatial_shape(self) -> Coordinate:
        """Voxels per physical axis of this array or view."""
        return self._roi.shape // self.voxel_size

    @property
    def dtype(self) -> np.dtype[Any]:
        """Data type of a voxel."""
        return self._source.layout.dtype

    @property
    def chunk_shape(self) -> tuple[int, ...] | None:
        """Voxels that are read together, per axis; None if not chunked."""
        return self._source.chunk_shape

    @property
    def write_shape(self) -> tuple[int, ...] | None:
        """Voxels that only one process may write at a time, per axis: a chunk or a shard; None if it does not matter.

        They are counted from the first voxel of the whole array, also for a view.
        """
        return self._source.write_shape

    @property
    def layout(self) -> Layout:
        """Shape, dtype, axes and place of this array or view."""
        layout = self._source.layout
        if self._roi == layout.roi:
            return layout
        return replace(layout, shape=self.shape, offset=self._roi.begin)

    @property
    def axis_names(self) -> tuple[str, ...]:
        """One name per axis."""
        return self._source.layout.axis_names

    @property
    def units(self) -> tuple[str, ...]:
        """One unit per physical axis."""
        return self._source.layout.units

    @property
    def types(self) -> tuple[str, ...]:
        """``"channel"``, ``"time"`` or ``"space"`` per axis."""
        return self._source.layout.types

    @property
    def attrs(self) -> Mapping[str, Any]:
        """Attributes that were stored with the array; read only."""
        return MappingProxyType(self._source.attrs)

    @property
    def fill_value(self) -> Any:
        """What voxels hold that were never written; None in memory."""
        return self._source.fill_value

    @property
    def format(self) -> str | None:
        """What the array is stored as, for people, like ``"zarr 3"``; None in memory."""
        return self._source.format

    @property
    def path(self) -> str | None:
        """Path or URL of where the array is stored; None if that is not known."""
        return self._source.path

    @property
    def compressor(self) -> str | None:
        """How chunks are compressed, for people; None if they are not, or that is not known."""
        return self._source.compressor

    @property
    def data(self) -> Any:
        """What was wrapped: all of it, also for a view."""
        return self._source.data

    @property
    def is_writeable(self) -> bool:
        """Whether this process may assign to regions."""
        return self._source.why_read_only() is None

    def snap(self, roi: Roi, mode: Snap = "grow") -> Roi:
        """Return a region with its begin and end moved to voxels of this array.

        Parameters
        ----------
        roi
            Region in world units; it may reach outside.
        mode
            ``"grow"`` to all voxels that it touches, ``"shrink"`` to those that it contains, or both
            ends to the ``"closest"`` (ties go down).
        """
        return self._source.layout.snap(roi, mode)

    @overload
    def to_pixel_space(self, world: Roi) -> Roi: ...
    @overload
    def to_pixel_space(self, world: CoordinateLike) -> Coordinate: ...
    def to_pixel_space(self, world: Any) -> Any:
        """Return a region or a point in voxels of the physical axes, counted from the begin of this view.

        A point becomes the voxel that it is in.

        Raises
        ------
        ArrayError
            If a region is off the voxel grid, or a point has another number of dimensions.
        """
        if isinstance(world, Roi):
            self._source.layout.check_grid(world)
            return world.shift(-self._roi.begin) // self.voxel_size
        return (self._point(world) - self._roi.begin) // self.voxel_size

    @overload
    def to_world_space(self, pixels: Roi) -> Roi: ...
    @overload
    def to_world_space(self, pixels: CoordinateLike) -> Coordinate: ...
    def to_world_space(self, pixels: Any) -> Any:
        """Return a region or a point of voxels, counted from the begin of this view, in world units.

        A voxel becomes the point where it begins.
        """
        if isinstance(pixels, Roi):
            self._point(pixels.begin)
            return (pixels * self.voxel_size).shift(self._roi.begin)
        return self._roi.begin + self._point(pixels) * self.voxel_size

    def scale(self, unit: str = "nm", time_unit: str = "s") -> tuple[Fraction, ...]:
        """Return the size of a voxel per physical axis, exactly, whatever the units of this array are.

        Parameters
        ----------
        unit
            Of axes that measure length.
        time_unit
            Of axes that measure time.

        Raises
        ------
        ArrayError
            If an axis measures neither.

        Examples
        --------
        >>> from bellis import Array
        >>> import numpy as np
        >>> Array(np.zeros((3, 4)), voxel_size=("0.05", "0.0046"), units="um").scale()
        (Fraction(50, 1), Fraction(23, 5))
        """
        pairs = zip(self.voxel_size, self.units, strict=True)
        return tuple(
            convert(Fraction(size), own, time_unit if parse_unit(own).quantity == "time" else unit)
            for size, own in pairs
        )

    def __repr__(self) -> str:
        axes = ", ".join(f"{name}={n}" for name, n in zip(self.axis_names, self.shape, strict=True))
        stored = "".join(f", {what}" for what in (self.format, self.path) if what)
        size = f"voxel_size={self.voxel_size} {units_of(self._source.layout)}"
        return f"Array({axes}, {self.dtype}, roi={self._roi}, {size}{stored})"

    def _point(self, at: Any) -> Coordinate:
        point = Coordinate(at)
        if point.dims != self.dims or None in point:
            axes = self._source.layout.axes()
            raise ArrayError(f"coordinate {point} has {point.dims} dimensions, the array has {axes}")
        return point

    def _check(self, roi: Roi, cure: str = _READ) -> None:
        self._source.layout.check_grid(roi)
        if not roi.empty and not self._roi.contains(roi):
            raise ArrayError(f"roi {roi} is outside of the array's roi {self._roi}: {cure}")


def units_of(layout: Layout) -> str:
    """Return the unit of all physical axes, or one for each."""
    return layout.units[0] if len(set(layout.units)) == 1 else f"({', '.join(layout.units)})"
