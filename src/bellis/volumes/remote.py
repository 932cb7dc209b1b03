"""A volume behind a server, read without a cache."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from bellis.arrays import Array
from bellis.arrays.format import Stored
from bellis.errors import ArrayError, VolumeError
from bellis.volumes.blocks import parse_roi, roi_of, shown, slices_of
from bellis.volumes.description import read_description, write_description
from bellis.volumes.descriptions import (
    Access,
    ChunkedDescription,
    CompositeDescription,
    CutoutDescription,
    RemoteDescription,
    VolumeDescription,
)
from bellis.volumes.pieces import pieces
from bellis.volumes.setup import layout_of, view_layout, view_of
from bellis.volumes.source import Patience
from bellis.volumes.sources import source_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from bellis.arrays.layout import Layout
    from bellis.geometry import Roi
    from bellis.volumes.blocks import RoiLike
    from bellis.volumes.descriptions import AnyDescription
    from bellis.volumes.source import Source

PARALLEL = 16
"""Requests at the same time, if nothing is said."""


class RemoteVolume:
    """A volume behind a server; every read asks it. `CachedVolume` keeps what came.

    It is read only, and pickled as its description. lazyflow calls it ``RESTfulVolume``.

    Parameters
    ----------
    description_path
        A description file; of a composite one, the remote part is meant.
    preparsed_description
        In place of the file, what it says.

    Raises
    ------
    DescriptionError
        If the file is not there or has mistakes.
    ArrayError
        If it describes no server.
    """

    def __init__(
        self,
        description_path: str | os.PathLike[str] | None = None,
        preparsed_description: AnyDescription | CutoutDescription | ChunkedDescription | None = None,
    ) -> None:
        if preparsed_description is None:
            if description_path is None:
                raise ArrayError("pass a description file, or preparsed_description")
            preparsed_description = read_description(description_path)
        self.description = preparsed_description
        self._become(*_source_of(preparsed_description, description_path))

    @classmethod
    def over(cls, source: Source, *, patience: Patience | None = None, parallel: int = PARALLEL) -> Self:
        """Return any source as a volume.

        Parameters
        ----------
        source
            Where voxels come from.
        patience
            How long a block is waited for, and how often it is asked for.
        parallel
            Requests at the same time.
        """
        volume = cls.__new__(cls)
        volume.__setstate__((None, source, patience or Patience(), parallel))
        return volume

    description: AnyDescription | CutoutDescription | ChunkedDescription | None
    """What it was made from; None if it is over a source."""

    def _become(self, source: Source, patience: Patience, parallel: int) -> None:
        if parallel < 1:
            raise ArrayError(f"parallel={parallel}: at least one request at a time")
        self.source = source
        self._patience = patience
        self._parallel = parallel
        self._is_closed = False

    def __getstate__(self) -> tuple[Any, ...]:
        return self.description, self.source, self._patience, self._parallel

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.description = state[0]
        self._become(*state[1:])

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels per axis."""
        return self._view.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Data type of a voxel."""
        return self.layout.dtype

    @property
    def layout(self) -> Layout:
        """Where the volume, or the view that its description asks for, is in the world."""
        return view_layout(layout_of(self.source), self._view)

    @property
    def chunk_shape(self) -> tuple[int, ...] | None:
        """Voxels that the server has together; None if it does not matter."""
        return self.source.preferred_block

    @property
    def write_shape(self) -> None:
        """Nothing can be written."""
        return

    @property
    def is_writeable(self) -> bool:
        """Voxels can't be assigned."""
        return False

    @property
    def path(self) -> str:
        """Where it is, for people."""
        return str(getattr(self.source, "path", type(self.source).__name__))

    @property
    def array(self) -> Array:
        """The volume as an array in world units."""
        return Array.of(Stored(data=self, layout=self.layout, format="remote volume"))

    def __getitem__(self, slices: tuple[slice, ...]) -> npt.NDArray[Any]:
        """Read into new memory.

        Raises
        ------
        FetchError
            If a block can't be had; the message says which, and why. Others are then not asked for any more.
        """
        return self._read(roi_of(slices, self.shape))

    def __setitem__(self, slices: tuple[slice, ...], voxels: npt.NDArray[Any]) -> None:
        """Refuse."""
        raise VolumeError(f"{self.path} is only read: copy it first, bellis.ops.copy(volume.array, path)")

    def read_data(self, roi: RoiLike, out_array: npt.NDArray[Any] | None = None) -> npt.NDArray[Any]:
        """Read a region.

        Parameters
        ----------
        roi
            ``(start, stop)`` in voxels, or a `Roi`.
        out_array
            Filled and returned if given; of the region's shape and the volume's dtype.
        """
        box = parse_roi(roi, self.shape)
        if out_array is None:
            return self._read(box)
        if out_array.shape != tuple(box.shape) or out_array.dtype != self.dtype:
            raise ArrayError(
                f"out_array has shape {out_array.shape} and dtype {out_array.dtype}: region {shown(box)} has "
                f"{tuple(box.shape)} and {self.dtype}"
            )
        for part, voxels in self._pieces(box):
            out_array[slices_of(part, box.begin)] = voxels
        return out_array

    def download_sub_volume(self, roi: RoiLike, path: str | os.PathLike[str]) -> None:
        """Read a region into a new HDF5 file; there is the whole file, or none.

        Parameters
        ----------
        roi
            ``(start, stop)`` in voxels, or a `Roi`.
        path
            File and path within it: ``cutout.h5/volume/data``.

        Raises
        ------
        VolumeError
            If voxels can't be had, or written; a file that was there is left then.
        """
        box = parse_roi(roi, self.shape)
        file, inner = _split(path)
        try:
            import h5py  # type: ignore[import-untyped, unused-ignore]
        except ImportError as error:
            raise ArrayError("HDF5 files need h5py: pip install 'bellis[hdf5]'") from error
        partial = file.with_name(f".{file.name}.{os.urandom(6).hex()}.partial")
        try:
            with h5py.File(partial, "w-") as made:
                dataset = made.create_dataset(inner, shape=tuple(box.shape), dtype=self.dtype)
                for part, voxels in self._pieces(box):
                    dataset[slices_of(part, box.begin)] = voxels
            partial.replace(file)
        except OSError as error:
            if isinstance(error, VolumeError):
                raise
            raise VolumeError(f"{file} can't be written: {error}") from error
        finally:
            partial.unlink(missing_ok=True)

    def close(self) -> None:
        """Release connections; reads are refused from now on."""
        self._is_closed = True
        release = getattr(self.source, "close", None)
        if release is not None:
            release()

    def reopen(self, mode: str = "r") -> None:
        """Read again after `close`."""
        if mode != "r":
            raise ArrayError(f"mode {mode!r}: a remote volume is only read, mode='r'")
        self._is_closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"RemoteVolume({self.path})"

    @property
    def _view(self) -> Roi:
        """The view, in voxels of the source."""
        said, whole = self.description, self.source.domain
        if not isinstance(said, VolumeDescription):
            return whole
        return view_of(said.view_origin, said.view_shape, tuple(whole.shape), said.name)

    def _read(self, box: Roi) -> npt.NDArray[Any]:
        out = np.empty(tuple(box.shape), self.dtype)
        if not box.empty:
            for part, voxels in self._pieces(box):
                out[slices_of(part, box.begin)] = voxels
        return out

    def _pieces(self, box: Roi) -> Iterator[tuple[Roi, npt.NDArray[Any]]]:
        """Yield a region of the view piece by piece."""
        if self._is_closed:
            raise VolumeError(f"{self.path} is closed: reopen() it")
        origin = self._view.begin
        for part, voxels in pieces(self.source, box + origin, self._patience, self._parallel):
            yield part - origin, voxels

    read_description = staticmethod(read_description)
    write_description = staticmethod(write_description)
    readDescription = read_description
    writeDescription = write_description
    readData = read_data
    downloadSubVolume = download_sub_volume


def _source_of(description: Any, path: object) -> tuple[Source, Patience, int]:
    """Return the source that a description tells of, and how it is asked."""
    if isinstance(description, CompositeDescription):
        description = description.remote_description
    if isinstance(description, VolumeDescription):
        source = source_of(
            description.source, description.access, description.patience, description.parallel, name=description.name
        )
        return source, description.patience, description.parallel
    if isinstance(description, RemoteDescription | CutoutDescription | ChunkedDescription):
        return source_of(description, Access(), Patience(), PARALLEL), Patience(), PARALLEL
    raise ArrayError(
        f"{path or type(description).__name__} describes no server, but files: BlockwiseFileset opens them"
    )


def _split(path: str | os.PathLike[str]) -> tuple[Path, str]:
    """Return the file and the path within it."""
    parts = Path(path).parts
    ends = [k for k, part in enumerate(parts, 1) if part.lower().endswith((".h5", ".hdf5", ".hdf", ".ilp"))]
    if not ends or ends[0] == len(parts):
        raise ArrayError(f"{path} is not a file that ends in .h5 and a path within it: 'cutout.h5/volume/data'")
    return Path(*parts[: ends[0]]), "/".join(parts[ends[0] :])
