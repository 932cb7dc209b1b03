"""Time and memory of this process."""

from __future__ import annotations

import contextlib
import resource
import sys
from pathlib import Path
from time import perf_counter
from typing import Self


class Watch:
    """Wall time of a ``with`` body, and how much of it this process was computing."""

    seconds: float
    cpu_s: float

    def __enter__(self) -> Self:
        self._cpu = _cpu_s()
        self._began = perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = perf_counter() - self._began
        self.cpu_s = _cpu_s() - self._cpu


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def peak_bytes() -> int:
    """Return the largest resident set of this process: since `reset_peak` where there is /proc, else ever."""
    with contextlib.suppress(OSError):
        return _status("VmHWM")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def reset_peak() -> int:
    """Begin a new peak; return the resident set from which it starts."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
        return _status("VmRSS")
    return peak_bytes()


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))
