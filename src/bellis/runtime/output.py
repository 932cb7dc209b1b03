"""What workers print: into one log per task and worker, each line with the time and the block."""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress
from multiprocessing import current_process
from pathlib import Path
from time import strftime
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bellis.runtime.worker import LeaseRunner

LARGEST_LOG_BYTES = 64 * 2**20
"""A log stops growing here: a block that prints without end must not fill the disk."""
DEFAULT_LOG_DIR = Path("bellis_logs")
"""Where logs go without a journal."""
LONGEST_NAME = 150
MOST_ATTEMPTS = 100
WORKER_NAME = "bellis-worker-"


def file_name(task_id: str) -> str:
    """Return ``task_id`` as a file name: any characters, no two ids the same name.

    Examples
    --------
    >>> file_name("a/b c"), file_name("..")
    ('a%2Fb%20c', '%2E%2E')
    """
    name = quote(task_id, safe="")
    if name.startswith("."):
        name = name.replace(".", "%2E")
    if len(name) > LONGEST_NAME:
        from hashlib import sha256

        name = f"{name[:LONGEST_NAME]}-{sha256(task_id.encode()).hexdigest()[:12]}"
    return name


def log_path(log_dir: Path, task_id: str, slot: int) -> Path:
    """Return the log of worker ``slot`` for ``task_id``."""
    return log_dir / file_name(task_id) / f"worker-{slot}.log"


def get_worker_log_basename(worker_id: int, task_id: str | None = None) -> Path:
    """Return the path, without its suffix, of a worker's log in a run without journal and ``log_dir``."""
    base = DEFAULT_LOG_DIR if task_id is None else DEFAULT_LOG_DIR / file_name(task_id)
    return base / f"worker-{worker_id}"


def is_worker() -> bool:
    """Whether this process is a worker of a run (or was forked by one)."""
    return current_process().name.startswith(WORKER_NAME)


def last_lines(path: Path | None, count: int = 10) -> str:
    """Return the last lines of a log; an empty string if there is none."""
    if path is None:
        return ""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 200 * count))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    return "\n".join(lines[-count:])


def remove_logs(log_dir: Path, task_ids: Iterable[str], *, only_empty: bool) -> None:
    """Remove the logs of these tasks, or those that nothing was written to, and the folders that held only such."""
    for folder in (log_dir / file_name(task_id) for task_id in task_ids):
        for path in folder.glob("worker-*.log"):
            with suppress(FileNotFoundError):  # another run in the same folder
                if not only_empty or path.stat().st_size == 0:
                    path.unlink()
        _remove_if_empty(folder)
    _remove_if_empty(log_dir)


def append_log(log_dir: Path, task_id: str, slot: int, output: bytes) -> None:
    """Add to a log here what a worker elsewhere printed."""
    path = log_path(log_dir, task_id, slot)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as log:
        if log.tell() < LARGEST_LOG_BYTES:
            log.write(output)


def has_logs(log_dir: Path, task_ids: Iterable[str]) -> bool:
    """Whether there is a log of one of these tasks."""
    return any(any((log_dir / file_name(task_id)).glob("worker-*.log")) for task_id in task_ids)


def _remove_if_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:  # not empty, or gone
        return


class Output:
    """The standard output and error of a worker process, both into the log of the task that runs.

    File descriptors 1 and 2 are redirected, so that libraries and child processes are caught too; what Python code
    prints gets the time and the block in front of each line.
    """

    def __init__(self, log_dir: Path, slot: int) -> None:
        self._log_dir = log_dir
        self._slot = slot
        self._task_id: str | None = None
        self._written = 0
        current_process().name = f"{WORKER_NAME}{slot}"
        self.runner: LeaseRunner | None = None
        sys.stdout = Lines(self)
        sys.stderr = Lines(self)

    def switch(self, task_id: str) -> None:
        """Send output to the log of ``task_id`` from now on."""
        if task_id == self._task_id:
            return
        sys.stdout.flush()
        sys.stderr.flush()
        self._open(log_path(self._log_dir, task_id, self._slot))
        self._task_id = task_id

    def _open(self, path: Path) -> None:
        self._path = path
        for attempt in range(MOST_ATTEMPTS):  # another run may be removing an empty folder
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
                break
            except (FileExistsError, FileNotFoundError):
                if attempt == MOST_ATTEMPTS - 1:
                    raise
        os.dup2(log, 1)
        os.dup2(log, 2)
        self._written = os.fstat(log).st_size
        os.close(log)

    def write(self, lines: bytes) -> None:
        """Write whole lines, unless the log is full."""
        if self._written > LARGEST_LOG_BYTES:
            return
        if os.fstat(1).st_nlink == 0:  # another run removed the log while it was empty
            self._open(self._path)
        self._written += len(lines)
        if self._written > LARGEST_LOG_BYTES:
            lines = lines[: max(0, LARGEST_LOG_BYTES + len(lines) - self._written)]
            lines += f"\n[bellis: this log has reached {LARGEST_LOG_BYTES >> 20} MiB; nothing more is kept]\n".encode()
        view = memoryview(lines)
        while view:
            view = view[os.write(1, view) :]

    def prefix(self) -> bytes:
        """Return what goes in front of a line."""
        now = strftime("%H:%M:%S")
        runner = self.runner
        if runner is None:
            return f"{now} ".encode()
        return f"{now} block {runner.block_number()} | ".encode()


class Lines(io.TextIOBase):
    """A text stream that hands whole lines to an `Output`."""

    encoding = "utf-8"
    errors = "replace"

    def __init__(self, output: Output) -> None:
        self._output = output
        self._rest = ""
        self._prefix = b""

    @property
    def buffer(self) -> io.FileIO:
        """The log itself, for bytes."""
        self.flush()
        return io.FileIO(1, "wb", closefd=False)

    def writable(self) -> bool:
        """Return True."""
        return True

    def fileno(self) -> int:
        """Return the descriptor that the log is behind."""
        return 1

    def write(self, text: str) -> int:
        """Write text; whole lines go on at once."""
        if not isinstance(text, str):
            raise TypeError(f"write() takes a str, not {type(text).__name__}")
        if self._rest and self._output.prefix() != self._prefix:  # what a block does not end stays that block's
            self.flush()
        if not self._rest:
            self._prefix = self._output.prefix()
        lines, newline, self._rest = (self._rest + text).rpartition("\n")
        if newline:
            self._emit(lines)
        return len(text)

    def flush(self) -> None:
        """Write an unfinished line as it is."""
        if self._rest:
            rest, self._rest = self._rest, ""
            self._emit(rest)

    def _emit(self, lines: str) -> None:
        prefix = self._prefix
        encoded = lines.encode(errors="replace").replace(b"\n", b"\n" + prefix)
        self._output.write(prefix + encoded + b"\n")
