"""Small metadata files of a dataset: on a local disk as plain files, elsewhere through tensorstore's stores."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import shutil
from typing import TYPE_CHECKING, Any

from bellis.arrays.tensorstore import FAILURES, cause, kvstore_of, library
from bellis.errors import ArrayError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from bellis.arrays.location import Location

ATTEMPTS = 32
"""How often a remote file that others change at the same time is read and written again."""
TIMEOUT_S = 60.0
"""How long a remote store may take for one metadata file."""
PASSING = (".partial", ".__lock", ".zattrs")
"""Endings of files that are left behind by a process that was ended while it made an array."""


def read_json(location: Location, key: str) -> dict[str, Any] | None:
    """Read the JSON object in the file ``key`` at ``location``; None if there is no such file.

    Raises
    ------
    ArrayError
        If it can't be read, or is no JSON object.
    """
    text = _read(location, key)[0]
    return None if text is None else _parse(text, f"{location}/{key}")


def write_json(location: Location, key: str, value: Mapping[str, Any]) -> None:
    """Write the file ``key`` so that a reader sees all or nothing; directories are made.

    Raises
    ------
    ArrayError
        If it can't be written.
    """
    text = json.dumps(value, indent=2).encode()
    if location.is_remote:
        _write_remote(location, key, text)
        return
    with _named(location, "write", key):
        location.path.mkdir(parents=True, exist_ok=True)
        _replace(location.path / key, text)


def update_json(location: Location, key: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Replace the JSON object in ``key`` by what ``change`` makes of it; nobody else's change is lost.

    On a local disk, processes of one machine take turns by a lock on the directory; elsewhere, ``change`` is called
    again if the file changed meanwhile. What it returns is written, unless it is equal to what it was given.

    Parameters
    ----------
    location, key
        The file; an empty object if there is none.
    change
        Returns a new object, or the one that it was given, changed or not. Without side effects.
    """
    if location.is_remote:
        _update_remote(location, key, change)
        return
    with locked(location):
        found = read_json(location, key)
        changed = change(json.loads(json.dumps(found or {})))
        if changed != found:
            write_json(location, key, changed)


def read_attributes(location: Location) -> dict[str, Any]:
    """Return the user attributes of a zarr or N5 array or group; empty if there is none."""
    if (found := read_json(location, "zarr.json")) is not None:
        attributes = found.get("attributes") or {}
        if not isinstance(attributes, dict):
            raise ArrayError(f"{location}/zarr.json has attributes of type {type(attributes).__name__}, not an object")
        return attributes
    return read_json(location, ".zattrs") or read_json(location, "attributes.json") or {}


