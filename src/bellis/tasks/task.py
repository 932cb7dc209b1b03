"""The description of a block-wise task: a frozen value."""

from __future__ import annotations

import inspect
from dataclasses import InitVar, dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from bellis.errors import FunctionError, TaskError
from bellis.geometry import Coordinate, Roi

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from bellis.tasks.block import Block
    from bellis.tasks.pipeline import Pipeline

Fit: TypeAlias = Literal["valid", "overhang", "shrink"]
Check: TypeAlias = "Callable[[Block], bool]"


@dataclass(frozen=True, eq=False)
class Task:
    """A function to be run on every block of a region.

    All regions are in world units, axis order as in the data (z, y, x).

    Raises
    ------
    TaskError
        If the description can't be run: ranks differ, the read region is smaller than the write region,
        ``fit`` is unknown, a number is out of range.
    FunctionError
        If ``process_function`` can be called neither with a block nor without arguments.
    """

    task_id: str
    """Name of the task, unique in a run; any characters."""
    total_roi: Roi
    """Region to cover, context included."""
    read_roi: Roi
    """What one block reads; only its position relative to ``write_roi`` matters."""
    write_roi: Roi
    """What one block writes; its shape is the step of the grid."""
    process_function: Callable[..., Any]
    """Called with each `Block`; without a parameter it is a worker function, which takes blocks by itself."""
    check_function: Check | tuple[Check | None, Check | None] | None = None
    """``check(block) -> bool``: is the block done? Asked before (True skips it) and after (False fails it) it
    runs; a tuple ``(pre, post)`` gives one function for each."""
    init_callback_fn: Callable[[Any], None] | None = None
    """Called once with the `Context` when the task starts."""
    read_write_conflict: bool = True
    """Whether blocks read what their neighbours write, so that neighbours must not run at the same time."""
    num_workers: int = 1
    """How many workers may run this task at the same time."""
    max_retries: int = 2
    """How often a failed block is tried again."""
    fit: Fit = "valid"
    """Blocks at the end that do not fit: left out (``valid``), kept (``overhang``), clipped (``shrink``)."""
    timeout: float | None = None
    """Seconds that one block may take before its worker is killed; None for ever."""
    upstream_tasks: Sequence[Task] | None = None
    """Tasks whose output this one reads."""
    max_workers: InitVar[int | None] = field(default=None, kw_only=True)
    resources: Mapping[str, int] = field(default_factory=dict, kw_only=True)
    """What one running block holds, for example ``{"gpu": 1}``."""
    skip_mask: Any = field(default=None, kw_only=True)
    """Blocks to leave out: an array of bool, one cell per block of the grid, or a callable that is given regions
    as an int64 array of shape (n, 2, dims), [:, 0] begin, [:, 1] end, and returns n bools: "nothing to do
    anywhere in this region"."""
    version: str | int = field(default="", kw_only=True)
    """Part of the journal's fingerprint: change it when finished blocks must be run again."""
    identity: str = field(default="", kw_only=True)
    """What it reads and writes, in words. Part of the journal's fingerprint like the version, but beside the code:
    `bellis.ops` tells here which datasets a task is about."""
    writes: Mapping[str, Roi] = field(default_factory=dict, kw_only=True)
    """Regions of datasets, by name, that its blocks write, rounded out to what only one worker may write at a time.
    Tasks that do not wait for each other must not touch the same ones: a plan refuses that."""
    results: bool = field(default=False, kw_only=True)
    """Keep what ``process_function`` returns (msgpack types and NumPy arrays, small), for ``report.results``."""
    setup: Callable[[], Any] | None = field(default=None, kw_only=True)
    """Called once in each worker before its first block of this task."""
    worker_function: bool | None = field(default=None, kw_only=True)
    """Whether ``process_function`` is a worker function; None: decided by its signature."""
    priority: int = field(default=0, kw_only=True)
    """Among tasks with ready blocks, the highest goes first."""

    def __post_init__(self, max_workers: int | None) -> None:
        if max_workers is not None:
            object.__setattr__(self, "num_workers", max_workers)
        object.__setattr__(self, "upstream_tasks", tuple(self.upstream_tasks or ()))
        object.__setattr__(self, "resources", MappingProxyType(dict(self.resources)))
        object.__setattr__(self, "writes", MappingProxyType(dict(self.writes)))
        if not isinstance(self.task_id, str) or not self.task_id:
            raise TaskError(f"task_id must be a non-empty string, not {self.task_id!r}")
        self._check_regions()
        self._check_limits()
        self._check_functions()

    def _check_regions(self) -> None:
        for name in ("total_roi", "read_roi", "write_roi"):
            roi = getattr(self, name)
            if not isinstance(roi, Roi):
                raise TaskError(f"task {self.task_id!r}: {name} must be a Roi, not {roi!r}")
            if roi.unbounded:
                raise TaskError(f"task {self.task_id!r}: {name} must be bounded, but is {roi}")
        dims = {name: getattr(self, name).dims for name in ("total_roi", "read_roi", "write_roi")}
        if len(set(dims.values())) != 1:
            shown = ", ".join(f"{name} has {n}" for name, n in dims.items())
            raise TaskError(f"task {self.task_id!r}: the regions' ranks differ: {shown} dimensions")
        if self.write_roi.empty:
            raise TaskError(f"task {self.task_id!r}: write_roi {self.write_roi} is empty: no block could write")
        if not self.read_roi.contains(self.write_roi):
            raise TaskError(
                f"task {self.task_id!r}: read_roi {self.read_roi} does not contain write_roi {self.write_roi}: "
                "a block reads at least what it writes; grow the read_roi"
            )

    def _check_limits(self) -> None:
        if self.fit not in get_args(Fit):
            raise TaskError(f"task {self.task_id!r}: fit is {self.fit!r}, must be one of {', '.join(get_args(Fit))}")
        if not isinstance(self.num_workers, int) or self.num_workers < 1:
            raise TaskError(f"task {self.task_id!r}: num_workers must be a positive int, not {self.num_workers!r}")
        if not isinstance(self.max_retries, int) or self.max_retries < 0:
            raise TaskError(f"task {self.task_id!r}: max_retries must be 0 or more, not {self.max_retries!r}")
        if self.timeout is not None and not self.timeout > 0:
            raise TaskError(f"task {self.task_id!r}: timeout must be None or seconds > 0, not {self.timeout!r}")
        for upstream in self.requires():
            if not isinstance(upstream, Task):
                raise TaskError(f"task {self.task_id!r}: upstream_tasks must be Tasks, not {upstream!r}")
        for name, amount in self.resources.items():
            if not isinstance(amount, int) or amount < 1:
                raise TaskError(f"task {self.task_id!r}: resources[{name!r}] must be an int > 0, not {amount!r}")

    def _check_functions(self) -> None:
        if self.worker_function is None:
            takes_block = _takes_block(self.task_id, self.process_function)
            object.__setattr__(self, "worker_function", not takes_block)
        for what, function in zip(("pre-check", "post-check"), self.checks, strict=True):
            if function is not None and not callable(function):
                raise FunctionError(f"task {self.task_id!r}: its {what} {function!r} can't be called")

    @property
    def checks(self) -> tuple[Check | None, Check | None]:
        """The functions asked before and after a block runs."""
        if not isinstance(self.check_function, tuple):
            return self.check_function, self.check_function
        if len(self.check_function) != 2:
            raise FunctionError(
                f"task {self.task_id!r}: check_function is a tuple of {len(self.check_function)}, "
                "must be (pre, post): the function asked before and the one asked after a block runs"
            )
        return self.check_function

    @property
    def context(self) -> tuple[Coordinate, Coordinate]:
        """How far a block reads beyond what it writes, towards the begin and towards the end."""
        return self.write_roi.begin - self.read_roi.begin, self.read_roi.end - self.write_roi.end

    @property
    def total_write_roi(self) -> Roi:
        """The part of ``total_roi`` that blocks write; empty if the context is larger than the total."""
        begin, end = self.context
        return self.total_roi.grow(-begin, -end)

    @property
    def orig_total_roi(self) -> Roi:
        """The region as it was asked for."""
        return self.total_roi

    def requires(self) -> tuple[Task, ...]:
        """Return the upstream tasks."""
        return tuple(self.upstream_tasks or ())

    def __add__(self, other: Task | Pipeline) -> Pipeline:
        from bellis.tasks.pipeline import Pipeline

        return Pipeline.of(self) + other

    def __or__(self, other: Task | Pipeline) -> Pipeline:
        from bellis.tasks.pipeline import Pipeline

        return Pipeline.of(self) | other

    def __repr__(self) -> str:
        return f"Task({self.task_id!r}, total {self.total_roi}, write {self.write_roi.shape})"


_LAZY = (inspect.isgeneratorfunction, inspect.iscoroutinefunction, inspect.isasyncgenfunction)


def _takes_block(task_id: str, function: object) -> bool:
    """Whether ``function`` is called with a block; False for a worker function, which is called with nothing."""
    if not callable(function):
        raise FunctionError(f"task {task_id!r}: process_function {function!r} can't be called")
    if any(is_lazy(function) for is_lazy in _LAZY):
        raise FunctionError(
            f"task {task_id!r}: process_function is a generator or a coroutine: calling it would run nothing; pass a "
            "plain function"
        )
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some builtins have none; they are tried as they are
        return True
    for arguments in ((object(),), ()):
        try:
            signature.bind(*arguments)
        except TypeError:
            continue
        return bool(arguments)
    raise FunctionError(
        f"task {task_id!r}: process_function takes {signature}, but it is called as process_function(block): "
        "give the other parameters a default or bind them with functools.partial"
    )
