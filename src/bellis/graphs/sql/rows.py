"""Rows of a database become columns, and columns become what a database stores."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from bellis.graphs.columns import absent, column

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from bellis.graphs.attributes import Kind
    from bellis.graphs.sql.layout import Slot

NAN = "nan"
"""How SQLite stores what is no number: it would make it NULL, which is no value."""
_FIELDS = {"bool": "i1", "int": "i8", "float": "f8"}
"""bool as integers, since NumPy would take None for False."""


def split(attrs: Mapping[str, npt.NDArray[Any]], slots: Mapping[str, tuple[Slot, ...]]) -> dict[str, Any]:
    """Return one array per column of a table, from one array per attribute; a position becomes one per axis."""
    found: dict[str, Any] = {}
    for name, values in attrs.items():
        columns = slots[name]
        if len(columns) == 1 and values.ndim == 2 and columns[0].kind.size is None:
            found[columns[0].name] = values[:, 0]
        elif len(columns) == 1:
            found[columns[0].name] = values
        else:
            for axis, slot in enumerate(columns):
                found[slot.name] = values[:, axis]
    return found


def joined(
    rows: Sequence[tuple[Any, ...]],
    ends: int,
    attrs: Sequence[str],
    slots: Mapping[str, tuple[Slot, ...]],
    kinds: Mapping[str, Kind],
) -> tuple[list[npt.NDArray[np.uint64]], dict[str, npt.NDArray[Any]]]:
    """Return ids, and one array per attribute.

    Parameters
    ----------
    rows
        As fetched: ids, then the columns of all attributes.
    ends
        How many ids lead each row.
    attrs
        Names of the attributes.
    slots
        Columns of each attribute.
    kinds
        Kind of each attribute.
    """
    wanted = [slot for name in attrs for slot in slots[name]]
    columns = _arrays(rows, ends, wanted)
    ids = [np.ascontiguousarray(values).view(np.uint64) for values in columns[:ends]]
    found, at = {}, ends
    for name in attrs:
        count = len(slots[name])
        found[name] = _attribute(columns[at : at + count], kinds[name])
        at += count
    return ids, found


def _attribute(parts: list[npt.NDArray[Any]], kind: Kind) -> npt.NDArray[Any]:
    if len(parts) == 1 and (kind.size is None or parts[0].ndim == 2):
        return parts[0]
    gone = np.any([np.ma.getmaskarray(part) for part in parts], axis=0)
    return column(np.stack([np.ma.getdata(part) for part in parts], axis=1), gone)


def _arrays(rows: Sequence[tuple[Any, ...]], ends: int, slots: list[Slot]) -> list[npt.NDArray[Any]]:
    fields = ["i8"] * ends
    if all(slot.kind.size is None and slot.kind.base in _FIELDS for slot in slots):
        fields += [_FIELDS[slot.kind.base] for slot in slots]
        names = [f"f{number}" for number in range(len(fields))]
        try:
            table = np.fromiter(rows, np.dtype(list(zip(names, fields, strict=True))), len(rows))
        except (TypeError, ValueError):
            pass  # there is a None
        else:
            found = [np.ascontiguousarray(table[name]) for name in names]
            # None is a NaN here, as NaN is.
            if not any(field == "f8" and np.isnan(values).any() for field, values in zip(fields, found, strict=True)):
                return found[:ends] + [_typed(values, slot) for values, slot in zip(found[ends:], slots, strict=True)]
    columns: list[Sequence[Any]] = list(zip(*rows, strict=True)) or [()] * (ends + len(slots))
    ids = [np.array(values, np.int64) for values in columns[:ends]]
    return ids + [_array(values, slot.kind) for values, slot in zip(columns[ends:], slots, strict=True)]


def _typed(values: npt.NDArray[Any], slot: Slot) -> npt.NDArray[Any]:
    return values.view(np.bool_) if slot.kind.base == "bool" else values


def _array(values: Sequence[Any], kind: Kind) -> npt.NDArray[Any]:
    """Return a column of values, some of them None."""
    gone = np.fromiter((value is None for value in values), np.bool_, len(values))
    if kind.size is None:
        filler: Any = "" if kind.base == "str" else 0
        single = [filler if value is None else value for value in values] if gone.any() else values
        return column(_of(single, kind), gone)
    found = np.zeros((len(values), kind.size), kind.dtype)
    if kind.base == "str":
        found[...] = ""
    there = [value for value in values if value is not None]
    if there and isinstance(there[0], bytes):
        found[~gone] = np.frombuffer(b"".join(there), _stored(kind)).reshape(-1, kind.size)
    elif there:
        found[~gone] = [json.loads(value) if isinstance(value, str) else value for value in there]
    return column(found, gone)


def _of(values: Sequence[Any], kind: Kind) -> npt.NDArray[Any]:
    if kind.base != "str":
        return np.array(values, kind.dtype)  # also "nan"
    found = np.empty(len(values), object)
    found[:] = values
    return found


def _stored(kind: Kind) -> np.dtype[Any]:
    return kind.dtype.newbyteorder("<")


def in_order(columns: Mapping[str, npt.NDArray[Any]], key: str) -> npt.NDArray[np.intp]:
    """Return the order in which rows are best stored: near in space is near on disk, and edges lie by their ends.

    ``key`` is the column that tells where nodes are.
    """
    if "u" not in columns:
        return np.argsort(columns[key if key in columns else "id"])
    u, v = columns["u"], columns["v"]
    if ((u[1:] > u[:-1]) | ((u[1:] == u[:-1]) & (v[1:] > v[:-1]))).all():
        return np.arange(len(u))
    # Twice as fast as np.lexsort, which can't use the processor's vectors: by u, and then by v among equal u.
    rank = np.empty(len(v), np.int64)
    rank[np.argsort(v)] = np.arange(len(v))
    order = np.argsort(u)
    run = np.cumsum(np.concatenate([[False], u[order][1:] != u[order][:-1]]))
    return order[np.argsort(run * len(v) + rank[order])]


def sqlite_values(values: npt.NDArray[Any], kind: Kind) -> list[Any]:
    """Return a column as SQLite stores it, with None for no value.

    Vectors of numbers are their bytes, little endian: a blob of fixed size is read and written without parsing.
    Vectors of texts are JSON.
    """
    found: list[Any]
    data, gone = np.ma.getdata(values), absent(values)
    if kind.size is not None and kind.base == "str":
        found = [json.dumps(row, ensure_ascii=False) for row in data.tolist()]
    elif kind.size is not None:
        text = np.ascontiguousarray(data, _stored(kind)).tobytes()
        width = _stored(kind).itemsize * kind.size
        found = [text[at : at + width] for at in range(0, len(text), width)]
    elif kind.base == "bool":
        found = data.astype(np.bool_, copy=False).view(np.uint8).tolist()
    elif kind.base == "str":
        found = [str(value) for value in data.tolist()]
    else:
        found = data.tolist()
        if kind.base == "float":
            for row in np.flatnonzero(np.isnan(data)).tolist():
                found[row] = NAN
    for row in np.flatnonzero(gone).tolist():
        found[row] = None
    return found
