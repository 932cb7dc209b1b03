"""Which engine a run gets: by name, by address, or the one that was passed."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import TYPE_CHECKING, cast

from bellis.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bellis.runtime.engine import Engine
    from bellis.tasks import Task


def engine_for(engine: str | Engine, tasks: Sequence[Task]) -> Engine:
    """Return the engine to run ``tasks`` on; one that serves clients as well if a task needs that.

    Raises
    ------
    EngineError
        If no engine has that name.
    """
    chosen = engine_named(engine) if isinstance(engine, str) else engine
    if not any(task.worker_function or task.init_callback_fn is not None for task in tasks):
        return chosen
    from bellis.service.engine import ServiceEngine

    return chosen if isinstance(chosen, ServiceEngine) else ServiceEngine(beside=chosen)


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
