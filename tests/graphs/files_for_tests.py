"""What tests of graphs in files share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bellis.graphs.attributes import Kind
from bellis.graphs.backend import Change, Query
from bellis.graphs.columns import Edges, Nodes, column
from bellis.graphs.files.store import FileBackend
from bellis.graphs.metadata import Metadata

if TYPE_CHECKING:
    from pathlib import Path


META = Metadata(
    node_attrs={"position": Kind("float", 2), "size": Kind("int")}, edge_attrs={"score": Kind("float")}, is_open=False
)
ALL = Query(node_attrs=("position", "size"), edge_attrs=("score",))


def made(folder: Path, metadata: Metadata = META, chunk_size: Any = 10) -> FileBackend:
    backend = FileBackend(folder, chunk_size)
    backend.save(metadata)
    return backend


def nodes(places: dict[int, tuple[float, ...] | None]) -> Nodes:
    """Return nodes at places; their size is their id."""
    rows = np.array([place or (0.0, 0.0) for place in places.values()]).reshape(-1, 2)
    position = column(rows, np.array([place is None for place in places.values()], np.bool_))
    return Nodes(id=np.array([*places], np.uint64), attrs={"position": position, "size": np.array([*places])})


def edges(*pairs: tuple[int, int]) -> Edges:
    u, v = np.array(pairs, np.uint64).reshape(-1, 2).T
    return Edges(u=u, v=v, attrs={"score": u / 2})


def write(backend: FileBackend, places: dict[int, Any] | None = None, *pairs: tuple[int, int], **options: Any) -> None:
    backend.write(Change(nodes=(nodes(places or {}),), edges=(edges(*pairs),), **options), META)


def row(folder: Path) -> FileBackend:
    """Make a graph of nodes 0 to 4, each in the middle of a chunk of its own, an edge from each to the next."""
    backend = made(folder)
    write(backend, {k: (10 * k + 5, 5) for k in range(5)}, *((k, k + 1) for k in range(5)))
    return backend


def found(backend: FileBackend, **query: Any) -> tuple[list[int], list[tuple[int, int]]]:
    ids, pairs = backend.read(Query(**query), META)
    return ids.id.tolist(), list(zip(pairs.u.tolist(), pairs.v.tolist(), strict=True))


def names(backend: FileBackend) -> list[str]:
    """Return the files of chunks, without what tells writes apart."""
    parts = (path.name.split(".") for path in (backend.folder / "chunks").iterdir())
    return sorted(".".join([*part[:-3], part[-2]]) for part in parts)


def file_of(backend: FileBackend, chunk: str, what: str = "nodes") -> Path:
    (path,) = (backend.folder / "chunks").glob(f"{chunk}.????????????????.{what}.parquet")
    return path
