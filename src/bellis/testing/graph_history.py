"""Any history of writes leaves in a graph store what it leaves in the model."""

# ruff: noqa: D102, S101  # the name of a test says what it does; a test asserts

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from bellis.errors import GraphExistsError, GraphMissingError
from bellis.graphs import Vec
from bellis.testing.graph_model import Change, GraphModel, graph_of, ordered, plain, rows_of, rows_of_columns
from bellis.testing.graph_stores import GraphStoreCase, contents
from bellis.testing.strategies import rois

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from bellis.geometry import Roi
    from bellis.graphs.store import GraphStore

Form: TypeAlias = Literal["graph", "columns"]
_IDS = (0, 1, 2, 3, 5, 8, 2**32, 2**63 - 1, 2**63, 2**64 - 1)
_TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=4)
_VALUES: dict[str, st.SearchStrategy[Any]] = {
    "size": st.sampled_from([0, 1, 2, -1]) | st.integers(-(2**63), 2**63 - 1),
    "score": st.sampled_from([0.0, 0.5, 1.0]) | st.floats(width=64),
    "name": st.sampled_from(["a", "it's", ""]) | _TEXTS,
    "flag": st.booleans(),
    "vec": st.lists(st.sampled_from([0.0, 0.5, -1.0, float("nan")]), min_size=2, max_size=2),
}
_NODE_NAMES = ("size", "name", "vec")
_EDGE_NAMES = ("score", "flag", "name")
_TYPES: dict[str, Any] = {"size": int, "score": float, "name": str, "flag": bool, "vec": Vec(float, 2)}
_POLICIES = st.sampled_from(["upsert", "upsert", "upsert", "insert", "update"])
_NARROW = {"size": 0, "name": "a", "score": 0.5, "flag": True, "vec": [0.0, 0.5]}
"""Values to filter by: each is drawn often."""


class HistoryTests(GraphStoreCase):
    """Random writes and reads, against the model."""

    @pytest.mark.slow
    @pytest.mark.timeout(300)
    def test_any_history_leaves_what_it_leaves_in_the_model(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.ERROR, "bellis.graphs")  # each history replaces the one before, and says so
        opened: list[Callable[..., GraphStore]] = [self.make, self.again]

        class Here(_History):
            make, again = opened

        run_state_machine_as_test(
            Here,
            settings=settings(
                max_examples=self.histories,
                stateful_step_count=self.history_steps,
                deadline=None,
                suppress_health_check=list(HealthCheck),
                phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
            ),
        )


