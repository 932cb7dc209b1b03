"""One picture of the run: what went in, what came out, and how long each block took."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib import patheffects
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from bellis import Array, Roi
from bellis.arrays import Multiscale

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt
    from matplotlib.axes import Axes

VIEWS = ("axial", "coronal", "sagittal")  # the axis that is cut: z, y, x
INK, PAPER, TISSUE = "#e8e6e3", "#101216", "#ffb454"
PIXELS = 380  # of one view in the picture


def draw(
    store: Path,
    target: Path,
    *,
    boxes: npt.NDArray[np.int64],
    seconds: npt.NDArray[np.float32],
    subtitle: str = "",
) -> None:
    """Draw three orthogonal slices of each array, and the blocks by their duration.

    Parameters
    ----------
    store
        The zarr group with the images raw, smoothed and mask.
    target
        The PNG to write.
    boxes
        Blocks in world units, shape (n, 2, 3): [:, 0] begin and [:, 1] end; z, y, x.
    seconds
        Duration of each, shape (n,).
    subtitle
        A line below the title.
    """
    arrays = {name: _level(Multiscale.open(store, name)) for name in ("raw", "smoothed", "mask")}
    shape = arrays["raw"].roi.shape
    heights = [shape[up] / shape[right] for up, right in map(_plane, range(3))]
    figure = Figure(figsize=(12, 2.84 * sum(heights) + 1.35), facecolor=PAPER)
    grid = figure.add_gridspec(
        3, 4, height_ratios=heights, wspace=0.02, hspace=0.02,
        left=0.03, right=0.99, top=1 - 1.15 / figure.get_figheight(), bottom=0.02,
    )  # fmt: skip
    # A worker's first block pays for its imports: it would leave one colour to all the others.
    slow = float(1000 * np.percentile(seconds, 95)) if len(seconds) else 1
    norm = Normalize(float(1000 * seconds.min()) if len(seconds) else 0, slow)
    colours = mpl.colormaps["plasma"](norm(1000 * seconds))[:, :3]
    cuts = {name: [_slice(array, cut) for cut in range(3)] for name, array in arrays.items()}
    top = max(float(np.percentile(cut, 99.5)) for cut in cuts["raw"])
    titles = ("raw", "smoothed", "tissue", "blocks of “smooth”, by time")
    for row in range(3):
        axes = [figure.add_subplot(grid[row, column]) for column in range(4)]
        raw, smoothed, mask = (cuts[name][row] for name in arrays)
        _show(axes[0], raw, shape, row, cmap="gray", vmax=top)
        _show(axes[1], smoothed, shape, row, cmap="gray", vmax=top)
        _show(axes[2], raw, shape, row, cmap="gray", vmax=1.6 * top)
        tint = np.zeros((*mask.shape, 4))
        tint[mask > 0] = mpl.colors.to_rgba(TISSUE, 0.55)
        _show(axes[2], tint, shape, row)
        _show_blocks(axes[3], arrays["raw"], row, boxes=boxes, colours=colours, light=raw / top)
        axes[0].set_ylabel(VIEWS[row], color=INK, fontsize=12)
        for axis, title in zip(axes, titles, strict=True):
            if row == 0:
                axis.set_title(title, color=INK, fontsize=12, loc="left")
    _scale_bar(figure.axes[0], arrays["raw"])
    _colour_bar(figure, norm)
    top_in = figure.get_figheight()
    figure.text(0.03, 1 - 0.36 / top_in, "A brain in blocks", color=INK, fontsize=19, weight="bold")
    figure.text(0.03, 1 - 0.60 / top_in, subtitle, color=INK, fontsize=10.5, alpha=0.75)
    figure.savefig(target, dpi=130)


def _level(image: Multiscale) -> Array:
    """Return the coarsest level that still has a voxel for each pixel: of a large volume, that is soon read."""
    fine = [level for level in image if min(level.shape) >= PIXELS]
    return fine[-1] if fine else image[0]


def _plane(cut: int) -> tuple[int, int]:
    """Return the axes that point up and right when ``cut`` is the axis that is cut."""
    up, right = (axis for axis in range(3) if axis != cut)
    return up, right


def _middle(array: Array, cut: int) -> int:
    """Return where the volume is cut, in world units on the voxel grid."""
    size = array.voxel_size[cut]
    return array.roi.begin[cut] + array.spatial_shape[cut] // 2 * size


def _slice(array: Array, cut: int) -> npt.NDArray[Any]:
    begin, extent = list(array.roi.begin), list(array.roi.shape)
    begin[cut], extent[cut] = _middle(array, cut), array.voxel_size[cut]
    return array[Roi(begin, extent)].to_ndarray().squeeze(cut)


def _show(axes: Axes, image: npt.NDArray[Any], shape: tuple[int, ...], cut: int, **options: Any) -> None:
    up, right = _plane(cut)
    options = {"vmin": 0} | options if image.ndim == 2 else options
    axes.imshow(image, origin="lower", extent=(0, shape[right], 0, shape[up]), **options)
    axes.set(xticks=[], yticks=[])
    axes.set_facecolor("black")
    for spine in axes.spines.values():
        spine.set_visible(False)


def _show_blocks(
    axes: Axes,
    raw: Array,
    cut: int,
    *,
    boxes: npt.NDArray[np.int64],
    colours: npt.NDArray[np.float64],
    light: npt.NDArray[np.float64],
) -> None:
    """Show the slice in the colours of the blocks that it goes through."""
    (up, right), at, roi, size = _plane(cut), _middle(raw, cut), raw.roi, raw.voxel_size
    glow = np.repeat(0.35 + 0.65 * light.clip(0, 1)[..., np.newaxis], 3, axis=2)
    for (begin, end), colour in zip(boxes, colours, strict=True):
        if begin[cut] <= at < end[cut]:
            first = [(begin[axis] - roi.begin[axis]) // size[axis] for axis in (up, right)]
            last = [(end[axis] - roi.begin[axis]) // size[axis] for axis in (up, right)]
            glow[first[0] : last[0], first[1] : last[1]] *= colour
            corner = (begin[right] - roi.begin[right], begin[up] - roi.begin[up])
            edges = (end[right] - begin[right], end[up] - begin[up])
            axes.add_patch(Rectangle(corner, *edges, fill=False, edgecolor=PAPER, linewidth=2))
    _show(axes, glow, raw.roi.shape, cut)


def _scale_bar(axes: Axes, raw: Array) -> None:
    length_mm = 50
    world = length_mm / float(raw.scale("mm")[2]) * raw.voxel_size[2]
    width, height = raw.roi.shape[2], raw.roi.shape[1]
    axes.plot([0.05 * width, 0.05 * width + world], [0.05 * height] * 2, color=INK, linewidth=3)
    label = axes.text(0.05 * width, 0.07 * height, f"{length_mm} mm", color=INK, fontsize=9, va="bottom")
    label.set_path_effects([patheffects.withStroke(linewidth=2, foreground="black")])


def _colour_bar(figure: Figure, norm: Normalize) -> None:
    height = figure.get_figheight()
    axes = figure.add_axes((0.755, 1 - 0.42 / height, 0.235, 0.10 / height))
    bar = figure.colorbar(mpl.cm.ScalarMappable(norm, "plasma"), cax=axes, orientation="horizontal", extend="max")
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=INK, labelsize=8, length=2)
    bar.ax.text(1, 1.5, "ms per block", color=INK, fontsize=9, ha="right", transform=bar.ax.transAxes)
