"""What there is to run on: engines by name, and the cores of this machine."""

from __future__ import annotations

import os
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, cast

from bellis.errors import EngineError

if TYPE_CHECKING:
    from bellis.runtime.engine import Engine


def engine_named(name: str) -> Engine:
    """Make the engine that an installed package offers under ``name``.

    Raises
    ------
    EngineError
        If there is none.
    """
    points = {point.name: point for point in entry_points(group="bellis.engines")}
    if name not in points:
        raise EngineError(f"no engine is named {name!r}; there are {', '.join(sorted(points))}")
    return cast("Engine", points[name].load()())


def available_cores() -> int:
    """Return how many cores this process may use: its affinity and its control group count."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return cores
    return cores if quota == "max" else max(1, min(cores, -(-int(quota) // int(period))))
