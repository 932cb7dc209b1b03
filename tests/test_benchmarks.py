"""The benchmarks run, at toy size; what they measure is not tested."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from benchmarks.runner import fresh
from benchmarks.warm import Warm

ROOT = Path(__file__).parents[1]
PEERS = ROOT / ".venv-peers" / "bin" / "python"


def benchmarks(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)


def toy_results(path: Path, *arguments: str | Path) -> dict[str, Any]:
    done = benchmarks("--toy", "--rounds", "1", "--json", path, *arguments)
    assert done.returncode == 0, done.stderr
    cases: dict[str, Any] = json.loads(path.read_text())["cases"]
    return cases


@pytest.mark.integration
@pytest.mark.slow
def test_bellis_does_the_work_of_every_benchmark(tmp_path: Path) -> None:
    listed = [line.split()[0] for line in benchmarks("--list").stdout.splitlines()]
    cases = toy_results(tmp_path / "results.json")
    assert list(cases) == listed
    for name, sides in cases.items():
        for label, samples in sides.items():
            assert samples, f"{name}, {label}"
            assert all("process_s" in sample for sample in samples), f"{name}, {label}: {samples}"


@pytest.mark.integration
@pytest.mark.slow
@pytest.mark.skipif(not PEERS.exists(), reason="the peers are not installed; `make bench` does it")
def test_the_peers_do_the_same_work(tmp_path: Path) -> None:
    cases = toy_results(tmp_path / "results.json", "--peers", PEERS)
    for name, sides in cases.items():
        for label, samples in sides.items():
            assert all("process_s" in sample for sample in samples), f"{name}, {label}: {samples}"


@pytest.mark.integration
@pytest.mark.slow
def test_work_of_full_size_has_an_interpreter_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    done = benchmarks("--rounds", "2", "--json", path, "plan_1d")
    assert done.returncode == 0, done.stderr
    assert re.findall(r"^plan_1d, bellis, (\S+): seconds", done.stderr, re.MULTILINE) == ["scheduling.planned"] * 2
    samples = json.loads(path.read_text())["cases"]["plan_1d"]["bellis"]
    assert all(0 < sample["seconds"] < sample["process_s"] for sample in samples)


@pytest.mark.integration
@pytest.mark.slow
@pytest.mark.parametrize("is_warm", [False, True])
def test_work_that_fails_or_takes_too_long_is_said_to(tmp_path: Path, *, is_warm: bool) -> None:
    with Warm(ROOT, lambda: None) as warm:
        start = warm if is_warm else fresh

        def run(work: str, parameters: dict[str, Any], timeout_s: float) -> tuple[int | None, float]:
            words = ["none", work, json.dumps(parameters), str(tmp_path / "out")]
            return start(sys.executable, words, tmp_path, tmp_path / "log", timeout_s)

        code, _ = run("pool.none", {}, 60)
        assert code == 1
        assert "has no attribute 'none'" in (tmp_path / "log").read_text().splitlines()[-1]
        code, seconds = run("pool.imap", {"blocks": 10**9, "chunksize": 1}, 0.5)
        assert code is None
        assert seconds >= 0.5
        assert run("pool.imap", {"blocks": 10, "chunksize": 1}, 60)[0] == 0
        assert json.loads((tmp_path / "out").read_text())["blocks_per_s"] > 0


def test_the_table_shows_medians_ratios_targets_and_peers_that_never_ended(tmp_path: Path) -> None:
    samples = {
        "null": {
            "bellis": [{"blocks_per_s": rate, "parent_share": 0.1} for rate in (600_000.0, 500_000.0, 100_000.0)],
            "daisy 2": [{"blocks_per_s": 5000.0, "parent_share": 0.5}],
        },
        "fan_in": {"bellis": [{"seconds": 2.0}], "daisy 2": [{"timeout_s": 60.0}]},
        "one": {"bellis": [{"error": "exit code 1: no such thing"}], "daisy 2": []},
    }
    path = tmp_path / "results.json"
    path.write_text(json.dumps({"machine": {"python": "3.11"}, "cases": samples}))
    shown = benchmarks("--show", path).stdout
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in shown.splitlines() if line.startswith("|")]
    rows = {row[0]: row[2:] for row in table if row[0]}
    assert "- python: 3.11" in shown
    assert rows["10^6 null blocks, no conflicts"] == [
        ">= 400,000 /s", "500,000 /s (100,000 /s to 600,000 /s)", "yes", "daisy 2 (40,000 blocks)", "5,000 /s", "100 x"
    ]  # fmt: skip
    assert rows["reduce: one block reads 20,000"] == ["<= 1 s", "2 s", "**no**", "daisy 2", "> 60 s", "> 30 x"]
    assert rows["one block, whole process, import included"] == ["<= 0.5 s", "failed", "", "", "", ""]


def test_a_page_gets_the_table_between_its_marks(tmp_path: Path) -> None:
    results, page = tmp_path / "results.json", tmp_path / "page.md"
    results.write_text(json.dumps({"machine": {"python": "3.11"}, "cases": {}}))
    page.write_text("before\n<!-- figures: begin -->\nold\n<!-- figures: end -->\nafter\n")
    shown = benchmarks("--show", results, "--page", page).stdout
    assert page.read_text() == f"before\n<!-- figures: begin -->\n{shown}<!-- figures: end -->\nafter\n"


def test_an_unknown_benchmark_is_refused_by_name() -> None:
    done = benchmarks("nul")
    assert done.returncode == 2
    assert "no benchmark is named nul" in done.stderr
