"""What readers ask for: nodes, attributes and filters, checked against what a store knows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bellis.errors import GraphError
from bellis.graphs.columns import Nodes
from bellis.graphs.parse import ids_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from bellis.graphs.attributes import Kind
    from bellis.graphs.columns import Ids
    from bellis.graphs.metadata import Metadata


def ids_among(nodes: Iterable[Any]) -> Ids:
    """Return the ids of nodes that are given as records, ids or columns, sorted.

    Raises
    ------
    GraphError
        If one has none.
    """
    if isinstance(nodes, Nodes):
        return np.unique(nodes.id)
    given = nodes if isinstance(nodes, np.ndarray) else [_id_among(node) for node in nodes]
    return np.unique(ids_of(given, "id of a node"))


def _id_among(node: Any) -> Any:
    if not hasattr(node, "keys"):
        return node
    if "id" not in node.keys():  # noqa: SIM118
        raise GraphError(f"{node!r} has no 'id': give nodes as read_nodes returns them, or their ids")
    return node["id"]


def known(names: Collection[str] | None, kinds: Mapping[str, Kind], metadata: Metadata, what: str) -> tuple[str, ...]:
    """Return the attributes that are asked for, as far as they are known, each once.

    Raises
    ------
    GraphError
        If they are no list, or one is unknown in a graph whose attributes were declared.
    """
    if names is None:
        return tuple(kinds)
    if isinstance(names, str):
        raise GraphError(f"attributes of {what}s are {names!r}: give a list, like [{names!r}]")
    _check_known(names, kinds, metadata, what)
    return tuple(name for name in dict.fromkeys(names) if name in kinds)


def is_unmet(wanted: Mapping[str, Any] | None, kinds: Mapping[str, Kind], metadata: Metadata, what: str) -> bool:
    """Return whether nothing can have these values: of an attribute that nothing has.

    Raises
    ------
    GraphError
        If that attribute is unknown in a graph whose attributes were declared.
    """
    _check_known(wanted or (), kinds, metadata, what)
    return any(name not in kinds for name in wanted or ())


def _check_known(names: Iterable[str], kinds: Mapping[str, Kind], metadata: Metadata, what: str) -> None:
    unknown = [name for name in names if name not in kinds]
    if unknown and not metadata.is_open:
        raise GraphError(
            f"this graph has no {what} attribute {' and '.join(map(repr, unknown))}; it has "
            f"{', '.join(map(repr, kinds)) or 'none'}"
        )
