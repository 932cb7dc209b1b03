"""What every graph store must do when a write removes what it does not have."""

# ruff: noqa: D102, S101  # the name of a test says what it does; a test asserts

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from bellis.errors import GraphExistsError, GraphMissingError
from bellis.geometry import Roi
from bellis.testing.graph_model import graph_of, plain
from bellis.testing.graph_stores import GraphStoreCase, contents

if TYPE_CHECKING:
    from bellis.graphs.store import GraphStore

_ROI = Roi((0,), (10,))


class RowCase(GraphStoreCase):
    """A row of nodes, for those who write to it."""

    def row(self, **options: Any) -> GraphStore:
        """Make a graph of nodes 0, 4, 8, 12 at these positions, and 99 without one; an edge from each to the next."""
        store = self.make(**options)
        nodes: dict[int, dict[str, Any]] = {k: {"position": [float(k)], "size": k} for k in (0, 4, 8, 12)}
        nodes[99] = {"size": 99}
        edges = {(0, 4): {"score": 0.0}, (4, 8): {"score": 4.0}, (8, 12): {"score": 8.0}, (12, 99): {"score": 12.0}}
        store.write_graph(graph_of(nodes, edges, directed=store.directed))
        return store


class DeletionTests(RowCase):
    """``delete=True``."""

    def test_what_is_in_the_region_and_not_in_the_graph_is_deleted(self) -> None:
        store = self.row(directed=True)
        store.write_graph(graph_of({4: {"size": 44}}, {(4, 12): {"score": 0.5}}, directed=True), _ROI, delete=True)
        nodes, edges = contents(store)
        assert nodes.keys() == {4, 12, 99}
        assert nodes[4] == plain({"position": [4.0], "size": 44})
        assert edges.keys() == {(4, 12), (12, 99)}

    def test_without_a_region_all_that_is_not_in_the_graph_is_deleted(self) -> None:
        store = self.row()
        store.write_columns(edges={"u": [500], "v": [501]})
        store.write_graph(graph_of({4: {}, 8: {}}, {(4, 8): {}}), delete=True)
        nodes, edges = contents(store)
        assert nodes == {4: plain({"position": [4.0], "size": 4}), 8: plain({"position": [8.0], "size": 8})}
        assert edges == {(4, 8): plain({"score": 4.0})}

    def test_edges_from_elsewhere_to_a_deleted_node_stay(self) -> None:
        store = self.row(directed=True)
        store.write_columns(edges={"u": [12], "v": [4]})
        store.write_graph(graph_of({}, {}, directed=True), _ROI, delete=True)
        assert contents(store)[1].keys() == {(12, 4), (12, 99)}
        assert contents(store)[0].keys() == {12, 99}

    def test_a_deletion_of_nodes_takes_the_edges_of_which_they_are_u(self) -> None:
        store = self.row(directed=True)
        store.write_nodes([{"id": 4}, {"id": 8}], _ROI, delete=True)
        assert contents(store)[0].keys() == {4, 8, 12, 99}
        assert contents(store)[1].keys() == {(4, 8), (8, 12), (12, 99)}

    def test_a_deletion_of_edges_leaves_nodes(self) -> None:
        store = self.row(directed=True)
        store.write_edges([{"id": 4}], [{"u": 4, "v": 8}], _ROI, delete=True)
        assert contents(store)[0].keys() == {0, 4, 8, 12, 99}
        assert contents(store)[1] == {(4, 8): plain({"score": 4.0}), (12, 99): plain({"score": 12.0})}

    def test_what_is_deleted_is_judged_by_positions_after_the_write(self) -> None:
        store = self.row(directed=True)
        store.write_graph(graph_of({12: {"position": [9.0]}}, {}, directed=True), _ROI, delete=True)
        assert contents(store) == ({12: plain({"position": [9.0], "size": 12}), 99: plain({"size": 99})}, {})

    def test_what_is_in_the_graph_is_never_deleted_wherever_the_graph_says_it_is(self) -> None:
        store = self.row(directed=True)
        nodes: dict[int, dict[str, Any]] = {0: {"size": 1}, 4: {"position": [20.0]}, 12: {"position": [30.0]}}
        graph = graph_of({**nodes, 77: {"position": [70.0]}}, {(4, 8): {"score": 0.5}, (4, 77): {}}, directed=True)
        store.write_graph(graph, _ROI, delete=True)
        found, edges = contents(store)
        assert found == {
            0: plain({"position": [0.0], "size": 1}), 4: plain({"position": [4.0], "size": 4}), 8: found[8],
            12: plain({"position": [12.0], "size": 12}), 99: plain({"size": 99}),
        }  # fmt: skip
        assert edges == {(4, 8): plain({"score": 4.0}), (12, 99): plain({"score": 12.0})}
        store.write_nodes([{"id": 4, "position": None}, {"id": 8}], _ROI, delete=True)
        assert contents(store)[0].keys() == {4, 8, 12, 99}
        store.write_edges([{"id": 4, "position": [20.0]}], [{"u": 4, "v": 8}], _ROI, delete=True)
        assert contents(store)[1] == edges
        store.write_columns({"id": [4], "position": [[20.0]]}, {"u": [4], "v": [8]}, _ROI, delete=True)
        assert contents(store) == ({k: found[k] for k in (4, 12, 99)}, edges)

    def test_what_an_update_leaves_out_is_not_deleted(self) -> None:
        store = self.row()
        graph = graph_of({0: {"size": 1}, 4: {"name": "a"}, 8: {}, 77: {}}, {(4, 8): {}})
        store.write_graph(graph, node_attrs=["size"], fail_if_not_exists=True, delete=True)
        nodes, edges = contents(store)
        assert nodes == {
            0: plain({"position": [0.0], "size": 1}), 4: plain({"position": [4.0], "size": 4}),
            8: plain({"position": [8.0], "size": 8}),
        }  # fmt: skip
        assert edges == {(4, 8): plain({"score": 4.0})}

    def test_what_is_in_the_region_must_not_exist_though_the_graph_says_it_is_elsewhere(self) -> None:
        store = self.row()
        before = contents(store)
        graph = graph_of({1: {"position": [1.0]}, 4: {"position": [20.0]}}, {})
        with pytest.raises(GraphExistsError, match=r"\b4\b"):
            store.write_graph(graph, _ROI, fail_if_exists=True, delete=True)
        assert contents(store) == before

    def test_a_refused_deletion_deletes_nothing(self) -> None:
        store = self.row()
        before = contents(store)
        with pytest.raises(GraphMissingError):
            store.write_graph(graph_of({4: {"size": 1}, 7: {"position": [1.0]}}, {}), _ROI, fail_if_not_exists=True, delete=True)  # fmt: skip  # noqa: E501
        assert contents(store) == before

    @pytest.mark.slow
    def test_many_are_deleted_at_once(self) -> None:
        store, count = self.make(), self.many
        chain = {"u": np.arange(count - 1), "v": np.arange(1, count)}
        store.write_columns({"id": np.arange(count), "position": np.arange(count)[:, np.newaxis] / 2}, chain)
        kept = np.arange(0, count, 2)
        store.write_columns({"id": kept}, {"u": kept[:-1], "v": kept[:-1] + 1}, Roi((0,), (count // 4,)), delete=True)
        nodes, edges = store.read_columns()
        left = np.array([k for k in range(count) if k % 2 == 0 or k / 2 >= count // 4])
        np.testing.assert_array_equal(nodes.id, left)
        np.testing.assert_array_equal(edges.u, left[left < count - 1])
