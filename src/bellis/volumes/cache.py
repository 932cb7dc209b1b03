"""Blocks of a volume on disk: a plain zarr array, in which a block that is not there is to be fetched."""

from __future__ import annotations

import contextlib
import os
import re
import time
from dataclasses import replace
from importlib.metadata import version
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bellis.errors import BlockNotReadyError, VolumeError
from bellis.volumes import scan, store
from bellis.volumes.blocks import Blocks, shown, slices_of
from bellis.volumes.eviction import Evictor
from bellis.volumes.lease import EXPIRY_S, Leases, leases_in, remove
from bellis.volumes.marker import MARKER, Marker, as_json, check_metadata, check_unused, mismatch, read_marker
from bellis.volumes.owner import is_leftover, link_file, write_file
from bellis.volumes.scan import Usage

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import numpy as np
    import numpy.typing as npt

    from bellis.arrays.layout import Layout
    from bellis.geometry import Roi
    from bellis.volumes.blocks import Index
    from bellis.volumes.descriptions import Compression
    from bellis.volumes.lease import Lease

LEASES, QUARANTINE = "leases", "quarantine"
"""Folders beside the blocks."""
MOST_QUARANTINED = 100
"""Damaged files that are kept; older ones are removed."""

_EVIDENCE = re.compile(r"^\d{20}-[\d.]+\.block$")


