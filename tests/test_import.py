"""The import is light, every public name is there, and each error is one of ours and one of Python's."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from statistics import median
from time import perf_counter
from typing import Any

import pytest

import bellis
from bellis import errors

HEAVY = ("numpy", "rich", "click", "msgspec", "cloudpickle", "tensorstore", "sqlite3", "multiprocessing", "asyncio")


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60).stdout


def test_the_import_loads_nothing_heavy() -> None:
    loaded = set(json.loads(python("import bellis, sys, json; print(json.dumps(sorted(sys.modules)))")))
    assert loaded.isdisjoint(HEAVY)
    assert {name for name in loaded if name.startswith("bellis")} == {"bellis"}


@pytest.mark.slow
def test_the_import_takes_less_than_150_ms() -> None:
    def seconds(code: str) -> float:
        began = perf_counter()
        python(code)
        return perf_counter() - began

    seconds("import bellis")  # compiled, and in the disk cache
    extra = [seconds("import bellis") - seconds("pass") for _ in range(5)]
    assert median(extra) < 0.15


def test_every_public_name_is_there() -> None:
    for name in bellis.__all__:
        assert getattr(bellis, name) is not None
    assert set(bellis.__all__) <= set(dir(bellis))
    assert bellis.__version__


def test_the_names_of_a_daisy_script_are_there() -> None:
    names = {
        "Array", "Block", "BlockStatus", "BlockwiseDependencyGraph", "Client", "Context", "Coordinate",
        "DependencyGraph", "Pipeline", "Roi", "Scheduler", "SerialServer", "Server", "Task", "expand_roi_to_grid",
        "expand_write_roi_to_grid", "get_worker_log_basename", "open_ds", "persistence", "prepare_ds", "run_blockwise",
    }  # fmt: skip
    assert names <= set(bellis.__all__)


def test_engines_that_take_more_than_an_address_are_there_and_load_nothing_that_they_may_not_need() -> None:
    code = "import sys, bellis; print(bellis.DaskEngine.__name__, bellis.ServiceEngine.__name__); "
    said = python(code + "print(*(name for name in ('distributed', 'starlette', 'uvicorn') if name in sys.modules))")
    assert said.split() == ["DaskEngine", "ServiceEngine"]


def test_graphs_are_found_by_the_names_of_daisy_and_by_ours() -> None:
    for name in ("FileGraphProvider", "MongoDbGraphProvider", "SharedGraphProvider"):
        assert getattr(bellis.persistence, name) is getattr(bellis.graphs, name)
    for name in ("DiGraph", "Graph", "Vec", "open_graph"):
        assert getattr(bellis, name) is getattr(bellis.graphs, name)
    assert set(bellis.graphs.__all__) <= set(dir(bellis.graphs))
    assert all(getattr(bellis.graphs, name) is not None for name in bellis.graphs.__all__)
    with pytest.raises(AttributeError, match=r"module 'bellis\.graphs' has no attribute 'nonsense'"):
        _ = bellis.graphs.nonsense


@pytest.mark.parametrize("name", ["run", "plan"])
def test_a_function_is_not_hidden_by_a_room_of_its_name(name: str) -> None:
    code = f"import bellis, bellis.api, bellis.runtime.loop, bellis.planning.plan; print(callable(bellis.{name}))"
    assert python(code).strip() == "True"


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'bellis' has no attribute 'nonsense'"):
        _ = bellis.nonsense
    with pytest.raises(ImportError):
        exec("from bellis import nonsense")


def tree(error: type[BaseException]) -> list[type[BaseException]]:
    return [
        error,
        *(below for child in error.__subclasses__() for below in tree(child) if "bellis" in below.__module__),
    ]


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (errors.GeometryError, ValueError),
        (errors.TaskError, ValueError),
        (errors.FunctionError, TypeError),
        (errors.FunctionError, errors.TaskError),
        (errors.ArrayError, ValueError),
        (errors.ArrayExistsError, errors.ArrayError),
        (errors.ArrayExistsError, FileExistsError),
        (errors.GraphError, ValueError),
        (errors.GraphMismatchError, errors.GraphError),
        (errors.GraphExistsError, errors.GraphError),
        (errors.GraphExistsError, FileExistsError),
        (errors.GraphMissingError, errors.GraphError),
        (errors.GraphMissingError, LookupError),
        (errors.GraphReadOnlyError, errors.GraphError),
        (errors.GraphReadOnlyError, PermissionError),
        (errors.GraphServerError, ConnectionError),
        (errors.RunError, RuntimeError),
        (errors.DeadlockError, errors.RunError),
        (errors.JournalError, errors.RunError),
        (errors.JournalLockedError, errors.JournalError),
        (errors.JournalMismatchError, errors.JournalError),
        (errors.JournalCorruptError, errors.JournalError),
        (errors.EngineError, errors.RunError),
        (errors.ServiceError, errors.EngineError),
        (errors.ServiceError, ConnectionError),
        (errors.ContextError, errors.RunError),
        (errors.ContextError, KeyError),
    ],
)
def test_each_error_is_also_the_one_that_a_caller_would_catch(error: Any, builtin: Any) -> None:
    assert issubclass(error, builtin)
    assert issubclass(error, bellis.BellisError)


def test_every_error_is_public_has_a_docstring_and_subclasses_a_builtin() -> None:
    for room in ("api", "arrays", "planning", "runtime.journal", "runtime.worker", "service.engine"):
        import_module(f"bellis.{room}")
    for error in tree(errors.BellisError):
        assert error.__module__ == "bellis.errors"
        assert getattr(bellis, error.__name__) is error
        assert error.__doc__
        builtins = [base for base in error.__mro__ if base.__module__ == "builtins"]
        assert error is errors.BellisError or set(builtins) - {Exception, BaseException, object}
