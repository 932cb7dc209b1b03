"""A brute-force oracle for grids, levels, dependencies and runs, from the specification alone.

Everything is enumerated in plain Python ints: slow, small, and meant to be right at a glance.
It imports nothing of bellis.planning or bellis.runtime; of a task it reads only the fields.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from math import comb, prod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from bellis.geometry import Roi
    from bellis.tasks import Task

Region = tuple[tuple[int, int], ...]
"""Begin and end per axis."""
Key = tuple[str, int]
"""Task id and linear block index."""


def region(roi: Roi) -> Region:
    return tuple(zip(tuple(roi.begin), tuple(roi.end), strict=True))


def overlap(a: Region, b: Region) -> bool:
    return all(
        max(begin_a, begin_b) < min(end_a, end_b) for (begin_a, end_a), (begin_b, end_b) in zip(a, b, strict=True)
    )


def volume(a: Region) -> int:
    return prod(max(end - begin, 0) for begin, end in a)


def clip(a: Region, b: Region) -> Region:
    return tuple(
        (max(begin_a, begin_b), min(end_a, end_b)) for (begin_a, end_a), (begin_b, end_b) in zip(a, b, strict=True)
    )


def cantor(coordinate: Sequence[int]) -> int:
    """How many coordinates have a smaller sum, plus the number of all but the last axis."""
    if len(coordinate) == 1:
        return coordinate[0]
    dims = len(coordinate)
    return comb(sum(coordinate) + dims - 1, dims) + cantor(coordinate[:-1])


@dataclass(frozen=True, slots=True)
class OracleBlock:
    task_id: str
    position: tuple[int, ...]
    index: int
    number: int
    read: Region
    write: Region
    level: int

    @property
    def key(self) -> Key:
        return self.task_id, self.index


class OracleGrid:
    """All blocks of one task, with their levels and what each waits for inside the task."""

    def __init__(
        self,
        total: Region,
        read: Region,
        write: Region,
        fit: str,
        *,
        conflict: bool = True,
        task_id: str = "",
    ) -> None:
        self.fit = fit
        self.write_shape = tuple(end - begin for begin, end in write)
        self.before = tuple(w[0] - r[0] for r, w in zip(read, write, strict=True))
        self.after = tuple(r[1] - w[1] for r, w in zip(read, write, strict=True))
        self.total = total
        self.total_write: Region = tuple(
            (begin + c0, end - c1) for (begin, end), c0, c1 in zip(total, self.before, self.after, strict=True)
        )
        self.counts = tuple(self._count(axis) for axis in range(len(total)))
        self.stride = tuple(
            min(-(-(max(c0, c1) + w) // w) * w, count * w) if conflict else min(w, count * w)
            for c0, c1, w, count in zip(self.before, self.after, self.write_shape, self.counts, strict=True)
        )
        steps = [range(0, s, w) for s, w in zip(self.stride, self.write_shape, strict=True)]
        self.levels = list(reversed(list(product(*steps))))
        positions = list(product(*map(range, self.counts)))
        self.blocks = [self._block(task_id, i, position) for i, position in enumerate(positions)]
        self.at = {block.position: block for block in self.blocks}

    def _count(self, axis: int) -> int:
        begin, end = self.total_write[axis]
        step = self.write_shape[axis]
        count = 0
        while begin + step <= end if self.fit == "valid" else begin < end:
            begin += step
            count += 1
        return count

    def _block(self, task_id: str, index: int, position: tuple[int, ...]) -> OracleBlock:
        offset = tuple(k * w for k, w in zip(position, self.write_shape, strict=True))
        write: Region = tuple(
            (total[0] + o, total[0] + o + w)
            for total, o, w in zip(self.total_write, offset, self.write_shape, strict=True)
        )
        place = [
            (w[0] - total[0]) // shape for w, total, shape in zip(write, self.total, self.write_shape, strict=True)
        ]
        if self.fit == "shrink":
            write = clip(write, self.total_write)
        read: Region = tuple((w[0] - c0, w[1] + c1) for w, c0, c1 in zip(write, self.before, self.after, strict=True))
        level_offset = tuple(o % s for o, s in zip(offset, self.stride, strict=True))
        level = self.levels.index(level_offset)
        return OracleBlock(task_id, position, index, cantor(place), read, write, level)

    def waits_for(self, block: OracleBlock) -> list[OracleBlock]:
        """The neighbours of the previous level."""
        if block.level == 0:
            return []
        options = []
        for previous, current, stride in zip(
            self.levels[block.level - 1], self.levels[block.level], self.stride, strict=True
        ):
            op = previous - current
            options.append([op] if op == 0 else [op, op + stride] if op < 0 else [op - stride, op])
        positions = [
            tuple(k + o // w for k, o, w in zip(block.position, offset, self.write_shape, strict=True))
            for offset in product(*options)
        ]
        return [self.at[position] for position in positions if position in self.at]

    def overlapping_before(self, block: OracleBlock) -> list[OracleBlock]:
        """All blocks of earlier levels that must not run at the same time."""
        return [
            other
            for other in self.blocks
            if other.level < block.level and (overlap(other.read, block.write) or overlap(other.write, block.read))
        ]

    def writing(self, where: Region) -> list[OracleBlock]:
        return [block for block in self.blocks if overlap(block.write, where)]

    def reading(self, where: Region) -> list[OracleBlock]:
        return [block for block in self.blocks if overlap(block.read, where)]


def grid_of(task: Task) -> OracleGrid:
    return OracleGrid(
        region(task.total_roi),
        region(task.read_roi),
        region(task.write_roi),
        task.fit,
        conflict=task.read_write_conflict,
        task_id=task.task_id,
    )


class Oracle:
    """All blocks of a pipeline, what each needs and which need it, in tasks and between them."""

    def __init__(self, tasks: Iterable[Task], already_done: Mapping[str, Iterable[int]] | None = None) -> None:
        already_done = already_done or {}
        self.tasks: dict[str, Task] = {}
        waiting = list(tasks)
        while waiting:
            task = waiting.pop()
            if task.task_id not in self.tasks:
                self.tasks[task.task_id] = task
                waiting += task.requires()
        self.grids = {task_id: grid_of(task) for task_id, task in self.tasks.items()}
        self.blocks: dict[Key, OracleBlock] = {}
        self.needs: dict[Key, set[Key]] = {}
        self.skipped: set[Key] = set()
        for task_id, task in self.tasks.items():
            own = self.grids[task_id]
            done = {block.key for block in own.blocks if is_skipped(task.skip_mask, block)}
            done |= {(task_id, index) for index in already_done.get(task_id, ())}
            self.skipped |= done
            # A block that is left out waits for nothing: overlapping ones are awaited directly.
            waits_for = own.overlapping_before if done else own.waits_for
            for block in own.blocks:
                self.blocks[block.key] = block
                self.needs[block.key] = {need.key for need in waits_for(block)}
                for upstream in task.requires():
                    grid = self.grids[upstream.task_id]
                    self.needs[block.key] |= {need.key for need in grid.writing(block.read)}
        self.needed_by: dict[Key, set[Key]] = {key: set() for key in self.blocks}
        for key, needs in self.needs.items():
            for need in needs:
                self.needed_by[need].add(key)

    def conflict(self, a: Key, b: Key) -> bool:
        """Whether two blocks must never run at the same time."""
        one, two = self.blocks[a], self.blocks[b]
        if a == b or one.task_id != two.task_id or not self.tasks[one.task_id].read_write_conflict:
            return False
        return overlap(one.read, two.write) or overlap(two.read, one.write)

    def is_upstream(self, task_id: str, of: str) -> bool:
        """Whether ``task_id`` is an ancestor of ``of``."""
        return any(up.task_id == task_id or self.is_upstream(task_id, up.task_id) for up in self.tasks[of].requires())

    def dependents(self, keys: Iterable[Key], *, done: Iterable[Key] = ()) -> set[Key]:
        """Transitive closure of who needs ``keys``; what is done needs nothing any more."""
        found: set[Key] = set()
        stop = set(done)
        waiting = list(keys)
        while waiting:
            for key in self.needed_by[waiting.pop()] - found - stop:
                found.add(key)
                waiting.append(key)
        return found


def is_skipped(mask: Any, block: OracleBlock) -> bool:
    if mask is None:
        return False
    if not callable(mask):
        return bool(mask[block.position])
    import numpy as np

    box = np.array([[[b for b, _ in block.write], [e for _, e in block.write]]], dtype=np.int64)
    return bool(mask(box)[0])


STATUSES = ("pending", "ready", "processing", "completed", "failed", "orphaned")


class Model:
    """What every block's status must be after each event of a run."""

    def __init__(self, oracle: Oracle) -> None:
        self.oracle = oracle
        self.status = dict.fromkeys(oracle.blocks, "pending")
        self.counts = {
            task_id: dict.fromkeys(STATUSES, 0) | {"pending": len(grid.blocks)}
            for task_id, grid in oracle.grids.items()
        }
        self.skipped: set[Key] = set(oracle.skipped)
        self.attempts = dict.fromkeys(oracle.blocks, 0)
        self.released: set[Key] = set()
        self.failed_last: set[Key] = set()
        self.ready_since: dict[Key, int] = {}
        self.event = 0
        for key in oracle.skipped:
            self._set(key, "completed")
        self._look(oracle.blocks)

    def _set(self, key: Key, status: str) -> None:
        self.counts[key[0]][self.status[key]] -= 1
        self.counts[key[0]][status] += 1
        self.status[key] = status

    def _look(self, candidates: Iterable[Key]) -> None:
        """Make those pending blocks ready whose needs are all done."""
        for key in candidates:
            if self.status[key] == "pending" and all(
                self.status[need] == "completed" for need in self.oracle.needs[key]
            ):
                self._set(key, "ready")
                self.ready_since[key] = self.event

    def having(self, task_id: str, status: str) -> list[Key]:
        keys = [block.key for block in self.oracle.grids[task_id].blocks]
        return [key for key in keys if self.status[key] == status]

    def lease(self, key: Key) -> None:
        assert self.status[key] == "ready", f"{key} is {self.status[key]}, but was handed out"
        self._set(key, "processing")

    def finish(self, key: Key, outcome: str) -> None:
        """Take one block back; ``outcome`` is SUCCESS, SKIPPED, FAILED, LOST or SUSPECT."""
        assert self.status[key] == "processing"
        self.released.add(key)
        self.failed_last.discard(key)
        if outcome in {"LOST", "SUSPECT"}:
            self._set(key, "ready")
        elif outcome == "FAILED":
            self.attempts[key] += 1
            if self.attempts[key] <= self.oracle.tasks[key[0]].max_retries:
                self.failed_last.add(key)
                self._set(key, "ready")
            else:
                self._set(key, "failed")
                for orphan in self.orphans_of([key]):
                    if self.status[orphan] != "orphaned":
                        self._set(orphan, "orphaned")
        else:
            if outcome == "SKIPPED":
                self.skipped.add(key)
            self._set(key, "completed")
            self._look(sorted(self.oracle.needed_by[key]))

    def orphans_of(self, failed: Iterable[Key]) -> set[Key]:
        done = [key for key, status in self.status.items() if status == "completed"]
        return self.oracle.dependents(failed, done=done)
