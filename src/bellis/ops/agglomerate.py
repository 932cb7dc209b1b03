"""Which regions of a graph belong together: a table from fragments to segments."""

from __future__ import annotations

import functools
import json
import os
import secrets
from dataclasses import dataclass, replace
from hashlib import sha256
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bellis.errors import GeometryError, GraphError, TaskError
from bellis.geometry import Coordinate, Roi
from bellis.geometry.coordinate import broadcast
from bellis.graphs.columns import absent
from bellis.ops import memory
from bellis.ops.agglomeration import merged
from bellis.ops.blocks import ANY_NUMBER, Limits
from bellis.ops.label import connected
from bellis.ops.memory import WORKER_BYTES
from bellis.ops.parts import Scratch
from bellis.ops.relabel import TABLE_SUFFIXES
from bellis.ops.steps import Steps, index_of, no_step
from bellis.ops.stored_graph import graph_to_read
from bellis.tasks import Pipeline, Task

if TYPE_CHECKING:
    import numpy.typing as npt

    from bellis.geometry import CoordinateLike
    from bellis.graphs import GraphStore
    from bellis.graphs.columns import Ids
    from bellis.ops.stored_graph import GraphPlace
    from bellis.tasks import Block

    Places = npt.NDArray[np.int64]
    Values = npt.NDArray[np.float64]

EVERYWHERE = 2**60
"""Half the extent of a region that all others lie in."""
NODE_BYTES, EDGE_BYTES = 100, 500
"""What a worker holds per node and edge."""


def agglomerate(
    graph: GraphPlace,
    table: str | os.PathLike[str],
    *,
    threshold: float = 0.5,
    score: str = "mean",
    weight: str = "size",
    roi: Roi | None = None,
    block_shape: CoordinateLike | None = None,
    context: CoordinateLike = 0,
    name: str = "agglomerate",
    scratch: str | os.PathLike[str] | None = None,
    limits: Limits | None = None,
) -> Pipeline:
    """Join regions of a graph that have little of a boundary between them, and write which segment each belongs to.

    The two regions with the least mean boundary between them are joined, their contacts with others are added up, and
    so on, until no mean is below the threshold: average linkage (see `bellis.ops.agglomeration.merged`).

    The table is a Parquet file with the columns ``fragment`` and ``segment``, both uint64, sorted by fragment.
    Segments are 1, 2, ... in the order of their smallest fragments. ``report.value(name)`` is
    ``{"fragments": ..., "segments": ...}``, how many there are.

    Parameters
    ----------
    graph
        An undirected graph, as `region_graph` writes it, or where it is, as `bellis.graphs.open_graph` takes it.
    table
        Path of the file; it is written whole, in place of one that is there.
    threshold
        Regions with a mean of this or more stay apart.
    score, weight
        Attributes of edges, numbers: the mean boundary over a contact, and its size, above 0.
    roi
        Only nodes in this region, in world units; if not given, all.
    block_shape
        World units of a block: one number for all or one per axis. If not given, one worker reads the whole graph, and
        the result is exact. If given, each block joins its regions and those around it for themselves, keeps what it
        joined to its own ones, and what several blocks joined is put together: any number of workers, each with a part
        of the graph. Where a segment depends on what is further away than the context, it may then be another one than
        of the whole graph; contacts that only the joint regions of several blocks have are not looked at.
    context
        World units around a block whose regions it joins too.
    name
        Id of the task; with blocks, of the operation, whose tasks are ``name/...``, and the last one ``name``.
    scratch
        With blocks: folder for what they leave, which all workers reach; if not given, ``.bellis/scratch`` beside the
        table.
    limits
        Workers, memory, retries. One worker needs about 100 bytes per node and 500 bytes per edge of the graph, or of
        a block with its context, and 50 bytes per node of the graph to write the table.

    Raises
    ------
    GraphMissingError
        If there is no graph. Of an empty one, a `GraphError` tells when blocks run.
    TaskError
        If the graph is directed, edges do not have these attributes, or a number is out of range.
    """
    what = f"task {name!r}"
    limits = limits or Limits()
    if isinstance(threshold, bool) or not isfinite(threshold):
        raise TaskError(f"{what}: threshold is {threshold!r}, must be a number, from 0 to 1 for mean boundaries")
    if "://" in str(table) or Path(table).is_dir() or Path(table).suffix.lower() not in TABLE_SUFFIXES:
        raise TaskError(f"{what}: table is {table}, must be the path of a Parquet file, like 'segments.parquet'")
    store = graph_to_read(what, graph, edge_attrs=(score, weight))
    path = Path(table).absolute()
    contacts = Contacts(graph=store, score=score, weight=weight, most_bytes=_most_bytes(limits))
    blocks = replace(
        _blocks(name, store, roi, block_shape, context, limits),
        identity=f"{store.backend}, {roi}, {score} below {threshold} by {weight}, {path}",
    )
    if block_shape is None:
        whole = functools.partial(agglomerate_all, contacts=contacts, roi=roi, threshold=threshold, path=path)
        return Pipeline([replace(blocks, task_id=name, process_function=whole, results=True)])
    version = f"{blocks.identity}; {blocks.read_roi} {blocks.write_roi} {blocks.total_roi}"
    kept = Scratch.of(name, version=sha256(version.encode()).hexdigest()[:16], beside=path, folder=scratch)
    code = (agglomerate_block, join_blocks, merged, connected, write_table)
    steps = Steps(name=name, blocks=replace(blocks, identity=version), scratch=kept, code=code)
    each = functools.partial(agglomerate_block, contacts=contacts, threshold=threshold, scratch=kept)
    join = functools.partial(
        join_blocks, graph=store, blocks=steps.grid.num_blocks, threshold=threshold, path=path, scratch=kept
    )
    return steps.pipeline([steps.task("blocks", each)], join)


