"""A remote volume that is read through a local cache of blocks."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from bellis.errors import ArrayError, BellisError, BlockNotReadyError, DamagedBlockError, DownloadError, VolumeError
from bellis.volumes.blocks import parse_roi, roi_of, shown, slices_of
from bellis.volumes.blockwise import BlockwiseView
from bellis.volumes.description import read_description, write_description
from bellis.volumes.descriptions import CompositeDescription, FilesetDescription, VolumeDescription
from bellis.volumes.fetching import CLOSED, Fetcher, Outcome, Statistics
from bellis.volumes.legacy import LazyflowTree
from bellis.volumes.setup import Setup, view_layout
from bellis.volumes.source import PARALLEL, Patience

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy.typing as npt

    from bellis.arrays import Array
    from bellis.arrays.layout import Layout
    from bellis.geometry import CoordinateLike, Roi
    from bellis.volumes.blocks import Blocks, Index, RoiLike
    from bellis.volumes.cache import BlockCache
    from bellis.volumes.descriptions import AnyDescription, Compression
    from bellis.volumes.source import MissingPolicy, Source


class CachedVolume(BlockwiseView):
    """A volume that is elsewhere, read like an array: each block is fetched once, and kept.

    Blocks are kept in a folder that is a plain zarr array, which any number of processes and machines may share:
    see `BlockCache`. What is there is never asked for again. A read returns voxels, or raises; it never returns
    something else, and never waits longer than `Patience` says.

    Reads are for several threads at once. What travels to another process is the description.

    Parameters
    ----------
    description
        A description file, or what it says: of schema ``bellis-volume-description``, or lazyflow's
        ``RESTful-blockwise-fileset-description``.
    folder
        What relative paths in it are relative to; the folder of the file if not given, or the current one.

    Raises
    ------
    DescriptionError
        If the file has mistakes in it.
    CacheMismatchError
        If the cache was filled from another source, or in other blocks.

    Notes
    -----
    The cache is made if it is not there. For a zarr, N5 or precomputed source, the server is then asked for its
    metadata; else no request is made before the first block is missing.
    """

    kind = "cached volume"

    def __init__(
        self,
        description: str | os.PathLike[str] | VolumeDescription | CompositeDescription,
        *,
        folder: str | os.PathLike[str] | None = None,
    ) -> None:
        if isinstance(description, str | os.PathLike):
            folder = folder or Path(description).absolute().parent
            said = read_description(description)
        else:
            said = description
        if not isinstance(said, VolumeDescription | CompositeDescription):
            raise ArrayError(
                f"{type(said).__name__} does not say where blocks come from and where they are kept: "
                "open_volume(path) opens what such a file describes"
            )
        self._become(Setup.of(said, Path(folder or ".").absolute()), said)

    @classmethod
    def over(
        cls,
        source: Source | Array | str | os.PathLike[str],
        directory: str | os.PathLike[str],
        *,
        name: str = "volume",
        block_shape: Sequence[int] | None = None,
        compression: Compression = "zstd",
        max_bytes: int | None = None,
        patience: Patience | None = None,
        parallel: int = PARALLEL,
        missing: MissingPolicy = "error",
    ) -> Self:
        """Return any array or source, read through a cache.

        Parameters
        ----------
        source
            The path or URL of a zarr, N5 or precomputed array, as `bellis.open_ds` takes it; an array that was opened
            from a path; or where else voxels come from: see `Source`.
        directory
            Where blocks are kept.
        name
            Of the volume, for people.
        block_shape
            Voxels of a block, all axes; what the source prefers if not given.
        compression
            ``"zstd"``, ``"blosc"`` or ``"none"``.
        max_bytes
            Bytes above which what was not read for the longest time is dropped; None for no bound.
        patience
            How long blocks are waited for.
        parallel
            Blocks that this process asks for at the same time.
        missing
            What a block means that the source does not have: ``"error"``, or ``"fill"`` for zeros.
        """
        setup = Setup.over(
            source,
            name=name,
            patience=patience or Patience(),
            parallel=parallel,
            directory=Path(directory).absolute(),
            block_shape=tuple(block_shape) if block_shape is not None else None,
            compression=compression,
            max_bytes=max_bytes,
            missing=missing,
        )
        volume = object.__new__(cls)
        volume._become(setup, None)
        return volume

    def _become(self, setup: Setup, description: AnyDescription | None) -> None:
        if setup.parallel < 1:
            raise ArrayError(f"parallel must be 1 or more, not {setup.parallel}")
        self._setup = setup
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._fetcher: Fetcher | None = None
        self._is_closed = False
        self._lazyflow = LazyflowTree(setup.legacy, setup.folder)
        self.description = description
        self.name = setup.name
        self.cache: BlockCache = setup.cache()
        self.view: Roi = setup.view(self.cache.layout.shape)
        self.layout: Layout = view_layout(self.cache.layout, self.view)

    def __getstate__(self) -> tuple[Setup, AnyDescription | None]:
        return self._setup, self.description

    def __setstate__(self, state: tuple[Setup, AnyDescription | None]) -> None:
        self._become(*state)

    @property
    def write_shape(self) -> None:
        """Nothing can be written."""
        return

    @property
    def is_writeable(self) -> bool:
        """Voxels can't be assigned: they are the source's."""
        return False

    @property
    def path(self) -> str:
        """Folder of the cache."""
        return str(self.cache.directory)

    @property
    def blocks(self) -> Blocks:
        """Blocks of the whole volume, of which this is a view."""
        return self.cache.blocks

    @property
    def parallel(self) -> int:
        """Blocks that this process asks for at the same time."""
        return self._setup.parallel

    @property
    def statistics(self) -> Statistics:
        """What this process has done to have its blocks."""
        return Statistics() if self._fetcher is None else replace(self._fetcher.statistics)

    @property
    def is_checked(self) -> bool | None:
        """Whether what the source sends has a checksum; None as long as nothing has come."""
        return None if self._fetcher is None else self._fetcher.is_checked

    def __getitem__(self, slices: tuple[slice, ...]) -> npt.NDArray[Any]:
        """Read voxels of the view; blocks that are not there are fetched.

        Raises
        ------
        VolumeError
            If a block can't be had; the message says which, and why.
        """
        return self.voxels(roi_of(slices, self.shape) + self.view.begin)

    def __setitem__(self, slices: tuple[slice, ...], voxels: npt.NDArray[Any]) -> None:
        """Refuse: what is kept is what the source has."""
        raise VolumeError(f"volume {self.name!r} is only read: copy it first, bellis.ops.copy(volume.array, path)")

    def voxels(self, roi: Roi) -> npt.NDArray[Any]:
        """Read voxels of the volume."""
        if roi.empty:
            return np.empty(tuple(roi.shape), self.dtype)
        if self._is_closed:
            raise VolumeError(f"volume {self.name!r} is closed: reopen() it")
        touched = list(self.blocks.touched(roi))
        # As long as nothing was missing, nothing is looked for: that is 4 % of a read.
        missing = [] if self._fetcher is None else self._absent(touched)
        if not missing:
            try:
                return self.cache.read(roi)
            except BlockNotReadyError:
                missing = self._absent(touched)
            except DamagedBlockError:
                missing = touched
        out = np.empty(tuple(roi.shape), self.dtype)
        fetched = self._fetching().obtain(missing)
        others = self._read_into(out, roi, set(touched).difference(missing))
        self._paste_into(out, roi, fetched)
        self._paste_into(out, roi, self._fetching().obtain(others))
        return out

    def _absent(self, indices: Iterable[Index]) -> list[Index]:
        return [index for index in indices if not self.cache.has(index)]

    def _read_into(self, out: npt.NDArray[Any], roi: Roi, indices: Iterable[Index]) -> list[Index]:
        """Read what the cache has of a region; return the blocks that are damaged, or not there any more."""
        failed = []
        for index in indices:
            common = self.blocks.box(index).intersect(roi)
            try:
                out[slices_of(common, roi.begin)] = self.cache.read(common)
            except (BlockNotReadyError, DamagedBlockError):
                failed.append(index)
        return failed

    def _paste_into(self, out: npt.NDArray[Any], roi: Roi, outcomes: Iterable[tuple[Index, Outcome]]) -> None:
        for index, outcome in outcomes:
            if isinstance(outcome, BellisError):
                raise outcome
            box = self.blocks.box(index)
            common = box.intersect(roi)
            out[slices_of(common, roi.begin)] = outcome[slices_of(common, box.begin)]

    def _fetching(self) -> Fetcher:
        """Return this process' fetcher."""
        with self._own_lock():
            if self._is_closed:
                raise VolumeError(CLOSED)
            if self._fetcher is None:
                self._fetcher = self._new_fetcher(self._setup.parallel)
            return self._fetcher

    def _own_lock(self) -> threading.Lock:
        """Return this process' lock; after a fork, threads are gone, and locks may be held for ever."""
        if self._pid != os.getpid():
            self._lock, self._fetcher, self._pid = threading.Lock(), None, os.getpid()
        return self._lock

    def _new_fetcher(self, parallel: int) -> Fetcher:
        setup = self._setup
        return Fetcher(
            self.cache,
            setup.connect,
            patience=setup.patience,
            parallel=parallel,
            missing=setup.missing,
            adopt=lambda index: self._lazyflow.read(self.blocks.box(index)),
        )

    def fetch_blocks(self, indices: Iterable[Index]) -> list[tuple[Index, str]]:
        """Fetch and keep the blocks that are not there; go on after failures, and return those with their reasons."""
        outcomes = self._fetching().obtain(self._absent(indices), may_give_up=True)
        return [(index, str(outcome)) for index, outcome in outcomes if isinstance(outcome, BellisError)]

    def verify_block(self, index: Index) -> str | None:
        """Return what is wrong with a block; None if it is sound, or not there."""
        try:
            self.cache.read_block(index)
        except DamagedBlockError as error:
            return str(error)
        return None

    def download_all_blocks(self, max_parallel: int = PARALLEL, skip_preparation: bool = False) -> None:  # lazyflow's
        """Fetch and keep all blocks of the view that are not there, in this process.

        `bellis.ops.download` does so in many processes, and shows how far it is.

        Parameters
        ----------
        max_parallel
            Blocks that are asked for at the same time.
        skip_preparation
            Means nothing: there is nothing to prepare.

        Raises
        ------
        DownloadError
            When all others are there: for the blocks that could not be had, which are its ``failed``.
        """
        fetcher = self._new_fetcher(max_parallel)
        try:
            failed = [
                (tuple(self.blocks.box(index).begin), str(outcome))
                for index, outcome in fetcher.obtain(self._absent(self.block_indices()), may_give_up=True)
                if isinstance(outcome, BellisError)
            ]
        finally:
            fetcher.close()
        if failed:
            raise DownloadError(
                f"{len(failed)} blocks of volume {self.name!r} could not be downloaded, the first at {failed[0][0]}: "
                f"{failed[0][1]}",
                tuple(failed),
            )

    def write_data(self, roi: RoiLike, data: npt.NDArray[Any]) -> None:
        """Refuse: what is kept is what the source has."""
        self[slices_of(parse_roi(roi, self.shape, "view"))] = data

    def get_block_status(self, blockstart: CoordinateLike) -> int:
        """Return whether the block that begins at ``blockstart``, in voxels of the view, is kept."""
        index = self._index(blockstart)
        return int(self.cache.has(index) or self._lazyflow.has(self.blocks.box(index)))

    def set_block_status(self, blockstart: CoordinateLike, status: int) -> None:
        """Drop a block, with ``BLOCK_NOT_AVAILABLE``; a block becomes available by being fetched, and by nothing else.

        Raises
        ------
        BlockNotReadyError
            If a block is called available that is not there.
        """
        index = self._index(blockstart)
        if status == self.BLOCK_NOT_AVAILABLE:
            self.cache.drop(index)
        elif not self.cache.has(index):
            raise BlockNotReadyError(
                f"block {shown(self.blocks.box(index))} of volume {self.name!r} is not there: fetch_blocks([{index}])"
            )

    def get_dataset_path_components(self, block_start: CoordinateLike) -> Any:
        """Return where the file of a block is: a chunk of a zarr array, without a path within."""
        from bellis.volumes.tree import DatasetPath

        path = self.cache.path_of(self._index(block_start))
        return DatasetPath(external_directory=str(path.parent), external_path=str(path), internal_path="")

    def fileset_description(self) -> FilesetDescription:
        """Describe how the blocks would be kept as HDF5 files: as the description says, if it is lazyflow's."""
        if (local := self._lazyflow.description) is not None:
            return replace(local, view_origin=tuple(self.view.begin), view_shape=self.shape, dataset_root_dir=".")
        return FilesetDescription(
            name=self.name,
            axes="".join(self.layout.axis_names),
            shape=self.blocks.shape,
            dtype=self.dtype,
            block_shape=self.blocks.block_shape,
            view_origin=tuple(self.view.begin),
            view_shape=self.shape,
            block_file_name_format="block-{roiString}.h5/volume",
        )

    def locked_blocks(self) -> list[Path]:
        """Return locks that a crash of lazyflow has left; they stop nobody."""
        return self._lazyflow.locks()

    def purge_all_locks(self) -> bool:
        """Remove what killed processes have left: locks of lazyflow, leases, files under temporary names.

        It need not be called: nothing of that is in anybody's way.

        Returns
        -------
        bool
            Whether there was any.
        """
        were_locked = self._lazyflow.purge_locks()
        return bool(self.cache.sweep()) or were_locked

    def close(self) -> None:
        """End the threads that fetch; reads are refused from now on."""
        with self._own_lock():
            fetcher, self._fetcher, self._is_closed = self._fetcher, None, True
        if fetcher is not None:
            fetcher.close()

    def reopen(self, mode: str = "r") -> None:
        """Read again after `close`."""
        if mode != "r":
            raise ArrayError(f"mode {mode!r}: a cached volume is only read, mode='r'")
        self._is_closed = False

    def __repr__(self) -> str:
        return f"CachedVolume({self.name!r}, shape={self.shape}, {self.dtype}, kept in {self.path})"

    read_description = staticmethod(read_description)
    write_description = staticmethod(write_description)
    readDescription = read_description
    writeDescription = write_description
    writeData = write_data
    getBlockStatus = get_block_status
    setBlockStatus = set_block_status
    getDatasetPathComponents = get_dataset_path_components
    purgeAllLocks = purge_all_locks
    downloadAllBlocks = download_all_blocks
