"""Run benchmarks and print their table: ``python -m benchmarks [NAME ...] [--peers PYTHON]``."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from pathlib import Path
from typing import Any

from benchmarks.cases import CASES
from benchmarks.machine import describe
from benchmarks.runner import ROOT, fresh, limit_memory, run_case
from benchmarks.table import render
from benchmarks.warm import Warm

BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"


def main() -> int:
    """Run what the command line asks for; the exit code is 1 if bellis failed in a benchmark."""
    options = _options()
    if options.list:
        print("\n".join(f"{case.name:15} {case.title}" for case in CASES))
        return 0
    results = _run(options) if options.show is None else json.loads(options.show.read_text())
    shown = render(results)
    print(shown)
    if options.page is not None:
        _put(options.page, shown)
    if options.toy:
        print("\ntoy sizes: these figures mean nothing")
    return int(any("error" in sample for sides in results["cases"].values() for sample in sides["bellis"]))


def _run(options: argparse.Namespace) -> dict[str, Any]:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the process which is measured ends too
    pythons = {"bellis": sys.executable, "none": sys.executable}
    if options.peers is not None:
        pythons["daisy"] = pythons["peers"] = str(options.peers.absolute())
    results: dict[str, Any] = {"machine": describe(pythons.get("peers")), "cases": {}}
    chosen = [case for case in CASES if case.name in options.names or not options.names]
    with Warm(ROOT, limit_memory) as warm:
        how: dict[str, Any] = {"rounds": options.rounds, "toy": options.toy, "start": warm if options.toy else fresh}
        for case in chosen:
            results["cases"][case.name] = run_case(case, pythons, say=_say, **how)
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=1))
    return results


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _put(page: Path, shown: str) -> None:
    """Replace what a page has between its marks."""
    before, _, rest = page.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n{shown}\n{END}{after}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="bellis and its peers, side by side")
    parser.add_argument("names", nargs="*", help="benchmarks to run; all of them if none is named")
    parser.add_argument("--peers", type=Path, metavar="PYTHON", help="interpreter that has the peers; none: no peer")
    parser.add_argument("--rounds", type=int, default=3, help="how often each side runs (default: 3)")
    parser.add_argument("--toy", action="store_true", help="tiny sizes: the figures mean nothing")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all samples there")
    parser.add_argument("--show", type=Path, metavar="FILE", help="only print the table of such a file")
    parser.add_argument(
        "--page", type=Path, metavar="FILE", help="also write the table into such a page, between its marks"
    )
    parser.add_argument("--list", action="store_true", help="only print the names of the benchmarks")
    options = parser.parse_args()
    if options.peers is not None and not options.peers.exists():
        parser.error(f"there is no {options.peers}: `make bench` makes it")
    unknown = set(options.names) - {case.name for case in CASES}
    if unknown:
        parser.error(f"no benchmark is named {', '.join(sorted(unknown))}; --list prints the names")
    return options


if __name__ == "__main__":
    sys.exit(main())
