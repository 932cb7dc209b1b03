"""One picture: what was asked of the server and what came of it, over time, and the blocks that were kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from bellis import Roi

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy.typing as npt
    from matplotlib.axes import Axes

    from bellis import Array

INK, PAPER, BAND = "#e8e6e3", "#101216", "#23262d"
SOUND, KEPT = "#5b9bd5", "#7fd1ae"
FAULTS = {
    "503": ("the server was busy (503)", "#ffb454"),
    "cut in body": ("the connection was cut", "#e5647a"),
    "html": ("a page of HTML in place of voxels", "#b48ee0"),
}
TITLES = {
    "read": "read a\nregion",
    "smooth": "smooth\neverything",
    "again": "smooth it\nagain",
    "killed": "download,\nuntil killed",
    "go on": "download\nthe rest",
    "mend": "mend a\nbad block",
}
BIN_S = 0.1


def draw(
    target: Path,
    *,
    acts: Sequence[tuple[str, float, float]],
    requests: Mapping[str, Any],
    arrivals: Sequence[Sequence[float]],
    presence: Mapping[str, npt.NDArray[np.bool_]],
    block_shape: Sequence[int],
    images: Mapping[str, Array],
) -> None:
    """Draw requests and blocks over time, and a section with the blocks that were there at two times.

    Parameters
    ----------
    target
        The PNG to write.
    acts
        Title, begin and end of what was done, in seconds of any clock.
    requests
        As the server tells of them, on the same clock.
    arrivals
        When blocks came that were kept, on the same clock; for each time the cache was filled.
    presence
        Which blocks were there after the acts ``"read"`` and ``"killed"``, axes z, y, x.
    block_shape
        Voxels of a block.
    images
        The volume, and smoothed ones.
    """
    figure = Figure(figsize=(12, 9.6), facecolor=PAPER)
    sides = {"left": 0.065, "right": 0.985}
    grid = figure.add_gridspec(2, 1, hspace=0.1, top=0.835, bottom=0.5, **sides)
    begin_s = acts[0][1]
    spans = [(title, start - begin_s, end - begin_s) for title, start, end in acts]
    rate, blocks = figure.add_subplot(grid[0]), figure.add_subplot(grid[1])
    for axes in (rate, blocks):
        _style(axes, spans)
    _label_acts(rate, spans)
    _show_requests(rate, requests, begin_s, spans[-1][2])
    _show_blocks(blocks, arrivals, begin_s, spans)
    figure.text(0.065, 0.957, "A volume from elsewhere, block by block", color=INK, fontsize=19, weight="bold")
    num = len(requests["times_s"])
    failed = sum(map(len, requests["failed"].values()))
    subtitle = f"{num} requests in all, of which {failed} went wrong"
    figure.text(0.065, 0.932, subtitle, color=INK, fontsize=10.5, alpha=0.75)

    lower = figure.add_gridspec(1, 3, wspace=0.03, top=0.4, bottom=0.015, **sides)
    names = list(images)
    panels = (
        (names[0], "read", "after the first read: blocks in the cache"),
        (names[0], "killed", "after the kill: each is whole, or absent"),
        (names[1], None, f"smoothed by {names[1]}, through the cache"),
    )
    for column, (name, when, title) in enumerate(panels):
        axes = figure.add_subplot(lower[column])
        _show_section(axes, images[name], None if when is None else presence[when], block_shape)
        axes.set_title(title, color=INK, fontsize=11, loc="left")
    figure.savefig(target, dpi=130)


def _style(axes: Axes, spans: Sequence[tuple[str, float, float]]) -> None:
    axes.set_facecolor(PAPER)
    axes.set_xlim(min(0, spans[0][1]) - 0.1, spans[-1][2] + 0.1)
    axes.tick_params(colors=INK, labelsize=9)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(INK)
    for _, start, end in spans:
        axes.axvspan(start, end, color=BAND, linewidth=0)
        axes.axvline(end, color=PAPER, linewidth=2)


def _label_acts(axes: Axes, spans: Sequence[tuple[str, float, float]]) -> None:
    for title, start, end in spans:
        axes.text(
            (start + end) / 2, 1.03, TITLES[title], color=INK, fontsize=9, ha="center", va="bottom",
            transform=axes.get_xaxis_transform(),
        )  # fmt: skip


def _show_requests(axes: Axes, requests: Mapping[str, Any], begin_s: float, end_s: float) -> None:
    failed = {kind: np.asarray(times) - begin_s for kind, times in requests["failed"].items()}
    edges = np.arange(0, end_s + BIN_S, BIN_S)
    all_counts = np.histogram(np.asarray(requests["times_s"]) - begin_s, edges)[0]
    counts = {kind: np.histogram(times, edges)[0] for kind, times in failed.items()}
    sound = np.maximum(0, all_counts - sum(counts.values()))
    bottom = np.zeros(len(sound))
    bars = [("a block was sent", SOUND, sound), *((*FAULTS[kind], counts[kind]) for kind in failed)]
    for label, colour, height in bars:
        axes.bar(edges[:-1], height / BIN_S, BIN_S, bottom / BIN_S, align="edge", color=colour, label=label)
        bottom += height
    axes.set_ylabel("requests per s", color=INK, fontsize=10)
    axes.tick_params(labelbottom=False)
    # In the corner of the figure, where no bar is.
    place = {"loc": "upper right", "bbox_to_anchor": (0.985, 0.985), "bbox_transform": axes.figure.transFigure}
    axes.legend(fontsize=9, frameon=False, labelcolor=INK, ncols=2, borderaxespad=0, **place)


def _show_blocks(
    axes: Axes, arrivals: Sequence[Sequence[float]], begin_s: float, spans: Sequence[tuple[str, float, float]]
) -> None:
    times, counts = [0.0], [0]
    for filled in arrivals:
        if counts[-1]:  # it was emptied just before it was filled anew
            start = min(filled) - begin_s
            times.append(next((begin for _, begin, end in spans if begin <= start <= end), start))
            counts.append(0)
        times += [at - begin_s for at in filled]
        counts += range(1, len(filled) + 1)
    times.append(spans[-1][2])
    counts.append(counts[-1])
    axes.step(times, counts, where="post", color=KEPT, linewidth=2)
    axes.fill_between(times, counts, step="post", color=KEPT, alpha=0.2, linewidth=0)
    axes.set_ylim(0, 1.08 * max(counts))
    axes.set_ylabel("blocks in the cache", color=INK, fontsize=10)
    axes.set_xlabel("seconds", color=INK, fontsize=10)


def _show_section(axes: Axes, image: Array, present: npt.NDArray[np.bool_] | None, block_shape: Sequence[int]) -> None:
    """Show the section in the middle; of blocks that are not there, hardly anything."""
    middle = image.spatial_shape[0] // 2
    edge = image.voxel_size[0]
    begin, shape = list(image.roi.begin), list(image.roi.shape)
    begin[0], shape[0] = begin[0] + middle * edge, edge
    grey = image.to_ndarray(Roi(begin, shape))[0].astype(float)
    light = np.ones_like(grey)
    if present is not None:
        _, height, width = block_shape
        light[:] = 0.12
        for row, column in np.argwhere(present[middle // block_shape[0]]):
            y, x = row * height, column * width
            light[y : y + height, x : x + width] = 1
            size = min(width, grey.shape[1] - x), min(height, grey.shape[0] - y)
            axes.add_patch(Rectangle((x, y), *size, fill=False, edgecolor=KEPT, linewidth=0.8))
    extent = (0, grey.shape[1], grey.shape[0], 0)
    axes.imshow(grey * light, cmap="gray", vmin=0, vmax=255, extent=extent, interpolation="none")
    axes.set_axis_off()
