"""A stack of membranes, segmented block by block; and the kernels of that alone, on voxels in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.work.libraries import WORKERS
from benchmarks.work.measure import Watch, peak_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.work.libraries import Library

SECTIONS = 20
BLOCK_SECTIONS = 10
CELL = 64
"""Pixels between the middles of cells."""
VOXEL_NM = (50, 5, 5)


def prepare(library: Library | None, edge: int, block: int) -> dict[str, float]:
    """Write a boundary map: walls between the cells of jittered points, which move from section to section."""
    del library
    from scipy.spatial import cKDTree

    from bellis import prepare_ds

    rng = np.random.default_rng(3)
    points = CELL * (np.stack(np.mgrid[0 : edge // CELL + 2, 0 : edge // CELL + 2], axis=-1).reshape(-1, 2) - 0.5)
    points += rng.uniform(-0.3, 0.3, points.shape) * CELL
    pixels = np.stack(np.mgrid[0:edge, 0:edge], axis=-1)
    shape = (SECTIONS, edge, edge)
    chunk = (BLOCK_SECTIONS, block, block)
    walls = prepare_ds("walls.zarr", shape, voxel_size=VOXEL_NM, dtype="uint8", chunk_shape=chunk)
    voxels = np.empty(shape, np.uint8)
    for section in voxels:
        near, _ = cKDTree(points).query(pixels, k=2)
        section[...] = 255 * (near[..., 1] - near[..., 0] < 6)
        points += rng.normal(0, 1, points.shape)
    walls[walls.roi] = voxels
    return {}


def segment_bellis(library: Library, edge: int, block: int) -> dict[str, float]:
    """Segment it with two workers, all of the way to a graph in SQLite and labels."""
    from bellis import ops

    shape = (BLOCK_SECTIONS, block, block)
    for_kernels = kernels_alone(None, edge, block)
    with Watch() as watch:
        pipeline = ops.segment(
            "walls.zarr", "cells.zarr", graph="cells.sqlite", in_sections=True, block_shape=shape, overwrite=True
        )
        library.complete(pipeline)
    return {
        "seconds": watch.seconds,
        "outside": 1 - for_kernels["seconds"] / watch.seconds,
        "peak_mb": peak_bytes() / 1e6,
    }


def kernels_alone(library: Library | None, edge: int, block: int) -> dict[str, float]:
    """Compute what blocks compute, without reading or writing; the time of this process, over two cores."""
    del library
    from bellis import Coordinate, open_ds
    from bellis.ops.agglomeration import merged
    from bellis.ops.regions import contacts_in, joined, regions_in
    from bellis.ops.watershed import Landscape, basins_in

    walls = open_ds("walls.zarr").to_ndarray()
    size = Coordinate(VOXEL_NM)
    land = Landscape.of("watershed", size, threshold=0.5, distance=None, sigma=None, depth=None, in_sections=True)
    reach = land.reach(size)
    fragments = np.zeros(walls.shape, np.uint64)
    blocks = list(_blocks(walls.shape, (BLOCK_SECTIONS, block, block)))
    with Watch() as watch:
        for begin, end in blocks:
            low = [max(0, b - r) for b, r in zip(begin, reach, strict=True)]
            high = [min(n, e + r) for e, r, n in zip(end, reach, walls.shape, strict=True)]
            own = tuple(slice(b - a, e - a) for a, b, e in zip(low, begin, end, strict=True))
            seen = walls[_slices(low, high)] > 127
            found = basins_in(seen, size, land, begin=Coordinate(low), own=own)
            places = np.ravel_multi_index(np.unravel_index(found.seeds[1:], seen.shape), seen.shape)
            names = np.append(0, places + 1).astype(np.uint64)
            fragments[_slices(begin, end)] = names[found.found[own]] + np.uint64(low[1] * edge + low[2])
        tables = []
        for begin, end in blocks:
            before = [min(1, b) for b in begin]
            seen = _slices([b - k for b, k in zip(begin, before, strict=True)], end)
            regions_in(fragments[_slices(begin, end)], begin)
            tables.append(contacts_in(fragments[seen], walls[seen], before))
        contacts = joined(tables)
        ids, ends = np.unique([contacts["u"], contacts["v"]], return_inverse=True)
        u, v = ends.reshape(2, -1)
        weight = contacts["size"].astype(float)
        groups = merged(ids, u, v, contacts["total"] / weight / 255, weight, 0.5)
        for begin, end in blocks:  # labels from a table
            known, dense = np.unique(fragments[_slices(begin, end)], return_inverse=True)
            groups[np.searchsorted(ids, known).clip(max=len(ids) - 1)][dense]
    return {"seconds": watch.cpu_s / WORKERS}


def _blocks(shape: tuple[int, ...], block: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    for index in np.ndindex(*(-(-n // b) for n, b in zip(shape, block, strict=True))):
        begin = tuple(int(k) * b for k, b in zip(index, block, strict=True))
        yield begin, tuple(min(a + b, n) for a, b, n in zip(begin, block, shape, strict=True))


def _slices(begin: Any, end: Any) -> tuple[slice, ...]:
    return tuple(slice(int(a), int(b)) for a, b in zip(begin, end, strict=True))
