"""TIFF files and stacks of them, read only, through tifffile."""

from __future__ import annotations

import contextlib
import glob
import itertools
import logging
import os
import re
import threading
from collections import OrderedDict
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bellis.arrays.conventions import layout_of
from bellis.arrays.format import Stored
from bellis.arrays.tiff_axes import axes_of
from bellis.arrays.tiff_pages import TiffImage
from bellis.errors import ArrayError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

    import numpy.typing as npt

    from bellis.arrays.format import Missing, NewArray
    from bellis.arrays.location import Location

SUFFIXES = (".tif", ".tiff")
"""Endings of a file that is taken for TIFF."""
OPEN_FILES = 64
"""Files of a stack that a process keeps parsed."""
_DAMAGED = re.compile("invalid (page|value) offset|invalid or corrupted|incompletely written")
LOOK_AT = 1000
"""Entries of a directory among which a TIFF file is looked for."""


class TiffData:
    """Voxels of one series of a TIFF file, or of a stack of files; read only."""

    __slots__ = ("_files", "_images", "_missing", "_series", "chunk_shape", "dtype", "path", "shape")

    is_writeable = False
    write_shape = None

    def __init__(self, files: tuple[str, ...], path: str, series: int, image: TiffImage, missing: Missing) -> None:
        self._files = files
        self.path = path
        self._series = series
        self._missing = missing
        self._images: OrderedDict[int, TiffImage] = OrderedDict({0: image})
        self.shape = image.shape if self._is_file else (len(files), *image.shape)
        self.dtype = image.stored_dtype.newbyteorder("=")
        inner = image.chunk_shape or image.shape
        self.chunk_shape = image.chunk_shape if self._is_file else (1, *inner)

    def __getitem__(self, slices: tuple[slice, ...]) -> npt.NDArray[Any]:
        """Read into new memory, in native byte order."""
        with _explained(f"read {slices} of {self.path}"):
            if self._is_file:
                return self._image(0).read(slices)
            chosen = range(*slices[0].indices(len(self._files)))
            shape = [len(range(*s.indices(n))) for s, n in zip(slices, self.shape, strict=True)]
            voxels = np.empty(shape, dtype=self.dtype)
            for target, number in zip(voxels, chosen, strict=True):
                target[...] = self._image(number).read(slices[1:])
            return voxels

    def __setitem__(self, slices: tuple[slice, ...], voxels: npt.NDArray[Any]) -> None:
        """Refuse: TIFF is only read."""
        raise ArrayError(f"{self.path} is a TIFF file, which is only read: write zarr, N5 or HDF5")

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__ if name != "_images"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._images = OrderedDict()
        for name, value in state.items():
            setattr(self, name, value)

    @property
    def _is_file(self) -> bool:
        return self._files == (self.path,)

    def _image(self, number: int) -> TiffImage:
        image = self._images.get(number)
        if image is not None:
            return image
        path = self._files[number]
        with _series_of(path) as series:
            image = TiffImage(series[self._series], path, self._missing)
        due = self.shape if self._is_file else self.shape[1:]
        if image.shape != due or image.stored_dtype.newbyteorder("=") != self.dtype:
            raise ArrayError(f"{path} has shape {image.shape} and {image.stored_dtype}, not {due} and {self.dtype}")
        self._images[number] = image
        while len(self._images) > OPEN_FILES:
            with contextlib.suppress(KeyError):  # of another thread, that took the last
                self._images.popitem(last=False)
        return image


class TiffFormat:
    """TIFF files, read only: stacks, hyperstacks of ImageJ, OME-TIFF, and directories of 2-D files."""

    name = "tiff"

    def claims(self, location: Location) -> bool:
        """Whether it is called like a TIFF file, or is a directory with one in it."""
        if location.format is not None or location.suffix in SUFFIXES:
            return location.format in (None, self.name)
        if location.is_remote or location.name:
            return False
        try:
            with os.scandir(location.root) as entries:
                return any(entry.name.lower().endswith(SUFFIXES) for entry in itertools.islice(entries, LOOK_AT))
        except OSError:
            return False

    def datasets(self, location: Location) -> list[str]:
        """Return the numbers of the series, if a file has several; the first is what the file opens as."""
        paths = _paths(location)
        if location.name or len(paths) != 1:
            return []
        with _explained(f"list {location}"), _series_of(paths[0]) as series:
            return [str(k) for k in range(len(series))] if len(series) > 1 else []

    def open(self, location: Location, *, is_writeable: bool, missing: Missing) -> Stored | None:
        """Describe a series; its name is its number, without one the first is meant."""
        paths = _paths(location)
        if not paths or not (location.name or "0").isdigit():
            return None
        if is_writeable:
            raise ArrayError(f"{location} is TIFF, which is only read: open_ds(..., mode='r')")
        number = int(location.name or 0)
        with _explained(f"open {location}"), _series_of(paths[0]) as found:
            if number >= len(found):
                return None
            series = found[number]
            _check(series, location)
            data = TiffData(paths, location.root, number, TiffImage(series, paths[0], missing), missing)
            said = axes_of(series, number)
            compression = series.keyframe.compression.name.lower()
        if len(data.shape) > len(said["axis_names"]):
            said = _stacked(said, location)
        return Stored(
            data=data,
            layout=layout_of(said, data.shape, data.dtype),
            format="tiff",
            compressor=None if compression == "none" else compression,
            fill_value=data.dtype.type(0),
        )

    def create(self, location: Location, new: NewArray) -> None:
        """Refuse: TIFF is only read."""
        raise ArrayError(
            f"{location}: TIFF is only read, as it can't be written block by block: write zarr, N5 or HDF5"
        )

    def delete(self, location: Location) -> None:
        """Refuse: TIFF is only read."""
        raise ArrayError(f"{location}: TIFF is only read, and not deleted")


