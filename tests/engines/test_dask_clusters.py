"""The Dask engine on clusters of several kinds: with resources, adaptive, secured, its own."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

import pytest
from distributed import Client, LocalCluster, Worker
from distributed.security import Security
from psutil import Process

import bellis
from bellis.engines.dask import DaskEngine
from bellis.engines.dask_members import Members
from bellis.engines.dask_messages import Told, add_report
from bellis.errors import EngineError, TaskError
from bellis.runtime.events import Message, TaskProgress
from bellis.runtime.lease import Outcome, Report
from bellis.testing.blocks import Belongings, Notes, Recorder, line, noting, until
from dask_cluster import Cluster, running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from bellis import RunReport

SLOW = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(60)]


@pytest.fixture
def notes(tmp_path: Path) -> Notes:
    return Notes(tmp_path / "notes")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two Dask workers, one of which has two GPUs."""
    with running(tmp_path_factory.mktemp("cluster"), 1) as cluster:
        cluster.worker("--resources", "GPU=2", "--name", "with-gpus", "--nthreads", "3")
        with cluster.client() as client:
            client.wait_for_workers(2, timeout=30)
        yield cluster


def run(engine: Any, tasks: Any, folder: Path, **options: Any) -> RunReport:
    return bellis.run(tasks, engine, **{"progress": False, "log_dir": folder / "logs", **options})


# Which Dask worker gets which lease --------------------------------------------------------------------------------


def members(**workers: dict[str, Any]) -> Members:
    found = Members()
    found.update(
        {address: {"nthreads": 1, "resources": {}, "status": "running", **w} for address, w in workers.items()}
    )
    return found


def test_a_lease_goes_to_the_least_busy_worker_then_to_the_one_that_had_its_neighbours() -> None:
    there = members(a={}, b={})
    a, b = there.by_address["a"], there.by_address["b"]
    a.task_id, a.last_index, b.task_id, b.last_index = "task", 90, "task", 10
    assert there.choose({}, "task", 91) is a
    assert there.choose({}, "task", 11) is b
    a.leases[1] = {}
    assert there.choose({}, "task", 91) is b


def test_a_worker_that_is_about_to_close_gets_no_more_leases_and_is_not_lost_before_it_is_gone() -> None:
    there = members(a={}, b={})
    joined, left = there.update({"a": {"nthreads": 1, "status": "closing_gracefully"}, "b": {"nthreads": 1}})
    assert (joined, left) == ([], [])
    assert there.slots == 1
    assert there.choose({}, "task", 0) is there.by_address["b"]
    assert there.update({"b": {"nthreads": 1}})[1] == []  # it may still be said that it left as planned
    assert [member.address for member in there.update({"b": {"nthreads": 1}})[1]] == ["a"]


def test_a_lease_waits_for_a_worker_whose_resources_are_free_and_goes_to_none_that_has_too_little() -> None:
    there = members(a={"resources": {"GPU": 1.0}}, b={"resources": {"GPU": 2.0}}, c={})
    there.by_address["b"].leases[1] = {"GPU": 1}
    assert there.choose({"GPU": 1}, "task", 0) is there.by_address["a"]
    assert there.choose({"GPU": 2}, "task", 0) is there.by_address["b"]
    assert there.choose({"GPU": 3}, "task", 0) is None
    assert there.resources() == {"GPU": 3}


def test_a_resource_is_asked_of_dask_unless_the_user_gives_it_and_no_worker_ever_had_it() -> None:
    there = Members({"GPU": 4, "licence": 1})
    asked = {"GPU": 1, "licence": 1, "FPGA": 1}
    assert there.asked_of_dask(asked) == {"FPGA": 1}
    there.update({"a": {"nthreads": 1, "resources": {"GPU": 1.5}}, "b": {"nthreads": 1}})
    assert there.resources() == {"GPU": 1}
    for _ in range(2):
        there.update({"b": {"nthreads": 1}})
    assert set(there.by_address) == {"b"}
    assert there.asked_of_dask(asked) == {"GPU": 1, "FPGA": 1}


