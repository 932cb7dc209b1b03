"""``bellis worker`` joins a run, imports its functions, works, and leaves as it is asked to."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
import trustme

from bellis.errors import FunctionError, ServiceError
from bellis.runtime.engine import Notice, ProgramRefused, WorkerEnded
from bellis.runtime.lease import Outcome
from bellis.service.connection import Connection
from bellis.service.imported import imported
from bellis.service.worker import Worker
from bellis.testing.blocks import Belongings, Notes, until
from service_rig import TOKEN, Rig, is_gone, rig

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = [pytest.mark.integration, pytest.mark.slow]

FUNCTIONS = """
import os, signal, time
from bellis.testing.blocks import Notes

notes = Notes(__import__("pathlib").Path("notes"))

def note(block):
    print("doing", block.index)
    notes.add(f"{block.index} {os.getpid()}")

def is_even(block):
    return block.index % 2 == 0

def hang(block):
    notes.add(f"{block.index} {os.getpid()}")
    if block.index == 3:
        time.sleep(60)

def slow(block):
    notes.add(block.index)
    time.sleep(0.3)

def die(block):
    if block.index == 1:
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "functions.py").write_text(FUNCTIONS)
    (tmp_path / "token").write_text(TOKEN + "\n")
    (tmp_path / "token").chmod(0o600)
    return tmp_path


