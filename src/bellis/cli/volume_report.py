"""What ``bellis volume status`` tells: found on this machine, without a request and without making anything."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from bellis.arrays.layout import Layout
    from bellis.geometry import Roi
    from bellis.volumes import BlockCache
    from bellis.volumes.descriptions import AnyDescription, FilesetDescription
    from bellis.volumes.setup import Setup


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeStatus:
    """What is known of a volume, as JSON knows values; None for what is not known, or does not apply."""

    description: str
    """The file."""
    kind: str
    """``"cached"``, ``"fileset"`` (blocks without a server) or ``"remote"`` (a server without blocks)."""
    name: str
    """Of the volume, for people."""
    source: str | None = None
    """URL, or template of URLs."""
    folder: str | None = None
    """Where blocks are kept."""
    axes: list[str] | None = None
    """Names."""
    shape: list[int] | None = None
    """Voxels of the whole volume."""
    dtype: str | None = None
    """Of a voxel."""
    block_shape: list[int] | None = None
    """Voxels of a block."""
    view_begin: list[int] | None = None
    """Where the view begins, in voxels of the volume."""
    view_shape: list[int] | None = None
    """Voxels of the view."""
    num_blocks: int | None = None
    """Blocks that the view touches."""
    num_present: int = 0
    """Those that are kept."""
    num_missing: int | None = None
    """Those that are not."""
    num_bytes: int = 0
    """Bytes on disk, of the view."""
    max_bytes: int | None = None
    """Bound on the bytes of the cache."""
    compression: str | None = None
    """Of blocks."""
    num_quarantined: int = 0
    """Damaged blocks that were put aside."""
    num_leases: int = 0
    """Blocks that are being fetched now."""
    num_stale_leases: int = 0
    """Leases of processes that are gone."""
    num_partials: int = 0
    """Files under temporary names: of writes that go on, or of killed processes."""
    num_locks: int = 0
    """Locks that a crash of lazyflow has left, of blocks of the view."""
    num_legacy: int = 0
    """Blocks in a tree of lazyflow, which are taken over when they are read."""
    is_checked: bool | None = None
    """Whether what comes from the server has a checksum."""
    is_complete: bool = False
    """Whether no block of the view is missing."""


def cache_of(path: Path) -> tuple[Path | None, BlockCache | None]:
    """Return where a volume's blocks are to be cached, and the cache if it is there; nothing is made."""
    from bellis.volumes import BlockCache, read_description

    setup = _setup_of(read_description(path), path)
    return (None, None) if setup is None else (setup.directory, BlockCache.open(setup.directory))


def read_status(path: Path) -> VolumeStatus:
    """Look at what there is of a volume.

    Raises
    ------
    DescriptionError
        If the file has mistakes in it.
    CacheMismatchError
        If blocks of another source are in the cache's folder.
    """
    from bellis.volumes import read_description
    from bellis.volumes.descriptions import FilesetDescription, RemoteDescription

    description = read_description(path)
    if isinstance(description, RemoteDescription):
        return VolumeStatus(
            description=str(path), kind="remote", name=description.name, source=description.url_format,
            axes=list(description.axes), shape=list(description.shape), dtype=description.dtype.name,
            view_begin=[0] * len(description.shape), view_shape=list(description.shape), is_complete=True,
        )  # fmt: skip
    if isinstance(description, FilesetDescription):
        return _fileset_status(path, description)
    return _cached_status(path, description)


def _setup_of(description: AnyDescription, path: Path) -> Setup | None:
    from bellis.volumes.descriptions import CompositeDescription, VolumeDescription
    from bellis.volumes.setup import Setup

    if not isinstance(description, VolumeDescription | CompositeDescription):
        return None
    return Setup.of(description, path.absolute().parent)


def _cached_status(path: Path, description: Any) -> VolumeStatus:
    from bellis.volumes import BlockCache
    from bellis.volumes.blocks import Blocks

    setup: Any = _setup_of(description, path)
    kept: list[tuple[int, ...]] = []
    status = VolumeStatus(
        description=str(path), kind="cached", name=setup.name, folder=str(setup.directory), source=_source(description),
        max_bytes=setup.max_bytes, compression=setup.compression, is_checked=_is_checked(description),
    )  # fmt: skip
    if setup.legacy is not None:
        local = description.local_description
        folders, num_locks = _tree(setup.folder / local.dataset_root_dir, local)
        status = replace(status, num_legacy=len(folders), num_locks=num_locks)
        kept = [_index(folder, local) for folder in folders]
    if BlockCache.open(setup.directory) is not None:
        cache = setup.cache()  # it is there and is only opened; but what it holds is compared with the description
        view = setup.view(cache.layout.shape)
        usage = cache.usage(view)
        return replace(
            _with_blocks(
                status, cache.layout, cache.blocks, view, usage.num_present,
                num_elsewhere=sum(not cache.has(index) for index in kept),
            ),
            num_bytes=usage.num_bytes, compression=cache.compression, num_quarantined=usage.num_quarantined,
            num_leases=usage.num_leases, num_stale_leases=usage.num_stale_leases,
            num_partials=usage.num_partials,
        )  # fmt: skip
    if setup.layout is None:  # it is the server's to tell
        return status
    layout = setup.layout
    blocks = Blocks(layout.shape, setup.block_shape or _preferred(description) or layout.pick_chunks())
    return _with_blocks(status, layout, blocks, setup.view(layout.shape), 0, num_elsewhere=len(kept))


