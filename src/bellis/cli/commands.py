"""The commands of ``bellis``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import bellis
from bellis.cli.options import PREFIX, arguments_of, options_of, summary_of
from bellis.cli.target import Refused, Target, load_target
from bellis.errors import BellisError, JournalError

if TYPE_CHECKING:
    from collections.abc import Callable

    from bellis.cli.command import Command
    from bellis.runtime.journal import OnChanged
    from bellis.tasks import Pipeline, Task

INTERRUPTED = 130


class Commands(click.Group):
    """Commands whose errors are messages."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; nobody is shown a traceback through bellis."""
        try:
            return super().invoke(ctx)
        except BellisError as error:
            raise Refused(str(error)) from error
        except KeyboardInterrupt:
            ctx.exit(INTERRUPTED)


class TargetCommand(click.Command):
    """A command whose options are completed by the parameters of the function that it is to call."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Load the target, then parse all options together."""
        target, rest = self._split(ctx, args)
        if target is not None and not ctx.resilient_parsing:
            loaded = load_target(target)
            ctx.meta["target"], ctx.meta["arguments"] = loaded, tuple(rest)
            if loaded.is_function:
                taken = [name for param in self.get_params(ctx) for name in (*param.opts, *param.secondary_opts)]
                ctx.meta["options"] = options_of(loaded.value, taken)
        return super().parse_args(ctx, args)

    def _split(self, ctx: click.Context, args: list[str]) -> tuple[str | None, list[str]]:
        """Return the target, and what is neither it nor an option of bellis."""
        own = click.Command(self.name, params=[p for p in self.get_params(ctx) if isinstance(p, click.Option)])
        context = click.Context(own, ignore_unknown_options=True, allow_extra_args=True)
        _, rest, _ = own.make_parser(context).parse_args(list(args))
        target = next((word for word in rest if not word.startswith("-")), None)
        if target is not None:
            rest.remove(target)
        return target, rest

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return the parameters, those of the function last."""
        return [*super().get_params(ctx), *ctx.meta.get("options", [])]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the help of the function's parameters under a title of its own."""
        own = [param for param in super().get_params(ctx) if isinstance(param, click.Option)]
        for title, params in (("Options", own), ("Pipeline options", ctx.meta.get("options", []))):
            records = [record for record in (param.get_help_record(ctx) for param in params) if record is not None]
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write what the pipeline does, or else what the command does."""
        target: Target | None = ctx.meta.get("target")
        text = summary_of(target.value) if target is not None and target.is_function else ""
        if not text:
            super().format_help_text(ctx, formatter)
            return
        formatter.write_paragraph()
        with formatter.indentation():
            formatter.write_text(text)


def _run_options(function: Callable[..., None]) -> Callable[..., None]:
    """Add what `run` and `retry` share."""
    for option in (
        click.option("--quiet", "-q", is_flag=True, help="Show nothing, unless something fails."),
        click.option(
            "--engine", metavar="NAME", help="Where blocks run: local (processes), inline (one, for pdb), ..."
        ),
        click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Blocks that run at the same time."),
    ):
        function = option(function)
    return function


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(bellis.__version__, prog_name="bellis")
def main() -> None:
    """Run functions over image data block by block, on all cores, and go on where a run was cut off."""


_journal_options = (
    click.option("--journal", type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
                 help="Where finished blocks are noted; in .bellis, by name, if not given."),
    click.option("--no-journal", is_flag=True, help="Note nothing."),
    click.option("--keep", is_flag=True, help="When code or options have changed: keep the blocks that are finished."),
    click.option("--reset", is_flag=True, help="Start afresh: forget what is finished."),
)  # fmt: skip


def starts_a_run(function: Callable[..., None]) -> Callable[..., None]:
    """Add the options of a command that starts a run."""
    for option in reversed(_journal_options):
        function = option(function)
    return _run_options(function)


@main.command(cls=TargetCommand, options_metavar="[OPTIONS]")
@click.argument("target", metavar="FILE.py:NAME [PIPELINE OPTIONS]")
@starts_a_run
@click.pass_context
def run(ctx: click.Context, /, *, target: str, **settings: Any) -> None:
    """Run a pipeline; started again, it goes on with what is not done.

    NAME in FILE.py (or in MODULE:NAME) is a Pipeline, a Task, a list of them, or a function that returns one. The
    parameters of a function become options: see `bellis run FILE.py:NAME --help`.
    """
    own = {name: value for name, value in settings.items() if not name.startswith(PREFIX)}
    start(ctx, target, ctx.meta["target"].title, **own)


def start(
    ctx: click.Context, target: str, title: str, *, journal: Path | None, no_journal: bool, keep: bool, reset: bool,
    quiet: bool, engine: str | None, workers: int | None,
) -> None:  # fmt: skip
    """Run the target that the command line has loaded.

    Parameters
    ----------
    ctx
        Has the target, its options and its arguments as words in ``meta``.
    target
        How it is named, for `bellis retry`.
    title
        Name of the journal, if none is given.
    journal, no_journal, keep, reset, quiet, engine, workers
        Options of the command.
    """
    from bellis.cli.command import Command

    if keep and reset:
        raise click.UsageError("--keep and --reset exclude each other")
    if no_journal and journal is not None:
        raise click.UsageError("--journal and --no-journal exclude each other")
    loaded: Target = ctx.meta["target"]
    run_dir = None if no_journal else journal or Path(".bellis") / title
    command = Command(
        target=target, arguments=ctx.meta["arguments"], cwd=str(Path.cwd()), engine=engine or "local", workers=workers
    )
    if run_dir is not None and not keep:
        _check_options(ctx, command, run_dir, reset=reset)
    pipeline = loaded.pipeline(arguments_of(ctx))
    if reset and run_dir is not None and (run_dir / "tasks").is_dir():
        from bellis.runtime import inspect

        inspect.reset(run_dir)
    _execute(ctx, pipeline, command, run_dir, "keep" if keep else "reset" if reset else "refuse", quiet=quiet)


def _execute(
    ctx: click.Context, pipeline: Pipeline, command: Command, run_dir: Path | None, on_changed: OnChanged, *,
    quiet: bool,
) -> None:  # fmt: skip
    from bellis import api
    from bellis.cli.command import CommandWriter
    from bellis.observe.progress import progress_observer

    # Blocks that run in this process print and are debugged here: no bars between their lines.
    progress = progress_observer(not quiet, live=False if command.engine == "inline" else None)
    report = api.run(
        pipeline, command.engine, workers=command.workers, journal=run_dir, on_changed=on_changed, progress=False,
        observers=[CommandWriter(command), progress],
    )  # fmt: skip
    if quiet and not report.ok:
        click.echo(str(report), err=True)
    ctx.exit(INTERRUPTED if report.interrupted else 0 if report.ok else 1)


def _check_options(ctx: click.Context, command: Command, run_dir: Path, *, reset: bool) -> None:
    """Refuse to skip blocks that were finished with other options: nobody else would notice."""
    from bellis.cli.command import FILE, Command
    from bellis.runtime import inspect

    if not (run_dir / FILE).exists():
        return
    before = Command.read(run_dir)
    if before.target != command.target or _given(ctx, before) == _given(ctx, command):
        return
    if not any(task.num_done for task in inspect.read_status(run_dir).tasks):
        return
    if reset:
        inspect.reset(run_dir)
        return
    raise JournalError(
        f"the journal {run_dir} was made with other options:\n  it was: {_words(before)}\n  it is:  {_words(command)}\n"
        "--reset starts afresh, --keep goes on with the blocks that are finished, --journal DIR takes another journal"
    )


def _given(ctx: click.Context, command: Command) -> dict[str, Any] | None:
    """Return the options of the pipeline as values; None if it does not have them any more."""
    parser = click.Command("options", params=ctx.meta.get("options", []))
    try:
        given = arguments_of(parser.make_context("options", list(command.arguments)))
    except click.UsageError:
        return None
    return {name: Path(command.cwd) / value if isinstance(value, Path) else value for name, value in given.items()}


def _words(command: Command) -> str:
    return " ".join(command.arguments) or "(none)"


@main.command(cls=TargetCommand, options_metavar="")
@click.argument("target", metavar="FILE.py:NAME [PIPELINE OPTIONS]")
@click.pass_context
def plan(ctx: click.Context, /, **_: Any) -> None:
    """Show what a pipeline would do: its blocks, their order, and what looks wrong."""
    from bellis.planning import plan as plan_tasks

    loaded: Target = ctx.meta["target"]
    click.echo(str(plan_tasks(loaded.pipeline(arguments_of(ctx)))))


_run_dir = click.argument("run_dir", type=click.Path(path_type=Path, file_okay=False, exists=True))


@main.command()
@_run_dir
def status(run_dir: Path) -> None:
    """Show what is done in a run directory, also while a run goes on."""
    from bellis.cli.status import status_lines
    from bellis.runtime.inspect import read_status

    for line in status_lines(run_dir, read_status(run_dir)):
        click.echo(line)


@main.command()
@_run_dir
@click.argument("tasks", nargs=-1)
def reset(run_dir: Path, tasks: tuple[str, ...]) -> None:
    """Forget what is done in a run directory, of all tasks or of some and those that wait for them.

    What the tasks have written is left alone. `bellis retry` then runs them again.
    """
    from bellis.runtime import inspect

    forgotten = inspect.reset(run_dir, tasks)
    click.echo(f"{run_dir}: {', '.join(forgotten) or 'everything'} will start afresh")


@main.command()
@_run_dir
@_run_options
@click.option(
    "--reset", is_flag=True, help="Start tasks afresh whose code or blocks have changed, instead of keeping them."
)
@click.pass_context
def retry(
    ctx: click.Context, /, *, run_dir: Path, reset: bool, quiet: bool, engine: str | None, workers: int | None
) -> None:
    """Run what is not done, with the target and the options of the last `bellis run`.

    Finished blocks are kept, also when the code has changed since: as it has after a mistake in it was mended.
    """
    import msgspec

    pipeline, command, path = _described_by(run_dir)
    command = msgspec.structs.replace(command, engine=engine or command.engine, workers=workers or command.workers)
    _execute(ctx, pipeline, command, path, "reset" if reset else "keep", quiet=quiet)


def _described_by(run_dir: Path) -> tuple[Pipeline, Command, Path]:
    """Return what a run directory was made by, and its path as seen from where it was made."""
    from bellis.cli.command import Command

    command = Command.read(run_dir)
    if not Path(command.cwd).is_dir():
        raise JournalError(f"{run_dir} was made in {command.cwd}, which is not there any more")
    path = run_dir if Path(command.cwd) == Path.cwd() else run_dir.absolute()
    os.chdir(command.cwd)
    context = run.make_context("run", [command.target, *command.arguments], parent=click.get_current_context())
    loaded: Target = context.meta["target"]
    return loaded.pipeline(arguments_of(context)), command, path


@main.command()
@_run_dir
@click.argument("task")
@click.argument("number", type=int, metavar="BLOCK")
@click.pass_context
def debug(ctx: click.Context, /, *, run_dir: Path, task: str, number: int) -> None:
    """Run one block in this process, under pdb when it fails.

    BLOCK is its number, as in messages on failed blocks. The journal is left alone.
    """
    pipeline, _, _ = _described_by(run_dir)
    found = next((each for each in pipeline.tasks if each.task_id == task), None)
    if found is None:
        raise click.UsageError(
            f"no task is named {task!r}; there is {', '.join(repr(t.task_id) for t in pipeline.tasks)}"
        )
    ctx.exit(0 if _debug_block(found, number) else 1)


def _debug_block(task: Task, number: int) -> bool:
    """Run a block; return whether it is done."""
    import pdb

    from bellis.planning import BlockGrid
    from bellis.runtime.worker import describe

    grid = BlockGrid.of(task)
    block = grid.block(grid.index_of(number))
    click.echo(f"running {block}", err=True)
    try:
        if task.setup is not None:
            task.setup()
        task.process_function(block)
        _, post = task.checks
        is_done = post is None or bool(post(block))
    except Exception as error:  # noqa: BLE001  # the user's function
        click.echo(describe(error), err=True)
        last = error.__traceback__.tb_next if error.__traceback__ is not None else None
        pdb.post_mortem(last or error.__traceback__)
        return False
    click.echo("the block ran" if is_done else "the block ran, but check_function says that it is not done", err=True)
    return is_done
