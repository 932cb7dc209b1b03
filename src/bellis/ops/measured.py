"""What is measured of the labels in some blocks: columns of numbers that can be joined exactly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from bellis.ops.relabel import compact
from bellis.ops.sums import add_shifted, carried, exact, parts_for, square_sums_by, sums_by

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy.typing as npt

    from bellis.arrays import Array

Measured: TypeAlias = "dict[str, npt.NDArray[Any]]"
"""Columns by name, rows by label: ``id``, ``size``, ``begin`` and ``end`` (n, axes) in voxels from the array's begin,
``index`` (n, axes, parts), the exact sum of voxels' indices; and of intensities ``count``, ``least``, ``most``, with
``sum`` and ``squares`` (n, parts), exact, above the dtype's smallest value, or ``mean`` and ``off`` (the sum of squares
of what differs from the mean), float64."""

_INDEX_BITS = 40
"""Of the largest index along an axis."""


def measured_in(
    labels: npt.NDArray[Any], begin: tuple[int, ...], intensities: npt.NDArray[Any] | None = None
) -> Measured:
    """Measure the labels of one block.

    Parameters
    ----------
    labels
        Integers; 0 is background.
    begin
        Index of the first voxel in the whole array.
    intensities
        Of the same shape.

    Returns
    -------
    Measured
        One row per label, in any order.
    """
    from scipy import ndimage

    ids, dense = compact(labels)
    count = len(ids)
    places = dense.ravel().astype(np.intp)
    boxes = ndimage.find_objects(dense.astype(np.int32) + 1, count)
    first = np.array([[part.start for part in box] for box in boxes], np.int64)
    last = np.array([[part.stop for part in box] for box in boxes], np.int64)
    measured = {
        "id": ids,
        "size": np.bincount(places, minlength=count),
        "begin": first + begin,
        "end": last + begin,
        "index": _index_sums(places, count, labels.shape, begin),
    }
    if intensities is not None:
        measure = _floats_in if intensities.dtype.kind == "f" else _integers_in
        measured |= measure(places, count, intensities.ravel())
    is_object = ids != 0
    return {name: column[is_object] for name, column in measured.items()}


def _index_sums(
    places: npt.NDArray[np.intp], count: int, shape: tuple[int, ...], begin: tuple[int, ...]
) -> npt.NDArray[np.int64]:
    sizes = np.bincount(places, minlength=count)
    sums = np.zeros((count, len(shape), parts_for(_INDEX_BITS)), np.int64)
    for axis, (extent, first) in enumerate(zip(shape, begin, strict=True)):
        along = [1] * len(shape)
        along[axis] = extent
        # Within a block they are far below 2^53, up to which sums of float64 are exact.
        index = np.broadcast_to(np.arange(extent, dtype=np.float64).reshape(along), shape)
        inside = np.bincount(places, index.ravel(), minlength=count).astype(np.int64)
        add_shifted(sums[:, axis], inside, 0)
        add_shifted(sums[:, axis], sizes * first, 0)
    return carried(sums)


def _integers_in(places: npt.NDArray[np.intp], count: int, values: npt.NDArray[Any]) -> Measured:
    least, most = _extremes(places, count, values)
    above = _above(values)
    bits = 8 * values.dtype.itemsize
    return {
        "count": np.bincount(places, minlength=count),
        "least": least,
        "most": most,
        "sum": sums_by(places, count, above, bits),
        "squares": square_sums_by(places, count, above, bits),
    }


def _above(values: npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
    """Return how far integers are above the smallest one of their dtype."""
    if values.dtype.kind != "i":
        return values.astype(np.uint64)
    lowest = np.array(np.iinfo(values.dtype).min, np.int64)
    # In two's complement the difference is right although the subtraction may overflow.
    above: npt.NDArray[np.uint64] = values.astype(np.int64).view(np.uint64) - lowest.view(np.uint64)
    return above


def _floats_in(places: npt.NDArray[np.intp], count: int, values: npt.NDArray[Any]) -> Measured:
    is_known = ~np.isnan(values)
    places, known = places[is_known], values[is_known].astype(np.float64)
    least, most = _extremes(places, count, known)
    numbers = np.bincount(places, minlength=count)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        mean = np.bincount(places, known, minlength=count) / numbers
        off = np.bincount(places, (known - mean[places]) ** 2, minlength=count)
    return {"count": numbers, "least": least, "most": most, "mean": mean, "off": off}


def _extremes(
    places: npt.NDArray[np.intp], count: int, values: npt.NDArray[Any]
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Return the smallest and the largest value of each place."""
    if values.dtype.kind == "f":
        low, high = -np.inf, np.inf
    elif values.dtype.kind == "b":
        low, high = False, True
    else:
        low, high = np.iinfo(values.dtype).min, np.iinfo(values.dtype).max
    least, most = np.full(count, high, values.dtype), np.full(count, low, values.dtype)
    np.minimum.at(least, places, values)
    np.maximum.at(most, places, values)
    return least, most


