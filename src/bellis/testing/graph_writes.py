"""What every graph store must do when it is written."""

# ruff: noqa: D102, S101  # the name of a test says what it does; a test asserts

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bellis.errors import GraphError, GraphExistsError, GraphMissingError
from bellis.geometry import Roi
from bellis.graphs.columns import Edges, Nodes
from bellis.testing.graph_deletions import DeletionTests
from bellis.testing.graph_model import graph_of, plain
from bellis.testing.graph_stores import contents, each_refused, ids, pairs

_ROI = Roi((0,), (10,))


class WriteTests(DeletionTests):
    """Upsert, policies, deletion, and writes of a region."""

    # Upsert ------------------------------------------------------------------------------------------------------

    def test_a_second_write_updates_what_is_given_and_leaves_the_rest(self) -> None:
        store = self.row()
        store.write_graph(graph_of({4: {"size": 44, "name": "a"}, 5: {"size": 5}}, {(4, 8): {"score": 1.5}}))
        nodes, edges = contents(store)
        assert nodes[4] == plain({"position": [4.0], "size": 44, "name": "a"})
        assert nodes[5] == plain({"size": 5})
        assert nodes[0] == plain({"position": [0.0], "size": 0})
        assert edges[4, 8] == plain({"score": 1.5})
        assert store.num_nodes() == 6

    def test_none_removes_a_value(self) -> None:
        store = self.row()
        store.write_graph(graph_of({4: {"size": None}, 8: {"position": None}}, {(0, 4): {"score": None}}))
        nodes, edges = contents(store)
        assert nodes[4] == plain({"position": [4.0]})
        assert nodes[8] == plain({"size": 8})
        assert edges[0, 4] == {}
        assert store.num_unplaced() == 2
        assert ids(store.read_nodes(_ROI)) == [0, 4]

    def test_masked_values_of_columns_are_removed_and_missing_columns_are_left(self) -> None:
        store = self.row()
        store.write_columns(
            {"id": [0, 4, 5], "size": np.ma.masked_array([1, 2, 3], [False, True, True])},
            {"u": [0, 4], "v": [4, 8], "score": np.ma.masked_array([1.5, 0], [False, True])},
        )
        nodes, edges = contents(store)
        assert nodes[0] == plain({"position": [0.0], "size": 1})
        assert nodes[4] == plain({"position": [4.0]})
        assert nodes[5] == {}
        assert (edges[0, 4], edges[4, 8]) == (plain({"score": 1.5}), {})

    def test_a_bare_node_writes_its_id_and_removes_nothing(self) -> None:
        store = self.row()
        before = contents(store)
        store.write_graph(graph_of({4: {}, 7: {}}, {(4, 8): {}}))
        assert contents(store) == ({**before[0], 7: {}}, before[1])

    def test_rows_with_other_attributes_can_be_written_at_once(self) -> None:
        store = self.make()
        nodes: dict[int, dict[str, Any]] = {1: {"a": 1}, 2: {"b": "x"}, 3: {}, 4: {"a": 2, "b": "y"}, 5: {"a": None}}
        store.write_graph(graph_of(nodes, {}))
        assert contents(store)[0] == {**{k: plain(attrs) for k, attrs in nodes.items()}, 5: {}}

    def test_only_the_attributes_that_are_named_are_written(self) -> None:
        store = self.row()
        graph = graph_of({4: {"size": 1, "name": "a"}}, {(0, 4): {"score": 1.5, "label": "b"}})
        store.write_graph(graph, node_attrs=["name"], edge_attrs=["label"])
        nodes, edges = contents(store)
        assert nodes[4] == plain({"position": [4.0], "size": 4, "name": "a"})
        assert edges[0, 4] == plain({"score": 0.0, "label": "b"})

    @pytest.mark.parametrize("roi", [None, _ROI])
    @pytest.mark.parametrize("bulk", [False, True])
    def test_new_nodes_get_their_positions_though_these_are_not_named(self, roi: Roi | None, bulk: bool) -> None:
        store = self.row()
        graph = graph_of(
            {
                4: {"position": [5.0], "size": 44},
                5: {"position": [5.5], "size": 5, "name": "a"},
                6: {"position": [6.0]},
            },
            {(5, 6): {"score": 0.5}},
        )
        (store.bulk_write_graph if bulk else store.write_graph)(graph, roi, node_attrs=["size"])
        nodes, edges = contents(store)
        assert nodes[4] == plain({"position": [4.0], "size": 44})  # it is there: it stays where it is
        assert nodes[5] == plain({"position": [5.5], "size": 5})
        assert nodes[6] == plain({"position": [6.0]})
        assert ids(store.read_nodes(_ROI)) == [0, 4, 5, 6, 8]
        assert store.num_edges(_ROI) == len(edges) - 1
        store.write_nodes([{"id": 7, "position": [7.0], "size": 7}], attributes=["size"], fail_if_exists=True)
        store.update_nodes([{"id": 7, "position": [1.0], "size": 8}], attributes=["size"])
        assert contents(store)[0][7] == plain({"position": [7.0], "size": 8})

    def test_of_a_split_position_new_nodes_get_every_axis(self) -> None:
        store = self.make(position_attribute=["y", "x"])
        store.write_columns({"id": [1], "y": [1.0], "x": [1.0]})
        given = [{"id": node, "y": 2.0, "x": 3.0, "size": node} for node in (1, 2)]
        store.write_nodes(given, attributes=["x"])
        assert contents(store)[0] == {1: plain({"y": 1.0, "x": 3.0}), 2: plain({"y": 2.0, "x": 3.0})}

    def test_nodes_or_edges_can_be_left_out(self) -> None:
        store = self.make()
        graph = graph_of({1: {"size": 1}, 2: {"size": 2}}, {(1, 2): {"score": 0.5}})
        store.write_graph(graph, write_nodes=False)
        assert (store.num_nodes(), store.num_edges()) == (0, 1)
        other = self.make("other")
        other.write_graph(graph, write_edges=False)
        assert (other.num_nodes(), other.num_edges()) == (2, 0)

    def test_what_was_read_can_be_written(self) -> None:
        store, copy = self.row(), self.make("copy")
        copy.write_nodes(store.read_nodes())
        copy.write_edges(store.read_nodes(), store.read_edges())
        assert contents(copy) == contents(store)
        other = self.make("other")
        graph = store.read_graph()
        other.write_nodes(graph.nodes)
        other.write_edges(graph.nodes, graph.edges)
        assert contents(other) == contents(store)
        third = self.make("third")
        third.write_columns(*store.read_columns())
        assert contents(third) == contents(store)

    @pytest.mark.slow
    def test_columns_come_as_mappings_values_or_arrow_tables(self) -> None:
        arrow = pytest.importorskip("pyarrow")
        nodes = {"id": [1, 2], "position": [[0.5], [1.5]], "size": [1, 2], "name": ["a", "b"]}
        edges = {"u": [1], "v": [2], "score": [0.5]}
        wanted = None
        for name, given in {
            "lists": (nodes, edges),
            "arrow": (arrow.table(nodes), arrow.table(edges)),
            "values": (
                Nodes(
                    id=np.array([1, 2], np.uint64), attrs={key: np.array(nodes[key]) for key in nodes if key != "id"}
                ),
                Edges(u=np.array([1], np.uint64), v=np.array([2], np.uint64), attrs={"score": np.array([0.5])}),
            ),
        }.items():
            store = self.make(name)
            store.write_columns(*given)
            wanted = wanted or contents(store)
            assert contents(store) == wanted
            assert ids(store.read_nodes(Roi((1,), (1,)))) == [2]
        store = self.make("nulls")
        store.write_columns(arrow.table({"id": [1, 2], "size": arrow.array([None, 7], arrow.int64())}))
        assert contents(store)[0] == {1: {}, 2: plain({"size": 7})}

    def test_nothing_written_changes_nothing(self) -> None:
        store = self.row()
        before = contents(store)
        store.write_graph(graph_of({}, {}))
        store.write_columns()
        store.write_columns({"id": []}, {"u": [], "v": []})
        store.write_nodes([])
        assert contents(store) == before

    @pytest.mark.slow
    def test_many_rows_are_updated_at_once(self) -> None:
        store, count = self.make(), self.many
        store.write_columns({"id": np.arange(count), "size": np.arange(count), "name": ["a"] * count})
        store.write_columns({"id": np.arange(0, 2 * count, 2), "size": -np.arange(0, 2 * count, 2)})
        nodes, _ = store.read_columns()
        odd = np.arange(1, count, 2)
        np.testing.assert_array_equal(nodes.id, np.sort(np.concatenate([np.arange(0, 2 * count, 2), odd])))
        np.testing.assert_array_equal(nodes["size"], np.where(nodes.id % 2 == 0, -nodes.id.astype(int), nodes.id))
        assert np.ma.getmaskarray(nodes["name"]).sum() == count // 2
        with pytest.raises(GraphExistsError):
            store.write_columns({"id": np.arange(count - 1, 3 * count)}, fail_if_exists=True)
        assert store.num_nodes() == len(nodes)

    # Policies ----------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("roi", [None, _ROI])
    def test_what_must_not_exist_is_refused_with_its_id_and_nothing_is_written(self, roi: Roi | None) -> None:
        store = self.row()
        before = contents(store)
        new: dict[int, dict[str, Any]] = {k: {"position": [1.0], "size": 1} for k in (1, 2, 3)}
        with pytest.raises(GraphExistsError, match=r"\b4\b"):
            store.write_graph(graph_of({**new, 4: {"position": [4.0]}}, {}), roi, fail_if_exists=True)
        with pytest.raises(GraphExistsError, match=r"(?s)\b4\b.*\b8\b"):
            store.write_graph(graph_of(new, {(1, 2): {}, (4, 8): {}}), roi, write_nodes=True, fail_if_exists=True)
        assert contents(store) == before
        store.write_graph(graph_of(new, {(1, 2): {}}), roi, fail_if_exists=True)
        assert store.num_nodes() == len(before[0]) + 3

    def test_what_must_exist_is_refused_with_its_id_and_nothing_is_written(self) -> None:
        store = self.row()
        before = contents(store)
        with pytest.raises(GraphMissingError, match=r"\b77\b"):
            store.write_graph(graph_of({4: {"size": 1}, 77: {"size": 1}}, {}), fail_if_not_exists=True)
        with pytest.raises(GraphMissingError, match=r"(?s)\b4\b.*\b99\b"):
            store.write_columns(
                {"id": [4], "size": [1]}, {"u": [0, 4], "v": [4, 99], "score": [7, 7]}, fail_if_not_exists=True
            )
        assert contents(store) == before
        store.write_graph(graph_of({4: {"size": 1}}, {(0, 4): {"score": 1.5}}), fail_if_not_exists=True)
        nodes, edges = contents(store)
        assert (nodes[4]["size"], edges[0, 4]) == ("int 1", plain({"score": 1.5}))

    def test_up_to_five_ids_are_named(self) -> None:
        store = self.make()
        store.write_columns({"id": range(1000, 1020)})
        with pytest.raises(GraphExistsError) as refused:
            store.write_columns({"id": range(1000, 1020)}, fail_if_exists=True)
        assert 1 <= sum(f"{k}" in str(refused.value) for k in range(1000, 1020)) <= 5

    def test_what_is_outside_the_region_is_not_asked_for(self) -> None:
        store = self.row()
        store.write_graph(graph_of({1: {"position": [1.0]}, 12: {"size": 0}}, {}), _ROI, fail_if_exists=True)
        store.write_graph(graph_of({1: {"size": 7}, 77: {"size": 7}}, {}), _ROI, fail_if_not_exists=True)
        nodes = contents(store)[0]
        assert nodes[1] == plain({"position": [1.0], "size": 7})
        assert nodes[12]["size"] == "int 12"
        assert 77 not in nodes

    def test_both_policies_at_once_are_refused(self) -> None:
        store = self.row()
        with pytest.raises(GraphError, match=r"(?s)fail_if_exists.*fail_if_not_exists"):
            store.write_graph(graph_of({1: {}}, {}), fail_if_exists=True, fail_if_not_exists=True)

    def test_updates_change_what_is_there(self) -> None:
        store = self.row()
        store.update_nodes([{"id": 4, "size": 44, "name": "a"}], attributes=["size"])
        store.update_edges([{"id": 4}], [{"u": 4, "v": 8, "score": 0.5}])
        nodes, edges = contents(store)
        assert (nodes[4], edges[4, 8]) == (plain({"position": [4.0], "size": 44}), plain({"score": 0.5}))
        before = contents(store)
        each_refused(
            GraphMissingError,
            r"77|99",
            lambda: store.update_nodes([{"id": 4, "size": 1}, {"id": 77, "size": 1}]),
            lambda: store.update_edges([], [{"u": 4, "v": 8, "score": 1.0}, {"u": 4, "v": 99, "score": 1.0}]),
            lambda: store.write_attrs(graph_of({4: {"size": 1}, 77: {"size": 1}}, {})),
        )
        assert contents(store) == before

    def test_an_update_checks_every_node_unless_attributes_are_named(self) -> None:
        store = self.row()
        before = contents(store)
        each_refused(
            GraphMissingError,
            r"\b999\b",
            lambda: store.write_graph(graph_of({999: {}}, {}), fail_if_not_exists=True),
            lambda: store.write_graph(graph_of({4: {"size": 1}, 999: {}}, {}), fail_if_not_exists=True),
            lambda: store.write_attrs(graph_of({4: {"size": 1}}, {(4, 999): {}}), edge_attrs=["score"]),
            lambda: store.update_nodes([{"id": 4, "size": 1}, {"id": 999}]),
        )
        assert contents(store) == before
        store.write_graph(graph_of({4: {}, 8: {"size": 7}, 12: {}}, {}), fail_if_not_exists=True)
        store.write_graph(graph_of({4: {}, 999: {}}, {}), _ROI, fail_if_not_exists=True)  # 999 is not in the region
        assert contents(store)[0] == {**before[0], 8: plain({"position": [8.0], "size": 7})}

    def test_an_update_skips_nodes_without_the_attributes(self) -> None:
        store = self.row()
        graph = graph_of({4: {"size": 44}, 77: {}, 78: {"name": "a"}}, {(4, 8): {"score": 0.5}})
        store.write_attrs(graph, node_attrs=["size"])
        nodes, edges = contents(store)
        assert nodes.keys() == {0, 4, 8, 12, 99}
        assert (nodes[4]["size"], edges[4, 8]) == ("int 44", plain({"score": 0.5}))

    # Regions -----------------------------------------------------------------------------------------------------

    def test_only_what_is_in_the_region_is_written(self) -> None:
        store = self.make()
        nodes: dict[int, dict[str, Any]] = {k: {"position": [float(k)]} for k in (9, 10, 11)}
        store.write_graph(graph_of({**nodes, 50: {}}, {(9, 10): {}, (10, 11): {}, (9, 50): {}}), _ROI)
        assert contents(store)[0].keys() == {9}
        assert contents(store)[1].keys() == {(9, 10), (9, 50)}

    def test_positions_that_are_not_given_are_looked_up(self) -> None:
        store = self.row()
        graph = graph_of({4: {"size": 1}, 12: {"size": 1}, 99: {"size": 1}}, {(4, 99): {}, (12, 98): {}})
        store.write_graph(graph, _ROI)
        nodes, edges = contents(store)
        assert [nodes[k]["size"] for k in (4, 12, 99)] == ["int 1", "int 12", "int 99"]
        assert edges.keys() == {(0, 4), (4, 8), (8, 12), (12, 99), (4, 99)}
        store.write_columns(edges={"u": [8, 12, 70], "v": [80, 80, 80]}, roi=_ROI)
        assert pairs(store.read_columns()[1])[-2:] == [(8, 80), (12, 99)]
        store.write_edges([], [{"u": 8, "v": 81}, {"u": 12, "v": 81}], _ROI)
        assert {pair for pair in contents(store)[1] if pair[1] == 81} == {(8, 81)}

    def test_given_positions_count_and_not_those_that_were(self) -> None:
        store = self.row()
        store.write_columns({"id": [4, 12], "position": [[20.0], [5.0]]}, {"u": [4, 12], "v": [70, 70]}, _ROI)
        nodes, edges = contents(store)
        assert (nodes[4]["position"], nodes[12]["position"]) == (["float 4.0"], ["float 5.0"])
        assert {pair for pair in edges if pair[1] == 70} == {(12, 70)}

    # Bulk writes and the methods of graphs ------------------------------------------------------------------------

    def test_bulk_writes_leave_what_plain_writes_leave(self) -> None:
        store, bulk = self.row(), self.make("bulk")
        graph = store.read_graph()
        bulk.bulk_write_graph(graph)
        bulk.bulk_write_nodes([{"id": 5, "position": [5.0]}])
        bulk.bulk_write_edges([{"id": 5}], [{"u": 5, "v": 8, "score": 0.5}])
        bulk.write_columns({"id": [6], "position": [[6.0]]}, {"u": [6], "v": [8]}, bulk=True)
        store.write_columns({"id": [5, 6], "position": [[5.0], [6.0]]}, {"u": [6], "v": [8]})
        store.write_columns(edges={"u": [5], "v": [8], "score": [0.5]})
        assert contents(bulk) == contents(store)
        assert ids(bulk.read_nodes(_ROI)) == ids(store.read_nodes(_ROI)) == [0, 4, 5, 6, 8]
        with pytest.raises(GraphExistsError, match="5"):
            bulk.write_columns({"id": [5, 7]}, fail_if_exists=True, bulk=True)
        assert contents(bulk) == contents(store)

    def test_a_graph_writes_itself(self) -> None:
        store = self.row()
        graph = store[_ROI]
        assert graph.is_directed() is False
        assert sorted(graph.get_nodes_in_roi()) == [0, 4, 8]
        graph.nodes[4]["size"] = 44
        graph.nodes[8]["name"] = "b"
        graph.edges[4, 8]["score"] = 0.5
        graph.update_node_attrs(_ROI, attributes=["size"])
        graph.update_edge_attrs(_ROI)
        nodes, edges = contents(store)
        assert (nodes[4]["size"], edges[4, 8]) == ("int 44", plain({"score": 0.5}))
        assert "name" not in nodes[8]
        graph.add_node(5, position=[5.0])
        graph.add_edge(5, 8, score=5.0)
        graph.write_nodes(_ROI)
        graph.write_edges(_ROI)
        nodes, edges = contents(store)
        assert (nodes[5], nodes[8]["name"], edges[5, 8]) == (plain({"position": [5.0]}), "str b", plain({"score": 5.0}))
        with pytest.raises(GraphExistsError):
            graph.write_nodes(_ROI, fail_if_exists=True)
        graph.remove_node(0)
        graph.write_nodes(_ROI, delete=True)
        assert contents(store)[0].keys() == {4, 5, 8, 12, 99}
