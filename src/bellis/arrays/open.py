"""Open arrays on disk, and make new ones."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np

from bellis.arrays import zarr
from bellis.arrays.array import Array
from bellis.arrays.layout import Layout, parse_voxel_size, scalar_as, voxels_of
from bellis.errors import ArrayError, GeometryError
from bellis.geometry import Coordinate, Roi

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import numpy.typing as npt

    from bellis.geometry import CoordinateLike


def open_ds(path: str | Path, name: str | None = None, mode: str = "r") -> Array:
    """Open a zarr array, version 2 or 3, without reading any voxel.

    Voxel size and offset come from the attributes ``voxel_size`` (or ``resolution``) and
    ``offset``, one integer per physical axis, in world units; without them they are 1 and 0.
    What the array has beyond these axes are channels, which come first.

    Parameters
    ----------
    path
        Directory of the array, or of the group that it is in.
    name
        Name within the group, like ``"volumes/raw"``.
    mode
        ``"r"`` to read, ``"r+"`` (or ``"a"``) to read and write.

    Raises
    ------
    ArrayError
        If there is no such array, or its metadata can't be understood.
    """
    if mode not in ("r", "r+", "a"):
        raise ArrayError(f"mode {mode!r} is none of 'r', 'r+', 'a': prepare_ds makes new arrays")
    where = local_path(path) / (name or "")
    metadata = zarr.read_metadata(where)
    if metadata is None:
        raise ArrayError(_what_is_there(where))
    layout = _layout_of(metadata)
    return Array(
        zarr.TensorStoreData.of_metadata(metadata, is_writeable=mode != "r"),
        voxel_size=layout.voxel_size,
        offset=layout.offset,
        axis_names=layout.axis_names,
        units=layout.units,
        types=layout.types,
        attrs=metadata.attributes,
    )


@overload
def prepare_ds(
    path: str | Path,
    total_roi: Roi | Sequence[int] | None = None,
    voxel_size: CoordinateLike | None = None,
    dtype: npt.DTypeLike | None = None,
    *,
    shape: Sequence[int] | None = None,
    offset: CoordinateLike | None = None,
    write_size: CoordinateLike | None = None,
    num_channels: int | None = None,
    chunk_shape: Sequence[int] | None = None,
    axis_names: Sequence[str] | None = None,
    units: str | Sequence[str] | None = None,
    fill_value: complex = 0,
    compressor: str | Mapping[str, Any] | None = "default",
    attrs: Mapping[str, Any] | None = None,
    mode: Literal["a", "w"] = "a",
) -> Array: ...
@overload
def prepare_ds(
    filename: str | Path,
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
    """Make a zarr array on disk, or open one that is just as asked for.

    There are two forms; a name as second argument makes it daisy's::

        prepare_ds(path, total_roi or shape, voxel_size, dtype, write_size=..., ...)
        prepare_ds(filename, ds_name, total_roi, voxel_size, dtype, write_size=..., ...)

    Zarr version 3 is written, and version 2 inside of a group of version 2. Directories on the way
    to the array, from the one that is called ``*.zarr``, become groups.

    Parameters
    ----------
    path
        Directory of the array, like ``"out.zarr/volumes/raw"``.
    filename, ds_name
        In daisy's form: the group, and the array's name in it.
    total_roi
        Region in world units; or, as in ``shape``, voxels per axis.
    voxel_size
        World units per voxel, one integer per physical axis; 1 if not given.
    dtype
        Bool, integer, float or complex type of a voxel.
    shape
        In place of ``total_roi``: voxels per axis, channels first.
    offset
        With ``shape``: where the array begins, in world units; 0 if not given.
    write_size
        World units per physical axis that are written at once: the shape of a block's write_roi.
        Chunks divide it, so that blocks on the grid of the array never share a chunk.
    write_roi
        In daisy's form: a region of that size.
    num_channels
        Length of a channel axis in front of the others; if not given, there is no such axis.
    chunk_shape
        Voxels per axis of a chunk; picked if not given.
    axis_names
        One per axis; c, then t, z, y, x from the end if not given.
    units
        One for all or one per physical axis; nm if not given.
    fill_value
        What voxels hold that were never written.
    compressor
        ``"default"`` (blosc with zstd), ``"blosc"``, ``"zstd"``, ``"gzip"``, one of them with
        options as ``{"id": "zstd", "level": 3}``, or None.
    attrs
        More attributes to store.
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
    if "ds_name" in kwargs or (len(args) > 1 and isinstance(args[1], str)):
        return _prepare_by_name(*args, **kwargs)
    return _prepare(*args, **kwargs)


