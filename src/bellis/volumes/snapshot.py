"""Metadata of an array behind a web server, looked at through our own requests.

`bellis.arrays` reads metadata through tensorstore, which knows nothing of our credentials, our deadlines and our
retries. Here the few documents that say what an array is are copied into a folder that is thrown away, and the formats
look at it there.
"""

from __future__ import annotations

import json
import tempfile
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bellis.arrays.location import Location
from bellis.arrays.open import find
from bellis.arrays.tensorstore import TensorStoreData
from bellis.errors import ArrayError, FetchError, TransientError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bellis.arrays.format import Stored

FILES = {"zarr": ("zarr.json", ".zarray", ".zattrs", ".zgroup"), "n5": ("attributes.json",), "precomputed": ("info",)}
"""Documents of each format that tell what is there."""
LEVELS = 32
"""Levels of an image that are looked at."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the metadata of an array says."""

    stored: Stored
    """What it is."""
    data: TensorStoreData
    """How its axes are presented; of a folder that is gone."""
    place: str
    """Where its chunks are, relative to the container."""
    documents: dict[str, Any]
    """The JSON documents that were found, by their paths relative to the container."""


def take(location: Location, read: Callable[[str], bytes | None]) -> Snapshot:
    """Return what the metadata of the array at a location says, or of the finest level of the image there.

    Parameters
    ----------
    location
        The container and the name in it.
    read
        Returns a document of the container, or None if there is none.

    Raises
    ------
    TransientError
        If a document is damaged.
    FetchError
        If there is no array, or its metadata can't be understood.
    """
    with tempfile.TemporaryDirectory(prefix="metadata-") as folder:
        # Called as it is, since formats go by endings; in a folder of its own, since they also look above.
        root = Path(folder) / (location.root.rpartition("/")[2] or "root")
        root.mkdir()
        documents = _copied(location, root, read)
        copy = Location(root.as_posix(), location.name, location.format)
        try:
            stored = find(copy, is_writeable=False, missing="error")
        except ArrayError as error:
            raise FetchError(str(error).replace(root.as_posix(), location.root)) from None
        if stored is None:
            seen = f"; there is {', '.join(documents)}" if documents else ""
            raise FetchError(f"there is no array {location}{seen}")
        data = stored.data
        if not isinstance(data, TensorStoreData):
            raise FetchError(f"{location} is of format {stored.format}, which is not read from a server")
        place = Path(data.spec["kvstore"]["path"]).relative_to(root).as_posix()
    return Snapshot(stored, data, "" if place == "." else place, documents)


def _copied(location: Location, root: Path, read: Callable[[str], bytes | None]) -> dict[str, Any]:
    """Copy what there is from the container down to the location, and of the levels of the image there."""
    found: dict[str, Any] = {}
    parts = location.name.split("/") if location.name else []
    todo = deque("/".join(parts[:k]) for k in range(len(parts) + 1))
    known = set(todo)
    while todo:
        folder = todo.popleft()
        here = _documents(folder, location.format, read)
        for name, value in here.items():
            path = root / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(value))
            found[f"{folder}/{name}" if folder else name] = value
        if folder == location.name:
            levels = [f"{folder}/{level}".strip("/") for level in _levels(here)][:LEVELS]
            todo.extend(level for level in levels if level not in known)
    return found


def _documents(folder: str, format: str | None, read: Callable[[str], bytes | None]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for kind, names in FILES.items():
        if format not in (None, kind) or found:
            continue
        for name in names:
            key = f"{folder}/{name}" if folder else name
            text = read(key)
            if text is not None and not text.lstrip().startswith(b"<"):  # some servers have a page for everything
                found[name] = _parsed(text, key)
                if name == "zarr.json":
                    break
    return found


def _levels(documents: dict[str, Any]) -> Iterator[str]:
    """Yield the paths of the levels that a group speaks of; what is malformed is left to the format to refuse."""
    for name, document in documents.items():
        attributes = document.get("attributes") if name == "zarr.json" else document
        if not isinstance(attributes, dict):
            continue
        images = attributes.get("multiscales") or (attributes.get("ome") or {}).get("multiscales") or []
        for image in images if isinstance(images, list) else []:
            for level in image.get("datasets") or [] if isinstance(image, dict) else []:
                if isinstance(level, dict) and isinstance(level.get("path"), str) and ".." not in level["path"]:
                    yield level["path"].strip("/")
    if "attributes.json" in documents and "dimensions" not in documents["attributes.json"]:
        yield "s0"


def _parsed(text: bytes, key: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise TransientError(f"{key} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise FetchError(f"{key} holds a JSON {type(value).__name__}, not an object")
    return value
