"""A number per position, such that what is near in space is mostly near in number: a database can find boxes by it.

Each axis is cut into cells that keep the order of numbers and need no region and no scale: a float of few bits, with a
sign, six bits of exponent and what is left for the mantissa. With three axes there are 21 bits each: cells are 1/16384
of the distance from zero wide, down to a width of 2^-29. The bits of the axes take turns (G. M. Morton, IBM, 1966), and
a box is a few ranges of such numbers (H. Tropf and H. Herzog, Angewandte Informatik 23 (1981) 71), which hold all of
the box, and a little more.
"""

from __future__ import annotations

import functools
import heapq
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
_MANTISSA_BITS = 52
_AXIS_BITS = 1 + 6 + _MANTISSA_BITS
_SMALLEST = -15
"""Below 2^-15, cells are as wide as they are there; from 2^48 on, there is but one cell."""
_LARGEST = np.nextafter(2.0 ** (_SMALLEST + 63), 0)
_CHUNK_BITS = 11
"""Spread at a time; a table of 16 kB stays in the processor's cache."""
_SLACK = 4
"""A box is cut no further when a quarter of what its ranges hold is outside."""


def keys(axes: Sequence[npt.NDArray[Any]]) -> Key:
    """Return the keys of positions, from 0 to 2^63 - 1.

    Parameters
    ----------
    axes
        One array per axis, shape (n,), int64 or finite float64; the first counts most.
    """
    used = axes[:MAX_AXES]
    bits = _bits(len(used))
    found = np.zeros(len(axes[0]), np.uint64)
    for axis, values in enumerate(used):
        cells = _cells(values, bits)
        shift = len(used) - 1 - axis
        for low in range(0, bits, _CHUNK_BITS):
            chunk = (cells >> np.uint64(low)) & np.uint64((1 << _CHUNK_BITS) - 1)
            found |= _spread(len(used))[chunk] << np.uint64(low * len(used) + shift)
    return found.view(np.int64)


def ranges(first: Sequence[float], last: Sequence[float], limit: int = MAX_RANGES) -> list[tuple[int, int]]:
    """Return ranges of keys that hold those of all positions of a box, sorted and apart; both ends belong to them.

    Parameters
    ----------
    first, last
        Smallest and largest position of the box along each axis, both in it; may be infinite.
    limit
        How many ranges there may be.

    Examples
    --------
    >>> (key,) = keys([np.array([0.5])]).tolist()
    >>> any(begin <= key <= end for begin, end in ranges([0.0], [1.0]))
    True
    """
    corners = np.array([first[:MAX_AXES], last[:MAX_AXES]], np.float64)
    if (corners[0] > corners[1]).any():
        return []
    dims = corners.shape[1]
    low, high = (keys(list(corner.reshape(dims, 1)))[0] for corner in corners)
    cells = _cells(corners.ravel(), _bits(dims)).reshape(2, dims)
    sides = (cells[1] - cells[0]).tolist()
    size = 1
    for side in sides:
        size *= side + 1
    return _merged(_cut(int(low), int(high), size, [int(side) + 1 for side in sides], limit))


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


def _cells(values: npt.NDArray[Any], bits: int) -> npt.NDArray[np.uint64]:
    """Return the cells of numbers, in the same order: 0 to 2^bits - 1."""
    x = np.asarray(values, np.float64)  # of large integers too: rounding keeps their order
    size = np.minimum(np.abs(x), _LARGEST)
    found = size.view(np.uint64) - np.uint64((1023 + _SMALLEST - 1) << _MANTISSA_BITS)
    is_small = size < 2.0**_SMALLEST
    if is_small.any():
        found[is_small] = (size[is_small] * 2.0 ** (_MANTISSA_BITS - _SMALLEST)).astype(np.uint64)
    zero = np.uint64(1 << (_AXIS_BITS - 1))
    return np.where(x < 0, zero - np.uint64(1) - found, zero + found) >> np.uint64(_AXIS_BITS - bits)


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
