"""What passes between a run and its worker processes: msgpack, nothing that could run code, but for the programs.

A program is cloudpickle; it is loaded only from the socket that the worker inherited from its own run.
"""

from __future__ import annotations

import msgspec


class LoadProgram(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """To a worker: the functions of a task."""

    number: int
    task_id: str
    payload: bytes


class RunLease(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """To a worker: run these blocks."""

    lease_id: int
    program: int
    indices: bytes


class Reported(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """From a worker: what became of consecutive blocks of a lease; see `bellis.runtime.lease.Report`."""

    lease_id: int
    begin: int
    outcomes: bytes
    seconds: bytes
    errors: dict[int, str]
    results: dict[int, bytes]
    finished: bool
    peak_memory_bytes: int


class LoadFailed(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """From a worker: a program can't be loaded there."""

    number: int
    error: str


class Ready(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """From a worker: it has started."""

    pid: int


encode = msgspec.msgpack.Encoder().encode
decode_for_worker = msgspec.msgpack.Decoder(LoadProgram | RunLease).decode
decode_from_worker = msgspec.msgpack.Decoder(Reported | LoadFailed | Ready).decode
