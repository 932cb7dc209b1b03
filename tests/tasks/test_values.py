"""Values as bytes: what comes back is what was given."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bellis.tasks.values import ARRAY, pack, unpack

plain = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text()
values = st.recursive(plain | st.binary(), lambda v: st.lists(v) | st.dictionaries(st.text(), v), max_leaves=8)
dtypes = hnp.scalar_dtypes() | hnp.byte_string_dtypes() | hnp.unicode_string_dtypes()


@given(values)
def test_plain_values_come_back(value: object) -> None:
    assert unpack(pack(value)) == value


@given(hnp.arrays(dtypes, hnp.array_shapes(min_dims=0, min_side=0, max_dims=4)))
def test_arrays_come_back_in_native_byte_order_and_may_be_changed(array: np.ndarray) -> None:
    found = unpack(pack({"a": [array]}))["a"][0]
    assert isinstance(found, np.ndarray)
    assert found.dtype == array.dtype.newbyteorder("=")
    assert found.dtype.isnative
    assert found.shape == array.shape
    np.testing.assert_array_equal(found, array)
    assert found.flags.writeable


@pytest.mark.parametrize("value", [np.float64(0.1), np.uint64(2**64 - 1), np.bool_(True), np.str_("a"), np.int8(-3)])
def test_scalars_keep_their_type(value: np.generic) -> None:
    found = unpack(pack(value))
    assert type(found) is type(value)
    assert found == value


def test_an_array_that_is_not_contiguous_comes_back() -> None:
    array = np.arange(24).reshape(2, 3, 4).T[::2]
    np.testing.assert_array_equal(unpack(pack(array)), array)


def test_tuples_come_back_as_lists() -> None:
    assert unpack(pack((1, (2, 3)))) == [1, [2, 3]]


@pytest.mark.parametrize(
    "value", [object(), 1j, np.array([object()]), np.zeros(2, [("a", int)]), {"f": print}, np.array(None), type]
)
def test_objects_are_refused_rather_than_pickled(value: object) -> None:
    with pytest.raises(TypeError):
        pack(value)


def test_an_integer_of_more_than_64_bits_is_refused() -> None:
    with pytest.raises(OverflowError):
        pack(2**64)


@pytest.mark.parametrize(
    "blob",
    [
        pack(np.arange(5))[:-1],
        b"",
        msgspec.msgpack.encode(msgspec.msgpack.Ext(ARRAY, msgspec.msgpack.encode(["|O", [1], b"12345678"]))),
        msgspec.msgpack.encode(msgspec.msgpack.Ext(ARRAY, msgspec.msgpack.encode(["<i4", [3], b"1234"]))),
        msgspec.msgpack.encode(msgspec.msgpack.Ext(ARRAY, msgspec.msgpack.encode(["nonsense", [3], b"1234"]))),
        msgspec.msgpack.encode(msgspec.msgpack.Ext(77, b"")),
    ],
)
def test_damaged_bytes_are_an_error(blob: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        unpack(blob)
