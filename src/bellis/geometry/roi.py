"""Regions of interest: half-open boxes of an integer grid."""

from collections.abc import Callable, Iterable, Iterator
from typing import Literal, NoReturn, Self, TypeAlias

from bellis.errors import GeometryError
from bellis.geometry.coordinate import Coordinate, CoordinateLike, broadcast

Span: TypeAlias = tuple[int | None, int | None]
"""Begin and end along one axis; ``None`` is minus infinity and infinity."""

_new = tuple.__new__


def _clip(extent: int | None) -> int | None:
    return None if extent is None else max(extent, 0)


def _clipped(shape: Coordinate) -> Coordinate:
    """Return the shape with zeros for negative extents."""
    try:
        return _new(Coordinate, [extent if extent > 0 else 0 for extent in shape])
    except TypeError:  # there is a None, here and below
        return _new(Coordinate, map(_clip, shape))


def _overlap(first: Span, second: Span) -> Span:
    """Return begin and end of what is in both; no beginning or end is ``None``."""
    (begin, end), (other_begin, other_end) = first, second
    return (
        other_begin if begin is None else begin if other_begin is None else max(begin, other_begin),
        other_end if end is None else end if other_end is None else min(end, other_end),
    )


def _hull(first: Span, second: Span) -> Span:
    """Return begin and end of the shortest span that covers both."""
    (begin, end), (other_begin, other_end) = first, second
    return (
        None if begin is None or other_begin is None else min(begin, other_begin),
        None if end is None or other_end is None else max(end, other_end),
    )


def _is_inside(at: int | None, span: Span) -> bool:
    begin, end = span
    if at is None:
        return begin is None and end is None
    return (begin is None or begin <= at) and (end is None or at < end)


def _spans(roi: "Roi") -> Iterator[Span]:
    return zip(roi.offset, roi.end, strict=True)


def _combined(op: Callable[[Span, Span], Span], first: "Roi", second: "Roi") -> "Roi":
    """Make a roi axis by axis, empty in the axes where the end comes first."""
    spans = tuple(map(op, _spans(first), _spans(second)))
    begin = Coordinate(tuple(begin for begin, _ in spans))
    end = Coordinate(tuple(end for _, end in spans))
    return Roi.of(begin, _clipped(end - begin))


def _check_box(offset: tuple[int | None, ...], shape: tuple[int | None, ...]) -> None:
    """Refuse negative extents, and extents without an offset."""
    for dim, (begin, extent) in enumerate(zip(offset, shape, strict=True)):
        if extent is not None and extent < 0:
            raise GeometryError(f"shape {shape} of a roi is negative in dimension {dim}")
        if extent is not None and begin is None:
            raise GeometryError(
                f"a roi at {offset} with shape {shape} has an extent, but no offset, in "
                f"dimension {dim}: give both, or None for both"
            )


