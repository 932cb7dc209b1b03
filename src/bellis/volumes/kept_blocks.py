"""The blocks of a file set: which files they are in, whether they are available, how a part of one is written."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import numpy as np

from bellis.errors import DamagedBlockError, VolumeError
from bellis.geometry import Roi
from bellis.volumes.block_files import BlockFile, alone, put_in_place
from bellis.volumes.blocks import Blocks, slices_of
from bellis.volumes.tree import STATUS, Tree, corners

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy.typing as npt

    from bellis.volumes.blocks import Index
    from bellis.volumes.descriptions import FilesetDescription


class KeptBlocks:
    """The blocks of a volume in a tree of files. Regions are absolute, and inside of the view."""

    def __init__(self, root: Path, description: FilesetDescription) -> None:
        self.tree = Tree(root, description)
        self.blocks = Blocks(description.shape, description.block_shape)
        self.view = Roi(description.view_origin, description.view_shape)
        self._description = description

    def seen(self, index: Index) -> Roi:
        """Return the voxels of a block that are in the view."""
        return self.blocks.box(index).intersect(self.view)

    def parts(self, region: Roi) -> list[tuple[Index, Roi]]:
        """Return the blocks that a region touches, and which of their voxels."""
        return [(index, self.blocks.box(index).intersect(region)) for index in self.blocks.touched(region)]

    def file(self, index: Index) -> BlockFile:
        """Return the file of a block."""
        box = self.blocks.box(index)
        return BlockFile(
            path=self.tree.file(box),
            name=self.tree.internal_path,
            dtype=self._description.dtype,
            shape=_shape(box),
            seen=_shape(self.seen(index)),
        )

    def status(self, index: Index) -> Path:
        """Return the file that is there if a block is available."""
        return self.tree.directory(self.blocks.box(index).begin) / STATUS

    def note_available(self, index: Index) -> None:
        """Make it."""
        self.status(index).write_text("1\n", encoding="ascii")

    def read(self, region: Roi, out: npt.NDArray[Any]) -> None:
        """Read a region of available blocks."""
        for index, part in self.parts(region):
            voxels = self.file(index).read(slices_of(part, self.blocks.box(index).begin))
            out[slices_of(part, region.begin)] = voxels

    def write(self, region: Roi, voxels: npt.NDArray[Any], *, is_noted: bool) -> None:
        """Write a region; with ``is_noted``, blocks are available afterwards if all of them is sure to be written."""
        parts = self.parts(region)
        for index, _ in parts:
            self._check_unlocked(index)
        for index, part in parts:
            with alone(self.status(index).parent):
                self._check_unlocked(index)
                self._write_block(index, part, voxels[slices_of(part, region.begin)], is_noted=is_noted)

    def copy(self, region: Roi, target: KeptBlocks) -> None:
        """Copy the blocks of a region into another tree of the same volume, as available."""
        for index, _ in self.parts(region):
            block, into = self.file(index), target.file(index)
            block.check()
            with alone(into.path.parent):
                with put_in_place(into.path) as partial:
                    shutil.copyfile(block.path, partial)
                target.note_available(index)

    def _check_unlocked(self, index: Index) -> None:
        lock = self.tree.lock_of(self.blocks.box(index))
        if lock is not None:
            raise VolumeError(
                f"block file {lock.with_suffix('')} is locked by {lock}: if no lazyflow is at work there, it was left "
                "over from a crash: call purge_all_locks()"
            )

    def _write_block(self, index: Index, part: Roi, voxels: npt.NDArray[Any], *, is_noted: bool) -> None:
        """Write a part of a block. Status and file tell the truth at any time, whenever we are killed."""
        status, block = self.status(index), self.file(index)
        is_whole, was_available = part.contains(self.seen(index)), status.exists()
        before = _before(block, is_whole=is_whole, was_available=was_available)
        is_kept = before is not None and _covers(before.shape, block.seen)
        is_available = is_noted and (is_whole or (was_available and is_kept))
        if not (was_available and is_available):
            status.unlink(missing_ok=True)
        # A file that has more of the block than our view keeps it; one that has less grows.
        shape = before.shape if before is not None and is_kept else block.seen
        filled = np.zeros(shape, block.dtype)
        if before is not None:
            common = tuple([slice(0, min(a, b)) for a, b in zip(shape, before.shape, strict=True)])
            filled[common] = before[common]
        filled[slices_of(part, self.blocks.box(index).begin)] = voxels
        block.write(filled, self._description)
        if is_available and not was_available:
            self.note_available(index)


def _before(block: BlockFile, *, is_whole: bool, was_available: bool) -> npt.NDArray[Any] | None:
    """Return what is in the file of a block; None if it does not matter.

    Of a block that is written as a whole, only what a wider view has of it matters, and only if that is available.
    """
    if not block.path.exists() or (is_whole and (block.shape == block.seen or not was_available)):
        return None
    try:
        return block.read()
    except DamagedBlockError:
        if is_whole:
            return None
        raise


def _covers(shape: Sequence[int], due: Sequence[int]) -> bool:
    return all(n >= least for n, least in zip(shape, due, strict=True))


def _shape(roi: Roi) -> tuple[int, ...]:
    begin, end = corners(roi)
    return tuple([b - a for a, b in zip(begin, end, strict=True)])
