"""A volume in every chunked format, written when it is first asked for, and files of it in parts."""

from __future__ import annotations

import json
import re
import threading
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import numpy as np

from bellis.testing.faults import Answer

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy.typing as npt

FORMATS = ("zarr", "zarr-crc32c", "zarr2", "n5", "precomputed")
"""zarr is of version 3, and without checksums unless it says so."""
_METADATA = ("zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata", "attributes.json", "info", "provenance")
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


class StoredVolume:
    """A volume in a folder, in several formats; ``zarr~shape`` and ``zarr~dtype`` are like zarr, but not quite."""

    def __init__(self, voxels: npt.NDArray[Any], axes: str, chunk_shape: tuple[int, ...], folder: Path) -> None:
        self._voxels = voxels
        self._axes = axes
        self._chunk_shape = chunk_shape
        self._folder = folder
        self._lock = threading.Lock()
        self._made: set[str] = set()

    def prepare(self, name: str) -> Path:
        """Return the folder of a format; write it if it is not there."""
        format, _, change = name.partition("~")
        path = self._folder / name
        if format not in FORMATS or change not in ("", "shape", "dtype"):
            return path
        with self._lock:
            if name not in self._made:
                self._write(path, format, change)
                self._made.add(name)
        return path

    def answer(self, place: str, headers: Mapping[str, str]) -> Answer:
        """Return a file below the folder, or the part of it that a request asks for."""
        name, _, inner = place.partition("/")
        path = self.prepare(name) / inner
        if ".." in place.split("/") or not path.is_file():
            return Answer(HTTPStatus.NOT_FOUND)
        return part_of(path.read_bytes(), f'"{path.stat().st_mtime_ns:x}"', headers)

    def any_chunk(self, name: str) -> bytes:
        """Return a file that has voxels."""
        files = sorted(path for path in self.prepare(name).rglob("*") if path.is_file() and is_chunk(str(path)))
        return files[0].read_bytes()

    def _write(self, path: Path, format: str, change: str) -> None:
        from bellis.arrays import open_ds, prepare_ds

        voxels = self._voxels
        if change == "dtype":
            voxels = self._voxels.astype("u4" if self._voxels.dtype != np.uint32 else "u1")
        chunk_shape = tuple(max(1, n // 2) for n in self._chunk_shape) if change == "shape" else self._chunk_shape
        prepare_ds(
            path,
            shape=voxels.shape,
            dtype=voxels.dtype,
            chunk_shape=chunk_shape,
            axis_names=list(self._axes),
            types=[{"c": "channel", "t": "time"}.get(axis, "space") for axis in self._axes],
            format=format.partition("-")[0],
            fill_value=0,
        )
        if format == "zarr-crc32c":
            metadata = json.loads((path / "zarr.json").read_text())
            metadata["codecs"].append({"name": "crc32c"})
            (path / "zarr.json").write_text(json.dumps(metadata))
        array = open_ds(path, mode="r+")
        array[array.roi] = voxels


def is_chunk(path: str) -> bool:
    """Whether a file has voxels, not metadata."""
    return path.rpartition("/")[2] not in _METADATA


def part_of(body: bytes, etag: str, headers: Mapping[str, str]) -> Answer:
    """Return a file, or the part of it that headers ask for."""
    if headers.get("if-none-match") == etag:
        return Answer(HTTPStatus.NOT_MODIFIED, headers={"ETag": etag})
    found = _RANGE.fullmatch(headers.get("range", ""))
    if found is None:
        return Answer(HTTPStatus.OK, body, {"ETag": etag})
    first, last = found.groups()
    begin = int(first) if first else max(0, len(body) - int(last))
    end = min(int(last) + 1 if first and last else len(body), len(body))
    said = {"ETag": etag, "Content-Range": f"bytes {begin}-{end - 1}/{len(body)}"}
    return Answer(HTTPStatus.PARTIAL_CONTENT, body[begin:end], said)
