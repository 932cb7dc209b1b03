"""The scheduler: a state machine without I/O, clock or threads. Completions in, blocks to run out.

It works on arrays of block indices; what it keeps is one byte per block and queues of those that are ready.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bellis.errors import TaskError
from bellis.geometry import Roi
from bellis.planning.dependencies import DependencyGraph
from bellis.planning.grid import BlockGrid
from bellis.planning.skip import skipped_blocks
from bellis.runtime.lease import Outcome
from bellis.runtime.readiness import Need
from bellis.runtime.state import CLAIMED, DONE, FAILED, ORPHANED, RUNNING, Accepted, TaskBlocks, TaskState
from bellis.tasks.block import Block, BlockStatus
from bellis.tasks.pipeline import Pipeline

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from bellis.planning.grid import Ints
    from bellis.tasks.task import Task

_NONE = np.empty(0, np.int64)
_CHUNK = 65536


class Scheduler:
    """Decides which blocks may run.

    Roots come first, in C order, level by level; then blocks in the order in which they became ready; retries come
    last. Tasks that others read from come after those that read from them.

    Parameters
    ----------
    tasks
        Tasks or a pipeline; upstream tasks are taken in.
    count_all_orphans
        Accepted as daisy's scheduler does; orphans are always counted, each once.
    """

    def __init__(self, tasks: Iterable[Task] | Pipeline, count_all_orphans: bool = True) -> None:
        del count_all_orphans
        self._pipeline = Pipeline([])
        self._graph: DependencyGraph | None = None
        self._tasks: dict[str, TaskBlocks] = {}
        self._states: dict[str, TaskState] = {}
        pipeline = Pipeline.of(tasks)
        for task in pipeline.tasks:
            self._place(task, pipeline, is_open=False)
        self._pipeline = pipeline

    @property
    def task_states(self) -> dict[str, TaskState]:
        """For each task id the counts, updated in place."""
        self.start()
        return self._states

    def add(self, task: Task, *, is_open: bool = False) -> None:
        """Add a task to a run; its upstream tasks must be there.

        Parameters
        ----------
        task
            The task; its ``total_roi`` is what is there so far if it is open.
        is_open
            Whether its region may still grow along the first axis: see `extend` and `close`.
        """
        if task.task_id in self._tasks:
            raise TaskError(f"a task named {task.task_id!r} is there already")
        pipeline = Pipeline([*self._pipeline.tasks, task], self._pipeline.edges)
        missing = [up.task_id for up in pipeline.tasks if up is not task and up.task_id not in self._tasks]
        if missing:
            raise TaskError(f"task {task.task_id!r} needs {', '.join(map(repr, missing))}: add them first")
        if is_open and task.read_write_conflict:
            raise TaskError(f"task {task.task_id!r} can't be open and have read_write_conflict: pass False")
        self._place(task, pipeline, is_open=is_open)
        self._pipeline, self._graph = pipeline, None
        self.start(task.task_id)
        self._inherit(self._tasks[task.task_id])

    def _place(self, task: Task, pipeline: Pipeline, *, is_open: bool) -> None:
        grid = _open_grid(task, task.total_roi) if is_open else BlockGrid.of(task)
        blocks = TaskBlocks(task, grid, is_open=is_open)
        for begin, flags in skipped_blocks(task, grid):
            blocks.skip(begin, flags)
        for upstream in pipeline.upstream(task):
            need = Need(self._tasks[upstream.task_id], blocks)
            blocks.needs.append(need)
            self._tasks[upstream.task_id].feeds.append(need)
        self._tasks[task.task_id] = blocks
        self._states[task.task_id] = blocks.counts

    def start(self, task_id: str | None = None) -> None:
        """Look for the first blocks; called by itself when blocks are first asked for."""
        for blocks in [self._blocks(task_id)] if task_id else self._tasks.values():
            if not blocks.started:
                blocks.start()

    def mark_done(self, task_id: str, begin: int, flags: NDArray[np.bool_]) -> None:
        """Note which blocks from ``begin`` on an earlier run completed; only before anything was acquired."""
        blocks = self._blocks(task_id)
        if blocks.started:
            raise TaskError(f"task {task_id!r} has started: blocks can't be marked as done any more")
        blocks.skip(begin, flags)

    # What may run ------------------------------------------------------------------------------------------------

    def get_ready_tasks(self) -> list[Task]:
        """Return the tasks that have a block to run: highest priority first, then downstream before upstream."""
        self.start()
        order = [*self._tasks.values()][::-1]
        order.sort(key=lambda blocks: -blocks.task.priority)
        return [blocks.task for blocks in order if self._has_ready(blocks)]

    def acquire(self, task_id: str, limit: int = 1) -> Ints:
        """Hand out at most ``limit`` blocks that may run at the same time; a retry comes alone, suspects by themselves.

        Returns
        -------
        Ints
            Linear block indices, int64; empty if none is ready.
        """
        self.start()
        blocks = self._blocks(task_id)
        if blocks.cancelled or limit < 1:
            return _NONE
        parts = [blocks.returned.pop(limit)]
        wanted = limit - len(parts[0])
        while wanted and blocks.cursor is not None:
            found = self._advance(blocks, wanted)
            parts.append(found[:wanted])
            self._keep(blocks, found[wanted:])
            wanted -= len(parts[-1])
        if wanted:
            parts.append(blocks.ready.pop(wanted))
        indices = np.concatenate(parts)
        if not len(indices) and blocks.suspects:
            part = blocks.suspects.popleft()
            indices = part[:limit]
            if len(part) > limit:
                blocks.suspects.appendleft(part[limit:])
        if not len(indices):
            indices = blocks.retries.pop(1)
        blocks.state[indices] = RUNNING | CLAIMED
        blocks.counts.ready_count -= len(indices)
        blocks.counts.processing_count += len(indices)
        return indices

    def _has_ready(self, blocks: TaskBlocks) -> bool:
        if blocks.cancelled:
            return False
        if blocks.returned or blocks.ready or blocks.suspects or blocks.retries:
            return True
        while blocks.cursor is not None:
            found = self._advance(blocks, 1)
            if len(found):
                self._keep(blocks, found)
                return True
        return False

    @staticmethod
    def _keep(blocks: TaskBlocks, found: Ints) -> None:
        """Keep, in front of all others, ready blocks that the cursor came upon."""
        blocks.state[found] = CLAIMED
        blocks.returned.push(found)

    @staticmethod
    def _advance(blocks: TaskBlocks, limit: int) -> Ints:
        """Return the ready blocks of a stretch of the cursor's way, of ``limit`` blocks or more, counted as ready."""
        cursor = blocks.cursor
        if cursor is None:
            return _NONE
        known = blocks.cursor_counted
        found: Ints = cursor.take(limit if known else max(limit, _CHUNK))
        if cursor.exhausted:
            blocks.cursor = None
        found = found[blocks.state[found] == 0]
        if known:
            return found
        found = found[blocks.satisfied(found)]
        blocks.counts.ready_count += len(found)
        return found

    # What became of it -------------------------------------------------------------------------------------------

    def release(self, task_id: str, indices: Ints, outcomes: NDArray[np.uint8] | None = None) -> Accepted:
        """Take blocks back.

        Parameters
        ----------
        task_id
            Task of the blocks.
        indices
            Blocks; those that are not running are ignored: a late answer changes nothing.
        outcomes
            One `Outcome` per block; None: all succeeded.
        """
        blocks = self._blocks(task_id)
        indices, outcomes = self._running(blocks, np.asarray(indices, np.int64), outcomes)
        accepted = Accepted(tasks={task_id})
        blocks.counts.processing_count -= len(indices)
        if outcomes is None:
            accepted.done = indices
        else:
            accepted.done = indices[(outcomes == Outcome.SUCCESS) | (outcomes == Outcome.SKIPPED)]
            blocks.counts.skipped_count += int(np.count_nonzero(outcomes == Outcome.SKIPPED))
            self._give_back(blocks, indices[outcomes == Outcome.LOST])
            self._give_back(blocks, indices[outcomes == Outcome.SUSPECT], suspect=True)
            for index in indices[outcomes == Outcome.FAILED].tolist():
                self._fail(blocks, index, accepted)
        blocks.state[accepted.done] = DONE
        blocks.counts.completed_count += len(accepted.done)
        self._announce(blocks, accepted)
        if accepted.failed:
            self._orphan(blocks, np.array(accepted.failed, np.int64), accepted)
        return accepted

    @staticmethod
    def _running(
        blocks: TaskBlocks, indices: Ints, outcomes: NDArray[np.uint8] | None
    ) -> tuple[Ints, NDArray[np.uint8] | None]:
        """Leave out what is not running, and what is said twice."""
        if (np.diff(indices) <= 0).any():
            indices, first = np.unique(indices, return_index=True)
            outcomes = None if outcomes is None else outcomes[first]
        valid = (indices >= 0) & (indices < blocks.grid.num_blocks)
        valid[valid] = blocks.state[indices[valid]] == RUNNING | CLAIMED
        if valid.all():
            return indices, outcomes
        return indices[valid], None if outcomes is None else outcomes[valid]

    @staticmethod
    def _give_back(blocks: TaskBlocks, lost: Ints, *, suspect: bool = False) -> None:
        if blocks.cancelled:
            blocks.state[lost] = ORPHANED
            blocks.counts.orphaned_count += len(lost)
            return
        blocks.state[lost] = CLAIMED
        if suspect:
            blocks.suspects.extend(part for part in np.array_split(lost, 2) if len(part))
        else:
            blocks.returned.push(lost)
        blocks.counts.ready_count += len(lost)

    @staticmethod
    def _fail(blocks: TaskBlocks, index: int, accepted: Accepted) -> None:
        attempts = blocks.attempts.get(index, 0) + 1
        blocks.attempts[index] = attempts
        if attempts <= blocks.task.max_retries and not blocks.cancelled:
            blocks.state[index] = CLAIMED
            blocks.retries.push(np.array([index], np.int64))
            blocks.counts.ready_count += 1
            accepted.retried.append(index)
        else:
            blocks.state[index] = FAILED
            blocks.counts.failed_count += 1
            accepted.failed.append(index)

    def _announce(self, blocks: TaskBlocks, accepted: Accepted) -> None:
        """Make ready whatever waited for nothing but the blocks that are done now."""
        done = accepted.done
        if not len(done):
            return
        self._make_ready(blocks, blocks.waiting(done))
        for need in blocks.feeds:
            if self._make_ready(need.downstream, need.note(done)):
                accepted.tasks.add(need.downstream.task.task_id)

    @staticmethod
    def _make_ready(blocks: TaskBlocks, parts: Iterable[Ints]) -> int:
        fresh = []
        for part in parts:
            unseen = np.unique(part[blocks.state[part] == 0])
            blocks.state[unseen] = CLAIMED  # so that the next part does not bring it again
            fresh.append(unseen)
        if not fresh:
            return 0
        candidates = np.concatenate(fresh)
        if blocks.cancelled:
            blocks.state[candidates] = 0
            return 0
        met = blocks.satisfied(candidates)
        blocks.state[candidates[~met]] = 0
        ready = candidates[met]
        ready.sort()
        blocks.claim(ready)
        return len(ready)

    def _orphan(self, blocks: TaskBlocks, failed: Ints, accepted: Accepted) -> None:
        """Mark all that waits, directly or not, for failed blocks; each block once."""
        front = [(blocks, failed)]
        while front:
            blocks, indices = front.pop()
            reached = [(blocks, part) for part in blocks.waiting(indices)]
            reached += [(need.downstream, part) for need in blocks.feeds for part in need.readers(indices)]
            for owner, part in reached:
                orphans = np.unique(part[owner.state[part] == 0])
                if not len(orphans):
                    continue
                owner.state[orphans] = ORPHANED
                if not owner.cancelled:
                    owner.counts.orphaned_count += len(orphans)
                accepted.tasks.add(owner.task.task_id)
                front.append((owner, orphans))

    # Tasks that grow or end early ------------------------------------------------------------------------------------

    def extend(self, task_id: str, end: int) -> None:
        """Move the end of an open task's region along the first axis to ``end``, world units; never back."""
        blocks = self._blocks(task_id)
        if not blocks.is_open:
            raise TaskError(f"task {task_id!r} is closed: its region can't grow to {end}")
        roi = blocks.grid.total_roi
        if end > roi.end[0]:
            grown = Roi(roi.offset, (end - roi.offset[0], *roi.shape[1:]))
            self.start()
            blocks.grow(_open_grid(blocks.task, grown))
            self._inherit(blocks)

    def close(self, task_id: str) -> None:
        """Say that an open task will not grow any more; ``fit`` decides about a last partial block."""
        blocks = self._blocks(task_id)
        if not blocks.is_open:
            return
        blocks.is_open = False
        task = blocks.task
        self.start()
        blocks.grow(BlockGrid(blocks.grid.total_roi, task.read_roi, task.write_roi, task.fit, task_id))
        self._inherit(blocks)
        for need in blocks.feeds:
            if not need.downstream.cancelled:
                need.downstream.rescan()

    def _inherit(self, blocks: TaskBlocks) -> None:
        """Orphan the blocks of a task that came after what they need had failed."""
        for need in blocks.needs:
            counts = need.upstream.counts
            if counts.failed_count + counts.orphaned_count:
                lost = np.flatnonzero(need.upstream.state & (FAILED | ORPHANED))
                self._orphan(need.upstream, lost, Accepted())

    def cancel(self, task_id: str) -> None:
        """Hand out no further block of a task, nor of those that wait for it; what runs may finish."""
        blocks = self._blocks(task_id)
        if blocks.cancelled:
            return
        self.start()
        blocks.cancelled = True
        blocks.is_open = False
        blocks.cursor = None
        counts = blocks.counts
        for index in blocks.attempts:  # they failed, and will not be tried again
            if blocks.state[index] == CLAIMED:
                blocks.state[index] = FAILED
                counts.failed_count += 1
                counts.ready_count -= 1
        counts.orphaned_count += counts.pending_count + counts.ready_count
        counts.ready_count = 0
        for need in blocks.feeds:
            self.cancel(need.downstream.task.task_id)

    def is_cancelled(self, task_id: str) -> bool:
        """Whether a task was cancelled."""
        return self._blocks(task_id).cancelled

    def is_done(self) -> bool:
        """Whether every block of every task is completed, failed or orphaned, and no task is open."""
        return all(blocks.counts.is_done() and not blocks.is_open for blocks in self._tasks.values())

    # One block at a time, as daisy does --------------------------------------------------------------------------

    @property
    def dependency_graph(self) -> DependencyGraph:
        """The order of all blocks, for looking at."""
        if self._graph is None:
            self._graph = DependencyGraph(self._pipeline)
        return self._graph

    def acquire_block(self, task_id: str) -> Block | None:
        """Hand out one block; None if none is ready."""
        indices = self.acquire(task_id, 1)
        if not len(indices):
            return None
        block = self._blocks(task_id).grid.block(int(indices[0]))
        block.status = BlockStatus.PROCESSING
        return block

    def release_block(self, block: Block) -> dict[str, TaskState]:
        """Take one block back, with its ``status``; return the states of the tasks that it changed."""
        blocks = self._blocks(str(block.task_id))
        index = block.index if block.index is not None else blocks.grid.index_of(block.block_id[1])
        outcome = Outcome.SUCCESS if block.status is BlockStatus.SUCCESS else Outcome.FAILED
        accepted = self.release(blocks.task.task_id, np.array([index]), np.array([outcome], np.uint8))
        return {task_id: self.task_states[task_id] for task_id in accepted.tasks}

    def attempts(self, task_id: str, index: int) -> int:
        """Return how often a block failed."""
        return self._blocks(task_id).attempts.get(index, 0)

    def has_failed(self, task_id: str, index: int) -> bool:
        """Whether a block failed for the last time."""
        return bool(self._blocks(task_id).state[index] & FAILED)

    def done(self, task_id: str) -> NDArray[np.bool_]:
        """Return, for every block of a task, whether it is completed."""
        blocks = self._blocks(task_id)
        return (blocks.state[: blocks.grid.num_blocks] & DONE).view(bool)

    def grid(self, task_id: str) -> BlockGrid:
        """Return the grid of a task as it is now."""
        return self._blocks(task_id).grid

    def _blocks(self, task_id: str) -> TaskBlocks:
        blocks = self._tasks.get(task_id)
        if blocks is None:
            raise TaskError(f"no task is named {task_id!r}; there are {', '.join(map(repr, self._tasks)) or 'none'}")
        return blocks


def _open_grid(task: Task, total_roi: Roi) -> BlockGrid:
    """Make the grid of a task that may still grow: only whole blocks."""
    return BlockGrid(total_roi, task.read_roi, task.write_roi, "valid", task.task_id)
