"""One picture of the run: from grey values to segments, in a section and across sections."""

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

INK, PAPER, CUT = "#e8e6e3", "#101216", "#ffb454"
WIDTH_IN, MARGIN_IN, GAP_IN, LINE_IN = 14.0, 0.14, 0.08, 0.34
DPI = 150
GOLDEN = 0.6180339887498949  # steps of so much of a circle are never near each other for long

View = tuple[Any, Any]


def draw(store: Path, target: Path, *, title: str, subtitle: str) -> None:
    """Draw the middle section, and a cut across all of them where the line in it is.

    Parameters
    ----------
    store
        The zarr group with the images raw, boundaries, fragments and segments.
    target
        The PNG to write.
    title
        The first line.
    subtitle
        A line below it.
    """
    raw = Multiscale.open(store, "raw")[0]
    sections, rows, _ = raw.spatial_shape
    section, cut = _slab(raw, 0, sections // 2), _slab(raw, 1, rows // 2)
    _, height, width = (float(scale) * n for scale, n in zip(raw.scale("um"), raw.spatial_shape, strict=True))
    thick = float(raw.scale("um")[0]) * sections

    panel_in = (WIDTH_IN - 2 * MARGIN_IN - 3 * GAP_IN) / 4
    wide_in = 2 * panel_in + GAP_IN
    tall_in, flat_in = panel_in * height / width, wide_in * thick / width
    top_in = MARGIN_IN + 0.78
    figure = Figure(figsize=(WIDTH_IN, top_in + 2 * LINE_IN + tall_in + GAP_IN + flat_in + MARGIN_IN), facecolor=PAPER)

    def panel(left_in: float, down_in: float, width_in: float, height_in: float, name: str) -> Axes:
        total_in = figure.get_figheight()
        box = (left_in, total_in - down_in - height_in, width_in, height_in)
        place = [n / size for n, size in zip(box, (WIDTH_IN, total_in) * 2, strict=True)]
        axes = figure.add_axes(place, xlim=(0, width_in), ylim=(height_in, 0))
        axes.set_axis_off()
        axes.set_title(name, color=INK, fontsize=11, loc="left", pad=5)
        return axes

    names = (f"raw, section {sections // 2 + 1} of {sections}", "boundary map", "fragments", "segments")
    upper = [
        panel(MARGIN_IN + k * (panel_in + GAP_IN), top_in + LINE_IN, panel_in, tall_in, name)
        for k, name in enumerate(names)
    ]
    down_in = top_in + 2 * LINE_IN + tall_in + GAP_IN
    lower = [
        panel(MARGIN_IN + k * (wide_in + GAP_IN), down_in, wide_in, flat_in, name)
        for k, name in enumerate((f"raw, across all {sections} sections along the dashed line", "segments"))
    ]
    grey = _read(store, "raw", section)
    light = _light(grey)
    _show(upper[0], light)
    _show(upper[1], _light(_read(store, "boundaries", section)))
    for axes, name in zip(upper[2:], ("fragments", "segments"), strict=True):
        _show(axes, _coloured(light, _read(store, name, section)))
    across = _light(_read(store, "raw", cut))
    _show(lower[0], across)
    _show(lower[1], _coloured(across, _read(store, "segments", cut)))
    for axes in (upper[0], upper[3]):
        axes.axhline((rows // 2 + 0.5) / rows * tall_in, color=CUT, linewidth=1.2, dashes=(6, 3))
    for axes, scale in ((upper[0], panel_in / width), (lower[0], wide_in / width)):
        _scale_bar(axes, scale, 1.0 if width > 3 else 0.5)
    figure.text(MARGIN_IN / WIDTH_IN, 1 - 0.44 / figure.get_figheight(), title, color=INK, fontsize=19, weight="bold")
    figure.text(MARGIN_IN / WIDTH_IN, 1 - 0.74 / figure.get_figheight(), subtitle, color=INK, fontsize=11, alpha=0.75)
    figure.savefig(target, dpi=DPI)


def _slab(image: Array, axis: int, number: int) -> Roi:
    """Return the region of all voxels with an index along an axis."""
    begin, shape = list(image.roi.begin), list(image.roi.shape)
    begin[axis], shape[axis] = begin[axis] + number * image.voxel_size[axis], image.voxel_size[axis]
    return Roi(begin, shape)


def _read(store: Path, name: str, slab: Roi) -> npt.NDArray[Any]:
    """Read a section, or a cut across sections, as an image."""
    image = Multiscale.open(store, name)[0]
    voxels = image.to_ndarray(slab)
    if voxels.shape[0] == 1:
        return voxels[0]
    # Pixels are square, so that lines between labels are as thick along z as along x.
    return np.repeat(voxels[:, 0], max(1, round(image.voxel_size[0] / image.voxel_size[2])), axis=0)


def _light(grey: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return grey values from 0 to 1."""
    top = np.iinfo(grey.dtype).max if grey.dtype.kind == "u" else 1
    light: npt.NDArray[np.float64] = grey / top
    return light


def _coloured(light: npt.NDArray[np.float64], labels: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return grey values in the colours of labels, with dark lines between them; the same label, the same colour."""
    hue, other = labels * GOLDEN % 1, labels * GOLDEN**2 * 7 % 1
    colours = mpl.colors.hsv_to_rgb(np.stack([hue, 0.45 + 0.4 * other, np.full(hue.shape, 0.95)], axis=-1))
    colours[labels == 0] = 1
    painted: npt.NDArray[np.float64] = colours * (0.30 + 0.70 * light[..., np.newaxis])
    is_edge = np.zeros(labels.shape, bool)
    is_edge[1:] |= labels[1:] != labels[:-1]
    is_edge[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    painted[is_edge] *= 0.25
    return painted


def _show(axes: Axes, image: npt.NDArray[np.float64]) -> None:
    extent = (*axes.get_xlim(), *axes.get_ylim())
    axes.imshow(image, cmap="gray", vmin=0, vmax=1, extent=extent, interpolation="antialiased", aspect="auto")


def _scale_bar(axes: Axes, inches_per_um: float, length_um: float) -> None:
    height_in = axes.get_ylim()[0]
    begin, down = 0.12, height_in - 0.12
    axes.plot(
        [begin, begin + length_um * inches_per_um], [down, down], color="white", linewidth=3, solid_capstyle="butt"
    )
    label = axes.text(begin, down - 0.06, f"{length_um:g} µm", color="white", fontsize=9)
    label.set_path_effects([patheffects.withStroke(linewidth=2, foreground="black")])
