"""A client that nobody uses holds nothing up: it takes blocks when it is asked, and gives them back when it is idle."""

from __future__ import annotations

import gc
import os
import signal
import threading
from time import sleep

import pytest

from bellis.runtime.lease import Outcome
from bellis.service.client import Client
from bellis.testing.blocks import until
from service_rig import Rig, is_gone, rig

pytestmark = [pytest.mark.integration, pytest.mark.slow]


def test_a_client_takes_nothing_before_it_is_asked(service: Rig, client: Client) -> None:
    lease = service.lease(0)
    with Client(service.context) as other:
        with other.acquire_block() as block:
            assert block is not None
        assert service.outcomes(lease, 1) == [Outcome.SUCCESS]
    assert service.board.workers == 1
    second = service.lease(1)
    with client.acquire_block() as block:
        assert block is not None
    assert service.outcomes(second, 1) == [Outcome.SUCCESS]


@pytest.mark.parametrize("taken", [0, 2])
def test_what_an_idle_client_holds_goes_back_and_what_it_did_counts(service: Rig, client: Client, taken: int) -> None:
    first = service.lease(*range(4))
    for _ in range(1 + taken):
        with client.acquire_block():
            pass
    assert service.outcomes(first, 4) == [Outcome.SUCCESS] * (1 + taken) + [Outcome.NONE] * (3 - taken)
    second = service.lease(8, 9)
    for index in (8, 9):
        with client.acquire_block() as block:
            assert block is not None
            assert block.index == index
    assert service.outcomes(second, 2) == [Outcome.SUCCESS] * 2


def test_a_lease_that_comes_after_an_interrupt_goes_back(service: Rig, client: Client) -> None:
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt), client.acquire_block():
        pass
    lease = service.lease(0, 1)
    assert service.outcomes(lease, 2) == [Outcome.NONE] * 2
    second = service.lease(0, 1)
    for index in range(2):
        with client.acquire_block() as block:
            assert block is not None
            assert block.index == index
    assert service.outcomes(second, 2) == [Outcome.SUCCESS] * 2


def test_no_block_is_lost_or_run_twice_by_a_client_that_idles_now_and_then() -> None:
    with rig(60) as service:
        left, taken = set(range(60)), []

        def offer() -> None:
            """Put up what came back, as a run does."""
            while not stop.wait(0.01):
                for lease_id, indices in list(leases.items()):
                    if service.is_finished(lease_id):
                        done = service.outcomes(lease_id, len(indices))
                        left.difference_update(
                            index for index, end in zip(indices, done, strict=True) if end is Outcome.SUCCESS
                        )
                        del leases[lease_id]
                        again = sorted(left & set(indices))
                        if again:
                            leases[service.lease(*again)] = again
                if not left:
                    service.finish()

        stop = threading.Event()
        leases = {service.lease(*range(begin, begin + 20)): list(range(begin, begin + 20)) for begin in (0, 20, 40)}
        run = threading.Thread(target=offer)
        run.start()
        with Client(service.context) as client:
            while True:
                with client.acquire_block() as block:
                    if block is None:
                        break
                    taken.append(block.index)
                if len(taken) % 12 == 0:
                    sleep(0.45 + 0.01 * len(taken))  # about when it gives back
        stop.set()
        run.join(10)
    assert sorted(taken) == list(range(60))


def test_a_client_that_is_forgotten_is_closed_at_once(service: Rig) -> None:
    service.lease(0)
    gc.disable()  # no cycle keeps it
    try:
        client = Client(service.context)
        with client.acquire_block():
            pass
        assert service.board.workers == 1
        courier = client._courier.pid
        del client
        assert is_gone(courier)
    finally:
        gc.enable()
    until(lambda: service.board.workers == 0, "it has left")


def test_a_second_client_in_the_block_of_a_first_is_told_that_there_is_none(service: Rig, client: Client) -> None:
    lease = service.lease(0)
    with Client(service.context) as second:
        with client.acquire_block() as block:
            assert block is not None
            with second.acquire_block() as other:
                assert other is None
        service.lease(1)
        with second.acquire_block() as other:
            assert other is not None
    assert service.outcomes(lease, 1) == [Outcome.SUCCESS]
