"""What goes wrong with graphs in files, and what those do who write at once."""

from __future__ import annotations

import errno
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from bellis.errors import GraphError, GraphMismatchError, GraphMissingError, GraphServerError
from bellis.geometry import Roi
from bellis.graphs.attributes import Kind
from bellis.graphs.backend import Change, Deletion, Query
from bellis.graphs.columns import Edges, Nodes
from bellis.graphs.files import store as files
from bellis.graphs.files import view as files_view
from bellis.graphs.files.catalogue import Entry, connected
from bellis.graphs.files.custody import sweep, writing
from bellis.graphs.files.store import FileBackend
from bellis.graphs.files.view import MovedError, View
from bellis.graphs.files.write import Draft, Rewrite
from bellis.graphs.metadata import Metadata
from graphs.files_for_tests import ALL, META, edges, file_of, found, made, names, nodes, row, write

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


# Several at once -------------------------------------------------------------------------------------------------

INTERFERENCES: dict[str, tuple[Callable[[FileBackend], None], bool]] = {
    "another chunk": (lambda other: write(other, {4: (46, 6)}), False),
    "a new chunk": (lambda other: write(other, {90: (95, 95)}), False),
    "the same chunk": (lambda other: write(other, {80: (15, 6)}), True),
    "edges of the chunk": (lambda other: write(other, {}, (1, 7)), True),
    "the node moves": (lambda other: write(other, {1: (95, 95)}), True),
    "the node is removed": (
        lambda other: other.write(Change(deletion=Deletion(roi=Roi((10, 0), (9, 9)), nodes=True)), META), True,
    ),
    "the graph is made anew": (lambda other: other.save(META, replace=True) and None, True),
    "the write of nothing": (lambda other: write(other, {}), False),
}  # fmt: skip


@pytest.mark.parametrize("what", INTERFERENCES)
def test_a_write_begins_again_only_if_others_changed_what_it_needs(tmp_path: Path, what: str) -> None:
    backend = row(tmp_path / "g")
    interfere, is_in_the_way = INTERFERENCES[what]
    with connected(backend.folder) as db, View(backend.folder, db) as view:
        Rewrite(view, Change(nodes=(nodes({1: (16, 5)}),)), META)
        interfere(FileBackend(backend.folder, 10))
        if is_in_the_way:
            with pytest.raises(MovedError), view.commit():
                pass
        else:
            with view.commit():
                pass
        assert not db.in_transaction


def test_nodes_that_others_insert_elsewhere_meanwhile_are_noticed(tmp_path: Path) -> None:
    backend = row(tmp_path / "g")
    for change in (Change(nodes=(nodes({70: (5, 5)}),)), Change(edges=(edges((70, 1)),))):
        with connected(backend.folder) as db, View(backend.folder, db) as view:
            Rewrite(view, change, META)
            write(backend, {70: (95, 95)})
            with pytest.raises(MovedError), view.commit():
                pass
        backend.write(Change(deletion=Deletion(roi=Roi((90, 90), (9, 9)), nodes=True)), META)


def test_a_deletion_notices_what_others_put_into_its_region(tmp_path: Path) -> None:
    backend = row(tmp_path / "g")
    change = Change(deletion=Deletion(roi=Roi((0, 0), (100, 100)), nodes=True))
    for place, is_in_the_way in (((95, 95), True), ((195, 95), False)):
        with connected(backend.folder) as db, View(backend.folder, db) as view:
            Rewrite(view, change, META)
            write(backend, {int(place[0]): place})
            if is_in_the_way:
                with pytest.raises(MovedError), view.commit():
                    pass
            else:
                with view.commit():
                    pass


def test_a_write_that_others_always_get_in_the_way_of_takes_its_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, turns = row(tmp_path / "g"), 0

    def work_out(view: View, change: Change, metadata: Metadata) -> Rewrite:
        nonlocal turns
        turns += 1
        work = Rewrite(view, change, metadata)
        if turns < files_view.TRIES:  # the last time, nobody else can write
            with monkeypatch.context() as once:
                once.setattr(files, "Rewrite", Rewrite)
                write(backend, {100 + turns: (15, 5)})
        return work

    monkeypatch.setattr(files, "Rewrite", work_out)
    write(backend, {60: (15, 5)})
    assert turns == files_view.TRIES
    assert found(backend, roi=Roi((10, 0), (10, 10)))[0] == [1, 60, *range(101, 100 + files_view.TRIES)]
    assert len(names(backend)) == 10


