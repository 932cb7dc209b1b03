"""The Dask engine's connection to its scheduler, and the questions that take a while to be answered."""

from __future__ import annotations

import asyncio
import logging
import queue
from concurrent.futures import Future as Answer
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeAlias

import dask
from distributed import LocalCluster
from msgspec.structs import replace

from bellis.engines.dask_connect import connected
from bellis.engines.dask_messages import Order, Wish, encode, topic_of
from bellis.engines.dask_node import forget_news, instruct, run_lease

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from distributed import Future, Security

ASK_S = 5.0
"""How long workers may take to answer."""
FETCH_S = 60.0
"""How long the result of a lease may take to come."""
LARGE_BYTES = 8_000_000
"""Dask warns of tasks that are larger than this: here, of functions that capture much."""

Change: TypeAlias = "tuple[str, Any]"
"""What happened: ``news`` of a lease, ``all`` for an event of Dask, or the answer to a question, by its kind."""


def local_cluster(slots: int) -> LocalCluster:
    """Start a cluster in this process.

    Blocks run in processes of bellis anyway. Dask's own would need a guard around the main part of a script.
    """
    return LocalCluster(  # type: ignore[no-untyped-call]
        n_workers=1, threads_per_worker=slots, processes=False, dashboard_address="127.0.0.1:0", memory_limit=0
    )


class Link:
    """A client of one run's own: its subscriptions and Dask tasks end with it, also if this process is killed.

    Parameters
    ----------
    address
        Of the scheduler.
    security
        Certificates.
    run_id
        The run.

    Raises
    ------
    EngineError
        If no scheduler answers.
    """

    def __init__(self, address: str, security: Security | None, run_id: str) -> None:
        self.address = address
        self.changes: queue.SimpleQueue[Change] = queue.SimpleQueue()
        self._run_id = run_id
        self._topic = topic_of(run_id)
        self._client = connected(address, security)
        self._asker = ThreadPoolExecutor(1, "bellis-dask-ask")
        self._looker = ThreadPoolExecutor(1, "bellis-dask-look")
        self._asking: Answer[None] | None = None
        self._looking: Answer[None] | None = None
        for topic, kind in ((self._topic, "news"), ("all", "all")):
            self._subscribe(topic, kind)

    def _subscribe(self, topic: str, kind: str) -> None:
        def hear(event: tuple[float, Any]) -> None:
            self.changes.put((kind, event[1]))

        self._client.subscribe_topic(topic, hear)  # type: ignore[no-untyped-call]

    @property
    def is_up(self) -> bool:
        """Whether there is a connection."""
        return bool(self._client.status == "running")

    def workers(self) -> dict[str, Any]:
        """Return what the scheduler says of its workers."""
        return dict(self._client.scheduler_info(n_workers=-1)["workers"])

    def send(self, order: Order, address: str | None, resources: Mapping[str, int]) -> Future[bytes | None]:
        """Give an order to one Dask worker; or to any."""
        said = encode(order)
        with dask.config.set({"distributed.admin.large-graph-warning-threshold": LARGE_BYTES + 2 * len(said)}):
            return self._client.submit(
                run_lease,  # type: ignore[arg-type]
                said,
                key=order.key,
                pure=False,
                retries=0,
                workers=None if address is None else [address],
                allow_other_workers=False,
                resources=dict(resources) or None,
            )

    # Questions: they are asked off the caller's thread, and their answers come as changes --------------------------

    def look(self) -> None:
        """Ask who is there, unless that was asked and not answered yet."""
        if self._looking is None or self._looking.done():
            self._looking = self._ask(self._looker, "workers", self.workers)

    def fetch(self, future: Future[bytes | None], lease_id: int) -> None:
        """Ask for the result of a Dask task; the answer has the error if there is one."""
        self._ask(self._looker, "fetched", lambda: (lease_id, future, _result(future)))

    @property
    def is_asking(self) -> bool:
        """Whether Dask workers were told something and have not all answered."""
        return self._asking is not None and not self._asking.done()

    def tell(self, wish: Wish, unwanted: Sequence[int], addresses: Sequence[str]) -> None:
        """Tell Dask workers what is wished; they answer which unwanted leases they will not run."""
        said = replace(wish, unwanted=list(unwanted))
        self._asking = self._ask(self._asker, "returned", lambda: self._instruct(said, addresses))

    def _instruct(self, wish: Wish, addresses: Sequence[str] | None) -> dict[str, list[int]]:
        return self._client.run(  # type: ignore[no-any-return]
            instruct,
            self._run_id,
            encode(wish),
            workers=None if addresses is None else list(addresses),
            on_error="ignore",
            callback_timeout=ASK_S,
        )

    def _ask(self, executor: ThreadPoolExecutor, kind: str, question: Callable[[], Any]) -> Answer[None]:
        def ask() -> None:
            with suppress(OSError, TimeoutError, RuntimeError, AttributeError):  # no connection, which is noticed
                self.changes.put((kind, question()))

        return executor.submit(ask)

    # The end ---------------------------------------------------------------------------------------------------------

    def close(self, wish: Wish) -> None:
        """End what bellis started on Dask workers, also on those that joined just now, and disconnect."""
        if self.is_up:
            with suppress(Exception):  # a worker that does not answer has ended, or sees by itself that nobody is there
                self._instruct(replace(wish, number=wish.number + 1, drain=True, close=True), None)
            with suppress(Exception):
                for topic in (self._topic, "all"):
                    self._client.unsubscribe_topic(topic)  # type: ignore[no-untyped-call]
                self._client.run_on_scheduler(  # type: ignore[no-untyped-call]
                    forget_news, self._topic, callback_timeout=ASK_S
                )
        self.disconnect()

    def disconnect(self) -> None:
        """Close the connection."""
        with suppress(Exception), _quietly():  # whatever state it is in, it is of no more use
            self._client.close(timeout=ASK_S)  # type: ignore[no-untyped-call]
        for executor in (self._asker, self._looker):
            executor.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _quietly() -> Iterator[None]:
    """Have Dask not print that its attempts to connect again were cancelled: our own error says more."""

    def is_wanted(record: logging.LogRecord) -> bool:
        kind = record.exc_info[0] if record.exc_info else None
        return kind is None or not issubclass(kind, asyncio.CancelledError)

    logger = logging.getLogger("distributed.client")
    logger.addFilter(is_wanted)
    try:
        yield
    finally:
        logger.removeFilter(is_wanted)


def _result(future: Future[bytes | None]) -> bytes | Exception | None:
    try:
        return future.result(timeout=FETCH_S)
    except Exception as error:  # noqa: BLE001  # whatever the Dask worker raised
        return error
