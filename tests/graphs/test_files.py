"""Graphs in a folder of Parquet files: what is where, what is read, and how a graph is opened."""

from __future__ import annotations

import pickle
import sqlite3
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from bellis.errors import BellisError, GraphError, GraphExistsError, GraphMismatchError, GraphMissingError
from bellis.geometry import Roi
from bellis.graphs.attributes import Kind
from bellis.graphs.backend import Change, Deletion, Query
from bellis.graphs.columns import Nodes, column
from bellis.graphs.files import view as files_view
from bellis.graphs.files.catalogue import connected
from bellis.graphs.files.grid import Grid
from bellis.graphs.files.store import FileBackend
from bellis.graphs.files.view import MovedError, View
from bellis.graphs.metadata import Metadata
from bellis.testing.graphs import GraphStoreTests
from graphs.files_for_tests import META, file_of, found, made, names, row, write

if TYPE_CHECKING:
    from pathlib import Path


class TestFiles(GraphStoreTests):
    many = 600  # more than are asked for at once, and in more files than are opened at once
    histories = 8

    def backend(self, folder: Path) -> FileBackend:
        return FileBackend(folder, chunk_size=8)


# Files -----------------------------------------------------------------------------------------------------------


def test_a_file_of_a_chunk_is_a_table_for_every_reader_of_parquet(tmp_path: Path) -> None:
    kinds = {str(kind): kind for base in ("bool", "int", "float", "str") for kind in (Kind(base), Kind(base, 2))}
    metadata = Metadata(node_attrs={"position": Kind("int"), 'it\'s "é"': Kind("str"), **kinds})
    backend = made(tmp_path / "g", metadata)
    ids = np.array([1, 2**64 - 1, 2**63], np.uint64)
    values: dict[str, Any] = {
        "position": np.array([1, 2, 3]), "it's \"é\"": np.array(["a'b", "", "x"], object),
        "bool": np.array([True, False, True]), "int": np.array([-(2**63), 2**63 - 1, 0]),
        "float": np.array([np.nan, -np.inf, -0.0]), "str": np.array(["日本", "'\"; --", " "], object),
        "Vec(bool, 2)": np.array([[True, False]] * 3), "Vec(int, 2)": np.array([[1, 2], [3, 4], [5, 6]]),
        "Vec(float, 2)": np.array([[1, np.nan], [3, 4], [5, 6]]), "Vec(str, 2)": np.array([["a", "b"]] * 3, object),
    }  # fmt: skip
    backend.write(Change(nodes=(Nodes(id=ids, attrs=values),)), metadata)
    table = parquet.read_table(file_of(backend, "0"))
    assert table["id"].to_pylist() == [1, 2**63, 2**64 - 1]
    assert table.schema.field("id").type == pa.uint64()
    assert table.schema.field("Vec(float, 2)").type == pa.list_(pa.float64(), 2)
    assert table.schema.field("str").type == pa.string()
    order = np.argsort(ids)
    for name, column_ in values.items():
        np.testing.assert_array_equal(np.array(table[name].to_pylist(), column_.dtype), column_[order])
    read, _ = backend.read(Query(node_attrs=tuple(metadata.node_attrs)), metadata)
    for name, column_ in values.items():
        np.testing.assert_array_equal(read[name], column_[order])
        assert read[name].dtype == column_.dtype
        assert read[name].flags.writeable
    assert read.id.flags.writeable


def test_values_that_are_missing_are_nulls(tmp_path: Path) -> None:
    kinds = {str(kind): kind for base in ("bool", "int", "float", "str") for kind in (Kind(base), Kind(base, 2))}
    metadata = Metadata(node_attrs=kinds)
    backend = made(tmp_path / "g", metadata)
    is_absent = np.array([False, True, True, False])
    blanks = {"bool": True, "int": 7, "float": 0.5, "str": "x"}
    values = {
        name: column(np.full((4, *kind.row), blanks[kind.base], kind.dtype), is_absent) for name, kind in kinds.items()
    }
    backend.write(Change(nodes=(Nodes(id=np.arange(4, dtype=np.uint64), attrs=values),)), metadata)
    table = parquet.read_table(file_of(backend, "unplaced"))
    read, _ = backend.read(Query(node_attrs=tuple(kinds)), metadata)
    for name, kind in kinds.items():
        assert [value is None for value in table[name].to_pylist()] == is_absent.tolist()
        assert np.ma.getmaskarray(read[name]).reshape(4, -1).all(axis=1).tolist() == is_absent.tolist()
        assert read[name].shape == (4, *kind.row)
        assert (read[name][[0, 3]] == blanks[kind.base]).all()


