"""Progress while a run goes on: one bar per task on a terminal and in notebooks, plain lines elsewhere."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections import deque
from queue import Empty, SimpleQueue
from threading import Event, Thread
from time import time
from typing import TYPE_CHECKING, Any, NamedTuple

from bellis.observe.summary import count, duration, last_line, plural, printable, quantity
from bellis.runtime.events import (
    BlockFailed,
    Message,
    RunFinished,
    RunStarted,
    TaskFinished,
    TaskProgress,
    TaskStopped,
    WorkerLost,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console, RenderableType

    from bellis.runtime.events import AnyEvent, Observer, TaskInfo
    from bellis.runtime.report import Counts

PATIENCE_S = 0.3
"""A run that is over so soon shows no bars."""
FRAME_S = 0.15
"""Between two drawings of the bars."""
LINE_S = 5.0
"""Between two plain lines of a task."""
MOST_NOTICES = 5
"""So many failed blocks, and lost workers, of a task are told while the run goes on; the summary has the rest."""
_RATE_STEPS = 64
_RATE_STEP_S = 0.5


def progress_observer(enabled: bool = True, *, live: bool | None = None) -> Observer:
    """Return an observer that shows progress on standard error, and the summary at the end.

    Parameters
    ----------
    enabled
        If not, the observer shows nothing.
    live
        Bars that are drawn again and again. None decides: on a terminal, and in a notebook that has ipywidgets.
        Plain lines are the choice where something else writes to the terminal: a debugger, or blocks that run in this
        process.
    """
    if not enabled or sys.stderr is None:
        return Silence()
    if live is None:
        live = _can_draw()
    return Bars() if live else Lines()


def _is_notebook() -> bool:
    return "ipykernel" in sys.modules


def _can_draw() -> bool:
    if _is_notebook():
        return importlib.util.find_spec("ipywidgets") is not None
    return sys.stderr.isatty() and os.environ.get("TERM") not in {"dumb", "unknown"}


class Silence:
    """Shows nothing."""

    def notify(self, event: AnyEvent) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


# What is known of the tasks -----------------------------------------------------------------------------------------


class TaskView:
    """The latest counts of a task, and how fast they change."""

    def __init__(self, info: TaskInfo, now_s: float) -> None:
        self.task_id = info.task_id
        self.counts = info.counts
        self.began_s: float | None = None
        self.ended_s: float | None = None
        self.is_stopped = False
        self._steps: deque[tuple[float, int]] = deque(maxlen=_RATE_STEPS)
        self.take(info.counts, now_s)

    @property
    def ran(self) -> int:
        """Blocks that ran or were skipped."""
        return self.counts.completed + self.counts.failed

    @property
    def settled(self) -> int:
        """Blocks that nothing more will happen to."""
        return self.ran + self.counts.orphaned

    def take(self, counts: Counts, now_s: float) -> None:
        """Take over new counts."""
        before, self.counts = self.ran, counts
        if self.began_s is None and (counts.ready or counts.processing or self.ran > before):
            self.began_s = now_s
            self._steps.append((now_s, before))
        elif self.ran > before and now_s >= self._steps[-1][0] + _RATE_STEP_S:
            self._steps.append((now_s, self.ran))

    def rate(self, now_s: float) -> float:
        """Return blocks per second, of late: over the last 64 changes, which are at least half a second apart."""
        if not self._steps:
            return 0.0
        since_s, before = self._steps[0]
        return (self.ran - before) / max((self.ended_s or now_s) - since_s, 1e-3)

    def left_s(self, now_s: float) -> float | None:
        """Return how long the rest will take at this rate; None if that is not known."""
        rate = self.rate(now_s)
        return (self.counts.total - self.settled) / rate if rate > 0 else None


class Notice(NamedTuple):
    """A line for the user."""

    style: str
    text: str


class Views:
    """All tasks of a run, kept up to date by its events."""

    def __init__(self) -> None:
        self.tasks: dict[str, TaskView] = {}
        self.workers = 1
        self._told: dict[tuple[type, str | None], int] = {}

    def take(self, event: AnyEvent) -> Iterator[Notice]:
        """Take note of an event; yield what the user should be told of it."""
        if isinstance(event, TaskProgress):
            self.tasks[event.task_id].take(event.counts, event.time_s)
        elif isinstance(event, TaskFinished):
            view = self.tasks[event.task_id]
            view.take(event.counts, event.time_s)
            view.ended_s = event.time_s
        elif isinstance(event, RunStarted):
            self.tasks = {info.task_id: TaskView(info, event.time_s) for info in event.tasks}
            self.workers = event.workers
            yield from _journal_notice(event)
        elif isinstance(event, Message):
            yield Notice("yellow", printable(event.text))
        elif isinstance(event, TaskStopped):
            self.tasks[event.task_id].is_stopped = True
            first, _, rest = event.reason.partition("\n")
            text = f"{event.task_id}: stopped: {first}" + (f" {last_line(rest)}" if rest else "")
            yield Notice("bold red", printable(text))
        elif isinstance(event, WorkerLost):
            what = "" if event.task_id is None else f" while it ran {event.task_id}"
            yield from self._first(event, f"worker {event.worker} ended{what}: {last_line(event.reason)}")
        elif isinstance(event, BlockFailed) and event.final:
            tried = plural(event.attempt, "attempt")
            text = f"{event.task_id}: block {event.number} failed after {tried}: {last_line(event.error)}"
            yield from self._first(event, text if event.log is None else f"{text} ({event.log})")

    def _first(self, event: BlockFailed | WorkerLost, text: str) -> Iterator[Notice]:
        """Yield a notice if it is one of the first of its kind."""
        key = type(event), event.task_id
        self._told[key] = told = self._told.get(key, 0) + 1
        if told <= MOST_NOTICES:
            yield Notice("red", printable(text))
        if told == MOST_NOTICES:
            yield Notice("dim", "  more of these are counted, and told at the end")


def _journal_notice(event: RunStarted) -> Iterator[Notice]:
    if event.run_dir is None:
        return
    total = sum(info.counts.total for info in event.tasks)
    done = sum(info.counts.skipped for info in event.tasks)
    if not done:
        text = f"journal {event.run_dir}: if this run is cut off, the next one goes on from there"
    else:
        text = (
            f"journal {event.run_dir}: {count(done)} of {plural(total, 'block')} are done already; "
            f"`bellis reset {event.run_dir}` starts afresh"
        )
    yield Notice("cyan", printable(text))


# Plain lines --------------------------------------------------------------------------------------------------------


class Lines:
    """Writes plain lines to standard error: the start, each task every few seconds and at its end, the summary."""

    def __init__(self) -> None:
        self._views = Views()
        self._next_s: dict[str, float] = {}

    def notify(self, event: AnyEvent) -> None:
        """Write a line if it is time for one."""
        for notice in self._views.take(event):
            _write(notice.text)
        if isinstance(event, TaskProgress):
            if event.time_s >= self._next_s[event.task_id]:
                self._next_s[event.task_id] = event.time_s + LINE_S
                _write(_line(self._views.tasks[event.task_id], self._views.workers, event.time_s))
        elif isinstance(event, TaskFinished):
            _write(_line(self._views.tasks[event.task_id], self._views.workers, event.time_s))
        elif isinstance(event, RunStarted):
            self._next_s = {info.task_id: event.time_s + LINE_S for info in event.tasks}
            blocks = plural(sum(info.counts.total for info in event.tasks), "block")
            tasks = ", ".join(printable(info.task_id) for info in event.tasks)
            _write(f"{plural(len(event.tasks), 'task')} ({tasks}), {blocks}, {plural(event.workers, 'worker')}")
        elif isinstance(event, RunFinished):
            _write(str(event.report))

    def close(self) -> None:
        """Do nothing: every line is written when it is due."""


def _write(text: str) -> None:
    stream = sys.stdout if _is_notebook() else sys.stderr  # notebooks show standard error as if all of it were errors
    stream.write(f"{text}\n")
    stream.flush()


def _line(view: TaskView, workers: int, now_s: float) -> str:
    counts = view.counts
    facts = [fact for fact in (*_pace(view, now_s), *_facts(view, workers)) if fact]
    share = "" if counts.completed == counts.total else f" ({_percent(view).strip()})"
    return f"{printable(view.task_id)}: {_done(view).strip()} blocks{share}, {', '.join(facts)}"


def _done(view: TaskView) -> str:
    total = count(view.counts.total)
    return f"{count(view.counts.completed):>{len(total)}}/{total}"


def _percent(view: TaskView) -> str:
    return f"{100 * view.counts.completed // max(view.counts.total, 1):>3} %"


def _pace(view: TaskView, now_s: float) -> tuple[str, str]:
    """Return how fast a task goes, and how long it will take, as far as that is known."""
    left_s = view.left_s(now_s)
    if view.ended_s is not None or left_s is None:
        return "", ""
    rate = view.rate(now_s)
    per = f"{quantity(rate)}/s" if rate >= 0.1 else f"{quantity(rate * 60)}/min"
    return per, f"{duration(max(round(left_s), 1))} left"


def _facts(view: TaskView, workers: int) -> list[str]:
    """Return what else is to be said of a task."""
    counts = view.counts
    if view.ended_s is None:
        facts = ["waits"] if view.began_s is None else [f"{min(counts.processing, workers)} running"]
    elif view.began_s is not None and view.ran > counts.skipped:
        what = "stopped after" if view.is_stopped else "done in"
        facts = [f"{what} {duration(view.ended_s - view.began_s)}"]
    else:
        facts = ["not run" if counts.orphaned else "nothing to do"]
    named = {"skipped": counts.skipped, "failed": counts.failed, "orphaned": counts.orphaned}
    return facts + [f"{count(number)} {name}" for name, number in named.items() if number]


# Bars ---------------------------------------------------------------------------------------------------------------


class Bars:
    """Draws one bar per task, and prints what the user should be told above them.

    A thread of its own does all that touches the terminal, so that the run never waits for it: not for the import of
    rich, and not for a terminal that was stopped with Ctrl-S.
    """

    def __init__(self) -> None:
        self._views = Views()
        self._notices: SimpleQueue[Notice] = SimpleQueue()
        self._end = Event()
        self._summary: str | None = None
        self._error: Exception | None = None
        self._thread: Thread | None = None

    def notify(self, event: AnyEvent) -> None:
        """Take note of an event, for the next drawing."""
        for notice in self._views.take(event):
            self._notices.put(notice)
        if self._error is not None:
            raise self._error
        if isinstance(event, RunStarted):
            self._thread = Thread(target=self._draw, name="bellis progress", daemon=True)
            self._thread.start()
        elif isinstance(event, RunFinished):
            self._summary = str(event.report)
            self.close()

    def close(self) -> None:
        """Take the bars off the terminal, and end the thread."""
        self._end.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _draw(self) -> None:
        try:
            self._draw_until_end()
        except Exception as error:  # noqa: BLE001  # told by the next notify, in the run's thread
            self._error = error

    def _draw_until_end(self) -> None:
        if not self._end.wait(PATIENCE_S):
            self._draw_bars()
        for notice in self._waiting_notices():
            _write(notice.text)
        if self._summary is not None:
            _write(self._summary)

    def _draw_bars(self) -> None:
        from rich.console import Console
        from rich.live import Live
        from rich.text import Text

        console = Console(stderr=True)
        live = Live(
            console=console, auto_refresh=False, redirect_stdout=sys.stdout is not None and sys.stdout.isatty(),
            get_renderable=lambda: _table(self._views, console),
        )  # fmt: skip
        live.start()
        try:
            while True:
                for notice in self._waiting_notices():
                    console.print(Text(notice.text, notice.style), soft_wrap=True)
                live.refresh()
                if self._end.wait(FRAME_S):
                    break
        finally:
            live.transient = self._summary is not None
            live.stop()

    def _waiting_notices(self) -> Iterator[Notice]:
        while True:
            try:
                yield self._notices.get_nowait()
            except Empty:
                return


def _table(views: Views, console: Console) -> RenderableType:
    """Return the bars, as many as fit."""
    from rich.table import Column, Table

    now_s = time()
    table = Table.grid(
        Column(no_wrap=True, overflow="ellipsis", max_width=max(console.width // 4, 8)),
        Column(ratio=1, min_width=8, max_width=40),
        *(Column(justify="right", no_wrap=True) for _ in range(4)),
        Column(no_wrap=True, overflow="ellipsis"),
        padding=(0, 2, 0, 0),
    )
    shown = list(views.tasks.values())
    if hidden := max(0, len(shown) - max(console.height - 3, 1)):
        shown.sort(key=lambda view: (view.ended_s is not None, view.began_s is None))
        shown = shown[:-hidden]
    for view in shown:
        table.add_row(*_row(view, views.workers, now_s))
    if hidden:
        table.add_row(f"and {plural(hidden, 'more task')}", style="dim")
    return table


def _row(view: TaskView, workers: int, now_s: float) -> list[Any]:
    from rich.progress_bar import ProgressBar
    from rich.text import Text

    has_failed = view.counts.failed or view.counts.orphaned
    colour = "red" if has_failed else "green" if view.ended_s is not None else "cyan"
    bar = ProgressBar(
        total=max(view.counts.total, 1), completed=view.settled if view.counts.total else 1,
        complete_style=colour, finished_style=colour,
    )  # fmt: skip
    facts = Text(" · ".join(_facts(view, workers)), style="red" if has_failed else "dim")
    name = Text(printable(view.task_id), style="dim" if view.began_s is None else "bold")
    return [name, bar, _done(view), _percent(view), *_pace(view, now_s), facts]
