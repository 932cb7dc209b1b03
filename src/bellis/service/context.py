"""What a client of a run needs to know to find it: an address, a task and a token."""

from __future__ import annotations

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
        """Return the variables that a process should find, for its own `Client` and for a script of daisy's."""
        return {self.ENV_VARIABLE: self.to_env(), DAISY_VARIABLE: self.to_daisy()}

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what `to_env` or `to_daisy` wrote.

        Raises
        ------
        ContextError
            If it is neither.
        """
        return cls.of(_values(text))

    @classmethod
    def from_env(cls) -> Self:
        """Read the context of this process: ``BELLIS_CONTEXT``, or else ``DAISY_CONTEXT``.

        Raises
        ------
        ContextError
            If neither is set, or what is set is no context.
        """
        for name in (cls.ENV_VARIABLE, DAISY_VARIABLE):
            text = os.environ.get(name)
            if text is not None:
                try:
                    return cls.parse(text)
                except ContextError as error:
                    raise ContextError(f"the environment variable {name} is no context: {error}") from error
        raise ContextError(
            f"this process has no context: neither {cls.ENV_VARIABLE} nor {DAISY_VARIABLE} is in its environment. A "
            "process that a worker function starts inherits them; to one that is started in another way, pass them on, "
            "or pass Client(context)"
        )


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
