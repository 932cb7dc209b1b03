"""Images that cut-out servers send: rows are those of the volume, its slices one below the other, or pages."""

from __future__ import annotations

import io
import re
import struct
import zlib
from itertools import islice
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from bellis.errors import FetchError, TransientError
from bellis.volumes.payload import Found, bound_of, check, library, refuse_bomb

if TYPE_CHECKING:
    import numpy.typing as npt

    from bellis.volumes.descriptions import CutoutDescription

_NEXT_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_JPEG_FRAMES = (0xC0, 0xC1, 0xC2)
_TIFF_COMPRESSIONS = {
    1: 1,
    5: 1400,
    8: 1032,
    32773: 64,
    32946: 1032,
}  # none, LZW, deflate, PackBits, deflate: most gain


def png(body: bytes, description: CutoutDescription, shape: tuple[int, ...]) -> Found:
    """Return the voxels of a grey PNG; its checksums are compared here, as not every reader does."""
    chunks = _png_chunks(body)
    if len(chunks[0][1]) != 13 or chunks[0][0] != b"IHDR" or chunks[-1][0] != b"IEND":
        raise TransientError(f"the PNG is damaged: chunks {chunks[0][0]!r} to {chunks[-1][0]!r}")
    width, height, depth, colour, *_ = struct.unpack(">IIBBBBB", chunks[0][1])
    if colour != 0 or depth not in (8, 16):
        raise FetchError(f"asked for a grey PNG of 8 or 16 bits, the server sent colour type {colour} of {depth} bits")
    _check_image((height, width), np.dtype(f"u{depth // 8}"), description, shape)
    # Without the chunks that a reader may change voxels by, like gamma and transparency.
    plain = [_png_chunk(*chunk) for chunk in chunks if chunk[0] in (b"IHDR", b"IDAT", b"IEND")]
    return Found(_decoded("png", body[:8] + b"".join(plain), (height, width)), is_checked=True)


def jpeg(body: bytes, description: CutoutDescription, shape: tuple[int, ...]) -> Found:
    """Return the voxels of a grey JPEG: nearly those of the volume."""
    size, depth, channels = _jpeg_frame(body)
    if channels != 1 or depth != 8:
        raise FetchError(f"asked for a grey JPEG of 8 bits, the server sent {channels} channels of {depth} bits")
    _check_image(size, np.dtype("u1"), description, shape)
    return Found(_decoded("jpeg8", body, size))


def tiff(body: bytes, description: CutoutDescription, shape: tuple[int, ...]) -> Found:
    """Return the voxels of a TIFF, a page for each slice; nothing is decoded before its size is known."""
    tifffile = library("tifffile", "tiff", "TIFF")
    library("imagecodecs", "tiff", "TIFF")
    num_pages, page_shape = prod(shape[:-2]), shape[-2:]
    try:
        with tifffile.TiffFile(io.BytesIO(body)) as file:
            pages = _checked_pages(file, num_pages, page_shape, description, body)
            return Found(np.stack([page.asarray().reshape(page_shape) for page in pages]))
    except (FetchError, MemoryError):
        raise
    except Exception as error:
        raise TransientError(f"the TIFF is truncated or damaged: {error}") from error


def _checked_pages(
    file: Any, num_pages: int, page_shape: tuple[int, ...], description: CutoutDescription, body: bytes
) -> list[Any]:
    """Return the pages of a file, of which there may be more than there should be, if they are as asked."""
    found = _num_pages(body, num_pages + 1)
    if found != num_pages:
        listed = found if found < num_pages else "more"
        raise FetchError(f"asked for {num_pages} slices of shape {page_shape}, the TIFF has {listed} pages")
    pages = list(islice(file.pages, num_pages))
    if len(pages) != num_pages:
        raise TransientError(f"the TIFF is damaged: {len(pages)} of {num_pages} pages can be read")
    for page in pages:
        if page.dtype is None:
            raise TransientError("the TIFF is damaged: pages of no data type")
        check(page.shape, page.dtype, description, page_shape)
        _check_segments(page, body)
    return pages


def _num_pages(body: bytes, limit: int) -> int:
    """Count pages up to a limit; tifffile takes a file that is cut off for one of fewer pages."""
    order, is_big = ("<" if body[:1] == b"I" else ">"), body[2:4] in (b"+\0", b"\0+")
    offset, count, entry = ("Q", "Q", 20) if is_big else ("I", "H", 12)
    at, num_pages = 8 if is_big else 4, 0
    while num_pages < limit:
        (at,) = struct.unpack_from(order + offset, body, at)
        if at == 0:
            break
        (num_entries,) = struct.unpack_from(order + count, body, at)
        at += struct.calcsize(count) + entry * num_entries
        num_pages += 1
    return num_pages


