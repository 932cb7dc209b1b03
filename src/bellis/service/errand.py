"""What passes between a `Client` and its courier: msgpack over a socket pair, beside a shared cell."""

from __future__ import annotations

import msgspec

from bellis.runtime.messages import Reported, RunLease
from bellis.service.messages import TaskDescription  # noqa: TC001  # msgspec reads the annotations


class Begin(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """To the courier: whom to serve, and where."""

    url: str
    token: str
    run_id: str | None
    ca_file: str | None
    task_id: str
    name: str
    launched: int | None
    patience_s: float


class Begun(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """To the client: the courier has joined the run."""

    run_id: str
    task: TaskDescription


class Over(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """To the client: no more blocks will come."""

    error: str | None
    is_other_run: bool


encode = msgspec.msgpack.Encoder().encode
decode_for_courier = msgspec.msgpack.Decoder(Begin | Reported).decode
decode_for_client = msgspec.msgpack.Decoder(Begun | RunLease | Over).decode
