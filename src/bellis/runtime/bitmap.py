"""One bit per block in a memory-mapped file, with a checksum for every chunk of it.

Layout: a header (magic, number of blocks, checksum of the header), one CRC-32 per chunk, then the bits, least
significant first. Checksums are stored XOR-ed with that of a chunk of zeros, so that a new file is right as it is.
"""

from __future__ import annotations

import mmap
import os
import struct
import zlib
from typing import TYPE_CHECKING

import numpy as np

from bellis.errors import JournalCorruptError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from bellis.planning.grid import Ints

_HEADER = struct.Struct("<8sQI")
_MAGIC = b"bellis01"
_HEADER_BYTES = 64
CHUNK_BYTES = 4096
CHUNK_BLOCKS = CHUNK_BYTES * 8
_ZEROS = zlib.crc32(bytes(CHUNK_BYTES))


class Bitmap:
    """The finished blocks of one task, on disk.

    Parameters
    ----------
    path
        The file; made when it is not there.
    num_blocks
        Number of bits.

    Raises
    ------
    JournalCorruptError
        If the file's size or header is not what a file for ``num_blocks`` has.
    """

    def __init__(self, path: Path, num_blocks: int) -> None:
        self.path = path
        self.num_blocks = num_blocks
        self._chunks = -(-num_blocks // CHUNK_BLOCKS)
        size = _HEADER_BYTES + self._chunks * (4 + CHUNK_BYTES)
        header = _HEADER.pack(_MAGIC, num_blocks, zlib.crc32(_MAGIC + num_blocks.to_bytes(8, "little")))
        is_new = not path.exists()
        with path.open("w+b" if is_new else "r+b") as file:
            if is_new:
                reserve(file.fileno(), size)
                file.write(header)
            else:
                self._check(file.read(_HEADER.size), header, path.stat().st_size, size)
            self._memory = mmap.mmap(file.fileno(), size)
        sums_end = _HEADER_BYTES + self._chunks * 4
        self._sums = np.frombuffer(self._memory, np.uint32, self._chunks, _HEADER_BYTES)
        self._bytes = np.frombuffer(self._memory, np.uint8, self._chunks * CHUNK_BYTES, sums_end)

    def _check(self, found: bytes, header: bytes, found_size: int, size: int) -> None:
        if found_size != size:
            raise JournalCorruptError(
                f"{self.path} has {found_size} bytes, must have {size}: it was truncated or replaced"
            )
        if found != header:
            raise JournalCorruptError(f"{self.path} does not begin as the journal of {self.num_blocks} blocks does")

    def verify(self, pending: Ints) -> None:
        """Check all checksums.

        Parameters
        ----------
        pending
            Blocks that were completed since the last `apply` that certainly ended: a chunk is right both with and
            without them.

        Raises
        ------
        JournalCorruptError
            If a chunk is damaged.
        """
        unsure = set((pending // CHUNK_BLOCKS).tolist())
        for chunk in range(self._chunks):
            data = self._chunk(chunk)
            if chunk in unsure:
                bits = pending[pending // CHUNK_BLOCKS == chunk] % CHUNK_BLOCKS
                without, complete = data.copy(), data.copy()
                np.bitwise_and.at(without, bits // 8, ~_bit(bits))
                np.bitwise_or.at(complete, bits // 8, _bit(bits))
                candidates = (without, complete)
            elif not self._sums[chunk] and not data.any():
                continue
            else:
                candidates = (data, data)
            if all(zlib.crc32(c.data) ^ _ZEROS != self._sums[chunk] for c in candidates):
                first = chunk * CHUNK_BLOCKS
                raise JournalCorruptError(
                    f"{self.path} is damaged: the checksum of blocks {first} to "
                    f"{min(first + CHUNK_BLOCKS, self.num_blocks)} is wrong"
                )

    def apply(self, indices: Ints) -> None:
        """Set the bits of blocks, and the checksums of their chunks."""
        np.bitwise_or.at(self._bytes, indices // 8, _bit(indices))
        for chunk in np.unique(indices // CHUNK_BLOCKS).tolist():
            self._sums[chunk] = zlib.crc32(self._chunk(chunk).data) ^ _ZEROS

    def has(self, indices: Ints) -> NDArray[np.bool_]:
        """Return which of these blocks are done."""
        found: NDArray[np.bool_] = (self._bytes[indices // 8] & _bit(indices)) != 0
        return found

    def runs(self) -> Iterator[tuple[int, NDArray[np.bool_]]]:
        """Yield runs of blocks: the index of the first, and for each whether it is done."""
        step = 256 * CHUNK_BLOCKS
        for begin in range(0, self.num_blocks, step):
            end = min(begin + step, self.num_blocks)
            bits = np.unpackbits(self._bytes[begin // 8 : -(-end // 8)], count=end - begin, bitorder="little")
            yield begin, bits.view(bool)

    def count(self) -> int:
        """Return how many blocks are done."""
        return (
            int(np.bitwise_count(self._bytes).sum())
            if hasattr(np, "bitwise_count")
            else sum(int(flags.sum()) for _, flags in self.runs())
        )

    def flush(self) -> None:
        """Write to disk."""
        self._memory.flush()

    def close(self) -> None:
        """Let go of the file."""
        del self._sums, self._bytes
        self._memory.close()

    def _chunk(self, chunk: int) -> NDArray[np.uint8]:
        return self._bytes[chunk * CHUNK_BYTES : (chunk + 1) * CHUNK_BYTES]


def reserve(fd: int, size: int) -> None:
    """Make a file ``size`` bytes of zeros long, on disk: a mapped page without room ends the process."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, 0, max(size, 1))
    os.truncate(fd, size)


def _bit(indices: Ints) -> NDArray[np.uint8]:
    return np.left_shift(1, indices % 8).astype(np.uint8)
