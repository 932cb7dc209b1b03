"""Anything with shape, dtype and slicing, as a source: arrays of h5py, zarr, NumPy and bellis."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bellis.arrays import Array
from bellis.arrays.layout import Layout
from bellis.errors import ArrayError, BellisError, FetchError
from bellis.geometry import Roi
from bellis.volumes.blocks import shown, slices_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt


class SliceableSource:
    """Voxels of an object that is sliced as NumPy does.

    It is called from several threads, and is given the time that it takes: a call into ``data`` is not interrupted.

    Parameters
    ----------
    data
        Has ``shape``, ``dtype`` and ``__getitem__``; or a `bellis.Array`.
    layout
        Where it is in the world; that of an `Array`, or voxels of size 1 at 0, if not given.
    fingerprint
        What tells it from other data, as JSON. An `Array` with a path has one: path, place and shape.

    Raises
    ------
    ArrayError
        If there is no fingerprint, or the layout does not fit.
    """

    def __init__(self, data: Any, layout: Layout | None = None, fingerprint: Mapping[str, Any] | None = None) -> None:
        self._data = data
        found = _layout_of(data)
        self.layout = layout or found
        if (self.layout.shape, self.layout.dtype) != (found.shape, found.dtype):
            raise ArrayError(
                f"the layout has shape {self.layout.shape} and dtype {self.layout.dtype}, the data has {found.shape} "
                f"and {found.dtype}"
            )
        self.fingerprint = fingerprint if fingerprint is not None else _fingerprint_of(data, found)

    @property
    def domain(self) -> Roi:
        """Its voxels, all axes; begins at 0."""
        return Roi((0,) * len(self.layout.shape), self.layout.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Data type of a voxel, in native byte order."""
        return self.layout.dtype.newbyteorder("=")

    @property
    def axes(self) -> tuple[str, ...]:
        """Name of each axis."""
        return self.layout.axis_names

    @property
    def preferred_block(self) -> tuple[int, ...] | None:
        """The chunks of the data, if it tells them."""
        found = getattr(self._data, "chunk_shape", None) or getattr(self._data, "chunks", None)
        if not found or len(found) != len(self.layout.shape) or not all(isinstance(n, int) for n in found):
            return None
        return tuple(found)

    @property
    def is_checked(self) -> bool | None:
        """Nobody knows."""
        return None

    def fetch(self, block_roi: Roi, out: npt.NDArray[Any], *, timeout_s: float) -> None:
        """Fill ``out`` with the voxels of a region; the time is not heeded."""
        del timeout_s
        try:
            voxels = np.asarray(self._read(block_roi))
        except BellisError:
            raise
        except Exception as error:  # the data's code
            raise FetchError(
                f"block {shown(block_roi)} can't be read from {type(self._data).__name__}: {error}"
            ) from error
        if voxels.shape != out.shape or voxels.dtype.newbyteorder("=") != out.dtype:
            raise FetchError(
                f"block {shown(block_roi)} of {type(self._data).__name__} came with shape {voxels.shape} and dtype "
                f"{voxels.dtype}: {out.shape} and {out.dtype} were asked"
            )
        out[...] = voxels

    def _read(self, block_roi: Roi) -> Any:
        if not isinstance(self._data, Array):
            return self._data[slices_of(block_roi)]
        own = self._data.layout
        begin = own.offset + own.spatial(block_roi.begin) * own.voxel_size
        world = Roi(begin, own.spatial(block_roi.shape) * own.voxel_size)
        channels = [slice(a, b) for a, b in zip(block_roi.begin, block_roi.end, strict=True)]
        everything = (slice(None),) * own.dims
        return self._data.to_ndarray(world)[own.woven(everything, channels)]


def _layout_of(data: Any) -> Layout:
    if isinstance(data, Array):
        return data.layout
    try:
        return Layout.of(tuple(data.shape), np.dtype(data.dtype).newbyteorder("="))
    except AttributeError as error:
        raise ArrayError(f"{type(data).__name__} has no shape and dtype: pass an array") from error


def _fingerprint_of(data: Any, layout: Layout) -> dict[str, Any]:
    path = getattr(data, "path", None) if isinstance(data, Array) else None
    if path is None:
        raise ArrayError(
            f"nothing tells this {type(data).__name__} from another one: "
            "pass fingerprint={'name': ..., 'version': ...}"
        )
    return {
        "kind": "array",
        "path": str(path),
        "shape": list(layout.shape),
        "dtype": layout.dtype.name,
        **layout.attributes(),
    }
