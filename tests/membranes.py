"""Simulated membranes: cells of a Voronoi tessellation, with thick walls."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree


def cells(shape: tuple[int, ...], count: int, *, wall: float = 2.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return a boundary map, bool, and the cells, from 1, to which walls belong half by half."""
    rng = np.random.default_rng(seed)
    points = rng.random((count, len(shape))) * shape
    voxels = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1).reshape(-1, len(shape)) + 0.5
    distance, nearest = cKDTree(points).query(voxels, k=2)
    # Half the distance from the plane between the two nearest points.
    gap = np.linalg.norm(points[nearest[:, 0]] - points[nearest[:, 1]], axis=1)
    to_wall = (distance[:, 1] ** 2 - distance[:, 0] ** 2) / (2 * gap)
    return (to_wall < wall).reshape(shape), (nearest[:, 0] + 1).reshape(shape)


def noisy(boundary: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """Return a boundary map as a classifier would make one: blurred, with noise, uint8."""
    noise = np.random.default_rng(seed).normal(0, 0.1, boundary.shape)
    blurred = ndimage.gaussian_filter(boundary.astype(np.float32), 0.7) + ndimage.gaussian_filter(noise, 0.7)
    return np.rint(np.clip(blurred, 0, 1) * 255).astype(np.uint8)
