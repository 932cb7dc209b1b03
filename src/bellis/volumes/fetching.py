"""Blocks on their way into a cache: each is fetched once, however many threads, processes and machines want it."""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from bellis.errors import BellisError, DamagedBlockError, FetchError, MissingBlockError, VolumeError
from bellis.volumes.blocks import shown
from bellis.volumes.stopping import sleep, stoppable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import numpy.typing as npt

    from bellis.volumes.blocks import Index
    from bellis.volumes.cache import BlockCache
    from bellis.volumes.lease import Lease
    from bellis.volumes.source import MissingPolicy, Patience, Source

FIRST_POLL_S, LONGEST_POLL_S = 0.02, 1.0
"""How soon, and how seldom, we look again for a block that another process fetches."""
GRACE_S = 1.0
"""How long after its deadline a source is given up that does not keep it."""
HOPELESS_S = 60.0
"""How long a download does not ask a server that has given nothing, many times in a row."""
CLOSED = "the volume was closed while blocks were fetched: reopen() it"

BlockFuture: TypeAlias = "Future[npt.NDArray[Any] | None]"
"""Voxels of a block; None if another process fetches it."""
Outcome: TypeAlias = "npt.NDArray[Any] | BellisError"
"""Voxels of a block, which may be shared and must not be changed; or why there are none."""


@dataclass(slots=True)
class Statistics:
    """What one process has done to have its blocks."""

    num_requests: int = 0
    """Attempts to fetch a block."""
    num_fetched: int = 0
    """Blocks that came from the source."""
    num_adopted: int = 0
    """Blocks that were found in a tree that lazyflow had filled."""
    num_retries: int = 0
    """Attempts that failed and were made again."""
    num_damaged: int = 0
    """Blocks whose files were not what was written; they were put aside and fetched again."""
    num_waited: int = 0
    """Blocks that another process was fetching."""
    num_filled: int = 0
    """Blocks that the source does not have, and that hold zeros, as ``missing="fill"`` asks for."""


