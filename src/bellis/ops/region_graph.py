"""The graph of the regions in a volume of labels: a node for each, an edge where two touch."""

from __future__ import annotations

import functools
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bellis.arrays.location import Location
from bellis.errors import ArrayError
from bellis.graphs.attributes import Kind
from bellis.ops.blocks import as_input, block_task, name_of
from bellis.ops.boundaries import check_boundaries, read_levels, scale_of
from bellis.ops.frame import extent_of
from bellis.ops.memory import WORKER_BYTES
from bellis.ops.regions import contacts_in, joined, parted, regions_in
from bellis.ops.steps import (
    FAN_IN,
    Group,
    Steps,
    check_integers,
    check_no_channels,
    check_same_voxels,
    index_of,
    no_step,
)
from bellis.ops.stored_graph import graph_to_write, position_columns

if TYPE_CHECKING:
    import os

    import numpy.typing as npt

    from bellis.arrays import Array
    from bellis.geometry import CoordinateLike
    from bellis.graphs import GraphStore
    from bellis.ops.blocks import Limits, Source
    from bellis.ops.parts import Scratch
    from bellis.ops.regions import Table
    from bellis.ops.stored_graph import GraphPlace
    from bellis.tasks import Block, Pipeline

VOXEL_BYTES = 64
"""What a worker holds per voxel of a block."""
MOST_BUCKETS = 1024
"""Into so many parts the tables are split at most, so that there are not too many files."""
CHUNK_VOXELS = 256
"""Extent of the chunks of a graph in files, if no blocks are given; so they have some thousand regions."""
NODE_ATTRS = {"size": Kind("int")}
"""What nodes have besides a position."""
EDGE_ATTRS = {"size": Kind("int"), "mean": Kind("float"), "min": Kind("float"), "max": Kind("float")}
"""What edges have."""


