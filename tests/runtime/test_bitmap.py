"""Bitmaps: one bit per block on disk, and no damage that goes unseen."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bellis.errors import JournalCorruptError
from bellis.runtime.bitmap import CHUNK_BLOCKS, Bitmap, reserve

if TYPE_CHECKING:
    from collections.abc import Iterator

SIZES = st.sampled_from([1, 7, 8, 9, 1000, CHUNK_BLOCKS - 1, CHUNK_BLOCKS, CHUNK_BLOCKS + 1, 3 * CHUNK_BLOCKS])
NONE = np.empty(0, np.int64)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "task.done"


@pytest.fixture
def bitmap(path: Path) -> Iterator[Bitmap]:
    made = Bitmap(path, 2 * CHUNK_BLOCKS + 100)
    yield made
    made.close()


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def done(bitmap: Bitmap) -> set[int]:
    return {int(begin + i) for begin, flags in bitmap.runs() for i in np.flatnonzero(flags)}


def flip(path: Path, at: int, bits: int = 1) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ bits]))


def test_nothing_is_done_in_a_new_bitmap(bitmap: Bitmap) -> None:
    assert bitmap.count() == 0
    assert done(bitmap) == set()
    bitmap.verify(NONE)


def test_runs_tell_of_every_block_once(bitmap: Bitmap) -> None:
    assert sum(len(flags) for _, flags in bitmap.runs()) == bitmap.num_blocks


@settings(max_examples=30)
@given(size=SIZES, seed=st.integers(0, 2**32 - 1), parts=st.integers(0, 3))
def test_what_was_set_is_set_when_it_is_opened_again(size: int, seed: int, parts: int) -> None:
    random = np.random.default_rng(seed)
    expected: set[int] = set()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "task.done")
        bitmap = Bitmap(path, size)
        for _ in range(parts):
            indices = random.integers(0, size, 50)
            bitmap.apply(indices)
            expected |= set(indices.tolist())
        bitmap.flush()
        bitmap.close()
        again = Bitmap(path, size)
        again.verify(NONE)
        assert done(again) == expected
        assert again.count() == len(expected)
        asked = np.arange(size)
        assert set(np.flatnonzero(again.has(asked)).tolist()) == expected
        again.close()


@settings(max_examples=60)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), seed=st.integers(0, 5))
def test_any_flipped_bit_is_noticed(place: float, bit: int, seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "task.done")
        bitmap = Bitmap(path, 2 * CHUNK_BLOCKS)
        bitmap.apply(np.random.default_rng(seed).integers(0, 2 * CHUNK_BLOCKS, 100))
        bitmap.close()
        size = path.stat().st_size
        places = [*range(20), *range(64, size)]  # what lies between is not used
        flip(path, places[int(place * len(places))], 1 << bit)
        with pytest.raises(JournalCorruptError, match=r"task\.done"):
            opened_and_verified(path, 2 * CHUNK_BLOCKS)


def opened_and_verified(path: Path, num_blocks: int) -> None:
    bitmap = Bitmap(path, num_blocks)
    bitmap.verify(NONE)
    bitmap.close()


@pytest.mark.parametrize("size", [0, 1, 63, 64, 100, 4096, -1])
def test_a_truncated_file_is_an_error_that_says_so(path: Path, size: int) -> None:
    Bitmap(path, 1000).close()
    with path.open("r+b") as file:
        file.truncate(size if size >= 0 else path.stat().st_size - 1)
    with pytest.raises(JournalCorruptError, match="truncated or replaced"):
        Bitmap(path, 1000)


def test_a_file_that_is_too_long_is_an_error(path: Path) -> None:
    Bitmap(path, 1000).close()
    with path.open("ab") as file:
        file.write(b"\0")
    with pytest.raises(JournalCorruptError, match="bytes, must have"):
        Bitmap(path, 1000)


def test_the_file_of_another_number_of_blocks_is_an_error(path: Path) -> None:
    Bitmap(path, 1000).close()
    with pytest.raises(JournalCorruptError, match="does not begin as the journal of 1001 blocks"):
        Bitmap(path, 1001)


def test_a_file_of_zeros_is_not_a_bitmap(path: Path) -> None:
    Bitmap(path, 1000).close()
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(JournalCorruptError, match="does not begin"):
        Bitmap(path, 1000)


@pytest.mark.parametrize("bits", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("sums", [0, 1, 2])
def test_blocks_that_were_being_set_when_the_run_was_killed_are_no_damage(path: Path, bits: int, sums: int) -> None:
    fresh = ints(4, 11, CHUNK_BLOCKS + 1, CHUNK_BLOCKS + 800)
    bitmap = Bitmap(path, 2 * CHUNK_BLOCKS)
    bitmap.apply(ints(3, 5))
    torn = bytearray(path.read_bytes())
    bitmap.apply(fresh)
    bitmap.close()
    after = path.read_bytes()
    changed = [at for at in range(len(torn)) if torn[at] != after[at]]
    first_bits = 64 + 2 * 4
    wanted = [at for at in changed if at >= first_bits][: bits if not sums else None]
    wanted += [at for at in changed if at < 64 + 4 * sums]  # sums are set after all bits
    for at in wanted:
        torn[at] = after[at]
    path.write_bytes(torn)
    opened = Bitmap(path, 2 * CHUNK_BLOCKS)
    opened.verify(fresh)
    opened.apply(fresh)
    assert done(opened) == {3, 4, 5, 11, CHUNK_BLOCKS + 1, CHUNK_BLOCKS + 800}
    opened.verify(NONE)
    opened.close()


def test_damage_next_to_blocks_that_were_being_set_is_still_noticed(bitmap: Bitmap, path: Path) -> None:
    bitmap.apply(ints(3, 5, 4))
    bitmap.flush()
    copy = path.with_name("copy.done")
    shutil.copy(path, copy)
    flip(copy, copy.stat().st_size - 3 * CHUNK_BLOCKS // 8)  # block 0
    opened = Bitmap(copy, bitmap.num_blocks)
    with pytest.raises(JournalCorruptError, match=f"blocks 0 to {CHUNK_BLOCKS} is wrong"):
        opened.verify(ints(4))
    opened.close()


def test_a_task_without_blocks_has_a_bitmap_too(path: Path) -> None:
    bitmap = Bitmap(path, 0)
    bitmap.verify(NONE)
    bitmap.apply(NONE)
    assert bitmap.count() == 0
    assert list(bitmap.runs()) == []
    bitmap.close()
    Bitmap(path, 0).close()


def test_reserved_space_is_there_and_reads_as_zeros(path: Path) -> None:
    with path.open("w+b") as file:
        reserve(file.fileno(), 100_000)
    assert path.stat().st_size == 100_000
    assert path.stat().st_blocks * 512 >= 100_000
    assert path.read_bytes() == bytes(100_000)
