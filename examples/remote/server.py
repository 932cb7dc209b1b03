"""A server of one's own, for the example: it is slow, fails now and then, and counts what it is asked for.

It runs as a process, which ends when its standard input does: it never outlives who started it. A line ``count`` or
``requests`` there is answered by a line of JSON.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    import numpy.typing as npt

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "vnc_stack1_raw.tif"  # beside the checkout
SIMULATED = "simulated"
LATENCY_S = 0.02
FAULTS = {"503": 23, "cut in body": 31, "html": 41}  # one request out of so many goes wrong like this


class Count(NamedTuple):
    """What the server was asked for so far."""

    requests: int
    """All of them that were answered, or are just now."""
    failed: int
    """Those that went wrong."""

    def since(self, before: Count) -> Count:
        """Return what came after another count."""
        return Count(self.requests - before.requests, self.failed - before.failed)

    def __str__(self) -> str:
        blocks = self.requests - self.failed
        came = f"{blocks} block{'s' * (blocks != 1)} sent, {self.failed} failed"
        return f"{self.requests} request{'s' * (self.requests != 1)} ({came})" if self.requests else "no request"


class Server:
    """The process, as the demo sees it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        began = self._answer()
        self.url: str = began["url"]
        self.shape: tuple[int, ...] = tuple(began["shape"])
        self.stack: str = began["stack"]

    @property
    def count(self) -> Count:
        """What it was asked for so far."""
        return Count(**self._ask("count"))

    @property
    def requests(self) -> dict[str, Any]:
        """All requests: when, on the clock of ``time.monotonic``, and where their voxels begin; and when it failed."""
        return self._ask("requests")

    def _ask(self, what: str) -> dict[str, Any]:
        self._process.stdin.write(f"{what}\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("the server has not started, or has ended")
        return json.loads(line)


@contextmanager
def started(stack: str, size: int | None) -> Iterator[Server]:
    """Run the server until the context ends, by whatever way."""
    command = [sys.executable, __file__, stack, *([str(size)] if size else [])]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as process:  # noqa: S603
        try:
            yield Server(process)
        finally:
            process.terminate()


class Every:
    """Says of every so many-th request that it goes wrong, and notes when."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.asked = 0
        self.times_s: list[float] = []

    def __call__(self, path: str) -> bool:
        """Whether this one does; the server asks for one request at a time."""
        del path
        self.asked += 1
        if self.asked % self.number:
            return False
        self.times_s.append(monotonic())
        return True


def load_stack(path: str, size: int | None) -> npt.NDArray[np.uint8]:
    """Return the voxels of a TIFF, or of a simulated stack; axes z, y, x; of y and x, the first ``size``."""
    if path == SIMULATED:
        from bellis.testing.specimen import specimen

        stack = specimen().grey
    else:
        import tifffile

        stack = tifffile.imread(path)
    if stack.ndim != 3 or stack.dtype != "uint8":
        raise SystemExit(f"{path} has shape {stack.shape} and dtype {stack.dtype}: a stack of uint8, z, y, x, is due")
    return stack[:, :size, :size]


def main() -> None:
    """Serve a stack, and answer questions about it."""
    from bellis.testing.cutouts import volume_server
    from bellis.testing.faults import Fault

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for who started us, and ends us then
    path = sys.argv[1] or (str(DATA) if DATA.exists() else SIMULATED)
    stack = load_stack(path, int(sys.argv[2]) if len(sys.argv) > 2 else None)
    troubles = {kind: Every(number) for kind, number in FAULTS.items()}
    faults = [Fault(kind, when=every) for kind, every in troubles.items()]
    with volume_server(stack, latency_s=LATENCY_S, checksums=True, faults=faults) as server:
        name = "a simulated stack" if path == SIMULATED else Path(path).name
        say({"url": server.url, "shape": stack.shape, "stack": name})
        for line in sys.stdin:
            failed = {kind: list(every.times_s) for kind, every in troubles.items()}
            if line.strip() == "count":
                decided = next(iter(troubles.values())).asked
                say({"requests": decided, "failed": sum(map(len, failed.values()))})
            else:
                asked = [(request.time_s, request.box.begin) for request in server.requests]
                say({"times_s": [at for at, _ in asked], "begins": [begin for _, begin in asked], "failed": failed})


def say(what: dict[str, Any]) -> None:
    """Answer."""
    print(json.dumps(what), flush=True)


if __name__ == "__main__":
    main()