class BlockCache:
    """Blocks in a folder that is also a zarr array, for many processes on many machines.

    A block is a file that is there or not; it appears whole, under its name, and never changes. So nothing has to be
    locked, and a process that is killed leaves nothing that others stumble over. It is made by `prepare` and `open`,
    and pickled as where it is and what it says of itself.

    Parameters
    ----------
    directory
        Absolute path.
    marker
        What ``cache.json`` says.
    max_bytes
        Bytes of block files above which those read least recently are dropped; None for no bound. Where several
        processes fill it at the same time, each may be 1/8 above it for a while.
    expiry_s
        Seconds without a sign of life after which another machine's lease is taken over.
    """

    def __init__(
        self, directory: Path, marker: Marker, max_bytes: int | None = None, expiry_s: float = EXPIRY_S
    ) -> None:
        self.directory = directory
        self.marker = marker
        self.max_bytes = max_bytes
        self.expiry_s = expiry_s
        self.blocks = Blocks(marker.layout.shape, marker.block_shape)
        least = prod(marker.block_shape) * marker.layout.dtype.itemsize
        if max_bytes is not None and max_bytes < least:
            raise VolumeError(
                f"max_bytes is {max_bytes}, and one block of {marker.block_shape} voxels of {marker.layout.dtype} may "
                f"take {least} bytes: allow more, or use smaller blocks"
            )
        self._chunks = str(directory / scan.CHUNKS)
        self._process = _Process(self)

    @classmethod
    def prepare(
        cls,
        directory: str | os.PathLike[str],
        layout: Layout,
        block_shape: tuple[int, ...],
        *,
        fingerprint: Mapping[str, Any],
        compression: Compression = "zstd",
        max_bytes: int | None = None,
        expiry_s: float = EXPIRY_S,
    ) -> BlockCache:
        """Make a cache, or open the one that is there; several processes may do so at once.

        Parameters
        ----------
        directory
            Where; a new or empty folder, or a cache.
        layout
            Of the whole volume.
        block_shape
            Voxels of a block, all axes.
        fingerprint
            What tells the source from another one, as JSON.
        compression, max_bytes, expiry_s
            As `BlockCache` has them.

        Raises
        ------
        CacheMismatchError
            If there is a cache, but of another source, or not as asked.
        VolumeError
            If the folder is something else (it is left as it is), can't be written, or is of a newer bellis.
        """
        path = Path(os.path.abspath(directory))  # noqa: PTH100  (links are kept, ".." is not)
        asked = Marker(
            layout=replace(layout, dtype=layout.dtype.newbyteorder("=")),
            block_shape=tuple(map(int, block_shape)),
            compression=compression,
            fingerprint=as_json(fingerprint),
            made_by=f"bellis {version('bellis')}",
        )
        Blocks(asked.layout.shape, asked.block_shape)
        asked.metadata()
        found = read_marker(path)
        if found is None:
            cls(path, asked, max_bytes)  # what can't be used must not be made
        while found is None:
            check_unused(path)
            link_file(path / MARKER, asked.text())
            found = read_marker(path)
        if differences := found.differences(asked):
            raise mismatch(path, differences)
        return cls._opened(path, found.placed(asked.layout), max_bytes, expiry_s)

    @classmethod
    def open(
        cls, directory: str | os.PathLike[str], *, max_bytes: int | None = None, expiry_s: float = EXPIRY_S
    ) -> BlockCache | None:
        """Open the cache that is in a folder; None if there is none.

        Raises
        ------
        VolumeError
            If it is damaged, or of a newer bellis.
        """
        path = Path(os.path.abspath(directory))  # noqa: PTH100
        found = read_marker(path)
        return None if found is None else cls._opened(path, found, max_bytes, expiry_s)

    @classmethod
    def _opened(cls, path: Path, marker: Marker, max_bytes: int | None, expiry_s: float) -> BlockCache:
        cache = cls(path, marker, max_bytes, expiry_s)
        check_metadata(path, marker)
        return cache

    def __reduce__(self) -> tuple[Any, ...]:
        return BlockCache, (self.directory, self.marker, self.max_bytes, self.expiry_s)

    def __repr__(self) -> str:
        return f"<BlockCache {self.directory}, {self.blocks.num_blocks} blocks of {self.marker.block_shape}>"

    @property
    def layout(self) -> Layout:
        """Shape, dtype and place of the whole volume."""
        return self.marker.layout

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        """Of the source that the blocks came from."""
        return self.marker.fingerprint

    @property
    def compression(self) -> Compression:
        """How blocks are compressed."""
        return self.marker.compression

    @property
    def is_writeable(self) -> bool:
        """Whether blocks can be stored; if not, those that are there can be read all the same."""
        return os.access(self.directory, os.W_OK)

    def check(self, fingerprint: Mapping[str, Any]) -> None:
        """Refuse another source; only fields that are given are compared.

        Raises
        ------
        CacheMismatchError
            With each field that differs.
        """
        if differences := self.marker.changes(fingerprint):
            raise mismatch(self.directory, differences)

    def path_of(self, index: Index) -> Path:
        """Return the file of a block."""
        return scan.path_of(self.directory, index)

    def has(self, index: Index) -> bool:
        """Return whether a block is there."""
        # A sixth of the time that Path takes, and asked for each block of a bulk download.
        return os.path.exists(f"{self._chunks}/{'/'.join(map(str, index))}")  # noqa: PTH110

    def read(self, roi: Roi) -> npt.NDArray[Any]:
        """Return the voxels of a region, whose blocks must all be there.

        Raises
        ------
        BlockNotReadyError
            If one is not.
        DamagedBlockError
            If one is not what was written.
        VolumeError
            If the disk, or a permission, fails.
        """
        mine = self._mine()
        voxels = store.read(mine.data, slices_of(roi))
        if self.max_bytes is not None:
            mine.evictor.touch(self.blocks.touched(roi))
        return voxels

    def read_block(self, index: Index) -> npt.NDArray[Any] | None:
        """Return the voxels of a block, clipped at the volume's end; None if it is not there.

        Raises
        ------
        DamagedBlockError
            If it is not what was written.
        """
        if not self.has(index):
            return None
        try:
            return self.read(self.blocks.box(index))
        except BlockNotReadyError:
            return None

    def touch(self, indices: Iterable[Index]) -> None:
        """Note that blocks were used, so that they are not the first to be dropped."""
        if self.max_bytes is not None:
            self._mine().evictor.touch(indices)

    def put(self, index: Index, voxels: npt.NDArray[Any]) -> None:
        """Store a block, and make room for it.

        Parameters
        ----------
        index
            Which one.
        voxels
            Of the shape of its box, and of the layout's dtype.

        Raises
        ------
        VolumeError
            If the voxels are not those of the block, or can't be stored; then no part of them is.
        """
        self._check_index(index)
        box = self.blocks.box(index)
        if voxels.shape != tuple(box.shape) or voxels.dtype != self.layout.dtype:
            raise VolumeError(
                f"block {shown(box)} has shape {tuple(box.shape)} and dtype {self.layout.dtype}, "
                f"not {voxels.shape} and {voxels.dtype}"
            )
        mine = self._mine()
        text = mine.encoder.encode(voxels)
        write_file(self.path_of(index), text)
        mine.evictor.stored(index, len(text))

    def drop(self, index: Index) -> bool:
        """Remove a block; return whether it was there."""
        self._check_index(index)
        try:
            self.path_of(index).unlink()
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise VolumeError(f"can't drop the block {self.path_of(index)}: {error}") from error
        return True

    def quarantine(self, index: Index, reason: str) -> None:
        """Put a damaged block aside, with a note that says why; the last 100 are kept."""
        self._check_index(index)
        folder = self.directory / QUARANTINE
        name = f"{time.time_ns():020d}-{_name(index)}"
        try:
            folder.mkdir(exist_ok=True)
            self.path_of(index).rename(folder / f"{name}.block")
            (folder / f"{name}.txt").write_text(f"{self.path_of(index)}\n{reason}\n")
            for old in self._quarantined()[:-MOST_QUARANTINED]:
                old.unlink(missing_ok=True)
                old.with_suffix(".txt").unlink(missing_ok=True)
        except FileNotFoundError:
            return  # somebody else did, or dropped it
        except OSError as error:
            raise VolumeError(f"can't put aside the damaged block {self.path_of(index)}: {error}") from error

    def lease(self, index: Index) -> Lease | None:
        """Take the lease of a block, before it is fetched; None if another process or thread holds it."""
        return self._mine().leases.acquire(_name(index))

    def presence(self, roi: Roi | None = None) -> npt.NDArray[np.bool_]:
        """Return which blocks are there, of those that a region touches; one entry per block, C order."""
        return scan.presence(self.directory, self._spans(roi))

    def usage(self, roi: Roi | None = None) -> Usage:
        """Return how full the cache is, of a region or of all."""
        spans = self._spans(roi)
        sizes = [file.size for file in scan.block_files(self.directory, spans)]
        leases = [is_gone for _, _, is_gone in leases_in(self.directory / LEASES)]
        return Usage(
            num_blocks=prod(map(len, spans)),
            num_present=len(sizes),
            num_bytes=sum(sizes),
            num_quarantined=len(self._quarantined()),
            num_leases=leases.count(False),
            num_stale_leases=leases.count(True),
            num_partials=len(scan.partials(self.directory)),
        )

    def evict(self, *, max_bytes: int | None = None, indices: Iterable[Index] | None = None) -> int:
        """Drop blocks: those of ``indices``, or the ones used least recently until the files have ``max_bytes``.

        Returns
        -------
        int
            How many were dropped.
        """
        if indices is not None:
            return sum([self.drop(index) for index in indices])
        bound = self.max_bytes if max_bytes is None else max_bytes
        if bound is None:
            raise VolumeError(f"the cache {self.directory} has no bound: pass max_bytes= or indices=")
        return self._mine().evictor.evict(bound)

    def sweep(self) -> int:
        """Remove what killed processes left behind, and nobody reads; return how many files."""
        num_removed = 0
        for path in scan.partials(self.directory):
            if is_leftover(path):
                with contextlib.suppress(OSError):
                    path.unlink()
                    num_removed += 1
        stale = [(path, text) for path, text, is_gone in leases_in(self.directory / LEASES) if is_gone]
        return num_removed + sum([remove(path, text) for path, text in stale])

    def _mine(self) -> _Process:
        """Return what is of this process alone: threads and handles do not survive a fork."""
        if self._process.pid != os.getpid():
            self._process = _Process(self)
        return self._process

    def _spans(self, roi: Roi | None) -> tuple[range, ...]:
        if roi is None:
            return tuple(map(range, self.blocks.counts))
        sides = zip(roi.begin, roi.end, self.blocks.block_shape, strict=True)
        return tuple([range(begin // size, -(-end // size)) for begin, end, size in sides])

    def _quarantined(self) -> list[Path]:
        """Return the damaged blocks that were put aside, oldest first."""
        try:
            names = sorted(filter(_EVIDENCE.match, os.listdir(self.directory / QUARANTINE)))  # noqa: PTH208
        except OSError:
            return []
        return [self.directory / QUARANTINE / name for name in names]

    def _check_index(self, index: Index) -> None:
        counts = self.blocks.counts
        if len(index) != len(counts) or not all(0 <= k < n for k, n in zip(index, counts, strict=True)):
            raise VolumeError(f"there is no block {tuple(index)}: there are {counts} blocks per axis")


class _Process:
    """What one process has of a cache; nothing is opened before it is used."""

    def __init__(self, cache: BlockCache) -> None:
        self.pid = os.getpid()
        self.data = store.data_of(cache.directory, cache.marker)
        self.encoder = store.Encoder(cache.marker)
        self.evictor = Evictor(cache.directory, cache.blocks, cache.max_bytes)
        self.leases = Leases(cache.directory / LEASES, cache.expiry_s)


def _name(index: Index) -> str:
    return ".".join(map(str, index))
