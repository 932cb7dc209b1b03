"""A region of a source, asked for in pieces, some at a time."""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from bellis.volumes.blocks import Blocks
from bellis.volumes.retrying import fetch_patiently
from bellis.volumes.stopping import stoppable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Future

    import numpy.typing as npt

    from bellis.geometry import Roi
    from bellis.volumes.source import Patience, Source

PIECE_BYTES = 16 * 1024**2
"""Most that one request asks for, unless the source serves larger blocks."""


def pieces(source: Source, region: Roi, patience: Patience, parallel: int) -> Iterator[tuple[Roi, npt.NDArray[Any]]]:
    """Yield a region piece by piece, in C order; no more than twice ``parallel`` pieces are held.

    Pieces end where the blocks of the server do. The first that can't be had ends all others.
    """
    grid = Blocks(tuple(source.domain.shape), _piece_shape(source))
    work = _Round(source, patience)
    running: deque[tuple[Roi, Future[npt.NDArray[Any]]]] = deque()
    with ThreadPoolExecutor(parallel, thread_name_prefix="bellis-remote") as pool:
        try:
            for index in grid.touched(region):
                part = grid.box(index).intersect(region)
                running.append((part, pool.submit(work.fetch, part)))
                if len(running) == 2 * parallel:
                    yield work.first(running)
            while running:
                yield work.first(running)
        finally:
            work.stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)


def _piece_shape(source: Source) -> tuple[int, ...]:
    """Return what one request asks for, at most: a block of the server, or some MiB."""
    found = source.preferred_block
    if found is not None:
        return tuple(found)
    shape = [max(1, n) for n in source.domain.shape]
    while prod(shape) * source.dtype.itemsize > PIECE_BYTES and max(shape) > 1:
        longest = shape.index(max(shape))
        shape[longest] = -(-shape[longest] // 2)
    return tuple(shape)


class _Round:
    """Pieces of one read: the first that fails stops the others, and its error is the one that is raised."""

    def __init__(self, source: Source, patience: Patience) -> None:
        self.stopped = threading.Event()
        self._source = source
        self._patience = patience
        self._failures: list[BaseException] = []

    def fetch(self, part: Roi) -> npt.NDArray[Any]:
        """Return the voxels of a piece."""
        out = np.empty(tuple(part.shape), self._source.dtype)
        try:
            with stoppable(self.stopped):
                fetch_patiently(self._source, part, out, self._patience)
        except BaseException as error:
            self._failures.append(error)
            self.stopped.set()
            raise
        return out

    def first(self, running: deque[tuple[Roi, Future[npt.NDArray[Any]]]]) -> tuple[Roi, npt.NDArray[Any]]:
        """Return the piece that was asked for first."""
        part, future = running.popleft()
        try:
            return part, future.result()
        except BaseException:
            if self._failures:
                raise self._failures[0] from None
            raise
