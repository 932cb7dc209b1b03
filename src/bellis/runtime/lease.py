"""The unit that travels: many block indices of one task; and what comes back."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bellis.planning.grid import Ints


class Outcome(IntEnum):
    """What became of a block under a lease."""

    NONE = 0
    """Not reached yet."""
    SUCCESS = 1
    SKIPPED = 2
    """The pre-check said that it was done."""
    FAILED = 3
    LOST = 4
    """Not run: to be leased again, without counting an attempt."""
    SUSPECT = 5
    """Lost with the machine; it may be the block that ended it. Leased again in halves, as in the search for a fault in
    a cable: a block that ends machines is alone in the end, and spares the others."""


@dataclass(frozen=True, slots=True)
class Lease:
    """Blocks that an engine is to run, in this order.

    A report of a lease counts only while the lease is held: its id is the epoch of its blocks.
    """

    lease_id: int
    """Unique in a run, rising."""
    task_id: str
    """Task that the blocks belong to."""
    indices: Ints
    """Linear block indices, int64."""


@dataclass(frozen=True, slots=True)
class Report:
    """What an engine says of consecutive blocks of one lease."""

    lease_id: int
    """The lease."""
    begin: int
    """Position in the lease of the first block that is reported."""
    outcomes: bytes
    """One `Outcome` per block."""
    seconds: bytes = b""
    """Duration of each block, float32; empty if not known."""
    errors: dict[int, str] = field(default_factory=dict)
    """Position in the lease -> traceback, for failed blocks; and for others whose pre-check raised."""
    results: dict[int, bytes] = field(default_factory=dict)
    """Position in the lease -> what the function returned, as msgpack."""
    finished: bool = False
    """Whether the engine is done with the lease; blocks that it never reported are lost."""
    worker: str = ""
    """Where the blocks ran."""
    peak_memory_bytes: int = 0
    """Largest resident set of the worker so far."""
    crash: str | None = None
    """How the worker ended, if it did so while running the last block reported."""
    is_suspect: bool = False
    """Whether the machine was lost, perhaps by one of the blocks that are not reported; ``crash`` says how."""
    output: bytes = b""
    """What the worker printed since its last report; empty where it writes its log itself."""
