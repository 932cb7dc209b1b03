"""One run on a Dask cluster: what its workers tell, who comes and goes, and what workers are told.

All of it runs in the thread of the run; what happens elsewhere comes through the queue of a `Link`.
"""

from __future__ import annotations

import queue
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Any

from bellis.engines.dask_leases import Leases
from bellis.engines.dask_members import Member, Members
from bellis.engines.dask_messages import News, Wish, decode_news
from bellis.errors import EngineError
from bellis.runtime.engine import Capacity, EngineEvent, EngineSetup, Notice, ProgramRefused, WorkerEnded
from bellis.runtime.lease import Lease, Report
from bellis.runtime.output import remove_logs
from bellis.runtime.sizing import REMOTE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from distributed import Future

    from bellis.engines.dask_link import Link
    from bellis.runtime.program import PackedProgram

LOOK_S = 0.5
"""The scheduler is asked so often who is there and who is paused, though it also tells who comes and goes."""
LOOK_EACH_S = 0.002
"""Less often where there are many."""
POLL_S = 0.05
TELL_EVERY_S = 0.1
"""Wishes are told to Dask workers no more often; less often to many."""
TELL_EACH_S = 0.005
BYE_S = 2.0
"""A Dask worker that was lost so soon after its node said good-bye was closing; else only its node had idled."""
LEAVE_S = 15.0
"""How long a Dask worker that leaves as planned may take for the blocks that it still runs."""


