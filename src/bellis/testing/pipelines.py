"""Hypothesis strategies for random regions, tasks and pipelines, small enough for brute force."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from hypothesis import strategies as st

from bellis.geometry import Roi
from bellis.planning.grid import BlockGrid
from bellis.tasks import Task

if TYPE_CHECKING:
    from collections.abc import Callable

    from hypothesis.strategies import DrawFn
    from numpy.typing import NDArray

    from bellis.tasks import Block
    from bellis.tasks.task import Fit

FITS: tuple[Fit, ...] = ("valid", "overhang", "shrink")
DIAMOND = ((), (0,), (0,), (1, 2))
LARGEST_EXTENT = {1: 40, 2: 12, 3: 7, 4: 5}
LARGEST_WRITE = {1: 6, 2: 4, 3: 3, 4: 3}
LARGEST_CONTEXT = 4


def do_nothing(block: Block) -> None:
    """Process a block by leaving it alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """The regions of a block grid."""

    total_roi: Roi
    """Region to cover, context included."""
    read_roi: Roi
    """What one block reads."""
    write_roi: Roi
    """What one block writes."""
    fit: Fit
    """What becomes of blocks that stick out."""

    @property
    def dims(self) -> int:
        """Number of axes."""
        return self.total_roi.dims


def whole_numbers(dims: int, low: int, high: int) -> st.SearchStrategy[tuple[int, ...]]:
    """Draw one int per axis, low <= int <= high."""
    return st.tuples(*[st.integers(low, high)] * dims)


def worlds(*, max_dims: int = 4) -> st.SearchStrategy[Roi]:
    """Draw the region that the tasks of a pipeline share; any offset, negative ones too."""
    return st.integers(1, max_dims).flatmap(
        lambda dims: st.builds(Roi, whole_numbers(dims, -20, 20), whole_numbers(dims, 1, LARGEST_EXTENT[dims]))
    )


@st.composite
def geometries(draw: DrawFn, *, world: Roi | None = None, max_dims: int = 4, max_blocks: int = 32) -> Geometry:
    """Draw the regions of one task.

    What is written covers ``world`` more or less: shifted by up to three units, longer by up to
    two, divisible by the blocks' shape or not. Contexts at the begin and the end differ, and may be
    zero or larger than the block. One total in ten is about as small as the context, so that few
    blocks or none remain.

    Parameters
    ----------
    draw
        Given by hypothesis.
    world
        Region to write, more or less; drawn when None.
    max_dims
        Number of axes at most, when ``world`` is drawn.
    max_blocks
        Number of blocks at most.
    """
    world = draw(worlds(max_dims=max_dims)) if world is None else world
    dims = world.dims
    write = list(draw(whole_numbers(dims, 1, LARGEST_WRITE[dims])))
    before = draw(whole_numbers(dims, 0, LARGEST_CONTEXT))
    after = draw(whole_numbers(dims, 0, LARGEST_CONTEXT))
    if draw(st.integers(0, 3)) == 3:
        before, after = (0,) * dims, draw(st.sampled_from([(0,) * dims, after]))
    moved, grown = draw(whole_numbers(dims, -3, 3)), draw(whole_numbers(dims, 0, 2))
    begin = [b + step for b, step in zip(world.begin, moved, strict=True)]
    extent = [e + more for e, more in zip(world.shape, grown, strict=True)]
    write = [min(w, e) for w, e in zip(write, extent, strict=True)]
    while prod(-(-e // w) for e, w in zip(extent, write, strict=True)) > max_blocks:
        axis = max(range(dims), key=lambda a: -(-extent[a] // write[a]))
        write[axis] = min(2 * write[axis], extent[axis])
    if draw(st.integers(0, 9)) == 9:
        extent = list(draw(whole_numbers(dims, -2 * LARGEST_CONTEXT, 2)))
    total = Roi(
        [b - c0 for b, c0 in zip(begin, before, strict=True)],
        [max(c0 + e + c1, 0) for c0, e, c1 in zip(before, extent, after, strict=True)],
    )
    origin = draw(whole_numbers(dims, -5, 5))
    return Geometry(
        total_roi=total,
        read_roi=Roi(
            [o - c0 for o, c0 in zip(origin, before, strict=True)],
            [c0 + w + c1 for c0, w, c1 in zip(before, write, after, strict=True)],
        ),
        write_roi=Roi(origin, write),
        fit=draw(st.sampled_from(FITS)),
    )


def skip_masks(geometry: Geometry) -> st.SearchStrategy[NDArray[np.bool_]]:
    """Draw an array of bool in the shape of the geometry's grid."""
    grid = BlockGrid(geometry.total_roi, geometry.read_roi, geometry.write_roi, geometry.fit, task_id="")
    cells = grid.num_blocks
    return st.integers(0, 2**cells - 1).map(
        lambda bits: np.array([bits >> cell & 1 for cell in range(cells)], dtype=bool).reshape(grid.counts)
    )


@st.composite
def tasks(
    draw: DrawFn,
    *,
    task_id: str = "task",
    world: Roi | None = None,
    upstream_tasks: tuple[Task, ...] = (),
    max_dims: int = 4,
    max_blocks: int = 32,
    skips: bool = True,
    process_function: Callable[..., Any] = do_nothing,
) -> Task:
    """Draw one task: any geometry and fit, conflicts or not, up to two retries, maybe a mask."""
    geometry = draw(geometries(world=world, max_dims=max_dims, max_blocks=max_blocks))
    return Task(
        task_id,
        geometry.total_roi,
        geometry.read_roi,
        geometry.write_roi,
        process_function,
        read_write_conflict=draw(st.booleans()),
        max_retries=draw(st.integers(0, 2)),
        fit=geometry.fit,
        upstream_tasks=upstream_tasks,
        skip_mask=draw(skip_masks(geometry)) if skips and draw(st.integers(0, 3)) == 3 else None,
    )


@st.composite
def pipelines(
    draw: DrawFn,
    *,
    max_tasks: int = 4,
    max_dims: int = 4,
    max_blocks: int = 32,
    skips: bool = True,
    process_function: Callable[..., Any] = do_nothing,
) -> list[Task]:
    """Draw one to four tasks over about the same region, each with blocks of its own shape.

    The edges are any directed acyclic graph; a diamond is drawn more often than chance would.

    Parameters
    ----------
    draw
        Given by hypothesis.
    max_tasks
        Number of tasks at most.
    max_dims
        Number of axes at most; all tasks of a pipeline have the same.
    max_blocks
        Number of blocks per task at most.
    skips
        Whether tasks may have a ``skip_mask``.
    process_function
        What each task calls.

    Returns
    -------
    list of Task
        Upstream tasks first.
    """
    world = draw(worlds(max_dims=max_dims))
    count = draw(st.integers(1, max_tasks))
    diamond = count == len(DIAMOND) and draw(st.booleans())
    drawn: list[Task] = []
    for number in range(count):
        chosen = _members(draw(st.integers(0, 2**number - 1)))
        if diamond:
            chosen = DIAMOND[number]
        elif number and not chosen and draw(st.booleans()):
            chosen = (number - 1,)
        drawn.append(
            draw(
                tasks(
                    task_id=f"t{number}",
                    world=world,
                    upstream_tasks=tuple(drawn[up] for up in chosen),
                    max_blocks=max_blocks,
                    skips=skips,
                    process_function=process_function,
                )
            )
        )
    return drawn


def _members(bits: int) -> tuple[int, ...]:
    """Which bits are set."""
    return tuple(place for place in range(bits.bit_length()) if bits >> place & 1)
