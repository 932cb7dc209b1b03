"""``bellis info``: what there is at a path."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from bellis.cli.commands import main
from bellis.errors import ArrayError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bellis.arrays import Array

Facts = dict[str, Any]


@main.command()
@click.argument("path")
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def info(path: str, name: str | None, *, as_json: bool) -> None:
    """Say what an array, an image or a group is: its format, axes, voxel size, region, chunks and attributes.

    PATH is a path or URL, of any format that is opened; NAME is a name within it. No voxel is read.
    """
    found = _look(path, name)
    if as_json:
        click.echo(json.dumps(found, indent=2, default=str))
        return
    for line in _lines(found):
        click.echo(line)


def _look(path: str, name: str | None) -> Facts:
    """Describe the array at a path; or the image, with its levels; or the arrays of a group."""
    from bellis.arrays import Multiscale, open_ds

    try:
        image = Multiscale.open(path, name)
    except ArrayError:
        image = None
    if image is not None and len(image.levels) > 1:
        return {**_facts(image.levels[0]), "levels": [_short(level) for level in image.levels]}
    try:
        return _facts(open_ds(path, name))
    except ArrayError:
        names = _names(path, name)
        if not names:
            raise
        arrays = [open_ds(path, "/".join(filter(None, (name, each)))) for each in names]
        return {"path": path, "arrays": [{"name": n} | _short(a) for n, a in zip(names, arrays, strict=True)]}


def _names(path: str, name: str | None) -> list[str]:
    from bellis.arrays.location import Location
    from bellis.arrays.open import candidates

    location = Location.of(path, name)
    return next((names for format_ in candidates(location) if (names := format_.datasets(location))), [])


def _facts(array: Array) -> Facts:
    """Return what is known of an array, as plain values."""
    return {
        "path": array.path,
        "format": array.format,
        "axes": list(array.axis_names),
        "shape": list(array.shape),
        "dtype": array.dtype.name,
        "voxel_size": list(array.voxel_size),
        "units": list(array.units),
        "begin": list(array.roi.begin),
        "end": list(array.roi.end),
        "chunks": None if array.chunk_shape is None else list(array.chunk_shape),
        "written_together": None if array.write_shape is None else list(array.write_shape),
        "compression": array.compressor,
        "fill_value": None if array.fill_value is None else str(array.fill_value),
        "bytes": int(array.dtype.itemsize) * _product(array.shape),
        "attributes": dict(array.attrs),
    }


def _short(array: Array) -> Facts:
    return {
        "path": array.path,
        "shape": list(array.shape),
        "dtype": array.dtype.name,
        "voxel_size": list(array.voxel_size),
        "units": list(array.units),
    }


def _lines(found: Facts) -> Iterator[str]:
    if "arrays" in found:
        yield f"{found['path']} is a group of {_count(found['arrays'])}"
        width = max(len(each["name"]) for each in found["arrays"])
        for each in found["arrays"]:
            yield f"  {each['name']:{width}}  {_size(each)}"
        return
    unit, together = _together(found["units"]), found["written_together"]
    rows = {
        "path": found["path"],
        "format": found["format"],
        "axes": ", ".join(found["axes"]),
        "shape": f"{_by(found['shape'])}, {found['dtype']}, {_human(found['bytes'])}",
        "voxel size": f"{_by(found['voxel_size'])} {unit}",
        "region": f"({_list(found['begin'])}) to ({_list(found['end'])}) {unit}",
        "chunks": _by(found["chunks"]) if found["chunks"] else None,
        "shards": _by(together) if together and together != found["chunks"] else None,
        "compression": found["compression"],
        "fill value": found["fill_value"],
    }
    for title, value in rows.items():
        if value:
            yield f"{title:12} {value}"
    for number, level in enumerate(found.get("levels", ())):
        yield f"{'levels' if number == 0 else '':12} {level['path'].rpartition('/')[2]}: {_size(level)}"
    own = ("voxel_size", "offset", "axis_names", "units", "types", "bellis_id")
    shown = {key: value for key, value in found["attributes"].items() if key not in own}
    for number, (key, value) in enumerate(shown.items()):
        text = json.dumps(value, default=str)
        yield f"{'attributes' if number == 0 else '':12} {key}: {text if len(text) <= 80 else text[:77] + '...'}"


def _count(arrays: list[Facts]) -> str:
    return "1 array" if len(arrays) == 1 else f"{len(arrays)} arrays"


def _size(level: Facts) -> str:
    return f"{_by(level['shape'])} {level['dtype']}, voxels of {_by(level['voxel_size'])} {_together(level['units'])}"


def _together(units: list[str]) -> str:
    return units[0] if len(set(units)) == 1 else ", ".join(units)


def _by(values: list[int]) -> str:
    return " x ".join(f"{value}" for value in values)


def _list(values: list[int]) -> str:
    return ", ".join(map(str, values))


def _product(shape: tuple[int, ...]) -> int:
    total = 1
    for n in shape:
        total *= n
    return total


def _human(size: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            return f"{size:.3g} {unit}" if unit != "bytes" else f"{size:.0f} bytes"
        size /= 1000
    raise AssertionError
