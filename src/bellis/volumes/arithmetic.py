"""Arithmetic in description files: whole numbers and lists of them. Nothing is evaluated, no name is looked up."""

from __future__ import annotations

import ast
import math
import operator
import re
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from bellis.arrays.format import DTYPES
from bellis.errors import DescriptionError

if TYPE_CHECKING:
    from collections.abc import Callable

Value: TypeAlias = "int | float | list[Value]"
"""What a text stands for: tuples are lists."""

TEXT_MAX = 1000
"""Characters of a text."""
DEPTH_MAX = 20
"""Operators and brackets within each other."""
ENTRIES_MAX = 64
"""Entries of a list."""
NUMBER_MAX = 2**63 - 1
"""Size of a number, also of those on the way to the result."""

_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}
# Python's own parser warns about these, or takes them for what nobody means: 0x10, 1if, '\d'.
_ODD = re.compile(r"\d(?![eE][+-]?\d|_\d)[^\W\d]+|\\.?")
_DTYPE = re.compile(r"(?:numpy\.|np\.)?([a-z]+\d*)_?")
_CODE = re.compile(r"[<>=|]?[biufc]\d{1,2}")


def calculate(text: str, *, floats: bool = False) -> Value:
    """Return what a text stands for: whole numbers and lists, with ``+ - * // % **`` and brackets.

    Parameters
    ----------
    text
        ``"[ 4150-2917, 135424, 119808 ]"``.
    floats
        Whether numbers with a fraction are taken, too.

    Raises
    ------
    DescriptionError
        If there is anything else in it, or the result or what leads to it is too large.

    Examples
    --------
    >>> calculate("[ 4150-2917, 135424, 119808 ]")
    [1233, 135424, 119808]
    >>> calculate("9**9**9")
    Traceback (most recent call last):
    ...
    bellis.errors.DescriptionError: '9**9**9': '9**9**9' is too large, numbers of up to 9223372036854775807 are due
    """
    if len(text) > TEXT_MAX:
        raise DescriptionError(f"{text[:40]!r}... has {len(text)} characters, at most {TEXT_MAX} are due")
    if odd := _ODD.search(text):
        raise DescriptionError(f"{_cut(text)}: {odd[0]!r} is no part of a number")
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise DescriptionError(f"{_cut(text)} is not arithmetic: {getattr(error, 'msg', error)}") from None
    return _Reader(text.strip(), floats=floats).value(tree.body, DEPTH_MAX)


def parse_dtype_name(text: str) -> np.dtype[Any]:
    """Return the data type of a name: ``uint8``, ``numpy.uint8``, ``<u2``; of voxels that bellis can store.

    Raises
    ------
    DescriptionError
        If it is no name of one.

    Examples
    --------
    >>> parse_dtype_name("numpy.uint8"), parse_dtype_name(">u2")
    (dtype('uint8'), dtype('>u2'))
    """
    name = text.strip()
    if (match := _DTYPE.fullmatch(name)) and match[1] in DTYPES:
        return np.dtype(match[1])
    if _CODE.fullmatch(name):
        try:
            dtype = np.dtype(name)
        except TypeError:
            dtype = np.dtype(object)
        if dtype.name in DTYPES:
            return dtype
    raise DescriptionError(f"{text[:100]!r} is no name of a data type: 'uint8', 'numpy.uint8' or '<u2' are")


class _Reader:
    """What a syntax tree stands for; whatever is not listed here is refused."""

    def __init__(self, text: str, *, floats: bool) -> None:
        self._text = text
        self._floats = floats

    def value(self, node: ast.expr, depth: int) -> Value:
        if depth == 0:
            raise DescriptionError(f"{_cut(self._text)} has more than {DEPTH_MAX} operators and brackets in each other")
        if isinstance(node, ast.Constant):
            return self._number(node, node.value)
        if isinstance(node, ast.List | ast.Tuple):
            return self._list(node, [self.value(entry, depth - 1) for entry in node.elts])
        if isinstance(node, ast.UnaryOp) and type(node.op) in _UNARY:
            return self._number(node, _UNARY[type(node.op)](self._operand(node.operand, depth)))
        if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
            return self._binary(node, self.value(node.left, depth - 1), self.value(node.right, depth - 1))
        raise self._refused(node, "is not arithmetic: numbers, lists and + - * // % ** are due")

    def _operand(self, node: ast.expr, depth: int) -> int | float:
        value = self.value(node, depth - 1)
        if isinstance(value, list):
            raise self._refused(node, "is a list, a number is due")
        return value

    def _binary(self, node: ast.BinOp, left: Value, right: Value) -> Value:
        """Apply an operator; lists are joined and repeated, as Python does."""
        if isinstance(left, list) or isinstance(right, list):
            return self._joined(node, left, right)
        if isinstance(node.op, ast.Pow):
            self._check_power(node, left, right)
        try:
            return self._number(node, _BINARY[type(node.op)](left, right))
        except (ZeroDivisionError, OverflowError) as error:
            raise self._refused(node, f"has no value: {error}") from None

    def _joined(self, node: ast.BinOp, left: Value, right: Value) -> Value:
        if isinstance(node.op, ast.Add) and isinstance(left, list) and isinstance(right, list):
            return self._list(node, left + right)
        if isinstance(node.op, ast.Mult):
            entries, times = (left, right) if isinstance(left, list) else (right, left)
            # Lists of lists, repeated some times, would have more entries than there are atoms.
            if isinstance(times, int) and isinstance(entries, list) and not any(isinstance(e, list) for e in entries):
                return self._list(node, entries * max(0, min(times, ENTRIES_MAX + 1)))
        raise self._refused(
            node, "is not arithmetic of numbers: lists are only joined by +, and those of numbers repeated by *"
        )

    def _check_power(self, node: ast.BinOp, base: float, exponent: float) -> None:
        """Refuse a power that would take long, before it is taken."""
        if exponent < 0 or not isinstance(exponent, int):
            raise self._refused(node, f"has the exponent {exponent}, a whole number from 0 is due")
        if abs(base) > 1 and exponent * math.log2(abs(base)) > 64:
            raise self._too_large(node)

    def _number(self, node: ast.expr, value: Any) -> int | float:
        if type(value) is not int and not (type(value) is float and self._floats):
            due = "a number" if self._floats else "a whole number"
            raise self._refused(node, f"is not {due}")
        if not abs(value) <= NUMBER_MAX:  # also NaN
            raise self._too_large(node)
        return value

    def _list(self, node: ast.expr, entries: list[Value]) -> list[Value]:
        if len(entries) > ENTRIES_MAX:
            raise self._refused(node, f"has more than {ENTRIES_MAX} entries")
        return entries

    def _too_large(self, node: ast.expr) -> DescriptionError:
        return self._refused(node, f"is too large, numbers of up to {NUMBER_MAX} are due")

    def _refused(self, node: ast.expr, why: str) -> DescriptionError:
        part = ast.get_source_segment(self._text, node) or self._text
        return DescriptionError(f"{_cut(self._text)}: {_cut(part)} {why}")


def _cut(text: str) -> str:
    """Return a text in quotes, not more of it than fits a line."""
    return repr(text if len(text) <= 200 else f"{text[:200]}...")
