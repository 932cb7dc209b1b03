"""The same operations on one volume on disk: by bellis, by tensorstore alone, and by what people use today."""

from __future__ import annotations

import os
import resource
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter, process_time
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.work.measure import peak_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.work.libraries import Library

CONTEXT = 8  # where scipy's Gaussian of sigma 2 ends
WORKERS = 2
RAW, MASK, OUT = "raw.zarr", "mask.zarr", "out.zarr"

Slices = tuple[slice, ...]


def smooth(voxels: Any) -> Any:
    """Blur: the kernel of all sides."""
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(voxels, 2)


# -- the data ----------------------------------------------------------------------------------------------------------


def prepare(library: Library | None, size: int, block: int, **_: Any) -> dict[str, float]:
    """Write the volume, and a mask of about half of it, in many pieces: noise, smoothed."""
    del library
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(1)
    raw, mask = (store(path, (size,) * 3, "uint8", block, create=True) for path in (RAW, MASK))
    tile = min(size, 256)
    for at in cubes(size, tile):
        noise = gaussian_filter(rng.standard_normal((tile,) * 3, dtype=np.float32), 2, mode="wrap")
        noise /= noise.std()
        raw[at].write(np.clip(128 + 40 * noise, 0, 255).astype(np.uint8)).result()
        mask[at].write((noise > 0.5).astype(np.uint8)).result()
    return {}


def store(path: str, shape: tuple[int, ...], dtype: str, block: int, *, create: bool = False) -> Any:
    """Open a zarr 3 array with tensorstore, one thread for each of its duties."""
    import tensorstore

    codec = {"cname": "zstd", "clevel": 1, "shuffle": "shuffle", "typesize": np.dtype(dtype).itemsize, "blocksize": 0}
    context = {"data_copy_concurrency": {"limit": 1}, "file_io_concurrency": {"limit": 1}}
    spec: dict[str, Any] = {"driver": "zarr3", "kvstore": {"driver": "file", "path": path + "/"}, "context": context}
    if create:
        spec["metadata"] = {
            "shape": list(shape),
            "data_type": dtype,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [block] * len(shape)}},
            "codecs": [
                {"name": "bytes", "configuration": {"endian": "little"}},
                {"name": "blosc", "configuration": codec},
            ],
        }  # fmt: skip
    return tensorstore.open(spec, open=not create, create=create, delete_existing=create).result()


def cubes(size: int, edge: int, context: int = 0) -> Iterator[Slices]:
    """Yield the blocks of a cube, grown and clipped."""
    for begin in product(range(0, size, edge), repeat=3):
        yield tuple(slice(max(0, b - context), min(size, b + edge + context)) for b in begin)


# -- map ---------------------------------------------------------------------------------------------------------------


def map_bellis(library: Library, size: int, block: int) -> dict[str, float]:
    """`ops.map`, the everyday call."""
    from bellis import ops

    began = perf_counter()
    task = ops.map(smooth, RAW, OUT, block_shape=block, context=CONTEXT, overwrite=True)
    library.complete(task)
    return measured(began, size)


def map_alone(library: None, size: int, block: int) -> dict[str, float]:
    """Return the limit: processor time of the kernel calls, one read and one write, over two cores."""
    del library
    pair = _open_pair(size, block)
    for at in list(cubes(size, block))[:1]:
        _smooth_block(at, pair, size, block)  # what is loaded once is not counted
    began = process_time()
    for at in cubes(size, block):
        _smooth_block(at, pair, size, block)
    return {"seconds": (process_time() - began) / WORKERS, "voxels_per_s": size**3 / (process_time() - began) * WORKERS}


def map_pair(library: None, size: int, block: int) -> dict[str, float]:
    """Two processes with tensorstore, each given half of the blocks: what a person would write for one evening."""
    del library
    began = perf_counter()
    store(OUT, (size,) * 3, "uint8", block, create=True)
    blocks = list(cubes(size, block))
    with ProcessPoolExecutor(WORKERS, get_context("spawn")) as pool:
        list(pool.map(partial(_smooth_share, size=size, block=block), [blocks[k::WORKERS] for k in range(WORKERS)]))
    return measured(began, size)


def _smooth_share(blocks: list[Slices], size: int, block: int) -> None:
    pair = _open_pair(size, block, create=False)
    for at in blocks:
        _smooth_block(at, pair, size, block)


def _open_pair(size: int, block: int, *, create: bool = True) -> tuple[Any, Any]:
    return tuple(store(p, (size,) * 3, "uint8", block, create=create and p == OUT) for p in (RAW, OUT))  # type: ignore[return-value]


