"""Grids, levels and dependencies against the brute-force oracle."""

from __future__ import annotations

import tracemalloc
from itertools import combinations, product
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bellis.errors import BellisError, TaskError
from bellis.geometry import Roi
from bellis.planning import plan
from bellis.planning.dependencies import BlockwiseDependencyGraph, DependencyGraph
from bellis.planning.grid import BlockGrid
from bellis.tasks import Block, Task
from bellis.testing.pipelines import (
    FITS,
    Geometry,
    do_nothing,
    geometries,
    pipelines,
    whole_numbers,
)
from oracle import Oracle, OracleBlock, OracleGrid, cantor, grid_of, overlap, region, volume

if TYPE_CHECKING:
    from collections.abc import Iterable


def thorough(examples: int) -> Any:
    return settings(
        max_examples=examples,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


def block_grid(geometry: Geometry, task_id: str = "task") -> BlockGrid:
    return BlockGrid(geometry.total_roi, geometry.read_roi, geometry.write_roi, geometry.fit, task_id=task_id)


def oracle_grid(geometry: Geometry, *, conflict: bool = True) -> OracleGrid:
    return OracleGrid(
        region(geometry.total_roi),
        region(geometry.read_roi),
        region(geometry.write_roi),
        geometry.fit,
        conflict=conflict,
        task_id="task",
    )


def level_graph(geometry: Geometry, *, conflict: bool) -> BlockwiseDependencyGraph:
    return BlockwiseDependencyGraph(
        "task",
        geometry.read_roi,
        geometry.write_roi,
        conflict,
        geometry.fit,
        total_read_roi=geometry.total_roi,
    )


def boxes_of(regions: Iterable[tuple[tuple[int, int], ...]], dims: int) -> np.ndarray[Any, Any]:
    rows = [[[begin for begin, _ in r], [end for _, end in r]] for r in regions]
    return np.array(rows, dtype=np.int64).reshape(-1, 2, dims)


def as_roi(where: tuple[tuple[int, int], ...]) -> Roi:
    return Roi([begin for begin, _ in where], [end - begin for begin, end in where])


@st.composite
def regions_near(draw: st.DrawFn, grid: OracleGrid) -> tuple[tuple[int, int], ...]:
    """A region that is not empty, in the grid, across its border or beside it."""
    dims = len(grid.total)
    begin = draw(whole_numbers(dims, -8, 44))
    shape = draw(whole_numbers(dims, 1, 16))
    return tuple((t[0] + b, t[0] + b + s) for t, b, s in zip(grid.total, begin, shape, strict=True))


class TestGrid:
    @thorough(150)
    @given(geometries())
    def test_every_block_has_the_regions_and_the_number_of_the_oracle(self, geometry: Geometry) -> None:
        grid, oracle = block_grid(geometry), oracle_grid(geometry)
        assert not oracle.blocks or tuple(grid.counts) == oracle.counts
        assert grid.num_blocks == len(oracle.blocks) == prod(oracle.counts)
        assert grid.dims == geometry.dims
        for block in oracle.blocks:
            assert region(grid.write_roi(block.index)) == block.write
            assert region(grid.read_roi(block.index)) == block.read
            assert grid.number(block.index) == block.number
            assert grid.index_of(block.number) == block.index

    @thorough(100)
    @given(geometries())
    def test_blocks_cover_the_region_once(self, geometry: Geometry) -> None:
        grid, oracle = block_grid(geometry), oracle_grid(geometry)
        writes = [region(grid.write_roi(index)) for index in range(grid.num_blocks)]
        assert not any(overlap(a, b) for a, b in combinations(writes, 2))
        begin = [b for b, _ in oracle.total_write]
        end = [max(b, e) for b, e in oracle.total_write]
        if geometry.fit == "valid":
            step = oracle.write_shape
            end = [b + (e - b) // w * w for b, e, w in zip(begin, end, step, strict=True)]
        target = tuple(zip(begin, end, strict=True))
        inside = [tuple((max(a, c), min(b, d)) for (a, b), (c, d) in zip(w, target, strict=True)) for w in writes]
        assert all(volume(part) > 0 for part in inside)
        assert sum(map(volume, inside)) == volume(target)

    @thorough(100)
    @given(geometries().filter(lambda geometry: geometry.fit != "overhang"))
    def test_blocks_that_are_valid_or_shrunk_stay_inside_and_keep_their_context(self, geometry: Geometry) -> None:
        grid, oracle = block_grid(geometry), oracle_grid(geometry)
        for index in range(grid.num_blocks):
            read, write = grid.read_roi(index), grid.write_roi(index)
            assert geometry.total_roi.contains(read)
            assert tuple(write.begin - read.begin) == oracle.before
            assert tuple(read.end - write.end) == oracle.after

    @thorough(100)
    @given(geometries(), st.data())
    def test_boxes_are_the_regions_of_the_blocks(self, geometry: Geometry, data: st.DataObject) -> None:
        grid, oracle = block_grid(geometry), oracle_grid(geometry)
        some = st.lists(st.sampled_from(range(grid.num_blocks)), max_size=9)
        chosen = data.draw(some) if grid.num_blocks else []
        indices = np.array(chosen, dtype=np.int64)
        found_by = {"write": grid.write_boxes(indices), "read": grid.read_boxes(indices)}
        for name, found in found_by.items():
            expected = boxes_of((getattr(oracle.blocks[i], name) for i in chosen), geometry.dims)
            assert found.dtype == np.int64
            assert found.shape == (len(chosen), 2, geometry.dims)
            assert np.array_equal(found, expected)

    @thorough(150)
    @given(geometries(), st.data())
    def test_writers_and_readers_are_the_blocks_whose_region_overlaps_a_box(
        self, geometry: Geometry, data: st.DataObject
    ) -> None:
        grid, oracle = block_grid(geometry), oracle_grid(geometry)
        wanted = data.draw(st.lists(regions_near(oracle), min_size=1, max_size=6))
        boxes = boxes_of(wanted, geometry.dims)
        for (lo, hi), overlapping in (
            (grid.writers(boxes), oracle.writing),
            (grid.readers(boxes), oracle.reading),
        ):
            assert lo.shape == hi.shape == (len(wanted), geometry.dims)
            for where, low, high in zip(wanted, lo.tolist(), hi.tolist(), strict=True):
                positions = list(product(*map(range, low, high)))
                assert positions == [block.position for block in overlapping(where)]

    def test_a_four_by_four_grid_has_the_numbers_of_daisy(self) -> None:
        grid = BlockGrid(Roi((0, 0), (6, 6)), Roi((0, 0), (3, 3)), Roi((1, 1), (1, 1)), "valid")
        numbers = [grid.number(index) for index in range(16)]
        assert numbers == [4, 7, 11, 16, 8, 12, 17, 23, 13, 18, 24, 31, 19, 25, 32, 40]
        assert [grid.index_of(number) for number in numbers] == list(range(16))

    @pytest.mark.parametrize("dims", [1, 2, 3, 4])
    def test_numbers_of_the_oracle_count_the_coordinates_that_come_first(self, dims: int) -> None:
        def key(coordinate: tuple[int, ...]) -> list[int]:
            return [sum(coordinate[:axes]) for axes in range(dims, 0, -1)]

        largest = 4
        every = [tuple(c) for c in np.ndindex(*[largest + 1] * dims) if sum(c) <= largest]
        assert [cantor(c) for c in sorted(every, key=key)] == list(range(len(every)))

    @pytest.mark.parametrize("fit", FITS)
    def test_a_total_smaller_than_the_context_has_no_blocks(self, fit: Any) -> None:
        read, write = Roi((-3, -3), (7, 7)), Roi((0, 0), (2, 2))
        for shape in ((4, 40), (40, 4), (5, 5), (0, 0), (1, 6)):
            grid = BlockGrid(Roi((0, 0), shape), read, write, fit)
            assert grid.num_blocks == 0

    def test_valid_leaves_out_the_remainder_and_the_others_do_not(self) -> None:
        total, block = Roi((5,), (10,)), Roi((0,), (4,))
        grids = {fit: BlockGrid(total, block, block, fit) for fit in FITS}
        assert {fit: grid.num_blocks for fit, grid in grids.items()} == {
            "valid": 2,
            "overhang": 3,
            "shrink": 3,
        }
        assert grids["overhang"].write_roi(2) == Roi((13,), (4,))
        assert grids["shrink"].write_roi(2) == Roi((13,), (2,))

    def test_a_misspelt_fit_is_an_error_at_once(self) -> None:
        total, block = Roi((0,), (10,)), Roi((0,), (4,))
        wrong: Any = "shrnk"
        with pytest.raises(TaskError, match="shrnk"):
            Task("task", total, block, block, do_nothing, fit=wrong)
        with pytest.raises(BellisError, match="shrnk"):
            BlockGrid(total, block, block, wrong)
        with pytest.raises(BellisError, match="shrnk"):
            BlockwiseDependencyGraph("task", block, block, True, wrong, total_read_roi=total)

    def test_a_read_region_smaller_than_the_write_region_is_an_error(self) -> None:
        with pytest.raises(BellisError):
            BlockGrid(Roi((0,), (10,)), Roi((1,), (3,)), Roi((0,), (4,)), "valid")


def numbers(blocks: Iterable[Block]) -> list[int]:
    return [block.block_id[1] for block in blocks]


def sorted_numbers(blocks: Iterable[OracleBlock]) -> list[int]:
    return sorted(block.number for block in blocks)


def check_blocks(found: Iterable[Block], oracle: OracleGrid) -> list[int]:
    """Compare regions with the oracle's and return the indices."""
    indices = []
    for block in found:
        assert block.index is not None
        expected = oracle.blocks[block.index]
        assert block.block_id == ("task", expected.number)
        assert region(block.read_roi) == expected.read
        assert region(block.write_roi) == expected.write
        indices.append(block.index)
    return indices


class TestLevels:
    @thorough(100)
    @given(geometries(), st.booleans())
    def test_levels_hold_the_blocks_of_the_oracle_in_c_order(self, geometry: Geometry, conflict: bool) -> None:
        graph, oracle = (
            level_graph(geometry, conflict=conflict),
            oracle_grid(geometry, conflict=conflict),
        )
        assert graph.num_blocks == len(oracle.blocks)
        if not oracle.blocks:
            assert graph.num_roots() == 0
            assert list(graph.root_gen()) == []
            assert list(graph.enumerate_all_dependencies()) == []
            return
        assert graph.num_levels == len(oracle.levels)
        for level in range(graph.num_levels):
            expected = [block.index for block in oracle.blocks if block.level == level]
            assert expected
            assert check_blocks(graph.level_blocks(level), oracle) == expected
        roots = [block.index for block in oracle.blocks if block.level == 0]
        assert graph.num_roots() == len(roots)
        assert check_blocks(graph.root_gen(), oracle) == roots

    @thorough(100)
    @given(geometries(), st.booleans())
    def test_upstream_and_downstream_are_the_neighbours_of_the_oracle(self, geometry: Geometry, conflict: bool) -> None:
        graph, oracle = (
            level_graph(geometry, conflict=conflict),
            oracle_grid(geometry, conflict=conflict),
        )
        needs = {block.number: sorted_numbers(oracle.waits_for(block)) for block in oracle.blocks}
        seen = []
        for block, upstream in graph.enumerate_all_dependencies():
            number = block.block_id[1]
            seen.append(block.index)
            assert numbers(upstream) == needs[number]
            assert numbers(graph.upstream(block)) == needs[number]
            assert numbers(graph.downstream(block)) == sorted(
                other for other, waits_for in needs.items() if number in waits_for
            )
        expected = sorted(oracle.blocks, key=lambda block: (block.level, block.index))
        assert seen == [block.index for block in expected]

    @thorough(100)
    @given(geometries())
    def test_of_two_conflicting_blocks_one_waits_for_the_other(self, geometry: Geometry) -> None:
        graph = level_graph(geometry, conflict=True)
        reads, writes, before = {}, {}, {}
        for block, upstream in graph.enumerate_all_dependencies():
            index = block.index
            reads[index], writes[index] = region(block.read_roi), region(block.write_roi)
            before[index] = {check for up in upstream for check in (up.index, *before[up.index])}
        for a, b in combinations(reads, 2):
            if overlap(reads[a], writes[b]) or overlap(reads[b], writes[a]):
                assert a in before[b] or b in before[a]

    @thorough(60)
    @given(geometries(max_blocks=16), st.booleans())
    def test_the_total_may_be_given_as_what_is_written(self, geometry: Geometry, conflict: bool) -> None:
        oracle = oracle_grid(geometry, conflict=conflict)
        if any(begin > end for begin, end in oracle.total_write):
            return
        graph = BlockwiseDependencyGraph(
            "task",
            geometry.read_roi,
            geometry.write_roi,
            conflict,
            geometry.fit,
            total_write_roi=as_roi(oracle.total_write),
        )
        found = check_blocks((b for b, _ in graph.enumerate_all_dependencies()), oracle)
        assert sorted(found) == [block.index for block in oracle.blocks]

    @thorough(100)
    @given(geometries(), st.data(), st.booleans())
    def test_the_blocks_of_a_part_are_those_that_overlap_it(
        self, geometry: Geometry, data: st.DataObject, by_read: bool
    ) -> None:
        graph, oracle = level_graph(geometry, conflict=True), oracle_grid(geometry)
        where = data.draw(regions_near(oracle))
        found = list(graph.get_subgraph_blocks(as_roi(where), read_roi=by_read))
        check_blocks(found, oracle)
        expected = oracle.reading(where) if by_read else oracle.writing(where)
        assert numbers(found) == sorted_numbers(expected)

    def test_a_block_made_by_hand_has_the_same_neighbours(self) -> None:
        total, read, write = Roi((0,), (10,)), Roi((-1,), (4,)), Roi((0,), (2,))
        graph = BlockwiseDependencyGraph("task", read, write, True, "valid", total_read_roi=total)
        for block, upstream in list(graph.enumerate_all_dependencies()):
            mine = Block(total, block.read_roi, block.write_roi, task_id="task")
            assert mine == block
            assert graph.upstream(mine) == list(upstream)
            assert graph.downstream(mine) == graph.downstream(block)


class TestDependencies:
    @pytest.mark.slow
    @thorough(100)
    @given(pipelines(skips=False))
    def test_upstream_and_downstream_are_those_of_the_oracle_and_each_others_inverse(self, tasks: list[Task]) -> None:
        graph, oracle = DependencyGraph(tasks), Oracle(tasks)
        assert set(graph.task_ids) == set(oracle.tasks)
        for task_id, grid in oracle.grids.items():
            assert graph.num_blocks(task_id) == len(grid.blocks)
            blocks = BlockGrid(
                oracle.tasks[task_id].total_roi,
                oracle.tasks[task_id].read_roi,
                oracle.tasks[task_id].write_roi,
                oracle.tasks[task_id].fit,
                task_id=task_id,
            )
            for expected in grid.blocks:
                block = Block.at(blocks, expected.index)
                for found, keys in (
                    (graph.upstream(block), oracle.needs[expected.key]),
                    (graph.downstream(block), oracle.needed_by[expected.key]),
                ):
                    assert numbers(found) == sorted(numbers(found))
                    assert len(found) == len(keys)
                    assert {(b.task_id, b.index) for b in found} == keys

    @thorough(60)
    @given(pipelines(skips=False))
    def test_upstream_tasks_that_were_not_listed_are_found(self, tasks: list[Task]) -> None:
        upstream = {up.task_id for task in tasks for up in task.requires()}
        last = [task for task in tasks if task.task_id not in upstream]
        assert set(DependencyGraph(last).task_ids) == {task.task_id for task in tasks}

    @pytest.mark.parametrize("context", [(3, 0), (0, 3), (5, 1), (1, 5)])
    def test_with_different_contexts_upstream_and_downstream_still_agree(self, context: tuple[int, int]) -> None:
        unit = Roi((0,), (2,))
        first = Task("first", Roi((0,), (20,)), unit, unit, do_nothing)
        read = unit.grow(context[0], context[1])
        second = Task("second", Roi((0,), (20,)), read, unit, do_nothing, upstream_tasks=[first])
        graph, oracle = DependencyGraph([second]), Oracle([second])
        for block, _ in BlockwiseDependencyGraph(
            "first", unit, unit, True, "valid", total_read_roi=first.total_roi
        ).enumerate_all_dependencies():
            expected = oracle.needed_by["first", block.index]
            assert {(b.task_id, b.index) for b in graph.downstream(block)} == expected


class TestPlan:
    @thorough(60)
    @given(pipelines())
    def test_a_plan_has_the_grids_and_levels_of_the_oracle(self, tasks: list[Task]) -> None:
        planned = plan(tasks)
        assert {each.task.task_id for each in planned.tasks} == {t.task_id for t in tasks}
        assert str(planned)
        for each in planned.tasks:
            oracle = grid_of(each.task)
            assert each.grid.num_blocks == len(oracle.blocks)
            if oracle.blocks:
                assert each.num_levels == len(oracle.levels)
            else:
                assert any(each.task.task_id in warning for warning in planned.warnings)

    def test_a_total_smaller_than_the_context_is_a_warning(self) -> None:
        task = Task("small", Roi((0,), (5,)), Roi((-3,), (8,)), Roi((0,), (2,)), do_nothing)
        assert any("small" in warning for warning in plan([task]).warnings)

    def test_reading_what_valid_never_writes_is_a_warning_that_names_the_region(self) -> None:
        four, five = Roi((0,), (4,)), Roi((0,), (5,))
        total = Roi((0,), (10,))
        first = Task("first", total, four, four, do_nothing)
        second = Task("second", total, five, five, do_nothing, upstream_tasks=[first])
        warnings = plan([second]).warnings
        words = ("'first'", "'second'", "8", "10")
        assert any(all(word in warning for word in words) for warning in warnings)

    def test_a_plan_that_fits_warns_of_nothing(self) -> None:
        four, two = Roi((0,), (4,)), Roi((0,), (2,))
        total = Roi((0,), (12,))
        first = Task("first", total, four, four, do_nothing)
        second = Task("second", total, two, two, do_nothing, upstream_tasks=[first])
        assert plan([second]).warnings == ()

    @pytest.mark.parametrize("dims", [1, 3])
    @pytest.mark.parametrize("context", [0, 1])
    def test_a_thousand_million_blocks_are_planned_in_little_memory(self, dims: int, context: int) -> None:
        side = 10 ** (9 // dims)
        write = Roi((0,) * dims, (1,) * dims)
        read = write.grow(context, context)
        total = Roi((-context,) * dims, (side + 2 * context,) * dims)
        task = Task("many", total, read, write, do_nothing)
        tracemalloc.start()
        try:
            planned = plan([task])
            graph = DependencyGraph([task])
            grid = planned.tasks[0].grid
            middle = Block.at(grid, 10**9 // 2)
            assert graph.num_blocks("many") == grid.num_blocks == 10**9
            assert len(graph.upstream(middle)) <= 2**dims
            assert grid.index_of(grid.number(10**9 - 1)) == 10**9 - 1
            assert tracemalloc.get_traced_memory()[1] < 2**20
        finally:
            tracemalloc.stop()
