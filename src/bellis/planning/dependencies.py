"""Who must be done before a block, and who waits for it."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from bellis.errors import GeometryError, TaskError
from bellis.planning.grid import BlockGrid
from bellis.planning.levels import Levels
from bellis.tasks.block import Block
from bellis.tasks.pipeline import Pipeline

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from bellis.geometry import Roi
    from bellis.planning.grid import Ints
    from bellis.tasks.task import Fit, Task


class Link:
    """Which blocks of one task read what the blocks of another write.

    One predicate serves both directions: a block waits for every upstream block whose write region overlaps its
    read region, both clipped as ``fit`` says.

    Parameters
    ----------
    upstream, downstream
        The two grids.
    """

    __slots__ = ("downstream", "upstream")

    def __init__(self, upstream: BlockGrid, downstream: BlockGrid) -> None:
        if upstream.dims != downstream.dims:
            raise TaskError(
                f"task {downstream.task_id!r} has {downstream.dims} dimensions, but reads task "
                f"{upstream.task_id!r}, which has {upstream.dims}"
            )
        self.upstream = upstream
        self.downstream = downstream

    def readers(self, upstream_indices: Ints) -> tuple[Ints, Ints]:
        """Return the boxes of downstream positions that read what upstream blocks write; see `BlockGrid.writers`."""
        return self.downstream.readers(self.upstream.write_boxes(upstream_indices))

    def needs(self, downstream_indices: Ints) -> tuple[Ints, Ints]:
        """Return the boxes of upstream positions that downstream blocks read; see `BlockGrid.writers`."""
        return self.upstream.writers(self.downstream.read_boxes(downstream_indices))

    @property
    def largest_need(self) -> int:
        """An upper bound of how many upstream blocks one downstream block reads."""
        read = self.downstream.write_shape + self.downstream.context_begin + self.downstream.context_end
        axes = zip(read, self.upstream.write_shape, self.upstream.counts, strict=True)
        bound = 1
        for extent, step, count in axes:
            bound *= min(count, (extent - 1) // step + 2)
        return bound

    def has_unmet_roots(self) -> bool:
        """Whether some downstream block reads nothing that the upstream task writes, and so never waits for it."""
        if not self.downstream.num_blocks or not self.upstream.num_blocks:
            return self.downstream.num_blocks > 0
        # Along each axis, positions that read nothing lie at the two ends.
        last = self.downstream.num_blocks - 1
        low, high = self.needs(np.array([0, last], np.int64))
        return bool((high <= low).any())


class BlockwiseDependencyGraph:
    """The blocks of one task and their order, without a stored graph.

    Parameters
    ----------
    task_id
        Name of the task.
    block_read_roi, block_write_roi
        Regions of one block; only their position relative to each other matters.
    read_write_conflict
        Whether blocks must wait for neighbours that write what they read.
    fit
        ``valid``, ``overhang`` or ``shrink``.
    total_read_roi, total_write_roi
        Region to cover, with or without the context; at least one of them.
    """

    def __init__(
        self,
        task_id: str,
        block_read_roi: Roi,
        block_write_roi: Roi,
        read_write_conflict: bool,
        fit: Fit,
        total_read_roi: Roi | None = None,
        total_write_roi: Roi | None = None,
    ) -> None:
        begin = block_write_roi.begin - block_read_roi.begin
        end = block_read_roi.end - block_write_roi.end
        if total_read_roi is None:
            if total_write_roi is None:
                raise GeometryError("neither total_read_roi nor total_write_roi was given: pass one of them")
            total_read_roi = total_write_roi.grow(begin, end)
        elif total_write_roi is not None and total_read_roi.grow(-begin, -end) != total_write_roi:
            raise GeometryError(
                f"total_read_roi {total_read_roi} less the context is {total_read_roi.grow(-begin, -end)}, "
                f"but total_write_roi is {total_write_roi}: pass only one of them"
            )
        self.task_id = task_id
        self.grid = BlockGrid(total_read_roi, block_read_roi, block_write_roi, fit, task_id)
        self.levels = Levels(self.grid, conflict=read_write_conflict)

    @classmethod
    def of(cls, task: Task) -> BlockwiseDependencyGraph:
        """Make the graph of ``task``."""
        return cls(task.task_id, task.read_roi, task.write_roi, task.read_write_conflict, task.fit, task.total_roi)

    @property
    def num_blocks(self) -> int:
        """Number of blocks."""
        return self.grid.num_blocks

    @property
    def num_levels(self) -> int:
        """Number of levels."""
        return self.levels.num_levels

    def num_roots(self) -> int:
        """Return how many blocks wait for no other of this task."""
        return self.levels.size(0) if self.num_levels else 0

    def root_gen(self) -> Iterator[Block]:
        """Yield the blocks that wait for no other of this task."""
        return self.level_blocks(0) if self.num_levels else iter(())

    def level_blocks(self, level: int) -> Iterator[Block]:
        """Yield the blocks of ``level`` in C order."""
        if not 0 <= level < self.num_levels:
            raise GeometryError(f"task {self.task_id!r} has {self.num_levels} levels, no level {level}")
        size, step = self.levels.size(level), 4096
        for begin in range(0, size, step):
            for index in self.levels.blocks(level, begin, min(begin + step, size)).tolist():
                yield Block.at(self.grid, index)

    def upstream(self, block: Block) -> list[Block]:
        """Return the blocks of the previous level that ``block`` waits for, by number."""
        position = self._position(block)
        return self._at(position, self.levels.upstream(self._level(position)))

    def downstream(self, block: Block) -> list[Block]:
        """Return the blocks of the next level that wait for ``block``, by number."""
        position = self._position(block)
        return self._at(position, self.levels.downstream(self._level(position)))

    def enumerate_all_dependencies(self) -> Iterator[tuple[Block, list[Block]]]:
        """Yield every block, level by level, with the blocks that it waits for."""
        for level in range(self.num_levels):
            for block in self.level_blocks(level):
                yield block, self.upstream(block)

    def get_subgraph_blocks(self, sub_roi: Roi, read_roi: bool = False) -> list[Block]:
        """Return the blocks whose write regions (with ``read_roi``: read regions) overlap ``sub_roi``, by number."""
        sub_roi = sub_roi.intersect(self.grid.total_roi)
        if sub_roi.empty:
            return []
        boxes = np.array([[sub_roi.begin, sub_roi.end]], np.int64)
        return self.blocks_in(*(self.grid.readers(boxes) if read_roi else self.grid.writers(boxes)))

    def blocks_in(self, low: Ints, high: Ints) -> list[Block]:
        """Return the blocks of one box of positions, ``low`` and ``high`` of shape (1, dims), by number."""
        ranges = [range(b, e) for b, e in zip(low[0].tolist(), high[0].tolist(), strict=True)]
        return self._at((0,) * self.grid.dims, product(*ranges))

    def index(self, block: Block) -> int:
        """Return the linear index of ``block``, also of one that was made by hand."""
        if block.index is not None:
            return block.index
        return self.grid.index_of(block.block_id[1])

    def _position(self, block: Block) -> tuple[int, ...]:
        return self.grid.coordinate(self.index(block))

    def _level(self, position: tuple[int, ...]) -> int:
        return int(self.levels.level_of([np.array([p]) for p in position])[0])

    def _at(self, position: tuple[int, ...], steps: Iterable[tuple[int, ...]]) -> list[Block]:
        found = []
        for step in steps:
            place = [p + s for p, s in zip(position, step, strict=True)]
            if all(0 <= p < count for p, count in zip(place, self.grid.counts, strict=True)):
                index = sum(p * stride for p, stride in zip(place, self.grid.strides, strict=True))
                found.append(Block.at(self.grid, index))
        return sorted(found, key=lambda block: block.block_id[1])


class DependencyGraph:
    """The order of all blocks of several tasks.

    Parameters
    ----------
    tasks
        Tasks or a pipeline; upstream tasks are taken in.
    """

    def __init__(self, tasks: Iterable[Task] | Pipeline) -> None:
        self.pipeline = Pipeline.of(tasks)
        self.task_map = {task.task_id: task for task in self.pipeline.tasks}
        self.graphs = {task_id: BlockwiseDependencyGraph.of(task) for task_id, task in self.task_map.items()}
        self.links: dict[tuple[str, str], Link] = {}
        for up, down in self.pipeline.edges:
            grids = self.graphs[up.task_id].grid, self.graphs[down.task_id].grid
            self.links[up.task_id, down.task_id] = Link(*grids)

    @property
    def task_ids(self) -> tuple[str, ...]:
        """Names of the tasks, each after those that it needs."""
        return tuple(self.task_map)

    def num_blocks(self, task_id: str) -> int:
        """Return how many blocks a task has."""
        return self.graphs[task_id].num_blocks

    def num_roots(self, task_id: str) -> int:
        """Return how many blocks of a task wait for no other of that task."""
        return self.graphs[task_id].num_roots()

    def root_tasks(self) -> list[Task]:
        """Return the tasks that wait for no other."""
        return list(self.pipeline.sources)

    def roots(self) -> dict[str, tuple[int, Iterator[Block]]]:
        """Return, for each task that waits for no other, how many blocks can start at once, and these blocks."""
        return {
            task.task_id: (self.num_roots(task.task_id), self.graphs[task.task_id].root_gen())
            for task in self.root_tasks()
        }

    def upstream(self, block: Block) -> list[Block]:
        """Return the blocks, of any task, that ``block`` waits for, by number."""
        graph = self._graph(block)
        found = graph.upstream(block)
        index = np.array([graph.index(block)], np.int64)
        for (up, down), link in self.links.items():
            if down == block.task_id:
                found += self.graphs[up].blocks_in(*link.needs(index))
        return sorted(found, key=_by_number)

    def downstream(self, block: Block) -> list[Block]:
        """Return the blocks, of any task, that wait for ``block``, by number."""
        graph = self._graph(block)
        found = graph.downstream(block)
        index = np.array([graph.index(block)], np.int64)
        for (up, down), link in self.links.items():
            if up == block.task_id:
                found += self.graphs[down].blocks_in(*link.readers(index))
        return sorted(found, key=_by_number)

    def _graph(self, block: Block) -> BlockwiseDependencyGraph:
        graph = self.graphs.get(str(block.task_id))
        if graph is None:
            raise TaskError(f"no task is named {block.task_id!r}; there are {', '.join(map(repr, self.graphs))}")
        return graph


def _by_number(block: Block) -> tuple[int, str]:
    return block.block_id[1], str(block.task_id)
