import copy
import operator
import pickle
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bellis.errors import BellisError, GeometryError
from bellis.geometry import Coordinate
from bellis.geometry.coordinate import broadcast
from bellis.testing.strategies import coordinates

BEYOND_FLOAT = 2**60 + 1
ARITHMETIC = [
    operator.add,
    operator.sub,
    operator.mul,
    operator.floordiv,
    operator.truediv,
    operator.mod,
    operator.pow,
]


# -- defects of daisy ------------------------------------------------------------------------------


def test_two_times_a_coordinate_multiplies_it():
    assert 2 * Coordinate(1, 2) == (2, 4)
    assert Coordinate(1, 2) * 2 == (2, 4)


def test_a_tuple_or_list_on_the_left_is_multiplied_element_by_element():
    assert (2, 3) * Coordinate(1, 2) == (2, 6)
    assert [2, 3] * Coordinate(1, 2) == (2, 6)


def test_a_tuple_plus_a_coordinate_adds_and_does_not_join():
    assert operator.add((2, 3), Coordinate(1, 2)) == (3, 5)
    assert operator.add([2, 3], Coordinate(1, 2)) == (3, 5)
    assert operator.add(Coordinate(1, 2), (2, 3)) == (3, 5)


@pytest.mark.parametrize("divide", [operator.truediv, operator.floordiv])
def test_division_beyond_the_integers_of_a_float_is_exact(divide):
    assert divide(Coordinate(BEYOND_FLOAT), 1) == (BEYOND_FLOAT,)
    assert divide(Coordinate(BEYOND_FLOAT * 3), (3,)) == (BEYOND_FLOAT,)
    assert divide(BEYOND_FLOAT, Coordinate(1)) == (BEYOND_FLOAT,)


@pytest.mark.parametrize("name", ["floor_division", "ceil_division", "round_division"])
def test_named_divisions_beyond_the_integers_of_a_float_are_exact(name):
    assert getattr(Coordinate(BEYOND_FLOAT * 3), name)(3) == (BEYOND_FLOAT,)


@pytest.mark.parametrize("divide", [operator.truediv, operator.floordiv])
def test_division_of_negative_numbers_rounds_down(divide):
    assert divide(Coordinate(-5, 5), 2) == (-3, 2)


@pytest.mark.parametrize("value", [1.5, -0.5, np.float64(2.25), np.float32(0.5), Fraction(1, 2)])
def test_a_fraction_is_an_error_and_not_cut_off(value):
    with pytest.raises(GeometryError, match="round it explicitly"):
        Coordinate(value, 2)
    with pytest.raises(GeometryError, match="round it explicitly"):
        Coordinate(1, 2) * value
    with pytest.raises(GeometryError, match="round it explicitly"):
        Coordinate(1, 2) * (value, 1)


def test_rounding_takes_a_bare_integer():
    assert Coordinate(5, 7).round_division(2) == (2, 3)


# -- construction ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "made",
    [
        Coordinate(1, 2, 3),
        Coordinate((1, 2, 3)),
        Coordinate([1, 2, 3]),
        Coordinate(range(1, 4)),
        Coordinate(i for i in (1, 2, 3)),
        Coordinate(np.array([1, 2, 3], dtype=np.uint8)),
        Coordinate(np.int64(1), np.uint16(2), 3),
        Coordinate(1.0, np.float32(2), Fraction(3)),
        Coordinate(Coordinate(1, 2, 3)),
        Coordinate.of((1, 2, 3)),
    ],
)
def test_a_coordinate_is_made_of_integers_or_one_iterable_of_them(made):
    assert type(made) is Coordinate
    assert made == (1, 2, 3)
    assert [type(element) for element in made] == [int, int, int]


@pytest.mark.parametrize("one", [7, 7.0, np.int32(7), np.array(7), np.array([7]), (7,), [7.0]])
def test_one_integer_is_a_coordinate_of_one_dimension(one):
    assert Coordinate(one) == (7,)


def test_a_quotient_without_remainder_is_accepted():
    assert Coordinate(4096000 / 16, 2) == (256000, 2)


def test_elements_may_be_none():
    assert Coordinate(None, 1) == (None, 1)
    assert Coordinate(None) == (None,)
    assert Coordinate([None, 2.0]) == (None, 2)


def test_a_coordinate_of_nothing_has_no_dimensions():
    assert Coordinate().dims == Coordinate(()).dims == 0


@pytest.mark.parametrize(
    ("bad", "shown"),
    [
        ("12", "'12'"),
        (b"12", "b'12'"),
        (True, "True"),
        (np.True_, "True"),
        (("1", "2"), "'1'"),
        ((1, True), "True"),
        ((1, (2, 3)), r"\(2, 3\)"),
        ({"z": 1}, "'z'"),
        (object, "class 'object'"),
        (1j, "1j"),
        (Decimal(2), "Decimal"),
        (float("nan"), "nan"),
        (float("inf"), "inf"),
        ((1, float("-inf")), "-inf"),
        (np.array([[1, 2]]), r"array\(\[1, 2\]\)"),
    ],
)
def test_what_is_no_integer_is_refused_and_shown(bad, shown):
    with pytest.raises(GeometryError, match=shown):
        Coordinate(bad)


