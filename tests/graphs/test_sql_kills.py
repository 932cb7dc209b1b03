"""Many writers at once, and writers that are killed: what was acknowledged is there, and no block is there by half."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from graphs.sql_writers import KILLS, opened, versions_in

pytestmark = [pytest.mark.integration, pytest.mark.slow]
SCRIPT = Path(__file__).with_name("sql_writers.py")


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return str(tmp_path / "graph.sqlite")
    url: str = request.getfixturevalue("postgres_url")
    return url


def run(what: str, place: str, seed: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, SCRIPT, what, place, str(seed)], capture_output=True, text=True, check=False, timeout=100
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_writers_that_are_killed_lose_nothing_that_was_acknowledged(place: str) -> None:
    acknowledged = int(run("kills", place, seed=20261121))
    assert acknowledged >= KILLS
    backend = opened(place)
    assert max(versions_in(backend).values()) >= acknowledged
    backend.close()


def test_eight_writers_lose_nothing(place: str) -> None:
    run("together", place)
