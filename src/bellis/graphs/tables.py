"""Tables of nodes and edges as users give them (mappings of arrays, Arrow, our own columns) -> checked columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bellis.errors import GraphError
from bellis.graphs.attributes import check_name
from bellis.graphs.columns import Edges, Nodes, absent, column
from bellis.graphs.parse import (
    array_column,
    array_kind,
    check_unique,
    column_of,
    ids_of,
    kind_of,
    ordered_ends,
    settled,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from bellis.graphs.attributes import Kind
    from bellis.graphs.metadata import Metadata


def nodes_of_table(given: Any, metadata: Metadata) -> tuple[Nodes, dict[str, Kind]]:
    """Parse nodes, and return them with the kinds of their attributes.

    Parameters
    ----------
    given
        `Nodes`; or columns by name, ``"id"`` among them; or an Arrow table, or what can become one.

    Raises
    ------
    GraphError
        If ids are missing, are none, or come twice; or if a column is none that a store can have.
    """
    columns = _columns(given, "nodes", ("id",))
    ids = ids_of(columns.pop("id"), "id of a node")
    check_unique(ids)
    attrs, kinds = _attributes(columns, len(ids), "node", metadata.node_attrs)
    return Nodes(id=ids, attrs=attrs), kinds


def edges_of_table(given: Any, metadata: Metadata) -> tuple[Edges, dict[str, Kind]]:
    """Parse edges, and return them as they are stored, with the kinds of their attributes.

    Parameters
    ----------
    given
        `Edges`; or columns by name, those of the ends among them; or an Arrow table, or what can become one.

    Raises
    ------
    GraphError
        If ends are missing, are no ids, or a pair comes twice; or if a column is none that a store can have.
    """
    columns = _columns(given, "edges", metadata.endpoints)
    ends = [ids_of(columns.pop(name), f"end {name!r} of an edge") for name in metadata.endpoints]
    if len(ends[0]) != len(ends[1]):
        names = " and ".join(map(repr, metadata.endpoints))
        raise GraphError(f"columns {names} have {len(ends[0])} and {len(ends[1])} rows: all need the same number")
    u, v = ordered_ends(*ends, is_directed=metadata.directed)
    attrs, kinds = _attributes(columns, len(u), "edge", metadata.edge_attrs)
    return Edges(u=u, v=v, attrs=attrs), kinds


def _columns(given: Any, what: str, keys: tuple[str, ...]) -> dict[str, Any]:
    """Return columns by name."""
    if isinstance(given, Nodes if what == "nodes" else Edges):
        ends = (given.id,) if isinstance(given, Nodes) else (given.u, given.v)
        return {**dict(zip(keys, ends, strict=True)), **given.attrs}
    if hasattr(given, "__arrow_c_stream__"):
        columns = _arrow_columns(given)
    elif hasattr(given, "keys") and hasattr(given, "__getitem__"):
        columns = {name: _plain(given[name]) for name in given.keys()}  # noqa: SIM118  # not all iterate their keys
    else:
        raise GraphError(
            f"{what} are {type(given).__name__}: give columns by name, like {{{', '.join(map(repr, keys))}: [...]}}, "
            "or an Arrow table"
        )
    missing = [name for name in keys if name not in columns]
    if missing:
        raise GraphError(
            f"{what} have no column {' and '.join(map(repr, missing))}; they have "
            f"{', '.join(map(repr, columns)) or 'none'}"
        )
    return columns


def _plain(values: Any) -> Any:
    """Return a column of Arrow, polars, pandas or torch as an array; others as they are."""
    if isinstance(values, np.ndarray):
        return values
    if hasattr(values, "__arrow_c_array__") or hasattr(values, "__arrow_c_stream__"):
        import pyarrow as pa

        is_chunked = not hasattr(values, "__arrow_c_array__")
        return _arrow_column(pa.chunked_array(values).combine_chunks() if is_chunked else pa.array(values))
    return np.asarray(values) if hasattr(values, "__array__") else values


def _attributes(
    columns: Mapping[str, Any], count: int, what: str, known: Mapping[str, Kind]
) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Kind]]:
    attrs, kinds = {}, {}
    for name, values in columns.items():
        if check_name(name) == "id" and what == "node":
            raise GraphError("'id' is no attribute")
        parsed = _attribute(name, values, what, known.get(name))
        if parsed is None:
            continue
        attrs[name], kinds[name] = parsed
        if len(attrs[name]) != count:
            raise GraphError(f"column {name!r} has {len(attrs[name])} rows, but there are {count} {what}s")
    return attrs, kinds


def _attribute(name: str, values: Any, what: str, known: Kind | None) -> tuple[npt.NDArray[Any], Kind] | None:
    """Return a column and its kind; None if no row has a value and nothing tells the kind."""
    if isinstance(values, np.ndarray) and values.dtype.kind != "O":
        kind = settled(name, what, array_kind(name, values), known)
        return array_column(name, values, kind), kind
    listed = _listed(values)
    found = kind_of(name, [listed])
    settled_kind = known if found is None else settled(name, what, found, known)
    return None if settled_kind is None else (column_of(name, listed, settled_kind), settled_kind)


def _listed(values: Any) -> list[Any]:
    """Return values of a sequence or of an array of objects, None for those that are masked."""
    if not isinstance(values, np.ndarray):
        return list(values)
    listed: list[Any] = np.ma.getdata(values).tolist()
    if isinstance(values, np.ma.MaskedArray):
        listed = [None if no else value for value, no in zip(listed, absent(values).tolist(), strict=True)]
    return listed


def _arrow_columns(given: Any) -> dict[str, Any]:
    """Return the columns of an Arrow table as arrays, masked where it has nulls."""
    import pyarrow as pa

    table = given if isinstance(given, pa.Table) else pa.table(given)
    names = table.column_names
    if len(set(names)) < len(names):
        raise GraphError(f"the columns of the table are {', '.join(names)}: each needs a name of its own")
    return {name: _arrow_column(table.column(name).combine_chunks()) for name in names}


def _arrow_column(values: Any) -> Any:
    import pyarrow as pa

    if isinstance(values, pa.ChunkedArray):  # of an empty table
        values = pa.concat_arrays(values.chunks) if values.num_chunks else pa.array([], values.type)
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if pa.types.is_null(values.type):
        return [None] * len(values)
    is_absent = values.is_null().to_numpy(zero_copy_only=False)
    if pa.types.is_fixed_size_list(values.type) and pa.types.is_primitive(values.type.value_type):
        size = values.type.list_size
        flat = _numbers(values.values.slice(values.offset * size, len(values) * size))
        return column(flat.reshape(len(values), size), is_absent)
    if not pa.types.is_primitive(values.type) or pa.types.is_temporal(values.type):
        return values.to_pylist()  # texts, lists, and what is refused by its type
    return column(_numbers(values), is_absent)


def _numbers(values: Any) -> npt.NDArray[Any]:
    """Return numbers, anything where they are null."""
    import pyarrow as pa

    fill = pa.scalar(value=False) if pa.types.is_boolean(values.type) else pa.scalar(0).cast(values.type)
    numbers: npt.NDArray[Any] = values.fill_null(fill).to_numpy(zero_copy_only=False)
    return numbers
