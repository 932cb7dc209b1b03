"""``bellis worker``: joins a run on another machine, and works for it."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from bellis.cli.commands import main
from bellis.errors import ServiceError


@main.command()
@click.argument("url", metavar="URL")
@click.option(
    "--token-file",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    metavar="FILE",
    help="File with the run's token, which the run names when it starts; readable for you only.",
)
@click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Blocks that run at the same time.")
@click.option("--task", "task_id", metavar="TASK", help="Take blocks of this task only.")
@click.option(
    "--ca-file",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    metavar="FILE",
    help="Certificate to trust, if the run has one of its own.",
)
@click.option("--name", metavar="NAME", help="What the run calls this worker; host and process if not given.")
def worker(
    *, url: str, token_file: Path, workers: int | None, task_id: str | None, ca_file: Path | None, name: str | None
) -> None:
    """Work for the run at URL until it has no more to do.

    The functions of its tasks are imported here by name, from installed packages, PYTHONPATH or the current folder. All
    cores that this process may use are used, unless --workers says otherwise. Ctrl-C or SIGTERM, once: blocks that run
    may take 10 s to finish, the rest goes back; twice: leave at once.
    """
    from bellis.runtime.cores import available_cores
    from bellis.service.token import read_token
    from bellis.service.worker import work

    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # as `python -m` does
    token, workers = read_token(token_file), workers or available_cores()
    try:
        run_id = work(url, token, workers=workers, name=name, ca_file=ca_file, task_id=task_id, say=_say)
    except ServiceError as error:
        if not error.is_other_run:
            raise
        _say(str(error))
        return
    _say(f"left the run {run_id}" if run_id else f"stopped; the run at {url} was not found yet")


def _say(text: str) -> None:
    click.echo(text, err=True)
