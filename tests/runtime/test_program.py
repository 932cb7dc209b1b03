"""Programs: functions that travel to workers, and hashes of their code."""

from __future__ import annotations

import functools
import importlib
import operator
import subprocess
import sys
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import cloudpickle
import numpy as np
import pytest

from bellis.errors import FunctionError
from bellis.planning.grid import BlockGrid
from bellis.runtime.program import Program, code_hash
from bellis.testing.blocks import line

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from bellis.tasks import Block, Task

LOCK = threading.Lock()
OFFSET = 1000


def program(task: Task) -> Program:
    return Program.of(0, task, BlockGrid.of(task))


def travelled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function as another process has it."""
    again: Program = cloudpickle.loads(program(line(function, 3)).dumps())
    return again.functions.process


def module_level(block: Any) -> int:
    return int(block) + OFFSET


class Scaler:
    def __init__(self, factor: int) -> None:
        self.factor = factor

    def scale(self, block: Any) -> int:
        return int(block) * self.factor

    def __call__(self, block: Any) -> int:
        return self.scale(block)


def test_functions_of_all_kinds_travel() -> None:
    offset = 5

    class Local:
        def work(self, block: Any) -> int:
            return int(block) + offset

    assert travelled(module_level)(1) == 1001
    assert travelled(lambda block: block + offset)(1) == 6
    assert travelled(functools.partial(lambda more, block: block + more, 7))(1) == 8
    assert travelled(Scaler(3).scale)(2) == 6
    assert travelled(Scaler(3))(2) == 6
    assert travelled(Local().work)(1) == 6


def test_a_program_keeps_what_a_worker_needs() -> None:
    task = line(module_level, 30, check_function=(None, module_level), results=True, timeout=2.5, setup=dict, step=4)
    again: Program = cloudpickle.loads(program(task).dumps())
    assert (again.task_id, again.number, again.keeps_results, again.timeout_s) == ("task", 0, True, 2.5)
    assert again.functions.pre is None
    assert again.functions.post is not None
    assert again.functions.setup is dict
    assert again.grid.write_roi(7) == BlockGrid.of(task).write_roi(7)


@pytest.mark.parametrize("function", [module_level, functools.partial(operator.call, module_level)])
def test_a_module_that_a_worker_can_not_import_travels_along(function: Callable[..., Any]) -> None:
    task = line(function, 3)  # of this test module, which no worker finds
    payload = program(task).dumps()
    code = "import sys, cloudpickle; print(cloudpickle.loads(sys.stdin.buffer.read()).functions.process(1))"
    arguments = [sys.executable, "-c", code]
    assert subprocess.run(arguments, input=payload, capture_output=True, check=True, timeout=30).stdout == b"1001\n"


def refused(function: Any, **options: Any) -> str:
    with pytest.raises(FunctionError) as caught:
        program(line(function, 3, **options)).dumps()
    return str(caught.value)


def test_an_unserialisable_function_is_an_error_that_names_what_it_captures() -> None:
    lock = threading.Lock()

    def closure(block: Block) -> None:
        with lock:
            del block

    def outer(block: Block) -> None:
        with LOCK:
            del block

    def default(block: Block, held: Any = lock) -> None: ...

    text = refused(closure)
    assert "task 'task' can't be sent to a worker process" in text
    assert "process function" in text
    assert "closure' captures variable 'lock', a _thread.lock that can't be pickled" in text
    assert "setup=" in text
    assert "variable 'LOCK', a _thread.lock" in refused(outer)
    assert "a default value, a _thread.lock" in refused(default)
    assert "argument 0, a _thread.lock" in refused(functools.partial(lambda held, block: None, lock))
    assert "argument 'held', a _thread.lock" in refused(functools.partial(lambda block, held: None, held=lock))
    assert "self" in refused(Scaler(lock).scale)  # type: ignore[arg-type]
    assert "itself" in refused(Scaler(lock))  # type: ignore[arg-type]
    assert "pre function" in refused(print, check_function=(closure, None))
    assert "post function" in refused(print, check_function=(None, closure))
    assert "setup function" in refused(print, setup=lambda: lock)


def test_a_lock_inside_of_a_captured_list_is_named_by_the_list() -> None:
    things = [1, {"held": threading.Lock()}]
    assert "variable 'things', a builtins.list" in refused(lambda block: things)


def made(source: str, **names: Any) -> Callable[..., Any]:
    exec(source, names)
    function: Callable[..., Any] = names["work"]
    return function


def hashed(source: str, **names: Any) -> str:
    return code_hash(line(made(source, **names), 3))


MAKE = "def make(x):\n    return lambda block: x\n"
HELP = "def work(block):\n    return f(block)\n"
PLAIN = "def work(block):\n    return block.index + 1\n"


@pytest.mark.parametrize(
    "source",
    [
        "def work(block):\n    return block.index + 2\n",
        "def work(block):\n    return block.number + 1\n",
        "def work(block):\n    return block.index - 1\n",
        "def work(block, by=1):\n    return block.index + by\n",
        "def work(block):\n    return (lambda: block.index + 1)()\n",
        "def work(block):\n    return block.index + 1.0\n",
        "def work(block):\n    return block.index + True\n",
    ],
)
def test_other_code_has_another_hash(source: str) -> None:
    assert hashed(source) != hashed(PLAIN)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("def work(block, by=1):\n    pass", "def work(block, by=2):\n    pass"),
        ("def work(block, *, by=1):\n    pass", "def work(block, *, by=2):\n    pass"),
        ("def work(block):\n    return block in {1, 2}", "def work(block):\n    return block in {1, 3}"),
        ("def work(block):\n    return block in (1, 2)", "def work(block):\n    return block in (1, 3)"),
        ("def work(block):\n    return lambda: 1", "def work(block):\n    return lambda: 2"),
        (MAKE + "work = make(1)", MAKE + "work = make(2)"),
        (HELP + "def f(x):\n    return 1\n", HELP + "def f(x):\n    return 2\n"),
        (MAKE + "work = make({'a': 1})", MAKE + "work = make({'a': 2})"),
    ],
    ids=["default", "keyword default", "set", "tuple", "inner function", "captured number", "helper", "captured dict"],
)  # fmt: skip
def test_a_changed_value_inside_has_another_hash(one: str, other: str) -> None:
    assert hashed(one) == hashed(one)
    assert hashed(one) != hashed(other)


def test_lines_and_names_of_files_do_not_change_the_hash() -> None:
    assert hashed("\n\n\n" + PLAIN) == hashed(PLAIN)
    assert hashed("def work(block):\n    # why\n    return block.index + 1\n") == hashed(PLAIN)


def test_partials_and_methods_are_hashed_by_what_they_call_and_bind() -> None:
    def of(function: Any) -> str:
        return code_hash(line(function, 3))

    def scaled(block: Any, factor: int) -> int:
        return int(block) * factor

    partial = functools.partial
    assert of(partial(scaled, factor=2)) == of(partial(scaled, factor=2))
    assert of(partial(scaled, factor=2)) != of(partial(scaled, factor=3))
    assert of(Scaler(2).scale) == of(Scaler(2).scale)


def test_every_bound_value_counts_however_many_there_are() -> None:
    def of(**bound: Any) -> str:
        inner = functools.partial(made(PLAIN), **bound)
        return code_hash(line(functools.partial(lambda block, fn, **_: fn(block), fn=inner, edge="shrink", n=1), 3))

    names = [f"name{k}" for k in range(20)]
    hashes = [of(**{name: int(name == changed) for name in names}) for changed in names]
    assert len(set(hashes)) == len(names)
    assert of(a=(1, (2,))) != of(a=(1, 2))


def test_builtins_and_ufuncs_are_told_apart() -> None:
    hashes = {code_hash(line(functools.partial(made(PLAIN), fold=fold), 3)) for fold in (min, max, np.add, np.fmin)}
    assert len(hashes) == 4


def test_a_helper_in_another_file_of_the_user_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = set()
    for number, (text, factor) in enumerate((t, f) for f in (2, 3) for t in ("from h_mod import h", "import h_mod")):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "h_mod.py").write_text(f"def h(block):\n    return block.index * {factor}\n")
        call = "h(block)" if "from" in text else "h_mod.h(block)"
        (folder / "s_mod.py").write_text(f"{text}\ndef f(block):\n    return {call}\n")
        monkeypatch.syspath_prepend(str(folder))
        hashes.add(code_hash(line(importlib.import_module("s_mod").f, 3)))
        del sys.modules["s_mod"], sys.modules["h_mod"]
    assert len(hashes) == 4


def test_checks_and_setup_are_part_of_the_code() -> None:
    task = line(made(PLAIN), 3)
    check = made(PLAIN)
    hashes = {
        code_hash(task),
        code_hash(replace(task, check_function=(check, None))),
        code_hash(replace(task, check_function=(None, check))),
        code_hash(replace(task, setup=lambda: None)),
    }
    assert len(hashes) == 4


def test_a_function_that_captures_itself_has_a_hash() -> None:
    def work(block: Any, depth: int = 3) -> int:
        return work(block, depth - 1) if depth else 0

    assert code_hash(line(work, 3)) == code_hash(line(work, 3))


def test_a_hash_is_the_same_in_every_process() -> None:
    code = f"""
from bellis.runtime.program import code_hash
from bellis.testing.blocks import line
names = {{}}
exec("def work(block):\\n    return block.index in {{'a', 'b', 'c', 'd'}} or {{1: 2}}", names)
print(code_hash(line(names["work"], 3)), {OFFSET})
"""
    found = set()
    for seed in ("1", "2", "3"):
        environment = {"PYTHONHASHSEED": seed, "PATH": ""}
        arguments = [sys.executable, "-c", code]
        found.add(subprocess.run(arguments, env=environment, capture_output=True, check=True, timeout=30).stdout)
    assert len(found) == 1
