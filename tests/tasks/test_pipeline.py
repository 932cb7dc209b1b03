"""Pipelines: tasks and their edges."""

from __future__ import annotations

from typing import Any

import pytest

from bellis.errors import TaskError
from bellis.geometry import Roi
from bellis.tasks import Block, Pipeline, Task

ROI = Roi((0,), (10,))


def nothing(block: Block) -> None:
    del block


def task(task_id: str, *upstream: Task) -> Task:
    return Task(task_id, ROI, ROI, ROI, nothing, upstream_tasks=upstream)


def names(tasks: Any) -> list[str]:
    return [one.task_id for one in tasks]


def edges(pipeline: Pipeline) -> set[str]:
    return {f"{up.task_id}>{down.task_id}" for up, down in pipeline.edges}


A, B, C, D = (task(name) for name in "abcd")


def test_plus_puts_one_after_the_other() -> None:
    chain = A + B + C
    assert names(chain.tasks) == ["a", "b", "c"]
    assert edges(chain) == {"a>b", "b>c"}
    assert (names(chain.sources), names(chain.outputs)) == (["a"], ["c"])


def test_or_puts_side_by_side() -> None:
    both = A | B
    assert edges(both) == set()
    assert set(names(both.sources)) == set(names(both.outputs)) == {"a", "b"}


def test_what_comes_after_waits_for_all_outputs() -> None:
    assert edges((A | B) + (C | D)) == {"a>c", "a>d", "b>c", "b>d"}
    assert edges(A + (B | C) + D) == {"a>b", "a>c", "b>d", "c>d"}


def test_plus_is_associative() -> None:
    assert edges((A + B) + (C + D)) == edges(A + (B + (C + D))) == {"a>b", "b>c", "c>d"}


def test_upstream_tasks_are_taken_in() -> None:
    first = task("first")
    left, right = task("left", first), task("right", first)
    last = task("last", left, right)
    pipeline = Pipeline([last])
    assert edges(pipeline) == {"first>left", "first>right", "left>last", "right>last"}
    assert names(pipeline.tasks)[0] == "first"
    assert names(pipeline.tasks)[-1] == "last"
    assert names(pipeline.upstream(last)) == ["left", "right"]


def test_each_task_comes_after_what_it_needs() -> None:
    pipeline = Pipeline([D, C, B, A], [(A, B), (B, C), (C, D)])
    assert names(pipeline.tasks) == ["a", "b", "c", "d"]


def test_edges_bring_their_tasks_and_count_once() -> None:
    assert names(Pipeline([], [(A, B), (A, B)]).tasks) == ["a", "b"]
    waiting = task("waiting", A)
    assert edges(Pipeline([waiting], [(A, waiting)])) == {"a>waiting"}


def test_a_task_may_be_in_both_parts() -> None:
    assert edges((A + B) | (A + C)) == {"a>b", "a>c"}


def test_a_pipeline_is_made_of_a_task_a_pipeline_or_several() -> None:
    chain = A + B
    assert Pipeline.of(chain) is chain
    assert names(Pipeline.of(A).tasks) == ["a"]
    assert names(Pipeline.of([A, C]).tasks) == ["a", "c"]
    assert edges(Pipeline.of([chain, C])) == {"a>b"}
    assert Pipeline.of([]).tasks == ()
    assert names(Pipeline.of(one for one in (A, B)).tasks) == ["a", "b"]


def test_two_tasks_of_one_name_are_an_error_that_names_it() -> None:
    with pytest.raises(TaskError, match="two tasks are named 'a'"):
        Pipeline([A, task("a")])
    with pytest.raises(TaskError, match="two tasks are named 'a'"):
        _ = A | (B + task("a"))
    with pytest.raises(TaskError, match="two tasks are named 'a'"):
        Pipeline([task("x", task("a")), A])


def test_tasks_that_wait_for_each_other_are_an_error_that_names_them() -> None:
    with pytest.raises(TaskError, match=r"in a circle: '(a|b)' -> .* -> '\1'") as caught:
        Pipeline([A, B], [(A, B), (B, A)])
    assert "'a'" in str(caught.value)
    assert "'b'" in str(caught.value)
    with pytest.raises(TaskError, match="in a circle"):
        _ = A + A


def test_a_circle_closed_by_plus_is_an_error() -> None:
    with pytest.raises(TaskError, match="in a circle"):
        _ = (A + B) + A


@pytest.mark.parametrize("thing", ["a", None, nothing])
def test_a_pipeline_of_something_else_is_an_error(thing: Any) -> None:
    with pytest.raises(TaskError, match="a pipeline is made of Tasks"):
        Pipeline([thing])
    with pytest.raises(TaskError, match="a pipeline is made of Tasks"):
        Pipeline([A], [(A, thing)])


def test_a_pipeline_says_what_it_is() -> None:
    assert repr(A + B) == "Pipeline(a, b; a -> b)"
    assert repr(A | B) == "Pipeline(a, b)"
