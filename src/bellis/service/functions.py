"""Functions by name: what a worker that was started by hand can import, and what is said if it can't."""

from __future__ import annotations

import functools
import importlib.util
import sys
from typing import TYPE_CHECKING, Any

from bellis.errors import FunctionError, TaskError
from bellis.service.messages import Region, TaskDescription
from bellis.service.roster import BoardTask

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bellis.geometry import Roi
    from bellis.runtime.program import Program

_ROLES = ("process", "pre", "post", "setup")


def board_tasks(programs: Sequence[Program], *, is_open: bool, by_name: bool) -> list[BoardTask]:
    """Return the tasks of a run as the board knows them.

    Parameters
    ----------
    programs
        The tasks.
    is_open
        Whether any worker may have blocks of those that have no worker function.
    by_name
        Whether their functions must then have names that workers can import.

    Raises
    ------
    FunctionError
        If one has none.
    TaskError
        If the results of a worker function are asked for.
    """
    return [
        BoardTask(
            description=described(program, by_name=is_open and by_name),
            is_open=is_open and not program.is_worker_function,
        )
        for program in programs
    ]


def described(program: Program, *, by_name: bool) -> TaskDescription:
    """Describe a task to workers.

    Parameters
    ----------
    program
        The task.
    by_name
        Whether its functions must have names that a worker can import.

    Raises
    ------
    FunctionError
        If one has none.
    TaskError
        If the results of a worker function are asked for.
    """
    if program.is_worker_function and program.keeps_results:
        raise TaskError(
            f"task {program.task_id!r} has results=True, but a worker function: it takes blocks by itself and returns "
            "nothing for them. Pass a function of a block, or results=False"
        )
    grid = program.grid
    write = type(grid.total_roi)(grid.total_roi.begin + grid.context_begin, grid.write_shape)
    names: dict[str, str | None] = dict.fromkeys(_ROLES)
    for role in _ROLES:
        function = getattr(program.functions, role)
        if function is None or program.is_worker_function:
            continue
        why = why_unnamed(function)
        if why is None:
            names[role] = f"{function.__module__}:{function.__qualname__}"
        elif by_name:
            raise FunctionError(
                f"task {program.task_id!r}: workers that are started elsewhere import its functions by name, but its "
                f"{role} function {why}. Put it at the top level of a module that they can import, or run with "
                "ServiceEngine(beside=LocalEngine()), which leaves such tasks to this machine"
            )
    return TaskDescription(
        number=program.number,
        task_id=program.task_id,
        total_roi=_region(grid.total_roi),
        read_roi=_region(write.grow(grid.context_begin, grid.context_end)),
        write_roi=_region(write),
        fit=grid.fit,
        keeps_results=program.keeps_results,
        timeout_s=program.timeout_s,
        process=names["process"],
        pre=names["pre"],
        post=names["post"],
        setup=names["setup"],
    )


def why_unnamed(function: Any) -> str | None:
    """Say why a function can't be imported by its name elsewhere; None if it can."""
    if isinstance(function, functools.partial):
        return f"{function.func!r} is bound to arguments by functools.partial"
    name, module = getattr(function, "__qualname__", None), getattr(function, "__module__", None)
    if not isinstance(name, str) or not isinstance(module, str):
        return f"{function!r} has no name"
    if module == "__main__":
        return f"{name!r} is defined in the script that runs"
    if not name.isidentifier():
        return f"{name!r} is not at the top level of its module"
    if getattr(sys.modules.get(module), name, None) is not function:
        return f"{name!r} is not what {module}.{name} is"
    try:
        found = importlib.util.find_spec(module)
    except (ImportError, ValueError, AttributeError):
        found = None
    return None if found is not None else f"{name!r} is in {module!r}, which can't be imported"


def _region(roi: Roi) -> Region:
    return Region(offset=[int(x) for x in roi.begin], shape=[int(x) for x in roi.shape])
