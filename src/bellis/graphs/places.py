"""Positions of nodes: which are in a region, and which are none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bellis.errors import GeometryError, GraphError
from bellis.geometry import Roi
from bellis.graphs.columns import absent

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from bellis.graphs.columns import Nodes
    from bellis.graphs.metadata import Metadata


def region(roi: Any) -> Roi | None:
    """Return a region as ours: funlib's, or what else has an offset and a shape in world units, is one too.

    Raises
    ------
    GraphError
        If it is none.
    """
    if roi is None or isinstance(roi, Roi):
        return roi
    if not (hasattr(roi, "offset") and hasattr(roi, "shape")) or hasattr(roi, "dtype"):  # an array's shape is in voxels
        name = f"{type(roi).__module__}.{type(roi).__qualname__}".removeprefix("builtins.")
        raise GraphError(f"a region is a Roi, but {roi!r} is a {name}")
    try:
        return Roi(tuple(roi.offset), tuple(roi.shape))
    except (TypeError, GeometryError) as error:
        raise GraphError(f"{roi!r} can't be taken as a Roi: {error}") from error


def check_rank(roi: Roi | None, dims: int | None) -> None:
    """Refuse a region of another rank than the positions.

    Raises
    ------
    GraphError
        With both ranks.
    """
    if roi is not None and dims is not None and roi.dims != dims:
        raise GraphError(f"roi {roi} has {roi.dims} dimensions, but positions in this graph have {dims}")


def check_finite(nodes: Nodes, metadata: Metadata) -> None:
    """Refuse positions that are nowhere.

    Raises
    ------
    GraphError
        With up to five ids.
    """
    for name in metadata.positions:
        values = nodes.attrs.get(name)
        if values is None or values.dtype.kind != "f":
            continue
        finite = np.isfinite(np.ma.getdata(values))
        is_wrong = ~(finite if finite.ndim == 1 else finite.all(axis=1)) & ~absent(values)
        if is_wrong.any():
            rows = np.flatnonzero(is_wrong)[:5]
            shown = ", ".join(f"{nodes.id[row]} at {np.ma.getdata(values)[row].tolist()}" for row in rows)
            raise GraphError(
                f"{is_wrong.sum()} nodes have a {name!r} that is not finite: {shown}; leave it out for nodes without a "
                "position"
            )


def is_inside(attrs: Mapping[str, npt.NDArray[Any]], count: int, roi: Roi, metadata: Metadata) -> npt.NDArray[np.bool_]:
    """Return which rows have a position in a half-open region, shape (n,).

    Parameters
    ----------
    attrs
        Columns; rows for which one of the positions' columns is missing or masked have no position.
    """
    inside = np.ones(count, np.bool_)
    axes = []
    for name in metadata.positions:
        values = attrs.get(name)
        if values is None:
            return np.zeros(count, np.bool_)
        inside &= ~absent(values)
        plain = np.ma.getdata(values)
        axes += [plain] if plain.ndim == 1 else list(plain.T)
    for at, begin, end in zip(axes, roi.begin, roi.end, strict=True):
        if begin is not None:
            inside &= at >= begin
        if end is not None:
            inside &= at < end
    return inside


def is_place_inside(data: Mapping[str, Any], names: tuple[str, ...], roi: Roi | None) -> bool:
    """Return whether a node's attributes have a position, and that is in a region; None is everywhere."""
    if any(data.get(name) is None for name in names):
        return False
    if roi is None:
        return True
    values = [data[name] for name in names]
    at = values[0] if hasattr(values[0], "__len__") else values
    return len(at) == roi.dims and all(
        (begin is None or begin <= x) and (end is None or x < end)
        for x, begin, end in zip(at, roi.begin, roi.end, strict=True)
    )
