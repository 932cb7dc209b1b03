"""What ``bellis status`` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bellis.observe.summary import count, last_line, plural, printable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from bellis.runtime.inspect import RunStatus, TaskStatus

MOST_FAILURES = 5
"""So many failed blocks of a task are named."""


def status_lines(run_dir: Path, status: RunStatus) -> Iterator[str]:
    """Yield a table of the tasks, and what failed."""
    if status.holder is None:
        yield f"{run_dir}: no run goes on"
    else:
        holder = status.holder
        yield f"{run_dir}: a run goes on since {holder.start} (host {holder.host}, pid {holder.pid})"
    if not status.tasks:
        yield "  nothing is noted"
        return
    yield ""
    names = [printable(task.task_id) for task in status.tasks]
    dones = [f"{count(task.num_done)}/{count(task.num_blocks)}" for task in status.tasks]
    for name, done, task in zip(names, dones, status.tasks, strict=True):
        share = 100 * task.num_done // max(task.num_blocks, 1) if task.num_blocks else 100
        failed = f"  {count(task.num_failed)} failed" if task.num_failed else ""
        yield f"  {name:<{max(map(len, names))}}  {done:>{max(map(len, dones))}}  {share:>3} %{failed}"
    for task in status.tasks:
        yield from _failures(task)


def _failures(task: TaskStatus) -> Iterator[str]:
    if not task.num_failed:
        return
    yield ""
    name = printable(task.task_id)
    for failure in task.failures[:MOST_FAILURES]:
        tried = plural(failure.attempts, "attempt")
        yield f"{name}: block {failure.number} failed after {tried}: {last_line(failure.error)}"
    if (more := task.num_failed - MOST_FAILURES) > 0:
        yield f"{name}: {plural(more, 'more block')} failed"
