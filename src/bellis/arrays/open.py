"""Open arrays of any format, on a local disk or behind a URL."""

from __future__ import annotations

import functools
from dataclasses import replace
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from bellis.arrays.array import Array
from bellis.arrays.conventions import layout_of
from bellis.arrays.groups import finest_level
from bellis.arrays.location import Location
from bellis.errors import ArrayError

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Sequence

    from bellis.arrays.format import Format, Missing, Stored
    from bellis.arrays.layout import Layout
    from bellis.geometry import CoordinateLike

GROUP = "bellis.formats"
"""Group of the entry points by which formats are made known."""
BY_SUFFIX = {
    ".zarr": "zarr",
    ".n5": "n5",
    ".precomputed": "precomputed",
    **dict.fromkeys((".h5", ".hdf5", ".hdf"), "hdf5"),
    **dict.fromkeys((".tif", ".tiff"), "tiff"),
    **dict.fromkeys((".nii", ".nii.gz"), "nifti"),
}
"""Which format a container has by its name."""


def open_ds(
    path: str | os.PathLike[str],
    name: str | None = None,
    mode: str = "r",
    *,
    format: str | None = None,
    voxel_size: Sequence[float] | None = None,
    offset: CoordinateLike | None = None,
    axis_names: Sequence[str] | None = None,
    units: str | Sequence[str] | None = None,
    types: Sequence[str] | None = None,
    unit: str | None = None,
    missing: Missing | None = None,
) -> Array:
    """Open an array without reading any voxel.

    It may be zarr (version 2 and 3), N5, neuroglancer precomputed, HDF5, TIFF or NIfTI, on a local disk; and the first
    three of them behind ``http://``, ``https://``, ``s3://``, ``gs://`` and, within one process, ``memory://``. Which
    format it is, is said by ``format``, or in front of the path as in ``n5://s3://bucket/em``, or by the ending of the
    container's name, or is found out.

    Of a group that is an OME-Zarr image, the finest level is opened.

    Parameters
    ----------
    path
        Path or URL of the array, or of the group or file that it is in.
    name
        Name within the group or file, like ``"volumes/raw"``.
    mode
        ``"r"`` to read, ``"r+"`` (or ``"a"``) to read and write.
    format
        Name of the format, like ``"zarr"``.
    voxel_size, offset, axis_names, units, types
        In place of what the metadata says, as `Array` takes them.
    unit
        Unit of length in which voxel size, offset and regions are to be given.
    missing
        What a chunk that is not there means: ``"fill"`` for the fill value, ``"error"``. By default, that is an error
        for what is behind a URL, where chunks of a finished array are looked for.

    Raises
    ------
    ArrayError
        If there is no such array, its metadata can't be understood, or its voxel size is no integer in ``unit``.
    """
    if mode not in ("r", "r+", "a"):
        raise ArrayError(f"mode {mode!r} is none of 'r', 'r+', 'a': prepare_ds makes new arrays")
    if missing not in (None, "fill", "error"):
        raise ArrayError(f"missing={missing!r} is none of 'fill', 'error'")
    location = Location.of(path, name, format)
    stored = find(location, is_writeable=mode != "r", missing=missing)
    if stored is None:
        raise ArrayError(what_is_there(location))
    if not all(given is None for given in (voxel_size, offset, axis_names, units, types)):
        layout = overridden(
            stored.layout, voxel_size=voxel_size, offset=offset, axis_names=axis_names, units=units, types=types
        )
        stored = replace(stored, layout=layout)
    if unit is not None:
        stored = replace(stored, layout=stored.layout.in_unit(unit))
    return Array.of(stored)


