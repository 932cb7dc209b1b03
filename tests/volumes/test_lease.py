"""Leases: one holder at a time, taken over from the dead at once, and from the silent after a while."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from bellis.errors import VolumeError
from bellis.volumes.lease import LEASE, Lease, Leases, leases_in
from bellis.volumes.owner import Owner, is_leftover, partial_name

if TYPE_CHECKING:
    from pathlib import Path

HOLDER = """
import sys, time
from pathlib import Path
from bellis.volumes.lease import Leases
leases = Leases(Path(sys.argv[1]), expiry_s=float(sys.argv[2]))
lease = leases.acquire("0.0")
print("held" if lease else "refused", flush=True)
sys.stdin.readline()
lease.release()
print("released", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "leases"


def holder(folder: Path, expiry_s: float = 30.0) -> subprocess.Popen[str]:
    """Start a process that holds the lease 0.0 until it reads a line."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder), str(expiry_s)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def write_foreign(folder: Path, pid: int = 1) -> Path:
    """Leave a lease as a process of another machine does."""
    folder.mkdir(exist_ok=True)
    path = folder / f"0.0{LEASE}"
    path.write_text(
        json.dumps({"owner": Owner("another-boot".replace("-", ""), pid, 5).tag, "host": "far", "token": "x"})
    )
    return path


def acquired_within(leases: Leases, seconds: float) -> tuple[Lease | None, float]:
    begun = time.monotonic()
    while time.monotonic() - begun < seconds:
        lease = leases.acquire("0.0")
        if lease is not None:
            return lease, time.monotonic() - begun
        threading.Event().wait(0.01)
    return None, seconds


def test_a_lease_has_one_holder(folder: Path) -> None:
    leases, others = Leases(folder), Leases(folder)
    lease = leases.acquire("0.0")
    assert lease is not None
    assert leases.acquire("0.0") is None
    assert others.acquire("0.0") is None
    assert others.acquire("0.1") is not None
    lease.release()
    assert others.acquire("0.0") is not None


def test_a_released_lease_leaves_no_file(folder: Path) -> None:
    with Leases(folder).acquire("0.0") as lease:  # type: ignore[union-attr]
        assert [path.name for path in folder.iterdir()] == [lease.path.name]
    assert list(folder.iterdir()) == []


def test_of_many_threads_one_gets_it(folder: Path) -> None:
    books = [Leases(folder) for _ in range(4)]
    got: list[Lease | None] = []
    start = threading.Barrier(8)

    def ask(book: Leases) -> None:
        start.wait()
        got.append(book.acquire("0.0"))

    threads = [threading.Thread(target=ask, args=(books[k % 4],)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(lease is not None for lease in got) == 1


def test_a_second_release_does_not_touch_a_later_lease(folder: Path) -> None:
    leases = Leases(folder)
    first = leases.acquire("0.0")
    assert first is not None
    first.release()
    second = leases.acquire("0.0")
    first.release()
    assert second is not None
    assert str(second.path.readlink()) == second.text.decode()


@pytest.mark.integration
@pytest.mark.slow
def test_the_lease_of_a_killed_process_is_taken_at_once(folder: Path) -> None:
    process = holder(folder)
    leases = Leases(folder)
    try:
        assert leases.acquire("0.0") is None
        process.send_signal(signal.SIGKILL)
        lease, seconds = acquired_within(leases, 10)
        assert lease is not None, "it was not even waited for, so it is a zombie now"
        assert seconds < 5
    finally:
        end(process)


@pytest.mark.integration
@pytest.mark.slow
def test_a_stopped_holder_that_wakes_up_does_not_remove_the_lease_of_another(folder: Path) -> None:
    process = holder(folder, expiry_s=0.3)
    assert process.stdin is not None
    assert process.stdout is not None
    leases = Leases(folder, expiry_s=0.3)
    try:
        os.kill(process.pid, signal.SIGSTOP)
        lease, seconds = acquired_within(leases, 20)
        assert lease is not None
        assert seconds >= 0.3
        os.kill(process.pid, signal.SIGCONT)
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "released\n"
        assert str(lease.path.readlink()) == lease.text.decode()
        assert Leases(folder).acquire("0.0") is None
    finally:
        end(process)


@pytest.mark.integration
@pytest.mark.slow
def test_heartbeats_keep_a_lease(folder: Path) -> None:
    process = holder(folder, expiry_s=0.6)
    try:
        assert acquired_within(Leases(folder, expiry_s=0.6), 2)[0] is None
    finally:
        end(process)


@pytest.mark.slow
def test_a_silent_lease_of_another_machine_is_taken_after_it_was_seen_for_long_enough(folder: Path) -> None:
    path = write_foreign(folder)
    os.utime(path, (0, 0))  # that its clock is wrong does not matter
    lease, seconds = acquired_within(Leases(folder, expiry_s=0.4), 10)
    assert lease is not None
    assert 0.4 <= seconds < 5


@pytest.mark.slow
def test_a_lease_of_another_machine_that_beats_is_not_taken(folder: Path) -> None:
    path, leases = write_foreign(folder), Leases(folder, expiry_s=0.4)
    begun = time.monotonic()
    beats = 0
    while time.monotonic() - begun < 1.0:
        beats += 1
        os.utime(path, (beats, beats))
        assert leases.acquire("0.0") is None
        threading.Event().wait(0.02)


def test_another_machine_with_the_same_process_number_is_not_taken_for_this_one(folder: Path) -> None:
    write_foreign(folder, pid=2**22 + 1)
    assert Leases(folder).acquire("0.0") is None


def test_a_process_number_that_was_used_again_is_not_the_holder(folder: Path) -> None:
    folder.mkdir()
    me = Owner.me()
    earlier = Owner(me.machine, me.pid, me.start + 1)
    (folder / f"0.0{LEASE}").write_text(json.dumps({"owner": earlier.tag}))
    assert Leases(folder).acquire("0.0") is not None


@pytest.mark.slow
@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"owner": 3}', b'{"owner": "a-b"}', b"\xff\x00"])
def test_a_lease_that_says_nothing_ends_too(folder: Path, text: bytes) -> None:
    folder.mkdir()
    (folder / f"0.0{LEASE}").write_bytes(text)
    lease, seconds = acquired_within(Leases(folder, expiry_s=0.05), 10)
    assert lease is not None
    assert seconds >= 0.05


@pytest.mark.integration
@pytest.mark.slow
def test_of_many_processes_that_see_a_dead_lease_one_gets_it(folder: Path) -> None:
    process = holder(folder)
    end(process)
    code = (
        "import sys; from pathlib import Path; from bellis.volumes.lease import Leases; sys.stdin.readline();"
        "lease = Leases(Path(sys.argv[1])).acquire('0.0'); print(int(lease is not None), flush=True);"
        "sys.stdin.readline()"
    )
    command = [sys.executable, "-c", code, str(folder)]
    watchers = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(6)]
    try:
        for watcher in watchers:
            watcher.stdin.write("\n")  # type: ignore[union-attr]
            watcher.stdin.flush()  # type: ignore[union-attr]
        answers = [watcher.stdout.readline() for watcher in watchers]  # type: ignore[union-attr]
    finally:
        for watcher in watchers:
            end(watcher)
    assert sorted(answers) == ["0\n"] * 5 + ["1\n"]


@pytest.mark.integration
def test_a_forked_child_does_not_release_the_lease_of_its_parent(folder: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from bellis.volumes.lease import Leases;"
        "leases = Leases(Path(sys.argv[1]), expiry_s=1e6); lease = leases.acquire('0.0'); child = os.fork();"
        "child or (lease.release(), os._exit(0)); os.waitpid(child, 0); print(lease.path.is_symlink())"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


def test_a_folder_that_is_a_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "leases").write_text("")
    with pytest.raises(VolumeError, match="can't take the lease"):
        Leases(tmp_path / "leases").acquire("0.0")


def test_leases_of_the_gone_are_told_from_others(folder: Path) -> None:
    lease = Leases(folder).acquire("0.0")
    me = Owner.me()
    (folder / f"0.1{LEASE}").write_text(json.dumps({"owner": Owner(me.machine, me.pid, me.start + 1).tag}))
    assert lease is not None
    assert [(path.name, is_gone) for path, _, is_gone in leases_in(folder)] == [
        ("0.0.lease", False),
        ("0.1.lease", True),
    ]


def test_a_file_that_we_write_is_no_leftover_until_it_is_old(tmp_path: Path) -> None:
    path = tmp_path / partial_name("7")
    path.write_bytes(b"")
    assert not is_leftover(path)
    os.utime(path, (0, 0))
    assert is_leftover(path)


def test_owners_are_parsed_from_their_tags() -> None:
    assert Owner.parse(Owner.me().tag) == Owner.me()
    assert Owner.parse("x-1") is None
    assert Owner.parse("") is None
    assert not Owner.me().is_gone


def test_a_lease_of_a_living_process_is_never_stale_whatever_the_clock_says(folder: Path) -> None:
    lease = Leases(folder).acquire("0.0")
    assert lease is not None
    foreign = Leases(folder).acquire("0.1")
    assert foreign is not None
    foreign.path.unlink()
    foreign.path.symlink_to(json.dumps({"owner": Owner("elsewhere", 1, 5).tag}))
    for path in (lease.path, foreign.path):
        os.utime(path, (0, 0), follow_symlinks=False)
    assert [is_stale for _, _, is_stale in leases_in(folder)] == [False, True]
