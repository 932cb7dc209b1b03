"""Parts of a volume in blocks, written as HDF5: one file, or a new file set."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from bellis.errors import ArrayExistsError, VolumeError
from bellis.volumes.blocks import shown, slices_of

if TYPE_CHECKING:
    import os

    from bellis.geometry import Roi
    from bellis.volumes.blockwise import BlockwiseView

DESCRIPTION = "description.json"
"""Name of the description file of a new file set."""


def export_roi(view: BlockwiseView, roi: Roi, directory: str | os.PathLike[str]) -> str:
    """Write a region of a volume into one HDF5 file that is named by it, block by block.

    Parameters
    ----------
    view
        The volume.
    roi
        Region in its voxels, inside of the view.
    directory
        Made if it is not there.

    Returns
    -------
    str
        Path of the file, and in it: ``dir/block-([0, 0], [9, 9]).h5/cube``.
    """
    from bellis.arrays.hdf5_files import turns
    from bellis.volumes.block_files import make_dataset, put_in_place
    from bellis.volumes.tree import Tree

    view.check_ready(roi)
    folder, description = Path(directory), view.fileset_description()
    tree = Tree(folder, description)
    final = folder / tree.file_name(roi)
    with put_in_place(final, is_new_folder=True) as partial, turns().writing(str(partial), create=True) as file:
        dataset = make_dataset(file, tree.internal_path, tuple(roi.shape), description)
        for part in _parts(view, roi):
            dataset[slices_of(part, roi.begin)] = view.voxels(part)
    return f"{final}/{tree.internal_path}"


def export_subset(view: BlockwiseView, roi: Roi, directory: str | os.PathLike[str]) -> str:
    """Copy the blocks of a region into a file set of its own, whose view is the region.

    Parameters
    ----------
    view
        The volume.
    roi
        Region in its voxels, inside of the view; it begins and ends where blocks do, or the view.
    directory
        Made if it is not there.

    Returns
    -------
    str
        Path of the new description file.
    """
    from bellis.volumes.description import write_description
    from bellis.volumes.fileset import BlockwiseFileset

    view.check_ready(roi)
    sizes = view.blocks.block_shape
    spans = zip(roi.begin, roi.end, sizes, view.view.end, strict=True)
    if any(begin % size or (end % size and end != last) for begin, end, size, last in spans):
        raise VolumeError(
            f"roi {shown(roi)} does not begin and end where blocks of {sizes} voxels do, or the view {shown(view.view)}"
        )
    target = Path(directory).absolute() / (Path(view.path).name if view.path.endswith(".json") else DESCRIPTION)
    if target.exists():
        raise ArrayExistsError(f"{target} exists: pass another directory")
    subset = replace(view.fileset_description(), view_origin=tuple(roi.begin), view_shape=tuple(roi.shape))
    target.parent.mkdir(parents=True, exist_ok=True)
    with BlockwiseFileset(target, "r+", subset) as fileset:
        for part in _parts(view, roi):
            fileset[slices_of(part, roi.begin)] = view.voxels(part)
    write_description(target, subset)
    return str(target)


def _parts(view: BlockwiseView, roi: Roi) -> list[Roi]:
    return [view.blocks.box(index).intersect(roi) for index in view.blocks.touched(roi)]
