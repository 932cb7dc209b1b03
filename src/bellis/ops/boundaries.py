"""Boundary maps: images in which every voxel says how sure it is to be a boundary, from 0 to 1."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bellis.errors import ArrayError, TaskError
from bellis.ops.frame import name_of
from bellis.ops.steps import check_no_channels

if TYPE_CHECKING:
    import numpy.typing as npt

    from bellis.arrays import Array
    from bellis.geometry import Roi

_WIDE = 2**32 - 1


def check_boundaries(what: str, boundaries: Array) -> None:
    """Refuse what can be no boundary map.

    Raises
    ------
    ArrayError
        If it has channels, or the dtype is neither bool, nor of unsigned integers or floats.
    """
    check_no_channels(what, boundaries)
    if boundaries.dtype.kind not in "buf":
        raise ArrayError(
            f"{what}: {name_of(boundaries)} has dtype {boundaries.dtype}, but boundary maps are bool, unsigned "
            "integers (of which the largest is 1), or floats from 0 to 1"
        )


def check_threshold(what: str, threshold: float) -> None:
    """Refuse a threshold that no value, or every value of a boundary map is above.

    Raises
    ------
    TaskError
        If it is below 0, or 1 or more.
    """
    if not 0 <= threshold < 1:
        raise TaskError(f"{what}: threshold is {threshold!r}, must be at least 0 and below 1, as boundary maps are")


def scale_of(dtype: np.dtype[Any]) -> int:
    """Return the level that is 1: of integers, their largest one; of others, 2^32 - 1.

    Examples
    --------
    >>> scale_of(np.dtype(bool)), scale_of(np.dtype("uint8")), scale_of(np.dtype("float32"))
    (1, 255, 4294967295)
    """
    if dtype.kind == "b":
        return 1
    return int(np.iinfo(dtype).max) if dtype.kind == "u" and dtype.itemsize < 8 else _WIDE


def read_boundary(boundaries: Array, roi: Roi, threshold: float) -> npt.NDArray[np.bool_]:
    """Return where a boundary map is above a threshold.

    Raises
    ------
    ArrayError
        If it has values that are not from 0 to 1.
    """
    voxels = _read(boundaries, roi)
    if voxels.dtype.kind == "b":
        return voxels
    is_integer = voxels.dtype.kind == "u"
    above: npt.NDArray[np.bool_] = voxels > (
        int(threshold * int(np.iinfo(voxels.dtype).max)) if is_integer else threshold
    )
    return above


def read_levels(boundaries: Array, roi: Roi) -> npt.NDArray[Any]:
    """Return a boundary map as unsigned integers from 0 to `scale_of`, so that sums of them are exact.

    Floats are rounded to 2^-32.

    Raises
    ------
    ArrayError
        If it has values that are not from 0 to 1.
    """
    voxels = _read(boundaries, roi)
    if voxels.dtype.kind == "b":
        return voxels.view(np.uint8)
    if voxels.dtype.kind == "f":
        return np.rint(voxels.astype(np.float64) * _WIDE).astype(np.uint32)
    return voxels if voxels.dtype.itemsize < 8 else (voxels >> np.uint64(32)).astype(np.uint32)


def _read(boundaries: Array, roi: Roi) -> npt.NDArray[Any]:
    voxels = boundaries.to_ndarray(roi)
    if voxels.dtype.kind == "f":
        is_wrong = ~((voxels >= 0) & (voxels <= 1))
        if is_wrong.any():
            at = np.argwhere(is_wrong)[0]
            begin = (roi.begin - boundaries.roi.begin) // boundaries.voxel_size
            raise ArrayError(
                f"{name_of(boundaries)} has {voxels[tuple(at)]} at voxel {tuple((at + begin).tolist())}, and "
                f"{is_wrong.sum()} such values in {roi}: floats of a boundary map are from 0 to 1; scale it before"
            )
    return voxels
