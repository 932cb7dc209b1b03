"""What cut-out servers send, as voxels."""

from __future__ import annotations

import functools
import struct
import zlib
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from bellis.errors import ArrayError, FetchError, TransientError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    import numpy.typing as npt

    from bellis.volumes.descriptions import CutoutDescription, Payload

_MAGIC: dict[Payload, tuple[bytes, ...]] = {
    "hdf5": (b"\x89HDF\r\n\x1a\n",),
    "npy": (b"\x93NUMPY",),
    "npz": (b"PK\x03\x04",),
    "png": (b"\x89PNG\r\n\x1a\n",),
    "jpeg": (b"\xff\xd8\xff",),
    "tiff": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
}
_GZIP = b"\x1f\x8b\x08"
_BLOSC = struct.Struct(
    "<4B3I"
)  # version, its codec's, flags, bytes per item; bytes, bytes of a block, compressed bytes
_PAGES = ("<!doctype", "<html", "<?xml")


@dataclass(frozen=True, slots=True)
class Decoded:
    """Voxels of a body."""

    voxels: npt.NDArray[Any]
    """Of the shape and dtype that were asked for, C-contiguous, in native byte order."""
    is_checked: bool
    """Whether a checksum in the body covers all that the voxels depend on."""


@dataclass(frozen=True, slots=True)
class Found:
    """An array in a body, as it is there."""

    voxels: npt.NDArray[Any]
    """In the order of axes of the payload."""
    is_checked: bool = False
    """Whether a checksum covers it."""


def decode(body: bytes, description: CutoutDescription, box_shape: tuple[int, ...]) -> Decoded:
    """Return the voxels of a cut-out.

    Parameters
    ----------
    body
        What the server sent; it may be compressed by gzip once more.
    description
        Says what it is.
    box_shape
        Voxels per axis that were asked for, in the order of ``description.axes``.

    Raises
    ------
    TransientError
        If the body is truncated, damaged, or something else: a page for people, say.
    FetchError
        If it is sound, and of another shape or dtype.
    ArrayError
        If a library is missing.
    """
    extents = dict(zip(description.axes, box_shape, strict=True))
    shape = tuple([extents[name] for name in description.payload_axes])
    body, is_checked = _without_gzip(body, description, prod(shape) * description.dtype.itemsize)
    magic = _MAGIC.get(description.payload)
    if magic is not None and not body.startswith(magic):
        raise TransientError(f"asked for {description.payload}, the answer begins with {begin(body)}")
    try:
        found = _decoder(description.payload)(body, description, shape)
    except MemoryError as error:
        raise TransientError(f"the {description.payload} does not decode: {error}") from error
    order = tuple([description.payload_axes.index(name) for name in description.axes])
    voxels = np.ascontiguousarray(found.voxels.reshape(shape).transpose(order), description.dtype)
    return Decoded(voxels, is_checked or found.is_checked)


def is_checked(payload: Payload) -> bool:
    """Whether every sound body of a payload has a checksum of its own."""
    return payload in ("npz", "png")


def check(shape: tuple[int, ...], dtype: np.dtype[Any], description: CutoutDescription, asked: tuple[int, ...]) -> None:
    """Raise if an array is not as asked; leading axes of length 1 more are.

    Raises
    ------
    FetchError
        With what was asked and what was found.
    """
    alike = shape
    while len(alike) > len(asked) and alike[0] == 1:
        alike = alike[1:]
    if alike != asked or dtype.newbyteorder("=") != description.dtype:
        raise FetchError(
            f"asked for voxels of shape {asked} ({', '.join(description.payload_axes)}) and dtype {description.dtype}, "
            f"the server sent shape {shape} and dtype {dtype.name}"
        )


def refuse_bomb(stored: bytes, num_bytes: int, bound: int) -> None:
    """Raise if what deflate compressed would fill the memory: more than ``num_bytes``, and than ``bound``."""
    if len(stored) * 1032 > bound:  # no stream of deflate grows by more
        data = zlib.decompressobj()
        left, total = stored, 0
        while left and not data.eof:
            total += len(data.decompress(left, 1 << 20))
            left = data.unconsumed_tail
            if total > num_bytes:
                raise TransientError(f"compressed data unfolds to more than the {num_bytes} bytes that it should")


def bound_of(num_bytes: int) -> int:
    """Return how much memory the decoding of ``num_bytes`` of voxels may take."""
    return 4 * num_bytes + (64 << 20)


def library(module: str, extra: str, what: str) -> ModuleType:
    """Import a library of an extra.

    Raises
    ------
    ArrayError
        If it is not installed.
    """
    try:
        return __import__(module)
    except ImportError as error:
        raise ArrayError(f"{what} needs {module}, which is not installed: pip install 'bellis[{extra}]'") from error


