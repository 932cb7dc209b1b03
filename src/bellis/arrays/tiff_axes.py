"""Axes and voxel sizes of TIFF files, as ImageJ and OME-XML say them."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any

from bellis.arrays.units import convert, parse_unit, rational
from bellis.errors import ArrayError

if TYPE_CHECKING:
    from collections.abc import Mapping

_SEQUENCES = "QI"  # tifffile's letters for an axis of which nothing is known, and for one of pages
EXACT_BELOW = 1000
"""A resolution of such small integers is meant as it is; others are rounded decimals."""


def axes_of(series: Any, number: int) -> dict[str, Any]:
    """Return names, types and, if the file claims any, voxel sizes and units of a series.

    Parameters
    ----------
    series
        A ``tifffile.TiffPageSeries`` of an open file.
    number
        Which one of the file it is.

    Returns
    -------
    dict
        Attributes as bellis writes them, voxel sizes as exact rationals.
    """
    letters = _with_z(series.axes)
    types = [_type(letter) for letter in letters]
    if "space" not in types:
        types = ["space"] * len(letters)
    said: dict[str, Any] = {"axis_names": _names(letters), "types": types}
    sizes = _sizes(series.keyframe.parent, number)
    physical = [letter for letter, kind in zip(letters, types, strict=True) if kind != "channel"]
    units = {letter: unit for letter, (_, unit) in sizes.items() if letter in physical}
    if not units:
        return said
    space = next((unit for letter, unit in units.items() if letter != "T"), "nm")
    said["voxel_size"] = [
        convert(*sizes[letter], space) if letter in "XYZ" and letter in sizes else sizes.get(letter, (Fraction(1),))[0]
        for letter in physical
    ]
    said["units"] = [units.get("T", "s") if letter == "T" else space for letter in physical]
    return said


def _with_z(axes: str) -> str:
    """Return the letters of the axes, where the last sequence that nobody named is z."""
    last = max(axes.rfind(letter) for letter in _SEQUENCES)
    return axes if "Z" in axes or last < 0 else f"{axes[:last]}Z{axes[last + 1 :]}"


def _type(letter: str) -> str:
    return "space" if letter in "XYZ" else "time" if letter == "T" else "channel"


def _names(letters: str) -> list[str]:
    """Return one name per axis; samples of colour are called c, unless there are channels as well."""
    words = letters.lower() if "C" in letters else letters.lower().replace("s", "c")
    return [word if words.count(word) == 1 else f"{word}{words[:k].count(word)}" for k, word in enumerate(words)]


def _sizes(file: Any, number: int) -> dict[str, tuple[Fraction, str]]:
    """Return size and unit per letter of what the file claims."""
    if file.is_ome:
        return _ome(file.ome_metadata, number)
    if file.is_imagej:
        return _imagej(file)
    return {}


def _imagej(file: Any) -> dict[str, tuple[Fraction, str]]:
    said = file.imagej_metadata or {}
    found: dict[str, tuple[Fraction, str]] = {}
    if "finterval" in said:
        found["T"] = (rational(said["finterval"]), "s")
    unit = str(said.get("unit", "")).replace("\\u00B5", "\u00b5")
    if not _is_length(unit):
        return found
    for letter, tag in (("X", "XResolution"), ("Y", "YResolution")):
        resolution = file.pages.first.tags.get(tag)
        if resolution is not None and all(resolution.value):
            found[letter] = (_inverse(*resolution.value), unit)
    if found.keys() & {"X", "Y"}:
        found["Z"] = (rational(said.get("spacing", 1)), unit)
    return {letter: (size, unit) for letter, (size, unit) in found.items() if size > 0}


def _inverse(pixels: int, units: int) -> Fraction:
    """Return the size of a pixel of a resolution that was rounded to an integer, ImageJ's of pixels per 10^6 units.

    Of all sizes that would be rounded to it, the shortest decimal is meant.

    >>> _inverse(217391304, 1000000)
    Fraction(23, 5000)
    """
    exact = Fraction(units, pixels)
    if max(exact.numerator, exact.denominator) <= EXACT_BELOW or pixels < EXACT_BELOW:
        return exact
    low, high = Fraction(2 * units, 2 * pixels + 1), Fraction(2 * units, 2 * pixels - 1)
    decimals = (Fraction(f"{float(exact):.{digits}g}") for digits in range(1, 17))
    return next((decimal for decimal in decimals if low <= decimal <= high), exact)


def _ome(xml: str, number: int) -> dict[str, tuple[Fraction, str]]:
    import tifffile

    images = tifffile.xml2dict(xml).get("OME", {}).get("Image", [])
    images = images if isinstance(images, list) else [images]
    if number >= len(images):
        return {}
    pixels: Mapping[str, Any] = images[number].get("Pixels", {})
    found: dict[str, tuple[Fraction, str]] = {}
    for letter, key in (("X", "PhysicalSizeX"), ("Y", "PhysicalSizeY"), ("Z", "PhysicalSizeZ"), ("T", "TimeIncrement")):
        unit = str(pixels.get(f"{key}Unit", "s" if letter == "T" else "\u00b5m"))
        if key in pixels and (letter == "T" or _is_length(unit)):
            found[letter] = (rational(pixels[key]), unit)
    if "Z" not in found and "X" in found:
        found["Z"] = (Fraction(1), found["X"][1])
    return {letter: (size, unit) for letter, (size, unit) in found.items() if size > 0}


def _is_length(unit: str) -> bool:
    try:
        return parse_unit(unit).quantity == "length"
    except ArrayError:
        return False
