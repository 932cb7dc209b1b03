"""Which engine a run gets: by name, by address, or the one that was passed."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import TYPE_CHECKING, cast

from bellis.errors import EngineError
from bellis.runtime.engine import Engine

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bellis.tasks import Task


def engine_for(engine: str | Engine, tasks: Sequence[Task]) -> Engine:
    """Return the engine to run ``tasks`` on; one that serves clients as well if a task needs that.

    Raises
    ------
    EngineError
        If no engine has that name, or what was passed is none.
    """
    chosen = engine_named(engine) if isinstance(engine, str) else _checked(engine)
    if not any(task.worker_function or task.init_callback_fn is not None for task in tasks):
        return chosen
    from bellis.service.engine import ServiceEngine

    return chosen if isinstance(chosen, ServiceEngine) else ServiceEngine(beside=chosen)


def _checked(engine: object) -> Engine:
    """Return what was passed as an engine, if it is one, or can be made one."""
    methods = [name for name in vars(Engine) if not name.startswith("_")]
    if not isinstance(engine, type) and all(callable(getattr(engine, name, None)) for name in methods):
        return cast("Engine", engine)
    if hasattr(engine, "scheduler_info") or hasattr(engine, "scheduler_address"):  # a Dask client, or a cluster
        return cast("Engine", entry_points(group="bellis.engines")["dask"].load()(engine))
    hint = f": pass {engine.__name__}(...), not the class" if isinstance(engine, type) else ""
    raise EngineError(
        f"{engine!r} is no engine{hint}; an engine is a name, a Dask client, or an object with the methods "
        f"{', '.join(methods)}"
    )


def engine_named(name: str) -> Engine:
    """Make the engine that an installed package offers under ``name``, or at an address: ``name://address``.

    Raises
    ------
    EngineError
        If there is none.
    """
    points = {point.name: point for point in entry_points(group="bellis.engines")}
    kind, has_address, address = name.partition("://")
    kind = kind.lower()  # as in any other URL
    if kind not in points:
        raise EngineError(f"no engine is named {kind!r}; there are {', '.join(sorted(points))}")
    make = points[kind].load()
    try:
        return cast("Engine", make(address) if has_address else make())
    except TypeError as error:
        if has_address:
            raise EngineError(f"the engine {kind!r} takes no address, but was given {address!r}") from error
        raise