def _check_segments(page: Any, body: bytes) -> None:
    """Raise if parts of a page are not in the body, or unfold to more than a page."""
    gain = _TIFF_COMPRESSIONS.get(int(page.compression))
    if gain is None:
        raise FetchError(f"the TIFF is compressed by method {int(page.compression)}, not LZW, deflate or PackBits")
    bound = bound_of(page.nbytes)
    segment_bytes = prod(page.chunks) * page.dtype.itemsize
    if segment_bytes > bound or len(page.dataoffsets) != len(page.databytecounts):
        raise TransientError(f"the TIFF is damaged: parts of {segment_bytes} bytes of a page of {page.nbytes}")
    if len(page.dataoffsets) != prod(page.chunked):
        raise TransientError(f"the TIFF is damaged: {len(page.dataoffsets)} of {prod(page.chunked)} parts of a page")
    for begin, size in zip(page.dataoffsets, page.databytecounts, strict=True):
        if begin <= 0 or size <= 0 or begin + size > len(body):
            raise TransientError(f"the TIFF is truncated: a part at {begin} + {size} of {len(body)} bytes")
        if gain == 1032:
            refuse_bomb(body[begin : begin + size], segment_bytes, bound)
        elif size * gain > 1400 * bound or size > 2 * segment_bytes + 1024:
            raise TransientError(f"the TIFF is damaged: a part of {size} bytes for {segment_bytes}")


def _check_image(
    size: tuple[int, int], dtype: np.dtype[Any], description: CutoutDescription, shape: tuple[int, ...]
) -> None:
    if size != (prod(shape[:-1]), shape[-1]) or dtype != description.dtype:
        raise FetchError(
            f"asked for an image of {prod(shape[:-1])} x {shape[-1]} pixels, for shape {shape} "
            f"({', '.join(description.payload_axes)}), and dtype {description.dtype}; the server sent "
            f"{size[0]} x {size[1]} of {dtype}"
        )


def _decoded(codec: str, body: bytes, size: tuple[int, int]) -> npt.NDArray[Any]:
    imagecodecs = library("imagecodecs", "tiff", "PNG and JPEG")
    try:
        image = getattr(imagecodecs, f"{codec}_decode")(body)
    except Exception as error:
        raise TransientError(f"the image is damaged: {error}") from error
    if image.shape != size:
        raise TransientError(f"the image is damaged: shape {image.shape} in place of {size}")
    return image  # type: ignore[no-any-return]


def _png_chunks(body: bytes) -> list[tuple[bytes, bytes]]:
    """Return kind and content of each part up to the last one, whose checksums hold."""
    chunks, at = [], 8
    while at + 12 <= len(body):
        size = int.from_bytes(body[at : at + 4], "big")
        kind, content = body[at + 4 : at + 8], body[at + 8 : at + 8 + size]
        checksum = body[at + 8 + size : at + 12 + size]
        if len(checksum) < 4 or zlib.crc32(kind + content) != int.from_bytes(checksum, "big"):
            break
        chunks.append((kind, content))
        at += 12 + size
        if kind == b"IEND":
            if at == len(body):
                return chunks
            break
    raise TransientError(f"the PNG is truncated or damaged at byte {at} of {len(body)}")


def _png_chunk(kind: bytes, content: bytes) -> bytes:
    return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")


def _jpeg_frame(body: bytes) -> tuple[tuple[int, int], int, int]:
    """Return rows and columns, bits and channels of a JPEG that has its end: readers make up what is cut off."""
    at, frame = 2, None
    while found := _NEXT_MARKER.match(body, at):
        marker, at = found[0][1], at + 2
        if marker == 0xD9:
            if frame is None or body[at:].strip(b"\0"):
                break
            return frame
        size = int.from_bytes(body[at : at + 2], "big")
        if size < 2 or at + size > len(body):
            break
        if marker in _JPEG_FRAMES and size >= 8 and frame is None:
            depth, height, width, channels = struct.unpack_from(">BHHB", body, at + 2)
            frame = (height, width), depth, channels
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            raise FetchError(f"the server sent a JPEG of kind {marker - 0xC0}, not a baseline or progressive one")
        at += size
        if marker == 0xDA:
            scan = _NEXT_MARKER.search(body, at)
            at = scan.start() if scan else len(body)
    raise TransientError(f"the JPEG is truncated or damaged at byte {at} of {len(body)}")
