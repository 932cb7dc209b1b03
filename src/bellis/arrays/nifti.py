"""NIfTI images, read only, through nibabel: presented as (z, y, x), where NIfTI has x, y, z.

A voxel of an integer image with a scale (``scl_slope``, ``scl_inter``) is what it stands for, as float32. Without a
unit in the header, lengths are millimetres and times seconds, which is what the format's users mean.

The offset is the translation of the affine where that only scales, upwards; else it is 0, as axes that turn or flip
can't be told by an offset. The affine itself is in ``attrs["affine"]``, x, y, z as NIfTI has them.
"""

from __future__ import annotations

import functools
import gzip
import math
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bellis.arrays.conventions import layout_of
from bellis.arrays.format import Stored
from bellis.arrays.units import rational
from bellis.errors import ArrayError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from fractions import Fraction

    import numpy.typing as npt

    from bellis.arrays.format import Missing, NewArray
    from bellis.arrays.location import Location

SUFFIXES = (".nii", ".nii.gz")
"""Endings of a file that is taken for NIfTI."""
UNPACKED_FILES = 2
"""Compressed files that a process keeps unpacked: gzip can't be read from its middle."""
_NAMES = ("x", "y", "z", "t", "c", "c1", "c2")
_TYPES = ("space", "space", "space", "time", "channel", "channel", "channel")
_UNITS = {"unknown": None, "meter": "m", "mm": "mm", "micron": "um", "sec": "s", "msec": "ms", "usec": "us"}


class NiftiData:
    """Voxels of a NIfTI image; read only."""

    __slots__ = ("_offset_bytes", "_scale", "_stored_dtype", "dtype", "path", "shape")

    chunk_shape = None
    write_shape = None
    is_writeable = False

    def __init__(
        self,
        path: str,
        *,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        offset_bytes: int,
        scale: tuple[float, float] | None,
    ) -> None:
        self.path = path
        self._stored_dtype = dtype
        self._offset_bytes = offset_bytes
        self._scale = scale
        self.shape = shape
        self.dtype = dtype.newbyteorder("=") if scale is None else _scaled_dtype(dtype)

    def __getitem__(self, slices: tuple[slice, ...]) -> npt.NDArray[Any]:
        """Read into new memory, scaled, in native byte order."""
        with _explained(f"read {slices} of {self.path}"):
            # NIfTI has x vary fastest, which is the last axis here.
            voxels = np.ndarray(self.shape, self._stored_dtype, buffer=self._bytes(), offset=self._offset_bytes)[slices]
        if self._scale is None:
            return voxels.astype(self.dtype, order="C", copy=True)
        slope, intercept = self._scale
        return (voxels.astype(np.float64, order="C") * slope + intercept).astype(self.dtype)

    def __setitem__(self, slices: tuple[slice, ...], voxels: npt.NDArray[Any]) -> None:
        """Refuse: NIfTI is only read."""
        raise ArrayError(f"{self.path} is NIfTI, which is only read: write zarr, N5 or HDF5")

    def _bytes(self) -> Any:
        if self.path.lower().endswith(".gz"):
            found = Path(self.path).stat()
            return _unpacked(self.path, found.st_mtime_ns, found.st_size)
        # Mapped for one access, which costs 20 us, and keeps no file open.
        return np.memmap(self.path, dtype=np.uint8, mode="r").data


class NiftiFormat:
    """NIfTI 1 and 2 in one file, ``.nii`` or ``.nii.gz``; read only."""

    name = "nifti"

    def claims(self, location: Location) -> bool:
        """Whether it is called like a NIfTI file."""
        if location.format is not None:
            return location.format == self.name
        return location.suffix in SUFFIXES

    def datasets(self, location: Location) -> list[str]:
        """Return nothing: a file is one image."""
        return []

    def open(self, location: Location, *, is_writeable: bool, missing: Missing) -> Stored | None:
        """Describe an image."""
        if location.is_remote:
            raise ArrayError(f"{location} is a URL: NIfTI is read from local files; fetch the file, or convert it")
        if location.name or not Path(location.root).is_file():
            return None
        if is_writeable:
            raise ArrayError(f"{location} is NIfTI, which is only read: open_ds(..., mode='r')")
        image = _load(location.root)
        proxy = image.dataobj
        dtype = np.dtype(proxy.dtype)
        if dtype.kind not in "biufc" or dtype.itemsize > 16 or dtype.name == "longdouble":
            raise ArrayError(f"{location} has data type {image.get_data_dtype()}: only numbers are read")
        shape = tuple(int(n) for n in reversed(image.shape))
        slope, intercept = float(proxy.slope), float(proxy.inter)
        data = NiftiData(
            location.root,
            shape=shape,
            dtype=dtype,
            offset_bytes=int(proxy.offset),
            scale=None if (slope, intercept) == (1.0, 0.0) else (slope, intercept),
        )
        if not data.shape or 0 in data.shape:
            raise ArrayError(f"{location} has no voxels: its shape is {data.shape}")
        _check_size(data, location.root, int(proxy.offset), dtype)
        return Stored(
            data=data,
            layout=layout_of(_axes(image), shape, data.dtype),
            attrs=_attributes(image),
            format="nifti",
            compressor="gzip" if location.root.lower().endswith(".gz") else None,
        )

    def create(self, location: Location, new: NewArray) -> None:
        """Refuse: NIfTI is only read."""
        raise ArrayError(f"{location}: NIfTI is only read: write zarr, N5 or HDF5")

    def delete(self, location: Location) -> None:
        """Refuse: NIfTI is only read."""
        raise ArrayError(f"{location}: NIfTI is only read, and not deleted")


