"""Statistics of a whole array, block by block."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from bellis.ops.blocks import as_input, block_task
from bellis.ops.steps import Steps, index_of, no_step

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    import numpy.typing as npt

    from bellis.arrays import Array
    from bellis.geometry import CoordinateLike
    from bellis.ops.blocks import Limits, Source
    from bellis.ops.parts import Scratch
    from bellis.tasks import Block, Pipeline


def reduce(
    fn: Callable[[npt.NDArray[Any]], Any],
    combine: Callable[[Any, Any], Any],
    source: Source,
    *,
    block_shape: CoordinateLike | None = None,
    name: str = "reduce",
    scratch: str | os.PathLike[str] | None = None,
    limits: Limits | None = None,
) -> Pipeline:
    """Reduce an array to one value: ``fn`` of each block, combined two by two.

    The value is ``report.value(name)``. It is the same however many workers there are, and however often the run was
    interrupted: values are combined in a tree of neighbouring blocks whose order is fixed. With integers, and whatever
    else ``combine`` is associative for, it is what the whole array would give; sums of floats differ from it, and
    between block shapes, by their rounding.

    Parameters
    ----------
    fn
        Called with the voxels of a block, of the source's dtype and axes; at the end of the array it is smaller.
        Returns what can be kept: numbers, strings, bytes, NumPy arrays, lists and dicts of them; of a tuple, a list
        comes back.
    combine
        Called with the values of two regions, in C order; returns the value of both. Must be associative, and may
        change what it is given.
    source
        Array, or the path of one.
    block_shape
        Voxels of a block: one number for all or one per physical axis. Picked if not given: whole chunks, about 128^3
        voxels.
    name
        Of the operation; its tasks are ``name/...``, the last one is ``name``.
    scratch
        Folder for what blocks leave to be combined, which all workers reach; ``.bellis/scratch`` if not given. What is
        left there at the end is a note that the operation is over. Two runs at the same time must not share both the
        folder and ``name``, unless they reduce different arrays on disk.
    limits
        Workers, memory, retries.

    Raises
    ------
    ArrayError
        If the source can't be opened.
    TaskError
        If a worker would need more memory than it may have.

    Examples
    --------
    >>> import bellis, numpy as np, tempfile
    >>> from bellis import Array, ops
    >>> image = Array(np.arange(1000).reshape(10, 10, 10) % 7)
    >>> count = lambda voxels: np.bincount(voxels.ravel(), minlength=7)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     counts = ops.reduce(count, np.add, image, block_shape=4, scratch=folder)
    ...     report = bellis.run(counts, "inline", progress=False)
    >>> report.value("reduce")
    array([143, 143, 143, 143, 143, 143, 142])
    """
    array = as_input(source)
    blocks = block_task(f"{name}/blocks", no_step, reads=[array], block_shape=block_shape, limits=limits)
    steps = Steps.of(name, blocks, output=None, source=array, folder=scratch, code=(fn, combine))
    leaf = functools.partial(reduce_block, fn=fn, array=array, scratch=steps.scratch)
    tasks, root = steps.combined("blocks", functools.partial(functools.reduce, combine))
    return steps.pipeline([steps.task("blocks", leaf), *tasks], root)


def reduce_block(block: Block, *, fn: Callable[[npt.NDArray[Any]], Any], array: Array, scratch: Scratch) -> None:
    """Keep the value of one block."""
    scratch.put("blocks", index_of(block), fn(array.to_ndarray(block.write_roi)))
