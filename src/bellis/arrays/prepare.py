"""Make new arrays, or take one that is just as asked."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Literal, overload

from bellis.arrays.array import Array
from bellis.arrays.axes import unit_per_axis
from bellis.arrays.fit import check_parts, differences, pick_chunks
from bellis.arrays.format import DTYPES, NewArray
from bellis.arrays.groups import record
from bellis.arrays.layout import Layout, parse_voxel_size, scalar_as, voxels_of
from bellis.arrays.location import Location
from bellis.arrays.open import BY_SUFFIX, claiming, default_missing, load_format
from bellis.arrays.units import convert, rationals, shown
from bellis.errors import ArrayError, ArrayExistsError
from bellis.geometry import Coordinate, Roi

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping, Sequence

    import numpy.typing as npt

    from bellis.arrays.format import Format
    from bellis.arrays.layout import RationalsLike
    from bellis.geometry import CoordinateLike


@overload
def prepare_ds(
    path: str | os.PathLike[str],
    total_roi: Roi | Sequence[int] | None = None,
    voxel_size: CoordinateLike | None = None,
    dtype: npt.DTypeLike | None = None,
    *,
    shape: Sequence[int] | None = None,
    offset: CoordinateLike | None = None,
    write_size: CoordinateLike | None = None,
    num_channels: int | None = None,
    chunk_shape: Sequence[int] | None = None,
    shard_shape: Sequence[int] | None = None,
    axis_names: Sequence[str] | None = None,
    units: str | Sequence[str] | None = None,
    types: Sequence[str] | None = None,
    fill_value: complex = 0,
    compressor: str | Mapping[str, Any] | None = "default",
    attrs: Mapping[str, Any] | None = None,
    format: str | None = None,
    mode: Literal["a", "w"] = "a",
) -> Array: ...
@overload
def prepare_ds(
    filename: str | os.PathLike[str],
    ds_name: str,
    total_roi: Roi,
    voxel_size: CoordinateLike,
    dtype: npt.DTypeLike,
    write_roi: Roi | None = None,
    write_size: CoordinateLike | None = None,
    num_channels: int | None = None,
    compressor: str | Mapping[str, Any] | None = "default",
    delete: bool = False,
    force_exact_write_size: bool = False,
) -> Array: ...
def prepare_ds(*args: Any, **kwargs: Any) -> Array:
    """Make an array, or open one that is just as asked for.

    There are two forms; a name as second argument makes it daisy's::

        prepare_ds(path, total_roi or shape, voxel_size, dtype, write_size=..., ...)
        prepare_ds(filename, ds_name, total_roi, voxel_size, dtype, write_size=..., ...)

    The format is said by ``format``, or by the ending of the path, as for `open_ds`; it is zarr if nothing says so.
    Zarr version 3 is written, and version 2 inside of a group of version 2. Directories on the way to the array, from
    the one that is called ``*.zarr``, become groups; the OME-Zarr metadata of the array's group tells of it.

    Parameters
    ----------
    path
        Path or URL of the array, like ``"out.zarr/volumes/raw"``.
    filename, ds_name
        In daisy's form: the group, and the array's name in it.
    total_roi
        Region in world units; or, as in ``shape``, voxels per axis.
    voxel_size
        World units per voxel, per physical axis; 1 if not given.
    dtype
        Bool, integer, float or complex type of a voxel.
    shape
        In place of ``total_roi``: voxels per axis.
    offset
        With ``shape``: where the array begins, in world units; 0 if not given.
    write_size
        World units per physical axis that are written at once: the shape of a block's write_roi.
        Chunks and shards divide it, so that blocks on the grid of the array never share one.
    write_roi
        In daisy's form: a region of that size.
    num_channels
        Length of a channel axis in front of the others; if not given, there is no such axis.
    chunk_shape
        Voxels per axis of a chunk; picked if not given.
    shard_shape
        Voxels per axis of a shard, a multiple of the chunks: a shard is one file, of which a process reads single
        chunks, and which only one process may write at a time. None for a file per chunk.
    axis_names
        One per axis; c, then t, z, y, x from the end if not given.
    units
        One for all or one per physical axis; nm if not given.
    types
        ``"channel"``, ``"time"`` or ``"space"`` per axis; channels first if not given.
    fill_value
        What voxels hold that were never written.
    compressor
        ``"default"`` (blosc with zstd), ``"blosc"``, ``"zstd"``, ``"gzip"``, one of them with
        options as ``{"id": "zstd", "level": 3}``, or None.
    attrs
        More attributes to store.
    format
        Name of the format, like ``"n5"``.
    mode
        ``"a"`` keeps an existing array that is as asked, and refuses any other; ``"w"`` replaces.
    delete
        In daisy's form: replace an existing array that is not as asked.
    force_exact_write_size
        In daisy's form: use ``write_size`` as the chunk size.

    Returns
    -------
    Array
        Open to read and write.

    Raises
    ------
    ArrayError
        If the arguments do not fit each other, or an array is there that is not as asked: each
        difference is listed.
    """
    by_name = "ds_name" in kwargs or (len(args) > 1 and isinstance(args[1], str))
    form: Callable[..., Array] = _prepare_by_name if by_name else _prepare
    known = inspect.signature(form)
    try:
        known.bind(*args, **kwargs)
    except TypeError as error:
        raise TypeError(
            f"prepare_ds: {error}. {'With a name as second argument, as in daisy, it' if by_name else 'It'} takes "
            f"{', '.join(known.parameters)}"
        ) from None
    return form(*args, **kwargs)


def prepare_array(
    location: Location,
    layout: Layout,
    *,
    write_voxels: Coordinate | None = None,
    chunk_shape: Sequence[int] | None = None,
    shard_shape: Sequence[int] | None = None,
    fill_value: complex = 0,
    compressor: str | Mapping[str, Any] | None = "default",
    attrs: Mapping[str, Any] | None = None,
    mode: str = "a",
    is_recorded: bool = True,
) -> Array:
    """Make an array of a layout, or open one that is just as asked for; arguments are those of `prepare_ds`.

    Parameters
    ----------
    location, layout
        Where, and what.
    write_voxels
        Voxels per physical axis that are written at once.
    mode
        As `prepare_ds` takes it, or ``"replace different"``.
    is_recorded
        Whether the OME-Zarr metadata of the group that the array is in is to tell of it.
    """
    if mode not in ("a", "w", "replace different"):
        raise ArrayError(f"mode {mode!r} is none of 'a', 'w'")
    if layout.dtype.name not in DTYPES:
        raise ArrayError(f"dtype {layout.dtype} is not stored, only {', '.join(DTYPES)}")
    check_parts(layout, chunk_shape, shard_shape, write_voxels)
    new = NewArray(
        layout=layout,
        chunk_shape=tuple(chunk_shape or pick_chunks(layout, shard_shape, write_voxels)),
        shard_shape=None if shard_shape is None else tuple(shard_shape),
        fill_value=scalar_as(fill_value, layout.dtype),
        compressor=compressor,
        attrs=dict(attrs or {}),
    )
    format = _format_of(location)
    found = None if mode == "w" else format.open(location, is_writeable=False, missing="fill")
    if found is not None:
        lines = differences(new, found, chunk_shape, write_voxels)
        if lines and mode == "a":
            listed = "".join(f"\n  {line}" for line in lines)
            raise ArrayExistsError(
                f"{location} exists, and is not as asked:{listed}\nPass another path, or have it replaced: mode='w' of "
                "prepare_ds, overwrite=True of an operation"
            )
        found = None if lines else found
    if found is None:
        if mode != "a":
            format.delete(location)
        format.create(location, new)
    if is_recorded and format.name == "zarr":
        record(location, layout)
    stored = format.open(location, is_writeable=True, missing=default_missing(location))
    if stored is None:
        raise ArrayError(f"{location} was made, and is gone: is another process deleting it?")
    return Array.of(stored)


def _prepare_by_name(
    filename: str | os.PathLike[str],
    ds_name: str,
    total_roi: Roi,
    voxel_size: CoordinateLike,
    dtype: npt.DTypeLike,
    write_roi: Roi | None = None,
    write_size: CoordinateLike | None = None,
    num_channels: int | None = None,
    compressor: str | Mapping[str, Any] | None = "default",
    delete: bool = False,
    force_exact_write_size: bool = False,
) -> Array:
    size = parse_voxel_size(voxel_size)
    write_size = write_size if write_roi is None else write_roi.shape
    chunk_shape = None
    if force_exact_write_size and write_size is not None:
        channels = () if num_channels is None else (num_channels,)
        chunk_shape = (*channels, *(Coordinate(write_size) // size))
    return _prepare(
        filename,
        total_roi,
        size,
        dtype,
        name=ds_name,
        write_size=write_size,
        num_channels=num_channels,
        chunk_shape=chunk_shape,
        compressor=compressor,
        mode="replace different" if delete else "a",
    )


def _prepare(
    path: str | os.PathLike[str],
    total_roi: Roi | Sequence[int] | None = None,
    voxel_size: CoordinateLike | None = None,
    dtype: npt.DTypeLike | None = None,
    *,
    name: str | None = None,
    shape: Sequence[int] | None = None,
    offset: CoordinateLike | None = None,
    write_size: CoordinateLike | None = None,
    num_channels: int | None = None,
    chunk_shape: Sequence[int] | None = None,
    shard_shape: Sequence[int] | None = None,
    axis_names: Sequence[str] | None = None,
    units: str | Sequence[str] | None = None,
    types: Sequence[str] | None = None,
    fill_value: complex = 0,
    compressor: str | Mapping[str, Any] | None = "default",
    attrs: Mapping[str, Any] | None = None,
    format: str | None = None,
    mode: str = "a",
) -> Array:
    location = Location.of(path, name, format)
    layout, write_voxels = layout_asked(
        total_roi,
        voxel_size,
        dtype,
        shape=shape,
        offset=offset,
        write_size=write_size,
        num_channels=num_channels,
        axis_names=axis_names,
        units=units,
        types=types,
    )
    return prepare_array(
        location,
        layout,
        write_voxels=write_voxels,
        chunk_shape=chunk_shape,
        shard_shape=shard_shape,
        fill_value=fill_value,
        compressor=compressor,
        attrs=attrs,
        mode=mode,
    )


def layout_asked(
    total_roi: Roi | Sequence[int] | None,
    voxel_size: CoordinateLike | None,
    dtype: npt.DTypeLike | None,
    *,
    shape: Sequence[int] | None,
    offset: CoordinateLike | None,
    write_size: CoordinateLike | None,
    num_channels: int | None,
    axis_names: Sequence[str] | None,
    units: str | Sequence[str] | None,
    types: Sequence[str] | None,
) -> tuple[Layout, Coordinate | None]:
    """Return the layout that arguments of `prepare_ds` mean, and the write size in voxels."""
    if dtype is None:
        raise ArrayError("dtype is missing: pass the data type of a voxel, like 'uint8'")
    if isinstance(total_roi, Roi):
        if shape is not None or offset is not None:
            raise ArrayError(f"total_roi {total_roi} says where the array is: no shape or offset")
        voxel_size = parse_voxel_size((1,) * total_roi.dims if voxel_size is None else voxel_size)
        voxels: Sequence[int] = voxels_of(total_roi.shape, voxel_size, "shape of total_roi")
        offset = total_roi.begin
    elif total_roi is None and shape is not None:
        voxels = shape
    elif total_roi is not None and shape is None:
        voxels = total_roi
    else:
        raise ArrayError(f"pass one of total_roi and shape: they are {total_roi} and {shape}")
    if num_channels is not None:
        voxel_size = (1,) * len(voxels) if voxel_size is None and types is None else voxel_size
        voxels = (num_channels, *voxels)
    layout = Layout.of(
        voxels,
        dtype,
        voxel_size=voxel_size,
        offset=offset,
        axis_names=axis_names,
        units=units,
        types=types,
    )
    return layout, None if write_size is None else _write_voxels(write_size, layout, units)


def _write_voxels(write_size: RationalsLike, layout: Layout, units: str | Sequence[str] | None) -> Coordinate:
    """Return a write size in voxels; it is in the units that were asked, the layout maybe in smaller ones."""
    extents = rationals(write_size, "write_size")
    if len(extents) == layout.dims:
        asked = unit_per_axis(units, layout.types)
        extents = tuple(convert(n, *pair) for n, *pair in zip(extents, asked, layout.units, strict=True))
    if any(n.denominator != 1 for n in extents):
        raise ArrayError(f"write_size {shown(extents)} is not a multiple of voxel_size {layout.voxel_size}")
    return voxels_of(Coordinate(map(int, extents)), layout.voxel_size, "write_size")


def _format_of(location: Location) -> Format:
    """Return the format of a new array: what was named, by its ending, of what is there or around it, or zarr."""
    if location.format or location.suffix in BY_SUFFIX:
        return load_format(location.format or BY_SUFFIX[location.suffix])
    here: Location | None = location
    while here is not None:
        for known in claiming(here):
            return load_format(known)
        here = here.parent
    return load_format("zarr")
