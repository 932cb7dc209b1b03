"""The summary that a run prints: daisy's table, what went wrong, and what to do about it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from bellis.runtime.output import last_lines

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bellis.runtime.report import Counts, Failure, RunReport, TaskReport

MOST_TABLES = 3
"""So many tasks have a table each; of more, each has a line in one."""
MOST_KINDS = 3
"""So many kinds of errors of a task are shown."""
MOST_NUMBERS = 10
"""So many blocks are named that failed alike."""
ERROR_LINES = 8
LOG_LINES = 5
_STAMP = re.compile(r"\d\d:\d\d:\d\d (?:block (\d+) \| )?")


def summary(report: RunReport) -> str:
    """Return what became of a run, as plain text.

    Parameters
    ----------
    report
        The run.

    Returns
    -------
    str
        A table, then failures with the end of their tracebacks and logs, then what to do next.
    """
    lines = ["", "Summary", ""]
    width = max((len(count(task.counts.total)) for task in report.tasks.values()), default=0)
    if len(report.tasks) > MOST_TABLES:
        lines += [*_one_table(list(report.tasks.values())), ""]
    else:
        for task in report.tasks.values():
            lines += [*_table(task, width), ""]
    for task in report.tasks.values():
        lines += _problems(task)
    return "\n".join([*lines, *_closing(report)])


def _table(task: TaskReport, width: int) -> Iterator[str]:
    counts = task.counts
    skipped = f"  ({count(counts.skipped)} skipped)" if counts.skipped else ""
    yield f"  {printable(task.task_id)}"
    yield f"    num blocks   {count(counts.total):>{width}}"
    yield f"    completed ✔  {count(counts.completed):>{width}}{skipped}"
    yield f"    failed    ✗  {count(counts.failed):>{width}}"
    yield f"    orphaned  ∅  {count(counts.orphaned):>{width}}"
    if left := counts.pending + counts.ready + counts.processing:
        yield f"    not run   …  {count(left):>{width}}"
    if ran := counts.completed - counts.skipped + counts.failed:
        rate = f", {quantity(ran / task.wall_s)} blocks/s" if task.wall_s > 0 else ""
        each = f", {duration(task.seconds / ran)} each" if task.seconds > 0 else ""
        peak = f", at most {size(task.peak_memory_bytes)} of memory" if task.peak_memory_bytes else ""
        yield f"    {duration(task.wall_s)}{rate}{each}{peak}"


def _one_table(tasks: list[TaskReport]) -> Iterator[str]:
    """Yield a line for each task; columns in which nobody has anything are left out."""
    columns = ("num blocks", "skipped", "completed ✔", "failed ✗", "orphaned ∅", "not run …", "time", "each", "memory")
    always = {"num blocks", "completed ✔", "failed ✗", "orphaned ∅"}
    rows = [dict(zip(columns, _cells(task), strict=True)) for task in tasks]
    shown = [name for name in columns if name in always or any(row[name] not in {"", "0"} for row in rows)]
    widths = [max(len(name), *(len(row[name]) for row in rows)) for name in shown]
    first = max(len(printable(task.task_id)) for task in tasks)
    yield f"  {'':{first}}  " + "  ".join(f"{name:>{width}}" for name, width in zip(shown, widths, strict=True))
    for task, row in zip(tasks, rows, strict=True):
        cells = "  ".join(f"{row[name]:>{width}}" for name, width in zip(shown, widths, strict=True))
        yield f"  {printable(task.task_id):{first}}  {cells}".rstrip()


def _cells(task: TaskReport) -> tuple[str, ...]:
    counts = task.counts
    ran = counts.completed - counts.skipped + counts.failed
    left = counts.pending + counts.ready + counts.processing
    numbers = (counts.total, counts.skipped, counts.completed, counts.failed, counts.orphaned, left)
    return (
        *map(count, numbers),
        duration(task.wall_s) if ran else "",
        duration(task.seconds / ran) if ran and task.seconds > 0 else "",
        size(task.peak_memory_bytes) if ran and task.peak_memory_bytes else "",
    )


def _problems(task: TaskReport) -> Iterator[str]:
    name = printable(task.task_id)
    if task.stopped is not None:
        first, *rest = _tail(task.stopped, ERROR_LINES)
        yield f"{name} was stopped: {printable(first)}"
        yield from _indented(rest)
        yield ""
    kinds = _kinds(task.failures)
    for failures in kinds[:MOST_KINDS]:
        yield from _failed_alike(failures)
    more = task.counts.failed - sum(map(len, kinds[:MOST_KINDS]))
    if more > 0:
        yield f"{name}: {plural(more, 'more block')} failed; see report.tasks[{task.task_id!r}].failures"
        yield ""


def _kinds(failures: tuple[Failure, ...]) -> list[list[Failure]]:
    """Return failures sorted by the kind of their error, in order of appearance."""
    from bellis.runtime.record import signature

    kinds: dict[str, list[Failure]] = {}
    for failure in failures:
        kinds.setdefault(signature(failure.error), []).append(failure)
    return list(kinds.values())


def _failed_alike(failures: list[Failure]) -> Iterator[str]:
    first, name = failures[0], printable(failures[0].task_id)
    where = f"{plural(first.attempts, 'attempt')}; it writes {first.write_roi}"
    if len(failures) == 1:
        yield f"{name}: block {first.number} failed after {where}"
    else:
        numbers = ", ".join(str(failure.number) for failure in failures[:MOST_NUMBERS])
        dots = ", ..." if len(failures) > MOST_NUMBERS else ""
        yield f"{name}: {plural(len(failures), 'block')} failed alike: {numbers}{dots}"
        yield f"  block {first.number} after {where}"
    yield from _indented(_tail(first.error, ERROR_LINES))
    if first.log is not None:
        printed = _printed(first)
        yield f"  {first.log}" + (":" if printed else "")
        yield from _indented(printed)
    yield ""


def _printed(failure: Failure) -> list[str]:
    """Return the last lines that a block printed, or those of its worker, if that died of it."""
    lines = last_lines(failure.log, LOG_LINES * 50).splitlines()
    own, is_own = [], False
    for line in lines:
        if stamp := _STAMP.match(line):
            is_own = stamp[1] == str(failure.number)
        if is_own:
            own.append(line)
    has_raised = failure.error.startswith("Traceback")
    return (own if own or has_raised else lines)[-LOG_LINES:]


def _closing(report: RunReport) -> Iterator[str]:
    if report.log_dir is not None and report.log_dir.is_dir():
        yield f"What workers printed is in {report.log_dir}."
    counts = [task.counts for task in report.tasks.values()]
    took = f"in {duration(report.wall_s)} on {plural(report.workers, 'worker')}"
    total = sum(c.total for c in counts)
    if report.ok and total and all(c.skipped == c.total for c in counts):
        yield f"Nothing was left to do: {plural(total, 'block')} skipped."
        return
    if report.ok:
        yield f"{plural(total, 'block')} completed {took}."
        return
    yield f"{_shortfall(counts)}, {took}."
    yield from _advice(report)


def _shortfall(counts: list[Counts]) -> str:
    total, failed = sum(c.total for c in counts), sum(c.failed for c in counts)
    orphaned = sum(c.orphaned for c in counts)
    left = sum(c.pending + c.ready + c.processing for c in counts)
    parts = [(failed, "failed"), (orphaned, "orphaned"), (left, "not run")]
    said = ", ".join(f"{count(number)} {what}" for number, what in parts if number)
    return f"{said} of {plural(total, 'block')}" if said else "A task was stopped"


def _advice(report: RunReport) -> Iterator[str]:
    what = "Interrupted. To go on from here" if report.interrupted else "To run what is not done"
    if report.run_dir is None:
        yield f"{what}, call report.retry_failed(). Nothing is kept on disk: that takes run(..., journal=PATH)."
    elif (report.run_dir / "command.json").exists():
        yield f"{what}: bellis retry {report.run_dir}"
    else:
        yield f"{what}, run again with journal={str(report.run_dir)!r}, or call report.retry_failed()."


def _tail(text: str, number: int) -> list[str]:
    """Return the first line of ``text`` and its last ones."""
    lines = text.strip("\n").splitlines() or [""]
    if len(lines) <= number + 1:
        return lines
    return [lines[0], "  ...", *lines[-number:]]


def _indented(lines: list[str]) -> Iterator[str]:
    for line in lines:
        yield f"    {printable(line)}".rstrip()


# Words and numbers, as progress and the command line write them too ------------------------------------------------


def last_line(error: str) -> str:
    r"""Return the last line of a traceback, without control characters.

    Examples
    --------
    >>> last_line("Traceback ...\n  File ...\nValueError: no such voxel\n")
    'ValueError: no such voxel'
    """
    return printable(error.rstrip().rpartition("\n")[2].strip())


def printable(text: str) -> str:
    r"""Return ``text`` with control characters spelled out, so that it can't reach for the terminal.

    Examples
    --------
    >>> printable("red \x1b[31m")
    'red \\x1b[31m'
    """
    return "".join(c if c.isprintable() else "    " if c == "\t" else repr(c)[1:-1] for c in text)


def count(number: int) -> str:
    """Return a number with its thousands apart.

    Examples
    --------
    >>> count(1234567)
    '1 234 567'
    """
    return f"{number:,}".replace(",", " ")


def plural(number: int, noun: str) -> str:
    """Return a number and its noun.

    Examples
    --------
    >>> plural(1, "block"), plural(1000, "block")
    ('1 block', '1 000 blocks')
    """
    return f"{count(number)} {noun}{'' if number == 1 else 's'}"


def quantity(number: float) -> str:
    """Return a number with two or three significant digits.

    Examples
    --------
    >>> quantity(0.0123), quantity(4.56), quantity(123456.7)
    ('0.012', '4.6', '123 457')
    """
    return count(round(number)) if number >= 10 else f"{number:.2g}"


def duration(seconds: float) -> str:
    """Return a time span as one would say it.

    Examples
    --------
    >>> duration(0.0123), duration(4.56), duration(75), duration(90000)
    ('12 ms', '4.6 s', '1 min 15 s', '25 h 00 min')
    """
    if seconds < 1e-3:
        return f"{quantity(seconds * 1e6)} µs"
    if seconds < 1:
        return f"{quantity(seconds * 1e3)} ms"
    if seconds < 60:
        return f"{quantity(seconds)} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    return f"{minutes // 60} h {minutes % 60:02} min"


def size(size_bytes: float) -> str:
    """Return an amount of memory.

    Examples
    --------
    >>> size(123456789)
    '118 MiB'
    """
    for unit in ("B", "KiB", "MiB"):
        if size_bytes < 1024:
            return f"{quantity(size_bytes)} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:.1f} GiB"
