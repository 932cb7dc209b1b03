"""Nodes and edges as documents of MongoDB, as daisy keeps them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from bellis.errors import GraphError
from bellis.graphs.attributes import Base, Kind
from bellis.graphs.columns import Edges, Nodes, absent, column

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import numpy.typing as npt

    from bellis.geometry import Roi
    from bellis.graphs.columns import Ids
    from bellis.graphs.metadata import Metadata

Document: TypeAlias = dict[str, Any]

_INT64 = range(-(2**63), 2**63)
TAKEN: dict[Base, tuple[type, ...]] = {"bool": (bool,), "int": (int,), "float": (float, int), "str": (str,)}
"""What a value may be where a kind is expected: others wrote whole numbers into attributes that are floats."""
_ZEROS: dict[Base, Any] = {"bool": False, "int": 0, "float": 0.0, "str": ""}


def field_of(name: str) -> str:
    """Return the field of a document for an attribute: its name, but for those that look like the key ``_id``.

    Examples
    --------
    >>> field_of("size"), field_of("_id"), field_of("_id_")
    ('size', '_id_', '_id__')
    """
    return f"{name}_" if name.startswith("_id") and not name[3:].strip("_") else name


def signed(ids: Ids) -> list[int]:
    """Return ids as MongoDB has them: in two's complement, since it has no larger integers."""
    found: list[int] = np.asarray(ids, np.uint64).view(np.int64).tolist()
    return found


def unsigned(stored: Iterable[int]) -> Ids:
    """Return ids as numbers from 0 on."""
    return np.array(list(stored), np.int64).view(np.uint64)


def edge_keys(u: Ids, v: Ids) -> list[bytes]:
    """Return keys of edges: 16 bytes in the order of u, then v, so that the key alone holds an edge apart."""
    text = np.stack([u, v], axis=1).astype(">u8").tobytes()
    return [text[at : at + 16] for at in range(0, len(text), 16)]


def changes(attrs: Mapping[str, npt.NDArray[Any]], count: int) -> Iterator[tuple[Document, Document]]:
    """Return for each row the fields to set, and those to remove."""
    fields = [field_of(name) for name in attrs]
    columns = [np.ma.getdata(values).tolist() for values in attrs.values()]
    rows: Iterable[tuple[Any, ...]] = zip(*columns, strict=True) if columns else [()] * count
    masks = np.stack([absent(values) for values in attrs.values()], axis=1) if attrs else np.empty((count, 0), bool)
    if not masks.any():
        for row in rows:
            yield dict(zip(fields, row, strict=True)), {}
        return
    for row, mask in zip(rows, masks.tolist(), strict=True):
        given = list(zip(fields, row, mask, strict=True))
        yield {name: value for name, value, gone in given if not gone}, {name: "" for name, _, gone in given if gone}


def nodes_of(found: Sequence[Document], kinds: Mapping[str, Kind], *, is_foreign: bool = False) -> Nodes:
    """Return documents as nodes with these attributes, sorted by id.

    Parameters
    ----------
    is_foreign
        Whether others made the graph, so that what were whole numbers until now may have fractions: such a column
        is one of floats.

    Raises
    ------
    GraphError
        If a value is of another type: then somebody else wrote it.
    """
    ids = unsigned(document["id"] for document in found)
    kinds = _widened(found, kinds) if is_foreign else kinds
    attrs = {name: _column(found, name, kind, lambda row: f"node {ids[row]}") for name, kind in kinds.items()}
    return Nodes(id=ids, attrs=attrs).sorted()


def edges_of(
    found: Sequence[Document], kinds: Mapping[str, Kind], endpoints: Sequence[str], *, is_foreign: bool = False
) -> Edges:
    """Return documents as edges with these attributes, sorted by u and v; see `nodes_of`.

    Raises
    ------
    GraphError
        If a value is of another type.
    """
    u, v = (unsigned(document[end] for document in found) for end in endpoints)
    kinds = _widened(found, kinds) if is_foreign else kinds
    attrs = {name: _column(found, name, kind, lambda row: f"edge ({u[row]}, {v[row]})") for name, kind in kinds.items()}
    return Edges(u=u, v=v, attrs=attrs).sorted()


def _widened(found: Sequence[Document], kinds: Mapping[str, Kind]) -> dict[str, Kind]:
    """Return kinds, of ints as floats where a document has a float."""
    return {
        name: Kind("float", kind.size)
        if kind.base == "int" and any(_has_float(document.get(field_of(name))) for document in found)
        else kind
        for name, kind in kinds.items()
    }


def _has_float(value: Any) -> bool:
    return any(isinstance(one, float) for one in value) if isinstance(value, list) else isinstance(value, float)


def _column(found: Sequence[Document], name: str, kind: Kind, row_name: Any) -> npt.NDArray[Any]:
    field = field_of(name)
    values = [document.get(field) for document in found]
    for row, value in enumerate(values):
        if value is not None and not _is(value, kind):
            raise GraphError(
                f"{row_name(row)} has {name!r} {value!r} in the database, but it is {kind} in this graph: it was "
                "written by another program; correct the document, or read other attributes only"
            )
    is_absent = np.fromiter((value is None for value in values), bool, len(values))
    zero = _ZEROS[kind.base] if kind.size is None else [_ZEROS[kind.base]] * kind.size
    filled = np.empty((len(values), *kind.row), kind.dtype)
    if values:
        filled[:] = [zero if value is None else value for value in values]
    return column(filled, is_absent)


def _is(value: Any, kind: Kind) -> bool:
    taken = TAKEN[kind.base]
    if kind.size is None:
        return isinstance(value, taken) and (kind.base == "bool" or not isinstance(value, bool))
    return isinstance(value, list) and len(value) == kind.size and all(_is(one, Kind(kind.base)) for one in value)


# What is asked ---------------------------------------------------------------------------------------------------


def inside(roi: Roi, metadata: Metadata) -> list[Document]:
    """Return conditions of nodes whose position is in a region; nodes without a position meet none."""
    position = field_of(metadata.positions[0])
    kind = metadata.node_attrs.get(metadata.positions[0])
    if metadata.is_split:
        fields = [field_of(name) for name in metadata.positions]
    elif kind is not None and kind.size is None:
        fields = [position]
    else:
        fields = [f"{position}.{axis}" for axis in range(roi.dims)]
    found = []
    for field, begin, extent in zip(fields, roi.offset, roi.shape, strict=True):
        # in MongoDB a comparison with a number is met by numbers alone: by no axis of a node that has no position
        bounds: Document = {"$gte": float("-inf") if begin is None else _bound(begin)}
        if begin is not None and extent is not None:
            bounds["$lt"] = _bound(begin + extent)
        found.append({field: bounds})
    return found


def _bound(at: int) -> int | float:
    return at if at in _INT64 else float(at)


def having(wanted: Mapping[str, Any]) -> list[Document]:
    """Return conditions of documents that have these values."""
    return [
        {field_of(name): {"$eq": list(value) if isinstance(value, tuple) else value}} for name, value in wanted.items()
    ]


def all_of(conditions: list[Document]) -> Document:
    """Return a filter that is met where all conditions are."""
    return {"$and": conditions} if conditions else {}