class Fetcher:
    """Fetches blocks into a cache.

    In a process, a block is fetched by one thread of a bounded pool, and all who want it get what it got. Between
    processes, a lease says who fetches; who finds a block leased does other blocks first, and then looks again, ever
    more seldom. Leases only save work: after the deadline a block is fetched without one.

    Parameters
    ----------
    cache
        Where blocks go.
    connect
        Returns the source; called once, when the first block is missing.
    patience
        How long a block is waited for.
    parallel
        Blocks that are fetched at the same time.
    missing
        What a block means that the source does not have.
    adopt
        Returns voxels of a block that is at hand in another place, or None.
    """

    def __init__(
        self,
        cache: BlockCache,
        connect: Callable[[], Source],
        *,
        patience: Patience,
        parallel: int,
        missing: MissingPolicy,
        adopt: Callable[[Index], npt.NDArray[Any] | None] = lambda _: None,
    ) -> None:
        self.statistics = Statistics()
        self.cache = cache
        self._connect = connect
        self.patience = patience
        self.parallel = parallel
        self._missing = missing
        self._adopt = adopt
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._counting = threading.Lock()
        self._in_row: tuple[int, float, str] = 0, 0.0, ""
        self._connecting = threading.Lock()
        self._pool = ThreadPoolExecutor(parallel, thread_name_prefix="bellis-fetch")
        self._flights: dict[Index, Flight] = {}
        self._source: Source | None = None
        self._refusal: tuple[float, BellisError | None] = 0.0, None

    def close(self) -> None:
        """End the threads; what is on its way is given up. Release the source."""
        self._stopped.set()
        self._pool.shutdown(wait=True, cancel_futures=True)
        release = getattr(self._source, "close", None)
        if release is not None:
            release()

    @property
    def source(self) -> Source:
        """The source, reached now if it was not before.

        Raises
        ------
        CacheMismatchError
            If the cache was filled from another one.
        """
        asked = time.monotonic()
        with self._connecting:
            if self._source is not None:
                return self._source
            refused, error = self._refusal
            if error is not None and refused >= asked:  # while we waited for our turn, another thread tried
                raise error
            try:
                source = self._connect()
                self.cache.check(source.fingerprint)
            except BellisError as error:
                self._refusal = time.monotonic(), error
                raise
            self._source = source
            return source

    @property
    def is_checked(self) -> bool | None:
        """Whether what the source sends has a checksum; None if that is not known."""
        found = getattr(self._source, "is_checked", None)
        return found if isinstance(found, bool) else None

    def obtain(self, indices: Iterable[Index], *, may_give_up: bool = False) -> Iterator[tuple[Index, Outcome]]:
        """Begin to fetch blocks, and return an iterator over each as soon as it is stored, in any order.

        A block that can't be had does not keep others; no more than ``2 * parallel`` blocks are held at a time. With
        ``may_give_up``, blocks are not tried any more while the server gives none at all: see `is_hopeless`.
        """
        work = _Round(self, _shuffled(indices), may_give_up=may_give_up)
        work.begin()
        return work.outcomes()

    def fly(self, index: Index, *, left_s: float, is_forced: bool = False) -> Flight:
        """Return who gets a block: a thread of ours that is at it already, or one that will be."""
        with self._lock:
            flight = self._flights.get(index)
            if flight is None:
                flight = Flight()
                try:
                    flight.future = self._pool.submit(self._fly, index, flight, is_forced=is_forced, left_s=left_s)
                except RuntimeError as error:
                    raise VolumeError(CLOSED) from error
                self._flights[index] = flight
            return flight

    def _fly(self, index: Index, flight: Flight, *, is_forced: bool, left_s: float) -> npt.NDArray[Any] | None:
        flight.begun_s = time.monotonic()
        try:
            with stoppable(self._stopped):
                return self._block(index, is_forced=is_forced, left_s=left_s)
        finally:
            with self._lock:
                self._flights.pop(index, None)

    def is_hopeless(self) -> str:
        """Return why the next block need not be tried: all of the last ones failed, of late; else nothing."""
        with self._counting:
            count, last_s, reason = self._in_row
        if count < 2 * self.parallel or time.monotonic() - last_s > HOPELESS_S:
            return ""
        return f"was not tried: {count} blocks in a row could not be had, the last one because {reason}"

    def _note_failure(self, error: FetchError) -> None:
        with self._counting:
            self._in_row = self._in_row[0] + 1, time.monotonic(), str(error)

    def _block(self, index: Index, *, is_forced: bool, left_s: float) -> npt.NDArray[Any] | None:
        """Return a block from the cache or from the source; None if another process fetches it."""
        found = self._stored(index)
        if found is not None:
            return found
        if not self.cache.is_writeable:
            return self._fetched(index, left_s)
        lease = self.cache.lease(index)
        if lease is None and not is_forced:
            return None
        try:
            return self._renewed(index, left_s)
        finally:
            _release(lease)

    def _renewed(self, index: Index, left_s: float) -> npt.NDArray[Any]:
        found = self._stored(index)  # who held the lease before us may have stored it
        if found is not None:
            return found
        voxels = self._adopt(index)
        if voxels is None:
            voxels = self._fetched(index, left_s)
        else:
            self.count("num_adopted")
        self.cache.put(index, voxels)
        return voxels

    def _stored(self, index: Index) -> npt.NDArray[Any] | None:
        try:
            return self.cache.read_block(index)
        except DamagedBlockError as error:
            self.count("num_damaged")
            if self.cache.is_writeable:
                self.cache.quarantine(index, str(error))
            return None

    def _fetched(self, index: Index, left_s: float) -> npt.NDArray[Any]:
        from bellis.volumes.retrying import fetch_patiently

        source = self.source
        box = self.cache.blocks.box(index)
        out = np.empty(tuple(box.shape), dtype=self.cache.layout.dtype)
        try:
            self.count("num_requests")
            patience = replace(self.patience, deadline_s=left_s)
            fetch_patiently(source, box, out, patience, on_retry=self._retried)
        except FetchError as error:
            if not isinstance(error, MissingBlockError):
                self._note_failure(error)
                raise
            if self._missing == "error":
                raise
            self.count("num_filled")
            return np.zeros_like(out)
        with self._counting:
            self._in_row = 0, 0.0, ""
        self.count("num_fetched")
        return out

    def _retried(self, _: FetchError) -> None:
        self.count("num_retries")
        self.count("num_requests")

    def count(self, name: str) -> None:
        """Count one more of what `Statistics` has."""
        with self._counting:
            setattr(self.statistics, name, getattr(self.statistics, name) + 1)


