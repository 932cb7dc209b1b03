"""Smooth a volume that is elsewhere, as if it were here: its blocks are fetched when they are first read, and kept.

    bellis run examples/remote/pipeline.py:pipeline --volume volume.json

``volume.json`` says where the volume is, and where its blocks are kept: `describe` writes one.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bellis import Task, open_ds, ops

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import numpy.typing as npt

VOXEL_NM = (50, 4.6, 4.6)
TRUNCATE = 4.0  # where the kernel ends, in sigma
BLOCKS = (2, 16, 16)  # of the cache, along z, y and x
PARTS = (2, 4, 4)  # of the task


def describe(path: Path, url: str, shape: Sequence[int]) -> None:
    """Write a description file: a server that sends parts of a volume, and a folder beside the file for its blocks."""
    description = {
        "_schema_name": "bellis-volume-description",
        "_schema_version": 1.0,
        "name": "em",
        "source": {
            "url_format": url + "/cutout/npy/{x_start}-{x_stop}/{y_start}-{y_stop}/{z_start}-{z_stop}",
            "payload": "npy",
            "axes": "zyx",
            "dtype": "uint8",
            "shape": list(shape),
            "voxel_size": list(VOXEL_NM),
            "units": "nm",
        },
        "cache": {"directory": "blocks", "block_shape": parts_of(shape, BLOCKS)},
        "parallel": 4,
    }
    path.write_text(json.dumps(description, indent=2) + "\n")


def pipeline(volume: Path, output: Path = Path("smoothed.zarr"), *, sigma_nm: float = 20.0) -> Task:
    """Describe the run: a Gaussian, block by block.

    Parameters
    ----------
    volume
        A description file; or any array.
    output
        The OME-Zarr image to write, float32.
    sigma_nm
        Standard deviation of the Gaussian, in nm.
    """
    source = open_ds(volume)
    sigma_px = [sigma_nm / float(edge) for edge in source.scale("nm")]
    return ops.map(
        partial(smooth, sigma_px=sigma_px),
        volume,
        Path(output).absolute(),
        context=[int(TRUNCATE * sigma + 0.5) for sigma in sigma_px],
        block_shape=parts_of(source.shape, PARTS),
        dtype="float32",
    )


def smooth(voxels: npt.NDArray[Any], *, sigma_px: Sequence[float]) -> npt.NDArray[np.float32]:
    """Blur; beyond the volume, the filter mirrors it."""
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(voxels, sigma_px, output="float32", truncate=TRUNCATE)


def parts_of(shape: Sequence[int], counts: Sequence[int]) -> list[int]:
    """Return the shape of each of so many parts, the last of which may be smaller."""
    return [-(-n // count) for n, count in zip(shape, counts, strict=True)]
