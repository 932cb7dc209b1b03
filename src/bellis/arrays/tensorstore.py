"""Voxels behind tensorstore: what zarr, N5 and precomputed have in common."""

from __future__ import annotations

import functools
import os
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import numpy as np

from bellis.errors import ArrayError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from bellis.arrays.format import Missing
    from bellis.arrays.location import Location

CACHE_BYTES = 48 * 1024**2
"""Decoded chunks that one process keeps: a good part of what neighbouring blocks read twice.

A filter with context over 128^3 chunks of uint8 needs 30 % less processor time than without; with a third less of a
cache, only 17 % less.
"""
RETRIES = {"max_retries": 5, "initial_delay": "250ms", "max_delay": "4s"}
"""How often a request to a server is tried, about 5 to 10 s in all; tensorstore's own 32 times are minutes."""
SERVER_TIMEOUT_S = 300.0
"""How long one region may take to come from a server, or to go there."""
FAILURES = (ValueError, IndexError, KeyError, OSError, RuntimeError, TypeError)
"""What tensorstore raises; NotImplementedError is a RuntimeError."""

_CONTEXT = {
    # One worker process per core is the rule, so each is content with few threads.
    "cache_pool": {"total_bytes_limit": CACHE_BYTES},
    "cache_pool#written": {"total_bytes_limit": 0},
    "data_copy_concurrency": {"limit": 1},
    "file_io_concurrency": {"limit": 2},
    "http_request_retries": RETRIES,
    "s3_request_retries": RETRIES,
    "gcs_request_retries": RETRIES,
}
_CACHED = ("zarr", "zarr3", "n5", "neuroglancer_precomputed")
_DAMAGED = ("FAILED_PRECONDITION", "DATA_LOSS", "INVALID_ARGUMENT")
_DETAILS = re.compile(r"\s*\[(tensorstore_spec|source locations|transform|domain)='.*", re.DOTALL)


