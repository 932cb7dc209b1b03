"""What a block's function returns, as bytes: msgpack, with NumPy arrays and scalars in it, and nothing that could run.

A NumPy value is an extension of msgpack: its dtype, shape and bytes. Python objects are never pickled, so that what
lies in a journal or in a scratch folder can be read without trust in who wrote it.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

ARRAY, SCALAR = 1, 2
"""Codes of the two extensions."""

_KINDS = "biufcmMSU"


def pack(value: Any) -> bytes:
    """Return ``value`` as bytes.

    Parameters
    ----------
    value
        None, bool, int of 64 bits, float, str, bytes, NumPy arrays and scalars, and lists, tuples (which become
        lists) and dicts of them.

    Raises
    ------
    TypeError, ValueError, OverflowError
        If it is, or holds, anything else.

    Examples
    --------
    >>> unpack(pack({"edges": np.arange(3), "counts": (1, 2)}))
    {'edges': array([0, 1, 2]), 'counts': [1, 2]}
    """
    return _encode(value)


def unpack(blob: bytes | memoryview) -> Any:
    """Return what was packed; arrays are the caller's to change.

    Raises
    ------
    msgspec.DecodeError
        If the bytes are damaged.
    """
    try:
        return _decode(blob)
    except (TypeError, ValueError) as error:
        if isinstance(error, msgspec.DecodeError):
            raise
        raise msgspec.DecodeError(f"a NumPy value is damaged: {error}") from error


def _to_msgpack(value: Any) -> msgspec.msgpack.Ext:
    if not isinstance(value, np.ndarray | np.generic):
        raise TypeError(f"{type(value).__name__} is no type that can be kept")
    if value.dtype.kind not in _KINDS:
        raise TypeError(f"a NumPy value of dtype {value.dtype} can't be kept")
    code = ARRAY if isinstance(value, np.ndarray) else SCALAR
    return msgspec.msgpack.Ext(code, _encode((value.dtype.str, value.shape, value.tobytes())))


def _of_msgpack(code: int, blob: memoryview) -> Any:
    if code not in (ARRAY, SCALAR):
        raise ValueError(f"extension {code} is unknown")
    dtype, shape, content = msgspec.msgpack.decode(blob, type=tuple[str, tuple[int, ...], bytes])
    if np.dtype(dtype).kind not in _KINDS:
        raise ValueError(f"dtype {dtype} is none that is kept")
    # Copied: what NumPy lays over bytes is read only.
    array = np.frombuffer(content, dtype).reshape(shape).astype(np.dtype(dtype).newbyteorder("="))
    return array if code == ARRAY else array[()]


_encode = msgspec.msgpack.Encoder(enc_hook=_to_msgpack).encode
_decode = msgspec.msgpack.Decoder(ext_hook=_of_msgpack).decode
