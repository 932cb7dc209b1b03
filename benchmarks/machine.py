"""What the figures were taken on."""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from time import perf_counter

PEERS = ("daisy", "zarr", "dask", "dask-image", "cloud-volume", "cubed", "ome-zarr", "funlib.persistence", "networkx")
"""What bellis is compared with."""
_VERSIONS = (
    "import json, sys; from importlib.metadata import version; "
    "print(json.dumps({name: version(name) for name in sys.argv[1:]}))"
)


def describe(peers: str | None) -> dict[str, str]:
    """Return machine, Python and versions, in words."""
    found = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": f"{_processor()}, {_cores()} cores, {_memory_gb():.0f} GB",
        "system": platform.platform(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("bellis", "numpy", "scipy", "tensorstore")},
    }
    if peers is not None:
        command = [peers, "-c", _VERSIONS, *PEERS]
        found |= json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return found


class Others:
    """How much of the machine was used by processes other than those that were started, and ended, meanwhile."""

    def __init__(self) -> None:
        self._busy_s, self._own_s, self._began_s = _busy_s(), _own_s(), perf_counter()

    def share(self) -> float | None:
        """Return that part, as a share of all cores; None where the system does not tell."""
        if self._busy_s is None or (busy_s := _busy_s()) is None:
            return None
        others_s = busy_s - self._busy_s - (_own_s() - self._own_s)
        return max(0.0, others_s / (perf_counter() - self._began_s) / _cores())


def _busy_s() -> float | None:
    """Return the processor time that the machine has used since its start; what its host took away is in it."""
    path = Path("/proc/stat")
    if not path.exists():
        return None
    user, nice, system, _, _, irq, softirq, steal = map(int, path.read_text().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _own_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory_gb() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
