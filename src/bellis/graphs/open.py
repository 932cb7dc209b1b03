"""Open a graph by a path or a URL."""

from __future__ import annotations

import difflib
import os
import re
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bellis.errors import GraphError
from bellis.graphs.store import GraphStore

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bellis.geometry import CoordinateLike, Roi
    from bellis.graphs.attributes import AttributeType
    from bellis.graphs.backend import Backend

GROUP = "bellis.graphs"
"""Group of the entry points by which backends are made known."""
SCHEMES = {
    **dict.fromkeys(("postgresql", "postgres"), "postgresql"),
    **dict.fromkeys(("mongodb", "mongodb+srv"), "mongodb"),
    "memory": "memory",
    "sqlite": "sqlite",
}
"""Backends by what a URL begins with."""
SUFFIXES = {**dict.fromkeys((".sqlite", ".sqlite3", ".db"), "sqlite"), ".graph": "files"}
"""Backends by how a path ends."""
CATALOGUE = "catalogue.sqlite"
"""What tells that a folder is a graph in files."""
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_BEGIN = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)(?::/*|//)")
"""What begins like a URL, and may be one with a slash or the colon forgotten; a letter of a drive is none."""
_MAGIC = b"SQLite format 3\0"
_CHOICES = (
    "'fragments.sqlite' (or .sqlite3, .db), 'fragments.graph/' (a folder of files), 'postgresql://user@host/database', "
    "'mongodb://host/database', or 'memory://name'"
)


def open_graph(
    place: str | os.PathLike[str],
    mode: str = "r+",
    *,
    directed: bool | None = None,
    total_roi: Roi | None = None,
    position_attribute: str | Sequence[str] | None = None,
    endpoint_names: Sequence[str] | None = None,
    node_attrs: Mapping[str, AttributeType] | None = None,
    edge_attrs: Mapping[str, AttributeType] | None = None,
    nodes: str = "nodes",
    edges: str = "edges",
    chunk_size: CoordinateLike | None = None,
) -> GraphStore:
    """Open a graph, or make one.

    Parameters
    ----------
    place
        ``"fragments.sqlite"``, ``"postgresql://user@host/database"``, ``"mongodb://host/database"``, a folder like
        ``"fragments.graph/"``, or ``"memory://name"`` for a graph that lives as long as the process.
    mode, directed, total_roi, position_attribute, endpoint_names, node_attrs, edge_attrs
        As `GraphStore` takes them.
    nodes, edges
        Names of the tables or collections.
    chunk_size
        Extent of a chunk, of graphs in files.

    Raises
    ------
    GraphError
        If ``place`` tells no backend, or the library for it is not installed.
    GraphMissingError
        If there is no graph, and ``mode`` is not ``"w"``.
    GraphMismatchError
        If there is a graph, and it is not as asked.
    """
    return GraphStore(
        backend_at(place, nodes=nodes, edges=edges, chunk_size=chunk_size),
        mode,
        directed=directed,
        total_roi=total_roi,
        position_attribute=position_attribute,
        endpoint_names=endpoint_names,
        node_attrs=node_attrs,
        edge_attrs=edge_attrs,
    )


def backend_at(
    place: str | os.PathLike[str],
    *,
    nodes: str = "nodes",
    edges: str = "edges",
    chunk_size: CoordinateLike | None = None,
) -> Backend:
    """Return the backend for a path or URL, without touching the store.

    Raises
    ------
    GraphError
        If ``place`` tells none, or the library for it is not installed.
    """
    text = os.fspath(place)
    url = _URL.match(text)
    if url:
        text = url[0].lower() + text[url.end() :]
    kind = load_backend(name_of(text))
    backend: Backend = kind.at(text, nodes=nodes, edges=edges, chunk_size=chunk_size)
    return backend


def name_of(place: str) -> str:
    """Return which backend a path or URL tells.

    Raises
    ------
    GraphError
        If it tells none.
    """
    url = _URL.match(place)
    if url and url[1] in SCHEMES:
        return SCHEMES[url[1]]
    begin = _BEGIN.match(place)
    near = difflib.get_close_matches(begin[1].lower(), SCHEMES, n=1) if begin else []
    if url or (near and ("@" in place or place.lower().startswith(f"{near[0]}:"))):
        hint = f"did you mean '{near[0]}://'? " if near else ""
        raise GraphError(f"{_shown(place)} is no URL of a graph: {hint}it can be {_CHOICES}")
    path = Path(place)
    try:
        is_graph = (path / CATALOGUE).is_file()
    except OSError as error:
        raise GraphError(f"{_shown(place)} can't be looked at: {error.strerror}") from error
    if is_graph or place.endswith(("/", os.sep)):
        return "files"
    if is_sqlite(path):
        return "sqlite"
    found = SUFFIXES.get(path.suffix.lower())
    if found is None:
        raise GraphError(f"{_shown(place)} does not tell how the graph is stored: it can be {_CHOICES}")
    return found


def _shown(place: str) -> str:
    """Return a place for a message: no more than how it begins, or ends, if there may be a password in it."""
    begin = _BEGIN.match(place)
    if begin:
        return f"'{begin[0]}...'"
    _, at, end = place.rpartition("@")
    return repr(f"...@{end}" if at else place)


def is_sqlite(path: Path) -> bool:
    """Return whether there is a file of SQLite."""
    try:
        with path.open("rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC
    except (OSError, ValueError):  # of which a NUL in the path is one
        return False


def load_backend(name: str) -> Any:
    """Return the class of a backend.

    Raises
    ------
    GraphError
        If it is unknown, or the library that it needs is not installed.
    """
    found = entry_points(group=GROUP, name=name)
    if not found:
        known = ", ".join(sorted(entry_points(group=GROUP).names)) or "none: is bellis installed?"
        raise GraphError(f"there is no backend {name!r} for graphs; there are {known}")
    try:
        return next(iter(found)).load()
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("bellis"):
            raise
        extra = {"postgresql": "postgres", "mongodb": "mongodb"}.get(name, "graphs")
        raise GraphError(
            f"graphs in {name} need the module {error.name!r}, which is not installed: pip install 'bellis[{extra}]'"
        ) from error
