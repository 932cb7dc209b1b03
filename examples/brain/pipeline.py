"""Smooth a head scan, find its tissue, measure it block by block, and make image pyramids of it all.

    bellis run examples/brain/pipeline.py:pipeline --input scan.nii.gz

Any volume will do: NIfTI, TIFF, HDF5, zarr, N5; without one, it is the MNI152 template. ``brain.zarr`` then holds the
OME-Zarr images raw, smoothed and mask, which viewers like napari and neuroglancer open.
"""

from __future__ import annotations

import importlib.util
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bellis import Array, ArrayError, Block, Pipeline, Roi, Task, open_ds, ops

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

TRUNCATE = 4.0  # where the kernel ends, in sigma: scipy's own default


def pipeline(
    input: str | Path | None = None,  # noqa: A002  (it becomes the option --input)
    output: Path = Path("demo"),
    *,
    block: int = 64,
    sigma_mm: float = 1.0,
    threshold: float = 120.0,
    levels: int = 2,
) -> Pipeline:
    """Describe the run: tasks in each of which a block waits for just those that it reads.

    Parameters
    ----------
    input
        Path or URL of a volume with the axes z, y, x; if it does not say so, a voxel is 1 mm.
    output
        Folder for ``brain.zarr``, with the images raw, smoothed and mask.
    block
        Edge of a block, in voxels.
    sigma_mm
        Standard deviation of the Gaussian, in mm.
    threshold
        Tissue is what is brighter than this after smoothing.
    levels
        How many coarser levels each image gets.
    """
    scan = open_scan(brain_template() if input is None else input)
    sigma_px = [sigma_mm / float(edge) for edge in scan.scale("mm")]
    if any(sigma > n for sigma, n in zip(sigma_px, scan.shape, strict=True)):
        raise ArrayError(f"a Gaussian of {sigma_mm} mm is wider than the volume, {scan}: pass a smaller sigma_mm")
    store = Path(output).absolute() / "brain.zarr"
    raw, smoothed, mask = (store / name for name in ("raw", "smoothed", "mask"))
    context = [int(TRUNCATE * sigma + 0.5) for sigma in sigma_px]

    # Most is ready-made. Blocks are read with context, and give what the function gives for the whole volume.
    # Images of another scan, which are not as asked for this one, are replaced.
    copy = ops.copy(scan, raw, block_shape=block, overwrite=True)
    blur = partial(smooth, sigma_px=sigma_px)
    blurred = ops.map(blur, raw, smoothed, context=context, block_shape=block, dtype="float32", overwrite=True)
    find = partial(is_tissue, threshold=threshold)
    found = ops.map(find, smoothed, mask, block_shape=block, dtype="uint8", name="mask", overwrite=True)
    pyramids = {
        path.name: ops.downscale(path, levels, method=method, block_shape=block, name=path.name, overwrite=True)
        for path, method in ((raw, "mean"), (smoothed, "mean"), (mask, "mode"))
    }

    # This is how to write a task of one's own: regions in world units, and a function that is given a block.
    write = Roi(scan.roi.begin, block * scan.voxel_size)
    measure = Task(
        "measure",
        total_roi=scan.roi,
        read_roi=write,
        write_roi=write,
        process_function=partial(measure_block, raw=open_ds(raw), mask=open_ds(mask)),
        read_write_conflict=False,  # it writes nothing that it reads
        fit="shrink",  # clip the last blocks, so that all of the volume is covered
        num_workers=os.cpu_count() or 1,
        results=True,  # keep what the function returns in the journal
        identity=copy.identity,  # of another scan, no block is done
    )

    tissue = found + (measure | pyramids["mask"])
    return copy + (blurred + (tissue | pyramids["smoothed"]) | pyramids["raw"])


def smooth(voxels: npt.NDArray[Any], *, sigma_px: Sequence[float]) -> npt.NDArray[np.float32]:
    """Blur; beyond the volume, the filter mirrors it."""
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(voxels, sigma_px, output=np.float32, truncate=TRUNCATE)


def is_tissue(voxels: npt.NDArray[Any], *, threshold: float) -> npt.NDArray[np.uint8]:
    """Mark tissue with 1."""
    return (voxels > threshold).astype(np.uint8)


def measure_block(block: Block, *, raw: Array, mask: Array) -> dict[str, float]:
    """Return what the tissue of one block adds to the table: few numbers, kept in the journal."""
    voxels = raw.to_ndarray(block.write_roi)
    tissue = voxels[mask.to_ndarray(block.write_roi) > 0].astype(float)
    edges_mm = [float(edge) for edge in raw.scale("mm")]
    begin_mm = [n * mm for n, mm in zip(block.write_roi.begin / raw.voxel_size, edges_mm, strict=True)]
    voxel_ml = float(np.prod(edges_mm)) / 1000
    return {
        **dict(zip(("z_mm", "y_mm", "x_mm"), begin_mm, strict=True)),
        "volume_ml": voxels.size * voxel_ml,
        "tissue_ml": tissue.size * voxel_ml,
        "mean": float(tissue.mean()) if tissue.size else 0.0,
        "sd": float(tissue.std()) if tissue.size else 0.0,
    }


def open_scan(path: str | Path) -> Array:
    """Open a volume of any format; what comes without a voxel size is taken to have voxels of 1 mm."""
    scan = open_ds(path)
    if scan.types != ("space",) * 3:
        raise ArrayError(
            f"{path} has the axes {', '.join(scan.axis_names)} and the shape {scan.shape}, but a volume of grey values "
            "is due, with the axes z, y, x"
        )
    is_unknown = scan.scale("nm") == (1, 1, 1)  # what bellis assumes of files that say nothing, and no scanner makes
    return open_ds(path, voxel_size=(1, 1, 1), units="mm") if is_unknown else scan


def brain_template() -> Path:
    """Return the MNI152 T1 template at 1 mm, which comes with nilearn (that is not imported)."""
    nilearn = importlib.util.find_spec("nilearn")
    if nilearn is None or nilearn.origin is None:
        raise ArrayError(
            "the MNI152 template comes with nilearn, which is not installed: "
            "pip install --no-deps nilearn, or pass a volume of your own as --input"
        )
    name = "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
    return Path(nilearn.origin).parent / "datasets" / "data" / name