def test_a_paused_worker_is_given_nothing_more_and_may_have_begun_as_much_as_before() -> None:
    there = members(a={"nthreads": 2})
    a = there.by_address["a"]
    a.leases.update({1: {}, 2: {}, 3: {}})
    there.update({"a": {"nthreads": 2, "status": "paused"}})
    assert (a.slots, a.is_paused, a.begun()) == (0, True, [1, 2])
    there.update({"a": {"nthreads": 2}})
    assert (a.slots, a.is_paused) == (2, False)


def test_a_block_that_is_to_run_alone_gets_a_worker_to_itself() -> None:
    there = members(a={})
    a = there.by_address["a"]
    a.leases[1] = {}
    assert there.reserve({}, 7) is None
    assert there.choose({}, "task", 0) is None
    a.drop_lease(1)
    assert there.reserve({}, 7) is a
    assert there.reserve({}, 8) is None
    a.drop_lease(7)
    assert there.choose({}, "task", 0) is a


def test_reports_that_follow_each_other_are_joined_and_nothing_is_lost() -> None:
    told: list[Told] = []
    done = bytes([Outcome.SUCCESS])
    add_report(told, Report(1, 0, done * 2, b"12345678", worker="worker-3"))
    add_report(told, Report(1, 2, done, b"1234", results={2: b"x"}, worker="worker-3", peak_memory_bytes=5))
    assert [(one.begin, one.outcomes, one.seconds, one.slot) for one in told] == [(0, done * 3, b"123456781234", 3)]
    assert (told[0].results, told[0].peak_memory_bytes) == ({2: b"x"}, 5)
    add_report(told, Report(1, 0, done * 3, worker="worker-3"))  # from the cell: no durations
    add_report(told, Report(1, 0, done * 5, worker="worker-3"))
    add_report(told, Report(1, 3, done * 2, b"87654321", finished=True, worker="worker-3", output=b"said"))
    assert [(one.begin, len(one.outcomes), len(one.seconds)) for one in told] == [(0, 3, 12), (0, 5, 0), (3, 2, 8)]
    assert told[-1].output == b"said"


# Resources, security, clusters of one's own --------------------------------------------------------------------------


class TestOnTwoWorkers:
    pytestmark = SLOW

    def test_blocks_that_need_a_resource_run_where_it_is_and_hold_it(
        self, cluster: Cluster, notes: Notes, tmp_path: Path
    ) -> None:
        def work(block: bellis.Block) -> None:
            notes.add("begin")
            until(lambda: notes.count("begin") >= 2, "another block at the same time")
            assert notes.count("begin") - notes.count("end") <= 2
            notes.add("end")

        task = line(work, 20, num_workers=4, resources={"GPU": 1}, max_retries=0)
        report = run(DaskEngine(cluster.address), task, tmp_path)
        assert report.failures == ()
        assert report.workers == 4

    def test_a_task_that_needs_more_than_any_worker_has_is_refused(self, cluster: Cluster, tmp_path: Path) -> None:
        task = line(lambda _: None, 5, resources={"GPU": 3})
        with pytest.raises(TaskError, match=re.escape("no Dask worker has more than 2: start workers with")):
            run(DaskEngine(cluster.address), task, tmp_path, resources={"GPU": 3})

    def test_large_results_come_home(self, cluster: Cluster, tmp_path: Path) -> None:
        report = run(
            DaskEngine(cluster.address), line(lambda b: bytes([b.index]) * 300_000, 40, results=True), tmp_path
        )
        assert report.results("task") == {index: bytes([index]) * 300_000 for index in range(40)}

    def test_functions_that_capture_much_travel_without_a_warning(self, cluster: Cluster, tmp_path: Path) -> None:
        much = b"x" * 12_000_000
        report = run(DaskEngine(cluster.address), line(lambda _: len(much), 4, results=True), tmp_path)
        assert set(report.results("task").values()) == {12_000_000}

    def test_the_client_of_the_user_stays_as_it_was_and_the_cluster_too(
        self, cluster: Cluster, notes: Notes, tmp_path: Path
    ) -> None:
        heard: list[Any] = []
        with cluster.client() as client:
            client.subscribe_topic("all", heard.append)
            before = Belongings()
            report = run(DaskEngine(client), line(noting(notes), 50, results=True), tmp_path)
            assert report.ok
            assert Belongings().since(before) == []
            assert client.submit(sum, [1, 2]).result(timeout=10) == 3
            assert set().union(*client.run(_plugins).values()) == set()
            assert client.run_on_scheduler(_leftovers) == []
            until(lambda: len(heard), "events of Dask for the user's own handler")
        assert cluster.kernels() == []


