"""Remote zarr, N5 and precomputed arrays as sources: strict, with deadlines, and with errors that say what to do."""

from __future__ import annotations

import os
import threading
from concurrent.futures import TimeoutError as FutureTimeoutError
from time import monotonic
from typing import TYPE_CHECKING, Any

from bellis.arrays.location import Location
from bellis.arrays.tensorstore import FAILURES, library
from bellis.errors import FetchError, MissingBlockError, TransientError
from bellis.geometry import Roi
from bellis.volumes.access import credentials, public
from bellis.volumes.blocks import shown, slices_of
from bellis.volumes.chunk_errors import explained
from bellis.volumes.http import HttpClient
from bellis.volumes.looking import is_http, look
from bellis.volumes.retrying import patiently
from bellis.volumes.stopping import SLICE_S, is_stopped
from bellis.volumes.template import told

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import numpy.typing as npt

    from bellis.arrays.layout import Layout
    from bellis.volumes.descriptions import Access, ChunkedDescription
    from bellis.volumes.looking import Found
    from bellis.volumes.source import Patience

SHARE = 3
"""An attempt takes no more than this part of what is left: nothing tells whether tensorstore's requests still move."""

LOOK_AGAIN_S = 1.0
"""How often it is looked whether an array is there of which chunks are missing."""
_RETRIES = {"max_retries": 1, "initial_delay": "50ms", "max_delay": "200ms"}


