"""Types of attributes are parsed, never evaluated; names are what every database can hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bellis.errors import GraphError
from bellis.graphs.attributes import Kind, Vec, check_identifier, check_name, kinds_of

KINDS = st.builds(Kind, st.sampled_from(["bool", "int", "float", "str"]), st.none() | st.integers(1, 10**8 - 1))


@dataclass
class OtherVec:
    """As funlib.persistence has it."""

    dtype: type
    size: int


@given(KINDS)
def test_what_is_written_is_parsed_again(kind: Kind) -> None:
    assert Kind.parse(str(kind)) == kind
    assert Kind.of(str(kind.base)) == Kind(kind.base)


@pytest.mark.parametrize(
    ("declared", "kind"),
    [
        (int, Kind("int")),
        ("float", Kind("float")),
        (np.uint8, Kind("int")),
        (np.float32, Kind("float")),
        ("float32", Kind("float")),
        (np.bool_, Kind("bool")),
        (np.str_, Kind("str")),
        (Vec(float, 3), Kind("float", 3)),
        (Vec("int", 1), Kind("int", 1)),
        (OtherVec(float, 2), Kind("float", 2)),
        (Kind("str", 2), Kind("str", 2)),
    ],
)
def test_types_can_be_declared_in_many_ways(declared: Any, kind: Kind) -> None:
    assert Kind.of(declared) == kind
    assert kinds_of({"a": declared}) == {"a": kind}


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        (complex, "is no type of an attribute"),
        (None.__class__, "is no type of an attribute"),
        ("list[int]", "is no type of an attribute: it is one of bool, int, float, str"),
        (bytes, "is no type"),
        (Vec(float, 0), "at least one element"),
        (Vec(float, True), "at least one element"),
        (Vec(object, 3), "is no type"),
    ],
)
def test_other_types_are_refused(declared: Any, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        Kind.of(declared)


@pytest.mark.parametrize(
    "text",
    [
        "Vec(float, 3", "Vec(float)", "Vec(float, -1)", "Vec(float, 0)", "Vec(float, 3)x", "Vec(Vec(int, 2), 3)", "",
        "Vec", "Vec(float, ³)", "__import__('os').system('true')", "Vec(float, 9999999999)", "Vec(float, 1.5)",
    ],
)  # fmt: skip
def test_a_damaged_type_is_an_error_and_nothing_is_evaluated(text: str) -> None:
    with pytest.raises(GraphError):
        Kind.parse(text)


def test_a_kind_knows_its_column() -> None:
    assert Kind("int").dtype == np.int64
    assert Kind("str").dtype == object
    assert (Kind("float").row, Kind("float", 3).row) == ((), (3,))


@pytest.mark.parametrize("name", ["size", "größe", 'a "quoted" name', "it's", "a b", "Δ" * 31, "a$b"])
def test_any_text_that_databases_can_hold_is_a_name(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "is no name of an attribute"),
        (3, "3 is no name"),
        ("a.b", "no dot"),
        ("$set", r"does not begin with \$"),
        ("a\0b", "no NUL"),
        ("\ud800", "lone surrogate"),
        ("Δ" * 32, "64 bytes long: names of attributes have up to 63"),
    ],
)
def test_other_names_are_refused(name: Any, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        check_name(name)


@pytest.mark.parametrize("name", ["nodes", "_x", "a" * 63, "N0"])
def test_identifiers_are_letters_digits_and_underscores(name: str) -> None:
    assert check_identifier("the table of nodes", name) == name


@pytest.mark.parametrize("name", ["", "0a", "a b", 'a"; DROP TABLE x', "ä", "a" * 64, None])
def test_other_identifiers_are_refused(name: Any) -> None:
    with pytest.raises(GraphError, match="the table of nodes is"):
        check_identifier("the table of nodes", name)
