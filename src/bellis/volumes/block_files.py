"""One block in one HDF5 file: read if it is what is due, written as a whole. No handle stays open."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

from bellis.arrays.hdf5_files import LOCK_WAIT_S, turns
from bellis.errors import ArrayError, BlockNotReadyError, DamagedBlockError, VolumeError
from bellis.volumes.tree import PARTIAL

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

    from bellis.volumes.descriptions import FilesetDescription


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockFile:
    """The file of one block."""

    path: Path
    """Where it is."""
    name: str
    """Path of the voxels in it."""
    dtype: np.dtype[Any]
    """What they must be."""
    shape: tuple[int, ...]
    """Voxels of the block, clipped at the end of the volume."""
    seen: tuple[int, ...]
    """Voxels of the block in the view: lazyflow stores no others, under the same name."""

    def read(self, slices: tuple[slice, ...] | None = None) -> npt.NDArray[Any]:
        """Return voxels, counted from where the block begins; all that are in the file, without ``slices``.

        Raises
        ------
        DamagedBlockError
            If the file is not there, can't be read as HDF5, or has another shape or dtype than is due.
        BlockNotReadyError
            If the file has less of the block than the view.
        """
        with self._dataset() as dataset:
            if slices is not None:
                self._check_extent(dataset)
            voxels: npt.NDArray[Any] = dataset[() if slices is None else slices]
        return voxels.astype(self.dtype, copy=False)

    def check(self) -> None:
        """Refuse a file that has not all voxels of the view, without reading them; raises as `read`."""
        with self._dataset() as dataset:
            self._check_extent(dataset)

    def write(self, voxels: npt.NDArray[Any], description: FilesetDescription) -> None:
        """Put a file in its place; readers see the one before, or this one.

        Raises
        ------
        VolumeError
            If it can't be written.
        """
        with put_in_place(self.path) as partial, turns().writing(str(partial), create=True) as file:
            make_dataset(file, self.name, voxels.shape, description)[...] = voxels

    @contextmanager
    def _dataset(self) -> Iterator[Any]:
        try:
            with turns().reading(str(self.path)) as file:
                yield self._checked(file.get(self.name))
        except FileNotFoundError as error:
            raise DamagedBlockError(
                f"block file {self.path} is not there, though its block is noted as available: write the block again"
            ) from error
        except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
            if isinstance(error, ArrayError):
                raise
            if getattr(error, "errno", None):
                raise VolumeError(f"block file {self.path} can't be read: {error}") from error
            raise DamagedBlockError(
                f"block file {self.path} is damaged: {error}: remove it, and write the block again"
            ) from error

    def _checked(self, dataset: Any) -> Any:
        """Return a dataset of numbers of the type and rank that is due, not larger than the block."""
        if not hasattr(dataset, "shape"):
            raise DamagedBlockError(f"block file {self.path} has no dataset {self.name!r}: write the block again")
        if dataset.dtype.kind not in "biufc":
            raise DamagedBlockError(
                f"block file {self.path} holds {dataset.dtype} in {self.name!r}, {self.dtype} is due: objects are not "
                "read, since that runs code from the file"
            )
        found = tuple(dataset.shape)
        is_due = len(found) == len(self.shape) and all(n <= most for n, most in zip(found, self.shape, strict=True))
        if dataset.dtype.newbyteorder("=") != self.dtype or not is_due:
            raise DamagedBlockError(
                f"block file {self.path} holds {dataset.dtype} of shape {found} in {self.name!r}, {self.dtype} of "
                f"shape {self.shape} is due: write the block again"
            )
        return dataset

    def _check_extent(self, dataset: Any) -> None:
        found = tuple(dataset.shape)
        if found not in (self.shape, self.seen) and any(n < due for n, due in zip(found, self.seen, strict=True)):
            raise BlockNotReadyError(
                f"block file {self.path} was clipped by a narrower view: it holds {found} voxels of a block of "
                f"{self.shape}, this view has {self.seen} of it: read it through that view, or write the block again"
            )


def make_dataset(file: Any, name: str, shape: tuple[int, ...], description: FilesetDescription) -> Any:
    """Make a dataset as a description says, with checksums, so that a flipped bit is not taken for data."""
    chunks = description.chunks and tuple(map(min, description.chunks, shape))
    dataset = file.create_dataset(
        name,
        shape=shape,
        dtype=description.dtype,
        chunks=chunks or True,
        compression=description.compression,
        compression_opts=description.compression_opts,
        fletcher32=True,
    )
    if description.drange is not None:
        dataset.attrs["drange"] = description.drange
    return dataset


@contextmanager
def put_in_place(path: Path, *, is_new_folder: bool = False) -> Iterator[Path]:
    """Give the name of a file to be written, and put it in the place of ``path`` when it is whole.

    With ``is_new_folder``, its folder is made if it is not there.

    Raises
    ------
    VolumeError
        If it can't be written.
    """
    partial = path.with_name(f".{secrets.token_hex(8)}{PARTIAL}")
    try:
        if is_new_folder:
            path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        partial.replace(path)
    except (OSError, RuntimeError, ValueError, TypeError) as error:
        if isinstance(error, ArrayError):
            raise
        raise VolumeError(f"{path} can't be written: {error}") from error
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def alone(directory: Path) -> Iterator[None]:
    """Be the only one, of all processes, who changes the block in a directory; make it if it is not there.

    Two who write parts of one block would lose what the other wrote. What holds a lock and is killed, leaves none.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise VolumeError(f"directory {directory} can't be made or opened: {error}") from error
    try:
        if _is_locked(descriptor, directory):
            # Nobody else writes here: these are of writers that were killed.
            for left in directory.glob(f".*{PARTIAL}"):
                left.unlink(missing_ok=True)
        yield
    finally:
        # By closing alone it would stay locked if another thread had forked in the meantime.
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def _is_locked(descriptor: int, directory: Path) -> bool:
    """Wait for a lock; false on a file system that has none for directories, where files are still whole."""
    begun = monotonic()
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if monotonic() > begun + LOCK_WAIT_S:
                raise VolumeError(
                    f"the block in {directory} has been locked for {LOCK_WAIT_S:.0f} s: is another process stopped?"
                ) from None
            sleep(0.002)
        except OSError:
            return False
        else:
            return True
