"""What is known of one task's blocks while it runs: one byte per block, counts, and queues of what is ready."""

from __future__ import annotations

from array import array
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from bellis.planning.levels import Levels
from bellis.runtime.readiness import shifted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from bellis.planning.grid import BlockGrid, Ints
    from bellis.runtime.readiness import Need
    from bellis.tasks.task import Task

Neighbours: TypeAlias = "list[list[tuple[int, ...]]]"
_NONE: Ints = np.empty(0, np.int64)

DONE = 1
"""The lowest bit, so that ``state & DONE`` is a bool."""
CLAIMED = 2
"""Ready or running: it will not be offered again."""
FAILED = 4
ORPHANED = 8
RUNNING = 16
"""Handed out; always together with CLAIMED."""


@dataclass(slots=True)
class TaskState:
    """How many blocks of a task are in which state.

    At every moment completed + failed + orphaned + pending + ready + processing = total.
    """

    total_block_count: int = 0
    ready_count: int = 0
    processing_count: int = 0
    completed_count: int = 0
    """Done, the skipped ones among them."""
    skipped_count: int = 0
    failed_count: int = 0
    orphaned_count: int = 0
    """Will never run, because a block that they need failed or their task was stopped."""

    @property
    def pending_count(self) -> int:
        """Blocks that still wait for others."""
        return (
            self.total_block_count
            - self.ready_count
            - self.processing_count
            - self.completed_count
            - self.failed_count
            - self.orphaned_count
        )

    def is_done(self) -> bool:
        """Whether every block is completed, failed or orphaned."""
        return self.total_block_count == self.completed_count + self.failed_count + self.orphaned_count


@dataclass(slots=True)
class Accepted:
    """What a release changed."""

    done: Ints = field(default_factory=lambda: _NONE)
    """Blocks that are completed now."""
    retried: list[int] = field(default_factory=list)
    """Blocks that failed and will be tried again."""
    failed: list[int] = field(default_factory=list)
    """Blocks that failed for the last time."""
    tasks: set[str] = field(default_factory=set)
    """Tasks whose counts changed."""


class IndexQueue:
    """First in, first out, of block indices: 4 bytes each in grids of less than 2^31 blocks, else 8."""

    __slots__ = ("_begin", "_dtype", "_items")

    def __init__(self, num_blocks: int) -> None:
        small = num_blocks < 2**31
        self._dtype = np.dtype(np.int32 if small else np.int64)
        self._items = array("i" if small else "q")
        self._begin = 0

    def __len__(self) -> int:
        return len(self._items) - self._begin

    def push(self, indices: Ints) -> None:
        """Append indices."""
        self._items.frombytes(indices.astype(self._dtype).tobytes())

    def pop(self, limit: int) -> Ints:
        """Take at most ``limit`` indices from the front."""
        end = min(self._begin + limit, len(self._items))
        taken = np.frombuffer(self._items, self._dtype)[self._begin : end].astype(np.int64) if end else _NONE
        self._begin = end
        if self._begin * 4 >= len(self._items):
            del self._items[: self._begin]
            self._begin = 0
        return taken


class Cursor:
    """Walks through the blocks of a task, level by level in C order, without listing them."""

    __slots__ = ("_at", "_last_level", "_level", "_levels")

    def __init__(self, levels: Levels, last_level: int) -> None:
        self._levels = levels
        self._last_level = min(last_level, levels.num_levels - 1)
        self._level = 0
        self._at = 0

    @property
    def exhausted(self) -> bool:
        """Whether every block was given out."""
        return self._level > self._last_level

    def take(self, limit: int) -> Ints:
        """Return the next blocks, at most ``limit``, all of one level."""
        size = self._levels.size(self._level)
        end = min(self._at + limit, size)
        taken = self._levels.blocks(self._level, self._at, end)
        self._at = end
        if end == size:
            self._level += 1
            self._at = 0
        return taken


