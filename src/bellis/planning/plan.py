"""What a pipeline will do, before anything runs."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

from bellis.errors import TaskError
from bellis.planning.dependencies import Link
from bellis.planning.grid import BlockGrid
from bellis.planning.levels import Levels
from bellis.tasks.pipeline import Pipeline

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from bellis.tasks.task import Task


@dataclass(frozen=True, slots=True)
class TaskPlan:
    """The blocks of one task."""

    task: Task
    """The task."""
    grid: BlockGrid
    """Its blocks."""
    num_levels: int
    """Sets of blocks that run one after the other; 1 without a read/write conflict."""
    upstream: tuple[str, ...]
    """Tasks that it waits for."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a pipeline will do."""

    pipeline: Pipeline
    """The tasks and their edges."""
    tasks: tuple[TaskPlan, ...]
    """One per task, each after those that it waits for."""
    warnings: tuple[str, ...]
    """What is allowed, but probably not meant."""

    @property
    def num_blocks(self) -> int:
        """Blocks of all tasks."""
        return sum(task.grid.num_blocks for task in self.tasks)

    def __str__(self) -> str:
        lines = []
        for planned in self.tasks:
            grid = planned.grid
            counts = " x ".join(map(str, grid.counts))
            lines.append(f"{grid.task_id}: {grid.num_blocks} blocks ({counts}) of {tuple(grid.write_shape)}")
            context = (
                ""
                if not any((*grid.context_begin, *grid.context_end))
                else (f", context {tuple(grid.context_begin)} before and {tuple(grid.context_end)} after")
            )
            levels = f", {planned.num_levels} levels" if planned.num_levels > 1 else ""
            after = f", after {', '.join(planned.upstream)}" if planned.upstream else ""
            lines.append(f"    total {grid.total_roi}, fit {grid.fit!r}{context}{levels}{after}")
        return "\n".join([*lines, *(f"warning: {warning}" for warning in self.warnings)])


def plan(tasks: Task | Pipeline | Iterable[Task | Pipeline]) -> Plan:
    """Plan tasks: their blocks, their order, and what looks wrong.

    Parameters
    ----------
    tasks
        A task, a pipeline, or several.

    Raises
    ------
    TaskError
        If ids are doubled, tasks wait in a circle, linked tasks differ in rank, or two tasks that do not wait for each
        other write the same chunks.
    """
    pipeline = Pipeline.of(tasks)
    _check_writes(pipeline)
    planned = []
    for task in pipeline.tasks:
        grid = BlockGrid.of(task)
        levels = Levels(grid, conflict=task.read_write_conflict)
        upstream = tuple(up.task_id for up in pipeline.upstream(task))
        planned.append(TaskPlan(task, grid, levels.num_levels, upstream))
    grids = {part.grid.task_id: part.grid for part in planned}
    links = [Link(grids[up.task_id], grids[down.task_id]) for up, down in pipeline.edges]
    warnings = [*(w for part in planned for w in _grid_warnings(part.grid)), *(w for k in links for w in _unwritten(k))]
    return Plan(pipeline, tuple(planned), tuple(warnings))


def _check_writes(pipeline: Pipeline) -> None:
    """Refuse tasks that would write one chunk at the same time: the one that is later would undo the other's part."""
    before: dict[str, set[str]] = {}
    for task in pipeline.tasks:  # upstream first
        above = pipeline.upstream(task)
        before[task.task_id] = {up.task_id for up in above}.union(*(before[up.task_id] for up in above))
    writers = [task for task in pipeline.tasks if task.writes]
    for first, second in combinations(writers, 2):
        if first.task_id in before[second.task_id]:
            continue
        for name in first.writes.keys() & second.writes.keys():
            shared = first.writes[name].intersect(second.writes[name])
            if not shared.empty:
                raise TaskError(
                    f"tasks {first.task_id!r} and {second.task_id!r} would write the same chunks of {name} at the same "
                    f"time, in {shared}: run one after the other (first + second), or let them write regions of whole "
                    "chunks"
                )


def _grid_warnings(grid: BlockGrid) -> Iterator[str]:
    if grid.total_write_roi.empty:
        yield (
            f"task {grid.task_id!r} has no blocks: its total_roi {grid.total_roi} has no room for the context "
            f"{tuple(grid.context_begin)} before and {tuple(grid.context_end)} after"
        )
    elif not grid.num_blocks:
        yield (
            f"task {grid.task_id!r} has no blocks: no write_roi of {tuple(grid.write_shape)} fits into "
            f"{grid.total_write_roi}; fit='shrink' clips it"
        )
    elif grid.fit == "valid":
        rest = [extent % step for extent, step in zip(grid.total_write_roi.shape, grid.write_shape, strict=True)]
        if any(rest):
            yield (
                f"task {grid.task_id!r} leaves the last {tuple(rest)} of {grid.total_write_roi} unwritten "
                "(fit='valid'); fit='shrink' covers it"
            )


def _unwritten(link: Link) -> Iterator[str]:
    up, down = link.upstream, link.downstream
    if up.fit != "valid" or not up.num_blocks or not down.num_blocks:
        return
    last = down.read_roi(down.num_blocks - 1)
    axes = zip(up.total_write_roi.begin, up.counts, up.write_shape, strict=True)
    written = [begin + count * step for begin, count, step in axes]
    beyond = [
        max(0, min(end, total) - stop)
        for end, total, stop in zip(last.end, up.total_write_roi.end, written, strict=True)
    ]
    if any(beyond):
        yield (
            f"task {down.task_id!r} reads up to {tuple(last.end)}, but task {up.task_id!r} writes only up to "
            f"{tuple(written)} (fit='valid'): its blocks there do not wait for the rest"
        )
