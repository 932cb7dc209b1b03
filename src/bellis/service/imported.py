"""Tasks as a worker elsewhere has them: regions from their description, functions by name."""

from __future__ import annotations

import importlib
import re
from typing import TYPE_CHECKING, Any

from bellis.errors import BellisError, FunctionError, ServiceError
from bellis.geometry import Roi
from bellis.planning.grid import BlockGrid
from bellis.runtime.program import Functions, PackedProgram, Program

if TYPE_CHECKING:
    from collections.abc import Callable

    from bellis.service.messages import Region, TaskDescription

_NAME = re.compile(r"(\w+(?:\.\w+)*):(\w+)")


class Imported:
    """A function by name; the process that it is unpickled in imports it.

    Parameters
    ----------
    name
        ``module:function``.

    Raises
    ------
    FunctionError
        If that is no name.
    """

    def __init__(self, name: str) -> None:
        if _NAME.fullmatch(name) is None:
            raise FunctionError(f"{name!r} is no name of a function: module:function is expected")
        self.name = name

    def __reduce__(self) -> tuple[Any, ...]:
        return imported, (self.name,)

    def __call__(self, *arguments: Any) -> Any:
        """Call the function here."""
        return imported(self.name)(*arguments)


def imported(name: str) -> Callable[..., Any]:
    """Import a function.

    Raises
    ------
    FunctionError
        If it is not there.
    """
    module, _, attribute = name.partition(":")
    try:
        function = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise FunctionError(
            f"this worker can't import {name} ({error}): start it where `python -c 'import {module}'` works"
        ) from error
    if not callable(function):
        raise FunctionError(f"{name} is {function!r}, which can't be called")
    return function  # type: ignore[no-any-return]


def packed(task: TaskDescription) -> PackedProgram:
    """Make the program of a task whose functions can be imported.

    Raises
    ------
    FunctionError
        If the run does not say under which name.
    """
    if task.process is None:
        raise FunctionError(f"the function of task {task.task_id!r} has no name that a worker elsewhere could import")
    functions = Functions(
        Imported(task.process),
        *(None if name is None else Imported(name) for name in (task.pre, task.post, task.setup)),
    )
    grid = grid_of(task)
    program = Program(task.number, task.task_id, grid, functions, task.keeps_results, task.timeout_s)
    return program.packed()


def grid_of(task: TaskDescription) -> BlockGrid:
    """Return the blocks of a task.

    Raises
    ------
    ServiceError
        If they can't be.
    """

    def roi(region: Region) -> Roi:
        return Roi(tuple(region.offset), tuple(region.shape))

    try:
        return BlockGrid(roi(task.total_roi), roi(task.read_roi), roi(task.write_roi), task.fit, task.task_id)
    except BellisError as error:
        raise ServiceError(f"the run described task {task.task_id!r} as it can't be: {error}") from error
