"""Graphs in a folder of Parquet files, one for the nodes and one for the edges of each block of space."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from bellis.errors import GraphError, GraphMismatchError
from bellis.graphs.attributes import check_identifier
from bellis.graphs.files import catalogue, custody
from bellis.graphs.files.catalogue import CATALOGUE, CHUNKS, Entry, State, connected, guarded
from bellis.graphs.files.grid import Grid
from bellis.graphs.files.parquet import sync_folders, write_chunk
from bellis.graphs.files.read import Lookup
from bellis.graphs.files.view import attempt
from bellis.graphs.files.write import Draft, Rewrite
from bellis.graphs.metadata import Metadata

if TYPE_CHECKING:
    import os
    import sqlite3

    from bellis.graphs.backend import Change, Query
    from bellis.graphs.columns import Edges, Nodes
    from bellis.graphs.files.rows import Rows
    from bellis.graphs.files.view import View

_OURS = {CATALOGUE, f"{CATALOGUE}-journal", CHUNKS, custody.WRITERS, custody.READERS}
_THREADS = 4
"""Files that are written at once."""


class FileBackend:
    """A graph in a folder.

    Files are never changed: a write makes new ones of the chunks that it touches, and then says so in the catalogue,
    in one transaction. Any number of processes may read and write at once; those that write different chunks wait for
    each other's commits only.

    Parameters
    ----------
    directory
        The folder. File systems have to have locks; network file systems may have them.
    chunk_size
        Extent of a chunk in world units, one number for all axes or one per axis. Needed to make a graph; if it is
        given for one that is there, it has to be that of the graph. Good chunks have about 10 000 nodes.

    Raises
    ------
    GraphError
        If ``chunk_size`` is none.
    """

    def __init__(self, directory: str | os.PathLike[str], chunk_size: Any = None) -> None:
        self.folder = Path(directory).absolute()
        self.chunk_size = None if chunk_size is None else Grid.parse(chunk_size)

    @classmethod
    def at(
        cls, place: str | os.PathLike[str], *, nodes: str = "nodes", edges: str = "edges", chunk_size: Any = None
    ) -> Self:
        """Return the backend for a folder; with other names than these, for a graph of its own in a folder within.

        Raises
        ------
        GraphError
            If a name or ``chunk_size`` is none.
        """
        names = check_identifier("nodes", nodes), check_identifier("edges", edges)
        if names[0] == names[1]:
            raise GraphError(f"nodes and edges are both called {nodes!r}: they need two names")
        return cls(Path(place) if names == ("nodes", "edges") else Path(place) / ".".join(names), chunk_size)

    def __str__(self) -> str:
        return str(self.folder)

    def load(self) -> Metadata | None:
        """Return the metadata, or None if there is no graph.

        Raises
        ------
        GraphMismatchError
            If its chunks have another size than is asked for.
        GraphError
            If there is something else, or what is there is damaged.
        """
        with guarded(self.folder):
            if self.folder.exists() and not self.folder.is_dir():
                raise GraphError(f"{self.folder} is a file: a graph of files has a folder of its own")
            if not (self.folder / CATALOGUE).exists():
                return None
            with connected(self.folder) as db:
                state = catalogue.state_of(db, self.folder)
        return None if state is None else self._metadata_of(state)

    def save(self, metadata: Metadata, *, replace: bool = False) -> Metadata:
        """Make a graph, or let attributes join.

        Raises
        ------
        GraphError
            If a graph is to be made, and there is no ``chunk_size``, or the folder is that of something else.
        GraphMismatchError
            If another process has made a graph that is not like that.
        """
        with guarded(self.folder):
            self._prepare()
            with connected(self.folder, makes=True) as db:
                db.execute("BEGIN IMMEDIATE")
                try:
                    stored = self._save(db, metadata, replaces=replace)
                    db.execute("COMMIT")
                finally:
                    if db.in_transaction:
                        db.execute("ROLLBACK")
                if replace:
                    custody.remove(self.folder, catalogue.replaced(db))
        return stored

    def read(self, query: Query, metadata: Metadata) -> tuple[Nodes, Edges]:
        """Return what a query asks for: only chunks and columns that it needs are read."""
        return attempt(self.folder, lambda view: Lookup(view, query, metadata).read(), hold="BEGIN")

    def count(self, query: Query, metadata: Metadata) -> tuple[int, int]:
        """Return how many nodes and edges a query finds."""
        return attempt(self.folder, lambda view: Lookup(view, query, metadata).count(), hold="BEGIN")

    def write(self, change: Change, metadata: Metadata) -> None:
        """Write, all or nothing, at the moment at which the catalogue is committed."""
        attempt(self.folder, lambda view: _write(view, change, metadata), hold="BEGIN IMMEDIATE")

    def close(self) -> None:
        """Do nothing: files are open for as long as a call."""

    def _prepare(self) -> None:
        """Make the folder."""
        parents = [folder for folder in (self.folder, *self.folder.parents) if not folder.exists()]
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.folder / CATALOGUE).exists():
            others = sorted(entry.name for entry in self.folder.iterdir() if not _is_ours(entry))
            if others:
                raise GraphError(
                    f"{self.folder} has no graph, but {', '.join(map(repr, others[:5]))}: a graph of files has a "
                    "folder of its own"
                )
            (self.folder / CHUNKS).mkdir(exist_ok=True)
            (self.folder / custody.READERS).touch()
            sync_folders(self.folder, *(folder.parent for folder in parents))

    def _save(self, db: sqlite3.Connection, metadata: Metadata, *, replaces: bool) -> Metadata:
        state = catalogue.state_of(db, self.folder)
        if state is None or replaces:
            if self.chunk_size is None:
                raise GraphError(
                    f"chunk_size is missing, to make a graph in {self.folder}: how many world units a chunk extends in "
                    "each axis, so that about 10 000 nodes are in it"
                )
            self._check_rank(metadata)
            catalogue.make(db, metadata.encode(), self.chunk_size, version=0 if state is None else state.version)
        else:
            stored = self._metadata_of(state)
            asked = ("directed", "total_roi", "position", "endpoints")
            stored.check({name: getattr(metadata, name) for name in asked}, where=str(self.folder))
            metadata = stored.extended(metadata.node_attrs, metadata.edge_attrs)
            self._check_rank(metadata)
            if metadata == stored:
                return stored
            db.execute("UPDATE state SET metadata = ?, version = version + 1", (metadata.encode(),))
        if metadata.dims is not None:
            catalogue.place_axes(db, metadata.dims)
        return metadata

    def _metadata_of(self, state: State) -> Metadata:
        if self.chunk_size is not None and not _is_same_size(self.chunk_size, state.chunk_size):
            raise GraphMismatchError(
                f"the graph in {self.folder} has chunks of {state.chunk_size}, but chunk_size is {self.chunk_size}: "
                "leave it out to take what is stored, or pass mode='w' to replace the graph"
            )
        return Metadata.decode(state.metadata, where=str(self.folder))

    def _check_rank(self, metadata: Metadata) -> None:
        size = self.chunk_size
        if isinstance(size, tuple) and metadata.dims not in (None, len(size)):
            raise GraphMismatchError(f"chunk_size {size} has {len(size)} axes, but positions have {metadata.dims}")


def _is_ours(entry: Path) -> bool:
    """Return whether it belongs to a graph, or is a graph with other names of its nodes and edges."""
    return entry.name in _OURS or (entry / CATALOGUE).exists()


def _is_same_size(one: tuple[int, ...] | int, other: tuple[int, ...] | int) -> bool:
    """Return whether sizes are the same; one number stands for all axes."""
    if isinstance(one, tuple) and isinstance(other, tuple):
        return one == other
    sizes = {size for value in (one, other) for size in (value if isinstance(value, tuple) else (value,))}
    return len(sizes) == 1


def _write(view: View, change: Change, metadata: Metadata) -> None:
    """Work out a change, write files, and commit; files of earlier writers that are in use no more are removed."""
    folder, db = view.folder, view.db
    custody.sweep(folder, db)
    work = Rewrite(view, change, metadata)
    changed = [draft for draft in work.drafts if draft.new_nodes is not None or draft.new_edges is not None]
    if not changed:
        return
    with custody.writing(folder, db) as token:
        with ThreadPoolExecutor(_THREADS) as threads:  # a disk takes several files in the time of one
            entries = list(threads.map(lambda draft: _stored(view, draft, token), changed))
        sync_folders(folder / CHUNKS, folder)
        with view.commit() as version:
            _note(db, work, entries, version)
            old = catalogue.replaced(db)
            names = [name for draft in changed if draft.chunk for name in (draft.chunk.nodes, draft.chunk.edges)]
            kept = {name for entry in entries for name in (entry.nodes, entry.edges)}
            gone = [name for name in names if name is not None and name not in kept]
            catalogue.note_replaced(db, gone, old if custody.remove(folder, old) else ())
    view.close()
    custody.remove(folder, gone)


def _stored(view: View, draft: Draft, token: str) -> Entry:
    """Write the files of a chunk that changed."""
    chunk, metadata = draft.chunk, view.metadata
    nodes, num_nodes = (chunk.nodes, chunk.num_nodes) if chunk else (None, 0)
    edges, num_edges = (chunk.edges, chunk.num_edges) if chunk else (None, 0)
    if draft.new_nodes is not None:
        num_nodes = len(draft.new_nodes)
        nodes = catalogue.file_of(draft.place, token, "nodes") if num_nodes else None
        _write_file(view, nodes, draft.new_nodes, ("id",), metadata.node_attrs)
    if draft.new_edges is not None:
        num_edges = len(draft.new_edges)
        edges = catalogue.file_of(draft.place, token, "edges") if num_edges else None
        _write_file(view, edges, draft.new_edges, metadata.endpoints, metadata.edge_attrs)
    return Entry(draft.place, nodes, edges, num_nodes, num_edges)


def _write_file(view: View, name: str | None, rows: Rows, keys: tuple[str, ...], kinds: Any) -> None:
    if name is not None:
        write_chunk(view.folder / name, rows, keys, kinds)


def _note(db: sqlite3.Connection, work: Rewrite, entries: list[Entry], version: int) -> None:
    """Say in the catalogue what is where now."""
    for entry in entries:
        catalogue.put(db, entry, version)
    ids, slots = work.placed
    used, which = np.unique(slots, return_inverse=True)
    numbers = np.array([catalogue.number_of(db, work.drafts[slot].place) for slot in used.tolist()], np.int64)
    catalogue.put_nodes(db, ids, numbers[which.reshape(-1)])
    catalogue.drop_nodes(db, work.removed)
    far = [(ids, catalogue.number_of(db, work.drafts[slot].place)) for ids, slot in work.crossings() if len(ids)]
    if far:
        ids = np.concatenate([ids for ids, _ in far])
        catalogue.put_crossings(db, ids, np.concatenate([np.full(len(ids), number) for ids, number in far]))