def test_who_writes_another_chunk_does_not_wait_for_a_slow_writer_and_does_not_delay_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, has_begun, may_end, turns = row(tmp_path / "g"), threading.Event(), threading.Event(), []
    write_file = files._stored

    def stored(view: View, draft: Draft, token: str) -> Entry:
        turns.append(draft.place)
        if draft.place == (1, 0):
            has_begun.set()
            assert may_end.wait(30)
        return write_file(view, draft, token)

    monkeypatch.setattr(files, "_stored", stored)
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(write, backend, {1: (16, 5)}, (1, 9))
        assert has_begun.wait(30)
        write(backend, {3: (36, 5)}, (3, 9))
        assert found(backend, roi=Roi((30, 0), (10, 10))) == ([3], [(3, 4), (3, 9)])
        may_end.set()
        slow.result()
    assert found(backend, roi=Roi((10, 0), (10, 10))) == ([1], [(1, 2), (1, 9)])
    assert turns == [(1, 0), (3, 0)]


def test_who_does_not_know_an_attribute_yet_loses_none_of_it(tmp_path: Path) -> None:
    old = Metadata(node_attrs=META.node_attrs, edge_attrs=META.edge_attrs)
    backend = made(tmp_path / "g", old)
    new = backend.save(old.extended({"name": Kind("str")}, {"kind": Kind("int")}))
    write(backend, {1: (5, 5)}, (1, 2))
    named = Nodes(id=np.array([1], np.uint64), attrs={"name": np.array(["a"], object)})
    backend.write(Change(nodes=(named,), edges=(Edges(u=named.id, v=named.id, attrs={"kind": np.array([3])}),)), new)
    backend.write(Change(nodes=(nodes({1: (6, 5), 2: (5, 5)}),), edges=(edges((1, 1)),)), old)
    read, pairs = backend.read(Query(node_attrs=("name", "size"), edge_attrs=("kind", "score")), new)
    assert read["name"].tolist() == ["a", None]
    assert pairs["kind"].tolist() == [3, None]
    assert pairs["score"].tolist() == [0.5, 0.5]


def test_a_graph_that_was_replaced_by_another_kind_of_graph_is_not_written_or_read(tmp_path: Path) -> None:
    backend = row(tmp_path / "g")
    other = Metadata(directed=True, node_attrs={**META.node_attrs, "size": Kind("str")}, edge_attrs=META.edge_attrs)
    backend.save(other, replace=True)
    for use in (lambda: write(backend, {1: (1, 1)}), lambda: backend.read(ALL, META), lambda: backend.count(ALL, META)):
        with pytest.raises(GraphMismatchError, match=r"(?s)replaced by another.*directed.*size.*was int"):
            use()
    shutil.rmtree(backend.folder)
    with pytest.raises(GraphMissingError, match="no graph in"):
        backend.read(ALL, META)


# Leftovers -------------------------------------------------------------------------------------------------------


def test_what_a_killed_writer_left_is_swept_and_what_a_living_one_writes_is_not(tmp_path: Path) -> None:
    backend = row(tmp_path / "g")
    chunks, writers = backend.folder / "chunks", backend.folder / "writers"
    writers.mkdir(exist_ok=True)
    committed = file_of(backend, "0.0").name.split(".")[-3]
    for token in ("0123456789abcdef", committed):  # the second was killed after its commit
        (writers / token).touch()
    (chunks / "0.0.0123456789abcdef.nodes.parquet").touch()
    (chunks / "0.1.0123456789abcdef.nodes.parquet.partial").touch()
    with connected(backend.folder) as db, writing(backend.folder, db) as living:
        (chunks / f"0.0.{living}.nodes.parquet").touch()
        write(backend, {4: (46, 5)})
        assert (chunks / f"0.0.{living}.nodes.parquet").exists()
        assert [path.name for path in writers.iterdir()] == [living]
        sweep(backend.folder, db)
        (chunks / f"0.0.{living}.nodes.parquet").unlink()
    assert len(names(backend)) == 10
    assert found(backend)[0] == list(range(5))


