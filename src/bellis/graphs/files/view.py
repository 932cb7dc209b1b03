"""What one reader or writer of a store of files has been told, and whether that is still so."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Self, TypeVar

import numpy as np

from bellis.errors import GraphError, GraphMissingError, GraphServerError
from bellis.graphs.files import catalogue, custody
from bellis.graphs.files.grid import Grid
from bellis.graphs.files.parquet import ChunkFile
from bellis.graphs.files.rows import Rows
from bellis.graphs.metadata import Metadata

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from bellis.graphs.attributes import Kind
    from bellis.graphs.files.catalogue import Chunk, State

    Answer = TypeVar("Answer")

TRIES = 3
"""How often something is begun when others change what it needs; the last time, nobody else may commit."""
MANY_FILES = 200
"""So many files are opened at once at most."""


class MovedError(Exception):
    """Others have changed what was read before: begin again."""


class View:
    """The graph at one moment, which moves on as long as nothing that was asked for changes.

    A question is asked in a transaction, in `step`. While that is open nobody commits, so that files which the
    catalogue names are there, and stay so for who has them open.

    Parameters
    ----------
    folder
        Of the graph.
    db
        Its catalogue.
    hold
        How to begin a transaction that ends with the view; None for one per step.
    """

    def __init__(self, folder: Path, db: sqlite3.Connection, hold: str | None = None) -> None:
        self.folder = folder
        self.db = db
        self.metadata = Metadata()
        """What is stored."""
        self._hold = hold
        self._state: State | None = None
        self._asked: list[tuple[Callable[..., Any], tuple[Any, ...], Any]] = []
        self._files: dict[str, ChunkFile] = {}
        self._ends = contextlib.ExitStack()
        self._is_pinned = False

    def __enter__(self) -> Self:
        if self._hold:
            self.db.execute(self._hold)
        try:
            with self.step():
                return self
        except BaseException:
            self.close()
            raise

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all files."""
        for file in self._files.values():
            file.close()
        self._files.clear()
        self._ends.close()
        if self.db.in_transaction:
            self.db.execute("ROLLBACK")

    @property
    def state(self) -> State:
        """What the catalogue says of the whole graph."""
        assert self._state is not None  # noqa: S101  since __enter__
        return self._state

    def grid(self, dims: int) -> Grid:
        """Return the grid of chunks."""
        return Grid.of(self.state.chunk_size, dims)

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """Ask a few questions that are answered at one moment, at which all earlier answers are still right.

        Raises
        ------
        MovedError
            If they are not.
        """
        if self._hold:
            if self._state is None:
                self._look()
            yield
            return
        self.db.execute("BEGIN")
        try:
            self._look()
            yield
        finally:
            self.db.execute("ROLLBACK")

    @contextlib.contextmanager
    def commit(self) -> Iterator[int]:
        """Yield the version to come; what is written to the catalogue meanwhile is there at once, or not at all.

        Raises
        ------
        MovedError
            If earlier answers are not right any more.
        """
        if not self.db.in_transaction:
            self.db.execute("BEGIN IMMEDIATE")
        try:
            self._look()
            yield self.state.version + 1
            self.db.execute("UPDATE state SET version = version + 1")
            self.db.execute("COMMIT")
        except BaseException:
            if self.db.in_transaction:
                self.db.execute("ROLLBACK")
            raise

    def ask(self, question: Callable[..., Answer], *args: Any) -> Answer:
        """Ask something of the catalogue that has to be so until the end."""
        answer = question(self.db, *args)
        self._asked.append((question, args, answer))
        return answer

    def open(self, chunks: Iterable[Chunk], *, nodes: bool = True, edges: bool = True) -> None:
        """Open files of chunks; if they are too many, see that nobody removes them."""
        wanted = [
            (name, count)
            for chunk in chunks
            for name, count, is_wanted in (
                (chunk.nodes, chunk.num_nodes, nodes),
                (chunk.edges, chunk.num_edges, edges),
            )
            if is_wanted and name is not None and name not in self._files
        ]
        for name, count in wanted:
            self._files[name] = ChunkFile(self.folder / name, count)
        if len(self._files) > MANY_FILES:
            if not self._is_pinned:
                self._ends.enter_context(custody.reading(self.folder))
                self._is_pinned = True
            return
        for name, _ in wanted:
            with self._missing(name, is_sure=True):
                self._files[name].open()

    def read(self, name: str | None, keys: tuple[str, ...], kinds: Mapping[str, Kind]) -> Rows:
        """Read columns of a file that was opened; None has no rows."""
        if name is None:
            return Rows.empty(len(keys))
        with self._missing(name, is_sure=bool(self._hold)):
            rows = self._files[name].read(keys, kinds)
        if len(self._files) > MANY_FILES:
            self._files[name].close()
        return rows

    @contextlib.contextmanager
    def _missing(self, name: str, *, is_sure: bool) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            if not is_sure:
                raise MovedError from error
            raise GraphError(
                f"{self.folder / name} is missing, though the catalogue has it: put it back from a copy, or replace "
                "the graph"
            ) from error

    def _look(self) -> None:
        found = catalogue.state_of(self.db, self.folder)
        if found is None:
            raise GraphMissingError(f"there is no graph in {self.folder} any more")
        if self._state is not None and found != self._state:
            is_same = found.epoch == self._state.epoch
            if not (is_same and all(_same(question(self.db, *args), answer) for question, args, answer in self._asked)):
                raise MovedError
        if self._state is None or found.metadata != self._state.metadata:
            self.metadata = Metadata.decode(found.metadata, where=str(self.folder))
        self._state = found


def attempt(folder: Path, job: Callable[[View], Answer], *, hold: str) -> Answer:
    """Do something with a view, again if others get in its way, and at last without others.

    Parameters
    ----------
    hold
        How to begin a transaction that keeps others from committing.
    """
    with catalogue.guarded(folder):
        if not (folder / catalogue.CATALOGUE).exists():
            raise GraphMissingError(f"there is no graph in {folder} (any more)")
        with catalogue.connected(folder) as db:
            for count in range(1, TRIES + 1):
                with contextlib.suppress(MovedError), View(folder, db, hold if count == TRIES else None) as view:
                    return job(view)
    raise GraphServerError(f"the graph in {folder} was changed by others all the time; nothing was written; try again")


def _same(one: Any, other: Any) -> bool:
    return np.array_equal(one, other) if isinstance(one, np.ndarray) else bool(one == other)
