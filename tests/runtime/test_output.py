"""What workers print: where it goes, and what is put in front of it."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import bellis
from bellis.runtime.output import (
    LARGEST_LOG_BYTES,
    Lines,
    file_name,
    get_worker_log_basename,
    has_logs,
    last_lines,
    log_path,
    remove_logs,
)
from bellis.testing.blocks import line


@given(st.text(min_size=1, max_size=400))
def test_any_task_id_makes_a_file_name(task_id: str) -> None:
    name = file_name(task_id)
    assert "/" not in name
    assert "\0" not in name
    assert not name.startswith(".")
    assert len(f"{name}-12345678.done".encode()) <= 255


@given(st.lists(st.text(min_size=1, max_size=200), unique=True, max_size=20))
def test_no_two_task_ids_have_the_same_file_name(task_ids: list[str]) -> None:
    assert len({file_name(task_id) for task_id in task_ids}) == len(task_ids)


def test_long_task_ids_that_begin_alike_have_different_file_names() -> None:
    assert file_name("x" * 300) != file_name("x" * 301)
    assert file_name("x" * 300) == file_name("x" * 300)


def test_a_plain_task_id_stays_as_it_is() -> None:
    assert file_name("smooth-2_b.x") == "smooth-2_b.x"


def test_each_worker_has_a_log_for_each_task() -> None:
    assert log_path(Path("logs"), "a/b", 3) == Path("logs/a%2Fb/worker-3.log")
    assert get_worker_log_basename(3, "a/b") == Path("bellis_logs/a%2Fb/worker-3")
    assert get_worker_log_basename(3) == Path("bellis_logs/worker-3")
    assert bellis.get_worker_log_basename is get_worker_log_basename


def test_the_last_lines_of_a_log_are_found_without_reading_all_of_it(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"".join(b"line %d\n" % n for n in range(100_000)))
    assert last_lines(log, 2) == "line 99998\nline 99999"
    log.write_bytes(b"\xff\xfe\n")
    assert last_lines(log) == "��"
    assert last_lines(tmp_path / "none") == ""
    assert last_lines(None) == ""


def test_logs_that_nothing_was_written_to_are_removed(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    for name in ("a", "b%2F", "other"):
        (logs / name).mkdir(parents=True)
    for name in ("a/worker-0.log", "b%2F/worker-0.log", "b%2F/worker-1.log", "b%2F/mine.txt", "other/worker-0.log"):
        (logs / name).touch()
    (logs / "b%2F/worker-1.log").write_text("text")
    assert has_logs(logs, ["none", "a"])
    remove_logs(logs, ["a", "b/"], only_empty=True)
    left = sorted(str(path.relative_to(logs)) for path in logs.rglob("*.*"))
    assert left == ["b%2F/mine.txt", "b%2F/worker-1.log", "other/worker-0.log"]
    assert not (logs / "a").exists()
    assert not has_logs(logs, ["none", "a"])
    remove_logs(logs, ["b/"], only_empty=False)
    assert sorted(path.name for path in (logs / "b%2F").iterdir()) == ["mine.txt"]
    remove_logs(tmp_path / "none", ["a"], only_empty=True)


class Sink:
    """Takes the place of an `Output`."""

    def __init__(self) -> None:
        self.data = b""

    def prefix(self) -> bytes:
        return b"> "

    def write(self, lines: bytes) -> None:
        self.data += lines


def written(*texts: str, flush: bool = True) -> bytes:
    sink = Sink()
    lines = Lines(sink)  # type: ignore[arg-type]
    for text in texts:
        assert lines.write(text) == len(text)
    if flush:
        lines.flush()
    return sink.data


def test_each_line_gets_a_prefix_however_it_is_written() -> None:
    assert written("a\nb\n") == b"> a\n> b\n"
    assert written("a", "b", "\n", "c\nd") == b"> ab\n> c\n> d\n"
    assert written("\n\n") == b"> \n> \n"
    assert written("") == b""


def test_a_line_is_written_when_it_is_whole_or_flushed() -> None:
    assert written("a\nb", flush=False) == b"> a\n"


@given(st.lists(st.text(alphabet="ab\nü\ud800", max_size=20), max_size=10))
def test_nothing_that_is_printed_is_lost(texts: list[str]) -> None:
    text = "".join(texts)
    expected = text.encode(errors="replace")
    expected = expected if expected.endswith(b"\n") or not expected else expected + b"\n"
    assert written(*texts) == re.sub(rb"(?m)^", b"> ", expected[:-1]) + b"\n" if expected else not written(*texts)


def test_it_is_a_text_stream_like_any_other() -> None:
    lines = Lines(Sink())  # type: ignore[arg-type]
    assert lines.writable()
    assert not lines.readable()
    assert not lines.isatty()
    assert isinstance(lines, io.TextIOBase)
    assert (lines.encoding, lines.fileno()) == ("utf-8", 1)
    with pytest.raises(TypeError, match="takes a str, not bytes"):
        lines.write(b"x")  # type: ignore[arg-type]
    lines.writelines(["a\n", "b\n"])


def worker(folder: Path, code: str) -> dict[str, str]:
    """Run code as a worker would, with ``output`` made for slot 2; return its logs."""
    script = f"""