def test_a_write_that_fails_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = row(tmp_path / "g")
    before = sorted((backend.folder / "chunks").iterdir())
    calls = 0

    def fail(*_: object) -> None:
        nonlocal calls
        calls += 1
        raise OSError(28, "No space left on device")

    for module, name in ((files, "sync_folders"), (files, "_note")):
        with monkeypatch.context() as broken:
            broken.setattr(module, name, fail)
            with pytest.raises(GraphServerError, match=r"No space left.*nothing was written"):
                write(backend, dict.fromkeys(range(5), (95, 5)))
        assert sorted((backend.folder / "chunks").iterdir()) == before
    assert calls == 2
    assert found(backend)[0] == list(range(5))


# Damage ----------------------------------------------------------------------------------------------------------

DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda whole: whole[: len(whole) // 2],
    "emptied": lambda _: b"",
    "overwritten": lambda whole: bytes(len(whole)),
    "a bit": lambda whole: whole[:60] + bytes([whole[60] ^ 1]) + whole[61:],
    "another table": lambda _: table_of(pa.table({"a": [1]})),
    "another type": lambda _: table_of(pa.table({"id": pa.array([1], pa.int64()), "size": [1]})),
    "too many rows": lambda _: table_of(pa.table({"id": pa.array([1, 2], pa.uint64())})),
    "an id twice": lambda _: table_of(pa.table({"id": pa.array([1, 1], pa.uint64())})),
    "no id": lambda _: table_of(pa.table({"id": pa.array([None], pa.uint64())})),
    "a file of something else": lambda _: b"PAR1" + bytes(100) + b"PAR1",
}


def table_of(table: pa.Table) -> bytes:
    stream = pa.BufferOutputStream()
    parquet.write_table(table, stream)
    return bytes(stream.getvalue())


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_an_error_that_names_it(tmp_path: Path, damage: str) -> None:
    backend = row(tmp_path / "g")
    path = file_of(backend, "1.0")
    whole = path.read_bytes()
    path.write_bytes(DAMAGES[damage](whole))
    with pytest.raises(GraphError, match=f"{path} is damaged"):
        backend.read(ALL, META)
    with pytest.raises(GraphError, match=f"{path} is damaged"):
        write(backend, {1: (16, 5)})
    assert found(backend, roi=Roi((20, 0), (10, 10))) == ([2], [(2, 3)])
    path.write_bytes(whole)
    assert found(backend)[0] == list(range(5))


def test_a_missing_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    backend = row(tmp_path / "g")
    path = file_of(backend, "1.0", "edges")
    path.unlink()
    with pytest.raises(GraphError, match=f"{path} is missing, though the catalogue has it: put it back"):
        backend.read(ALL, META)


def test_a_file_that_another_machine_removed_is_looked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, stale = row(tmp_path / "g"), [OSError(errno.ESTALE, "Stale file handle")]

    class Remote(parquet.ParquetFile):
        def read(self, *args: Any, **options: Any) -> pa.Table:
            if stale:
                raise stale.pop()
            return super().read(*args, **options)

    monkeypatch.setattr(parquet, "ParquetFile", Remote)
    assert found(backend)[0] == list(range(5))
    assert not stale


CATALOGUE_DAMAGES: dict[str, tuple[str, str]] = {
    "no state": ("DELETE FROM state", "its state is"),
    "metadata": ("UPDATE state SET metadata = '{}'", "metadata .* can't be read"),
    "chunk size": ("UPDATE state SET chunk_size = '\"a\"'", "its state is"),
    "no table": ("DROP TABLE node", "something else"),
    "a name": ("UPDATE chunk SET name = '1.x' WHERE name = '1.0'", "called '1.x'"),
    "a file": ("UPDATE chunk SET nodes = '../../x' WHERE name = '1.0'", "it names '../../x'"),
    "a node": ("INSERT INTO node SELECT 77, number FROM chunk WHERE name = '1.0'", "not in their files"),
}


@pytest.mark.parametrize("damage", CATALOGUE_DAMAGES)
def test_a_damaged_catalogue_is_an_error(tmp_path: Path, damage: str) -> None:
    backend = row(tmp_path / "g")
    statement, message = CATALOGUE_DAMAGES[damage]
    with connected(backend.folder) as db:
        db.execute(statement)
    with pytest.raises(GraphError, match=message):
        write(backend, {1: (16, 5), 77: (1, 1)})
    if damage != "a node":
        with pytest.raises(GraphError, match=message):
            backend.read(ALL, META)


