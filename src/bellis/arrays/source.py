"""What all views of one array share: its voxels, whatever library holds them, and its layout."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bellis.errors import ArrayError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from bellis.arrays.layout import Layout
    from bellis.geometry import Roi

_FRESH = ("bellis", "h5py", "zarr", "tensorstore")
"""Libraries whose slicing always returns new memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What all views of one array share."""

    data: Any
    """Voxels: a NumPy array, or anything with shape, dtype and slicing."""
    layout: Layout
    """Shape, dtype and axes of all of ``data``."""
    chunk_shape: tuple[int, ...] | None
    """Voxels that are read together, per axis of ``data``; None if there are no chunks."""
    write_shape: tuple[int, ...] | None
    """Voxels that only one process may write at a time, per axis of ``data``; None if it does not matter."""
    attrs: dict[str, Any]
    """Attributes that were stored with the array."""
    home: str
    """Host and process whose memory a NumPy array is part of."""
    fill_value: Any = None
    """What voxels hold that were never written; None if there is no such thing."""
    format: str | None = None
    """What it is stored as, for people."""
    path: str | None = None
    """Where it is stored."""
    compressor: str | None = None
    """How chunks are compressed, for people."""

    def cropped(self, roi: Roi, voxels: npt.NDArray[Any]) -> Source:
        """Return the source of a view that has its voxels in memory, for itself."""
        return Source(
            data=voxels,
            layout=replace(self.layout, shape=voxels.shape, offset=roi.begin),
            chunk_shape=None,
            write_shape=None,
            attrs=self.attrs,
            home=self.home,
        )

    def read(self, roi: Roi) -> npt.NDArray[Any]:
        """Read whole voxels inside of the array into memory that is the caller's."""
        if roi.empty:
            return np.empty(self.layout.shape_of(roi), dtype=self.layout.dtype)
        found = self.data[self.layout.slices(roi)]
        if not self.is_fresh:
            return np.array(found)
        # np.asarray copies nothing of what is an array already.
        return np.asarray(found)

    @property
    def is_fresh(self) -> bool:
        """Whether slicing the data gives memory that nobody else has."""
        return type(self.data).__module__.partition(".")[0] in _FRESH or hasattr(self.data, "write_shape")

    def why_read_only(self) -> str | None:
        """Return the reason for which voxels can't be assigned in this process; None if they can."""
        data = self.data
        where = f"array {self.path}" if self.path else "array"
        if isinstance(data, np.ndarray) and self.home != here():
            return (
                "array lives in the memory of the process that made it, a write from here would be "
                "lost: use prepare_ds(...) for an output that every process reaches"
            )
        if isinstance(data, np.ndarray):
            return None if data.flags.writeable else "array is over a read-only NumPy array"
        if getattr(data, "is_writeable", None) is False:
            return f"{where} is read-only: open_ds(..., mode='r+')"
        if not hasattr(data, "__setitem__") or _is_read_only(data):
            return f"{where} is over a read-only {type(data).__name__}"
        return None


def wrapped(data: Any) -> Any:
    """Return what an Array can be over: the data itself, or a TensorStore that travels to other processes.

    Raises
    ------
    ArrayError
        If it has no shape, dtype or slicing.
    """
    if not all(hasattr(data, name) for name in ("shape", "dtype", "__getitem__")):
        raise ArrayError(f"{type(data).__name__} has no shape, dtype or slicing: pass an array")
    if hasattr(data, "to_world_space"):
        raise ArrayError(f"{data} is an Array already: use it as it is, or take a view, array[roi]")
    if type(data).__module__.split(".")[0] == "xarray":
        raise ArrayError(
            "the coordinates of an xarray are not read, so that its place would be lost: pass Array(xarray.data, "
            "voxel_size=..., offset=...)"
        )
    if type(data).__module__.split(".")[0] == "tensorstore":
        from bellis.arrays.tensorstore import TensorStoreData

        return TensorStoreData.of_handle(data)
    return data


def chunk_shape_of(given: Sequence[int] | None, data: Any) -> tuple[int, ...] | None:
    """Parse chunks; those of dask, which need not be equal, are left out."""
    return _regular(given or getattr(data, "chunk_shape", None) or getattr(data, "chunks", None))


def write_shape_of(data: Any, chunk_shape: tuple[int, ...] | None) -> tuple[int, ...] | None:
    """Return what only one process may write at a time: shards, or chunks; None in memory."""
    if isinstance(data, np.ndarray):
        return None
    if hasattr(data, "write_shape"):
        return _regular(data.write_shape)
    return _regular(getattr(data, "shards", None)) or chunk_shape


def here() -> str:
    """Name this process; host and pid, as containers on two hosts often share pids."""
    return f"{platform.node()}:{os.getpid()}"


def _regular(chunks: Any) -> tuple[int, ...] | None:
    return tuple(chunks) if chunks and all(isinstance(n, int) for n in chunks) else None


def _is_read_only(data: Any) -> bool:
    file = getattr(data, "file", None)  # an h5py dataset tells by its file
    return bool(getattr(data, "read_only", False)) or getattr(file, "mode", None) == "r"
