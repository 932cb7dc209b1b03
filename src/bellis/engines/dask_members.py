"""What the Dask engine knows of the Dask workers of its cluster."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bellis.errors import TaskError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from distributed import Future

    from bellis.runtime.lease import Lease
    from bellis.runtime.program import PackedProgram, Program


@dataclass(slots=True)
class Member:
    """A Dask worker."""

    address: str
    """Its name for Dask."""
    slots: int
    """How many leases it runs at the same time: its threads."""
    resources: dict[str, int]
    """What it has of resources."""
    programs: set[int] = field(default_factory=set)
    """Those that it has said to have."""
    leases: dict[int, Mapping[str, int]] = field(default_factory=dict)
    """Leases that it was given, and the resources that each holds."""
    task_id: str = ""
    last_index: int = 0
    alone: int | None = None
    """The lease that it is to run with none beside it."""
    threads: int = 0
    """How many leases it may be running, also now that it gets no more."""
    is_paused: bool = False
    is_missing: bool = False
    """Whether the scheduler did not name it the last time."""
    bye_s: float = float("-inf")
    """When it said that it runs nothing any more of what it was given."""
    asked_back: set[int] = field(default_factory=set)
    """Leases that it was asked not to begin, as it is paused."""

    def has_room(self) -> bool:
        """Whether one more lease would not lie there for long: it holds less than two per slot."""
        return len(self.leases) < 2 * self.slots

    def can_hold(self, resources: Mapping[str, int]) -> bool:
        """Whether it has so much of each resource, free or not."""
        return all(self.resources.get(name, 0) >= amount for name, amount in resources.items())

    def is_free_of(self, resources: Mapping[str, int]) -> bool:
        """Whether it has so much of each resource that nothing holds."""
        held = {name: sum(one.get(name, 0) for one in self.leases.values()) for name in resources}
        return all(self.resources.get(name, 0) - held[name] >= amount for name, amount in resources.items())

    def drop_lease(self, lease_id: int) -> None:
        """Forget a lease that has ended."""
        self.leases.pop(lease_id, None)
        if self.alone == lease_id:
            self.alone = None

    def begun(self) -> list[int]:
        """Return the leases that it may be running: it begins them in the order of their ids."""
        return sorted(self.leases)[: self.threads]


@dataclass(slots=True)
class Sent:
    """A lease that Dask has."""

    lease: Lease
    future: Future[bytes | None]
    member: Member | None
    """Who has it; None while it waits for the first worker that comes."""
    outcomes: bytearray
    """What was reported of each block."""
    is_fetched: bool = False
    """Whether the result of the Dask task was asked for."""
    where: str = ""
    """Address of the Dask worker that has it, if it was for the first that comes."""


@dataclass(slots=True)
class Work:
    """A task."""

    program: Program
    packed: PackedProgram
    is_refused: bool = False


class Members:
    """The Dask workers that are there.

    Parameters
    ----------
    given
        What the user says there is of resources: those names are not asked of Dask unless a worker has, or had, them.
    """

    def __init__(self, given: Mapping[str, int] | None = None) -> None:
        self.by_address: dict[str, Member] = {}
        self._given = frozenset(given or ())
        self._known: set[str] = set()
        self._numbers: dict[tuple[str, int], int] = {}

    def update(self, workers: Mapping[str, Mapping[str, Any]]) -> tuple[list[Member], list[Member]]:
        """Take what the scheduler says of its workers; return who joined, and who is there no more.

        Who is missing for the first time may still be said to leave as planned, so it is not taken as gone.
        """
        joined = []
        for address, said in workers.items():
            threads = int(said["nthreads"])
            is_running = said.get("status", "running") == "running" and threads > 0
            member = self.by_address.get(address)
            if member is None and is_running:
                member = self.by_address[address] = Member(address, threads, _resources(said), threads=threads)
                self._known.update(member.resources)
                joined.append(member)
            elif member is not None:  # paused, or about to close: no more leases, but what it has
                member.slots = threads if is_running else 0
                member.is_paused, member.is_missing = said.get("status") == "paused", False
                member.asked_back.clear()
        missing = [member for address, member in self.by_address.items() if address not in workers]
        left = [member for member in missing if member.is_missing]
        for member in missing:
            member.slots, member.is_missing = 0, True
        for member in left:
            del self.by_address[member.address]
        return joined, left

    @property
    def slots(self) -> int:
        """How many leases all of them run at the same time."""
        return sum(member.slots for member in self.by_address.values())

    def resources(self) -> dict[str, int]:
        """Return what they have of resources together."""
        found: dict[str, int] = {}
        for member in self.by_address.values():
            for name, amount in member.resources.items():
                found[name] = found.get(name, 0) + amount
        return found

    def asked_of_dask(self, resources: Mapping[str, int]) -> dict[str, int]:
        """Return those of a task's resources that Dask workers are to have; others are counted by the run alone."""
        return {name: amount for name, amount in resources.items() if name not in self._given or name in self._known}

    def offered(self, programs: Sequence[Program]) -> tuple[dict[str, int], int]:
        """Return what there is of resources, and how many tasks need what none has.

        For those, what one block needs counts as being there: one lease of them is to wait where Dask sees it.
        """
        found, unable = self.resources(), 0
        for program in programs:
            asked = self.asked_of_dask(program.resources)
            if asked and not self.able(asked):
                unable += 1
                found.update({name: max(found.get(name, 0), amount) for name, amount in asked.items()})
        return found, unable

    def able(self, resources: Mapping[str, int]) -> list[Member]:
        """Return those that have enough of each resource, free or not."""
        return [member for member in self.by_address.values() if member.slots and member.can_hold(resources)]

    def choose(self, resources: Mapping[str, int], task_id: str, first: int) -> Member | None:
        """Choose a Dask worker with little to do that last had the blocks next to ``first``; None if there is none."""

        def cost(member: Member) -> tuple[bool, float, bool, int]:
            load = len(member.leases) / member.slots
            return not member.has_room(), load, member.task_id != task_id, abs(member.last_index - first)

        able = [member for member in self.able(resources) if member.alone is None]
        free = [member for member in able if member.is_free_of(resources)]
        return min(free or able, key=cost, default=None)

    def reserve(self, resources: Mapping[str, int], lease_id: int) -> Member | None:
        """Choose a Dask worker for a lease that is to run alone; None while each still has others to finish."""
        reserved = [member for member in self.able(resources) if member.alone == lease_id]
        free = [member for member in self.able(resources) if member.alone is None]
        chosen = min(reserved or free, key=lambda member: len(member.leases), default=None)
        if chosen is None:
            return None
        chosen.alone = lease_id
        return None if chosen.leases else chosen

    def check(self, programs: Sequence[Program]) -> None:
        """Refuse a task whose blocks fit on no worker, though together they would have enough.

        Raises
        ------
        TaskError
            If there is one.
        """
        for program in programs:
            wanted = self.asked_of_dask(program.resources)
            for name, amount in wanted.items():
                most = max((member.resources.get(name, 0) for member in self.by_address.values()), default=0)
                if 0 < most < amount:
                    raise TaskError(
                        f"task {program.task_id!r} needs {amount} {name!r} for each block, but no Dask worker has more "
                        f"than {most}: start workers with --resources '{name}={amount}'"
                    )

    def number(self, address: str, slot: int) -> int:
        """Return the number, in the whole cluster, of a worker process on one Dask worker."""
        return self._numbers.setdefault((address, slot), len(self._numbers))


def _resources(said: Mapping[str, Any]) -> dict[str, int]:
    return {name: int(amount) for name, amount in (said.get("resources") or {}).items() if amount >= 1}
