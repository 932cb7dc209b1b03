"""Parameters of a function as options of the command line."""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Optional, Union, get_args, get_origin

import click
from click.core import ParameterSource

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

PREFIX = "option_"
"""In front of a parameter's name, so that it never meets a name of bellis' own."""
_PLAIN: dict[Any, Any] = {int: int, float: float, str: str, Path: click.Path(path_type=Path)}
# Names that an annotation may use although they are imported for type checkers only.
_NAMES = {"Path": Path, "Optional": Optional, "Union": Union, "Literal": Literal, "Sequence": Sequence}


class _Kind(NamedTuple):
    """How an option of some type is written."""

    type: Any
    nargs: int = 1
    is_many: bool = False
    is_flag: bool = False


def options_of(function: Callable[..., Any], taken: Iterable[str]) -> list[click.Option]:
    """Return an option for each parameter of a function.

    Parameters
    ----------
    function
        Its signature gives names, types and defaults, its numpydoc docstring the help. A parameter of a type that
        can't be written on a command line keeps its default.
    taken
        Options like ``--workers`` that mean something else; a parameter of such a name becomes
        ``--pipeline-workers``.

    Raises
    ------
    click.UsageError
        If a parameter without a default can't be written on a command line.
    """
    taken = set(taken)
    helps = parameter_help(inspect.getdoc(function) or "")
    options = []
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind in {parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD}:
            continue
        kind = _kind(_annotation(function, parameter))
        has_default = parameter.default is not parameter.empty
        if kind is not None and parameter.kind is not parameter.POSITIONAL_ONLY:
            options.append(_option(name, parameter, kind, helps.get(name), taken))
        elif not has_default:
            raise click.UsageError(
                f"the parameter {name!r} of {function.__name__} can't be given on the command line "
                f"({parameter}): give it a default, or a type among int, float, str, bool, Path, and lists of them"
            )
    return options


def arguments_of(context: click.Context) -> dict[str, Any]:
    """Return what was given on the command line, by parameter; the function knows its defaults itself."""
    return {
        key.removeprefix(PREFIX): value
        for key, value in context.params.items()
        if key.startswith(PREFIX) and context.get_parameter_source(key) is ParameterSource.COMMANDLINE
    }


def _option(
    name: str, parameter: inspect.Parameter, kind: _Kind, help_text: str | None, taken: set[str]
) -> click.Option:
    word = name.strip("_").replace("_", "-")
    if {f"--{word}", f"--no-{word}"} & taken:
        word = f"pipeline-{word}"
    settings: dict[str, Any] = {"help": help_text, "required": parameter.default is parameter.empty}
    if isinstance(parameter.default, bool | int | float | str | Path) and not kind.is_many:
        settings |= {"default": parameter.default, "show_default": True}
    if kind.is_flag:
        return click.Option([PREFIX + name, f"--{word}/--no-{word}"], **settings)
    return click.Option(
        [PREFIX + name, f"--{word}"], type=kind.type, nargs=kind.nargs, multiple=kind.is_many, **settings
    )


def _annotation(function: Callable[..., Any], parameter: inspect.Parameter) -> Any:
    """Return the type of a parameter, or of its default if that says more."""
    annotation = parameter.annotation
    if isinstance(annotation, str):
        described = types.SimpleNamespace(__annotations__={"it": annotation})
        try:
            annotation = typing.get_type_hints(described, {**_NAMES, **getattr(function, "__globals__", {})})["it"]
        except (NameError, TypeError, AttributeError, SyntaxError):  # a name for type checkers only
            annotation = parameter.empty
    if annotation is not parameter.empty:
        return annotation
    is_told = parameter.default is not None and parameter.default is not parameter.empty
    return type(parameter.default) if is_told else str


def _kind(annotation: Any) -> _Kind | None:
    """Return how a type is written; None if it can't be."""
    if annotation is bool:
        return _Kind(bool, is_flag=True)
    if annotation in _PLAIN:
        return _Kind(_PLAIN[annotation])
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in {Union, types.UnionType}:
        return _union_kind([argument for argument in arguments if argument is not type(None)])
    if origin is Literal and all(isinstance(value, str) for value in arguments):
        return _Kind(click.Choice(arguments))
    if origin is tuple and arguments[-1] is not Ellipsis:
        plain = [_PLAIN.get(argument) for argument in arguments]
        return None if None in plain else _Kind(tuple(plain), nargs=len(plain))
    if origin in {list, tuple, Sequence} and arguments[0] in _PLAIN:
        return _Kind(_PLAIN[arguments[0]], is_many=True)
    return None


def _union_kind(members: list[Any]) -> _Kind | None:
    """Return how ``T | None`` is written, or ``Path | str``: as the first that can be."""
    kinds = [kind for kind in map(_kind, members) if kind is not None]
    return kinds[0] if kinds else None


_NAMES_LINE = re.compile(r"^([*\w]+(?:, *[*\w]+)*)(?: *:.*)?$")


def parameter_help(doc: str) -> dict[str, str]:
    """Return what the Parameters section of a numpydoc docstring says of each parameter."""
    found: dict[str, list[str]] = {}
    current: list[str] = []
    for line in _section(doc, "Parameters"):
        names = _NAMES_LINE.match(line)
        if names:
            current = []
            found |= {name.strip(" *"): current for name in names[1].split(",")}
        elif line.startswith(" "):
            current.append(line.strip())
    return {name: plain(" ".join(lines)) for name, lines in found.items() if lines}


def summary_of(function: Callable[..., Any]) -> str:
    """Return the docstring of a function without its sections."""
    doc = inspect.getdoc(function) or ""
    lines = doc.splitlines()
    for number, line in enumerate(lines[1:]):
        if line.startswith("---"):
            return plain("\n".join(lines[:number])).strip()
    return plain(doc).strip()


def _section(doc: str, title: str) -> Iterator[str]:
    inside = False
    for line, after in pairwise([*doc.splitlines(), ""]):
        if after.startswith("---"):
            inside = line.strip() == title
        elif inside and not line.startswith("---"):
            yield line


def plain(text: str) -> str:
    """Return text without the marks of reStructuredText."""
    return text.replace("``", "").replace("`", "")
