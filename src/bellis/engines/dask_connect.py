"""How the Dask engine finds its scheduler: from what the user passed to a connected client."""

from __future__ import annotations

import asyncio
import re
import socket
import threading
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Any

import dask
from distributed import Client, Security
from distributed.comm.core import connect

from bellis.errors import EngineError

if TYPE_CHECKING:
    from distributed.deploy.cluster import Cluster

CONNECT_S = 20.0
"""How long a scheduler may take to answer at the start."""
REFUSED_S = 5.0
"""How long its machine may say that nothing listens there: perhaps it starts just now."""
POLL_S = 0.1
PLACE = re.compile(r"(?:(?:tcp|tls|ws|wss|ucx|ucxx)://)?(?:\[[0-9A-Fa-f:.%\w]+\]|[^\s:/@?#\[\]]+):([0-9]{1,5})")
HOW = "start one with `dask scheduler`, or pass a connected Client; with TLS, pass security="


def check_place(given: object) -> None:
    """Refuse what leads to no scheduler.

    Raises
    ------
    EngineError
        If it is neither an address nor a client nor a cluster.
    """
    if isinstance(given, str):
        match = PLACE.fullmatch(given)
        if given.startswith("inproc://") or (match is not None and 0 < int(match[1]) < 65536):
            return
        raise EngineError(f"{given!r} is no address of a Dask scheduler: pass 'host:port' or 'tcp://host:port'")
    is_place = hasattr(given, "scheduler_info") or hasattr(given, "scheduler_address")
    if given is not None and (isinstance(given, type) or not is_place):
        raise EngineError(
            f"DaskEngine was given {given!r}: pass a connected distributed.Client, a cluster (LocalCluster, "
            "SLURMCluster...), the address 'host:port' of a scheduler, or nothing"
        )


def place_of(given: Client | Cluster | str, security: Security | None) -> tuple[str, Security | None]:
    """Return where a scheduler is, and the certificates for it.

    Raises
    ------
    EngineError
        If a client or a cluster is not connected.
    """
    if isinstance(given, str):
        return (given if "://" in given or security is None else f"tls://{given}"), security
    if isinstance(given, Client):
        if given.status != "running" or given.scheduler is None:
            raise EngineError(f"the Dask client is {given.status}: pass one that is connected to a scheduler")
        return str(given.scheduler.address), given.security
    address = str(given.scheduler_address)
    if PLACE.fullmatch(address) is None and not address.startswith("inproc://"):
        raise EngineError(f"the Dask cluster has no scheduler ({address}): pass one that has been started")
    return address, security or getattr(given, "security", None)


def connected(address: str, security: Security | None) -> Client:
    """Return a client of a scheduler, in `CONNECT_S` or little more; an interrupt ends the attempt at once.

    Raises
    ------
    EngineError
        If no scheduler answers.
    """
    attempt = _Attempt(address, security)
    attempt.start()
    try:
        attempt.join_or_fail()
    except BaseException:
        attempt.give_up()
        raise
    if attempt.client is None:
        error = attempt.error
        what = f"{type(error).__name__}: {error}" if error is not None else f"nothing in {CONNECT_S:.0f} s"
        raise EngineError(f"no Dask scheduler answers at {address!r} ({what}): {HOW}") from error
    return attempt.client


class _Attempt(threading.Thread):
    """To connect, in a thread, as that can't be interrupted in the main one without remains."""

    def __init__(self, address: str, security: Security | None) -> None:
        super().__init__(name="bellis-dask-connect", daemon=True)
        self.client: Client | None = None
        self.error: Exception | None = None
        self._address = address
        self._security = security
        self._lock = threading.Lock()
        self._is_given_up = False

    def run(self) -> None:
        """Ask whether there is a scheduler; then connect as Dask does, which would wait for other servers for ever."""
        try:
            if not self._address.startswith("inproc://") and not dask.config.get(
                "distributed.client.security-loader", None
            ):
                asyncio.run(self._ask())
            client = Client(  # type: ignore[no-untyped-call]
                self._address, security=self._security, set_as_default=False, timeout=CONNECT_S, name="bellis"
            )
        except Exception as error:  # noqa: BLE001  # whatever a server that is none of Dask's has said
            self.error = error
            return
        with self._lock:
            if not self._is_given_up:
                self.client = client
                return
        _close(client)

    def join_or_fail(self) -> None:
        """Wait for the end; for a while only."""
        until = monotonic() + 2 * CONNECT_S
        while self.is_alive() and monotonic() < until:
            self.join(POLL_S)
        if self.is_alive():
            self.give_up()

    def give_up(self) -> None:
        """End the attempt; what is half made is closed."""
        with self._lock:
            self._is_given_up = True
            client, self.client = self.client, None
        if client is not None:
            _close(client)
        self.join(1.0)

    async def _ask(self) -> None:
        asking = asyncio.ensure_future(_scheduler_at(self._address, self._security or Security()))  # type: ignore[no-untyped-call]
        while not asking.done():
            if self._is_given_up:
                asking.cancel()
            await asyncio.wait([asking], timeout=POLL_S)
        if asking.cancelled():
            raise EngineError("interrupted")
        await asking


async def _scheduler_at(address: str, security: Security) -> None:
    """Return if a scheduler answers.

    Raises
    ------
    OSError
        If nothing listens there.
    EngineError
        If something else does.
    """
    options = security.get_connection_args("client")  # type: ignore[no-untyped-call]
    until = asyncio.get_running_loop().time() + CONNECT_S
    for most_s in (min(REFUSED_S, CONNECT_S), CONNECT_S):
        left = min(most_s, until - asyncio.get_running_loop().time())
        try:
            said = await asyncio.wait_for(_identity(address, left, options), left + POLL_S)
        except TimeoutError:
            continue
        except OSError as error:
            if _is_final(error):
                raise
            continue
        if not isinstance(said, dict) or said.get("type") != "Scheduler":
            raise EngineError("a server of Dask is there, but no scheduler")
        return
    raise EngineError(f"something listens there, but did not answer in {CONNECT_S:.0f} s as a Dask scheduler does")


async def _identity(address: str, timeout_s: float, options: dict[str, Any]) -> Any:
    comm = await connect(address, timeout=timeout_s, **options)  # type: ignore[no-untyped-call]
    try:
        await comm.write({"op": "identity", "reply": True})
        return await comm.read()
    finally:
        comm.abort()


def _is_final(error: BaseException | None) -> bool:
    """Whether it does not help to wait."""
    while error is not None:
        if isinstance(error, (ConnectionRefusedError, socket.gaierror)) or "refused" in str(error):
            return True
        error = error.__cause__
    return False


def _close(client: Client) -> None:
    with suppress(Exception):  # nobody has used it
        client.close(timeout=1)  # type: ignore[no-untyped-call]
