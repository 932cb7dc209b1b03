"""Blocks: values that a user's function is given."""

from __future__ import annotations

import pickle
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bellis.errors import GeometryError
from bellis.geometry import Coordinate, Roi
from bellis.planning import BlockGrid
from bellis.tasks import Block, BlockStatus
from bellis.tasks.block import cantor_coordinate, cantor_number

TOTAL = Roi((0, 0), (60, 60))
WRITE = Roi((10, 10), (10, 10))
READ = Roi((0, 0), (30, 30))


def test_a_block_made_by_hand_has_the_number_of_its_place() -> None:
    block = Block(TOTAL, READ, WRITE, task_id="task")
    assert block.block_id == ("task", 4)
    assert block.task_id == "task"
    assert (block.read_roi, block.write_roi, block.requested_write_roi) == (READ, WRITE, WRITE)
    assert block.status is BlockStatus.CREATED
    assert block.index is None


def test_an_id_may_be_given_as_daisy_gives_it() -> None:
    assert Block(TOTAL, READ, WRITE, ("a", 7)).task_id == "a"
    assert Block(TOTAL, READ, WRITE, 7, "a").block_id == ("a", 7)
    assert Block(TOTAL, READ, WRITE, ("a", 7), "a").block_id == ("a", 7)
    with pytest.raises(GeometryError, match="not of task 'b'"):
        Block(TOTAL, READ, WRITE, ("a", 7), "b")


def test_blocks_are_equal_and_hash_alike_when_their_ids_do() -> None:
    one, other = Block(TOTAL, READ, WRITE, ("a", 7)), Block(TOTAL, READ.shift((10, 10)), WRITE, ("a", 7))
    assert one == other
    assert hash(one) == hash(other)
    assert one != Block(TOTAL, READ, WRITE, ("b", 7))
    assert one != ("a", 7)


def test_what_a_function_assigns_to_a_block_does_not_change_what_was_asked_for() -> None:
    block = Block.at(BlockGrid(TOTAL, READ, WRITE, task_id="task"), 0)
    block.write_roi = Roi((0, 0), (1, 1))
    block.read_roi = Roi((0, 0), (2, 2))
    block.status = BlockStatus.FAILED
    assert block.requested_write_roi == WRITE
    assert block.block_id == ("task", 4)


def test_a_block_of_a_grid_has_the_regions_that_the_same_block_made_by_hand_has() -> None:
    grid = BlockGrid(TOTAL, READ, WRITE, task_id="task")
    for index in range(grid.num_blocks):
        block = Block.at(grid, index)
        again = Block(TOTAL, block.read_roi, block.write_roi, task_id="task")
        assert again == block
        assert block.index == index
        assert block.status is BlockStatus.CREATED


def test_four_by_four_blocks_with_context_have_the_numbers_of_daisy() -> None:
    grid = BlockGrid(TOTAL, READ, WRITE, task_id="task")
    numbers = [Block.at(grid, index).block_id[1] for index in range(8)]
    assert numbers == [4, 7, 11, 16, 8, 12, 17, 23]


def test_a_block_has_no_attributes_but_its_own() -> None:
    block = Block.at(BlockGrid(TOTAL, READ, WRITE, task_id="task"), 0)
    with pytest.raises(AttributeError, match="no attribute 'colour'"):
        _ = block.colour
    with pytest.raises(AttributeError):
        block.colour = "red"
    assert not hasattr(block, "__array__")


def test_a_block_travels_by_pickle() -> None:
    block = Block.at(BlockGrid(TOTAL, READ, WRITE, task_id="task"), 5)
    again = pickle.loads(pickle.dumps(block))
    assert again == block
    assert (again.read_roi, again.write_roi, again.index) == (block.read_roi, block.write_roi, 5)


def test_a_block_says_what_it_is() -> None:
    text = repr(Block(TOTAL, READ, WRITE, task_id="task"))
    assert "task/4" in text
    assert "CREATED" in text


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=5).map(tuple))
def test_a_number_leads_back_to_its_coordinate(coordinate: tuple[int, ...]) -> None:
    assert cantor_coordinate(cantor_number(coordinate), len(coordinate)) == Coordinate(coordinate)


@pytest.mark.parametrize("dims", [1, 2, 3, 4])
def test_every_number_belongs_to_one_coordinate(dims: int) -> None:
    found = {cantor_number(place): place for place in product(range(5), repeat=dims)}
    assert len(found) == 5**dims
    assert set(range(5)) <= set(found)  # without a gap at the beginning
    for number in range(200):
        assert cantor_number(cantor_coordinate(number, dims)) == number


@pytest.mark.parametrize("place", [(-1,), (0, -1), (None, 0)])
def test_a_place_that_no_block_has_is_an_error(place: tuple[int | None, ...]) -> None:
    with pytest.raises(GeometryError, match="negative or unbounded"):
        cantor_number(place)


@pytest.mark.parametrize(("number", "dims"), [(-1, 2), (0, 0)])
def test_a_number_that_no_block_has_is_an_error(number: int, dims: int) -> None:
    with pytest.raises(GeometryError, match="no block has the number"):
        cantor_coordinate(number, dims)
