"""What the Dask engine does on a Dask worker: it brings leases to a host there, and news of them home.

All of it runs in the event loop of the Dask worker, but for the host's own thread; blocks run in the host's worker
processes. Nothing here is unpickled: orders and news are msgpack; the functions of a task are for the worker processes.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from distributed import Worker, WorkerPlugin, get_worker

from bellis.engines.dask_messages import (
    Death,
    News,
    Order,
    Wish,
    add_report,
    decode_order,
    decode_wish,
    encode,
    slot_of,
    topic_of,
)
from bellis.errors import BellisError, EngineError
from bellis.runtime.engine import ProgramRefused
from bellis.runtime.host import Host
from bellis.runtime.lease import Lease, Report
from bellis.runtime.program import PackedProgram

if TYPE_CHECKING:
    from bellis.runtime.host import HostEvent

PROGRESS_S = 0.5
"""What became of blocks goes home so often while their lease runs."""
HURRIED_S = 0.05
"""And so often while others wait for it."""
MOST_NEWS_BYTES = 64 * 1024
"""The scheduler keeps the last thousand news of a run: larger ones travel as the result of the lease's Dask task."""
IDLE_S = 30.0
"""A host without leases is closed after so long."""
FORSAKEN_S = 2.0
"""And so soon if its last leases were cancelled: perhaps the run is gone."""
DRAIN_S = 10.0
"""How long running blocks may take to finish when the Dask worker closes."""

LATE_S = (1.0, 5.0, 20.0)
"""When the scheduler is to forget once more what came after the end of a run."""


@dataclass(slots=True)
class _Held:
    """A lease that the host has, and what was not sent home yet."""

    key: str
    news: News
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    timer: asyncio.TimerHandle | None = None
    is_running: bool = False
    """Whether its Dask task runs, too."""
    rest: bytes | None = None
    """The last news, if they are too large to be told."""


