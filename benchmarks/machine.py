"""What the figures were taken on."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

_PEERS = (
    "import json, platform; from importlib.metadata import version; "
    "print(json.dumps({'daisy': version('daisy'), 'python': platform.python_version()}))"
)


def describe(peers: str | None) -> dict[str, str]:
    """Return machine, Python and versions, in words."""
    found = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": f"{_processor()}, {_cores()} cores, {_memory_gb():.0f} GB",
        "system": platform.platform(),
        "python": platform.python_version(),
        "bellis": version("bellis"),
        "numpy": version("numpy"),
        "load": f"{os.getloadavg()[0]:.1f} when it began",
    }
    if peers is not None:
        theirs = json.loads(subprocess.run([peers, "-c", _PEERS], check=True, capture_output=True).stdout)
        found["daisy"] = f"{theirs['daisy']} (Python {theirs['python']})"
    return found


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory_gb() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
