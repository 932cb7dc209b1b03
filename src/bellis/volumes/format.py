"""Description files as a format of arrays: ``open_ds("em.json")``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bellis.arrays.format import Stored
from bellis.errors import ArrayError

if TYPE_CHECKING:
    from bellis.arrays.format import Missing, NewArray
    from bellis.arrays.location import Location

LOOKED_AT = 1 << 20
"""Bytes of a file that are read to see what it is."""
_MARK = b'"_schema_name"'


class VolumeFormat:
    """Volumes that a description file tells of; they are only read."""

    name = "volume"

    def claims(self, location: Location) -> bool:
        """Whether there is a local description file."""
        if location.is_remote or not location.url.lower().endswith(".json"):
            return False
        try:
            if not location.path.is_file():
                return False
            with location.path.open("rb") as file:
                return _MARK in file.read(LOOKED_AT)
        except OSError:
            return False

    def datasets(self, location: Location) -> list[str]:
        """Return no names: a description is of one volume."""
        del location
        return []

    def open(self, location: Location, *, is_writeable: bool, missing: Missing) -> Stored | None:
        """Describe the volume; one with a cache that is not there yet gets an empty one."""
        del missing  # the description says it
        if location.is_remote or not location.path.is_file():
            return None
        from bellis.volumes.open import open_volume

        if is_writeable:
            raise ArrayError(
                f"{location} describes a volume that is only read: open it with mode='r', or copy it by "
                "ops.copy(path, target) and write to the copy"
            )
        volume: Any = open_volume(location.path)
        return Stored(data=volume, layout=volume.layout, format=f"volume: {type(volume).__name__}")

    def create(self, location: Location, new: NewArray) -> None:
        """Refuse."""
        del new
        raise ArrayError(f"{location}: a volume is not made by prepare_ds; write a description file, or pass .zarr")

    def delete(self, location: Location) -> None:
        """Refuse."""
        raise ArrayError(
            f"{location} describes a volume, which is not removed as an array is: remove the file yourself, and its "
            "blocks by `bellis volume evict --all`"
        )
