"""bellis: run code over image data that does not fit, block by block.

``import bellis as daisy`` runs a daisy 1.x script. Names are loaded when they are first used, so that the import itself
stays light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bellis import graphs as graphs
    from bellis import graphs as persistence
    from bellis import ops as ops
    from bellis import volumes as volumes
    from bellis.api import SerialServer as SerialServer
    from bellis.api import Server as Server
    from bellis.api import run as run
    from bellis.api import run_blockwise as run_blockwise
    from bellis.arrays import Array as Array
    from bellis.arrays import Multiscale as Multiscale
    from bellis.arrays import open_ds as open_ds
    from bellis.arrays import prepare_ds as prepare_ds
    from bellis.engines.dask import DaskEngine as DaskEngine
    from bellis.errors import AccessError as AccessError
    from bellis.errors import ArrayError as ArrayError
    from bellis.errors import ArrayExistsError as ArrayExistsError
    from bellis.errors import BellisError as BellisError
    from bellis.errors import BlockNotReadyError as BlockNotReadyError
    from bellis.errors import CacheMismatchError as CacheMismatchError
    from bellis.errors import ContextError as ContextError
    from bellis.errors import DamagedBlockError as DamagedBlockError
    from bellis.errors import DeadlockError as DeadlockError
    from bellis.errors import DescriptionError as DescriptionError
    from bellis.errors import DownloadError as DownloadError
    from bellis.errors import EngineError as EngineError
    from bellis.errors import FetchError as FetchError
    from bellis.errors import FunctionError as FunctionError
    from bellis.errors import GeometryError as GeometryError
    from bellis.errors import GraphError as GraphError
    from bellis.errors import GraphExistsError as GraphExistsError
    from bellis.errors import GraphMismatchError as GraphMismatchError
    from bellis.errors import GraphMissingError as GraphMissingError
    from bellis.errors import GraphReadOnlyError as GraphReadOnlyError
    from bellis.errors import GraphServerError as GraphServerError
    from bellis.errors import JournalCorruptError as JournalCorruptError
    from bellis.errors import JournalError as JournalError
    from bellis.errors import JournalLockedError as JournalLockedError
    from bellis.errors import JournalMismatchError as JournalMismatchError
    from bellis.errors import MissingBlockError as MissingBlockError
    from bellis.errors import RunError as RunError
    from bellis.errors import ServiceError as ServiceError
    from bellis.errors import TaskError as TaskError
    from bellis.errors import TransientError as TransientError
    from bellis.errors import VolumeError as VolumeError
    from bellis.geometry import Coordinate as Coordinate
    from bellis.geometry import Roi as Roi
    from bellis.geometry import expand_roi_to_grid as expand_roi_to_grid
    from bellis.geometry import expand_write_roi_to_grid as expand_write_roi_to_grid
    from bellis.graphs import DiGraph as DiGraph
    from bellis.graphs import Graph as Graph
    from bellis.graphs import Vec as Vec
    from bellis.graphs import open_graph as open_graph
    from bellis.planning import BlockGrid as BlockGrid
    from bellis.planning import BlockwiseDependencyGraph as BlockwiseDependencyGraph
    from bellis.planning import DependencyGraph as DependencyGraph
    from bellis.planning import Plan as Plan
    from bellis.planning import plan as plan
    from bellis.runtime.output import get_worker_log_basename as get_worker_log_basename
    from bellis.runtime.report import RunReport as RunReport
    from bellis.runtime.scheduler import Scheduler as Scheduler
    from bellis.runtime.state import TaskState as TaskState
    from bellis.service.client import Client as Client
    from bellis.service.context import Context as Context
    from bellis.service.engine import ServiceEngine as ServiceEngine
    from bellis.tasks import Block as Block
    from bellis.tasks import BlockStatus as BlockStatus
    from bellis.tasks import Pipeline as Pipeline
    from bellis.tasks import Task as Task

__version__ = "0.1.0"

_ROOMS = {
    "bellis.api": ("SerialServer", "Server", "run", "run_blockwise"),
    "bellis.arrays": ("Array", "Multiscale", "open_ds", "prepare_ds"),
    "bellis.engines.dask": ("DaskEngine",),
    "bellis.errors": (
        "AccessError", "ArrayError", "ArrayExistsError", "BellisError", "BlockNotReadyError", "CacheMismatchError",
        "ContextError", "DamagedBlockError", "DeadlockError", "DescriptionError", "DownloadError", "EngineError",
        "FetchError", "FunctionError", "GeometryError", "GraphError", "GraphExistsError", "GraphMismatchError",
        "GraphMissingError", "GraphReadOnlyError", "GraphServerError", "JournalCorruptError", "JournalError",
        "JournalLockedError", "JournalMismatchError", "MissingBlockError", "RunError", "ServiceError", "TaskError",
        "TransientError", "VolumeError",
    ),
    "bellis.geometry": ("Coordinate", "Roi", "expand_roi_to_grid", "expand_write_roi_to_grid"),
    "bellis.graphs": ("DiGraph", "Graph", "Vec", "open_graph"),
    "bellis.planning": ("BlockGrid", "BlockwiseDependencyGraph", "DependencyGraph", "Plan", "plan"),
    "bellis.runtime.output": ("get_worker_log_basename",),
    "bellis.runtime.report": ("RunReport",),
    "bellis.runtime.scheduler": ("Scheduler",),
    "bellis.runtime.state": ("TaskState",),
    "bellis.service.client": ("Client",),
    "bellis.service.context": ("Context",),
    "bellis.service.engine": ("ServiceEngine",),
    "bellis.tasks": ("Block", "BlockStatus", "Pipeline", "Task"),
}  # fmt: skip
_HOME = {name: room for room, names in _ROOMS.items() for name in names}

_MODULES = {"graphs": "bellis.graphs", "ops": "bellis.ops", "persistence": "bellis.graphs", "volumes": "bellis.volumes"}
"""Rooms by name; ``persistence`` is what daisy calls the one of graphs."""

__all__ = sorted({*_HOME, *_MODULES} - {"DiGraph", "Graph"})  # these two need networkx, which "import *" must not


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(_MODULES[name])
    room = _HOME.get(name)
    if room is None:
        raise AttributeError(f"module 'bellis' has no attribute {name!r}")
    value = getattr(import_module(room), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME, *_MODULES})