def test_each_block_of_space_has_its_files_and_so_have_those_without_a_place(tmp_path: Path) -> None:
    backend = made(tmp_path / "g", chunk_size=(10, 20))
    write(backend, {1: (0, 0), 2: (9.99, 19.99), 3: (10, 20), 4: (-0.5, 0), 5: None}, (1, 3), (4, 1), (9, 1))
    assert names(backend) == sorted(
        ["0.0.nodes", "0.0.edges", "1.1.nodes", "-1.0.nodes", "-1.0.edges", "unplaced.nodes", "unplaced.edges"]
    )
    assert parquet.read_table(file_of(backend, "unplaced", "edges"))["u"].to_pylist() == [9]
    assert found(backend) == ([1, 2, 3, 4, 5], [(1, 3), (4, 1), (9, 1)])
    assert found(backend, roi=Roi((None, None), (None, None))) == ([1, 2, 3, 4], [(1, 3), (4, 1)])


def test_a_node_that_moves_takes_its_edges_with_it(tmp_path: Path) -> None:
    backend = row(tmp_path / "g")
    write(backend, {1: (35, 5)})
    assert names(backend) == sorted(f"{k}.0.{what}" for k in (0, 2, 3, 4) for what in ("nodes", "edges"))
    assert found(backend, roi=Roi((30, 0), (10, 10))) == ([1, 3], [(1, 2), (3, 4)])
    write(backend, {1: None})
    assert found(backend, roi=Roi((30, 0), (10, 10))) == ([3], [(3, 4)])
    assert found(backend, ids=np.array([1], np.uint64)) == ([1], [(1, 2)])
    write(backend, {1: (45, 5)}, (1, 2), (1, 4))
    assert found(backend, roi=Roi((40, 0), (10, 10))) == ([1, 4], [(1, 2), (1, 4), (4, 5)])
    assert "unplaced.nodes" not in names(backend)


def test_an_edge_of_an_unknown_node_waits_for_it(tmp_path: Path) -> None:
    backend = made(tmp_path / "g")
    write(backend, {}, (7, 8), (8, 9))
    assert names(backend) == ["unplaced.edges"]
    assert found(backend, roi=Roi((None, None), (None, None))) == ([], [])
    write(backend, {7: (5, 5)})
    assert found(backend, roi=Roi((0, 0), (10, 10))) == ([7], [(7, 8)])
    write(backend, {8: (15, 5)}, (8, 9), policy="upsert")
    assert found(backend, roi=Roi((10, 0), (10, 10))) == ([8], [(8, 9)])
    assert "unplaced.edges" not in names(backend)


def test_an_id_is_one_node_wherever_it_is_written(tmp_path: Path) -> None:
    backend = row(tmp_path / "g")
    with pytest.raises(GraphExistsError, match=r"1 nodes are in .*g already: 3; nothing"):
        write(backend, {50: (0, 0), 3: (95, 95)}, policy="insert")
    with pytest.raises(GraphMissingError, match=r"1 nodes are not in .*: 50; nothing"):
        write(backend, {50: (0, 0), 3: (95, 95)}, policy="update")
    with pytest.raises(GraphExistsError, match=r"1 edges .*: \(2, 3\)"):
        write(backend, {51: (0, 0)}, (51, 0), (2, 3), policy="insert")
    with pytest.raises(GraphMissingError, match=r"6 edges .*: \(0, 2\), .* \(0, 6\), \.\.\.; nothing"):
        write(backend, {3: (0, 0)}, (2, 3), *((0, k) for k in range(2, 8)), policy="update")
    assert found(backend) == ([0, 1, 2, 3, 4], [(k, k + 1) for k in range(5)])
    assert found(backend, roi=Roi((30, 0), (10, 10)))[0] == [3]
    write(backend, {3: (95, 95)}, (3, 4), policy="update")
    assert found(backend, roi=Roi((90, 90), (10, 10))) == ([3], [(3, 4)])


