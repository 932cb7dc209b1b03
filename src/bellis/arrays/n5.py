"""N5 datasets, through tensorstore: presented with the axes in C order (z, y, x), where N5 has x, y, z.

Lists of attributes are written in N5's order, x, y, z, as n5-viewer, Paintera, neuroglancer and tensorstore read them:
``resolution``, ``offset``, ``axes``, ``units``; so is ``voxel_size`` for bellis itself. ``pixelResolution`` and COSEM's
``transform`` (by the names of the axes, in C order) say the same.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from bellis.arrays import keyvalue
from bellis.arrays.axes import is_channel_name
from bellis.arrays.conventions import layout_of, says_layout
from bellis.arrays.format import Stored
from bellis.arrays.groups import image_layout
from bellis.arrays.tensorstore import TensorStoreData, spec_of
from bellis.errors import ArrayError, GeometryError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bellis.arrays.format import Missing, NewArray
    from bellis.arrays.layout import Layout
    from bellis.arrays.location import Location

VERSION = "2.5.1"
"""Version of the N5 specification that is written."""
DTYPES = ("uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float32", "float64")
"""Names of the data types that N5 has."""
COMPRESSORS: Mapping[str, dict[str, Any]] = {
    # Every N5 library has gzip; a higher level takes much longer for a few percent.
    "gzip": {"level": 1},
    "zstd": {"level": 1},
    "blosc": {"cname": "zstd", "clevel": 1, "shuffle": 1, "blocksize": 0},
    "bzip2": {"blockSize": 9},
    "xz": {"preset": 6},
}
"""What ``compressor`` may name, with its options and their defaults."""
FILE = "attributes.json"
"""Where N5 keeps metadata and attributes."""
_STORAGE = ("dimensions", "blockSize", "dataType", "compression", "n5")
_LISTS = ("axis_names", "axes", "voxel_size", "resolution", "offset", "units", "types", "downsamplingFactors")
_SIZES = {"transform", "pixelResolution", "resolution"}
_INHERITED = ("pixelResolution", "resolution", "units", "axes", "offset")


class N5Format:
    """N5 on local disks, in object stores and behind web servers."""

    name = "n5"

    def claims(self, location: Location) -> bool:
        """Whether there is an N5 dataset or container, or the container is called ``*.n5``."""
        if location.suffix == ".n5":
            return True
        try:
            found = keyvalue.read_json(location, FILE)
        except ArrayError:
            return False
        return found is not None and ("n5" in found or "dimensions" in found)

    def datasets(self, location: Location) -> list[str]:
        """Return the names of the datasets below a group; of a server, none, as it can't list them."""
        return list(_below(location))

    def open(self, location: Location, *, is_writeable: bool, missing: Missing) -> Stored | None:
        """Describe a dataset; None if there is none."""
        found = keyvalue.read_json(location, FILE)
        if found is None or "dimensions" not in found:
            return None
        if is_writeable and not location.is_remote and not os.access(location.path, os.W_OK):
            raise ArrayError(f"{location} is not writeable: permission denied; open it with mode='r'")
        if is_writeable and location.root.startswith(("http://", "https://")):
            raise ArrayError(f"{location} is behind a web server, which is only read: open it with mode='r'")
        try:
            shape, chunks = (tuple(map(int, reversed(found[key]))) for key in ("dimensions", "blockSize"))
            dtype, compressor = found["dataType"], _named(found)
        except (KeyError, TypeError, ValueError) as error:
            raise ArrayError(f"{location} has incomplete N5 metadata: {error!r}") from error
        if dtype not in DTYPES:
            raise ArrayError(f"{location} has data type {dtype!r}: only {', '.join(DTYPES)} are read")
        attributes = {key: value for key, value in found.items() if key not in _STORAGE}
        return Stored(
            data=TensorStoreData(
                spec_of("n5", location, missing),
                path=location.url,
                shape=shape,
                dtype=np.dtype(dtype),
                chunk_shape=chunks,
                write_shape=chunks,
                is_writeable=is_writeable,
                order=tuple(reversed(range(len(shape)))),
            ),
            layout=_layout(location, attributes, shape, np.dtype(dtype)),
            attrs=attributes,
            format="n5",
            compressor=compressor,
            fill_value=np.dtype(dtype).type(0),
        )

    def create(self, location: Location, new: NewArray) -> None:
        """Make an empty dataset, and the groups on the way to it."""
        metadata = _metadata(new, location)
        parent = location.parent
        groups = []
        while parent is not None:
            above = keyvalue.read_json(parent, FILE)
            if above is not None and "dimensions" in above:
                raise ArrayError(f"{location} is inside of the array {parent}: pass another path")
            if above is None:
                groups.append(parent)
            parent = parent.parent
        for group in reversed(groups):
            keyvalue.update_json(group, FILE, lambda found: {"n5": VERSION, **found})

        def added(found: dict[str, Any]) -> dict[str, Any]:
            if "dimensions" not in found:
                return {**found, **metadata}
            keys = ("dimensions", "blockSize", "dataType")
            if any(found.get(key) != metadata[key] for key in keys):
                asked, there = ([values.get(key) for key in keys] for values in (metadata, found))
                raise ArrayError(f"{location} exists: asked for {', '.join(keys)} {asked}, found {there}")
            return found

        if keyvalue.read_json(location, FILE) is None and not keyvalue.is_empty(location):
            raise ArrayError(f"{location} is not an N5 array; it is not replaced by one: pass another path")
        if any(_below(location)):
            raise ArrayError(f"{location} is a group, not an array; it is not replaced by one: pass another path")
        keyvalue.update_json(location, FILE, added)

    def delete(self, location: Location) -> None:
        """Remove a dataset, never a group."""
        if "dimensions" in (keyvalue.read_json(location, FILE) or {}):
            keyvalue.delete(location)


