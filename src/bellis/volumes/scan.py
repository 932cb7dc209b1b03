"""What is in the folder of a cache: found by listing directories, not by asking for each block."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bellis.errors import VolumeError
from bellis.volumes.owner import PARTIAL

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from bellis.volumes.blocks import Index

CHUNKS = "c"
"""Folder of the blocks, as zarr names it."""
FEW = 64
"""So many blocks are asked for one by one, which is quicker than lists of folders that may be long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """How full a cache is."""

    num_blocks: int
    """Blocks of the region."""
    num_present: int
    """Blocks of it that are there."""
    num_bytes: int
    """Bytes of their files."""
    num_quarantined: int
    """Damaged files that were put aside, of the whole cache."""
    num_leases: int
    """Blocks that are being fetched, of the whole cache."""
    num_stale_leases: int
    """Leases of processes that are gone; the next who wants the block takes them over."""
    num_partials: int
    """Files that are being written, or were by a process that is gone."""


@dataclass(frozen=True, slots=True)
class BlockFile:
    """A block on disk."""

    path: str
    """Its file."""
    size: int
    """Its bytes."""
    used_ns: int
    """When it was read last, or stored."""


def path_of(directory: Path, index: Index) -> Path:
    """Return the file of a block."""
    return Path(directory, CHUNKS, *map(str, index))


def presence(directory: Path, spans: tuple[range, ...]) -> npt.NDArray[np.bool_]:
    """Return which blocks are there, of those whose index is in one range per axis."""
    found = np.zeros(tuple(map(len, spans)), dtype=bool)
    if found.size <= FEW:
        base = f"{directory}/{CHUNKS}/"
        for at in np.ndindex(found.shape):
            name = "/".join([str(span[k]) for span, k in zip(spans, at, strict=True)])
            found[at] = os.path.exists(base + name)  # noqa: PTH110  (a quarter of the time)
        return found
    names = [{str(k): at for at, k in enumerate(span)} for span in spans]
    _mark(f"{directory}/{CHUNKS}", names, found)
    return found


def block_files(directory: Path, spans: tuple[range, ...]) -> Iterator[BlockFile]:
    """Yield the files of blocks, in no order; those that vanish meanwhile are left out."""
    names = [{str(k): at for at, k in enumerate(span)} for span in spans]
    yield from _files(f"{directory}/{CHUNKS}", names)


def partials(directory: Path) -> list[Path]:
    """Return the files below the folder that are, or were, being written."""
    found = []
    for folder, _, files in os.walk(directory):
        found += [Path(folder, name) for name in files if name.endswith(PARTIAL)]
    return found


def _mark(folder: str, names: list[dict[str, int]], found: npt.NDArray[np.bool_]) -> None:
    known = names[0]
    hits = [(name, known[name]) for name in _listed(folder) if name in known]
    if len(names) == 1:
        found[[at for _, at in hits]] = True
        return
    for name, at in hits:
        _mark(f"{folder}/{name}", names[1:], found[at])


def _files(folder: str, names: list[dict[str, int]]) -> Iterator[BlockFile]:
    if len(names) > 1:
        for name in _listed(folder):
            if name in names[0]:
                yield from _files(f"{folder}/{name}", names[1:])
        return
    try:
        with os.scandir(folder) as entries:
            inside = [entry for entry in entries if entry.name in names[0]]
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise VolumeError(f"can't list {folder}: {error}") from error
    for entry in inside:
        try:
            state = entry.stat()
        except OSError:
            continue
        yield BlockFile(entry.path, state.st_size, state.st_atime_ns)


def _listed(folder: str) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208  (names alone are due)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise VolumeError(f"can't list {folder}: {error}") from error
