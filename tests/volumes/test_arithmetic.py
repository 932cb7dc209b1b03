"""Arithmetic in description files: what is calculated, and all that is refused."""

from __future__ import annotations

import ast
from time import perf_counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bellis.errors import DescriptionError
from bellis.volumes.arithmetic import NUMBER_MAX, calculate, parse_dtype_name


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[ 4150-2917, 135424, 119808 ]", [1233, 135424, 119808]),
        ("[0, 50*1024, 50*1024]", [0, 51200, 51200]),
        ("(1, 2)", [1, 2]),
        ("[]", []),
        ("7", 7),
        ("  2**10 ", 1024),
        ("-7//2 % 5", -7 // 2 % 5),
        ("-(+3)", -3),
        ("1_000", 1000),
        ("[1] + [2, 3]", [1, 2, 3]),
        ("[0]*3", [0, 0, 0]),
        ("2*(5,)", [5, 5]),
        ("[[1, 2], [3]]", [[1, 2], [3]]),
        ("1**(10**18)", 1),
        (f"{NUMBER_MAX}", NUMBER_MAX),
    ],
)
def test_whole_numbers_and_lists_are_calculated(text: str, value: object) -> None:
    assert calculate(text) == value


def test_fractions_are_for_fields_that_take_them() -> None:
    assert calculate("(0.0, 1.5*2)", floats=True) == [0.0, 3.0]
    with pytest.raises(DescriptionError, match=r"'0\.0' is not a whole number"):
        calculate("(0.0, 1.0)")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("__import__('os').system('touch X')", "__import__('os').system('touch X')"),
        ("[1, open('X','w')]", "open('X','w')"),
        ("[1, x]", "'x'"),
        ("numpy.uint8", "numpy.uint8"),
        ("[n for n in [1]]", "[n for n in [1]]"),
        ("1/2", "1/2"),
        ("1 << 70", "1 << 70"),
        ("1 if 1 else 2", "1 if 1 else 2"),
        ("1 < 2", "1 < 2"),
        ("'a'", "'a'"),
        ("'a'*3", "'a'"),
        ("True", "True"),
        ("None", "None"),
        ("1j", "1j"),
        ("0x10", "0x"),
        ("1if 1else 2", "1if"),
        ("'\\d'", "\\d"),
        ("{1: 2}", "{1: 2}"),
        ("[*[1]]", "*[1]"),
        ("-[1]", "[1]"),
        ("[1]-[1]", "[1]-[1]"),
        ("[1]*[1]", "[1]*[1]"),
        ("lambda: 1", "lambda: 1"),
        ("(x := 1)", "x := 1"),
        ("2**-1", "2**-1"),
        ("1//0", "1//0"),
        ("1%0", "1%0"),
    ],
)
def test_what_is_no_arithmetic_is_refused_with_the_part_that_is_not(text: str, part: str) -> None:
    with pytest.raises(DescriptionError) as caught:
        calculate(text)
    assert part in str(caught.value).replace("\\\\", "\\")


@pytest.mark.parametrize(
    "text",
    [
        "9**9**9",
        "2**64",
        "(2**62)*4",
        f"{NUMBER_MAX}+1",
        "9" * 500,
        "10**10**10 % 2",
        "[0]*10**12",
        "[[0]*60]*60",
        "[" * 15 + "0" + "]*60" * 15,
        "1" + "+1" * 600,
        "1" + "*1" * 400,
        "-" * 900 + "1",
        "(" * 300 + ")" * 300,
        "[" * 90 + "]" * 90,
        "",
        "  ",
        "1 2",
        "[1",
        "a\0b",
        "import os",
        "1\n2",
    ],
)
def test_what_would_be_large_or_deep_or_is_no_expression_is_refused_at_once(text: str) -> None:
    begun = perf_counter()
    with pytest.raises(DescriptionError):
        calculate(text)
    assert perf_counter() - begun < 0.2


@given(st.text(max_size=60) | st.text("0123456789+-*/%()[], .e\n", max_size=60), st.booleans())
def test_any_text_gives_a_value_or_one_error(text: str, floats: bool) -> None:
    try:
        value = calculate(text, floats=floats)
    except DescriptionError:
        return
    assert isinstance(value, list | int | float)


@st.composite
def sums(draw: st.DrawFn) -> str:
    """Draw arithmetic that Python takes too."""
    numbers = st.integers(0, 99).map(str)
    return draw(
        st.recursive(
            numbers,
            lambda inner: st.tuples(inner, st.sampled_from(["+", "-", "*", "//", "%"]), inner).map(
                lambda parts: f"({parts[0]}{parts[1]}{parts[2]})"
            ),
            max_leaves=8,
        )
    )


@given(sums())
@settings(max_examples=40)
def test_results_are_those_of_python(text: str) -> None:
    try:
        due = eval(compile(ast.parse(text, mode="eval"), "", "eval"), {"__builtins__": {}})
    except ZeroDivisionError:
        with pytest.raises(DescriptionError, match="has no value"):
            calculate(text)
        return
    if abs(due) <= NUMBER_MAX:
        assert calculate(text) == due


@pytest.mark.parametrize("name", ["uint8", "numpy.uint8", "np.uint8", "<u1", "u1", " uint8 "])
def test_a_data_type_has_several_names(name: str) -> None:
    assert parse_dtype_name(name) == np.uint8


def test_byte_order_is_kept() -> None:
    assert parse_dtype_name(">u2") == np.dtype(">u2")
    assert parse_dtype_name("numpy.bool_") == np.bool_


@pytest.mark.parametrize(
    "name",
    ["object", "O", "numpy.object_", "str", "U5", "V8", "numpy.void", "os.system", "uint8()", "i3", "f16", "", "u"],
)
def test_other_names_are_no_data_types(name: str) -> None:
    with pytest.raises(DescriptionError, match="is no name of a data type"):
        parse_dtype_name(name)
