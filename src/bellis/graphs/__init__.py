"""Graphs whose nodes have places, in SQLite, PostgreSQL, MongoDB, files or memory.

Names are loaded when they are first used: neither networkx nor a database is imported before a graph is opened.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bellis.graphs.attributes import Vec as Vec
    from bellis.graphs.backend import Backend as Backend
    from bellis.graphs.columns import Edges as Edges
    from bellis.graphs.columns import Nodes as Nodes
    from bellis.graphs.daisy_names import FileGraphProvider as FileGraphProvider
    from bellis.graphs.daisy_names import MongoDbGraphProvider as MongoDbGraphProvider
    from bellis.graphs.daisy_names import PgSQLGraphDatabase as PgSQLGraphDatabase
    from bellis.graphs.daisy_names import SQLiteGraphDataBase as SQLiteGraphDataBase
    from bellis.graphs.graph import DiGraph as DiGraph
    from bellis.graphs.graph import Graph as Graph
    from bellis.graphs.metadata import Metadata as Metadata
    from bellis.graphs.open import open_graph as open_graph
    from bellis.graphs.store import GraphStore as GraphStore
    from bellis.graphs.store import SharedGraphProvider as SharedGraphProvider

_MODULES = {
    "attributes": ("Vec",),
    "backend": ("Backend",),
    "columns": ("Edges", "Nodes"),
    "daisy_names": ("FileGraphProvider", "MongoDbGraphProvider", "PgSQLGraphDatabase", "SQLiteGraphDataBase"),
    "graph": ("DiGraph", "Graph"),
    "metadata": ("Metadata",),
    "open": ("open_graph",),
    "store": ("GraphStore", "SharedGraphProvider"),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = sorted({*_HOME} - {"DiGraph", "Graph"})  # these two need networkx, which "import *" must not


def __getattr__(name: str) -> Any:
    module = _HOME.get(name)
    if module is None:
        raise AttributeError(f"module 'bellis.graphs' has no attribute {name!r}")
    value = getattr(import_module(f"bellis.graphs.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
