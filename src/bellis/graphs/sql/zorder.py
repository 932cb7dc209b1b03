"""A number per position, such that what is near in space is mostly near in number: a database can find boxes by it.

Each axis is cut into cells that keep the order of numbers and need no scale. They are one unit wide near an origin,
since regions are of whole units; farther away they are as wide as a float of few bits can tell apart. With three axes
there are 21 bits each: cells are one unit wide up to 32768 units from the origin, from there on at most 1/32768 of the
distance, and beyond 2^46 there is but one. The bits of the axes take turns (G. M. Morton, IBM, 1966), and a box is a
few ranges of such numbers (H. Tropf and H. Herzog, Angewandte Informatik 23 (1981) 71), which hold all of the box, and
a little more.
"""

from __future__ import annotations

import functools
import heapq
import math
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    Key: TypeAlias = npt.NDArray[np.int64]

NOWHERE = -1
"""The key of what has no position: in no range."""
MAX_RANGES = 64
"""Of one box: more cost more than the rows that they spare."""
MAX_AXES = 9
"""Further ones do not count, since cells would be too wide."""
_KEY_BITS = 63
_FLOAT_BITS = 52
_FLOAT_BIAS = 1023
_EXPONENT_BITS = 5
_AXIS_BITS = 1 + _EXPONENT_BITS + _FLOAT_BITS
_CHUNK_BITS = 11
"""Spread at a time; a table of 16 kB stays in the processor's cache."""
_SLACK = 4
"""A box is cut no further when a quarter of what its ranges hold is outside."""


def keys(axes: Sequence[npt.NDArray[Any]], origin: Sequence[int] | None = None) -> Key:
    """Return the keys of positions, from 0 to 2^63 - 1.

    Parameters
    ----------
    axes
        One array per axis, shape (n,), int64 or finite float64; the first counts most.
    origin
        Where cells are smallest, int64; 0 if not given.
    """
    used = axes[:MAX_AXES]
    bits = _bits(len(used))
    found = np.zeros(len(axes[0]), np.uint64)
    for axis, (values, begin) in enumerate(zip(used, origin or [0] * len(axes), strict=False)):
        cells = _cells(values, begin, bits)
        shift = len(used) - 1 - axis
        for low in range(0, bits, _CHUNK_BITS):
            chunk = (cells >> np.uint64(low)) & np.uint64((1 << _CHUNK_BITS) - 1)
            found |= _spread(len(used))[chunk] << np.uint64(low * len(used) + shift)
    return found.view(np.int64)


def ranges(
    first: Sequence[float], last: Sequence[float], origin: Sequence[int] | None = None, *, limit: int = MAX_RANGES
) -> list[tuple[int, int]]:
    """Return ranges of keys that hold those of all positions of a box, sorted and apart; both ends belong to them.

    Parameters
    ----------
    first, last
        Smallest and largest position of the box along each axis, both in it; int where positions are int64, else float,
        which may be infinite.
    origin
        That of the keys.
    limit
        How many ranges there may be.

    Examples
    --------
    >>> (key,) = keys([np.array([0.5])]).tolist()
    >>> any(begin <= key <= end for begin, end in ranges([0.0], [1.0]))
    True
    """
    corners = [np.array(pair) for pair in zip(first[:MAX_AXES], last[:MAX_AXES], strict=True)]
    if any(low > high for low, high in corners):
        return []
    dims = len(corners)
    low, high = keys(corners, origin).tolist()
    cells = [_cells(pair, begin, _bits(dims)) for pair, begin in zip(corners, origin or [0] * dims, strict=False)]
    sides = [int(end - begin) + 1 for begin, end in cells]
    return _merged(_cut(low, high, math.prod(sides), sides, limit))