class ChunkedSource:
    """A remote array that tensorstore reads. A chunk that is not there is an error, never zeros.

    It is looked at when it is first needed, once per process; the properties below ask the server then, and raise what
    `fetch` raises.

    Parameters
    ----------
    description
        Where it is.
    access
        Who we are; only for ``http://`` and ``https://``, other stores have their own ways.
    patience
        How long metadata is waited for, and how long an attempt may take.
    parallel
        Requests at the same time.
    name
        Of the volume, for messages.
    """

    def __init__(
        self,
        description: ChunkedDescription,
        access: Access,
        patience: Patience,
        parallel: int,
        name: str | None = None,
    ) -> None:
        self._description = description
        self._access = access
        self._patience = patience
        self._parallel = parallel
        self._name = name
        self._location = Location.of(description.url, description.name, description.format)
        self._client = HttpClient(access, parallel)
        self._lock = threading.Lock()
        self._looking = threading.Lock()
        self._seen_s = float("-inf")
        self._found: Found | None = None
        self._handle: Any = None

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._description, self._access, self._patience, self._parallel, self._name)

    def __str__(self) -> str:
        return f"{self._name or 'volume'!r} from {self.path}"

    @property
    def path(self) -> str:
        """Where it is, for people."""
        return public(self._location.url)

    @property
    def domain(self) -> Roi:
        """Its voxels, all axes; begins at 0."""
        shape = self.layout.shape
        return Roi((0,) * len(shape), shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Data type of a voxel, in native byte order."""
        return self.layout.dtype

    @property
    def axes(self) -> tuple[str, ...]:
        """Name of each axis."""
        return self.layout.axis_names

    @property
    def preferred_block(self) -> tuple[int, ...] | None:
        """Voxels of a chunk; of a sharded array, of a chunk in a shard."""
        return self._metadata.data.chunk_shape

    @property
    def layout(self) -> Layout:
        """Where it is in the world."""
        return self._metadata.layout

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        """Where it is, its metadata as a SHA-256, and its ETag if the server has one."""
        return self._metadata.fingerprint

    @property
    def is_checked(self) -> bool | None:
        """Whether its chunks have checksums; None as long as the array was not looked at."""
        return None if self._found is None else self._found.is_checked

    def fetch(self, block_roi: Roi, out: npt.NDArray[Any], *, timeout_s: float) -> None:
        """Fill ``out`` with the voxels of a region, as `Source.fetch` says."""
        what = f"block {shown(block_roi)}" + (f" of {self._name!r}" if self._name else "") + f" from {self.path}:"
        limit_s = min(timeout_s, max(self._patience.stall_s, timeout_s / SHARE))
        deadline = monotonic() + limit_s
        library()  # refuses, in a forked process, before a lock is waited for that nobody will release
        failure: FetchError
        handle = None
        try:
            handle = self._opened(deadline)
            future = handle[slices_of(block_roi)].read(order="C")
            voxels = _result(future, deadline)
        except FetchError as error:
            failure = told(error, what)
        except (TimeoutError, FutureTimeoutError):
            if self._handle is handle:  # stalled requests keep their places in its context: a new one is made
                self._handle = None
            failure = TransientError(f"{what} nothing came within {limit_s:.4g} s")
        except FAILURES as error:
            failure = explained(error, what, is_remote=self._location.is_remote)
            if isinstance(failure, MissingBlockError):  # a chunk is missing only of an array that is there
                failure = self._vanished(deadline, is_open=handle is not None) or failure
        else:
            out[...] = voxels
            return
        raise failure  # not chained: what tensorstore says has the headers that were sent

    def _vanished(self, deadline: float, *, is_open: bool) -> FetchError | None:
        """Return what became of the array, if it is not what it was; looked at once a second at most."""
        if not is_open:
            return TransientError(f"{self.path}: its metadata could not be read again")
        with self._looking:
            if monotonic() - self._seen_s < LOOK_AGAIN_S:
                return None
            try:
                now = look(self._location, self._description, self._client, self._patience.stall_s, deadline)
            except FetchError as error:
                return told(error, f"{self.path}: its metadata is not there any more:")
            if self._found is not None and now.fingerprint != self._found.fingerprint:
                return FetchError(f"{self.path} was changed since it was opened")
            self._seen_s = monotonic()
            return None

    def close(self) -> None:
        """Release connections; a later fetch opens new ones."""
        self._handle = None
        self._client.close()

    @property
    def _metadata(self) -> Found:
        if self._found is None:

            def attempt(timeout_s: float) -> Found:
                return self._looked_at(monotonic() + timeout_s)

            return patiently(attempt, self._patience)
        return self._found

    def _looked_at(self, deadline: float) -> Found:
        """Return what the metadata says; asked once, by one thread."""
        if self._found is None:
            if not self._lock.acquire(timeout=max(0.0, deadline - monotonic())):
                raise TransientError(f"{self.path}: its metadata did not come in time")
            try:
                if self._found is None:
                    self._found = look(
                        self._location, self._description, self._client, self._patience.stall_s, deadline
                    )
            finally:
                self._lock.release()
        return self._found

    def _opened(self, deadline: float) -> Any:
        found = self._looked_at(deadline)
        handle = self._handle
        if handle is None:
            if not self._lock.acquire(timeout=max(0.0, deadline - monotonic())):
                raise TransientError("could not be opened in time")
            try:
                handle = self._handle  # another thread may have opened it, or give it up at any time
                if handle is None:
                    handle = self._handle = self._open(found, deadline)
            finally:
                self._lock.release()
        return handle

    def _open(self, found: Found, deadline: float) -> Any:
        tensorstore, _ = library()
        spec = dict(found.spec)
        if is_http(self._location) and (headers := credentials(self._access, self._location.url)):
            spec["kvstore"] = {**spec["kvstore"], "headers": [f"{name}: {value}" for name, value in headers.items()]}
        limit = {"limit": self._parallel}
        context = tensorstore.Context(
            {
                "cache_pool": {"total_bytes_limit": 0},
                "data_copy_concurrency": {"limit": min(self._parallel, len(os.sched_getaffinity(0)))},
                "file_io_concurrency": {"limit": max(4, self._parallel)},
                **{f"{kind}_request_retries": _RETRIES for kind in ("http", "s3", "gcs")},
                **{f"{kind}_request_concurrency": limit for kind in ("http", "s3", "gcs")},
            }
        )
        handle = tensorstore.open(spec, open=True, read=True, context=context).result(
            max(0.001, deadline - monotonic())
        )
        data = found.data
        handle = data.arranged(handle)
        if tuple(handle.shape) != data.shape or handle.dtype.numpy_dtype != data.dtype:
            raise FetchError(
                f"it was changed since it was opened: it had shape {data.shape} and dtype {data.dtype}, now "
                f"{tuple(handle.shape)} and {handle.dtype.name}"
            )
        return handle


def _result(future: Any, deadline: float) -> Any:
    """Return what comes before the deadline, unless nobody waits for it any more."""
    while True:
        left_s = deadline - monotonic()
        try:
            return future.result(max(0.001, min(left_s, SLICE_S)))
        except (TimeoutError, FutureTimeoutError):
            if left_s <= SLICE_S or is_stopped():
                raise
