"""What tests of operations share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import pytest

import bellis

if TYPE_CHECKING:
    from bellis import Pipeline, RunReport, Task


class Run(Protocol):
    """Runs to the end, in this process if not told otherwise."""

    def __call__(self, task: Task | Pipeline, engine: str = "inline", **options: Any) -> RunReport: ...


@pytest.fixture(scope="session")
def run() -> Run:
    def to_the_end(task: Task | Pipeline, engine: str = "inline", **options: Any) -> RunReport:
        report = bellis.run(task, engine, progress=False, **options)
        assert report.ok, report
        return report

    return to_the_end
