"""What description files say, as values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from bellis.volumes.source import PARALLEL, Patience

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    from bellis.volumes.source import MissingPolicy

Payload: TypeAlias = Literal["hdf5", "npy", "npz", "raw", "blosc", "png", "jpeg", "tiff"]
"""What a cut-out server answers with."""
Compression: TypeAlias = Literal["zstd", "blosc", "none"]
"""How a cache compresses its blocks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FilesetDescription:
    """``blockwise-fileset-description``: how a volume is kept as one file per block."""

    name: str
    """Of the volume, for people."""
    format: str = "hdf5"
    """Of the block files."""
    axes: str
    """One letter per axis, of t, z, y, x, c."""
    shape: tuple[int, ...]
    """Voxels of the whole volume."""
    dtype: np.dtype[Any]
    """Data type of a voxel."""
    drange: tuple[float, float] | None = None
    """Least and largest value, kept with each block."""
    chunks: tuple[int, ...] | None = None
    """Chunks in a block file."""
    compression: str | None = None
    """Of a block file: ``gzip``, ``lzf``, ..."""
    compression_opts: int | None = None
    """Its level."""
    block_shape: tuple[int, ...]
    """Voxels of a block."""
    view_origin: tuple[int, ...]
    """Where the view begins, at the corner of a block."""
    view_shape: tuple[int, ...]
    """Voxels of the view; its end may cut blocks."""
    block_file_name_format: str
    """With ``{roiString}``; a file name and a path within the file: ``block-{roiString}.h5/cube``."""
    dataset_root_dir: str = "."
    """Where the tree is, relative to the description file."""
    hash_id: str | None = None
    """Not used."""
    sub_block_shape: tuple[int, ...] | None = None
    """Parts of a block; since schema 1.1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteDescription:
    """``RESTful-volume-description``: a server that cuts HDF5 files out of a volume."""

    name: str
    """Of the volume, for people."""
    format: str = "hdf5"
    """Of what the server sends."""
    axes: str
    """One letter per axis, of t, z, y, x, c."""
    dtype: np.dtype[Any]
    """Data type of a voxel."""
    bounds: tuple[int, ...]
    """End of the volume in the server's coordinates."""
    origin_offset: tuple[int, ...]
    """Added to coordinates before they go into a URL."""
    shape: tuple[int, ...]
    """Voxels of the volume: bounds - origin_offset."""
    url_format: str
    """With ``{x_start}``, ``{x_stop}`` and so on."""
    hdf5_dataset: str
    """Path of the voxels in the HDF5 file, without slashes at its ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompositeDescription:
    """``RESTful-blockwise-fileset-description``: a server, and how its blocks are kept."""

    remote_description: RemoteDescription
    """The server."""
    local_description: FilesetDescription
    """The blocks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CutoutDescription:
    """A server that cuts regions out of a volume, whatever it sends them as."""

    url_format: str
    """With ``{x_start}``, ``{x_stop}``, ``{x_size}`` and so on."""
    payload: Payload
    """What it sends."""
    axes: tuple[str, ...]
    """Name of each axis, in the order in which voxels are presented."""
    payload_axes: tuple[str, ...]
    """The same names, in the order of what the server sends, slowest first: a Fortran-ordered x, y, z is z, y, x."""
    dtype: np.dtype[Any]
    """Data type of a voxel, native."""
    payload_dtype: np.dtype[Any]
    """The same, in the byte order that the server sends."""
    shape: tuple[int, ...]
    """Voxels of the volume."""
    origin_offset: tuple[int, ...]
    """Added to coordinates before they go into a URL."""
    hdf5_dataset: str | None = None
    """Path of the voxels in an HDF5 file."""
    preferred_block: tuple[int, ...] | None = None
    """Voxels that the server has together."""
    is_confirmed: bool = False
    """Ask twice for what comes without a checksum, until two answers agree."""
    voxel_size: tuple[str | int | float, ...] | None = None
    """World units per voxel and physical axis."""
    offset: tuple[str | int | float, ...] | None = None
    """Where the volume begins, in world units."""
    units: str | tuple[str, ...] | None = None
    """Of voxel size and offset."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkedDescription:
    """A zarr, N5 or precomputed array, or an OME-Zarr image, wherever it is."""

    url: str
    """As `bellis.open_ds` takes it, absolute."""
    name: str | None = None
    """Path within the container."""
    format: str | None = None
    """``"zarr"``, ``"n5"``, ``"precomputed"``; found out if not said."""
    voxel_size: tuple[str | int | float, ...] | None = None
    """In place of what its metadata says."""
    offset: tuple[str | int | float, ...] | None = None
    """In place of what its metadata says."""
    units: str | tuple[str, ...] | None = None
    """In place of what its metadata says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Who we are, for the server: by names of environment variables, never by secrets."""

    token_env: str | None = None
    """Variable with a bearer token."""
    headers_env: Mapping[str, str] = field(default_factory=dict)
    """Header -> variable with what it says."""
    netrc: bool = False
    """Look up user and password in ``~/.netrc``, or the file that the variable ``NETRC`` names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheDescription:
    """How blocks are kept."""

    directory: str
    """Absolute path."""
    block_shape: tuple[int, ...] | None = None
    """Voxels of a block; what the source prefers, if not said."""
    compression: Compression = "zstd"
    """How they are compressed."""
    max_bytes: int | None = None
    """Bytes on disk above which what was not read for the longest time is dropped; None for no bound."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeDescription:
    """``bellis-volume-description``: any source, and how its blocks are kept."""

    name: str
    """Of the volume, for people."""
    source: CutoutDescription | ChunkedDescription
    """Where voxels come from."""
    cache: CacheDescription
    """Where they are kept."""
    view_origin: tuple[int, ...] | None = None
    """Voxel at which the view begins; 0 if not said."""
    view_shape: tuple[int, ...] | None = None
    """Voxels of the view; up to the end, if not said."""
    access: Access = field(default_factory=Access)
    """Who we are."""
    patience: Patience = field(default_factory=Patience)
    """How long blocks are waited for."""
    parallel: int = PARALLEL
    """Blocks that one process asks for at the same time."""
    missing: MissingPolicy = "error"
    """What a block means that the server does not have."""


AnyDescription: TypeAlias = FilesetDescription | RemoteDescription | CompositeDescription | VolumeDescription
"""What a description file may say."""