class Flight:
    """A block that a thread of the pool gets, or will get."""

    __slots__ = ("begun_s", "future")

    def __init__(self) -> None:
        self.future: BlockFuture
        self.begun_s = float("inf")
        """When a thread began."""


class _Round:
    """Blocks that one caller wants."""

    def __init__(self, fetcher: Fetcher, todo: deque[Index], *, may_give_up: bool) -> None:
        self._fetcher = fetcher
        self._may_give_up = may_give_up
        self._todo = todo
        self._running: dict[BlockFuture, tuple[Index, Flight]] = {}
        self._waiting: dict[Index, _Wait] = {}

    def begin(self) -> None:
        """Ask for as many blocks as may be on their way."""
        while self._todo and len(self._running) < 2 * self._fetcher.parallel:
            self._ask(self._todo.popleft())

    def outcomes(self) -> Iterator[tuple[Index, Outcome]]:
        """Yield blocks until all are there, or known not to come."""
        while self._todo or self._running or self._waiting:
            self._ask_again()
            while self._todo and self._may_give_up and (reason := self._fetcher.is_hopeless()):
                yield self._todo.popleft(), FetchError(reason)
            self.begin()
            if not (self._running or self._waiting):
                return
            due = min((each.due for each in self._waiting.values()), default=float("inf"))
            pause = max(0.0, min(due - time.monotonic(), 1.0))
            if not self._running:
                sleep(pause)
            done, _ = wait(self._running, timeout=pause, return_when=FIRST_COMPLETED)
            for future in done or self._lost():
                index, _ = self._running.pop(future)
                outcome = _outcome(future)
                if outcome is None:  # leased by another process
                    self._waiting.setdefault(index, _Wait()).again()
                    continue
                if self._waiting.pop(index, None) is not None:
                    self._fetcher.count("num_waited")
                yield index, outcome

    def _ask(self, index: Index, *, waited_s: float = 0.0) -> None:
        deadline_s = self._fetcher.patience.deadline_s
        # Who has waited for half of its time fetches without a lease, in the other half.
        is_forced, left_s = waited_s > deadline_s / 2, max(deadline_s - waited_s, deadline_s / 4)
        flight = self._fetcher.fly(index, is_forced=is_forced, left_s=left_s)
        self._running[flight.future] = index, flight

    def _ask_again(self) -> None:
        now = time.monotonic()
        for index, each in self._waiting.items():
            if each.due <= now:
                each.due = float("inf")
                self._ask(index, waited_s=now - each.begun)

    def _lost(self) -> list[BlockFuture]:
        """Return a failed future in place of each that a source keeps beyond its deadline."""
        deadline_s = self._fetcher.patience.deadline_s
        last = time.monotonic() - deadline_s - GRACE_S
        late = [future for future, (_, flight) in self._running.items() if flight.begun_s < last]
        lost = []
        for future in late:
            index, flight = self._running.pop(future)
            failed: BlockFuture = Future()
            box = shown(self._fetcher.cache.blocks.box(index))
            failed.set_exception(FetchError(f"block {box} did not come within {deadline_s:g} s, nor did an error"))
            self._running[failed] = index, flight
            lost.append(failed)
        return lost


class _Wait:
    """When to look again for a block that another process fetches."""

    __slots__ = ("begun", "due", "pause")

    def __init__(self) -> None:
        self.begun = time.monotonic()
        self.pause = FIRST_POLL_S / 2
        self.due = self.begun

    def again(self) -> None:
        self.pause = min(2 * self.pause, LONGEST_POLL_S)
        self.due = time.monotonic() + self.pause * random.uniform(0.5, 1.0)  # noqa: S311  (it spreads, no more)


def _outcome(future: BlockFuture) -> Outcome | None:
    try:
        return future.result()
    except CancelledError:
        return VolumeError(CLOSED)
    except BellisError as error:
        return error
    except OSError as error:
        failure = VolumeError(f"a block can't be had: {error}")
        failure.__cause__ = error
        return failure


def _shuffled(indices: Iterable[Index]) -> deque[Index]:
    """Return blocks in an order of our own, so that processes that want the same ones begin with different ones."""
    order = list(indices)
    start = random.randrange(len(order)) if order else 0  # noqa: S311
    return deque(order[start:] + order[:start])


def _release(lease: Lease | None) -> None:
    if lease is not None:
        lease.release()
