"""networkx graphs and records (dicts) <-> columns."""

# ruff: noqa: SLF001  # the dicts of a networkx graph, which is documented to be made of them

from __future__ import annotations

from itertools import chain, compress
from operator import itemgetter, methodcaller
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from bellis.errors import GraphError
from bellis.graphs.attributes import check_name
from bellis.graphs.columns import Edges, Nodes, absent
from bellis.graphs.parse import check_unique, column_of, ids_of, kind_of, ordered_ends, settled

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    import numpy.typing as npt

    from bellis.graphs.attributes import Kind
    from bellis.graphs.columns import Ids
    from bellis.graphs.graph import DiGraph, Graph
    from bellis.graphs.metadata import Metadata

Datas: TypeAlias = "list[Mapping[str, Any]]"
Rows: TypeAlias = "npt.NDArray[np.intp]"


def parts_of(graph: Any) -> tuple[Any, Any]:
    """Return the nodes and the edges of a networkx graph.

    Raises
    ------
    GraphError
        If it is none.
    """
    if isinstance(graph, type) or not all(hasattr(graph, name) for name in ("nodes", "edges", "is_directed")):
        raise GraphError(
            f"graph is {type(graph).__name__}: give a graph of networkx; write_nodes and write_edges take lists of "
            "dicts, and write_columns takes arrays"
        )
    return graph.nodes, graph.edges


def nodes_of(
    given: Any, metadata: Metadata, wanted: Collection[str] | None
) -> tuple[list[tuple[frozenset[str], Nodes]], dict[str, Kind]]:
    """Parse nodes into groups of the same attributes, and return them by their names, with the kinds of these.

    What is None in all rows, and nowhere known, is among the names, and no column.

    Parameters
    ----------
    given
        Nodes of a networkx graph; or a mapping of ids to attributes; or records (dicts) with an ``"id"``.
    wanted
        The attributes to take; None for all.

    Raises
    ------
    GraphError
        If ids or values are none, or ids come twice.
    """
    ids, datas, skip = _node_rows(given)
    column = ids_of(ids, "id of a node")
    check_unique(column)
    groups, kinds = _groups(datas, "node", metadata.node_attrs, wanted, skip)
    return [(names, Nodes(id=column[rows], attrs=attrs)) for names, rows, attrs in groups], kinds


def edges_of(
    given: Any, metadata: Metadata, wanted: Collection[str] | None
) -> tuple[tuple[Edges, ...], dict[str, Kind]]:
    """Parse edges into groups of the same attributes, as they are stored, and return them with the kinds of these.

    Parameters
    ----------
    given
        Edges of a networkx graph; or a mapping of pairs to attributes; or records (dicts) with both ends.
    wanted
        The attributes to take; None for all.

    Raises
    ------
    GraphError
        If ids or values are none, pairs come twice, or the edges have no direction and the store's have one.
    """
    _check_direction(given, metadata)
    u, v, datas, skip = _edge_rows(given, metadata.endpoints)
    u, v = ordered_ends(u, v, is_directed=metadata.directed)
    groups, kinds = _groups(datas, "edge", metadata.edge_attrs, wanted, skip)
    return tuple(Edges(u=u[rows], v=v[rows], attrs=attrs) for _, rows, attrs in groups), kinds


def _node_rows(given: Any) -> tuple[Sequence[Any], Datas, tuple[str, ...]]:
    """Return ids and attributes, and what in these is no attribute."""
    if callable(getattr(given, "data", None)):  # networkx's NodeView
        given = dict(given.data())
    if hasattr(given, "items"):
        items = dict(given.items())
        return list(items), _mappings(list(items.values()), "node"), ()
    rows = list(given)
    if all(isinstance(row, tuple) and len(row) == 2 for row in rows):  # networkx's NodeDataView
        return [node for node, _ in rows], _mappings([data for _, data in rows], "node"), ()
    return _keys(rows, "id", "node"), rows, ("id",)


def _edge_rows(given: Any, endpoints: tuple[str, str]) -> tuple[Ids, Ids, Datas, tuple[str, ...]]:
    """Return both ends and attributes, and what in these is no attribute."""
    if type(given).__name__ in {"EdgeView", "OutEdgeView"} and type(given).__module__.startswith("networkx."):
        return *_edges_of_graph(given._graph), ()
    if callable(getattr(given, "data", None)):  # another view of networkx
        given = given.data()
    if hasattr(given, "items"):
        given = [(*pair, data) for pair, data in given.items()]
    rows = list(given)
    if all(isinstance(row, tuple) and len(row) == 3 for row in rows):
        keys: tuple[Any, Any] = (0, 1)
        datas = _mappings([row[2] for row in rows], "edge")
    else:
        keys, datas = endpoints, rows
    ends = (_keys(rows, key, "edge") for key in keys)
    u, v = (ids_of(end, f"end {name!r} of an edge") for end, name in zip(ends, endpoints, strict=True))
    return u, v, datas, endpoints if datas is rows else ()


def _check_direction(given: Any, metadata: Metadata) -> None:
    """Refuse edges of an undirected networkx graph for a directed store: which end is u is chance there."""
    graph: Any = getattr(getattr(given, "_viewer", given), "_graph", None)  # of a view with, and of one without data
    if metadata.directed and hasattr(graph, "is_directed") and not graph.is_directed() and len(given):
        raise GraphError(
            "the edges of an undirected graph can't be written into a directed one, since they do not say where they "
            "begin: make them directed, graph.to_directed() in both directions"
        )


