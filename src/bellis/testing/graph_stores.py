"""What all parts of the suite for graph stores begin with: a place for graphs, and what is in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from bellis.graphs.store import GraphStore
from bellis.testing.graph_model import rows_of_columns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from bellis.graphs.backend import Backend
    from bellis.testing.graph_model import Rows


class GraphStoreCase:
    """A place for graphs, and the stores that a test opens there."""

    reaches_processes: ClassVar[bool] = True
    """Whether other processes find the graph."""
    many: ClassVar[int] = 3000
    """How many nodes are much for it: more than it sends at once, as long as that takes no second."""
    histories: ClassVar[int] = 12
    """How many histories of random writes and reads are compared with the model."""
    history_steps: ClassVar[int] = 12
    """Of how many steps each."""

    def backend(self, folder: Path) -> Backend:
        """Return a new handle to the place that belongs to ``folder``: the same place for the same folder.

        A server has no folders; it may call a database by a hash of the path. What is made there is removed by a
        fixture of the subclass.
        """
        raise NotImplementedError("a suite of tests for a graph store has a method backend()")

    @pytest.fixture(autouse=True)
    def _place(self, tmp_path: Path) -> Iterator[None]:
        self.folder = tmp_path
        self.stores: list[GraphStore] = []
        yield
        for store in self.stores:
            store.close()

    def make(self, name: str = "graph", **options: Any) -> GraphStore:
        """Make a graph, in place of what is there."""
        return self.again("w", name=name, **options)

    def again(self, mode: str = "r+", *, name: str = "graph", **options: Any) -> GraphStore:
        """Open a graph by a handle of its own."""
        store = GraphStore(self.backend(self.folder / name), mode, **options)
        self.stores.append(store)
        return store

    def needs(self, *, ability: bool) -> None:
        """Skip a test of what the backend can't do."""
        if not ability:
            pytest.skip("this backend can't do that, and says so")


def each_refused(error: type[Exception], match: str, *calls: Callable[[], object]) -> None:
    """Assert that each of these calls is an error."""
    for call in calls:
        with pytest.raises(error, match=match):
            call()


def contents(store: GraphStore) -> Rows:
    """Return all that is in a store."""
    return rows_of_columns(*store.read_columns())


def ids(rows: Any) -> list[int]:
    """Return the ids of columns of nodes, of rows, or of a graph."""
    if hasattr(rows, "id"):
        return [int(node) for node in rows.id]
    return [row["id"] if isinstance(row, dict) else row for row in rows]


def pairs(rows: Any, u: str = "u", v: str = "v") -> list[tuple[int, int]]:
    """Return the ends of edges: of columns, or of rows."""
    if hasattr(rows, "u"):
        return [(int(one), int(other)) for one, other in zip(rows.u, rows.v, strict=True)]
    return [(row[u], row[v]) for row in rows]
