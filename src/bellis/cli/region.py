"""Regions and parts, as they are written on a command line."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from bellis.arrays.layout import Layout
    from bellis.geometry import Roi

_SPAN = re.compile(r"(\d*):(\d*)")


def parse_region(option: str, text: str | None, layout: Layout) -> Roi | None:
    """Return a region in world units.

    Parameters
    ----------
    option
        Where it was written, for messages.
    text
        ``begin:end`` in voxels of the array, per physical axis, with commas between; an end that is left out is that
        of the array.
    layout
        Of the array.

    Raises
    ------
    click.UsageError
        If it is of another rank, empty, or not inside of the array.
    """
    if text is None:
        return None
    from bellis.geometry import Coordinate, Roi

    words = [word.strip() for word in text.split(",")]
    names = [layout.axis_names[k] for k in layout.physical]
    if len(words) != layout.dims:
        example = ",".join(f"0:{n}" for n in layout.spatial_shape)
        raise click.UsageError(
            f"{option} {text!r} has {len(words)} of begin:end, the volume has {layout.axes()}: all of it is {example}"
        )
    spans = [_span(option, *each) for each in zip(words, names, layout.spatial_shape, strict=True)]
    begin, end = (Coordinate(at) for at in zip(*spans, strict=True))
    return Roi(layout.offset + begin * layout.voxel_size, (end - begin) * layout.voxel_size)


def parse_part(text: str | None) -> tuple[int, int] | None:
    """Return which part of how many ``2/4`` is.

    Raises
    ------
    click.UsageError
        If there is no such part.
    """
    if text is None:
        return None
    found = re.fullmatch(r"\s*(\d+)\s*/\s*(\d+)\s*", text)
    if found is None:
        raise click.UsageError(f"--part {text!r} is not a part like 2/4, the second of four")
    number, count = int(found[1]), int(found[2])
    if not 1 <= number <= count:
        raise click.UsageError(f"--part {text!r}: parts are 1/{max(count, 1)} to {max(count, 1)}/{max(count, 1)}")
    return number, count


def _span(option: str, word: str, name: str, most: int) -> tuple[int, int]:
    found = _SPAN.fullmatch(word)
    if found is None:
        raise click.UsageError(f"{option}: {word!r} of axis {name} is not begin:end in voxels, like 0:{most}")
    begin, end = int(found[1] or 0), int(found[2] or most)
    if not begin < end <= most:
        what = "holds no voxels" if begin >= end else "is not inside of the view"
        raise click.UsageError(f"{option}: {word} of axis {name} {what}: it has the voxels 0:{most}")
    return begin, end
