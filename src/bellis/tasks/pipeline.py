"""Tasks and their edges."""

from __future__ import annotations

from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING

from bellis.errors import TaskError
from bellis.tasks.task import Task

if TYPE_CHECKING:
    from collections.abc import Iterable


class Pipeline:
    """Tasks in an order in which each comes after what it needs.

    ``a + b`` runs b after a: each source of b waits for the blocks that it reads of each output of a.
    ``a | b`` runs them side by side.

    Parameters
    ----------
    tasks
        Tasks; their ``upstream_tasks`` are taken in as well.
    edges
        Pairs ``(upstream, downstream)`` on top of the tasks' own ``upstream_tasks``.

    Raises
    ------
    TaskError
        If two tasks have the same id, or tasks wait for each other in a circle.
    """

    __slots__ = ("edges", "tasks")

    tasks: tuple[Task, ...]
    edges: tuple[tuple[Task, Task], ...]

    def __init__(self, tasks: Iterable[Task], edges: Iterable[tuple[Task, Task]] = ()) -> None:
        found: dict[str, Task] = {}
        pairs: dict[tuple[str, str], tuple[Task, Task]] = {}
        waiting = list(tasks)
        for upstream, downstream in edges:
            waiting += [upstream, downstream]
            for task in (upstream, downstream):
                _check_task(task)
            pairs[upstream.task_id, downstream.task_id] = (upstream, downstream)
        for task in waiting:  # grows while it is walked
            _check_task(task)
            known = found.setdefault(task.task_id, task)
            if known is not task:
                raise TaskError(f"two tasks are named {task.task_id!r}: {known} and {task}; give each its own id")
            for upstream in task.requires():
                if (upstream.task_id, task.task_id) not in pairs:
                    pairs[upstream.task_id, task.task_id] = (upstream, task)
                    waiting.append(upstream)
        sorter: TopologicalSorter[str] = TopologicalSorter(dict.fromkeys(found, ()))
        for upstream_id, downstream_id in pairs:
            sorter.add(downstream_id, upstream_id)
        try:
            order = list(sorter.static_order())
        except CycleError as error:
            circle = " -> ".join(repr(task_id) for task_id in error.args[1])
            raise TaskError(f"tasks wait for each other in a circle: {circle}") from error
        self.tasks = tuple(found[task_id] for task_id in order)
        self.edges = tuple(pairs.values())

    @classmethod
    def of(cls, tasks: Task | Pipeline | Iterable[Task | Pipeline]) -> Pipeline:
        """Make one pipeline of a task, a pipeline or several of them."""
        if isinstance(tasks, Pipeline):
            return tasks
        if isinstance(tasks, Task):
            return cls([tasks])
        parts = list(tasks)
        whole = cls([part for part in parts if not isinstance(part, Pipeline)])
        for part in parts:
            if isinstance(part, Pipeline):
                whole = whole | part
        return whole

    @property
    def sources(self) -> tuple[Task, ...]:
        """Tasks that wait for no other."""
        waiting = {downstream.task_id for _, downstream in self.edges}
        return tuple(task for task in self.tasks if task.task_id not in waiting)

    @property
    def outputs(self) -> tuple[Task, ...]:
        """Tasks that no other waits for."""
        awaited = {upstream.task_id for upstream, _ in self.edges}
        return tuple(task for task in self.tasks if task.task_id not in awaited)

    def upstream(self, task: Task) -> tuple[Task, ...]:
        """Return the tasks that ``task`` waits for."""
        return tuple(up for up, down in self.edges if down is task)

    def __add__(self, other: Task | Pipeline) -> Pipeline:
        after = Pipeline.of(other)
        joints = [(up, down) for up in self.outputs for down in after.sources]
        return Pipeline((*self.tasks, *after.tasks), (*self.edges, *after.edges, *joints))

    def __or__(self, other: Task | Pipeline) -> Pipeline:
        beside = Pipeline.of(other)
        return Pipeline((*self.tasks, *beside.tasks), (*self.edges, *beside.edges))

    def __repr__(self) -> str:
        edges = ", ".join(f"{up.task_id} -> {down.task_id}" for up, down in self.edges)
        return f"Pipeline({', '.join(task.task_id for task in self.tasks)}{'; ' if edges else ''}{edges})"


def _check_task(task: object) -> None:
    if not isinstance(task, Task):
        raise TaskError(f"a pipeline is made of Tasks, not of {task!r}")
