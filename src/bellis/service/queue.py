"""Leases that wait for a worker."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bellis.runtime.lease import Lease


class LeaseQueue:
    """Leases of one task, oldest first."""

    __slots__ = ("_by_first", "_leases")

    def __init__(self) -> None:
        self._leases: dict[int, Lease] = {}
        self._by_first: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._leases)

    def add(self, lease: Lease) -> None:
        """Put a lease at the end."""
        self._leases[lease.lease_id] = lease
        self._by_first[int(lease.indices[0])] = lease.lease_id

    def oldest(self) -> int:
        """Return the id of the lease that has waited longest."""
        return next(iter(self._leases))

    def take(self, after: int | None = None) -> Lease:
        """Remove and return the lease that follows block ``after``; if there is none, the oldest."""
        lease_id = self._by_first.get(after + 1) if after is not None else None
        lease = self._leases.pop(self.oldest() if lease_id is None else lease_id)
        self._by_first.pop(int(lease.indices[0]), None)
        return lease

    def take_all(self) -> list[Lease]:
        """Remove and return all."""
        leases = list(self._leases.values())
        self._leases.clear()
        self._by_first.clear()
        return leases

    def blocks(self) -> int:
        """Return how many blocks wait."""
        return sum(len(lease.indices) for lease in self._leases.values())
