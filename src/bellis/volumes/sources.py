"""The source that a description tells of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bellis.volumes.chunked import ChunkedSource
from bellis.volumes.descriptions import ChunkedDescription, CutoutDescription, RemoteDescription
from bellis.volumes.template import UrlTemplateSource

if TYPE_CHECKING:
    from bellis.volumes.descriptions import Access
    from bellis.volumes.source import Patience


def source_of(
    description: RemoteDescription | CutoutDescription | ChunkedDescription,
    access: Access,
    patience: Patience,
    parallel: int,
    *,
    name: str | None = None,
) -> UrlTemplateSource | ChunkedSource:
    """Return the source of a description; nothing is asked of a server.

    Parameters
    ----------
    description
        Where voxels are.
    access, patience, parallel
        Who we are; how long a silent server is waited for; requests at the same time.
    name
        Of the volume, for messages; a `RemoteDescription` has one.
    """
    if isinstance(description, ChunkedDescription):
        return ChunkedSource(description, access, patience, parallel, name)
    if isinstance(description, RemoteDescription):
        name = name or description.name
        description = cutout_of(description)
    return UrlTemplateSource(description, access, patience, parallel, name)


def cutout_of(remote: RemoteDescription) -> CutoutDescription:
    """Return what lazyflow's description of a server is, in our words."""
    axes = tuple(remote.axes)
    return CutoutDescription(
        url_format=remote.url_format,
        payload="hdf5",
        axes=axes,
        payload_axes=axes,
        dtype=remote.dtype,
        payload_dtype=remote.dtype,
        shape=remote.shape,
        origin_offset=remote.origin_offset,
        hdf5_dataset=remote.hdf5_dataset,
    )
