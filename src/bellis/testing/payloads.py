"""Voxels as cut-out servers send them: the other direction of `bellis.volumes.payload`."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from bellis.volumes.descriptions import Payload

PAYLOADS: tuple[Payload, ...] = ("hdf5", "npy", "npz", "raw", "blosc", "png", "jpeg", "tiff")
"""All that a server can send."""
IMAGES: tuple[Payload, ...] = ("png", "jpeg", "tiff")
"""Those that are images."""


def encode(
    voxels: npt.NDArray[Any], payload: Payload, *, hdf5_dataset: str = "cutout", checksum: bool = False
) -> bytes:
    """Return the body that a server sends for voxels.

    Parameters
    ----------
    voxels
        In the order of axes and of bytes in which they are sent.
    payload
        As what.
    hdf5_dataset
        Where they are in an HDF5 file.
    checksum
        Whether an HDF5 file has checksums; others have them or not.
    """
    voxels = np.ascontiguousarray(voxels)
    if payload == "hdf5":
        return _hdf5(voxels, hdf5_dataset, checksum=checksum)
    if payload == "raw":
        return voxels.tobytes()
    if payload in ("npy", "npz"):
        body = io.BytesIO()
        np.lib.format.write_array(body, voxels, allow_pickle=False)
        return body.getvalue() if payload == "npy" else _npz(body.getvalue())
    import imagecodecs

    if payload == "blosc":
        return bytes(imagecodecs.blosc_encode(voxels.tobytes(), 5, compressor="lz4", typesize=voxels.itemsize))
    if payload == "tiff":
        return _tiff(voxels)
    image = voxels.reshape(-1, voxels.shape[-1])
    if payload == "png":
        return _png(image)
    return bytes(imagecodecs.jpeg8_encode(image, level=95))


def _hdf5(voxels: npt.NDArray[Any], name: str, *, checksum: bool) -> bytes:
    import h5py  # type: ignore[import-untyped, unused-ignore]

    body = io.BytesIO()
    # What an older HDF5 reads, as servers write it; checksums of all that is in the file came with 1.10.
    with h5py.File(body, "w", libver=("v110", "latest") if checksum else None) as file:
        options = {"fletcher32": True, "chunks": voxels.shape} if checksum else {}
        file.create_dataset(name, data=voxels, **options)
    return body.getvalue()


def _npz(npy: bytes) -> bytes:
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("arr_0.npy", npy)
    return body.getvalue()


def _png(image: npt.NDArray[Any]) -> bytes:
    """Return a grey PNG: imagecodecs 2026.3.6 cuts off the end of small ones."""
    rows = image.astype(image.dtype.newbyteorder(">")).view(np.uint8).reshape(len(image), -1)
    lines = np.concatenate([np.zeros((len(rows), 1), np.uint8), rows], axis=1)  # each begins with its filter: none
    header = struct.pack(">IIBBBBB", image.shape[1], image.shape[0], 8 * image.itemsize, 0, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(lines.tobytes(), 1)), (b"IEND", b""))
    sums = [zlib.crc32(kind + content) for kind, content in parts]
    chunks = [
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)
        for (kind, content), checksum in zip(parts, sums, strict=True)
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _tiff(voxels: npt.NDArray[Any]) -> bytes:
    import tifffile

    body = io.BytesIO()
    order: Literal[">", "<"] = ">" if voxels.dtype.byteorder == ">" else "<"
    slices = voxels.reshape(-1, *voxels.shape[-2:])
    tifffile.imwrite(body, slices, byteorder=order, photometric="minisblack", compression="zlib", metadata=None)
    return body.getvalue()
