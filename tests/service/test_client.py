"""A client takes blocks and reports them, ahead of time and behind your back; nothing is lost, and nothing hangs."""

from __future__ import annotations

import subprocess
from time import monotonic

import pytest

from bellis.errors import ContextError, ServiceError
from bellis.runtime.cell import FLAG
from bellis.runtime.lease import Outcome
from bellis.service.client import Client
from bellis.service.context import Context
from bellis.tasks import BlockStatus
from bellis.testing.blocks import until
from service_rig import Rig, rig, script, take_all

pytestmark = [pytest.mark.integration, pytest.mark.slow]


# What it hands out ---------------------------------------------------------------------------------------------------


def test_blocks_come_one_by_one_with_their_regions_and_then_none(service: Rig, client: Client) -> None:
    lease = service.lease(3, 4, 9)
    seen = []
    for _ in range(3):
        with client.acquire_block() as block:
            assert block is not None
            assert block.status is BlockStatus.PROCESSING
            seen.append((block.index, block.block_id, tuple(block.write_roi.begin), tuple(block.read_roi.shape)))
    assert seen == [(3, ("task", 4), (4,), (3,)), (4, ("task", 5), (5,), (3,)), (9, ("task", 10), (10,), (3,))]
    assert service.outcomes(lease, 3) == [Outcome.SUCCESS] * 3
    service.finish()
    assert take_all(client) == []
    assert take_all(client) == []


def test_each_block_is_reported_once_with_its_duration_whatever_the_leases(service: Rig, client: Client) -> None:
    service.lease_all(7)
    taken = []
    for _ in range(100):
        with client.acquire_block() as block:
            assert block is not None
            taken.append(block.index)
    assert sorted(taken) == list(range(100))
    for lease_id in range(1, 16):
        size = 7 if lease_id < 15 else 2
        assert service.outcomes(lease_id, size) == [Outcome.SUCCESS] * size
        reports = service.reports(lease_id)
        assert sum(len(report.seconds) for report in reports) == 4 * size
        assert max(report.peak_memory_bytes for report in reports) > 2**20


def test_several_blocks_are_taken_together(service: Rig, client: Client) -> None:
    lease = service.lease(*range(10))
    sizes = []
    for _ in range(3):
        with client.acquire_blocks(4) as blocks:
            sizes.append(len(blocks))
            if len(sizes) == 2:
                blocks[1].status = BlockStatus.FAILED
    assert sizes == [4, 4, 2]
    assert [k for k, outcome in enumerate(service.outcomes(lease, 10)) if outcome is Outcome.FAILED] == [5]
    service.finish()
    with client.acquire_blocks(4) as blocks:
        assert blocks == []


def test_when_one_of_several_raises_those_that_were_said_to_be_done_are(service: Rig, client: Client) -> None:
    lease = service.lease(0, 1, 2)
    with client.acquire_blocks(3) as blocks:
        blocks[0].status = BlockStatus.SUCCESS
        raise ValueError("the second is bad")
    assert service.outcomes(lease, 3) == [Outcome.SUCCESS, Outcome.FAILED, Outcome.FAILED]


