"""How the fields of description files are read: what each may say, and all problems at once."""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from string import Formatter
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from bellis.errors import DescriptionError
from bellis.volumes.arithmetic import calculate, parse_dtype_name
from bellis.volumes.json_text import joined, masked

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    import numpy as np

REQUIRED: Any = object()
"""In place of a default: the field must be there."""
NAME, VERSION = "_schema_name", "_schema_version"
"""Keys of every description."""

_HINTS_MAX = 50
_URL_MAX = 2000


@dataclass(frozen=True, slots=True)
class Field:
    """What one key may say."""

    parse: Callable[[Any], Any]
    """Returns the value, or raises DescriptionError."""
    default: Any = REQUIRED
    """What it is without the key, or with null."""


class Problems:
    """The problems of a description, each with its path."""

    def __init__(self, found: Sequence[str] = ()) -> None:
        self.all = list(found)

    def add(self, path: str, key: str, what: object) -> None:
        """Note one."""
        self.all.append(f"{joined(path, key) if key else path or 'description'}: {what}")

    def refuse(self, where: str) -> None:
        """Raise all of them, if there are any."""
        if not self.all:
            return
        several = "1 problem" if len(self.all) == 1 else f"{len(self.all)} problems"
        listed = "\n".join(f"- {problem}" for problem in self.all)
        raise DescriptionError(f"description {where} has {several}:\n{listed}", tuple(self.all))


def read_fields(found: Any, path: str, fields: Mapping[str, Field], problems: Problems) -> dict[str, Any]:
    """Return the values of an object: of all fields, but for those with a problem."""
    if not isinstance(found, dict):
        problems.add(path, "", wrong(found, "an object with keys is due"))
        return {}
    for key in [key for key in found if key not in fields and key not in {NAME, VERSION}]:
        hint = _nearest(key, fields) if len(problems.all) < _HINTS_MAX else ""
        problems.add(path, key, f"is not known{hint}")
    values: dict[str, Any] = {}
    for key, field in fields.items():
        if found.get(key) is not None:
            try:
                values[key] = field.parse(found[key])
            except DescriptionError as error:
                problems.add(path, key, error)
        elif field.default is REQUIRED:
            problems.add(path, key, "found null, a value is due" if key in found else "is missing")
        else:
            values[key] = field.default
    return values


def check_header(found: Any, path: str, name: str, version: float, problems: Problems) -> None:
    """Check name and version of a schema: the same major version, and not newer than ours."""
    if not isinstance(found, dict):
        return
    if found.get(NAME) != name:
        problems.add(path, NAME, wrong(found.get(NAME), f"{name!r} is due"))
    asked = found.get(VERSION)
    if isinstance(asked, bool) or not isinstance(asked, int | float):
        problems.add(path, VERSION, wrong(asked, f"a number is due: {version}"))
    elif int(asked) != int(version):
        problems.add(path, VERSION, wrong(asked, f"{int(version)}.x is due, this bellis reads up to {version}"))
    elif asked > version:
        problems.add(path, VERSION, f"found {asked}, which is newer than {version}, the last that this bellis reads")


def wrong(value: Any, due: str) -> DescriptionError:
    """Return the error for a value that can't be what is due."""
    text = masked(repr(value))
    return DescriptionError(f"found {text if len(text) <= 200 else text[:200] + '...'}, {due}")


def check_rank(values: dict[str, Any], keys: Sequence[str], axes: Sequence[str], path: str, problems: Problems) -> None:
    """Note, and take out, what does not have one entry per axis."""
    for key in keys:
        if values.get(key) is not None and len(values[key]) != len(axes):
            due = f"one entry per axis is due, {len(axes)}: {', '.join(axes)}"
            problems.add(path, key, wrong(list(values.pop(key)), due))


def has(values: Mapping[str, Any], *keys: str) -> bool:
    """Whether all of these are there, and not None."""
    return all(values.get(key) is not None for key in keys)


def text(value: Any) -> str:
    """Parse a string."""
    if not isinstance(value, str):
        raise wrong(value, "text is due")
    return value


def path_text(value: Any) -> str:
    """Parse a string that is part of a path."""
    if not text(value).strip() or "\0" in value:
        raise wrong(value, "a path is due")
    return str(value)


def flag(value: Any) -> bool:
    """Parse true or false."""
    if not isinstance(value, bool):
        raise wrong(value, "true or false is due")
    return value