def test_a_deletion_reaches_over_chunks_and_keeps_what_is_written(tmp_path: Path) -> None:
    backend = row(tmp_path / "g")
    write(backend, {2: (25, 5)}, (1, 2), deletion=Deletion(roi=Roi((5, 0), (31, 10)), nodes=True, edges=True))
    assert found(backend) == ([2, 4], [(1, 2), (4, 5)])
    assert names(backend) == ["2.0.nodes", "4.0.edges", "4.0.nodes", "unplaced.edges"]
    write(backend, {1: (95, 5)})
    assert found(backend, roi=Roi((90, 0), (10, 10))) == ([1], [(1, 2)])
    backend.write(Change(deletion=Deletion(roi=None, nodes=True, edges=True)), META)
    assert found(backend) == ([], [])
    assert names(backend) == []


def test_edges_from_elsewhere_are_found_by_their_far_end_through_all_that_happens_to_it(tmp_path: Path) -> None:
    backend = row(tmp_path / "g")
    near = {"roi": Roi((20, 0), (10, 10)), "both_ends": True}
    assert found(backend, **near) == ([1, 2, 3], [(1, 2), (2, 3)])
    write(backend, {5: (25, 6)}, (2, 5), (9, 5))
    assert found(backend, **near) == ([1, 2, 3, 4, 5], [(1, 2), (2, 3), (2, 5), (4, 5), (9, 5)])
    write(backend, {5: (95, 5)})  # what was an edge within a chunk leads out of it now
    there = {"roi": Roi((90, 0), (10, 10)), "both_ends": True}
    assert found(backend, **there) == ([2, 4, 5], [(2, 5), (4, 5), (9, 5)])
    backend.write(Change(deletion=Deletion(roi=Roi((90, 0), (10, 10)), nodes=True)), META)
    assert found(backend, **there) == ([], [])
    write(backend, {5: (45, 6)})
    assert found(backend, roi=Roi((40, 0), (10, 10)), both_ends=True)[1] == [(2, 5), (3, 4), (4, 5), (9, 5)]
    assert found(backend, ids=np.array([5], np.uint64), both_ends=True) == ([2, 4, 5], [(2, 5), (4, 5), (9, 5)])
    assert found(backend, roi=Roi((40, 0), (10, 10)), both_ends=True, nodes=False)[0] == []
    assert backend.count(Query(**near), META) == (4, 3)


def test_a_node_that_leaves_a_chunk_in_which_an_edge_leads_to_it_is_still_found_by_that(tmp_path: Path) -> None:
    for place in (None, (95, 95)):
        backend = made(tmp_path / str(place))
        write(backend, {1: (1, 1), 2: (2, 2)}, (1, 2))
        write(backend, {2: place})
        assert found(backend, ids=np.array([2], np.uint64), both_ends=True) == ([1, 2], [(1, 2)])


def test_only_the_files_of_a_region_are_read_and_only_the_columns_asked_for(tmp_path: Path) -> None:
    backend = row(tmp_path / "g")
    file_of(backend, "0.0").write_bytes(b"")
    file_of(backend, "1.0", "edges").unlink()
    assert backend.read(Query(roi=Roi((10, 0), (10, 10)), edges=False), META)[0].id.tolist() == [1]
    path = file_of(backend, "2.0")
    place = parquet.ParquetFile(path).metadata.row_group(0).column(2)  # after those of ids and positions
    assert place.path_in_schema == "size"
    with path.open("r+b") as file:
        file.seek(place.data_page_offset)
        file.write(bytes(place.total_compressed_size))
    inside = Roi((20, 0), (10, 10))
    assert found(backend, roi=inside) == ([2], [(2, 3)])
    assert found(backend, roi=inside, node_attrs=("position",)) == ([2], [(2, 3)])
    with pytest.raises(GraphError, match=f"{path} is damaged"):
        found(backend, roi=inside, node_attrs=("size",))
    assert backend.count(Query(), META) == (5, 5)  # by the catalogue alone


