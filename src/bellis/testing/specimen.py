"""A stack like those of an electron microscope, for whoever has none: cells, their membranes, dark blobs in them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

SHAPE = (20, 512, 512)
VOXEL_NM = (50, 4.6, 4.6)
COARSE = 4
"""Pixels per point at which distances are computed, in y and x."""
CELLS, BLOBS = 40, 30
"""In a stack of that shape."""
MEMBRANE_NM = 32
ALONG = 0.2
"""How much a distance along z counts: cells run across sections."""
TRIES = 20
"""Places tried for the centre of a cell."""
WAVE_NM = 60
"""How far membranes are bent."""


class Specimen(NamedTuple):
    """A simulated stack, and what is in it."""

    grey: npt.NDArray[np.uint8]
    """Bright cells with dark borders and dark ellipsoids, noisy; axes z, y, x."""
    cells: npt.NDArray[np.uint8]
    """Number of the cell, from 1, that a voxel is of; membranes belong to both of their cells, half by half."""


def specimen(
    shape: tuple[int, int, int] = SHAPE, *, num_cells: int = CELLS, num_blobs: int = BLOBS, seed: int = 4
) -> Specimen:
    """Simulate a stack; it is the same every time.

    Parameters
    ----------
    shape
        Voxels along z, y and x, of 50 x 4.6 x 4.6 nm.
    num_cells
        At most 255.
    num_blobs
        Dark ellipsoids, with radii from 60 to 300 nm.
    seed
        Of the places of cells and blobs, and of the noise.
    """
    from scipy.ndimage import zoom
    from scipy.spatial import cKDTree

    random = np.random.default_rng(seed)
    size_nm = np.multiply(shape, VOXEL_NM)
    steps = np.multiply(VOXEL_NM, (1, COARSE, COARSE))
    coarse = (shape[0], -(-shape[1] // COARSE), -(-shape[2] // COARSE))
    points = np.moveaxis(np.indices(coarse), 0, -1) * steps
    bent = points + WAVE_NM * np.sin(np.roll(points, 1, axis=-1) / (4 * WAVE_NM))

    # How much further the second nearest centre is than the nearest: 0 on the border between two cells.
    along = np.array([ALONG, 1, 1])
    centres = random.random((1, 3)) * size_nm * along
    while len(centres) < num_cells:  # apart from each other: those of two cells that are near have no clear border
        tried = random.random((TRIES, 3)) * size_nm * along
        centres = np.vstack([centres, tried[cKDTree(centres).query(tried)[0].argmax()]])
    near, nearest = cKDTree(centres).query(bent * along, k=2)
    border_nm = near[..., 1] - near[..., 0]
    outside = np.full(coarse, np.inf)  # distance from a blob's middle, in radii
    middles, sizes_nm = random.random((num_blobs, 3)) * size_nm, random.uniform(90, 210, (num_blobs, 1))
    for middle, radius in zip(middles, sizes_nm, strict=True):
        radii = radius * random.uniform(0.7, 1.4, 3)
        outside = np.minimum(outside, np.linalg.norm((bent - middle) / radii, axis=-1))
    inside = np.clip(6 * (1 - outside), 0, 1) * np.clip(border_nm / MEMBRANE_NM - 2, 0, 1)  # they lie within cells

    def fine(values: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
        zoomed: npt.NDArray[np.float32] = zoom(values.astype(np.float32), (1, COARSE, COARSE), order=1)
        return zoomed[:, : shape[1], : shape[2]]

    membrane = np.exp(-((fine(border_nm) / MEMBRANE_NM) ** 2))
    grey = 165 - 100 * membrane - 90 * fine(inside) + random.normal(0, 18, shape)
    cells = zoom((nearest[..., 0] + 1).astype(np.uint8), (1, COARSE, COARSE), order=0)
    return Specimen(grey.clip(0, 255).astype(np.uint8), cells[:, : shape[1], : shape[2]])


def write_stack(
    path: Path, shape: tuple[int, int, int] = SHAPE, *, num_cells: int = CELLS, num_blobs: int = BLOBS
) -> None:
    """Write the grey values of a `specimen` as TIFF, with voxel sizes as ImageJ has them."""
    import tifffile

    partial = path.with_suffix(".partial.tif")
    partial.parent.mkdir(parents=True, exist_ok=True)
    resolution = (1 / VOXEL_NM[2], 1 / VOXEL_NM[1])
    metadata = {"axes": "ZYX", "unit": "nm", "spacing": VOXEL_NM[0]}
    grey = specimen(shape, num_cells=num_cells, num_blobs=num_blobs).grey
    tifffile.imwrite(partial, grey, imagej=True, resolution=resolution, metadata=metadata)
    partial.replace(path)  # so that a file that was cut off is never taken for the stack
