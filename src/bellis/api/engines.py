"""Which engine a run gets: by name, by address, or the one that was passed."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import TYPE_CHECKING, cast

from bellis.errors import EngineError, FunctionError, TaskError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bellis.runtime.engine import Engine
    from bellis.tasks import Task


def engine_for(engine: str | Engine, tasks: Sequence[Task]) -> Engine:
    """Return the engine to run ``tasks`` on.

    Raises
    ------
    EngineError
        If no engine has that name.
    FunctionError, TaskError
        If a task needs what this version does not have.
    """
    for task in tasks:
        if task.worker_function:
            raise FunctionError(
                f"task {task.task_id!r}: its process_function takes no block. Worker functions take blocks through "
                "a Client, which this version does not have yet: pass a function that takes a block"
            )
        if task.init_callback_fn is not None:
            raise TaskError(
                f"task {task.task_id!r}: init_callback_fn is for workers that take blocks through a Client, which "
                "this version does not have yet: use setup= to prepare a worker"
            )
    return engine_named(engine) if isinstance(engine, str) else engine


def engine_named(name: str) -> Engine:
    """Make the engine that an installed package offers under ``name``, or at an address: ``name://address``.

    Raises
    ------
    EngineError
        If there is none.
    """
    points = {point.name: point for point in entry_points(group="bellis.engines")}
    kind, has_address, address = name.partition("://")
    if kind not in points:
        raise EngineError(f"no engine is named {kind!r}; there are {', '.join(sorted(points))}")
    make = points[kind].load()
    try:
        return cast("Engine", make(address) if has_address else make())
    except TypeError as error:
        if has_address:
            raise EngineError(f"the engine {kind!r} takes no address, but was given {address!r}") from error
        raise