@functools.cache
def _decoder(payload: Payload) -> Callable[[bytes, CutoutDescription, tuple[int, ...]], Found]:
    if payload == "hdf5":
        from bellis.volumes.payload_hdf5 import decode_hdf5

        return decode_hdf5
    if payload in ("png", "jpeg", "tiff"):
        from bellis.volumes import payload_images

        return {"png": payload_images.png, "jpeg": payload_images.jpeg, "tiff": payload_images.tiff}[payload]
    if payload in ("npy", "npz"):
        from bellis.volumes import payload_npy

        return {"npy": payload_npy.npy, "npz": payload_npy.npz}[payload]
    return {"raw": _raw, "blosc": _blosc}[payload]


def _raw(body: bytes, description: CutoutDescription, shape: tuple[int, ...]) -> Found:
    num_bytes = prod(shape) * description.payload_dtype.itemsize
    if len(body) == num_bytes and not _is_page(body):
        if description.dtype.kind == "b" and body.strip(b"\0\1"):
            raise TransientError("asked for raw bytes that are 0 or 1, the answer has others")
        return Found(np.frombuffer(body, description.payload_dtype))
    if len(body) < num_bytes or _is_text(body):
        raise TransientError(f"asked for {num_bytes} raw bytes, the answer has {len(body)}, and begins {begin(body)}")
    raise FetchError(
        f"asked for voxels of shape {shape} and dtype {description.dtype}: {num_bytes} raw bytes; "
        f"the server sent {len(body)}"
    )


def _blosc(body: bytes, description: CutoutDescription, shape: tuple[int, ...]) -> Found:
    imagecodecs = library("imagecodecs", "tiff", "Blosc")
    num_bytes = prod(shape) * description.payload_dtype.itemsize
    if len(body) < _BLOSC.size or _is_text(body):
        raise TransientError(f"asked for blosc, the answer begins with {begin(body)}")
    version, *_, unfolded, _, stored = _BLOSC.unpack_from(body)
    if version != 2 or len(body) != stored:
        raise TransientError(
            f"the blosc frame, of version {version}, should have {stored} bytes, and has {len(body)}: {begin(body)}"
        )
    if unfolded != num_bytes:
        raise FetchError(
            f"asked for voxels of shape {shape} and dtype {description.dtype}: {num_bytes} bytes; "
            f"the server sent a blosc frame of {unfolded}"
        )
    try:
        plain = imagecodecs.blosc_decode(body)
    except Exception as error:
        raise TransientError(f"the blosc frame is damaged: {error}") from error
    if len(plain) != num_bytes:
        raise TransientError(f"the blosc frame is damaged: {len(plain)} bytes in place of {num_bytes}")
    return Found(np.frombuffer(plain, description.payload_dtype))


def _without_gzip(body: bytes, description: CutoutDescription, num_bytes: int) -> tuple[bytes, bool]:
    """Return what gzip compressed, and whether it did: it checks what it unfolds."""
    if description.payload == "blosc" or not body.startswith(_GZIP):
        return body, False
    if description.payload != "raw":
        return _unfolded(body, bound_of(num_bytes), num_bytes), True
    try:
        unfolded = _unfolded(body, num_bytes, num_bytes)
    except FetchError:
        if len(body) != num_bytes:
            raise
    else:
        if len(unfolded) == num_bytes or len(body) != num_bytes:
            return unfolded, True
    return body, False  # voxels that only begin as a gzip file does


def _unfolded(body: bytes, limit: int, num_bytes: int) -> bytes:
    """Return what a gzip file holds: all of it, and no more than ``limit`` bytes."""
    data = zlib.decompressobj(wbits=31)
    try:
        unfolded = data.decompress(body, limit + 1)
    except zlib.error as error:
        raise TransientError(f"the gzip file is damaged: {error}") from error
    if len(unfolded) > limit:
        raise FetchError(f"the gzip file unfolds to more than {limit} bytes, for {num_bytes} bytes of voxels")
    if not data.eof or data.unused_data:
        raise TransientError(f"the gzip file is truncated or damaged: {len(body)} bytes")
    return unfolded


def _is_page(body: bytes) -> bool:
    return body[:80].decode("latin1").lstrip("\ufeffï»¿ \t\r\n").lower().startswith(_PAGES)


def _is_text(body: bytes) -> bool:
    """Whether a body begins as a page, JSON or a message for people does."""
    first = body[:60].strip()
    return _is_page(body) or (len(first) > 0 and all(32 <= c < 127 or c in b"\r\n\t" for c in first))


def begin(body: bytes) -> str:
    """Return the first bytes, for people."""
    first = body[:60]
    if first and _is_text(body):
        return repr(first.decode("latin1"))
    return f"bytes {first[:16].hex(' ')}" if first else "nothing: it is empty"