def test_a_geometry_error_is_a_value_error_and_a_bellis_error():
    assert issubclass(GeometryError, ValueError)
    assert issubclass(GeometryError, BellisError)


def test_a_subclass_makes_its_own_kind():
    class Voxel(Coordinate):
        __slots__ = ()

    assert type(Voxel(1, 2)) is Voxel
    assert type(Voxel(Coordinate(1, 2))) is Voxel
    assert Voxel(1, 2) + Coordinate(1, 1) == Coordinate(1, 1) + Voxel(1, 2) == (2, 3)


# -- a tuple ---------------------------------------------------------------------------------------


def test_a_coordinate_is_equal_to_and_hashes_like_its_tuple():
    assert Coordinate(1, 2) == (1, 2)
    assert hash(Coordinate(1, 2)) == hash((1, 2))
    assert {Coordinate(1, 2): "here"}[1, 2] == "here"
    assert sorted([Coordinate(1, 0), Coordinate(0, 9)]) == [(0, 9), (1, 0)]


def test_a_coordinate_has_no_room_for_attributes():
    with pytest.raises(AttributeError):
        Coordinate(1, 2).name = "here"


def test_slices_are_plain_tuples():
    assert type(Coordinate(1, 2, 3)[1:]) is tuple


@pytest.mark.parametrize("made", [Coordinate(1, -2), Coordinate(5), Coordinate(None, 3)])
def test_repr_pickle_and_copy_give_the_same_coordinate(made):
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        again = pickle.loads(pickle.dumps(made, protocol))
        assert type(again) is Coordinate
        assert again == made
    assert eval(repr(made)) == made
    assert copy.copy(made) == copy.deepcopy(made) == made


def test_str_is_that_of_the_tuple_and_repr_names_the_class():
    assert str(Coordinate(1, 2)) == "(1, 2)"
    assert f"{Coordinate(1)}" == "(1,)"
    assert repr(Coordinate(1, None)) == "Coordinate(1, None)"


# -- arithmetic ------------------------------------------------------------------------------------


@pytest.mark.parametrize("op", ARITHMETIC)
@given(data=st.data())
def test_operators_are_those_of_the_elements_from_either_side(op, data):
    dims = data.draw(st.integers(1, 4))
    left = data.draw(coordinates(dims))
    right = data.draw(coordinates(dims, min_value=1, max_value=9))
    plain = operator.floordiv if op is operator.truediv else op
    expected = tuple(map(plain, left, right))

    for result in (
        op(left, right),
        op(left, tuple(right)),
        op(left, list(right)),
        op(left, [float(element) for element in right]),
        op(tuple(left), right),
        op(list(left), right),
    ):
        assert type(result) is Coordinate
        assert result == expected
        assert all(type(element) is int for element in result)


@pytest.mark.parametrize("op", ARITHMETIC)
@given(own=coordinates(min_value=1, max_value=9), one=st.integers(1, 9))
def test_one_integer_stands_for_every_element_from_either_side(op, own, one):
    plain = operator.floordiv if op is operator.truediv else op
    assert op(own, one) == tuple(plain(element, one) for element in own)
    assert op(one, own) == tuple(plain(one, element) for element in own)
    assert op(own, np.int64(one)) == op(own, float(one)) == op(own, np.array(one)) == op(own, one)
    assert op(float(one), own) == op(one, own)


@pytest.mark.parametrize("op", ARITHMETIC)
def test_none_on_either_side_gives_none(op):
    assert op(Coordinate(None, 4), 2) == (None, op(Coordinate(4), 2)[0])
    assert op(Coordinate(None, 4), Coordinate(2, None)) == (None, None)
    assert op(Coordinate(6, 4), (None, 2)) == (None, op(Coordinate(4), 2)[0])
    assert op((None, 4), Coordinate(1, 2)) == (None, op(Coordinate(4), 2)[0])
    assert op(8, Coordinate(None, 2)) == (None, op(8, Coordinate(2))[0])


@given(coordinates())
def test_negation_and_abs_are_those_of_the_elements(own):
    assert -own == tuple(-element for element in own)
    assert abs(own) == tuple(abs(element) for element in own)
    assert type(-own) is type(abs(own)) is Coordinate


def test_negation_and_abs_keep_none():
    assert -Coordinate(None, 2) == (None, -2)
    assert abs(Coordinate(None, -2)) == (None, 2)


def test_coordinates_can_be_summed():
    assert sum([Coordinate(1, 2), Coordinate(3, 4)]) == (4, 6)


