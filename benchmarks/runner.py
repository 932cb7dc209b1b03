"""Runs the sides of a benchmark in turn, each time in a process of its own."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path
from threading import Event, Timer
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol

from benchmarks.machine import Others

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from benchmarks.cases import Case, Side

ROOT = Path(__file__).resolve().parents[1]
MEMORY_SHARE = 0.75
"""A side may map so much of the machine's memory; one that wants more fails, and the machine goes on."""

Sample = dict[str, Any]
"""What the work returned, ``process_s``, and the share of the machine that ``others`` used; or ``timeout_s``; or
``error``."""


class Start(Protocol):
    """Does one piece of work in a process of its own."""

    def __call__(
        self, python: str, words: Sequence[str], place: Path, log: Path, timeout_s: float
    ) -> tuple[int | None, float]:
        """Do it; return the exit code, None if it took too long, and the seconds that it took."""


def run_case(
    case: Case, pythons: Mapping[str, str], *, rounds: int, toy: bool, start: Start, say: Callable[[str], None]
) -> dict[str, list[Sample]]:
    """Run a benchmark.

    Parameters
    ----------
    case
        The benchmark.
    pythons
        Interpreter for each library; sides without one are left out.
    rounds
        How often each side runs: A B A B.
    toy
        Run at toy size.
    start
        Starts the processes.
    say
        Called with a line after each process.

    Returns
    -------
    dict
        Samples by the label of the side.
    """
    sides = [side for side in case.sides if side.library in pythons]
    samples: dict[str, list[Sample]] = {side.label: [] for side in sides}
    with ExitStack() as stack:
        prepared = {side.label: _place(stack) for side in sides if side.prepare}
        for number in range(rounds):
            for side in sides:
                own = samples[side.label]
                if (side.rounds is not None and number >= side.rounds) or any(_is_bad(s) for s in own):
                    continue
                works = [side.prepare] if side.prepare and not own else []
                for work in (*works, side.work):
                    place = prepared.get(side.label) or _place(stack)  # else it would find what it left before
                    sample = _process(side, work, pythons[side.library], place, start, toy=toy)
                    say(f"{case.name}, {side.label}, {work}: {_brief(sample)}")
                    if _is_bad(sample):
                        break
                own.append(sample)
    return samples


def _place(stack: ExitStack) -> Path:
    return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))


def _is_bad(sample: Sample) -> bool:
    return "error" in sample or "timeout_s" in sample


def _brief(sample: Sample) -> str:
    return ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in sample.items())


def _process(side: Side, work: str, python: str, place: Path, start: Start, *, toy: bool) -> Sample:
    """Do one piece of work in a new process, in a directory of its side."""
    out, log = place / "sample.json", place / "output.txt"
    out.unlink(missing_ok=True)
    words = (side.library, work, json.dumps(side.toy if toy else side.full), str(out))
    others = Others()
    code, seconds = start(python, words, place, log, side.timeout_s)
    if code is None:
        return {"timeout_s": side.timeout_s}
    if code or not out.exists():
        tail = log.read_text(errors="replace").strip().splitlines()[-1:]
        return {"error": f"exit code {code}: {''.join(tail)[:200]}"}
    return {**json.loads(out.read_text()), "process_s": seconds, "others": others.share()}


def fresh(python: str, words: Sequence[str], place: Path, log: Path, timeout_s: float) -> tuple[int | None, float]:
    """Do one piece of work in a new interpreter; as `Start`."""
    command = [python, "-m", "benchmarks.work", *words]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    is_late = Event()
    with log.open("wb") as output:
        began = perf_counter()
        process = subprocess.Popen(
            command, cwd=place, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            start_new_session=True, preexec_fn=limit_memory,
        )  # fmt: skip

        def end() -> None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

        def expire() -> None:
            is_late.set()
            end()

        timer = Timer(timeout_s, expire)  # Popen.wait(timeout) looks only every 50 ms
        timer.start()
        try:
            code = process.wait()
            seconds = perf_counter() - began
        finally:
            timer.cancel()
            end()
            process.wait()
    return None if is_late.is_set() else code, seconds


def limit_memory() -> None:
    """Let this process map only a part of the machine's memory."""
    if sys.platform == "linux":
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        resource.setrlimit(resource.RLIMIT_AS, (int(total * MEMORY_SHARE),) * 2)
