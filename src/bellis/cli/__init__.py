"""The command line: thin, and quick to show its help; what runs is imported when it is needed."""

from bellis.cli.commands import main
from bellis.cli.info import info
from bellis.cli.operate import OperationCommand
from bellis.cli.volume import volume
from bellis.cli.worker import worker

__all__ = ["OperationCommand", "info", "main", "volume", "worker"]
