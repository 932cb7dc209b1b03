"""Block files of lazyflow in whose folder a cache is: they are taken over, and left as they are."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from bellis.errors import VolumeError

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from bellis.geometry import Roi
    from bellis.volumes.descriptions import FilesetDescription
    from bellis.volumes.fileset import BlockwiseFileset


class LazyflowTree:
    """The block files of a volume, if there are any.

    Parameters
    ----------
    description
        How they are kept, with all of the volume as the view; None if there are none.
    folder
        What the description is relative to.
    """

    def __init__(self, description: FilesetDescription | None, folder: Path) -> None:
        self.description = description
        self._folder = folder

    def has(self, box: Roi) -> bool:
        """Return whether a block is said to be available."""
        return self._fileset is not None and bool(self._fileset.get_block_status(box.begin))

    def read(self, box: Roi) -> npt.NDArray[Any] | None:
        """Return a block; None if there is none, or it is not sound and whole."""
        if self._fileset is None or not self.has(box):
            return None
        try:
            return self._fileset.read_data(box)
        except VolumeError:
            return None

    def locks(self) -> list[Path]:
        """Return locks that a crash has left."""
        return [] if self._fileset is None else self._fileset.locked_blocks()

    def purge_locks(self) -> bool:
        """Remove them; return whether there were any."""
        return self._fileset is not None and self._fileset.purge_all_locks()

    @cached_property
    def _fileset(self) -> BlockwiseFileset | None:
        from bellis.volumes.fileset import BlockwiseFileset

        if self.description is None:
            return None
        return BlockwiseFileset(self._folder / "description.json", "r", self.description)
