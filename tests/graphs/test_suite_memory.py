"""The graph in memory passes the suite that all backends pass."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bellis.graphs.memory import MemoryBackend
from bellis.testing.graphs import GraphStoreTests

if TYPE_CHECKING:
    from pathlib import Path


class TestMemory(GraphStoreTests):
    reaches_processes = False

    def backend(self, folder: Path) -> MemoryBackend:
        return MemoryBackend(str(folder))
