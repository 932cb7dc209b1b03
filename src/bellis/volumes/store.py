"""Blocks as voxels and as files, by tensorstore."""

from __future__ import annotations

import re
from collections import deque
from typing import TYPE_CHECKING, Any

import numpy as np

from bellis.arrays.location import Location
from bellis.arrays.tensorstore import FAILURES, TensorStoreData, cause, library, spec_of
from bellis.errors import ArrayError, BlockNotReadyError, DamagedBlockError, VolumeError

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from bellis.volumes.marker import Marker


# What tensorstore says first of a block that it can't decode, as opposed to one that it can't read.
_DAMAGED = re.compile(r"^(DATA_LOSS|FAILED_PRECONDITION|INVALID_ARGUMENT|OUT_OF_RANGE): Error reading ")
_MISSING = re.compile(r"^NOT_FOUND: .*is missing", re.DOTALL)


def data_of(directory: Path, marker: Marker) -> TensorStoreData:
    """Return the blocks as one array; a block that is not there is an error."""
    spec = spec_of("zarr3", Location(str(directory)), "error")
    # A reader who waits for voxels may use all cores, as tensorstore itself does; half the throughput if not.
    spec["data_copy_concurrency"] = {"limit": "shared"}
    spec["kvstore"]["file_io_concurrency"] = {"limit": "shared"}
    return TensorStoreData(
        spec,
        path=str(directory),
        shape=marker.layout.shape,
        dtype=marker.layout.dtype,
        chunk_shape=marker.block_shape,
        write_shape=marker.block_shape,
        is_writeable=False,
    )


def read(data: TensorStoreData, slices: tuple[slice, ...]) -> npt.NDArray[Any]:
    """Return voxels.

    Raises
    ------
    BlockNotReadyError
        If a block is not there.
    DamagedBlockError
        If one is not what was written.
    VolumeError
        If the disk, or the permission, fails.
    """
    try:
        return data[slices]
    except ArrayError as error:
        reason = error.__cause__
        text = cause(reason) if isinstance(reason, Exception) else str(error)
        kind = (
            BlockNotReadyError if _MISSING.match(text) else DamagedBlockError if _DAMAGED.match(text) else VolumeError
        )
        voxels = ", ".join(f"{part.start}:{part.stop}" for part in slices)
        raise kind(f"can't read voxels [{voxels}] of the cache {data.path}: {text}") from error


class Encoder:
    """Turns blocks into what their files hold; for one process.

    tensorstore encodes into a store in memory, of which there is one for each block that is encoded at the same time.
    Written through its driver for files, a block would take a lock file and a flush to disk: three times as long.
    """

    def __init__(self, marker: Marker) -> None:
        self._marker = marker
        self._idle: deque[Any] = deque()

    def encode(self, voxels: npt.NDArray[Any]) -> bytes:
        """Return the file of a block; what it lacks of a whole one is filled with 0."""
        if voxels.shape != self._marker.block_shape:
            whole = np.zeros(self._marker.block_shape, dtype=voxels.dtype)
            whole[tuple(map(slice, voxels.shape))] = voxels
            voxels = whole
        key = "/".join(["c", *["0"] * voxels.ndim])
        try:
            store = self._idle.pop()
        except IndexError:
            store = self._made()
        try:
            store.write(voxels).result()
            text: bytes = store.kvstore[key]
            del store.kvstore[key]
        except FAILURES as error:
            raise VolumeError(f"can't encode a block of {voxels.shape} voxels: {cause(error)}") from error
        self._idle.append(store)
        return text

    def _made(self) -> Any:
        tensorstore, _ = library()
        metadata = self._marker.metadata() | {"shape": list(self._marker.block_shape)}
        spec = {"driver": "zarr3", "kvstore": {"driver": "memory"}, "metadata": metadata}
        try:
            return tensorstore.open(
                {**spec, "store_data_equal_to_fill_value": True}, create=True, context=tensorstore.Context()
            ).result()
        except FAILURES as error:
            raise VolumeError(f"tensorstore can't make blocks of {metadata}: {cause(error)}") from error
