"""Run the Python snippets of ``README.md`` and ``docs`` as tests: one test per page, from its top to its end.

The snippets of a page share a namespace, as the cells of a notebook do, and a working directory that is thrown away.
A page is one test, so that it stays whole when tests are shuffled or shared out between processes.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from snippets import has_snippets, run_page

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Take up the pages that a reader sees."""
    if file_path.suffix != ".md" or not file_path.is_relative_to(ROOT):
        return None
    place = file_path.relative_to(ROOT)
    is_page = place.parts[0] == "docs" and not place.parts[1].startswith("_")
    return Page.from_parent(parent, path=file_path) if is_page or place == Path("README.md") else None


class Page(pytest.File):
    """A page of the documentation."""

    def collect(self) -> Iterator[pytest.Item]:
        """Yield one test, if the page has snippets."""
        if has_snippets(self.path):
            yield Snippets.from_parent(self, name="snippets")


class Snippets(pytest.Item):
    """The snippets of one page, in order."""

    def runtest(self) -> None:
        """Run them."""
        with tempfile.TemporaryDirectory() as folder:
            run_page(self.path, Path(folder))

    def reportinfo(self) -> tuple[Path, None, str]:
        """Name the page."""
        return self.path, None, f"snippets of {self.path.relative_to(ROOT)}"
