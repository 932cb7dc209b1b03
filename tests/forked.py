"""Runs of a script in forks of one process that has loaded it: quick to start, and to be killed at any moment."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from select import select
from typing import TYPE_CHECKING, Self

from bellis.runtime.lock import Lock

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TIMEOUT_S = 100.0
LOOP = """

if __name__ == "__main__":
    import os
    import sys

    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            code = 1
            try:
                os.setsid()
                os.dup2(2, 1)
                main(*line.split())
                code = 0
            except BaseException:
                sys.excepthook(*sys.exc_info())
            finally:
                sys.stderr.flush()
                os._exit(code)
        os.write(1, b"%d\\n" % pid)
        _, status = os.waitpid(pid, 0)
        os.write(1, b"%d\\n" % os.waitstatus_to_exitcode(status))
"""
"""What follows a script that has a function ``main``, of words."""


class Forked:
    """A process that has loaded a script, in the folder of the script, and calls its ``main`` in forks, one by one."""

    def __init__(self, folder: Path, script: str) -> None:
        self._folder = folder
        (folder / "script.py").write_text(script + LOOP)
        self._process = subprocess.Popen(
            [sys.executable, "script.py"], cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def start(self, *words: str) -> int:
        """Begin to call ``main`` in a session of its own; return the process."""
        assert self._process.stdin is not None
        self._process.stdin.write(" ".join(words).encode() + b"\n")
        return self._line()

    def code(self, timeout_s: float = TIMEOUT_S) -> int | None:
        """Return the exit code of the process; None if it still runs."""
        return self._line() if select([self._process.stdout], [], [], timeout_s)[0] else None

    def kill(self, pid: int) -> None:
        """Kill the process, and what is in its group."""
        os.killpg(pid, signal.SIGKILL)
        assert self.code() == -signal.SIGKILL

    def kill_at_random(
        self, kills: int, share: tuple[float, float], outcome: Callable[[Path], object], seed: int
    ) -> None:
        """Kill so many runs of ``main(folder)``, each at a moment within this share of an undisturbed one's time.

        A run that was killed is started again; one that is quicker than its killer is compared at once with the
        undisturbed one, ``calm``, by their outcomes, as is the last.
        """
        rng, wild = random.Random(seed), 0

        def start(name: str) -> int:
            (self._folder / name).mkdir(exist_ok=True)
            return self.start(name)

        start("first")  # what is loaded late is loaded then
        assert self.code() == 0
        began = time.monotonic()
        start("calm")
        assert self.code() == 0
        calm_s = time.monotonic() - began
        calm = outcome(self._folder / "calm")
        while kills:
            folder = self._folder / f"wild{wild}"
            run = start(folder.name)
            code = self.code(rng.uniform(*share) * calm_s)
            if code is None:
                self.kill(run)
                if (folder / "journal" / "lock").exists():
                    Lock(folder / "journal" / "lock").release()  # waits until workers in other groups are gone
                kills -= 1
            else:
                assert code == 0
                assert outcome(folder) == calm
                wild += 1
        start(f"wild{wild}")
        assert self.code() == 0
        assert outcome(self._folder / f"wild{wild}") == calm

    def _line(self) -> int:
        assert self._process.stdout is not None
        return int(self._process.stdout.readline())