def test_a_count_adds_chunks_that_are_whole_in_a_region_to_what_is_in_others(tmp_path: Path) -> None:
    backend, random = made(tmp_path / "g"), np.random.default_rng(0)
    places = {k: tuple(place) for k, place in enumerate(random.uniform(-50, 50, (300, 2)))}
    write(backend, places, *((k, (k * 7) % 300) for k in range(300)))
    for roi in (
        Roi((-20, -20), (40, 40)),
        Roi((-25, -21), (43, 41)),
        Roi((None, 3), (None, None)),
        Roi((0, 0), (0, 5)),
    ):
        assert backend.count(Query(roi=roi), META) == tuple(map(len, found(backend, roi=roi)))


def test_files_that_were_replaced_are_removed(tmp_path: Path) -> None:
    backend = row(tmp_path / "g")
    for k in range(5):
        write(backend, {0: (5, 5), 1: (10 * k + 5, 5)}, (0, k))
    with connected(backend.folder) as db:
        used = {name for pair in db.execute("SELECT nodes, edges FROM chunk") for name in pair if name}
    assert {f"chunks/{path.name}" for path in (backend.folder / "chunks").iterdir()} == used
    assert list((backend.folder / "writers").iterdir()) == []
    backend.save(META, replace=True)
    assert names(backend) == []
    assert found(backend) == ([], [])


def test_files_are_kept_for_who_reads_many_until_a_later_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = row(tmp_path / "g")
    monkeypatch.setattr(files_view, "MANY_FILES", 3)
    with connected(backend.folder) as db, View(backend.folder, db) as view:
        with view.step():
            chunks = view.ask(files_view.catalogue.in_box, None)
            view.open(chunks)
        write(backend, {k: (10 * k + 5, 5) for k in range(5)})
        assert len(names(backend)) == 15
        read = [view.read(chunk.nodes, ("id",), {}).keys[0].tolist() for chunk in chunks]
    assert read == [[k] for k in range(5)]
    write(backend, {0: (5, 5)})
    assert len(names(backend)) == 10
    assert found(backend)[0] == list(range(5))


def test_a_reader_that_can_keep_nothing_reads_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = row(tmp_path / "g")
    monkeypatch.setattr(files_view, "MANY_FILES", 3)
    (backend.folder / "readers.lock").unlink()
    (backend.folder / "readers.lock").mkdir()
    with connected(backend.folder) as db, View(backend.folder, db) as view:
        with view.step():
            (chunk, *_) = view.ask(files_view.catalogue.in_box, None)
            view.open(view.ask(files_view.catalogue.in_box, None))
        (backend.folder / chunk.nodes).unlink()
        with pytest.raises(MovedError):
            view.read(chunk.nodes, ("id",), {})
    with pytest.raises(GraphError, match=r"0\.0.*nodes.parquet is missing, though the catalogue has it"):
        found(backend)


# Opening ---------------------------------------------------------------------------------------------------------


def test_a_graph_is_made_with_a_chunk_size_and_opened_with_none_or_the_same(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match="chunk_size is missing, to make a graph in"):
        FileBackend(tmp_path / "g").save(META)
    assert FileBackend(tmp_path / "g").load() is None
    made(tmp_path / "g", chunk_size=(10, 10))
    for same in (None, (10, 10), [10, 10], np.array([10, 10]), 10):
        assert FileBackend(tmp_path / "g", same).load() == META
    for other in (11, (10, 20), (10, 10, 10)):
        with pytest.raises(GraphMismatchError, match=r"chunks of \(10, 10\), but chunk_size is"):
            FileBackend(tmp_path / "g", other).load()
    with pytest.raises(GraphMismatchError, match=r"chunk_size \(10, 10, 10\) has 3 axes, but positions have 2"):
        FileBackend(tmp_path / "g", (10, 10, 10)).save(META, replace=True)
    with pytest.raises(GraphMismatchError, match="directed: stored False, asked for True"):
        FileBackend(tmp_path / "g").save(Metadata(directed=True))
    FileBackend(tmp_path / "g", 20).save(META, replace=True)
    assert FileBackend(tmp_path / "g", 20).load() == META


