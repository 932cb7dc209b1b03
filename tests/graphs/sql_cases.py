"""What both databases must do, beyond the suite of all graph stores: tests to subclass, and graphs for them."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from bellis.errors import GraphError, GraphMismatchError, GraphMissingError
from bellis.geometry import Roi
from bellis.graphs.attributes import Kind
from bellis.graphs.backend import Change, Deletion, Query
from bellis.graphs.columns import Edges, Nodes, absent
from bellis.graphs.metadata import Metadata

if TYPE_CHECKING:
    from pathlib import Path

    from bellis.graphs.sql.store import SqlBackend

PLAIN = Metadata(node_attrs={"position": Kind("float", 3), "size": Kind("int")}, edge_attrs={"score": Kind("float")})
ALL = Query(node_attrs=("position", "size"), edge_attrs=("score",))
TEXTS = ["", "it's", 'a "b"', "ü\U0001f600", "%s %(x)s :y ?", "\\N", "NULL", "nan"]
FLOATS = [np.nan, np.inf, -np.inf, -0.0, 5e-324, 1.7976931348623157e308, 0.1, 2.0**53]
INTS = [0, 1, -1, 2**63 - 1, -(2**63), 2**53 + 1, 7, 8]
NAMES = ["key", "u", "v", "Size", "SIZE", "size", "position__0", "position_0", "it's", 'a"b', "select", "größe", "a b"]
NAMES += ["%s", ":x", "?", "x" * 63, "rowid", "_size", "oid", "a;b--"]


def random_graph(count: int, *, seed: int = 0, begin: int = 0, extent: float = 100.0) -> tuple[Nodes, Edges]:
    """Return nodes at random places, and edges, three from each on average."""
    rng = np.random.default_rng(seed)
    ids = rng.permutation(count).astype(np.uint64) + np.uint64(begin)
    places = rng.random((count, 3)) * extent
    nodes = Nodes(id=ids, attrs={"position": places, "size": rng.integers(0, 100, count)})
    pairs = np.unique(np.sort(rng.choice(ids, (3 * count, 2)), axis=1), axis=0)
    rng.shuffle(pairs)
    return nodes, Edges(u=pairs[:, 0], v=pairs[:, 1], attrs={"score": rng.random(len(pairs))})


def assert_same(found: Nodes | Edges, expected: Nodes | Edges) -> None:
    """Compare all columns, to the bit and to the mask."""
    assert tuple(found) == tuple(expected)
    for name in found:
        one, other = found[name], expected[name]
        assert one.dtype == other.dtype
        assert (absent(one) == absent(other)).all()
        there = ~absent(one)
        one, other = np.ma.getdata(one)[there], np.ma.getdata(other)[there]
        np.testing.assert_array_equal(one, other)
        if one.dtype.kind == "f":
            np.testing.assert_array_equal(np.signbit(one), np.signbit(other))


class SqlCases:
    """What both databases must do."""

    def make(self, folder: Path) -> SqlBackend:
        """Return a backend without a graph."""
        raise NotImplementedError

    @pytest.fixture
    def backend(self, tmp_path: Path) -> Any:
        backend = self.make(tmp_path)
        yield backend
        backend.close()

    @pytest.mark.parametrize("is_bulk", [False, True])
    @pytest.mark.parametrize("is_masked", [False, True])
    def test_every_kind_of_value_comes_back_as_it_was(
        self, backend: SqlBackend, is_bulk: bool, is_masked: bool
    ) -> None:
        texts = np.array(TEXTS, object)
        columns: dict[str, np.ndarray[Any, Any]] = {
            "position": np.array([[-0.0, 1e300, at] for at in range(8)]),
            "b": np.array([True, False] * 4), "i": np.array(INTS), "f": np.array(FLOATS), "s": texts,
            "bs": np.array([[True, False]] * 8), "is": np.array([INTS, INTS[::-1]]).T.copy(),
            "fs": np.array([FLOATS, FLOATS[::-1]]).T.copy(), "ss": np.stack([texts, texts[::-1]], axis=1),
        }  # fmt: skip
        if is_masked:
            for at, (name, values) in enumerate(columns.items()):
                gone = np.zeros(values.shape, bool)
                gone[at % 8] = gone[(at * at + 3) % 8] = True
                columns[name] = np.ma.masked_array(values, mask=gone)
        kinds = {
            "position": Kind("float", 3), "b": Kind("bool"), "i": Kind("int"), "f": Kind("float"), "s": Kind("str"),
            "bs": Kind("bool", 2), "is": Kind("int", 2), "fs": Kind("float", 2), "ss": Kind("str", 2),
        }  # fmt: skip
        ids = np.array([0, 1, 2, 3, 2**63 - 1, 2**63, 2**64 - 2, 2**64 - 1], np.uint64)
        others = {name: values for name, values in columns.items() if name != "position"}
        nodes, edges = Nodes(id=ids, attrs=columns), Edges(u=ids, v=ids[::-1].copy(), attrs=others)
        metadata = backend.save(Metadata(node_attrs=kinds, edge_attrs={name: kinds[name] for name in others}))
        backend.write(Change(nodes=(nodes,), edges=(edges,), is_bulk=is_bulk), metadata)
        backend.write(Change(nodes=(nodes,), edges=(edges,), is_bulk=is_bulk), metadata)
        found = backend.read(Query(node_attrs=tuple(columns), edge_attrs=tuple(others)), metadata)
        assert_same(found[0], nodes)
        assert_same(found[1], edges)

    def test_attributes_have_any_names_also_those_of_our_columns(self, backend: SqlBackend) -> None:
        names = [*NAMES, "position"]
        metadata = backend.save(
            Metadata(
                node_attrs={**dict.fromkeys(NAMES, Kind("int")), "position": Kind("int", 2)},
                edge_attrs={**dict.fromkeys([*NAMES[3:], "id"], Kind("int"))},
            )
        )
        ids = np.arange(3, dtype=np.uint64)
        attrs = {name: np.arange(3) + 10 * at for at, name in enumerate(NAMES)}
        nodes = Nodes(id=ids, attrs={**attrs, "position": np.arange(6).reshape(3, 2)})
        edges = Edges(u=ids, v=ids, attrs={name: attrs[name] for name in NAMES[3:]} | {"id": np.arange(3)})
        backend.write(Change(nodes=(nodes,), edges=(edges,)), metadata)
        query = Query(
            node_attrs=tuple(names), edge_attrs=(*NAMES[3:], "id"), nodes_filter={"it's": int(attrs["it's"][1])}
        )
        found = backend.read(query, metadata)
        assert_same(found[0], nodes.select(slice(1, 2)))
        assert_same(found[1], edges.select(slice(1, 2)))

    def test_integer_positions_are_compared_exactly(self, backend: SqlBackend) -> None:
        metadata = backend.save(Metadata(node_attrs={"position": Kind("int")}))
        at = [2**53, 2**53 + 1, 2**53 + 2, 2**63 - 1, -(2**63), -(2**53) - 1]
        nodes = Nodes(id=np.arange(6, dtype=np.uint64), attrs={"position": np.array(at)})
        backend.write(Change(nodes=(nodes,)), metadata)

        def inside(begin: int | None, size: int | None) -> list[int]:
            return backend.read(Query(roi=Roi((begin,), (size,))), metadata)[0].id.tolist()

        assert inside(2**53 + 1, 1) == [1]
        assert inside(2**63 - 1, None) == [3]
        assert inside(2**63 - 1, 1) == [3]
        assert inside(-(2**63), 1) == [4]
        assert inside(-(10**30), 10**30 - 2**53) == [4, 5]
        assert inside(10**30, None) == []
        assert inside(None, None) == [0, 1, 2, 3, 4, 5]

    def test_float_positions_are_compared_exactly(self, backend: SqlBackend) -> None:
        metadata = backend.save(Metadata(node_attrs={"position": Kind("float")}))
        at = [-0.0, -5e-324, np.nextafter(10.0, 0), 10.0, 2.0**53, 2.0**53 + 2, 1.7e308]
        nodes = Nodes(id=np.arange(7, dtype=np.uint64), attrs={"position": np.array(at)})
        backend.write(Change(nodes=(nodes,)), metadata)

        def inside(begin: int | None, size: int | None) -> list[int]:
            return backend.read(Query(roi=Roi((begin,), (size,))), metadata)[0].id.tolist()

        assert inside(0, 10) == [0, 2]
        assert inside(-1, 1) == [1]
        assert inside(2**53 + 1, 1) == []
        assert inside(2**53 + 1, 2) == [5]
        assert inside(10**400, None) == []
        assert inside(-(10**400), 2 * 10**400) == [0, 1, 2, 3, 4, 5, 6]

    @pytest.mark.parametrize("kind", ["float", "int"])
    @pytest.mark.parametrize("rank", [1, 2, 3, 5])
    def test_a_region_has_the_nodes_whose_position_is_inside(self, backend: SqlBackend, rank: int, kind: Any) -> None:
        rng = np.random.default_rng(rank)
        places = np.round((rng.random((500, rank)) - 0.5) * 20, 1 if kind == "float" else 0)
        places = places.astype(Kind(kind).dtype)
        metadata = backend.save(Metadata(node_attrs={"position": Kind(kind, rank)}))
        backend.write(Change(nodes=(Nodes(id=np.arange(500, dtype=np.uint64), attrs={"position": places}),)), metadata)
        for _ in range(10):
            begin, shape = rng.integers(-12, 10, rank), rng.integers(0, 20, rank)
            is_inside = ((places >= begin) & (places < begin + shape)).all(axis=1)
            query = Query(roi=Roi(tuple(begin.tolist()), tuple(shape.tolist())))
            assert backend.read(query, metadata)[0].id.tolist() == np.flatnonzero(is_inside).tolist()
            assert backend.count(query, metadata) == (is_inside.sum(), 0)

    @pytest.mark.parametrize("kind", ["float", "int"])
    def test_a_graph_that_begins_far_away_is_read_like_any(self, backend: SqlBackend, kind: Any) -> None:
        rng, offset = np.random.default_rng(0), 10**12
        places = (rng.integers(-20, 120, (300, 3)) + np.array([offset, -7, -offset])).astype(Kind(kind).dtype)
        roi = Roi((offset, None, -offset), (100, None, 100))
        metadata = backend.save(Metadata(total_roi=roi, node_attrs={"position": Kind(kind, 3)}))
        nodes = Nodes(id=np.arange(300, dtype=np.uint64), attrs={"position": places})
        for is_bulk in (True, False):
            backend.write(Change(nodes=(nodes,), is_bulk=is_bulk), metadata)
        for _ in range(10):
            begin = rng.integers(-30, 100, 3) + np.array([offset, -7, -offset])
            is_inside = ((places >= begin) & (places < begin + 60)).all(axis=1)
            query = Query(roi=Roi(tuple(begin.tolist()), (60, 60, 60)))
            assert backend.read(query, metadata)[0].id.tolist() == np.flatnonzero(is_inside).tolist()

    def test_who_missed_that_a_graph_begins_elsewhere_now_writes_nothing(self, backend: SqlBackend) -> None:
        backend.save(PLAIN)
        backend.count(Query(), PLAIN)
        moved = replace(PLAIN, total_roi=Roi((1000, 0, 0), (10, 10, 10)))
        backend.save(moved, replace=True)
        nodes, _ = random_graph(10)
        with pytest.raises(GraphMissingError, match="open it again"):
            backend.write(Change(nodes=(nodes,)), PLAIN)
        assert backend.count(Query(), moved) == (0, 0)

    def test_counts_are_those_of_what_is_read(self, backend: SqlBackend) -> None:
        backend.save(PLAIN)
        nodes, edges = random_graph(300)
        backend.write(Change(nodes=(nodes,), edges=(edges,)), PLAIN)
        roi = Roi((0, 0, 0), (50, 60, None))
        for query in (
            Query(), Query(roi=roi), Query(roi=roi, both_ends=True), Query(roi=roi, nodes=False, both_ends=True),
            Query(roi=roi, ids=np.arange(90, dtype=np.uint64)), Query(nodes_filter={"size": 3}, both_ends=True),
            Query(roi=roi, edges=False), Query(edges_filter={"score": float(edges["score"][0])}),
        ):  # fmt: skip
            found = backend.read(query, PLAIN)
            assert backend.count(query, PLAIN) == (len(found[0]), len(found[1]))

    def test_much_at_once_is_written_like_little(self, backend: SqlBackend) -> None:
        backend.save(PLAIN)
        first, second = random_graph(400, seed=1), random_graph(600, seed=2)
        backend.write(Change(nodes=(first[0],), edges=(first[1],), is_bulk=True), PLAIN)
        backend.read(Query(roi=Roi((0, 0, 0), (9, 9, 9)), both_ends=True), PLAIN)  # makes an index
        backend.write(Change(nodes=(second[0],), edges=(second[1],), is_bulk=True), PLAIN)
        found = backend.read(ALL, PLAIN)
        assert_same(found[0], second[0].sorted())
        known = {(u, v): score for u, v, score in zip(first[1].u, first[1].v, first[1]["score"], strict=True)}
        known |= {(u, v): score for u, v, score in zip(second[1].u, second[1].v, second[1]["score"], strict=True)}
        assert {(u, v): score for u, v, score in zip(found[1].u, found[1].v, found[1]["score"], strict=True)} == known
        wide = Query(roi=Roi((0, 0, 0), (9, 9, 9)), both_ends=True)
        assert len(backend.read(wide, PLAIN)[1]) > 0

    def test_ids_are_unique_after_a_bulk_write(self, backend: SqlBackend) -> None:
        backend.save(PLAIN)
        nodes, edges = random_graph(50)
        backend.write(Change(nodes=(nodes,), edges=(edges,), is_bulk=True), PLAIN)
        moved = Nodes(id=nodes.id, attrs={"position": nodes["position"] + 1000})
        backend.write(Change(nodes=(moved,)), PLAIN)
        assert backend.count(Query(), PLAIN) == (50, len(edges))
        assert backend.count(Query(roi=Roi((1000,) * 3, (100,) * 3)), PLAIN)[0] == 50
        assert backend.count(Query(roi=Roi((0,) * 3, (100,) * 3)), PLAIN)[0] == 0

    def test_one_axis_of_a_split_position_moves_a_node(self, backend: SqlBackend) -> None:
        metadata = backend.save(Metadata(position=("y", "x"), node_attrs={"y": Kind("int"), "x": Kind("float")}))
        ids = np.arange(4, dtype=np.uint64)
        whole = Nodes(id=ids[:3], attrs={"y": np.array([1, 2, 3]), "x": np.array([1.0, 2.0, 3.0])})
        backend.write(Change(nodes=(whole,)), metadata)
        backend.write(Change(nodes=(Nodes(id=ids[1:][::-1].copy(), attrs={"y": np.array([100, 200, 300])}),)), metadata)
        assert backend.read(Query(roi=Roi((0, 0), (50, 50))), metadata)[0].id.tolist() == [0]
        assert backend.read(Query(roi=Roi((50, 0), (None, 50))), metadata)[0].id.tolist() == [1, 2]
        backend.write(Change(nodes=(Nodes(id=ids[3:], attrs={"x": np.array([7.5])}),)), metadata)
        assert backend.read(Query(roi=Roi((100, 7), (1, 1))), metadata)[0].id.tolist() == [3]
        gone = np.ma.masked_array([0], mask=[True])
        backend.write(Change(nodes=(Nodes(id=ids[3:], attrs={"y": gone}),)), metadata)
        assert backend.read(Query(roi=Roi((None, None), (None, None))), metadata)[0].id.tolist() == [0, 1, 2]

    def test_many_ids_are_no_text_of_a_statement(self, backend: SqlBackend) -> None:
        backend.save(PLAIN)
        nodes, edges = random_graph(2000)
        backend.write(Change(nodes=(nodes,), edges=(edges,), is_bulk=True), PLAIN)
        ids = np.unique(np.concatenate([nodes.id[::2], np.arange(10**6, 10**6 + 50_000, dtype=np.uint64)]))
        assert backend.count(Query(ids=ids), PLAIN)[0] == 1000
        kept = nodes.select(slice(0, None, 2))
        backend.write(Change(nodes=(kept,), edges=(edges,), deletion=Deletion(roi=None, nodes=True)), PLAIN)
        assert backend.count(Query(), PLAIN) == (1000, len(edges))
        backend.write(Change(edges=(edges.select(slice(10)),), deletion=Deletion(roi=None, edges=True)), PLAIN)
        assert backend.count(Query(), PLAIN) == (1000, 10)

    def test_what_is_no_value_of_an_attribute_is_found_nowhere(self, backend: SqlBackend) -> None:
        kinds = {"i": Kind("int"), "f": Kind("float"), "b": Kind("bool"), "s": Kind("str"), "fs": Kind("float", 2)}
        metadata = backend.save(Metadata(node_attrs=kinds))
        attrs: dict[str, Any] = {"i": np.array([1]), "f": np.array([np.nan]), "b": np.array([True])}
        attrs |= {"s": np.array(["x"], object), "fs": np.array([[0.0, np.nan]])}
        backend.write(Change(nodes=(Nodes(id=np.array([5], np.uint64), attrs=attrs),)), metadata)
        for name, value in (
            ("i", 1.5), ("i", 2**70), ("i", "1"), ("f", float("nan")), ("f", 10**400), ("f", 2**53 + 1), ("b", 2),
            ("s", "a\0b"), ("s", "\ud800"), ("s", 1), ("fs", (0.0, float("nan"))), ("fs", (0.0,)), ("unknown", 1),
        ):  # fmt: skip
            assert backend.count(Query(nodes_filter={name: value}), metadata)[0] == 0, (name, value)
        for name, value in (("i", 1), ("i", 1.0), ("b", True), ("s", "x")):
            assert backend.count(Query(nodes_filter={name: value}), metadata)[0] == 1, (name, value)

    def test_zeros_of_both_signs_are_equal_in_vectors(self, backend: SqlBackend) -> None:
        metadata = backend.save(Metadata(node_attrs={"fs": Kind("float", 3)}))
        values = np.array([[0.0, 1.0, -0.0], [-0.0, 1.0, 0.0], [0.0, 2.0, 0.0]])
        backend.write(Change(nodes=(Nodes(id=np.arange(3, dtype=np.uint64), attrs={"fs": values}),)), metadata)
        assert backend.count(Query(nodes_filter={"fs": (0.0, 1.0, 0.0)}), metadata)[0] == 2

    def test_a_pickled_backend_and_threads_find_the_same_graph(self, backend: SqlBackend) -> None:
        backend.save(PLAIN)
        nodes, edges = random_graph(100)
        backend.write(Change(nodes=(nodes,), edges=(edges,)), PLAIN)
        copy = pickle.loads(pickle.dumps(backend))
        with ThreadPoolExecutor(4) as threads:
            counts = list(threads.map(lambda _: copy.count(Query(), PLAIN), range(12)))
        copy.close()
        assert set(counts) == {(100, len(edges))}

    def test_attributes_of_many_join_whoever_is_first(self, backend: SqlBackend) -> None:
        backend.save(PLAIN)

        def join(number: int) -> None:
            copy = pickle.loads(pickle.dumps(backend))
            mine = PLAIN.extended({f"n{number}": Kind("int"), "all": Kind("str")}, {f"e{number}": Kind("bool")})
            copy.save(mine)
            copy.close()

        with ThreadPoolExecutor(6) as threads:
            list(threads.map(join, range(6)))
        metadata = backend.load()
        assert metadata is not None
        assert {f"n{number}" for number in range(6)} | {"all"} <= set(metadata.node_attrs)
        assert backend.count(Query(nodes_filter={"n3": 1}), metadata) == (0, 0)

    def test_an_attribute_of_another_type_is_a_mismatch(self, backend: SqlBackend) -> None:
        backend.save(PLAIN)
        other = Metadata(node_attrs={"size": Kind("str")})
        with pytest.raises(GraphMismatchError, match="'size' is int"):
            backend.save(other)
        with pytest.raises(GraphMismatchError, match="directed"):
            backend.save(Metadata(directed=True))

    def test_a_graph_that_was_replaced_is_missed(self, backend: SqlBackend) -> None:
        backend.save(PLAIN)
        backend.count(Query(), PLAIN)
        other = pickle.loads(pickle.dumps(backend))
        other.save(Metadata(node_attrs={"weight": Kind("int")}), replace=True)
        other.close()
        with pytest.raises(GraphMissingError, match="open it again"):
            backend.read(ALL, PLAIN)

    def test_tables_of_others_are_left_alone(self, backend: SqlBackend) -> None:
        backend.save(PLAIN)
        nodes, edges = random_graph(10)
        backend.write(Change(nodes=(nodes,), edges=(edges,)), PLAIN)
        other = pickle.loads(pickle.dumps(backend))
        other.tables = ("bellis_other", backend.tables[1])
        with pytest.raises(GraphError, match="has a table"):
            other.save(PLAIN)
        other.tables = (backend.tables[0], "bellis_other")
        with pytest.raises(GraphMismatchError, match="has its edges in"):
            other.load()
        other.close()
        assert backend.count(Query(), PLAIN) == (10, len(edges))
