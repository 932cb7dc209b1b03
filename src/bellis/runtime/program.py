"""What a worker needs to run the blocks of a task: its functions, as bytes, and its grid."""

from __future__ import annotations

import functools
import hashlib
import importlib.machinery
import importlib.util
import inspect
import sys
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import TYPE_CHECKING, Any

import cloudpickle
import numpy as np

from bellis.errors import FunctionError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bellis.planning.grid import BlockGrid
    from bellis.tasks.block import Block
    from bellis.tasks.task import Task


@dataclass(frozen=True, slots=True)
class Functions:
    """The functions of a task."""

    process: Callable[[Block], Any]
    """Run on each block."""
    pre: Callable[[Block], bool] | None
    """Asked whether a block is done already."""
    post: Callable[[Block], bool] | None
    """Asked whether a block that ran is done."""
    setup: Callable[[], Any] | None
    """Run once per worker before the first block."""

    @classmethod
    def of(cls, task: Task) -> Functions:
        """Take the functions of ``task``."""
        pre, post = task.checks
        return cls(task.process_function, pre, post, task.setup)


@dataclass(frozen=True, slots=True)
class Program:
    """A task as engines and workers know it."""

    number: int
    """Position of the task in its run."""
    task_id: str
    """Name of the task."""
    grid: BlockGrid
    """Its blocks."""
    functions: Functions
    """What to run on them, in this process."""
    keeps_results: bool
    """Whether what the function returns is sent home."""
    timeout_s: float | None
    """Most seconds that one block may take."""

    @classmethod
    def of(cls, number: int, task: Task, grid: BlockGrid) -> Program:
        """Make the program of ``task``."""
        return cls(number, task.task_id, grid, Functions.of(task), task.results, task.timeout)

    def dumps(self) -> bytes:
        """Return the program as bytes for a worker process of this run.

        Raises
        ------
        FunctionError
            If a function, or something that it captures, can't be pickled; the message names it.
        """
        modules = _unreachable_modules(self.functions)
        for module in modules:
            cloudpickle.register_pickle_by_value(module)
        try:
            return bytes(cloudpickle.dumps(self))
        except Exception as error:
            culprit = _culprit(self.functions) or f"{type(error).__name__}: {error}"
            raise FunctionError(
                f"task {self.task_id!r} can't be sent to a worker process: {culprit}. Open files, locks, "
                "connections and the like must be made inside the function (or in setup=), not captured by it"
            ) from error
        finally:
            for module in modules:
                cloudpickle.unregister_pickle_by_value(module)


def _functions(functions: Functions) -> Iterator[tuple[str, Any]]:
    for name in ("process", "pre", "post", "setup"):
        function = getattr(functions, name)
        if function is not None:
            yield name, function


def _unwrapped(function: Any) -> Any:
    while True:
        if isinstance(function, functools.partial):
            function = function.func
        elif isinstance(function, MethodType):
            function = function.__func__
        else:
            return function


def _unreachable_modules(functions: Functions) -> list[ModuleType]:
    """Return the functions' modules that a worker could not import by name, so that they travel by value."""
    found = {}
    for _, function in _functions(functions):
        name = getattr(_unwrapped(function), "__module__", None)
        module = sys.modules.get(name) if name else None
        if module is not None and name != "__main__" and not _is_importable(module):
            found[name] = module
    return list(found.values())


def _is_importable(module: ModuleType) -> bool:
    origin = getattr(module, "__file__", None)
    if origin is None:
        return True
    if getattr(module.__spec__, "_initializing", False):
        return False  # its top level is what starts the run: a worker that imports it would start it again
    top = module.__name__.partition(".")[0]
    try:
        spec = importlib.util.find_spec(module.__name__) if top in sys.modules else None
        if spec is None or spec is module.__spec__:
            spec = importlib.machinery.PathFinder.find_spec(top)
            return spec is not None
    except (ImportError, ValueError, AttributeError):
        return False
    return spec.origin is not None and Path(spec.origin) == Path(origin)


def _culprit(functions: Functions) -> str | None:
    """Name what can't be pickled: the captured variable, global, bound argument or attribute."""
    for role, function in _functions(functions):
        for where, value in _captured(function):
            try:
                cloudpickle.dumps(value)
            except Exception as error:  # noqa: BLE001  # whatever a user's __reduce__ raises
                name = getattr(_unwrapped(function), "__qualname__", repr(function))
                what = f"{type(value).__module__}.{type(value).__qualname__}"
                return f"its {role} function {name!r} captures {where}, a {what} that can't be pickled ({error})"
    return None


def _captured(function: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(function, functools.partial):
        for position, value in enumerate(function.args):
            yield f"argument {position}", value
        for name, value in function.keywords.items():
            yield f"argument {name!r}", value
        yield from _captured(function.func)
    elif isinstance(function, MethodType):
        yield "self", function.__self__
    elif isinstance(function, FunctionType):
        variables = inspect.getclosurevars(function)
        for name, value in (*variables.nonlocals.items(), *variables.globals.items()):
            yield f"variable {name!r}", value
        for value in function.__defaults__ or ():
            yield "a default value", value
    else:
        yield "itself", function


def code_hash(task: Task) -> str:
    """Return a hash of the code of a task's functions, the same in every process.

    It covers the functions' own byte code, constants and names, and those of functions and values that they capture;
    not the code of other modules that they call.
    """
    digest = hashlib.sha256()
    for role, function in _functions(Functions.of(task)):
        digest.update(role.encode())
        _feed(digest, function, set())
    return digest.hexdigest()[:16]


def _feed(digest: Any, value: Any, seen: set[int]) -> None:
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, functools.partial):
        for part in (value.func, *value.args, *value.keywords.items()):
            _feed(digest, part, seen)
    elif isinstance(value, MethodType):
        _feed(digest, value.__func__, seen)
    elif isinstance(value, FunctionType):
        _feed(digest, value.__code__, seen)
        for name in value.__code__.co_names:  # functions of the same module that it calls
            called = value.__globals__.get(name)
            if isinstance(called, FunctionType) and called.__module__ == value.__module__:
                _feed(digest, called, seen)
        _feed(digest, tuple(cell.cell_contents for cell in value.__closure__ or ()), seen)
        _feed(digest, (value.__defaults__, value.__kwdefaults__), seen)
    elif isinstance(value, CodeType):
        digest.update(value.co_code)
        digest.update(repr(value.co_names).encode())
        _feed(digest, value.co_consts, seen)
    elif isinstance(value, tuple | list):
        for part in value:
            _feed(digest, part, seen)
    elif isinstance(value, set | frozenset):
        digest.update(repr(sorted(map(repr, value))).encode())
    elif isinstance(value, dict):
        _feed(digest, list(value.items()), seen)
    elif isinstance(value, str | bytes | int | float | complex | bool | None | Path):
        digest.update(repr(value).encode())
    elif isinstance(value, np.ndarray):
        digest.update(f"{value.dtype} {value.shape}".encode() + value.tobytes())
    else:
        digest.update(f"{type(value).__module__}.{type(value).__qualname__}".encode())
