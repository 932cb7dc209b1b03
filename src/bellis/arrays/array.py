"""An array whose regions are given in world units."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from bellis.arrays.layout import Layout, scalar_as
from bellis.arrays.zarr import TensorStoreData
from bellis.errors import ArrayError
from bellis.geometry import Coordinate, Roi

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from bellis.geometry import CoordinateLike


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """What all views of one array share."""

    data: Any
    """Voxels: a NumPy array, or anything with shape, dtype and slicing."""
    layout: Layout
    """Shape, dtype and axes of all of ``data``."""
    chunk_shape: tuple[int, ...] | None
    """Voxels that are stored together, per axis of ``data``; None if there are no chunks."""
    attrs: dict[str, Any]
    """Attributes that were stored with the array."""
    home: str
    """Host and process whose memory a NumPy array is part of."""

    def cropped(self, roi: Roi, voxels: npt.NDArray[Any]) -> _Source:
        """Return the source of a view that has its voxels for itself."""
        layout = replace(self.layout, shape=voxels.shape, offset=roi.begin)
        return replace(self, data=voxels, layout=layout)


class Array:
    """An array with an offset and a voxel size: its regions are given in world units.

    Axes are in the order of the data, channels first, then z, y, x. A view shares the data of the
    array that it was taken from; nothing is read before :meth:`to_ndarray`. An array on disk is
    pickled as its path; a NumPy array is pickled by value, and refuses writes in other processes,
    because they would be lost.

    Parameters
    ----------
    data
        NumPy array, TensorStore, or anything with ``shape``, ``dtype`` and slicing. Not copied.
    roi
        Region of ``data`` in world units. Its dimensions are the physical axes; what ``data`` has
        beyond that are channels.
    voxel_size
        World units per voxel, one integer per physical axis; 1 if not given.
    offset
        In place of ``roi``: where ``data`` begins, in world units; 0 if not given.
    axis_names
        One per axis of ``data``; c, then t, z, y, x from the end if not given.
    units
        One unit for all, or one per physical axis; nm if not given.
    types
        ``"channel"``, ``"time"`` or ``"space"`` per axis of ``data``.
    chunk_shape
        Voxels stored together, per axis of ``data``; asked of ``data`` if not given.
    attrs
        Attributes to carry along.

    Raises
    ------
    ArrayError
        If region, voxel size and shape do not fit each other.

    Examples
    --------
    >>> import numpy as np
    >>> from bellis import Array, Roi
    >>> image = Array(np.arange(12).reshape(3, 4), offset=(100, 0), voxel_size=(10, 5))
    >>> image.roi
    Roi((100, 0), (30, 20))
    >>> image[Roi((110, 5), (10, 10))].to_ndarray()
    array([[5, 6]])
    """

    __slots__ = ("_roi", "_source")

    _source: _Source
    _roi: Roi

    def __init__(
        self,
        data: Any,
        roi: Roi | None = None,
        voxel_size: CoordinateLike | None = None,
        *,
        offset: CoordinateLike | None = None,
        axis_names: Sequence[str] | None = None,
        units: str | Sequence[str] | None = None,
        types: Sequence[str] | None = None,
        chunk_shape: Sequence[int] | None = None,
        attrs: Mapping[str, Any] | None = None,
    ) -> None:
        if not all(hasattr(data, name) for name in ("shape", "dtype", "__getitem__")):
            raise ArrayError(f"{type(data).__name__} has no shape, dtype or slicing: pass an array")
        if type(data).__module__.split(".")[0] == "tensorstore":
            data = TensorStoreData.of_handle(data)
        if roi is not None and offset is not None:
            raise ArrayError(f"roi {roi} and offset {offset} are given: pass one of them")
        layout = Layout.of(
            data.shape,
            data.dtype,
            voxel_size=voxel_size,
            offset=offset if roi is None else roi.begin,
            axis_names=axis_names,
            units=units,
            types=types,
        )
        if roi is not None and roi != layout.roi:
            raise ArrayError(
                f"roi {roi} is not what data of shape {layout.shape} with voxels of size "
                f"{layout.voxel_size} covers: {layout.roi}"
            )
        self._roi = layout.roi
        self._source = _Source(
            data=data,
            layout=layout,
            chunk_shape=_chunk_shape(chunk_shape, data),
            attrs=dict(attrs or {}),
            home=_here(),
        )

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
        """Voxels per axis of this array or view, channels first."""
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
        """Voxels that are stored together, per axis, channels first; None if not chunked."""
        return self._source.chunk_shape

    @property
    def axis_names(self) -> tuple[str, ...]:
        """One name per axis, channels first."""
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
    def data(self) -> Any:
        """What was wrapped: all of it, also for a view."""
        return self._source.data

    @property
    def is_writeable(self) -> bool:
        """Whether this process may assign to regions."""
        return self._why_read_only() is None

    @overload
    def __getitem__(self, key: Roi) -> Array: ...
    @overload
    def __getitem__(self, key: Coordinate) -> Any: ...
    def __getitem__(self, key: Roi | Coordinate) -> Any:
        """Return a view of a region, or the value (per channel) of the voxel at a coordinate."""
        if isinstance(key, Coordinate):
            return self._voxel(key)
        self._check(key)
        return _view(self._source, key)

    def __setitem__(self, roi: Roi, value: npt.NDArray[Any] | Array | complex) -> None:
        """Write voxels: an array of the region's shape, or a scalar.

        Without its channel axes, a value is written to every channel. Of another :class:`Array`,
        only shape and voxel size must fit; its place may differ.

        Raises
        ------
        ArrayError
            If the region is outside or off the voxel grid, the shape differs, the dtype does not
            hold every value of ``value``'s dtype, or the array is read-only.
        """
        self._check(roi)
        if reason := self._why_read_only():
            raise ArrayError(reason)
        voxels = self._fit(value, roi)
        if not roi.empty:
            self._source.data[self._source.layout.slices(roi)] = voxels

    def to_ndarray(self, roi: Roi | None = None, fill_value: complex | None = None) -> npt.NDArray[Any]:
        """Read a region, or all of this view, into new memory.

        Parameters
        ----------
        roi
            Region in world units.
        fill_value
            What voxels outside this array get; if not given, they are an error.

        Returns
        -------
        numpy.ndarray
            Shape (channels, z, y, x), dtype of the array; the caller's to keep and change.

        Raises
        ------
        ArrayError
            If ``roi`` is off the voxel grid, or outside and there is no ``fill_value``.
        """
        roi = self._roi if roi is None else roi
        if fill_value is None:
            self._check(roi)
            return self._read(roi)
        self._source.layout.check_grid(roi)
        filler = scalar_as(fill_value, self.dtype)
        inside = self._roi.intersect(roi)
        if inside == roi:
            return self._read(roi)
        voxels = np.full(self._source.layout.shape_of(roi), filler, dtype=self.dtype)
        if not inside.empty:
            voxels[self._source.layout.slices(inside, begin=roi.begin)] = self._read(inside)
        return voxels

    def materialize(self) -> Array:
        """Return this view as an array in memory, with the same region."""
        source = self._source.cropped(self._roi, self.to_ndarray())
        return _view(replace(source, home=_here()), self._roi)

    def intersect(self, roi: Roi) -> Array:
        """Return the view of what this array and ``roi`` have in common."""
        return self[self._roi.intersect(roi)]

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        if copy is False:
            raise ValueError("an Array is always read into new memory: copy=False can't be kept")
        voxels = self.to_ndarray()
        return voxels if dtype is None else voxels.astype(dtype, copy=False)

    def __repr__(self) -> str:
        axes = ", ".join(f"{name}={n}" for name, n in zip(self.axis_names, self.shape, strict=True))
        return f"Array({axes}, {self.dtype}, roi={self._roi}, voxel_size={self.voxel_size})"

    def __getstate__(self) -> tuple[_Source, Roi]:
        source = self._source
        if isinstance(source.data, np.ndarray):
            source = source.cropped(self._roi, source.data[self._source.layout.slices(self._roi)])
        return source, self._roi

    def __setstate__(self, state: tuple[_Source, Roi]) -> None:
        self._source, self._roi = state

    def _why_read_only(self) -> str | None:
        data = self._source.data
        if isinstance(data, TensorStoreData):
            return None if data.is_writeable else "array is read-only: open_ds(..., mode='r+')"
        if isinstance(data, np.ndarray) and self._source.home != _here():
            return (
                "array lives in the memory of the process that made it, a write from here would be "
                "lost: use prepare_ds(...) for an output that every process reaches"
            )
        if isinstance(data, np.ndarray):
            return None if data.flags.writeable else "array is over a read-only NumPy array"
        if not hasattr(data, "__setitem__") or getattr(data, "read_only", False):
            return f"array is over a read-only {type(data).__name__}"
        return None

    def _voxel(self, at: Coordinate) -> Any:
        layout = self._source.layout
        if at.dims != self.dims:
            raise ArrayError(f"coordinate {at} has {at.dims} dimensions, array {layout.axes()}")
        if not self._roi.contains(at):
            raise ArrayError(f"coordinate {at} is outside of the array's roi {self._roi}")
        index = (at - layout.offset) // layout.voxel_size
        voxels = self._read(Roi(layout.offset + index * layout.voxel_size, layout.voxel_size))
        return voxels.reshape(voxels.shape[: voxels.ndim - self.dims])[()]

    def _read(self, roi: Roi) -> npt.NDArray[Any]:
        if roi.empty:
            return np.empty(self._source.layout.shape_of(roi), dtype=self.dtype)
        voxels = self._source.data[self._source.layout.slices(roi)]
        return np.array(voxels) if isinstance(self._source.data, np.ndarray) else np.asarray(voxels)

    def _fit(self, value: Any, roi: Roi) -> npt.NDArray[Any]:
        """Return ``value`` in the shape of ``roi`` and the dtype of this array, or refuse."""
        shape = self._source.layout.shape_of(roi)
        if isinstance(value, Array):
            if value.voxel_size != self.voxel_size:
                raise ArrayError(f"value has voxel size {value.voxel_size}, the array has {self.voxel_size}")
            value = value.to_ndarray()
        value = np.asarray(value) if not np.isscalar(value) else value
        if np.ndim(value) == 0:
            return np.broadcast_to(scalar_as(value, self.dtype), shape)
        if value.shape not in (shape, shape[len(shape) - self.dims :]):
            raise ArrayError(
                f"value has shape {value.shape}, but roi {roi} of the array has shape {shape} "
                f"({', '.join(self.axis_names)})"
            )
        if not np.can_cast(value.dtype, self.dtype, casting="safe"):
            raise ArrayError(
                f"value has dtype {value.dtype}, which {self.dtype} of the array does not hold: "
                f"convert it first, value.astype({self.dtype.name!r})"
            )
        return np.broadcast_to(value.astype(self.dtype, copy=False), shape)

    def _check(self, roi: Roi) -> None:
        self._source.layout.check_grid(roi)
        if not roi.empty and not self._roi.contains(roi):
            raise ArrayError(
                f"roi {roi} is outside of the array's roi {self._roi}: read it with "
                "to_ndarray(roi, fill_value=...), or take array.intersect(roi)"
            )


def _view(source: _Source, roi: Roi) -> Array:
    view = object.__new__(Array)
    view._source, view._roi = source, roi
    return view


def _chunk_shape(given: Sequence[int] | None, data: Any) -> tuple[int, ...] | None:
    """Parse chunks; those of dask, which need not be equal, are left out."""
    chunks = given or getattr(data, "chunk_shape", None) or getattr(data, "chunks", None)
    return tuple(chunks) if chunks and all(isinstance(n, int) for n in chunks) else None


def _here() -> str:
    """Name this process; host and pid, as containers on two hosts often share pids."""
    return f"{platform.node()}:{os.getpid()}"
