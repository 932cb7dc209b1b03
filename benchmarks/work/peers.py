"""The operations of `benchmarks.work.volumes`, by the libraries that people use for them today."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.work.volumes import CONTEXT, MASK, OUT, RAW, WORKERS, measured, prepare, smooth

if TYPE_CHECKING:
    from benchmarks.work.libraries import Library

__all__ = ["prepare"]


def map_dask(library: None, size: int, block: int, *, processes: bool) -> dict[str, float]:
    """`dask.array.map_overlap`, on threads or on processes."""
    del library
    import dask
    import dask.array as da

    began = perf_counter()

    def work() -> None:
        raw = da.from_zarr(RAW)
        smoothed = raw.map_overlap(smooth, depth=CONTEXT, boundary="reflect", dtype="uint8")
        smoothed.to_zarr(OUT, mode="w")

    if processes:
        from dask.distributed import Client

        with Client(n_workers=WORKERS, threads_per_worker=1, dashboard_address=None):
            work()
    else:
        with dask.config.set(scheduler="threads", num_workers=WORKERS):
            work()
    return measured(began, size)


def _smooth_inner(voxels: Any) -> Any:
    return smooth(voxels)[(slice(CONTEXT, -CONTEXT),) * voxels.ndim]


def map_cubed(library: None, size: int, block: int) -> dict[str, float]:
    """`cubed.map_overlap`, on processes."""
    del library, block
    import cubed

    began = perf_counter()
    spec = cubed.Spec(
        work_dir="cubed", allowed_mem="4GB", executor_name="processes", executor_options={"max_workers": WORKERS}
    )
    raw = cubed.from_zarr(RAW, spec=spec)
    # It crops nothing by itself, and knows no boundary but a constant.
    smoothed = cubed.map_overlap(
        _smooth_inner, raw, dtype=raw.dtype, chunks=raw.chunks, depth=CONTEXT, boundary=0, trim=False
    )
    cubed.to_zarr(smoothed, OUT)
    return measured(began, size)


def label_dask_image(library: None, size: int, block: int) -> dict[str, float]:
    """`dask_image.ndmeasure.label`."""
    del library, block
    import dask
    import dask.array as da
    from dask_image.ndmeasure import label

    began = perf_counter()
    with dask.config.set(scheduler="threads", num_workers=WORKERS):
        labels, _ = label(da.from_zarr(MASK), structure=np.ones((3, 3, 3)))
        labels.to_zarr(OUT, mode="w")
    return measured(began, size)


def downscale_dask(library: None, size: int, block: int) -> dict[str, float]:
    """`dask.array.coarsen`, zarr to zarr."""
    del library, block
    import dask
    import dask.array as da

    began = perf_counter()
    with dask.config.set(scheduler="threads", num_workers=WORKERS):
        coarse = da.coarsen(np.mean, da.from_zarr(RAW), {0: 2, 1: 2, 2: 2}).astype("uint8")
        coarse.to_zarr(OUT, mode="w")
    return measured(began, size)


def downscale_ome_zarr(library: None, size: int, block: int) -> dict[str, float]:
    """ome-zarr's own local mean, as its writer makes pyramids."""
    del library, block
    import dask
    import dask.array as da
    from ome_zarr.dask_utils import local_mean

    began = perf_counter()
    with dask.config.set(scheduler="threads", num_workers=WORKERS):
        local_mean(da.from_zarr(RAW), (size // 2,) * 3).astype("uint8").to_zarr(OUT, mode="w")
    return measured(began, size)


def map_daisy(library: Library, size: int, block: int) -> dict[str, float]:
    """daisy 2 with zarr-python."""
    import zarr

    began = perf_counter()
    zarr.create_array(OUT, shape=(size,) * 3, dtype="uint8", chunks=(block,) * 3, overwrite=True)
    roi = library.api.Roi
    total = roi((-CONTEXT,) * 3, (size + 2 * CONTEXT,) * 3)
    read, write = roi((-CONTEXT,) * 3, (block + 2 * CONTEXT,) * 3), roi((0,) * 3, (block,) * 3)
    task = library.api.Task(
        "smooth", total, read, write, process_function=partial(_daisy_block, place=str(Path.cwd()), size=size),
        read_write_conflict=False, max_workers=WORKERS,
    )  # fmt: skip
    library.complete(task)
    return measured(began, size)


def _daisy_block(block: Any, place: str, size: int) -> None:
    import zarr

    whole = type(block.write_roi)((0,) * 3, (size,) * 3)
    read = block.read_roi.intersect(whole)
    voxels = zarr.open_array(f"{place}/{RAW}", mode="r")[read.to_slices()]
    inner = tuple(slice(w - r, w - r + n) for w, r, n in
                  zip(block.write_roi.begin, read.begin, block.write_roi.shape, strict=True))  # fmt: skip
    zarr.open_array(f"{place}/{OUT}", mode="r+")[block.write_roi.to_slices()] = smooth(voxels)[inner]
