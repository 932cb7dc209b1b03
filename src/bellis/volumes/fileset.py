"""A volume that is kept as one HDF5 file per block, under a tree of directories."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bellis.arrays.layout import Layout
from bellis.arrays.values import holds
from bellis.errors import BlockNotReadyError, DescriptionError, VolumeError
from bellis.geometry import Coordinate
from bellis.volumes.blocks import parse_roi, roi_of, shown
from bellis.volumes.blockwise import BlockwiseView
from bellis.volumes.description import checked, read_description, write_description
from bellis.volumes.descriptions import CompositeDescription, FilesetDescription
from bellis.volumes.kept_blocks import KeptBlocks

if TYPE_CHECKING:
    import os

    import numpy.typing as npt

    from bellis.geometry import CoordinateLike, Roi
    from bellis.volumes.blocks import Blocks, RoiLike
    from bellis.volumes.descriptions import AnyDescription
    from bellis.volumes.tree import DatasetPath

MODES = ("r", "r+", "a")
"""To read only; and, twice, to write too."""


class BlockwiseFileset(BlockwiseView):
    """A volume as one HDF5 file per block, as lazyflow keeps it.

    Regions are ``(start, stop)`` or a `Roi`, in voxels of all axes, counted from where the view begins. A block can be
    read when it is *available*: when all of it was written, and somebody said so. It may be used by several threads
    and processes at once; no file stays open.

    Parameters
    ----------
    description_path
        JSON file, of lazyflow's schema ``blockwise-fileset-description``, or the composite one, of which the local
        part is taken. The tree is looked for beside it.
    mode
        ``"r"``, or ``"r+"`` (or ``"a"``) to write.
    preparsed_description
        What the file would say: then it need not be there.

    Raises
    ------
    DescriptionError
        If the description is not there, or wrong.
    """

    kind = "blockwise fileset"

    def __init__(
        self,
        description_path: str | os.PathLike[str],
        mode: str = "r",
        preparsed_description: AnyDescription | None = None,
    ) -> None:
        found = read_description(description_path) if preparsed_description is None else preparsed_description
        if isinstance(found, CompositeDescription):
            found = found.local_description
        if not isinstance(found, FilesetDescription):
            raise DescriptionError(
                f"description {description_path} is a {type(found).__name__}, block files are due: open it by "
                "bellis.volumes.open_volume"
            )
        self._path = Path(description_path).absolute()
        self._description = checked(found, self._path)
        self._kept = KeptBlocks(self._path.parent / found.dataset_root_dir, found)
        self.view = self._kept.view
        offset = [at for axis, at in zip(found.axes, found.view_origin, strict=True) if axis != "c"]
        self.layout = Layout.of(found.view_shape, found.dtype, offset=offset, axis_names=tuple(found.axes))
        self._mode: str | None = None
        self.reopen(mode)

    # What an ArrayData has.

    @property
    def write_shape(self) -> tuple[int, ...]:
        """Voxels of a block: those who write parts of one would wait for each other."""
        return self._description.block_shape

    @property
    def is_writeable(self) -> bool:
        """Whether voxels may be assigned."""
        return self._mode in MODES[1:]

    @property
    def path(self) -> str:
        """Path of the description file."""
        return str(self._path)

    def __getitem__(self, slices: tuple[slice, ...]) -> npt.NDArray[Any]:
        """Read into new memory; one slice of step 1 per axis."""
        roi = roi_of(slices, self.shape)
        return np.empty(tuple(roi.shape), self.dtype) if roi.empty else self.voxels(roi + self.view.begin)

    def __setitem__(self, slices: tuple[slice, ...], voxels: npt.NDArray[Any]) -> None:
        """Write; blocks become available if they were before, or are written as a whole."""
        roi = roi_of(slices, self.shape)
        if not roi.empty:
            self._write(roi, voxels, is_noted=True)

    @property
    def description(self) -> FilesetDescription:
        """What the description says."""
        return self._description

    @property
    def blocks(self) -> Blocks:
        """Blocks of the whole volume."""
        return self._kept.blocks

    def voxels(self, roi: Roi) -> npt.NDArray[Any]:
        """Read a region inside of the view, in voxels of the volume.

        Raises
        ------
        BlockNotReadyError
            If blocks that it touches are not available.
        DamagedBlockError
            If the file of one is not what its description says.
        """
        self._check_open()
        self.check_ready(roi)
        out = np.empty(tuple(roi.shape), self.dtype)
        self._kept.read(roi, out)
        return out

    def write_data(self, roi: RoiLike, data: npt.NDArray[Any]) -> None:
        """Write a region. The blocks that it touches are not available until `set_block_status` says so.

        Raises
        ------
        VolumeError
            If the shape or dtype does not fit, the fileset is open to read only, or lazyflow holds a lock.
        """
        self._write(parse_roi(roi, self.shape, "view"), data, is_noted=False)

    def get_block_status(self, block_start: CoordinateLike) -> int:
        """Return whether a block is available: ``BLOCK_AVAILABLE`` or ``BLOCK_NOT_AVAILABLE``."""
        self._check_open()
        is_there = self._kept.status(self._index(block_start)).exists()
        return self.BLOCK_AVAILABLE if is_there else self.BLOCK_NOT_AVAILABLE

    def set_block_status(self, block_start: CoordinateLike, status: int) -> None:
        """Note that a block is available, or that it is not.

        Raises
        ------
        BlockNotReadyError
            If it is to be available, and has no file, or one that was clipped by a narrower view.
        DamagedBlockError
            If it is to be available, and its file is not sound.
        """
        self._check_writeable()
        index = self._index(block_start)
        if status not in (self.BLOCK_AVAILABLE, self.BLOCK_NOT_AVAILABLE):
            raise VolumeError(f"status {status!r} is neither BLOCK_AVAILABLE (1) nor BLOCK_NOT_AVAILABLE (0)")
        if status == self.BLOCK_NOT_AVAILABLE:
            self._kept.status(index).unlink(missing_ok=True)
            return
        block = self._kept.file(index)
        if not block.path.exists():
            raise BlockNotReadyError(f"block at {tuple(Coordinate(block_start))} has no file {block.path}: write it")
        block.check()
        self._kept.note_available(index)

    def get_dataset_path_components(self, block_start: CoordinateLike) -> DatasetPath:
        """Return where the voxels of the block that begins there are, or will be."""
        return self._kept.tree.components(self._kept.blocks.box(self._index(block_start)))

    def locked_blocks(self) -> list[Path]:
        """Return the locks of lazyflow that are in the tree, beside the files of blocks; readers ignore them."""
        return list(self._kept.tree.locks())

    def purge_all_locks(self) -> bool:
        """Remove all locks of lazyflow in the tree, and return whether there were any.

        A lock that is left over from a crash looks as one that is held: see to it that no lazyflow is at work.
        """
        locks = self.locked_blocks()
        for lock in locks:
            lock.unlink(missing_ok=True)
        return bool(locks)

    def fileset_description(self) -> FilesetDescription:
        """Describe the same blocks in a tree beside their description."""
        root = Path(self._description.dataset_root_dir)
        inside = "." if root.is_absolute() or ".." in root.parts else str(root)
        return replace(self._description, dataset_root_dir=inside)

    # Life.

    def close(self) -> None:
        """Refuse to read and write from now on, until `reopen`."""
        self._mode = None

    def reopen(self, mode: str) -> None:
        """Read, or read and write, from now on."""
        if mode not in MODES:
            raise VolumeError(f"mode {mode!r} is not one of {', '.join(map(repr, MODES))}")
        self._mode = mode

    def __repr__(self) -> str:
        return f"BlockwiseFileset({self.path!r}, shape={self.shape}, dtype={self.dtype}, mode={self._mode!r})"

    def _check_open(self) -> None:
        if self._mode is None:
            raise VolumeError(f"fileset {self.path} is closed: call reopen('r')")

    def _check_writeable(self) -> None:
        self._check_open()
        if not self.is_writeable:
            raise VolumeError(f"fileset {self.path} is open to read only: pass mode='r+', or call reopen('r+')")

    def check_ready(self, region: Roi) -> None:
        """Refuse a region, in voxels of the volume, that touches blocks which are not available."""
        parts = self._kept.parts(region)
        missing = [seen.begin for index, seen in parts if not self._kept.status(index).exists()]
        if missing:
            raise BlockNotReadyError(
                f"roi {shown(region - self.view.begin)} of {self.path} touches {len(missing)} blocks that are not "
                f"available, the first at {tuple(missing[0] - self.view.begin)}: write them, and call set_block_status"
            )

    def _write(self, region: Roi, data: npt.NDArray[Any], *, is_noted: bool) -> None:
        self._check_writeable()
        voxels = np.asarray(data)
        if voxels.shape != tuple(region.shape) or not holds(self.dtype, voxels.dtype):
            raise VolumeError(
                f"data is {voxels.dtype} of shape {voxels.shape}, {self.dtype} of shape {tuple(region.shape)} is due "
                f"for roi {shown(region)}"
            )
        voxels = voxels.astype(self.dtype, copy=False)
        self._kept.write(region.shift(self.view.begin), voxels, is_noted=is_noted)

    # lazyflow's names.
    read_description = staticmethod(read_description)
    write_description = staticmethod(write_description)
    readDescription = read_description
    writeDescription = write_description
    writeData = write_data
    getBlockStatus = get_block_status
    setBlockStatus = set_block_status
    getDatasetPathComponents = get_dataset_path_components
    purgeAllLocks = purge_all_locks
