"""Values that the blocks of one step leave for the next one: small files in a folder that all workers reach.

Any block may be run again after a crash, even when the steps after it are done, because a journal may lose its newest
completions. So a value is written whole or not at all, the same value every time, and an operation that is over says
so in a file of its own before it removes its folder: whatever is run again later finds that, and does nothing.
"""

from __future__ import annotations

import os
import secrets
import shutil
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec
import numpy as np

from bellis.arrays.location import Location
from bellis.errors import RunError
from bellis.tasks.values import pack, unpack

if TYPE_CHECKING:
    import numpy.typing as npt

PER_FOLDER = 1000
"""Files in one folder: some file systems are slow with more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scratch:
    """The scratch folder of one operation."""

    folder: Path
    """Absolute; made by the first step and removed by the last one."""
    version: str
    """What the operation was asked for; values of another version are an error."""

    @classmethod
    def of(
        cls,
        name: str,
        *,
        version: str,
        beside: str | os.PathLike[str] | None = None,
        subject: str = "",
        folder: str | os.PathLike[str] | None = None,
    ) -> Scratch:
        """Choose a folder.

        Parameters
        ----------
        name
            Name of the operation.
        version
            What it was asked for.
        beside
            Path or URL of what is written; None if that is in memory, or nothing is.
        subject
            In place of what is written: what tells this operation from others of the same name.
        folder
            What the user chose. Else it is in ``.bellis/scratch`` beside the container of what is written, or in the
            working directory if that is no local path.
        """
        place = None if beside is None else Location.of(beside)
        if folder is not None:
            root = Path(folder)
        elif place is None or place.is_remote:
            root = Path(".bellis", "scratch")
        else:
            root = Path(place.root).parent / ".bellis" / "scratch"
        # Two operations of one name, with different outputs, must not share a folder.
        token = sha256(str(place or subject).encode()).hexdigest()[:8]
        return cls(folder=(root / f"{quote(name, safe='')}-{token}").absolute(), version=version)

    # Values of blocks -------------------------------------------------------------------------------------------------

    def put(self, step: str, index: int, value: Any) -> None:
        """Keep the value of block ``index`` of a step; once more is the same."""
        _write(self._part(step, index), pack([self.version, value]))

    def get(self, step: str, index: int) -> Any:
        """Return a value.

        Raises
        ------
        RunError
            If it is not there, damaged, or was left by another version.
        """
        path = self._part(step, index)
        try:
            version, value = unpack(path.read_bytes())
        except FileNotFoundError as error:
            raise RunError(
                f"{path} is missing, the value of block {index} of step {step!r}: the scratch folder was removed, or "
                f"is another one than in the run before, which was started elsewhere. {_AFRESH}"
            ) from error
        except (msgspec.DecodeError, ValueError, TypeError) as error:
            raise RunError(f"{path} is damaged ({error}). {_AFRESH}") from error
        if version != self.version:
            raise RunError(f"{path} was left by another version of this operation. {_AFRESH}")
        return value

    def save(self, name: str, table: npt.NDArray[Any]) -> None:
        """Keep an array for all blocks of later steps."""
        path = self.folder / f"{name}.npy"
        partial = _partial(path)
        with partial.open("wb") as file:
            np.save(file, table, allow_pickle=False)
        partial.replace(path)

    def load(self, name: str) -> npt.NDArray[Any]:
        """Return an array that was saved; read only, and only what is looked at is read from disk."""
        path = self.folder / f"{name}.npy"
        try:
            table: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise RunError(f"{path} can't be read ({error}). {_AFRESH}") from error
        return table

    # Begin and end ----------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Make an empty folder, and forget that the operation was over."""
        self._marker.unlink(missing_ok=True)
        _remove(self.folder)
        self.folder.mkdir(parents=True)

    def finish(self, value: Any = None) -> None:
        """Note that the operation is over, and what came out; then remove the folder."""
        # The note first: a block that is run again later would not find its input.
        if self.outcome() is None:
            _write(self._marker, pack([self.version, value]))
        _remove(self.folder)

    def outcome(self) -> tuple[Any] | None:
        """Return what came out, if the operation is over; else None."""
        try:
            version, value = unpack(self._marker.read_bytes())
        except FileNotFoundError:
            return None
        except (msgspec.DecodeError, ValueError, TypeError) as error:
            raise RunError(f"{self._marker} is damaged ({error}). {_AFRESH}") from error
        return (value,) if version == self.version else None

    @property
    def _marker(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}.done")

    def _part(self, step: str, index: int) -> Path:
        return self.folder / step / str(index // PER_FOLDER) / str(index % PER_FOLDER)


_AFRESH = "Start the operation afresh: reset its tasks in the journal, or run without one"


def _write(path: Path, content: bytes) -> None:
    """Write so that a reader sees all or nothing."""
    partial = _partial(path)
    try:
        partial.write_bytes(content)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(content)
    partial.replace(path)


def _partial(path: Path) -> Path:
    return path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")


def _remove(folder: Path) -> None:
    if folder.exists():
        # Renamed first, so that what a killed removal leaves is never taken for a folder in use.
        away = folder.with_name(f"{folder.name}.{secrets.token_hex(4)}.removed")
        folder.replace(away)
    for left in folder.parent.glob(f"{folder.name}.*.removed"):
        shutil.rmtree(left, ignore_errors=True)