class Node(WorkerPlugin):
    """A run on one Dask worker.

    A plugin hears of cancelled Dask tasks, and of the end of its Dask worker while there is still a way home.

    Parameters
    ----------
    run_id
        The run.
    """

    def __init__(self, run_id: str) -> None:
        self._topic = topic_of(run_id)
        self._host: Host | None = None
        self._making = asyncio.Lock()
        self._held: dict[int, _Held] = {}
        self._seen: set[int] = set()
        self._unwanted: set[int] = set()
        self._early: dict[Any, bytes | None] = {}
        """Dask tasks that have not begun though their lease has ended, and the last news of it if they are large."""
        self._wish = Wish(-1)
        self._is_draining = self._is_closed = False
        self._idle: asyncio.TimerHandle | None = None

    def setup(self, worker: Worker) -> None:
        """Take note of the Dask worker."""
        self._worker = worker
        self._loop = asyncio.get_running_loop()
        self._rest(IDLE_S)

    # Leases --------------------------------------------------------------------------------------------------------

    async def run(self, order: Order) -> bytes | None:
        """Run a lease; return the last news of it unless they were told already."""
        if order.key in self._early:
            return self._early.pop(order.key)
        held = self._held.get(order.lease_id)
        if held is None:
            if order.lease_id in self._unwanted or self._is_draining:
                return self._tell(News(order.lease_id, is_finished=True))
            held = self._hold(order)
            held.is_running = True
            if order.is_unpinned:
                self._tell(News(order.lease_id))  # so the run knows that it has begun, and where
            try:
                host = await self._get_host()
                if order.lease_id in self._held:  # else it was cancelled meanwhile
                    self._bring(host, order)
            except BellisError as error:
                self._take(order.lease_id, Report(order.lease_id, 0, b"", finished=True, crash=str(error)))
        held.is_running = True
        await held.ended.wait()
        return held.rest

    def _hold(self, order: Order) -> _Held:
        held = self._held[order.lease_id] = _Held(order.key, News(order.lease_id))
        self._seen.add(order.lease_id)
        self.follow(order.wish)
        return held

    def _begin_early(self, key: Any) -> None:
        """Bring a lease to the host while it waits for a thread of the Dask worker.

        So no process waits while Dask ends one task and begins the next, which takes it 5 to 10 ms.
        """
        task = self._worker.state.tasks.get(key)
        called = getattr(task, "run_spec", None)
        if self._host is None or self._is_draining or getattr(called, "func", None) is not run_lease:
            return
        order = decode_order(called.args[0])  # type: ignore[union-attr]
        is_ours = topic_of(order.run_id) == self._topic
        if is_ours and order.lease_id not in self._seen | self._unwanted and self._host.knows(order.program):
            self._hold(order)
            with suppress(BellisError):  # if it can't, it is said when the lease is to run
                self._bring(self._host, order)

    async def _get_host(self) -> Host:
        async with self._making:
            if self._is_closed:
                raise EngineError("the Dask worker, or the run, has ended")
            if self._host is None:
                self._host = await asyncio.to_thread(_make_host, self._worker.state.nthreads)
                self._host.hurry(report=self._wish.report, share=self._wish.share)
        return self._host

    def _bring(self, host: Host, order: Order) -> None:
        if order.payload is not None:
            host.add(PackedProgram(order.program, order.task_id, order.keeps_results, order.timeout_s, order.payload))
        if host.knows(order.program):
            lease = Lease(order.lease_id, order.task_id, np.frombuffer(order.indices, np.int64))
            host.submit(lease, partial(self._hear, order.lease_id))
        else:
            held = self._held[order.lease_id]
            held.news.is_missing = True
            self._end(order.lease_id, held)

    def _hear(self, lease_id: int, event: HostEvent) -> None:
        """In the thread of the host: pass an event on."""
        with suppress(RuntimeError):  # the loop, and with it the Dask worker, has ended
            self._loop.call_soon_threadsafe(self._take, lease_id, event)

    def _take(self, lease_id: int, event: HostEvent) -> None:
        held = self._held.get(lease_id)
        if held is None:
            return
        if isinstance(event, Report):
            add_report(held.news.told, event)
            held.news.is_finished = event.finished
        elif isinstance(event, ProgramRefused):
            held.news.refused = event.error
        else:
            held.news.deaths.append(Death(slot_of(event.worker), event.reason, event.position))
        if held.news.is_finished:
            self._end(lease_id, held)
        elif held.timer is None:
            held.timer = self._loop.call_later(HURRIED_S if self._wish.report else PROGRESS_S, self._flush, held)

    def _flush(self, held: _Held) -> None:
        """Tell what happened so far; what is too much to be told waits for the end of the lease."""
        held.timer = None
        if self._tell(held.news) is None:
            held.news = News(held.news.lease_id)

    def _end(self, lease_id: int, held: _Held) -> None:
        del self._held[lease_id]
        if held.timer is not None:
            held.timer.cancel()
        held.rest = self._tell(held.news, anyhow=self._is_draining)
        held.ended.set()
        if not held.is_running:
            self._early[held.key] = held.rest
        if not self._held:
            self._rest(IDLE_S)

    def _tell(self, news: News, *, anyhow: bool = False) -> bytes | None:
        """Send news home; return them if they are too large for that."""
        said = encode(news)
        if len(said) > MOST_NEWS_BYTES and not anyhow:
            return bytes(said)
        self._worker.log_event(self._topic, {"news": said})
        return None

    # Wishes of the run -----------------------------------------------------------------------------------------------

    def follow(self, wish: Wish) -> list[int]:
        """Do as the run says; return which of the unwanted leases have not begun, and never will."""
        returned = [lease_id for lease_id in wish.unwanted if lease_id not in self._seen]
        self._unwanted.update(returned)
        if wish.number > self._wish.number:
            before, self._wish = self._wish, wish
            if self._host is not None and (wish.report, wish.share) != (before.report, before.share):
                self._host.hurry(report=wish.report, share=wish.share)
            if wish.report and not before.report:
                for held in self._held.values():
                    self._flush_soon(held)
            if wish.drain:
                self._is_draining = True
                if self._host is not None:
                    self._host.drain()
        return returned

    def _flush_soon(self, held: _Held) -> None:
        if held.timer is not None:
            held.timer.cancel()
            held.timer = self._loop.call_later(HURRIED_S, self._flush, held)

    def transition(self, key: Any, start: str, finish: str, **_: Any) -> None:
        """Notice that Dask has a task at hand, or that it wants one no more; then its blocks are ended at once."""
        if finish == "ready":
            self._begin_early(key)
        if finish != "released" or start not in {"ready", "executing", "long-running"}:
            return
        self._early.pop(key, None)
        for lease_id, held in list(self._held.items()):
            if held.key == key:
                del self._held[lease_id]
                held.ended.set()
                if self._host is not None:
                    self._host.cancel(lease_id, "the run has ended, or given up this lease")
                if not self._held:
                    self._rest(FORSAKEN_S)

    # The end ---------------------------------------------------------------------------------------------------------

    def _rest(self, seconds: float) -> None:
        if self._idle is not None:
            self._idle.cancel()
        self._idle = self._loop.call_later(seconds, self._leave_if_idle)

    def _leave_if_idle(self) -> None:
        if not self._held and self._worker.plugins.get(self._topic) is self:
            self._leaving = self._loop.create_task(self._worker.plugin_remove(self._topic))

    async def teardown(self, worker: Worker) -> None:
        """Close the host; if the Dask worker is closing, running blocks may finish before."""
        if self._idle is not None:
            self._idle.cancel()
        self._is_draining = True
        async with self._making:  # one that is being made would outlive the node
            self._is_closed = True
        host = self._host
        if host is not None and self._held and not self._wish.close and _can_tell(worker):
            host.drain()
            until = self._loop.time() + DRAIN_S
            while self._held and self._loop.time() < until and _can_tell(worker):
                ended = next(iter(self._held.values())).ended
                with suppress(TimeoutError):
                    await asyncio.wait_for(ended.wait(), 0.5)
        for held in self._held.values():
            held.ended.set()
        self._held.clear()
        if host is not None:
            await asyncio.to_thread(host.close)
        if not self._wish.close:  # else the run listens no more, and the scheduler would keep it
            worker.log_event(self._topic, {"bye": True})


