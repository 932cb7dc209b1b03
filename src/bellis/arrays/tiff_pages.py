"""Voxels of TIFF files: of a region, only the strips and tiles that it touches are read and decoded."""

from __future__ import annotations

import itertools
import math
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bellis.errors import ArrayError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from bellis.arrays.format import Missing

CACHE_BYTES = 64 * 1024**2
"""Decoded strips and tiles that are kept per file: a block is rarely as wide as a strip."""


_JPEG = (6, 7, 34892, 33007)


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Where the strips or tiles of one page are."""

    path: str
    """File that they are in."""
    offsets: npt.NDArray[np.int64]
    """Where they begin in the file."""
    sizes_bytes: npt.NDArray[np.int64]
    """How long they are; 0 for those that were never written."""
    is_plain: bool
    """Whether they are one piece, and not encoded."""
    tables: bytes | None
    """JPEG tables."""


class TiffImage:
    """One series of a TIFF file, parsed; the file itself is memory-mapped when voxels are read.

    Parameters
    ----------
    series
        A ``tifffile.TiffPageSeries`` of an open file, which may be closed afterwards.
    path
        The file.
    missing
        What a page or tile that was never written means.
    """

    def __init__(self, series: Any, path: str, missing: Missing) -> None:
        keyframe = series.keyframe
        self.shape: tuple[int, ...] = tuple(series.shape)
        self.stored_dtype = np.dtype(series.dtype).newbyteorder(keyframe.parent.byteorder)
        self.chunk_shape: tuple[int, ...] | None = None
        self._path = path
        self._missing = missing
        self._maps: dict[str, npt.NDArray[np.uint8]] = {}
        self._decoded: OrderedDict[tuple[int, int], npt.NDArray[Any] | None] = OrderedDict()
        self._decoded_bytes = 0
        self._busy = threading.Lock()  # held for a moment: threads decode at the same time
        self._plain_offset: int | None = series.dataoffset
        if self._plain_offset is not None:
            return
        self._page_shape: tuple[int, ...] = tuple(keyframe.shaped)  # plane of samples, z, y, x, sample
        self._lead = _leading(self.shape, math.prod(self._page_shape), len(series.pages), path)
        self._tile = _tile_of(keyframe)
        self._decode = keyframe.decode
        self._header = keyframe.jpegheader if keyframe.compression in _JPEG else None
        self._is_jpeg = keyframe.compression in _JPEG
        self._pages = [_page_of(page, is_jpeg=self._is_jpeg) for page in series.pages]
        self._axes = _page_axes(self._page_shape, self.shape[self._lead :], path)
        chunk = [1] * len(self.shape)
        for axis, length in zip(self._axes, self._tile, strict=True):
            if axis is not None:
                chunk[self._lead + axis] = length
        self.chunk_shape = tuple(chunk)

    def read(self, slices: tuple[slice, ...]) -> npt.NDArray[Any]:
        """Return a region, in new memory and native byte order."""
        region = [range(*s.indices(n)) for s, n in zip(slices, self.shape, strict=True)]
        voxels = np.zeros([len(r) for r in region], dtype=self.stored_dtype.newbyteorder("="))
        if voxels.size == 0:
            return voxels
        if self._plain_offset is not None:
            voxels[...] = self._view(self._path, self.shape, self._plain_offset)[slices]
            return voxels
        inner = region[self._lead :]
        within = [range(1) if axis is None else inner[axis] for axis in self._axes]
        shape = [len(r) for r in within]
        pages = itertools.product(*region[: self._lead])
        for index, target in zip(pages, voxels.reshape(-1, *shape), strict=True):
            number = int(np.ravel_multi_index(index, self.shape[: self._lead])) if index else 0
            self._read_page(number, within, target)
        return voxels

    def _read_page(self, number: int, region: list[range], target: npt.NDArray[Any]) -> None:
        page = self._pages[number]
        if page is None:
            self._refuse_missing(f"page {number}")
            return
        if page.is_plain:
            view = self._view(page.path, self._page_shape, int(page.offsets[0]))
            target[...] = view[tuple(slice(r.start, r.stop) for r in region)]
            return
        for segment, begin in self._segments(region):
            decoded = self._segment(number, page, segment)
            if decoded is None:
                continue
            last = [min(r.stop, b + n) for r, b, n in zip(region, begin, (1, *decoded.shape), strict=True)]
            first = [max(r.start, b) for r, b in zip(region, begin, strict=True)]
            there = tuple(slice(f - r.start, e - r.start) for f, e, r in zip(first, last, region, strict=True))
            here = tuple(slice(f - b, e - b) for f, e, b in zip(first, last, begin, strict=True))
            target[there] = decoded[None][here]

    def _segments(self, region: list[range]) -> Iterator[tuple[int, tuple[int, ...]]]:
        """Yield number and place of the strips or tiles that a region of a page touches."""
        grid = [math.ceil(n / t) for n, t in zip(self._page_shape, self._tile, strict=True)]
        touched = [range(r.start // t, (r.stop - 1) // t + 1) for r, t in zip(region, self._tile, strict=True)]
        for index in itertools.product(*touched):
            begin = tuple(k * t for k, t in zip(index, self._tile, strict=True))
            yield int(np.ravel_multi_index(index, grid)), begin

    def _segment(self, number: int, page: Page, segment: int) -> npt.NDArray[Any] | None:
        """Return a decoded strip or tile, shape (z, y, x, samples); None if it was never written."""
        key = (number, segment)
        with self._busy:
            if key in self._decoded:
                self._decoded.move_to_end(key)
                return self._decoded[key]
        if segment >= len(page.offsets):
            raise ArrayError(f"page {number} has {len(page.offsets)} strips or tiles, number {segment} is due")
        decoded = None
        size_bytes = int(page.sizes_bytes[segment])
        if size_bytes == 0:
            self._refuse_missing(f"strip or tile {segment} of page {number}")
        else:
            decoded = self._decoded_from(page, int(page.offsets[segment]), size_bytes, segment)
        self._keep(key, decoded)
        return decoded

    def _keep(self, key: tuple[int, int], decoded: npt.NDArray[Any] | None) -> None:
        """Keep what was decoded, and let go of what was not used for longest."""
        with self._busy:
            if key not in self._decoded:
                self._decoded[key] = decoded
                self._decoded_bytes += _size_bytes(decoded)
            while self._decoded_bytes > CACHE_BYTES and len(self._decoded) > 1:
                self._decoded_bytes -= _size_bytes(self._decoded.popitem(last=False)[1])

    def _decoded_from(self, page: Page, offset: int, size_bytes: int, segment: int) -> npt.NDArray[Any]:
        encoded = self._map(page.path)[offset : offset + size_bytes].tobytes()
        if len(encoded) < size_bytes:
            raise ArrayError(f"{page.path} ends at byte {self._map(page.path).size}, {offset + size_bytes} are due")
        options = {"jpegtables": page.tables, "jpegheader": self._header} if self._is_jpeg else {}
        decoded: npt.NDArray[Any] = self._decode(encoded, segment, **options)[0]
        return decoded

    def _view(self, path: str, shape: tuple[int, ...], offset: int) -> npt.NDArray[Any]:
        whole = self._map(path)
        due = offset + math.prod(shape) * self.stored_dtype.itemsize
        if due > whole.size:
            raise ArrayError(f"{path} ends at byte {whole.size}, {due} are due")
        return np.ndarray(shape, self.stored_dtype, buffer=whole.data, offset=offset)

    def _map(self, path: str) -> npt.NDArray[np.uint8]:
        if path not in self._maps:
            self._maps[path] = np.memmap(path, dtype=np.uint8, mode="r")
        return self._maps[path]

    def _refuse_missing(self, what: str) -> None:
        if self._missing == "error":
            raise ArrayError(f"{what} is missing: open_ds(..., missing='fill') reads it as 0")


def _size_bytes(decoded: npt.NDArray[Any] | None) -> int:
    return 0 if decoded is None else decoded.nbytes


def _page_of(page: Any, *, is_jpeg: bool) -> Page | None:
    if page is None or not len(page.dataoffsets):
        return None
    return Page(
        path=str(page.parent.filehandle.path),
        offsets=np.asarray(page.dataoffsets, dtype=np.int64),
        sizes_bytes=np.asarray(page.databytecounts, dtype=np.int64),
        is_plain=bool(page.is_final),
        tables=page.jpegtables if is_jpeg else None,
    )


def _tile_of(keyframe: Any) -> tuple[int, ...]:
    """Return the shape of a tile, or of a strip, along the axes of a page."""
    if keyframe.is_tiled:
        sides = (keyframe.tiledepth, keyframe.tilelength, keyframe.tilewidth)
    else:
        sides = (1, keyframe.rowsperstrip, keyframe.imagewidth)
    lengths = [max(1, min(side, n)) for side, n in zip(sides, keyframe.shaped[1:4], strict=True)]
    return (1, *(sides if keyframe.is_tiled else lengths), keyframe.shaped[4])


def _leading(shape: tuple[int, ...], page_size: int, pages: int, path: str) -> int:
    """Return how many axes count pages; the others are within a page."""
    for lead in range(len(shape) + 1):
        if math.prod(shape[:lead]) == pages and math.prod(shape[lead:]) == page_size:
            return lead
    raise ArrayError(f"{path}: {pages} pages of {page_size} voxels do not make an array of shape {shape}")


def _page_axes(page_shape: tuple[int, ...], shape: tuple[int, ...], path: str) -> tuple[int | None, ...]:
    """Return for each axis of a page which of the presented ones it is; those of length 1 may be left out."""
    presented = iter([k for k, n in enumerate(shape) if n > 1])
    axes = tuple(next(presented, None) if n > 1 else None for n in page_shape)
    if any(n != (1 if k is None else shape[k]) for n, k in zip(page_shape, axes, strict=True)):
        raise ArrayError(f"{path}: pages of shape {page_shape} do not make an array of shape {shape}")
    return axes
