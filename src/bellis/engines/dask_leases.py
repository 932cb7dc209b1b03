"""The leases of one run that Dask has, or that wait for one of its workers: sent, given back, sent again, lost."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from bellis.engines.dask_members import Member, Members, Sent, Work
from bellis.engines.dask_messages import Order, Told, Wish
from bellis.runtime.engine import EngineEvent, EngineSetup, Notice
from bellis.runtime.lease import Lease, Report
from bellis.runtime.output import append_log

if TYPE_CHECKING:
    from collections.abc import Mapping

    from distributed import Future

    from bellis.engines.dask_link import Link
    from bellis.runtime.program import PackedProgram

SUSPECT = 2
"""A block that ran on so many Dask workers when they were lost runs alone the next time, to see whether it is why."""
MOST_ALONE = 3
"""A block may be blamed that was alone on so many Dask workers when they were lost: where workers come and go within
seconds, one such loss, or two, say nothing of it."""


class Leases:
    """The leases of one run.

    Parameters
    ----------
    link
        To the scheduler.
    setup
        The run.
    packed
        Its programs, by task.
    members
        The Dask workers.
    """

    def __init__(self, link: Link, setup: EngineSetup, packed: Mapping[str, PackedProgram], members: Members) -> None:
        self._link = link
        self._setup = setup
        self._members = members
        self.work = {program.task_id: Work(program, packed[program.task_id]) for program in setup.programs}
        self.sent: dict[int, Sent] = {}
        self.events: list[EngineEvent] = []
        self.wish = Wish(0)
        self._waiting: dict[str, Mapping[str, int]] = {}
        self._sent_again: dict[int, int] = {}
        self._held_back: list[Lease] = []
        self._losses: Counter[tuple[str, int]] = Counter()
        self._alone: Counter[tuple[str, int]] = Counter()
        self._told: Counter[tuple[str, int]] = Counter()

    def submit(self, lease: Lease) -> None:
        """Send a lease to a Dask worker; or, while none has what it needs, to the first that comes."""
        if not self._place(lease):
            self._held_back.append(lease)

    def asked_of_dask(self, task_id: str) -> dict[str, int]:
        """Return what a block of a task needs of a Dask worker."""
        return self._members.asked_of_dask(self.work[task_id].program.resources)

    def _place(self, lease: Lease) -> bool:
        resources = self.asked_of_dask(lease.task_id)
        first = int(lease.indices[0])
        if len(lease.indices) == 1 and self._losses[lease.task_id, first] >= SUSPECT:
            member = self._members.reserve(resources, lease.lease_id)
        else:
            member = self._members.choose(resources, lease.task_id, first)
        if member is None and self._members.able(resources):
            return False
        if member is None:
            self._say_that_it_waits(lease.task_id, resources)
        sent = Sent(lease, self._send(lease, member, resources), member, bytearray(len(lease.indices)))
        self.sent[lease.lease_id] = sent
        if member is not None:
            member.leases[lease.lease_id] = resources
            member.bye_s = float("-inf")
            member.task_id, member.last_index = lease.task_id, int(lease.indices[-1])
        return True

    def place_held_back(self) -> None:
        """Send what had to wait until a block has run alone."""
        waiting, self._held_back = self._held_back, []
        for lease in waiting:
            if not self._place(lease):
                self._held_back.append(lease)

    def give_back_idle(self) -> None:
        """Give back what no Dask worker has begun, for the run ends."""
        waiting, self._held_back = self._held_back, []
        self.events.extend(Report(lease.lease_id, 0, b"", finished=True) for lease in waiting)
        for sent in list(self.sent.values()):
            if sent.member is None and not sent.where:
                self.give_back(sent)

    def settle(self) -> None:
        """Note who has come, and who has the leases that were for the first worker that comes."""
        self._waiting = {text: asked for text, asked in self._waiting.items() if not self._members.able(asked)}
        for sent in self.sent.values():
            if sent.member is None and sent.where in self._members.by_address:
                sent.member = self._members.by_address[sent.where]
                sent.member.leases[sent.lease.lease_id] = self.asked_of_dask(sent.lease.task_id)

    def _send(self, lease: Lease, member: Member | None, resources: Mapping[str, int]) -> Future[bytes | None]:
        packed = self.work[lease.task_id].packed
        has_it = member is not None and packed.number in member.programs
        run_id = self._setup.run_id
        again = self._sent_again.get(lease.lease_id)
        key = f"bellis-{run_id}-{lease.task_id}-{lease.lease_id}" + (f"-{again}" if again else "")
        order = Order(
            run_id, key, lease.lease_id, lease.task_id, lease.indices.tobytes(), packed.number, packed.keeps_results,
            packed.timeout_s, None if has_it else packed.payload, self.wish, member is None,
        )  # fmt: skip
        return self._link.send(order, None if member is None else member.address, resources)

    def send_again(self, sent: Sent, member: Member | None) -> None:
        """Send a lease with its program to a node that does not have it."""
        if member is None or sent.member is None:  # it is about to be lost
            return
        member.programs.discard(self.work[sent.lease.task_id].packed.number)
        sent.future.release()  # type: ignore[no-untyped-call]
        self._rename(sent.lease)
        sent.is_fetched = False
        sent.future = self._send(sent.lease, member, self.asked_of_dask(sent.lease.task_id))

    def _rename(self, lease: Lease) -> None:
        """Have the next Dask task of a lease differ from the last in name."""
        self._sent_again[lease.lease_id] = self._sent_again.get(lease.lease_id, 0) + 1

    def _say_that_it_waits(self, task_id: str, resources: Mapping[str, int]) -> None:
        having = ", ".join(f"{name}={amount}" for name, amount in resources.items())
        if having in self._waiting:
            return
        self._waiting[having] = resources
        text = f"waiting for workers of the Dask scheduler at {self._link.address}"
        if having:
            there = len(self._members.by_address)
            names = ", ".join(sorted(self._members.resources())) or "none"
            present = f"; the resources of the {there} that are there: {names}" if there else ""
            text += (
                f" that have {having}, for task {task_id!r}{present}. Start workers with --resources "
                f"'{having.replace(', ', ' ')}'; what Dask is not to count is said with run(resources=...)"
            )
        self.events.append(Notice(text))

    # The end of leases -----------------------------------------------------------------------------------------------

    def close(self, sent: Sent, report: Report) -> None:
        """Be done with a lease, with this as the last report of it."""
        self._forget(sent)
        self.events.append(report)

    def _forget(self, sent: Sent) -> None:
        lease_id = sent.lease.lease_id
        del self.sent[lease_id]
        if sent.member is not None:
            sent.member.drop_lease(lease_id)
        sent.future.release()  # type: ignore[no-untyped-call]

    def give_back(self, sent: Sent) -> None:
        """Be done with a lease of which nothing more was run than what was reported."""
        self.close(sent, Report(sent.lease.lease_id, 0, b"", finished=True))

    def lose(self, sent: Sent, where: str, *, is_alone: bool) -> None:
        """Account for a lease whose Dask worker was lost while it ran, the only one there or not."""
        lease = sent.lease
        rest = [position for position, outcome in enumerate(sent.outcomes) if not outcome]
        if not rest:
            self.give_back(sent)
            return
        blocks = [(lease.task_id, int(lease.indices[position])) for position in rest]
        self._losses.update(blocks)
        if len(lease.indices) == 1:
            self._alone[blocks[0]] += is_alone
            may_blame = self._told[blocks[0]] >= SUSPECT  # the loop takes its next loss for its fault
            if may_blame and self._alone[blocks[0]] < MOST_ALONE and not self.wish.drain:
                self._forget(sent)
                self._rename(lease)
                self.submit(lease)
                return
        self._told.update(blocks)
        crash = f"the Dask worker {where} was lost: its machine, its memory limit or its job may have ended it"
        self.close(sent, Report(lease.lease_id, 0, b"", finished=True, is_suspect=True, crash=crash))

    def report(self, sent: Sent, address: str, told: Told, *, is_finished: bool) -> Report:
        """Return what a node told of a lease, as the run loop wants it; put what was printed into the log."""
        number = self._members.number(address, told.slot)
        if told.output:
            append_log(self._setup.log_dir, sent.lease.task_id, number, told.output)
        for position, outcome in enumerate(told.outcomes, told.begin):
            sent.outcomes[position] = sent.outcomes[position] or outcome
        said = told.outcomes, told.seconds, told.errors, told.results, is_finished
        name = f"worker-{number}"
        return Report(sent.lease.lease_id, told.begin, *said, name, told.peak_memory_bytes, told.crash)

    def abandon(self) -> None:
        """Give up all leases; nothing is reported of them."""
        for sent in self.sent.values():
            sent.future.release()  # type: ignore[no-untyped-call]
        self.sent.clear()
        self._held_back.clear()
