"""One worker's state in shared memory: what it runs, since when, and what became of the blocks of its lease.

The parent reads it without asking: the watchdog sees a block that takes too long, a worker that died is known to have
been in exactly one block, and finished blocks are seen while the next one still runs. With a journal the memory is a
file in the run directory, so that a run that was killed as a whole repeats only what was running.

A cell is HEADER int64 words, then two regions, used in turn: lease id, program number, number of blocks, the block
indices (int64) and one outcome byte per block.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from pathlib import Path
from time import monotonic_ns
from typing import TYPE_CHECKING, NamedTuple

from bellis.runtime.lease import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bellis.planning.grid import Ints

LARGEST_LEASE = 4096
"""Most blocks in one lease."""

LEASE, POSITION, STARTED_NS, FLAG = range(4)
"""Words of the header. The first three are written by the worker: the lease, the position in it of the block that
runs, and when that began (monotonic clock); FLAG by the parent."""
HEADER = 8
EAGER = 1
"""FLAG: report every block at once."""
GIVE_BACK = 2
"""FLAG: begin no further block; return the rest of every lease."""

_WORDS = 3 + LARGEST_LEASE
_REGION = _WORDS * 8 + LARGEST_LEASE
CELL_BYTES = HEADER * 8 + 2 * _REGION


class Cell:
    """View of one worker's cell.

    Parameters
    ----------
    memory
        Shared memory of all workers.
    slot
        Number of the worker.
    """

    __slots__ = ("_regions", "words")

    def __init__(self, memory: memoryview, slot: int) -> None:
        own = memory[slot * CELL_BYTES : (slot + 1) * CELL_BYTES]
        self.words = own[: HEADER * 8].cast("q")
        begins = (HEADER * 8, HEADER * 8 + _REGION)
        self._regions = [own[begin : begin + _REGION] for begin in begins]

    def release(self) -> None:
        """Let go of the memory."""
        self.words.release()
        for region in self._regions:
            region.release()

    def clear(self) -> None:
        """Forget everything, before a new worker starts."""
        self.words[:] = memoryview(bytes(HEADER * 8)).cast("q")
        for region in self._regions:
            region[:24] = bytes(24)

    def begin(self, lease_id: int, program: int, indices: bytes) -> memoryview:
        """Note the lease that begins; return where its outcomes go, one byte per block."""
        region = self._regions[int.from_bytes(self._regions[0][:8], "little") == self.words[LEASE]]
        size = len(indices) // 8
        region[:8] = bytes(8)  # not valid while it is written
        region[24 : 24 + len(indices)] = indices
        outcomes = region[_WORDS * 8 : _WORDS * 8 + size]
        outcomes[:] = bytes(size)
        region[8:16] = program.to_bytes(8, "little")
        region[16:24] = size.to_bytes(8, "little")
        region[:8] = lease_id.to_bytes(8, "little")
        self.words[LEASE] = 0  # so that nobody takes the new position for one of the lease before
        self.words[POSITION] = 0
        self.words[STARTED_NS] = monotonic_ns()
        self.words[LEASE] = lease_id
        return outcomes

    def current(self) -> tuple[int, int, int]:
        """Return the lease, the position in it, and since when its block runs, all of the same moment."""
        words = self.words
        while True:
            lease_id, position, started_ns = words[LEASE], words[POSITION], words[STARTED_NS]
            if words[LEASE] == lease_id and words[POSITION] == position:
                return lease_id, position, started_ns

    def outcomes(self, lease_id: int) -> bytes:
        """Return what is known of the blocks of a lease; empty if the worker never began it."""
        for region in self._regions:
            if int.from_bytes(region[:8], "little") == lease_id:
                size = int.from_bytes(region[16:24], "little")
                return bytes(region[_WORDS * 8 : _WORDS * 8 + size])
        return b""


class Finished(NamedTuple):
    """Blocks that a killed run had finished."""

    program: int
    indices: Ints


def finished_blocks(memory: memoryview) -> Iterator[Finished]:
    """Yield the blocks that succeeded, as left in the cells of a run that was killed."""
    import numpy as np  # not needed by the processes beside a `Client`, which should start quickly

    for slot in range(len(memory) // CELL_BYTES):
        for k in range(2):
            begin = slot * CELL_BYTES + HEADER * 8 + k * _REGION
            region = memory[begin : begin + _REGION]
            lease_id, program, size = np.frombuffer(region[:24], np.int64).tolist()
            if lease_id <= 0 or not 0 < size <= LARGEST_LEASE:
                continue
            indices = np.frombuffer(region[24 : 24 + size * 8], np.int64)
            outcomes = np.frombuffer(region[_WORDS * 8 : _WORDS * 8 + size], np.uint8)
            yield Finished(program, indices[(outcomes == Outcome.SUCCESS) | (outcomes == Outcome.SKIPPED)])


def shared_memory(size: int, path: Path | None) -> tuple[int, mmap.mmap]:
    """Return zeroed memory that worker processes can map, as a descriptor and mapped here; nameless without a path."""
    if path is not None:
        from bellis.runtime.bitmap import reserve

        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        reserve(fd, size)
    elif hasattr(os, "memfd_create"):
        fd = os.memfd_create("bellis-cells")
    else:
        fd, name = tempfile.mkstemp(prefix="bellis-cells-")
        Path(name).unlink()
    os.truncate(fd, size)
    return fd, mmap.mmap(fd, size)
