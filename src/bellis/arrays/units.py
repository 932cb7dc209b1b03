"""Units of length and time, and how a rational voxel size becomes integers. No I/O.

A unit is written as a symbol (``"nm"``), by its long name as OME-Zarr writes it (``"nanometer"``), or as a fraction of
one of these (``"nm/3"``). Any other word is a unit of its own, which only compares with itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from math import lcm
from numbers import Rational
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from bellis.errors import ArrayError
from bellis.geometry import Coordinate

if TYPE_CHECKING:
    from collections.abc import Sequence

RationalLike: TypeAlias = int | float | str | Decimal | Fraction
"""What stands for an exact number; a float stands for its shortest decimal."""

_PREFIXES = {
    "y": ("yocto", -24),
    "z": ("zepto", -21),
    "a": ("atto", -18),
    "f": ("femto", -15),
    "p": ("pico", -12),
    "n": ("nano", -9),
    "u": ("micro", -6),
    "m": ("milli", -3),
    "": ("", 0),
    "k": ("kilo", 3),
    "M": ("mega", 6),
}
_BASES = {"m": ("length", ("meter", "metre")), "s": ("time", ("second",))}
_ODD = {
    "cm": ("length", Fraction(1, 100), ("centimeter", "centimetre")),
    "angstrom": ("length", Fraction(1, 10**10), ("\u00c5", "\u00e5", "\u212b", "\u00e5ngstr\u00f6m")),
    "inch": ("length", Fraction(254, 10_000), ("in", "inches")),
    "min": ("time", Fraction(60), ("minute",)),
    "h": ("time", Fraction(3600), ("hour", "hr")),
}
_INT64 = 2**63


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit that can be converted to others of its quantity."""

    symbol: str
    """How bellis writes it: ``"nm"``."""
    quantity: str
    """``"length"``, ``"time"``, or the word itself where nothing is known of it."""
    size: Fraction
    """In metres or seconds; 1 where nothing is known."""

    @property
    def name(self) -> str:
        """Name by UDUNITS-2, which OME-Zarr asks for: ``"nanometer"``; the symbol if there is none."""
        whole = self.symbol.partition("/")[0]
        return _LONG.get(whole, whole)


def _named() -> tuple[dict[str, Unit], dict[str, str]]:
    units: dict[str, Unit] = {}
    long = {"angstrom": "angstrom", "inch": "inch", "cm": "centimeter", "min": "minute", "h": "hour"}
    for base, (quantity, words) in _BASES.items():
        for prefix, (spelt, power) in _PREFIXES.items():
            unit = Unit(prefix + base, quantity, Fraction(10) ** power)
            long[unit.symbol] = spelt + words[0]
            units[unit.symbol] = unit
            for word in words:
                units[spelt + word] = units[f"{spelt}{word}s"] = unit
    for symbol, (quantity, size, words) in _ODD.items():
        for word in (symbol, long[symbol], *words):
            units[word] = units.setdefault(f"{word}s", Unit(symbol, quantity, size))
    for micro in ("\u00b5", "\u03bc"):  # the micro sign and the Greek letter
        units |= {micro + base: units[f"u{base}"] for base in _BASES}
    units |= {"micron": units["um"], "microns": units["um"], "sec": units["s"], "msec": units["ms"]}
    return units, long


_UNITS, _LONG = _named()


@lru_cache(maxsize=256)
def parse_unit(name: str) -> Unit:
    """Return what a name means; a word that is not known is a unit of its own.

    Examples
    --------
    >>> parse_unit("micrometre").symbol, parse_unit("nm/3").size
    ('um', Fraction(1, 3000000000))

    Raises
    ------
    ArrayError
        If it is no word, or a fraction that is none.
    """
    if not isinstance(name, str) or not name.strip():
        raise ArrayError(f"unit {name!r} is no name of a unit: pass one like 'nm'")
    word, slash, part = name.strip().partition("/")
    if slash:
        whole = parse_unit(word)
        if not part.isdigit() or int(part) < 1:
            raise ArrayError(f"unit {name!r} is not a fraction of {whole.symbol}: write one as '{whole.symbol}/3'")
        return Unit(f"{whole.symbol}/{int(part)}", whole.quantity, whole.size / int(part))
    # "mm" and "Mm" differ in case alone, so that other cases are tried last.
    found = _UNITS.get(word) or _UNITS.get(word.lower() if len(word) > 2 else word)
    return found or Unit(word, word, Fraction(1))


