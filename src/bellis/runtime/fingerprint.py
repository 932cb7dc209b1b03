"""What a journal is bound to, and which finished blocks outlive a change of the region."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from bellis.geometry import Roi
from bellis.planning.grid import BlockGrid

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from bellis.tasks.task import Fit, Task


class Fingerprint(msgspec.Struct, frozen=True, kw_only=True):
    """The blocks and the version that a journal was written for."""

    task_id: str
    version: str
    total_offset: tuple[int, ...]
    total_shape: tuple[int, ...]
    write_shape: tuple[int, ...]
    context_begin: tuple[int, ...]
    context_end: tuple[int, ...]
    fit: str
    results: bool
    code: str
    identity: str = ""
    upstream: tuple[str, ...] = ()
    """Tasks that it waits for; not compared, but what starts afresh takes along what waits for it."""

    @classmethod
    def of(cls, task: Task, grid: BlockGrid, code: str, upstream: Sequence[Task] = ()) -> Fingerprint:
        """Take the fingerprint of a task that waits for ``upstream``."""
        return cls(
            task_id=task.task_id,
            version=str(task.version),
            total_offset=tuple(grid.total_roi.offset),
            total_shape=tuple(grid.total_roi.shape),
            write_shape=tuple(grid.write_shape),
            context_begin=tuple(grid.context_begin),
            context_end=tuple(grid.context_end),
            fit=grid.fit,
            results=task.results,
            code=code,
            identity=task.identity,
            upstream=tuple(other.task_id for other in upstream),
        )

    def grid(self) -> BlockGrid:
        """Return the grid that the journal was written for."""
        begin = tuple(o + c for o, c in zip(self.total_offset, self.context_begin, strict=True))
        write = Roi(begin, self.write_shape)
        fit: Fit = self.fit  # type: ignore[assignment]  # BlockGrid checks it
        return BlockGrid(
            Roi(self.total_offset, self.total_shape),
            write.grow(self.context_begin, self.context_end),
            write,
            fit,
            self.task_id,
        )

    def differences(self, now: Fingerprint) -> list[str]:
        """Say what differs so that finished blocks mean something else now; ``code`` and the total region aside."""
        named: dict[str, Any] = {
            "version": "version",
            "identity": "what it reads and writes",
            "write_shape": "the shape of write_roi",
            "context_begin": "the context before write_roi",
            "context_end": "the context after write_roi",
            "fit": "fit",
            "results": "results=",
        }
        found = [
            f"{name} was {getattr(self, key)!r} and is {getattr(now, key)!r}"
            for key, name in named.items()
            if getattr(self, key) != getattr(now, key)
        ]
        if not found and not self._is_aligned(now):
            found.append(
                f"the grid began at {self.total_offset} and begins at {now.total_offset}, which is not a whole "
                f"number of blocks of {self.write_shape} away"
            )
        return found

    def _is_aligned(self, now: Fingerprint) -> bool:
        axes = zip(self.total_offset, now.total_offset, self.write_shape, strict=True)
        return all((a - b) % step == 0 for a, b, step in axes)


def kept_blocks(
    old: BlockGrid, runs: Iterator[tuple[int, NDArray[np.bool_]]], new: BlockGrid
) -> Iterator[NDArray[np.int64]]:
    """Yield the indices in ``new`` of blocks that were done in ``old`` and are the same blocks, region for region."""
    for begin, flags in runs:
        done = begin + np.flatnonzero(flags)
        if not len(done) or not new.num_blocks:
            continue
        boxes = old.write_boxes(done)
        shift = (boxes[:, 0] - np.array(new.total_write_roi.begin)) // np.array(new.write_shape)
        inside = ((shift >= 0) & (shift < np.array(new.counts))).all(axis=1)
        done, boxes = done[inside], boxes[inside]
        indices = new.indices(list(shift[inside].T))
        same = (new.write_boxes(indices) == boxes).all(axis=(1, 2))
        same &= (new.read_boxes(indices) == old.read_boxes(done)).all(axis=(1, 2))
        yield indices[same]
