"""The metadata of zarr arrays and groups, version 2 and 3: parsed, and written for tensorstore."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from bellis.arrays.format import DTYPES
from bellis.arrays.keyvalue import exists, read_json
from bellis.errors import ArrayError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bellis.arrays.format import NewArray
    from bellis.arrays.location import Location

Version: TypeAlias = Literal[2, 3]
"""Version of the zarr specification."""

COMPRESSORS: Mapping[str, dict[str, Any]] = {
    "blosc": {"cname": "zstd", "clevel": 1, "shuffle": 1, "blocksize": 0},
    "zstd": {"level": 1},
    "gzip": {"level": 5},
}
"""What ``compressor`` may name, with the options that it has and their defaults, as numcodecs."""
_SHARDS = "sharding_indexed"


@dataclass(frozen=True, slots=True, kw_only=True)
class ZarrMetadata:
    """What the metadata files of one zarr array say."""

    version: Version
    """Version of the zarr specification."""
    shape: tuple[int, ...]
    """Voxels per axis, channel axes included."""
    dtype: np.dtype[Any]
    """Data type in native byte order, which is how voxels are read."""
    chunk_shape: tuple[int, ...]
    """Voxels per axis of the smallest part that is read at once: a chunk, in a shard or not."""
    write_shape: tuple[int, ...]
    """Voxels per axis of the smallest part that is written at once: a shard, if there are any."""
    dimension_names: tuple[str | None, ...] | None = None
    """Zarr 3's names of the axes."""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    """User attributes, as they are."""
    compressor: str | None = None
    """Name of what compresses chunks."""
    fill_value: Any = None
    """What voxels hold that were never written; None if it is not said."""


def read_metadata(location: Location) -> ZarrMetadata | None:
    """Read the metadata of the zarr array at ``location``; None if there is no array.

    Raises
    ------
    ArrayError
        If the metadata can't be read, or the data type is none of bool, integer, float, complex.
    """
    try:
        if (found := read_json(location, "zarr.json")) is not None:
            return _parse_v3(found, location) if found["node_type"] == "array" else None
        if (found := read_json(location, ".zarray")) is not None:
            return _parse_v2(found, read_json(location, ".zattrs") or {}, location)
    except ArrayError:
        raise
    except KeyError as error:
        raise ArrayError(f"{location} has incomplete zarr metadata: {error} is missing") from error
    except (TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
        raise ArrayError(f"{location} has zarr metadata that is not understood: {error!r}") from error
    return None


def group_version(location: Location) -> Version | None:
    """Return the zarr version of the group at ``location``; None if there is no group."""
    if (found := read_json(location, "zarr.json")) is not None:
        return 3 if found.get("node_type") == "group" else None
    return 2 if exists(location, ".zgroup") else None


def is_array(location: Location) -> bool:
    """Return whether there is a zarr array at ``location``."""
    if (found := read_json(location, "zarr.json")) is not None:
        return found.get("node_type") == "array"
    return exists(location, ".zarray")


def group_metadata(version: Version) -> tuple[str, dict[str, Any]]:
    """Return the file, and what it holds, that makes a directory an empty group."""
    if version == 3:
        return "zarr.json", {"zarr_format": 3, "node_type": "group", "attributes": {}}
    return ".zgroup", {"zarr_format": 2}


def array_metadata(new: NewArray, version: Version) -> dict[str, Any]:
    """Return the metadata of a new array, as tensorstore takes it; of version 2, the attributes are left out.

    Raises
    ------
    ArrayError
        If the version of zarr has no such thing.
    """
    layout, codec = new.layout, _codec(new.compressor, new.layout.dtype, version)
    if layout.dtype.name not in DTYPES:
        raise ArrayError(f"dtype {layout.dtype} is not stored in zarr, only {', '.join(DTYPES)}")
    fill_value = _fill(new.fill_value, layout.dtype)
    if version == 2:
        if new.shard_shape is not None:
            raise ArrayError(f"shards of {new.shard_shape} voxels were asked, but zarr version 2 has none")
        return {
            "shape": list(layout.shape),
            "dtype": layout.dtype.newbyteorder("<").str,
            "chunks": list(new.chunk_shape),
            "compressor": codec,
            "fill_value": fill_value,
        }
    codecs: list[dict[str, Any]] = [{"name": "bytes", "configuration": {"endian": "little"}}]
    codecs += [codec] if codec else []
    if new.shard_shape is not None:
        index = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
        shard = {"chunk_shape": list(new.chunk_shape), "codecs": codecs, "index_codecs": index}
        codecs = [{"name": _SHARDS, "configuration": shard}]
    return {
        "shape": list(layout.shape),
        "data_type": layout.dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(new.shard_shape or new.chunk_shape)}},
        "codecs": codecs,
        "fill_value": fill_value,
        "attributes": {**new.attrs, **layout.attributes()},
        "dimension_names": list(layout.axis_names),
    }


