"""Graphs that daisy wrote: what they are like is told by their documents."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any, get_args

from bellis.errors import GraphError
from bellis.geometry import Roi
from bellis.graphs.attributes import Base, Kind, check_name
from bellis.graphs.metadata import Metadata
from bellis.graphs.mongo.documents import TAKEN, field_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import numpy.typing as npt

    from bellis.graphs.mongo.documents import Document

_LOG = logging.getLogger("bellis.graphs")
_AXES = (("t", "z", "y", "x"), ("z", "y", "x"), ("y", "x"))
"""What positions are called where each axis is an attribute, and no index tells."""


def is_of_daisy(meta: Document) -> bool:
    """Return whether a document is what daisy writes of a whole graph."""
    has_roi = isinstance(meta.get("total_roi_offset"), list) and isinstance(meta.get("total_roi_shape"), list)
    return isinstance(meta.get("directed"), bool) or has_roi


def are_nodes(documents: Iterable[Document]) -> bool:
    """Return whether documents look like nodes."""
    return all(_is_id(document.get("id")) for document in documents)


def are_edges(documents: Sequence[Document]) -> bool:
    """Return whether documents look like edges."""
    return not documents or len(_integers(documents)) > 1


def metadata_of_daisy(
    meta: Document,
    indices: Mapping[str, Sequence[str]],
    nodes: Sequence[Document],
    edges: Sequence[Document],
    told: set[str] | None = None,
) -> Metadata:
    """Return the metadata of a graph that daisy wrote, as far as can be known.

    Parameters
    ----------
    meta
        Its document on the whole graph.
    indices
        Fields of the indices that daisy makes: ``"position"`` of nodes, ``"incident"`` of edges. Where they are
        missing, documents tell what positions and ends are called.
    nodes, edges
        Some documents, from which the types of attributes are taken. Others may join later.
    told
        Attributes of which it was said that they are left out; others are added.
    """
    offset, shape = meta.get("total_roi_offset"), meta.get("total_roi_shape")
    total_roi = None if not offset or not shape else Roi(_whole(offset), _whole(shape))
    u, v = indices.get("incident") or _ends(edges)
    told = set() if told is None else told
    node_attrs = kinds_of_documents("node", nodes, {"_id", "id"}, told)
    if "position" in indices:
        names = tuple(dict.fromkeys(field.partition(".")[0] for field in indices["position"]))
    else:
        names = _positions(node_attrs, None if total_roi is None else total_roi.dims)
    return Metadata(
        directed=bool(meta.get("directed")),
        total_roi=total_roi,
        position=names if len(names) > 1 else names[0],
        endpoints=(u, v),
        node_attrs=node_attrs,
        edge_attrs=kinds_of_documents("edge", edges, {"_id", u, v}, told),
        is_open=True,
    )


def _positions(kinds: Mapping[str, Kind], dims: int | None) -> tuple[str, ...]:
    """Return what looks most like positions: daisy's own name, usual names of axes, the first vector of numbers."""
    numbers = {name: kind.size for name, kind in kinds.items() if kind.base in ("int", "float")}
    if "position" in numbers:
        return ("position",)
    for axes in _AXES:
        if dims in (None, len(axes)) and all(name in numbers and numbers[name] is None for name in axes):
            return axes
    vectors = (name for name, size in numbers.items() if size is not None and dims in (None, size))
    return (next(vectors, "position"),)


def _ends(edges: Sequence[Document]) -> tuple[str, str]:
    """Return what the ends of edges are called: u and v, or the first integers, since daisy writes ends first."""
    names = _integers(edges)
    return ("u", "v") if len(names) < 2 or {"u", "v"} <= set(names) else (names[0], names[1])


def _integers(documents: Sequence[Document]) -> list[str]:
    """Return the fields that all documents have, with integers."""
    names = [name for name in documents[0] if name != "_id"] if documents else []
    return [name for name in names if all(_is_id(document.get(name)) for document in documents)]


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _whole(values: Iterable[Any]) -> tuple[int | None, ...]:
    return tuple(None if value is None else int(value) for value in values)


def kinds_of_documents(what: str, found: Iterable[Document], keys: set[str], told: set[str]) -> dict[str, Kind]:
    """Return the attributes of some documents, but for keys; it is said once which have no type.

    Parameters
    ----------
    what
        What the documents are: ``"node"`` or ``"edge"``.
    told
        Attributes of which that was said; others are added.
    """
    kinds: dict[str, Kind | None] = {}
    for document in found:
        for name, value in document.items():
            if name in keys or value is None:
                continue
            kind = _kind(value)
            kinds[name] = joined(kinds[name], kind) if name in kinds else kind
    for name, kind in kinds.items():
        if (kind is None or not _is_name(name)) and f"{what} {name}" not in told:
            told.add(f"{what} {name}")
            _LOG.warning(
                "%ss have %r in the database, which is left out: it has no one type that a graph stores", what, name
            )
    return {name: kind for name, kind in kinds.items() if kind is not None and _is_name(name)}


def with_met(metadata: Metadata, nodes: Mapping[str, Kind], edges: Mapping[str, Kind]) -> Metadata:
    """Return metadata with attributes that were met in documents: new ones, and floats among ints."""
    return replace(
        metadata,
        node_attrs=merged(metadata.node_attrs, nodes),
        edge_attrs=merged(metadata.edge_attrs, edges),
    )


def merged(known: Mapping[str, Kind], met: Mapping[str, Kind]) -> dict[str, Kind]:
    """Return both; where they differ, what holds both values, else what is known."""
    more = {name: joined(known[name], kind) or known[name] if name in known else kind for name, kind in met.items()}
    return {**known, **more}


def kind_of_column(values: npt.NDArray[Any]) -> Kind:
    """Return the type of a column that was read."""
    size = values.shape[1] if values.ndim > 1 else None
    bases: dict[str, Base] = {"b": "bool", "i": "int", "f": "float"}
    return Kind(bases.get(values.dtype.kind, "str"), size)


def _is_name(name: str) -> bool:
    try:
        return field_of(check_name(name)) == name
    except GraphError:
        return False


def _kind(value: Any) -> Kind | None:
    """Return what a value is; None for what can't be stored."""
    if isinstance(value, list):
        parts = {_kind(one) for one in value}
        numbers = {Kind("int"), Kind("float")}
        part = Kind("float") if parts == numbers else parts.pop() if len(parts) == 1 else None
        return None if part is None or part.size is not None else Kind(part.base, len(value))
    for base in get_args(Base):  # bool comes before int, of which it is a subclass
        if isinstance(value, TAKEN[base][:1]):
            return Kind(base)
    return None


def joined(one: Kind | None, other: Kind | None) -> Kind | None:
    """Return the type that holds the values of both; None if there is none."""
    if one is None or other is None or one == other:
        return one if one == other else None
    is_number = {one.base, other.base} == {"int", "float"} and one.size == other.size
    return Kind("float", one.size) if is_number else None
