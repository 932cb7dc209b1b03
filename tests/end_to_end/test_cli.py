"""The command line."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import pty
import re
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import click
import cloudpickle
import pytest
from click.testing import CliRunner

from bellis.cli import main
from bellis.cli.options import options_of, parameter_help, summary_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from click.testing import Result

WORK = '''
    """A user's file."""
    from __future__ import annotations

    from functools import partial
    from pathlib import Path
    from typing import TYPE_CHECKING, Literal

    from bellis import Roi, Task

    if TYPE_CHECKING:
        from bellis import Pipeline

    def write(block, out, bad):
        """Write one block."""
        if block.index in bad:
            raise ValueError(f"bad voxel in block {block.index}")
        with (out / "log.txt").open("a") as file:
            file.write(f"{block.index}\\n")

    def pipeline(
        out: Path = Path(), *, blocks: int = 4, bad: list[int] = (), mode: Literal["a", "b"] = "a", workers: int = 1,
        secret: object = None,
    ) -> Pipeline:
        """Write the numbers of blocks.

        Twice.

        Parameters
        ----------
        out : Path
            Where ``log.txt`` is
            written.
        blocks, bad
            Numbers.
        """
        block = Roi((0,), (10,))
        task = partial(
            Task, total_roi=Roi((0,), (10 * blocks,)), read_roi=block, write_roi=block, read_write_conflict=False,
            num_workers=2, max_retries=0,
        )
        return (task("first", process_function=partial(write, out=out.absolute(), bad=tuple(bad)))
                + task("second", process_function=print))

    _block = Roi((0,), (10,))
    single = Task("single", Roi((0,), (30,)), _block, _block, print)
    several = [single]
    number = 3

    def fails():
        raise RuntimeError("no such scan")

    def refuses():
        return Task("x", Roi((0,), (30,)), Roi((0,), (5,)), Roi((0,), (10,)), print)

    def nothing():
        """Return nothing."""
