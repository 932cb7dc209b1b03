"""Coarser levels of an image, each made of the level above."""

from __future__ import annotations

import functools
from math import prod
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from bellis.arrays.multiscale import Multiscale
from bellis.errors import TaskError
from bellis.geometry import Coordinate
from bellis.geometry.coordinate import broadcast
from bellis.ops.blocks import Limits, block_task
from bellis.tasks import Pipeline

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    import numpy.typing as npt

    from bellis.arrays import Array
    from bellis.geometry import CoordinateLike
    from bellis.tasks import Block

Method: TypeAlias = Literal["mean", "mode", "stride", "min", "max", "median"]
"""What one voxel is of those that it is made of."""

SMALL = 128
"""Voxels along an axis of a level that needs none below it."""


def downscale(
    image: Multiscale | str | os.PathLike[str],
    factors: int | Sequence[CoordinateLike] | None = None,
    *,
    method: Method = "mean",
    block_shape: CoordinateLike | None = None,
    name: str = "downscale",
    overwrite: bool = False,
    limits: Limits | None = None,
) -> Pipeline:
    """Make the pipeline that fills the coarser levels of an image, each from the level above.

    A level's task is called ``name/level``, as in ``"downscale/s1"``. A block waits for just those blocks of the level
    above that it is made of. Levels that are there, and as asked, are written again; a journal tells which blocks are
    done.

    Parameters
    ----------
    image
        An OME-Zarr image of zarr version 3, or its path.
    factors
        How many levels to make: each halves the axes whose voxels are not coarser than the finest ones times the square
        root of 2, which brings voxels nearer to cubes; axes of time, or of one voxel, are left as they are. If not
        given, levels are made until no axis is longer than 128 voxels. Or, for each level, voxels of the level above
        per voxel: one number for all or one per physical axis.
    method
        ``"mean"`` (rounded to the nearest, half to even, for integers), ``"median"`` (of an even number, the lower one
        of the two in the middle), ``"min"`` and ``"max"`` for intensities; ``"mode"`` for labels; ``"stride"`` for the
        first voxel. Of floats, all but the mean and the mode leave out NaN.
    block_shape
        Voxels of each level that a block writes, one number or one per physical axis; picked if not given.
    name
        Front part of the tasks' ids.
    overwrite
        Replace levels that are there and not as asked; if not, they are an error.
    limits
        What it may use.

    Raises
    ------
    TaskError
        If factors make no level, or chunks or memory do not allow it; see `block_task`.
    ArrayError
        If there is no such image, or a level is there that is not as asked.
    """
    if method not in get_args(Method):
        raise TaskError(f"task {name!r}: method is {method!r}, must be one of {', '.join(get_args(Method))}")
    levels = image if isinstance(image, Multiscale) else Multiscale.open(image, mode="r+")
    above = levels[0]
    if factors is None or isinstance(factors, int):
        steps = _halvings(name, above, factors)
    else:
        steps = _given(name, above, factors)
    pipeline = Pipeline([])
    for k, step in enumerate(steps):
        level = levels.add_level(step, below=k, overwrite=overwrite)
        weights = above.layout.woven(step, (1,) * len(above.shape))
        task = block_task(
            f"{name}/{levels.level_names[k + 1]}",
            functools.partial(_downscale_block, source=above, target=level, factors=weights, method=method),
            reads=[above],
            writes=[level],
            block_shape=block_shape,
            limits=limits,
            version=f"downscale by {method}",
        )
        pipeline = pipeline + task
        above = level
    return pipeline


def _downscale_block(block: Block, *, source: Array, target: Array, factors: tuple[int, ...], method: Method) -> None:
    voxels = source.to_ndarray(block.write_roi.intersect(source.roi))
    target[block.write_roi] = downscaled(voxels, factors, method)


def downscaled(voxels: npt.NDArray[Any], factors: Sequence[int], method: Method) -> npt.NDArray[Any]:
    """Return an array of one voxel for each box of voxels; at the end, of those that are there."""
    import tensorstore

    store = tensorstore.array(voxels, context=_one_thread())
    found: npt.NDArray[Any] = tensorstore.downsample(store, list(factors), method).read().result()
    return found


@functools.cache
def _one_thread() -> Any:
    """One worker process per core is the rule, so that each is content with one thread."""
    import tensorstore

    return tensorstore.Context({"data_copy_concurrency": {"limit": 1}})


def _halvings(name: str, finest: Array, count: int | None) -> list[Coordinate]:
    """Return the factors of ``count`` levels, or of as many as are of use, which bring voxels nearer to cubes."""
    kinds = finest.layout.spatial([int(kind == "space") for kind in finest.types])
    voxel_size, shape = finest.voxel_size, finest.spatial_shape
    steps: list[Coordinate] = []
    while len(steps) < count if count is not None else max(shape) > SMALL:
        sizes = [size for size, is_space, n in zip(voxel_size, kinds, shape, strict=True) if is_space and n > 1]
        # Not (size / finest > sqrt(2)), in whole numbers.
        most = 2 * min(sizes, default=0) ** 2
        axes = zip(voxel_size, kinds, shape, strict=True)
        step = Coordinate(2 if is_space and n > 1 and size**2 <= most else 1 for size, is_space, n in axes)
        if prod(step) == 1:
            break
        steps.append(step)
        voxel_size, shape = voxel_size * step, shape.ceil_division(step)
    if count is not None and (count < 1 or len(steps) < count):
        raise TaskError(
            f"task {name!r}: factors={count} asks for {count} levels, but {finest.shape} voxels make 1 to "
            f"{len(steps)}: pass as many, or the factors of each level"
        )
    return steps


def _given(name: str, finest: Array, factors: Sequence[CoordinateLike]) -> list[Coordinate]:
    if not factors or all(isinstance(one, int) for one in factors):
        raise TaskError(
            f"task {name!r}: factors are {factors!r}: pass the number of levels, or for each level its factors, as in "
            f"[{(2,) * finest.dims}]"
        )
    return [broadcast(one, finest.dims) for one in factors]
