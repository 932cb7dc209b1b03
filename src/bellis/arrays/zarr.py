"""Zarr arrays, version 2 and 3: metadata is read as JSON, chunks travel through tensorstore."""

from __future__ import annotations

import functools
import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from bellis.errors import ArrayError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy.typing as npt

CACHE_BYTES = 64 * 1024**2
"""Decoded chunks that one process keeps: about what neighbouring blocks read twice."""

COMPRESSORS: Mapping[str, dict[str, Any]] = {
    "blosc": {"cname": "zstd", "clevel": 1, "shuffle": 1, "blocksize": 0},
    "zstd": {"level": 1},
    "gzip": {"level": 5},
}
"""What ``compressor`` may name, with the options that it has and their defaults, as numcodecs."""

DTYPES = (
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64", "complex64", "complex128"),
)
"""Names of the data types that are read and written, in either version of zarr."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ZarrMetadata:
    """What the metadata files of one zarr array say."""

    path: Path
    """Directory of the array, absolute."""
    zarr_format: Literal[2, 3]
    """Version of the zarr specification."""
    shape: tuple[int, ...]
    """Voxels per axis, channel axes included."""
    dtype: np.dtype[Any]
    """Data type in native byte order, which is how voxels are read."""
    chunk_shape: tuple[int, ...]
    """Voxels per axis of the smallest part that is written at once (a shard, if there are any)."""
    attributes: Mapping[str, Any]
    """User attributes, as they are."""


class TensorStoreData:
    """Voxels behind tensorstore: opened at first use, in the process that uses them.

    What is pickled is the description alone, so that a worker process opens the array for itself.
    """

    __slots__ = ("_handle", "_spec", "chunk_shape", "dtype", "is_writeable", "shape")

    def __init__(
        self,
        spec: Mapping[str, Any],
        *,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        chunk_shape: tuple[int, ...] | None,
        is_writeable: bool,
    ) -> None:
        self._spec = spec
        self._handle: Any = None
        self.shape = shape
        self.dtype = dtype
        self.chunk_shape = chunk_shape
        self.is_writeable = is_writeable

    @classmethod
    def of_metadata(cls, metadata: ZarrMetadata, *, is_writeable: bool) -> TensorStoreData:
        """Describe a zarr array on disk; nothing is opened yet."""
        return cls(
            _zarr_spec(metadata.path, metadata.zarr_format),
            shape=metadata.shape,
            dtype=metadata.dtype,
            chunk_shape=metadata.chunk_shape,
            is_writeable=is_writeable,
        )

    @classmethod
    def of_handle(cls, handle: Any) -> TensorStoreData:
        """Wrap an open ``tensorstore.TensorStore``; its indices are shifted to begin at 0."""
        if handle.rank:
            handle = handle.translate_to[(0,) * handle.rank]
        data = cls(
            handle.spec(retain_context=False).to_json(),
            shape=tuple(handle.shape),
            dtype=np.dtype(handle.dtype.numpy_dtype),
            chunk_shape=tuple(handle.chunk_layout.write_chunk.shape or ()) or None,
            is_writeable=bool(handle.writable),
        )
        data._handle = handle
        return data

    def __getitem__(self, slices: tuple[slice, ...]) -> npt.NDArray[Any]:
        """Read into new memory."""
        voxels: npt.NDArray[Any] = self._open()[slices].read().result()
        return voxels

    def __setitem__(self, slices: tuple[slice, ...], voxels: npt.NDArray[Any]) -> None:
        """Write, and return when the chunks are on disk."""
        self._open()[slices].write(voxels).result()

    def __getstate__(self) -> dict[str, Any]:
        kvstore = self._spec.get("kvstore")
        if not kvstore or (isinstance(kvstore, dict) and kvstore.get("driver") == "memory"):
            raise ArrayError(
                f"a tensorstore in memory (driver {self._spec['driver']!r}) can't travel to "
                "another process: use prepare_ds(...) for an array that every process reaches"
            )
        return {name: getattr(self, name) for name in self.__slots__ if name != "_handle"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._handle = None
        for name, value in state.items():
            setattr(self, name, value)

    def _open(self) -> Any:
        pid, tensorstore, context = _tensorstore()
        if pid != os.getpid():
            raise ArrayError(
                f"process {os.getpid()} was forked from process {pid}, which had used tensorstore: "
                "its threads do not survive a fork. Start workers with 'forkserver' or 'spawn'"
            )
        if self._handle is None:
            try:
                handle = tensorstore.open(
                    dict(self._spec),
                    open=True,
                    read=True,
                    write=self.is_writeable or None,
                    context=context,
                ).result()
            except ValueError as error:
                raise ArrayError(f"tensorstore can't open {self._where()}: {error}") from error
            if tuple(handle.shape) != self.shape or handle.dtype.numpy_dtype != self.dtype:
                raise ArrayError(
                    f"{self._where()} was changed since it was opened: it had shape {self.shape} "
                    f"and dtype {self.dtype}, now {tuple(handle.shape)} and {handle.dtype.name}"
                )
            self._handle = handle
        return self._handle

    def _where(self) -> str:
        kvstore = self._spec.get("kvstore")
        return str(kvstore.get("path", kvstore) if isinstance(kvstore, dict) else kvstore)


def read_metadata(path: Path) -> ZarrMetadata | None:
    """Read the metadata of the zarr array at ``path``; None if there is no array.

    Raises
    ------
    ArrayError
        If the metadata can't be read, or the data type is none of bool, integer, float, complex.
    """
    path = path.absolute()
    try:
        if (path / "zarr.json").is_file():
            return _metadata_v3(path, _read_json(path / "zarr.json"))
        if (path / ".zarray").is_file():
            return _metadata_v2(path, _read_json(path / ".zarray"))
    except (KeyError, TypeError) as error:
        raise ArrayError(f"{path} has incomplete zarr metadata: {error!r}") from error
    return None


def group_format(path: Path) -> Literal[2, 3] | None:
    """Return the zarr version of the group at ``path``; None if there is no group."""
    if (path / "zarr.json").is_file():
        return 3 if _read_json(path / "zarr.json").get("node_type") == "group" else None
    return 2 if (path / ".zgroup").is_file() else None


def is_array(path: Path) -> bool:
    """Return whether there is a zarr array at ``path``."""
    if (path / "zarr.json").is_file():
        return _read_json(path / "zarr.json").get("node_type") == "array"
    return (path / ".zarray").is_file()


def create_group(path: Path, zarr_format: Literal[2, 3]) -> None:
    """Make ``path`` a zarr group, unless it is one."""
    if group_format(path) is None:
        path.mkdir(parents=True, exist_ok=True)
        if zarr_format == 3:
            group = {"zarr_format": 3, "node_type": "group", "attributes": {}}
            _write_json(path / "zarr.json", group)
        else:
            _write_json(path / ".zgroup", {"zarr_format": 2})


def create_array(
    path: Path,
    zarr_format: Literal[2, 3],
    *,
    shape: Sequence[int],
    dtype: np.dtype[Any],
    chunk_shape: Sequence[int],
    fill_value: complex,
    compressor: str | Mapping[str, Any] | None,
    attributes: Mapping[str, Any],
    axis_names: Sequence[str],
) -> None:
    """Make an empty zarr array; two processes that make the same one both succeed."""
    codec = _codec(compressor, dtype, zarr_format)
    if zarr_format == 3:
        metadata = {
            "shape": list(shape),
            "data_type": dtype.name,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunk_shape)}},
            "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}] + ([codec] if codec else []),
            "fill_value": _fill(fill_value, dtype),
            "attributes": dict(attributes),
            "dimension_names": list(axis_names),
        }
    else:
        metadata = {
            "shape": list(shape),
            "dtype": dtype.newbyteorder("<").str,
            "chunks": list(chunk_shape),
            "compressor": codec,
            "fill_value": _fill(fill_value, dtype),
        }
        path.mkdir(parents=True, exist_ok=True)
        _write_json(path / ".zattrs", attributes)
    spec = {**_zarr_spec(path, zarr_format), "metadata": metadata}
    _, tensorstore, context = _tensorstore()
    try:
        tensorstore.open(spec, open=True, create=True, context=context).result()
    except ValueError as error:
        raise ArrayError(f"tensorstore can't make {path}: {error}") from error


@functools.cache
def _tensorstore() -> tuple[int, Any, Any]:
    """Return the process that loaded tensorstore, the module, and the context of this process.

    One worker process per core is the rule, so each is content with few threads.
    """
    try:
        import tensorstore
    except ImportError as error:
        raise ArrayError("zarr arrays need tensorstore, which is not installed: pip install 'bellis[zarr]'") from error
    context = tensorstore.Context(
        {
            "cache_pool": {"total_bytes_limit": CACHE_BYTES},
            "data_copy_concurrency": {"limit": 1},
            "file_io_concurrency": {"limit": 2},
        }
    )
    return os.getpid(), tensorstore, context


def _metadata_v3(path: Path, found: Mapping[str, Any]) -> ZarrMetadata | None:
    if found["node_type"] != "array":
        return None
    grid = found["chunk_grid"]
    if grid["name"] != "regular":
        raise ArrayError(f"{path} has a chunk grid {grid['name']!r}: only 'regular' is read")
    return ZarrMetadata(
        path=path,
        zarr_format=3,
        shape=tuple(found["shape"]),
        dtype=_dtype(found["data_type"], path),
        chunk_shape=tuple(grid["configuration"]["chunk_shape"]),
        attributes=found.get("attributes", {}),
    )


def _metadata_v2(path: Path, found: Mapping[str, Any]) -> ZarrMetadata:
    attributes = path / ".zattrs"
    return ZarrMetadata(
        path=path,
        zarr_format=2,
        shape=tuple(found["shape"]),
        dtype=_dtype(found["dtype"], path),
        chunk_shape=tuple(found["chunks"]),
        attributes=_read_json(attributes) if attributes.is_file() else {},
    )


def _zarr_spec(path: Path, zarr_format: Literal[2, 3]) -> dict[str, Any]:
    return {
        "driver": "zarr3" if zarr_format == 3 else "zarr",
        "kvstore": {"driver": "file", "path": f"{path}/"},
    }


def _codec(
    asked: str | Mapping[str, Any] | None, dtype: np.dtype[Any], zarr_format: Literal[2, 3]
) -> dict[str, Any] | None:
    """Return the codec as zarr metadata of the version writes it."""
    if asked is None:
        return None
    given = {"id": asked} if isinstance(asked, str) else dict(asked)
    name = "blosc" if given.get("id") == "default" else given.get("id")
    if not isinstance(name, str) or name not in COMPRESSORS:
        raise ArrayError(f"compressor {asked!r} is unknown: use {', '.join(COMPRESSORS)} or None")
    options = COMPRESSORS[name] | given | {"id": name}
    if unknown := sorted(options.keys() - COMPRESSORS[name].keys() - {"id"}):
        raise ArrayError(f"compressor {name!r} has no options {', '.join(unknown)}")
    if zarr_format == 2:
        return options
    del options["id"]
    if name == "blosc":
        shuffle = {0: "noshuffle", 1: "shuffle", 2: "bitshuffle"}[options["shuffle"]]
        options |= {"shuffle": shuffle, "typesize": dtype.itemsize}
    return {"name": name, "configuration": options}


def _fill(value: complex, dtype: np.dtype[Any]) -> Any:
    """Return a fill value as JSON; NaN and infinity are words in zarr."""
    if dtype.kind == "c":
        part = np.dtype(f"f{dtype.itemsize // 2}")
        return [_fill(complex(value).real, part), _fill(complex(value).imag, part)]
    voxel = np.asarray(value).astype(dtype)[()]
    if dtype.kind == "f" and not np.isfinite(voxel):
        return "NaN" if np.isnan(voxel) else "Infinity" if voxel > 0 else "-Infinity"
    return voxel.item()


def _dtype(name: Any, path: Path) -> np.dtype[Any]:
    try:
        dtype = np.dtype(name).newbyteorder("=") if isinstance(name, str) else None
    except TypeError:
        dtype = None
    if dtype is None or dtype.name not in DTYPES:
        raise ArrayError(f"{path} has data type {name!r}: only {', '.join(DTYPES)} are read")
    return dtype


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ArrayError(f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ArrayError(f"{path} holds a JSON {type(value).__name__}, not an object")
    return value


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write so that a reader sees all or nothing."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_text(json.dumps(value, indent=2), encoding="utf-8")
    partial.replace(path)
