"""What the run loop notes of leases and tasks."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from bellis.planning.grid import Ints
    from bellis.runtime.lease import Lease
    from bellis.runtime.report import Failure
    from bellis.runtime.sizing import Pace
    from bellis.tasks import Task


@dataclass(slots=True)
class Held:
    """A lease that an engine has."""

    lease: Lease
    outcomes: NDArray[np.uint8]
    """What is known of its blocks; each counts once."""
    is_short: bool


@dataclass(slots=True)
class TaskRecord:
    """What the loop notes of a task."""

    task: Task
    most_leases: int
    """How many of its leases may be with the engine."""
    sampled: int
    """The duration of every n-th block is kept."""
    pace: Pace
    leases: int = 0
    failures: dict[int, Failure] = field(default_factory=dict)
    results: dict[int, bytes] = field(default_factory=dict)
    timings: list[tuple[Ints, NDArray[np.float32]]] = field(default_factory=list)
    seconds: float = 0.0
    first_s: float | None = None
    last_s: float = 0.0
    peak_memory_bytes: int = 0
    crashed: set[int] = field(default_factory=set)
    """Blocks that ended their workers since one succeeded; a lease that ended one while it was loaded, as -id."""
    losses: Counter[int] = field(default_factory=Counter)
    """Block -> with how many machines it was lost."""
    first_errors: dict[int, str] | None = field(default_factory=dict)
    """Block -> how it failed, while no block has succeeded."""
    stopped: str | None = None
    is_finished: bool = False
    is_warned: bool = False
    """Whether it was said that a pre-check raised."""


_FRAME = re.compile(r'^  File "(.*)", line (\d+)', re.MULTILINE)


def signature(error: str) -> str:
    r"""Return the kind of an error: its type and the line of code that raised it.

    Examples
    --------
    >>> signature('Traceback ...\n  File "a.py", line 3, in f\n    g()\nValueError: block 7')
    'ValueError a.py:3'
    """
    frames = _FRAME.findall(error)
    last = error.rstrip().rpartition("\n")[2]
    where = f" {frames[-1][0]}:{frames[-1][1]}" if frames else ""
    return last.partition(":")[0] + where
