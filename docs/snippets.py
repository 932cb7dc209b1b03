"""Runs the Python snippets of a page, in order, as the cells of a notebook: for the tests and for the pictures."""

from __future__ import annotations

from contextlib import chdir
from typing import TYPE_CHECKING

from sybil import Sybil
from sybil.parsers.myst import PythonCodeBlockParser, SkipParser

if TYPE_CHECKING:
    from pathlib import Path

SNIPPETS = Sybil([PythonCodeBlockParser(), SkipParser()])


def has_snippets(page: Path) -> bool:
    """Return whether there is anything to run."""
    return any(SNIPPETS.parse(page).examples())


def run_page(page: Path, folder: Path) -> None:
    """Run all snippets of a page in a folder; a failure names the page and the line."""
    document = SNIPPETS.parse(page)
    document.namespace["__name__"] = "__main__"  # as in a script: what is defined travels to workers by value
    with chdir(folder):
        for example in document.examples():
            example.evaluate()
