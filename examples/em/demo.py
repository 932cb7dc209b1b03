"""Segment a stack of electron micrographs, print a table of the largest segments and draw a picture.

A second run finds everything done, and does nothing; with another stack or other numbers, what depends on them starts
afresh.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pipeline import THRESHOLD, pipeline

import bellis
from bellis.graphs import open_graph

if TYPE_CHECKING:
    import numpy.typing as npt

SHOWN = 8
"""Segments in the table."""


def main() -> int:
    """Run the demo; return 0 if every block is done."""
    options = arguments()
    output: Path = options.output
    try:
        tasks = pipeline(
            options.input,
            options.boundaries,
            options.graph,
            output,
            threshold=options.threshold,
            compare=options.compare,
        )
    except bellis.BellisError as error:  # of the input or the output: it says what to do
        print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        return 2
    report = bellis.run(tasks, workers=options.workers, journal=output / "run", on_changed="reset")
    if not report.ok:
        return 1

    picture = output / "em.png"
    is_new = any(task.counts.completed > task.counts.skipped for task in report.tasks.values())
    title = summary(report)
    print(f"{title}; the largest segments:\n{largest(output)}")
    if options.compare:
        print(compared(output))
    if is_new or not picture.exists():
        from figure import draw

        draw(output / "em.zarr", picture, title=title, subtitle=about(report, output, options.threshold))
    print(f"done in {report.wall_s:.1f} s" if is_new else "nothing was left to do: all of it was done before")
    with open_graph(options.graph or output / "fragments.sqlite", "r") as graph:
        print(f"images: {output / 'em.zarr'}\ngraph: {graph.backend}\npicture: {picture}")  # shows no password
    return 0


def arguments() -> argparse.Namespace:
    """Return what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--input", help="path of a stack; by default, the one beside the checkout or a simulated one")
    parser.add_argument("--boundaries", help="path of a boundary map; by default, dark lines are found")
    parser.add_argument("--graph", help="where the graph is kept, like postgresql://host/database; by default, a file")
    apart = "mean boundary, from 0 to 1, from which on fragments stay apart (%(default)s)"
    parser.add_argument("--threshold", type=float, default=THRESHOLD, help=apart)
    parser.add_argument("--output", type=Path, default=Path("demo-em"), help="folder to write to")
    parser.add_argument("--compare", action="store_true", help="compare with a segmentation in one block")
    parser.add_argument("--workers", type=int, help="processes; by default, one per core")
    return parser.parse_args()


def summary(report: bellis.RunReport) -> str:
    """Return how many fragments, contacts and segments there are."""
    edges = report.value("segment/region_graph")["edges"]
    counts = report.value("segment")
    return f"{counts['fragments']:,} fragments, {edges:,} edges, {counts['segments']:,} segments"


def about(report: bellis.RunReport, output: Path, threshold: float) -> str:
    """Return what was segmented, and how."""
    image, last = bellis.open_ds(output / "em.zarr", "raw"), report.tasks["segment/relabel"]
    block = last.task.write_roi.shape // image.voxel_size
    shape, block_shape = (" x ".join(map(str, n)) for n in (image.spatial_shape, block))
    edges_nm = " x ".join(f"{float(edge):g}" for edge in image.scale("nm"))
    return (
        f"{shape} voxels of {edges_nm} nm in {last.counts.total} blocks of {block_shape}; "
        f"threshold {threshold:g}; {report.wall_s:.0f} s on {report.workers} workers"
    )


def largest(output: Path) -> str:
    """Return the table of the largest segments."""
    from pyarrow import parquet

    image = bellis.open_ds(output / "em.zarr", "segments")
    voxel_um3 = float(math.prod(image.scale("um")))
    lines = [f"{'segment':>8} {'voxels':>9} {'µm³':>8} {'sections':>9}"]
    rows = parquet.read_table(output / "segments.parquet").sort_by([("size", "descending"), ("label", "ascending")])
    for row in rows.slice(0, SHOWN).to_pylist():
        sections = (row["end_z"] - row["begin_z"]) // image.voxel_size[0]
        lines.append(f"{row['label']:8} {row['size']:9} {row['size'] * voxel_um3:8.4f} {sections:9}")
    return "\n".join(lines)


def compared(output: Path) -> str:
    """Return how far the segments are from those of the whole stack in one block."""
    blocks, whole = (bellis.open_ds(output / "em.zarr", name).to_ndarray() for name in ("segments", "whole"))
    merged, split = variation_of_information(blocks, whole)
    return (
        f"against {whole.max()} segments of the whole stack in one block: variation of information "
        f"{merged + split:.4f} bits ({merged:.4f} of what is joined in blocks only, {split:.4f} of what is split)"
    )


def variation_of_information(labels: npt.NDArray[np.uint64], truth: npt.NDArray[np.uint64]) -> tuple[float, float]:
    """Return, in bits, what labels from 0 leave open about the truth, and the truth about labels.

    See Meila, Journal of Multivariate Analysis 98 (2007) 873.
    """
    labels, truth = labels.ravel(), truth.ravel()
    both, counts = np.unique(labels * (truth.max() + np.uint64(1)) + truth, return_counts=True)
    ours, theirs = np.divmod(both, truth.max() + np.uint64(1))

    def entropy(names: npt.NDArray[np.uint64]) -> float:
        found = np.unique(names, return_inverse=True)[1]
        share = np.bincount(found, weights=counts) / counts.sum()
        return float(-(share * np.log2(share)).sum())

    return entropy(both) - entropy(ours), entropy(both) - entropy(theirs)


if __name__ == "__main__":
    sys.exit(main())
