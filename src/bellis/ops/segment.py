"""A segmentation of a boundary map, from fragments to segments, as one pipeline."""

from __future__ import annotations

import functools
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bellis.arrays.location import Location
from bellis.errors import TaskError
from bellis.geometry import Roi
from bellis.ops.agglomerate import agglomerate
from bellis.ops.blocks import as_input, as_output, name_of, planned
from bellis.ops.boundaries import check_boundaries, check_threshold
from bellis.ops.frame import extent_of
from bellis.ops.region_graph import region_graph
from bellis.ops.relabel import relabel
from bellis.ops.stored_graph import check_place
from bellis.ops.watershed import check_numbers, watershed

if TYPE_CHECKING:
    import numpy.typing as npt

    from bellis.geometry import CoordinateLike
    from bellis.ops.blocks import Limits, Source
    from bellis.ops.stored_graph import GraphPlace
    from bellis.tasks import Block, Pipeline


def segment(
    boundaries: Source,
    segments: Source,
    *,
    graph: GraphPlace,
    fragments: Source | None = None,
    table: str | os.PathLike[str] | None = None,
    threshold: float = 0.5,
    boundary_threshold: float = 0.5,
    max_distance: float | None = None,
    sigma: float | None = None,
    depth: float | None = None,
    in_sections: bool = False,
    mask: Source | None = None,
    block_shape: CoordinateLike | None = None,
    context: CoordinateLike | None = None,
    dtype: npt.DTypeLike = "uint64",
    name: str = "segment",
    scratch: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    limits: Limits | None = None,
) -> Pipeline:
    """Segment a boundary map: `watershed`, `region_graph`, `agglomerate` and `relabel` as one pipeline.

    Fragments, graph and table stay, so that other thresholds can be tried without a new start: `agglomerate` with
    another threshold, then `relabel`. ``report.value(name)`` is ``{"fragments": ..., "segments": ...}``, how many there
    are.

    Parameters
    ----------
    boundaries
        Array without channels, or the path of one: bool, unsigned integers (of which the largest is 1), or floats from
        0 to 1.
    segments
        Array of unsigned integers with the voxels of ``boundaries``, or the path of one to make: 0, and 1, 2, ...
    graph
        Undirected graph of the fragments, or where it is, as `bellis.graphs.open_graph` takes it, like
        ``"fragments.sqlite"``; it is made there if there is none.
    fragments
        Array of unsigned integers, or the path of one to make. If not given, and ``segments`` is a path, it is beside
        that: ``cells.zarr`` has ``cells_fragments.zarr``, and ``em.zarr/cells`` has ``em.zarr/cells_fragments``.
    table
        Path of the Parquet file of fragments and their segments. If not given, it is beside the container of the
        segments: ``cells.parquet``.
    threshold
        Fragments with a mean boundary of this or more between them stay apart; see `agglomerate`.
    boundary_threshold
        What is above is a boundary for `watershed`, its ``threshold``.
    max_distance, sigma, depth, in_sections, mask, context
        Of `watershed`.
    block_shape
        Voxels of a block: one number for all or one per axis. Picked if not given: whole chunks of the output, about
        128^3 voxels.
    dtype
        Unsigned integer type of new arrays; it has to hold the number of voxels.
    name
        Of the operation; its tasks are ``name/...``, the last one is ``name``.
    scratch
        Folder for the tables of blocks, which all workers reach; see `region_graph`.
    overwrite
        Replace arrays that are there and have another region, voxel size, dtype or chunks; else that is an error.
    limits
        Workers, memory, retries. One worker reads the whole graph, for about 100 bytes per node and 500 bytes per edge.

    Raises
    ------
    ArrayError, GraphError, TaskError
        As those operations do.
    """
    what = f"task {name!r}"
    source = as_input(boundaries)
    check_boundaries(what, source)
    if not 0 <= threshold <= 1:
        raise TaskError(f"{what}: threshold is {threshold!r}, must be from 0 to 1, as mean boundaries are")
    check_threshold(what, boundary_threshold)
    pieces, path = _beside(what, segments, fragments, table)
    check_numbers(what, planned(segments, source, dtype), source)
    check_place(what, graph, source.roi)
    flood = watershed(
        source,
        pieces,
        threshold=boundary_threshold,
        max_distance=max_distance,
        sigma=sigma,
        depth=depth,
        in_sections=in_sections,
        mask=mask,
        block_shape=block_shape,
        context=context,
        dtype=dtype,
        name=f"{name}/watershed",
        scratch=scratch,
        overwrite=overwrite,
        limits=limits,
    )
    size = extent_of(block_shape, source)
    parts = as_output(pieces, source, dtype, write_size=size, overwrite=False)
    contacts = region_graph(
        parts, source, graph, block_shape=block_shape, name=f"{name}/region_graph", scratch=scratch, limits=limits
    )
    joints = agglomerate(graph, path, threshold=threshold, name=f"{name}/agglomerate", limits=limits)
    final = relabel(
        parts,
        segments,
        path,
        missing="error",
        block_shape=block_shape,
        dtype=dtype,
        name=f"{name}/relabel",
        overwrite=overwrite,
        limits=limits,
    )
    whole = Roi(source.roi.begin, source.roi.shape)
    count = replace(
        final,
        task_id=name,
        total_roi=whole,
        read_roi=whole,
        write_roi=whole,
        process_function=functools.partial(count_segments, path=path),
        timeout=None,
        resources={},
        writes={},
        results=True,
    )
    return flood + contacts + joints + final + count


def count_segments(block: Block, *, path: Path) -> Any:
    """Return how many fragments and segments there are, as the table says."""
    from pyarrow import parquet

    del block
    known = json.loads(parquet.read_schema(path).metadata[b"bellis"])
    return {what: known[what] for what in ("fragments", "segments")}


def _beside(
    what: str, segments: Source, fragments: Source | None, table: str | os.PathLike[str] | None
) -> tuple[Source, Path]:
    """Return where fragments and the table are, by default beside the segments."""
    place = Location.of(segments) if isinstance(segments, str | os.PathLike) else None
    if fragments is None:
        if place is None:
            raise TaskError(f"{what}: pass fragments=, as segments are no path, but {name_of(as_input(segments))}")
        stem = place.root[: len(place.root) - len(place.suffix)]
        fragments = f"{place.root}/{place.name}_fragments" if place.name else f"{stem}_fragments{place.suffix}"
    if table is None:
        if place is None or place.is_remote:
            raise TaskError(f"{what}: pass table=, the path of a Parquet file, as segments are no local path")
        root = Path(place.root)
        stem = place.name.replace("/", "_") or root.name[: len(root.name) - len(place.suffix)]
        table = root.parent / f"{stem}.parquet"
    return fragments, Path(table).absolute()