'''


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with ``work.py`` that commands run in; what they import is forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "work.py").write_text(textwrap.dedent(WORK))
    before, by_value = set(sys.modules), set(cloudpickle.list_registry_pickle_by_value())
    importlib.invalidate_caches()
    yield tmp_path
    for name in set(cloudpickle.list_registry_pickle_by_value()) - by_value:
        cloudpickle.unregister_pickle_by_value(sys.modules[name])
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def bellis(*words: str, given: str = "", code: int = 0) -> Result:
    result = CliRunner().invoke(main, words, input=given, catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result


def run_inline(*words: str, code: int = 0) -> Result:
    return bellis("run", "work.py:pipeline", "--engine", "inline", *words, code=code)


def written(folder: Path) -> list[int]:
    log = folder / "log.txt"
    return sorted(map(int, log.read_text().split())) if log.exists() else []


# Targets ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["work.py:pipeline", "./work.py:pipeline", "work:pipeline"])
def test_a_function_in_a_file_or_module_is_planned(folder: Path, target: str) -> None:
    answer = bellis("plan", target)
    assert "first: 4 blocks (4) of (10,)" in answer.stdout
    assert "second: 4 blocks" in answer.stdout
    assert not answer.stderr


@pytest.mark.parametrize("name", ["single", "several"])
def test_a_task_or_a_list_is_planned(folder: Path, name: str) -> None:
    assert "single: 3 blocks" in bellis("plan", f"work.py:{name}").stdout


def test_a_file_elsewhere_is_found_with_its_neighbours(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "shapes.py").write_text("blocks = 7\n")
    source = (folder / "work.py").read_text().replace("number = 3", "from shapes import blocks as number")
    (folder / "work.py").write_text(source)
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    assert "single: 3 blocks" in bellis("plan", "../work.py:single").stdout


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("work.py:pipelin", "work.py has no 'pipelin'; did you mean 'pipeline'?"),
        ("work.py:zzz", "work.py has no 'zzz'; there is 'single', 'pipeline'"),
        ("work.py", "say which pipeline of work.py to take: work.py:NAME; there is 'single', 'pipeline'"),
        ("wrk.py:pipeline", "there is no file wrk.py; did you mean work.py?"),
        ("no/such.py:pipeline", "there is no file no/such.py"),
        ("wrk:pipeline", "there is no module 'wrk': pass FILE.py:NAME or MODULE:NAME"),
        ("work.py:number", "work.py:number is 3, not a Pipeline, a Task or a list of Tasks"),
        ("work.py:nothing", "work.py:nothing returns None, not a Pipeline"),
        ("work.py:refuses", "read_roi Roi((0,), (5,)) does not contain write_roi"),
    ],
)
def test_a_wrong_target_is_refused_with_what_there_is(folder: Path, target: str, said: str) -> None:
    answer = bellis("plan", target, code=2)
    assert said in answer.stderr
    assert "Traceback" not in answer.stderr


def test_an_error_in_the_users_function_shows_the_users_part_of_the_traceback(folder: Path) -> None:
    answer = bellis("plan", "work.py:fails", code=2)
    assert answer.stderr.startswith("Error: the pipeline can't be described\nTraceback")
    assert answer.stderr.endswith("RuntimeError: no such scan\n")
    assert answer.stderr.count("  File ") == 1


@pytest.mark.parametrize("source", ["import no_such_module\n", "x = = 3\n", "1 / 0\n"])
def test_an_error_in_the_users_file_shows_the_users_part_of_the_traceback(folder: Path, source: str) -> None:
    (folder / "broken.py").write_text(source)
    for target in ("broken.py:x", "broken:x"):
        answer = bellis("plan", target, code=2)
        assert "can't be described" in answer.stderr
        assert "importlib" not in answer.stderr
        assert "bellis/cli" not in answer.stderr


def test_a_file_that_has_the_name_of_a_module_does_not_hide_it(folder: Path) -> None:
    (folder / "work.py").rename(folder / "queue.py")
    before = sys.modules["queue"]
    assert "first: 4 blocks" in bellis("plan", "queue.py:pipeline").stdout
    assert sys.modules["queue"] is before
    assert sys.path[0] != str(folder)
    assert "bellis_target_queue" in cloudpickle.list_registry_pickle_by_value()


def test_a_file_whose_name_is_no_identifier_is_run(folder: Path) -> None:
    (folder / "work.py").rename(folder / "my-work.v2.py")
    assert "first: 4 blocks" in bellis("plan", "my-work.v2.py:pipeline").stdout


# Options ------------------------------------------------------------------------------------------------------------


def test_the_help_tells_what_the_pipeline_takes(folder: Path) -> None:
    text = bellis("run", "work.py:pipeline", "--help").stdout
    assert "Write the numbers of blocks." in text
    assert "Parameters" not in text
    own, theirs = text.split("Pipeline options:")
    assert "--journal DIR" in own
    assert re.search(r"--out PATH +Where log.txt is written. +\[default: \.\]", theirs)
    assert re.search(r"--blocks INTEGER +Numbers. +\[default: 4\]", theirs)
    assert re.search(r"--bad INTEGER +Numbers.", theirs)
    assert re.search(r"--mode \[a\|b\] +\[default: a\]", theirs)
    assert "--pipeline-workers INTEGER" in theirs
    assert "secret" not in theirs


def test_the_help_without_a_target_says_what_one_is() -> None:
    text = bellis("run", "--help").stdout
    assert "FILE.py:NAME" in text
    assert "--keep" in text
    assert "Missing argument" in bellis("run", code=2).stderr


def test_options_reach_the_function_wherever_they_are(folder: Path) -> None:
    assert "first: 9 blocks" in bellis("plan", "work.py:pipeline", "--blocks", "9").stdout
    assert "first: 9 blocks" in bellis("plan", "work.py:pipeline", "--blocks=9", "--bad", "1", "--bad", "2").stdout
    (folder / "o").mkdir()
    words = ("run", "--engine", "inline", "work.py:pipeline", "--out", "o", "--no-journal", "--blocks", "2", "-q")
    bellis(*words)
    assert written(folder / "o") == [0, 1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--blokcs", "3"), "Did you mean '--blocks'?"),
        (("--blocks", "x"), "'x' is not a valid integer"),
        (("--mode", "c"), "'c' is not one of 'a', 'b'"),
        (("7",), "unexpected extra argument (7)"),
        (("--keep", "--reset"), "--keep and --reset exclude each other"),
        (("--journal", "j", "--no-journal"), "--journal and --no-journal exclude each other"),
        (("--workers", "0"), "0 is not in the range"),
        (("--engine", "inlin"), "no engine is named 'inlin'"),
    ],
)
def test_a_wrong_option_is_a_usage_error(folder: Path, words: tuple[str, ...], said: str) -> None:
    assert said.lower() in bellis("run", "work.py:pipeline", *words, code=2).stderr.lower()
    assert written(folder) == []


def option_types(function: Callable[..., object]) -> dict[str, tuple[str, bool]]:
    return {option.opts[0]: (option.type.name, option.required) for option in options_of(function, ["--engine"])}


def test_types_become_options() -> None:
    def function(
        a: int, b: float | None, c: Path | str, *, d=3.5, e=None, f=False, g: tuple[int, float] = (1, 2.0),
        h: list[Path] | None = None, engine: str = "", the_end_: int = 1, k: Unknown = 7,  # noqa: F821
        **rest: int,
    ) -> None:  # fmt: skip
        """Do nothing."""

    assert option_types(function) == {
        "--a": ("integer", True),
        "--b": ("float", True),
        "--c": ("path", True),
        "--d": ("float", False),
        "--e": ("text", False),
        "--f": ("boolean", False),
        "--g": ("<integer float>", False),
        "--h": ("path", False),
        "--pipeline-engine": ("text", False),
        "--the-end": ("integer", False),
        "--k": ("integer", False),
    }


def test_a_parameter_that_cannot_be_written_needs_a_default() -> None:
    def function(array: dict[str, int]) -> None:
        """Do nothing."""

    with pytest.raises(click.UsageError, match="'array' of function can't be given on the command line"):
        options_of(function, [])


def test_numpydoc_gives_the_help() -> None:
    def function() -> None:
        """Sum ``it``.

        All of `it`.

        Parameters
        ----------
        a : int
            First
            line.
        b, c
            Both.

        Returns
        -------
        d
            Not an option.
        """

    doc = inspect.getdoc(function) or ""
    assert parameter_help(doc) == {"a": "First line.", "b": "Both.", "c": "Both."}
    assert summary_of(function) == "Sum it.\n\nAll of it."
    assert summary_of(lambda: None) == ""


# Running ------------------------------------------------------------------------------------------------------------


def test_a_run_is_journaled_and_resumed(folder: Path) -> None:
    first = run_inline()
    assert written(folder) == [0, 1, 2, 3]
    assert "journal .bellis/work: if this run is cut off" in first.stderr
    second = run_inline()
    assert written(folder) == [0, 1, 2, 3]
    assert second.stderr.startswith("journal .bellis/work: 8 of 8 blocks are done already; `bellis reset .bellis/work`")
    assert "Nothing was left to do" in second.stderr


def test_a_journal_is_named_after_the_file_or_its_folder(folder: Path) -> None:
    (folder / "brain").mkdir()
    (folder / "brain" / "pipeline.py").write_text((folder / "work.py").read_text())
    bellis("run", "brain/pipeline.py:pipeline", "--engine", "inline", "-q")
    bellis("run", "work:single", "--engine", "inline", "-q")
    assert {path.name for path in Path(".bellis").iterdir()} == {"brain", "work"}


def test_without_a_journal_nothing_is_kept(folder: Path) -> None:
    run_inline("--no-journal")
    run_inline("--no-journal")
    assert written(folder) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert not Path(".bellis").exists()


def test_failed_blocks_end_with_1_and_are_retried(folder: Path) -> None:
    answer = run_inline("--bad", "2", code=1)
    assert written(folder) == [0, 1, 3]
    assert "first: block 2 failed after 1 attempt: ValueError: bad voxel in block 2" in answer.stderr
    assert answer.stderr.endswith("To run what is not done: bellis retry .bellis/work\n")
    again = bellis("retry", ".bellis/work", code=1)
    assert "6 of 8 blocks are done already" in again.stderr
    # The mistake is mended: the code has changed, and what is finished stays.
    source = (folder / "work.py").read_text().replace("block.index in bad", "block.index in ()")
    (folder / "work.py").write_text(source)
    del sys.modules["work"]
    mended = bellis("retry", ".bellis/work")
    assert "its code changed" in mended.stderr
    assert written(folder) == [0, 1, 2, 3]


def test_a_retry_goes_to_where_the_run_was_given(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_inline("--bad", "2", code=1)
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    answer = bellis("retry", "../.bellis/work", code=1)
    assert "6 of 8 blocks are done already" in answer.stderr


def test_changed_options_are_refused_kept_or_reset(folder: Path) -> None:
    (folder / "o").mkdir()
    run_inline()
    refused = run_inline("--out", "o", code=2)
    assert "was made with other options:\n  it was: (none)\n  it is:  --out o\n" in refused.stderr
    run_inline("--out", "o", "--keep")
    assert written(folder / "o") == []
    run_inline("--out=./o")  # the same, written otherwise
    run_inline("--out", ".", "--reset")
    assert written(folder) == [0, 0, 1, 1, 2, 2, 3, 3]


def test_options_may_change_as_long_as_nothing_is_done(folder: Path) -> None:
    run_inline("--bad", "0", "--bad", "1", "--blocks", "2", code=1)
    run_inline("--blocks", "2")
    assert written(folder) == [0, 1]


def test_changed_blocks_are_refused_or_reset(folder: Path) -> None:
    run_inline()
    source = (folder / "work.py").read_text()
    (folder / "work.py").write_text(source.replace("block = Roi((0,), (10,))", "block = Roi((0,), (5,))", 1))
    del sys.modules["work"]
    refused = run_inline(code=2)
    assert "the shape of write_roi was (10,) and is (5,)" in refused.stderr
    assert "Traceback" not in refused.stderr
    run_inline("--reset")
    assert len(written(folder)) == 4 + 8


def test_quiet_is_quiet_unless_something_fails(folder: Path) -> None:
    answer = run_inline("-q")
    assert not answer.stderr
    bad = run_inline("-q", "--bad", "1", "--no-journal", code=1)
    assert bad.stderr.startswith("\nSummary\n")


def test_the_command_is_kept_in_the_run_directory(folder: Path) -> None:
    run_inline("--blocks", "2", "--workers", "1")
    assert json.loads((folder / ".bellis/work/command.json").read_text()) == {
        "target": "work.py:pipeline",
        "arguments": ["--blocks", "2"],
        "cwd": str(folder),
        "engine": "inline",
        "workers": 1,
    }


def test_a_command_that_is_missing_damaged_or_was_given_nowhere_is_told(folder: Path) -> None:
    run_inline()
    command = folder / ".bellis/work/command.json"
    command.write_text(command.read_text().replace(str(folder), "/no/such/folder"))
    assert "which is not there any more" in bellis("retry", ".bellis/work", code=2).stderr
    command.write_text("{")
    assert "command.json is damaged" in bellis("retry", ".bellis/work", code=2).stderr
    command.unlink()
    assert "was not made by `bellis run`" in bellis("retry", ".bellis/work", code=2).stderr


# Status, reset, debug -----------------------------------------------------------------------------------------------


def test_status_tells_what_is_done_and_what_failed(folder: Path) -> None:
    run_inline("--bad", "2", code=1)
    assert bellis("status", ".bellis/work").stdout == (
        ".bellis/work: no run goes on\n"
        "\n"
        "  first   3/4   75 %  1 failed\n"
        "  second  3/4   75 %\n"
        "\n"
        "first: block 2 failed after 1 attempt: ValueError: bad voxel in block 2\n"
    )


def test_status_of_what_is_no_run_directory_is_refused(folder: Path) -> None:
    assert "is not a run directory" in bellis("status", ".", code=2).stderr
    assert "does not exist" in bellis("status", "nowhere", code=2).stderr


def test_reset_forgets_a_task_or_all(folder: Path) -> None:
    run_inline()
    assert bellis("reset", ".bellis/work", "second").stdout == ".bellis/work: second will start afresh\n"
    run_inline("-q")
    assert written(folder) == [0, 1, 2, 3]
    assert bellis("reset", ".bellis/work", "first").stdout == ".bellis/work: first, second will start afresh\n"
    run_inline("-q")
    assert written(folder) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert "it has 'first', 'second'" in bellis("reset", ".bellis/work", "third", code=2).stderr
    assert bellis("reset", ".bellis/work").stdout == ".bellis/work: first, second will start afresh\n"
    assert "nothing is noted" in bellis("status", ".bellis/work").stdout
    bellis("retry", ".bellis/work", "-q")
    assert len(written(folder)) == 12


def test_debug_of_a_block_that_runs_says_so(folder: Path) -> None:
    run_inline()
    assert "the block ran" in bellis("debug", ".bellis/work", "first", "2").stderr
    assert written(folder) == [0, 1, 2, 2, 3]


def test_debug_of_what_is_not_there_is_refused(folder: Path) -> None:
    run_inline()
    assert "no task is named 'frst'; there is 'first'" in bellis("debug", ".bellis/work", "frst", "2", code=2).stderr
    assert "no block number 99" in bellis("debug", ".bellis/work", "first", "99", code=2).stderr


def test_debug_says_when_the_post_check_says_no(folder: Path) -> None:
    source = (folder / "work.py").read_text().replace("max_retries=0,", "max_retries=0, check_function=(None, refuse),")
    (folder / "work.py").write_text(source + "\ndef refuse(block):\n    return False\n")
    run_inline(code=1)
    answer = bellis("debug", ".bellis/work", "first", "1", code=1)
    assert "check_function says that it is not done" in answer.stderr


# As processes -------------------------------------------------------------------------------------------------------


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "bellis", *words]


def process(*words: str, code: int = 0, given: str = "") -> subprocess.CompletedProcess[str]:
    answer = subprocess.run(command(*words), capture_output=True, text=True, check=False, timeout=60, input=given)
    assert answer.returncode == code, answer.stdout + answer.stderr
    return answer


@pytest.mark.end_to_end
@pytest.mark.slow
def test_workers_run_the_file_by_its_name_or_by_value(folder: Path) -> None:
    process("run", "work.py:pipeline")
    (folder / "work.py").rename(folder / "queue.py")
    words = ("run", "queue.py:pipeline", "--bad", "1")
    answer = subprocess.run([sys.executable, "-P", "-m", "bellis", *words], capture_output=True, text=True, check=False)
    assert answer.returncode == 1, answer.stderr
    assert written(folder) == [0, 0, 1, 2, 2, 3, 3]


@pytest.mark.end_to_end
@pytest.mark.slow
def test_debug_opens_pdb_where_the_block_failed(folder: Path) -> None:
    run_inline("--bad", "2", code=1)
    answer = process("debug", ".bellis/work", "first", "2", given="p block.index * 111\nq\n", code=1)
    assert answer.stderr.rstrip().endswith("ValueError: bad voxel in block 2")
    assert "-> raise ValueError" in answer.stdout
    assert "222" in answer.stdout
    assert process("status", ".bellis/work").stdout.count("3/4") == 2


@pytest.mark.end_to_end
@pytest.mark.slow
def test_ctrl_c_ends_with_130_and_the_rest_is_run_by_retry(folder: Path) -> None:
    (folder / "waits.py").write_text(
        textwrap.dedent('''
        """Blocks that wait until they may end."""
        import threading
        from pathlib import Path
        from bellis import Roi, Task

        def wait(block):
            Path(f"started-{block.index}").touch()
            while not Path("go").exists():
                threading.Event().wait(0.01)

        task = Task("wait", Roi((0,), (500,)), Roi((0,), (10,)), Roi((0,), (10,)), wait)
    ''')
    )
    with subprocess.Popen(command("run", "waits.py:task"), stderr=subprocess.PIPE, text=True) as run:
        pause = threading.Event()
        while not (folder / "started-0").exists():
            pause.wait(0.01)
            assert run.poll() is None
        status = process("status", ".bellis/waits").stdout
        assert "a run goes on since" in status
        assert f"pid {run.pid}" in status
        assert "is in use by another run" in process("run", "waits.py:task", code=2).stderr
        run.send_signal(signal.SIGINT)
        assert run.stderr is not None
        told = ""
        while "stopping" not in told:
            told += run.stderr.readline()
        (folder / "go").touch()
        told += run.stderr.read()
        assert run.wait(30) == 130
    assert told.endswith("Interrupted. To go on from here: bellis retry .bellis/waits\n")
    assert "50/50" in process("retry", ".bellis/waits").stderr
    assert "50/50  100 %" in process("status", ".bellis/waits").stdout


@pytest.mark.end_to_end
@pytest.mark.slow
def test_on_a_terminal_the_summary_is_all_that_stays(folder: Path) -> None:
    ours, theirs = pty.openpty()
    run = subprocess.Popen(command("run", "work.py:pipeline"), stdout=theirs, stderr=theirs, stdin=theirs)
    os.close(theirs)
    shown = b""
    try:
        while part := os.read(ours, 65536):
            shown += part
    except OSError:  # the other side is closed
        pass
    finally:
        os.close(ours)
    assert run.wait(30) == 0
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode()).replace("\r\n", "\n")
    assert text.startswith("journal .bellis/work: ") or "\njournal .bellis/work: " in text
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h")
    assert re.search(r"8 blocks completed in .* on \d workers\.\n$", text)


@pytest.mark.slow
def test_the_help_loads_nothing_heavy() -> None:
    code = "import sys; sys.argv = ['bellis', '--help']; from bellis.cli import main; main(standalone_mode=False)"
    loaded = "print([m for m in ('numpy', 'rich', 'cloudpickle', 'msgspec', 'sqlite3') if m in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", f"{code}; {loaded}"], capture_output=True, text=True, check=True)
    assert answer.stdout.splitlines()[-1] == "[]"
