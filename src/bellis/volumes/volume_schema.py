"""Our own schema: any source, and how its blocks are kept."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from bellis.arrays.axes import is_channel_name
from bellis.arrays.layout import Layout
from bellis.arrays.location import SCHEMES, Location
from bellis.arrays.units import parse_unit
from bellis.errors import ArrayError, DescriptionError
from bellis.volumes.arithmetic import calculate
from bellis.volumes.descriptions import (
    Access,
    CacheDescription,
    ChunkedDescription,
    Compression,
    CutoutDescription,
    Payload,
    VolumeDescription,
)
from bellis.volumes.schema import (
    NAME,
    VERSION,
    Field,
    check_fields,
    check_header,
    check_rank,
    dtype,
    flag,
    has,
    integer,
    integers,
    number,
    one_of,
    path_text,
    read_fields,
    text,
    url,
    url_format,
    wrong,
)
from bellis.volumes.source import PARALLEL, MissingPolicy, Patience

if TYPE_CHECKING:
    from bellis.volumes.schema import Problems

VOLUME = "bellis-volume-description"
"""Name of the schema."""
VOLUME_VERSION = 1.0
"""Newest version that is read."""

_PARALLEL_MAX = 256
_EXACT = re.compile(r"[+-]?\d{1,18}(\.\d{1,18})?(/[1-9]\d{0,17})?")
_UNIT = re.compile(r"[^\d\s/]{1,40}(/[1-9][0-9]{0,8})?")
_BYTES = re.compile(r"(\d{1,15}(?:\.\d{1,6})?)\s*([kKMGTP]?)(i?)B")
_URL_PREFIX = re.compile(r"^([\w+.-]+)://(.*)$", re.DOTALL)


def _object(value: Any) -> Any:
    return value


def _axes(value: Any) -> tuple[str, ...]:
    names = list(value) if isinstance(value, str | list) else []
    is_sound = names and all(isinstance(name, str) and re.fullmatch(r"[A-Za-z]\w{0,30}", name) for name in names)
    if not is_sound or len(set(names)) < len(names) or len(names) > 32:
        raise wrong(value, "the name of each axis is due, each once: 'zyx' or ['z', 'y', 'x']")
    return tuple(names)


def _exact_numbers(value: Any) -> tuple[Any, ...]:
    """Parse exact numbers: as they are, or as decimal text or fractions, or arithmetic for the whole list."""
    listed: Any = calculate(value, floats=True) if isinstance(value, str) else value
    if not isinstance(listed, list) or not 1 <= len(listed) <= 32:
        raise wrong(value, "one number per physical axis is due")
    for entry in listed:
        is_number = type(entry) in (int, float) and abs(entry) < 2**63
        if not is_number and not (isinstance(entry, str) and _EXACT.fullmatch(entry)):
            raise wrong(entry, "a number or text like '4.6' or '14/3' is due")
    return tuple(listed)


def _units(value: Any) -> str | tuple[str, ...]:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not names or len(names) > 32:
        raise wrong(value, "a unit, or a list of one per physical axis, is due")
    for name in names:
        if not isinstance(name, str) or not _UNIT.fullmatch(name):
            raise wrong(name, "a unit like 'nm' is due")
        try:
            parse_unit(name)
        except ArrayError as error:
            raise wrong(name, f"a unit like 'nm' is due: {error}") from None
    return value if isinstance(value, str) else tuple(names)


def _location(value: Any) -> str:
    found = url(value)
    try:
        Location.of(found)
    except ArrayError as error:
        raise wrong(value, f"what bellis.open_ds takes is due: {error}") from None
    return found


def _variable(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value):
        # What is found is not shown: it may be the secret itself.
        raise DescriptionError("the name of an environment variable is due, never the secret itself")
    return value


def _headers(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not all(re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", key) for key in value):
        raise wrong(type(value).__name__, "names of headers with the environment variable of each are due")
    return {key: _variable(name) for key, name in value.items()}


def _max_bytes(value: Any) -> int:
    found = _BYTES.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None:
        return integer(1)(value)
    base = 1024 if found[3] else 1000
    whole, _, part = found[1].partition(".")
    exact = int(whole + part) * base ** " KMGTP".index(found[2].upper() or " ") // 10 ** len(part)
    return integer(1)(exact)


_PLACE = {
    "voxel_size": Field(_exact_numbers, None),
    "offset": Field(_exact_numbers, None),
    "units": Field(_units, None),
}
_CHUNKED_FIELDS = {
    "url": Field(_location),
    "name": Field(path_text, None),
    "format": Field(text, None),
    **_PLACE,
}
_CUTOUT_FIELDS = {
    "url_format": Field(url_format),
    "payload": Field(one_of(*get_args(Payload))),
    "axes": Field(_axes),
    "payload_axes": Field(_axes, None),
    "dtype": Field(dtype),
    "byte_order": Field(one_of("little", "big"), None),
    "shape": Field(integers(1)),
    "origin_offset": Field(integers(), None),
    "hdf5_dataset": Field(path_text, None),
    "preferred_block": Field(integers(1), None),
    "confirm": Field(flag, False),
    **_PLACE,
}
_CACHE_FIELDS = {
    "directory": Field(path_text, None),
    "block_shape": Field(integers(1), None),
    "compression": Field(one_of(*get_args(Compression)), "zstd"),
    "max_bytes": Field(_max_bytes, None),
}
_ACCESS_FIELDS = {
    "token_env": Field(_variable, None),
    "headers_env": Field(_headers, {}),
    "netrc": Field(flag, False),
}
_PATIENCE_FIELDS = {name: Field(number, getattr(Patience(), name)) for name in Patience.__slots__}
_VIEW_FIELDS = {"origin": Field(integers(0), None), "shape": Field(integers(1), None)}
_FIELDS = {
    "name": Field(text),
    "source": Field(_object),
    "view": Field(_object, {}),
    "cache": Field(_object, {}),
    "access": Field(_object, {}),
    "patience": Field(_object, {}),
    "parallel": Field(integer(1, _PARALLEL_MAX), PARALLEL),
    "missing": Field(one_of(*get_args(MissingPolicy)), "error"),
}


def read_volume(found: Any, where: str, folder: Path, problems: Problems) -> VolumeDescription | None:
    """Return a volume; None if there are problems.

    Parameters
    ----------
    found
        What the file says.
    where
        Path of the file: its name is that of the cache, if there is no other.
    folder
        What relative paths begin at.
    """
    before = len(problems.all)
    check_header(found, "", VOLUME, VOLUME_VERSION, problems)
    values = read_fields(found, "", _FIELDS, problems)
    source = _source(values.pop("source", None), folder, problems) if "source" in values else None
    view = read_fields(values.pop("view", {}), "view", _VIEW_FIELDS, problems)
    cache = read_fields(values.pop("cache", {}), "cache", _CACHE_FIELDS, problems)
    access = read_fields(values.pop("access", {}), "access", _ACCESS_FIELDS, problems)
    patience = _patience(values.pop("patience", {}), problems)
    if isinstance(source, CutoutDescription):
        check_rank(view, ("origin", "shape"), source.axes, "view", problems)
        check_rank(cache, ("block_shape",), source.axes, "cache", problems)
        _check_view(view, source.shape, problems)
    if source is None or patience is None or len(problems.all) > before:
        return None
    cache["directory"] = _absolute(cache["directory"] or f"{Path(where).stem or 'volume'}-blocks", folder)
    return VolumeDescription(
        source=source,
        view_origin=view["origin"],
        view_shape=view["shape"],
        cache=CacheDescription(**cache),
        access=Access(**{**access, "headers_env": dict(access["headers_env"])}),
        patience=patience,
        **values,
    )


def _patience(found: Any, problems: Problems) -> Patience | None:
    values = read_fields(found, "patience", _PATIENCE_FIELDS, problems)
    try:
        return Patience(**values)
    except ArrayError as error:
        problems.add("patience", "", error)
        return None


def _check_view(view: dict[str, Any], shape: tuple[int, ...], problems: Problems) -> None:
    if "origin" not in view or "shape" not in view:
        return
    origin = view["origin"] or (0,) * len(shape)
    if any(at >= n for at, n in zip(origin, shape, strict=True)):
        problems.add("view", "origin", wrong(list(origin), f"a voxel of the shape {list(shape)} is due"))
    elif view["shape"] and any(at + n > end for at, n, end in zip(origin, view["shape"], shape, strict=True)):
        due = f"at most {[n - at for at, n in zip(origin, shape, strict=True)]} is due, up to the end of the source"
        problems.add("view", "shape", wrong(list(view["shape"]), due))


def _source(found: Any, folder: Path, problems: Problems) -> CutoutDescription | ChunkedDescription | None:
    keys = {"url", "url_format"} & found.keys() if isinstance(found, dict) else {"url"}
    if len(keys) != 1:
        have = "both are there" if keys else "neither is there"
        problems.add("source", "", f"'url' of an array, or 'url_format' of a server that cuts, is due: {have}")
        return None
    before = len(problems.all)
    if keys == {"url_format"}:
        return _cutout(found, problems)
    values = read_fields(found, "source", _CHUNKED_FIELDS, problems)
    if len(problems.all) > before:
        return None
    return ChunkedDescription(**{**values, "url": _absolute_url(values["url"], folder)})


def _cutout(found: Any, problems: Problems) -> CutoutDescription | None:
    before = len(problems.all)
    values = read_fields(found, "source", _CUTOUT_FIELDS, problems)
    if has(values, "axes"):
        check_rank(values, ("shape", "origin_offset", "preferred_block"), values["axes"], "source", problems)
        _check_payload_axes(values, problems)
    if has(values, "axes", "shape", "url_format"):
        lengths = dict(zip(values["axes"], values["shape"], strict=True))
        # A server may always send all of these.
        optional = [name for name, n in lengths.items() if n == 1 or name == "t" or is_channel_name(name)]
        for problem in check_fields(values["url_format"], values["axes"], optional):
            problems.add("source", "url_format", problem)
    _check_dataset(values, problems)
    order = values.pop("byte_order", None)
    if has(values, "dtype"):
        said = {"<": "little", ">": "big"}.get(str(found["dtype"]).strip()[:1], order)
        if order not in (None, said):
            problems.add("source", "byte_order", wrong(order, f"dtype says {found['dtype']!r}: say it once"))
        values["payload_dtype"] = values["dtype"].newbyteorder(">" if said == "big" else "<")
        values["dtype"] = values["dtype"].newbyteorder("=")
    if has(values, "axes", "shape", "dtype") and values.keys() >= _PLACE.keys():
        _check_place(values, problems)
    if len(problems.all) > before:
        return None
    values["is_confirmed"] = values.pop("confirm")
    values["origin_offset"] = values["origin_offset"] or (0,) * len(values["axes"])
    return CutoutDescription(**values)


def _check_payload_axes(values: dict[str, Any], problems: Problems) -> None:
    axes = values["axes"]
    if not has(values, "payload_axes"):
        values["payload_axes"] = axes
    elif set(values["payload_axes"]) != set(axes):
        due = f"the names of axes are due, in the order of what is sent: {list(axes)}"
        problems.add("source", "payload_axes", wrong(list(values["payload_axes"]), due))


def _check_dataset(values: dict[str, Any], problems: Problems) -> None:
    if not has(values, "payload") or "hdf5_dataset" not in values:
        return
    dataset = values["hdf5_dataset"]
    if dataset is None and values["payload"] == "hdf5":
        problems.add("source", "hdf5_dataset", "is missing: the path of the voxels in the HDF5 file")
    elif dataset is not None and values["payload"] != "hdf5":
        problems.add("source", "hdf5_dataset", wrong(dataset, f"payload is {values['payload']!r}: leave it out"))
    elif dataset is not None:
        values["hdf5_dataset"] = dataset.strip("/")


def _check_place(values: dict[str, Any], problems: Problems) -> None:
    """Let voxel size, offset and units be put together as they will be."""
    physical = [name for name in values["axes"] if not is_channel_name(name)]
    check_rank(values, [key for key in ("voxel_size", "offset") if key in values], physical, "source", problems)
    if not values.keys() >= _PLACE.keys():
        return
    place = {key: values[key] for key in _PLACE}
    try:
        Layout.of(values["shape"], values["dtype"], axis_names=values["axes"], **place)
    except ArrayError as error:
        problems.add("source", "", f"voxel_size, offset, units and axes do not fit: {error}")


def _absolute(path: str, folder: Path) -> str:
    return os.path.abspath(folder / path)  # noqa: PTH100 - resolve() would follow links


def _absolute_url(url: str, folder: Path) -> str:
    """Return a URL as it is, and a local path as an absolute one; a format may stand in front of both."""
    parts = _URL_PREFIX.match(url)
    if parts is None:
        return _absolute(url, folder)
    scheme, rest = parts[1].lower(), parts[2]
    if scheme == "file":
        return _absolute(rest, folder)
    if scheme in SCHEMES:
        return url
    return f"{parts[1]}://{_absolute_url(rest, folder)}"


def dump_volume(description: VolumeDescription, folder: Path) -> dict[str, Any]:
    """Return the JSON of a volume; a cache beside the file is named by a relative path."""
    cache = description.cache
    directory = os.path.relpath(cache.directory, folder)
    if directory.split("/")[0] in {"..", "."} or _absolute(directory, folder) != cache.directory:
        directory = cache.directory
    access, default = description.access, Patience()
    waits = {name: getattr(description.patience, name) for name in Patience.__slots__}
    parts = {
        "source": _dump_source(description.source),
        "view": {"origin": description.view_origin, "shape": description.view_shape},
        "cache": {
            "directory": directory,
            "block_shape": cache.block_shape,
            "compression": cache.compression,
            "max_bytes": cache.max_bytes,
        },
        "access": {
            "token_env": access.token_env,
            "headers_env": dict(access.headers_env) or None,
            "netrc": access.netrc or None,
        },
        "patience": {name: value for name, value in waits.items() if value != getattr(default, name)},
    }
    said = {key: _said(part) for key, part in parts.items()}
    return {
        NAME: VOLUME,
        VERSION: VOLUME_VERSION,
        "name": description.name,
        **{key: part for key, part in said.items() if part},
        "parallel": description.parallel,
        "missing": description.missing,
    }


def _dump_source(source: CutoutDescription | ChunkedDescription) -> dict[str, Any]:
    if isinstance(source, ChunkedDescription):
        return {key: getattr(source, key) for key in _CHUNKED_FIELDS}
    same = [key for key in _CUTOUT_FIELDS if key not in {"dtype", "byte_order", "confirm"}]
    order = "big" if source.payload_dtype == source.dtype.newbyteorder(">") else "little"
    return {
        **{key: getattr(source, key) for key in same},
        "dtype": source.dtype.name,
        "byte_order": order if source.dtype.itemsize > 1 else None,
        "confirm": source.is_confirmed or None,
    }


def _said(values: dict[str, Any]) -> dict[str, Any]:
    listed = {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
    return {key: value for key, value in listed.items() if value is not None}