def _below(group: Location, prefix: str = "") -> Iterator[str]:
    found = keyvalue.read_json(group, FILE)
    if found is not None and "dimensions" in found:
        return
    for name in keyvalue.children(group):
        inner = keyvalue.read_json(group / name, FILE)
        if inner is not None and "dimensions" in inner:
            yield prefix + name
        else:
            yield from _below(group / name, f"{prefix}{name}/")


def _named(found: Mapping[str, Any]) -> str | None:
    """Return the name of the compression; before N5 2.0, it was ``compressionType``."""
    compression = found.get("compression", found.get("compressionType"))
    name = compression.get("type") if isinstance(compression, Mapping) else compression
    return None if name == "raw" or name is None else str(name)


def _layout(location: Location, attributes: Mapping[str, Any], shape: tuple[int, ...], dtype: np.dtype[Any]) -> Layout:
    """Return what the dataset says of itself, or, if it says nothing, the groups above it."""
    try:
        if not says_layout(attributes):
            found = image_layout(location, shape, dtype)
            if found is not None:
                return found
            if not attributes.keys() & _SIZES:
                attributes = {**_of_group(location), **attributes}
        return layout_of(_in_c_order(attributes), shape, dtype, is_reversed=not _has_axes(attributes))
    except (ArrayError, GeometryError, TypeError) as error:
        raise ArrayError(f"{location} has attributes that do not fit it: {error}") from error


def _has_axes(attributes: Mapping[str, Any]) -> bool:
    return isinstance(attributes.get("axes"), list) and all(isinstance(name, str) for name in attributes["axes"])


def _in_c_order(attributes: Mapping[str, Any]) -> Mapping[str, Any]:
    """Turn the lists of attributes around if they have ``axes``, which says that they are in N5's order."""
    if not _has_axes(attributes):
        return attributes
    turned = {key: value[::-1] for key in _LISTS if isinstance(value := attributes.get(key), list)}
    names = turned["axes"]
    types = turned.get("types", ["channel" if is_channel_name(name) else "" for name in names])
    physical = [k for k, kind in enumerate(types) if kind != "channel"]
    for key in ("resolution", "units", "offset", "downsamplingFactors"):
        # Of tensorstore and neuroglancer, these have an entry for every axis; a channel's unit is "".
        if len(turned.get(key, ())) == len(names):
            turned[key] = [turned[key][k] for k in physical]
    return {**attributes, **turned, "axis_names": names}


