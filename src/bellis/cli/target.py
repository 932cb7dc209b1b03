"""What a command runs: a pipeline in a user's file, or a function that makes one, and its options."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bellis.errors import BellisError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType, TracebackType

    from bellis.tasks import Pipeline

_OWN_FILES = str(Path(__file__).parents[1])


class Refused(click.ClickException):
    """Nothing was run; the message says why."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Target:
    """A name in a user's module."""

    where: str
    """The file or the module, as the user wrote it."""
    name: str
    """The name."""
    value: Any
    """What it stands for: tasks, or a function that returns some."""

    @property
    def is_function(self) -> bool:
        """Whether it has to be called, with options."""
        from bellis.tasks import Pipeline, Task

        return callable(self.value) and not isinstance(self.value, Pipeline | Task)

    @property
    def title(self) -> str:
        """A name for the journal: the file's, or its folder's if it is called pipeline."""
        path = Path(self.where).absolute() if _is_file(self.where) else Path(*self.where.split("."))
        return path.parent.name or path.stem if path.stem == "pipeline" else path.stem

    def pipeline(self, options: dict[str, Any]) -> Pipeline:
        """Return the tasks; a function is called with ``options``."""
        from bellis.tasks import Pipeline, Task

        with user_code():
            tasks = self.value(**options) if self.is_function else self.value
        if not isinstance(tasks, Task | Pipeline | Iterable):
            verb = "returns" if self.is_function else "is"
            raise Refused(f"{self.where}:{self.name} {verb} {tasks!r}, not a Pipeline, a Task or a list of Tasks")
        return Pipeline.of(tasks)


def load_target(text: str) -> Target:
    """Import a file or a module, and take a name from it.

    Parameters
    ----------
    text
        ``FILE.py:NAME`` or ``MODULE:NAME``.
    """
    where, colon, name = text.rpartition(":")
    if not colon:
        where, name = text, ""
    module = _load_file(Path(where)) if _is_file(where) else _load_module(where)
    if name and hasattr(module, name):
        return Target(where, name, getattr(module, name))
    there = _pipelines(module)
    problem = f"{where} has no {name!r}" if name else f"say which pipeline of {where} to take: {where}:NAME"
    near = get_close_matches(name, there, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"there is {', '.join(map(repr, there))}" if there else ""
    raise click.UsageError("; ".join(filter(None, [problem, hint])))


def _is_file(where: str) -> bool:
    return where.endswith(".py") or "/" in where


def _pipelines(module: ModuleType) -> list[str]:
    """Return names in a module that may be pipelines, or else all its functions."""
    from bellis.tasks import Pipeline, Task

    own = {name: value for name, value in vars(module).items() if not name.startswith("_")}
    found = [name for name, value in own.items() if isinstance(value, Pipeline | Task)]
    functions = {k: v for k, v in own.items() if inspect.isfunction(v) and v.__module__ == module.__name__}
    makers = [k for k, v in functions.items() if any(kind in _returns(v) for kind in ("Pipeline", "Task"))]
    return [*found, *makers] or list(functions)


def _returns(function: Any) -> str:
    returned = inspect.signature(function).return_annotation
    return returned if isinstance(returned, str) else repr(returned)


def _load_file(path: Path) -> ModuleType:
    """Import a file under its own name, so that workers can import it too."""
    if not path.is_file():
        near = get_close_matches(path.name, [other.name for other in path.parent.glob("*.py")], 1)
        hint = f"; did you mean {path.with_name(near[0])}?" if near else ""
        raise click.UsageError(f"there is no file {path}{hint}")
    path = path.absolute()
    folder = str(path.parent)
    if _is_free(path):
        if folder not in sys.path[:1]:
            sys.path.insert(0, folder)
        with user_code():
            return importlib.import_module(path.stem)
    # Under its own name it would stand in for another module, here or in a worker: so its code travels by value.
    import cloudpickle

    spec = importlib.util.spec_from_file_location(f"bellis_target_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise click.UsageError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    sys.path.append(folder)
    with user_code():
        spec.loader.exec_module(module)
    cloudpickle.register_pickle_by_value(module)
    return module


def _is_free(path: Path) -> bool:
    """Whether no other module has the name of this file."""
    if not path.stem.isidentifier() or path.stem in sys.stdlib_module_names:
        return False
    try:
        spec = importlib.util.find_spec(path.stem)
    except (ImportError, ValueError):
        return False
    return spec is None or (spec.origin is not None and Path(spec.origin).resolve() == path.resolve())


def _load_module(name: str) -> ModuleType:
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        with user_code(ModuleNotFoundError):
            return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            with user_code():
                raise
        file = Path(f"{name}.py")
        hint = f"; did you mean {file}:NAME?" if file.is_file() else ": pass FILE.py:NAME or MODULE:NAME"
        raise click.UsageError(f"there is no module {name!r}{hint}") from error


@contextmanager
def user_code(*passed: type[Exception]) -> Iterator[None]:
    """Turn what a user's code raises into a refusal that shows the user's part of the traceback."""
    try:
        yield
    except Exception as error:
        if isinstance(error, (BellisError, click.ClickException, *passed)):
            raise
        frames = _own_part(error.__traceback__)
        text = "".join(traceback.format_exception(type(error), error, frames))
        raise Refused(f"the pipeline can't be described\n{text.rstrip()}") from error


def _own_part(frames: TracebackType | None) -> TracebackType | None:
    """Drop the frames above the user's code."""
    while frames is not None:
        file = frames.tb_frame.f_code.co_filename
        if not file.startswith((_OWN_FILES, "<frozen importlib")) and "/importlib/" not in file:
            return frames
        frames = frames.tb_next
    return None