@dataclass(frozen=True, slots=True, kw_only=True)
class Contacts:
    """Where contacts of regions are read from."""

    graph: GraphStore
    """The graph."""
    score: str
    """Attribute of edges: the mean boundary over a contact."""
    weight: str
    """Attribute of edges: the size of a contact."""
    most_bytes: int
    """What a worker may need."""

    def read(self, roi: Roi | None) -> tuple[Ids, Places, Places, Values, Values]:
        """Return regions, sorted; and of contacts between them the two regions, by place, means and sizes.

        Raises
        ------
        GraphError
            If an edge has no mean, or no size above 0.
        TaskError
            If a worker would need more memory than it may have.
        """
        with self.graph:
            return self._read(roi)

    def _read(self, roi: Roi | None) -> tuple[Ids, Places, Places, Values, Values]:
        nodes, edges = self.graph.num_nodes(roi), self.graph.num_edges(roi)
        needed = WORKER_BYTES + NODE_BYTES * nodes + EDGE_BYTES * edges
        if needed > self.most_bytes:
            raise TaskError(
                f"{nodes} nodes and {edges} edges in {'all' if roi is None else roi} need about {needed / 1e6:.0f} MB, "
                f"and a worker may have {self.most_bytes / 1e6:.0f} MB: pass a (smaller) block_shape, or allow more "
                "with Limits(max_memory=...)"
            )
        regions, contacts = self.graph.read_columns(roi, node_attrs=(), edge_attrs=(self.score, self.weight))
        ids = regions.id
        u, is_known = _places(ids, contacts.u)
        v, is_v_known = _places(ids, contacts.v)
        rows = np.flatnonzero(is_known & is_v_known)
        contacts = contacts.select(rows)
        score, weight = contacts[self.score], contacts[self.weight]
        is_wrong = absent(score) | absent(weight)
        is_wrong |= np.ma.getdata(np.isnan(score) | ~(np.isfinite(weight) & (weight > 0)))
        if is_wrong.any():
            k = np.flatnonzero(is_wrong)[0]
            raise GraphError(
                f"{is_wrong.sum()} edges of {self.graph.backend} have no {self.score!r}, or no {self.weight!r} above "
                f"0; the first is ({contacts.u[k]}, {contacts.v[k]}) with {score[k]} and {weight[k]}"
            )
        return ids, u[rows], v[rows], np.asarray(score, np.float64), np.asarray(weight, np.float64)


# The steps -----------------------------------------------------------------------------------------------------------


def agglomerate_all(
    block: Block, *, contacts: Contacts, roi: Roi | None, threshold: float, path: Path
) -> dict[str, int]:
    """Agglomerate the whole graph, and write the table."""
    del block
    ids, u, v, score, weight = contacts.read(roi)
    _check_not_empty(ids, contacts.graph, roi)
    _, segments = np.unique(merged(ids, u, v, score, weight, threshold), return_inverse=True)
    return write_table(path, ids, segments + 1, threshold)


