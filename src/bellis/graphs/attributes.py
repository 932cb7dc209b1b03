"""Types of attributes: bool, int, float, str, and vectors of them of one length."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np

from bellis.errors import GraphError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

Base: TypeAlias = Literal["bool", "int", "float", "str"]
_DTYPES: dict[str, npt.DTypeLike] = {"bool": np.bool_, "int": np.int64, "float": np.float64, "str": object}
_BASES: dict[str, Base] = {"b": "bool", "i": "int", "u": "int", "f": "float", "U": "str", "T": "str"}
MAX_NAME_BYTES = 63
"""PostgreSQL cuts longer names."""
_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")


@dataclass(frozen=True, slots=True)
class Vec:
    """A vector of fixed length, as type of an attribute: ``Vec(float, 3)``."""

    dtype: type | str
    """Type of its elements: bool, int, float or str."""
    size: int
    """How many there are."""


AttributeType: TypeAlias = "type | str | Vec | Kind"


@dataclass(frozen=True, slots=True)
class Kind:
    """What values an attribute has."""

    base: Base
    """Type of the value, or of a vector's elements."""
    size: int | None = None
    """Length of the vector; None for a single value."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Data type of a column: bool, int64, float64, or object for str."""
        return np.dtype(_DTYPES[self.base])

    @property
    def row(self) -> tuple[int, ...]:
        """Shape of one value: ``()``, or ``(size,)``."""
        return () if self.size is None else (self.size,)

    def __str__(self) -> str:
        return self.base if self.size is None else f"Vec({self.base}, {self.size})"

    @classmethod
    def of(cls, declared: AttributeType) -> Kind:
        """Parse a type as a user declares it: ``int``, ``"int"``, ``Vec(float, 3)``, or a NumPy scalar type.

        Raises
        ------
        GraphError
            If it is none that a store knows.
        """
        if isinstance(declared, Kind):
            return declared
        if hasattr(declared, "dtype") and hasattr(declared, "size") and not isinstance(declared, type):
            size = declared.size  # also funlib's Vec
            if isinstance(size, bool) or not isinstance(size, int) or size < 1:
                raise GraphError(f"a vector has at least one element, but {declared} has the size {size!r}")
            return cls(_base(declared.dtype), size)
        return cls(_base(declared))

    @classmethod
    def parse(cls, text: str) -> Kind:
        """Parse what ``str`` writes; nothing is evaluated.

        Raises
        ------
        GraphError
            If it is no such text.

        Examples
        --------
        >>> Kind.parse("Vec(float, 3)")
        Kind(base='float', size=3)
        """
        if not text.startswith("Vec("):
            return cls(_base(text))
        base, comma, size = text.removeprefix("Vec(").removesuffix(")").partition(",")
        digits = size.strip()
        if not (comma and text.endswith(")") and digits.isascii() and digits.isdigit() and 0 < int(digits[:9]) < 10**8):
            raise GraphError(f"{text!r} is no type of an attribute: write it like 'int' or 'Vec(float, 3)'")
        return cls(_base(base.strip()), int(digits))


def _base(declared: Any) -> Base:
    if isinstance(declared, str) and declared in get_args(Base):
        return declared  # type: ignore[return-value]
    if declared in (bool, int, float, str):
        name: Base = declared.__name__
        return name
    is_word = not isinstance(declared, str) or declared.isalnum()  # else numpy evaluates it, commas and all
    try:
        if is_word:
            return _BASES[np.dtype(declared).kind]
    except (TypeError, KeyError):
        pass
    raise GraphError(
        f"{declared!r} is no type of an attribute: it is one of {', '.join(get_args(Base))}, or a vector of these, "
        "like Vec(float, 3)"
    )


def kinds_of(declared: Mapping[str, AttributeType]) -> dict[str, Kind]:
    """Parse the types of attributes, and check their names.

    Raises
    ------
    GraphError
        If a type is unknown, or a name is none.
    """
    return {check_name(name): Kind.of(kind) for name, kind in declared.items()}


def check_name(name: Any) -> str:
    """Return the name of an attribute, if a store can have one of that name.

    Any text is one, quotes and all, as long as databases can hold it.

    Raises
    ------
    GraphError
        If it is no text, empty, has a NUL or a lone surrogate, begins with ``$`` or has a dot (which MongoDB reads as
        a path), or is longer than 63 bytes in UTF-8.
    """
    if not isinstance(name, str) or not name or "\0" in name or "." in name or name.startswith("$"):
        raise GraphError(
            f"{name!r} is no name of an attribute: it is a text that is not empty, does not begin with $, and has no "
            "dot and no NUL"
        )
    try:
        length = len(name.encode())
    except UnicodeEncodeError as error:
        raise GraphError(f"{name!r} is no name of an attribute: it has a lone surrogate") from error
    if length > MAX_NAME_BYTES:
        raise GraphError(f"{name!r} is {length} bytes long: names of attributes have up to {MAX_NAME_BYTES}")
    return name


def check_identifier(what: str, name: Any) -> str:
    """Return the name of a table, collection or database: letters, digits and underscores, no digit first.

    Raises
    ------
    GraphError
        If it is none.
    """
    is_name = isinstance(name, str) and 0 < len(name) <= MAX_NAME_BYTES and set(name) <= _LETTERS
    if not is_name or name[0].isdigit():
        raise GraphError(
            f"{what} is {name!r}: it has to be up to {MAX_NAME_BYTES} letters of ASCII, digits and underscores, and "
            "not begin with a digit"
        )
    return str(name)
