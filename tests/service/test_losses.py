"""A run with real workers of which one, or the run itself, is killed: the output is the same, and nothing is left."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pytest

from bellis.testing.blocks import Notes, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(100)]
BLOCKS = 300
STEPS = """
import os, time
from pathlib import Path
from bellis.testing.blocks import Notes

FOLDER = Path(__file__).parent

def work(block):
    time.sleep(0.02)
    index = block.write_roi.begin[0]
    with open(FOLDER / "output", "r+b") as output:
        output.seek(8 * index)
        output.write((index * index).to_bytes(8, "little"))
    Notes(FOLDER / "notes").add(f"{index} {os.getppid()}")
"""
DRIVER = f"""
import sys
from pathlib import Path
import bellis
from bellis import Roi, Task
from steps import work

one = Roi((0,), (1,))
task = Task(
    "work", Roi((0,), ({BLOCKS},)), one, one, work, read_write_conflict=False, num_workers=4, max_retries=0
)
engine = bellis.ServiceEngine(token_file="token", silence_s=1.5)
report = bellis.run(task, engine, journal="run", progress=False)
assert report.ok, report.failures
Path("skipped").write_text(str(report.tasks["work"].counts.skipped))
"""


class Run:
    """A driver and its workers, in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "steps.py").write_text(STEPS)
        (folder / "driver.py").write_text(DRIVER)
        (folder / "output").write_bytes(bytes(8 * BLOCKS))
        self.notes = Notes(folder / "notes")
        self.started: list[subprocess.Popen[bytes]] = []

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen([sys.executable, *arguments], cwd=self.folder, stdout=log, stderr=log)
        self.started.append(process)
        return process

    def start_worker(self) -> subprocess.Popen[bytes]:
        keys = self.folder / "run" / "service" / "run.json"
        port = json.loads(until(lambda: keys.exists() and keys.read_bytes(), "the run's port"))["port"]
        url = f"http://127.0.0.1:{port}"
        return self.start("-m", "bellis", "worker", url, "--token-file", "token", "--workers", "2")

    def ends(self, process: subprocess.Popen[bytes]) -> None:
        assert process.wait(60) == 0, (self.folder / "log").read_text()

    def counts(self) -> Counter[int]:
        return Counter(int(text.split()[0]) for text in self.notes.lines())

    def check_output(self) -> None:
        output = np.fromfile(self.folder / "output", "<i8")
        assert output.tolist() == [index * index for index in range(BLOCKS)]
        assert self.counts().keys() == set(range(BLOCKS))


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    run = Run(tmp_path)
    yield run
    for process in run.started:
        process.kill()
        process.wait()


def family(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def ended(processes: list[psutil.Process]) -> bool:
    return not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in processes)


def test_blocks_of_a_worker_that_is_killed_are_run_by_others_and_count_no_attempt(run: Run) -> None:
    driver = run.start("driver.py")
    killed, other = run.start_worker(), run.start_worker()
    until(lambda: len({text.split()[1] for text in run.notes.lines()}) == 2, "blocks of both workers")
    until(lambda: len(run.notes.lines()) > 60, "blocks")
    children = family(killed)
    assert children
    killed.kill()
    until(lambda: ended(children), "the end of the killed worker's processes")
    run.ends(driver)
    run.ends(other)
    run.check_output()


def test_a_run_that_is_killed_gets_its_workers_back_when_it_is_started_again(run: Run) -> None:
    driver = run.start("driver.py")
    workers: list[Any] = [run.start_worker(), run.start_worker()]
    until(lambda: len(run.notes.lines()) > 100, "blocks")
    driver.kill()
    driver.wait()
    done = len(run.notes.lines())
    again = run.start("driver.py")
    for process in (again, *workers):
        run.ends(process)
    run.check_output()
    skipped = int((run.folder / "skipped").read_text())
    assert 0 < skipped < BLOCKS
    assert done - skipped < 80  # what was reported is not run again: four processes report four times in a second
    assert not (run.folder / "run" / "service").exists()
