"""One volume behind a web server, read in unaligned regions: by bellis, by tensorstore, by cloud-volume."""

from __future__ import annotations

import secrets
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.work.measure import peak_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.work.libraries import Library

ZARR, LAYER = "remote.zarr", "layer"

Slices = tuple[slice, ...]


def prepare(library: Library | None, size: int, block: int, **_: Any) -> dict[str, float]:
    """Write the volume twice: as zarr with checksums, and as a layer of neuroglancer. Noise, smoothed."""
    del library
    from scipy.ndimage import gaussian_filter

    noise = gaussian_filter(np.random.default_rng(1).standard_normal((size,) * 3, dtype=np.float32), 2, mode="wrap")
    voxels = np.clip(128 + 40 * noise / noise.std(), 0, 255).astype(np.uint8)
    zarr, layer = _made(size, block)
    zarr.write(voxels).result()
    layer[..., 0].write(voxels.transpose()).result()
    return {}


def _made(size: int, block: int) -> tuple[Any, Any]:
    import tensorstore

    codecs = [
        {"name": "bytes", "configuration": {"endian": "little"}},
        {"name": "zstd", "configuration": {"level": 1}},
        {"name": "crc32c"},
    ]
    grid = {"name": "regular", "configuration": {"chunk_shape": [block] * 3}}
    zarr = {"shape": [size] * 3, "data_type": "uint8", "chunk_grid": grid, "codecs": codecs}
    scale = {"size": [size] * 3, "encoding": "raw", "chunk_size": [block] * 3, "resolution": [8, 8, 8]}
    scale |= {"voxel_offset": [0, 0, 0], "key": "8_8_8"}
    specs = (
        {"driver": "zarr3", "kvstore": _files(ZARR), "metadata": zarr},
        {
            "driver": "neuroglancer_precomputed", "kvstore": _files(LAYER), "scale_metadata": scale,
            "multiscale_metadata": {"type": "image", "data_type": "uint8", "num_channels": 1},
        },
    )  # fmt: skip
    first, second = (tensorstore.open(spec, create=True, delete_existing=True).result() for spec in specs)
    return first, second


def _files(path: str) -> dict[str, str]:
    return {"driver": "file", "path": f"{Path(path).absolute()}/"}


def regions(size: int, edge: int) -> list[Slices]:
    """Return regions side by side, half a block off the grid."""
    begins = range(edge // 4, size - edge + 1, edge)
    return [tuple(slice(a, a + edge) for a in at) for at in product(begins, repeat=3)]


@contextmanager
def served(latency_s: float) -> Iterator[str]:
    """Serve the files of this folder from a process of its own."""
    command = [sys.executable, "-m", "benchmarks.work.file_server", ".", str(latency_s)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield server.stdout.readline().strip()  # type: ignore[union-attr]
    finally:
        server.terminate()
        server.wait()


def _timed(read: Callable[[Slices], Any], where: list[Slices], readers: int = 1) -> float:
    """Return the seconds that ``readers`` threads take to read all regions."""

    def check(region: Slices) -> None:
        assert read(region).shape[:3] == tuple(part.stop - part.start for part in region)

    began = perf_counter()
    with ThreadPoolExecutor(readers) as pool:
        list(pool.map(check, where))
    return perf_counter() - began


def _figures(seconds: float, where: list[Slices]) -> dict[str, float]:
    voxels = sum(np.prod([part.stop - part.start for part in region]) for region in where)
    return {"seconds": seconds, "mb_per_s": float(voxels) / 1e6 / seconds, "peak_mb": peak_bytes() / 1e6}


# -- bellis ------------------------------------------------------------------------------------------------------------


def _volume(url: str) -> Any:
    from bellis.volumes import CachedVolume
    from bellis.volumes.descriptions import CacheDescription, ChunkedDescription, VolumeDescription

    folder = f"cache-{secrets.token_hex(4)}"
    cache = CacheDescription(directory=str(Path(folder).absolute()))
    return CachedVolume(VolumeDescription(name="volume", source=ChunkedDescription(url=url), cache=cache))


def kept_bellis(library: Library, size: int, block: int, edge: int, rounds: int) -> dict[str, float]:
    """Read what is in the cache, in turn with bare tensorstore on the same files."""
    del library, block
    import tensorstore

    where = regions(size, edge)
    volume = _volume(str(Path(ZARR).absolute()))
    volume.download_all_blocks()
    bare = tensorstore.open({"driver": "zarr3", "kvstore": _files(volume.path)}, open=True).result()
    readers = (lambda region: volume[region], lambda region: bare[region].read().result())
    times = [[_timed(read, where) for read in readers] for _ in range(rounds)]
    ours, theirs = (median(column) for column in zip(*times, strict=True))
    shutil.rmtree(volume.path)
    return {**_figures(ours, where), "of_bare": theirs / ours}


def cold_bellis(
    library: Library, size: int, block: int, edge: int, *, path: str, latency_s: float, readers: int
) -> dict[str, float]:
    """Read what is behind a server, for the first time; then again."""
    del library, block
    where = regions(size, edge)
    with served(latency_s) as url:
        volume = _volume(f"{url}/{path}")
        with volume:
            first = _timed(lambda region: volume[region], where, readers)
            again = _timed(lambda region: volume[region], where, readers)
            requests = volume.statistics.num_requests
    shutil.rmtree(volume.path)
    figures = _figures(first, where)
    return {**figures, "again_s": again, "requests": requests}


# -- others ------------------------------------------------------------------------------------------------------------


def cold_tensorstore(
    library: None, size: int, block: int, edge: int, *, path: str, latency_s: float, readers: int
) -> dict[str, float]:
    """Read by tensorstore as it comes; it keeps nothing."""
    del library, block
    import tensorstore

    where = regions(size, edge)
    driver = "zarr3" if path == ZARR else "neuroglancer_precomputed"
    with served(latency_s) as url:
        store = tensorstore.open({"driver": driver, "kvstore": f"{url}/{path}/"}, open=True).result()
        first = _timed(lambda region: store[region].read().result(), where, readers)
        again = _timed(lambda region: store[region].read().result(), where, readers)
    return {**_figures(first, where), "again_s": again}


def cold_cloudvolume(
    library: None, size: int, block: int, edge: int, *, path: str, latency_s: float, readers: int
) -> dict[str, float]:
    """Read by cloud-volume, which keeps the chunks as files too."""
    del library, block
    from cloudvolume import CloudVolume

    where = regions(size, edge)
    kept = f"kept-{secrets.token_hex(4)}"
    with served(latency_s) as url:
        layer = CloudVolume(f"precomputed://{url}/{path}", cache=kept, progress=False, fill_missing=False)
        first = _timed(lambda region: layer[region], where, readers)
        again = _timed(lambda region: layer[region], where, readers)
    shutil.rmtree(kept)
    return {**_figures(first, where), "again_s": again}
