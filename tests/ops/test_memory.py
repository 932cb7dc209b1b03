"""Estimates of memory."""

from __future__ import annotations

import os
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bellis import Array, Coordinate, TaskError
from bellis.ops import memory
from bellis.ops.blocks import Limits, block_task

MB = 1_000_000


def nothing(block: object) -> None: ...


class Volume:
    """Stands for a large array."""

    def __init__(self, shape: tuple[int, ...], dtype: str, chunks: tuple[int, ...] | None) -> None:
        self.shape, self.dtype, self.chunks = shape, np.dtype(dtype), chunks

    def __getitem__(self, slices: object) -> None: ...
    def __setitem__(self, slices: object, voxels: object) -> None: ...


def volume(side: int, dtype: str = "uint8", chunk: int | None = None, channels: int | None = None) -> Array:
    shape = (side,) * 3 if channels is None else (channels, side, side, side)
    chunks = None if chunk is None else (1,) * (len(shape) - 3) + (chunk,) * 3
    return Array(Volume(shape, dtype, chunks), voxel_size=(1, 1, 1))


def test_a_block_counts_what_it_reads_with_context_and_what_it_writes() -> None:
    limits = Limits(max_memory=1)
    with pytest.raises(TaskError) as caught:
        block_task("t", nothing, reads=[volume(512)], writes=[volume(512, "float32")], block_shape=128, context=8,
                   limits=limits)  # fmt: skip
    needed = memory.WORKER_BYTES + 3 * (144**3 + 4 * 128**3)
    assert f"about {needed / MB:.0f} MB for a block of (128, 128, 128) voxels" in str(caught.value)


def test_channels_count_and_a_read_is_at_most_the_whole_array() -> None:
    with pytest.raises(TaskError) as caught:
        block_task("t", nothing, reads=[volume(100, channels=3)], writes=[volume(100)], context=50,
                   limits=Limits(max_memory=1))  # fmt: skip
    needed = memory.WORKER_BYTES + 3 * (3 * 100**3 + 100**3)
    assert f"about {needed / MB:.0f} MB" in str(caught.value)


def test_the_error_names_the_largest_block_that_fits() -> None:
    most = memory.WORKER_BYTES + 3 * 128 * 256 * 256
    with pytest.raises(TaskError) as caught:
        block_task("t", nothing, writes=[volume(512, chunk=64)], block_shape=256, limits=Limits(max_memory=most))
    suggested = re.search(r"block_shape=\(([\d, ]+)\)", str(caught.value))
    assert suggested is not None
    block = eval(f"({suggested[1]})")
    assert all(n % 64 == 0 for n in block)
    block_task("t", nothing, writes=[volume(512, chunk=64)], block_shape=block, limits=Limits(max_memory=most))


def test_if_no_block_fits_the_error_says_so() -> None:
    with pytest.raises(TaskError, match=r"not even a block of \(64, 64, 64\), the smallest between chunks, fits"):
        block_task("t", nothing, writes=[volume(512, chunk=64)], limits=Limits(max_memory=1000))


def test_memory_that_an_operation_states_takes_the_place_of_the_estimate() -> None:
    block_task("t", nothing, writes=[volume(512)], memory_bytes=10 * MB, limits=Limits(max_memory=10 * MB))
    with pytest.raises(TaskError, match="about 10 MB"):
        block_task("t", nothing, writes=[volume(512)], memory_bytes=10 * MB, limits=Limits(max_memory=9 * MB))


def test_workers_share_the_machine() -> None:
    total = memory.machine_bytes()
    assert 0 < total <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert memory.share_of_worker(4) == total // 4
    assert memory.share_of_worker(None) <= total
    with pytest.raises(TaskError, match="may have"):
        block_task("t", nothing, writes=[volume(4096)], block_shape=4096, limits=Limits(num_workers=64))


@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(1, 8)), min_size=1, max_size=3),
    st.integers(0, 40**3),
)
def test_the_largest_block_fits_and_is_of_whole_units(axes: list[tuple[int, int]], most: int) -> None:
    block = Coordinate(n for n, _ in axes)
    units = [min(n, unit) for n, unit in axes]

    def bytes_of(shape: Coordinate) -> int:
        return int(np.prod(shape))

    found = memory.largest_block(bytes_of, block, units, max_memory=most)
    if found is None:
        assert bytes_of(Coordinate(units)) > most
        return
    assert bytes_of(found) <= most
    assert all(n == whole or n % unit == 0 for n, whole, unit in zip(found, block, units, strict=True))


def test_a_bound_is_a_number_of_bytes_or_written_with_a_unit() -> None:
    assert [memory.parse_bytes(size) for size in (None, 5, "2GB", "1.5 GiB", "10k")] == [
        *(None, 5, 2 * 10**9, 3 * 2**29, 10_000)
    ]
    for wrong in ("lots", "-1", 0, "GB"):
        with pytest.raises(TaskError, match="like 500MB or 2GB"):
            Limits(max_memory=wrong)