# Several blocks ------------------------------------------------------------------------------------------------------

_REDUCED: dict[str, Callable[..., Any]] = {
    "size": np.add.reduceat,
    "begin": np.minimum.reduceat,
    "end": np.maximum.reduceat,
    "index": np.add.reduceat,
    "count": np.add.reduceat,
    "least": np.minimum.reduceat,
    "most": np.maximum.reduceat,
    "sum": np.add.reduceat,
    "squares": np.add.reduceat,
}


def merge_measured(values: Iterator[Measured]) -> Measured:
    """Join the rows of some blocks, by label; they come sorted by label."""
    parts = list(values)
    rows = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    ids = rows["id"]
    if not len(ids):
        return rows
    # Stable, so that floats are added up in the order of blocks.
    order = np.argsort(ids, kind="stable")
    rows = {name: column[order] for name, column in rows.items()}
    starts = np.flatnonzero(np.diff(rows["id"], prepend=~rows["id"][:1]))
    merged = {name: _REDUCED[name](rows[name], starts, axis=0) for name in rows if name in _REDUCED}
    for name in {"index", "sum", "squares"} & merged.keys():
        carried(merged[name])
    if "mean" in rows:
        merged |= _merge_moments(rows, starts, merged["count"])
    return {"id": rows["id"][starts], **merged}


def _merge_moments(rows: Measured, starts: npt.NDArray[np.intp], count: npt.NDArray[np.int64]) -> Measured:
    """Join means and sums of squared differences from them.

    References
    ----------
    Chan, Golub, LeVeque, The American Statistician 37 (1983) 242, eqs. 2.1.
    """
    weight, empty = rows["count"].astype(np.float64), rows["count"] == 0
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        mean = np.add.reduceat(np.where(empty, 0, weight * rows["mean"]), starts) / count
        runs = np.diff(starts, append=len(weight))
        between = np.where(empty, 0, weight * (rows["mean"] - np.repeat(mean, runs)) ** 2)
        off = np.add.reduceat(rows["off"] + between, starts)
    return {"mean": mean, "off": off}


# The table -----------------------------------------------------------------------------------------------------------


def table_of(measured: Measured, labels: Array) -> dict[str, npt.NDArray[Any]]:
    """Return the columns of the table, in world units."""
    size = measured["size"]
    table = {"label": measured["id"], "size": size}
    for axis, name in enumerate(labels.axis_names):
        step, first = labels.voxel_size[axis], labels.roi.begin[axis]
        table[f"begin_{name}"] = first + measured["begin"][:, axis] * step
        table[f"end_{name}"] = first + measured["end"][:, axis] * step
    for axis, name in enumerate(labels.axis_names):
        step, first = labels.voxel_size[axis], labels.roi.begin[axis]
        # The quotient of two of Python's integers is rounded once, however large they are.
        twice = 2 * step * exact(measured["index"][:, axis]) + (step + 2 * first) * size.astype(object)
        table[f"centroid_{name}"] = (twice / (2 * size.astype(object))).astype(np.float64)
    if "count" not in measured:
        return table
    mean, std = _moments(measured)
    least, most = measured["least"], measured["most"]
    if least.dtype.kind == "f":
        least, most = (np.where(measured["count"] == 0, np.nan, column) for column in (least, most))
    return table | {
        "intensity_count": measured["count"],
        "intensity_mean": mean,
        "intensity_std": std,
        "intensity_min": least,
        "intensity_max": most,
    }


def _moments(measured: Measured) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return means and standard deviations."""
    if "mean" in measured:
        with np.errstate(invalid="ignore", divide="ignore"):
            return measured["mean"], np.sqrt(measured["off"] / measured["count"])
    count, total, squares = measured["count"].astype(object), exact(measured["sum"]), exact(measured["squares"])
    dtype = measured["least"].dtype
    lowest = int(np.iinfo(dtype).min) if dtype.kind == "i" else 0
    mean = ((total + count * lowest) / count).astype(np.float64)
    variance = ((count * squares - total**2) / count**2).astype(np.float64)
    return mean, np.sqrt(variance)