def _prepare_by_name(
    filename: str | Path,
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
    container = local_path(filename)
    return _prepare(
        container / ds_name,
        total_roi,
        size,
        dtype,
        write_size=write_size,
        num_channels=num_channels,
        chunk_shape=chunk_shape,
        compressor=compressor,
        mode="replace different" if delete else "a",
        container=container,
    )


def _prepare(
    path: str | Path,
    total_roi: Roi | Sequence[int] | None = None,
    voxel_size: CoordinateLike | None = None,
    dtype: npt.DTypeLike | None = None,
    *,
    shape: Sequence[int] | None = None,
    offset: CoordinateLike | None = None,
    write_size: CoordinateLike | None = None,
    num_channels: int | None = None,
    chunk_shape: Sequence[int] | None = None,
    axis_names: Sequence[str] | None = None,
    units: str | Sequence[str] | None = None,
    fill_value: complex = 0,
    compressor: str | Mapping[str, Any] | None = "default",
    attrs: Mapping[str, Any] | None = None,
    mode: str = "a",
    container: Path | None = None,
) -> Array:
    if dtype is None:
        raise ArrayError("dtype is missing: pass the data type of a voxel, like 'uint8'")
    if np.dtype(dtype).name not in zarr.DTYPES:
        raise ArrayError(f"dtype {np.dtype(dtype)} is not stored, only {', '.join(zarr.DTYPES)}")
    if mode not in ("a", "w", "replace different"):
        raise ArrayError(f"mode {mode!r} is none of 'a', 'w'")
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
    layout = Layout.of(
        voxels if num_channels is None else (num_channels, *voxels),
        dtype,
        voxel_size=voxel_size,
        offset=offset,
        axis_names=axis_names,
        units=units,
    )
    write_voxels = None
    if write_size is not None:
        write_voxels = voxels_of(write_size, layout.voxel_size, "write_size")
    if chunk_shape is not None:
        layout.check_chunks(chunk_shape, write_voxels)
    fill_value = scalar_as(fill_value, layout.dtype)
    where = local_path(path)
    if not _keeps_existing(where, layout, chunk_shape, write_voxels, mode):
        zarr.create_array(
            where,
            _prepare_groups(where, container),
            shape=layout.shape,
            dtype=layout.dtype,
            chunk_shape=chunk_shape or layout.pick_chunks(write_voxels),
            fill_value=fill_value,
            compressor=compressor,
            attributes={**(attrs or {}), **layout.attributes()},
            axis_names=layout.axis_names,
        )
    return open_ds(where, mode="r+")


def _keeps_existing(
    where: Path,
    layout: Layout,
    chunk_shape: Sequence[int] | None,
    write_voxels: Coordinate | None,
    mode: str,
) -> bool:
    """Return whether the array that is there is as asked; make place if it may be replaced."""
    found = zarr.read_metadata(where) if mode != "w" else None
    if found is None:
        is_empty = not where.exists() or (where.is_dir() and not any(where.iterdir()))
        if not is_empty and not zarr.is_array(where):
            raise ArrayError(f"{_what_is_there(where)}; it is not replaced by an array")
    else:
        differences = layout.differences(_layout_of(found))
        chunks = Coordinate(found.chunk_shape[layout.channels :])
        if chunk_shape is not None and tuple(chunk_shape) != found.chunk_shape:
            differences.append(f"chunk_shape: asked {tuple(chunk_shape)}, found {found.chunk_shape}")
        elif write_voxels is not None and not write_voxels.is_multiple_of(chunks):
            differences.append(f"chunks: {chunks} do not divide write_size, {write_voxels} voxels")
        if not differences:
            return True
        if mode == "a":
            listed = "".join(f"\n  {line}" for line in differences)
            raise ArrayError(
                f"{where} exists, and is not as asked:{listed}\nPass mode='w' to replace it, or another path"
            )
    if where.exists():
        shutil.rmtree(where)
    return False


def _prepare_groups(where: Path, container: Path | None) -> Literal[2, 3]:
    """Make groups of the directories above an array; return the zarr version to write."""
    missing: list[Path] = []
    for parent in where.parents:
        version = zarr.group_format(parent)
        if version is not None:
            break
        if zarr.is_array(parent):
            raise ArrayError(f"{where} is inside of the array {parent}: pass another path")
        missing.append(parent)
        if parent == container or parent.suffix == ".zarr":
            break
    else:
        missing, version = [], None
    for parent in reversed(missing):
        zarr.create_group(parent, version or 3)
    return version or 3


def _layout_of(metadata: zarr.ZarrMetadata) -> Layout:
    try:
        return Layout.of_attributes(metadata.attributes, metadata.shape, metadata.dtype)
    except (ArrayError, GeometryError, TypeError) as error:
        raise ArrayError(f"{metadata.path} has attributes that do not fit it: {error}") from error


def local_path(path: str | Path) -> Path:
    """Return an absolute local path.

    Raises
    ------
    ArrayError
        For a URL, and for formats other than zarr.
    """
    if "://" in str(path):
        raise ArrayError(f"{path} is a URL: this version opens local paths only")
    if Path(path).suffix.lower() in (".n5", ".h5", ".hdf", ".hdf5"):
        raise ArrayError(f"{path} is not zarr, the one format that this version reads and writes")
    return Path(path).absolute()


def _what_is_there(where: Path) -> str:
    """Say what is found in place of an array."""
    if zarr.group_format(where):
        names = ", ".join(_array_names(where)) or "none"
        return f"{where} is a group, not an array; arrays in it: {names}"
    if where.exists():
        return f"{where} is not a zarr array"
    parent = next(p for p in where.parents if p.exists())
    if zarr.group_format(parent):
        names = ", ".join(_array_names(parent)) or "none"
        return f"there is no array {where}; arrays in {parent}: {names}"
    return f"there is no array {where}"


def _array_names(group: Path, prefix: str = "") -> Iterator[str]:
    for child in sorted(group.iterdir()):
        if zarr.is_array(child):
            yield prefix + child.name
        elif child.is_dir() and zarr.group_format(child):
            yield from _array_names(child, f"{prefix}{child.name}/")
