"""The command line: thin, and quick to show its help; what runs is imported when it is needed."""

from bellis.cli.commands import main

__all__ = ["main"]
