"""Zarr arrays, version 2 and 3, with shards or without: metadata is read as JSON, chunks travel through tensorstore."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bellis.arrays import keyvalue
from bellis.arrays.conventions import layout_of, says_layout
from bellis.arrays.format import Stored
from bellis.arrays.groups import image_layout
from bellis.arrays.location import Location
from bellis.arrays.tensorstore import TensorStoreData, create, spec_of
from bellis.arrays.zarr_metadata import (
    Version,
    ZarrMetadata,
    array_metadata,
    group_metadata,
    group_version,
    is_array,
    read_metadata,
)
from bellis.errors import ArrayError, GeometryError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bellis.arrays.format import Missing, NewArray
    from bellis.arrays.layout import Layout

_FILES = ("zarr.json", ".zarray", ".zgroup")


class ZarrFormat:
    """Zarr, version 2 and 3, on local disks, in object stores and behind web servers.

    Parameters
    ----------
    version
        Of what is made; if not given, 2 inside of a group of version 2, and 3 elsewhere.
    """

    def __init__(self, version: Version | None = None) -> None:
        self._version = version

    @property
    def name(self) -> str:
        """``"zarr"``, or ``"zarr2"`` for the format that makes version 2."""
        return "zarr" if self._version is None else f"zarr{self._version}"

    def claims(self, location: Location) -> bool:
        """Whether there is a zarr array or group, or the container is called ``*.zarr``.

        A server that can't be reached is an error: the other formats can't reach it either.
        """
        if self._version is not None:
            return False  # it is the other one's to recognise what is there
        return location.suffix == ".zarr" or any(keyvalue.exists(location, key) for key in _FILES)

    def datasets(self, location: Location) -> list[str]:
        """Return the names of the arrays below a group; of a server, only what consolidated metadata lists."""
        if location.is_remote and not location.root.startswith("memory://"):
            return _consolidated(location)
        return list(_arrays_below(location))

    def open(self, location: Location, *, is_writeable: bool, missing: Missing) -> Stored | None:
        """Describe the array at ``location`` without tensorstore; None if there is none."""
        metadata = read_metadata(location)
        if metadata is None:
            return None
        if is_writeable:
            keyvalue.check_writeable(location)
        return Stored(
            data=TensorStoreData(
                spec_of("zarr3" if metadata.version == 3 else "zarr", location, missing),
                path=location.url,
                shape=metadata.shape,
                dtype=metadata.dtype,
                chunk_shape=metadata.chunk_shape,
                write_shape=metadata.write_shape,
                is_writeable=is_writeable,
            ),
            layout=_layout(location, metadata),
            attrs=metadata.attributes,
            format=f"zarr {metadata.version}",
            compressor=metadata.compressor,
            fill_value=metadata.fill_value,
        )

    def create(self, location: Location, new: NewArray) -> None:
        """Make an empty array, and the groups on the way to it."""
        keyvalue.check_writeable(location)
        above = _version_above(location)
        version = self._version or above or 3
        if above not in (None, version):
            raise ArrayError(f"{location} would be zarr {version} in a group of zarr {above}: pass another path")
        metadata = array_metadata(new, version)
        for group in _groups_to_make(location):
            keyvalue.write_json(group, *group_metadata(version))
        with keyvalue.locked(location):
            if not is_array(location) and not keyvalue.is_empty(location):
                what = "is a group, not an array" if group_version(location) else "is not a zarr array"
                raise ArrayError(f"{location} {what}; it is not replaced by an array: pass another path")
            if version == 2:
                attributes = {**new.attrs, **new.layout.attributes()}
                keyvalue.write_json(location, ".zattrs", attributes)
            spec = spec_of("zarr3" if version == 3 else "zarr", location, "fill")
            create(spec, {"metadata": metadata}, location.url)

    def delete(self, location: Location) -> None:
        """Remove an array, never a group."""
        keyvalue.check_writeable(location)
        if is_array(location):
            keyvalue.delete(location)


def _layout(location: Location, metadata: ZarrMetadata) -> Layout:
    """Return what the array says of itself, or, if it says nothing, the group that it is a level of."""
    try:
        if not says_layout(metadata.attributes):
            found = image_layout(location, metadata.shape, metadata.dtype)
            if found is not None:
                return found
        return layout_of(metadata.attributes, metadata.shape, metadata.dtype, dimension_names=metadata.dimension_names)
    except (ArrayError, GeometryError, TypeError) as error:
        raise ArrayError(f"{location} has attributes that do not fit it: {error}") from error


def _above(location: Location) -> Iterator[Location]:
    """Yield what an array is in, nearest first, up to its container; of a local container, its folders."""
    parent = location.parent
    while parent is not None:
        yield parent
        parent = parent.parent
    if not (location.name or location.is_remote):
        yield from (Location(path.as_posix()) for path in location.path.parents)


def zarr2() -> ZarrFormat:
    """Return the format that makes zarr 2, for readers that know nothing newer."""
    return ZarrFormat(2)


def _version_above(location: Location) -> Version | None:
    """Return the version of the nearest group above; None if there is none."""
    for parent in _above(location):
        if is_array(parent):
            raise ArrayError(f"{location} is inside of the array {parent}: pass another path")
        if version := group_version(parent):
            return version
    return None


def _groups_to_make(location: Location) -> list[Location]:
    """Return what has to become a group, outermost first: up to a group, or the container."""
    missing: list[Location] = []
    for parent in _above(location):
        if group_version(parent):
            return missing[::-1]
        missing.append(parent)
    return [group for group in missing[::-1] if group.root == location.root]


def _arrays_below(group: Location, prefix: str = "") -> Iterator[str]:
    if not group_version(group):
        return
    for name in keyvalue.children(group):
        if is_array(group / name):
            yield prefix + name
        else:
            yield from _arrays_below(group / name, f"{prefix}{name}/")


def _consolidated(group: Location) -> list[str]:
    found: dict[str, Any] = keyvalue.read_json(group, "zarr.json") or {}
    nodes = (found.get("consolidated_metadata") or {}).get("metadata") or {}
    names = [name for name, node in nodes.items() if node.get("node_type") == "array"]
    files = (keyvalue.read_json(group, ".zmetadata") or {}).get("metadata") or {}
    return sorted([*names, *(key.removesuffix("/.zarray") for key in files if key.endswith("/.zarray"))])