class DaskRun:
    """One run.

    Parameters
    ----------
    link
        To the scheduler.
    setup
        The run.
    packed
        Its programs, by task.

    Raises
    ------
    TaskError
        If a task's blocks fit on no Dask worker.
    """

    def __init__(self, link: Link, setup: EngineSetup, packed: Mapping[str, PackedProgram]) -> None:
        self._link = link
        self._setup = setup
        self._members = Members(setup.resources)
        self._leases = Leases(link, setup, packed, self._members)
        self._leaving: dict[str, tuple[Member, float]] = {}
        self._told_wish = self._leases.wish
        self._told_s = self._looked_s = monotonic()
        self._is_draining = self._is_warned = False
        self._members.update(link.workers())
        self._members.check(setup.programs)
        self._warn_of_idle_slots()
        if not setup.keeps_logs:
            remove_logs(setup.log_dir, self._leases.work, only_empty=False)

    def capacity(self) -> Capacity:
        """Return what the Dask workers that are there can run.

        One lease more of each task whose resources none of them has: so an adaptive cluster hears of it.
        """
        left = self._setup.left
        programs = [program for program in self._setup.programs if left.get(program.task_id, 1)]
        resources, unable = self._members.offered(programs)
        return Capacity(slots=self._setup.slots(self._members.slots) + unable, resources=resources, sizes=REMOTE)

    def submit(self, lease: Lease) -> None:
        """Send a lease to a Dask worker; or, while none has what it needs, to the first that comes."""
        self._leases.submit(lease)

    # Events ----------------------------------------------------------------------------------------------------------

    def events(self, timeout_s: float) -> list[EngineEvent]:
        """Wait for news from workers, and for changes among them.

        Raises
        ------
        EngineError
            If the scheduler is gone, or its workers can't run leases.
        """
        self._check_scheduler()
        self._tell_wish()
        self._look_around()
        self._look_at_futures()
        self._leases.place_held_back()
        until = monotonic() + (0.0 if self._leases.events else timeout_s)
        while not self._leases.events:
            left = until - monotonic()
            with suppress(queue.Empty):
                self._handle(*self._link.changes.get(timeout=max(0.0, min(left, POLL_S))))
            if left <= POLL_S:
                break
            self._look_at_futures()
        with suppress(queue.Empty):
            while True:
                self._handle(*self._link.changes.get_nowait())
        events, self._leases.events = self._leases.events, []
        return events

    def _check_scheduler(self) -> None:
        if not self._link.is_up:
            raise EngineError(
                f"the connection to the Dask scheduler at {self._link.address} was lost. Blocks that were "
                "reported count; with a journal, run the same again to go on from there"
            )

    def _handle(self, kind: str, what: Any) -> None:
        if kind == "news":
            self._hear(what)
        elif kind == "all":
            action = what.get("action") if isinstance(what, dict) else None
            if action == "remove-worker":
                self._remove(what["worker"], is_planned=bool(what.get("expected")))
            elif action == "add-worker":
                self._looked_s = 0.0
        elif kind == "workers":
            self._update(what)
        elif kind == "returned":
            for address, lease_ids in what.items():
                self._take_back(address, lease_ids)
        elif kind == "fetched":
            self._take_result(*what)

    def _hear(self, said: dict[str, Any]) -> None:
        address = said["worker"]
        if "bye" not in said:
            self._take(address, decode_news(said["news"]))
            return
        self._end_leaving(address)
        if address in self._members.by_address:
            self._members.by_address[address].bye_s = monotonic()

    def _take(self, address: str, news: News) -> None:
        sent = self._leases.sent.get(news.lease_id)
        if sent is None or (sent.member is not None and sent.member.address != address):  # it is another's by now
            return
        work = self._leases.work[sent.lease.task_id]
        member = self._members.by_address.get(address)
        if sent.member is None:
            sent.where = address
            self._leases.settle()
        if news.is_missing:
            self._leases.send_again(sent, member)
            return
        if member is not None:
            member.programs.add(work.packed.number)
            member.bye_s = float("-inf")
        for death in news.deaths:
            name = f"worker-{self._members.number(address, death.slot)}"
            self._leases.events.append(WorkerEnded(name, death.reason, sent.lease, death.position))
        if news.refused is not None and not work.is_refused:
            work.is_refused = True
            self._leases.events.append(ProgramRefused(sent.lease.task_id, news.refused))
        for told in news.told[:-1] if news.is_finished else news.told:
            self._leases.events.append(self._leases.report(sent, address, told, is_finished=False))
        if news.is_finished:
            last = news.told[-1] if news.told else None
            empty = Report(news.lease_id, 0, b"", finished=True)
            self._leases.close(
                sent, empty if last is None else self._leases.report(sent, address, last, is_finished=True)
            )

    # Dask tasks that end without news --------------------------------------------------------------------------------

    def _look_at_futures(self) -> None:
        ended = [sent for sent in self._leases.sent.values() if sent.future.status != "pending" and not sent.is_fetched]
        if not ended:
            return
        with suppress(queue.Empty):  # what was told came before the end
            while True:
                self._handle(*self._link.changes.get_nowait())
        for sent in ended:
            if sent.lease.lease_id in self._leases.sent and sent.future.status in {"finished", "error"}:
                sent.is_fetched = True
                self._link.fetch(sent.future, sent.lease.lease_id)
            elif sent.lease.lease_id in self._leases.sent and sent.future.status in {"cancelled", "lost"}:
                self._check_scheduler()
                self._leases.give_back(sent)

    def _take_result(self, lease_id: int, future: Future[bytes | None], result: bytes | Exception | None) -> None:
        sent = self._leases.sent.get(lease_id)
        if sent is None or sent.future is not future:
            return
        where = sent.member.address if sent.member is not None else ""
        if isinstance(result, bytes):
            self._take(where, decode_news(result))
        elif result is None or type(result).__name__ in {"KilledWorker", "FutureCancelledError", "TimeoutError"}:
            self._leases.lose(sent, where, is_alone=sent.member is not None and len(sent.member.leases) == 1)
        else:
            raise EngineError(
                f"the Dask worker {where} can't run leases ({type(result).__name__}: {result}): install the same "
                "versions of bellis and Dask there as here"
            ) from result

    # Workers that come and go ----------------------------------------------------------------------------------------

    def _look_around(self) -> None:
        now = monotonic()
        if now - self._looked_s >= max(LOOK_S, LOOK_EACH_S * len(self._members.by_address)):
            self._looked_s = now
            self._link.look()
        for address, (_, until) in list(self._leaving.items()):
            if now > until:
                self._end_leaving(address)

    def _update(self, workers: dict[str, Any]) -> None:
        before, had = self.capacity(), self._members.resources()
        _, left = self._members.update(workers)
        self._leases.settle()
        for member in left:
            self._drop(member, is_planned=False)
        after = self.capacity()
        if (after.slots, after.resources) != (before.slots, before.resources) or left:
            self._tell_change(had)

    def _remove(self, address: str, *, is_planned: bool) -> None:
        had = self._members.resources()
        member = self._members.by_address.pop(address, None)
        if member is not None:
            self._drop(member, is_planned=is_planned)
            self._tell_change(had)

    def _tell_change(self, had: Mapping[str, int]) -> None:
        """Tell that there is more or less than before, when there was so much of each resource."""
        self._leases.events.append(self.capacity())
        self._warn_of_idle_slots()
        asked = {name for program in self._setup.programs for name in self._leases.asked_of_dask(program.task_id)}
        gone = sorted(name for name in asked & had.keys() if name not in self._members.resources())
        if gone:
            names = ", ".join(map(repr, gone))
            self._leases.events.append(Notice(f"the last Dask worker with {names} has left: blocks wait for another"))

    def _warn_of_idle_slots(self) -> None:
        there, useful = self._members.slots, self._setup.useful
        if min(self._setup.workers or there, there) <= useful or self._is_warned:
            return
        self._is_warned = True
        self._leases.events.append(
            Notice(
                f"the Dask workers have places for {there} blocks, but num_workers of all tasks allow {useful} at the "
                "same time: raise num_workers of the tasks"
            )
        )

    def _drop(self, member: Member, *, is_planned: bool) -> None:
        """Account for the leases of a Dask worker that is there no more."""
        has_ended = monotonic() - member.bye_s < BYE_S
        if is_planned and member.leases and not has_ended:  # any may have begun, also if nothing was told yet
            self._leaving[member.address] = (member, monotonic() + LEAVE_S)
            return
        begun = member.begun() if member.alone not in member.leases else [member.alone]
        if is_planned or has_ended:
            begun = []
        else:
            lease = self._leases.sent[begun[0]].lease if begun else None
            self._leases.events.append(WorkerEnded(member.address, "the Dask scheduler has lost this worker", lease))
        is_alone = len(member.leases) == 1
        lost = [self._leases.sent[lease_id] for lease_id in begun]
        for sent in [self._leases.sent[lease_id] for lease_id in member.leases if lease_id not in begun]:
            self._leases.give_back(sent)
        for sent in lost:
            self._leases.lose(sent, member.address, is_alone=is_alone)

    def _end_leaving(self, address: str) -> None:
        """Take back what a Dask worker that left as planned did not finish."""
        member, _ = self._leaving.pop(address, (None, 0.0))
        for lease_id in list(member.leases) if member is not None else ():
            self._leases.give_back(self._leases.sent[lease_id])

    # Wishes ----------------------------------------------------------------------------------------------------------

    def hurry(self, *, report: bool, share: bool) -> None:
        """See `Engine.hurry`."""
        if (report, share) != (self._leases.wish.report, self._leases.wish.share):
            self._leases.wish = Wish(self._leases.wish.number + 1, report, share, self._is_draining)

    def drain(self) -> None:
        """See `Engine.drain`."""
        self._is_draining = True
        self._leases.give_back_idle()
        self._leases.wish = Wish(self._leases.wish.number + 1, report=True, share=True, drain=True)
        self._told_s = 0.0

    def _tell_wish(self) -> None:
        """Tell Dask workers what is wished, if that is new; take back what others could begin earlier."""
        every = max(TELL_EVERY_S, TELL_EACH_S * len(self._members.by_address))
        if self._link.is_asking or monotonic() - self._told_s < every:
            return
        busy = [member for member in self._members.by_address.values() if member.leases]
        queued: list[int] = []
        for member in busy:
            if member.is_paused:  # Dask begins nothing there; what the node has begun, it keeps
                queued += member.leases.keys() - member.asked_back
                member.asked_back.update(member.leases)
            elif self._leases.wish.share:
                queued += member.leases.keys() - set(member.begun())
        if busy and (queued or self._leases.wish.number != self._told_wish.number):
            self._told_s, self._told_wish = monotonic(), self._leases.wish
            self._link.tell(self._leases.wish, queued, [member.address for member in busy])

    def _take_back(self, address: str, lease_ids: list[int]) -> None:
        for lease_id in lease_ids:
            sent = self._leases.sent.get(lease_id)
            if sent is not None and sent.member is not None and sent.member.address == address:
                self._leases.give_back(sent)

    def close(self) -> None:
        """Give up all leases, and end what bellis started on the cluster."""
        self._leases.abandon()
        self._link.close(self._leases.wish)
        remove_logs(self._setup.log_dir, self._leases.work, only_empty=True)
