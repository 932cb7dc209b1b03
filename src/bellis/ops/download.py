"""Fill the cache of a volume: a task over the blocks that are not there yet; and one that verifies those that are."""

from __future__ import annotations

import functools
from math import prod
from typing import TYPE_CHECKING, Any

from bellis.errors import ArrayError, DownloadError, TaskError
from bellis.geometry import Roi
from bellis.ops import memory
from bellis.ops.blocks import ANY_NUMBER, Limits
from bellis.ops.groups import Groups, Skip
from bellis.tasks import Task

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable

    from bellis.tasks import Block
    from bellis.volumes import CachedVolume
    from bellis.volumes.blocks import Index

WORKERS = 2
"""Of a download, by default: each has many requests under way."""
PARALLEL = 16
"""Blocks that a group is made for, if the volume does not say how many it fetches at the same time."""
VERIFIED_TOGETHER = 64


def download(
    volume: CachedVolume | str | os.PathLike[str],
    *,
    roi: Roi | None = None,
    part: tuple[int, int] | None = None,
    group: int | None = None,
    name: str = "download",
    limits: Limits | None = None,
) -> Task:
    """Make the task that fetches the blocks of a volume that are not in its cache yet.

    Its blocks are groups of neighbouring blocks of the cache, so that a worker has many requests under way. Which of
    them have something missing is looked up when a run begins: the cache is the journal, and a run that is started
    again fetches only the rest.

    Parameters
    ----------
    volume
        A volume with a cache, or the path of its description.
    roi
        World units of ``volume.array``: the region whose blocks are fetched; all of the view if not given.
    part
        ``(i, n)`` to fetch only the i-th of n parts, counted from 1: for several machines. All parts must be of the
        same view, region and group.
    group
        Blocks of the cache in a block of the task, about; twice what one process fetches at the same time if not
        given, or 32 if there are parts.
    name
        Id of the task.
    limits
        What it may use: 2 workers and one retry of a group if not given.

    Returns
    -------
    Task
        Of which a block fails with `DownloadError` if some of its blocks did not come, after all others were tried.

    Raises
    ------
    TaskError
        If there is no such part, the region is not inside of the view, or blocks take too much memory.
    ArrayError
        If ``volume`` has no cache.
    """
    volume, limits = _cached(volume), limits or Limits(num_workers=WORKERS, max_retries=1)
    if part is not None:
        _check_part(name, part)
    if group is not None and group < 1:
        raise TaskError(f"task {name!r}: group is {group}, must be a positive number of blocks")
    if not volume.cache.is_writeable:
        raise TaskError(f"task {name!r}: nothing can be downloaded into {volume.path}: it can't be written")
    parallel = volume.parallel
    _check_memory(name, volume, parallel, limits)
    # What belongs to a part must not hang on how many requests this machine is allowed.
    groups = Groups.of(volume, roi, group or 2 * (PARALLEL if part else parallel))
    return _task(name, groups, _fetch_group, limits, Skip(groups, part), "download into")


def verification(
    volume: CachedVolume, *, roi: Roi | None = None, name: str = "verify", limits: Limits | None = None
) -> Task:
    """Make the task that reads the blocks of a volume that are in its cache, and changes nothing.

    The result of a block is how many blocks of the cache were read, and the index of each damaged one with what is
    wrong with it.
    """
    groups = Groups.of(volume, roi, VERIFIED_TOGETHER)
    skip = Skip(groups, present=True)
    return _task(name, groups, _verify_group, limits or Limits(), skip, "verify", results=True)


def _task(
    name: str,
    groups: Groups,
    function: Callable[..., Any],
    limits: Limits,
    skip: Skip,
    what: str,
    *,
    results: bool = False,
) -> Task:
    roi = Roi(groups.roi.begin, groups.step)
    # It tells of no `writes`: blocks are whole files, and two tasks that fetch one do no harm.
    return Task(
        name,
        groups.roi,
        roi,
        roi,
        functools.partial(function, groups=groups),
        read_write_conflict=False,
        num_workers=limits.num_workers or ANY_NUMBER,
        max_retries=limits.max_retries,
        fit="shrink",
        timeout=limits.timeout_s,
        resources=limits.resources,
        skip_mask=skip,
        identity=f"{what} {groups.volume.path}",
        results=results,
    )


def _fetch_group(block: Block, *, groups: Groups) -> None:
    volume, indices = groups.volume, list(groups.blocks(block.write_roi))
    failed = volume.fetch_blocks(indices)
    if failed:
        raise download_error(volume, failed, len(indices))


def download_error(volume: CachedVolume, failed: Iterable[tuple[Index, str]], num_blocks: int) -> DownloadError:
    """Return the error that names blocks that did not come: a line for each, by the voxel at which it begins."""
    begins = [(tuple(volume.blocks.box(index).begin), " ".join(reason.split())) for index, reason in failed]
    lines = [f"  block {begin}: {reason}" for begin, reason in sorted(begins)]
    return DownloadError(
        "\n".join([f"{len(begins)} of {num_blocks} blocks of {volume.name!r} did not come:", *lines]),
        tuple(sorted(begins)),
    )


def _verify_group(block: Block, *, groups: Groups) -> dict[str, Any]:
    volume, damaged, num_read = groups.volume, [], 0
    for index in groups.blocks(block.write_roi):
        if not volume.cache.has(index):
            continue
        num_read += 1
        reason = volume.verify_block(index)
        if reason is not None:
            damaged.append([list(index), reason])
    return {"num_read": num_read, "damaged": damaged}


def _cached(volume: CachedVolume | str | os.PathLike[str]) -> CachedVolume:
    from bellis.volumes import CachedVolume, open_volume

    found = volume if isinstance(volume, CachedVolume) else open_volume(volume)
    if not isinstance(found, CachedVolume):
        raise ArrayError(f"{volume} is a {type(found).__name__}, which has no cache to download into")
    return found


def _check_part(name: str, part: tuple[int, int]) -> None:
    number, count = part
    if not 1 <= number <= count:
        raise TaskError(
            f"task {name!r}: there is no part {number} of {count}: parts are (1, {max(count, 1)}) to "
            f"({max(count, 1)}, {max(count, 1)})"
        )


def _check_memory(name: str, volume: CachedVolume, parallel: int, limits: Limits) -> None:
    most = memory.parse_bytes(limits.max_memory)
    block_bytes = prod(volume.blocks.block_shape) * volume.dtype.itemsize
    needed = memory.WORKER_BYTES + memory.COPIES * parallel * block_bytes
    if most is not None and needed > most:
        raise TaskError(
            f"task {name!r}: a worker would need about {needed / 1e6:.0f} MB, for {parallel} blocks of "
            f"{block_bytes / 1e6:.3g} MB at the same time, and may have {most / 1e6:.0f} MB: write a smaller "
            '"parallel" into the description, or allow more with Limits(max_memory=...)'
        )