def region_graph(
    fragments: Source,
    boundaries: Source,
    graph: GraphPlace,
    *,
    block_shape: CoordinateLike | None = None,
    name: str = "region_graph",
    scratch: str | os.PathLike[str] | None = None,
    limits: Limits | None = None,
) -> Pipeline:
    """Write the graph of the regions in a volume of labels: which touch, and how much of a boundary is between them.

    ============  ======================================================================================================
    node          a label; 0 is background
    ``position``  the mean of its voxels' centres in world units: a vector of floats
    ``size``      its number of voxels
    edge          two labels that touch
    ``size``      the number of pairs of voxels, one of each label, that share a face
    ``mean``      the mean, from 0 to 1, of the boundary at these pairs, which is the larger one of both voxels
    ``min``       the smallest boundary at a pair
    ``max``       the largest boundary at a pair
    ============  ======================================================================================================

    The result is the same, bit by bit, for every shape of blocks: sums are of integers. (Boundary maps of floats are
    rounded to 2^-32 before.) What was in the graph is removed as soon as all blocks are read.
    ``report.value(name)`` is ``{"nodes": ..., "edges": ...}``, how many there are.

    Parameters
    ----------
    fragments
        Array of integers, 0 or more, or the path of one, without channels; from `watershed` or anywhere else.
    boundaries
        Boundary map with the voxels of ``fragments``: bool, unsigned integers (of which the largest is 1), or floats
        from 0 to 1.
    graph
        An undirected graph that can be written, or where it is, as `bellis.graphs.open_graph` takes it; it is made
        there if there is none.
    block_shape
        Voxels of a block: one number for all or one per axis. Picked if not given: whole chunks of the fragments,
        about 128^3 voxels.
    name
        Of the operation; its tasks are ``name/...``, the last one is ``name``.
    scratch
        Folder for the tables of blocks, which all workers reach; if not given, ``.bellis/scratch`` beside the file of
        the graph, or beside the fragments. It is removed at the end, but for a note that the operation is over.
    limits
        Workers, memory, retries. One worker needs about 1 kB per fragment of 64 blocks in addition.

    Raises
    ------
    ArrayError
        If an array can't be opened, or does not have the voxels or a dtype that is asked for. Also in a block: if
        there are labels below 0, no labels but 0, or a boundary that is not from 0 to 1.
    GraphMismatchError
        If the graph has attributes of these names and other types, or another region.
    TaskError
        If the graph is directed, or was opened to be read.
    """
    what = f"task {name!r}"
    labels, image = as_input(fragments), as_input(boundaries)
    check_integers(what, labels)
    check_no_channels(what, labels)
    check_boundaries(what, image)
    check_same_voxels(what, labels, image)
    size = extent_of(block_shape, labels) or CHUNK_VOXELS * labels.voxel_size
    store = graph_to_write(what, graph, roi=labels.roi, chunk_size=size, node_attrs=NODE_ATTRS, edge_attrs=EDGE_ATTRS)
    plan = functools.partial(
        block_task,
        f"{name}/blocks",
        no_step,
        reads=[labels, image],
        context=1,
        limits=limits,
        version=f"graph {store.backend}",
        total=labels.roi,
    )
    block = plan(block_shape=block_shape, memory_bytes=0).write_roi.shape // labels.voxel_size
    blocks = plan(block_shape=block, memory_bytes=WORKER_BYTES + VOXEL_BYTES * prod(block))
    file = Path(graph) if isinstance(graph, str | Path) and "://" not in str(graph) else None
    steps = Steps.of(name, blocks, output=file, source=labels, folder=scratch or _folder(file, labels), code=_STEPS)
    width = max(2, round(FAN_IN ** (1 / labels.dims)))
    group = Group(scratch=steps.scratch, step="blocks", counts=steps.grid.counts, width=width)
    groups = prod(-(-n // width) for n in steps.grid.counts)
    buckets = min(groups, MOST_BUCKETS)
    each = functools.partial(tables_of_block, labels=labels, boundaries=image, scratch=steps.scratch)
    begin = functools.partial(clear_graph, labels=labels, graph=store, groups=groups, scratch=steps.scratch)
    write = functools.partial(
        write_bucket,
        labels=labels,
        graph=store,
        groups=groups,
        buckets=buckets,
        scale=scale_of(image.dtype),
        scratch=steps.scratch,
    )
    wide = blocks.write_roi.shape * width
    tasks = [
        steps.task("blocks", each),
        steps.once("gather", functools.partial(gather_blocks, group=group, buckets=buckets), write_shape=wide),
        steps.once("clear", begin),
        steps.once("write", write, write_shape=wide),  # as many blocks as there are buckets, or a few more
    ]
    return steps.pipeline(tasks, functools.partial(count_rows, buckets=buckets, scratch=steps.scratch))


def _folder(file: Path | None, labels: Array) -> Path | None:
    """Return the folder for scratch folders if the graph is no file: beside the labels, if they are one."""
    place = None if labels.path is None else Location.of(labels.path)
    if file is not None or place is None or place.is_remote:
        return None
    return Path(place.root).parent / ".bellis" / "scratch"


# The steps -----------------------------------------------------------------------------------------------------------


def tables_of_block(block: Block, *, labels: Array, boundaries: Array, scratch: Scratch) -> None:
    """Keep the tables of one block: its regions, and where they touch each other and those before the block."""
    size = labels.voxel_size
    before = [min(int(b - a), n) for a, b, n in zip(labels.roi.begin, block.write_roi.begin, size, strict=True)]
    read = block.write_roi.grow(before, (0,) * labels.dims)
    voxels = _unsigned(labels, labels.to_ndarray(read), block)
    own = tuple(int(n > 0) for n in before)
    begin = (block.write_roi.begin - labels.roi.begin) // size
    regions = regions_in(voxels[tuple(slice(n, None) for n in own)], tuple(begin))
    contacts = contacts_in(voxels, read_levels(boundaries, read), own)
    scratch.put("blocks", index_of(block), [regions, contacts])


def gather_blocks(block: Block, *, group: Group, buckets: int) -> None:
    """Join the tables of neighbouring blocks, which have most rows in common, and part them by the hash of labels."""
    parts = list(group.values(index_of(block)))
    regions, contacts = (joined(tables) for tables in zip(*parts, strict=True))
    for bucket, part in enumerate(zip(parted(regions, buckets), parted(contacts, buckets), strict=True)):
        group.scratch.put(f"bucket-{bucket}", index_of(block), list(part))
    group.scratch.put("gather", index_of(block), len(regions["id"]))


def clear_graph(block: Block, *, labels: Array, graph: GraphStore, groups: int, scratch: Scratch) -> None:
    """Remove what is in the graph."""
    del block
    if not any(scratch.get("gather", group) for group in range(groups)):
        raise ArrayError(f"{name_of(labels)} has no label but 0: there is nothing to make a graph of")
    nothing = np.empty(0, np.uint64)
    with graph:
        graph.write_columns({"id": nothing}, dict.fromkeys(graph.endpoint_names, nothing), delete=True)


def write_bucket(
    block: Block, *, labels: Array, graph: GraphStore, groups: int, buckets: int, scale: int, scratch: Scratch
) -> None:
    """Write the nodes of one bucket, and the edges of which they are u."""
    bucket = index_of(block)
    if bucket >= buckets:
        return
    parts = [scratch.get(f"bucket-{bucket}", group) for group in range(groups)]
    regions, contacts = (joined(tables) for tables in zip(*parts, strict=True))
    nodes = {
        "id": regions["id"],
        **position_columns(graph.metadata, _centres(regions, labels)),
        "size": regions["size"],
    }
    u, v = graph.endpoint_names
    edges = {
        u: contacts["u"],
        v: contacts["v"],
        "size": contacts["size"],
        "mean": contacts["total"] / (contacts["size"] * float(scale)),
        "min": contacts["least"] / float(scale),
        "max": contacts["most"] / float(scale),
    }
    with graph:
        graph.write_columns(nodes, edges, bulk=buckets == 1)
    scratch.put("write", bucket, [len(regions["id"]), len(contacts["u"])])


def count_rows(block: Block, *, buckets: int, scratch: Scratch) -> dict[str, int]:
    """Return how many nodes and edges were written."""
    del block
    counts = [scratch.get("write", bucket) for bucket in range(buckets)]
    return {"nodes": sum(nodes for nodes, _ in counts), "edges": sum(edges for _, edges in counts)}


_STEPS = (tables_of_block, gather_blocks, clear_graph, write_bucket, count_rows, regions_in, contacts_in, joined)


def _unsigned(labels: Array, voxels: npt.NDArray[Any], block: Block) -> npt.NDArray[Any]:
    if voxels.dtype.kind == "i":
        if voxels.min(initial=0) < 0:
            raise ArrayError(f"{name_of(labels)} has the label {voxels.min()} in {block}: regions have labels from 0")
        voxels = voxels.view(f"u{voxels.dtype.itemsize}")
    return voxels


def _centres(regions: Table, labels: Array) -> npt.NDArray[np.float64]:
    index = regions["index"] / regions["size"][:, np.newaxis]
    centres: npt.NDArray[np.float64] = (index + 0.5) * np.array(labels.voxel_size, float)
    centres += labels.roi.begin
    return centres
