"""What a format of arrays does: the seam behind `open_ds` and `prepare_ds`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import numpy.typing as npt

    from bellis.arrays.layout import Layout
    from bellis.arrays.location import Location

BELLIS_ID = "bellis_id"
"""Attribute that tells a dataset from another one that is made in its place later."""

Missing: TypeAlias = Literal["fill", "error"]
"""What a chunk that is not there means: its fill value, or an error."""


DTYPES = (
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64", "complex64", "complex128"),
)
"""Names of the data types that arrays may have; a format may store fewer."""


class ArrayData(Protocol):
    """Voxels of one dataset, on disk or elsewhere.

    It is pickled as a description, and opened by each process at its first use.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels per axis, all axes."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Data type of a voxel, in native byte order."""

    @property
    def chunk_shape(self) -> tuple[int, ...] | None:
        """Voxels per axis that are read together; None if not chunked."""

    @property
    def write_shape(self) -> tuple[int, ...] | None:
        """Voxels per axis that one process may write at a time (a chunk or a shard); None if it does not matter."""

    @property
    def is_writeable(self) -> bool:
        """Whether voxels may be assigned."""

    def __getitem__(self, slices: tuple[slice, ...]) -> npt.NDArray[Any]:
        """Read into new memory; one slice of step 1 per axis, inside of the shape.

        Raises
        ------
        ArrayError
            If voxels can't be read; the message names the dataset.
        """

    def __setitem__(self, slices: tuple[slice, ...], voxels: npt.NDArray[Any]) -> None:
        """Write, and return when the voxels are stored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A dataset that was found."""

    data: ArrayData
    """Its voxels."""
    layout: Layout
    """Shape, dtype, axes and place, as its metadata says."""
    attrs: Mapping[str, Any] = field(default_factory=dict)
    """User attributes, as they are."""
    format: str
    """What it is, for people: ``"zarr 3"``."""
    compressor: str | None = None
    """How chunks are compressed, for people."""
    fill_value: Any = None
    """What voxels hold that were never written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewArray:
    """A dataset to be made."""

    layout: Layout
    """Shape, dtype, axes and place."""
    chunk_shape: tuple[int, ...]
    """Voxels per axis of a chunk, all axes."""
    shard_shape: tuple[int, ...] | None = None
    """Voxels per axis of a shard, a multiple of the chunks; None for no shards."""
    fill_value: Any = 0
    """What voxels hold that are never written, of the layout's dtype."""
    compressor: str | Mapping[str, Any] | None = "default"
    """As `prepare_ds` takes it."""
    attrs: Mapping[str, Any] = field(default_factory=dict)
    """User attributes."""


class Format(Protocol):
    """One format of datasets; made known by an entry point in the group ``bellis.formats``."""

    @property
    def name(self) -> str:
        """As in ``format=`` and in front of a URL: ``"zarr"``."""

    def claims(self, location: Location) -> bool:
        """Whether what is there, or would be by its name, is of this format; cheap, and never an error."""

    def datasets(self, location: Location) -> list[str]:
        """Return the names of the arrays below ``location``, relative to it; empty if there is none."""

    def open(self, location: Location, *, is_writeable: bool, missing: Missing) -> Stored | None:
        """Describe the dataset at ``location`` without reading voxels; None if there is none.

        Raises
        ------
        ArrayError
            If its metadata can't be understood, or it can't be written although that is asked.
        """

    def create(self, location: Location, new: NewArray) -> None:
        """Make an empty dataset where there is none; two processes that make the same one both succeed.

        Raises
        ------
        ArrayError
            If the format can't store what is asked, or is only read.
        """

    def delete(self, location: Location) -> None:
        """Remove a dataset, and nothing else."""
