"""What workers elsewhere print, in the logs of the run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bellis.runtime.output import append_log

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from bellis.runtime.lease import Report


class WorkerLogs:
    """Keeps what reports bring; where that can't be, it is said once.

    Parameters
    ----------
    log_dir
        The run's folder for logs.
    notify
        Called with what the user should know.
    """

    def __init__(self, log_dir: Path, notify: Callable[[str], None]) -> None:
        self._log_dir = log_dir
        self._notify = notify
        self._has_failed = False

    def add(self, task_id: str, report: Report) -> None:
        """Append a report's output to the log of its worker."""
        try:
            append_log(self._log_dir, task_id, int(report.worker.rpartition("-")[2]), report.output)
        except OSError as error:
            if not self._has_failed:
                self._notify(f"what workers print can't be kept in {self._log_dir}: {error}")
            self._has_failed = True
