"""Starts work quickly, for toy sizes: in forks of one process that has loaded what most work needs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from importlib import import_module
from select import select
from time import perf_counter
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

_LOADED = (
    "numpy", "scipy.ndimage", "scipy.spatial", "tensorstore", "sqlalchemy", "networkx", "bellis.api", "bellis.ops",
    "bellis.planning", "bellis.graphs.sql.sqlite", "bellis.volumes.cached", "bellis.ops.agglomeration",
    "bellis.ops.regions", "bellis.ops.watershed", "bellis.engines.local",
)  # fmt: skip
"""Modules that most work needs; those that an interpreter does not have are left out."""


class Warm:
    """Starts work like `benchmarks.runner.fresh`; to be closed."""

    def __init__(self, root: Path, prepare: Callable[[], None]) -> None:
        self._root, self._prepare = root, prepare
        self._servers: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers.values():
            server.kill()
            server.communicate()

    def __call__(
        self, python: str, words: Sequence[str], place: Path, log: Path, timeout_s: float
    ) -> tuple[int | None, float]:
        """Do one piece of work; return its exit code, None if it took too long, and how long it took."""
        server = self._servers.get(python)
        if server is None:
            server = self._servers[python] = self._started(python)
        assert server.stdin is not None
        assert server.stdout is not None
        began = perf_counter()
        server.stdin.write(json.dumps([list(words), str(place), str(log)]).encode() + b"\n")
        pid = int(server.stdout.readline())
        is_late = not select([server.stdout], [], [], timeout_s)[0]
        if is_late:
            os.killpg(pid, signal.SIGKILL)
        code = int(server.stdout.readline())
        seconds = perf_counter() - began
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        return None if is_late else code, seconds

    def _started(self, python: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [python, "-m", "benchmarks.warm"], env={**os.environ, "PYTHONPATH": str(self._root)}, bufsize=0,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, preexec_fn=self._prepare,
        )  # fmt: skip


def _serve() -> None:
    for name in _LOADED:
        with suppress(ImportError):
            import_module(name)
    for line in sys.stdin:
        words, place, log = json.loads(line)
        pid = os.fork()
        if not pid:
            _work(words, place, log)
        os.write(1, b"%d\n" % pid)
        _, status = os.waitpid(pid, 0)
        os.write(1, b"%d\n" % os.waitstatus_to_exitcode(status))


def _work(words: list[str], place: str, log: str) -> None:
    """Do one piece of work in this process, which ends with it."""
    code = 1
    try:
        os.setsid()
        os.chdir(place)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        for stream in (1, 2):
            os.dup2(output, stream)
        from benchmarks.work.__main__ import main

        main(words)
        code = 0
    except BaseException:  # noqa: BLE001  (the last line of the log is shown)
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _serve()
