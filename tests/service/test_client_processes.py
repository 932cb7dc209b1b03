"""Clients in processes that fork, end and are killed, and in threads; nothing is left behind."""

from __future__ import annotations

import gc
import os
import signal
import socket
import subprocess
import threading
from pathlib import Path
from time import monotonic, sleep

import pytest

import bellis
from bellis.errors import ContextError, RunError, ServiceError
from bellis.runtime.lease import Outcome
from bellis.service.client import Client
from bellis.service.context import Context
from bellis.tasks import BlockStatus
from bellis.testing.blocks import Belongings, Notes, _descendants, until
from service_rig import TOKEN, Rig, is_gone, rig, script, take_all

pytestmark = [pytest.mark.integration, pytest.mark.slow]


def test_nothing_is_left_behind(service: Rig) -> None:
    Client(service.context).close()
    before = Belongings()
    client = Client(service.context)
    service.lease(0)
    with client.acquire_block():
        pass
    client.close()
    del client
    forgotten = Client(service.context)
    del forgotten
    gc.collect()
    assert Belongings().since(before) == []
    until(lambda: service.board.workers == 0, "the service has heard that they are gone")


@pytest.mark.parametrize("end", ["", "import os; os._exit(0)", "raise KeyError", "import sys; sys.exit(3)"])
def test_a_process_that_ends_leaves_the_run_at_once(service: Rig, end: str) -> None:
    lease = service.lease(0, 1, 2)
    code = "import bellis; client = bellis.Client()\nwith client.acquire_block() as block: pass\n" + end
    child = script(code, service.context, stderr=subprocess.DEVNULL)
    child.wait(20)
    assert service.outcomes(lease, 3) == [Outcome.SUCCESS, Outcome.NONE, Outcome.NONE]
    until(lambda: service.board.workers == 0, "the worker has left", deadline_s=3)


