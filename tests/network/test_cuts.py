"""Runs over two hosts, one of which is cut off for a while: nothing is lost, and the output is that of one process."""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

import pytest

from bellis.testing.blocks import until
from network.hosts import Hosts, can_make_hosts

if TYPE_CHECKING:
    import subprocess

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.skipif(not can_make_hosts(), reason="needs the right to make network namespaces"),
]
HERE = Path(__file__).parent
PORT = {"service": 8787, "dask": 8786}


class Run:
    """One run over two hosts, ``there`` of which is cut off for ``cut_s``."""

    def __init__(self, kind: str, cut_s: float, blocks: int, folder: Path) -> None:
        self.kind, self.cut_s, self.blocks, self.folder = kind, cut_s, blocks, folder
        folder.mkdir()
        self.log = folder / "log"

    def start(self, hosts: Hosts, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        env = {
            "BELLIS_TEST_FOLDER": str(self.folder),
            "BELLIS_TEST_HOST": name,
            "PYTHONPATH": str(HERE),
            "DASK_DISTRIBUTED__WORKER__DAEMON": "True",
        }
        with self.log.open("ab") as log:
            return hosts.start(name, [sys.executable, *arguments], env=env, stdout=log, stderr=log, cwd=self.folder)

    def notes(self) -> list[str]:
        path = self.folder / "notes"
        return path.read_text().splitlines() if path.exists() else []

    def start_workers(self, hosts: Hosts) -> None:
        for name in ("here", "there"):
            if self.kind == "service":
                token = ("--token-file", str(self.folder / "token"), "--workers", "1")
                self.start(hosts, name, "-m", "bellis", "worker", "http://10.77.1.2:8787", *token)
            else:
                local = ("--local-directory", str(self.folder / f"dask-{name}"), "--no-dashboard")
                count = ("--nworkers", "1", "--nthreads", "1")
                self.start(hosts, name, "-m", "distributed.cli.dask_worker", "10.77.1.2:8786", *count, *local)

    def __call__(self) -> dict[str, Any]:
        with Hosts() as hosts:
            if self.kind == "dask":
                where = ("--host", "10.77.1.2", "--no-dashboard")
                self.start(hosts, "here", "-m", "distributed.cli.dask_scheduler", *where)
                self.start_workers(hosts)
            driver = self.start(hosts, "here", str(HERE / "cut_work.py"), self.kind, str(self.blocks))
            if self.kind == "service":
                until((self.folder / "token").exists, "the token", deadline_s=60)
                self.start_workers(hosts)
            until(lambda: self.notes().count("there") > 30, "blocks that ran there", deadline_s=60)
            hosts.cut()
            before = self.notes().count("there")
            sleep(self.cut_s)
            hosts.mend()
            assert driver.wait(120) == 0, self.log.read_text()
            after = self.notes().count("there")
        found: dict[str, Any] = json.loads((self.folder / "report.json").read_text())
        return {**found, "output": (self.folder / "output").read_bytes(), "came_back": after - before}


def expected(blocks: int) -> bytes:
    return b"".join((index * 2654435761 % 2**61).to_bytes(8, "little") for index in range(blocks))


@pytest.mark.timeout(280)
def test_nothing_is_lost_when_a_host_is_cut_off_for_a_while(tmp_path: Path) -> None:
    runs = [
        Run("service", 5, 500, tmp_path / "service-5"),
        Run("service", 60, 1800, tmp_path / "service-60"),
        Run("dask", 5, 500, tmp_path / "dask-5"),
        Run("dask", 60, 1800, tmp_path / "dask-60"),
    ]
    began = monotonic()
    with ThreadPoolExecutor(len(runs)) as pool:
        found = dict(zip(((run.kind, run.cut_s) for run in runs), pool.map(lambda run: run(), runs), strict=True))
    assert monotonic() - began < 200
    for run in runs:
        result = found[run.kind, run.cut_s]
        assert result["ok"], (run.kind, run.cut_s, result)
        assert result["completed"] == run.blocks
        assert result["output"] == expected(run.blocks)
        assert result["failures"] == []
    for kind in PORT:
        assert found[kind, 5]["lost"] == []
        assert found[kind, 5]["came_back"] > 0
        assert len(found[kind, 60]["lost"]) == 1
    assert "not heard of for 10 s" in found["service", 60]["lost"][0]
    assert "10.77.2.2" in found["dask", 60]["lost"][0]
    assert found["service", 60]["came_back"] > 0