def _parse_v3(found: Mapping[str, Any], location: Location) -> ZarrMetadata:
    grid = found["chunk_grid"]
    if grid["name"] != "regular":
        raise ArrayError(f"{location} has a chunk grid {grid['name']!r}: only 'regular' is read")
    dtype = _dtype(found["data_type"], location)
    shape = _extents(found["shape"], "shape", location)
    names = found.get("dimension_names")
    if names is not None and not (isinstance(names, list) and all(isinstance(name, str | None) for name in names)):
        raise ArrayError(f"{location} has dimension_names {names!r}: a list of names is due")
    attributes = found.get("attributes") or {}
    if not isinstance(attributes, dict):
        raise ArrayError(f"{location} has attributes {attributes!r}: an object is due")
    write_shape = _extents(grid["configuration"]["chunk_shape"], "chunk_shape", location, ndim=len(shape))
    codecs = found["codecs"]
    return ZarrMetadata(
        version=3,
        shape=shape,
        dtype=dtype,
        chunk_shape=_extents(_inner_chunks(codecs, write_shape), "chunk_shape", location, ndim=len(shape)),
        write_shape=write_shape,
        dimension_names=None if names is None else tuple(names),
        attributes=attributes,
        compressor=_compressor(codecs),
        fill_value=_parse_fill(found.get("fill_value"), dtype),
    )


def _parse_v2(found: Mapping[str, Any], attributes: Mapping[str, Any], location: Location) -> ZarrMetadata:
    dtype, compressor = _dtype(found["dtype"], location), found.get("compressor")
    shape = _extents(found["shape"], "shape", location)
    chunk_shape = _extents(found["chunks"], "chunks", location, ndim=len(shape))
    return ZarrMetadata(
        version=2,
        shape=shape,
        dtype=dtype,
        chunk_shape=chunk_shape,
        write_shape=chunk_shape,
        attributes=attributes,
        compressor=_named(compressor["id"], compressor) if compressor else None,
        fill_value=_parse_fill(found.get("fill_value"), dtype),
    )


def _inner_chunks(codecs: list[Any], write_shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the chunks within a shard; a transposition before the shard is undone."""
    order = tuple(range(len(write_shape)))
    for codec in codecs:
        options = codec.get("configuration") or {} if isinstance(codec, dict) else {}
        if codec == "transpose" or (isinstance(codec, dict) and codec["name"] == "transpose"):
            order = tuple(order[k] for k in options["order"])
        elif isinstance(codec, dict) and codec["name"] == _SHARDS:
            inner = dict(zip(order, options["chunk_shape"], strict=True))
            return tuple(inner[k] for k in range(len(order)))
    return write_shape


def _extents(value: Any, what: str, location: Location, *, ndim: int | None = None) -> tuple[int, ...]:
    """Parse one whole number per axis; of chunks, with ``ndim``, each is 1 at least."""
    least = 0 if ndim is None else 1
    is_whole = isinstance(value, list | tuple) and all(type(n) is int and least <= n < 2**62 for n in value)
    if not is_whole or (ndim is not None and len(value) != ndim):
        raise ArrayError(f"{location} has {what} {value!r}: one whole number of voxels per axis is due")
    return tuple(value)


def _compressor(codecs: list[Any]) -> str | None:
    """Return the name of the codec of zarr 3 that compresses, within shards if there are any."""
    for codec in codecs:
        name, options = (codec, {}) if isinstance(codec, str) else (codec["name"], codec.get("configuration") or {})
        if name == _SHARDS:
            return _compressor(options["codecs"])
        if name not in {"bytes", "transpose", "crc32c"}:
            return _named(name, options)
    return None


def _named(name: str, options: Mapping[str, Any]) -> str:
    return f"{name} ({options['cname']})" if "cname" in options else str(name)


def _codec(asked: str | Mapping[str, Any] | None, dtype: np.dtype[Any], version: Version) -> dict[str, Any] | None:
    """Return the codec as zarr metadata of the version writes it."""
    if asked is None:
        return None
    given = {"id": asked} if isinstance(asked, str) else dict(asked)
    name = "blosc" if given.get("id") == "default" else given.get("id")
    if not isinstance(name, str) or name not in COMPRESSORS:
        raise ArrayError(f"compressor {asked!r} is unknown: use {', '.join(COMPRESSORS)} or None")
    options = COMPRESSORS[name] | given | {"id": name}
    if unknown := sorted(options.keys() - COMPRESSORS[name].keys() - {"id"}):
        raise ArrayError(f"compressor {name!r} has no options {', '.join(unknown)}")
    if version == 2:
        return options
    del options["id"]
    if name == "blosc":
        shuffle = {0: "noshuffle", 1: "shuffle", 2: "bitshuffle"}.get(options["shuffle"], options["shuffle"])
        options |= {"shuffle": shuffle, "typesize": dtype.itemsize}
    return {"name": name, "configuration": options}


def _fill(value: complex, dtype: np.dtype[Any]) -> Any:
    """Return a fill value as JSON; NaN and infinity are words in zarr."""
    if dtype.kind == "c":
        part = np.dtype(f"f{dtype.itemsize // 2}")
        return [_fill(complex(value).real, part), _fill(complex(value).imag, part)]
    voxel = np.asarray(value).astype(dtype)[()]
    if dtype.kind == "f" and not np.isfinite(voxel):
        return "NaN" if np.isnan(voxel) else "Infinity" if voxel > 0 else "-Infinity"
    return voxel.item()


def _parse_fill(value: Any, dtype: np.dtype[Any]) -> Any:
    """Return a fill value as a scalar; None for what is not said or not understood, as raw bits in hexadecimal are."""
    try:
        if isinstance(value, list):
            return dtype.type(complex(float(value[0]), float(value[1])))
        return None if value is None else dtype.type(float(value) if isinstance(value, str) else value)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _dtype(name: Any, location: Location) -> np.dtype[Any]:
    try:
        dtype = np.dtype(name).newbyteorder("=") if isinstance(name, str) else None
    except TypeError:
        dtype = None
    if dtype is None or dtype.name not in DTYPES:
        raise ArrayError(f"{location} has data type {name!r}: only {', '.join(DTYPES)} are read")
    return dtype
