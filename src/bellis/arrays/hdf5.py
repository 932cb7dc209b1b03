"""HDF5 datasets of this machine, through h5py.

A process that is killed while it writes may leave a file that HDF5 can't read any more: its chunks
are found through an index, which is in the same file. Zarr and N5 lose one chunk at most.
"""

from __future__ import annotations

import os
import secrets
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bellis.arrays.conventions import layout_of
from bellis.arrays.format import BELLIS_ID, Stored
from bellis.arrays.hdf5_attributes import as_attribute, attributes_of, said_by_others, sizes_um
from bellis.arrays.hdf5_files import turns
from bellis.errors import ArrayError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy as np
    import numpy.typing as npt

    from bellis.arrays.format import Missing, NewArray
    from bellis.arrays.location import Location

SUFFIXES = (".h5", ".hdf5", ".hdf")
"""Endings of a file that is taken for HDF5 even if it is not there yet."""
SIGNATURE = b"\x89HDF\r\n\x1a\n"
"""First bytes of an HDF5 file."""
COMPRESSORS: Mapping[str, Mapping[str, Any]] = {"gzip": {"level": 1}, "lzf": {}}
"""What ``compressor`` may name, with its options and their defaults."""


class Hdf5Data:
    """Voxels of one HDF5 dataset; any process may read and write any part at any time."""

    __slots__ = ("_file", "_name", "chunk_shape", "dtype", "is_writeable", "shape")

    def __init__(
        self,
        file: str,
        name: str,
        *,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        chunk_shape: tuple[int, ...] | None,
        is_writeable: bool,
    ) -> None:
        self._file = file
        self._name = name
        self.shape = shape
        self.dtype = dtype
        self.chunk_shape = chunk_shape
        self.is_writeable = is_writeable

    @property
    def path(self) -> str:
        """File and name, for people."""
        return f"{self._file}/{self._name}"

    @property
    def write_shape(self) -> None:
        """None: writes wait for each other, and each sees what was written before it."""
        return

    def __getitem__(self, slices: tuple[slice, ...]) -> npt.NDArray[Any]:
        """Read into new memory, in native byte order."""
        with _explained(f"read {slices} of {self.path}"), turns().reading(self._file) as file:
            voxels: npt.NDArray[Any] = self._checked(file[self._name])[slices]
        return voxels.astype(self.dtype, copy=False)

    def __setitem__(self, slices: tuple[slice, ...], voxels: npt.NDArray[Any]) -> None:
        """Write, and return when the voxels are in the file."""
        if not self.is_writeable:
            raise ArrayError(f"{self.path} is open to read only: open_ds(..., mode='r+')")
        with _explained(f"write {slices} of {self.path}"), turns().writing(self._file) as file:
            self._checked(file[self._name])[slices] = voxels

    def _checked(self, dataset: Any) -> Any:
        if tuple(dataset.shape) != self.shape or dataset.dtype != self.dtype.newbyteorder(dataset.dtype.byteorder):
            raise ArrayError(
                f"{self.path} was changed since it was opened: it had shape {self.shape} and dtype "
                f"{self.dtype}, now {tuple(dataset.shape)} and {dataset.dtype}"
            )
        return dataset


