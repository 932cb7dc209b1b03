"""Run the pipeline on a stack of electron micrographs, print a table of the largest objects and draw a picture.

A second run finds everything done, and does nothing; with another stack, it starts afresh.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

from pipeline import pipeline

import bellis

SHOWN = 8
"""Objects in the table."""


def main() -> int:
    """Run the demo; return 0 if every block is done."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--input", help="path of a stack; by default, the one beside the checkout or a simulated one")
    parser.add_argument("--truth", help="path of a mask of organelles; without one, what is dark is taken for them")
    parser.add_argument("--output", type=Path, default=Path("demo-organelles"), help="folder to write to")
    options = parser.parse_args()
    output, picture = options.output, options.output / "organelles.png"

    try:
        tasks = pipeline(options.input, options.truth, output)
    except bellis.BellisError as error:  # of the input or the output: it says what to do
        parser.exit(2, f"{parser.prog}: {error}\n")
    report = bellis.run(tasks, journal=output / "run", on_changed="reset")
    if not report.ok:
        return 1
    found, removed = report.value("label"), report.value("remove_small")
    summary = f"{found} objects, {found - removed} of them large enough"
    print(f"{summary}; the largest:\n{largest(output)}")
    if not picture.exists() or any(task.counts.completed > task.counts.skipped for task in report.tasks.values()):
        from figure import draw

        draw(output / "organelles.zarr", picture, subtitle=summary)
    print(f"objects: {output / 'objects.parquet'}\nimages: {output / 'organelles.zarr'}\npicture: {picture}")
    return 0


def largest(output: Path) -> str:
    """Return the table of the largest objects."""
    from pyarrow import parquet

    image = bellis.open_ds(output / "organelles.zarr", "objects")
    voxel_um3 = float(math.prod(image.scale("um")))
    world_um = [float(scale / size) for scale, size in zip(image.scale("um"), image.voxel_size, strict=True)]
    lines = [f"{'label':>6} {'voxels':>8} {'µm³':>8} {'z (µm)':>8} {'y (µm)':>8} {'x (µm)':>8} {'mean':>7} {'sd':>7}"]
    rows = parquet.read_table(output / "objects.parquet").sort_by([("size", "descending")])
    for row in rows.slice(0, SHOWN).to_pylist():
        z, y, x = (row[f"centroid_{axis}"] * um for axis, um in zip("zyx", world_um, strict=True))
        lines.append(
            f"{row['label']:6} {row['size']:8} {row['size'] * voxel_um3:8.4f} {z:8.3f} {y:8.3f} {x:8.3f} "
            f"{row['intensity_mean']:7.1f} {row['intensity_std']:7.1f}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
