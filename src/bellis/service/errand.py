"""What passes between a `Client` and its courier: msgpack over a socket pair, beside a shared cell."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from bellis.errors import ContextError
from bellis.runtime.messages import Reported, RunLease
from bellis.service.connection import PATIENCE_S
from bellis.service.conversation import own_name
from bellis.service.messages import TaskDescription  # noqa: TC001  # msgspec reads the annotations

if TYPE_CHECKING:
    from bellis.service.context import Context

BATCH, OUTSIDE_NS = 4, 5
"""Words of the cell, written by the client: how many blocks it works on at the same time, from the position on; since
when it is in no block and does not wait for one (monotonic clock), 0 while it is or does."""


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


class Ask(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """To the courier: the client waits for a block."""


class Begun(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """To the client: the courier has joined the run."""

    worker_id: int

    run_id: str
    task: TaskDescription


class Over(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """To the client: no more blocks will come."""

    error: str | None
    is_other_run: bool


encode = msgspec.msgpack.Encoder().encode
decode_for_courier = msgspec.msgpack.Decoder(Begin | Reported | Ask).decode
decode_for_client = msgspec.msgpack.Decoder(Begun | RunLease | Over).decode


def beginning(context: Context) -> Begin:
    """Return what a courier is told first.

    Raises
    ------
    ContextError
        If something is missing in the context, or is no number.
    """
    missing = [name for name in ("hostname", "port", "task_id", "token") if not context.get(name)]
    if missing:
        raise ContextError(
            f"the context has no {', '.join(missing)}: {context!r}. A Client needs the context that bellis gives to a "
            "worker function or an init_callback_fn"
        )
    scheme = "https" if context.get("scheme") == "https" or context.get("ca_file") else "http"
    host = context["hostname"]
    launched = context.get("launched", "")
    return Begin(
        url=f"{scheme}://{f'[{host}]' if ':' in host else host}:{context['port']}",
        token=context["token"],
        run_id=context.get("run_id") or None,
        ca_file=context.get("ca_file") or None,
        task_id=context["task_id"],
        name=own_name(),
        launched=int(launched) if launched.isdigit() else None,
        patience_s=_number(context, "patience_s", PATIENCE_S),
    )


def worker_number(context: Context, otherwise: int) -> int:
    """Return the number of the worker that a context is for, as daisy's scripts expect it.

    Raises
    ------
    ContextError
        If it is no number.
    """
    return int(_number(context, "worker_id", otherwise))


def _number(context: Context, name: str, otherwise: float) -> float:
    try:
        return float(context.get(name, otherwise))
    except ValueError as error:
        raise ContextError(f"{name} in the context must be a number, not {context[name]!r}") from error
