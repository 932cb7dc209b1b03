"""Cells: what a worker writes and its parent reads, without a word between them."""

from __future__ import annotations

from time import monotonic_ns
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bellis.runtime.cell import (
    CELL_BYTES,
    FLAG,
    LARGEST_LEASE,
    LEASE,
    POSITION,
    STARTED_NS,
    Cell,
    finished_blocks,
    shared_memory,
)
from bellis.runtime.lease import Outcome

if TYPE_CHECKING:
    from pathlib import Path


def packed(*indices: int) -> bytes:
    return np.array(indices, np.int64).tobytes()


@pytest.fixture
def memory() -> memoryview:
    return memoryview(bytearray(3 * CELL_BYTES))


@pytest.fixture
def cell(memory: memoryview) -> Cell:
    return Cell(memory, 1)


def finished(memory: memoryview) -> list[tuple[int, list[int]]]:
    return [(program, indices.tolist()) for program, indices in finished_blocks(memory)]


def test_the_parent_sees_what_the_worker_writes(memory: memoryview, cell: Cell) -> None:
    parent = Cell(memory, 1)
    outcomes = cell.begin(7, 2, packed(10, 11, 12))
    assert (parent.words[LEASE], parent.words[POSITION]) == (7, 0)
    outcomes[0] = Outcome.SUCCESS
    outcomes[1] = Outcome.FAILED
    assert parent.outcomes(7) == bytes([Outcome.SUCCESS, Outcome.FAILED, Outcome.NONE])


def test_nothing_is_known_of_a_lease_that_was_never_begun(cell: Cell) -> None:
    cell.begin(7, 0, packed(1))
    assert cell.outcomes(8) == b""


def test_the_lease_before_the_current_one_can_still_be_read(cell: Cell) -> None:
    for lease_id in (1, 2, 3):
        cell.begin(lease_id, 0, packed(lease_id))[0] = Outcome.SUCCESS
    assert cell.outcomes(3) == cell.outcomes(2) == bytes([Outcome.SUCCESS])
    assert cell.outcomes(1) == b""


def test_outcomes_of_an_earlier_lease_do_not_shine_through(cell: Cell) -> None:
    for lease_id in (1, 2):
        cell.begin(lease_id, 0, packed(*range(9)))[:] = bytes([Outcome.SUCCESS] * 9)
    cell.begin(3, 0, packed(*range(9)))
    assert cell.outcomes(3) == bytes(9)


def test_a_block_that_begins_has_not_run_since_the_one_before(cell: Cell) -> None:
    # The parent ends a block that has run too long, whenever it looks: also just after a lease began.
    cell.begin(1, 0, packed(1))
    cell.words[STARTED_NS] = 1
    before = monotonic_ns()
    cell.begin(2, 0, packed(2))
    assert cell.words[LEASE] == 2
    assert cell.words[STARTED_NS] >= before


def test_a_new_worker_finds_a_clean_cell(memory: memoryview, cell: Cell) -> None:
    cell.begin(1, 0, packed(1))[0] = Outcome.SUCCESS
    cell.words[FLAG] = 3
    cell.clear()
    assert list(cell.words) == [0] * len(cell.words)
    assert cell.outcomes(1) == b""
    assert finished(memory) == []


def test_cells_do_not_touch(memory: memoryview) -> None:
    cells = [Cell(memory, slot) for slot in range(3)]
    for slot, one in enumerate(cells):
        for lease_id in (1, 2):
            one.begin(lease_id, slot, packed(*[slot] * LARGEST_LEASE))[:] = bytes([Outcome.SUCCESS]) * LARGEST_LEASE
        one.words[FLAG] = slot
    for slot, one in enumerate(cells):
        assert one.words[FLAG] == slot
        assert one.outcomes(1) == one.outcomes(2) == bytes([Outcome.SUCCESS]) * LARGEST_LEASE
    assert finished(memory) == [(slot, [slot] * LARGEST_LEASE) for slot in (0, 0, 1, 1, 2, 2)]


@given(st.lists(st.sampled_from(list(Outcome)), min_size=1, max_size=50))
def test_blocks_that_succeeded_are_known_after_the_run_was_killed(outcomes: list[Outcome]) -> None:
    memory = memoryview(bytearray(2 * CELL_BYTES))
    Cell(memory, 1).begin(5, 3, packed(*range(100, 100 + len(outcomes))))[:] = bytes(outcomes)
    good = {Outcome.SUCCESS, Outcome.SKIPPED}
    assert finished(memory) == [(3, [100 + at for at, outcome in enumerate(outcomes) if outcome in good])]


def test_a_lease_that_was_being_written_when_the_run_was_killed_is_left_out(memory: memoryview, cell: Cell) -> None:
    cell.begin(5, 3, packed(1, 2))[:] = bytes([Outcome.SUCCESS] * 2)
    (region,) = (region for region in cell._regions if region[0])
    region[:8] = bytes(8)
    assert finished(memory) == []
    region[:8] = (5).to_bytes(8, "little")
    assert finished(memory) == [(3, [1, 2])]
    region[16:24] = (LARGEST_LEASE + 1).to_bytes(8, "little")
    assert finished(memory) == []


def test_a_cell_lets_go_of_its_memory() -> None:
    memory = bytearray(CELL_BYTES)
    view = memoryview(memory)
    Cell(view, 0).release()
    view.release()
    memory.append(0)  # an error while somebody looks at it


def test_memory_with_a_path_outlives_its_process(tmp_path: Path) -> None:
    path = tmp_path / "cells"
    path.write_bytes(b"old")
    fd, memory = shared_memory(CELL_BYTES, path)
    with memory, open(fd, "rb"):  # noqa: PTH123
        view = memoryview(memory)
        one = Cell(view, 0)
        one.begin(1, 0, packed(4))[0] = Outcome.SUCCESS
        assert finished(memoryview(path.read_bytes())) == [(0, [4])]
        one.release()
        view.release()
    assert path.stat().st_size == CELL_BYTES


def test_memory_without_a_path_has_no_name_and_is_clean() -> None:
    fd, memory = shared_memory(CELL_BYTES, None)
    with memory, open(fd, "rb") as file:  # noqa: PTH123
        assert memory[:] == bytes(CELL_BYTES)
        assert file.read() == bytes(CELL_BYTES)
