"""Bad input and bad functions: each ends with a clear message, and the run or its report stays intact."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
from collections import Counter
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

import psutil
import pytest

import bellis
from bellis import Roi, Task
from bellis.errors import FunctionError, JournalCorruptError, JournalError, JournalLockedError, TaskError
from bellis.runtime.events import Message, WorkerLost
from bellis.runtime.output import LARGEST_LOG_BYTES
from bellis.testing.blocks import Notes, Recorder, dying, line, noting, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from bellis import Block, RunReport

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(60)]


@pytest.fixture
def notes(tmp_path: Path) -> Notes:
    return Notes(tmp_path / "notes")


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def run(tmp_path: Path) -> Any:
    def run(tasks: Any, engine: str = "local", **options: Any) -> RunReport:
        options = {"workers": 2, "progress": False, "log_dir": tmp_path / "logs", **options}
        return bellis.run(tasks, engine, **options)

    return run


def logs(report: RunReport) -> str:
    assert report.log_dir is not None
    return "".join(log.read_text() for log in report.log_dir.rglob("*.log"))


# Descriptions ------------------------------------------------------------------------------------------------------


def test_an_unserialisable_function_is_an_error_that_names_what_it_captures(run: Any) -> None:
    lock = threading.Lock()

    def work(block: Block) -> None:
        with lock:
            block.status = block.status

    with pytest.raises(FunctionError, match=r"captures variable 'lock', a _thread.lock"):
        run(line(work, 3))
    assert run(line(work, 3), "inline").ok


def test_a_function_with_two_parameters_is_an_error_that_shows_how_to_bind_one() -> None:
    with pytest.raises(FunctionError, match=r"takes \(block, scale\).* functools\.partial"):
        line(lambda block, scale: None, 3)


def test_overlapping_task_ids_are_an_error_that_names_them(run: Any) -> None:
    with pytest.raises(TaskError, match="two tasks are named 'same'"):
        run([line(print, 3, task_id="same"), line(print, 3, task_id="same")])


def test_a_cycle_is_an_error_that_names_the_tasks(run: Any) -> None:
    a, b = line(print, 3, task_id="a"), line(print, 3, task_id="b")
    with pytest.raises(TaskError, match=r"in a circle: '[ab]' -> '[ab]' -> '[ab]'"):
        run(bellis.Pipeline([a, b], [(a, b), (b, a)]))


def test_a_read_roi_smaller_than_the_write_roi_is_an_error_that_shows_both() -> None:
    with pytest.raises(TaskError, match=r"read_roi .* does not contain write_roi .* grow the read_roi"):
        Task("task", Roi((0,), (9,)), Roi((1,), (2,)), Roi((0,), (3,)), print)


def test_zero_blocks_are_a_success(run: Any) -> None:
    report = run(line(print, 0))
    assert report.ok
    assert report.tasks["task"].counts.total == 0


@pytest.mark.parametrize(
    "task_id", ["a/b", "..", "../../x", "ü 日本", "'\"`$(x)\\", "x" * 300, "a\nb", "%s{0}", "*?[a]"]
)
def test_odd_characters_in_task_ids_are_all_right(run: Any, tmp_path: Path, task_id: str) -> None:
    def work(block: Block) -> None:
        print("hello")  # noqa: T201
        if block.index == 3:
            raise ValueError(block.task_id)

    for attempt in (1, 2):
        report = run(line(work, 6, task_id=task_id, max_retries=0), journal=tmp_path / "journal", log_dir=None)
        assert report.tasks[task_id].counts.completed == 5
        assert report.tasks[task_id].counts.skipped == 5 * (attempt - 1)
        assert report.failures[0].block_id == (task_id, 3)
        assert report.log_dir == tmp_path / "journal" / "logs"
        assert report.failures[0].log.is_relative_to(report.log_dir)
        assert str(report)
    assert {entry.name for entry in tmp_path.iterdir()} == {"journal"}


# Checks ------------------------------------------------------------------------------------------------------------


def test_a_raising_pre_check_means_not_done_and_is_in_the_log(run: Any, notes: Notes) -> None:
    def pre(block: Block) -> bool:
        raise OSError("the store is away")

    recorder = Recorder()
    report = run(line(noting(notes), 5, check_function=(pre, None)), observers=[recorder])
    assert report.ok
    said = [event.text for event in recorder.of(Message) if "check_function failed before block" in event.text]
    assert len(said) == 1
    assert "OSError: the store is away" in said[0]
    assert sorted(notes.lines()) == ["0", "1", "2", "3", "4"]
    assert logs(report).count("OSError: the store is away") == 5


def test_a_raising_check_function_is_a_failure_after_the_block(run: Any, notes: Notes) -> None:
    def check(block: Block) -> bool:
        raise OSError("the store is away")

    report = run(line(noting(notes), 5, check_function=check, max_retries=0))
    assert report.tasks["task"].counts.failed == 5
    assert "OSError: the store is away" in report.failures[0].error
    assert sorted(notes.lines()) == ["0", "1", "2", "3", "4"]


def test_a_check_function_that_ends_its_worker_is_a_failed_attempt(run: Any, notes: Notes) -> None:
    check = dying("SIGKILL", {2: 1}, notes)
    report = run(line(lambda _: None, 6, check_function=(lambda block: bool(check(block)), None)))
    assert report.ok
    assert notes.count(2) == 2


# Functions that end their process ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("death", "said"),
    [
        ("os._exit(0)", "exited with code 0"),
        ("os._exit(7)", "exited with code 7"),
        ("SIGKILL", "was killed by SIGKILL"),
        ("SIGSEGV", "crashed with SIGSEGV"),
    ],
)
def test_a_block_that_ends_its_process_fails_alone(
    run: Any, notes: Notes, recorder: Recorder, death: str, said: str
) -> None:
    report = run(line(dying(death, {5: 99}, notes), 40), observers=[recorder])
    assert report.tasks["task"].counts.completed == 39
    (failure,) = report.failures
    assert (failure.index, failure.attempts) == (5, 3)
    assert said in failure.error
    assert len(recorder.of(WorkerLost)) == 3
    assert Counter(notes.lines()) == {str(index): 3 if index == 5 else 1 for index in range(40)}


def test_a_message_of_a_crash_shows_the_last_output_and_the_log(run: Any) -> None:
    def work(block: Block) -> None:
        if block.index == 3:
            print("just before the end")  # noqa: T201
            os._exit(3)

    report = run(line(work, 10, max_retries=0))
    (failure,) = report.failures
    assert "just before the end" in failure.error
    assert failure.log is not None
    assert "just before the end" in failure.log.read_text()
    assert str(failure.log) in str(report) or failure.log.name in str(report)


@pytest.mark.parametrize("value", [0, 1, None, "good bye"])
def test_sys_exit_is_a_failure_that_costs_no_worker(run: Any, recorder: Recorder, value: Any) -> None:
    def work(block: Block) -> None:
        if block.index == 3:
            sys.exit(value)

    report = run(line(work, 20), observers=[recorder])
    (failure,) = report.failures
    assert f"the function called sys.exit({value!r})" in failure.error
    assert (failure.attempts, report.tasks["task"].counts.completed) == (3, 19)
    assert recorder.of(WorkerLost) == []


def test_a_block_that_finds_no_memory_fails_and_costs_no_worker(run: Any, recorder: Recorder) -> None:
    def work(block: Block) -> int:
        before = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (2 << 30, before[1]))
        try:
            return len(bytearray(4 << 30 if block.index == 3 else 10))
        finally:
            resource.setrlimit(resource.RLIMIT_AS, before)

    report = run(line(work, 10, max_retries=0), observers=[recorder])
    (failure,) = report.failures
    assert (failure.index, "MemoryError" in failure.error) == (3, True)
    assert recorder.of(WorkerLost) == []


def test_a_block_that_allocates_until_it_is_killed_fails_alone_and_says_how_much_it_used(
    run: Any, recorder: Recorder
) -> None:
    def work(block: Block) -> None:
        if block.index == 12:
            kept = b"x" * (200 << 20)
            os.kill(os.getpid(), signal.SIGKILL)  # as the system does when memory runs out
            print(len(kept))  # noqa: T201

    report = run(line(work, 20, max_retries=0), observers=[recorder])
    (failure,) = report.failures
    assert failure.index == 12
    assert "by the system, if memory ran out (it last said that it had used" in failure.error
    assert report.tasks["task"].counts.completed == 19


# Functions that do what they should not ----------------------------------------------------------------------------


def test_a_hundred_megabytes_of_output_are_cut_and_the_run_goes_on(run: Any) -> None:
    def work(block: Block) -> None:
        if block.index == 3:
            for _ in range(100):
                print("x" * (1 << 20))  # noqa: T201
        print(f"block {block.index}")  # noqa: T201

    report = run(line(work, 30, num_workers=1))
    assert report.ok
    (log,) = report.log_dir.rglob("*.log")
    assert log.stat().st_size <= LARGEST_LOG_BYTES + 1000
    assert "nothing more is kept" in log.read_text()[-200:]


def test_one_line_of_a_hundred_megabytes_is_cut_too(run: Any) -> None:
    report = run(line(lambda block: print("x" * 100_000_000), 1, num_workers=1))  # noqa: T201
    assert report.ok
    (log,) = report.log_dir.rglob("*.log")
    assert log.stat().st_size <= LARGEST_LOG_BYTES + 1000


def test_output_of_bytes_and_of_any_characters_is_kept(run: Any) -> None:
    def work(block: Block) -> None:
        print("日本 ü \ud800 \0 \x1b[31m")  # noqa: T201
        sys.stdout.buffer.write(b"\xff\xfe\x00 bytes\n")
        sys.stdout.flush()
        os.write(2, b"\xff\xfe raw\n")

    report = run(line(work, 3, max_retries=0))
    assert report.failures == ()
    assert report.ok
    found = b"".join(log.read_bytes() for log in report.log_dir.rglob("*.log"))
    assert found.count("日本 ü ? \0 \x1b[31m\n".encode()) == 3
    assert found.count(b"\xff\xfe\x00 bytes\n") == 3
    assert found.count(b"\xff\xfe raw\n") == 3


def test_a_block_that_forks_and_returns_counts_once(run: Any, notes: Notes) -> None:
    def work(block: Block) -> None:
        if block.index == 3:
            os.fork()
        if block.index == 39:
            until(lambda: notes.count(3) == 2, "the child")
        notes.add(block.index)

    report = run(line(work, 40))
    assert report.ok
    assert Counter(notes.lines()) == {str(index): 2 if index == 3 else 1 for index in range(40)}


def test_a_block_whose_forked_child_lives_on_ends_and_so_does_the_child(run: Any, notes: Notes) -> None:
    def work(block: Block) -> None:
        if block.index == 3 and os.fork() == 0:
            notes.add(os.getpid())
            sleep(600)

    report = run(line(work, 40))
    assert report.ok
    pid = int(until(notes.lines, "the child")[0])
    until(lambda: is_gone(pid), "the end of the child")


def test_what_a_block_starts_and_forgets_is_ended_with_the_run(run: Any, notes: Notes) -> None:
    def work(block: Block) -> None:
        if block.index % 10 == 3:
            notes.add(subprocess.Popen(["sleep", "600"]).pid)

    assert run(line(work, 40)).ok
    pids = [int(text) for text in notes.lines()]
    assert len(pids) == 4
    until(lambda: all(map(is_gone, pids)), "the end of what blocks started")


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_a_block_that_closes_all_file_descriptors_loses_no_other_block(run: Any, notes: Notes) -> None:
    def work(block: Block) -> None:
        notes.add(block.index)
        if block.index == 5 and notes.count(5) == 1:
            os.closerange(0, 1000)

    report = run(line(work, 40))
    assert report.ok
    assert set(map(int, notes.lines())) == set(range(40))


def test_a_block_that_replaces_or_closes_its_output_loses_no_other_block(run: Any) -> None:
    def work(block: Block) -> None:
        if block.index == 3:
            sys.stdout = None
        if block.index == 7:
            sys.stderr.close()

    report = run(line(work, 20))
    assert report.tasks["task"].counts.completed == 20


def test_a_block_that_changes_directory_signals_or_group_loses_no_other_block(run: Any) -> None:
    def work(block: Block) -> None:
        os.chdir("/")
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if block.index == 5:
            sleep(600)

    report = run(line(work, 12, timeout=1.0, max_retries=0))
    assert [failure.index for failure in report.failures] == [5]
    assert report.tasks["task"].counts.completed == 11


def test_a_result_that_can_not_be_kept_is_a_failure_that_says_what_can(run: Any) -> None:
    report = run(line(lambda block: {1}.__iter__() if block.index == 3 else 1, 6, results=True, max_retries=0))
    (failure,) = report.failures
    assert "can't be kept" in failure.error
    assert report.results("task") == {0: 1, 1: 1, 2: 1, 4: 1, 5: 1}


def test_a_raising_setup_stops_the_task_and_says_why(run: Any, notes: Notes) -> None:
    def prepare() -> None:
        raise OSError("no such licence")

    report = run(line(noting(notes), 30, setup=prepare))
    assert "functions can't be loaded in a worker" in report.tasks["task"].stopped
    assert "OSError: no such licence" in report.tasks["task"].stopped
    assert report.tasks["task"].counts.orphaned == 30
    assert "no such licence" in str(report)
    assert notes.lines() == []


class Away:
    def __reduce__(self) -> Any:
        return __import__, ("a_module_that_is_not_there",)


def test_a_module_that_is_missing_in_a_worker_stops_the_task_and_names_it(run: Any) -> None:
    away = Away()
    report = run(line(lambda _: away, 30) | line(lambda _: None, 30, task_id="good"))
    assert "No module named 'a_module_that_is_not_there'" in report.tasks["task"].stopped
    assert report.tasks["good"].counts.completed == 30


def test_an_import_that_fails_inside_a_block_is_a_failure(run: Any) -> None:
    def work(block: Block) -> None:
        import a_module_that_is_not_there  # type: ignore[import-not-found]

        print(a_module_that_is_not_there)  # noqa: T201

    report = run(line(work, 100))
    assert "8 blocks all failed alike" in report.tasks["task"].stopped
    assert "ModuleNotFoundError" in report.tasks["task"].stopped


def test_a_block_that_starts_a_run_is_a_failure_that_says_so(run: Any) -> None:
    def work(block: Block) -> None:
        bellis.run(line(print, 3), progress=False)

    report = run(line(work, 3, max_retries=0))
    assert "can't start a run" in report.failures[0].error


@pytest.mark.parametrize("conflict", [False, True])
def test_timeouts_end_a_block_and_the_second_attempt_may_succeed(
    run: Any,
    notes: Notes,
    conflict: bool,
) -> None:
    def work(block: Block) -> None:
        notes.add(block.index)
        if block.index == 5 and notes.count(5) == 1:
            sleep(600)

    report = run(line(work, 20, timeout=1.0, context=(1, 1), read_write_conflict=conflict))
    assert report.ok
    assert Counter(notes.lines()) == {str(index): 2 if index == 5 else 1 for index in range(20)}


def test_blocks_shorter_than_the_timeout_are_never_ended(run: Any, recorder: Recorder) -> None:
    report = run(line(lambda _: sleep(0.001), 1000, timeout=3, max_retries=0), observers=[recorder])
    assert report.ok
    assert recorder.of(WorkerLost) == []


# Journals ----------------------------------------------------------------------------------------------------------


def mounted(folder: Path, options: str) -> None:
    folder.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("this test mounts a small disk, which is not allowed here")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    folder = tmp_path / "disk"

    def mount(options: str) -> Path:
        mounted(folder, options)
        return folder

    yield mount
    subprocess.run(["umount", "--lazy", str(folder)], check=False, capture_output=True)


def remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


def test_a_journal_in_a_read_only_folder_is_an_error_that_names_it(
    run: Any, notes: Notes, disk: Callable[[str], Path]
) -> None:
    folder = disk("ro,size=1m")
    with pytest.raises(JournalError, match=f"{folder}/journal can't be written: .*Read-only"):
        run(line(noting(notes), 5), journal=folder / "journal")
    assert notes.lines() == []


def test_a_journal_that_has_become_read_only_is_an_error_and_is_not_changed(
    run: Any, notes: Notes, disk: Callable[[str], Path]
) -> None:
    folder = disk("size=4m")
    assert run(line(noting(notes), 5), journal=folder / "journal").ok
    remount(folder, "ro")
    with pytest.raises(JournalError, match=r"Read-only|readonly"):
        run(line(noting(notes), 5), journal=folder / "journal")
    remount(folder, "rw")
    assert run(line(noting(notes), 5), journal=folder / "journal").tasks["task"].counts.skipped == 5


@pytest.mark.parametrize("size_k", [0, 60, 120, 200])
def test_a_journal_on_a_full_disk_is_an_error_and_works_when_there_is_room(
    run: Any, notes: Notes, disk: Callable[[str], Path], tmp_path: Path, size_k: int
) -> None:
    folder = disk("size=1m")
    with (folder / "ballast").open("wb") as file:
        file.write(bytes(((1 << 10) - size_k) << 10))
    task = line(noting(notes), 300_000, skip_mask=lambda regions: regions[:, 0, 0] >= 20)
    with pytest.raises(JournalError, match=str(folder)):
        run(task, journal=folder / "journal", log_dir=tmp_path / "logs")
    (folder / "ballast").unlink()
    assert run(task, journal=folder / "journal").ok
    assert set(map(int, notes.lines())) == set(range(20))


def test_a_disk_that_fills_up_ends_the_run_and_a_rerun_goes_on(
    run: Any, notes: Notes, disk: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = disk("size=12m")  # SQLite lets its log grow to 4 MB
    ballast = folder / "ballast"

    def work(block: Block) -> bytes:
        notes.add(block.index)
        sleep(0.001)
        if block.index == 100 and notes.count(100) == 1:
            with ballast.open("wb", buffering=0) as file:
                try:
                    while file.write(bytes(4096)):
                        pass
                except OSError:
                    return b""
        return os.urandom(500)

    task = line(work, 600, results=True)
    with pytest.raises(JournalError, match=f"{folder}/journal can't be written: .*full.*make room"):
        run(task, journal=folder / "journal", log_dir=tmp_path / "logs")
    before = len(notes.lines())
    assert 0 < before < 600
    ballast.unlink()
    report = run(task, journal=folder / "journal", log_dir=tmp_path / "logs")
    assert report.ok
    assert report.tasks["task"].counts.skipped > 0
    assert len(report.results("task")) == 600
    assert set(map(int, notes.lines())) == set(range(600))


def test_logs_on_a_full_disk_are_an_error_of_the_run_or_of_blocks_but_never_a_hang(
    run: Any, disk: Callable[[str], Path]
) -> None:
    folder = disk("size=16k")
    with (folder / "ballast").open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            pass
    try:
        report = run(line(lambda block: print("x" * 1000), 20), log_dir=folder / "logs")  # noqa: T201
    except bellis.BellisError as error:
        assert str(folder) in str(error)  # noqa: PT017
    else:
        counts = report.tasks["task"].counts
        assert counts.completed + counts.failed + counts.orphaned == 20


def test_two_runs_on_one_journal_are_an_error_that_names_host_pid_and_start(
    run: Any, notes: Notes, tmp_path: Path
) -> None:
    begun, go_on = tmp_path / "begun", tmp_path / "go on"

    def work(block: Block) -> None:
        notes.add(block.index)
        begun.touch()
        until(go_on.exists, "the end of the second run")

    task = line(work, 4)
    first: list[RunReport] = []
    thread = threading.Thread(target=lambda: first.append(run(task, journal=tmp_path / "journal")))
    thread.start()
    until(begun.exists, "the first block")
    try:
        with pytest.raises(
            JournalLockedError, match=rf"in use by another run \(host .+, pid {os.getpid()}, started \d"
        ):
            run(task, journal=tmp_path / "journal")
    finally:
        go_on.touch()
        thread.join(30)
    assert first[0].ok
    assert len(notes.lines()) == 4


def test_a_truncated_journal_is_an_error_and_nothing_runs(run: Any, notes: Notes, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    run(line(noting(notes), 5), journal=journal)
    (bitmap,) = journal.rglob("*.done")
    with bitmap.open("r+b") as file:
        file.truncate(100)
    with pytest.raises(JournalCorruptError, match="it was truncated"):
        run(line(noting(notes), 5), journal=journal)
    assert len(notes.lines()) == 5


def test_a_flipped_byte_in_a_journal_is_an_error_and_nothing_runs(run: Any, notes: Notes, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    run(line(noting(notes), 5), journal=journal)
    (bitmap,) = journal.rglob("*.done")
    data = bytearray(bitmap.read_bytes())
    data[-4096] ^= 1
    bitmap.write_bytes(data)
    with pytest.raises(JournalCorruptError, match="checksum of blocks 0 to 5 is wrong"):
        run(line(noting(notes), 5), journal=journal)
    assert len(notes.lines()) == 5


def test_a_thousand_failing_blocks_cost_neither_workers_nor_time(run: Any, recorder: Recorder) -> None:
    def work(block: Block) -> None:
        if block.index % 5:
            raise ValueError(block.index)

    began = monotonic()
    report = run(line(work, 1250, max_retries=1), observers=[recorder])
    assert report.tasks["task"].counts.failed == 1000
    assert len(report.failures) == 1000
    assert recorder.of(WorkerLost) == []
    assert monotonic() - began < 20
