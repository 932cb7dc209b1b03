"""Where blocks touch: which labels of one block are connected to which labels of another, as small tables.

What a block A shows to a neighbour B is its *contact*: the layer (edge, corner) of A's voxels that touch B. B reads it
as context. Both label the contact's mask in the same way, so that they have the same names for its components; A notes
which of its labels each component has, B which of its own labels each component touches. No voxel of a face is stored.
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy.typing as npt

    Mask: TypeAlias = npt.NDArray[np.bool_]
    Labels: TypeAlias = npt.NDArray[np.uint32]

Direction: TypeAlias = tuple[int, ...]
"""Where a neighbouring block is: -1, 0 or 1 per axis."""

_ADJACENT: Mapping[tuple[int, int], Literal[4, 6, 8, 18, 26]] = {
    (2, 1): 4,
    (2, 2): 8,
    (3, 1): 6,
    (3, 2): 18,
    (3, 3): 26,
}
"""What cc3d calls a connectivity, by number of axes and by how many of them neighbours may differ in."""

NO_LABELS: Labels = np.empty(0, np.uint32)
NO_PAIRS: Labels = np.empty((0, 2), np.uint32)


def components(mask: Mask, connectivity: int) -> tuple[Labels, int]:
    """Label the components of one block, in the same way whenever the mask is the same.

    Parameters
    ----------
    mask
        Foreground; 1 to 4 axes, or more.
    connectivity
        From 1 to the number of axes.

    Returns
    -------
    labels
        0 where ``mask`` is False; else from 1.
    count
        How many components there are.
    """
    shape = mask.shape
    # Axes of one voxel are left out: cc3d 4.1 fails on shapes like (1, 3, 1).
    mask = np.ascontiguousarray(mask).reshape([n for n in shape if n > 1] or [1])
    connectivity = min(connectivity, mask.ndim)
    adjacent = _ADJACENT.get((mask.ndim, connectivity))
    found: tuple[npt.NDArray[Any], int]
    if adjacent is not None:
        import cc3d

        # As bool, cc3d 4.1 gives numbers to background in some images: those with 8 neighbours and an odd extent.
        pixels = mask.view(np.uint8) if mask.ndim == 2 else mask
        found = cc3d.connected_components(pixels, connectivity=adjacent, out_dtype=np.uint32, return_N=True)
    else:
        from scipy import ndimage

        found = ndimage.label(mask, ndimage.generate_binary_structure(mask.ndim, connectivity))
    labels, count = found
    return labels.astype(np.uint32, copy=False).reshape(shape), int(count)


def lower_directions(dims: int, connectivity: int) -> list[Direction]:
    """Return the directions to neighbours that come before a block in C order and that it is connected to."""
    every = product((-1, 0, 1), repeat=dims)
    return [d for d in every if d < (0,) * dims and sum(map(abs, d)) <= connectivity]


def shown_labels(labels: Labels, direction: Direction, connectivity: int) -> Labels:
    """Return the label of each component of the contact that a block shows to the neighbour opposite to ``direction``.

    Parameters
    ----------
    labels
        Labels of the block.
    direction
        From that neighbour to this block.
    connectivity
        Of the labels.

    Returns
    -------
    numpy.ndarray
        Label of component k at k - 1.
    """
    # Seen from the neighbour, -1 is where this block ends.
    sides = {-1: slice(-1, None), 0: slice(None), 1: slice(0, 1)}
    contact = labels[tuple(sides[step] for step in direction)]
    names, count = components(contact != 0, connectivity)
    found = np.zeros(count + 1, np.uint32)
    found[names.ravel()] = contact.ravel()
    return found[1:]


def touched_labels(
    mask: Mask, own: tuple[slice, ...], labels: Labels, direction: Direction, connectivity: int
) -> npt.NDArray[np.uint32]:
    """Return the pairs of a component of the neighbour's contact and a label of this block that touch each other.

    Parameters
    ----------
    mask
        Foreground of the block and around it.
    own
        The block within ``mask``.
    labels
        Labels of the block.
    direction
        To the neighbour.
    connectivity
        Of the labels.

    Returns
    -------
    numpy.ndarray
        Shape (n, 2): name of the component, label; sorted, each pair once.
    """
    there = tuple(_beside(part, step) for part, step in zip(own, direction, strict=True))
    if any(part.start < 0 or part.stop > n for part, n in zip(there, mask.shape, strict=True)):
        return NO_PAIRS  # there is no neighbour
    names, count = components(mask[there], connectivity)
    if not count:
        return NO_PAIRS
    sides = {-1: slice(0, 1), 0: slice(None), 1: slice(-1, None)}
    here = labels[tuple(sides[step] for step in direction)]
    found = []
    for shift in _shifts(direction, connectivity):
        a = names[tuple(_shifted(step) for step in shift)].ravel()
        b = here[tuple(_shifted(-step) for step in shift)].ravel()
        both = (a != 0) & (b != 0)
        # Runs of the same pair are the rule: only their beginnings are sorted.
        keys = (a[both].astype(np.uint64) << np.uint64(32)) | b[both]
        found.append(keys[np.flatnonzero(np.diff(keys, prepend=~keys[:1]))])
    keys = np.unique(np.concatenate(found))
    return np.stack([keys >> np.uint64(32), keys & np.uint64(2**32 - 1)], axis=1).astype(np.uint32)


def _beside(part: slice, step: int) -> slice:
    """Return the layer of voxels that touches a block along an axis, or all of the block's if ``step`` is 0."""
    if step == 0:
        return part
    return slice(part.start - 1, part.start) if step < 0 else slice(part.stop, part.stop + 1)


def _shifts(direction: Direction, connectivity: int) -> Iterator[tuple[int, ...]]:
    """Yield how far voxels on both sides may be apart along the contact."""
    left = connectivity - sum(map(abs, direction))
    for shift in product(*((0,) if step else (-1, 0, 1) for step in direction)):
        if sum(map(abs, shift)) <= left:
            yield shift


def _shifted(step: int) -> slice:
    return slice(max(step, 0), min(step, 0) or None)
