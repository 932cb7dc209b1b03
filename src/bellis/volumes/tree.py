"""Names in a tree of block files: directories, files in both spellings, status and locks."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bellis.volumes.fileset_schema import split_file_name

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from bellis.geometry import Coordinate, Roi
    from bellis.volumes.descriptions import FilesetDescription

STATUS = "STATUS.txt"
"""File in the directory of a block; if it is there, the block is available."""
LOCK = ".lock"
"""Ending of lazyflow's lock beside a block file."""
PARTIAL = ".partial"
"""Ending of a file that is being written."""

_NUMBER = r"(?:(?:np\.|numpy\.)?u?int\d*\()?\d+L?\)?"
_NUMBERS = rf"\[\s*{_NUMBER}(?:(?:,\s*|\s+){_NUMBER})*\s*\]"
_ROI = re.compile(rf"\(\s*({_NUMBERS}),\s*({_NUMBERS})\s*\)")
_PLAIN = re.compile(r"(?<![a-z\d])\d+")


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetPath:
    """Where the voxels of a block are."""

    external_directory: str
    """Directory of the block."""
    external_path: str
    """Its file."""
    internal_path: str
    """Path in the file, with a slash in front."""

    def total_path(self) -> str:
        """Return file and path in it as one."""
        return self.external_path + self.internal_path

    # lazyflow's names.

    @property
    def externalDirectory(self) -> str:
        """As ``external_directory``."""
        return self.external_directory

    @property
    def externalPath(self) -> str:
        """As ``external_path``."""
        return self.external_path

    @property
    def internalPath(self) -> str:
        """As ``internal_path``."""
        return self.internal_path

    totalPath = total_path


class Tree:
    """The files of a volume. Regions are absolute: they begin at the origin of the volume."""

    def __init__(self, root: Path, description: FilesetDescription) -> None:
        self.root = root
        self._axes = description.axes
        file, self.internal_path = split_file_name(description.block_file_name_format)
        self._before, self._after = file.format(roiString="\0").split("\0")

    def directory(self, begin: Coordinate) -> Path:
        """Return the directory of the block that begins there."""
        names = [f"{axis}_{at:08d}" for axis, at in zip(self._axes, begin, strict=True)]
        return self.root.joinpath(*names)

    def file_name(self, roi: Roi) -> str:
        """Return how we name the file of a region."""
        return f"{self._before}{_roi_string(roi)}{self._after}"

    def file(self, roi: Roi) -> Path:
        """Return where the block file of a region is, or would be if it is not there: it may be spelt in two ways."""
        directory = self.directory(roi.begin)
        usual = directory / self.file_name(roi)
        if usual.exists():
            return usual
        found = [name for name in _names(directory) if self.region(name) == corners(roi)]
        return directory / min(found) if found else usual

    def components(self, roi: Roi) -> DatasetPath:
        """Return where the voxels of a block are."""
        file = self.file(roi)
        return DatasetPath(
            external_directory=str(file.parent), external_path=str(file), internal_path=f"/{self.internal_path}"
        )

    def region(self, name: str) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
        """Return begin and end of the region that a file is named by; None if it is no block file."""
        if not (name.startswith(self._before) and name.endswith(self._after)):
            return None
        roi = _ROI.fullmatch(name[len(self._before) : len(name) - len(self._after)])
        if roi is None:
            return None
        begin, end = (tuple(int(number) for number in _PLAIN.findall(part)) for part in roi.groups())
        return (begin, end) if len(begin) == len(end) == len(self._axes) else None

    def lock_of(self, roi: Roi) -> Path | None:
        """Return lazyflow's lock of a block, if there is one."""
        usual = self.directory(roi.begin) / f"{self.file_name(roi)}{LOCK}"
        if usual.exists():
            return usual
        for name in _names(usual.parent):
            if name.endswith(LOCK) and self.region(name.removesuffix(LOCK)) == corners(roi):
                return usual.parent / name
        return None

    def locks(self) -> Iterator[Path]:
        """Yield lazyflow's locks of blocks, those outside of the view too."""
        for directory in self._directories(self.root, self._axes):
            for name in sorted(_names(directory)):
                if name.endswith(LOCK) and self.region(name.removesuffix(LOCK)) is not None:
                    yield directory / name

    def _directories(self, at: Path, axes: str) -> Iterator[Path]:
        """Yield the directories of blocks that are there."""
        if not axes:
            yield at
            return
        for name in sorted(_names(at)):
            if re.fullmatch(rf"{axes[0]}_\d{{8,}}", name):
                yield from self._directories(at / name, axes[1:])


def corners(roi: Roi) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return ``(start, stop)``, as lazyflow says a region."""
    return tuple(map(int, roi.begin)), tuple(map(int, roi.end))


def _roi_string(roi: Roi) -> str:
    begin, end = corners(roi)
    return f"({list(begin)}, {list(end)})"


def _names(directory: Path) -> list[str]:
    """Return what is in a directory; nothing if it is not there."""
    try:
        return [entry.name for entry in directory.iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