def _make_host(slots: int) -> Host:
    # The nanny sets it for the Dask worker, whose heap holds results; a kernel would give back its memory to the system
    # after every block, and ask for it again.
    return Host(slots, environment={"MALLOC_TRIM_THRESHOLD_": None})


def _can_tell(worker: Worker) -> bool:
    stream = worker.batched_stream
    return stream is not None and not stream.closed()  # type: ignore[no-untyped-call]


async def _node(worker: Worker, run_id: str) -> Node:
    name = topic_of(run_id)
    if name not in worker.plugins:
        await worker.plugin_add(Node(run_id), name=name)
    node = worker.plugins[name]
    assert isinstance(node, Node)  # noqa: S101
    return node


async def run_lease(order: bytes) -> bytes | None:
    """Run a lease on this Dask worker: what the engine submits to Dask."""
    decoded = decode_order(order)
    node = await _node(get_worker(), decoded.run_id)
    return await node.run(decoded)


async def instruct(run_id: str, wish: bytes, dask_worker: Worker) -> list[int]:
    """Pass a wish of the run on to its node on this Dask worker; see `Node.follow`."""
    decoded = decode_wish(wish)
    if topic_of(run_id) not in dask_worker.plugins and not decoded.unwanted:
        return []
    node = await _node(dask_worker, run_id)
    returned = node.follow(decoded)
    if decoded.close:
        await dask_worker.plugin_remove(topic_of(run_id))
    return returned


def forget_news(topic: str, dask_scheduler: Any) -> None:
    """Have the scheduler forget the news of a run, and those that workers which are leaving still send.

    Without that it keeps the last thousand.
    """
    _forget(topic, dask_scheduler)
    for delay_s in LATE_S:
        asyncio.get_running_loop().call_later(delay_s, _forget, topic, dask_scheduler)


def _forget(topic: str, dask_scheduler: Any) -> None:
    broker = getattr(dask_scheduler, "_broker", None)  # there is no public way
    topics = getattr(broker, "_topics", None)
    if isinstance(topics, dict):
        topics.pop(topic, None)
