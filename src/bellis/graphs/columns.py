"""Nodes and edges as one array per attribute: what travels to and from a store."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy.typing as npt

    from bellis.graphs.attributes import Kind

    Ids: TypeAlias = npt.NDArray[np.uint64]
    Rows: TypeAlias = npt.NDArray[np.intp] | npt.NDArray[np.bool_] | slice


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Nodes:
    """Nodes; ``nodes["id"]`` and ``nodes["size"]`` are columns."""

    id: Ids
    """Ids, shape (n,), each once."""
    attrs: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    """Attributes: shape (n,), or (n, size) for vectors; bool, int64, float64, or object with str.

    Where some nodes do not have one, a masked array that masks these rows.
    """

    def __len__(self) -> int:
        return len(self.id)

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        return self.id if name == "id" else self.attrs[name]

    def __iter__(self) -> Iterator[str]:
        yield "id"
        yield from self.attrs

    def keys(self) -> tuple[str, ...]:
        """Return the names of the columns, so that ``dict(nodes)`` and ``pandas.DataFrame(dict(nodes))`` work."""
        return tuple(self)

    def select(self, rows: Rows) -> Self:
        """Return some of the rows."""
        return type(self)(id=self.id[rows], attrs=_selected(self.attrs, rows))

    def sorted(self) -> Self:
        """Return the rows in the order of ids."""
        return self.select(np.argsort(self.id, kind="stable"))

    @classmethod
    def empty(cls, kinds: Mapping[str, Kind]) -> Self:
        """Return no rows."""
        return cls(id=np.empty(0, np.uint64), attrs=_empty(kinds))

    @classmethod
    def concatenate(cls, parts: list[Self]) -> Self:
        """Put rows together; where a part does not have a column, its rows have no value."""
        return cls(id=np.concatenate([part.id for part in parts]), attrs=_concatenated(parts))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Edges:
    """Edges; ``edges["u"]``, ``edges["v"]`` and ``edges["score"]`` are columns."""

    u: Ids
    """Ids of the ends that edges belong to, shape (n,); of undirected graphs, the smaller ones."""
    v: Ids
    """Ids of the other ends. No pair is there twice."""
    attrs: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    """Attributes, as those of nodes."""

    def __len__(self) -> int:
        return len(self.u)

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        return self.u if name == "u" else self.v if name == "v" else self.attrs[name]

    def __iter__(self) -> Iterator[str]:
        yield from ("u", "v")
        yield from self.attrs

    def keys(self) -> tuple[str, ...]:
        """Return the names of the columns, so that ``dict(edges)`` works."""
        return tuple(self)

    def select(self, rows: Rows) -> Self:
        """Return some of the rows."""
        return type(self)(u=self.u[rows], v=self.v[rows], attrs=_selected(self.attrs, rows))

    def sorted(self) -> Self:
        """Return the rows in the order of u, then v."""
        return self.select(np.lexsort((self.v, self.u)))

    @classmethod
    def empty(cls, kinds: Mapping[str, Kind]) -> Self:
        """Return no rows."""
        return cls(u=np.empty(0, np.uint64), v=np.empty(0, np.uint64), attrs=_empty(kinds))

    @classmethod
    def concatenate(cls, parts: list[Self]) -> Self:
        """Put rows together; where a part does not have a column, its rows have no value."""
        ends = (np.concatenate([getattr(part, end) for part in parts]) for end in ("u", "v"))
        return cls(u=next(ends), v=next(ends), attrs=_concatenated(parts))


def absent(column: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Return which rows have no value, shape (n,)."""
    mask: npt.NDArray[np.bool_] = np.ma.getmaskarray(column)
    return mask if mask.ndim == 1 else np.any(mask, axis=1)


def column(values: npt.NDArray[Any], is_absent: npt.NDArray[np.bool_]) -> npt.NDArray[Any]:
    """Return a column: a plain array if every row has a value, else a masked one.

    Parameters
    ----------
    values
        Shape (n,) or (n, size); anything where there is no value.
    is_absent
        Rows without a value, shape (n,).
    """
    if not is_absent.any():
        return values
    mask = is_absent if values.ndim == 1 else np.broadcast_to(is_absent[:, np.newaxis], values.shape)
    return np.ma.masked_array(values, mask=mask.copy())


def _selected(attrs: Mapping[str, npt.NDArray[Any]], rows: Rows) -> dict[str, npt.NDArray[Any]]:
    return {name: _plain(values[rows]) for name, values in attrs.items()}


def _plain(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return a plain array if nothing is masked."""
    if isinstance(values, np.ma.MaskedArray) and not np.ma.getmaskarray(values).any():
        data: npt.NDArray[Any] = values.data
        return data
    return values


def _empty(kinds: Mapping[str, Kind]) -> dict[str, npt.NDArray[Any]]:
    return {name: np.empty((0, *kind.row), kind.dtype) for name, kind in kinds.items()}


def _concatenated(parts: list[Any]) -> dict[str, npt.NDArray[Any]]:
    joined = {}
    for name in dict.fromkeys(name for part in parts for name in part.attrs):
        like = next(part.attrs[name] for part in parts if name in part.attrs)
        columns = [part.attrs[name] if name in part.attrs else _nothing(like, len(part)) for part in parts]
        is_masked = any(isinstance(values, np.ma.MaskedArray) for values in columns)
        joined[name] = np.ma.concatenate(columns) if is_masked else np.concatenate(columns)  # type: ignore[no-untyped-call]
    return joined


def _nothing(like: npt.NDArray[Any], count: int) -> npt.NDArray[Any]:
    """Return a column of rows without a value: one part of a graph may have an attribute that others do not."""
    return column(np.zeros((count, *like.shape[1:]), like.dtype), np.ones(count, bool))
