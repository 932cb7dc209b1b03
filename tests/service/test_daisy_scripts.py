"""Scripts that were written for daisy 1 run unchanged: worker functions, clients in child processes, contexts."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from textwrap import dedent
from typing import TYPE_CHECKING

import pytest

from service_rig import is_gone

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.integration, pytest.mark.slow]

IN_PROCESS = """
import {module} as daisy

def start_worker():
    client = daisy.Client()
    while True:
        with client.acquire_block() as block:
            if block is None:
                break
            print("worker", client.context["worker_id"], "of", client.task_id)
            with open("done", "a") as file:
                file.write(f"{{block.block_id[1]}}\\n")

task = daisy.Task(
    "extract", daisy.Roi((0, 0), (20, 20)), daisy.Roi((0, 0), (4, 4)), daisy.Roi((1, 1), (2, 2)),
    process_function=start_worker, num_workers=2, read_write_conflict={conflict}, fit="shrink", {more}
)
print(daisy.run_blockwise([task], multiprocessing={multiprocessing}))
"""

CHILD = """
import bellis as daisy
import os, time

client = daisy.Client()
while True:
    with client.acquire_block() as block:
        if block is None:
            break
        {body}
"""

PARENT = """
import bellis as daisy
import os, subprocess, sys

def start_worker():
    worker_id = daisy.Context.from_env()["worker_id"]
    os.environ.pop("BELLIS_CONTEXT")  # daisy's scripts and containers pass on what daisy has
    with open(f"log-{{worker_id}}", "w") as log:
        subprocess.run([sys.executable, "child.py"], check=True, stdout=log, stderr=log)

task = daisy.Task(
    "a:b=c/ü", daisy.Roi((0,), (30,)), daisy.Roi((0,), (1,)), daisy.Roi((0,), (1,)), start_worker, num_workers=2,
    read_write_conflict=False, timeout={timeout}, check_function=lambda block: os.path.exists(f"done-{{block.index}}"),
)
print(daisy.run_blockwise(daisy.Task(
    "after", daisy.Roi((0,), (30,)), daisy.Roi((0,), (1,)), daisy.Roi((0,), (1,)), print, upstream_tasks=[task],
)))
"""


def run(folder: Path, text: str, *, code: int = 0) -> subprocess.CompletedProcess[str]:
    (folder / "script.py").write_text(dedent(text))
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == code, done.stderr
    return done


@pytest.mark.parametrize(("conflict", "multiprocessing"), [(True, True), (False, False)])
def test_a_worker_function_takes_the_blocks(tmp_path: Path, conflict: bool, multiprocessing: bool) -> None:
    text = IN_PROCESS.format(module="bellis", conflict=conflict, multiprocessing=multiprocessing, more="")
    done = run(tmp_path, text)
    assert done.stdout.splitlines()[-1] == "True"
    numbers = (tmp_path / "done").read_text().split()
    assert len(numbers) == len(set(numbers)) == 81
    lines = [text for log in tmp_path.glob("bellis_logs/extract/*.log") for text in log.read_text().splitlines()]
    found = [re.fullmatch(r"\d\d:\d\d:\d\d block (\d+) \| worker (\d+) of extract", text) for text in lines]
    assert all(found)
    assert sorted(match[1] for match in found if match) == sorted(numbers)


def test_a_child_process_finds_what_daisy_passes_on(tmp_path: Path) -> None:
    (tmp_path / "child.py").write_text(CHILD.format(body="open(f'done-{block.index}', 'x').close()"))
    (tmp_path / "done-7").touch()  # which the check finds, before anything runs
    done = run(tmp_path, PARENT.format(timeout=None))
    assert done.stdout.splitlines()[-1] == "True"
    assert len(list(tmp_path.glob("done-*"))) == 30
    assert re.search(r"completed ✔ +30 +\(1 skipped\)", done.stderr)


def test_a_child_that_takes_too_long_is_ended_and_another_started(tmp_path: Path) -> None:
    body = (
        "open('pids', 'a').write(f'{os.getpid()}\\n'); name = f'done-{block.index}'\n"
        "        if block.index == 5 and not os.path.exists('once'):\n"
        "            open('once', 'x').close(); time.sleep(60)\n"
        "        open(name, 'x').close()"
    )
    (tmp_path / "child.py").write_text(CHILD.format(body=body))
    done = run(tmp_path, PARENT.format(timeout=1.0))
    assert done.stdout.splitlines()[-1] == "True"
    pids = set(map(int, (tmp_path / "pids").read_text().split()))
    assert all(map(is_gone, pids))


def test_a_worker_function_that_always_dies_stops_its_task_with_what_it_said(tmp_path: Path) -> None:
    (tmp_path / "child.py").write_text("raise SystemExit('no licence')\n")
    done = run(tmp_path, PARENT.format(timeout=None))
    assert done.stdout.splitlines()[-1] == "False"
    assert "returned non-zero exit status 1" in done.stderr


def test_an_init_callback_is_given_what_a_client_elsewhere_needs(tmp_path: Path) -> None:
    (tmp_path / "child.py").write_text(CHILD.format(body="open(f'done-{block.index}', 'x').close()"))
    text = """
    import bellis as daisy
    import json, os, subprocess, sys

    children = []

    def init(context):
        open("context", "w").write(json.dumps(dict(context)))
        environment = {**os.environ, daisy.Context.ENV_VARIABLE: context.to_env()}
        children.append(subprocess.Popen([sys.executable, "child.py"], env=environment))

    def wait():
        import time
        while len([name for name in os.listdir() if name.startswith("done")]) < 10:
            time.sleep(0.01)

    task = daisy.Task(
        "t", daisy.Roi((0,), (10,)), daisy.Roi((0,), (1,)), daisy.Roi((0,), (1,)), wait, init_callback_fn=init,
        read_write_conflict=False,
    )
    print(daisy.run_blockwise([task]), [child.wait(20) for child in children])
    """
    assert run(tmp_path, text).stdout.splitlines()[-1] == "True [0]"
    context = json.loads((tmp_path / "context").read_text())
    assert {"hostname", "port", "task_id", "token", "run_id"} <= context.keys()
    assert os.environ.get("BELLIS_CONTEXT") is None
