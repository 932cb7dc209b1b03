"""Do one piece of work: ``python -m benchmarks.work LIBRARY MODULE.FUNCTION PARAMETERS OUT``."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.work.libraries import load

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(words: Sequence[str]) -> None:
    """Do what the words of a command line say."""
    library, name, parameters, out = words
    module, _, function = name.partition(".")
    work = getattr(importlib.import_module(f"benchmarks.work.{module}"), function)
    Path(out).write_text(json.dumps(work(load(library), **json.loads(parameters))))


if __name__ == "__main__":
    main(sys.argv[1:])
