"""Make a stored graph, or find the one that is there."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from bellis.errors import GraphError, GraphMissingError
from bellis.graphs.backend import Query
from bellis.graphs.metadata import Metadata

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from bellis.graphs.backend import Backend

_LOG = logging.getLogger("bellis.graphs")


def pair_of(names: Sequence[str]) -> tuple[str, str]:
    """Return the names of both ends.

    Raises
    ------
    GraphError
        If they are not two.
    """
    if isinstance(names, str) or len(names) != 2:
        raise GraphError(f"endpoint_names is {names!r}: it has to be two names, like ('u', 'v')")
    return names[0], names[1]


def made(backend: Backend, asked: Mapping[str, Any]) -> Metadata:
    """Make a graph, in place of one that is there, and return its metadata.

    Raises
    ------
    GraphError
        If attributes are declared, but not those of positions; or if more than the last folder is missing.
    """
    given = {name: value for name, value in asked.items() if value is not None}
    is_open = not {"node_attrs", "edge_attrs"} & set(given)
    metadata = Metadata(**given, is_open=is_open)
    missing = [name for name in metadata.positions if name not in metadata.node_attrs]
    if missing and not is_open:
        raise GraphError(
            f"node_attrs has no type for the position attribute {' and '.join(map(repr, missing))}, only for "
            f"{', '.join(map(repr, metadata.node_attrs)) or 'none'}: add it, like {{{missing[0]!r}: "
            f"{'float' if metadata.is_split else 'Vec(float, 3)'}}}"
        )
    check_folder(getattr(backend, "path", None) or getattr(backend, "folder", None))  # of those that have a path
    old = backend.load()
    if old is not None:
        nodes, edges = backend.count(Query(), old)
        _LOG.warning("mode 'w' replaces the graph in %s, which had %d nodes and %d edges", backend, nodes, edges)
    return backend.save(metadata, replace=True)


def check_folder(path: Path | None) -> None:
    """Refuse to make a graph where more than the last folder is missing: that is a mistake in the path.

    Raises
    ------
    GraphError
        With the first folder that is not there.
    """
    if path is None:
        return
    try:
        missing = [folder for folder in path.absolute().parents if not folder.exists()]
    except OSError as error:
        raise GraphError(f"{path} can't be looked at: {error.strerror}") from error
    if len(missing) > 1:
        raise GraphError(
            f"no graph is made at {path}, since there is no folder {missing[-1]}: only the last folder is made, so "
            "make the others, or correct the path"
        )


def found(backend: Backend, mode: str, asked: Mapping[str, Any]) -> Metadata:
    """Return the metadata of a graph that is there and as asked; what is declared joins an open one.

    Raises
    ------
    GraphMissingError
        If there is none.
    GraphMismatchError
        If it is not as asked.
    """
    metadata = backend.load()
    if metadata is None:
        raise GraphMissingError(f"there is no graph in {backend}, to be opened with mode={mode!r}: mode='w' makes one")
    metadata.check(asked, where=str(backend))
    joined = metadata.extended(asked["node_attrs"] or {}, asked["edge_attrs"] or {})
    return metadata if mode == "r" or joined == metadata else backend.save(joined)