def test_no_file_outside_is_removed_whatever_the_catalogue_says(tmp_path: Path) -> None:
    backend = row(tmp_path / "g")
    (tmp_path / "mine").touch()
    with connected(backend.folder) as db:
        db.execute("INSERT INTO replaced VALUES ('chunks/../../mine')")
    with pytest.raises(GraphError, match=r"names 'chunks/\.\./\.\./mine', which is no file of a chunk"):
        write(backend, {1: (16, 5)})
    assert (tmp_path / "mine").exists()


# What the system refuses -----------------------------------------------------------------------------------------

UNPRIVILEGED = """
import ctypes, os, sys
for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH: by them, root reads and writes anything
    ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP
os.execv(sys.executable, [sys.executable, "-c", *sys.argv[1:]])
"""
TRY = """
import sys
from pathlib import Path
import numpy as np
from bellis.errors import BellisError
from bellis.graphs.backend import Change, Query
from bellis.graphs.columns import Nodes
from bellis.graphs.files.store import FileBackend
from bellis.graphs.metadata import Metadata
backend = FileBackend(sys.argv[1], 10)
metadata = backend.load() or Metadata()
def attempt(what, action):
    try:
        print(what, action())
    except BellisError as error:
        print(what, type(error).__name__, str(error).replace(chr(10), " "))
def write(count, value=0.0, begin=0):
    ids = np.arange(begin, begin + count, dtype=np.uint64)
    values = np.random.default_rng(0).random((count, 2)) * 10 + value
    backend.write(Change(nodes=(Nodes(id=ids, attrs={"position": values}),)), metadata)
read = lambda: len(backend.read(Query(), metadata)[0])
"""


def answers(script: str, path: Path, *before: str) -> dict[str, str]:
    """Run a script in a process that may do less than root; return what came of each of its attempts."""
    command = [*before, sys.executable, "-c", UNPRIVILEGED, TRY + script, str(path)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
    return dict(line.split(" ", 1) for line in ran.stdout.splitlines())  # type: ignore[misc]


@pytest.mark.integration
@pytest.mark.slow
def test_what_may_not_be_written_is_an_error_with_its_path_and_can_be_read(tmp_path: Path) -> None:
    backend = row(tmp_path / "g")
    secret = file_of(backend, "4.0")
    places = [backend.folder, *backend.folder.iterdir(), *(backend.folder / "chunks").iterdir()]
    modes = {place: place.stat().st_mode for place in places}
    for place in places:
        place.chmod(0o555 if place.is_dir() else 0o444)
    try:
        first = answers('attempt("read", read)\nattempt("write", lambda: write(3))', backend.folder)
        secret.chmod(0)
        second = answers('attempt("read", read)', backend.folder)
    finally:
        for place, mode in modes.items():
            place.chmod(mode)
    assert first["read"] == "5"
    assert first["write"].startswith(f"GraphServerError the graph in {backend.folder} can't be reached: ")
    assert "ermission denied" in second["read"]
    assert str(secret) in second["read"]
    assert found(backend)[0] == list(range(5))


def check_full(found_: dict[str, str]) -> None:
    assert found_["first"] == "None"
    assert found_["full"].startswith("GraphServerError"), found_["full"]
    assert found_["read"] == "100"
    assert found_["left"] == "1 0"
    assert found_["again"] == "None"
    assert found_["after"] == "110"


FILL_UP = """
from bellis.graphs.attributes import Kind
attempt("make", lambda: backend.save(metadata.extended({"position": Kind("float", 2)}, {})) and None)
metadata = backend.load()
attempt("first", lambda: write(100))
attempt("full", lambda: write(200_000))
attempt("read", read)
chunks, writers = (list((backend.folder / name).iterdir()) for name in ("chunks", "writers"))
print("left", len(chunks), len(writers))
attempt("again", lambda: write(10, 0.0, 1000))
attempt("after", read)
"""


@pytest.mark.integration
@pytest.mark.slow
def test_a_file_that_may_not_grow_is_an_error_and_nothing_is_written(tmp_path: Path) -> None:
    limits = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
"""
    check_full(answers(limits + FILL_UP, tmp_path / "g"))


@pytest.mark.integration
@pytest.mark.slow
def test_a_full_disk_is_an_error_and_nothing_is_written(tmp_path: Path) -> None:
    """On a disk of 1 MB, which only the process that fills it sees."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = f'mount -t tmpfs -o size=1m tmpfs "{disk}" && exec "$0" "$@"'
    private = ("unshare", "--mount", "sh", "-c", mount)
    if subprocess.run([*private, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("this user may not mount a disk")
    check_full(answers(FILL_UP, disk / "g", *private))
