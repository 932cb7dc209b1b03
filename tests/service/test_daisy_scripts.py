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


RUN = """
import bellis as daisy
import os, signal, subprocess, sys, time

def note(block):
    with open("done", "a") as file:
        file.write(f"{{block.index}}\\n")

def take(client):
    with client.acquire_block() as block:
        if block is not None:
            note(block)
    return block is not None

def start_worker():
    {body}

roi = daisy.Roi((0,), (1,))
task = daisy.Task(
    "t", daisy.Roi((0,), ({blocks},)), roi, roi, start_worker, read_write_conflict=False, {more}
)
began = time.monotonic()
print(daisy.run_blockwise([task]), time.monotonic() - began)
"""
HABITS = {
    "a client in the parent, the work in a child": """
    client = daisy.Client()
    subprocess.run([sys.executable, "child.py"], check=True)
    """,
    "a client that is dropped": """
    client = daisy.Client()
    del client
    client = daisy.Client()
    while take(client):
        pass
    """,
    "a helper that makes a client for two blocks": """
    def two():
        client = daisy.Client()
        return take(client) and take(client)
    while two():
        pass
    """,
    "a client for each block": """
    is_there = True
    while is_there:
        client = daisy.Client()
        is_there = take(client)
    """,
    "two clients, one in the block of the other": """
    first, second = daisy.Client(), daisy.Client()
    while True:
        with first.acquire_block() as block:
            if block is None:
                break
            note(block)
            take(second)
    """,
    "two clients in turn": """
    first, second = daisy.Client(), daisy.Client()
    while take(first):
        take(second)
    """,
    "one that goes on in a child": """
    client = daisy.Client()
    take(client)
    subprocess.run([sys.executable, "child.py"], check=True)
    """,
}


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


def noted(folder: Path) -> list[int]:
    return sorted(map(int, (folder / "done").read_text().split()))


@pytest.mark.parametrize("habit", HABITS)
def test_no_habit_of_using_clients_hangs_a_run(tmp_path: Path, habit: str) -> None:
    (tmp_path / "child.py").write_text(CHILD.format(body="open('done', 'a').write(f'{block.index}\\n')"))
    done = run(tmp_path, RUN.format(body=dedent(HABITS[habit]).strip().replace("\n", "\n    "), blocks=21, more=""))
    assert done.stdout.startswith("True")
    assert noted(tmp_path) == list(range(21))


def test_workers_that_rest_between_blocks_hold_no_block_back(tmp_path: Path) -> None:
    body = """client = daisy.Client()
    while take(client):
        time.sleep(1)"""
    done = run(tmp_path, RUN.format(body=body, blocks=20, more="num_workers=4"))
    is_done, took_s = done.stdout.split()
    assert is_done == "True"
    assert noted(tmp_path) == list(range(20))
    assert float(took_s) < 10  # 5 s, and the starts of 4 processes; one after the other, it would take 20 s


def test_only_the_block_that_a_killed_worker_was_in_is_repeated(tmp_path: Path) -> None:
    body = """client = daisy.Client()
    while True:
        with client.acquire_block() as block:
            if block is None:
                break
            note(block)
            time.sleep(0.01)
            if block.index % 100 == 50 and not os.path.exists(f"died-{block.index}"):
                open(f"died-{block.index}", "x").close()
                os._exit(1) if block.index == 150 else os.kill(os.getpid(), signal.SIGKILL)"""
    done = run(tmp_path, RUN.format(body=body, blocks=400, more=""))
    assert done.stdout.startswith("True")
    assert noted(tmp_path) == sorted([*range(400), 50, 150, 250, 350])


def test_a_block_that_always_takes_too_long_fails_for_that(tmp_path: Path) -> None:
    body = """client = daisy.Client()
    while True:
        with client.acquire_block() as block:
            if block is None:
                break
            if block.index == 3:
                time.sleep(60)"""
    done = run(tmp_path, RUN.format(body=body, blocks=5, more="timeout=0.5, max_retries=2"))
    assert done.stdout.startswith("False")
    assert "timeout of 0.5 s" in done.stderr
    assert "SIGKILL" not in done.stderr


def test_a_client_where_a_function_is_called_with_a_block_says_what_to_do(tmp_path: Path) -> None:
    text = RUN.format(body="pass", blocks=2, more="").replace("start_worker()", "start_worker(block)")
    done = run(tmp_path, text.replace("    pass\n", "    daisy.Client()\n"))
    assert done.stdout.startswith("False")
    assert "has no parameter, or its task says worker_function=True" in done.stderr
