"""Volumes from elsewhere: servers and remote arrays, read through a local cache of blocks."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bellis.volumes.blocks import get_intersecting_blocks as get_intersecting_blocks
    from bellis.volumes.cache import BlockCache as BlockCache
    from bellis.volumes.cached import CachedVolume as CachedVolume
    from bellis.volumes.description import read_description as read_description
    from bellis.volumes.description import write_description as write_description
    from bellis.volumes.fileset import BlockwiseFileset as BlockwiseFileset
    from bellis.volumes.open import open_volume as open_volume
    from bellis.volumes.remote import RemoteVolume as RemoteVolume
    from bellis.volumes.sliceable import SliceableSource as SliceableSource
    from bellis.volumes.source import Patience as Patience
    from bellis.volumes.source import Source as Source

_HOME = {
    "BlockCache": "cache",
    "BlockwiseFileset": "fileset",
    "CachedVolume": "cached",
    "Patience": "source",
    "RemoteVolume": "remote",
    "SliceableSource": "sliceable",
    "Source": "source",
    "get_intersecting_blocks": "blocks",
    "open_volume": "open",
    "read_description": "description",
    "write_description": "description",
}
_LAZYFLOW = {
    "RESTfulBlockwiseFileset": "CachedVolume",
    "RESTfulVolume": "RemoteVolume",
    "getIntersectingBlocks": "get_intersecting_blocks",
}

__all__ = sorted([*_HOME, *_LAZYFLOW])


def __getattr__(name: str) -> Any:
    own = _LAZYFLOW.get(name, name)
    if own not in _HOME:
        raise AttributeError(f"module 'bellis.volumes' has no attribute {name!r}")
    value = getattr(import_module(f"bellis.volumes.{_HOME[own]}"), own)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
