"""What passes between a run and workers elsewhere: JSON over HTTP, checked against these types, and nothing else.

A worker has one conversation with the service: it joins, then it takes turns. A turn brings reports and takes leases;
it is also the heartbeat. A turn that is sent twice, because the answer to the first was lost, changes nothing more:
reports count once, and leases that the worker does not say it holds are sent again.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

LONGEST_NAME = 200
LONGEST_TEXT = 30_000
MOST_REPORTS = 256
LARGEST_BODY_BYTES = 32 * 2**20
"""No request is longer; reports that would not fit go in several turns."""
LONGEST_WAIT_S = 10.0
"""The service answers a turn at the latest after so long, whatever ``wait_s`` says."""

Name = Annotated[str, Meta(max_length=LONGEST_NAME)]
TaskName = Annotated[str, Meta(min_length=1, max_length=10_000)]
Text = Annotated[str, Meta(max_length=LONGEST_TEXT)]
Count = Annotated[int, Meta(ge=0, le=2**53)]
Duration = Annotated[float, Meta(ge=0, le=1e9)]
Number = Annotated[int, Meta(ge=0, le=2**31)]


class Hello(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """From the service, to anybody: which run this is, and that it knows the run's token."""

    run_id: str
    proof: str
    """HMAC-SHA256 of ``bellis:<run_id>:<nonce>`` under the token, in hex."""


class Join(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """From a worker: it is there."""

    name: Name
    """What a person would call it: host and process."""
    task_id: TaskName | None = None
    """The one task that it takes blocks of; None: any whose functions it can import."""
    slots: Annotated[int, Meta(ge=1, le=4096)] = 1
    """How many leases it can run at the same time."""
    launched: Number | None = None
    """The number under which this run started it, if it did."""


class Region(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A region in world units."""

    offset: list[int]
    shape: list[int]


class TaskDescription(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """To a worker: a task."""

    number: int
    task_id: str
    total_roi: Region
    read_roi: Region
    write_roi: Region
    fit: Literal["valid", "overhang", "shrink"]
    keeps_results: bool
    timeout_s: float | None
    process: str | None
    """Its function as ``module:name``; None if it can't be imported, or takes blocks by itself."""
    pre: str | None = None
    post: str | None = None
    setup: str | None = None


class Joined(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """To a worker: what it is called, and what there is to do."""

    worker_id: int
    run_id: str
    silence_s: float
    """A worker that is not heard of for so long has lost its leases."""
    tasks: list[TaskDescription]


class LeaseMessage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """To a worker: run these blocks, in this order."""

    lease_id: int
    task_id: str
    runs: list[tuple[int, int]]
    """Linear block indices as (first, how many)."""


class BlockReport(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """From a worker: what became of consecutive blocks of a lease; see `bellis.runtime.lease.Report`."""

    lease_id: Count
    begin: Number
    outcomes: Annotated[bytes, Meta(max_length=8192)] = b""
    """One `Outcome` per block; 0 says nothing of a block."""
    seconds: Annotated[bytes, Meta(max_length=32768)] = b""
    """float32, as many as there are outcomes, or none."""
    errors: dict[Number, Text] = {}
    """By position in the lease, like ``results``; only for blocks that this report is about."""
    results: dict[Number, bytes] = {}
    finished: bool = False
    crash: Text | None = None
    peak_memory_bytes: Count = 0
    output: bytes = b""
    slot: Number = 0
    """Which of the worker's places ran it, from 0; of a worker that the run launched: the number of the worker process
    that it was launched in, which writes that log."""


class Running(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """From a worker: where it is in a lease."""

    lease_id: Count
    position: Number
    seconds: Duration
    """For how long it has been in this block."""


class Turn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """From a worker, again and again."""

    reports: Annotated[list[BlockReport], Meta(max_length=MOST_REPORTS)] = []
    running: Annotated[list[Running], Meta(max_length=4096)] = []
    held: Annotated[list[Count], Meta(max_length=16384)] = []
    """Leases that it has, those that end with this turn's reports left out."""
    wants: Annotated[int, Meta(ge=0, le=8192)] = 0
    """How many more leases it would take."""
    wait_s: Annotated[float, Meta(ge=0, le=30)] = 0.0
    """How long it would wait for them."""
    refused: dict[TaskName, Text] = {}
    """Tasks whose functions it can't load, and why."""
    ended: Annotated[list[Text], Meta(max_length=MOST_REPORTS)] = []
    """How worker processes of it ended although nobody asked them to."""


class Answer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """To a worker: what to do until the next turn."""

    state: Literal["go", "drain", "leave"]
    """``drain``: begin no further block and give back the rest; ``leave``: there is nothing more to do."""
    leases: list[LeaseMessage] = []
    """New ones, and those that it should have but does not say it holds."""
    lost: list[int] = []
    """Leases that it holds, or reported on, but that are not its own any more: end them; what it said was dropped."""
    give_back: list[int] = []
    """Leases of which it should return what it has not begun."""
    report_every_s: float = 0.5


class Problem(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """From the service: why a request was refused."""

    error: str


class TaskStatus(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How far a task is."""

    task_id: str
    leased: int
    """Blocks that are with workers now."""
    queued: int
    """Blocks that wait for a worker."""


class RunStatus(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """From the service: how the run goes."""

    run_id: str
    workers: int
    tasks: list[TaskStatus]
