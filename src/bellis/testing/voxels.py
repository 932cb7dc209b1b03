"""Voxels to store, and what the processes of a test do with them."""

from __future__ import annotations

import multiprocessing
import os
import pickle
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from bellis.arrays import prepare_ds
from bellis.arrays.keyvalue import update_json
from bellis.arrays.location import Location

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy.typing as npt

    from bellis.geometry import Roi


def numbers(shape: Sequence[int], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Return voxels of which neighbours differ."""
    return (np.arange(np.prod(shape, dtype=int)) % 120).reshape(shape).astype(dtype)


def read_all(sent: bytes) -> tuple[int, npt.NDArray[Any]]:
    """Read an array that was sent here; return where that is, and its voxels."""
    return os.getpid(), pickle.loads(sent).to_ndarray()  # noqa: S301  (the suite's own)


def fill_block(sent: bytes, roi: Roi, value: int) -> int:
    """Write a region of an array that was sent here; return where that is."""
    pickle.loads(sent)[roi] = value  # noqa: S301  (the suite's own)
    return os.getpid()


def prepare_and_describe(path: str, shape: tuple[int, ...], options: dict[str, Any]) -> tuple[tuple[int, ...], str]:
    """Make an array, or take it; return its shape and dtype."""
    array = prepare_ds(path, shape, dtype="uint16", **options)
    return array.shape, array.dtype.name


def count_up(path: Path, times: int) -> None:
    """Add 1 to a number in a metadata file, several times."""
    for _ in range(times):
        update_json(Location.of(path), "a.json", lambda found: {"n": found.get("n", 0) + 1})


def processes(count: int) -> ProcessPoolExecutor:
    """Return fresh processes; one that can't be started is an error, where ``multiprocessing.Pool`` waits for ever."""
    return ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn"))
