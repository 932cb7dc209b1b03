"""What a worker needs to run the blocks of a task: its functions, as bytes, and its grid."""

from __future__ import annotations

import functools
import hashlib
import importlib.machinery
import importlib.util
import inspect
import sys
import sysconfig
from dataclasses import dataclass, field, replace
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


_LIBRARIES = tuple({sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib", "purelib", "platlib")})
"""Folders of modules whose code is nobody's work in progress."""


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
    is_worker_function: bool = False
    """Whether the function takes blocks by itself, through a `Client`."""
    workers: int = 1
    """How many blocks of the task may run at the same time."""
    resources: dict[str, int] = field(default_factory=dict)
    """What one running block holds."""
    init: Callable[[Any], None] | None = None
    """Called with the `Context` of the task when it starts; never leaves this process."""

    @classmethod
    def of(cls, number: int, task: Task, grid: BlockGrid) -> Program:
        """Make the program of ``task``."""
        return cls(
            number,
            task.task_id,
            grid,
            Functions.of(task),
            task.results,
            task.timeout,
            bool(task.worker_function),
            task.num_workers,
            dict(task.resources),
            task.init_callback_fn,
        )

    def packed(self) -> PackedProgram:
        """Return the program as it travels to worker processes of this run.

        Raises
        ------
        FunctionError
            If a function, or something that it captures, can't be pickled.
        """
        return PackedProgram(self.number, self.task_id, self.keeps_results, self.timeout_s, self.dumps())

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
            return bytes(cloudpickle.dumps(replace(self, init=None)))
        except Exception as error:
            culprit = _culprit(self.functions) or f"{type(error).__name__}: {error}"
            raise FunctionError(
                f"task {self.task_id!r} can't be sent to a worker process: {culprit}. Open files, locks, "
                "connections and the like must be made inside the function (or in setup=), not captured by it"
            ) from error
        finally:
            for module in modules:
                cloudpickle.unregister_pickle_by_value(module)


@dataclass(frozen=True, slots=True)
class PackedProgram:
    """A program as bytes, and what whoever passes it on must know of it."""

    number: int
    """Position of the task in its run."""
    task_id: str
    """Name of the task."""
    keeps_results: bool
    """Whether what the function returns is sent home."""
    timeout_s: float | None
    """Most seconds that one block may take."""
    payload: bytes
    """The program, as cloudpickle."""


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


def _bound(function: Any) -> Iterator[Any]:
    """Yield a function, and those that a partial calls it with: in ``ops.map``, the user's."""
    if isinstance(function, functools.partial):
        yield from _bound(function.func)
        for value in (*function.args, *function.keywords.values()):
            if callable(value):
                yield from _bound(value)
    else:
        yield _unwrapped(function)


def _unreachable_modules(functions: Functions) -> list[ModuleType]:
    """Return the functions' modules that a worker could not import by name, so that they travel by value."""
    found = {}
    for part in (part for _, function in _functions(functions) for part in _bound(function)):
        name = getattr(part, "__module__", None)
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

    It covers the functions' own byte code, constants and names, and those of functions and values that they capture,
    and of functions that they call from their own module or from others that are not installed as a library; not
    methods of classes.
    """
    digest = hashlib.sha256()
    for role, function in _functions(Functions.of(task)):
        digest.update(role.encode())
        _feed(digest, function, {})
    return digest.hexdigest()[:16]


def _feed(digest: Any, value: Any, seen: dict[int, Any]) -> None:
    parts = _parts(value)
    if parts is None:
        digest.update(_leaf(value) + b",")
    elif id(value) not in seen:
        seen[id(value)] = value  # held, so that nothing that is made later gets its id
        digest.update(f"{len(parts)}(".encode())
        for part in parts:
            _feed(digest, part, seen)


def _parts(value: Any) -> tuple[Any, ...] | None:
    """Return what makes up a function or a container; None for anything else."""
    if isinstance(value, functools.partial):
        return (value.func, *value.args, *value.keywords.items())
    if isinstance(value, MethodType):
        return (value.__func__,)
    if isinstance(value, FunctionType):
        used = [(name, value.__globals__.get(name)) for name in value.__code__.co_names if name in value.__globals__]
        plain = [item for item in used if isinstance(item[1], str | bytes | int | float | tuple | Path)]
        within = [vars(m).get(name) for _, m in used if isinstance(m, ModuleType) for name in value.__code__.co_names]
        called = [f for f in [*(f for _, f in used), *within] if isinstance(f, FunctionType) and _is_users(f, value)]
        captured = (cell.cell_contents for cell in value.__closure__ or ())
        return (value.__code__, *captured, value.__defaults__, value.__kwdefaults__, *plain, *called)
    if isinstance(value, CodeType):
        return (value.co_code, *value.co_names, *value.co_consts)
    if isinstance(value, dict):
        return tuple(value.items())
    return tuple(value) if isinstance(value, tuple | list) else None


def _is_users(function: FunctionType, caller: FunctionType) -> bool:
    """Whether a function that another one calls is of the same module, or of one that is in no library."""
    if function.__module__ == caller.__module__:
        return True
    file = getattr(sys.modules.get(function.__module__), "__file__", None)
    is_own = function.__module__.partition(".")[0] == "bellis"
    return file is not None and not is_own and not file.startswith(_LIBRARIES)


def _leaf(value: Any) -> bytes:
    if isinstance(value, set | frozenset):
        return repr(sorted(map(repr, value))).encode()
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape}".encode() + value.tobytes()
    if isinstance(value, str | bytes | int | float | complex | bool | None | Path):
        return repr(value).encode()
    name = getattr(value, "__qualname__", getattr(value, "__name__", ""))  # of classes, builtins and ufuncs
    module = getattr(value, "__module__", "")
    return f"{type(value).__module__}.{type(value).__qualname__} {module}.{name}".encode()
