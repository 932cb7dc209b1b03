"""Arrays as dask and xarray know them: nothing is read before they ask."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bellis.errors import ArrayError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from bellis.arrays.array import Array


@dataclass(frozen=True, slots=True)
class _Voxels:
    """A view that is indexed by voxels, as dask does: a slice or an integer per axis, of any step."""

    array: Array
    """The view; it is pickled as its description."""

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def ndim(self) -> int:
        return len(self.array.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.array.dtype

    def __getitem__(self, key: tuple[slice | int, ...]) -> npt.NDArray[Any]:
        source, layout = self.array._source, self.array._source.layout  # noqa: SLF001 -- of the same room
        first = [piece.start for piece in layout.slices(self.array.roi)]
        first = [0 if begin is None else begin for begin in first]
        box, rest = [], []
        for piece, begin, count in zip(key, first, self.shape, strict=True):
            indices = range(count)[piece] if isinstance(piece, slice) else range(count)[piece : piece + 1]
            low, high = (min(indices), max(indices) + 1) if indices else (0, 0)
            box.append(slice(begin + low, begin + high))
            rest.append(0 if isinstance(piece, int) else slice(None, None, piece.step))
        if any(piece.start == piece.stop for piece in box):
            return np.empty([piece.stop - piece.start for piece in box], self.dtype)[tuple(rest)]
        voxels = np.asarray(source.data[tuple(box)])[tuple(rest)]
        return voxels if source.is_fresh else np.array(voxels)


def to_dask(array: Array, chunks: Sequence[int] | str | None) -> Any:
    """Return a dask array over a view; see `Array.to_dask`."""
    library = _library("dask.array", "to_dask", "dask[array]")
    asked: Any = chunks or _aligned_chunks(array) or "auto"
    return library.from_array(_Voxels(array), chunks=asked, asarray=False, fancy=False, name=False)


def to_xarray(array: Array) -> Any:
    """Return a DataArray over a view; see `Array.to_xarray`."""
    library = _library("xarray", "to_xarray", "xarray")
    data = array.to_ndarray() if isinstance(array.data, np.ndarray) else to_dask(array, None)
    names = [array.axis_names[k] for k in array._source.layout.physical]  # noqa: SLF001 -- of the same room
    places = zip(names, array.roi.begin, array.roi.end, array.voxel_size, array.units, strict=True)
    coords = {name: (name, np.arange(begin, end, size), {"units": unit}) for name, begin, end, size, unit in places}
    attrs = {**array.attrs, "voxel_size": tuple(array.voxel_size), "offset": tuple(array.roi.begin)}
    return library.DataArray(data, coords=coords, dims=array.axis_names, attrs={**attrs, "units": array.units})


def _aligned_chunks(array: Array) -> tuple[tuple[int, ...], ...] | None:
    """Return chunks that end where stored ones do, also where the view begins within one."""
    if array.chunk_shape is None:
        return None
    pieces = array._source.layout.slices(array.roi)  # noqa: SLF001 -- of the same room
    return tuple(
        _cut(piece.start or 0, (piece.start or 0) + count, size)
        for piece, count, size in zip(pieces, array.shape, array.chunk_shape, strict=True)
    )


def _cut(begin: int, end: int, size: int) -> tuple[int, ...]:
    """Return the lengths between begin, the multiples of size that follow, and end.

    >>> _cut(3, 10, 4)
    (1, 4, 2)
    """
    if begin == end:
        return (0,)
    stops = [*range((begin // size + 1) * size, end, size), end]
    return tuple(stop - start for start, stop in zip([begin, *stops], stops, strict=False))


def _library(module: str, method: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ArrayError(f"{method}() needs {module}, which is not installed: pip install '{package}'") from error
