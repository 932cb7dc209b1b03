"""One tree of errors; each is also the builtin error that a caller would catch."""


class BellisError(Exception):
    """Any error that bellis raises on purpose."""


class GeometryError(BellisError, ValueError):
    """Coordinates or regions of different rank, a negative shape, a fraction where an integer is due."""


class TaskError(BellisError, ValueError):
    """A task or pipeline that can't be run as it is described."""


class FunctionError(TaskError, TypeError):
    """A function that can't be called with a block, or can't travel to a worker process."""


class ArrayError(BellisError, ValueError):
    """An array that does not fit what is asked of it: rank, dtype, region, voxel size or format."""


class ArrayExistsError(ArrayError, FileExistsError):
    """A dataset that is there, and is not as asked."""


class RunError(BellisError, RuntimeError):
    """A run that can't go on."""


class DeadlockError(RunError):
    """Nothing is ready and nothing runs, yet blocks are left."""


class JournalError(RunError):
    """A journal that can't be used for this run."""


class JournalLockedError(JournalError):
    """Another run holds the journal."""


class JournalMismatchError(JournalError):
    """The journal was written for other blocks, another version or other code."""


class JournalCorruptError(JournalError):
    """The journal's files are truncated or damaged."""


class EngineError(RunError):
    """An engine that can't be found, started, or kept alive."""
