"""Progress: plain lines, bars on a terminal, and what is told of failures."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from bellis.observe import progress as progress_module
from bellis.observe.progress import Bars, Lines, Silence, TaskView, progress_observer
from bellis.runtime.events import Message, TaskInfo, TaskStopped, WorkerLost

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from bellis.runtime.events import AnyEvent, Observer

ANSI = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")
BEGAN_S = 1_700_000_000.0


class Terminal(io.StringIO):
    """A text stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def open_terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Terminal]:
    """Return what makes standard error a terminal, 100 x 20; called in the test, as pytest sets the stream before."""
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("LINES", "20")
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)

    def take_over() -> Terminal:
        terminal = Terminal()
        monkeypatch.setattr(sys, "stderr", terminal)
        return terminal

    return take_over


def show(observer: Observer, events: Iterable[AnyEvent]) -> None:
    for event in events:
        observer.notify(event)
    observer.close()


def lines_of(events: Iterable[AnyEvent], capsys: pytest.CaptureFixture[str]) -> list[str]:
    show(Lines(), events)
    out, err = capsys.readouterr()
    assert not out
    return err.splitlines()


def wait_for_frame(terminal: Terminal, text: str) -> None:
    """Wait until ``text`` has been drawn."""
    pause = threading.Event()
    for _ in range(1000):
        if text in ANSI.sub("", terminal.getvalue()):
            return
        pause.wait(0.005)
    pytest.fail(f"{text!r} was not drawn: {ANSI.sub('', terminal.getvalue())}")


# Which one ----------------------------------------------------------------------------------------------------------


def test_without_a_terminal_there_are_plain_lines() -> None:
    assert isinstance(progress_observer(), Lines)


def test_on_a_terminal_there_are_bars(open_terminal: Callable[[], Terminal]) -> None:
    open_terminal()
    assert isinstance(progress_observer(), Bars)
    assert isinstance(progress_observer(live=False), Lines)
    assert isinstance(progress_observer(enabled=False), Silence)


def test_a_dumb_terminal_gets_plain_lines(
    open_terminal: Callable[[], Terminal], monkeypatch: pytest.MonkeyPatch
) -> None:
    open_terminal()
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(progress_observer(), Lines)


@pytest.mark.parametrize(("has_widgets", "kind"), [(True, Bars), (False, Lines)])
def test_a_notebook_gets_bars_if_it_has_widgets(
    monkeypatch: pytest.MonkeyPatch, has_widgets: bool, kind: type[object]
) -> None:
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    monkeypatch.setattr(progress_module.importlib.util, "find_spec", lambda _: sys if has_widgets else None)
    assert isinstance(progress_observer(), kind)


def test_a_notebook_is_not_told_as_if_all_were_errors(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], run_of: Any
) -> None:
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    show(Lines(), run_of("square").whole())
    out, err = capsys.readouterr()
    assert out.endswith("THE SUMMARY\n")
    assert not err


def test_without_standard_error_there_is_silence(monkeypatch: pytest.MonkeyPatch, run_of: Any) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    observer = progress_observer()
    assert isinstance(observer, Silence)
    show(observer, run_of("square").whole())


@pytest.mark.slow
def test_the_import_loads_neither_rich_nor_numpy() -> None:
    code = "import sys, bellis.observe.progress; print([m for m in ('rich', 'numpy') if m in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


# Plain lines --------------------------------------------------------------------------------------------------------