def _smooth_block(at: Slices, pair: tuple[Any, Any], size: int, block: int) -> None:
    grown = tuple(slice(max(0, s.start - CONTEXT), min(size, s.stop + CONTEXT)) for s in at)
    inner = tuple(slice(s.start - g.start, s.stop - g.start) for s, g in zip(at, grown, strict=True))
    pair[1][at].write(smooth(pair[0][grown].read().result())[inner]).result()


# -- label -------------------------------------------------------------------------------------------------------------


def label_bellis(library: Library, size: int, block: int) -> dict[str, float]:
    """`ops.label`, 26 neighbours, zarr to zarr."""
    from bellis import ops

    began = perf_counter()
    library.complete(ops.label(MASK, OUT, connectivity=3, dtype="uint32", block_shape=block, overwrite=True))
    return measured(began, size)


def label_cc3d(library: None, size: int, block: int) -> dict[str, float]:
    """cc3d on the whole mask in memory, zarr to zarr by tensorstore."""
    del library
    import cc3d
    import tensorstore

    def opened(path: str) -> Any:
        context = tensorstore.Context({"data_copy_concurrency": {"limit": WORKERS}})
        return tensorstore.open(store(path, (size,) * 3, "uint32", block, create=path == OUT).spec(), context=context)

    began = perf_counter()
    mask = opened(MASK).result().read().result()
    labelling = perf_counter()
    labels = cc3d.connected_components(mask, connectivity=26, out_dtype=np.uint32)
    kernel_s = perf_counter() - labelling
    opened(OUT).result().write(labels).result()
    return {**measured(began, size), "kernel_s": kernel_s}


# -- downscale ---------------------------------------------------------------------------------------------------------


def downscale_bellis(library: Library, size: int, block: int) -> dict[str, float]:
    """`ops.downscale`: means of 2 x 2 x 2 voxels, one level."""
    from bellis import Array, open_ds, ops
    from bellis.arrays import Multiscale

    began = perf_counter()
    image = Multiscale.prepare("image.zarr", (size,) * 3, (1, 1, 1), "uint8", write_size=(block,) * 3, mode="w")
    _link_level(Path("image.zarr"), image[0])
    assert isinstance(open_ds("image.zarr"), Array)
    linking_s = perf_counter() - began
    began = perf_counter()
    library.complete(ops.downscale("image.zarr", [(2, 2, 2)], method="mean", block_shape=block, overwrite=True))
    return {**measured(began, size), "linking_s": linking_s}


def _link_level(image: Path, level: Any) -> None:
    """Make the finest level that of the volume, without copying it."""
    del level
    chunks = image / "s0" / "c"
    chunks.symlink_to(Path(RAW).absolute() / "c")


# -- reading -----------------------------------------------------------------------------------------------------------


def reads_bellis(library: Library, size: int, block: int, regions: int) -> dict[str, float]:
    """Unaligned regions, as `Array[roi].to_ndarray()` reads them, and by tensorstore alone, in turn."""
    del library
    import tensorstore

    from bellis import Roi, open_ds
    from bellis.arrays.tensorstore import CACHE_BYTES

    array = open_ds(RAW)
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": RAW + "/"}}
    context = {"cache_pool": {"total_bytes_limit": CACHE_BYTES}, "data_copy_concurrency": {"limit": 1},
               "file_io_concurrency": {"limit": 2}}  # fmt: skip
    bare = tensorstore.open(spec, context=tensorstore.Context(context)).result()
    rng = np.random.default_rng(2)
    times: dict[str, list[float]] = {"ours": [], "bare": []}
    for k in range(regions + 2):
        begin = rng.integers(0, size - block, 3)
        for side in ("ours", "bare") if k % 2 else ("bare", "ours"):
            began = perf_counter()
            if side == "ours":
                array[Roi(begin.tolist(), (block,) * 3)].to_ndarray()
            else:
                bare[tuple(slice(b, b + block) for b in begin)].read().result()
            if k >= 2:
                times[side].append(perf_counter() - began)
    ours, alone = (float(np.median(times[side])) for side in ("ours", "bare"))
    return {"seconds": ours, "of_bare": ours / alone}


def measured(began: float, size: int) -> dict[str, float]:
    seconds = perf_counter() - began
    largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    workers = largest or peak_bytes()
    return {
        "seconds": seconds,
        "voxels_per_s": size**3 / seconds,
        "peak_mb": max(workers, peak_bytes()) / 1e6,
        "cores": len(os.sched_getaffinity(0)),
    }
