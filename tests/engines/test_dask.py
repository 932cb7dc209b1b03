"""The Dask engine."""

from __future__ import annotations

from time import sleep
from typing import TYPE_CHECKING

import pytest
from distributed import Client, LocalCluster

from bellis.engines.dask import DaskEngine
from bellis.testing.blocks import line, noting, until
from bellis.testing.engines import EngineTests

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bellis import Block

pytestmark = [pytest.mark.integration, pytest.mark.slow]


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster.scheduler_address, set_as_default=False) as client,
    ):
        yield client


class TestDaskEngine(EngineTests):
    @pytest.fixture(autouse=True)
    def _on(self, client: Client) -> None:
        self.client = client

    def engine(self) -> DaskEngine:
        return DaskEngine(self.client)

    def test_a_worker_in_a_long_block_gives_away_what_it_holds_beyond_it(self) -> None:
        notes = self.notes

        def work(block: Block) -> None:
            if block.index == 200:  # without help from the other worker it would wait in vain
                until(lambda: len(notes.lines()) == 399, "all other blocks", deadline_s=15)
            else:
                sleep(0.001)
            notes.add(block.index)

        report = self.run(line(work, 400, max_retries=0))
        assert report.failures == ()
        assert sorted(map(int, notes.lines())) == list(range(400))

    def test_a_finished_block_is_reported_while_the_next_of_its_lease_runs_if_others_wait_for_it(self) -> None:
        notes = self.notes

        def first(block: Block) -> None:
            if block.index % 100 == 99:
                until(lambda: notes.count(block.index - 1), "what reads the block before", deadline_s=10)

        upstream = line(first, 200, task_id="first", num_workers=1, max_retries=0)
        downstream = line(noting(notes), 200, task_id="second", num_workers=1, upstream_tasks=[upstream])
        report = self.run(downstream)
        assert report.failures == ()
        assert report.ok