def test_plain_lines_tell_the_start_the_way_the_end_and_the_summary(
    run_of: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lines_of(run_of("square").whole(), capsys) == [
        "1 task (square), 100 blocks, 2 workers",
        "square: 50/100 blocks (50 %), 10/s, 5 s left, 2 running",
        "square: 100/100 blocks, 10/s, 1 s left, 0 running",
        "square: 100/100 blocks, done in 10 s",
        "THE SUMMARY",
    ]


def test_hundreds_of_events_a_second_make_few_lines(run_of: Any, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_of("square", "sum")
    events = [run.progress(ms / 250, task_id=t, ready=1) for ms in range(3000) for t in run.task_ids]
    lines = lines_of([run.started(ready=100), *events], capsys)
    assert len(lines) == 1 + 2 * 2


def test_what_the_journal_knows_comes_first(run_of: Any, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_of("square", run_dir=Path(".bellis/x"))
    assert lines_of([run.started(ready=100)], capsys)[0] == (
        "journal .bellis/x: if this run is cut off, the next one goes on from there"
    )
    assert lines_of([run.started(completed=40, skipped=40, ready=60)], capsys)[0] == (
        "journal .bellis/x: 40 of 100 blocks are done already; `bellis reset .bellis/x` starts afresh"
    )


def test_a_final_failure_is_told_in_one_line(run_of: Any, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_of("square")
    lines = lines_of([run.started(), run.failed(7, final=False), run.failed(8, log=Path("logs/w.log"))], capsys)
    assert lines[1:] == ["square: block 8 failed after 3 attempts: ValueError: bad voxel (logs/w.log)"]


def test_only_the_first_failures_are_told(run_of: Any, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_of("square")
    lines = lines_of([run.started(), *map(run.failed, range(100))], capsys)
    assert len(lines) == 7
    assert lines[-2].startswith("square: block 4 failed")
    assert "told at the end" in lines[-1]


def test_errors_cannot_reach_for_the_terminal(run_of: Any, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_of("sq\x1b[2Juare")
    events = [run.started(), run.failed(1, error="ValueError: \x1b]0;title\x07 \r gone"), Message(text="a\x9bb")]
    text = "\n".join(lines_of(events, capsys))
    assert not set("\x1b\x07\r\x9b") & set(text)
    assert r"\x1b]0;title\x07 \r gone" in text


def test_lost_workers_stopped_tasks_and_messages_are_told(run_of: Any, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_of("square")
    events = [
        run.started(),
        WorkerLost(worker="worker-1", reason="was killed by signal 9", task_id="square"),
        WorkerLost(worker="worker-0", reason="exited", task_id=None),
        TaskStopped(
            task_id="square", reason="its first 8 blocks all failed alike; the last one:\n  File x\nKeyError: 3"
        ),
        Message(text="task 'square': its code changed"),
    ]
    assert lines_of(events, capsys)[1:] == [
        "worker worker-1 ended while it ran square: was killed by signal 9",
        "worker worker-0 ended: exited",
        "square: stopped: its first 8 blocks all failed alike; the last one: KeyError: 3",
        "task 'square': its code changed",
    ]


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ({"completed": 100, "skipped": 100}, "nothing to do, 100 skipped"),
        ({"orphaned": 100}, "not run, 100 orphaned"),
        ({"completed": 90, "failed": 4, "orphaned": 6}, "done in 3 s, 4 failed, 6 orphaned"),
    ],
)
def test_the_end_of_a_task_says_what_became_of_it(
    run_of: Any, capsys: pytest.CaptureFixture[str], counts: dict[str, int], said: str
) -> None:
    run = run_of("square")
    skipped = {"completed": counts.get("skipped", 0), "skipped": counts.get("skipped", 0)}
    events = (
        [run.started(**skipped), run.progress(1, ready=1, **skipped)]
        if "failed" in counts
        else [run.started(**skipped)]
    )
    assert lines_of([*events, run.finished_task(4, **counts)], capsys)[-1].endswith(said)


def test_a_stopped_task_is_not_called_done(run_of: Any, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_of("square")
    events = [
        run.started(ready=100), TaskStopped(task_id="square", reason="enough"),
        run.finished_task(4, failed=8, orphaned=92),
    ]  # fmt: skip
    assert lines_of(events, capsys)[-1].endswith("stopped after 4 s, 8 failed, 92 orphaned")


# Rates --------------------------------------------------------------------------------------------------------------


def view_of(run: Any, **some: int) -> TaskView:
    return TaskView(TaskInfo("square", (100,), run.counts(**some)), BEGAN_S)


def test_rate_and_time_left_are_those_of_late(run_of: Any) -> None:
    run = run_of("square")
    view = view_of(run, total=100_000, ready=1)
    for second in range(1, 101):
        view.take(run.counts(total=100_000, completed=second, ready=1), BEGAN_S + second)
    for second in range(101, 301):  # ten times as fast
        view.take(run.counts(total=100_000, completed=100 + 10 * (second - 100), ready=1), BEGAN_S + second)
    now_s = BEGAN_S + 300
    assert view.rate(now_s) == pytest.approx(10, rel=0.1)
    assert view.left_s(now_s) == pytest.approx(97_900 / 10, rel=0.1)


def test_slow_blocks_have_a_rate_too(run_of: Any) -> None:
    run = run_of("square")
    view = view_of(run, ready=1)
    for hour in range(1, 4):
        view.take(run.counts(completed=hour, ready=1), BEGAN_S + 3600 * hour)
    assert view.left_s(BEGAN_S + 3 * 3600) == pytest.approx(97 * 3600)


def test_nothing_done_means_no_rate_and_no_time(run_of: Any) -> None:
    view = view_of(run_of("square"))
    assert view.rate(BEGAN_S + 9) == 0
    assert view.left_s(BEGAN_S + 9) is None


def test_blocks_done_before_the_run_are_no_speed(run_of: Any) -> None:
    run = run_of("square")
    view = view_of(run, completed=90, skipped=90, ready=10)
    view.take(run.counts(completed=91, skipped=90, ready=9), BEGAN_S + 1)
    assert view.rate(BEGAN_S + 1) == pytest.approx(1)


def test_a_task_that_waited_is_not_slow_for_that(run_of: Any) -> None:
    run = run_of("square")
    view = view_of(run)
    view.take(run.counts(ready=1), BEGAN_S + 1000)
    view.take(run.counts(completed=10), BEGAN_S + 1001)
    assert view.rate(BEGAN_S + 1001) == pytest.approx(10)


def test_a_clock_that_jumps_back_breaks_nothing(run_of: Any) -> None:
    run = run_of("square")
    view = view_of(run, ready=100)
    view.take(run.counts(completed=10), BEGAN_S - 3600)
    assert view.rate(BEGAN_S - 3600) > 0


# Bars ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bars at once."""
    monkeypatch.setattr(progress_module, "PATIENCE_S", 0.0)
    monkeypatch.setattr(progress_module, "FRAME_S", 0.005)


def test_bars_are_drawn_and_give_way_to_the_summary(
    open_terminal: Callable[[], Terminal], run_of: Any, impatient: None
) -> None:
    terminal = open_terminal()
    run = run_of("square", "sum")
    observer = Bars()
    observer.notify(run.started(ready=10))
    observer.notify(run.progress(2, completed=50, failed=1, processing=40))
    wait_for_frame(terminal, "50/100")
    observer.notify(run.failed(7))
    wait_for_frame(terminal, "square: block 7 failed after 3 attempts: ValueError: bad voxel\n")
    observer.notify(run.ended(run.counts(completed=100), run.counts(completed=100)))
    drawn = terminal.getvalue()
    frame = next(line for line in ANSI.sub("", drawn).splitlines() if "50/100" in line)
    assert re.fullmatch(r"square +━+\S* +50/100 +50 % +\S+ +.* left +2 running · 1 failed *", frame)
    assert drawn.endswith("THE SUMMARY\n")
    assert drawn.rindex("\x1b[2K") < drawn.index("THE SUMMARY")  # the bars were erased
    assert drawn.count("\x1b[?25l") == drawn.count("\x1b[?25h") == 1  # the cursor is back


def test_no_thread_and_no_redirection_is_left(
    open_terminal: Callable[[], Terminal], run_of: Any, impatient: None
) -> None:
    terminal = open_terminal()
    before, out = threading.active_count(), sys.stdout
    observer = Bars()
    observer.notify(run_of("square").started())
    wait_for_frame(terminal, "square")
    assert threading.active_count() == before + 1
    observer.close()
    observer.close()
    assert threading.active_count() == before
    assert sys.stdout is out
    assert sys.stderr is terminal


def test_the_bars_of_a_run_that_failed_stay(
    open_terminal: Callable[[], Terminal], run_of: Any, impatient: None
) -> None:
    terminal = open_terminal()
    observer = Bars()
    observer.notify(run_of("square").started())
    wait_for_frame(terminal, "square")
    observer.close()
    assert ANSI.sub("", terminal.getvalue()).rstrip().splitlines()[-1].startswith("square")


def test_a_short_run_shows_no_bars_but_the_summary(open_terminal: Callable[[], Terminal], run_of: Any) -> None:
    terminal = open_terminal()
    run = run_of("square", run_dir=Path("j"))
    show(Bars(), run.whole())
    assert terminal.getvalue() == ("journal j: if this run is cut off, the next one goes on from there\nTHE SUMMARY\n")


def test_a_terminal_that_breaks_is_told_to_the_hub(
    open_terminal: Callable[[], Terminal], run_of: Any, impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = open_terminal()
    run = run_of("square")
    observer = Bars()
    observer.notify(run.started())
    wait_for_frame(terminal, "square")

    def broken(_text: str) -> int:
        raise OSError("gone")

    monkeypatch.setattr(terminal, "write", broken)
    assert observer._thread is not None
    observer._thread.join(5)
    with pytest.raises(OSError, match="gone"):
        observer.notify(run.progress(1))
    observer.close()


def test_a_terminal_that_stands_still_does_not_hold_the_run_up(
    open_terminal: Callable[[], Terminal], run_of: Any, impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = open_terminal()
    run = run_of("square")
    stuck, go_on = threading.Event(), threading.Event()
    write = terminal.write

    def blocking(text: str) -> int:
        stuck.set()
        go_on.wait(30)
        return write(text)

    monkeypatch.setattr(terminal, "write", blocking)
    observer = Bars()
    observer.notify(run.started())
    assert stuck.wait(30)
    for step in range(1000):
        observer.notify(run.progress(step, processing=1))
        observer.notify(run.failed(step))
    go_on.set()
    observer.close()


def test_more_tasks_than_lines_show_those_that_run(
    open_terminal: Callable[[], Terminal], run_of: Any, impatient: None
) -> None:
    terminal = open_terminal()
    run = run_of(*(f"task {number}" for number in range(40)))
    observer = Bars()
    observer.notify(run.started())
    observer.notify(run.progress(1, task_id="task 39", processing=3))
    wait_for_frame(terminal, "task 39")
    wait_for_frame(terminal, "and 23 more tasks")
    observer.close()


def test_long_names_and_no_blocks_fit(open_terminal: Callable[[], Terminal], run_of: Any, impatient: None) -> None:
    terminal = open_terminal()
    run = run_of("a name " * 40, "[bold]none")
    observer = Bars()
    observer.notify(run.started(total=0))
    wait_for_frame(terminal, "[bold]none")
    observer.close()
    assert all(len(line) <= 100 for line in ANSI.sub("", terminal.getvalue()).splitlines())
