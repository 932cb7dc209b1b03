"""An array whose regions are given in world units."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from bellis.arrays import lazy
from bellis.arrays.description import Description, units_of
from bellis.arrays.layout import Layout, parse_voxel_size, scalar_as
from bellis.arrays.source import Source, chunk_shape_of, here, wrapped, write_shape_of
from bellis.arrays.values import voxels_as
from bellis.errors import ArrayError
from bellis.geometry import Coordinate, Roi

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from bellis.arrays.description import Snap
    from bellis.arrays.format import Stored
    from bellis.arrays.layout import RationalsLike


class Array(Description):
    """An array with an offset and a voxel size: its regions are given in world units.

    Axes keep the order of the data: physical axes are in the order z, y, x, and channels may stand
    before, behind or between them, as ``types`` says. A view shares the data of the array that it
    was taken from; nothing is read before :meth:`to_ndarray`. An array on disk is pickled as its
    path; a NumPy array is pickled by value, and refuses writes in other processes, because they
    would be lost.

    World units are integers. A voxel size that is not, like 4.6 nm, is taken to a smaller unit in
    which it is: to 4600 pm, and so are offset and regions.

    Parameters
    ----------
    data
        NumPy array, TensorStore, or anything with ``shape``, ``dtype`` and slicing, as of zarr, h5py
        and dask. Not copied.
    roi
        Region of ``data`` in world units. Its dimensions are the physical axes; what ``data`` has
        beyond that are channels.
    voxel_size
        World units per voxel, per physical axis: integers, or floats, decimal strings and fractions;
        1 if not given.
    offset
        In place of ``roi``: where ``data`` begins, in world units; 0 if not given.
    axis_names
        One per axis of ``data``; c, then t, z, y, x from the end if not given.
    units
        One unit for all, or one per physical axis; nm if not given, and s for time.
    types
        ``"channel"``, ``"time"`` or ``"space"`` per axis of ``data``. If not given, axes that are
        named c or end in ``^`` are channels; or else the first ones, as many as ``voxel_size``
        leaves over.
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
    >>> Array(np.zeros((3, 4)), voxel_size=(50, 4.6))
    Array(y=3, x=4, float64, roi=Roi((0, 0), (150000, 18400)), voxel_size=(50000, 4600) pm)
    """

    __slots__ = ()

    def __init__(
        self,
        data: Any,
        roi: Roi | None = None,
        voxel_size: RationalsLike | None = None,
        *,
        offset: RationalsLike | None = None,
        axis_names: Sequence[str] | None = None,
        units: str | Sequence[str] | None = None,
        types: Sequence[str] | None = None,
        chunk_shape: Sequence[int] | None = None,
        attrs: Mapping[str, Any] | None = None,
    ) -> None:
        data = wrapped(data)
        if roi is not None and offset is not None:
            raise ArrayError(f"roi {roi} and offset {offset} are given: pass one of them")
        if roi is not None and voxel_size is not None:
            unit = units if isinstance(units, str) else next(iter(units or ()), "nm")
            voxel_size = parse_voxel_size(voxel_size, unit)
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
                f"{layout.voxel_size} {units_of(layout)} covers: {layout.roi}"
            )
        chunks = chunk_shape_of(chunk_shape, data)
        self._roi = layout.roi
        self._source = Source(
            data=data,
            layout=layout,
            chunk_shape=chunks,
            write_shape=write_shape_of(data, chunks),
            attrs=dict(attrs or {}),
            home=here(),
        )

    @classmethod
    def of(cls, stored: Stored) -> Array:
        """Return the array over a dataset that was found."""
        source = Source(
            data=stored.data,
            layout=stored.layout,
            chunk_shape=stored.data.chunk_shape,
            write_shape=stored.data.write_shape,
            attrs=dict(stored.attrs),
            home=here(),
            fill_value=stored.fill_value,
            format=stored.format,
            path=getattr(stored.data, "path", None),
            compressor=stored.compressor,
        )
        return _view(source, stored.layout.roi)

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

        Without its channel axes, wherever they are, a value is written to every channel. Of another
        :class:`Array`, only axes and voxel size must fit; its place may differ.

        Raises
        ------
        ArrayError
            If the region is outside or off the voxel grid, the shape differs, the dtype does not
            hold every value of ``value``'s dtype, or the array is read-only.
        """
        self._check(roi, "write to array.roi.intersect(roi)")
        if reason := self._source.why_read_only():
            raise ArrayError(reason)
        voxels = self._fit(value, roi)
        if not roi.empty:
            self._source.data[self._source.layout.slices(roi)] = voxels

    def to_ndarray(
        self, roi: Roi | None = None, fill_value: complex | None = None, *, snap: Snap | None = None
    ) -> npt.NDArray[Any]:
        """Read a region, or all of this view, into new memory.

        Parameters
        ----------
        roi
            Region in world units.
        fill_value
            What voxels outside this array get; if not given, they are an error.
        snap
            Move ``roi`` to whole voxels first, as `snap` does; if not given, a region that is off
            the voxel grid is an error.

        Returns
        -------
        numpy.ndarray
            Axes and dtype of the array; the caller's to keep and change.

        Raises
        ------
        ArrayError
            If ``roi`` is off the voxel grid, or outside and there is no ``fill_value``.
        """
        if roi is None:
            return self._source.read(self._roi)
        if snap is not None:
            roi = self.snap(roi, snap)
        if fill_value is None:
            self._check(roi)
            return self._source.read(roi)
        layout = self._source.layout
        layout.check_grid(roi)
        filler = scalar_as(fill_value, self.dtype)
        inside = self._roi.intersect(roi)
        if inside == roi:
            return self._source.read(roi)
        voxels = np.full(layout.shape_of(roi), filler, dtype=self.dtype)
        if not inside.empty:
            voxels[layout.slices(inside, begin=roi.begin)] = self._source.read(inside)
        return voxels

    def materialize(self) -> Array:
        """Return this view as an array in memory, with the same region."""
        source = self._source.cropped(self._roi, self.to_ndarray())
        return _view(replace(source, home=here()), self._roi)

    def intersect(self, roi: Roi) -> Array:
        """Return the view of the voxels that this array and ``roi`` have in common."""
        return self[self._roi.intersect(roi)]

    def to_dask(self, chunks: Sequence[int] | str | None = None) -> Any:
        """Return a dask array of the voxels of this view; they are read when it is computed.

        Parameters
        ----------
        chunks
            As dask takes them; if not given, they end where the stored chunks do.

        Raises
        ------
        ArrayError
            If dask is not installed.
        """
        return lazy.to_dask(self, chunks)

    def to_xarray(self) -> Any:
        """Return an xarray DataArray of this view; voxels in memory are copied, others are read when it is computed.

        The coordinate of a voxel is where it begins, in world units; ``voxel_size``, ``offset`` and
        ``units`` are in ``attrs``.

        Raises
        ------
        ArrayError
            If xarray, or dask for what is not in memory, is not installed.
        """
        return lazy.to_xarray(self)

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        if copy is False:
            raise ValueError("an Array is always read into new memory: copy=False can't be kept")
        voxels = self.to_ndarray()
        return voxels if dtype is None else voxels.astype(dtype, copy=False)

    def __getstate__(self) -> tuple[Source, Roi]:
        source = self._source
        if isinstance(source.data, np.ndarray):
            source = source.cropped(self._roi, source.data[self._source.layout.slices(self._roi)])
        return source, self._roi

    def __setstate__(self, state: tuple[Source, Roi]) -> None:
        self._source, self._roi = state

    def _voxel(self, at: Coordinate) -> Any:
        layout = self._source.layout
        if not self._roi.contains(self._point(at)):
            raise ArrayError(f"coordinate {at} is outside of the array's roi {self._roi}")
        index = (at - layout.offset) // layout.voxel_size
        voxels = self._source.read(Roi(layout.offset + index * layout.voxel_size, layout.voxel_size))
        return voxels[layout.woven((0,) * self.dims, (slice(None),) * voxels.ndim)]

    def _fit(self, value: Any, roi: Roi) -> npt.NDArray[Any]:
        """Return ``value`` in the shape of ``roi`` and the dtype of this array, or refuse."""
        if isinstance(value, Array):
            self._check_axes(value)
            value = value.to_ndarray()
        return voxels_as(value, self._source.layout, roi)

    def _check_axes(self, value: Array) -> None:
        """Refuse an array whose voxels do not mean what those of this one do."""
        own, other = self._source.layout, value._source.layout
        if own.scales() != other.scales():
            raise ArrayError(
                f"value has voxel size {other.voxel_size} {units_of(other)}, "
                f"the array has {own.voxel_size} {units_of(own)}"
            )
        if own.axis_names != other.axis_names and sorted(own.axis_names) == sorted(other.axis_names):
            raise ArrayError(
                f"value has axes {', '.join(other.axis_names)}, the array has {', '.join(own.axis_names)}: pass "
                "value.to_ndarray(), with its axes in that order"
            )


def _view(source: Source, roi: Roi) -> Array:
    view = object.__new__(Array)
    view._source, view._roi = source, roi
    return view
