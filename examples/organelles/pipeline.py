"""Find the dark organelles of a stack of electron micrographs, and measure them.

    bellis run examples/organelles/pipeline.py:pipeline --input stack.tif

The stack is copied to OME-Zarr and smoothed, what is dark is marked, its connected components are labelled, those that
are too small removed, and the others measured. Given a mask of organelles (``--truth``), that is labelled instead.
"""

from __future__ import annotations

import runpy
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from bellis import Array, Pipeline, ops

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

TRUNCATE = 4.0  # where the kernel ends, in sigma
DATA = Path(__file__).resolve().parents[3] / "shared" / "data"  # beside the checkout
MICROGRAPHS = Path(__file__).resolve().parents[1] / "micrographs.py"  # what the examples on such stacks share


def pipeline(
    input: str | None = None,  # noqa: A002  (it becomes the option --input)
    truth: str | None = None,
    output: Path = Path("demo-organelles"),
    *,
    block: tuple[int, int, int] = (7, 200, 300),
    sigma_nm: float = 20.0,
    threshold: float = 100.0,
    min_size: int = 1000,
    levels: int = 3,
) -> Pipeline:
    """Describe the run.

    Parameters
    ----------
    input
        Path or URL of the stack, axes z, y, x; if it does not say so, voxels are 50 x 4.6 x 4.6 nm. By default, the
        stack beside the checkout, or else a simulated one.
    truth
        Mask of the same shape, other than 0 where an organelle is.
    output
        Folder for ``organelles.zarr``, with the images raw, smoothed, dark, labels and objects, and for
        ``objects.parquet``.
    block
        Voxels of a block, along z, y and x.
    sigma_nm
        Standard deviation of the Gaussian, in nm.
    threshold
        What is darker than this after smoothing is marked.
    min_size
        Voxels that an object has at least.
    levels
        How many coarser levels an image gets.
    """
    output = Path(output).absolute()
    stack, mask = open_stacks(input, truth, output)
    store = output / "organelles.zarr"
    raw, smoothed, dark, labels, objects = (store / n for n in ("raw", "smoothed", "dark", "labels", "objects"))
    sigma_px = [sigma_nm / float(edge) for edge in stack.scale("nm")]
    context = [int(TRUNCATE * sigma + 0.5) for sigma in sigma_px]

    # Images of another stack, which are not as asked for this one, are replaced.
    copy = ops.copy(stack, raw, block_shape=block, overwrite=True)
    blur = partial(smooth, sigma_px=sigma_px)
    blurred = ops.map(blur, raw, smoothed, context=context, block_shape=block, dtype="float32", overwrite=True)
    mark = partial(darker, threshold=threshold)
    marked = ops.map(mark, smoothed, dark, block_shape=block, dtype="uint8", name="dark", overwrite=True)
    labelled = ops.label(dark if mask is None else mask, labels, block_shape=block, overwrite=True)
    sifted = ops.remove_small(labels, objects, min_size, block_shape=block, overwrite=True)
    measured = ops.measure(objects, output / "objects.parquet", intensity=raw, block_shape=block)
    raw_levels = ops.downscale(raw, levels, name="raw", overwrite=True)
    object_levels = ops.downscale(objects, levels, method="mode", name="objects", overwrite=True)

    return copy + (raw_levels | blurred + marked + labelled + sifted + (measured | object_levels))


def smooth(voxels: npt.NDArray[Any], *, sigma_px: Sequence[float]) -> npt.NDArray[np.float32]:
    """Blur; beyond the stack, the filter mirrors it."""
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(voxels, sigma_px, output=np.float32, truncate=TRUNCATE)


def darker(voxels: npt.NDArray[Any], *, threshold: float) -> npt.NDArray[np.uint8]:
    """Mark what is dark with 1."""
    return (voxels < threshold).astype(np.uint8)


def open_stacks(path: str | None, truth: str | None, output: Path) -> tuple[Array, Array | None]:
    """Open the stack and, if there is one, the mask; without a path, the known ones, or a simulated stack."""
    micrographs = SimpleNamespace(**runpy.run_path(str(MICROGRAPHS)))
    known = micrographs.known_stack(output / "simulated.tif", DATA) if path is None else None
    if known == DATA / "vnc_stack1_raw.tif":
        truth = truth or str(DATA / "vnc_stack1_mitochondria.tif")
    stack = micrographs.open_stack(known or path)
    return stack, None if truth is None else micrographs.open_beside(truth, stack, "mask")
