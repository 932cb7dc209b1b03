"""What a client of a run needs to know to find it: an address, a task and a token."""

from __future__ import annotations

import hashlib
import json
import os
from collections import UserDict
from typing import TYPE_CHECKING, Any, ClassVar, Self
from urllib.parse import quote, unquote

from bellis.errors import ContextError

if TYPE_CHECKING:
    from collections.abc import Mapping

DAISY_VARIABLE = "DAISY_CONTEXT"
"""Where daisy's scripts look."""
_MARK = "bellis-mark"
"""In variables that bellis has set itself: a digest of the other values. It is not shown in what is read."""


class Context(UserDict[str, str]):
    """What a `Client` needs to know: strings by name, as in daisy.

    The service fills in ``hostname``, ``port``, ``task_id``, ``worker_id``, ``token``, ``run_id`` and, behind TLS with
    a certificate of one's own, ``ca_file``; a script may add what it likes, and say in ``patience_s`` for how long a
    run that does not answer is waited for. Whoever has the token can take and report blocks: pass a context on in the
    environment or in a file, not on a command line.

    Parameters
    ----------
    **kwargs
        Values by name; they become strings.

    Examples
    --------
    >>> context = Context(task_id="a:b=c", port=8000)
    >>> context["port"], Context.parse(context.to_daisy()) == context == Context.parse(context.to_env())
    ('8000', True)
    """

    ENV_VARIABLE: ClassVar[str] = "BELLIS_CONTEXT"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__()
        for key, value in kwargs.items():
            self[key] = value

    def __setitem__(self, key: str, value: Any) -> None:
        self.data[str(key)] = str(value)

    def __repr__(self) -> str:
        shown = {key: "..." if key == "token" else value for key, value in self.items()}
        return f"Context({', '.join(f'{key}={value!r}' for key, value in shown.items())})"

    __str__ = __repr__

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Make a context of a mapping."""
        made = cls()
        made.update(values)
        return made

    def copy(self) -> Self:
        """Return a copy."""
        return self.of(self.data)

    def to_env(self) -> str:
        """Return the context as a value for the environment variable ``Context.ENV_VARIABLE``: JSON, in ASCII."""
        return json.dumps(self.data)

    def to_daisy(self) -> str:
        """Return the context as daisy writes it: ``key=value:key=value``, other characters as ``%3A``."""

        def quoted(text: str) -> str:
            return quote(text, safe="", errors="surrogatepass")

        return ":".join(f"{quoted(key)}={quoted(value)}" for key, value in self.items())

    def environment(self) -> dict[str, str]:
        """Return the variables that a process should find, for its own `Client` and for a script of daisy's.

        They say of themselves that they were not set by a person, who means what he sets: see `from_env`.
        """
        marked = self.copy()
        marked[_MARK] = _digest(self.data)
        return {self.ENV_VARIABLE: marked.to_env(), DAISY_VARIABLE: marked.to_daisy()}

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what `to_env` or `to_daisy` wrote.

        Raises
        ------
        ContextError
            If it is neither.
        """
        return cls._marked(text)[0]

    @classmethod
    def _marked(cls, text: str) -> tuple[Self, bool]:
        """Read a context, and whether bellis has set it."""
        context = cls.of(_values(text))
        mark = context.data.get(_MARK)
        is_marked = mark is not None and mark == _digest({key: context[key] for key in context if key != _MARK})
        if is_marked:
            del context[_MARK]
        return context, is_marked

    @classmethod
    def from_env(cls) -> Self:
        """Read the context of this process: ``BELLIS_CONTEXT``, or else ``DAISY_CONTEXT``.

        A worker function finds both, set by bellis. Where a script has set one of them anew, for a child process, that
        one counts.

        Raises
        ------
        ContextError
            If neither is set, or what is set is no context.
        """
        found: list[tuple[Self, bool]] = []
        for name in (cls.ENV_VARIABLE, DAISY_VARIABLE):
            text = os.environ.get(name)
            if text is not None:
                try:
                    found.append(cls._marked(text))
                except ContextError as error:
                    raise ContextError(f"the environment variable {name} is no context: {error}") from error
        if found:
            return min(found, key=lambda each: each[1])[0]  # the first that is not ours, or else the first
        raise ContextError(
            f"this process has no context: neither {cls.ENV_VARIABLE} nor {DAISY_VARIABLE} is in its environment. A "
            "function that takes blocks by a Client has no parameter, or its task says worker_function=True; one that "
            "is called with a block needs no Client. A process that a worker function starts inherits the context; to "
            "one that is started in another way, pass it on, or pass Client(context)"
        )


def _digest(values: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(sorted(values.items())).encode()).hexdigest()[:16]


def _values(text: str) -> dict[str, str]:
    if text.lstrip().startswith("{"):
        try:
            found = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ContextError(f"it begins like JSON, but can't be read ({error})") from error
        if not all(isinstance(value, str | int | float) for value in found.values()):
            raise ContextError("its values must be strings or numbers")
        return found  # type: ignore[no-any-return]
    pairs = [part.partition("=") for part in text.split(":")]
    if not all(equals and "=" not in value for _, equals, value in pairs):
        raise ContextError("it is neither JSON nor of the form key=value:key=value")
    return {_unquoted(key): _unquoted(value) for key, _, value in pairs}


def _unquoted(text: str) -> str:
    try:
        return unquote(text, errors="surrogatepass")
    except UnicodeDecodeError as error:
        raise ContextError(f"{text!r} can't be read ({error.reason})") from error