class TaskBlocks:
    """The blocks of one task.

    Attributes
    ----------
    state
        One byte per block, in C order; 0 for a block that nothing is known of. Pages are touched only as work
        gets there.
    counts
        How many are in which state.
    needs, feeds
        What blocks wait for in upstream tasks, and what waits for these blocks in downstream tasks.
    is_open
        Whether the end of the grid may still move.
    cancelled
        Whether nothing more is to be handed out.
    is_patchy
        Whether some blocks were done before the start. They waited for nothing, so the chain from level to level is
        broken there, and a block must look at every block that overlaps it.
    attempts
        How often blocks failed; only of those that did.
    """

    def __init__(self, task: Task, grid: BlockGrid, *, is_open: bool = False) -> None:
        self.task = task
        self.grid = grid
        self.levels = Levels(grid, conflict=task.read_write_conflict)
        self.is_open = is_open
        self.cancelled = False
        self.state = np.zeros(grid.num_blocks, np.uint8)
        self.counts = TaskState(total_block_count=grid.num_blocks)
        self.needs: list[Need] = []
        self.feeds: list[Need] = []
        self.attempts: dict[int, int] = {}
        most = 2**63 if is_open else grid.num_blocks
        self.returned, self.ready, self.retries = IndexQueue(most), IndexQueue(most), IndexQueue(most)
        self.suspects: deque[Ints] = deque()
        """Parts of leases that took their machine with them; each is handed out by itself."""
        self.cursor: Cursor | None = None
        self.cursor_counted = False
        self.started = False
        self.is_patchy = False

    def start(self) -> None:
        """Set the cursor on the blocks that no completion will ever announce."""
        self.started = True
        self.is_patchy = self.counts.completed_count > 0
        fresh = not any(counts.completed_count for counts in (self.counts, *(n.upstream.counts for n in self.needs)))
        if self.counts.is_done() or (fresh and self.needs and not any(need.has_unmet_roots() for need in self.needs)):
            self.cursor = None
        elif (fresh or self.levels.num_levels == 1) and not self.needs:
            self.cursor = Cursor(self.levels, 0)
            self.cursor_counted = True
            self.counts.ready_count = self.levels.size(0) - self.counts.completed_count
        else:
            self.rescan()

    def rescan(self) -> None:
        """Look at every block again: some may be ready that nothing announces."""
        self.cursor = Cursor(self.levels, self.levels.num_levels)
        self.cursor_counted = False

    def skip(self, begin: int, flags: NDArray[np.bool_]) -> None:
        """Note, before the start, which blocks from ``begin`` on were done by an earlier run or are not to be done."""
        state = self.state[begin : begin + len(flags)]
        found = flags & (state == 0)
        state[found] = DONE
        count = int(np.count_nonzero(found))
        self.counts.completed_count += count
        self.counts.skipped_count += count

    def grow(self, grid: BlockGrid) -> None:
        """Replace the grid by one that is longer along the first axis."""
        old, new = self.grid.num_blocks, grid.num_blocks
        self.grid = grid
        self.levels = Levels(grid, conflict=self.task.read_write_conflict)
        for need in (*self.needs, *self.feeds):
            need.relink()
        if new > len(self.state):
            state = np.zeros(max(new, 2 * len(self.state)), np.uint8)
            state[: len(self.state)] = self.state
            self.state = state
        self.counts.total_block_count = new
        fresh = np.arange(old, new)
        self.claim(fresh[self.satisfied(fresh)])

    def claim(self, indices: Ints) -> None:
        """Make blocks ready."""
        self.state[indices] = CLAIMED
        self.ready.push(indices)
        self.counts.ready_count += len(indices)

    def satisfied(self, indices: Ints) -> NDArray[np.bool_]:
        """Whether all that each of these blocks waits for is done."""
        met = self._level_satisfied(indices)
        for need in self.needs:
            if not met.any():
                break
            met[met] = need.satisfied(indices[met])
        return met

    def _level_satisfied(self, indices: Ints) -> NDArray[np.bool_]:
        met = np.ones(len(indices), bool)
        if self.levels.num_levels <= 1:
            return met
        for level, here, places in self.by_level(indices):
            own, own_met = indices[here], np.ones(len(places[0]), bool)
            for moved, inside in self._moved(own, places, self._upstream(level)):
                done = (self.state[moved] & DONE).view(bool)
                if inside is None:
                    own_met &= done
                else:
                    own_met[inside] &= done
            met[here] = own_met
        return met

    def by_level(self, indices: Ints) -> Iterator[tuple[int, slice | Ints, list[Ints]]]:
        """Yield, for each level among ``indices``, the level, where its blocks are, and their positions per axis."""
        places = self.grid.coordinates(indices)
        levels = self.levels.level_of(places)
        first = int(levels[0]) if len(levels) else 0
        if (levels == first).all():
            yield first, slice(None), places
            return
        for level in np.unique(levels).tolist():
            here = np.flatnonzero(levels == level)
            yield level, here, [place[here] for place in places]

    def waiting(self, indices: Ints) -> Iterator[Ints]:
        """Yield the blocks of this task that wait for ``indices``, in parts without a double."""
        if self.levels.num_levels <= 1:
            return
        for level, here, places in self.by_level(indices):
            for moved, _ in self._moved(indices[here], places, self._downstream(level)):
                yield moved

    def _upstream(self, level: int) -> Neighbours:
        """Where the blocks lie that one of ``level`` waits for: boxes of offsets, per axis."""
        if self.is_patchy:
            return self.levels.overlapping(level, earlier=True)
        return [self.levels.upstream_axes(level)] if level else []

    def _downstream(self, level: int) -> Neighbours:
        if self.is_patchy:
            return self.levels.overlapping(level, earlier=False)
        axes = self.levels.downstream_axes(level)
        return [axes] if axes else []

    def _moved(
        self, indices: Ints, places: list[Ints], neighbours: Neighbours
    ) -> Iterator[tuple[Ints, NDArray[np.bool_] | None]]:
        for axes in neighbours:
            yield from shifted(self.grid, indices, places, axes)
