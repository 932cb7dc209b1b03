"""The schemas of lazyflow: block files, a server that cuts volumes, and both together."""

from __future__ import annotations

import re
from string import Formatter
from typing import TYPE_CHECKING, Any

from bellis.errors import DescriptionError
from bellis.volumes.descriptions import CompositeDescription, FilesetDescription, RemoteDescription
from bellis.volumes.schema import (
    NAME,
    VERSION,
    Field,
    check_fields,
    check_header,
    check_rank,
    has,
    integer,
    integers,
    native_dtype,
    one_of,
    path_text,
    read_fields,
    text,
    url_format,
    value_range,
    wrong,
)

if TYPE_CHECKING:
    from bellis.volumes.schema import Problems

FILESET = "blockwise-fileset-description"
"""Name of the schema of block files."""
REMOTE = "RESTful-volume-description"
"""Name of the schema of servers."""
COMPOSITE = "RESTful-blockwise-fileset-description"
"""Name of the schema of a server and its block files."""
VERSIONS = {FILESET: 1.1, REMOTE: 1.1, COMPOSITE: 1.1}
"""Newest version of each that is read."""

_SPLIT = re.compile(r"(.+?\.(?:h5|hdf5))/+(.+)", re.DOTALL)


def _axes(value: Any) -> str:
    letters = text(value)
    if not letters or set(letters) - set("tzyxc") or len(set(letters)) < len(letters) or letters == "c":
        raise wrong(value, "one letter per axis is due, each of t, z, y, x, c once, and one of them not c: 'zyx'")
    return letters


def _dataset(value: Any) -> str:
    name = path_text(value).strip("/")
    if {"", ".", ".."} & set(name.split("/")):
        raise wrong(value, "a path in an HDF5 file is due")
    return name


def split_file_name(file_name_format: str) -> tuple[str, str]:
    """Return the name of a block file and the path in it, of ``block-{roiString}.h5/cube``."""
    parts = _SPLIT.fullmatch(file_name_format)
    if parts is None:
        raise DescriptionError(
            f"found {file_name_format!r}, a file that ends in .h5 or .hdf5, and a path in it are due: "
            "'block-{roiString}.h5/cube'"
        )
    return parts[1], parts[2].strip("/")


def _file_name_format(value: Any) -> str:
    file, internal = split_file_name(path_text(value))
    try:
        fields = [part for part in Formatter().parse(file) if part[1] is not None]
    except ValueError as error:
        raise wrong(value, f"a format is due: {error}") from None
    if [part[1:] for part in fields] != [("roiString", "", None)]:
        raise wrong(value, "the field {roiString}, once and no other, is due in the name of the file")
    if "/" in file or {"", ".", ".."} & set(internal.split("/")) or "{" in internal or "}" in internal:
        raise wrong(value, "the name of one file and a path in it are due: 'block-{roiString}.h5/cube'")
    return str(value)


_FILESET_FIELDS = {
    "name": Field(text),
    "format": Field(one_of("hdf5"), "hdf5"),
    "axes": Field(_axes),
    "shape": Field(integers(1)),
    "dtype": Field(native_dtype),
    "drange": Field(value_range, None),
    "chunks": Field(integers(1), None),
    "compression": Field(one_of("gzip", "lzf", "szip"), None),
    "compression_opts": Field(integer(0, 9), None),
    "block_shape": Field(integers(1)),
    "view_origin": Field(integers(0), None),
    "view_shape": Field(integers(1), None),
    "block_file_name_format": Field(_file_name_format),
    "dataset_root_dir": Field(path_text, "."),
    "hash_id": Field(text, None),
    "sub_block_shape": Field(integers(1), None),
}
_REMOTE_FIELDS = {
    "name": Field(text),
    "format": Field(one_of("hdf5"), "hdf5"),
    "axes": Field(_axes),
    "dtype": Field(native_dtype),
    "bounds": Field(integers()),
    "origin_offset": Field(integers(), None),
    "shape": Field(integers(1), None),
    "url_format": Field(url_format),
    "hdf5_dataset": Field(_dataset),
}
_COMPOSITE_FIELDS = {"remote_description": Field(lambda value: value), "local_description": Field(lambda value: value)}


def read_fileset(found: Any, path: str, problems: Problems) -> FilesetDescription | None:
    """Return what block files are like; None if there are problems."""
    before = len(problems.all)
    check_header(found, path, FILESET, VERSIONS[FILESET], problems)
    values = read_fields(found, path, _FILESET_FIELDS, problems)
    ranked = ("shape", "chunks", "block_shape", "view_origin", "view_shape", "sub_block_shape")
    if has(values, "axes"):
        check_rank(values, ranked, values["axes"], path, problems)
    if has(values, "shape", "axes"):
        _check_view(values, path, problems)
    if has(values, "block_shape", "sub_block_shape"):
        pairs = zip(values["block_shape"], values["sub_block_shape"], strict=False)
        if any(block % part for block, part in pairs):
            due = f"a divisor of block_shape {list(values['block_shape'])} is due on every axis"
            problems.add(path, "sub_block_shape", wrong(list(values["sub_block_shape"]), due))
    if values.get("compression_opts") is not None and values.get("compression", "gzip") != "gzip":
        due = f"compression is {values['compression']!r}, only 'gzip' has options: a level from 0 to 9"
        problems.add(path, "compression_opts", wrong(values["compression_opts"], due))
    return None if len(problems.all) > before else FilesetDescription(**values)


