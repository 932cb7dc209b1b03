"""One block of a task: where it reads, where it writes, what became of it."""

from __future__ import annotations

from enum import Enum
from math import comb
from typing import TYPE_CHECKING, Any, Protocol

from bellis.errors import GeometryError
from bellis.geometry import Coordinate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bellis.geometry import Roi


class BlockStatus(Enum):
    """What became of a block."""

    CREATED = 0
    PROCESSING = 1
    SUCCESS = 2
    FAILED = 3


class Regions(Protocol):
    """What a block asks of the grid that it belongs to."""

    @property
    def task_id(self) -> str:
        """Return the task whose blocks these are."""

    def read_roi(self, index: int) -> Roi:
        """Return the region that block ``index`` reads."""

    def write_roi(self, index: int) -> Roi:
        """Return the region that block ``index`` writes."""

    def number(self, index: int) -> int:
        """Return daisy's number of block ``index``."""


class Block:
    """One block of a task.

    Blocks are equal, and hash alike, when their ``block_id`` is the same. Assigning to ``read_roi`` or
    ``write_roi`` is allowed and changes nothing for the scheduler.

    Parameters
    ----------
    total_roi
        Region that the task covers, context included.
    read_roi
        Region that this block may read.
    write_roi
        Region that this block writes.
    block_id
        ``(task_id, number)``; computed from ``write_roi`` when None.
    task_id
        Name of the task; taken from ``block_id`` when None.

    Attributes
    ----------
    index
        Linear index of the block in its grid, C order; None for a block made by hand.
    requested_write_roi
        The write region as it was planned, whatever was assigned to ``write_roi`` since.
    """

    __slots__ = ("_grid", "block_id", "index", "read_roi", "requested_write_roi", "status", "write_roi")

    _grid: Regions | None
    block_id: tuple[str | None, int]
    index: int | None
    read_roi: Roi
    write_roi: Roi
    requested_write_roi: Roi
    status: BlockStatus

    def __init__(
        self,
        total_roi: Roi,
        read_roi: Roi,
        write_roi: Roi,
        block_id: tuple[str | None, int] | int | None = None,
        task_id: str | None = None,
    ) -> None:
        if block_id is None:
            number = cantor_number((write_roi.offset - total_roi.offset) // write_roi.shape)
            block_id = (task_id, number)
        elif not isinstance(block_id, tuple):
            block_id = (task_id, int(block_id))
        elif task_id is not None and block_id[0] != task_id:
            raise GeometryError(f"block_id {block_id} is not of task {task_id!r}: pass only one of the two")
        self._grid = None
        self.index = None
        self.read_roi = read_roi
        self.write_roi = write_roi
        self.requested_write_roi = write_roi
        self.block_id = block_id
        self.status = BlockStatus.CREATED

    @classmethod
    def at(cls, grid: Regions, index: int) -> Block:
        """Make block ``index`` of ``grid``; its regions are computed when they are asked for."""
        block: Block = _new(cls)
        block._grid = grid
        block.index = index
        return block

    def __getattr__(self, name: str) -> Any:
        # Reached only for a slot that was never filled: Block.at fills two of seven.
        if name == "_grid" or self._grid is None or self.index is None:
            raise AttributeError(f"Block has no attribute {name!r}")
        value: Any
        if name in {"write_roi", "requested_write_roi"}:
            value = self._grid.write_roi(self.index)
        elif name == "read_roi":
            value = self._grid.read_roi(self.index)
        elif name == "block_id":
            value = (self._grid.task_id, self._grid.number(self.index))
        elif name == "status":
            value = BlockStatus.CREATED
        else:
            raise AttributeError(f"Block has no attribute {name!r}")
        setattr(self, name, value)
        return value

    @property
    def task_id(self) -> str | None:
        """Name of the task that the block belongs to."""
        return self.block_id[0]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Block) and self.block_id == other.block_id

    def __hash__(self) -> int:
        return hash(self.block_id)

    def __repr__(self) -> str:
        return (
            f"Block({self.task_id}/{self.block_id[1]}, read {self.read_roi}, write {self.write_roi}, "
            f"{self.status.name})"
        )


_new = object.__new__


def cantor_number(coordinate: Sequence[int | None]) -> int:
    """Return the number that daisy gives to a block at ``coordinate``.

    The generalised Cantor pairing (combinatorial number system): the sum over axes d of
    ``comb(s_d + d, d + 1)``, where ``s_d`` is the sum of the first d + 1 coordinates.

    Examples
    --------
    >>> [cantor_number((1, x)) for x in (1, 2, 3, 4)]
    [4, 7, 11, 16]
    """
    number = total = 0
    for axis, position in enumerate(coordinate):
        if position is None or position < 0:
            raise GeometryError(f"a block lies at no negative or unbounded position, but at {tuple(coordinate)}")
        total += position
        number += comb(total + axis, axis + 1)
    return number


def cantor_coordinate(number: int, dims: int) -> Coordinate:
    """Return the coordinate whose `cantor_number` is ``number``.

    Examples
    --------
    >>> cantor_coordinate(16, 2)
    Coordinate(1, 4)
    """
    if number < 0 or dims < 1:
        raise GeometryError(f"no block has the number {number} in {dims} dimensions")
    sums = []
    for axis in reversed(range(dims)):
        low, high = 0, 1
        while comb(high + axis, axis + 1) <= number:
            low, high = high, high * 2
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if comb(middle + axis, axis + 1) <= number else (low, middle)
        number -= comb(low + axis, axis + 1)
        sums.append(low)
    sums.reverse()
    return Coordinate(high - low for low, high in zip([0, *sums], sums, strict=False))
