"""Tables of the regions in some blocks, and of where they touch: numbers that can be joined exactly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    import numpy.typing as npt

Table: TypeAlias = "dict[str, npt.NDArray[Any]]"
"""Columns by name. Of regions: ``id``, ``size``, ``index`` (n, axes), the sum of voxels' indices. Of contacts: ``u`` <
``v``, ``size``, ``total``, ``least``, ``most`` of the levels."""

_SPREAD = np.uint64(0x9E3779B97F4A7C15)
_BITS = 26


def regions_in(labels: npt.NDArray[Any], begin: Sequence[int]) -> Table:
    """Count the voxels of each label of a block, and add up their indices.

    Parameters
    ----------
    labels
        Unsigned integers; 0 is background.
    begin
        Index of the first voxel in the whole array.

    Returns
    -------
    Table
        One row per label, sorted.
    """
    row = labels.shape[-1]
    flat = np.ascontiguousarray(labels).ravel()
    # Labels are the same over many voxels of a row: what is sorted are runs.
    is_first = np.empty(len(flat), bool)
    is_first[:1] = True
    np.not_equal(flat[1:], flat[:-1], out=is_first[1:])
    is_first[::row] = True
    starts = np.flatnonzero(is_first)
    lengths = np.diff(starts, append=len(flat))
    names = flat[starts]
    is_object = names != 0
    starts, lengths, names = starts[is_object], lengths[is_object], names[is_object]
    ids, place = np.unique(names, return_inverse=True)
    at = np.array(np.unravel_index(starts, labels.shape)) + np.array(begin)[:, np.newaxis]
    sums = at * lengths
    sums[-1] += lengths * (lengths - 1) // 2
    count = len(ids)
    # In two parts, because sums of float64, the only ones that NumPy has by place, are exact up to 2^53.
    low, high = sums & (2**_BITS - 1), sums >> _BITS
    parts = zip(low, high, strict=True)
    index = [_summed(place, a, count) + (_summed(place, b, count) << _BITS) for a, b in parts]
    return {"id": ids.astype(np.uint64), "size": _summed(place, lengths, count), "index": np.stack(index, axis=1)}


def _summed(place: npt.NDArray[np.intp], values: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.int64]:
    return np.bincount(place, values, minlength=count).astype(np.int64)


def contacts_in(labels: npt.NDArray[Any], levels: npt.NDArray[Any], own: Sequence[int]) -> Table:
    """Describe where labels of a block touch each other, and those of the layers of voxels before it.

    A contact is made of pairs of voxels that share a face; its level there is the larger one of the two.

    Parameters
    ----------
    labels
        Unsigned integers; 0 is background.
    levels
        Unsigned integers, of the same shape.
    own
        Voxels per axis, 0 or 1, that are before the block.

    Returns
    -------
    Table
        One row per pair of labels, sorted.
    """
    found = []
    for axis in range(labels.ndim):
        # Along the other axes, pairs that lie wholly before the block are those of another block.
        part = tuple(slice(None) if k == axis else slice(n, None) for k, n in enumerate(own))
        found.append(_contacts_along(labels[part], levels[part], axis))
    return joined(found)


def _contacts_along(labels: npt.NDArray[Any], levels: npt.NDArray[Any], axis: int) -> Table:
    before = tuple(slice(None, -1) if k == axis else slice(None) for k in range(labels.ndim))
    after = tuple(slice(1, None) if k == axis else slice(None) for k in range(labels.ndim))
    first, second = labels[before], labels[after]
    touches = first != second
    touches &= first != 0
    touches &= second != 0
    a, b = first[touches], second[touches]
    level = np.maximum(levels[before][touches], levels[after][touches])
    starts = np.flatnonzero((np.diff(a, prepend=~a[:1]) != 0) | (np.diff(b, prepend=~b[:1]) != 0))
    u, v = a[starts].astype(np.uint64), b[starts].astype(np.uint64)
    if not len(starts):
        return {"u": u, "v": v, **{name: np.empty(0, np.int64) for name in ("size", "total", "least", "most")}}
    return {
        "u": np.minimum(u, v),
        "v": np.maximum(u, v),
        "size": np.diff(starts, append=len(a)),
        "total": np.add.reduceat(level, starts, dtype=np.int64),
        "least": np.minimum.reduceat(level, starts).astype(np.int64),
        "most": np.maximum.reduceat(level, starts).astype(np.int64),
    }


# Several blocks ------------------------------------------------------------------------------------------------------

_REDUCED: dict[str, Callable[..., Any]] = {
    "size": np.add.reduceat,
    "index": np.add.reduceat,
    "total": np.add.reduceat,
    "least": np.minimum.reduceat,
    "most": np.maximum.reduceat,
}


def joined(tables: Iterable[Table]) -> Table:
    """Join the rows of some tables, of regions or of contacts: those with the same key become one; sorted."""
    parts = list(tables)
    rows = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    keys = [name for name in ("id", "u", "v") if name in rows]
    if not len(rows[keys[0]]):
        return rows
    order = np.lexsort([rows[name] for name in reversed(keys)])
    rows = {name: column[order] for name, column in rows.items()}
    is_first = np.zeros(len(order), bool)
    is_first[0] = True
    for name in keys:
        is_first[1:] |= rows[name][1:] != rows[name][:-1]
    starts = np.flatnonzero(is_first)
    merged = {name: rows[name][starts] for name in keys}
    return merged | {name: _REDUCED[name](rows[name], starts, axis=0) for name in rows if name not in keys}


def parted(table: Table, buckets: int) -> Iterator[Table]:
    """Yield the rows of each bucket: by the hash of a region's number, or of u."""
    ids = table["id" if "id" in table else "u"]
    bucket = (ids * _SPREAD >> np.uint64(32)) % np.uint64(buckets)
    for k in range(buckets):
        rows = np.flatnonzero(bucket == np.uint64(k))
        yield {name: column[rows] for name, column in table.items()}
