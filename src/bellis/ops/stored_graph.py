"""Graphs that operations read and write: opened, checked, and written by columns."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from bellis.errors import GraphMismatchError, GraphMissingError, TaskError
from bellis.graphs.attributes import Kind

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import TypeAlias

    import numpy.typing as npt

    from bellis.geometry import Coordinate, Roi
    from bellis.graphs import GraphStore
    from bellis.graphs.metadata import Metadata

    GraphPlace: TypeAlias = GraphStore | str | os.PathLike[str]


def graph_to_write(
    what: str,
    graph: GraphPlace,
    *,
    roi: Roi,
    chunk_size: Coordinate,
    node_attrs: Mapping[str, Kind],
    edge_attrs: Mapping[str, Kind],
) -> GraphStore:
    """Return an undirected graph that can be written, and that holds attributes; a new one, if there is none.

    Parameters
    ----------
    what
        What asks for it, as messages begin.
    graph
        An open graph, or where it is.
    roi
        Region of a graph that is made.
    chunk_size
        Extent of its chunks in world units, if it is made in files.
    node_attrs, edge_attrs
        Besides positions, which are vectors of floats.

    Raises
    ------
    GraphMismatchError
        If it is there, and is not as asked.
    TaskError
        If it is directed, or was opened to be read.
    """
    from bellis.graphs.open import name_of, open_graph
    from bellis.graphs.store import GraphStore

    if not isinstance(graph, GraphStore):
        nodes = {"position": Kind("float", roi.dims), **node_attrs}
        chunks = chunk_size if name_of(os.fspath(graph)) == "files" else None
        graph = _existing(what, graph, roi) or open_graph(
            graph, "w", directed=False, total_roi=roi, node_attrs=nodes, edge_attrs=edge_attrs, chunk_size=chunks
        )
        graph.close()
    if graph.mode == "r":
        raise TaskError(f"{what}: {graph.backend} was opened with mode='r': open it with mode='r+' to write")
    _check_undirected(what, graph)
    kinds = {**position_kinds(graph.metadata, roi.dims), **node_attrs}
    if graph.metadata.extended(kinds, edge_attrs) != graph.metadata:
        # Attributes join now, so that what reads them can be checked before anything runs.
        none = np.empty(0, np.uint64)
        ends = dict.fromkeys(graph.endpoint_names, none)
        graph.write_columns({"id": none, **_no_values(kinds)}, {**ends, **_no_values(edge_attrs)})
    return graph


def check_place(what: str, graph: GraphPlace, roi: Roi) -> None:
    """Refuse what is no place of a graph, or has one of another volume; nothing is made.

    Raises
    ------
    GraphError
        If it is.
    """
    if isinstance(graph, str | os.PathLike):
        _existing(what, graph, roi)


def _existing(what: str, place: str | os.PathLike[str], roi: Roi) -> GraphStore | None:
    from bellis.graphs.open import open_graph

    try:
        with open_graph(place, "r+", total_roi=roi) as store:
            return store
    except GraphMissingError:
        return None
    except GraphMismatchError as error:
        found = str(error).partition("\nleave")[0]
        raise GraphMismatchError(f"{what}: {found}\nit is of another volume: pass another graph") from error


def graph_to_read(what: str, graph: GraphPlace, *, edge_attrs: tuple[str, ...]) -> GraphStore:
    """Return an undirected graph whose edges have some attributes that are numbers.

    Raises
    ------
    GraphMissingError
        If there is none.
    TaskError
        If it is directed, or edges do not have these attributes.
    """
    from bellis.graphs.open import open_graph
    from bellis.graphs.store import GraphStore

    if isinstance(graph, GraphStore):
        store = graph
    else:
        with open_graph(graph, "r") as store:
            pass
    _check_undirected(what, store)
    known = store.edge_attrs
    for name in edge_attrs:
        if name not in known or known[name].base not in ("int", "float") or known[name].size is not None:
            found = f"{name!r} is {known[name]}" if name in known else f"there is no {name!r}"
            raise TaskError(
                f"{what}: edges of {store.backend} need the attribute {name!r}, a number, but {found} among "
                f"{', '.join(known) or 'no attributes'}: name others, or write the graph with region_graph"
            )
    return store


def position_kinds(metadata: Metadata, dims: int) -> dict[str, Kind]:
    """Return types of attributes that hold positions of floats."""
    if metadata.is_split or (dims == 1 and metadata.node_attrs.get(metadata.positions[0]) == Kind("float")):
        return {name: Kind("float") for name in metadata.positions}
    return {name: Kind("float", dims) for name in metadata.positions}


def position_columns(metadata: Metadata, places: npt.NDArray[np.float64]) -> dict[str, npt.NDArray[Any]]:
    """Return the columns of positions, shape (n, axes), as a graph wants them."""
    kinds = position_kinds(metadata, places.shape[1])
    if next(iter(kinds.values())).size is None:
        return {name: places[:, axis] for axis, name in enumerate(kinds)}
    return dict.fromkeys(kinds, places)


def _no_values(kinds: Mapping[str, Kind]) -> dict[str, npt.NDArray[Any]]:
    return {name: np.empty((0, *kind.row), kind.dtype) for name, kind in kinds.items()}


def _check_undirected(what: str, graph: GraphStore) -> None:
    if graph.directed:
        raise TaskError(f"{what}: {graph.backend} is directed, but contacts of regions are not: make one that is not")
