"""What every graph store must do: a suite of tests to subclass."""

from __future__ import annotations

from bellis.testing.graph_history import HistoryTests
from bellis.testing.graph_openings import OpeningTests
from bellis.testing.graph_reads import ReadTests
from bellis.testing.graph_sharing import SharingTests
from bellis.testing.graph_values import ValueTests
from bellis.testing.graph_writes import WriteTests


class GraphStoreTests(ReadTests, WriteTests, ValueTests, OpeningTests, SharingTests, HistoryTests):
    """What every graph store must do.

    Subclass it, return a backend for a folder, and say in the class attributes what the backend can't do, or is slow
    to do::

        class TestMyBackend(GraphStoreTests):
            def backend(self, folder):
                return MyBackend(folder / "graph.mine")

    The same folder is the same place, so that tests can open a graph twice; a server may name a database by it, and
    drop that in a fixture. The class attributes are those of `bellis.testing.graph_stores.GraphStoreCase`.

    For failures that show values, let pytest rewrite its modules, in a ``conftest.py``:
    ``pytest.register_assert_rewrite("bellis.testing.graph_reads", ...)``.
    """
