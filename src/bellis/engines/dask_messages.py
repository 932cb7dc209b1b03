"""What passes between a run and its nodes on a Dask cluster: msgpack that runs nothing, but for programs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from bellis.runtime.lease import Report


class Order(msgspec.Struct, array_like=True, frozen=True):
    """To a node: run a lease."""

    run_id: str
    key: str
    lease_id: int
    task_id: str
    indices: bytes
    program: int
    keeps_results: bool
    timeout_s: float | None
    payload: bytes | None
    """The program; None if the node has said that it has it."""
    wish: Wish
    is_unpinned: bool = False
    """Whether the run does not know which node this is."""


class Wish(msgspec.Struct, array_like=True, frozen=True):
    """To a node: how to go on."""

    number: int
    """Of two wishes, the one with the larger number holds."""
    report: bool = False
    share: bool = False
    drain: bool = False
    close: bool = False
    unwanted: list[int] = []
    """Leases that are not to be begun any more."""


class Told(msgspec.Struct, array_like=True):
    """From a node: what became of consecutive blocks of a lease; see `bellis.runtime.lease.Report`."""

    begin: int
    outcomes: bytes
    seconds: bytes
    errors: dict[int, str]
    results: dict[int, bytes]
    slot: int
    peak_memory_bytes: int
    crash: str | None
    output: bytes


class Death(msgspec.Struct, array_like=True, frozen=True):
    """From a node: a worker process ended."""

    slot: int
    reason: str
    position: int | None


class News(msgspec.Struct, array_like=True):
    """From a node: what happened to a lease since the last news of it."""

    lease_id: int
    told: list[Told] = []
    deaths: list[Death] = []
    refused: str | None = None
    """Why its task can't be loaded."""
    is_missing: bool = False
    """Whether the node needs the program; nothing was run."""
    is_finished: bool = False


encode = msgspec.msgpack.Encoder().encode
decode_order = msgspec.msgpack.Decoder(Order).decode
decode_wish = msgspec.msgpack.Decoder(Wish).decode
decode_news = msgspec.msgpack.Decoder(News).decode


def topic_of(run_id: str) -> str:
    """Return the Dask topic of a run's news; also the name of its plugin on Dask workers."""
    return f"bellis-{run_id}"


def add_report(told: list[Told], report: Report) -> None:
    """Add a report to those that wait to be sent; one that goes on where the last one ended is joined to it."""
    slot = slot_of(report.worker)
    last = told[-1] if told else None
    is_known = bool(report.seconds)
    if last is not None and last.slot == slot and last.crash is None:
        goes_on = last.begin + len(last.outcomes) == report.begin
        if goes_on and (is_known == bool(last.seconds) or not report.outcomes):
            last.outcomes += report.outcomes
            last.seconds += report.seconds
            last.errors.update(report.errors)
            last.results.update(report.results)
            last.peak_memory_bytes = max(last.peak_memory_bytes, report.peak_memory_bytes)
            last.crash = report.crash
            last.output += report.output
            return
        is_again = last.begin == report.begin and len(last.outcomes) <= len(report.outcomes)
        if is_again and not (is_known or last.seconds or report.errors or report.finished):
            last.outcomes = report.outcomes  # what is done so far, as the cell says, said once more
            return
    told.append(
        Told(
            report.begin,
            report.outcomes,
            report.seconds,
            dict(report.errors),
            dict(report.results),
            slot,
            report.peak_memory_bytes,
            report.crash,
            report.output,
        )
    )


def slot_of(worker: str) -> int:
    """Return the number in the name of a worker; 0 if it has none."""
    number = worker.rpartition("-")[2]
    return int(number) if number.isdigit() else 0