class _History(RuleBasedStateMachine):
    """One graph, and its model."""

    make: ClassVar[Callable[..., GraphStore]]
    again: ClassVar[Callable[..., GraphStore]]

    @initialize(
        directed=st.booleans(), dims=st.integers(1, 3), is_split=st.booleans(), kind=st.sampled_from([int, float]),
        is_declared=st.booleans(),
    )  # fmt: skip
    def begin(self, *, directed: bool, dims: int, is_split: bool, kind: type, is_declared: bool) -> None:
        self.dims, self.kind = dims, kind
        names = ("z", "y", "x")[-dims:]
        self.model = GraphModel(directed=directed, position=names if is_split else "position")
        placed = dict.fromkeys(names, kind) if is_split else {"position": Vec(kind, dims)}
        options: dict[str, Any] = {"position_attribute": list(names) if is_split else "position"}
        if is_declared:
            options["node_attrs"] = placed | {name: _TYPES[name] for name in _NODE_NAMES}
            options["edge_attrs"] = {name: _TYPES[name] for name in _EDGE_NAMES}
        self.store = type(self).make(directed=directed, **options)
        first = {_IDS[0]: self._place([kind(0)] * dims)}  # so that the rank, and the type, of positions are known
        self._write(Change(nodes=first), "graph", bulk=False)

    def _place(self, at: Iterable[float] | None) -> dict[str, Any]:
        if isinstance(self.model.position, str):
            return {self.model.position: None if at is None else list(at)}
        return dict.fromkeys(self.model.position) if at is None else dict(zip(self.model.position, at, strict=True))

    def _drawn_place(self, data: st.DataObject) -> dict[str, Any]:
        halves = st.integers(-6, 8).map(lambda k: self.kind(k / 2))
        return self._place(data.draw(st.none() | st.lists(halves, min_size=self.dims, max_size=self.dims)))

    def _drawn_roi(self, data: st.DataObject) -> Roi | None:
        return data.draw(st.none() | rois(self.dims, unbounded=True, max_offset=3, max_extent=5))

    # Writes ------------------------------------------------------------------------------------------------------

    @rule(data=st.data(), policy=_POLICIES, deletes=st.booleans(), bulk=st.booleans())
    def write_a_graph(self, data: st.DataObject, policy: str, *, deletes: bool, bulk: bool) -> None:
        """Write rows of which each has other attributes, bare ones among them."""
        attributes = st.fixed_dictionaries({}, optional={name: st.none() | _VALUES[name] for name in _NODE_NAMES})
        known = sorted(self.model.nodes)
        is_known = policy == "update" and known and data.draw(st.booleans())
        among: st.SearchStrategy[int] = st.sampled_from(known if is_known else _IDS)
        nodes = data.draw(st.dictionaries(among, attributes, max_size=5))
        for attrs in nodes.values():
            attrs.update(self._drawn_place(data) if data.draw(st.booleans()) else {})
        rows = st.fixed_dictionaries({}, optional={name: st.none() | _VALUES[name] for name in _EDGE_NAMES})
        edges = self._once(data.draw(st.dictionaries(st.tuples(among, among), rows, max_size=5)))
        nodes = {end: {} for pair in edges for end in pair} | nodes  # as networkx has them
        named = [
            data.draw(st.none() | st.frozensets(st.sampled_from(names)))
            for names in ((*_NODE_NAMES, *self._place(None)), _EDGE_NAMES)
        ]
        change = Change(
            nodes=nodes, edges=edges, roi=self._drawn_roi(data), policy=policy, deletes=deletes, node_names=named[0],
            edge_names=named[1],
        )  # fmt: skip
        self._write(change, "graph", bulk=bulk)

    @rule(data=st.data(), policy=_POLICIES, deletes=st.booleans(), bulk=st.booleans())
    def write_columns(self, data: st.DataObject, policy: str, *, deletes: bool, bulk: bool) -> None:
        """Write rows that have the same columns, with and without values."""
        names = data.draw(st.sets(st.sampled_from(_NODE_NAMES)))
        values = st.fixed_dictionaries({name: st.none() | _VALUES[name] for name in sorted(names)})
        nodes = data.draw(st.dictionaries(st.sampled_from(_IDS), values, max_size=5))
        if data.draw(st.booleans()):
            nodes = {node: attrs | self._drawn_place(data) for node, attrs in nodes.items()}
        names = data.draw(st.sets(st.sampled_from(_EDGE_NAMES)))
        values = st.fixed_dictionaries({name: st.none() | _VALUES[name] for name in sorted(names)})
        edges = self._once(data.draw(st.dictionaries(st.tuples(*[st.sampled_from(_IDS)] * 2), values, max_size=5)))
        roi = self._drawn_roi(data)
        self._write(Change(nodes=nodes, edges=edges, roi=roi, policy=policy, deletes=deletes), "columns", bulk=bulk)

    def _once(self, edges: dict[tuple[int, int], dict[str, Any]]) -> dict[tuple[int, int], dict[str, Any]]:
        """Return edges, of two that are one in an undirected graph only the first."""
        if self.model.directed:
            return edges
        return {ordered(pair): attrs for pair, attrs in reversed(edges.items())}

    def _write(self, change: Change, form: Form, *, bulk: bool) -> None:
        error = self.model.write(change)
        expected = {"exists": GraphExistsError, "missing": GraphMissingError}.get(error or "")
        if expected is None:
            self._send(change, form, bulk=bulk)
        else:
            with pytest.raises(expected):
                self._send(change, form, bulk=bulk)
        assert contents(self.store) == self.model.read()

    def _send(self, change: Change, form: Form, *, bulk: bool) -> None:
        policy: dict[str, Any] = {
            "fail_if_exists": change.policy == "insert",
            "fail_if_not_exists": change.policy == "update",
        }
        if form == "columns":
            nodes, edges = self._columns(change)
            self.store.write_columns(nodes, edges, change.roi, **policy, delete=change.deletes, bulk=bulk)
            return
        graph = graph_of(change.nodes, {}, directed=self.model.directed)
        graph.add_edges_from((u, v, attrs) for (u, v), attrs in change.edges.items())
        names: dict[str, Any] = {"node_attrs": change.node_names, "edge_attrs": change.edge_names}
        if bulk and change.policy == "upsert" and not change.deletes:
            self.store.bulk_write_graph(graph, change.roi, **names)
        else:
            self.store.write_graph(graph, change.roi, **policy, **names, delete=change.deletes)

    def _columns(self, change: Change) -> tuple[dict[str, Any], dict[str, Any]]:
        places = self.model.position if isinstance(self.model.position, tuple) else (self.model.position,)
        zeros = {"size": 0, "score": 0.0, "name": "", "flag": False, "vec": [0.0, 0.0]}
        zeros |= dict.fromkeys(places, self.kind(0)) if len(places) > 1 or isinstance(self.model.position, tuple) else {
            places[0]: [self.kind(0)] * self.dims
        }  # fmt: skip
        found = []
        for keys, rows in ((("id",), change.nodes), (("u", "v"), change.edges)):
            table = np.array([key if isinstance(key, tuple) else (key,) for key in rows], np.uint64)
            columns: dict[str, Any] = dict(zip(keys, table.reshape(-1, len(keys)).T, strict=True))
            for name in next(iter(rows.values()), {}):
                values = [attrs[name] for attrs in rows.values()]
                data = np.array([zeros[name] if value is None else value for value in values])
                mask = np.array([value is None for value in values])
                data = data.astype(object) if data.dtype.kind == "U" else data
                if mask.any():
                    data = np.ma.masked_array(data, mask=np.broadcast_to(mask.reshape(-1, *[1] * (data.ndim - 1)), data.shape))  # fmt: skip  # noqa: E501
                columns[name] = data
            found.append(columns)
        return found[0], found[1]

    # Reads -------------------------------------------------------------------------------------------------------

    @rule(data=st.data(), both=st.booleans())
    def read(self, data: st.DataObject, *, both: bool) -> None:
        """Read a region in all ways."""
        roi = self._drawn_roi(data)
        known = set(self.store.node_attrs), set(self.store.edge_attrs)
        narrow = [
            {name: _NARROW[name] for name in data.draw(st.sets(st.sampled_from(names), max_size=1)) if name in there}
            for names, there in zip((_NODE_NAMES, _EDGE_NAMES), known, strict=True)
        ]
        options: dict[str, Any] = {"nodes_filter": narrow[0], "edges_filter": narrow[1], "fetch_on_v": both}
        assert rows_of_columns(*self.store.read_columns(roi, **options)) == self.model.read(roi, **options)
        assert rows_of(self.store.read_graph(roi, **options)) == self.model.read_graph(roi, **options)

    @rule(data=st.data())
    def count(self, data: st.DataObject) -> None:
        """Count what is in a region."""
        roi = self._drawn_roi(data)
        nodes, edges = self.model.read(roi)
        assert (self.store.num_nodes(roi), self.store.num_edges(roi)) == (len(nodes), len(edges))
        assert self.store.has_edges(roi) == bool(edges)
        assert self.store.num_unplaced() == sum(self.model.place(attrs) is None for attrs in self.model.nodes.values())
        found = {row.pop("id"): plain(row) for row in self.store.read_nodes(roi)}
        assert found == nodes

    @rule()
    def open_again(self) -> None:
        """Go on with another handle."""
        self.store.close()
        self.store = type(self).again()

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
