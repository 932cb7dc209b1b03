"""Connected components across blocks: labels of blocks, tables where they touch, a union-find, and a second pass.

Each block is labelled for itself, and where two blocks touch, their labels are matched by small tables (see
`bellis.ops.contacts`), not by voxels. One block then joins these tables, a union-find over all labels, and numbers what
is connected. A second pass over the blocks writes the numbers. It labels each block again, which costs about as much as
to store the labels and to read them back, and needs no room on disk.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from bellis.errors import RunError, TaskError
from bellis.geometry import Coordinate
from bellis.ops.blocks import as_input, as_output, block_task
from bellis.ops.contacts import NO_LABELS, NO_PAIRS, components, lower_directions, shown_labels, touched_labels
from bellis.ops.frame import extent_of
from bellis.ops.steps import Steps, check_no_channels, check_same_voxels, index_of, no_step

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    import numpy.typing as npt

    from bellis.arrays import Array
    from bellis.geometry import CoordinateLike, Roi
    from bellis.ops.blocks import Limits, Source
    from bellis.ops.contacts import Mask
    from bellis.ops.parts import Scratch
    from bellis.tasks import Block, Pipeline


def label(
    mask: Source,
    output: Source,
    *,
    connectivity: int = 1,
    block_shape: CoordinateLike | None = None,
    dtype: npt.DTypeLike = "uint64",
    name: str = "label",
    scratch: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    limits: Limits | None = None,
) -> Pipeline:
    """Label the connected components of a mask.

    The result is that of `scipy.ndimage.label` up to the order of numbers, for every shape of blocks. Numbers are
    1, 2, ... in the order of the blocks in which components begin. ``report.value(name)`` is how many there are.

    Parameters
    ----------
    mask
        Array, or the path of one, without channels; voxels other than 0 are foreground.
    output
        Array of integers with the voxels of ``mask``, or the path of one to make.
    connectivity
        Voxels are neighbours if they differ by one in up to so many axes: from 1 (faces) to the number of axes.
    block_shape
        Voxels of a block: one number for all or one per axis. Picked if not given: whole chunks of the output, about
        128^3 voxels.
    dtype
        Unsigned integer type of a new output.
    name
        Of the operation; its tasks are ``name/...``, the last one is ``name``.
    scratch
        Folder for the tables, which all workers reach; if not given, ``.bellis/scratch`` beside the output, or
        in the working directory if that is no local path. It is removed at the end, but for a note that the
        operation is over.
    overwrite
        Replace an output that is there and has another region, voxel size, dtype or chunks; else that is an error.
    limits
        Workers, memory, retries. One worker needs about 60 bytes per component and block in addition, to join the
        tables.

    Raises
    ------
    ArrayError
        If an array can't be opened, or the output does not have the voxels of the mask.
    TaskError
        If ``connectivity`` is out of range, ``dtype`` is not of unsigned integers, or blocks could write the same
        chunk.
    """
    source = as_input(mask)
    check_no_channels(f"task {name!r}", source)
    if not 1 <= connectivity <= source.dims:
        raise TaskError(f"task {name!r}: connectivity is {connectivity}, must be from 1 to the {source.dims} axes")
    size = extent_of(block_shape, source)
    target = as_output(output, source, dtype, write_size=size, overwrite=overwrite)
    if target.dtype.kind != "u":
        raise TaskError(f"task {name!r}: labels are unsigned integers, but the output has dtype {target.dtype}")
    check_same_voxels(f"task {name!r}", source, target)
    blocks = block_task(
        f"{name}/blocks",
        no_step,
        reads=[source],
        writes=[target],
        block_shape=block_shape,
        limits=limits,
        version=f"connectivity {connectivity}",
        total=source.roi,
    )
    steps = Steps.of(name, blocks, output=target, source=source, folder=scratch, code=_STEPS)
    each = functools.partial(label_block, mask=source, connectivity=connectivity, scratch=steps.scratch)
    merge = functools.partial(
        merge_blocks, counts=steps.grid.counts, connectivity=connectivity, dtype=target.dtype, scratch=steps.scratch
    )
    relabel = functools.partial(
        relabel_block, mask=source, output=target, connectivity=connectivity, scratch=steps.scratch
    )
    tasks = [steps.task("blocks", each), steps.once("merge", merge), steps.task("relabel", relabel)]
    return steps.pipeline(tasks, functools.partial(count_components, scratch=steps.scratch))


# The steps -----------------------------------------------------------------------------------------------------------


def label_block(block: Block, *, mask: Array, connectivity: int, scratch: Scratch) -> None:
    """Keep the number of labels of a block, and its tables for all directions."""
    roi = block.write_roi
    foreground, own = _read(mask, roi, connectivity)
    labels, count = components(foreground[own], connectivity)
    shown, touched = [], []
    for direction in lower_directions(mask.dims, connectivity):
        shown.append(shown_labels(labels, direction, connectivity) if count else NO_LABELS)
        touched.append(touched_labels(foreground, own, labels, direction, connectivity) if count else NO_PAIRS)
    scratch.put("blocks", index_of(block), [count, shown, touched])


def merge_blocks(
    block: Block, *, counts: tuple[int, ...], connectivity: int, dtype: np.dtype[Any], scratch: Scratch
) -> None:
    """Keep the number of the component that each label of each block belongs to."""
    del block
    parts = [scratch.get("blocks", index) for index in range(int(np.prod(counts)))]
    starts = np.concatenate([[0], np.cumsum([part[0] for part in parts], dtype=np.int64)])
    numbers = connected(int(starts[-1]), _joints(parts, starts, counts, connectivity))
    largest = int(numbers.max(initial=0))
    if largest > np.iinfo(dtype).max:
        raise RunError(f"there are {largest} components, more than {dtype} holds: pass an output of a larger dtype")
    scratch.save("starts", starts)
    scratch.save("numbers", numbers.astype(dtype))
    scratch.put("merge", 0, largest)


def relabel_block(block: Block, *, mask: Array, output: Array, connectivity: int, scratch: Scratch) -> None:
    """Write a block: its labels, as before, replaced by the numbers of their components."""
    labels, count = components(mask.to_ndarray(block.write_roi) != 0, connectivity)
    index = index_of(block)
    begin, end = scratch.load("starts")[index : index + 2].tolist()
    if end - begin != count:
        raise RunError(
            f"{block} had {end - begin} components before, and has {count} now: the mask was changed while it was "
            "labelled; label it afresh"
        )
    table = np.zeros(count + 1, output.dtype)
    table[1:] = scratch.load("numbers")[begin:end]
    output[block.write_roi] = table[labels]


def count_components(block: Block, *, scratch: Scratch) -> Any:
    """Return how many components there are."""
    del block
    return scratch.get("merge", 0)


_STEPS = (label_block, merge_blocks, relabel_block, count_components)


def _read(mask: Array, roi: Roi, connectivity: int) -> tuple[Mask, tuple[slice, ...]]:
    """Read a block with what it touches of lower neighbours; return the slices of the block in it, too."""
    size = mask.voxel_size
    # Lower neighbours are never further along the first axis, and only across a face if the connectivity is 1.
    after = [0 if connectivity == 1 or axis == 0 else n for axis, n in enumerate(size)]
    reach = roi.grow(size, Coordinate.of(after)).intersect(mask.roi)
    begin = (roi.begin - reach.begin) // size
    own = tuple(slice(b, b + n) for b, n in zip(begin, roi.shape // size, strict=True))
    return mask.to_ndarray(reach) != 0, own


# All blocks ----------------------------------------------------------------------------------------------------------


def _joints(
    parts: Sequence[Any], starts: npt.NDArray[np.int64], counts: tuple[int, ...], connectivity: int
) -> npt.NDArray[np.int64]:
    """Return pairs of labels that touch, shape (n, 2); label k of block b is ``starts[b] + k - 1``."""
    found = [np.empty((0, 2), np.int64)]
    directions = lower_directions(len(counts), connectivity)
    for index, (_, _, touched) in enumerate(parts):
        at = np.unravel_index(index, counts)
        for k, direction in enumerate(directions):
            pairs = touched[k].astype(np.int64)
            if not len(pairs):
                continue
            place = tuple(int(a) + step for a, step in zip(at, direction, strict=True))
            neighbour = int(np.ravel_multi_index(place, counts))
            below = parts[neighbour][1][k].astype(np.int64)[pairs[:, 0] - 1]
            found.append(np.stack([starts[neighbour] + below - 1, starts[index] + pairs[:, 1] - 1], axis=1))
    return np.concatenate(found)


def connected(count: int, pairs: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the component, from 1 in the order of their first members, of each of ``count`` things joined by pairs."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if count > np.iinfo(np.int32).max:
        raise RunError(f"the blocks have {count} labels in all, more than 2^31 - 1: use larger blocks")
    joined = np.ones(len(pairs))  # added up where a pair is there many times
    graph = coo_array((joined, (pairs[:, 0].astype(np.int32), pairs[:, 1].astype(np.int32))), shape=(count, count))
    _, members = connected_components(graph.tocsr(), directed=False)
    numbers: npt.NDArray[np.int64] = members.astype(np.int64) + 1
    return numbers