class TensorStoreData:
    """Voxels behind tensorstore: opened at first use, in the process that uses them.

    What is pickled is the description alone, so that a worker process opens the array for itself. Indices begin at 0
    on every axis, wherever the store's begin.

    Parameters
    ----------
    spec
        What ``tensorstore.open`` takes: driver, kvstore and options.
    path
        Path or URL, for people.
    shape, dtype, chunk_shape, write_shape
        As in `ArrayData`, axes in the order in which they are presented.
    is_writeable
        Whether voxels may be assigned.
    order
        The store's axis for each axis that is presented: ``(2, 1, 0)`` presents a store of x, y, z as z, y, x; None for
        the order of the store.
    dropped
        Axes of the store, of length 1, that are not presented.
    """

    __slots__ = (
        *("_dropped", "_handle", "_order", "_spec"),
        *("chunk_shape", "dtype", "is_writeable", "path", "shape", "write_shape"),
    )

    def __init__(
        self,
        spec: Mapping[str, Any],
        *,
        path: str,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        chunk_shape: tuple[int, ...] | None,
        write_shape: tuple[int, ...] | None,
        is_writeable: bool,
        order: tuple[int, ...] | None = None,
        dropped: tuple[int, ...] = (),
    ) -> None:
        self._spec = spec
        self.path = path
        self._order = order
        self._dropped = dropped
        self._handle: Any = None
        self.shape = shape
        self.dtype = dtype
        self.chunk_shape = chunk_shape
        self.write_shape = write_shape
        self.is_writeable = is_writeable

    @classmethod
    def of_handle(cls, handle: Any) -> TensorStoreData:
        """Wrap an open ``tensorstore.TensorStore``; its indices are shifted to begin at 0."""
        if handle.rank:
            handle = handle.translate_to[(0,) * handle.rank]
        spec = handle.spec(retain_context=False).to_json()
        layout = handle.chunk_layout
        data = cls(
            spec,
            path=_place(spec),
            shape=tuple(handle.shape),
            dtype=np.dtype(handle.dtype.numpy_dtype),
            chunk_shape=tuple(layout.read_chunk.shape or ()) or None,
            write_shape=tuple(layout.write_chunk.shape or ()) or None,
            is_writeable=bool(handle.writable),
        )
        data._handle = handle
        return data

    @property
    def spec(self) -> Mapping[str, Any]:
        """What ``tensorstore.open`` takes; the store's own axes, in its own order."""
        return self._spec

    def __getitem__(self, slices: tuple[slice, ...]) -> npt.NDArray[Any]:
        """Read into new memory."""
        handle = self._open()
        try:
            voxels: npt.NDArray[Any] = handle[slices].read().result(self._timeout_s)
        except FAILURES as error:
            raise ArrayError(self._failure("read", slices, error)) from error
        return voxels

    def __setitem__(self, slices: tuple[slice, ...], voxels: npt.NDArray[Any]) -> None:
        """Write, and return when the chunks are stored."""
        if not self.is_writeable:
            raise ArrayError(f"{self.path} was opened to read: open_ds(..., mode='r+')")
        handle = self._open()
        try:
            handle[slices].write(voxels).result(self._timeout_s)
        except FAILURES as error:
            raise ArrayError(self._failure("write", slices, error)) from error

    def __getstate__(self) -> dict[str, Any]:
        kvstore = self._spec.get("kvstore")
        if not kvstore or (isinstance(kvstore, dict) and kvstore.get("driver") == "memory"):
            raise ArrayError(
                f"{self.path} is in the memory of this process (driver {self._spec['driver']!r}) and can't travel to "
                "another one: use prepare_ds(...) with a path for an array that every process reaches"
            )
        return {name: getattr(self, name) for name in self.__slots__ if name != "_handle"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._handle = None
        for name, value in state.items():
            setattr(self, name, value)

    def _open(self) -> Any:
        tensorstore, context = library()  # asked each time: it refuses what was opened before a fork
        if self._handle is None:
            try:
                handle = tensorstore.open(
                    {**self._spec, **self._cache()},
                    open=True,
                    read=True,
                    write=self.is_writeable or None,
                    context=context,
                ).result(self._timeout_s)
            except FAILURES as error:
                raise ArrayError(f"tensorstore can't open {self.path}: {cause(error)}") from error
            handle = self.arranged(handle)
            if tuple(handle.shape) != self.shape or handle.dtype.numpy_dtype != self.dtype:
                raise ArrayError(
                    f"{self.path} was changed since it was opened: it had shape {self.shape} "
                    f"and dtype {self.dtype}, now {tuple(handle.shape)} and {handle.dtype.name}"
                )
            self._handle = handle
        return self._handle

    def _cache(self) -> dict[str, str]:
        """Keep what is written out of the cache, where it would take the place of what is read."""
        return {"cache_pool": "cache_pool#written"} if self.is_writeable and self._spec["driver"] in _CACHED else {}

    @property
    def _timeout_s(self) -> float | None:
        """Disks answer or fail; of servers, some do neither."""
        kvstore = self._spec.get("kvstore")
        driver = kvstore.get("driver") if isinstance(kvstore, dict) else "file"
        return None if driver in {"file", "memory"} else SERVER_TIMEOUT_S

    def arranged(self, handle: Any) -> Any:
        """Return a view whose axes are those that are presented, with indices from 0."""
        if handle.rank:
            handle = handle.translate_to[(0,) * handle.rank]
        if self._order is None and not self._dropped:
            return handle
        order = self._order or tuple(k for k in range(handle.rank) if k not in self._dropped)
        handle = handle.transpose([*order, *self._dropped])
        return handle[(slice(None),) * len(order) + (0,) * len(self._dropped)]

    def _failure(self, verb: str, slices: tuple[slice, ...], error: Exception) -> str:
        ends = [*self.shape, *[0] * len(slices)]
        region = ", ".join(
            f"{s.start or 0}:{n if s.stop is None else s.stop}" for s, n in zip(slices, ends, strict=False)
        )
        text = cause(error)
        cure = ""
        if verb == "read" and "is missing" in text:
            cure = "; a chunk that is not there is an error here: open_ds(..., missing='fill') reads its fill value"
        elif text.startswith(_DAMAGED):
            cure = "; if a chunk is damaged, writing all of it again repairs it"
        return f"can't {verb} voxels [{region}] of {self.path}: {text}{cure}"


def create(spec: Mapping[str, Any], metadata: Mapping[str, Any], where: str) -> None:
    """Make an empty dataset; nothing happens if there is an equal one.

    Raises
    ------
    ArrayError
        If it can't be made, or a different one is there.
    """
    tensorstore, context = library()
    try:
        tensorstore.open({**spec, **metadata}, open=True, create=True, context=context).result()
    except FAILURES as error:
        raise ArrayError(f"tensorstore can't make {where}: {cause(error)}") from error


def spec_of(driver: str, location: Location, missing: Missing) -> dict[str, Any]:
    """Return the spec of a dataset: how it is stored, where, and what a missing chunk means."""
    spec = {"driver": driver, "kvstore": kvstore_of(location), "fill_missing_data_reads": missing == "fill"}
    if missing == "error":
        spec["store_data_equal_to_fill_value"] = True  # else a block of zeros would not be found again
    return spec


def kvstore_of(location: Location) -> dict[str, Any]:
    """Return where the keys of a location are, for tensorstore.

    ``AWS_ENDPOINT_URL`` and ``AWS_REGION`` are heeded, as boto3 does, and ``AWS_NO_SIGN_REQUEST`` for public data.
    """
    if not location.is_remote:
        return {"driver": "file", "path": f"{location.url}/"}
    scheme, _, rest = location.url.partition("://")
    if scheme in {"http", "https"}:
        host, _, path = rest.partition("/")
        # The driver quotes what it sends, and a URL that was pasted is quoted already.
        return {"driver": "http", "base_url": f"{scheme}://{host}", "path": f"/{unquote(path)}/"}
    if scheme == "memory":
        return {"driver": "memory", "path": f"{rest}/"}
    bucket, _, path = rest.partition("/")
    path = f"{path}/" if path else ""
    if scheme == "gs":
        return {"driver": "gcs", "bucket": bucket, "path": path}
    kvstore: dict[str, Any] = {"driver": "s3", "bucket": bucket, "path": path}
    if endpoint := os.environ.get("AWS_ENDPOINT_URL_S3", os.environ.get("AWS_ENDPOINT_URL")):
        kvstore["endpoint"] = endpoint
    if region := os.environ.get("AWS_REGION", os.environ.get("AWS_DEFAULT_REGION")):
        kvstore["aws_region"] = region
    if os.environ.get("AWS_NO_SIGN_REQUEST", "").lower() in {"1", "true", "yes"}:
        kvstore["aws_credentials"] = {"type": "anonymous"}
    return kvstore


def library() -> tuple[Any, Any]:
    """Return the module tensorstore and the context that this process shares.

    Raises
    ------
    ArrayError
        If tensorstore is not installed, or this process was forked from one that had used it.
    """
    pid, tensorstore, context = _loaded()
    if pid != os.getpid():
        raise ArrayError(
            f"process {os.getpid()} was forked from process {pid}, which had used tensorstore: "
            "its threads do not survive a fork. Start workers with 'forkserver' or 'spawn'"
        )
    return tensorstore, context


def cause(error: Exception) -> str:
    """Return what tensorstore says, without its specs and its own source lines."""
    if isinstance(error, TimeoutError):
        return f"the server did not answer within {SERVER_TIMEOUT_S:g} s"
    return _DETAILS.sub("", str(error)).strip()


@functools.cache
def _loaded() -> tuple[int, Any, Any]:
    try:
        import tensorstore
    except ImportError as error:
        raise ArrayError(
            "zarr, N5, precomputed and remote arrays need tensorstore, which is not installed: "
            "pip install 'bellis[zarr]'"
        ) from error
    return os.getpid(), tensorstore, tensorstore.Context(_CONTEXT)


def _place(spec: Mapping[str, Any]) -> str:
    """Return where the store of a spec is, for people."""
    kvstore = spec.get("kvstore")
    if isinstance(kvstore, dict):
        return str(kvstore.get("path", kvstore))
    return str(kvstore or f"tensorstore {spec.get('driver')!r}")