@pytest.fixture
def start(folder: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def begin(service: Rig, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "bellis", "worker", service.url, "--token-file", "token", *arguments]
        begun = subprocess.Popen(command, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        started.append(begun)
        return begun

    yield begin
    for each in started:
        each.kill()
        each.communicate()


def ended(worker: subprocess.Popen[str], code: int = 0) -> str:
    """Wait for the end of a worker; return what it said."""
    _, said = worker.communicate(timeout=30)
    assert worker.returncode == code, said
    return said


def said(service: Rig, lease: int) -> bytes:
    """Return all outcomes that were reported of a lease."""
    return b"".join(report.outcomes for report in service.reports(lease))


def test_functions_are_imported_by_name_and_all_of_it_comes_home(start: Any, folder: Path) -> None:
    with rig(process="functions:note", pre="functions:is_even") as service:
        service.lease_all(25)
        worker = start(service, "--workers", "2", "--name", "somewhere")
        outcomes = [outcome for lease in (1, 2, 3, 4) for outcome in service.outcomes(lease, 25)]
        assert outcomes == [Outcome.SKIPPED, Outcome.SUCCESS] * 50
        assert b"| doing 1\n" in b"".join(report.output for report in service.reports())
        service.finish()
        assert "left the run rig" in ended(worker)
        assert service.board.workers == 0
    done = [text.split() for text in Notes(folder / "notes").lines()]
    assert sorted(int(index) for index, _ in done) == list(range(1, 100, 2))
    assert all(is_gone(int(pid)) for _, pid in done)


def test_a_function_that_can_not_be_imported_is_refused_with_the_reason(start: Any) -> None:
    with rig(process="no_such_module:note") as service:
        service.lease(0)
        start(service, "--workers", "1")
        until(lambda: service.is_finished(1), "the lease comes back")
        refusals = [event for event in service.events if isinstance(event, ProgramRefused)]
        assert "start it where `python -c 'import no_such_module'` works" in refusals[0].error


@pytest.mark.parametrize("name", ["os:system; x", "a b:c", "os", "os:path.join", ":x", "../x:y"])
def test_what_is_no_name_is_not_imported(name: str) -> None:
    from bellis.service.imported import Imported

    with pytest.raises(FunctionError, match="no name of a function"):
        Imported(name)


def test_what_is_no_function_is_not_called() -> None:
    with pytest.raises(FunctionError, match="which can't be called"):
        imported("os:sep")
    with pytest.raises(FunctionError, match="can't import os:no_such"):
        imported("os:no_such")


def test_a_process_that_dies_costs_the_block_that_it_was_in(start: Any) -> None:
    with rig(process="functions:die") as service:
        lease = service.lease(0, 1, 2)
        start(service, "--workers", "1", "--name", "here")
        assert service.outcomes(lease, 3)[:2] == [Outcome.SUCCESS, Outcome.FAILED]
        assert "SIGKILL" in service.errors(lease)[1]
        deaths = [event for event in service.events if isinstance(event, WorkerEnded)]
        assert "SIGKILL" in deaths[0].reason
        assert "(here)" in deaths[0].reason


def test_the_first_signal_finishes_what_runs_and_the_rest_goes_back(start: Any, folder: Path) -> None:
    with rig(process="functions:slow") as service:
        lease, waiting = service.lease(0, 1, 2, 3), service.lease(4)
        worker = start(service, "--workers", "1")
        until(Notes(folder / "notes").lines, "a block runs")
        worker.send_signal(signal.SIGTERM)
        ended(worker)
        assert Outcome.FAILED not in service.outcomes(lease, 4)
        assert service.outcomes(lease, 4).count(Outcome.SUCCESS) == len(Notes(folder / "notes").lines()) < 4
        assert service.outcomes(waiting, 1) == [Outcome.NONE]
        assert service.board.workers == 0


def test_the_second_signal_ends_what_runs(start: Any, folder: Path) -> None:
    with rig(process="functions:hang") as service:
        lease = service.lease(2, 3, 4)
        worker = start(service, "--workers", "1")
        until(lambda: len(Notes(folder / "notes").lines()) == 2, "the long block runs")
        worker.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            worker.wait(0.5)
        worker.send_signal(signal.SIGINT)
        ended(worker)
        assert service.outcomes(lease, 3)[2] is not Outcome.SUCCESS
        assert all(is_gone(int(text.split()[1])) for text in Notes(folder / "notes").lines())


def test_a_signal_ends_a_wait_for_work(start: Any) -> None:
    with rig(process="functions:note") as service:
        worker = start(service)
        until(lambda: service.board.workers, "it has joined")
        worker.send_signal(signal.SIGTERM)
        ended(worker)
        assert service.board.workers == 0


def test_where_a_long_block_is_comes_home_and_what_follows_it_goes_back(start: Any) -> None:
    with rig(process="functions:hang") as service:
        lease, waiting = service.lease(0, 1, 2, 3, 4, 5), service.lease(6)
        start(service, "--workers", "1")

        def place() -> int | None:
            holdings = [worker.holdings.get(lease) for worker in service.board._workers.values()]
            return holdings[0].position if holdings and holdings[0] and holdings[0].seconds > 0.5 else None

        until(lambda: place() == 3, "it is known to be in the fourth block")
        with service.server.board() as board:
            board.hurry(report=True, share=True)
        until(lambda: Outcome.LOST in said(service, lease), "the rest comes back")
        assert service.outcomes(waiting, 1) == [Outcome.NONE]


def test_a_service_that_starts_again_gets_its_worker_back(start: Any, folder: Path) -> None:
    with rig(process="functions:hang") as service:
        service.lease(3)
        start(service, "--workers", "1")
        notes = Notes(folder / "notes")
        until(notes.lines, "a block runs")
        port = service.server.port
        service.close()
        service.start(port)
        # What comes while the process of the forgotten block is ended may come back unrun, for the run to lease again.
        until(lambda: service.outcomes(service.lease(5, 6), 2) == [Outcome.SUCCESS] * 2, "it works for the new run")
        assert is_gone(int(notes.lines()[0].split()[1]))  # what nobody waits for any more does not run on
        assert not [event for event in service.events if isinstance(event, Notice)]


def test_another_run_at_the_address_is_a_reason_to_go_home(start: Any) -> None:
    with rig(process="functions:note") as service:
        worker = start(service)
        until(lambda: service.board.workers, "it has joined")
        port, service.run_id = service.server.port, "the-next"
        service.close()
        service.start(port)
        assert "is the-next by now, not rig: there is nothing left to do here" in ended(worker)


def test_a_wrong_token_is_not_sent_and_an_address_that_is_none_is_an_error(start: Any, folder: Path) -> None:
    (folder / "token").write_text("x" * 40)
    with rig(process="functions:note") as service:
        assert "does not know this token" in ended(start(service), 2)
    (folder / "token").chmod(0o644)
    assert "chmod 600" in ended(start(service), 2)


@pytest.mark.parametrize(
    "url", ["localhost:80", "ftp://x:1", "http://x", "http://x:99999", "http://:80", "http://x:1/p"]
)
def test_an_address_that_is_none_is_an_error(url: str) -> None:
    with pytest.raises(ServiceError, match="is no address of a run"):
        Connection(url, TOKEN)


def test_nobody_there_is_an_error_in_time() -> None:
    with rig() as service:
        url = service.url
    with pytest.raises(ServiceError, match=r"does not answer, for 0\.3 s"):
        Connection(url, TOKEN, patience_s=0.3).hello()


def test_tls_with_a_certificate_of_ones_own(folder: Path, start: Any) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    certificate.private_key_and_cert_chain_pem.write_to_path(folder / "server.pem")
    with rig(process="functions:note", server={"certificate": folder / "server.pem"}) as service:
        lease = service.lease(0, 1)
        with pytest.raises(ServiceError, match="not to be trusted"):
            Connection(service.url, TOKEN).hello()
        with pytest.raises(ServiceError, match="can't be read"):
            Connection(service.url, TOKEN, ca_file=folder / "functions.py")
        worker = start(service, "--ca-file", "ca.pem")
        assert service.outcomes(lease, 2) == [Outcome.SUCCESS] * 2
        service.finish()
        ended(worker)


def test_nothing_is_left_behind(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    with rig(process="functions:note") as service:
        before = Belongings()
        service.lease(0)
        worker = Worker(Connection(service.url, TOKEN), workers=2)
        thread = threading.Thread(target=worker.serve)
        thread.start()
        until(lambda: service.is_finished(1), "the lease ends")
        service.finish()
        thread.join(20)
        until(lambda: Belongings().since(before) == [], "nothing is left")
