"""Sources whose requests are counted, and that fail when they are told to."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from bellis.geometry import Roi
from bellis.volumes.blocks import slices_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from bellis.errors import BellisError


class CountedSource:
    """Voxels in memory, as a source."""

    def __init__(
        self,
        voxels: np.ndarray,
        *,
        axes: tuple[str, ...] = ("z", "y", "x"),
        preferred_block: tuple[int, ...] | None = None,
        latency_s: float = 0.0,
        behave: Callable[[Roi, int], BellisError | None] = lambda _roi, _attempt: None,
    ) -> None:
        self.voxels = voxels
        self.axes = axes
        self.preferred_block = preferred_block
        self.latency_s = latency_s
        self.behave = behave
        self.asked: list[Roi] = []
        self.most_at_once = 0
        self._at_once = 0
        self._lock = threading.Lock()

    @property
    def domain(self) -> Roi:
        return Roi((0,) * self.voxels.ndim, self.voxels.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.voxels.dtype

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        return {"kind": "counted", "shape": list(self.voxels.shape), "dtype": self.voxels.dtype.name}

    def fetch(self, block_roi: Roi, out: np.ndarray, *, timeout_s: float) -> None:
        with self._lock:
            self.asked.append(block_roi)
            attempt = self.asked.count(block_roi)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            if self.latency_s:
                time.sleep(min(self.latency_s, timeout_s))
            out[...] = 255  # what a failed attempt leaves behind must not matter
            if (error := self.behave(block_roi, attempt)) is not None:
                raise error
            out[...] = self.voxels[slices_of(block_roi)]
        finally:
            with self._lock:
                self._at_once -= 1


def random_voxels(shape: tuple[int, ...], dtype: str = "uint8", seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(1, 250, shape).astype(dtype)
