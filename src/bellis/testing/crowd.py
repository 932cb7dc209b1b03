"""Many light workers in one process, which only pretend to work: ``python -m bellis.testing.crowd URL TOKEN_FILE N``.

What they would measure is the run: its scheduler, its service, its journal. A worker here is one connection and a few
numbers; a block takes its time on the clock, and nothing else.
"""

from __future__ import annotations

import asyncio
import resource
import secrets
import sys
from array import array
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

import msgspec

from bellis.errors import ServiceError
from bellis.runtime.lease import Outcome
from bellis.service.messages import Answer, BlockReport, Hello, Join, Joined, LeaseMessage, Running, Turn

if TYPE_CHECKING:
    from collections.abc import Sequence

WAIT_S = 10.0
AT_HAND = 2
BATCH = 100
"""So many connect at the same time."""

_Struct = TypeVar("_Struct", bound=msgspec.Struct)


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """What a crowd found."""

    blocks: int
    """Blocks that it did."""
    turns: int
    """Turns that it took."""
    seconds: float
    """From the first lease to the last report."""
    p50_ms: float
    """Median time of a turn that does not wait for leases."""
    p99_ms: float
    """The slowest hundredth."""


class LightWorker:
    """One worker of a crowd.

    Parameters
    ----------
    url
        Where the run is.
    token
        The run's token.
    block_s
        How long each block takes.
    """

    def __init__(self, url: str, token: str, block_s: float) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 0
        self._token = token
        self._run_id = ""
        self._block_s = block_s
        self._leases: list[LeaseMessage] = []
        self._began_s = 0.0
        self._reported = 0
        self.blocks = 0
        self.turns_ms: list[float] = []
        self.first_s = self.last_s = 0.0

    async def join(self) -> None:
        """Connect and join the run."""
        self._reader, self._writer = await asyncio.open_connection(self._host, self._port)
        nonce = secrets.token_hex(16)
        self._run_id = (await self._ask("GET", f"/v1/hello?nonce={nonce}", b"", Hello)).run_id
        joined = await self._ask("POST", "/v1/workers", msgspec.json.encode(Join(name="light")), Joined)
        self._path = f"/v1/workers/{joined.worker_id}/turn"

    async def work(self) -> None:
        """Take turns until the run says that it is over."""
        while True:
            turn = self._turn()
            began_s = monotonic()
            answer = await self._ask("POST", self._path, msgspec.json.encode(turn), Answer)
            now_s = monotonic()
            if not turn.wait_s:
                self.turns_ms.append(1000 * (now_s - began_s))
            if answer.state == "leave":
                break
            if answer.leases and not self._leases:
                self._began_s = now_s
                self.first_s = self.first_s or now_s
            self._leases += answer.leases
            if self._leases:
                await asyncio.sleep(self._pause_s(now_s, answer.report_every_s))
        self._writer.close()

    def _pause_s(self, now_s: float, report_every_s: float) -> float:
        left_s = self._began_s + self._block_s * _blocks(self._leases[0]) - now_s
        return max(0.0, min(report_every_s, left_s))

    def _turn(self) -> Turn:
        """Say what is done by now; ask for more."""
        now_s = monotonic()
        reports: list[BlockReport] = []
        while self._leases:
            lease = self._leases[0]
            blocks = _blocks(lease)
            done = min(int((now_s - self._began_s + 1e-6) / self._block_s), blocks)
            reports.append(self._report(lease, done, is_finished=done == blocks))
            if done < blocks:
                break
            self._began_s += blocks * self._block_s
            self._leases.pop(0)
            self._reported = 0
            self.last_s = now_s
        running = [
            Running(lease_id=lease.lease_id, position=self._reported, seconds=self._block_s / 2)
            for lease in self._leases[:1]
        ]
        return Turn(
            reports=[report for report in reports if report.outcomes or report.finished],
            running=running,
            held=[lease.lease_id for lease in self._leases],
            wants=AT_HAND - len(self._leases),
            wait_s=0.0 if self._leases or reports else WAIT_S,
        )

    def _report(self, lease: LeaseMessage, done: int, *, is_finished: bool) -> BlockReport:
        begin, self._reported = self._reported, done
        self.blocks += done - begin
        return BlockReport(
            lease_id=lease.lease_id,
            begin=begin,
            outcomes=bytes([Outcome.SUCCESS]) * (done - begin),
            seconds=array("f", [self._block_s] * (done - begin)).tobytes(),
            finished=is_finished,
        )

    async def _ask(self, method: str, path: str, body: bytes, kind: type[_Struct]) -> _Struct:
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: {self._host}\r\nAuthorization: Bearer {self._token}\r\n"
            f"Bellis-Run: {self._run_id}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        self._writer.write(head.encode() + body)
        status = await self._reader.readuntil(b"\r\n\r\n")
        length = int(status.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        answer = await self._reader.readexactly(length)
        if status.split(b" ", 2)[1] not in {b"200", b"201"}:
            raise ServiceError(f"{method} {path} was refused: {answer.decode()}")
        return msgspec.json.decode(answer, type=kind)


def _blocks(lease: LeaseMessage) -> int:
    return sum(count for _, count in lease.runs)


async def crowd(url: str, token: str, workers: int, block_s: float) -> Measured:
    """Work for a run until it is over.

    Raises
    ------
    ServiceError
        If the run refuses something.
    """
    light = [LightWorker(url, token, block_s) for _ in range(workers)]
    for begin in range(0, workers, BATCH):
        await asyncio.gather(*(worker.join() for worker in light[begin : begin + BATCH]))
    await asyncio.gather(*(worker.work() for worker in light))
    return _measured(light)


def _measured(light: Sequence[LightWorker]) -> Measured:
    turns_ms = sorted(ms for worker in light for ms in worker.turns_ms) or [0.0]
    busy = [worker for worker in light if worker.blocks]
    return Measured(
        blocks=sum(worker.blocks for worker in light),
        turns=len(turns_ms),
        seconds=max(worker.last_s for worker in busy) - min(worker.first_s for worker in busy) if busy else 0.0,
        p50_ms=turns_ms[len(turns_ms) // 2],
        p99_ms=turns_ms[len(turns_ms) * 99 // 100],
    )


def main() -> None:
    """Be a crowd; print what it found, as JSON."""
    url, token_file, workers, block_s = sys.argv[1:]
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    measured = asyncio.run(crowd(url, Path(token_file).read_text().strip(), int(workers), float(block_s)))
    sys.stdout.write(msgspec.json.encode(measured).decode() + "\n")


if __name__ == "__main__":
    main()
