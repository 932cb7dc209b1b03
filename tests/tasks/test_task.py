"""Tasks: descriptions that are checked when they are made."""

from __future__ import annotations

import functools
import inspect
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest

from bellis.errors import BellisError, FunctionError, TaskError
from bellis.geometry import Coordinate, Roi
from bellis.tasks import Block, Pipeline, Task

TOTAL = Roi((0, 0), (100, 100))
READ = Roi((0, 0), (30, 30))
WRITE = Roi((10, 5), (10, 10))


def nothing(block: Block) -> None:
    del block


def task(**options: Any) -> Task:
    return Task(**{
        "task_id": "task", "total_roi": TOTAL, "read_roi": READ, "write_roi": WRITE, "process_function": nothing,
        **options,
    })  # fmt: skip


def test_positional_arguments_are_those_of_daisy_with_its_defaults() -> None:
    parameters = inspect.signature(Task).parameters.values()
    positional = {p.name: p.default for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD}
    empty = inspect.Parameter.empty
    assert positional == {
        "task_id": empty, "total_roi": empty, "read_roi": empty, "write_roi": empty, "process_function": empty,
        "check_function": None, "init_callback_fn": None, "read_write_conflict": True, "num_workers": 1,
        "max_retries": 2, "fit": "valid", "timeout": None, "upstream_tasks": None,
    }  # fmt: skip
    assert list(positional)[5:9] == ["check_function", "init_callback_fn", "read_write_conflict", "num_workers"]


def test_a_task_knows_its_context_and_what_it_writes() -> None:
    described = task()
    assert described.context == (Coordinate(10, 5), Coordinate(10, 15))
    assert described.total_write_roi == Roi((10, 5), (80, 80))
    assert described.orig_total_roi == TOTAL
    assert task(total_roi=Roi((0, 0), (5, 5))).total_write_roi.empty


def test_a_task_requires_its_upstream_tasks() -> None:
    first = task(task_id="first")
    assert task(upstream_tasks=[first]).requires() == (first,)
    assert task().requires() == ()


def test_a_task_is_frozen_and_its_values_with_it() -> None:
    amounts = {"gpu": 1}
    described = task(resources=amounts)
    amounts["gpu"] = 5
    with pytest.raises(FrozenInstanceError):
        described.num_workers = 3  # type: ignore[misc]
    with pytest.raises(TypeError):
        described.resources["gpu"] = 2  # type: ignore[index]
    assert described.resources == {"gpu": 1}


def test_a_task_changes_by_replace() -> None:
    changed = replace(task(num_workers=4, timeout=3), total_roi=TOTAL.grow(10, 10))
    assert (changed.num_workers, changed.timeout) == (4, 3)
    assert changed.total_roi == Roi((-10, -10), (120, 120))


def test_two_tasks_that_look_alike_are_still_two() -> None:
    assert task() != task()
    assert len({task(), task()}) == 2


def test_max_workers_is_another_name_of_num_workers() -> None:
    assert task(max_workers=5).num_workers == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task_id": ""}, "task_id must be a non-empty string"),
        ({"task_id": 3}, "task_id must be a non-empty string"),
        ({"total_roi": (0, 100)}, "total_roi must be a Roi"),
        ({"read_roi": None}, "read_roi must be a Roi"),
        ({"total_roi": Roi((None, 0), (None, 100))}, "total_roi must be bounded"),
        ({"total_roi": Roi((0,), (100,))}, "ranks differ: total_roi has 1, read_roi has 2, write_roi has 2"),
        ({"write_roi": Roi((10, 5), (10, 0))}, "is empty: no block could write"),
        ({"read_roi": Roi((10, 5), (10, 9))}, "does not contain write_roi"),
        ({"read_roi": Roi((11, 5), (30, 30))}, "grow the read_roi"),
        ({"fit": "valdi"}, "'valdi', must be one of valid, overhang, shrink"),
        ({"num_workers": 0}, "num_workers must be a positive int, not 0"),
        ({"num_workers": 1.5}, "num_workers must be a positive int"),
        ({"max_workers": 0}, "num_workers must be a positive int, not 0"),
        ({"max_retries": -1}, "max_retries must be 0 or more"),
        ({"max_retries": None}, "max_retries must be 0 or more"),
        ({"timeout": 0}, "timeout must be None or seconds > 0"),
        ({"timeout": -1.0}, "timeout must be None or seconds > 0"),
        ({"timeout": float("nan")}, "timeout must be None or seconds > 0"),
        ({"upstream_tasks": ["first"]}, "upstream_tasks must be Tasks, not 'first'"),
        ({"resources": {"gpu": 0}}, r"resources\['gpu'\] must be an int > 0"),
        ({"resources": {"gpu": 0.5}}, r"resources\['gpu'\] must be an int > 0"),
    ],
)
def test_a_description_that_can_not_be_run_is_an_error_that_says_why(options: dict[str, Any], message: str) -> None:
    with pytest.raises(TaskError, match=message) as caught:
        task(**options)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("function", [None, 3, "work"])
def test_a_function_that_is_none_is_an_error(function: Any) -> None:
    with pytest.raises(FunctionError, match="can't be called"):
        task(process_function=function)
    if function is not None:
        with pytest.raises(FunctionError, match="can't be called"):
            task(check_function=function)
        with pytest.raises(FunctionError, match="post-check"):
            task(check_function=(None, function))


def test_a_function_with_two_parameters_is_an_error_that_shows_them() -> None:
    def work(block: Block, scale: float) -> None: ...

    with pytest.raises(FunctionError, match=r"takes .*block.*scale.*functools\.partial") as caught:
        task(process_function=work)
    assert isinstance(caught.value, TypeError)
    assert isinstance(caught.value, BellisError)


class Methods:
    def work(self, block: Block) -> None: ...

    def loop(self) -> None: ...

    def __call__(self, block: Block) -> None: ...


@pytest.mark.parametrize(
    "function",
    [
        nothing,
        lambda block, scale=1: None,
        lambda *blocks: None,
        functools.partial(lambda scale, block: None, 2),
        functools.partial(lambda block, scale: None, scale=2),
        Methods().work,
        Methods(),
        print,
        min,
    ],
)
def test_what_can_be_called_with_a_block_is_given_blocks(function: Any) -> None:
    assert task(process_function=function).worker_function is False


@pytest.mark.parametrize("function", [lambda: None, Methods().loop, functools.partial(nothing, None)])
def test_what_can_only_be_called_with_nothing_is_a_worker_function(function: Any) -> None:
    assert task(process_function=function).worker_function is True


def test_a_worker_function_can_be_named_as_one() -> None:
    assert task(process_function=lambda address="": None, worker_function=True).worker_function is True


def test_one_check_is_asked_before_and_after_and_a_tuple_gives_one_for_each() -> None:
    def before(block: Block) -> bool:
        return bool(block)

    def after(block: Block) -> bool:
        return bool(block)

    assert task().checks == (None, None)
    assert task(check_function=before).checks == (before, before)
    assert task(check_function=(before, after)).checks == (before, after)
    assert task(check_function=(None, after)).checks == (None, after)
    with pytest.raises(FunctionError, match=r"a tuple of 3, must be \(pre, post\)"):
        task(check_function=(before, after, after))


def test_plus_and_or_make_pipelines() -> None:
    first, second = task(task_id="first"), task(task_id="second")
    assert isinstance(first + second, Pipeline)
    assert (first + second).edges == ((first, second),)
    assert (first | second).edges == ()


def test_a_task_says_what_it_is() -> None:
    assert repr(task()).startswith("Task('task', total ")
