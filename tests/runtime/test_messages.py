"""What passes between a run and its workers."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bellis.runtime.messages import (
    LoadFailed,
    LoadProgram,
    Ready,
    Reported,
    RunLease,
    decode_for_worker,
    decode_from_worker,
    encode,
)

NUMBERS = st.integers(0, 2**62)
TO_WORKER = st.one_of(
    st.builds(LoadProgram, NUMBERS, st.text(), st.binary()), st.builds(RunLease, NUMBERS, NUMBERS, st.binary())
)
FROM_WORKER = st.one_of(
    st.builds(Ready, NUMBERS),
    st.builds(LoadFailed, NUMBERS, st.text()),
    st.builds(
        Reported,
        NUMBERS,
        NUMBERS,
        st.binary(),
        st.binary(),
        st.dictionaries(NUMBERS, st.text()),
        st.dictionaries(NUMBERS, st.binary()),
        st.booleans(),
        NUMBERS,
    ),
)


@given(TO_WORKER)
def test_what_is_said_to_a_worker_is_what_it_hears(message: LoadProgram | RunLease) -> None:
    assert decode_for_worker(encode(message)) == message


@given(FROM_WORKER)
def test_what_a_worker_says_is_what_is_heard(message: Ready | LoadFailed | Reported) -> None:
    assert decode_from_worker(encode(message)) == message


@given(FROM_WORKER)
def test_a_worker_does_not_take_what_workers_say(message: Ready | LoadFailed | Reported) -> None:
    with pytest.raises(msgspec.ValidationError):
        decode_for_worker(encode(message))


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x93\x01\x02\x03", b"garbage"])
def test_garbage_is_an_error(data: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode_from_worker(data)