import os, sys
from pathlib import Path
from bellis.runtime import output as module
output = module.Output(Path({str(folder)!r}), 2)
{code}
sys.stdout.flush()
"""
    process = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=False)
    assert (process.returncode, process.stdout) == (0, "")
    return {str(log.relative_to(folder)): log.read_text() for log in folder.rglob("*.log")}


def test_output_goes_to_the_log_of_the_task_that_runs(tmp_path: Path) -> None:
    code = """
output.switch("a")
print("one"); print("two", file=sys.stderr)
output.switch("b/c")
print("three", end="")
output.switch("a")
print("four")
"""
    logs = worker(tmp_path, code)
    assert re.fullmatch(r"(\d\d:\d\d:\d\d (one|two|four)\n){3}", logs["a/worker-2.log"])
    assert re.fullmatch(r"\d\d:\d\d:\d\d three\n", logs["b%2Fc/worker-2.log"])


def test_what_libraries_and_child_processes_write_is_caught_as_it_is(tmp_path: Path) -> None:
    code = """
output.switch("a")
os.write(1, b"library\\n"); os.write(2, b"error\\n"); os.system("echo child")
"""
    assert worker(tmp_path, code) == {"a/worker-2.log": "library\nerror\nchild\n"}


def test_a_block_may_write_bytes(tmp_path: Path) -> None:
    logs = worker(tmp_path, 'output.switch("a"); sys.stdout.buffer.write(b"bytes\\n"); sys.stdout.buffer.flush()')
    assert "bytes" in logs["a/worker-2.log"]


def test_a_log_stops_growing_and_says_so(tmp_path: Path) -> None:
    code = """
module.LARGEST_LOG_BYTES = 2**20
output.switch("a")
for _ in range(50):
    print("x" * 100_000)
output.switch("b"); print("b"); output.switch("a"); print("more")
"""
    logs = worker(tmp_path, code)
    assert 2**20 <= len(logs["a/worker-2.log"]) < 2**20 + 200
    assert logs["a/worker-2.log"].endswith("[bellis: this log has reached 1 MiB; nothing more is kept]\n")
    assert "b" in logs["b/worker-2.log"]
    assert LARGEST_LOG_BYTES > 2**20


def test_a_line_names_the_block_that_runs(tmp_path: Path) -> None:
    code = """
class Runner:
    def block_number(self): return 17
output.switch("a")
output.runner = Runner()
print("a line\\nand another")
"""
    logs = worker(tmp_path, code)
    assert re.fullmatch(
        r"\d\d:\d\d:\d\d block 17 \| a line\n\d\d:\d\d:\d\d block 17 \| and another\n", logs["a/worker-2.log"]
    )


@pytest.mark.integration
@pytest.mark.slow
@pytest.mark.timeout(15)
def test_a_file_in_the_place_of_a_tasks_logs_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "task").write_text("mine")
    bad = line(print, 10)
    try:
        report = bellis.run(bad, progress=False, log_dir=tmp_path)
    except bellis.BellisError as error:
        assert str(tmp_path) in str(error)  # noqa: PT017
    else:
        assert str(tmp_path) in str(report.tasks["task"].stopped)


@pytest.mark.integration
@pytest.mark.slow
def test_a_line_that_a_block_does_not_end_is_still_that_blocks(tmp_path: Path) -> None:
    def work(block: Any) -> None:
        print(f"open {block.index}", end="")  # noqa: T201

    bellis.run(line(work, 30, num_workers=1), progress=False, log_dir=tmp_path)
    text = (tmp_path / "task" / "worker-0.log").read_text()
    found = re.findall(r"(?m)^\d\d:\d\d:\d\d block (\d+) \| open (\d+)$", text)
    assert found == [(str(n), str(n)) for n in range(30)]
