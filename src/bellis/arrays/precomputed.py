"""Neuroglancer's precomputed volumes, through tensorstore: presented as (z, y, x), or (c, z, y, x) with channels.

A scale is named by its number, ``"0"`` is the finest, or by its key. Lengths are nanometres, as the format has them;
what bellis makes also keeps its units, names and attributes, under ``"bellis"`` in the entry of the scale.

Format: https://github.com/google/neuroglancer/blob/master/src/datasource/precomputed/volume.md
"""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bellis.arrays import keyvalue
from bellis.arrays.conventions import layout_of
from bellis.arrays.format import Stored
from bellis.arrays.location import Location
from bellis.arrays.tensorstore import TensorStoreData, spec_of
from bellis.arrays.units import convert, parse_unit, rational, shown
from bellis.errors import ArrayError, GeometryError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from bellis.arrays.format import Missing, NewArray
    from bellis.arrays.layout import Layout

FILE = "info"
"""Where a volume keeps its metadata."""
DTYPES = ("uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "float32")
"""Names of the data types that tensorstore reads and writes in this format."""
LABEL_DTYPES = ("uint32", "uint64")
"""Data types that are taken for labels, and that ``compressed_segmentation`` compresses."""
_LABEL_BLOCK = [8, 8, 8]


class PrecomputedFormat:
    """Precomputed volumes on local disks, in object stores and behind web servers."""

    name = "precomputed"

    def claims(self, location: Location) -> bool:
        """Whether there is an info file of a volume, or the container is called ``*.precomputed``."""
        if location.suffix == ".precomputed":
            return True
        try:
            return _volume(location) is not None
        except ArrayError:
            return False

    def datasets(self, location: Location) -> list[str]:
        """Return the numbers of the scales of a volume, if it has several."""
        found = _volume(location)
        if found is None or found[1]:
            return []
        scales = found[2]["scales"]
        return [str(k) for k in range(len(scales))] if len(scales) > 1 else []

    def open(self, location: Location, *, is_writeable: bool, missing: Missing) -> Stored | None:
        """Describe a scale, the finest if none is named; None if there is none."""
        found = _volume(location)
        if found is None:
            return None
        base, name, info = found
        index = _index(info["scales"], name)
        if index is None:
            return None
        try:
            return _stored(base, info, index, is_writeable=is_writeable, missing=missing)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            if isinstance(error, ArrayError | GeometryError):
                raise
            raise ArrayError(f"{base}/{FILE} is incomplete: {error!r}") from error

    def create(self, location: Location, new: NewArray) -> None:
        """Make an empty volume of one scale."""
        base = _base(location)
        info = _info(new, base)

        def added(found: dict[str, Any]) -> dict[str, Any]:
            if not found:
                return info
            if found != info:
                raise ArrayError(f"{base} exists: asked for {info}, found {found}")
            return found

        if not keyvalue.exists(base, FILE) and not keyvalue.is_empty(base):
            raise ArrayError(f"{base} is not a precomputed volume; it is not replaced by one: pass another path")
        keyvalue.update_json(base, FILE, added)

    def delete(self, location: Location) -> None:
        """Remove a volume of one scale."""
        found = _volume(location)
        if found is None:
            return
        base, _, info = found
        rest = sorted(info.keys() & {"mesh", "skeletons", "segment_properties"})
        if len(info["scales"]) > 1 or rest:
            what = ", ".join([f"{len(info['scales'])} scales", *rest])
            raise ArrayError(f"{base} has {what}: it is not deleted by bellis; pass another path")
        if base.is_remote:
            keyvalue.delete(base)
            return
        keyvalue.delete(base / info["scales"][0]["key"])
        (base.path / FILE).unlink(missing_ok=True)


def _volume(location: Location) -> tuple[Location, str, dict[str, Any]] | None:
    """Return where a volume is, what is named in it, and its info: the outermost that the path leads through."""
    for base, name in _splits(location):
        info = keyvalue.read_json(base, FILE)
        if info is not None and isinstance(info.get("scales"), list) and info["scales"]:
            return base, name, info
    return None


def _splits(location: Location) -> Iterator[tuple[Location, str]]:
    parts = location.name.split("/") if location.name else []
    for k in range(len(parts) + 1):
        yield Location(location.root, "/".join(parts[:k]), location.format), "/".join(parts[k:])


def _base(location: Location) -> Location:
    """Return where a new volume is: a name at the end that is the number 0 is that of its scale."""
    if location.name.rpartition("/")[2] == "0" and location.parent is not None:
        return location.parent
    return location


def _index(scales: Sequence[Mapping[str, Any]], name: str) -> int | None:
    if not name:
        return 0
    for k, scale in enumerate(scales):
        if scale.get("key") == name:
            return k
    return int(name) if name.isdigit() and int(name) < len(scales) else None


def _stored(base: Location, info: Mapping[str, Any], index: int, *, is_writeable: bool, missing: Missing) -> Stored:
    scale = info["scales"][index]
    where = base.url if len(info["scales"]) == 1 else f"{base}/{index}"
    dtype = str(info["data_type"]).lower()
    if dtype not in DTYPES:
        raise ArrayError(f"{where} has data type {dtype!r}: only {', '.join(DTYPES)} are read")
    if is_writeable:
        _check_writeable(base, scale, where)
    channels = int(info.get("num_channels", 1))
    own = scale.get("bellis", {})
    has_channels = channels > 1 or len(own.get("axis_names", ())) == 4
    shape = (*(channels,) * has_channels, *map(int, reversed(scale["size"])))
    chunk = (*(channels,) * has_channels, *map(int, reversed(scale["chunk_sizes"][0])))
    return Stored(
        data=TensorStoreData(
            {**spec_of("neuroglancer_precomputed", base, missing), "scale_index": index},
            path=where,
            shape=shape,
            dtype=np.dtype(dtype),
            chunk_shape=chunk,
            write_shape=chunk,
            is_writeable=is_writeable,
            order=(3, 2, 1, 0) if has_channels else (2, 1, 0),
            dropped=() if has_channels else (3,),
        ),
        layout=_layout(scale, own, shape, np.dtype(dtype), where),
        attrs=own,
        format="precomputed, sharded" if scale.get("sharding") else "precomputed",
        compressor=None if scale["encoding"] == "raw" else scale["encoding"],
        fill_value=np.dtype(dtype).type(0),
    )


def _layout(
    scale: Mapping[str, Any], own: Mapping[str, Any], shape: tuple[int, ...], dtype: np.dtype[Any], where: str
) -> Layout:
    """Return what the scale says; in the words of bellis if it made them, and nobody has changed the scale since."""
    try:
        size = [rational(value) for value in reversed(scale["resolution"])]
        begin = [n * v for n, v in zip(reversed(scale.get("voxel_offset", [0, 0, 0])), size, strict=True)]
        if own:
            layout = layout_of(own, shape, dtype)
            if _in_nm(layout) == (size, begin):
                return layout
        types = ["channel"] * (len(shape) - 3) + ["space"] * 3
        names = ["c", "z", "y", "x"][-len(shape) :]
        return layout_of({}, shape, dtype, voxel_size=size, offset=begin, units="nm", axis_names=names, types=types)
    except (ArrayError, GeometryError, TypeError, ValueError) as error:
        raise ArrayError(f"{where} has an info that does not fit it: {error}") from error


def _in_nm(layout: Layout) -> tuple[list[Fraction], list[Fraction]]:
    """Return voxel size and offset in nm."""
    size = [
        rational(float(convert(Fraction(n), unit, "nm")))
        for n, unit in zip(layout.voxel_size, layout.units, strict=True)
    ]
    begin = [n // v * s for n, v, s in zip(layout.offset, layout.voxel_size, size, strict=True)]
    return size, begin


def _check_writeable(base: Location, scale: Mapping[str, Any], where: str) -> None:
    if scale.get("sharding"):
        raise ArrayError(f"{where} is in shards, which are only read: open it with mode='r'")
    if base.root.startswith(("http://", "https://")):
        raise ArrayError(f"{where} is behind a web server, which is only read: open it with mode='r'")
    if not base.is_remote and not os.access(Path(base.path), os.W_OK):
        raise ArrayError(f"{where} is not writeable: permission denied; open it with mode='r'")


def _info(new: NewArray, base: Location) -> dict[str, Any]:
    layout = new.layout
    _check(new, base)
    size, _ = _in_nm(layout)
    first = [n // v for n, v in zip(layout.offset, layout.voxel_size, strict=True)]
    resolution = [n.numerator if n.denominator == 1 else float(n) for n in reversed(size)]
    encoding = _encoding(new, base)
    scale: dict[str, Any] = {
        "key": "_".join(map(str, resolution)),
        "size": list(layout.shape)[:-4:-1],
        "resolution": resolution,
        "voxel_offset": first[::-1],
        "chunk_sizes": [list(new.chunk_shape)[:-4:-1]],
        "encoding": encoding,
        "bellis": {**new.attrs, **layout.attributes()},
    }
    if encoding != "raw":
        scale["compressed_segmentation_block_size"] = _LABEL_BLOCK
    return {
        "@type": "neuroglancer_multiscale_volume",
        "type": "segmentation" if layout.dtype.name in LABEL_DTYPES else "image",
        "data_type": layout.dtype.name,
        "num_channels": layout.shape[0] if len(layout.shape) == 4 else 1,
        "scales": [scale],
    }


def _check(new: NewArray, base: Location) -> None:
    """Refuse what the format has not."""
    layout = new.layout
    if layout.dtype.name not in DTYPES:
        raise ArrayError(f"{base}: dtype {layout.dtype} is not stored in precomputed, only {', '.join(DTYPES)}")
    if layout.types not in (("space",) * 3, ("channel", *("space",) * 3)):
        raise ArrayError(f"{base}: precomputed has axes (z, y, x) or (c, z, y, x), not {layout.axes()}")
    if any(parse_unit(unit).quantity != "length" for unit in layout.units):
        raise ArrayError(f"{base}: precomputed has lengths, not {layout.units[0]}: pass units='nm'")
    if not layout.offset.is_multiple_of(layout.voxel_size):
        raise ArrayError(
            f"{base}: precomputed has offsets of whole voxels, and {shown(layout.offset)} is no multiple of voxel_size "
            f"{shown(layout.voxel_size)}"
        )
    if new.shard_shape is not None:
        raise ArrayError(f"{base}: precomputed volumes are written without shards: leave shard_shape out")
    if new.fill_value != 0:
        raise ArrayError(f"{base}: precomputed has no fill value but 0, {new.fill_value} was asked")


def _encoding(new: NewArray, base: Location) -> str:
    """Return the encoding for a compressor: labels are compressed by default, images have nothing that is lossless."""
    is_label = new.layout.dtype.name in LABEL_DTYPES
    name = new.compressor if new.compressor is None or isinstance(new.compressor, str) else new.compressor.get("id")
    if name == "default":
        return "compressed_segmentation" if is_label else "raw"
    if name is None or name == "raw":
        return "raw"
    if name == "compressed_segmentation" and is_label:
        return name
    raise ArrayError(
        f"{base}: compressor {new.compressor!r} is not of precomputed: use None, or, for labels, "
        f"'compressed_segmentation'; labels are {' and '.join(LABEL_DTYPES)}"
    )
