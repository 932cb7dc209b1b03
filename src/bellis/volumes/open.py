"""Open a volume by its description file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bellis.volumes.cached import CachedVolume
from bellis.volumes.description import read_description
from bellis.volumes.descriptions import FilesetDescription, RemoteDescription
from bellis.volumes.fileset import BlockwiseFileset
from bellis.volumes.remote import RemoteVolume

if TYPE_CHECKING:
    import os


def open_volume(path: str | os.PathLike[str]) -> BlockwiseFileset | RemoteVolume | CachedVolume:
    """Open what a description file says: blocks in files, a server, or a server with a cache of its blocks.

    Parameters
    ----------
    path
        The description file, JSON.

    Raises
    ------
    DescriptionError
        If it is not there or has mistakes; ``problems`` has all of them.
    VolumeError
        If what it describes can't be opened.
    """
    description = read_description(path)
    if isinstance(description, FilesetDescription):
        return BlockwiseFileset(path, "r", description)
    if isinstance(description, RemoteDescription):
        return RemoteVolume(path, description)
    return CachedVolume(path)