def _edges_of_graph(graph: Any) -> tuple[Ids, Ids, Datas]:
    """Return both ends and attributes of a networkx graph: from its dicts, three times as fast as from its view."""
    neighbours = list(graph._adj.values())
    u = np.repeat(ids_of(list(graph._adj), "id of a node"), list(map(len, neighbours)))
    v = ids_of(list(chain.from_iterable(neighbours)), "id of a node")
    datas = list(chain.from_iterable(map(methodcaller("values"), neighbours)))
    if graph.is_directed():
        return u, v, datas
    is_first = u <= v  # each edge is there from both of its ends
    return u[is_first], v[is_first], list(compress(datas, is_first.tolist()))


def _mappings(datas: list[Any], what: str) -> Datas:
    wrong = [each for each in set(map(type, datas)) if not hasattr(each, "keys")]
    if wrong:
        raise GraphError(f"attributes of a {what} are {wrong[0].__name__}: they have to be a dict")
    return datas


def _keys(rows: list[Any], key: Any, what: str) -> list[Any]:
    """Return what all records have under a key."""
    try:
        return list(map(itemgetter(key), rows))
    except (KeyError, TypeError, IndexError) as error:
        wrong = next(row for row in rows if not (hasattr(row, "keys") and key in row))
        raise GraphError(
            f"{wrong!r} is no {what}: give {what}s of a networkx graph, or dicts that have {key!r} besides attributes"
        ) from error


def _groups(
    datas: Datas, what: str, known: Mapping[str, Kind], wanted: Collection[str] | None, skip: tuple[str, ...]
) -> tuple[list[tuple[frozenset[str], Rows, dict[str, npt.NDArray[Any]]]], dict[str, Kind]]:
    """Return rows with the same attributes by the names of these, as columns, and the kinds of all attributes."""
    grouped = _by_names(datas, lambda name: name not in skip and (wanted is None or name in wanted))
    lists: dict[str, dict[frozenset[str], list[Any]]] = {}
    for names, rows in grouped.items():
        members = datas if len(rows) == len(datas) else [datas[row] for row in rows.tolist()]
        for name in names:
            lists.setdefault(check_name(name), {})[names] = list(map(itemgetter(name), members))
    columns: dict[frozenset[str], dict[str, npt.NDArray[Any]]] = {names: {} for names in grouped}
    kinds = {}
    for name, chunks in sorted(lists.items()):
        found, kind = kind_of(name, chunks.values()), known.get(name)
        if found is not None:
            kind = settled(name, what, found, kind)
        if kind is not None:  # else there is nothing, not even a value to remove
            kinds[name] = kind
            for names, values in chunks.items():
                columns[names][name] = column_of(name, values, kind)
    return [(names, rows, columns[names]) for names, rows in grouped.items()], kinds


def _by_names(datas: Datas, is_wanted: Callable[[str], bool]) -> dict[frozenset[str], Rows]:
    """Return which rows have which attributes."""
    keys = list(map(tuple, datas))
    numbers = {names: number for number, names in enumerate(dict.fromkeys(keys))}
    wanted = [frozenset(filter(is_wanted, names)) for names in numbers]
    if len(set(wanted)) == 1:
        return {wanted[0]: np.arange(len(datas))}
    codes = np.fromiter(map(numbers.__getitem__, keys), np.intp, len(keys))
    return {
        names: np.flatnonzero(np.isin(codes, [code for code, each in enumerate(wanted) if each == names]))
        for names in dict.fromkeys(wanted)
    }


def records(keys: Mapping[str, Ids], attrs: Mapping[str, npt.NDArray[Any]]) -> list[dict[str, Any]]:
    """Return rows as dicts of Python values, without those that are absent; vectors are lists."""
    names = (*keys, *attrs)
    lists = [values.tolist() for values in keys.values()]
    lists += [np.ma.getdata(values).tolist() for values in attrs.values()]
    count = len(lists[0]) if lists else 0
    rows = _dicts(names, lists, count)
    for name, values in attrs.items():
        for row in np.flatnonzero(absent(values)).tolist():
            del rows[row][name]
    return rows


def _dicts(names: tuple[str, ...], lists: list[list[Any]], count: int) -> list[dict[str, Any]]:
    """Return one dict per row; those of few attributes, which are most, are made by a display."""
    if not names:
        return [{} for _ in range(count)]
    if len(names) == 1:
        (a,) = names
        return [{a: x} for x in lists[0]]
    if len(names) == 2:
        a, b = names
        return [{a: x, b: y} for x, y in zip(*lists, strict=True)]
    if len(names) == 3:
        a, b, c = names
        return [{a: x, b: y, c: z} for x, y, z in zip(*lists, strict=True)]
    return [dict(zip(names, row)) for row in zip(*lists, strict=True)]  # noqa: B905  # both are of one length; 10 %


def fill(graph: Graph | DiGraph, nodes: Nodes, edges: Edges) -> None:
    """Put nodes and edges into an empty graph.

    Its dicts are filled as networkx documents them, since they are all new: that is faster than its methods, which
    look each node and edge up, and copy their attributes.
    """
    ids = nodes.id.tolist()
    graph._node.update(zip(ids, _rows_of(nodes.attrs, len(ids)), strict=True))
    graph._adj.update((node, {}) for node in ids)
    if graph.is_directed():
        graph._pred.update((node, {}) for node in ids)
    us, vs = edges.u.tolist(), edges.v.tolist()
    ends = np.concatenate([edges.u, edges.v])
    graph.add_nodes_from(np.setdiff1d(ends, nodes.id).tolist())
    forth, back = graph._adj, graph._pred if graph.is_directed() else graph._adj
    for u, v, data in zip(us, vs, _rows_of(edges.attrs, len(us)), strict=True):
        forth[u][v] = back[v][u] = data


def _rows_of(attrs: Mapping[str, npt.NDArray[Any]], count: int) -> list[dict[str, Any]]:
    return records({}, attrs) if attrs else [{} for _ in range(count)]
