"""Nodes or edges of one chunk as a Parquet file, which any other reader of Parquet takes as it is."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from bellis.errors import GraphError
from bellis.graphs.columns import absent, column
from bellis.graphs.files.rows import Rows

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy.typing as npt

    from bellis.graphs.attributes import Kind

PARTIAL = ".partial"
"""Ending of files that are being written."""
_TYPES = {"bool": pa.bool_(), "int": pa.int64(), "float": pa.float64(), "str": pa.string()}


class ChunkFile:
    """A file of a chunk, from its opening on: another process may remove it meanwhile.

    Parameters
    ----------
    path
        Where it is.
    count
        How many rows the catalogue says that it has.
    """

    def __init__(self, path: Path, count: int) -> None:
        self.path = path
        self._count = count
        self._file: pa.NativeFile | None = None

    def open(self) -> None:
        """Open the file.

        Raises
        ------
        FileNotFoundError
            If it is not there.
        """
        if self._file is None:
            self._file = pa.OSFile(str(self.path))

    def close(self) -> None:
        """Close it."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def read(self, keys: tuple[str, ...], kinds: Mapping[str, Kind]) -> Rows:
        """Read some of its columns.

        Parameters
        ----------
        keys
            Names of the columns with ids.
        kinds
            Of the attributes to read, what they have to be; one that the file does not have is left out.

        Raises
        ------
        GraphError
            If the file is damaged, or is not what the catalogue says.
        FileNotFoundError
            If it is gone.
        """
        self.open()
        try:
            with parquet.ParquetFile(self._file, page_checksum_verification=True) as file:
                schema = file.schema_arrow
                there = {name: kind for name, kind in kinds.items() if name in schema.names}
                self._check(schema, keys, there)
                table = file.read(columns=[*keys, *there], use_threads=False)
            if len(table) != self._count:
                raise GraphError(f"{self.path} is damaged: it has {len(table)} rows, {self._count} were written")
            rows = Rows(
                tuple(_from_arrow(table[name], None) for name in keys),
                {name: _from_arrow(table[name], kind) for name, kind in there.items()},
            )
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, OSError) and error.errno == errno.ESTALE:
                raise FileNotFoundError(errno.ENOENT, "removed on another machine", str(self.path)) from error
            raise GraphError(
                f"{self.path} is damaged, and can't be read: {error}; put it back from a copy, or replace the graph"
            ) from error
        if not rows.is_sorted:
            raise GraphError(f"{self.path} is damaged: its {' and '.join(keys)} do not ascend")
        return rows

    def _check(self, schema: pa.Schema, keys: tuple[str, ...], kinds: Mapping[str, Kind]) -> None:
        wanted = dict.fromkeys(keys, pa.uint64()) | {name: type_of(kind) for name, kind in kinds.items()}
        for name, kind in wanted.items():
            found = schema.field(name).type if schema.names.count(name) == 1 else None
            if found != kind:
                raise GraphError(
                    f"{self.path} is damaged: its column {name!r} is {found or 'not there'}, but {kind} was written"
                )


def write_chunk(path: Path, rows: Rows, keys: tuple[str, ...], kinds: Mapping[str, Kind]) -> None:
    """Write a file that is not there, all of it at once, and wait until a disk has it.

    The name is on the disk after `sync_folders` only.

    Raises
    ------
    OSError
        If it can't be written.
    """
    partial = path.with_name(path.name + PARTIAL)
    contents = encoded(rows, keys, kinds)
    file = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        rest = memoryview(contents)
        while rest:
            rest = rest[os.write(file, rest) :]
        os.fsync(file)
    finally:
        os.close(file)
    partial.rename(path)


def sync_folders(*folders: Path) -> None:
    """Wait until a disk has the names of the files in folders."""
    for folder in folders:
        number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with contextlib.suppress(OSError):  # some network file systems have no such thing
                os.fsync(number)
        finally:
            os.close(number)


def encoded(rows: Rows, keys: tuple[str, ...], kinds: Mapping[str, Kind]) -> pa.Buffer:
    """Return a file's contents: the ids, and a column for each attribute, null where there is no value."""
    columns = {name: pa.array(ids) for name, ids in zip(keys, rows.keys, strict=True)}
    for name, kind in kinds.items():
        values = rows.attrs.get(name)
        columns[name] = pa.nulls(len(rows), type_of(kind)) if values is None else _to_arrow(values, kind)
    stream = pa.BufferOutputStream()
    parquet.write_table(
        pa.table(columns),
        stream,
        compression="zstd",
        use_dictionary=[name for name, kind in kinds.items() if kind.base == "str" and kind.size is None],
        write_page_checksum=True,
        store_schema=True,
    )
    return stream.getvalue()


def type_of(kind: Kind) -> pa.DataType:
    """Return the type of an attribute's column."""
    base = _TYPES[kind.base]
    return base if kind.size is None else pa.list_(base, kind.size)


def _to_arrow(values: npt.NDArray[Any], kind: Kind) -> pa.Array:
    is_absent = absent(values) if isinstance(values, np.ma.MaskedArray) else None
    plain = np.ma.getdata(values)
    if kind.size is None:
        return pa.array(plain, _TYPES[kind.base], mask=is_absent, from_pandas=False)
    flat = np.ascontiguousarray(plain).reshape(-1)
    if is_absent is None:
        return pa.FixedSizeListArray.from_arrays(pa.array(flat, _TYPES[kind.base], from_pandas=False), kind.size)
    elements = pa.array(flat, _TYPES[kind.base], mask=np.repeat(is_absent, kind.size), from_pandas=False)
    valid = pa.array(~is_absent).buffers()[1]
    return pa.Array.from_buffers(type_of(kind), len(plain), [valid], int(is_absent.sum()), children=[elements])


def _from_arrow(chunked: pa.ChunkedArray, kind: Kind | None) -> npt.NDArray[Any]:
    """Return a column; of ids, if there is no kind."""
    array = chunked.combine_chunks()
    if isinstance(array, pa.ChunkedArray):  # as pyarrow did before version 20, and does for 2^31 bytes of text
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], array.type)
    if kind is None:
        if array.null_count:
            raise pa.ArrowInvalid("an id is missing")
        return np.asarray(array.to_numpy(zero_copy_only=False))
    is_absent = np.asarray(array.is_null().to_numpy(zero_copy_only=False))
    if kind.size is None:
        blank = {"bool": False, "str": ""}.get(kind.base, 0)
        filled = array.fill_null(blank) if array.null_count else array
        return column(filled.to_numpy(zero_copy_only=False), is_absent)
    flat = array.flatten()
    if flat.null_count:
        raise pa.ArrowInvalid("an element of a vector is missing")
    elements: npt.NDArray[Any] = flat.to_numpy(zero_copy_only=False).reshape(-1, kind.size)
    if not array.null_count:
        return elements
    values = np.zeros((len(array), kind.size), kind.dtype)
    if kind.base == "str":
        values.fill("")
    values[~is_absent] = elements
    return column(values, is_absent)