def _with_blocks(
    status: VolumeStatus, layout: Layout, blocks: Any, view: Roi, num_present: int, *, num_elsewhere: int = 0
) -> VolumeStatus:
    """Add how many blocks there are; ``num_elsewhere`` are not in the cache, but need not be fetched."""
    spans = zip(view.begin, view.end, blocks.block_shape, strict=True)
    num_blocks = prod(-(-end // size) - begin // size for begin, end, size in spans)
    return replace(
        status, axes=list(layout.axis_names), shape=list(layout.shape), dtype=layout.dtype.name,
        block_shape=list(blocks.block_shape), view_begin=list(view.begin), view_shape=list(view.shape),
        num_blocks=num_blocks, num_present=num_present, num_missing=num_blocks - num_present - num_elsewhere,
        is_complete=num_blocks == num_present + num_elsewhere,
    )  # fmt: skip


def _fileset_status(path: Path, description: FilesetDescription) -> VolumeStatus:
    from bellis.arrays.layout import Layout
    from bellis.geometry import Roi
    from bellis.volumes.blocks import Blocks

    root = path.absolute().parent / description.dataset_root_dir
    folders, num_locks = _tree(root, description)
    sizes = [_size(folder / name) for folder in folders for name in _listed(folder)]
    layout = Layout.of(description.shape, description.dtype, axis_names=tuple(description.axes))
    blocks = Blocks(description.shape, description.block_shape)
    status = VolumeStatus(
        description=str(path), kind="fileset", name=description.name, folder=str(root), num_bytes=sum(sizes),
        compression=description.compression, num_locks=num_locks,
    )  # fmt: skip
    return _with_blocks(status, layout, blocks, Roi(description.view_origin, description.view_shape), len(folders))


def _tree(root: Path, description: FilesetDescription) -> tuple[list[Path], int]:
    """Return the folders of blocks of the view that lazyflow has marked available, and how many locks are left.

    Folders are listed, and only those of the view.
    """
    from bellis.volumes.tree import LOCK, STATUS

    folders = [root]
    ends = zip(description.view_origin, description.view_shape, strict=True)
    spans = [(begin, begin + extent) for begin, extent in ends]
    for axis, (begin, end), size in zip(description.axes, spans, description.block_shape, strict=True):
        names = {f"{axis}_{at:08d}" for at in range(begin, end, size)}
        folders = [folder / name for folder in folders for name in _listed(folder) if name in names]
    held = [(folder, _listed(folder)) for folder in folders]
    num_locks = sum(name.endswith(LOCK) for _, names in held for name in names)
    return [folder for folder, names in held if STATUS in names], num_locks


def _index(folder: Path, description: FilesetDescription) -> tuple[int, ...]:
    """Return which block is in a folder of lazyflow's tree."""
    starts = [int(name.rpartition("_")[2]) for name in folder.parts[-len(description.axes) :]]
    return tuple([start // size for start, size in zip(starts, description.block_shape, strict=True)])


def _listed(folder: Path) -> list[str]:
    try:
        return [entry.name for entry in folder.iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:  # renamed, or removed, by now
        return 0


def _source(description: Any) -> str:
    from bellis.volumes.access import public
    from bellis.volumes.descriptions import ChunkedDescription, CompositeDescription

    if isinstance(description, CompositeDescription):
        return public(description.remote_description.url_format)
    source = description.source
    if isinstance(source, ChunkedDescription):
        return public(f"{source.url}/{source.name}" if source.name else source.url)
    return public(source.url_format)


def _preferred(description: Any) -> tuple[int, ...] | None:
    return getattr(getattr(description, "source", None), "preferred_block", None)


def _is_checked(description: Any) -> bool | None:
    """Return whether the format of what is sent has a checksum; of a server's headers nothing is known here."""
    payload = getattr(getattr(description, "source", None), "payload", None)
    if payload is None:
        return None
    from bellis.volumes.payload import is_checked

    return True if is_checked(payload) else None