def _of_group(location: Location) -> dict[str, Any]:
    """Return what the group of a level says of all levels, as n5-viewer writes it: ``s0``, ``s1``, ... in one group."""
    group = location.parent
    if group is None:
        return {}
    said = keyvalue.read_json(group, FILE) or {}
    inherited = {key: said[key] for key in _INHERITED if key in said}
    name = location.name.rpartition("/")[2]
    scales = said.get("scales", said.get("downsamplingFactors"))
    if name[:1] == "s" and name[1:].isdigit() and isinstance(scales, list) and int(name[1:]) < len(scales):
        inherited["downsamplingFactors"] = scales[int(name[1:])]
    return inherited if inherited.keys() & _SIZES else {}


def _metadata(new: NewArray, location: Location) -> dict[str, Any]:
    layout = new.layout
    if layout.dtype.name not in DTYPES:
        raise ArrayError(f"{location}: dtype {layout.dtype} is not stored in N5, only {', '.join(DTYPES)}")
    if new.shard_shape is not None:
        raise ArrayError(f"{location}: N5 has no shards, but shard_shape is {new.shard_shape}: leave it out")
    if new.fill_value != 0:
        raise ArrayError(f"{location}: N5 has no fill value but 0, {new.fill_value} was asked")
    attributes = {key: value for key, value in new.attrs.items() if key not in (*_STORAGE, "downsamplingFactors")}
    return {
        "n5": VERSION,
        **attributes,
        **_places(layout),
        "dimensions": list(layout.shape)[::-1],
        "blockSize": list(new.chunk_shape)[::-1],
        "dataType": layout.dtype.name,
        "compression": _compression(new.compressor, location),
    }


def _places(layout: Layout) -> dict[str, Any]:
    """Return a layout as attributes: in N5's order, and as Java's and COSEM's readers want it."""
    own = {key: value[::-1] for key, value in layout.attributes().items()}
    sizes = dict(zip(layout.physical, zip(layout.voxel_size, layout.offset, layout.units, strict=True), strict=True))
    every = [sizes.get(k, (1, 0, "")) for k in range(len(layout.shape))]
    places: dict[str, Any] = {
        **own,
        "axes": list(layout.axis_names)[::-1],
        # tensorstore wants an entry for every axis here.
        "resolution": [size for size, _, _ in every][::-1],
        "units": [unit for _, _, unit in every][::-1],
        "transform": {
            "order": "C",
            "axes": list(layout.axis_names),
            "scale": [size for size, _, _ in every],
            "translate": [begin for _, begin, _ in every],
            "units": [unit for _, _, unit in every],
        },
    }
    if len(set(layout.units)) == 1 and "time" not in layout.types:
        places["pixelResolution"] = {"dimensions": own["voxel_size"], "unit": layout.units[0]}
    return places


def _compression(compressor: str | Mapping[str, Any] | None, location: Location) -> dict[str, Any]:
    if compressor is None:
        return {"type": "raw"}
    given = {"id": compressor} if isinstance(compressor, str) else dict(compressor)
    name = "gzip" if given.get("id") == "default" else str(given.get("id"))
    if name not in COMPRESSORS:
        raise ArrayError(f"{location}: compressor {compressor!r} is not of N5: use {', '.join(COMPRESSORS)} or None")
    options = {**COMPRESSORS[name], **{key: value for key, value in given.items() if key != "id"}}
    if unknown := sorted(options.keys() - COMPRESSORS[name].keys()):
        raise ArrayError(f"{location}: compressor {name!r} has no options {', '.join(unknown)}")
    return {"type": name, **options}
