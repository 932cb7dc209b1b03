"""Points, extents and offsets: tuples of integers with element-wise arithmetic."""

import operator
from collections.abc import Callable, Iterable
from functools import partial
from itertools import repeat
from numbers import Real
from typing import Any, Self, SupportsIndex, TypeAlias

from bellis.errors import GeometryError

Scalar: TypeAlias = SupportsIndex | float
"""An integer, also a NumPy one, or a float without a fraction."""

CoordinateLike: TypeAlias = Scalar | Iterable[Scalar | None]
"""What stands for a coordinate: an iterable of integers, or one integer where it says so."""

_new = tuple.__new__


def _integer(value: object) -> int | None:
    """Parse one element; floats must be integral, bools and strings are refused."""
    if type(value) is int or value is None:
        return value
    if not isinstance(value, bool):
        try:
            return int(operator.index(value))  # type: ignore[arg-type]
        except TypeError:
            pass
        if isinstance(value, Real):
            return _integral(value)
    raise GeometryError(f"a coordinate holds integers or None, but was given {value!r} ({type(value).__name__})")


def _integral(value: Real) -> int:
    """Turn a real number without a fraction into the integer that it is."""
    try:
        whole = int(value)  # type: ignore[call-overload]
    except (OverflowError, ValueError):  # inf, nan
        whole = None
    if whole is None or whole != value:
        raise GeometryError(f"a coordinate holds integers, but was given {value!r}: round it explicitly")
    return int(whole)


def _elements(value: object) -> tuple[object, ...]:
    """Return what a single argument stands for: its elements, or itself as the only one."""
    if isinstance(value, str | bytes | bytearray):
        raise GeometryError(f"a coordinate holds integers, but was given {value!r}")
    if isinstance(value, Iterable):
        try:
            return (operator.index(value),)  # type: ignore[arg-type]  # an array of no dimension
        except TypeError:
            return tuple(value)
    return (value,)


def _operand(value: object, own: tuple[int, ...]) -> Any:
    """Return the other side of an operator as an iterable, or NotImplemented if it is not ours."""
    if isinstance(value, tuple | list):
        other = Coordinate(value)
        if len(other) != len(own):
            raise GeometryError(f"ranks differ: {len(own)} and {len(other)} ({own} and {other})")
        return other
    if isinstance(value, Real):
        return repeat(_integer(value))
    try:
        return repeat(int(operator.index(value)))  # type: ignore[arg-type]
    except TypeError:
        return NotImplemented


def _combine(op: Callable[[Any, Any], Any], own: tuple[int, ...], value: object) -> "Coordinate":
    """Apply an operator element by element; ``None`` on either side gives ``None``."""
    kind = type(value)
    operand: Any
    if kind is int:
        operand = repeat(value)
    elif kind is Coordinate and len(value) == len(own):  # type: ignore[arg-type]
        operand = value
    else:
        operand = _operand(value, own)
        if operand is NotImplemented:
            return NotImplemented  # type: ignore[no-any-return]
    try:
        return _new(Coordinate, map(op, own, operand))
    except TypeError:  # there is a None; int is the only other type that gets here
        return _combine(partial(_unless_none, op), own, operand if kind is not int else value)
    except ZeroDivisionError as error:
        raise GeometryError(f"division by zero: {tuple(own)} and {value}") from error


def _unless_none(op: Callable[[Any, Any], Any], left: int | None, right: int | None) -> int | None:
    result: int | None = None if left is None or right is None else op(left, right)
    return result


def _absolute(element: int | None) -> int | None:
    return None if element is None else abs(element)


def _power(base: int, exponent: int) -> int:
    if exponent < 0:
        raise GeometryError(f"{base} ** {exponent} is not an integer: negative exponent")
    return int(base**exponent)


