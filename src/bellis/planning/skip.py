"""Which blocks a task's skip mask leaves out."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from bellis.errors import TaskError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from bellis.planning.grid import BlockGrid, Ints
    from bellis.tasks.task import Task

_AT_ONCE = 65536


def skipped_blocks(task: Task, grid: BlockGrid) -> Iterator[tuple[int, NDArray[np.bool_]]]:
    """Yield runs of blocks and which of them are to be skipped.

    Yields
    ------
    begin, flags
        Index of the first block of the run, and one bool per block.

    Raises
    ------
    TaskError
        If the mask has another shape than the grid, or the callable answers with another number of bools.
    """
    mask = task.skip_mask
    if mask is None or not grid.num_blocks:
        return
    if callable(mask):
        yield 0, _ask(task, grid)
        return
    mask = np.asarray(mask)
    if mask.shape != grid.counts:
        raise TaskError(
            f"task {task.task_id!r}: skip_mask has shape {mask.shape}, but the grid has {grid.counts} blocks: "
            "pass one cell per block, True to skip it"
        )
    yield 0, mask.astype(bool).ravel()


def _ask(task: Task, grid: BlockGrid) -> NDArray[np.bool_]:
    """Ask about large regions first, and about their parts only where something is to be done."""
    flags = np.zeros(grid.counts, bool)
    size = 1
    while size < max(grid.counts):
        size *= 2
    todo = [np.zeros((1, grid.dims), np.int64)]
    while todo:
        corners = np.concatenate(todo)
        todo = []
        for begin in range(0, len(corners), _AT_ONCE):
            low = corners[begin : begin + _AT_ONCE]
            high = np.minimum(low + size, grid.counts)
            skip = _answer(task, _regions(grid, low, high))
            _mark(flags, low[skip], high[skip], size)
            if size > 1:
                todo.append(_split(low[~skip], size // 2, grid))
        size //= 2
    return flags.ravel()


def _regions(grid: BlockGrid, low: Ints, high: Ints) -> Ints:
    """Return the regions that boxes of positions write, shape (n, 2, dims)."""
    boxes = grid.write_boxes(grid.indices(list(low.T)))
    boxes[:, 1] = grid.write_boxes(grid.indices(list((high - 1).T)))[:, 1]
    return boxes


def _answer(task: Task, regions: Ints) -> NDArray[np.bool_]:
    try:
        answer = np.asarray(task.skip_mask(regions))
    except Exception as error:
        raise TaskError(f"task {task.task_id!r}: its skip_mask failed: {type(error).__name__}: {error}") from error
    if answer.shape != (len(regions),):
        raise TaskError(
            f"task {task.task_id!r}: skip_mask was asked about {len(regions)} regions, but answered with shape "
            f"{answer.shape}: return one bool per region"
        )
    return answer.astype(bool)


def _mark(flags: NDArray[np.bool_], low: Ints, high: Ints, size: int) -> None:
    if size == 1:
        flags[tuple(low.T)] = True
        return
    for begin, end in zip(low.tolist(), high.tolist(), strict=True):
        flags[tuple(map(slice, begin, end))] = True


def _split(corners: Ints, half: int, grid: BlockGrid) -> Ints:
    steps = np.array(list(product((0, half), repeat=grid.dims)), np.int64)
    parts = (corners[:, None, :] + steps[None]).reshape(-1, grid.dims)
    return parts[(parts < grid.counts).all(axis=1)]
