"""Levels of an image: found by the metadata of its group, or by their names, and opened."""

from __future__ import annotations

import re
from dataclasses import replace
from fractions import Fraction
from math import prod
from typing import TYPE_CHECKING

from bellis.arrays.array import Array
from bellis.arrays.conventions import says_layout
from bellis.arrays.open import candidates
from bellis.arrays.units import convert, finest, integral_unit, parse_unit
from bellis.errors import ArrayError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bellis.arrays.format import Format, Missing, Stored
    from bellis.arrays.location import Location
    from bellis.arrays.ome import Image


def chosen_image(found: Sequence[Image], name: str | None, location: Location) -> Image | None:
    """Return the image that is meant; None if there is none at all."""
    if name is not None:
        chosen = [image for image in found if image.name == name]
    else:
        # Arrays that were made beside an image are images of their own to other readers, but not what is meant here.
        chosen = [image for image in found if not image.is_single] or list(found)
    if found and len(chosen) != 1:
        names = ", ".join(repr(image.name) for image in found)
        asked = "none was named" if name is None else f"{name!r} was asked for"
        raise ArrayError(f"{location} has the images {names}, of which {asked}: pass image= with one of them")
    return chosen[0] if chosen else None


def levels_of(location: Location, image: Image, is_writeable: bool, missing: Missing) -> list[tuple[str, Array]]:
    """Open the levels; what the image says of their place counts more than what other conventions say."""
    levels, kind = {}, next(candidates(location))
    for path in paths_of(image):
        level = _opened(kind, location / path, is_writeable, missing)
        if not says_layout(level.attrs):
            level = replace(level, layout=image.layout(path, level.layout.shape, level.layout.dtype))
        levels[path] = level
    return _in_one_unit(levels)


def levels_by_name(kind: Format, location: Location, is_writeable: bool, missing: Missing) -> list[tuple[str, Array]]:
    """Open arrays that are levels by their names, s0, s1, ... of N5 and all of precomputed; empty if there are none."""
    names = kind.datasets(location)
    if kind.name != "precomputed":
        names = [name for name in names if re.fullmatch(r"s\d+", name)]
    levels = {name: _opened(kind, location / name, is_writeable, missing) for name in names}
    return _in_one_unit(dict(sorted(levels.items(), key=lambda pair: prod(n for _, n in pair[1].layout.scales()))))


def _opened(kind: Format, location: Location, is_writeable: bool, missing: Missing) -> Stored:
    stored = kind.open(location, is_writeable=is_writeable, missing=missing)
    if stored is None:
        raise ArrayError(f"there is no array {location}, although the metadata of its group names it as a level")
    return stored


def _in_one_unit(levels: Mapping[str, Stored]) -> list[tuple[str, Array]]:
    """Return the levels in the unit of length that all can be in; a region then is the same on each."""
    found = {unit for level in levels.values() for unit in level.layout.units}
    lengths = [unit for unit in found if parse_unit(unit).quantity == "length"]
    if len(lengths) < 2:
        return [(name, Array.of(level)) for name, level in levels.items()]
    smallest = finest(sorted(lengths))
    unit = integral_unit([convert(Fraction(1), unit, smallest) for unit in lengths], smallest)
    return [(name, Array.of(replace(level, layout=level.layout.in_unit(unit)))) for name, level in levels.items()]


def paths_of(image: Image) -> list[str]:
    """Return the names of the levels in the group, finest first."""
    return [dataset.path for dataset in image.datasets]
