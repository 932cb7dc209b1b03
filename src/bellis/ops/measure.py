"""Size, place and intensity of each label, as a table."""

from __future__ import annotations

import functools
import json
import os
import secrets
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from bellis.errors import ArrayError, TaskError
from bellis.ops.blocks import as_input, block_task, name_of
from bellis.ops.measured import measured_in, merge_measured, table_of
from bellis.ops.memory import WORKER_BYTES
from bellis.ops.steps import (
    Step,
    Steps,
    check_integers,
    check_no_channels,
    check_same_voxels,
    index_of,
    no_step,
)

if TYPE_CHECKING:
    from bellis.arrays import Array
    from bellis.geometry import CoordinateLike
    from bellis.ops.blocks import Limits, Source
    from bellis.ops.parts import Scratch
    from bellis.tasks import Block, Pipeline

VOXEL_BYTES = 72
"""What a worker holds per voxel: labels, their places, and values as they are added up; seen: 65 with an image."""


def measure(
    labels: Source,
    table: str | os.PathLike[str],
    *,
    intensity: Source | None = None,
    block_shape: CoordinateLike | None = None,
    name: str = "measure",
    scratch: str | os.PathLike[str] | None = None,
    limits: Limits | None = None,
) -> Pipeline:
    """Measure each label, and write a Parquet file with one row per label, sorted by label; 0 is background.

    Its columns, for axes z, y, x:

    ============================ ======================================================================================
    ``label``                    the label, of the labels' dtype
    ``size``                     its number of voxels
    ``begin_z``, ``end_z``, ...  its bounding box in world units, half open
    ``centroid_z``, ...          the mean of its voxels' centres, in world units; the centre of the first voxel of an
                                 array is half a voxel from the array's offset
    ``intensity_count``          its number of voxels whose intensity is not NaN; the next ones are of these
    ``intensity_mean``           their mean
    ``intensity_std``            their standard deviation: of a population, as `numpy.std`
    ``intensity_min``, ``_max``  the smallest and the largest, of the image's dtype; float64 for images of floats
    ============================ ======================================================================================

    Sums of voxels and of integer intensities are exact, so that sizes and boxes are, and centroids, means and standard
    deviations are off by nothing but the rounding of the last step, for every shape of blocks. With images of floats,
    means and standard deviations are sums in float64, in an order that is fixed by the blocks alone.

    Units, voxel size and offset are in the file's metadata, as JSON under ``bellis``. ``report.value(name)`` is the
    number of rows.

    Parameters
    ----------
    labels
        Array of integers, or the path of one, without channels.
    table
        Path of the file; it is written whole, in place of one that is there.
    intensity
        Image of integers, bool or floats with the voxels of ``labels``.
    block_shape
        Voxels of a block: one number for all or one per axis. Picked if not given: whole chunks of the labels, about
        128^3 voxels.
    name
        Of the operation; its tasks are ``name/...``, the last one is ``name``.
    scratch
        Folder for the tables of blocks, which all workers reach; if not given, ``.bellis/scratch`` beside
        the file. It is removed at the end, but for a note that the operation is over.
    limits
        Workers, memory, retries. One worker needs about 1 kB per label in addition, to join the tables.

    Raises
    ------
    ArrayError
        If an array can't be opened, or the image does not have the voxels of ``labels``.
    TaskError
        If ``table`` is no path of a file.
    """
    source = as_input(labels)
    image = None if intensity is None else as_input(intensity)
    what = f"task {name!r}"
    check_integers(what, source)
    check_no_channels(what, source)
    if image is not None:
        check_same_voxels(what, source, image)
        if image.dtype.kind not in "iubf":
            raise ArrayError(f"{what}: intensities are integers or floats, but {name_of(image)} has {image.dtype}")
    if "://" in str(table) or Path(table).is_dir() or Path(table).suffix.lower() not in ("", ".parquet", ".pq"):
        raise TaskError(f"{what}: table is {table}, must be the path of a Parquet file, like 'cells.parquet'")
    path = Path(table).absolute()
    arrays = [source] if image is None else [source, image]
    plan = functools.partial(
        block_task, f"{name}/blocks", no_step, reads=arrays, limits=limits, version=f"table {path}"
    )
    block = plan(block_shape=block_shape, memory_bytes=0).write_roi.shape // source.voxel_size
    blocks = plan(block_shape=block, memory_bytes=WORKER_BYTES + VOXEL_BYTES * prod(block))
    code = (measure_block, measured_in, merge_measured, table_of, write_table)
    steps = Steps.of(name, blocks, output=path, source=source, folder=scratch, code=code)
    each = functools.partial(measure_block, labels=source, image=image, scratch=steps.scratch)
    tasks, root = steps.combined("blocks", merge_measured)
    write = functools.partial(write_table, root=root, labels=source, path=path)
    return steps.pipeline([steps.task("blocks", each), *tasks], write)


def measure_block(block: Block, *, labels: Array, image: Array | None, scratch: Scratch) -> None:
    """Keep the table of one block."""
    roi = block.write_roi
    begin = (roi.begin - labels.roi.begin) // labels.voxel_size
    intensities = None if image is None else image.to_ndarray(roi)
    scratch.put("blocks", index_of(block), measured_in(labels.to_ndarray(roi), tuple(begin), intensities))


def write_table(block: Block, *, root: Step, labels: Array, path: Path) -> int:
    """Write the table of all blocks; return its number of rows."""
    import pyarrow as pa
    from pyarrow import parquet

    axes = {"axis_names": labels.axis_names, "voxel_size": labels.voxel_size, "offset": labels.roi.begin}
    metadata = json.dumps({**axes, "units": labels.units, "background": 0})
    columns = table_of(root(block), labels)
    table = pa.table(columns).replace_schema_metadata({"bellis": metadata})
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
    parquet.write_table(table, partial)
    partial.replace(path)
    return len(table)