@pytest.mark.parametrize("size", [0, -1, 1.5, "10", (10, 0), (), True, (10, None), 2**63])
def test_a_chunk_size_is_a_whole_number_of_world_units(tmp_path: Path, size: Any) -> None:
    with pytest.raises(GraphError, match=r"chunk_size is .*: it is a whole number of world units > 0"):
        FileBackend(tmp_path / "g", size)


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("x")
    (tmp_path / "other").mkdir()
    with sqlite3.connect(tmp_path / "other" / "catalogue.sqlite") as db:
        db.execute("CREATE TABLE mine (a)")
    db.close()
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "catalogue.sqlite").write_text("no database at all, but as long as one would be" * 30)
    for name, message in (("file", "is a file"), ("other", "something else"), ("text", "damaged, or is no catalogue")):
        with pytest.raises(GraphError, match=message):
            FileBackend(tmp_path / name, 10).load()
    assert FileBackend(tmp_path / "full", 10).load() is None
    for name in ("file", "full", "other", "text"):
        with pytest.raises(BellisError, match=name):
            FileBackend(tmp_path / name, 10).save(META, replace=True)
    assert (tmp_path / "full" / "thesis.tex").exists()


def test_graphs_with_other_names_have_folders_within(tmp_path: Path) -> None:
    backends = [
        FileBackend.at(tmp_path / "g", chunk_size=10),
        FileBackend.at(tmp_path / "g", edges="mst", chunk_size=10),
    ]
    for k, backend in enumerate(reversed(backends)):
        assert backend.load() is None
        backend.save(META)
        write(backend, {k: (5, 5)})
    assert [found(backend)[0] for backend in backends] == [[1], [0]]
    assert str(backends[1]) == str(tmp_path / "g" / "nodes.mst")
    with pytest.raises(GraphError, match=r"edges is '\.\./x'"):
        FileBackend.at(tmp_path / "g", edges="../x")


def test_a_relative_place_is_the_same_wherever_the_backend_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made(tmp_path / "it's #1 100%? é")
    backend = FileBackend("it's #1 100%? é", 10)
    write(backend, {1: (5, 5)})
    monkeypatch.chdir("/")
    assert found(pickle.loads(pickle.dumps(backend)))[0] == [1]


# The grid --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 3, 10, 2**62, 2**63 - 1])
@pytest.mark.parametrize("dtype", [np.int64, np.float64])
def test_positions_of_any_size_are_in_the_chunks_of_the_regions_in_which_they_are(size: int, dtype: type) -> None:
    edge = [0, 1, -1, 9, 10, 2**53 + 1, -(2**53) - 3, 2**62, 2**63 - 1, -(2**63), 2**63 - 1025, 7 * size, -3 * size]
    values = np.array([value for value in edge if -(2**63) <= value < 2**63], object).astype(dtype)
    if dtype is np.float64:
        values = np.concatenate([values, [1e300, -1e300, -0.5, 9.999999999999998, np.nextafter(0, -1), -0.0]])
    grid = Grid((size,))
    places, which = grid.places({"p": values}, ("p",), len(values))
    assert len(set(places)) == len(places)
    for value, k in zip(values.tolist(), which, strict=True):
        ((at,),) = [place for place in [places[k]] if place]
        begin = value if dtype is np.int64 else int(np.floor(value))
        if abs(value) < 2**63:
            assert at == begin // size
        for roi in (Roi((begin,), (1,)), Roi((begin - 5,), (6,)), Roi((begin,), (None,)), Roi((None,), (None,))):
            ((low, high),) = grid.box(roi)
            assert low is None or low <= at
            assert high is None or at <= high
            if grid.is_inside((at,), roi):
                ends = roi.end[0]
                assert roi.begin[0] is None or roi.begin[0] <= at * size
                assert ends is None or (at + 1) * size <= ends


def test_places_of_many_axes_that_are_far_apart_are_told_apart() -> None:
    random = np.random.default_rng(1)
    values = random.integers(-(2**62), 2**62, (50, 4))
    values = np.concatenate([values, values[:10]])
    places, which = Grid((7,) * 4).places({"p": values}, ("p",), 60)
    assert [places[k] for k in which] == [tuple(value) for value in (values // 7).tolist()]
    assert len(places) == 50
