"""Operations of several steps: prepare a scratch folder, run steps over blocks, combine their values, clean up."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import pairwise, product
from math import prod
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from bellis.arrays import Array
from bellis.errors import ArrayError, TaskError
from bellis.geometry import Coordinate, Roi
from bellis.ops.blocks import name_of
from bellis.ops.parts import Scratch
from bellis.planning.grid import BlockGrid
from bellis.runtime.program import code_hash
from bellis.tasks import Pipeline, Task

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Sequence

    from bellis.tasks import Block

FAN_IN = 64
"""About how many values one block combines."""

Step: TypeAlias = "Callable[[Block], Any]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """What the tasks of one operation have in common.

    They share one version, and each knows the code of all: so a change of anything makes a journal start all of them
    afresh, and never one of them on what another version left.
    """

    name: str
    """Name of the operation, and of its last task; the others are ``name/step``."""
    blocks: Task
    """Its first task over blocks: region, grid, limits and version."""
    scratch: Scratch
    """Where blocks leave values."""
    code: tuple[Callable[..., Any], ...]
    """The functions that it runs, the user's included."""

    @classmethod
    def of(
        cls,
        name: str,
        blocks: Task,
        *,
        output: Array | str | os.PathLike[str] | None,
        source: Array,
        folder: str | os.PathLike[str] | None,
        code: Sequence[Callable[..., Any]],
    ) -> Steps:
        """Choose the scratch folder: as the user says, or beside what is written.

        Parameters
        ----------
        name
            Name of the operation.
        blocks
            Describes the blocks; its function may be replaced by `task`.
        output
            What the operation writes besides its value: an array, the path of a file, or None.
        source
            What it reads.
        folder
            Folder for scratch folders; None for the default.
        code
            The functions that its steps call.
        """
        beside = output.path if isinstance(output, Array) else output
        version = f"{blocks.identity}; blocks {blocks.write_roi.shape} of {blocks.total_write_roi}"
        digest = sha256(version.encode()).hexdigest()[:16]
        # Where nothing but a value comes out, another function on the same array has a folder of its own.
        whole = replace(blocks, process_function=functools.partial(no_step, code=tuple(code)), check_function=None)
        subject = f"{source.path} {digest} {code_hash(whole)}"
        scratch = Scratch.of(name, version=digest, beside=beside, subject=subject, folder=folder)
        return cls(name=name, blocks=replace(blocks, identity=version), scratch=scratch, code=tuple(code))

    @property
    def grid(self) -> BlockGrid:
        """The blocks, in C order."""
        return BlockGrid.of(self.blocks)

    def task(self, step: str, function: Step) -> Task:
        """Make a task over the blocks of the operation."""
        guarded = functools.partial(run_step, step=function, scratch=self.scratch, code=self.code)
        return replace(self.blocks, task_id=f"{self.name}/{step}", process_function=guarded)

    def once(self, step: str, function: Step, *, write_shape: Coordinate | None = None) -> Task:
        """Make a task with one block over the whole region, or with blocks of ``write_shape`` world units."""
        return replace(self.task(step, function), **self._regions(write_shape))

    def pipeline(self, tasks: Sequence[Task], conclude: Step) -> Pipeline:
        """Put tasks one after the other, between a step that prepares the scratch folder and one that removes it.

        The last step is a task that bears the operation's name, with one block: it calls ``conclude``, whose value is
        the operation's, for `RunReport.value`.
        """
        begin = functools.partial(begin_scratch, scratch=self.scratch, code=self.code)
        first = replace(self.once("prepare", begin), process_function=begin)
        end = functools.partial(end_scratch, step=conclude, scratch=self.scratch, code=self.code)
        last = replace(first, task_id=self.name, process_function=end, results=True)
        chain = [first, *tasks, last]
        return Pipeline(chain, pairwise(chain))

    def combined(self, leaf: str, fold: Callable[[Iterator[Any]], Any]) -> tuple[list[Task], Step]:
        """Make the tasks that combine the values of all blocks, in a tree of neighbours.

        Parameters
        ----------
        leaf
            The step of this operation's blocks whose values are combined.
        fold
            Called with the values of some blocks, in C order; returns their value.

        Returns
        -------
        tasks
            All but the root of the tree.
        root
            Function of a single block over the whole region: it returns the value of all.
        """
        width = max(2, round(FAN_IN ** (1 / self.blocks.total_roi.dims)))
        counts, shape = self.grid.counts, self.blocks.write_roi.shape
        tasks: list[Task] = []
        while True:
            groups = tuple(-(-n // width) for n in counts)
            group = Group(scratch=self.scratch, step=leaf, counts=counts, width=width)
            if prod(groups) == 1:
                return tasks, functools.partial(fold_group, group=group, fold=fold)
            leaf = f"combine-{len(tasks) + 1}"
            shape = shape * width
            keep = functools.partial(keep_fold, group=group, fold=fold, step=leaf)
            tasks.append(self.once(leaf, keep, write_shape=shape))
            counts = groups

    def _regions(self, write_shape: Coordinate | None) -> dict[str, Any]:
        whole = self.blocks.total_write_roi
        shape = whole.shape if write_shape is None else Coordinate(map(min, write_shape, whole.shape))
        write = Roi(whole.begin, shape)
        # What the user allows for a block is not meant for what comes between them.
        return {"total_roi": whole, "read_roi": write, "write_roi": write, "timeout": None, "resources": {}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Which blocks' values one block combines."""

    scratch: Scratch
    """Where they are."""
    step: str
    """The step that left them."""
    counts: tuple[int, ...]
    """Blocks of that step per axis."""
    width: int
    """How many of them per axis one block combines."""

    def values(self, index: int) -> Iterator[Any]:
        """Yield the values that belong to block ``index`` of the coarser grid, in C order."""
        groups = tuple(-(-n // self.width) for n in self.counts)
        at = np.unravel_index(index, groups)
        begins = [int(k) * self.width for k in at]
        axes = [range(b, min(b + self.width, n)) for b, n in zip(begins, self.counts, strict=True)]
        for place in product(*axes):
            yield self.scratch.get(self.step, int(np.ravel_multi_index(place, self.counts)))


def run_step(block: Block, *, step: Step, scratch: Scratch, code: tuple[Callable[..., Any], ...]) -> None:
    """Run a block, unless the operation is over: then it was done, and its input is gone."""
    del code  # for the journal's hash of this task's code
    if scratch.outcome() is None:
        step(block)


def begin_scratch(block: Block, *, scratch: Scratch, code: tuple[Callable[..., Any], ...]) -> None:
    """Make the scratch folder."""
    del block, code
    scratch.begin()


def end_scratch(block: Block, *, step: Step, scratch: Scratch, code: tuple[Callable[..., Any], ...]) -> Any:
    """Return the value of the operation, and remove the scratch folder."""
    del code
    known = scratch.outcome()
    value = step(block) if known is None else known[0]
    scratch.finish(value)
    return value


def fold_group(block: Block, *, group: Group, fold: Callable[[Iterator[Any]], Any]) -> Any:
    """Return the combined value of a group of blocks."""
    return fold(group.values(index_of(block)))


def keep_fold(block: Block, *, group: Group, fold: Callable[[Iterator[Any]], Any], step: str) -> None:
    """Keep the combined value of a group of blocks for the next level."""
    group.scratch.put(step, index_of(block), fold(group.values(index_of(block))))


def check_same_voxels(what: str, source: Array, target: Array) -> None:
    """Refuse an array that does not have a voxel for each of another's.

    Raises
    ------
    ArrayError
        If ``target`` has other voxels, axes or channels than ``source``, or does not reach as far.
    """
    size = source.voxel_size
    is_same = target.types == source.types and target.voxel_size == size and target.units == source.units
    if not is_same or not (target.roi.begin - source.roi.begin).is_multiple_of(size):
        raise ArrayError(f"{what}: {name_of(target)} does not have the voxels of {name_of(source)}: {target}, {source}")
    if not target.roi.contains(source.roi):
        raise ArrayError(
            f"{what}: {name_of(target)} covers {target.roi}, but {name_of(source)} reaches over {source.roi}"
        )


def check_no_channels(what: str, *arrays: Array) -> None:
    """Refuse arrays with channels.

    Raises
    ------
    ArrayError
        If one has a channel axis.
    """
    for array in arrays:
        if len(array.shape) != array.dims:
            raise ArrayError(f"{what}: {name_of(array)} has channels ({', '.join(array.axis_names)}): pass one of them")


def check_integers(what: str, labels: Array) -> None:
    """Refuse labels that are no integers.

    Raises
    ------
    ArrayError
        If the dtype is not of integers.
    """
    if labels.dtype.kind not in "iu":
        raise ArrayError(f"{what}: {name_of(labels)} has dtype {labels.dtype}, but labels are integers")


def index_of(block: Block) -> int:
    """Return the linear index of a block of a running task."""
    if block.index is None:
        raise TaskError(f"{block} was made by hand, so that its place among the blocks is not known")
    return block.index


def no_step(block: Block, *, code: tuple[Callable[..., Any], ...] = ()) -> None:
    """Stand in for a function that is put in later."""