def _plugins(dask_worker: Worker) -> set[str]:
    return {name for name in dask_worker.plugins if "bellis" in name}


def _leftovers(dask_scheduler: Any) -> list[str]:
    topics = [name for name, events in dask_scheduler.get_events().items() if name.startswith("bellis") and events]
    return topics + [str(key) for key in dask_scheduler.tasks if "bellis" in str(key)]


def has_gpu() -> str:
    """Return, in a block, whether it runs where it should."""
    return "with" if any("with-gpu" in one.cmdline() for one in Process().parents()) else "not"


@pytest.mark.integration
@pytest.mark.slow
@pytest.mark.timeout(60)
def test_blocks_that_need_what_no_worker_has_wait_for_it_and_others_do_not(notes: Notes, tmp_path: Path) -> None:
    def on_gpu(block: bellis.Block) -> None:
        notes.add(has_gpu())

    def other(block: bellis.Block) -> None:
        notes.add("other")

    with running(tmp_path, 1) as cluster:

        def provide() -> None:
            if "GPU" in said.of(Message)[-1].text:
                until(lambda: notes.count("other") == 20, "all that needs no GPU")
                cluster.worker("--resources", "GPU=1", "--name", "with-gpu")

        said = Recorder()
        thread = threading.Thread(target=lambda: (until(lambda: said.of(Message), "a message"), provide()))
        thread.start()
        tasks = [line(other, 20, task_id="other"), line(on_gpu, 20, task_id="on_gpu", resources={"GPU": 1})]
        report = run(DaskEngine(cluster.address), tasks, tmp_path, observers=[said])
        thread.join(10)
    assert report.ok
    assert notes.count("with") == 20
    assert "waiting for workers" in said.of(Message)[0].text
    assert "that have GPU=1, for task 'on_gpu'; the resources of the 1 that are there: none" in said.of(Message)[0].text


@pytest.mark.integration
@pytest.mark.slow
@pytest.mark.timeout(60)
def test_blocks_that_need_a_resource_wait_when_the_last_worker_with_it_leaves(notes: Notes, tmp_path: Path) -> None:
    def work(block: bellis.Block) -> None:
        sleep(0.02)
        notes.add(has_gpu())

    with running(tmp_path, 1) as cluster:

        def start() -> subprocess.Popen[bytes]:
            return cluster.worker("--resources", "GPU=1", "--name", "with-gpu")

        def replace() -> None:
            if any("the last Dask worker with 'GPU'" in one.text for one in said.of(Message)) and len(started) == 1:
                started.append(start())

        started = [start()]
        with cluster.client() as client:
            client.wait_for_workers(2, timeout=30)
        said = Recorder({TaskProgress: started[0].kill})
        task = line(work, 40, resources={"GPU": 1}, max_retries=0)
        watch = threading.Thread(
            target=lambda: until(lambda: (replace(), len(started) == 2)[1], "a notice", deadline_s=20)
        )
        watch.start()
        report = run(DaskEngine(cluster.address), task, tmp_path, observers=[said], resources={"GPU": 1})
        watch.join(20)
    assert report.ok
    assert notes.count("not") == 0


@pytest.mark.integration
def test_a_cluster_can_be_passed_and_idle_places_are_told(tmp_path: Path) -> None:
    with LocalCluster(n_workers=1, threads_per_worker=3, processes=False, dashboard_address="127.0.0.1:0") as cluster:
        said = Recorder()
        report = run(DaskEngine(cluster), line(lambda _: None, 5, num_workers=2), tmp_path, observers=[said])
        assert cluster.status.name == "running"
    assert report.ok
    assert ["places for 3 blocks, but num_workers of all tasks allow 2" in one.text for one in said.of(Message)] == [
        True
    ]


@pytest.mark.parametrize("given", ["", "localhost", ":8786", "host:1/path", "host:0", "host:99999", "http://host:1"])
def test_what_is_no_address_is_refused_before_anything_is_tried(given: str) -> None:
    with pytest.raises(EngineError, match=re.escape(f"{given!r} is no address of a Dask scheduler: pass 'host:port'")):
        DaskEngine(given)


