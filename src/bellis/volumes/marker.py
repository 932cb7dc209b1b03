"""What the folder of a cache says of itself: ``cache.json``, and ``zarr.json``, which follows from it."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bellis.arrays.conventions import layout_of
from bellis.arrays.format import NewArray
from bellis.arrays.zarr_metadata import array_metadata
from bellis.errors import CacheMismatchError, VolumeError
from bellis.volumes.owner import PARTIAL, write_file

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from bellis.arrays.layout import Layout
    from bellis.volumes.descriptions import Compression

MARKER, METADATA = "cache.json", "zarr.json"
"""The file that makes a folder a cache, and the one that makes it a zarr array."""
KIND, VERSION = "bellis-block-cache", 1
"""What the marker says that the folder is, and the newest way to write one that we know."""

_COMPRESSORS: Mapping[str, Mapping[str, Any] | None] = {
    "zstd": {"id": "zstd", "level": 1},
    "blosc": {"id": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 1},
    "none": None,
}
_SAME = ("zarr_format", "node_type", "shape", "data_type", "chunk_grid", "chunk_key_encoding")


@dataclass(frozen=True, slots=True, kw_only=True)
class Marker:
    """What a cache says of itself."""

    layout: Layout
    """Shape, dtype and place of the whole volume."""
    block_shape: tuple[int, ...]
    """Voxels of a block."""
    compression: Compression
    """How blocks are compressed."""
    fingerprint: Mapping[str, Any]
    """Of the source that they came from, as JSON."""
    made_by: str = "bellis"
    """Who made it, for people."""

    def metadata(self) -> dict[str, Any]:
        """Return the document ``zarr.json``: always the same for the same cache."""
        compressor = _COMPRESSORS[self.compression]
        new = NewArray(layout=self.layout, chunk_shape=self.block_shape, compressor=compressor)
        found = array_metadata(new, 3)
        found["codecs"].append({"name": "crc32c"})
        keys = {"name": "default", "configuration": {"separator": "/"}}
        return {"zarr_format": 3, "node_type": "array", **found, "chunk_key_encoding": keys}

    def text(self) -> bytes:
        """Return what the file says."""
        says = {
            "kind": KIND,
            "format_version": VERSION,
            "made_by": self.made_by,
            "shape": list(self.layout.shape),
            "dtype": self.layout.dtype.name,
            "layout": self.layout.attributes(),
            "block_shape": list(self.block_shape),
            "compression": self.compression,
            "fingerprint": self.fingerprint,
        }
        return json.dumps(says, indent=2).encode()

    @classmethod
    def parse(cls, text: bytes, path: Path) -> Marker:
        """Return what a file says.

        Raises
        ------
        VolumeError
            If it is damaged, or newer than we are.
        """
        try:
            says = json.loads(text)
            version, is_ours = says["format_version"], says["kind"] == KIND
        except (ValueError, TypeError, KeyError) as error:
            raise _damaged(path, error) from error
        if is_ours and isinstance(version, int) and version > VERSION:
            raise VolumeError(
                f"{path} was made by a newer bellis: it is of format {version}, and this one knows {VERSION}; "
                "update bellis, or use another directory"
            )
        if not is_ours or version != VERSION or says.get("compression") not in _COMPRESSORS:
            raise _damaged(path, f"it says {text[:200]!r}")
        try:
            return cls(
                layout=layout_of(says["layout"], tuple(says["shape"]), np.dtype(says["dtype"])),
                block_shape=tuple(map(int, says["block_shape"])),
                compression=says["compression"],
                fingerprint=dict(says["fingerprint"]),
                made_by=str(says["made_by"]),
            )
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise _damaged(path, error) from error

    def differences(self, asked: Marker) -> list[str]:
        """Describe each field in which this, which was found, is not as asked; where voxels lie in the world is free.

        A voxel size that was wrong can be corrected: the blocks are the same.
        """
        told = asked.layout.differences(self.placed(asked.layout).layout)
        for name in ("block_shape", "compression"):
            ask, found = getattr(asked, name), getattr(self, name)
            told += [f"{name}: asked {ask}, found {found}"] * (ask != found)
        return told + self.changes(asked.fingerprint)

    def placed(self, asked: Layout) -> Marker:
        """Return this with the place in the world that is asked, if the axes are the same."""
        if len(asked.voxel_size) != len(self.layout.voxel_size):
            return self
        layout = replace(self.layout, voxel_size=asked.voxel_size, offset=asked.offset, units=asked.units)
        return replace(self, layout=layout)

    def changes(self, fingerprint: Mapping[str, Any]) -> list[str]:
        """Describe each field of a fingerprint that is not as asked; what is not asked may be anything."""
        return [
            told
            for name, ask in as_json(fingerprint).items()
            for told in _changes(f"source {name}", ask, self.fingerprint.get(name, _NOTHING))
        ]


def mismatch(directory: Path, differences: Sequence[str]) -> CacheMismatchError:
    """Return the error for a cache that is not as asked."""
    return CacheMismatchError(
        f"the cache {directory} was filled from another source, or in another way:\n  "
        + "\n  ".join(differences)
        + "\nBlocks of two sources are never mixed: use another directory, or remove this one if it is of no use"
    )


def as_json(fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    """Return a fingerprint as it is read back.

    Raises
    ------
    VolumeError
        If it is not JSON.
    """
    try:
        found: dict[str, Any] = json.loads(json.dumps(dict(fingerprint)))
    except (TypeError, ValueError) as error:
        raise VolumeError(f"the fingerprint {fingerprint!r} is not JSON: {error}") from error
    return found


def read_marker(directory: Path) -> Marker | None:
    """Return what the folder says that it is; None if it is no cache."""
    path = directory / MARKER
    try:
        return Marker.parse(path.read_bytes(), path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise VolumeError(f"can't read {path}: {error}") from error


def check_unused(directory: Path) -> None:
    """Make the folder; refuse one that holds anything but what a killed process leaves when it makes a cache."""
    marker = directory / MARKER
    try:
        directory.mkdir(parents=True, exist_ok=True)
        names = [name for name in sorted(os.listdir(directory)) if not _is_passing(name)]  # noqa: PTH208
        if not names or marker.exists():
            return
    except OSError as error:
        raise VolumeError(f"can't make the cache {directory}: {error}") from error
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    raise VolumeError(
        f"{directory} is no cache of blocks (it has no {MARKER}), and it is not empty: it holds "
        f"{', '.join(names[:5])}{more}. It is left as it is: pass a new or an empty directory"
    )


def _is_passing(name: str) -> bool:
    return name.startswith(f"{MARKER}.") and name.endswith(PARTIAL)


def check_metadata(directory: Path, marker: Marker) -> None:
    """Write the zarr metadata if it is not there yet; refuse it if it is of another array."""
    path, due = directory / METADATA, marker.metadata()
    try:
        found = json.loads(path.read_bytes())
        codecs = [codec["name"] for codec in found["codecs"]]
    except FileNotFoundError:
        write_file(path, json.dumps(due, indent=2).encode())
        return
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise VolumeError(f"{path} is damaged: {error}; remove that file, and it is made anew") from error
    differences = [
        f"{name}: {due[name]} is due, found {found.get(name)}" for name in _SAME if due[name] != found.get(name)
    ]
    if codecs != [codec["name"] for codec in due["codecs"]]:
        differences.append(f"codecs: {due['codecs']} are due, found {found['codecs']}")
    if differences:
        raise VolumeError(
            f"{path} is not of the cache that {MARKER} beside it describes: {'; '.join(differences)}; "
            "use another directory, or remove this one"
        )


def _damaged(path: Path, why: object) -> VolumeError:
    what = f"{why} is missing" if isinstance(why, KeyError) else why
    return VolumeError(
        f"{path} is damaged, so nobody knows what the blocks beside it are: {what}; "
        "remove the directory, or use another one"
    )


def _changes(name: str, asked: Any, found: Any) -> list[str]:
    if isinstance(asked, dict) and isinstance(found, dict):
        keys = dict.fromkeys([*asked, *found])
        return [
            told
            for key in keys
            for told in _changes(f"{name}.{key}", asked.get(key, _NOTHING), found.get(key, _NOTHING))
        ]
    return [] if asked == found else [f"{name}: asked {asked!r}, found {found!r}"]


class _Nothing:
    def __repr__(self) -> str:
        return "nothing"


_NOTHING = _Nothing()
