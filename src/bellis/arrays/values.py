"""Values that are written into an array: made to fit, or refused; never cast down. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bellis.arrays.layout import scalar_as
from bellis.errors import ArrayError

if TYPE_CHECKING:
    import numpy.typing as npt

    from bellis.arrays.layout import Layout
    from bellis.geometry import Roi


def holds(dtype: np.dtype[Any], other: np.dtype[Any]) -> bool:
    """Return whether ``dtype`` holds every value of ``other``.

    NumPy calls int64 to float64 safe, which loses integers beyond 2**53: labels, for one.
    """
    if other.kind in "iu" and dtype.kind in "fc":
        real = np.dtype(f"f{dtype.itemsize // 2}") if dtype.kind == "c" else dtype
        return np.iinfo(other).bits - (other.kind == "i") <= np.finfo(real).nmant + 1
    return np.can_cast(other, dtype, casting="safe")


def voxels_as(value: Any, layout: Layout, roi: Roi) -> npt.NDArray[Any]:
    """Return a scalar or an array in the shape of ``roi`` and the dtype of the layout; not copied if it fits.

    Without its channel axes, it is for every channel.

    Raises
    ------
    ArrayError
        If the shape is another one, or the dtype does not hold every value.
    """
    shape = layout.shape_of(roi)
    value = np.asarray(value) if not np.isscalar(value) else value
    if np.ndim(value) == 0:
        return np.broadcast_to(scalar_as(value, layout.dtype), shape)
    spatial = tuple(layout.spatial(shape))
    if value.shape not in (shape, spatial):
        without = f", or {spatial} for all channels" if layout.channels else ""
        raise ArrayError(
            f"value has shape {value.shape}, but roi {roi} of the array has shape {shape} "
            f"({', '.join(layout.axis_names)}){without}"
        )
    if not holds(layout.dtype, value.dtype):
        raise ArrayError(
            f"value has dtype {value.dtype}, which {layout.dtype} of the array does not hold: "
            f"convert it first, value.astype({layout.dtype.name!r})"
        )
    voxels = value.astype(layout.dtype, copy=False)
    if voxels.ndim != len(shape):
        voxels = voxels.reshape(layout.woven(spatial, (1,) * len(shape)))
    return np.broadcast_to(voxels, shape)