@pytest.mark.parametrize("given", ["host:1", "tcp://10.0.0.1:8786", "tls://[::1]:8786", "a-b.example:65535"])
def test_what_is_an_address_is_taken(given: str) -> None:
    DaskEngine(given)


@pytest.mark.parametrize("given", [3, Client, ["host:1"]])
def test_what_leads_to_no_scheduler_is_refused(given: Any) -> None:
    with pytest.raises(EngineError, match=r"pass a connected distributed\.Client, a cluster"):
        DaskEngine(given)


@pytest.mark.integration
def test_an_address_without_a_scheduler_is_an_error_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bellis.engines.dask_connect.REFUSED_S", 1.0)
    with pytest.raises(EngineError, match=re.escape("no Dask scheduler answers at '127.0.0.1:9'")):
        run("dask://127.0.0.1:9", line(lambda _: None, 5), tmp_path)


@pytest.mark.integration
@pytest.mark.parametrize("said", [b"", b"SSH-2.0-OpenSSH_9.6\r\n" * 10])
def test_a_server_that_is_no_scheduler_is_an_error_soon(
    said: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bellis.engines.dask_connect.CONNECT_S", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        place = f"127.0.0.1:{server.getsockname()[1]}"
        connections = []

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connections.append(server.accept()[0])
                    connections[-1].sendall(said)

        threading.Thread(target=serve, daemon=True).start()
        try:
            with pytest.raises(EngineError, match=f"no Dask scheduler answers at '{place}'"):
                run(DaskEngine(place), line(lambda _: None, 5), tmp_path)
        finally:
            server.shutdown(socket.SHUT_RDWR)
            for connection in connections:
                connection.close()


@pytest.mark.integration
@pytest.mark.slow
def test_an_interrupt_while_connecting_ends_at_once_and_quietly() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        place = f"127.0.0.1:{server.getsockname()[1]}"
        script = (
            "from bellis.engines.dask_connect import connected\n"
            f"try:\n    connected({place!r}, None)\nexcept KeyboardInterrupt:\n    print('interrupted')\n"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        connection, _ = server.accept()
        sleep(0.3)
        began = monotonic()
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=20) == ("interrupted\n", "")
        assert monotonic() - began < 3
        connection.close()


@pytest.mark.integration
@pytest.mark.slow
@pytest.mark.timeout(60)
def test_a_script_without_a_guard_runs_on_a_cluster_of_its_own_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(
        "import threading, bellis, psutil\n"
        "from bellis.testing.blocks import line\n"
        "report = bellis.run(line(lambda b: b.index, 100, results=True), 'dask', workers=2, progress=False)\n"
        "assert sorted(report.results('task')) == list(range(100))\n"
        "assert psutil.Process().children(recursive=True) == []\n"
        "print('done', report.workers)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-W", "error", "script.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (0, "done 2\n"), ended.stderr


@pytest.mark.integration
@pytest.mark.slow
@pytest.mark.timeout(60)
def test_a_secured_adaptive_cluster_starts_from_nothing_and_grows(notes: Notes, tmp_path: Path) -> None:
    def work(block: bellis.Block) -> None:
        sleep(0.05)
        notes.add(block.index)

    security = Security.temporary()
    with LocalCluster(
        n_workers=0,
        threads_per_worker=1,
        processes=False,
        security=security,
        protocol="tls://",
        dashboard_address="127.0.0.1:0",
    ) as cluster:
        cluster.adapt(minimum=0, maximum=2, interval="100 ms", target_duration="100 ms")
        address = cluster.scheduler_address.removeprefix("tls://")
        report = run(DaskEngine(address, security=security), line(work, 100), tmp_path)
    assert report.ok
    assert report.workers == 2
    assert sorted(map(int, notes.lines())) == list(range(100))


def test_a_client_that_is_closed_is_refused(tmp_path: Path) -> None:
    with LocalCluster(n_workers=0, processes=False, dashboard_address="127.0.0.1:0") as cluster:
        client = Client(cluster.scheduler_address, set_as_default=False)
        client.close()
        with pytest.raises(EngineError, match="the Dask client is closed"):
            run(DaskEngine(client), line(lambda _: None, 5), tmp_path)
