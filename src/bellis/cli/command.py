"""What ``bellis run`` was asked, kept in the run directory for ``bellis retry`` and ``bellis debug``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Self

import msgspec

from bellis.errors import JournalError
from bellis.runtime.events import RunStarted

if TYPE_CHECKING:
    from bellis.runtime.events import AnyEvent

FILE = "command.json"


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """A command that can be given again."""

    target: str
    """``FILE.py:NAME`` or ``MODULE:NAME``."""
    arguments: tuple[str, ...]
    """Options of the pipeline, as they were written."""
    cwd: str
    """Where it was given."""
    engine: str
    workers: int | None

    @classmethod
    def read(cls, run_dir: Path) -> Self:
        """Read what a run directory was made by."""
        path = run_dir / FILE
        try:
            return msgspec.json.decode(path.read_bytes(), type=cls)
        except FileNotFoundError as error:
            raise JournalError(
                f"{run_dir} has no {FILE}: it was not made by `bellis run`, so run its pipeline again as before"
            ) from error
        except msgspec.DecodeError as error:
            raise JournalError(f"{path} is damaged ({error}): give the command again with `bellis run`") from error

    def write(self, run_dir: Path) -> None:
        """Write it, whole or not at all."""
        part = run_dir / f"{FILE}.part"
        part.write_bytes(msgspec.json.format(msgspec.json.encode(self)) + b"\n")
        part.replace(run_dir / FILE)


class CommandWriter:
    """An observer that writes the command once the run holds its directory, so that no other run's is lost."""

    def __init__(self, command: Command) -> None:
        self._command = command

    def notify(self, event: AnyEvent) -> None:
        """Write at the start."""
        if isinstance(event, RunStarted) and event.run_dir is not None:
            self._command.write(Path(event.run_dir))

    def close(self) -> None:
        """Do nothing."""
