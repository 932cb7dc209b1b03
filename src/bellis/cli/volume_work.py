"""What ``bellis volume`` does to a cache, and tells of it."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bellis.geometry import Roi
    from bellis.runtime.events import AnyEvent, Observer
    from bellis.runtime.report import RunReport
    from bellis.tasks import Task
    from bellis.volumes import CachedVolume
    from bellis.volumes.blocks import Index

_REASON = re.compile(r"^  block \(([\d, ]+)\): (.*)$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What was found when blocks were read."""

    num_read: int
    """Blocks that were read."""
    damaged: Mapping[Index, str]
    """Those that are not what was written, and what is wrong."""
    num_absent: int
    """Blocks that are not there."""
    errors: tuple[str, ...] = ()
    """Why some could not be read at all."""
    is_interrupted: bool = False
    """Whether the user ended it."""
    num_mended: int = 0
    """Damaged blocks that were fetched again."""
    has_left: bool = False
    """Whether there were leftovers of killed processes, which are removed now."""

    @property
    def is_sound(self) -> bool:
        """Whether all blocks are there, and as they were written."""
        return not (self.damaged or self.num_absent or self.errors or self.is_interrupted)

    @classmethod
    def of(cls, report: RunReport, task: Task) -> Verified:
        """Gather what a run of `verification` found."""
        results = report.results(task.task_id).values()
        return cls(
            num_read=sum(each["num_read"] for each in results),
            damaged={tuple(index): reason for each in results for index, reason in each["damaged"]},
            num_absent=task.skip_mask.num_absent(),
            errors=tuple(errors_of(report)),
            is_interrupted=report.interrupted,
        )


def mend(volume: CachedVolume, found: Verified) -> Verified:
    """Put damaged blocks aside, fetch them again, and remove what killed processes have left."""
    for index in found.damaged:
        reason = volume.verify_block(index)
        if reason is not None:  # and nobody else has mended it meanwhile
            volume.cache.quarantine(index, reason)
    failed = dict(volume.fetch_blocks(found.damaged)) if found.damaged else {}
    has_left = volume.purge_all_locks()
    return replace(
        found,
        damaged=failed,
        num_mended=len(found.damaged) - len(failed),
        has_left=has_left,
    )


def dropped(volume: CachedVolume, *, max_bytes: int | None, region: Roi | None) -> tuple[int, int]:
    """Drop blocks: of a region, or what was not read for the longest time, or all.

    Returns
    -------
    num_blocks, num_bytes
        What is not there any more.
    """
    cache = volume.cache
    before = cache.usage().num_bytes
    if max_bytes is not None:
        count = cache.evict(max_bytes=max_bytes)
    elif region is not None:
        from bellis.ops.groups import Groups

        groups = Groups.of(volume, region, 1)
        count = cache.evict(indices=list(groups.blocks(region)))
    else:
        count = cache.evict(max_bytes=0)
    return count, before - cache.usage().num_bytes


def bytes_of(option: str, text: str) -> int:
    """Return how many bytes ``"2GB"`` is.

    Raises
    ------
    click.UsageError
        If it is not written so.
    """
    from bellis.errors import TaskError
    from bellis.ops.memory import parse_bytes

    try:
        size = parse_bytes(text)
    except TaskError as error:
        raise click.UsageError(f"{option} {text!r} is no positive number of bytes, like 500MB or 2GB") from error
    if size is None:
        raise click.UsageError(f"{option} is empty")
    return size


class ProgressOnly:
    """An observer that keeps from another one what the command tells itself at the end."""

    def __init__(self, inner: Observer) -> None:
        self._inner = inner

    def notify(self, event: AnyEvent) -> None:
        """Pass on an event, but for the summary and for blocks that did not come."""
        from bellis.runtime.events import BlockFailed, RunFinished

        is_told_later = isinstance(event, BlockFailed) and _REASON.search(event.error) is not None
        if not (is_told_later or isinstance(event, RunFinished)):
            self._inner.notify(event)

    def close(self) -> None:
        """Close the other one."""
        self._inner.close()


def errors_of(report: RunReport) -> list[str]:
    """Return what failed otherwise than by blocks that did not come."""
    others = [failure.error for failure in report.failures if _REASON.search(failure.error) is None]
    stopped = [task.stopped for task in report.tasks.values() if task.stopped is not None]
    return sorted({error.rstrip().rpartition("\n")[2] for error in (*others, *stopped)})


def reasons_of(report: RunReport) -> dict[tuple[int, ...], str]:
    """Return why blocks did not come, by the voxel at which they begin; as far as their errors were kept."""
    found = (match.groups() for failure in report.failures for match in _REASON.finditer(failure.error))
    return {tuple(int(word) for word in begin.split(",") if word.strip()): reason for begin, reason in found}
