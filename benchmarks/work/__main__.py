"""Do one piece of work: ``python -m benchmarks.work LIBRARY MODULE.FUNCTION PARAMETERS OUT``."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

from benchmarks.work.libraries import load

if __name__ == "__main__":
    library, name, parameters, out = sys.argv[1:]
    module, _, function = name.partition(".")
    work = getattr(importlib.import_module(f"benchmarks.work.{module}"), function)
    Path(out).write_text(json.dumps(work(load(library), **json.loads(parameters))))