def test_the_block_that_a_killed_process_was_in_fails_and_is_known_at_once(service: Rig) -> None:
    code = (
        "import bellis, os, signal\n"
        "client = bellis.Client()\n"
        "while True:\n"
        "    with client.acquire_block() as block:\n"
        "        if block.index == 2: os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    lease, waiting = service.lease(0, 1, 2, 3), service.lease(4)
    assert script(code, service.context).wait(20) == -signal.SIGKILL
    began = monotonic()
    expected = [Outcome.SUCCESS, Outcome.SUCCESS, Outcome.FAILED, Outcome.NONE]
    assert service.outcomes(lease, 4) == expected
    assert service.outcomes(waiting, 1) == [Outcome.NONE]
    assert monotonic() - began < 5
    assert "ended while it ran it" in service.errors(lease)[2]
    assert any(report.crash for report in service.reports(lease))


def test_a_block_that_takes_too_long_costs_its_process(tmp_path: Path) -> None:
    code = (
        "import bellis, sys, time\n"
        "client = bellis.Client()\n"
        "with client.acquire_block() as block: pass\n"
        "time.sleep(1.0)\n"  # between blocks, time is nobody's
        "with client.acquire_block() as block:\n"
        "    time.sleep(60)\n"
    )
    with rig(timeout_s=0.5) as service:
        lease = service.lease(0, 1, 2)
        errors = tmp_path / "errors"
        with errors.open("w") as file:
            child = script(code, service.context, stderr=file)
            assert service.outcomes(lease, 3) == [Outcome.SUCCESS, Outcome.NONE, Outcome.NONE]
            lease = service.lease(1, 2)
            assert child.wait(20) == -signal.SIGKILL
        assert service.outcomes(lease, 2) == [Outcome.FAILED, Outcome.NONE]
        assert "timeout of 0.5 s" in service.errors(lease)[0]
        assert "timeout of 0.5 s" in errors.read_text()


def test_the_end_of_a_whole_process_group_is_known_as_that_of_one(service: Rig) -> None:
    lease = service.lease(0, 1, 2, 3)
    code = (
        "import bellis, os, time\n"
        "client = bellis.Client()\n"
        "for k in range(3):\n"
        "    with client.acquire_block() as block:\n"
        "        if k == 2:\n"
        "            print(client._courier.pid, flush=True); time.sleep(60)\n"
    )
    child = script(code, service.context, stdout=subprocess.PIPE, start_new_session=True)
    assert child.stdout is not None
    courier = int(child.stdout.readline())
    os.killpg(child.pid, signal.SIGKILL)
    child.communicate(timeout=10)
    assert service.outcomes(lease, 4) == [Outcome.SUCCESS] * 2 + [Outcome.FAILED, Outcome.NONE]
    assert "ended while it ran it" in service.errors(lease)[2]
    until(lambda: is_gone(courier), "nothing is left behind", deadline_s=2)


def test_a_courier_ends_although_the_service_does_not_answer_and_its_client_was_killed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        context = Context(hostname="127.0.0.1", port=deaf.getsockname()[1], task_id="task", token=TOKEN)
        code = "import bellis; bellis.Client()"
        child = script(code, context, start_new_session=True)
        until(lambda: list(_descendants(child.pid)), "its courier is there")
        couriers = list(_descendants(child.pid))
        with deaf.accept()[0] as connection:
            connection.recv(1)
            os.kill(child.pid, signal.SIGKILL)
            child.wait(10)
            until(lambda: all(map(is_gone, couriers)), "it ends", deadline_s=3)


def test_a_fork_takes_no_blocks_and_gives_none_back(service: Rig, client: Client) -> None:
    lease = service.lease(0, 1)
    with client.acquire_block():
        pid = os.fork()
        if pid == 0:
            try:
                client.acquire_block().__enter__()
            except RunError:
                os._exit(7)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    with client.acquire_block() as block:
        assert block is not None
    assert service.outcomes(lease, 2) == [Outcome.SUCCESS] * 2


def test_a_client_has_the_names_that_daisy_gives_it(service: Rig, client: Client) -> None:
    assert (client.host, client.port, client.task_id) == ("127.0.0.1", service.server.port, "task")
    assert client.context == service.context
    assert client.worker_id == 0
    context = service.context
    del context["worker_id"]
    with Client(context) as first, Client(context) as second:
        assert first.worker_id != second.worker_id  # of workers that nobody numbered
    context["worker_id"] = "first"
    with pytest.raises(ContextError, match="worker_id in the context must be a number, not 'first'"):
        Client(context)


def test_a_block_can_be_released_before_the_end_of_its_with(service: Rig, client: Client) -> None:
    lease = service.lease(0, 1, 2)
    with client.acquire_block() as block:
        assert block is not None
        client.release_block(block)
        assert block.status is BlockStatus.SUCCESS
        with pytest.raises(RunError, match="is not out"):
            client.release_block(block)
        with client.acquire_block() as second:
            assert second is not None
            second.status = BlockStatus.FAILED
            client.release_block(second)
    with client.acquire_blocks(1):
        pass
    assert service.outcomes(lease, 3) == [Outcome.SUCCESS, Outcome.FAILED, Outcome.SUCCESS]


def test_a_block_out_means_no_other_and_says_so(service: Rig, client: Client) -> None:
    service.lease(0, 1)
    with client.acquire_block(), pytest.raises(RunError, match="one at a time"), client.acquire_block():
        pass
    with pytest.raises(ValueError, match="at least 1, not 0"):
        client.acquire_blocks(0)


def test_two_clients_in_threads_share_the_blocks(service: Rig) -> None:
    service.lease_all(5)
    notes: list[int] = []

    def work() -> None:
        with Client(service.context) as mine:
            notes.extend(take_all(mine))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    until(lambda: sum(report.finished for report in service.reports()) == 20, "all leases end")
    service.finish()
    for thread in threads:
        thread.join(10)
    assert sorted(notes) == list(range(100))


def test_an_interrupt_ends_a_wait_for_blocks(service: Rig) -> None:
    code = (
        "import bellis\n"
        "client = bellis.Client()\n"
        "print('waits', flush=True)\n"
        "try:\n"
        "    with client.acquire_block() as block: pass\n"
        "except KeyboardInterrupt: print('interrupted', flush=True)\n"
    )
    child = script(code, service.context, stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == "waits\n"
    sleep(0.1)
    child.send_signal(signal.SIGINT)
    assert child.communicate(timeout=20)[0] == "interrupted\n"
    until(lambda: service.board.workers == 0, "the worker has left", deadline_s=3)


def test_the_courier_ends_with_its_client_and_its_client_without_it(service: Rig, client: Client) -> None:
    courier = client._courier.pid
    os.kill(courier, signal.SIGKILL)
    with pytest.raises(ServiceError, match="has ended"), client.acquire_block():
        pass
    until(lambda: is_gone(courier), "it is gone")
    assert bellis.Client is Client
    assert TOKEN not in Path("/proc/self/cmdline").read_text()


def test_no_token_is_on_a_command_line(service: Rig, client: Client) -> None:
    assert TOKEN not in Path(f"/proc/{client._courier.pid}/cmdline").read_text()
    assert Notes(Path("/nonexistent")).lines() == []
