"""What a cached volume is made of: a source, a cache and a view, from a description or from values."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from bellis.arrays.layout import Layout
from bellis.errors import ArrayError, CacheMismatchError, VolumeError
from bellis.geometry import Coordinate, Roi
from bellis.volumes.access import public
from bellis.volumes.cache import BlockCache
from bellis.volumes.descriptions import Access, ChunkedDescription, CompositeDescription, VolumeDescription
from bellis.volumes.sliceable import SliceableSource
from bellis.volumes.source import PARALLEL, Patience
from bellis.volumes.sources import source_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from bellis.volumes.descriptions import Compression, FilesetDescription
    from bellis.volumes.source import MissingPolicy, Source

CACHE = "blocks.zarr"
"""Folder of the cache within lazyflow's tree, which is left as it is."""


class Connect:
    """Returns a source: the same one each time, in one process, so that what it has learnt is asked for once."""

    def __init__(self, make: Callable[[], Source]) -> None:
        self._make = make
        self._made: tuple[int, Source] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return Connect, (self._make,)

    def __call__(self) -> Source:
        """Return it."""
        if self._made is None or self._made[0] != os.getpid():
            self._made = os.getpid(), self._make()
        return self._made[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """Everything that a cached volume is pickled as; nothing of it is open."""

    name: str
    """Of the volume, for people."""
    connect: Callable[[], Source]
    """Returns the source; may ask the server."""
    said: Mapping[str, Any]
    """What is known of the source's fingerprint without asking the server."""
    layout: Layout | None
    """Of the whole volume, if that is known without asking."""
    directory: Path
    """Where blocks are kept."""
    block_shape: tuple[int, ...] | None = None
    """Voxels of a block; None for what the source prefers."""
    compression: Compression = "zstd"
    """How they are compressed."""
    max_bytes: int | None = None
    """Bound on their bytes."""
    view_origin: tuple[int, ...] | None = None
    """Where the view begins; None for 0."""
    view_shape: tuple[int, ...] | None = None
    """Voxels of the view; None for all up to the end."""
    patience: Patience = field(default_factory=Patience)
    """How long blocks are waited for."""
    parallel: int = PARALLEL
    """Blocks that one process asks for at the same time."""
    missing: MissingPolicy = "error"
    """What a block means that the source does not have."""
    legacy: FilesetDescription | None = None
    """lazyflow's tree around the cache, whole view; its blocks are taken over."""
    folder: Path
    """What paths of the description are relative to."""

    @classmethod
    def of(cls, description: VolumeDescription | CompositeDescription, folder: Path) -> Self:
        """Take a description file's word for it."""
        if isinstance(description, CompositeDescription):
            return cls._of_composite(description, folder)
        source, access = description.source, description.access
        connect = Connect(
            functools.partial(
                source_of, source, access, description.patience, description.parallel, name=description.name
            )
        )
        made = None if isinstance(source, ChunkedDescription) else connect()  # makes no request
        said = {"url": public(source.url), "name": source.name} if isinstance(source, ChunkedDescription) else {}
        return cls(
            name=description.name,
            connect=connect,
            said=said if made is None else made.fingerprint,
            layout=None if made is None else layout_of(made),
            directory=folder / description.cache.directory,
            block_shape=description.cache.block_shape,
            compression=description.cache.compression,
            max_bytes=description.cache.max_bytes,
            view_origin=description.view_origin,
            view_shape=description.view_shape,
            patience=description.patience,
            parallel=description.parallel,
            missing=description.missing,
            folder=folder,
        )

    @classmethod
    def _of_composite(cls, description: CompositeDescription, folder: Path) -> Self:
        local = description.local_description
        connect = functools.partial(
            source_of, description.remote_description, Access(), Patience(), PARALLEL, name=local.name
        )
        whole = replace(local, view_origin=(0,) * len(local.shape), view_shape=local.shape)
        return cls(
            name=local.name,
            connect=connect,
            said=connect().fingerprint,
            layout=Layout.of(local.shape, local.dtype, axis_names=tuple(local.axes)),
            directory=folder / local.dataset_root_dir / CACHE,
            block_shape=local.block_shape,
            view_origin=local.view_origin,
            view_shape=local.view_shape,
            legacy=whole,
            folder=folder,
        )

    @classmethod
    def over(cls, source: Any, *, name: str, patience: Patience, parallel: int, **cache: Any) -> Self:
        """Take a source, the path or URL of an array, or what is sliced; ``cache`` are fields of ours."""
        if isinstance(source, str | os.PathLike):
            text = str(source)
            described = ChunkedDescription(url=text if "://" in text else os.path.abspath(text))  # noqa: PTH100
            connect = Connect(functools.partial(source_of, described, Access(), patience, parallel, name=name))
            said: Mapping[str, Any] = {"url": public(described.url), "name": None}
            layout = None
        else:
            reached = source if hasattr(source, "fetch") else SliceableSource(source)
            connect, said, layout = Connect(functools.partial(_same, reached)), reached.fingerprint, layout_of(reached)
        return cls(
            name=name, connect=connect, said=dict(said), layout=layout, patience=patience, parallel=parallel,
            folder=Path.cwd(), **cache,
        )  # fmt: skip

    def cache(self) -> BlockCache:
        """Open the cache, or make it; the server is asked only if it must be to know the volume's shape.

        Raises
        ------
        CacheMismatchError
            If the folder holds blocks of another source, or of another shape.
        """
        said = {**self.said, "missing": self.missing}
        found = BlockCache.open(self.directory, max_bytes=self.max_bytes)
        if found is None and self.layout is None:
            source = self.connect()
            layout = layout_of(source)
            block_shape = self.block_shape or _block_shape(source, layout)
            said = {**source.fingerprint, "missing": self.missing}
            return self._prepared(layout, block_shape, said)
        if found is not None:
            found.check(said)
        layout = self.layout or found.layout  # type: ignore[union-attr]  # one of them is there
        block_shape = self.block_shape or ()
        if not block_shape:
            block_shape = found.blocks.block_shape if found is not None else _block_shape(self.connect(), layout)
        return self._prepared(layout, block_shape, said if found is None else found.fingerprint)

    def _prepared(self, layout: Layout, block_shape: tuple[int, ...], fingerprint: Mapping[str, Any]) -> BlockCache:
        try:
            return BlockCache.prepare(
                self.directory,
                layout,
                block_shape,
                fingerprint=fingerprint,
                compression=self.compression,
                max_bytes=self.max_bytes,
            )
        except CacheMismatchError:
            raise
        except VolumeError as error:
            if self.legacy is None:
                raise
            raise VolumeError(
                f"{error}; what lazyflow has kept there is read without a cache by BlockwiseFileset(description)"
            ) from error

    def view(self, shape: tuple[int, ...]) -> Roi:
        """Return the view in voxels of a volume of a shape.

        Raises
        ------
        ArrayError
            If it is not inside.
        """
        return view_of(self.view_origin, self.view_shape, shape, self.name)


def layout_of(source: Source) -> Layout:
    """Return where a source lies in the world: as it says, or voxels of 1 at 0."""
    layout = getattr(source, "layout", None)
    if isinstance(layout, Layout):
        return layout
    return Layout.of(tuple(source.domain.shape), source.dtype, axis_names=source.axes)


def view_of(origin: tuple[int, ...] | None, extent: tuple[int, ...] | None, shape: tuple[int, ...], name: str) -> Roi:
    """Return a view in voxels of a volume of a shape; from 0, and up to the end, if nothing else is said.

    Raises
    ------
    ArrayError
        If it is not inside.
    """
    whole = Roi((0,) * len(shape), shape)
    begin = Coordinate(origin or whole.begin)
    size = Coordinate(extent) if extent is not None else whole.end - begin
    if begin.dims != whole.dims or size.dims != whole.dims or min(size) < 1:
        raise ArrayError(f"view of {size} voxels at {begin} does not fit volume {name!r} of shape {shape}")
    view = Roi(begin, size)
    if not whole.contains(view):
        raise ArrayError(f"view {begin} to {view.end} is not inside of volume {name!r} of shape {shape}")
    return view


def view_layout(layout: Layout, view: Roi) -> Layout:
    """Return the layout of a view of a volume."""
    begin = layout.spatial(view.begin) * layout.voxel_size
    return replace(layout, shape=tuple(view.shape), offset=layout.offset + begin)


def _same(source: Source) -> Source:
    return source


def _block_shape(source: Source, layout: Layout) -> tuple[int, ...]:
    return source.preferred_block or layout.pick_chunks()
