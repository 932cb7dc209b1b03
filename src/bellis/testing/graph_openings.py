"""What every graph store must do when it is opened: modes, metadata, and attributes that join."""

# ruff: noqa: D102, S101  # the name of a test says what it does; a test asserts

from __future__ import annotations

import logging
from typing import Any

import pytest

from bellis.errors import GraphError, GraphMismatchError, GraphMissingError, GraphReadOnlyError
from bellis.geometry import Roi
from bellis.graphs import Vec
from bellis.testing.graph_model import graph_of, plain
from bellis.testing.graph_stores import GraphStoreCase, contents, each_refused, ids

_ROI = Roi((0, 0), (10, 10))


class OpeningTests(GraphStoreCase):
    """Modes and metadata."""

    @pytest.mark.parametrize("mode", ["r", "r+"])
    def test_a_graph_that_is_not_there_is_an_error_that_says_how_one_is_made(self, mode: str) -> None:
        with pytest.raises(GraphMissingError, match=r"mode=.w"):
            self.again(mode)
        with pytest.raises(GraphMissingError, match=r"mode=.w"):  # the question has not made one
            self.again(mode)

    def test_a_graph_that_was_opened_to_be_read_is_not_written(self) -> None:
        self.make(total_roi=_ROI).write_columns({"id": [1], "size": [1]})
        store = self.again("r")
        assert store.mode == "r"
        each_refused(
            GraphReadOnlyError,
            r".",
            lambda: store.write_graph(graph_of({2: {}}, {})),
            lambda: store.write_columns({"id": [2]}),
            lambda: store.write_nodes([{"id": 2}]),
            lambda: store.write_edges([], [{"u": 1, "v": 2}]),
            lambda: store.update_nodes([{"id": 1, "size": 2}]),
            lambda: store.bulk_write_nodes([{"id": 2}]),
            lambda: store[_ROI].write_nodes(),
        )
        assert contents(store) == ({1: plain({"size": 1})}, {})

    def test_an_unknown_mode_is_refused(self) -> None:
        with pytest.raises(GraphError, match="a\\+"):
            self.again("a+")

    def test_a_graph_is_replaced_if_that_is_asked_and_it_is_said(self, caplog: pytest.LogCaptureFixture) -> None:
        self.make(directed=True, node_attrs={"position": Vec(float, 3), "size": int}).write_graph(
            graph_of({1: {"size": 1}, 2: {}}, {(1, 2): {}}, directed=True)
        )
        with caplog.at_level(logging.WARNING, logger="bellis.graphs"):
            store = self.make(node_attrs={"position": Vec(int, 2), "size": str})
        said = [record.getMessage() for record in caplog.records if record.name.startswith("bellis.graphs")]
        assert len(said) == 1
        assert "2" in said[0]
        assert "1" in said[0]
        assert contents(store) == ({}, {})
        assert not store.directed
        store.write_columns({"id": [7], "position": [[1, 1]], "size": ["a"]})
        assert contents(self.again("r"))[0] == {7: plain({"position": [1, 1], "size": "a"})}

    def test_an_open_handle_sees_what_replaced_its_graph(self) -> None:
        old = self.make()
        old.write_columns({"id": [1], "size": [1]})
        self.make().write_columns({"id": [2], "size": [2]})
        assert ids(old.read_nodes()) == [2]

    def test_metadata_are_stored(self) -> None:
        self.make(
            directed=True, total_roi=Roi((0, None), (10, None)), position_attribute=["z", "x"],
            endpoint_names=["a", "b"], node_attrs={"z": float, "x": float, "size": int}, edge_attrs={"w": Vec(str, 2)},
        )  # fmt: skip
        store = self.again("r")
        assert store.directed is True
        assert store.total_roi == Roi((0, None), (10, None))
        assert tuple(store.position_attribute) == ("z", "x")
        assert store.metadata.endpoints == ("a", "b")
        assert {name: str(kind) for name, kind in store.node_attrs.items()} == {
            "z": "float",
            "x": "float",
            "size": "int",
        }
        assert {name: str(kind) for name, kind in store.edge_attrs.items()} == {"w": "Vec(str, 2)"}
        assert not store.metadata.is_open

    def test_what_is_asked_as_it_is_stored_is_no_difference(self) -> None:
        asked: dict[str, Any] = {
            "directed": True, "total_roi": _ROI, "position_attribute": "position",
            "node_attrs": {"position": Vec(float, 2), "size": int}, "edge_attrs": {"w": float},
        }  # fmt: skip
        self.make(**asked).write_columns({"id": [1], "size": [1]})
        for mode in ("r", "r+"):
            assert ids(self.again(mode, **asked).read_nodes()) == [1]

    @pytest.mark.parametrize("mode", ["r", "r+"])
    def test_every_difference_is_in_the_error(self, mode: str) -> None:
        store = self.make(directed=False, total_roi=_ROI, node_attrs={"position": Vec(float, 2), "size": int})
        store.write_columns({"id": [1], "size": [1]})
        with pytest.raises(GraphMismatchError) as refused:
            self.again(
                mode, directed=True, total_roi=Roi((0, 0), (10, 20)), endpoint_names=["a", "b"],
                node_attrs={"size": float, "colour": str},
            )  # fmt: skip
        for text in (
            "directed",
            "total_roi",
            str(_ROI),
            "(10, 20)",
            "endpoints",
            "'a'",
            "size",
            "int",
            "float",
            "colour",
        ):
            assert text in str(refused.value)
        with pytest.raises(GraphMismatchError, match=r"(?s)position.*'z'"):
            self.again(mode, position_attribute=["z", "y"])
        assert contents(store)[0] == {1: plain({"size": 1})}

    @pytest.mark.parametrize(
        "options",
        [
            {"node_attrs": {"size": "float, 3)"}}, {"node_attrs": {"size": list}}, {"node_attrs": {"a.b": int}},
            {"node_attrs": {"id": int}}, {"edge_attrs": {"u": int}}, {"position_attribute": []},
            {"position_attribute": ["a", "a"]}, {"endpoint_names": ["a", "a"]}, {"node_attrs": {"position": str}},
            {"total_roi": _ROI, "node_attrs": {"position": Vec(float, 3)}}, {"edge_attrs": {"w": Vec(int, 0)}},
        ],
        ids=repr,
    )  # fmt: skip
    def test_metadata_that_make_no_sense_are_refused_and_nothing_is_replaced(self, options: dict[str, Any]) -> None:
        self.make().write_columns({"id": [1]})
        with pytest.raises(GraphError):
            self.make(**options)
        assert ids(self.again("r").read_nodes()) == [1]

    # Attributes that join ----------------------------------------------------------------------------------------

    def test_attributes_of_an_open_graph_join_as_they_are_written(self) -> None:
        store = self.make()
        assert store.metadata.is_open
        store.write_columns({"id": [1], "size": [1]})
        store.write_graph(graph_of({1: {"name": "a"}, 2: {"position": [0.5, 1.5]}}, {(1, 2): {"score": 0.5}}))
        assert {name: str(kind) for name, kind in store.node_attrs.items()} == {
            "size": "int", "name": "str", "position": "Vec(float, 2)",
        }  # fmt: skip
        again = self.again("r")
        assert again.node_attrs == store.node_attrs
        assert again.edge_attrs == store.edge_attrs
        assert again.read_graph().nodes[1] == {"size": 1, "name": "a"}
        assert ids(again.read_nodes(_ROI)) == [2]

    def test_an_attribute_keeps_the_type_of_its_first_value(self) -> None:
        store = self.make()
        store.write_columns({"id": [1], "size": [1], "weight": [0.5]})
        store.write_columns({"id": [2], "weight": [2]})
        each_refused(
            GraphError,
            r"(?s)size.*int|int.*size",
            lambda: store.write_columns({"id": [1, 3], "size": [1.5, 2.5]}),
            lambda: store.write_graph(graph_of({3: {"size": "a"}}, {})),
            lambda: self.again().write_columns({"id": [3], "size": ["a"]}),
        )
        assert contents(store)[0] == {1: plain({"size": 1, "weight": 0.5}), 2: plain({"weight": 2.0})}

    def test_the_first_position_tells_the_rank(self) -> None:
        store = self.make()
        store.write_columns({"id": [1], "position": [[1.0, 2.0, 3.0]]})
        with pytest.raises(GraphError, match="position"):
            store.write_columns({"id": [2], "position": [[1.0, 2.0]]})
        assert ids(store.read_nodes(Roi((1, 2, 3), (1, 1, 1)))) == [1]
        assert store.num_nodes() == 1

    def test_attributes_join_from_two_handles(self) -> None:
        one = self.make()
        other = self.again()
        one.write_columns({"id": [1], "size": [1]}, {"u": [1], "v": [2], "score": [0.5]})
        other.write_columns({"id": [2], "name": ["b"]}, {"u": [1], "v": [2], "label": ["x"]})
        one.write_columns({"id": [3], "position": [[1.0, 1.0]]})
        assert contents(one) == contents(other) == contents(self.again("r"))
        assert contents(other) == (
            {1: plain({"size": 1}), 2: plain({"name": "b"}), 3: plain({"position": [1.0, 1.0]})},
            {(1, 2): plain({"score": 0.5, "label": "x"})},
        )
        assert ids(other.read_nodes(_ROI)) == [3]
        with pytest.raises(GraphError, match="size"):
            other.write_columns({"id": [4], "size": ["c"]})
        assert other.num_nodes() == 3

    def test_what_another_handle_writes_is_seen(self) -> None:
        one = self.make(node_attrs={"position": Vec(float, 2), "size": int})
        other, reader = self.again(), self.again("r")
        one.write_columns({"id": [1, 2], "position": [[1, 1], [2, 2]], "size": [1, 2]})
        other.write_columns({"id": [2], "size": [20]})
        assert contents(reader) == contents(one)
        other.write_graph(graph_of({2: {}}, {}), delete=True)
        assert ids(one.read_nodes(_ROI)) == ids(reader.read_nodes(_ROI)) == [2]

    def test_a_declared_position_alone_fixes_the_attributes(self) -> None:
        store = self.make(node_attrs={"position": Vec(float, 2)})
        with pytest.raises(GraphError, match="size"):
            store.write_columns({"id": [1], "position": [[1, 1]], "size": [1]})
        assert store.num_nodes() == 0

    def test_a_closed_store_can_be_left_twice(self) -> None:
        with self.make() as store:
            store.write_columns({"id": [1]})
        store.close()
        assert ids(self.again("r").read_nodes()) == [1]
