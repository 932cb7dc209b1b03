"""Units, and how rational voxel sizes become integers."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bellis.arrays.units import convert, integral, integral_unit, parse_unit, rational, shown
from bellis.errors import ArrayError

LENGTHS = ("km", "m", "mm", "um", "nm", "pm", "fm", "angstrom", "inch", "nm/3", "cm")


@pytest.mark.parametrize(
    ("names", "symbol"),
    [
        (("nm", "nanometer", "nanometre", "nanometers", "Nanometer", " nm "), "nm"),
        (("um", "\u00b5m", "\u03bcm", "micrometer", "micrometre", "micron", "Microns"), "um"),
        (("mm", "millimeter"), "mm"),
        (("Mm", "megameter"), "Mm"),
        (("angstrom", "\u00c5", "\u212b", "Angstroms"), "angstrom"),
        (("s", "second", "seconds", "sec"), "s"),
        (("ms", "millisecond"), "ms"),
        (("min", "minute"), "min"),
        (("inch", "in", "inches"), "inch"),
        (("nanometer/3", "nm/3"), "nm/3"),
        (("voxel",), "voxel"),
    ],
)
def test_a_unit_has_many_names(names: tuple[str, ...], symbol: str) -> None:
    assert {parse_unit(name).symbol for name in names} == {symbol}


def test_units_have_the_names_that_ome_zarr_asks_for() -> None:
    names = [parse_unit(symbol).name for symbol in ("nm", "um", "pm", "angstrom", "s", "ms", "inch", "nm/3", "voxel")]
    expected = ["nanometer", "micrometer", "picometer", "angstrom", "second", "millisecond", "inch", "nanometer"]
    assert names == [*expected, "voxel"]


@pytest.mark.parametrize("name", ["", "  ", "nm/0", "nm/x", "nm/-2", None, 4])
def test_what_is_no_unit_is_refused(name: object) -> None:
    with pytest.raises(ArrayError, match="unit"):
        parse_unit(name)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "exact"),
    [
        (4.6, Fraction(23, 5)),
        (0.1 + 0.2, Fraction(3, 10)),
        (1 / 3, Fraction(1, 3)),
        (0.3333333333, Fraction(1, 3)),
        (2e3 / 3, Fraction(2000, 3)),
        (np.float32(4.6), Fraction(23, 5)),
        (np.float64(4.6), Fraction(23, 5)),
        (np.int16(7), Fraction(7)),
        ("4.6", Fraction(23, 5)),
        ("1/7", Fraction(1, 7)),
        (Decimal("0.3333333333"), Fraction(3333333333, 10**10)),
        (Fraction(5, 9), Fraction(5, 9)),
        (3.7e-10, Fraction(37, 10**11)),
        (1e-9, Fraction(1, 10**9)),
        (1234567.8912, Fraction(12345678912, 10**4)),
        (2.0**60, Fraction(2**60)),
        (-4.6, Fraction(-23, 5)),
    ],
)
def test_a_number_is_exactly_what_was_written(value: object, exact: Fraction) -> None:
    assert rational(value) == exact


@pytest.mark.parametrize("value", [float("nan"), float("inf"), True, None, "fine", "1/0", 1j, [1]])
def test_what_is_no_number_is_refused(value: object) -> None:
    with pytest.raises(ArrayError, match=r"voxel size .* no"):
        rational(value, "voxel size")


@given(st.decimals(min_value=-(10**6), max_value=10**6, places=4))
def test_a_float_means_its_decimal(value: Decimal) -> None:
    assert rational(float(value)) == Fraction(value)


@given(st.integers(1, 1000), st.integers(1, 1000))
def test_a_float_of_a_small_fraction_means_the_fraction(above: int, below: int) -> None:
    assert rational(above / below) == Fraction(above, below)


@given(st.fractions(max_denominator=10**6), st.sampled_from(LENGTHS), st.sampled_from(LENGTHS))
def test_conversion_there_and_back_is_exact(value: Fraction, one: str, other: str) -> None:
    assert convert(convert(value, one, other), other, one) == value


def test_units_of_different_quantities_do_not_convert() -> None:
    assert convert(Fraction(1), "um", "nm") == 1000
    assert convert(Fraction(3), "voxel", "voxel") == 3
    for pair in (("nm", "s"), ("voxel", "nm"), ("voxel", "pixel")):
        with pytest.raises(ArrayError, match="do not convert"):
            convert(Fraction(1), *pair)


@pytest.mark.parametrize(
    ("scales", "unit", "found"),
    [
        (["50", "4.6", "4.6"], "nm", "pm"),
        (["50", "4"], "nanometer", "nm"),
        (["0.0046"], "um", "pm"),
        (["0.5"], "um", "nm"),
        (["0.25"], "angstrom", "pm"),
        (["1/3"], "nm", "nm/3"),
        (["1/3", "1/2"], "nm", "nm/6"),
        (["1/2"], "nm/3", "nm/6"),
        (["0.1"], "voxel", "voxel/10"),
        (["0.04"], "s", "ms"),
        (["0.5"], "inch", "um"),
        (["0.5"], "min", "s"),
    ],
)
def test_the_coarsest_unit_in_which_all_is_whole_is_found(scales: list[str], unit: str, found: str) -> None:
    assert integral_unit([Fraction(scale) for scale in scales], unit) == found


@given(
    st.lists(st.fractions(min_value=Fraction(1, 100), max_value=1000, max_denominator=100), min_size=1, max_size=3),
    st.lists(st.fractions(min_value=-1000, max_value=1000, max_denominator=100), max_size=3),
    st.sampled_from(LENGTHS),
)
def test_integers_in_a_finer_unit_are_exactly_what_was_given(
    scales: list[Fraction], offsets: list[Fraction], unit: str
) -> None:
    size, begin, found = integral(scales, offsets, unit)
    assert [convert(Fraction(n), found, unit) for n in (*size, *begin)] == [*scales, *offsets]


def test_integers_beyond_64_bits_are_refused() -> None:
    with pytest.raises(ArrayError, match=r"beyond 64 bits: round it"):
        integral([Fraction(1, 10**9 + 7)], [Fraction(10**10)], "nm")


def test_rationals_are_shown_as_people_write_them() -> None:
    assert shown([Fraction(50), Fraction("4.6"), Fraction(1, 3)]) == "(50, 4.6, 1/3)"
    assert shown([Fraction(1, 8)]) == "(0.125,)"
