"""``bellis volume``: fill, look at, check and clear what is kept of a volume that is elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bellis.cli.commands import INTERRUPTED, main
from bellis.cli.operate import add_operation
from bellis.cli.target import Refused

if TYPE_CHECKING:
    from collections.abc import Callable

    from bellis.cli.volume_work import Verified
    from bellis.runtime.report import RunReport
    from bellis.tasks import Task
    from bellis.volumes import CachedVolume

_description = click.argument("description", type=click.Path(path_type=Path, dir_okay=False, exists=True))
_roi = click.option(
    "--roi", metavar="Z0:Z1,Y0:Y1,X0:X1", help="Only blocks that these voxels of the view touch; all if not given."
)


def _run_options(function: Callable[..., None]) -> Callable[..., None]:
    """Add options of a command that runs a task, of which no journal is kept: what is in the cache is done."""
    for option in (
        click.option("--quiet", "-q", is_flag=True, help="Show nothing, unless something fails."),
        click.option("--engine", default="local", metavar="NAME", help="Where it runs: local (processes), inline, ..."),
        click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Processes that run at the same time."),
    ):
        function = option(function)
    return function


class NothingKept(Refused):
    """There is nothing to look at: everything is missing."""

    exit_code = 1


@main.group()
def volume() -> None:
    """Fill, look at, check and clear what is kept of a volume that is elsewhere.

    DESCRIPTION is a file that says where the volume is, and where its blocks are kept.
    """


@volume.command()
@_description
@_roi
@click.option("--part", metavar="I/N", help="Only the I-th of N parts, for several machines.")
@_run_options
@click.pass_context
def download(
    ctx: click.Context, /, *, description: Path, roi: str | None, part: str | None, quiet: bool, engine: str,
    workers: int | None,
) -> None:  # fmt: skip
    """Fetch the blocks that are not there.

    Started again, it goes on with the rest. Exit code 1 if any is missing afterwards.
    """
    from bellis import ops
    from bellis.cli.region import parse_part, parse_region
    from bellis.cli.volume_lines import download_lines
    from bellis.cli.volume_work import errors_of, reasons_of
    from bellis.ops.download import WORKERS

    found, workers = _cached(description), workers or WORKERS
    region = parse_region("--roi", roi, found.layout)
    task = ops.download(found, roi=region, part=parse_part(part), limits=_limits(workers))
    before = task.skip_mask.num_absent()
    if not quiet:
        click.echo(f"{found.name}: {before} blocks are missing; a block of the task is a group of them", err=True)
    report = _run(task, engine, workers, quiet=quiet)
    absent = task.skip_mask.absent()
    _say(download_lines(found, before, absent, reasons_of(report), errors_of(report)), quiet=quiet and not len(absent))
    ctx.exit(INTERRUPTED if report.interrupted else 1 if len(absent) else 0)


@volume.command()
@_description
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
@click.pass_context
def status(ctx: click.Context, /, *, description: Path, as_json: bool) -> None:
    """Say what is there, and what is missing.

    Nothing is asked of the server, and nothing is made. Exit code 1 if any block of the view is missing.
    """
    from dataclasses import asdict

    from bellis.cli.volume_lines import status_lines
    from bellis.cli.volume_report import read_status

    found = read_status(description)
    _say([json.dumps(asdict(found), indent=2)] if as_json else status_lines(found))
    ctx.exit(0 if found.is_complete else 1)


@volume.command()
@_description
@_roi
@_run_options
@click.pass_context
def verify(
    ctx: click.Context, /, *, description: Path, roi: str | None, quiet: bool, engine: str, workers: int | None
) -> None:
    """Read what is there; name what is damaged.

    Nothing is changed: see `bellis volume repair`. Exit code 1 if any is damaged or missing.
    """
    from bellis.cli.volume_lines import verify_lines

    found = _kept(description)
    checked = _verify(found, roi, engine, workers, quiet=quiet)
    _say(verify_lines(found, checked), quiet=quiet and checked.is_sound)
    ctx.exit(INTERRUPTED if checked.is_interrupted else 0 if checked.is_sound else 1)


@volume.command()
@_description
@_roi
@_run_options
@click.pass_context
def repair(
    ctx: click.Context, /, *, description: Path, roi: str | None, quiet: bool, engine: str, workers: int | None
) -> None:
    """Verify, and fetch again what is damaged.

    What killed processes have left is removed. Damaged blocks are put aside, in the folder quarantine of the cache.
    Exit code 1 if any is damaged still, or missing.
    """
    from bellis.cli.volume_lines import repair_lines
    from bellis.cli.volume_work import mend

    found = _kept(description)
    checked = _verify(found, roi, engine, workers, quiet=quiet)
    if checked.is_interrupted:
        ctx.exit(INTERRUPTED)
    mended = mend(found, checked)
    _say(repair_lines(found, mended), quiet=quiet and mended.is_sound)
    ctx.exit(0 if mended.is_sound else 1)


@volume.command()
@_description
@click.option("--max-bytes", metavar="SIZE", help="Drop what was not read for the longest time, down to 2GB, say.")
@_roi
@click.option("--all", "all_blocks", is_flag=True, help="Drop all blocks, also those outside of the view.")
def evict(*, description: Path, max_bytes: str | None, roi: str | None, all_blocks: bool) -> None:
    """Drop blocks that are kept.

    They are fetched again when they are read.
    """
    from bellis.cli.region import parse_region
    from bellis.cli.volume_lines import human
    from bellis.cli.volume_work import bytes_of, dropped

    if sum((max_bytes is not None, roi is not None, all_blocks)) != 1:
        raise click.UsageError("say what to drop: --max-bytes SIZE, --roi REGION or --all")
    bound = None if max_bytes is None else bytes_of("--max-bytes", max_bytes)
    found = _kept(description)
    count, size = dropped(found, max_bytes=bound, region=parse_region("--roi", roi, found.layout))
    _say([f"{found.name}: dropped {count} blocks, {human(size)}, from {found.path}"])


add_operation(volume, "export", "Write a volume, or a part of it, in any format.", "description", "output")


def _cached(path: Path) -> CachedVolume:
    """Open a volume that has a cache."""
    from bellis.errors import ArrayError
    from bellis.volumes import CachedVolume, open_volume

    found = open_volume(path)
    if not isinstance(found, CachedVolume):
        kind = type(found).__name__
        found.close()
        raise ArrayError(
            f"{path} describes a {kind}, which has no cache: this is for volumes that say where blocks come from and "
            "where they are kept; `bellis volume status` tells what there is"
        )
    return found


def _kept(path: Path) -> CachedVolume:
    """Open a volume of which something is kept; else nothing is made."""
    from bellis.cli.volume_report import cache_of

    directory, cache = cache_of(path)
    if directory is not None and cache is None:
        raise NothingKept(f"nothing is kept of {path} in {directory} yet: fetch it by `bellis volume download {path}`")
    return _cached(path)


def _verify(found: CachedVolume, roi: str | None, engine: str, workers: int | None, *, quiet: bool) -> Verified:
    from bellis.cli.region import parse_region
    from bellis.cli.volume_work import Verified as Found
    from bellis.ops.download import verification

    task = verification(found, roi=parse_region("--roi", roi, found.layout), limits=_limits(workers))
    report = _run(task, engine, workers, quiet=quiet)
    return Found.of(report, task)


def _limits(workers: int | None) -> Any:
    from bellis.ops import Limits

    return Limits(num_workers=workers, max_retries=1)


def _run(task: Task, engine: str, workers: int | None, *, quiet: bool) -> RunReport:
    from bellis import api
    from bellis.cli.volume_work import ProgressOnly
    from bellis.observe.progress import progress_observer

    progress = progress_observer(not quiet, live=False if engine == "inline" else None)
    return api.run(task, engine, workers=workers, progress=False, observers=[ProgressOnly(progress)])


def _say(lines: Any, *, quiet: bool = False) -> None:
    for line in () if quiet else lines:
        click.echo(line)
