"""Temporary folders of killed processes are removed by the next one, and nobody else's."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from bellis.runtime import folders
from bellis.runtime.folders import own_folder
from bellis.runtime.host import Host
from bellis.service.keys import Keys

CODE = "from bellis.runtime.folders import own_folder; print(own_folder('host')); print(own_folder('service'))"


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def left_behind(root: Path) -> list[Path]:
    """Return the folders of a process that has ended without removing them."""
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        env={**os.environ, "TMPDIR": str(root)}, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    return [Path(line) for line in done.stdout.split()]


@pytest.mark.slow
def test_what_a_process_that_has_ended_left_is_removed(root: Path) -> None:
    left = left_behind(root)
    (left[1] / "token").write_text("x")
    mine = own_folder("host")
    assert {path.name for path in root.iterdir()} == {mine.name}
    assert mine.stat().st_mode & 0o777 == 0o700


@pytest.mark.slow
def test_hosts_and_services_remove_it(root: Path) -> None:
    for use in (lambda: Host(1).close(), lambda: Keys.of("run", None, None).remove()):
        assert all(path.exists() for path in left_behind(root))
        use()
        assert list(root.iterdir()) == []


def test_what_may_be_in_use_stays(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, gone = folders._place(), 2**22 + 1  # no pid is so large
    (root / "elsewhere").mkdir()
    kept = [
        root / f"bellis-host-{place}-{os.getpid()}-running",
        root / f"bellis-host-{place}-1-init",
        root / f"bellis-host-0badcafe-{gone}-another-machine",
        root / f"bellis-other-{place}-{gone}-x",
        root / "bellis-host-x2y3",
    ]
    for path in kept:
        path.mkdir()
    link = root / f"bellis-host-{place}-{gone}-link"
    link.symlink_to(root / "elsewhere")
    (root / f"bellis-service-{place}-{gone}-left").mkdir()
    mine = own_folder("host")
    assert set(root.iterdir()) == {*kept, link, mine, root / "elsewhere"}
    theirs = root / f"bellis-host-{place}-{gone}-theirs"
    theirs.mkdir()
    monkeypatch.setattr(os, "getuid", lambda: theirs.stat().st_uid + 1)
    own_folder("host")
    assert theirs.exists()
