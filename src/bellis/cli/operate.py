"""Commands for the ready-made operations: a volume in, a volume out."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from bellis.cli.commands import TargetCommand, main, start, starts_a_run
from bellis.cli.options import PREFIX, options_of
from bellis.cli.target import Target

if TYPE_CHECKING:
    from collections.abc import Iterator

WHERE = "bellis.cli.operations"


class OperationCommand(TargetCommand):
    """A command whose arguments and options are the parameters of an operation; those of a run are added."""

    positional: tuple[str, ...] = ()
    """Parameters that are written without their names, in this order."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Load the operation, parse, and write down the words that name the same for ``bellis run``."""
        from bellis.cli import operations

        operation = getattr(operations, str(self.name))
        ctx.meta["target"] = Target(WHERE, str(self.name), operation)
        ctx.meta["options"] = options_of(operation, _names(click.Command.get_params(self, ctx)))
        rest = click.Command.parse_args(self, ctx, args)
        ctx.meta["arguments"] = tuple(_words(ctx))
        return rest

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return arguments first."""
        options: list[click.Option] = ctx.meta.get("options", [])
        named = {str(option.name).removeprefix(PREFIX): option for option in options}
        arguments = [_argument(named.pop(name)) for name in self.positional if name in named]
        return [*arguments, *click.Command.get_params(self, ctx), *named.values()]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the help of the arguments too."""
        options: dict[str, click.Option] = {str(option.name): option for option in ctx.meta.get("options", [])}
        arguments = [options.pop(PREFIX + name) for name in self.positional]
        with formatter.section("Arguments"):
            formatter.write_dl([(_metavar(option), option.help or "") for option in arguments])
        for title, shown in (("Options", list(options.values())), ("Options of the run", self.params)):
            records = [record for record in (param.get_help_record(ctx) for param in shown) if record is not None]
            with formatter.section(title):
                formatter.write_dl(records)


def add_operation(group: click.Group, name: str, short_help: str, *positional: str) -> None:
    """Add a command for a function of ``bellis.cli.operations``."""

    @starts_a_run
    @click.pass_context
    def command(ctx: click.Context, /, **settings: Any) -> None:
        own = {key: value for key, value in settings.items() if not key.startswith(PREFIX)}
        output = ctx.params[PREFIX + positional[-1]]
        place = re.sub(r"[^\w.-]+", "-", re.sub(r"^\w+://", "", output)).strip("-.")
        start(ctx, f"{WHERE}:{name}", f"{name}-{place}", **own)

    made = click.command(name, cls=OperationCommand, short_help=short_help)(command)
    made.positional = positional
    group.add_command(made)


def _names(params: list[click.Parameter]) -> list[str]:
    return [name for param in params for name in (*param.opts, *param.secondary_opts)]


def _argument(option: click.Option) -> click.Argument:
    return click.Argument(
        [str(option.name)], type=option.type, nargs=-1 if option.multiple else 1, required=True,
        metavar=_metavar(option),
    )  # fmt: skip


def _metavar(option: click.Option) -> str:
    word = str(option.name).removeprefix(PREFIX).upper()
    return f"{word}..." if option.multiple else word


def _words(ctx: click.Context) -> Iterator[str]:
    """Yield what was given, as options of ``bellis run bellis.cli.operations:NAME``."""
    for option in ctx.meta["options"]:
        name = str(option.name)
        if ctx.get_parameter_source(name) is not ParameterSource.COMMANDLINE:
            continue
        value = ctx.params[name]
        if option.is_flag:
            yield option.opts[0] if value else option.secondary_opts[0]
            continue
        for each in value if option.multiple else (value,):
            yield from (option.opts[0], str(each))


# What they do is known without importing them, so that `bellis --help` stays quick.
add_operation(main, "map", "Call a function on every block of a volume.", "function", "source", "output")
add_operation(main, "copy", "Copy a volume into another format, or other chunks.", "source", "output")
add_operation(main, "downscale", "Add coarser levels to an OME-Zarr image.", "image")
add_operation(main, "label", "Label the connected components of a mask.", "mask", "output")
add_operation(main, "segment", "Segment a boundary map.", "boundaries", "segments")
