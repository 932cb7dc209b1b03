"""One run on a Dask cluster: which Dask worker has which lease, and what becomes of it.

All of it runs in the thread of the run; what happens elsewhere comes through the queue of a `Link`.
"""

from __future__ import annotations

import queue
from collections import Counter
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Any

from bellis.engines.dask_members import Member, Members, Sent, Work
from bellis.engines.dask_messages import News, Order, Told, Wish, decode_news
from bellis.errors import EngineError
from bellis.runtime.engine import Capacity, EngineEvent, EngineSetup, Notice, ProgramRefused, WorkerEnded
from bellis.runtime.lease import Lease, Outcome, Report
from bellis.runtime.output import append_log, remove_logs
from bellis.runtime.sizing import REMOTE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from distributed import Future

    from bellis.engines.dask_link import Link
    from bellis.runtime.program import PackedProgram

LOOK_S = 2.0
"""The scheduler is asked so often who is there, though it also tells who comes and goes."""
POLL_S = 0.05
TELL_EVERY_S = 0.1
"""Wishes are told to Dask workers no more often; less often to many."""
TELL_EACH_S = 0.005
LEAVE_S = 15.0
"""How long a Dask worker that leaves as planned may take for the blocks that it still runs."""
SUSPECT = 2
"""A block that ran on so many Dask workers when they were lost runs alone the next time, to see whether it is why."""
MOST_SUSPECTS = 64
"""Blocks of larger leases are not noted: such a lease is halved first."""


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
        self._work = {program.task_id: Work(program, packed[program.task_id]) for program in setup.programs}
        self._members = Members()
        self._sent: dict[int, Sent] = {}
        self._held_back: list[Lease] = []
        self._events: list[EngineEvent] = []
        self._leaving: dict[str, tuple[Member, float]] = {}
        self._spoken: set[str] = set()
        self._losses: Counter[tuple[str, int]] = Counter()
        self._wish = self._told_wish = Wish(0)
        self._told_s = self._looked_s = monotonic()
        self._is_waiting = self._is_draining = False
        self._members.update(link.workers())
        self._members.check(setup.programs)
        if not setup.keeps_logs:
            remove_logs(setup.log_dir, self._work, only_empty=False)

    def capacity(self) -> Capacity:
        """Return what the Dask workers that are there can run."""
        slots = self._setup.slots(self._members.slots)
        return Capacity(slots=slots, resources=self._members.resources(), sizes=REMOTE)

    # Leases ----------------------------------------------------------------------------------------------------------

    def submit(self, lease: Lease) -> None:
        """Send a lease to a Dask worker; or, while there is none, to the first that comes."""
        if not self._place(lease):
            self._held_back.append(lease)

    def _place(self, lease: Lease) -> bool:
        resources = self._members.asked_of_dask(self._work[lease.task_id].program.resources)
        first = int(lease.indices[0])
        if len(lease.indices) == 1 and self._losses[lease.task_id, first] >= SUSPECT:
            member = self._members.reserve(resources, lease.lease_id)
        else:
            member = self._members.choose(resources, lease.task_id, first)
        if member is None and self._members.able(resources):
            return False
        if member is None:
            self._say_that_it_waits(resources)
        sent = Sent(lease, self._send(lease, member, resources), member, bytearray(len(lease.indices)))
        self._sent[lease.lease_id] = sent
        if member is not None:
            member.leases[lease.lease_id] = resources
            member.task_id, member.last_index = lease.task_id, int(lease.indices[-1])
        return True

    def _place_held_back(self) -> None:
        """Send what had to wait until a block has run alone; or give it back, if others could not run it either."""
        waiting, self._held_back = self._held_back, []
        for lease in waiting:
            if self._is_draining:
                self._events.append(Report(lease.lease_id, 0, b"", finished=True))
            elif not self._place(lease):
                self._held_back.append(lease)

    def _send(
        self, lease: Lease, member: Member | None, resources: Mapping[str, int], again: int = 0
    ) -> Future[bytes | None]:
        packed = self._work[lease.task_id].packed
        has_it = member is not None and packed.number in member.programs
        run_id = self._setup.run_id
        key = f"bellis-{run_id}-{lease.task_id}-{lease.lease_id}" + (f"-{again}" if again else "")
        order = Order(
            run_id, key, lease.lease_id, lease.task_id, lease.indices.tobytes(), packed.number, packed.keeps_results,
            packed.timeout_s, None if has_it else packed.payload, self._wish,
        )  # fmt: skip
        return self._link.send(order, None if member is None else member.address, resources)

    def _say_that_it_waits(self, resources: Mapping[str, int]) -> None:
        if not self._is_waiting:
            self._is_waiting = True
            having = f" that have {', '.join(f'{k}={v}' for k, v in resources.items())}" if resources else ""
            self._events.append(Notice(f"waiting for workers of the Dask scheduler at {self._link.address}{having}"))

    def _close_lease(self, sent: Sent, report: Report) -> None:
        lease_id = sent.lease.lease_id
        del self._sent[lease_id]
        if sent.member is not None:
            sent.member.drop_lease(lease_id)
        sent.future.release()  # type: ignore[no-untyped-call]
        self._events.append(report)

    def _give_back(self, sent: Sent, *, is_suspect: bool = False) -> None:
        self._close_lease(sent, Report(sent.lease.lease_id, 0, b"", finished=True, is_suspect=is_suspect))

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
        self._place_held_back()
        until = monotonic() + (0.0 if self._events else timeout_s)
        while not self._events:
            left = until - monotonic()
            with suppress(queue.Empty):
                self._handle(*self._link.changes.get(timeout=max(0.0, min(left, POLL_S))))
            if left <= POLL_S:
                break
            self._look_at_futures()
        with suppress(queue.Empty):
            while True:
                self._handle(*self._link.changes.get_nowait())
        events, self._events = self._events, []
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
        if "bye" in said:
            self._end_leaving(address)
        else:
            self._spoken.add(address)
            self._take(address, decode_news(said["news"]))

    def _take(self, address: str, news: News) -> None:
        sent = self._sent.get(news.lease_id)
        if sent is None:
            return
        work = self._work[sent.lease.task_id]
        member = self._members.by_address.get(address)
        if member is not None and sent.member is None:
            sent.member = member
            member.leases[news.lease_id] = self._members.asked_of_dask(work.program.resources)
        if news.is_missing:
            self._send_again(sent, member)
            return
        if member is not None:
            member.programs.add(work.packed.number)
        for death in news.deaths:
            name = f"worker-{self._members.number(address, death.slot)}"
            self._events.append(WorkerEnded(name, death.reason, sent.lease, death.position))
        if news.refused is not None and not work.is_refused:
            work.is_refused = True
            self._events.append(ProgramRefused(sent.lease.task_id, news.refused))
        for told in news.told[:-1] if news.is_finished else news.told:
            self._events.append(self._report(sent, address, told, is_finished=False))
        if news.is_finished:
            last = news.told[-1] if news.told else None
            empty = Report(news.lease_id, 0, b"", finished=True)
            self._close_lease(sent, empty if last is None else self._report(sent, address, last, is_finished=True))

    def _report(self, sent: Sent, address: str, told: Told, *, is_finished: bool) -> Report:
        number = self._members.number(address, told.slot)
        if told.output:
            append_log(self._setup.log_dir, sent.lease.task_id, number, told.output)
        for position, outcome in enumerate(told.outcomes, told.begin):
            sent.outcomes[position] = sent.outcomes[position] or outcome
        said = told.outcomes, told.seconds, told.errors, told.results, is_finished
        name = f"worker-{number}"
        return Report(sent.lease.lease_id, told.begin, *said, name, told.peak_memory_bytes, told.crash)

    def _send_again(self, sent: Sent, member: Member | None) -> None:
        work = self._work[sent.lease.task_id]
        if member is None or sent.member is None:  # it is about to be lost
            return
        member.programs.discard(work.packed.number)
        sent.future.release()  # type: ignore[no-untyped-call]
        sent.again += 1
        sent.is_fetched = False
        resources = self._members.asked_of_dask(work.program.resources)
        sent.future = self._send(sent.lease, member, resources, sent.again)

    # Dask tasks that end without news --------------------------------------------------------------------------------

    def _look_at_futures(self) -> None:
        ended = [sent for sent in self._sent.values() if sent.future.status != "pending" and not sent.is_fetched]
        if not ended:
            return
        with suppress(queue.Empty):  # what was told came before the end
            while True:
                self._handle(*self._link.changes.get_nowait())
        for sent in ended:
            if sent.lease.lease_id in self._sent and sent.future.status in {"finished", "error"}:
                sent.is_fetched = True
                self._link.fetch(sent.future, sent.lease.lease_id)
            elif sent.lease.lease_id in self._sent and sent.future.status in {"cancelled", "lost"}:
                self._check_scheduler()
                self._give_back(sent)

    def _take_result(self, lease_id: int, future: Future[bytes | None], result: bytes | Exception | None) -> None:
        sent = self._sent.get(lease_id)
        if sent is None or sent.future is not future:
            return
        where = sent.member.address if sent.member is not None else ""
        if isinstance(result, bytes):
            self._take(where, decode_news(result))
        elif result is None or type(result).__name__ in {"KilledWorker", "FutureCancelledError", "TimeoutError"}:
            self._lose(sent, where, is_sole=sent.member is not None and len(sent.member.leases) == 1)
        else:
            raise EngineError(
                f"the Dask worker {where} can't run leases ({type(result).__name__}: {result}): install the same "
                "versions of bellis and Dask there as here"
            ) from result

    # Workers that come and go ----------------------------------------------------------------------------------------

    def _look_around(self) -> None:
        now = monotonic()
        if now - self._looked_s >= LOOK_S:
            self._looked_s = now
            self._link.look()
        for address, (_, until) in list(self._leaving.items()):
            if now > until:
                self._end_leaving(address)

    def _update(self, workers: dict[str, Any]) -> None:
        before = self.capacity()
        _, left = self._members.update(workers)
        for member in left:
            self._drop(member, is_planned=False)
        if self._members.slots:
            self._is_waiting = False
        after = self.capacity()
        if (after.slots, after.resources) != (before.slots, before.resources) or left:
            self._events.append(after)

    def _remove(self, address: str, *, is_planned: bool) -> None:
        member = self._members.by_address.pop(address, None)
        if member is not None:
            self._drop(member, is_planned=is_planned)
            self._events.append(self.capacity())

    def _drop(self, member: Member, *, is_planned: bool) -> None:
        """Account for the leases of a Dask worker that is there no more."""
        if is_planned and member.address in self._spoken and member.leases:
            self._leaving[member.address] = (member, monotonic() + LEAVE_S)
            return
        begun = member.begun() if member.alone not in member.leases else [member.alone]
        if not is_planned:
            lease = self._sent[begun[0]].lease if begun else None
            self._events.append(WorkerEnded(member.address, "the Dask scheduler has lost this worker", lease))
        lost = [self._sent[lease_id] for lease_id in begun if lease_id is not None and not is_planned]
        is_sole = len(member.leases) == 1 or member.alone is not None
        for sent in lost:
            self._lose(sent, member.address, is_sole=is_sole)
        for lease_id in list(member.leases):
            self._give_back(self._sent[lease_id])

    def _lose(self, sent: Sent, where: str, *, is_sole: bool) -> None:
        """Account for a lease whose Dask worker was lost while it ran, the only one there or not."""
        lease, lease_id = sent.lease, sent.lease.lease_id
        rest = [position for position, outcome in enumerate(sent.outcomes) if not outcome]
        if len(rest) != 1 or not is_sole:
            if len(rest) <= MOST_SUSPECTS:
                self._losses.update((lease.task_id, int(lease.indices[position])) for position in rest)
            self._give_back(sent, is_suspect=len(rest) > 1)
            return
        crash = f"the Dask worker {where} was lost"
        error = f"{crash} while it ran the block: its machine, its memory limit or its job may have ended it"
        failed = bytes([Outcome.FAILED])
        self._close_lease(sent, Report(lease_id, rest[0], failed, errors={rest[0]: error}, finished=True, crash=crash))

    def _end_leaving(self, address: str) -> None:
        """Take back what a Dask worker that left as planned did not finish."""
        member, _ = self._leaving.pop(address, (None, 0.0))
        for lease_id in list(member.leases) if member is not None else ():
            self._give_back(self._sent[lease_id])

    # Wishes ----------------------------------------------------------------------------------------------------------

    def hurry(self, *, report: bool, share: bool) -> None:
        """See `Engine.hurry`."""
        if (report, share) != (self._wish.report, self._wish.share):
            self._wish = Wish(self._wish.number + 1, report, share, self._is_draining)

    def drain(self) -> None:
        """See `Engine.drain`."""
        self._is_draining = True
        self._wish = Wish(self._wish.number + 1, report=True, share=True, drain=True)
        self._told_s = 0.0

    def _tell_wish(self) -> None:
        """Tell Dask workers what is wished, if that is new; take back what others could begin earlier."""
        every = max(TELL_EVERY_S, TELL_EACH_S * len(self._members.by_address))
        if self._link.is_asking or monotonic() - self._told_s < every:
            return
        busy = [member for member in self._members.by_address.values() if member.leases]
        queued: list[int] = []
        if self._wish.share:
            for member in busy:
                queued += member.leases.keys() - set(member.begun())
        if busy and (queued or self._wish.number != self._told_wish.number):
            self._told_s, self._told_wish = monotonic(), self._wish
            self._link.tell(self._wish, queued, [member.address for member in busy])

    def _take_back(self, address: str, lease_ids: list[int]) -> None:
        for lease_id in lease_ids:
            sent = self._sent.get(lease_id)
            if sent is not None and sent.member is not None and sent.member.address == address:
                self._give_back(sent)

    def close(self) -> None:
        """Give up all leases, and end what bellis started on the cluster."""
        for sent in self._sent.values():
            sent.future.release()  # type: ignore[no-untyped-call]
        self._sent.clear()
        self._link.close(self._wish, sorted(self._members.by_address))
        remove_logs(self._setup.log_dir, self._work, only_empty=True)
