"""Sums of integers that are exact, however large: by label, and over labels of several blocks.

A sum is kept as 32-bit parts, the lowest first, in an int64 array whose last axis they are: 96 bits hold the sum of
2^80 values of 16 bits. All are 0 or more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Parts = npt.NDArray[np.int64]
    Places = npt.NDArray[np.intp]

PART = 32
"""Bits of one part."""
_HALF, _LOW = 16, 2**PART - 1
_ADDED = 64
"""Bits that a sum may have more than its values: so many values of the largest kind may be added up."""


def parts_for(bits: int) -> int:
    """Return how many parts a sum of values of so many bits has."""
    return -(-(bits + _ADDED) // PART)


def sums_by(places: Places, count: int, values: npt.NDArray[np.uint64], bits: int) -> Parts:
    """Add up values by the place that each belongs to, exactly.

    Parameters
    ----------
    places
        From 0 to below ``count``, one per value; fewer than 2^37 of them.
    count
        Number of sums.
    values
        Of up to ``bits`` bits.
    bits
        Up to 64.

    Returns
    -------
    numpy.ndarray
        Shape (count, parts).

    Examples
    --------
    >>> exact(sums_by(np.array([0, 1, 0]), 2, np.array([2**63, 5, 2**63], "uint64"), 64)).tolist()
    [18446744073709551616, 5]
    """
    sums = np.zeros((count, parts_for(bits)), np.int64)
    # Sums of float64, the only ones that NumPy has by place, are exact below 2^53: 16 bits of up to 2^37 values.
    for half in range(-(-bits // _HALF)):
        piece = values >> np.uint64(_HALF * half) if half else values
        if not piece.any():
            break
        if bits > _HALF:
            piece = piece & np.uint64(2**_HALF - 1)
        add_shifted(sums, np.bincount(places, piece, minlength=count).astype(np.int64), _HALF * half)
    return carried(sums)


def square_sums_by(places: Places, count: int, values: npt.NDArray[np.uint64], bits: int) -> Parts:
    """Add up the squares of values of up to ``bits`` bits; as `sums_by`."""
    if bits <= PART:
        return sums_by(places, count, values * values, 2 * bits)
    low, high = values & np.uint64(_LOW), values >> np.uint64(PART)
    sums = np.zeros((count, parts_for(2 * bits)), np.int64)
    for product, shift in ((low * low, 0), (low * high, PART + 1), (high * high, 2 * PART)):
        some = sums_by(places, count, product, 2 * PART)
        for k in range(some.shape[1]):
            add_shifted(sums, some[:, k], shift + PART * k)
    return carried(sums)


def add_shifted(sums: Parts, values: npt.NDArray[np.int64], shift: int) -> None:
    """Add ``values * 2**shift`` to sums that are carried later; values are 0 or more."""
    part, rest = divmod(shift, PART)
    low = (values & (2 ** (PART - rest) - 1)) << rest
    high = values >> (PART - rest)
    sums[:, part] += low
    if part + 1 < sums.shape[1]:
        sums[:, part + 1] += high


def carried(sums: Parts) -> Parts:
    """Return sums whose parts are below 2^32 again; in place."""
    for k in range(sums.shape[-1] - 1):
        sums[..., k + 1] += sums[..., k] >> PART
        sums[..., k] &= _LOW
    return sums


def exact(sums: Parts) -> npt.NDArray[Any]:
    """Return sums as Python's integers, in an array of objects."""
    total = np.zeros(sums.shape[:-1], object)
    for k in reversed(range(sums.shape[-1])):
        total = (total << PART) + sums[..., k].astype(object)
    return total