def one_of(*options: str) -> Callable[[Any], str]:
    """Return what parses one of several words."""

    def parse(value: Any) -> str:
        if not isinstance(value, str) or value not in options:
            raise wrong(value, f"{' or '.join(map(repr, options))} is due")
        return value

    return parse


def integer(least: int, most: int = 2**63 - 1) -> Callable[[Any], int]:
    """Return what parses a whole number, or arithmetic that gives one."""

    def parse(value: Any) -> int:
        number = calculate(value) if isinstance(value, str) else value
        if type(number) is not int or not least <= number <= most:
            upper = f" to {most}" if most < 2**63 - 1 else ""
            raise wrong(value, f"a whole number from {least}{upper} is due")
        return number

    return parse


def integers(least: int = -(2**63) + 1) -> Callable[[Any], tuple[int, ...]]:
    """Return what parses a list of whole numbers, or arithmetic that gives one."""
    due = f"a list of whole numbers{f' from {least}' if least >= 0 else ''} is due"

    def parse(value: Any) -> tuple[int, ...]:
        listed = calculate(value) if isinstance(value, str) else value
        if not isinstance(listed, list) or not 1 <= len(listed) <= 32:
            raise wrong(value, due)
        found: list[Any] = [calculate(entry) if isinstance(entry, str) else entry for entry in listed]
        if any(type(number) is not int or not least <= number < 2**63 for number in found):
            raise wrong(value, due)
        return tuple(found)

    return parse


def number(value: Any) -> float:
    """Parse a number, or arithmetic that gives one."""
    found: Any = calculate(value, floats=True) if isinstance(value, str) else value
    if type(found) is not int and type(found) is not float:
        raise wrong(value, "a number is due")
    return found


def value_range(value: Any) -> tuple[float, float]:
    """Parse least and largest value."""
    found = calculate(value, floats=True) if isinstance(value, str) else value
    if not isinstance(found, list) or len(found) != 2:
        raise wrong(value, "least and largest value are due: [0, 255]")
    low, high = number(found[0]), number(found[1])
    if low > high:
        raise wrong(value, "the least value must come first")
    return low, high


def dtype(value: Any) -> np.dtype[Any]:
    """Parse the name of a data type; its byte order is kept."""
    return parse_dtype_name(text(value))


def native_dtype(value: Any) -> np.dtype[Any]:
    """Parse the name of a data type."""
    return dtype(value).newbyteorder("=")


def url_format(value: Any) -> str:
    """Parse a template of URLs; its fields are checked by `check_fields`."""
    if re.match(r"https?://[^/?#]", text(value)) is None:
        raise wrong(value, "a URL that begins with http:// or https:// and a host is due")
    return url(value)


def url(value: Any) -> str:
    """Parse a URL or a path, without secrets."""
    if "\0" in text(value) or not value.strip() or len(value) > _URL_MAX:
        raise wrong(value, f"a URL or a path is due, of at most {_URL_MAX} characters")
    try:
        # A format may stand in front: precomputed://https://...
        parts = urlsplit(re.sub(r"^[\w+.-]+://(?=[\w+.-]+://)", "", value))
    except ValueError as error:
        raise wrong(value, f"a URL is due: {error}") from None
    if parts.scheme and "@" in parts.netloc:
        raise wrong(value, "which names a user: put it into ~/.netrc or an environment variable, see 'access'")
    return str(value)


def check_fields(template: str, axes: Sequence[str], optional: Collection[str]) -> list[str]:
    """Return the problems with the fields of a template of URLs."""
    known = {f"{axis}_{end}": axis for axis in axes for end in ("start", "stop", "size")}
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        return [f"found {masked(template)!r}, which is no template: {error}"]
    found = [part for part in parts if part[1] is not None]
    problems = [f"{{{name}}} is not known{_nearest(name or '', known)}" for _, name, _, _ in found if name not in known]
    problems += [f"{{{name}}} has a format or a conversion: leave it out" for _, name, how, to in found if how or to]
    names = {name for _, name, _, _ in found}
    for axis in axes:
        ends = {f"{axis}_stop", f"{axis}_size"}
        if axis in optional and not names & {f"{axis}_start", *ends}:
            continue
        if f"{axis}_start" not in names:
            problems.append(f"{{{axis}_start}} is missing")
        if not names & ends:
            problems.append(f"{{{axis}_stop}} or {{{axis}_size}} is missing")
    return problems


def _nearest(key: str, known: Collection[str]) -> str:
    """Return a hint at the key that may be meant."""
    nearest = get_close_matches(key[:100], known, n=1)
    return f": is {nearest[0]!r} meant?" if nearest else f", known are {', '.join(known)}"
