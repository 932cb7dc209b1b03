"""JSON with comments: keys that begin with ``#`` mean nothing, and may repeat."""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, Any, NoReturn

from bellis.errors import DescriptionError

if TYPE_CHECKING:
    from pathlib import Path

BYTES_MAX = 1 << 20
"""Size of a file."""
DEPTH_MAX = 32
"""Objects and lists within each other."""

_DIGITS_MAX = 40
_LINE_MAX = 160
_USER = re.compile(r"//[^/@\s]*@")


class _Pairs(list[tuple[str, Any]]):
    """The keys and values of an object, in the order of the file."""

    __slots__ = ()


class _NotJsonError(ValueError):
    """A number that JSON does not have."""


def read_text(path: Path) -> str:
    """Return the text of a small file.

    Raises
    ------
    DescriptionError
        If it can't be read, is larger than ``BYTES_MAX``, or not UTF-8.
    """
    if not path.is_file():
        what = "is not a file" if path.exists() else "is not there"
        raise DescriptionError(f"description {path} {what}: pass the path of a JSON file")
    try:
        with path.open("rb") as file:
            found = file.read(BYTES_MAX + 1)
    except OSError as error:
        raise DescriptionError(f"description {path} can't be read: {error}") from error
    if len(found) > BYTES_MAX:
        raise DescriptionError(f"description {path} is larger than {BYTES_MAX} bytes: no description is")
    try:
        return found.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DescriptionError(f"description {path} is not UTF-8 text: {error}") from None


def parse_json(text: str, where: str) -> tuple[Any, list[str]]:
    """Return what a text says without its comments, and the problems in it: keys that are there twice.

    Raises
    ------
    DescriptionError
        If it is not JSON; the message has the line.
    """
    try:
        found = json.loads(
            text,
            object_pairs_hook=_Pairs,
            parse_constant=_refused,
            parse_float=_float,
            parse_int=_int,
        )
    except json.JSONDecodeError as error:
        raise DescriptionError(_syntax_error(text, where, error)) from None
    except _NotJsonError as error:
        raise DescriptionError(f"{where}: {error}") from None
    except (RecursionError, MemoryError):
        raise DescriptionError(f"{where} has more than {DEPTH_MAX} objects and lists in each other") from None
    problems: list[str] = []
    return _without_comments(found, "", DEPTH_MAX, problems), problems


def _without_comments(value: Any, path: str, depth: int, problems: list[str]) -> Any:
    """Turn pairs into dictionaries; ``path`` is where we are."""
    if depth == 0:
        problems.append(f"{path}: more than {DEPTH_MAX} objects and lists in each other")
        return None
    if isinstance(value, _Pairs):
        found: dict[str, Any] = {}
        for key, inner in value:
            if key.startswith("#"):
                continue
            place = joined(path, key)
            if key in found:
                problems.append(f"{place}: is there twice, only keys that begin with '#' may repeat")
            found[key] = _without_comments(inner, place, depth - 1, problems)
        return found
    if isinstance(value, list):
        return [_without_comments(inner, f"{path}[{k}]", depth - 1, problems) for k, inner in enumerate(value)]
    if isinstance(value, str) and not _is_text(value):
        problems.append(f"{path}: {value!r:.60} has half a character, text is due")
        return "?"
    return value


def joined(path: str, key: str) -> str:
    """Return the path of a key of what is at ``path``."""
    name = key if _is_text(key) and key.isprintable() and len(key) <= 80 else ascii(key[:80])
    return f"{path}.{name}" if path else name


def masked(text: str) -> str:
    """Return a text for people, without users and passwords in front of hosts."""
    return _USER.sub("//***@", text)


def _is_text(value: str) -> bool:
    """Whether a string can be written as UTF-8: JSON's escapes can say half of a pair of surrogates."""
    return not any("\ud800" <= char <= "\udfff" for char in value)


def _refused(name: str) -> NoReturn:
    raise _NotJsonError(f"{name} is not JSON: a number is due")


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _NotJsonError(f"{text:.60} is too large for a number")
    return value


def _int(text: str) -> int:
    if len(text) > _DIGITS_MAX:
        raise _NotJsonError(f"{text[:_DIGITS_MAX]}... has {len(text)} digits, at most {_DIGITS_MAX} are due")
    return int(text)


def _syntax_error(text: str, where: str, error: json.JSONDecodeError) -> str:
    lines = text.split("\n")
    line = lines[error.lineno - 1].rstrip("\r") if error.lineno <= len(lines) else ""
    begin = max(0, error.colno - _LINE_MAX // 2)
    return (
        f"{where} is not JSON: line {error.lineno}, column {error.colno}: {error.msg}: "
        f"{masked(line)[begin : begin + _LINE_MAX].strip()!r}"
    )