def agglomerate_block(block: Block, *, contacts: Contacts, threshold: float, scratch: Scratch) -> None:
    """Agglomerate the regions of a block and around it; keep which contacts of its own regions became joints."""
    ids, u, v, score, weight = contacts.read(block.read_roi)
    with contacts.graph:
        own, _ = contacts.graph.read_columns(block.write_roi, read_edges=False, node_attrs=())
    segments = merged(ids, u, v, score, weight, threshold)
    _, is_own = _places(own.id, ids)
    is_joint = (segments[u] == segments[v]) & is_own[u]
    scratch.put("blocks", index_of(block), [own.id, ids[u[is_joint]], ids[v[is_joint]]])


def join_blocks(
    block: Block, *, graph: GraphStore, blocks: int, threshold: float, path: Path, scratch: Scratch
) -> dict[str, int]:
    """Put together what blocks joined, and write the table."""
    parts = [scratch.get("blocks", index) for index in range(blocks)]
    ids, first, second = (np.concatenate(column) for column in zip(*parts, strict=True))
    ids = np.sort(ids)
    _check_not_empty(ids, graph, block.write_roi)
    with graph:
        unplaced = graph.num_unplaced()
    if unplaced:
        raise GraphError(
            f"{unplaced} nodes of {graph.backend} have no position, so that no block has them: agglomerate the whole "
            "graph at once, without block_shape"
        )
    u, is_known = _places(ids, first)
    v, is_v_known = _places(ids, second)
    pairs = np.stack([u, v], axis=1)[is_known & is_v_known]
    return write_table(path, ids, connected(len(ids), pairs), threshold)


def write_table(path: Path, fragments: Ids, segments: Places, threshold: float) -> dict[str, int]:
    """Write a table of fragments and segments; return how many there are of each."""
    import pyarrow as pa
    from pyarrow import parquet

    counts = {"fragments": len(fragments), "segments": int(segments.max())}
    columns = {"fragment": fragments, "segment": segments.astype(np.uint64)}
    metadata = {"bellis": json.dumps({"threshold": threshold, **counts})}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
    parquet.write_table(pa.table(columns).replace_schema_metadata(metadata), partial)
    partial.replace(path)
    return counts


def _blocks(
    name: str,
    graph: GraphStore,
    roi: Roi | None,
    block_shape: CoordinateLike | None,
    context: CoordinateLike,
    limits: Limits,
) -> Task:
    """Return the task over the blocks of a graph, or over all of it as one block."""
    region = graph.total_roi if roi is None else roi
    if block_shape is None:
        # Its one block meets all blocks of what it waits for, and of what waits for it, wherever they are.
        dims = graph.metadata.dims or (1 if region is None else region.dims)
        read = write = region = Roi((-EVERYWHERE,) * dims, (2 * EVERYWHERE,) * dims)
    else:
        if region is None or region.unbounded:
            raise TaskError(f"task {name!r}: {graph.backend} has no total_roi that is bounded: pass roi= for blocks")
        try:
            shape, margin = broadcast(block_shape, region.dims), broadcast(context, region.dims)
        except GeometryError as error:
            raise TaskError(f"task {name!r}: block_shape={block_shape!r}, context={context!r}: {error}") from error
        if min(shape) < 1 or min(margin) < 0:
            raise TaskError(
                f"task {name!r}: block_shape is {tuple(shape)} and context {tuple(margin)}, in world units: one must "
                "be positive, the other not negative"
            )
        write = Roi(region.begin, Coordinate(map(min, shape, region.shape)))
        read, region = write.grow(margin, margin), region.grow(margin, margin)
    return Task(
        f"{name}/blocks",
        region,
        read,
        write,
        no_step,
        read_write_conflict=False,
        num_workers=limits.num_workers or ANY_NUMBER,
        max_retries=limits.max_retries,
        fit="shrink",
        timeout=limits.timeout_s,
        resources=limits.resources,
    )


def _most_bytes(limits: Limits) -> int:
    return memory.parse_bytes(limits.max_memory) or memory.machine_bytes()


def _places(ids: Ids, wanted: Ids) -> tuple[Places, npt.NDArray[np.bool_]]:
    """Return where numbers are among sorted ones, and which are there at all."""
    if not len(ids):
        return np.zeros(len(wanted), np.int64), np.zeros(len(wanted), bool)
    at = np.minimum(np.searchsorted(ids, wanted), len(ids) - 1)
    return at, ids[at] == wanted


def _check_not_empty(ids: Ids, graph: GraphStore, roi: Roi | None) -> None:
    if not len(ids):
        raise GraphError(
            f"{graph.backend} has no nodes{'' if roi is None else f' in {roi}'}: write it with region_graph; if it was "
            "removed after that, reset the tasks in the journal"
        )
