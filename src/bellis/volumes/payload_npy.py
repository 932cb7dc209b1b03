"""NumPy files that cut-out servers send: npy, and npz with one array in it."""

from __future__ import annotations

import ast
import io
import struct
import zipfile
import zlib
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from bellis.errors import FetchError, TransientError
from bellis.volumes.payload import Found, begin, check

if TYPE_CHECKING:
    from bellis.volumes.descriptions import CutoutDescription

_HEADER_BYTES = 4096
# ``zipfile`` raises these for bytes that are no archive: struct, codecs and its own.
_ZIP_ERRORS = (
    *(zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, RuntimeError, zlib.error, struct.error),
    *(EOFError, ValueError, OverflowError, IndexError, KeyError),
)


def npz(body: bytes, description: CutoutDescription, shape: tuple[int, ...]) -> Found:
    """Return the one array of an npz file, which has a checksum."""
    limit = prod(shape) * description.dtype.itemsize + (64 << 10)
    try:
        with zipfile.ZipFile(io.BytesIO(body)) as archive:
            members = archive.infolist()
            if len(members) != 1:
                raise FetchError(f"asked for one array, the npz file has {len(members)}")
            if members[0].compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise FetchError(f"the npz file is compressed by method {members[0].compress_type}, not deflate")
            # A little is read even if the file is too large: its header says its shape.
            is_large = members[0].file_size > limit
            with archive.open(members[0]) as member:
                inner = member.read(64 << 10 if is_large else limit + 1)
    except _ZIP_ERRORS as error:
        raise TransientError(f"the npz file is truncated or damaged: {error}") from error
    if not inner.startswith(b"\x93NUMPY"):
        raise TransientError(f"asked for an array in npz, the file in it begins with {begin(inner)}")
    return Found(npy(inner, description, shape).voxels, is_checked=True)


def npy(body: bytes, description: CutoutDescription, shape: tuple[int, ...]) -> Found:
    """Return the array of an npy file; Python objects are never made."""
    major = body[6] if len(body) > 12 else 0
    if major not in (1, 2, 3):
        raise TransientError(f"the npy file is truncated or damaged: {len(body)} bytes, format version {major}")
    at = 10 if major == 1 else 12
    size = int.from_bytes(body[8:at], "little")
    header = body[at : at + size]
    if size > _HEADER_BYTES or len(header) < size:
        raise TransientError(f"the npy file is truncated or damaged: a header of {size} bytes in {len(body)}")
    found, dtype, is_fortran = _header(header)
    if dtype.hasobject or dtype.names:
        raise FetchError(f"asked for voxels of dtype {description.dtype}, the server sent an array of {dtype}")
    check(found, dtype, description, shape)
    if len(body) != at + size + prod(found) * dtype.itemsize:
        raise TransientError(
            f"the npy file is truncated or damaged: {len(body) - at - size} bytes for voxels of shape {found} and "
            f"dtype {dtype}"
        )
    flat = np.frombuffer(body, dtype, offset=at + size)
    return Found(flat.reshape(found, order="F" if is_fortran else "C"))


def _header(header: bytes) -> tuple[tuple[int, ...], np.dtype[Any], bool]:
    """Parse what NumPy's own reader would, which warns and raises many things for bytes that are damaged."""
    try:
        said = ast.literal_eval(header.decode("latin1").strip())
        descr, is_fortran, shape = (said[key] for key in ("descr", "fortran_order", "shape"))
        is_sound = len(said) == 3 and isinstance(descr, str) and isinstance(is_fortran, bool)
        is_sound = is_sound and isinstance(shape, tuple) and len(shape) < 32
        is_sound = is_sound and all(type(n) is int and 0 <= n < 1 << 62 for n in shape)
        dtype = np.dtype(descr) if is_sound else None
    except (ValueError, SyntaxError, TypeError, KeyError, MemoryError, RecursionError) as error:
        raise TransientError(f"the header of the npy file is damaged: {error}") from error
    if dtype is None:
        raise TransientError(f"the header of the npy file is damaged or of no plain array: {begin(header)}")
    return shape, dtype, is_fortran
