"""Ids and values as users give them -> columns: the one place where input is checked."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from bellis.errors import GraphError, GraphMismatchError
from bellis.graphs.attributes import Kind
from bellis.graphs.columns import absent, column

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import numpy.typing as npt

    from bellis.graphs.attributes import Base
    from bellis.graphs.columns import Ids

_INT64 = range(-(2**63), 2**63)
_SINGLE: tuple[tuple[tuple[type, ...], Base], ...] = (
    ((bool, np.bool_), "bool"),  # before int: Python's bool is one
    ((int, np.integer), "int"),
    ((float, np.floating), "float"),
    ((str,), "str"),
)
_VECTORS = (list, tuple, np.ndarray)
_FILLS: dict[Base, Any] = {"bool": False, "int": 0, "float": 0.0, "str": ""}


def ids_of(values: Iterable[Any], what: str) -> Ids:
    """Return ids as a column.

    Parameters
    ----------
    values
        Integers of Python or NumPy, or an array of them.
    what
        What they are ids of, for messages: ``"id of a node"``.

    Raises
    ------
    GraphError
        If one is no integer from 0 to 2^64 - 1.
    """
    if isinstance(values, np.ndarray):
        if values.dtype.kind in "iu" and values.ndim == 1 and not np.ma.getmaskarray(values).any():
            plain = np.ma.getdata(values)
            if plain.dtype.kind == "i" and plain.size and plain.min() < 0:
                raise _no_id(plain.min(), what)
            return plain.astype(np.uint64)
        if values.ndim != 1:
            raise GraphError(f"the column of each {what} has the shape {values.shape}: it has to be (n,)")
        values = values.tolist() if values.dtype.kind == "O" else list(values)
    listed = values if isinstance(values, list) else list(values)
    types = set(map(type, listed))
    wrong = tuple(each for each in types if issubclass(each, bool) or not issubclass(each, (int, np.integer)))
    if wrong:
        raise _no_id(next(value for value in listed if isinstance(value, wrong)), what)
    if not types <= {int}:
        listed = list(map(int, listed))
    if listed and (min(listed) < 0 or max(listed) >= 2**64):
        raise _no_id(min(listed) if min(listed) < 0 else max(listed), what)
    return np.array(listed, np.uint64)


def _no_id(value: Any, what: str) -> GraphError:
    return GraphError(f"{value!r} ({type(value).__name__}) is no {what}: ids are integers from 0 to 2^64 - 1")


def check_unique(ids: Ids) -> None:
    """Refuse nodes that are given twice.

    Raises
    ------
    GraphError
        With up to five of their ids.
    """
    ordered = np.sort(ids)
    twice = np.unique(ordered[1:][ordered[1:] == ordered[:-1]]).tolist()
    if twice:
        raise GraphError(f"{len(twice)} nodes are given twice: {_first(twice)}; give each id once")


def ordered_ends(u: Ids, v: Ids, *, is_directed: bool) -> tuple[Ids, Ids]:
    """Return the ends of edges as they are stored: of undirected graphs, the smaller id first.

    Raises
    ------
    GraphError
        If there are two edges between the same ends.
    """
    if not is_directed:
        u, v = np.minimum(u, v), np.maximum(u, v)
    order = np.lexsort((v, u))
    is_twice = (u[order][1:] == u[order][:-1]) & (v[order][1:] == v[order][:-1])
    if is_twice.any():
        rows = order[1:][is_twice]
        twice = list(zip(u[rows].tolist(), v[rows].tolist(), strict=True))
        hint = "" if is_directed else "; in an undirected graph, (u, v) and (v, u) are one edge"
        raise GraphError(f"{len(twice)} edges are given twice: {_first(twice)}{hint}; give each edge once")
    return u, v


def _first(items: Sequence[Any]) -> str:
    return ", ".join(map(str, items[:5])) + (", ..." if len(items) > 5 else "")


def kind_of(name: str, chunks: Iterable[Sequence[Any]]) -> Kind | None:
    """Return the kind that all values have together; None if all of them are None.

    Integers among floats are floats, as they are in NumPy.

    Raises
    ------
    GraphError
        If they have none in common.
    """
    chunks = list(chunks)
    types: set[type] = set()
    for chunk in chunks:
        types.update(map(type, chunk))
    types.discard(type(None))
    if not types:
        return None
    if not all(issubclass(each, _VECTORS) for each in types):
        return Kind(_base_of(name, types))
    has_arrays = any(issubclass(each, np.ndarray) for each in types)
    shapes, inner = set[tuple[int, ...]](), set[type]()
    for chunk in chunks:
        vectors = [value for value in chunk if value is not None]
        if has_arrays:
            arrays = [value for value in vectors if isinstance(value, np.ndarray) and value.dtype.kind != "O"]
            shapes.update(array.shape for array in arrays)
            inner.update(array.dtype.type for array in arrays)
            vectors = [value for value in vectors if not isinstance(value, np.ndarray) or value.dtype.kind == "O"]
        shapes.update((size,) for size in set(map(len, vectors)))
        inner.update(map(type, chain.from_iterable(vectors)))
    size = _size_of(name, shapes)
    return Kind(_base_of(name, inner), size)


def _size_of(name: str, shapes: set[tuple[int, ...]]) -> int:
    """Return the number of elements that all vectors have."""
    wrong = [shape for shape in shapes if len(shape) != 1 or shape[0] == 0]
    if wrong:
        raise GraphError(f"attribute {name!r} has a value of shape {wrong[0]}: vectors have one axis, and elements")
    if len(shapes) > 1:
        sizes = _listed(size for (size,) in shapes)
        raise GraphError(f"attribute {name!r} has vectors of {sizes} elements: all need the same number")
    return shapes.pop()[0]


def _base_of(name: str, types: set[type]) -> Base:
    bases: set[Base] = set()
    for each in types:
        base = next((base for among, base in _SINGLE if issubclass(each, among)), None)
        if base is None:
            raise GraphError(
                f"attribute {name!r} has values of type {each.__name__}: a store has bool, int, float, str, and "
                "vectors of them"
            )
        bases.add(base)
    if bases == {"int", "float"}:
        return "float"
    if len(bases) > 1:
        raise GraphError(f"attribute {name!r} has values of types {_listed(bases)}: all need the same type")
    return bases.pop()


def _listed(items: Iterable[Any]) -> str:
    return " and ".join(map(str, sorted(items)))


def column_of(name: str, values: Sequence[Any], kind: Kind) -> npt.NDArray[Any]:
    """Return a column, masked where the value is None.

    Parameters
    ----------
    values
        Values whose common kind is ``kind``, or int where ``kind`` is float.

    Raises
    ------
    GraphError
        If an int is beyond 64 bits, or a text has what no database can hold.
    """
    is_absent = np.zeros(len(values), np.bool_)
    if type(None) in set(map(type, values)):
        is_absent = np.fromiter((value is None for value in values), np.bool_, len(values))
        fill: Any = _FILLS[kind.base] if kind.size is None else [_FILLS[kind.base]] * kind.size
        values = [fill if value is None else value for value in values]
    if kind.base == "str":
        return column(_texts(name, values, kind), is_absent)
    if kind.base == "int":
        _check_small(name, values, kind)
    try:
        return column(np.array(values, kind.dtype).reshape(len(values), *kind.row), is_absent)
    except OverflowError as error:
        raise GraphError(f"attribute {name!r} has a value beyond {kind.dtype}: {error}") from error


def _check_small(name: str, values: Sequence[Any], kind: Kind) -> None:
    """Refuse what does not fit into 64 bits."""
    elements = values if kind.size is None else list(chain.from_iterable(values))
    if not set(map(type, elements)) <= {int, bool}:
        elements = list(map(int, elements))  # NumPy compares int64 and uint64 as floats, and wraps what it converts
    for value in (max(elements, default=0), min(elements, default=0)):
        if value not in _INT64:
            raise GraphError(f"attribute {name!r} has the value {value}: integers are from -2^63 to 2^63 - 1")


def _texts(name: str, values: Sequence[Any], kind: Kind) -> npt.NDArray[Any]:
    elements = [str(each) for each in (values if kind.size is None else chain.from_iterable(values))]
    joined = "".join(elements)
    try:
        joined.encode()
    except UnicodeEncodeError as error:
        wrong = next(each for each in elements if any("\ud800" <= letter <= "\udfff" for letter in each))
        raise GraphError(
            f"attribute {name!r} has the text {wrong!r}, with a lone surrogate: no database can hold it"
        ) from error
    if "\0" in joined:
        wrong = next(each for each in elements if "\0" in each)
        raise GraphError(f"attribute {name!r} has the text {wrong!r}, with a NUL: no database can hold it")
    texts = np.empty(len(elements), object)
    texts[:] = elements
    return texts.reshape(len(values), *kind.row)


def array_kind(name: str, values: npt.NDArray[Any]) -> Kind:
    """Return the kind of an array of numbers or NumPy's texts: shape (n,) or (n, size).

    Raises
    ------
    GraphError
        If it is of another type, or has more axes.
    """
    if values.ndim not in (1, 2) or 0 in values.shape[1:]:
        raise GraphError(f"column {name!r} has the shape {values.shape}: it has to be (n,), or (n, size) for vectors")
    base: dict[str, Base] = {"b": "bool", "i": "int", "u": "int", "f": "float", "U": "str", "T": "str"}
    if values.dtype.kind not in base:
        raise GraphError(
            f"column {name!r} has the type {values.dtype}: a store has bool, int, float, str, and vectors of them"
        )
    return Kind(base[values.dtype.kind], None if values.ndim == 1 else values.shape[1])


def array_column(name: str, values: npt.NDArray[Any], kind: Kind) -> npt.NDArray[Any]:
    """Return an array as a column of its kind, or of float where it has integers.

    Raises
    ------
    GraphError
        If a value does not fit.
    """
    is_absent, plain = absent(values), np.ma.getdata(values)
    if kind.base == "str":
        filled = plain.copy()
        filled[is_absent] = ""
        as_list = filled.tolist()
        return column(_texts(name, as_list, kind), is_absent)
    if kind.base == "int" and plain.dtype == np.uint64:
        present = plain[~is_absent]
        if present.size and present.max() >= 2**63:
            raise GraphError(f"column {name!r} has the value {present.max()}: integers are from -2^63 to 2^63 - 1")
    return column(np.ascontiguousarray(plain.astype(kind.dtype, copy=False)), is_absent)


def settled(name: str, what: str, given: Kind, known: Kind | None) -> Kind:
    """Return the kind as which given values are stored.

    Raises
    ------
    GraphMismatchError
        If the attribute has another kind, other than float for int.
    """
    if known is None or given == known or (given.base == "int" and known == Kind("float", given.size)):
        return given if known is None else known
    message = f"{what} attribute {name!r} is {known} in this graph, but {given} is given: convert the values, or "
    if known == Kind("int", given.size) and given.base == "float":
        shown = "float" if given.size is None else f"Vec(float, {given.size})"
        raise GraphMismatchError(
            f"{message}declare {what}_attrs={{{name!r}: {shown}}} when the graph is made; an attribute that is not "
            "declared has the type of its first value"
        )
    raise GraphMismatchError(f"{message}give them another name")


def filter_of(given: Mapping[str, Any], kinds: Mapping[str, Kind], what: str) -> dict[str, Any]:
    """Return a filter with plain Python values, of attributes that are all known.

    Raises
    ------
    GraphError
        If a value is not of the attribute's kind.
    """
    parsed = {}
    for name, value in given.items():
        found = kind_of(name, [[value]])
        if found is None:
            raise GraphError(f"the filter for {what} attribute {name!r} is None: give the value that it has to have")
        kind = settled(name, what, found, kinds[name])
        (plain,) = column_of(name, [value], kind).tolist()
        parsed[name] = plain if kind.size is None else tuple(plain)
    return parsed
