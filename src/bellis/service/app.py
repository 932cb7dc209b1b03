"""The service's HTTP interface: who may ask what, and how errors are said."""

from __future__ import annotations

import asyncio
import hmac
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from bellis.service.holding import RefusedError
from bellis.service.messages import LARGEST_BODY_BYTES, Answer, Hello, Join, Joined, Problem, RunStatus, Turn
from bellis.service.openapi import description
from bellis.service.protocol import EXTENSION
from bellis.service.roster import CrowdedError, UnknownWorkerError
from bellis.service.token import is_nonce, proof

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

BODY_S = 10.0
"""A request's body must be there so soon."""
RUN_HEADER = "Bellis-Run"
LONGEST_ID = 18
"""Digits of a worker's id."""

_Message = TypeVar("_Message", Join, Turn)


class Desk(Protocol):
    """What requests are passed on to."""

    run_id: str

    def join(self, join: Join) -> Joined:
        """Take in a worker."""

    async def turn(self, worker_id: int, turn: Turn, gone: Callable[[], Awaitable[Any]]) -> Answer:
        """Take a worker's turn; ``gone()`` returns when it does not wait for the answer any more."""

    def leave(self, worker_id: int) -> None:
        """Let a worker go."""

    def status(self) -> RunStatus:
        """Return how the run goes."""


class App:
    """The handlers of all requests.

    Parameters
    ----------
    desk
        What they are passed on to.
    token
        What a caller must know.
    """

    def __init__(self, desk: Desk, token: str) -> None:
        self._desk = desk
        self._token = token
        self._authorization = f"Bearer {token}".encode()
        self._description = msgspec.json.encode(description())
        self.asgi = Starlette(
            routes=[
                Route("/v1/workers/{worker_id}/turn", self._turn, methods=["POST"]),
                Route("/v1/hello", self._hello, methods=["GET"]),
                Route("/v1/openapi.json", self._openapi, methods=["GET"]),
                Route("/v1/run", self._status, methods=["GET"]),
                Route("/v1/workers", self._join, methods=["POST"]),
                Route("/v1/workers/{worker_id}", self._leave, methods=["DELETE"]),
            ],
            exception_handlers={HTTPException: _problem, ClientDisconnect: _nobody},
        )
        self.asgi.router.redirect_slashes = False

    async def _hello(self, request: Request) -> Response:
        nonce = request.query_params.get("nonce", "")
        if not is_nonce(nonce):
            raise HTTPException(422, "nonce must be 32 to 64 hexadecimal digits")
        return _answer(Hello(run_id=self._desk.run_id, proof=proof(self._token, self._desk.run_id, nonce)))

    async def _openapi(self, request: Request) -> Response:
        del request
        return Response(self._description, media_type="application/json")

    async def _status(self, request: Request) -> Response:
        self._admit(request)
        return _answer(self._desk.status())

    async def _join(self, request: Request) -> Response:
        self._admit(request)
        join = await self._body(request, Join)
        try:
            return _answer(self._desk.join(join), 201)
        except RefusedError as error:
            raise HTTPException(422, str(error)) from error
        except CrowdedError as error:
            raise HTTPException(503, str(error)) from error

    async def _turn(self, request: Request) -> Response:
        self._admit(request)
        worker_id = _worker_id(request)
        turn = await self._body(request, Turn)
        try:
            return _answer(await self._desk.turn(worker_id, turn, request.receive))
        except UnknownWorkerError as error:
            raise HTTPException(404, str(error)) from error
        except RefusedError as error:
            raise HTTPException(422, str(error)) from error

    async def _leave(self, request: Request) -> Response:
        self._admit(request)
        self._desk.leave(_worker_id(request))
        return Response(status_code=204)

    # What all have in common -----------------------------------------------------------------------------------------

    def _admit(self, request: Request) -> None:
        """Refuse whoever does not know the token, or is of another run; before anything is read."""
        given = request.headers.get("authorization", "").encode()
        if not hmac.compare_digest(given, self._authorization):
            raise HTTPException(401, "the run's token is needed: Authorization: Bearer <token>", _goodbye(401))
        connection = request.scope.get("extensions", {}).get(EXTENSION)
        if connection is not None:
            connection.welcome()
        run_id = request.headers.get(RUN_HEADER)
        if run_id is None:
            raise HTTPException(422, f"the header {RUN_HEADER} must say which run is meant", _goodbye())
        if run_id != self._desk.run_id:
            message = f"this is run {self._desk.run_id}, not {run_id[:100]!r}, which is over: leave"
            raise HTTPException(409, message, _goodbye())

    async def _body(self, request: Request, kind: type[_Message]) -> _Message:
        """Read and check a request's body."""
        announced = request.headers.get("content-length", "0")
        too_large = HTTPException(413, f"a body may have {LARGEST_BODY_BYTES} bytes", _goodbye())
        if not announced.isdecimal() or len(announced) > 15 or int(announced) > LARGEST_BODY_BYTES:
            raise too_large
        body = bytearray()
        try:
            async with asyncio.timeout(BODY_S):
                async for part in request.stream():
                    body += part
                    if len(body) > LARGEST_BODY_BYTES:
                        raise too_large
        except TimeoutError as error:
            raise HTTPException(408, f"the body did not come within {BODY_S:g} s", _goodbye()) from error
        try:
            return msgspec.json.decode(body, type=kind)
        except msgspec.DecodeError as error:
            raise HTTPException(422, f"the body is no {kind.__name__}: {error}") from error
        except RecursionError as error:
            raise HTTPException(422, f"the body is no {kind.__name__}: it is nested too deeply") from error


def _worker_id(request: Request) -> int:
    """Return the worker that a path names; to be called once it is known who asks."""
    text = request.path_params["worker_id"]
    if not (text.isascii() and text.isdecimal() and len(text) <= LONGEST_ID):
        raise HTTPException(
            404, f"no worker has the id {text[:LONGEST_ID]!r}: it is a number, as the answer to Join says"
        )
    return int(text)


def _goodbye(status: int = 0) -> dict[str, str]:
    """Return the headers of the last answer on a connection: what else comes on it is not read."""
    return {"Connection": "close", **({"WWW-Authenticate": "Bearer"} if status == 401 else {})}


def _answer(message: msgspec.Struct, status: int = 200) -> Response:
    return Response(msgspec.json.encode(message), status, media_type="application/json")


async def _problem(request: Request, error: Exception) -> Response:
    del request
    if not isinstance(error, HTTPException):
        raise error
    content = msgspec.json.encode(Problem(error=error.detail))
    return Response(content, error.status_code, error.headers, "application/json")


async def _nobody(request: Request, error: Exception) -> Response:
    """Answer a client that went away while it sent its body."""
    del request, error
    return Response(status_code=400)
