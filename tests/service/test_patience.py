"""A worker that can't reach its run says so, and ends when it is asked to."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import threading
from time import monotonic
from typing import TYPE_CHECKING, Any

import pytest
import trustme

from bellis.errors import ServiceError
from bellis.service import patience
from bellis.service import worker as worker_module
from bellis.service.patience import PatientConnection
from bellis.service.worker import Worker
from bellis.testing.blocks import Belongings, until
from service_rig import TOKEN, Rig, rig

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = [pytest.mark.integration, pytest.mark.slow]
FUNCTIONS = "import time\n\ndef hang(block):\n    time.sleep(60)\n"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []
    (tmp_path / "functions.py").write_text(FUNCTIONS)
    (tmp_path / "token").write_text(TOKEN + "\n")
    (tmp_path / "token").chmod(0o600)

    def begin(url: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "bellis", "worker", url, "--token-file", "token", "--workers", "2"]
        begun = subprocess.Popen(command, cwd=tmp_path, text=True, stderr=subprocess.PIPE)
        started.append(begun)
        return begun

    yield begin
    for each in started:
        each.kill()
        each.communicate()


def heard(worker: subprocess.Popen[str], text: str) -> str:
    """Read what a worker says until a line has ``text``."""
    assert worker.stderr is not None
    for line in worker.stderr:
        if text in line:
            return line
    raise AssertionError(f"it ended and did not say {text!r}")


def ended(worker: subprocess.Popen[str], number: int) -> str:
    """Send one signal; return what is said until the end, which must come soon."""
    worker.send_signal(number)
    _, said = worker.communicate(timeout=4)
    assert worker.returncode == 0, said
    return said


@pytest.fixture
def nobody() -> str:
    """Return an address where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    return f"http://127.0.0.1:{port}"


@pytest.fixture
def mute() -> Iterator[str]:
    """Return an address where connections are taken, and nothing is said."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize(("place", "reason"), [("nobody", "Connection refused"), ("mute", "not answered yet")])
def test_a_worker_that_finds_no_run_says_so_and_one_signal_ends_it(
    request: pytest.FixtureRequest, start: Any, place: str, reason: str
) -> None:
    url = request.getfixturevalue(place)
    began = monotonic()
    worker = start(url)
    line = heard(worker, "waiting for the run")
    assert re.search(rf"waiting for the run at {url} \(.*{reason}.*\), for up to 5\d s", line)
    assert monotonic() - began < 6
    assert f"stopped; the run at {url} was not found yet" in ended(worker, signal.SIGINT)


def test_an_idle_worker_whose_run_is_away_is_ended_by_one_signal(start: Any) -> None:
    with rig(process="functions:hang") as service:
        worker = start(service.url)
        assert heard(worker, "joined") == "joined run rig with 2 processes\n"
        service.close()
        heard(worker, "waiting for the run")
        assert "left the run rig" in ended(worker, signal.SIGTERM)


@pytest.mark.parametrize("is_away", [True, False])
def test_a_worker_that_holds_blocks_ends_when_its_time_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_away: bool
) -> None:
    monkeypatch.setattr(worker_module, "SETTLE_S", 0.5)
    (tmp_path / "functions.py").write_text(FUNCTIONS)
    monkeypatch.syspath_prepend(str(tmp_path))
    said: list[str] = []
    with rig(process="functions:hang") as service:
        before = Belongings()
        service.lease(0)
        worker = Worker(PatientConnection(service.url, TOKEN, say=said.append), workers=1, say=said.append)
        thread = threading.Thread(target=worker.serve)
        thread.start()
        until(lambda: is_running(service), "it runs a block")
        if is_away:
            service.close()
        began = monotonic()
        worker.stop()
        thread.join(10)
        assert 0.4 < monotonic() - began < 4
        assert said == ["joined run rig with 1 process"]
        if not is_away:
            assert service.board.workers == 0
            until(lambda: Belongings().since(before) == [], "nothing is left")


def test_a_run_that_comes_late_is_joined(nobody: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "SAY_S", 0.05)
    said: list[str] = []
    connection = PatientConnection(nobody, TOKEN, say=said.append)
    thread = threading.Thread(target=connection.hello)
    thread.start()
    until(lambda: said, "it is said that the run does not answer")
    with rig() as service:
        service.close()
        service.start(int(nobody.rpartition(":")[2]))
        thread.join(10)
        connection.close()
    assert said[1:] == [f"the run at {nobody} answers"]
    assert not [timer for timer in threading.enumerate() if isinstance(timer, threading.Timer)]


def test_the_other_scheme_is_proposed_where_it_may_help(tmp_path: Path) -> None:
    trustme.CA().issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    with rig(server={"certificate": tmp_path / "server.pem"}) as service:
        hint = f"its address is {service.url}"
        with pytest.raises(ServiceError, match=hint):
            impatient(service.url.replace("https", "http")).hello()
    with rig() as service, pytest.raises(ServiceError, match=f"its address is {service.url}"):
        impatient(service.url.replace("http", "https")).hello()


def is_running(service: Rig) -> bool:
    holdings = [holding for worker in service.board._workers.values() for holding in worker.holdings.values()]
    return any(holding.position is not None for holding in holdings)


def impatient(url: str) -> PatientConnection:
    connection = PatientConnection(url, TOKEN)
    connection.patience_s = 0.2
    return connection
