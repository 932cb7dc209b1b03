"""Labels without the small ones."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from bellis.errors import TaskError
from bellis.ops.blocks import as_input, as_output, block_task
from bellis.ops.frame import extent_of
from bellis.ops.relabel import check_range, compact, look_up
from bellis.ops.steps import Step, Steps, check_integers, check_same_voxels, index_of, no_step

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    import numpy.typing as npt

    from bellis.arrays import Array
    from bellis.geometry import CoordinateLike
    from bellis.ops.blocks import Limits, Source
    from bellis.ops.parts import Scratch
    from bellis.tasks import Block, Pipeline


def remove_small(
    labels: Source,
    output: Source,
    min_size: int,
    *,
    block_shape: CoordinateLike | None = None,
    dtype: npt.DTypeLike | None = None,
    name: str = "remove_small",
    scratch: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    limits: Limits | None = None,
) -> Pipeline:
    """Set labels to 0 that have fewer voxels than ``min_size`` in the whole array.

    The others keep their numbers. ``report.value(name)`` is how many labels were removed.

    Parameters
    ----------
    labels
        Array of integers, or the path of one.
    output
        Array of integers with the voxels of ``labels``, or the path of one to make.
    min_size
        The smallest number of voxels that is kept.
    block_shape
        Voxels of a block: one number for all or one per axis. Picked if not given: whole chunks of the output, about
        128^3 voxels.
    dtype
        Integer type of a new output; that of ``labels`` if not given.
    name
        Of the operation; its tasks are ``name/...``, the last one is ``name``.
    scratch
        Folder for the sizes, which all workers reach; if not given, ``.bellis/scratch`` beside the output, or
        in the working directory if that is no local path. It is removed at the end, but for a note that the
        operation is over.
    overwrite
        Replace an output that is there and has another region, voxel size, dtype or chunks; else that is an error.
    limits
        Workers, memory, retries. One worker needs about 50 bytes per label in addition, to add up their sizes.

    Raises
    ------
    ArrayError
        If an array can't be opened, or the output does not have the voxels of ``labels``.
    TaskError
        If ``min_size`` is negative, or blocks could write the same chunk.
    """
    source = as_input(labels)
    check_integers(f"task {name!r}", source)
    if isinstance(min_size, bool) or not isinstance(min_size, int | np.integer) or min_size < 0:
        raise TaskError(f"task {name!r}: min_size is {min_size!r}, must be a number of voxels, 0 or more")
    size = extent_of(block_shape, source)
    target = as_output(output, source, dtype or source.dtype, write_size=size, overwrite=overwrite)
    check_integers(f"task {name!r}", target)
    check_same_voxels(f"task {name!r}", source, target)
    blocks = block_task(
        f"{name}/blocks",
        no_step,
        reads=[source],
        writes=[target],
        block_shape=block_shape,
        limits=limits,
        version=f"min_size {min_size}",
        total=source.roi,
    )
    code = (count_block, merge_counts, find_small, erase_block)
    steps = Steps.of(name, blocks, output=target, source=source, folder=scratch, code=code)
    count = functools.partial(count_block, labels=source, scratch=steps.scratch)
    tasks, root = steps.combined("blocks", merge_counts)
    find = functools.partial(find_small, root=root, min_size=int(min_size), scratch=steps.scratch)
    erase = functools.partial(erase_block, labels=source, output=target, scratch=steps.scratch)
    chain = [steps.task("blocks", count), *tasks, steps.once("find", find), steps.task("erase", erase)]
    return steps.pipeline(chain, functools.partial(count_small, scratch=steps.scratch))


def count_block(block: Block, *, labels: Array, scratch: Scratch) -> None:
    """Keep the labels of a block and their numbers of voxels."""
    ids, dense = compact(labels.to_ndarray(block.write_roi))
    counts = np.bincount(dense.ravel(), minlength=len(ids))
    scratch.put("blocks", index_of(block), [ids[ids != 0], counts[ids != 0]])


def merge_counts(values: Iterator[Any]) -> list[npt.NDArray[Any]]:
    """Add up the numbers of voxels of some blocks, by label."""
    parts = list(values)
    ids, places = np.unique(np.concatenate([part[0] for part in parts]), return_inverse=True)
    counts = np.zeros(len(ids), np.int64)
    np.add.at(counts, places, np.concatenate([part[1] for part in parts]))
    return [ids, counts]


def find_small(block: Block, *, root: Step, min_size: int, scratch: Scratch) -> None:
    """Keep the labels that are too small."""
    ids, counts = root(block)
    scratch.save("small", ids[counts < min_size])


def erase_block(block: Block, *, labels: Array, output: Array, scratch: Scratch) -> None:
    """Write one block without small labels."""
    ids, dense = compact(labels.to_ndarray(block.write_roi))
    small = scratch.load("small")
    _, is_small = look_up(ids, small, small)
    kept = np.where(is_small, ids.dtype.type(0), ids)
    check_range(f"{block}: labels", int(kept.min()), int(kept.max()), output)
    output[block.write_roi] = kept.astype(output.dtype)[dense]


def count_small(block: Block, *, scratch: Scratch) -> int:
    """Return how many labels were removed."""
    del block
    return len(scratch.load("small"))
