"""What volumes kept in blocks have in common: a view, and lazyflow's names."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Self

from bellis.arrays.array import Array
from bellis.arrays.format import Stored
from bellis.errors import ArrayError, BlockNotReadyError, VolumeError
from bellis.geometry import Coordinate
from bellis.volumes.blocks import parse_roi, shown
from bellis.volumes.exporting import export_roi, export_subset

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    import numpy as np
    import numpy.typing as npt

    from bellis.arrays.layout import Layout
    from bellis.geometry import CoordinateLike, Roi
    from bellis.volumes.blocks import Blocks, Index, RoiLike
    from bellis.volumes.descriptions import FilesetDescription


class BlockwiseView(ABC):
    """A view of a volume that is kept in blocks.

    Regions are ``(start, stop)`` in voxels of the view, as lazyflow has them, or a `Roi`.
    """

    BLOCK_NOT_AVAILABLE = 0
    BLOCK_AVAILABLE = 1
    BlockNotReadyError = BlockNotReadyError

    kind: ClassVar[str]
    """What it is, for people."""
    layout: Layout
    """Shape, dtype and place of the view."""
    view: Roi
    """The view, in voxels of the volume."""

    @property
    @abstractmethod
    def blocks(self) -> Blocks:
        """Blocks of the whole volume."""

    @abstractmethod
    def voxels(self, roi: Roi) -> npt.NDArray[Any]:
        """Read a region inside of the view, in voxels of the volume."""

    def check_ready(self, region: Roi) -> None:  # noqa: B027  (most have nothing to refuse)
        """Refuse a region that can't be read as things are; here, what is not there can be fetched."""

    @abstractmethod
    def fileset_description(self) -> FilesetDescription:
        """Describe how the blocks would be kept as HDF5 files, relative to the description file."""

    @abstractmethod
    def close(self) -> None:
        """Release what is open."""

    @property
    @abstractmethod
    def path(self) -> str:
        """Where it is, for people."""

    @abstractmethod
    def __getitem__(self, slices: tuple[slice, ...]) -> npt.NDArray[Any]:
        """Read voxels of the view."""

    @abstractmethod
    def __setitem__(self, slices: tuple[slice, ...], voxels: npt.NDArray[Any]) -> None:
        """Write voxels of the view, or refuse."""

    @property
    @abstractmethod
    def is_writeable(self) -> bool:
        """Whether voxels may be assigned."""

    @property
    @abstractmethod
    def write_shape(self) -> tuple[int, ...] | None:
        """Voxels per axis that one process may write at a time; None if it can't."""

    @property
    def chunk_shape(self) -> tuple[int, ...]:
        """Voxels of a block."""
        return self.blocks.block_shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Data type of a voxel."""
        return self.layout.dtype

    @property
    def array(self) -> Array:
        """The view as an array in world units, counted from the origin of the volume."""
        return Array.of(Stored(data=self, layout=self.layout, format=self.kind))

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels of the view."""
        return self.layout.shape

    def block_indices(self, roi: Roi | None = None) -> Iterator[Index]:
        """Yield the blocks of the view, or of a part of it in voxels of the volume, in C order."""
        return self.blocks.touched(self.view if roi is None else roi)

    def read_data(self, roi: RoiLike, out_array: npt.NDArray[Any] | None = None) -> npt.NDArray[Any]:
        """Read a region of the view.

        Parameters
        ----------
        roi
            ``(start, stop)`` or a `Roi`, in voxels of the view.
        out_array
            Filled and returned if given; of the region's shape, and the volume's dtype.
        """
        box = parse_roi(roi, self.shape, "view")
        due = tuple(box.shape)
        if out_array is not None and (tuple(out_array.shape) != due or out_array.dtype != self.dtype):
            raise VolumeError(
                f"out_array is {out_array.dtype} of shape {tuple(out_array.shape)}, {self.dtype} of shape {due} is due "
                f"for roi {shown(box)}"
            )
        voxels = self.voxels(box + self.view.begin)
        if out_array is None:
            return voxels
        out_array[...] = voxels
        return out_array

    def get_entire_block_roi(self, block_start: CoordinateLike) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return ``(start, stop)`` of a block in voxels of the view, clipped at its end."""
        return self._in_view(self._index(block_start))

    def get_all_block_rois(self) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        """Return ``(start, stop)`` of all blocks of the view, in its voxels."""
        return [self._in_view(index) for index in self.block_indices()]

    def export_roi_to_hdf5(
        self, roi: RoiLike, export_directory: str | os.PathLike[str], use_view_coordinates: bool = True
    ) -> str:  # fmt: skip
        """Write a region into one HDF5 file, named by where it is in the whole volume.

        Parameters
        ----------
        roi
            ``(start, stop)``, in voxels of the view, or of the volume.
        export_directory
            Where the file goes.
        use_view_coordinates
            Whether ``roi`` is in voxels of the view.

        Returns
        -------
        str
            Path of the file, and of the voxels within it.
        """
        return export_roi(self, self._parsed(roi, in_view=use_view_coordinates), export_directory)

    def export_subset(
        self, roi: RoiLike, export_directory: str | os.PathLike[str], use_view_coordinates: bool = True
    ) -> str:  # fmt: skip
        """Write whole blocks into a new `BlockwiseFileset`.

        Parameters
        ----------
        roi
            ``(start, stop)``, which begins and ends with blocks or with the volume.
        export_directory
            Where it goes.
        use_view_coordinates
            Whether ``roi`` is in voxels of the view.

        Returns
        -------
        str
            Path of its description file.
        """
        return export_subset(self, self._parsed(roi, in_view=use_view_coordinates), export_directory)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _index(self, block_start: CoordinateLike) -> Index:
        """Return which block begins there, in voxels of the view."""
        start = Coordinate(block_start)
        if start.dims == self.view.dims and None not in start and self.view.contains(start + self.view.begin):
            at = start + self.view.begin
            index = tuple([k // size for k, size in zip(at, self.blocks.block_shape, strict=True)])
            if self._in_view(index)[0] == tuple(start):  # the view may begin within a block
                return index
        raise VolumeError(f"no block of the view of shape {self.shape} begins at {tuple(start)}")

    def _in_view(self, index: Index) -> tuple[tuple[int, ...], tuple[int, ...]]:
        box = self.blocks.box(index).intersect(self.view) - self.view.begin
        return tuple(box.begin), tuple(box.end)

    def _parsed(self, roi: RoiLike, *, in_view: bool) -> Roi:
        """Return a region of the view in voxels of the volume."""
        if in_view:
            return parse_roi(roi, self.shape, "view") + self.view.begin
        found = parse_roi(roi, self.blocks.shape)
        if not self.view.contains(found):
            raise ArrayError(f"roi {shown(found)} is not inside of the view {shown(self.view)}")
        return found

    readData = read_data
    getEntireBlockRoi = get_entire_block_roi
    getAllBlockRois = get_all_block_rois
    exportRoiToHdf5 = export_roi_to_hdf5
    exportSubset = export_subset
