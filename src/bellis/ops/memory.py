"""How much memory a worker needs, and how much there is."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from bellis.errors import TaskError
from bellis.geometry import Coordinate

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

WORKER_BYTES = 150 * 1024**2
"""What a worker holds besides its block: Python, NumPy, SciPy, tensorstore with its cache."""
COPIES = 3
"""How often what a block reads and writes is in memory at once: as read, as decoded chunks, as a temporary."""

_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(I?)B?\s*", re.IGNORECASE)


def estimate(read_bytes: int, write_bytes: int) -> int:
    """Return about how many bytes a worker needs for a block that reads and writes so many."""
    return WORKER_BYTES + COPIES * (read_bytes + write_bytes)


def share_of_worker(num_workers: int | None) -> int:
    """Return this machine's memory (or its control group's) over the number of workers, by default its cores."""
    return machine_bytes() // (num_workers or _cores())


def machine_bytes() -> int:
    """Return the memory of this machine, or of the control group that this process is in."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        return total
    return total if limit == "max" else min(total, int(limit))


def check_memory(
    task_id: str,
    bytes_of: Callable[[Coordinate], int],
    block: Coordinate,
    units: Sequence[int],
    *,
    max_memory: int,
) -> None:
    """Refuse a block that needs more than ``max_memory``.

    Parameters
    ----------
    task_id
        Name of the task.
    bytes_of
        Returns what a worker needs for a block of some shape, in voxels.
    block
        Shape of the block, in voxels.
    units
        Steps, per axis, by which a block may be smaller.
    max_memory
        Bytes per worker.

    Raises
    ------
    TaskError
        With the numbers, and the largest block that fits.
    """
    needed = bytes_of(block)
    if needed <= max_memory:
        return
    fitting = largest_block(bytes_of, block, units, max_memory=max_memory)
    no_block = f"not even a block of {tuple(units)}, the smallest between chunks, fits; make smaller chunks"
    advice = f"pass block_shape={tuple(fitting)}" if fitting else no_block
    raise TaskError(
        f"task {task_id!r}: a worker would need about {_mb(needed)} for a block of {tuple(block)} voxels, and may have "
        f"{_mb(max_memory)}: {advice}, or allow more with Limits(max_memory=...), or run fewer workers with "
        "Limits(num_workers=...)"
    )


def largest_block(
    bytes_of: Callable[[Coordinate], int], block: Coordinate, units: Sequence[int], *, max_memory: int
) -> Coordinate | None:
    """Return the block within ``block`` that fits, made smaller where it is longest; None if none does."""
    shape = list(block)
    while bytes_of(Coordinate(shape)) > max_memory:
        longest = max((n for n, unit in zip(shape, units, strict=True) if n > unit), default=None)
        if longest is None:
            return None
        axis = next(k for k, n in enumerate(shape) if n == longest and n > units[k])
        shape[axis] = (longest - 1) // units[axis] * units[axis]
    return Coordinate(shape)


def parse_bytes(size: int | str | None) -> int | None:
    """Return a number of bytes.

    Raises
    ------
    TaskError
        If it is not positive, or not written like ``"500MB"``, ``"2GB"`` or ``"1.5GiB"``.

    Examples
    --------
    >>> parse_bytes("2GB"), parse_bytes("1.5 KiB")
    (2000000000, 1536)
    """
    if size is None:
        return None
    found = _SIZE.fullmatch(str(size))
    base = 1024 if found and found[3] else 1000
    parsed = int(float(found[1]) * base ** " KMGT".index(found[2].upper() or " ")) if found else 0
    if parsed < 1:
        raise TaskError(f"max_memory is {size!r}, must be a positive number of bytes, like 500MB or 2GB")
    return parsed


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _mb(size: int) -> str:
    return f"{size / 1e6:.0f} MB"