class Roi:
    """A half-open box of an integer grid: from ``begin`` up to, but without, ``end``.

    Frozen and hashable. A ``None`` in ``shape`` makes that axis unbounded: from ``offset`` on, or
    on both sides if that is ``None`` too. A roi with a zero in its shape is empty.

    ``roi + c`` and ``roi - c`` shift; ``* / // %`` are applied to both offset and shape.

    Parameters
    ----------
    offset
        First point of the roi. A bare integer stands for a coordinate of one dimension.
    shape
        Extent in each axis, >= 0, or ``None``.

    Attributes
    ----------
    offset
        First point of the roi; ``None`` where an axis has no beginning.
    shape
        Extent in each axis; ``None`` where an axis is unbounded.

    Raises
    ------
    GeometryError
        If offset and shape have different lengths, if an extent is negative, or if an axis has
        an extent but no offset.

    Examples
    --------
    >>> Roi((2, 0), (8, 10)).intersect(Roi((0, 5), (5, None)))
    Roi((2, 5), (3, 5))
    """

    __slots__ = ("offset", "shape")

    offset: Coordinate
    shape: Coordinate

    def __init__(self, offset: CoordinateLike, shape: CoordinateLike) -> None:
        offset = offset if type(offset) is Coordinate else Coordinate(offset)
        shape = shape if type(shape) is Coordinate else Coordinate(shape)
        if len(offset) != len(shape):
            raise GeometryError(
                f"ranks differ: offset {offset} has {len(offset)} and shape {shape} has {len(shape)} dimensions"
            )
        pairs: Iterable[Span] = zip(offset, shape, strict=True)
        for begin, extent in pairs:
            if extent is None or begin is None or extent < 0:
                _check_box(offset, shape)
                break
        _set_offset(self, offset)
        _set_shape(self, shape)

    @staticmethod
    def of(offset: Coordinate, shape: Coordinate) -> "Roi":
        """Make a roi without any check: for hot loops."""
        roi = _new_object(Roi)
        _set_offset(roi, offset)
        _set_shape(roi, shape)
        return roi

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"{self!r} is frozen: make a new one instead of setting {name!r}")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"{self!r} is frozen: {name!r} can't be deleted")

    @property
    def begin(self) -> Coordinate:
        """First point of the roi: its offset."""
        return self.offset

    @property
    def end(self) -> Coordinate:
        """First point after the roi in every axis; ``None`` where it is unbounded."""
        return self.offset + self.shape

    @property
    def center(self) -> Coordinate:
        """Middle of the roi, rounded down; ``None`` where it is unbounded."""
        return self.offset + self.shape // 2

    @property
    def size(self) -> int | None:
        """Number of points; ``None`` if the roi is unbounded."""
        size = 1
        for extent in self.shape:
            if extent is None:
                return None
            size *= extent
        return size

    @property
    def dims(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def empty(self) -> bool:
        """Whether there is no point in the roi."""
        return 0 in self.shape

    @property
    def unbounded(self) -> bool:
        """Whether the roi has no end in some axis."""
        return None in self.shape

    def contains(self, other: "Roi | CoordinateLike") -> bool:
        """Return whether a point, or every point of a roi, lies in this roi.

        An empty roi lies in every roi.
        """
        if isinstance(other, Roi):
            self._check_rank(other)
            return other.empty or self.intersect(other) == other
        point = Coordinate(other)
        if len(point) != self.dims:
            raise GeometryError(f"ranks differ: roi {self} and point {point}")
        return all(map(_is_inside, point, _spans(self)))

    def intersects(self, other: "Roi") -> bool:
        """Return whether some point lies in both rois."""
        self._check_rank(other)
        try:
            for begin, extent, start, length in zip(self.offset, self.shape, other.offset, other.shape, strict=True):
                overlaps = begin < start + length and start < begin + extent
                if not (overlaps and extent and length):
                    return False
        except TypeError:
            return not _combined(_overlap, self, other).empty
        return True

    def intersect(self, other: "Roi") -> "Roi":
        """Return the points that lie in both rois; an empty roi if there is none."""
        self._check_rank(other)
        offset, shape = [], []
        try:
            for begin, extent, start, length in zip(self.offset, self.shape, other.offset, other.shape, strict=True):
                end, stop = begin + extent, start + length
                first = begin if begin > start else start
                count = (end if end < stop else stop) - first
                offset.append(first)
                shape.append(count if count > 0 else 0)
        except TypeError:
            return _combined(_overlap, self, other)
        return Roi.of(_new(Coordinate, offset), _new(Coordinate, shape))

    def union(self, other: "Roi") -> "Roi":
        """Return the smallest roi that contains both: their hull. Empty rois do not count."""
        self._check_rank(other)
        if self.empty or other.empty:
            return other if self.empty else self
        return _combined(_hull, self, other)

    def shift(self, by: CoordinateLike) -> "Roi":
        """Return the roi moved by a coordinate, or by one integer in every axis."""
        offset = self.offset + broadcast(by, len(self.offset))
        if None in offset:
            return Roi(offset, self.shape)
        return Roi.of(offset, self.shape)

    def grow(self, amount_neg: CoordinateLike = 0, amount_pos: CoordinateLike = 0) -> "Roi":
        """Return the roi with its begin and its end moved outwards; negative amounts shrink it.

        An axis of which less than nothing would be left becomes empty.

        Examples
        --------
        >>> Roi((0, 0), (10, 10)).grow((1, 2), -3)
        Roi((-1, -2), (8, 9))
        >>> Roi((0,), (10,)).grow(-8, -8)
        Roi((8,), (0,))
        """
        before = broadcast(amount_neg, len(self.offset))
        after = broadcast(amount_pos, len(self.offset))
        return Roi.of(self.offset - before, _clipped(self.shape + before + after))

    def snap_to_grid(self, voxel_size: CoordinateLike, mode: Literal["grow", "shrink", "closest"] = "grow") -> "Roi":
        """Return the roi with begin and end on multiples of ``voxel_size``.

        An empty axis stays empty, and may become so with ``shrink`` and ``closest``.

        Parameters
        ----------
        voxel_size
            Spacing of the grid in each axis, > 0; the grid contains the origin.
        mode
            ``grow`` to the smallest roi of the grid that contains this one, ``shrink`` to the
            largest that this one contains, or move both ends to the ``closest`` grid point
            (ties go down).

        Raises
        ------
        GeometryError
            If the mode is none of these, or ``voxel_size`` is not positive.
        """
        grid = broadcast(voxel_size, len(self.offset))
        if None in grid or min(grid, default=1) <= 0:
            raise GeometryError(f"voxel_size {grid} is not positive in every dimension")
        if mode == "grow":
            begin, end = self.begin.floor_division(grid), self.end.ceil_division(grid)
        elif mode == "shrink":
            begin, end = self.begin.ceil_division(grid), self.end.floor_division(grid)
        elif mode == "closest":
            begin, end = self.begin.round_division(grid), self.end.round_division(grid)
        else:
            raise GeometryError(f"mode is {mode!r}, but must be 'grow', 'shrink' or 'closest'")
        shape = _clipped((end - begin) * grid)
        if 0 in self.shape:
            shape = Coordinate(0 if was == 0 else now for was, now in zip(self.shape, shape, strict=True))
        return Roi.of(begin * grid, shape)

    def to_slices(self) -> tuple[slice, ...]:
        """Return the slices that cut the roi out of an array whose first voxel is the origin.

        Raises
        ------
        GeometryError
            If the roi begins before the origin: NumPy would count such a slice from the end.

        Examples
        --------
        >>> Roi((2, None), (8, None)).to_slices()
        (slice(2, 10, None), slice(None, None, None))
        """
        if any(_is_inside(at, (None, 0)) for at in self.offset):
            raise GeometryError(f"{self} begins before the origin: shift it by the offset of the array first")
        return tuple(map(slice, self.offset, self.end))

    get_bounding_box = to_slices

    def copy(self) -> Self:
        """Return the roi itself: it is frozen."""
        return self

    def squeeze(self, dim: int = 0) -> "Roi":
        """Return the roi without dimension ``dim``."""
        return Roi.of(self.offset.squeeze(dim), self.shape.squeeze(dim))

    def _check_rank(self, other: "Roi") -> None:
        if len(self.shape) != len(other.shape):
            raise GeometryError(f"ranks differ: {len(self.shape)} and {len(other.shape)} ({self} and {other})")

    def __add__(self, other: CoordinateLike) -> "Roi":
        return self.shift(other)

    def __sub__(self, other: CoordinateLike) -> "Roi":
        return self.shift(-broadcast(other, len(self.offset)))

    def __mul__(self, other: CoordinateLike) -> "Roi":
        factor = broadcast(other, len(self.offset))
        return Roi(self.offset * factor, self.shape * factor)

    def __floordiv__(self, other: CoordinateLike) -> "Roi":
        divisor = broadcast(other, len(self.offset))
        return Roi(self.offset // divisor, self.shape // divisor)

    __truediv__ = __floordiv__

    def __mod__(self, other: CoordinateLike) -> "Roi":
        divisor = broadcast(other, len(self.offset))
        return Roi(self.offset % divisor, self.shape % divisor)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Roi):
            return NotImplemented
        return self.offset == other.offset and self.shape == other.shape

    def __hash__(self) -> int:
        return hash((self.offset, self.shape))

    def __reduce__(self) -> tuple[type["Roi"], tuple[Coordinate, Coordinate]]:
        return Roi, (self.offset, self.shape)

    def __repr__(self) -> str:
        return f"Roi({self.offset!s}, {self.shape!s})"


# A frozen class with slots has no cheaper way in: object.__setattr__ looks the names up each time.
_new_object = object.__new__
_set_offset = Roi.__dict__["offset"].__set__
_set_shape = Roi.__dict__["shape"].__set__


def expand_roi_to_grid(sub_roi: Roi, total_roi: Roi, read_roi: Roi, write_roi: Roi) -> Roi:
    """Grow a roi to whole blocks of the grid of a task.

    Parameters
    ----------
    sub_roi
        The roi to grow.
    total_roi
        What the task covers: the read region of its first block begins where this begins.
    read_roi, write_roi
        Regions of one block. The write regions tile the grid; where the two lie matters only
        relative to each other.

    Examples
    --------
    >>> expand_roi_to_grid(Roi(6, 1), Roi(0, 100), Roi(0, 7), Roi(2, 3))
    Roi((5,), (3,))
    """
    first = total_roi.begin + (write_roi.begin - read_roi.begin)
    return sub_roi.shift(-first).snap_to_grid(write_roi.shape).shift(first)


def expand_write_roi_to_grid(roi: Roi, write_roi: Roi) -> Roi:
    """Grow a roi to multiples of the shape of ``write_roi``, counted from the origin."""
    return roi.snap_to_grid(write_roi.shape)
