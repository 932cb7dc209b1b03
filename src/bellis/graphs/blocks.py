"""A region in blocks, and what was read of each put together."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

from bellis.errors import GraphError
from bellis.geometry import Coordinate, Roi
from bellis.graphs.columns import Edges, Nodes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bellis.geometry import CoordinateLike


def blocks_of(roi: Roi, block_size: CoordinateLike) -> Iterator[Roi]:
    """Yield the blocks of a bounded region, from its begin on, cut at its end.

    Raises
    ------
    GraphError
        If the region is unbounded, or the blocks have another rank or no extent.
    """
    size = Coordinate(block_size)
    if any(extent is None for extent in roi.shape):
        raise GraphError(f"roi {roi} is unbounded: give one with an end in every axis, or use read_columns")
    if size.dims != roi.dims or any(extent is None or extent <= 0 for extent in size):
        raise GraphError(f"block_size is {size}, for a roi of {roi.dims} dimensions: give one extent > 0 per dimension")
    axes = [range(begin, end, step) for begin, end, step in zip(roi.begin, roi.end, size, strict=True)]
    for offset in itertools.product(*axes):
        yield Roi(offset, size).intersect(roi)


def without_repeats(parts: Sequence[tuple[Nodes, Edges]]) -> tuple[Nodes, Edges]:
    """Put parts together, sorted; what was moved from one to another in between comes once."""
    nodes = Nodes.concatenate([nodes for nodes, _ in parts]).sorted()
    edges = Edges.concatenate([edges for _, edges in parts]).sorted()
    is_new = np.diff(nodes.id, prepend=nodes.id[:1] + 1) != 0
    is_other = (np.diff(edges.u, prepend=edges.u[:1] + 1) != 0) | (np.diff(edges.v, prepend=edges.v[:1] + 1) != 0)
    return (
        nodes if is_new.all() else nodes.select(is_new),
        edges if is_other.all() else edges.select(is_other),
    )