def _load(path: str) -> Any:
    try:
        import nibabel
    except ImportError as error:
        raise ArrayError("NIfTI needs nibabel, which is not installed: pip install 'bellis[nifti]'") from error
    with _explained(f"open {path}"):
        image = nibabel.load(path, keep_file_open=False)
    if not isinstance(image, nibabel.Nifti1Image):  # which version 2 is as well
        raise ArrayError(f"{path} is a {type(image).__name__}, not NIfTI")
    return image


def _scaled_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    if dtype.kind == "c":
        return dtype.newbyteorder("=")
    return np.dtype(np.float64 if dtype == np.float64 else np.float32)


@functools.lru_cache(maxsize=UNPACKED_FILES)
def _unpacked(path: str, _modified_ns: int, _size_bytes: int) -> bytes:
    """Return the contents of a gzip file, once per process; again if the file was changed."""
    with gzip.open(path) as file:
        return file.read()


def _axes(image: Any) -> dict[str, Any]:
    """Return axes, voxel size and offset as bellis' attributes: z, y, x."""
    header = image.header
    rank = len(image.shape)
    spatial, temporal = (_UNITS.get(unit) for unit in header.get_xyzt_units())
    zooms = [_exact(size) or 1 for size in header.get_zooms()]
    physical = min(rank, 4)
    corner = [*_translation(image, zooms), 0, 0, 0][: min(rank, 3)] + [0] * (physical - min(rank, 3))
    units = [*[spatial or "mm"] * min(rank, 3), *[temporal or "s"] * (physical - min(rank, 3))]
    return {
        "axis_names": _NAMES[:rank][::-1],
        "types": _TYPES[:rank][::-1],
        "voxel_size": zooms[:physical][::-1],
        "offset": corner[::-1],
        "units": units[::-1],
    }


def _translation(image: Any, zooms: list[Any]) -> list[Any]:
    """Return where the affine puts the first voxel, if it does no more than that."""
    affine = image.affine
    sizes = np.array([float(size) for size in [*zooms, 1, 1, 1][:3]])
    if affine is None or not np.allclose(affine[:3, :3], np.diag(sizes), rtol=1e-5, atol=1e-6 * sizes.min()):
        return [0, 0, 0]
    return [_exact(value) for value in affine[:3, 3]]


def _exact(value: Any) -> Fraction:
    """Return the decimal that a float32 of the header stands for."""
    return rational(np.float32(value))


def _attributes(image: Any) -> dict[str, Any]:
    header = image.header
    return {
        "affine": np.asarray(image.affine).tolist() if image.affine is not None else None,
        "descrip": bytes(header["descrip"]).split(b"\0")[0].decode("latin-1"),
        "qform_code": int(header["qform_code"]),
        "sform_code": int(header["sform_code"]),
    }


def _check_size(data: NiftiData, path: str, offset_bytes: int, dtype: np.dtype[Any]) -> None:
    """Refuse a file that was cut off; of a compressed one, it is found out when it is read."""
    due = offset_bytes + math.prod(data.shape) * dtype.itemsize
    found = Path(path).stat().st_size
    if not path.lower().endswith(".gz") and found < due:
        raise ArrayError(f"{path} ends at byte {found}, {due} are due: it is not complete")


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Turn what nibabel, gzip and memory maps raise for a damaged file into an ArrayError."""
    try:
        yield
    except Exception as error:
        raise ArrayError(f"can't {what}: {type(error).__name__}: {error}") from error
