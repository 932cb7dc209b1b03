"""Whether chunks and shards fit an array, and an array that is there fits what is asked. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bellis.errors import ArrayError
from bellis.geometry import Coordinate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bellis.arrays.format import NewArray, Stored
    from bellis.arrays.layout import Layout

SHARDED_CHUNK = 64
"""Voxels per axis, at most, of a chunk in a shard, if none are asked: small, since it is a shard that makes a file."""


def check_parts(
    layout: Layout,
    chunk_shape: Sequence[int] | None,
    shard_shape: Sequence[int] | None,
    write_voxels: Coordinate | None,
) -> None:
    """Refuse chunks and shards that don't fit the array, each other, or what is written at once."""
    if shard_shape is not None:
        layout.check_chunks(shard_shape, write_voxels, "shard")
        if chunk_shape is not None:
            layout.check_chunks(chunk_shape, None)
            if not Coordinate(shard_shape).is_multiple_of(Coordinate(chunk_shape)):
                shards, chunks = tuple(shard_shape), tuple(chunk_shape)
                raise ArrayError(f"shards of {shards} voxels are not made of chunks of {chunks}")
    elif chunk_shape is not None:
        layout.check_chunks(chunk_shape, write_voxels)


def pick_chunks(layout: Layout, shard_shape: Sequence[int] | None, write_voxels: Coordinate | None) -> tuple[int, ...]:
    """Pick chunks that divide the shards, or, if there are none, what is written at once."""
    if shard_shape is None:
        return layout.pick_chunks(write_voxels)
    return tuple(
        1 if kind == "channel" else max(k for k in range(1, min(n, SHARDED_CHUNK) + 1) if n % k == 0)
        for n, kind in zip(shard_shape, layout.types, strict=True)
    )


def differences(
    asked: NewArray, found: Stored, chunk_shape: Sequence[int] | None, write_voxels: Coordinate | None
) -> list[str]:
    """Describe each way in which the array that is there is not as asked; what was picked is not compared."""
    lines = asked.layout.differences(found.layout)
    chunks, parts = found.data.chunk_shape, found.data.write_shape
    shards = parts if parts != chunks else None
    if chunk_shape is not None and asked.chunk_shape != chunks:
        lines.append(f"chunk_shape: asked {asked.chunk_shape}, found {chunks}")
    if asked.shard_shape is not None and asked.shard_shape != shards:
        lines.append(f"shard_shape: asked {asked.shard_shape}, found {shards}")
    if write_voxels is not None and parts is not None and len(parts) == len(found.layout.types):
        spatial = Coordinate(n for n, kind in zip(parts, found.layout.types, strict=True) if kind != "channel")
        if spatial.dims == write_voxels.dims and not write_voxels.is_multiple_of(spatial):
            what = "chunks" if shards is None else "shards"
            lines.append(f"{what}: {spatial} do not divide write_size, {write_voxels} voxels")
    fill_value = asked.layout.dtype.type(0) if found.fill_value is None else found.fill_value
    if found.layout.dtype == asked.layout.dtype and not _is_same(asked.fill_value, fill_value):
        lines.append(f"fill_value: asked {asked.fill_value}, found {fill_value}")
    return lines


def _is_same(a: Any, b: Any) -> bool:
    return bool(np.array_equal(np.asarray(a), np.asarray(b), equal_nan=np.asarray(a).dtype.kind in "fc"))
