"""What all operations share: inputs, outputs, the shape of blocks, and the task that runs over them."""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass, field
from hashlib import blake2b
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from bellis.arrays import Array, open_ds, prepare_ds
from bellis.arrays.format import BELLIS_ID
from bellis.arrays.layout import parse_dtype
from bellis.arrays.location import Location
from bellis.arrays.multiscale import Multiscale
from bellis.arrays.ome import ome_refusal
from bellis.arrays.open import candidates
from bellis.errors import ArrayError, ArrayExistsError, TaskError
from bellis.geometry import Coordinate, Roi
from bellis.ops import memory
from bellis.ops.frame import Frame, region_bytes, voxels_per_axis
from bellis.ops.frame import name_of as name_of
from bellis.tasks import Task

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy.typing as npt

    from bellis.arrays.layout import Layout
    from bellis.geometry import CoordinateLike

Source: TypeAlias = "Array | str | os.PathLike[str]"
"""An array, or the path or URL of one."""

ANY_NUMBER = 1 << 20
"""Workers of a task that may have as many as its run."""
_METADATA = ("zarr.json", ".zarray", "attributes.json", "info")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What an operation may use, and for how long it tries."""

    num_workers: int | None = None
    """How many workers may run it at the same time; None: as many as the run has."""
    max_retries: int = 2
    """How often a failed block is tried again."""
    timeout_s: float | None = None
    """Seconds that one block may take before its worker is killed; None for ever."""
    max_memory: int | str | None = None
    """Bytes that one worker may need, also as ``"2GB"``; None: this machine's memory, shared by ``num_workers`` or its
    cores."""
    resources: Mapping[str, int] = field(default_factory=dict)
    """What one running block holds, for example ``{"gpu": 1}``."""

    def __post_init__(self) -> None:
        memory.parse_bytes(self.max_memory)


def as_input(source: Source) -> Array:
    """Return an array to read: as it is, or opened; of an OME-Zarr image, its finest level.

    Raises
    ------
    ArrayError
        If there is none, or ``source`` is a plain NumPy array, of which the place is not known.
    """
    if isinstance(source, Array):
        return source
    if isinstance(source, str | os.PathLike):
        return open_ds(source)
    raise ArrayError(
        f"an input is an Array or the path of one, not {type(source).__name__}: wrap it, Array(data, voxel_size=...)"
    )


def as_output(
    target: Source,
    like: Array,
    dtype: npt.DTypeLike,
    *,
    write_size: CoordinateLike | None = None,
    overwrite: bool = False,
    chunk_shape: Sequence[int] | None = None,
    shard_shape: Sequence[int] | None = None,
    attrs: Mapping[str, Any] | None = None,
) -> Array:
    """Return an array to write: as it is, or made on disk with the region, voxels and axes of ``like``.

    Parameters
    ----------
    target
        An array that can be written, or a path. There, an OME-Zarr image is made, of which this is the finest level;
        or a dataset in another format, if the path ends so; or a plain array, if there is one already, or if the axes
        are none that OME-Zarr knows.
    like
        Has the region, voxel size, axes and channels that a new dataset gets.
    dtype
        Data type of a new dataset.
    write_size
        World units per physical axis that a block will write, so that chunks divide it.
    overwrite
        Whether what is there is replaced if it is not just as asked, or else an error. If it is as asked, it is kept.
    chunk_shape, shard_shape
        Voxels per axis of a new dataset's chunks and shards; picked if not given.
    attrs
        More attributes of a new dataset.

    Raises
    ------
    ArrayError
        If ``target`` can't be written, what is there is not as asked, or it is what would be read.
    """
    if isinstance(target, Array):
        if not target.is_writeable:
            raise ArrayError(f"output {name_of(target)} is read-only: open it with open_ds(..., mode='r+')")
        return target
    if not isinstance(target, str | os.PathLike):
        raise ArrayError(
            f"an output is an Array or a path, not {type(target).__name__}: wrap it, Array(data, voxel_size=...)"
        )
    location = Location.of(target)
    options: dict[str, Any] = {
        "shape": like.shape,
        "offset": like.roi.begin,
        "voxel_size": like.voxel_size,
        "dtype": dtype,
        "write_size": write_size,
        "chunk_shape": chunk_shape,
        "shard_shape": shard_shape,
        "axis_names": like.axis_names,
        "units": like.units,
        "types": like.types,
        "attrs": attrs,
    }
    try:
        return _made(location, target, like.layout, options, "a")
    except ArrayExistsError:
        if not overwrite:
            raise
        check_survives(location, like)
        return _made(location, target, like.layout, options, "w")


def _made(
    location: Location,
    target: str | os.PathLike[str],
    layout: Layout,
    options: Mapping[str, Any],
    mode: Literal["a", "w"],
) -> Array:
    is_zarr = location.format in (None, "zarr") and location.suffix in ("", ".zarr")
    if not is_zarr or ome_refusal(layout) or _is_array(location):
        return prepare_ds(target, **options, mode=mode)
    return Multiscale.prepare(target, **options, mode=mode)[0]


class _Planned:
    """Voxels that are not stored yet."""

    def __init__(self, path: str, shape: tuple[int, ...], dtype: npt.DTypeLike) -> None:
        self.path, self.shape, self.dtype = path, shape, parse_dtype(dtype)

    def __getitem__(self, slices: object) -> None: ...

    def __setitem__(self, slices: object, voxels: object) -> None: ...


def planned(target: Source, like: Array, dtype: npt.DTypeLike) -> Array:
    """Return what describes an output before it is made, so that a task can be refused before anything is replaced."""
    if isinstance(target, Array):
        return target
    return Array(
        _Planned(str(target), like.shape, dtype),
        voxel_size=like.voxel_size,
        offset=like.roi.begin,
        axis_names=like.axis_names,
        units=like.units,
        types=like.types,
    )


def check_survives(location: Location, source: Array) -> None:
    """Refuse to replace what is at a location if that is, or holds, what is read.

    Raises
    ------
    ArrayError
        If it does.
    """
    if source.path is None:
        return
    place, path = os.path.realpath(location.url), os.path.realpath(source.path)
    if place in (path, str(Path(path).parent)):
        raise ArrayError(
            f"overwrite=True would remove the input {source.path} to make the output {location}: pass another path"
        )


def _is_array(location: Location) -> bool:
    """Whether there is an array, not a group that could be an image."""
    return any(kind.open(location, is_writeable=False, missing="fill") for kind in candidates(location))


def block_task(
    name: str,
    function: Callable[..., Any],
    *,
    reads: Sequence[Array] = (),
    writes: Sequence[Array] = (),
    block_shape: CoordinateLike | None = None,
    context: CoordinateLike = 0,
    limits: Limits | None = None,
    memory_bytes: int | None = None,
    version: str = "",
    total: Roi | None = None,
    results: bool = False,
) -> Task:
    """Make the task that calls ``function`` with each block of the first output (or input, if there is none).

    Blocks cover the region in C order and are clipped at its end. Each reads its region grown by the context, also
    beyond the array: ``function`` clips. All arrays lie in one space; their voxel sizes may differ.

    Parameters
    ----------
    name
        Id of the task.
    function
        Called with a `Block`; make it ``functools.partial(a_function_of_a_module, keyword=value...)``, of which the
        journal sees the code and the values.
    reads, writes
        Arrays that it reads and writes.
    block_shape, context
        Voxels of the first output (or input): one number for all or one per physical axis. A shape that is not given
        is picked: whole chunks, about 128^3 voxels.
    limits
        What it may use.
    memory_bytes
        What a worker needs for one block; estimated from what it reads and writes if not given.
    version
        Parameters that finished blocks depend on, beside the code; the identity of the datasets is added.
    total
        In place of all of the first output: the region to write.
    results
        Whether to keep what ``function`` returns.

    Raises
    ------
    TaskError
        Before the first block: if two blocks could write the same chunk at the same time, an array is both read and
        written, a worker would need more memory than it may have, or blocks would cut voxels.
    """
    limits = limits or Limits()
    is_parallel = limits.num_workers != 1
    frame = Frame.of(name, reads, writes, total)
    lattices = frame.lattices(is_parallel=is_parallel)
    block = frame.block(block_shape, lattices)
    margin = voxels_per_axis(f"task {name!r}: context", context, frame.dims)
    if min(margin) < 0:
        raise TaskError(f"task {name!r}: context is {tuple(margin)}, must not be negative")
    frame.check(block, margin, lattices, is_parallel=is_parallel)
    edge = margin * frame.voxel_size

    def bytes_of(shape: Coordinate) -> int:
        if memory_bytes is not None:  # of the block as it is; of others in proportion
            return memory_bytes * prod(shape) // prod(block)
        written = shape * frame.voxel_size
        read = sum(region_bytes(array, written + 2 * edge) for array in reads)
        return memory.estimate(read, sum(region_bytes(array, written) for array in writes))

    most = memory.parse_bytes(limits.max_memory) or memory.share_of_worker(limits.num_workers)
    memory.check_memory(name, bytes_of, block, frame.units(block, lattices), max_memory=most)
    write_roi = Roi(frame.roi.begin, block * frame.voxel_size)
    return Task(
        name,
        frame.roi.grow(edge, edge),
        write_roi.grow(edge, edge),
        write_roi,
        function,
        read_write_conflict=False,
        num_workers=limits.num_workers or ANY_NUMBER,
        max_retries=limits.max_retries,
        fit="shrink",
        timeout=limits.timeout_s,
        resources=limits.resources,
        identity=_described(version, reads, writes),
        writes=frame.touched(),
        results=results,
    )


def _described(version: str, reads: Sequence[Array], writes: Sequence[Array]) -> str:
    parts = [
        version,
        *(f"in {_identity(array)}" for array in reads),
        *(f"out {_identity(array, is_written=True)}" for array in writes),
    ]
    return "; ".join(part for part in parts if part)


def _identity(array: Array, *, is_written: bool = False) -> str:
    """Return what changes when a dataset is made anew, but not when it is written: where and when it was made."""
    if isinstance(array.data, np.ndarray):
        # No later run finds what is written to memory; what is read from there is what it holds.
        held = secrets.token_hex(8) if is_written else blake2b(array.to_ndarray().tobytes(), digest_size=8).hexdigest()
        return f"{array.dtype}{list(array.shape)} in memory, {held}"
    if array.path is None:
        return f"{array.data} {getattr(array.data, 'name', '')}"
    path = Path(array.path)
    files = [path / name for name in _METADATA]
    made = next((file.stat().st_mtime_ns for file in files if file.is_file()), array.attrs.get(BELLIS_ID))
    if made is None and not array.is_writeable:  # a file that is only read changes when it is another one
        made = next((file.stat().st_mtime_ns for file in (path, *path.parents) if file.is_file()), None)
    return array.path if made is None else f"{array.path}@{made}"