def _library() -> ModuleType:
    try:
        import tifffile
    except ImportError as error:
        raise ArrayError("TIFF needs tifffile, which is not installed: pip install 'bellis[tiff]'") from error
    return tifffile


class _Complaints(logging.Handler):
    """What tifffile only logs of a damaged file, of which it then returns what is left."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._thread = threading.get_ident()
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread == self._thread and _DAMAGED.search(record.getMessage()):
            self.found.append(record.getMessage())


@contextlib.contextmanager
def _series_of(path: str) -> Iterator[list[Any]]:
    """Parse a file, and close it again: voxels are read from a memory map.

    Raises
    ------
    ArrayError
        If the file is damaged, at the end of the context, when all of its pages were looked at.
    """
    complaints = _Complaints()
    logger = logging.getLogger("tifffile")
    logger.addHandler(complaints)
    try:
        with _library().TiffFile(path) as file:
            yield file.series
    finally:
        logger.removeHandler(complaints)
    if complaints.found:
        raise ArrayError(f"{path} is damaged, or was cut off: {complaints.found[0]}")


def _paths(location: Location) -> tuple[str, ...]:
    """Return the files that a location means: itself, those in a directory, or those that a pattern matches."""
    if location.is_remote:
        raise ArrayError(f"{location} is a URL: TIFF is read from local files; fetch the file, or convert it to zarr")
    root = Path(location.root)
    if root.is_file():
        return (location.root,)
    if root.is_dir():
        names = [entry.path for entry in os.scandir(root) if entry.name.lower().endswith(SUFFIXES)]
    else:
        names = glob.glob(location.root)  # noqa: PTH207  # the pattern may be absolute
    return tuple(_in_order(names, location))


def _in_order(paths: list[str], location: Location) -> list[str]:
    """Sort files by the numbers in their names, and refuse to close up gaps."""
    ordered = sorted(
        paths, key=lambda path: [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", Path(path).name)]
    )
    numbers = [int(found[-1]) for path in ordered if (found := re.findall(r"\d+", Path(path).stem))]
    steps = np.diff(numbers) if len(numbers) == len(ordered) else np.ones(1, dtype=int)
    if len(steps) > 1 and (gaps := np.flatnonzero(steps > steps.min())).size and steps.min() > 0:
        after = Path(ordered[gaps[0]]).name
        raise ArrayError(
            f"{location}: files of the stack are missing after {after}, where {Path(ordered[gaps[0] + 1]).name} follows"
        )
    return ordered


def _stacked(said: dict[str, Any], location: Location) -> dict[str, Any]:
    """Return the axes of a stack of 2-D files: z in front of what one file has."""
    physical = [kind for kind in said["types"] if kind != "channel"]
    if physical != ["space", "space"]:
        raise ArrayError(
            f"{location}: the first of its TIFF files has axes {', '.join(said['axis_names'])}, but only "
            "two-dimensional files make a stack: name one file"
        )
    size, unit = ([1], ["nm"]) if "voxel_size" not in said else ([Fraction(1)], said["units"][:1])
    stacked = {"axis_names": ["z", *said["axis_names"]], "types": ["space", *said["types"]]}
    if "voxel_size" in said:
        stacked |= {"voxel_size": [*size, *said["voxel_size"]], "units": [*unit, *said["units"]]}
    return stacked


def _check(series: Any, location: Location) -> None:
    if not series.shape or 0 in series.shape:
        raise ArrayError(f"{location} has no voxels: its shape is {series.shape}")
    dtype = series.dtype
    if dtype is None or dtype.kind not in "biufc" or dtype.itemsize > 16:
        raise ArrayError(f"{location} has data type {dtype}: only numbers are read")


@contextlib.contextmanager
def _explained(what: str) -> Iterator[None]:
    """Turn what tifffile and its codecs raise into an ArrayError."""
    try:
        yield
    except ArrayError as error:
        raise ArrayError(f"can't {what}: {error}") from error
    except Exception as error:  # codecs are plugins: each has errors of its own
        cure = ": pip install imagecodecs" if "imagecodecs" in str(error) else ""
        raise ArrayError(f"can't {what}: {type(error).__name__}: {error}{cure}") from error