def update_attributes(location: Location, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Change the user attributes of a zarr or N5 array or group as `update_json` does.

    Raises
    ------
    ArrayError
        If there is none of them at ``location``.
    """
    if exists(location, "zarr.json"):
        update_json(location, "zarr.json", lambda found: {**found, "attributes": change(found.get("attributes") or {})})
    elif exists(location, ".zgroup") or exists(location, ".zarray"):
        update_json(location, ".zattrs", change)
    elif exists(location, "attributes.json"):
        update_json(location, "attributes.json", change)
    else:
        raise ArrayError(f"{location} is no zarr or N5 group or array: there are no attributes to change")


@contextlib.contextmanager
def locked(location: Location) -> Iterator[None]:
    """Hold a lock on a local directory, which is made; some network file systems have none, and remote stores."""
    if location.is_remote:
        yield
        return
    with _named(location, "write"):
        location.path.mkdir(parents=True, exist_ok=True)
        handle = os.open(location.path, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def exists(location: Location, key: str) -> bool:
    """Return whether there is a file ``key`` at ``location``."""
    if not location.is_remote:
        with _named(location, "read", key):
            return (location.path / key).is_file()
    return _read(location, key)[0] is not None


def children(location: Location) -> list[str]:
    """Return the names of the directories in a local ``location``, sorted, or of what is below one in memory.

    Servers are not asked: they list every chunk, if they list at all.
    """
    if location.is_remote:
        keys = _keys(location) if location.root.startswith("memory://") else []
        return sorted({key.partition("/")[0] for key in keys if "/" in key})
    try:
        return sorted(entry.name for entry in os.scandir(location.path) if entry.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise ArrayError(f"can't list {location}: {error}") from error


def is_empty(location: Location) -> bool:
    """Return whether nothing is stored below ``location``; of what can't be listed, that is what is taken."""
    if not location.is_remote:
        path = location.path
        return not path.exists() or (path.is_dir() and all(entry.name.endswith(PASSING) for entry in path.iterdir()))
    return location.root.startswith(("http://", "https://")) or not _keys(location)


def check_writeable(location: Location) -> None:
    """Refuse what can't be written: a web server, and what is on a local disk without the permission.

    Raises
    ------
    ArrayError
        If it can't be; of an object store, nobody knows before it is tried.
    """
    if location.root.startswith(("http://", "https://")):
        raise ArrayError(f"{location} is behind a web server, which is only read: pass a local path, s3:// or gs://")
    if not location.is_remote and location.path.exists() and not os.access(location.path, os.W_OK):
        raise ArrayError(f"{location} is not writeable: permission denied; open it with mode='r'")


def delete(location: Location) -> None:
    """Remove everything below ``location``.

    Raises
    ------
    ArrayError
        If it can't be removed.
    """
    if not location.is_remote:
        with _named(location, "delete"), contextlib.suppress(FileNotFoundError):
            shutil.rmtree(location.path)
        return
    tensorstore, _ = library()
    try:
        _store(location).delete_range(tensorstore.KvStore.KeyRange()).result()
    except FAILURES as error:
        raise ArrayError(f"can't delete {location}: {cause(error)}") from error


def _read(location: Location, key: str) -> tuple[bytes | None, bytes]:
    """Return a file, and its generation; None if it is not there.

    Of a file that may not be read, a bucket that may not be listed says the same as of one that is not there.
    """
    if not location.is_remote:
        with _named(location, "read", key):
            try:
                return (location.path / key).read_bytes(), b""
            except (FileNotFoundError, NotADirectoryError):
                return None, b""
    try:
        result = _store(location).read(key).result(timeout=TIMEOUT_S)
    except TimeoutError as error:
        raise ArrayError(f"can't read {location}/{key}: no answer within {TIMEOUT_S:g} s") from error
    except FAILURES as error:
        if "PERMISSION_DENIED" in str(error):
            return None, b""
        raise ArrayError(f"can't read {location}/{key}: {cause(error)}") from error
    return (result.value if result.state == "value" else None), result.stamp.generation


def _write_remote(location: Location, key: str, text: bytes, generation: bytes | None = None) -> bool:
    """Write a file, if it still is of the generation; return whether it was."""
    try:
        stamp = _store(location).write(key, text, if_equal=generation).result(timeout=TIMEOUT_S)
    except NotImplementedError as error:
        raise ArrayError(f"can't write {location}/{key}: {cause(error)}; pass a path, or s3://, gs://") from error
    except FAILURES as error:
        raise ArrayError(f"can't write {location}/{key}: {cause(error)}") from error
    return bool(stamp.generation)


def _update_remote(location: Location, key: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    for _ in range(ATTEMPTS):
        text, generation = _read(location, key)
        found = None if text is None else _parse(text, f"{location}/{key}")
        changed = change({} if text is None else _parse(text, f"{location}/{key}"))
        if changed == found or _write_remote(location, key, json.dumps(changed, indent=2).encode(), generation):
            return
    raise ArrayError(f"{location}/{key} was changed by others {ATTEMPTS} times while it was to be changed: try again")


def _store(location: Location) -> Any:
    tensorstore, context = library()
    return tensorstore.KvStore.open(kvstore_of(location), context=context).result()


def _keys(location: Location) -> list[str]:
    try:
        return [key.decode() for key in _store(location).list().result()]
    except FAILURES as error:
        raise ArrayError(f"can't list {location}: {cause(error)}") from error


def _parse(text: bytes, where: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ArrayError(f"{where} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ArrayError(f"{where} holds a JSON {type(value).__name__}, not an object")
    return value


def _replace(path: Path, text: bytes) -> None:
    partial = path.with_name(f"{path.name}.{secrets.token_hex(6)}.partial")
    try:
        partial.write_bytes(text)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def _named(location: Location, verb: str, key: str = "") -> Iterator[None]:
    """Say of an error of the operating system what was asked."""
    try:
        yield
    except OSError as error:
        raise ArrayError(f"can't {verb} {location}{'/' if key else ''}{key}: {error}") from error