def test_an_exception_is_a_failure_with_its_traceback_and_goes_no_further(
    service: Rig, client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    lease = service.lease(0, 1, 2)
    for _ in range(3):
        with client.acquire_block() as block:
            assert block is not None
            if block.index == 1:
                raise ValueError("a bad block \udc80")
    assert service.outcomes(lease, 3) == [Outcome.SUCCESS, Outcome.FAILED, Outcome.SUCCESS]
    error = service.errors(lease)[1]
    assert "test_client.py" in error
    assert "ValueError: a bad block ?" in error
    assert "a bad block" in capsys.readouterr().err


@pytest.mark.parametrize("kind", [SystemExit, GeneratorExit])
def test_what_ends_a_process_fails_the_block_and_goes_on_ending(
    service: Rig, client: Client, kind: type[BaseException]
) -> None:
    lease = service.lease(0, 1)
    with pytest.raises(kind), client.acquire_block():
        raise kind
    client.close()
    assert service.outcomes(lease, 2) == [Outcome.FAILED, Outcome.NONE]


def test_a_block_that_ctrl_c_interrupts_counts_no_attempt(service: Rig, client: Client) -> None:
    lease = service.lease(0, 1)
    with pytest.raises(KeyboardInterrupt), client.acquire_block():
        raise KeyboardInterrupt
    client.close()
    assert service.outcomes(lease, 2) == [Outcome.LOST, Outcome.NONE]


def test_the_status_that_the_body_leaves_counts(service: Rig, client: Client) -> None:
    lease = service.lease(0, 1, 2)
    statuses = [BlockStatus.FAILED, BlockStatus.SUCCESS, BlockStatus.CREATED]
    for status in statuses:
        with client.acquire_block() as block:
            assert block is not None
            block.status = status
    assert service.outcomes(lease, 3) == [Outcome.FAILED, Outcome.SUCCESS, Outcome.FAILED]
    assert "block.status was FAILED" in service.errors(lease)[0]


# What it does meanwhile ----------------------------------------------------------------------------------------------


def test_what_is_done_is_reported_while_a_long_block_runs(service: Rig, client: Client) -> None:
    lease = service.lease(0, 1, 2, 3)
    for _ in range(2):
        with client.acquire_block():
            pass
    with client.acquire_block():
        until(lambda: any(report.begin + len(report.outcomes) == 2 for report in service.reports(lease)), "a report")
        assert not service.is_finished(lease)


def test_what_a_long_block_holds_up_is_given_back_when_others_could_run_it(service: Rig, client: Client) -> None:
    first, second = service.lease(0, 1, 2), service.lease(3, 4)
    with client.acquire_block() as block:
        assert block is not None
        with service.server.board() as board:
            board.hurry(report=True, share=True)
        until(lambda: service.is_finished(second), "the lease that was not begun comes back")
        until(lambda: any(Outcome.LOST in report.outcomes for report in service.reports(first)), "the rest comes back")
    assert service.outcomes(first, 3) == [Outcome.SUCCESS, Outcome.LOST, Outcome.LOST]
    with service.server.board() as board:
        board.hurry(report=False, share=False)
    third = service.lease(1, 2)
    for index in (1, 2):
        with client.acquire_block() as block:
            assert block is not None
            assert block.index == index
    assert service.outcomes(third, 2) == [Outcome.SUCCESS] * 2


def test_when_the_run_drains_the_block_is_finished_and_no_other_begun(service: Rig, client: Client) -> None:
    lease = service.lease(0, 1, 2)
    with client.acquire_block():
        with service.server.board() as board:
            board.drain()
        until(lambda: client._words[FLAG], "the client hears of it")
    assert take_all(client) == []
    assert service.outcomes(lease, 3)[0] is Outcome.SUCCESS
    assert Outcome.SUCCESS not in service.outcomes(lease, 3)[1:]


def test_a_kernel_that_keeps_the_interpreter_busy_is_not_taken_for_dead() -> None:
    code = (
        "import ctypes, bellis\n"
        "client = bellis.Client()\n"
        "with client.acquire_block() as block:\n"
        "    ctypes.PyDLL(None).usleep(900_000)\n"  # PyDLL: with the interpreter's lock
    )
    with rig() as service:
        service.board._silence_s = 0.6
        lease = service.lease(0)
        child = script(code, service.context)
        assert service.outcomes(lease, 1) == [Outcome.SUCCESS]
        assert child.wait(20) == 0


def test_null_blocks_come_at_30_000_per_second_at_least() -> None:
    with rig(60_000) as service:
        service.lease_all(4096)
        with Client(service.context) as client:
            with client.acquire_block():
                pass
            began = monotonic()
            for _ in range(59_999):
                with client.acquire_block() as block:
                    assert block is not None
            assert 59_999 / (monotonic() - began) > 30_000


# The service goes away -----------------------------------------------------------------------------------------------


def test_a_service_that_starts_again_gets_its_client_back(service: Rig, client: Client) -> None:
    service.lease(0, 1)
    with client.acquire_block() as block:
        assert block is not None
        port = service.server.port
        service.close()
        service.start(port)
        lease = service.lease(5, 6)
    for index in (5, 6):
        with client.acquire_block() as block:
            assert block is not None
            assert block.index in {1, index}  # what was begun before is somebody else's, and dropped
        if block is not None and block.index == 1:
            with client.acquire_block() as block:
                assert block is not None
                assert block.index == index
    assert service.outcomes(lease, 2) == [Outcome.SUCCESS] * 2


def test_a_service_that_does_not_come_back_is_an_error_in_time(service: Rig) -> None:
    code = (
        "import bellis, bellis.service.client as module\n"
        "client = bellis.Client()\n"
        "with client.acquire_block() as block: print('taken', flush=True); input()\n"
        "with client.acquire_block() as block: print(block)\n"
    )
    service.lease(0)
    context = service.context
    context["patience_s"] = 1
    child = script(code, context, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == "taken\n"
    service.close()
    _, errors = child.communicate("\n", timeout=30)
    assert child.returncode == 1
    assert "ServiceError: the run at http://127.0.0.1" in errors
    assert "does not answer, for 1 s" in errors


def test_a_run_of_another_name_is_none_of_its_business(service: Rig) -> None:
    context = service.context
    context["run_id"] = "older"
    with pytest.raises(ServiceError, match="is rig by now, not older") as caught:
        Client(context)
    assert caught.value.is_other_run


def test_a_token_goes_nowhere_that_does_not_know_it(service: Rig) -> None:
    context = service.context
    context["token"] = "x" * 40
    with pytest.raises(ServiceError, match="does not know this token"):
        Client(context)


def test_a_context_without_a_token_is_an_error_that_does_not_show_it() -> None:
    with pytest.raises(ContextError, match="the context has no port, token"):
        Client(Context(hostname="localhost", task_id="task"))