class Hdf5Format:
    """HDF5 files of this machine. Several processes may write one dataset; they take turns."""

    name = "hdf5"

    def claims(self, location: Location) -> bool:
        """Whether the file begins as HDF5 does, or would be called so."""
        if location.format is not None or location.suffix in SUFFIXES:
            return location.format in (None, self.name)
        return not location.is_remote and _begins_as_hdf5(location.root)

    def datasets(self, location: Location) -> list[str]:
        """Return the names of the numeric datasets in a file or a group."""
        path, name = _local(location)
        found: list[str] = []

        def note(child: str, item: Any) -> None:
            if _is_voxels(item):
                found.append(child)

        with _explained(f"list {location}"):
            if not _is_there(path):
                return []
            with turns().reading(path) as file:
                group = file.get(name or "/")
                if hasattr(group, "visititems"):
                    group.visititems(note)
                elif group is not None and _is_voxels(group):
                    found.append("")
        return sorted(found)

    def open(self, location: Location, *, is_writeable: bool, missing: Missing) -> Stored | None:
        """Describe a dataset; ``missing`` has no meaning here, HDF5 fills what was never written."""
        path, name = _local(location)
        with _explained(f"open {location}"):
            if not name or not _is_there(path):
                return None
            if is_writeable and not os.access(path, os.W_OK):
                raise ArrayError(f"{path} can't be written by this user: open_ds(..., mode='r')")
            with turns().reading(path) as file:
                dataset = file.get(name)
                if not hasattr(dataset, "shape"):
                    return None
                return _stored(dataset, path, name, is_writeable=is_writeable)

    def create(self, location: Location, new: NewArray) -> None:
        """Make an empty dataset, with the groups above it."""
        path, name = _local(location)
        if not name:
            raise ArrayError(f"{path}: an HDF5 file holds datasets by name, like '{path}/raw': pass one")
        if new.shard_shape is not None:
            raise ArrayError(f"{location}: HDF5 has no shards, but shard_shape is {new.shard_shape}: leave it out")
        filters = _filters(new.compressor, location)
        layout = new.layout
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with _explained(f"make {location}"), turns().writing(path, create=True) as file:
            if name in file:
                _refuse_other(file[name], new, location)
                return
            dataset = file.create_dataset(
                name,
                shape=layout.shape,
                dtype=layout.dtype,
                chunks=new.chunk_shape,
                # Chunks may be larger than a small array only if it could grow.
                maxshape=tuple(map(max, layout.shape, new.chunk_shape)),
                fillvalue=new.fill_value,
                **filters,
            )
            try:
                # The file changes with each write: only this tells a dataset from one that was made in its place.
                made = {BELLIS_ID: secrets.token_hex(8)}
                for key, value in {**new.attrs, **sizes_um(layout), **layout.attributes(), **made}.items():
                    dataset.attrs[key] = as_attribute(value)
                for axis, label in enumerate(layout.axis_names):
                    dataset.dims[axis].label = label
            except BaseException:
                del file[name]  # without its attributes it would be somewhere else
                raise

    def delete(self, location: Location) -> None:
        """Remove a dataset, and the file if it held nothing else; else its space stays in the file."""
        path, name = _local(location)
        with _explained(f"delete {location}"):
            if not name or not _is_there(path):
                return
            with turns().writing(path) as file:
                if not hasattr(file.get(name), "shape"):
                    return
                del file[name]
                is_empty = not file.attrs and file.visititems(_what_matters) is None
                if is_empty:
                    Path(path).unlink()


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Turn what h5py raises for a damaged, missing or foreign file into an ArrayError."""
    try:
        yield
    except ArrayError:
        raise
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise ArrayError(f"can't {what}: {error}") from error


def _local(location: Location) -> tuple[str, str]:
    if location.is_remote:
        raise ArrayError(f"{location} is a URL: HDF5 is read from local files; fetch the file, or convert it to zarr")
    return location.root, location.name


def _is_there(path: str) -> bool:
    """Whether there is a file with anything in it: one that is being made is empty."""
    return Path(path).is_file() and Path(path).stat().st_size > 0


def _begins_as_hdf5(path: str) -> bool:
    try:
        with Path(path).open("rb") as file:
            return file.read(len(SIGNATURE)) == SIGNATURE
    except OSError:
        return False


def _is_voxels(item: Any) -> bool:
    return bool(getattr(item, "shape", None)) and _is_number(item.dtype)


def _is_number(dtype: np.dtype[Any]) -> bool:
    return dtype.kind in "biufc" and dtype.itemsize <= 16 and dtype.name != "longdouble"


def _what_matters(_name: str, item: Any) -> bool | None:
    """Stop `visititems` at anything that a user may miss: None goes on."""
    return True if hasattr(item, "shape") or item.attrs else None


def _stored(dataset: Any, path: str, name: str, *, is_writeable: bool) -> Stored:
    if not _is_voxels(dataset):
        raise ArrayError(
            f"{path}/{name} has shape {dataset.shape} and dtype {dataset.dtype}: only arrays of numbers are read"
        )
    attrs = attributes_of(dataset)
    dtype = dataset.dtype.newbyteorder("=")
    data = Hdf5Data(
        path,
        name,
        shape=tuple(dataset.shape),
        dtype=dtype,
        chunk_shape=dataset.chunks,
        is_writeable=is_writeable,
    )
    try:
        layout = layout_of({**said_by_others(dataset, attrs), **attrs}, data.shape, dtype)
    except ArrayError as error:
        raise ArrayError(f"{data.path} has attributes that do not fit it: {error}") from error
    return Stored(
        data=data,
        layout=layout,
        attrs=attrs,
        format="hdf5",
        compressor=dataset.compression,
        fill_value=dataset.fillvalue,
    )


def _filters(compressor: str | Mapping[str, Any] | None, location: Location) -> dict[str, Any]:
    """Return the options of `create_dataset` for a compressor."""
    if compressor is None:
        return {}
    given = {"id": compressor} if isinstance(compressor, str) else dict(compressor)
    name = "gzip" if given.get("id") == "default" else str(given.get("id"))
    if name not in COMPRESSORS:
        raise ArrayError(f"{location}: compressor {compressor!r} is not of HDF5: use {', '.join(COMPRESSORS)} or None")
    options = {**COMPRESSORS[name], **given, "id": name}
    if unknown := sorted(options.keys() - COMPRESSORS[name].keys() - {"id"}):
        raise ArrayError(f"{location}: compressor {name!r} has no options {', '.join(unknown)}")
    # Bytes of one significance stand together, which both compress better.
    return {"compression": name, "compression_opts": options.get("level"), "shuffle": True}


def _refuse_other(found: Any, new: NewArray, location: Location) -> None:
    """Raise if what another process made in the meantime is not what was asked for."""
    asked = (new.layout.shape, new.layout.dtype, new.chunk_shape)
    there = (getattr(found, "shape", None), getattr(found, "dtype", None), getattr(found, "chunks", None))
    if asked != there:
        raise ArrayError(f"{location} exists: asked for shape, dtype and chunks {asked}, found {there}")
