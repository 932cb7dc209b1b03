"""One picture of the run: sections with the objects that were found, and levels of their pyramid."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib import patheffects
from matplotlib.figure import Figure

from bellis import Array, Roi
from bellis.arrays import Multiscale

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt
    from matplotlib.axes import Axes

INK, PAPER, DARK = "#e8e6e3", "#101216", "#ffb454"
PIXELS = 500  # of one view in the picture: no finer level is read for it
COLOURS = 20  # so many labels in a row have different colours


def draw(store: Path, target: Path, *, subtitle: str = "") -> None:
    """Draw three sections with their objects, and the way to the one in the middle.

    Parameters
    ----------
    store
        The zarr group with the images raw, smoothed, dark and objects.
    target
        The PNG to write.
    subtitle
        A line below the title.
    """
    names = ("raw", "smoothed", "dark", "objects")
    raw, smoothed, dark, objects = (Multiscale.open(store, name) for name in names)
    sections = raw[0].spatial_shape[0]
    middle = sections // 2
    fine = max((k for k, level in enumerate(raw) if min(level.shape[1:]) >= PIXELS), default=0)
    width_in = 3.87
    height_in = width_in * raw[0].roi.shape[1] / raw[0].roi.shape[2]
    figure = Figure(figsize=(12, 2 * height_in + 1.65), facecolor=PAPER)
    top_in = figure.get_figheight()
    grid = figure.add_gridspec(
        2, 3, wspace=0.02, hspace=0.38 / height_in,
        left=0.01, right=0.99, top=1 - 1.15 / top_in, bottom=0.12 / top_in,
    )  # fmt: skip
    axes = [figure.add_subplot(grid[k // 3, k % 3]) for k in range(6)]
    for axis in axes:
        axis.set_axis_off()
    for axis, number in zip(axes, (sections // 6, middle, sections - 1 - sections // 6), strict=False):
        section = _section(raw[0], number)
        _show(axis, _read(raw[fine], section), f"section {number + 1} of {sections}, objects")
        _tint(axis, _colours(_read(objects[fine], section)))
    section = _section(raw[0], middle)
    _show(axes[3], _read(smoothed[0], section), f"section {middle + 1}, smoothed: what is dark")
    _tint(axes[3], np.multiply.outer(_read(dark[0], section) > 0, mpl.colors.to_rgba(DARK, 0.5)))
    for axis, level in zip(axes[4:], sorted({len(raw) // 2, len(raw) - 1}), strict=False):
        edge = f"{float(raw[level].scale('nm')[1]):g} nm"
        _show(axis, _read(raw[level], section), f"level {raw.level_names[level]}, pixels of {edge}")
        _tint(axis, _colours(_read(objects[level], section)))
    _scale_bar(axes[0], raw[0])
    figure.text(0.01, 1 - 0.42 / top_in, "Organelles, block by block", color=INK, fontsize=19, weight="bold")
    figure.text(0.01, 1 - 0.68 / top_in, subtitle, color=INK, fontsize=10.5, alpha=0.75)
    figure.savefig(target, dpi=130)


def _section(image: Array, number: int) -> Roi:
    """Return the region of a section, the first of which is 0."""
    begin, shape = list(image.roi.begin), list(image.roi.shape)
    begin[0], shape[0] = begin[0] + number * image.voxel_size[0], image.voxel_size[0]
    return Roi(begin, shape)


def _read(level: Array, section: Roi) -> npt.NDArray[Any]:
    """Read a section, or the voxels of a coarser level that it goes through."""
    return level.to_ndarray(section, snap="grow")[0]


def _colours(labels: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return a colour per label, transparent where there is none."""
    colours = mpl.colormaps["hsv"]((labels * 7 % COLOURS).astype(int) / COLOURS)
    colours[..., 3] = 0.55 * (labels > 0)
    return colours


def _show(axes: Axes, image: npt.NDArray[Any], title: str) -> None:
    axes.imshow(image, cmap="gray", vmin=0, vmax=255, extent=(0, 1, 1, 0), interpolation="none", aspect="auto")
    axes.set_title(title, color=INK, fontsize=11, loc="left")


def _tint(axes: Axes, colours: npt.NDArray[np.float64]) -> None:
    axes.imshow(colours, extent=(0, 1, 1, 0), interpolation="none", aspect="auto")


def _scale_bar(axes: Axes, raw: Array) -> None:
    width_nm = float(raw.scale("nm")[2]) * raw.spatial_shape[2]
    length_nm = 500 if width_nm > 1000 else 100
    axes.plot([0.05, 0.05 + length_nm / width_nm], [0.95, 0.95], color=INK, linewidth=3)
    label = axes.text(0.05, 0.93, f"{length_nm} nm", color=INK, fontsize=9)
    label.set_path_effects([patheffects.withStroke(linewidth=2, foreground="black")])