def rational(value: object, what: str = "number") -> Fraction:
    """Return the exact number that is meant.

    A float means its shortest decimal, and one that is a small fraction but for noise means that
    fraction.

    Examples
    --------
    >>> rational(4.6), rational(0.30000000000000004), rational(0.3333333333), rational("1/7")
    (Fraction(23, 5), Fraction(3, 10), Fraction(1, 3), Fraction(1, 7))

    Raises
    ------
    ArrayError
        If it is no finite number.
    """
    try:
        if isinstance(value, np.floating):
            value = float(str(value))  # of a float32, its own shortest decimal
        elif isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, float):
            return _of_float(value)
        if isinstance(value, str | Rational | Decimal) and not isinstance(value, bool):
            return Fraction(value)
    except (ValueError, ZeroDivisionError, OverflowError) as error:
        raise ArrayError(f"{what} {value!r} is no finite number") from error
    raise ArrayError(f"{what} {value!r} is no number, but of type {type(value).__name__}")


def _of_float(value: float) -> Fraction:
    exact = Fraction(value)
    if exact.denominator == 1:
        return exact
    decimal = Fraction(f"{value:.14g}")  # what is beyond is noise of the arithmetic that made it
    simple = decimal.limit_denominator(1000)
    return simple if abs(simple - decimal) * 10**9 <= min(abs(decimal), Fraction(1)) else decimal


def rationals(values: object, what: str) -> tuple[Fraction, ...]:
    """Return exact numbers, of one number or of several."""
    several = values if not isinstance(values, str) and hasattr(values, "__iter__") else (values,)
    return tuple(rational(value, what) for value in several)


def convert(value: Fraction, of: str, to: str) -> Fraction:
    """Return a number of one unit in another, exactly.

    Raises
    ------
    ArrayError
        If they are units of different quantities.
    """
    one, other = parse_unit(of), parse_unit(to)
    if one.quantity != other.quantity:
        raise ArrayError(f"{of!r} is a unit of {one.quantity}, {to!r} of {other.quantity}: they do not convert")
    return value * one.size / other.size


def finest(units: Sequence[str]) -> str:
    """Return the smallest of units of one quantity."""
    return min(units, key=lambda unit: parse_unit(unit).size)


def integral_unit(values: Sequence[Fraction], unit: str) -> str:
    """Return the coarsest unit, of ``unit`` and those below it, in which all values are integers.

    Parameters
    ----------
    values
        In ``unit``.
    unit
        Any.

    Returns
    -------
    str
        ``unit`` itself (as its symbol), one with a smaller SI prefix, or a fraction of it.

    Examples
    --------
    >>> integral_unit([Fraction(50), Fraction("4.6")], "nm"), integral_unit([Fraction(1, 3)], "nm")
    ('pm', 'nm/3')
    """
    asked = parse_unit(unit)
    denominator = lcm(*(value.denominator for value in values))
    if denominator == 1:
        return asked.symbol
    base = next((base for base, (quantity, _) in _BASES.items() if quantity == asked.quantity), None)
    for prefix, (_, power) in reversed(_PREFIXES.items()) if base else ():
        size = Fraction(10) ** power
        if size < asked.size and (asked.size / size / denominator).denominator == 1:
            return f"{prefix}{base}"
    whole, _, part = asked.symbol.partition("/")
    return f"{whole}/{int(part or 1) * denominator}"


def integral(scales: Sequence[Fraction], offsets: Sequence[Fraction], unit: str) -> tuple[Coordinate, Coordinate, str]:
    """Return voxel size and offset as integers, and the unit in which they are.

    Examples
    --------
    >>> integral([Fraction("4.6"), Fraction(50)], [Fraction(0), Fraction(100)], "nm")
    (Coordinate(4600, 50000), Coordinate(0, 100000), 'pm')

    Raises
    ------
    ArrayError
        If the integers would leave 64 bits.
    """
    found = integral_unit([*scales, *offsets], unit)
    size, begin = (Coordinate(int(convert(value, unit, found)) for value in values) for values in (scales, offsets))
    check_int64((*size, *begin), f"voxel size {shown(scales)} and offset {shown(offsets)} {unit}", found)
    return size, begin, found


def check_int64(values: Sequence[int], what: str, unit: str) -> None:
    """Refuse integers that NumPy could not hold."""
    if any(not -_INT64 <= value < _INT64 for value in values):
        largest = max(values, key=abs)
        raise ArrayError(f"{what} is {largest} {unit} in whole numbers, beyond 64 bits: round it to what was measured")


def shown(values: Sequence[Any]) -> str:
    """Return rationals as people write them: ``(50, 4.6)``; thirds stay fractions."""
    return f"({', '.join(map(_written, values))}{',' if len(values) == 1 else ''})"


def _written(value: Any) -> str:
    if not isinstance(value, Fraction) or value.denominator == 1:
        return str(value)
    left = value.denominator
    for prime in (2, 5):
        while left % prime == 0:
            left //= prime
    return str(float(value)) if left == 1 else str(value)