def _ceil_divide(left: int, right: int) -> int:
    return -(-left // right)


def _round_divide(left: int, right: int) -> int:
    # ceil(left / right - 1/2), in integers: exact, and ties go down.
    return -((right - 2 * left) // (2 * right))


def _flipped(op: Callable[[Any, Any], Any], right: object, left: object) -> Any:
    return op(left, right)


class Coordinate(tuple[int, ...]):
    """A point, extent or offset: a tuple of integers with element-wise arithmetic.

    ``+ - * / // % **`` work with a coordinate, tuple or list of the same length and with one
    integer, from either side. ``/`` and ``//`` are the same exact floor division. An element may
    be ``None`` (unbounded, see `Roi`); ``None`` on either side of an operator gives ``None``.
    (Elements are annotated ``int`` all the same: ``None`` occurs in nothing but unbounded rois.)

    Slices are plain tuples. A NumPy array on either side, or a NumPy scalar on the left, makes
    the result NumPy's.

    Parameters
    ----------
    *values
        Integers, or one iterable of integers. Anything with ``__index__`` and floats without a
        fraction are accepted.

    Raises
    ------
    GeometryError
        If an element is not an integer (a fraction is never cut off), or if the other side of
        an operator has another length.

    Examples
    --------
    >>> 2 * Coordinate(1, 2)
    Coordinate(2, 4)
    >>> (10, 10) - Coordinate(1, 2)
    Coordinate(9, 8)
    >>> Coordinate(-5, 2**60 + 1) / 2
    Coordinate(-3, 576460752303423488)
    >>> Coordinate(100 / 4, None) + 1
    Coordinate(26, None)
    """

    __slots__ = ()

    def __new__(cls, *values: CoordinateLike | None) -> Self:
        """Parse the elements; see the class."""
        elements: tuple[Any, ...] = values
        if len(values) == 1 and type(values[0]) is not int:
            only = values[0]
            if type(only) is Coordinate:
                return _new(cls, only)
            elements = only if type(only) is tuple else _elements(only)
        for element in elements:
            if type(element) is not int:
                return _new(cls, map(_integer, elements))
        return _new(cls, elements)

    @staticmethod
    def of(values: Iterable[int]) -> "Coordinate":
        """Make a coordinate of ``int`` without any check: for hot loops."""
        return _new(Coordinate, values)

    @property
    def dims(self) -> int:
        """Number of elements."""
        return len(self)

    def squeeze(self, dim: int = 0) -> "Coordinate":
        """Return the coordinate without element ``dim``.

        Examples
        --------
        >>> Coordinate(1, 2, 3).squeeze(-1)
        Coordinate(1, 2)
        """
        if not -len(self) <= dim < len(self):
            raise GeometryError(f"{self} has {len(self)} dimensions, but no dimension {dim}")
        dim %= len(self)
        return _new(Coordinate, self[:dim] + self[dim + 1 :])

    def is_multiple_of(self, coordinate: CoordinateLike) -> bool:
        """Return whether each element is a multiple of its counterpart; ``None`` always is."""
        return not any(self % broadcast(coordinate, len(self)))

    def floor_division(self, other: CoordinateLike) -> "Coordinate":
        """Divide element-wise and round down."""
        return self // broadcast(other, len(self))

    def ceil_division(self, other: CoordinateLike) -> "Coordinate":
        """Divide element-wise and round up."""
        return _combine(_ceil_divide, self, broadcast(other, len(self)))

    def round_division(self, other: CoordinateLike) -> "Coordinate":
        """Divide element-wise and round to the nearest integer; ties go down.

        Examples
        --------
        >>> Coordinate(-1, 1, 2, 3).round_division(2)
        Coordinate(-1, 0, 1, 1)
        """
        return _combine(_round_divide, self, broadcast(other, len(self)))

    def __add__(self, other: CoordinateLike) -> "Coordinate":  # type: ignore[override]
        return _combine(operator.add, self, other)

    def __radd__(self, other: CoordinateLike) -> "Coordinate":
        return _combine(operator.add, self, other)

    def __sub__(self, other: CoordinateLike) -> "Coordinate":
        return _combine(operator.sub, self, other)

    def __rsub__(self, other: CoordinateLike) -> "Coordinate":
        return _combine(partial(_flipped, operator.sub), self, other)

    def __mul__(self, other: CoordinateLike) -> "Coordinate":
        return _combine(operator.mul, self, other)

    def __rmul__(self, other: CoordinateLike) -> "Coordinate":
        return _combine(operator.mul, self, other)

    def __floordiv__(self, other: CoordinateLike) -> "Coordinate":
        return _combine(operator.floordiv, self, other)

    def __rfloordiv__(self, other: CoordinateLike) -> "Coordinate":
        return _combine(partial(_flipped, operator.floordiv), self, other)

    # Floor, not true division: a float would lose integers beyond 2**53.
    __truediv__ = __floordiv__
    __rtruediv__ = __rfloordiv__

    def __mod__(self, other: CoordinateLike) -> "Coordinate":
        return _combine(operator.mod, self, other)

    def __rmod__(self, other: CoordinateLike) -> "Coordinate":
        return _combine(partial(_flipped, operator.mod), self, other)

    def __pow__(self, other: CoordinateLike) -> "Coordinate":
        return _combine(_power, self, other)

    def __rpow__(self, other: CoordinateLike) -> "Coordinate":
        return _combine(partial(_flipped, _power), self, other)

    def __neg__(self) -> "Coordinate":
        return _combine(operator.mul, self, -1)

    def __abs__(self) -> "Coordinate":
        return _new(Coordinate, map(_absolute, self))

    def __repr__(self) -> str:
        return f"Coordinate({', '.join(map(repr, self))})"

    def __str__(self) -> str:
        return tuple.__repr__(self)


def broadcast(value: CoordinateLike, dims: int) -> Coordinate:
    """Return ``value`` as a coordinate of ``dims`` elements, one integer standing for each.

    Raises
    ------
    GeometryError
        If ``value`` has another length, or holds anything but integers and ``None``.
    """
    if type(value) is int:
        return _new(Coordinate, (value,) * dims)
    if type(value) is Coordinate:
        coordinate = value
    elif isinstance(value, Iterable):
        coordinate = Coordinate(value)
    else:
        if value is None:
            raise GeometryError(f"expected {dims} integers or one, but was given None")
        coordinate = Coordinate(*(value,) * dims)
    if len(coordinate) != dims:
        raise GeometryError(f"ranks differ: {dims} and {len(coordinate)} ({coordinate})")
    return coordinate
