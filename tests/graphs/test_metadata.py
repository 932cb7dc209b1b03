"""What a store knows of its graph comes back as it was written, and is compared with what is asked."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bellis.errors import GraphError, GraphMismatchError
from bellis.geometry import Roi
from bellis.graphs.attributes import Kind
from bellis.graphs.metadata import Metadata
from bellis.testing.strategies import rois

NAMES = st.text("abz \"'Δ日", min_size=1, max_size=8)
KINDS = st.builds(Kind, st.sampled_from(["bool", "int", "float", "str"]), st.none() | st.integers(1, 9))
SMALL = Metadata(
    directed=True,
    total_roi=Roi((0, 0), (10, None)),
    node_attrs={"position": Kind("float", 2), "size": Kind("int")},
    edge_attrs={"score": Kind("float")},
    is_open=False,
)


@given(
    directed=st.booleans(),
    total_roi=st.none() | rois(2, unbounded=True),
    is_split=st.booleans(),
    node_attrs=st.dictionaries(NAMES, KINDS, max_size=3),
    edge_attrs=st.dictionaries(NAMES, KINDS, max_size=3),
    is_open=st.booleans(),
)
def test_metadata_come_back_as_they_were_written(*, is_split: bool, **fields: Any) -> None:
    metadata = Metadata(**fields, position=("y", "x") if is_split else "position", endpoints=("from", 'to "there"'))
    assert Metadata.decode(metadata.encode(), where="here") == metadata


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[1]",
        b"\xff\xfe",
        SMALL.encode().replace('"version":1', '"version":2'),
        SMALL.encode().replace("Vec(float, 2)", "print('evaluated')"),
        SMALL.encode().replace('"total_roi":[[0,0]', '"total_roi":[[0]'),
        SMALL.encode()[:-5],
    ],
)
def test_damaged_metadata_are_an_error_that_names_the_place(text: str | bytes) -> None:
    with pytest.raises(GraphError, match=r"the metadata of the graph in f\.sqlite can't be read"):
        Metadata.decode(text, where="f.sqlite")


def test_metadata_are_json() -> None:
    assert json.loads(SMALL.encode())["node_attrs"] == {"position": "Vec(float, 2)", "size": "int"}


@pytest.mark.parametrize(
    ("metadata", "dims"),
    [
        (Metadata(), None),
        (Metadata(total_roi=Roi((0,) * 4, (1,) * 4)), 4),
        (Metadata(position=("z", "y", "x")), 3),
        (Metadata(position=("x",)), 1),
        (Metadata(node_attrs={"position": Kind("int")}), 1),
        (Metadata(node_attrs={"position": Kind("float", 3)}), 3),
    ],
)
def test_the_rank_is_known_as_soon_as_something_tells_it(metadata: Metadata, dims: int | None) -> None:
    assert metadata.dims == dims


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"position": ("y", "y")}, "each axis needs one of its own"),
        ({"position": ()}, "each axis needs one"),
        ({"position": "a.b"}, "is no name"),
        ({"endpoints": ("u", "u")}, "both ends of an edge are called 'u'"),
        ({"node_attrs": {"id": Kind("int")}}, "'id' is a key of the graph"),
        ({"edge_attrs": {"v": Kind("int")}}, "'v' is a key of the graph"),
        ({"node_attrs": {"position": Kind("str")}}, "positions are int or float"),
        ({"position": ("y", "x"), "node_attrs": {"y": Kind("float", 2)}}, "positions are int or float"),
        (
            {"total_roi": Roi((0,), (1,)), "node_attrs": {"position": Kind("int", 2)}},
            "has 1 axes, but positions have 2",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused(fields: Any, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        Metadata(**fields)


def test_new_attributes_join_an_open_graph() -> None:
    known = replace(SMALL, is_open=True)
    joined = known.extended({"size": Kind("int"), "name": Kind("str")}, {"n": Kind("int")})
    assert joined.node_attrs == {**SMALL.node_attrs, "name": Kind("str")}
    assert joined.edge_attrs == {**SMALL.edge_attrs, "n": Kind("int")}
    with pytest.raises(GraphMismatchError, match="node attribute 'size' is int in this graph, but float is given"):
        known.extended({"size": Kind("float")}, {})


def test_new_attributes_do_not_join_where_all_were_declared() -> None:
    assert SMALL.extended(SMALL.node_attrs, SMALL.edge_attrs) == SMALL
    with pytest.raises(GraphMismatchError, match=r"no edge attribute 'n'.*score"):
        SMALL.extended({}, {"n": Kind("int")})


def test_nothing_is_different_if_nothing_is_asked() -> None:
    asked = {"directed": None, "total_roi": None, "position": None, "endpoints": None, "node_attrs": None}
    assert SMALL.differences(asked) == []
    assert SMALL.differences({"directed": True, "position": "position", "node_attrs": {"size": Kind("int")}}) == []


def test_every_difference_is_told_with_both_sides() -> None:
    asked = {
        "directed": False,
        "total_roi": Roi((0, 0), (9, None)),
        "position": ("y", "x"),
        "endpoints": ("a", "b"),
        "node_attrs": {"size": Kind("float"), "name": Kind("str")},
        "edge_attrs": {"score": Kind("int")},
    }
    with pytest.raises(GraphMismatchError) as caught:
        SMALL.check(asked, where="f.sqlite")
    message = str(caught.value)
    for line in (
        "the graph in f.sqlite is not as asked",
        "directed: stored True, asked for False",
        f"total_roi: stored {SMALL.total_roi}, asked for {asked['total_roi']}",
        "position: stored 'position', asked for ('y', 'x')",
        "endpoints: stored ('u', 'v'), asked for ('a', 'b')",
        "node_attrs 'size': stored int, asked for float",
        "node_attrs: stored no 'name', asked for str",
        "edge_attrs 'score': stored float, asked for int",
        "mode='w'",
    ):
        assert line in message
