"""The ready-made operations, with parameters that can be written on a command line.

``bellis map F IN OUT`` stands for ``bellis run bellis.cli.operations:map --function F --source IN --output OUT``, so
that `bellis status`, `retry` and `debug` know its journal like any other.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Sequence  # noqa: TC003  (the command line reads the annotations)
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import click

from bellis import ops
from bellis.cli.target import load_target

if TYPE_CHECKING:
    from collections.abc import Callable

    from bellis.tasks import Pipeline, Task


def map(  # noqa: A001  (named as the command)
    function: str,
    source: Sequence[str],
    output: str,
    *,
    block: str | None = None,
    context: str = "0",
    edge: Literal["shrink", "reflect", "nearest", "constant"] = "shrink",
    dtype: str | None = None,
    set: Sequence[str] = (),  # noqa: A002
    max_memory: str | None = None,
    overwrite: bool = False,
) -> Task:
    """Call a function on every block of a volume, and write what it returns.

    Parameters
    ----------
    function
        MODULE:FUNCTION or FILE.py:FUNCTION; called with the voxels of each input, it returns as many.
    source
        Path or URL of an input.
    output
        Path or URL of the output; made if it is not there.
    block
        Voxels that one call writes, like 128,128,128; picked from the chunks if not given.
    context
        Voxels that it reads beyond them, on every side: 8, or 2,8,8.
    edge
        What is beyond the edge of the volume: nothing (shrink), or made-up voxels.
    dtype
        Data type of the output; that of the input if not given.
    set
        An argument of the function, as NAME=VALUE.
    max_memory
        Memory that one worker may use, like 2GB.
    overwrite
        Replace an output that is there, and not as asked.
    """
    return ops.map(
        _bound(load_function(function), dict(_assignment(text) for text in set)),
        list(source),
        output,
        block_shape=_extent("--block", block),
        context=_extent("--context", context) or 0,
        edge=edge,
        dtype=dtype,
        overwrite=overwrite,
        limits=ops.Limits(max_memory=max_memory),
        name=function.rpartition(":")[2],
    )


def copy(
    source: str,
    output: str,
    *,
    block: str | None = None,
    chunks: str | None = None,
    shards: str | None = None,
    dtype: str | None = None,
    max_memory: str | None = None,
    overwrite: bool = False,
) -> Task:
    """Copy a volume into another format, or other chunks.

    Parameters
    ----------
    source
        Path or URL of the volume.
    output
        Path or URL of the copy; its ending says the format.
    block
        Voxels that one worker copies at a time, like 256,256,256; picked from the chunks if not given.
    chunks
        Voxels of a chunk, like 64,64,64.
    shards
        Voxels of a shard: chunks that are one file.
    dtype
        Data type of the copy, which must hold every value; that of the volume if not given.
    max_memory
        Memory that one worker may use, like 2GB.
    overwrite
        Replace an output that is there, and not as asked.
    """
    return ops.copy(
        source,
        output,
        block_shape=_extent("--block", block),
        chunk_shape=_shape("--chunks", chunks),
        shard_shape=_shape("--shards", shards),
        dtype=dtype,
        overwrite=overwrite,
        limits=ops.Limits(max_memory=max_memory),
    )


def downscale(
    image: str,
    *,
    levels: int | None = None,
    factors: Sequence[str] = (),
    method: Literal["mean", "mode", "stride", "min", "max", "median"] = "mean",
    block: str | None = None,
    max_memory: str | None = None,
    overwrite: bool = False,
) -> Pipeline:
    """Add coarser levels to an OME-Zarr image, each from the one above.

    Parameters
    ----------
    image
        Path of the image.
    levels
        How many levels to add, each of half the size; as many as are useful if not given.
    factors
        In place of levels: the factors of a level, like 1,2,2; once per level.
    method
        How voxels become one; mode is for labels.
    block
        Voxels that one worker writes at a time; picked from the chunks if not given.
    max_memory
        Memory that one worker may use, like 2GB.
    overwrite
        Replace levels that differ from what is asked.
    """
    if levels is not None and factors:
        raise click.UsageError("--levels and --factors exclude each other")
    steps: Any = [_extent("--factors", each) for each in factors] or levels
    return ops.downscale(
        image,
        steps,
        method=method,
        block_shape=_extent("--block", block),
        overwrite=overwrite,
        limits=ops.Limits(max_memory=max_memory),
    )


def label(
    mask: str,
    output: str,
    *,
    connectivity: int = 1,
    block: str | None = None,
    dtype: Literal["uint64", "uint32"] = "uint64",
    scratch: str | None = None,
    max_memory: str | None = None,
    overwrite: bool = False,
) -> Pipeline:
    """Label the connected components of a mask.

    Parameters
    ----------
    mask
        Path or URL of the mask; what is not 0 belongs to a component.
    output
        Path of the labels: 0, and 1, 2, 3, ... for the components.
    connectivity
        1: voxels are joined by faces, 2: by edges too, 3: by corners too.
    block
        Voxels that one worker labels at a time; picked from the chunks if not given.
    dtype
        Data type of the labels.
    scratch
        Folder for what is needed meanwhile; .bellis/scratch beside the output if not given.
    max_memory
        Memory that one worker may use, like 2GB.
    overwrite
        Replace an output that is there, and not as asked.
    """
    return ops.label(
        mask,
        output,
        connectivity=connectivity,
        block_shape=_extent("--block", block),
        dtype=dtype,
        scratch=scratch,
        overwrite=overwrite,
        limits=ops.Limits(max_memory=max_memory),
    )


def segment(
    boundaries: str,
    segments: str,
    *,
    graph: str,
    threshold: float = 0.5,
    boundary_threshold: float = 0.5,
    in_sections: bool = False,
    max_distance: float | None = None,
    sigma: float | None = None,
    depth: float | None = None,
    mask: str | None = None,
    fragments: str | None = None,
    table: str | None = None,
    block: str | None = None,
    context: str | None = None,
    dtype: Literal["uint64", "uint32"] = "uint64",
    scratch: str | None = None,
    max_memory: str | None = None,
    overwrite: bool = False,
) -> Pipeline:
    """Segment a boundary map.

    Parameters
    ----------
    boundaries
        Path or URL of the boundary map: bool, unsigned integers, or floats from 0 to 1.
    segments
        Path of the segments: 0, and 1, 2, 3, ...
    graph
        Where the graph of fragments is, or will be: fragments.sqlite, postgresql://user@host/database.
    threshold
        Fragments with a mean boundary of this or more between them stay apart.
    boundary_threshold
        What is above is a boundary, where fragments are made.
    in_sections
        Make fragments in each section across the first axis for itself.
    max_distance
        How far from a boundary places still differ, in world units; 12 voxels if not given.
    sigma
        Smooths distances from boundaries, in world units; one voxel if not given.
    depth
        Hills lower than this are no fragments of their own, in world units; one voxel if not given.
    mask
        Path or URL of a mask: segments are 0 where it is.
    fragments
        Path of the fragments; beside the segments if not given.
    table
        Path of the table of fragments and segments, a Parquet file; beside the segments if not given.
    block
        Voxels that one worker takes at a time; picked from the chunks if not given.
    context
        Voxels that it reads beyond them, on every side: 8, or 0,48,48.
    dtype
        Data type of fragments and segments.
    scratch
        Folder for what is needed meanwhile; .bellis/scratch beside the outputs if not given.
    max_memory
        Memory that one worker may use, like 2GB.
    overwrite
        Replace outputs that are there, and not as asked.
    """
    return ops.segment(
        boundaries,
        segments,
        graph=graph,
        fragments=fragments,
        table=table,
        threshold=threshold,
        boundary_threshold=boundary_threshold,
        max_distance=max_distance,
        sigma=sigma,
        depth=depth,
        in_sections=in_sections,
        mask=mask,
        block_shape=_extent("--block", block),
        context=_extent("--context", context),
        dtype=dtype,
        scratch=scratch,
        overwrite=overwrite,
        limits=ops.Limits(max_memory=max_memory),
    )


def export(
    description: str,
    output: str,
    *,
    roi: str | None = None,
    block: str | None = None,
    chunks: str | None = None,
    shards: str | None = None,
    dtype: str | None = None,
    max_memory: str | None = None,
    overwrite: bool = False,
) -> Task:
    """Write a volume, or a part of it, in any format; blocks that are not there are fetched, and kept.

    Parameters
    ----------
    description
        File that describes the volume.
    output
        Path or URL of the copy; its ending says the format.
    roi
        Voxels of the view, begin:end per axis, like 0:64,0:512,0:512; all of it if not given.
    block
        Voxels that one worker copies at a time, like 256,256,256; picked from the chunks if not given.
    chunks
        Voxels of a chunk, like 64,64,64.
    shards
        Voxels of a shard: chunks that are one file.
    dtype
        Data type of the copy, which must hold every value; that of the volume if not given.
    max_memory
        Memory that one worker may use, like 2GB.
    overwrite
        Replace an output that is there, and not as asked.
    """
    from bellis.arrays import open_ds
    from bellis.cli.region import parse_region

    source = open_ds(description, format="volume")
    region = parse_region("--roi", roi, source.layout)
    return ops.copy(
        source if region is None else source[region],
        output,
        block_shape=_extent("--block", block),
        chunk_shape=_shape("--chunks", chunks),
        shard_shape=_shape("--shards", shards),
        dtype=dtype,
        overwrite=overwrite,
        limits=ops.Limits(max_memory=max_memory),
        name="export",
    )


def load_function(text: str) -> Callable[..., Any]:
    """Return the function that ``MODULE:FUNCTION`` names."""
    target = load_target(text)
    if not callable(target.value):
        raise click.UsageError(f"{text} is {target.value!r}, not a function")
    return target.value  # type: ignore[no-any-return]


def _bound(function: Callable[..., Any], arguments: dict[str, Any]) -> Callable[..., Any]:
    """Return a function with some of its arguments given."""
    if not arguments:
        return function
    with suppress(ValueError):  # some builtins have no signature; they are tried as they are
        known = inspect.signature(function)
        try:
            known.bind_partial(**arguments)
        except TypeError as error:
            raise click.UsageError(f"--set: {error}; {function.__name__} takes {known}") from error
    return partial(function, **arguments)


def _assignment(text: str) -> tuple[str, Any]:
    name, sign, value = text.partition("=")
    if not (sign and name.isidentifier()):
        raise click.UsageError(f"--set {text!r} is not NAME=VALUE, as in --set sigma=2")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def _shape(option: str, text: str | None) -> tuple[int, ...] | None:
    if not text:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise click.UsageError(f"{option} {text!r} is not voxels per axis, like 128,128,128") from error


def _extent(option: str, text: str | None) -> int | tuple[int, ...] | None:
    """Parse one number for all axes, or one for each."""
    shape = _shape(option, text)
    return shape[0] if shape is not None and len(shape) == 1 else shape