@pytest.mark.parametrize("op", ARITHMETIC)
@pytest.mark.parametrize("other", [(1, 2, 3), [1, 2, 3], Coordinate(1, 2, 3), (1,), ()])
def test_other_lengths_are_refused_with_both(op, other):
    with pytest.raises(GeometryError, match=f"ranks differ: 2 and {len(other)}"):
        op(Coordinate(4, 5), other)
    with pytest.raises(GeometryError, match=f"ranks differ: .*{len(other)}"):
        op(other, Coordinate(4, 5))


@pytest.mark.parametrize("op", [operator.truediv, operator.floordiv, operator.mod])
def test_division_by_zero_shows_both_sides(op):
    with pytest.raises(GeometryError, match=r"division by zero: \(4, 5\) and \(1, 0\)"):
        op(Coordinate(4, 5), Coordinate(1, 0))
    with pytest.raises(GeometryError, match=r"division by zero: \(4, None\) and"):
        op(Coordinate(4, None), 0)
    with pytest.raises(GeometryError, match=r"division by zero"):
        op(3, Coordinate(4, 0))


def test_a_negative_exponent_is_refused():
    with pytest.raises(GeometryError, match=r"2 \*\* -1 is not an integer"):
        Coordinate(2, 3) ** -1
    with pytest.raises(GeometryError, match="negative exponent"):
        2 ** Coordinate(-1, 3)


@pytest.mark.parametrize("other", ["ab", {1, 2}, None, object()])
@pytest.mark.parametrize("op", ARITHMETIC)
def test_operators_refuse_what_is_no_coordinate(op, other):
    with pytest.raises(TypeError):
        op(Coordinate(1, 2), other)


def test_a_bool_is_no_operand():
    with pytest.raises(GeometryError, match="True"):
        Coordinate(1, 2) * True


def test_an_array_on_either_side_makes_an_array():
    points = np.array([[0.5, 1.0], [2.0, 3.0]])
    expected = [[1.0, 3.0], [4.0, 9.0]]
    np.testing.assert_array_equal(points * Coordinate(2, 3), expected)
    np.testing.assert_array_equal(Coordinate(2, 3) * points, expected)
    assert ((points >= Coordinate(0, 1)).all(axis=1)).all()


# -- named operations ------------------------------------------------------------------------------


@given(st.data())
def test_named_divisions_agree_with_fractions(data):
    dims = data.draw(st.integers(1, 4))
    own = data.draw(coordinates(dims))
    by = data.draw(coordinates(dims, min_value=-9, max_value=9).filter(all))
    exact = [Fraction(left, right) for left, right in zip(own, by, strict=True)]

    assert own.floor_division(by) == own // by == tuple(value.__floor__() for value in exact)
    assert own.ceil_division(by) == tuple(value.__ceil__() for value in exact)
    half = Fraction(1, 2)
    assert own.round_division(by) == tuple((value - half).__ceil__() for value in exact)


def test_ties_round_down():
    assert Coordinate(-3, -1, 1, 3).round_division(2) == (-2, -1, 0, 1)


def test_named_divisions_keep_none_and_refuse_zero():
    assert Coordinate(None, 3).ceil_division((2, 2)) == (None, 2)
    assert Coordinate(5, 3).round_division((None, 2)) == (None, 1)
    with pytest.raises(GeometryError, match="division by zero"):
        Coordinate(5, 3).ceil_division(0)
    with pytest.raises(GeometryError, match="ranks differ: 2 and 3"):
        Coordinate(5, 3).floor_division((1, 2, 3))


@given(st.data())
def test_a_product_is_a_multiple_and_a_remainder_makes_it_none(data):
    own = data.draw(coordinates())
    by = data.draw(coordinates(own.dims, min_value=2, max_value=50))
    assert (own * by).is_multiple_of(by)
    assert not (own * by + 1).is_multiple_of(by)


def test_is_multiple_of_takes_one_integer_and_passes_over_none():
    assert Coordinate(4, 8).is_multiple_of(4)
    assert Coordinate(None, 8).is_multiple_of((3, 4))
    assert not Coordinate(None, 9).is_multiple_of((3, 4))


def test_squeeze_drops_one_element():
    own = Coordinate(1, 2, 3)
    assert own.squeeze() == (2, 3)
    assert own.squeeze(1) == (1, 3)
    assert own.squeeze(-1) == (1, 2)
    assert type(own.squeeze()) is Coordinate


@pytest.mark.parametrize("dim", [3, -4])
def test_squeeze_refuses_a_dimension_that_is_not_there(dim):
    with pytest.raises(GeometryError, match=f"3 dimensions, but no dimension {dim}"):
        Coordinate(1, 2, 3).squeeze(dim)


@pytest.mark.parametrize("value", [2, 2.0, np.int64(2), (2, 2), [2, 2], np.array([2, 2])])
def test_broadcast_gives_every_dimension_its_element(value):
    assert broadcast(value, 2) == (2, 2)


@pytest.mark.parametrize("value", [(1,), (1, 2, 3), "ab", 1.5, True, None, {}])
def test_broadcast_refuses_other_ranks_and_what_is_no_integer(value):
    with pytest.raises(GeometryError):
        broadcast(value, 2)
