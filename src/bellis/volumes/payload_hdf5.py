"""HDF5 files that cut-out servers send, read from memory."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

from bellis.errors import FetchError, TransientError
from bellis.volumes.payload import Found, bound_of, check, library, refuse_bomb

if TYPE_CHECKING:
    from bellis.volumes.descriptions import CutoutDescription

_DEFLATE, _SHUFFLE, _FLETCHER32, _LZF = 1, 2, 3, 32000
_SUPERBLOCK_WITH_CHECKSUMS = 3


def decode_hdf5(body: bytes, description: CutoutDescription, shape: tuple[int, ...]) -> Found:
    """Return the dataset that is named, and nothing else: links, external and virtual data are not followed."""
    h5py = library("h5py", "hdf5", "HDF5")
    name = (description.hdf5_dataset or "").strip("/")
    if not name:
        raise FetchError("the description names no hdf5_dataset: say which dataset of the HDF5 file has the voxels")
    try:
        with h5py.File(h5py.h5f.open_file_image(body)) as file:
            dataset = _dataset(h5py, file, name)
            return _voxels(dataset, body, description, shape)
    except (FetchError, MemoryError):
        raise
    except Exception as error:
        raise TransientError(f"the HDF5 file is truncated or damaged: {error}") from error


def _dataset(h5py: Any, file: Any, name: str) -> Any:
    group = file
    for part in name.split("/"):
        link = group.get(part, getlink=True) if isinstance(group, h5py.Group) else None
        if link is None:
            raise FetchError(f"asked for dataset {name!r}, the HDF5 file has {', '.join(sorted(file)[:10]) or 'none'}")
        if not isinstance(link, h5py.HardLink):
            raise FetchError(f"{part!r} of dataset {name!r} is a {type(link).__name__} in the HDF5 file: not followed")
        group = group[part]
    if not isinstance(group, h5py.Dataset):
        raise FetchError(f"{name!r} is no dataset in the HDF5 file")
    return group


def _voxels(dataset: Any, body: bytes, description: CutoutDescription, shape: tuple[int, ...]) -> Found:
    if dataset.external or dataset.is_virtual:
        raise FetchError(f"dataset {dataset.name!r} keeps its voxels outside of the HDF5 file: not followed")
    if dataset.shape is None or dataset.dtype.hasobject:
        raise FetchError(f"asked for voxels of dtype {description.dtype}, the server sent {dataset.dtype} objects")
    check(dataset.shape, dataset.dtype, description, shape)
    if dataset.chunks is None:
        _check_contiguous(dataset, len(body))
        return Found(dataset[...])
    is_checked = _check_chunks(dataset, body)
    return Found(dataset[...], is_checked=is_checked)


def _check_contiguous(dataset: Any, num_bytes: int) -> None:
    """Raise if voxels are not in the body: HDF5 takes what was never written for 0."""
    place = dataset.id.get_offset()
    if dataset.id.get_storage_size() < dataset.nbytes or (place is not None and place + dataset.nbytes > num_bytes):
        raise TransientError(f"the HDF5 file is damaged: it has not all voxels of {dataset.name!r}")


def _check_chunks(dataset: Any, body: bytes) -> bool:
    """Raise if a chunk is missing or too large; return whether checksums cover all of them, and where they are."""
    properties = dataset.id.get_create_plist()
    filters = [properties.get_filter(k)[0] for k in range(properties.get_nfilters())]
    if other := [n for n in filters if n not in (_DEFLATE, _SHUFFLE, _FLETCHER32, _LZF)]:
        raise FetchError(f"dataset {dataset.name!r} is stored by HDF5's filter {other[0]}, not gzip, shuffle or lzf")
    chunk_bytes = prod(dataset.chunks) * dataset.dtype.itemsize
    bound = bound_of(dataset.nbytes)
    if chunk_bytes > bound:
        raise FetchError(f"dataset {dataset.name!r} has chunks of {chunk_bytes} bytes, for {dataset.nbytes} of voxels")
    expected = prod(-(-n // size) for n, size in zip(dataset.shape, dataset.chunks, strict=True))
    if dataset.id.get_num_chunks() != expected:
        raise TransientError(
            f"the HDF5 file is damaged: {dataset.id.get_num_chunks()} of the {expected} chunks of {dataset.name!r}"
        )
    is_whole = True
    for k in range(expected):
        info = dataset.id.get_chunk_info(k)
        is_whole = is_whole and info.filter_mask == 0
        if info.byte_offset is None or info.size > 2 * chunk_bytes + 1024:
            raise TransientError(f"the HDF5 file is damaged: a chunk of {info.size} bytes at {info.byte_offset}")
        if _DEFLATE in filters:
            refuse_bomb(body[info.byte_offset : info.byte_offset + info.size], chunk_bytes + 4, bound)
    # Older files have checksums of voxels at most, and none of where they are and how they are to be read.
    return is_whole and _FLETCHER32 in filters and body[8] >= _SUPERBLOCK_WITH_CHECKSUMS