def _cut(low: int, high: int, size: int, sides: list[int], limit: int) -> list[tuple[int, int]]:
    """Cut a box, always the part with most outside of it, until little is outside, or there are enough parts.

    A part is what is outside of it in its range (negative, for the heap), its smallest and largest key, its number of
    cells and its sides.
    """
    dims = len(sides)
    outside, wanted = high - low + 1 - size, size
    parts = [(-outside, low, high, size, sides)]
    while len(parts) < limit and outside * _SLACK > wanted:
        excess, low, high, size, sides = parts[0]
        bit = (low ^ high).bit_length() - 1
        below = _mask(dims, bit % dims) & ((1 << bit) - 1)
        left_high = (high | below) & ~(1 << bit)
        right_low = (low | 1 << bit) & ~below
        axis = dims - 1 - bit % dims
        side = sides[axis]
        # Cells of the right part along the axis: its bits of `high` below the cut, and one.
        right = _gathered(high & below, dims, bit) + 1
        left = side - right
        halves = []
        for begin, end, length in ((low, left_high, left), (right_low, high, right)):
            cells = size // side * length
            lengths = sides[:]
            lengths[axis] = length
            halves.append((cells - (end - begin + 1), begin, end, cells, lengths))
        heapq.heapreplace(parts, halves[0])
        heapq.heappush(parts, halves[1])
        outside += excess - halves[0][0] - halves[1][0]
    return [(begin, end) for _, begin, end, *_ in parts]


def _merged(parts: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return ranges in order, those that touch as one."""
    parts.sort()
    found = parts[:1]
    for begin, end in parts[1:]:
        if begin == found[-1][1] + 1:
            found[-1] = found[-1][0], end
        else:
            found.append((begin, end))
    return found


def _bits(dims: int) -> int:
    """Return how many bits an axis has."""
    return min(_KEY_BITS // dims, _AXIS_BITS)


def _cells(values: npt.NDArray[Any], origin: int, bits: int) -> npt.NDArray[np.uint64]:
    """Return the cells of numbers, in the same order: 0 to 2^bits - 1."""
    is_below, size = _distances(values, origin)
    mantissa = bits - 1 - _EXPONENT_BITS
    near = 2.0**mantissa
    size = np.minimum(size, np.nextafter(near * 2.0 ** ((1 << _EXPONENT_BITS) - 1), 0))
    # The bits of a float grow with it, and so do the leading ones; at the end of what is near, both numbers meet.
    far = size.view(np.uint64) - np.uint64((_FLOAT_BIAS + mantissa - 1) << _FLOAT_BITS)
    cells = np.minimum(size, near).astype(np.uint64)
    found = np.where(size < near, cells, far >> np.uint64(_FLOAT_BITS - mantissa))
    middle = np.uint64(1 << (bits - 1))
    return np.where(is_below, middle - np.uint64(1) - found, middle + found)


def _distances(values: npt.NDArray[Any], origin: int) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64]]:
    """Return which numbers are below the origin, and how many whole units all are from where their side begins."""
    if values.dtype.kind == "i":
        is_below = values < origin
        apart = values.astype(np.uint64) - np.uint64(origin % 2**64)  # exact, modulo 2^64
        return is_below, np.where(is_below, ~apart, apart).astype(np.float64)
    apart = np.floor(values - float(origin))
    is_below = apart < 0
    return is_below, np.where(is_below, -1 - apart, apart)


@functools.cache
def _spread(dims: int) -> npt.NDArray[np.uint64]:
    """Return numbers of a few bits with their bits ``dims`` apart; bits that no key has are left out."""
    chunk = np.arange(1 << _CHUNK_BITS, dtype=np.uint64)
    found = np.zeros_like(chunk)
    for bit in range(_CHUNK_BITS):
        if bit * dims < _KEY_BITS:
            found |= ((chunk >> np.uint64(bit)) & np.uint64(1)) << np.uint64(bit * dims)
    found.flags.writeable = False
    return found


@functools.cache
def _mask(dims: int, rest: int) -> int:
    """Return the bits of a key that belong to one axis: those that leave this rest when divided by ``dims``."""
    return sum(1 << bit for bit in range(rest, _KEY_BITS, dims))


def _gathered(spread: int, dims: int, bit: int) -> int:
    """Return the bits below ``bit`` of its axis, put together."""
    found = 0
    for at, place in enumerate(range(bit % dims, bit, dims)):
        found |= (spread >> place & 1) << at
    return found