def _check_view(values: dict[str, Any], path: str, problems: Problems) -> None:
    """Check the view against volume and blocks, and fill in what is not said of it."""
    shape = values["shape"]
    if "view_origin" not in values or "view_shape" not in values:
        return  # there is a problem with one of them already
    origin = values["view_origin"] = values["view_origin"] or (0,) * len(shape)
    if has(values, "block_shape") and any(a % b for a, b in zip(origin, values["block_shape"], strict=True)):
        due = f"a multiple of block_shape {list(values['block_shape'])} is due: views begin at the corner of a block"
        problems.add(path, "view_origin", wrong(list(origin), due))
    if any(at >= n for at, n in zip(origin, shape, strict=True)):
        problems.add(path, "view_origin", wrong(list(origin), f"a voxel of the shape {list(shape)} is due"))
        return
    rest = tuple([n - at for at, n in zip(origin, shape, strict=True)])
    view = values["view_shape"] = values["view_shape"] or rest
    if any(n > most for n, most in zip(view, rest, strict=True)):
        due = f"at most {list(rest)} is due: the view begins at {list(origin)} of a shape of {list(shape)}"
        problems.add(path, "view_shape", wrong(list(view), due))


def read_remote(found: Any, path: str, problems: Problems) -> RemoteDescription | None:
    """Return what a server is like; None if there are problems."""
    before = len(problems.all)
    check_header(found, path, REMOTE, VERSIONS[REMOTE], problems)
    values = read_fields(found, path, _REMOTE_FIELDS, problems)
    if has(values, "axes"):
        check_rank(values, ("bounds", "origin_offset", "shape"), values["axes"], path, problems)
    if has(values, "axes", "url_format"):
        for problem in check_fields(values["url_format"], values["axes"], ("t", "c")):
            problems.add(path, "url_format", problem)
    if has(values, "axes", "bounds") and "origin_offset" in values and "shape" in values:
        origin = values["origin_offset"] = values["origin_offset"] or (0,) * len(values["bounds"])
        shape = tuple([end - at for at, end in zip(origin, values["bounds"], strict=True)])
        if min(shape) < 1:
            due = f"more than origin_offset {list(origin)} is due on every axis"
            problems.add(path, "bounds", wrong(list(values["bounds"]), due))
        elif values["shape"] not in (None, shape):
            due = f"bounds - origin_offset is due: {list(shape)}; it may be left out"
            problems.add(path, "shape", wrong(list(values["shape"]), due))
        values["shape"] = shape
    return None if len(problems.all) > before else RemoteDescription(**values)


def read_composite(found: Any, problems: Problems) -> CompositeDescription | None:
    """Return a server and its block files, which must fit each other; None if there are problems."""
    before = len(problems.all)
    check_header(found, "", COMPOSITE, VERSIONS[COMPOSITE], problems)
    parts = read_fields(found, "", _COMPOSITE_FIELDS, problems)
    remote = local = None
    if "remote_description" in parts:
        remote = read_remote(parts["remote_description"], "remote_description", problems)
    if "local_description" in parts:
        local = read_fileset(parts["local_description"], "local_description", problems)
    if remote is not None and local is not None:
        _check_fit(remote, local, problems)
    if remote is None or local is None or len(problems.all) > before:
        return None
    return CompositeDescription(remote_description=remote, local_description=local)


def _check_fit(remote: RemoteDescription, local: FilesetDescription, problems: Problems) -> None:
    path = "local_description"
    for key in ("axes", "dtype"):
        own, other = getattr(local, key), getattr(remote, key)
        if own != other:
            problems.add(path, key, wrong(str(own), f"{str(other)!r} is due, as in remote_description"))
    fits = all(n <= most for n, most in zip(local.shape, remote.shape, strict=False))
    if len(local.shape) == len(remote.shape) and not fits:
        due = f"at most {list(remote.shape)} is due: bounds - origin_offset of remote_description"
        problems.add(path, "shape", wrong(list(local.shape), due))
    internal, dataset = split_file_name(local.block_file_name_format)[1].split("/"), remote.hdf5_dataset.split("/")
    if internal[-len(dataset) :] != dataset:
        due = f"a path in the file that ends in {remote.hdf5_dataset!r} is due: hdf5_dataset of remote_description"
        problems.add(path, "block_file_name_format", wrong(local.block_file_name_format, due))


def dump_fileset(description: FilesetDescription) -> dict[str, Any]:
    """Return the JSON of block files, as old a version as can say it."""
    values = {key: getattr(description, key) for key in _FILESET_FIELDS}
    # lazyflow evaluates the name of a data type, among the names of which NumPy is one.
    values |= {"dtype": f"numpy.{description.dtype.name}"}
    return {NAME: FILESET, VERSION: 1.0 if description.sub_block_shape is None else 1.1, **_said(values)}


def dump_remote(description: RemoteDescription) -> dict[str, Any]:
    """Return the JSON of a server."""
    values = {key: getattr(description, key) for key in _REMOTE_FIELDS if key != "shape"}
    values |= {"dtype": f"numpy.{description.dtype.name}"}
    return {NAME: REMOTE, VERSION: 1.0, **_said(values)}


def dump_composite(description: CompositeDescription) -> dict[str, Any]:
    """Return the JSON of a server and its block files."""
    return {
        NAME: COMPOSITE,
        VERSION: 1.0,
        "remote_description": dump_remote(description.remote_description),
        "local_description": dump_fileset(description.local_description),
    }


def _said(values: dict[str, Any]) -> dict[str, Any]:
    listed = {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
    return {key: value for key, value in listed.items() if value is not None}
