"""A zarr array behind a server of this process that counts who asks for what, and a description file of it."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from bellis import prepare_ds
from bellis.testing.servers import http_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SHAPE, CHUNK = (20, 24, 16), (8, 8, 8)
COUNTS = (3, 3, 2)
NUM_BLOCKS = 18


@dataclass
class Served:
    """The volume, and what its server has been asked for."""

    voxels: np.ndarray
    description: Path
    url: str
    folder: Path
    asked: Counter[str] = field(default_factory=Counter)
    """Requests per chunk: ``"0/1/2"``."""
    statuses: dict[str, int] = field(default_factory=dict)
    """Answers in place of chunks."""
    latency_s: float = 0.0

    def answer(self, path: str) -> int | None:
        """Count a request, and say whether it is refused."""
        chunk = path.partition("/c/")[2]
        if not chunk:
            return None
        with self._lock:
            self.asked[chunk] += 1
        time.sleep(self.latency_s)
        return self.statuses.get(chunk)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()

    @property
    def cache(self) -> Path:
        """Folder of the cache, by default."""
        return self.description.with_name(f"{self.description.stem}-blocks")

    def describe(self, name: str = "em.json", **said: Any) -> Path:
        """Write a description."""
        found = {
            "_schema_name": "bellis-volume-description",
            "_schema_version": 1.0,
            "name": self.description.stem,
            "source": {"url": f"{self.url}/em.zarr"},
            "patience": {"deadline_s": 20, "stall_s": 5, "first_wait_s": 0.01, "longest_wait_s": 0.1},
            **said,
        }
        path = self.folder / name
        path.write_text(json.dumps(found))
        return path


@contextmanager
def served(
    folder: Path, shape: tuple[int, ...] = SHAPE, chunk: tuple[int, ...] = CHUNK, name: str = "em", **said: Any
) -> Iterator[Served]:
    """Serve random voxels, and describe them in ``em.json`` in the folder, if that is the name."""
    voxels = np.random.default_rng(0).integers(1, 255, shape, dtype=np.uint8)
    remote = folder / f"{name}-remote"
    dims = len(shape)
    options: dict[str, Any] = {"axis_names": ["c^", "z", "y", "x"]} if dims > 3 else {}
    array = prepare_ds(
        remote / "em.zarr", shape=shape, dtype="uint8", voxel_size=(40, 4, 4), offset=(400, 0, 8), chunk_shape=chunk,
        compressor=None, **options,
    )  # fmt: skip
    array[array.roi] = voxels
    answer: list[Any] = []
    with http_server(remote, lambda path: answer[0](path)) as url:
        found = Served(voxels, folder / f"{name}.json", url, folder)
        answer.append(found.answer)
        found.describe(f"{name}.json", **said)
        yield found
