"""Run the pipeline on a brain, print a table and draw a picture: ``make demo``.

A second run finds everything done, and does nothing; with another scan, it starts afresh.
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import pipeline

import bellis

if TYPE_CHECKING:
    from collections.abc import Iterable

Row = dict[str, float]


def main() -> int:
    """Run the demo; return 0 if every block is done."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--input", help="path of a volume: NIfTI, TIFF, zarr, ...; by default, MNI152")
    parser.add_argument("--output", type=Path, default=Path("demo"), help="folder to write to")
    parser.add_argument("--block", type=int, default=64, help="edge of a block in voxels")
    options = parser.parse_args()
    output, picture = options.output, options.output / "brain.png"

    try:
        tasks = pipeline(options.input, output, block=options.block)
    except bellis.BellisError as error:  # of the input or the output: it says what to do
        parser.exit(2, f"{parser.prog}: {error}\n")
    report = bellis.run(tasks, journal=output / "run", on_changed="reset")
    if not report.ok:
        return 1
    rows = sorted(report.results("measure").values(), key=lambda row: (row["z_mm"], row["y_mm"]))
    write_csv(rows, output / "blocks.csv")
    print(table(rows))
    if not picture.exists() or any(task.counts.completed > task.counts.skipped for task in report.tasks.values()):
        draw_picture(report, rows, output, picture)
    print(f"blocks: {output / 'blocks.csv'}\nimages: {output / 'brain.zarr'}\npicture: {picture}")
    return 0


def pooled(rows: Iterable[Row]) -> Row:
    """Return volume, mean and standard deviation of several blocks together."""
    rows = list(rows)
    tissue_ml = sum(row["tissue_ml"] for row in rows)
    weights = [row["tissue_ml"] / (tissue_ml or 1) for row in rows]
    mean = sum(w * row["mean"] for w, row in zip(weights, rows, strict=True))
    square = sum(w * (row["sd"] ** 2 + row["mean"] ** 2) for w, row in zip(weights, rows, strict=True))
    return {
        "volume_ml": sum(row["volume_ml"] for row in rows),
        "tissue_ml": tissue_ml,
        "mean": mean,
        "sd": math.sqrt(max(0.0, square - mean**2)),
    }


def table(rows: list[Row]) -> str:
    """Reduce the blocks to a table of layers, from bottom to top, and their total."""
    lines = [f"{'z (mm)':>8} {'volume (ml)':>12} {'tissue (ml)':>12} {'mean':>8} {'sd':>8}"]
    layers = sorted({row["z_mm"] for row in rows})
    for z_mm in (*layers, None):
        layer = pooled(row for row in rows if z_mm in (None, row["z_mm"]))
        name = "all" if z_mm is None else f"{z_mm:g}"
        lines.append(
            f"{name:>8} {layer['volume_ml']:12.1f} {layer['tissue_ml']:12.1f} {layer['mean']:8.1f} {layer['sd']:8.1f}"
        )
    return "\n".join(lines)


def write_csv(rows: list[Row], path: Path) -> None:
    """Write one line per block."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def draw_picture(report: bellis.RunReport, rows: list[Row], output: Path, picture: Path) -> None:
    """Draw slices and blocks; matplotlib is loaded only here."""
    from figure import draw

    smooth = report.tasks["smooth"]
    indices, seconds = smooth.durations
    draw(
        output / "brain.zarr",
        picture,
        boxes=smooth.grid.write_boxes(indices),
        seconds=seconds,
        subtitle=f"{len(rows)} blocks, {pooled(rows)['tissue_ml']:.0f} ml of tissue",
    )


if __name__ == "__main__":
    sys.exit(main())
