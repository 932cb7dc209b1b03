"""A stack like those of an electron microscope, for whoever has none: cells, their membranes, dark blobs in them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

SHAPE = (20, 512, 512)
VOXEL_NM = (50, 4.6, 4.6)
COARSE = 4  # pixels per point at which distances are computed, in y and x
CELLS, BLOBS = 40, 30
MEMBRANE_NM = 14
WAVE_NM = 60  # how far membranes are bent


def write_stack(path: Path) -> None:
    """Write the stack as TIFF, with voxel sizes as ImageJ has them; it is the same every time."""
    import tifffile

    partial = path.with_suffix(".partial.tif")
    partial.parent.mkdir(parents=True, exist_ok=True)
    resolution = tuple(1 / size for size in VOXEL_NM[:0:-1])
    metadata = {"axes": "ZYX", "unit": "nm", "spacing": VOXEL_NM[0]}
    tifffile.imwrite(partial, simulated_stack(), imagej=True, resolution=resolution, metadata=metadata)
    partial.replace(path)  # so that a file that was cut off is never taken for the stack


def simulated_stack(seed: int = 4) -> npt.NDArray[np.uint8]:
    """Return bright cells with dark borders and dark ellipsoids, noisy; axes z, y, x, uint8."""
    from scipy.ndimage import zoom
    from scipy.spatial import cKDTree

    random = np.random.default_rng(seed)
    size_nm = np.multiply(SHAPE, VOXEL_NM)
    steps = np.multiply(VOXEL_NM, (1, COARSE, COARSE))
    coarse = (SHAPE[0], SHAPE[1] // COARSE, SHAPE[2] // COARSE)
    points = np.moveaxis(np.indices(coarse), 0, -1) * steps
    bent = points + WAVE_NM * np.sin(np.roll(points, 1, axis=-1) / (2.5 * WAVE_NM))

    # How much further the second nearest centre is than the nearest: 0 on the border between two cells.
    near = cKDTree(random.random((CELLS, 3)) * size_nm).query(bent, k=2)[0]
    border_nm = near[..., 1] - near[..., 0]
    outside = np.full(coarse, np.inf)  # distance from a blob's centre, in radii
    for centre, radius in zip(random.random((BLOBS, 3)) * size_nm, random.uniform(90, 210, (BLOBS, 1)), strict=True):
        radii = radius * random.uniform(0.7, 1.4, 3)
        outside = np.minimum(outside, np.linalg.norm((bent - centre) / radii, axis=-1))
    inside = np.clip(6 * (1 - outside), 0, 1) * np.clip(border_nm / MEMBRANE_NM - 2, 0, 1)  # they lie within cells

    def fine(values: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
        return zoom(values.astype(np.float32), (1, COARSE, COARSE), order=1)

    membrane = np.exp(-((fine(border_nm) / MEMBRANE_NM) ** 2))
    grey = 165 - 85 * membrane - 90 * fine(inside) + random.normal(0, 18, SHAPE)
    return grey.clip(0, 255).astype(np.uint8)
