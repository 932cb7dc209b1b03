"""Copy an array: between formats, into other chunks, or into another data type."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from bellis.arrays.format import BELLIS_ID
from bellis.errors import TaskError
from bellis.ops.blocks import Limits, Source, as_input, as_output, block_task, planned
from bellis.ops.frame import name_of, voxels_per_axis

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from bellis.arrays import Array
    from bellis.geometry import CoordinateLike
    from bellis.tasks import Block, Task


_PLACE = (
    *("voxel_size", "resolution", "offset", "axis_names", "units", "types"),
    *(BELLIS_ID, "ome", "multiscales", "transform", "pixelResolution", "downsamplingFactors"),
)
"""Attributes that a copy gets anew."""


def copy(
    source: Source,
    target: Source,
    *,
    chunk_shape: Sequence[int] | None = None,
    shard_shape: Sequence[int] | None = None,
    block_shape: CoordinateLike | None = None,
    dtype: npt.DTypeLike | None = None,
    name: str = "copy",
    overwrite: bool = False,
    limits: Limits | None = None,
) -> Task:
    """Make the task that copies an array, with its region, voxel size, axes and attributes.

    Parameters
    ----------
    source
        An array or a path.
    target
        An array, of which the whole region is copied, or a path, by whose ending the format is known; without one, an
        OME-Zarr image is made.
    chunk_shape, shard_shape
        Voxels per axis of a new target's chunks and shards, channels included; picked if not given.
    block_shape
        Voxels that a block copies, one number or one per physical axis; picked if not given: whole chunks.
    dtype
        Of a new target, if not the source's, all of whose values it must hold.
    name
        Id of the task.
    overwrite
        Replace an output that is there and has another region, voxel size, dtype or chunks; else that is an error.
    limits
        What it may use.

    Raises
    ------
    TaskError
        If target and source do not fit each other, or chunks or memory do not allow it; see `block_task`.
    ArrayError
        If the source can't be opened or the target can't be made.
    """
    array = as_input(source)
    kind = array.dtype if dtype is None else dtype
    task = functools.partial(_task, name, array, block_shape=block_shape, limits=limits)
    task(planned(target, array, kind))  # is refused before anything is replaced
    return task(
        as_output(
            target,
            array,
            kind,
            write_size=None
            if block_shape is None
            else voxels_per_axis("block_shape", block_shape, array.dims) * array.voxel_size,
            overwrite=overwrite,
            chunk_shape=chunk_shape,
            shard_shape=shard_shape,
            attrs=_own_attributes(array),
        )
    )


def _task(
    name: str, source: Array, target: Array, *, block_shape: CoordinateLike | None, limits: Limits | None
) -> Task:
    _check_fit(name, source, target)
    return block_task(
        name,
        functools.partial(_copy_block, source=source, target=target),
        reads=[source],
        writes=[target],
        block_shape=block_shape,
        limits=limits,
        version="copy",
    )


def rechunk(
    source: Source,
    target: Source,
    chunk_shape: Sequence[int],
    *,
    shard_shape: Sequence[int] | None = None,
    block_shape: CoordinateLike | None = None,
    name: str = "rechunk",
    overwrite: bool = False,
    limits: Limits | None = None,
) -> Task:
    """Make the task that copies an array into chunks of another shape; see `copy`."""
    return copy(
        source,
        target,
        chunk_shape=chunk_shape,
        shard_shape=shard_shape,
        block_shape=block_shape,
        name=name,
        overwrite=overwrite,
        limits=limits,
    )


def _copy_block(block: Block, *, source: Array, target: Array) -> None:
    target[block.write_roi] = source.to_ndarray(block.write_roi)


def _own_attributes(array: Array) -> dict[str, Any]:
    """Return the attributes that do not say where voxels are: those of the target's format do that."""
    return {key: value for key, value in array.attrs.items() if key not in _PLACE}


def _check_fit(name: str, source: Array, target: Array) -> None:
    if source.types != target.types or source.voxel_size != target.voxel_size:
        raise TaskError(
            f"task {name!r}: target {name_of(target)} has axes {target.types} and voxels of {target.voxel_size}, "
            f"source {name_of(source)} has {source.types} and {source.voxel_size}: they must be the same"
        )
    if not source.roi.contains(target.roi) or source.layout.shape_of(target.roi) != target.shape:
        raise TaskError(
            f"task {name!r}: target {name_of(target)} covers {target.roi} and has shape {target.shape}, but source "
            f"{name_of(source)} covers {source.roi} and has shape {source.shape}: take the view that both have, "
            "target[roi]"
        )
    if not np.can_cast(source.dtype, target.dtype, "safe"):
        raise TaskError(
            f"task {name!r}: {target.dtype} of target {name_of(target)} does not hold every value of {source.dtype}: "
            "convert with ops.map, which leaves rounding and clipping to you"
        )
