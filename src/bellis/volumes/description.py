"""Description files: read, checked and written."""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bellis.errors import DescriptionError, VolumeError
from bellis.volumes import fileset_schema, volume_schema
from bellis.volumes.descriptions import CompositeDescription, FilesetDescription, RemoteDescription, VolumeDescription
from bellis.volumes.json_text import parse_json, read_text
from bellis.volumes.schema import NAME, Problems, wrong

if TYPE_CHECKING:
    import os

    from bellis.volumes.descriptions import AnyDescription

SCHEMAS = (fileset_schema.FILESET, fileset_schema.REMOTE, fileset_schema.COMPOSITE, volume_schema.VOLUME)
"""What ``_schema_name`` may say."""


def read_description(path: str | os.PathLike[str]) -> AnyDescription:
    """Return what a description file says, of lazyflow's schemas 1.0 and 1.1 or our own.

    Keys that begin with ``#`` are comments. Numbers may be given by arithmetic, ``"[0, 50*1024, 50*1024]"``. Nothing
    is evaluated.

    Raises
    ------
    DescriptionError
        If it can't be read, or there is anything wrong in it; ``problems`` has all that is, each with its path.
    """
    file = Path(path).absolute()
    return parse_description(read_text(file), where=str(path), folder=file.parent)


def parse_description(text: str, *, where: str, folder: Path) -> AnyDescription:
    """Return what the text of a description file says.

    Parameters
    ----------
    text
        JSON.
    where
        Path of the file, for messages; its name is the default for that of a cache.
    folder
        What relative paths begin at.

    Raises
    ------
    DescriptionError
        As `read_description`.
    """
    found, repeated = parse_json(text, where)
    problems = Problems(repeated)
    description = _read(found, where, folder.absolute(), problems)
    problems.refuse(where)
    if description is None:
        raise DescriptionError(f"description {where} can't be read")
    return description


def _read(found: Any, where: str, folder: Path, problems: Problems) -> AnyDescription | None:
    name = found.get(NAME) if isinstance(found, dict) else None
    match name:
        case fileset_schema.FILESET:
            return fileset_schema.read_fileset(found, "", problems)
        case fileset_schema.REMOTE:
            return fileset_schema.read_remote(found, "", problems)
        case fileset_schema.COMPOSITE:
            return fileset_schema.read_composite(found, problems)
        case volume_schema.VOLUME:
            return volume_schema.read_volume(found, where, folder, problems)
    if not isinstance(found, dict):
        problems.add("", "", wrong(found, f"an object with the key {NAME!r} is due"))
    else:
        problems.add("", NAME, wrong(name, f"one of {', '.join(map(repr, SCHEMAS))} is due"))
    return None


def write_description(path: str | os.PathLike[str], description: AnyDescription) -> None:
    """Write a description file, in place of one that is there.

    Raises
    ------
    DescriptionError
        If it would not be read as what it is: then nothing is written.
    VolumeError
        If it can't be written.
    """
    file = Path(path).absolute()
    text = json.dumps(_dumped(description, file.parent), indent=2, allow_nan=False) + "\n"
    if parse_description(text, where=str(path), folder=file.parent) != description:
        raise DescriptionError(f"description {path} would not be read as it is: {description}")
    partial = file.with_name(f".{file.name}.{secrets.token_hex(4)}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(file)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise VolumeError(f"description {path} can't be written: {error}") from error


def checked(description: FilesetDescription, path: Path) -> FilesetDescription:
    """Return a description that was not read from a file, if it could be.

    Raises
    ------
    DescriptionError
        If there is anything wrong in it.
    """
    problems = Problems()
    found = fileset_schema.read_fileset(fileset_schema.dump_fileset(description), "", problems)
    problems.refuse(f"for {path}")
    return description if found is None else found


def _dumped(description: AnyDescription, folder: Path) -> dict[str, Any]:
    match description:
        case FilesetDescription():
            return fileset_schema.dump_fileset(description)
        case RemoteDescription():
            return fileset_schema.dump_remote(description)
        case CompositeDescription():
            return fileset_schema.dump_composite(description)
        case VolumeDescription():
            return volume_schema.dump_volume(description, folder)
    raise DescriptionError(f"a description is due, not {type(description).__name__}")
