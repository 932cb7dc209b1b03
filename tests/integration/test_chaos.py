"""Workers and whole runs are killed at random moments; what comes out is what an undisturbed run gives, bit by bit."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import psutil
import pytest

import bellis
from bellis.runtime.database import DATABASE, open_database
from bellis.runtime.inspect import read_status

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(300)]

SCRIPT = '''
import hashlib, os, sys, time
from functools import partial
from pathlib import Path
import numpy as np
import bellis
from bellis import Roi, Task

SIDE, BLOCK, CONTEXT = 64, 4, 3


def plane(folder, name, mode="r+"):
    return np.memmap(Path(folder) / name, np.int64, mode, shape=(SIDE, SIDE))


def note(folder, block):
    line = f"{block.task_id} {block.index}\\n".encode()
    fd = os.open(Path(folder) / "executed", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, line)
    os.close(fd)


def fill(block, folder):
    note(folder, block)
    time.sleep(0.001)
    plane(folder, "a")[block.write_roi.to_slices()] = block.index + 1


def mix(block, folder):
    """Depends on what earlier levels wrote around this block, so that any other order gives another result."""
    note(folder, block)
    time.sleep(0.002)
    read, write = block.read_roi.to_slices(), block.write_roi.to_slices()
    around = plane(folder, "b")[read].copy()
    around[tuple(slice(w.start - r.start, w.stop - r.start) for r, w in zip(read, write))] = 0
    digest = hashlib.sha256(around.tobytes() + plane(folder, "a")[read].tobytes()).digest()
    plane(folder, "b")[write] = int.from_bytes(digest[:7], "little")


def total(block, folder):
    note(folder, block)
    plane(folder, "c")[block.write_roi.to_slices()] = plane(folder, "b")[block.read_roi.to_slices()].sum()


def pipeline(folder):
    whole, write = Roi((0, 0), (SIDE, SIDE)), Roi((0, 0), (BLOCK, BLOCK))
    common = dict(fit="shrink", num_workers=2, max_retries=1000)
    a = Task("fill", whole, write, write, partial(fill, folder=folder), read_write_conflict=False, **common)
    b = Task("mix", whole, write.grow(CONTEXT - 1, CONTEXT), write, partial(mix, folder=folder), **common)
    add = partial(total, folder=folder)
    c = Task("total", whole, write.grow(2, 2), write, add, read_write_conflict=False, **common)
    return a + b + c


def prepare(folder):
    Path(folder).mkdir()
    for name in "abc":
        plane(folder, name, "w+").flush()


if __name__ == "__main__":
    report = bellis.run(pipeline(sys.argv[1]), journal=sys.argv[2], progress=False)
    print(report)
    sys.exit(0 if report.ok else 1)
'''


@pytest.fixture
def chaos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """The pipeline as a module, its script beside it, and the undisturbed result in ``calm``."""
    (tmp_path / "chaotic.py").write_text(SCRIPT)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    sys.modules.pop("chaotic", None)
    import chaotic  # type: ignore[import-not-found]

    chaotic.prepare("calm")
    assert bellis.run(chaotic.pipeline("calm"), "inline", progress=False).ok
    yield chaotic
    sys.modules.pop("chaotic", None)


def executed() -> Counter[tuple[str, int]]:
    try:
        lines = Path("wild/executed").read_text().splitlines()
    except FileNotFoundError:
        return Counter()
    return Counter((line.split()[0], int(line.split()[1])) for line in lines)


def is_calm() -> bool:
    return all(Path("calm", name).read_bytes() == Path("wild", name).read_bytes() for name in "abc")


def test_fifty_workers_killed_at_random_lose_no_block(chaos: object) -> None:
    rng, stop = random.Random(7), threading.Event()
    killed: list[int] = []

    def kill() -> None:
        me = psutil.Process()
        while len(killed) < 50 and not stop.wait(rng.uniform(0.01, 0.06)):
            with suppress(psutil.NoSuchProcess, ProcessLookupError):
                nurseries = [child for child in me.children() if "bellis.runtime.nursery" in " ".join(child.cmdline())]
                workers = [worker for nursery in nurseries for worker in nursery.children()]
                if workers:
                    victim = rng.choice(workers)
                    os.kill(victim.pid, signal.SIGKILL)
                    killed.append(victim.pid)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        while len(killed) < 50:
            shutil.rmtree("wild", ignore_errors=True)
            chaos.prepare("wild")  # type: ignore[attr-defined]
            report = bellis.run(chaos.pipeline("wild"), progress=False)  # type: ignore[attr-defined]
            assert report.ok, report
            assert is_calm()
    finally:
        stop.set()
        killer.join()
    assert len(killed) == 50


def test_twenty_runs_killed_at_random_repeat_only_what_was_running(chaos: object) -> None:
    chaos.prepare("wild")  # type: ignore[attr-defined]
    rng = random.Random(11)
    for _ in range(20):
        before, done = executed(), journaled()
        run = subprocess.Popen([sys.executable, "chaotic.py", "wild", "journal"])
        try:
            run.wait(rng.uniform(0.25, 0.6))
        except subprocess.TimeoutExpired:
            run.kill()
        run.wait()
        again = executed() - before
        assert not set(again) & done, "a block that was in the journal was run again"
        wait_for_orphans()
    subprocess.run([sys.executable, "chaotic.py", "wild", "journal"], check=True)
    assert is_calm()
    counts = executed()
    repeated = sum(counts.values()) - len(counts)
    assert repeated <= 20 * 2, "two workers: at most two blocks were running at each kill"
    assert all(task.num_done == task.num_blocks for task in read_status(Path("journal")).tasks)


def journaled() -> set[tuple[str, int]]:
    """Return the blocks that are certainly in the journal: committed to SQLite, or in a bitmap."""
    from bellis.runtime.bitmap import Bitmap

    found: set[tuple[str, int]] = set()
    if not Path("journal", DATABASE).exists():
        return found
    db = open_database(Path("journal", DATABASE))
    for task_id, blob in db.execute("SELECT task_id, indices FROM recent"):
        found |= {(task_id, index) for index in np.frombuffer(blob, np.int64).tolist()}
    for task_id, name in db.execute("SELECT task_id, bitmap FROM task").fetchall():
        for path in Path("journal/tasks").glob(name):
            blocks = int.from_bytes(path.read_bytes()[8:16], "little")
            bitmap = Bitmap(path, blocks)
            found |= {(task_id, begin + i) for begin, flags in bitmap.runs() for i in np.flatnonzero(flags).tolist()}
            bitmap.close()
    db.close()
    return found


def wait_for_orphans() -> None:
    """Wait until the workers of a killed run are gone: they hold its lock."""
    from bellis.runtime.lock import Lock

    if Path("journal").exists():
        Lock(Path("journal/lock")).release()