def find(location: Location, *, is_writeable: bool, missing: Missing | None = None) -> Stored | None:
    """Describe the array at a location, or the finest level of the image there; None if there is neither.

    Raises
    ------
    ArrayError
        If its metadata can't be understood, or it can't be written although that is asked.
    """
    missing = missing or default_missing(location)
    for candidate in candidates(location):
        stored = candidate.open(location, is_writeable=is_writeable, missing=missing)
        if stored is not None:
            return stored
        if level := _finest(candidate, location):
            return candidate.open(level, is_writeable=is_writeable, missing=missing)
    return None


def _finest(kind: Format, location: Location) -> Location | None:
    """Return where the finest level of the image is that a group of zarr or N5 is; None if it is none."""
    if kind.name not in {"zarr", "n5"}:
        return None
    names = kind.datasets(location)
    if level := finest_level(location, names):
        return level
    return location / "s0" if kind.name == "n5" and "s0" in names else None  # N5 images often say it by names alone


def default_missing(location: Location) -> Missing:
    """Return what a missing chunk means if nobody says: of what is behind a URL, that it got lost."""
    return "error" if location.is_remote and not location.root.startswith("memory://") else "fill"


def candidates(location: Location) -> Iterator[Format]:
    """Yield the formats that a location may have, the likely one first.

    That is the one that was named; or else the one that the container is called by, and those that recognise what is
    there.

    Raises
    ------
    ArrayError
        If the format that was named is unknown.
    """
    if location.format is not None:
        yield load_format(location.format)
        return
    first = BY_SUFFIX.get(location.suffix)
    if first is not None:
        yield load_format(first)
    claimed = claiming(location)
    for known in claimed or (["zarr"] if first is None else []):
        if known != first:
            yield load_format(known)


def claiming(location: Location) -> list[str]:
    """Return the names of the formats that recognise what is at a location."""
    return [known for known in format_names() if _claims(known, location)]


@functools.cache
def format_names() -> tuple[str, ...]:
    """Return the names of all formats that are installed; zarr is asked first."""
    names = {point.name for point in entry_points(group=GROUP)}
    return tuple(sorted(names, key=lambda name: (name != "zarr", name)))


@functools.cache
def load_format(name: str) -> Format:
    """Return a format by its name.

    Raises
    ------
    ArrayError
        If there is none of that name, or it can't be loaded.
    """
    points = list(entry_points(group=GROUP, name=name))
    if not points:
        raise ArrayError(f"format {name!r} is unknown: use one of {', '.join(format_names())}")
    try:
        made: Format = points[0].load()()
    except Exception as error:  # a plugin's
        raise ArrayError(f"format {name!r} can't be loaded from {points[0].value}: {error!r}") from error
    return made


def what_is_there(location: Location) -> str:
    """Say what is found in place of an array."""
    for candidate in candidates(location):
        if names := candidate.datasets(location):
            return f"{location} is a group, not an array; arrays in it: {', '.join(names)}"
    if not location.is_remote and location.path.exists():
        return f"{location} is not an array of format {location.format or ', '.join(format_names())}"
    parent = location.parent or (None if location.is_remote else Location(location.path.parent.as_posix()))
    while parent is not None:
        for candidate in candidates(parent):
            if names := candidate.datasets(parent):
                return f"there is no array {location}; arrays in {parent}: {', '.join(names)}"
        parent = parent.parent
    return f"there is no array {location}" + (", or it may not be read" if location.is_remote else "")


def _claims(name: str, location: Location) -> bool:
    try:
        known = load_format(name)
    except ArrayError:  # that is an error only for those who ask for this format
        return False
    return known.claims(location)


def overridden(layout: Layout, **given: Any) -> Layout:
    """Return a layout with what the caller says in place of what was found; what has other axes is no longer known."""
    said = {key: value for key, value in given.items() if value is not None}
    dims = [len(said[key]) for key in ("voxel_size", "offset") if key in said]
    if "types" in said:
        dims.append(sum(kind != "channel" for kind in said["types"]))
    known = layout.attributes() if all(n == layout.dims for n in dims) else {}
    return layout_of(known, layout.shape, layout.dtype, **said)
