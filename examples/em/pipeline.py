"""Segment a stack of electron micrographs: what is one cell, through all sections.

    bellis run examples/em/pipeline.py:pipeline --input stack.tif

The stack is copied to OME-Zarr. Dark lines become a boundary map, unless there is one (``--boundaries``). That is
parted into fragments, section by section. A graph keeps which of them touch, and how much of a boundary is between
them; those with little are joined. ``em.zarr`` then holds the images raw, boundaries, fragments and segments.
"""

from __future__ import annotations

import runpy
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from bellis import Array, GraphMissingError, Pipeline, ops
from bellis.graphs import open_graph

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

THRESHOLD = 0.5
SIGMA_NM, CONTRAST = 28.0, 32.0  # of the dark lines in the stack beside the checkout
TRUNCATE = 4.0  # where the kernel ends, in sigma
DATA = Path(__file__).resolve().parents[3] / "shared" / "data"  # beside the checkout
MICROGRAPHS = Path(__file__).resolve().parents[1] / "micrographs.py"  # what the examples on such stacks share


def pipeline(
    input: str | None = None,  # noqa: A002  (it becomes the option --input)
    boundaries: str | None = None,
    graph: str | None = None,
    output: Path = Path("demo-em"),
    *,
    threshold: float = THRESHOLD,
    edge: float = 0.35,
    block: tuple[int, int, int] = (10, 256, 256),
    sigma_nm: float = SIGMA_NM,
    contrast: float = CONTRAST,
    levels: int = 3,
    compare: bool = False,
) -> Pipeline:
    """Describe the run.

    Parameters
    ----------
    input
        Path or URL of the stack, axes z, y, x; if it does not say so, voxels are 50 x 4.6 x 4.6 nm. By default, the
        stack beside the checkout, or else a simulated one.
    boundaries
        Boundary map of the same shape: unsigned integers, of which the largest is a boundary for sure, or floats from
        0 to 1. By default, dark lines are found.
    graph
        Where the graph of fragments is kept, like postgresql://host/database; by default, ``fragments.sqlite``.
    output
        Folder for ``em.zarr``, for ``fragments.parquet``, which says what segment a fragment belongs to, and for
        ``segments.parquet``, their sizes and places.
    threshold
        Fragments with a mean boundary of this or more between them stay apart.
    edge
        What is above in the boundary map ends a fragment.
    block
        Voxels of a block, along z, y and x.
    sigma_nm
        How thick lines are that are found: standard deviation of the Gaussian, in nm.
    contrast
        Lines that are so many grey values deep, after smoothing, are boundaries for sure.
    levels
        How many coarser levels raw and segments get.
    compare
        Segment the boundary map once more in one block, as ``whole``.
    """
    output = Path(output).absolute()
    stack, known = open_stacks(input, boundaries, output)
    store = output / "em.zarr"
    raw, lines, segments, whole = (store / name for name in ("raw", "boundaries", "segments", "whole"))

    # Images of another stack, which are not as asked for this one, are replaced.
    found = ops.copy(stack, raw, block_shape=block, overwrite=True)
    if known is None:
        sigma_px = [sigma_nm / float(edge) for edge in stack.scale("nm")[1:]]
        context = [0, *(int(TRUNCATE * sigma + 0.5) for sigma in sigma_px)]
        find = partial(dark_lines, sigma_px=sigma_px, contrast=contrast)
        found += ops.map(
            find, raw, lines, context=context, block_shape=block, dtype="uint8", name="boundaries", overwrite=True
        )
    else:
        found |= ops.copy(known, lines, block_shape=block, name="boundaries", overwrite=True)
    parted = ops.segment(
        lines,
        segments,
        graph=graph or own_graph(output / "fragments.sqlite", stack),
        fragments=store / "fragments",
        table=output / "fragments.parquet",
        threshold=threshold,
        boundary_threshold=edge,
        in_sections=True,
        block_shape=block,
        overwrite=True,
    )
    measured = ops.measure(segments, output / "segments.parquet", block_shape=block)
    raw_levels = ops.downscale(raw, levels, name="raw", overwrite=True)
    segment_levels = ops.downscale(segments, levels, method="mode", name="segments", overwrite=True)
    results = parted + (measured | segment_levels)
    if compare:
        results |= ops.segment(
            lines,
            whole,
            graph=own_graph(output / "whole.sqlite", stack),
            table=output / "whole.parquet",
            threshold=threshold,
            boundary_threshold=edge,
            in_sections=True,
            block_shape=stack.spatial_shape,
            name="whole",
            overwrite=True,
        )
    return found + (raw_levels | results)


def dark_lines(voxels: npt.NDArray[Any], *, sigma_px: Sequence[float], contrast: float) -> npt.NDArray[np.uint8]:
    """Return how sure a voxel is to be on a dark line of its section, or at a dark surface that is cut across.

    That is the larger eigenvalue of the Hessian of the section after a Gaussian, times its variance: how deep the
    valley is in which the voxel lies (Lindeberg, International Journal of Computer Vision 30 (1998) 117).
    """
    from scipy.ndimage import gaussian_filter

    def curvature(order_y: int, order_x: int) -> npt.NDArray[np.float32]:
        scale = sigma_px[0] ** order_y * sigma_px[1] ** order_x
        order = (0, order_y, order_x)
        return scale * gaussian_filter(voxels, (0, *sigma_px), order=order, output=np.float32, truncate=TRUNCATE)

    yy, xx, yx = curvature(2, 0), curvature(0, 2), curvature(1, 1)
    depth = (yy + xx) / 2 + np.hypot((yy - xx) / 2, yx)
    return np.rint(np.clip(depth / contrast, 0, 1) * 255).astype(np.uint8)


def open_stacks(path: str | None, boundaries: str | None, output: Path) -> tuple[Array, Array | None]:
    """Open the stack and, if there is one, the boundary map; without a path, the known stack, or a simulated one."""
    micrographs = SimpleNamespace(**runpy.run_path(str(MICROGRAPHS)))
    stack = micrographs.open_stack(path or micrographs.known_stack(output / "simulated.tif", DATA))
    return stack, None if boundaries is None else micrographs.open_beside(boundaries, stack, "boundary map")


def own_graph(path: Path, stack: Array) -> Path:
    """Return the path of a graph that is ours; one of another region is removed."""
    try:
        with open_graph(path, "r") as store:
            is_other = store.total_roi != stack.roi
    except GraphMissingError:
        return path
    if is_other:
        for file in path.parent.glob(f"{path.name}*"):  # SQLite's own files beside it
            file.unlink()
    return path
