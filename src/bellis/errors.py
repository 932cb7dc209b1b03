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


class DescriptionError(ArrayError):
    """A description file with mistakes in it; ``problems`` has all of them."""

    def __init__(self, message: str, problems: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.problems = problems


class VolumeError(ArrayError, OSError):
    """Voxels from elsewhere that can't be had, or can't be kept."""


class FetchError(VolumeError, ConnectionError):
    """A block did not come: the server refused, answered with what is no block, or did not answer in time."""


class TransientError(FetchError):
    """An attempt that failed, and may succeed if it is made again.

    ``retry_after_s`` is how long the server asks to wait; None if it does not say.
    """

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class AccessError(FetchError, PermissionError):
    """A server that asks who is there, or does not let them in."""


class MissingBlockError(FetchError, FileNotFoundError):
    """A block that the server does not have."""


class BlockNotReadyError(VolumeError):
    """A block that is not, or not wholly, in the file set."""


class DamagedBlockError(VolumeError):
    """A block whose file is not what was written."""


class CacheMismatchError(VolumeError):
    """A cache that was filled from another source, or in another way."""


class DownloadError(VolumeError):
    """Blocks that could not be downloaded; ``failed`` has the begin of each, and why."""

    def __init__(self, message: str, failed: tuple[tuple[tuple[int, ...], str], ...] = ()) -> None:
        super().__init__(message)
        self.failed = failed


class GraphError(BellisError, ValueError):
    """A graph, or a part of one, that does not fit its store: ids, attributes, positions, names."""


class GraphMismatchError(GraphError):
    """A store that is there, and is not as asked: directed, region, position, types of attributes."""


class GraphExistsError(GraphError, FileExistsError):
    """Nodes or edges that are in the store, and should not be."""


class GraphMissingError(GraphError, LookupError):
    """Nodes, edges or a whole store that should be there, and are not."""


class GraphReadOnlyError(GraphError, PermissionError):
    """A write to a store that was opened to be read."""


class GraphServerError(BellisError, ConnectionError):
    """A database that can't be reached, went away, or stays busy; nothing was written that was not acknowledged."""


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


class ServiceError(EngineError, ConnectionError):
    """A run that a worker or a client can't reach, or that does not know its token.

    ``is_other_run`` says that what answers there is another run by now.
    """

    def __init__(self, message: str, *, is_other_run: bool = False) -> None:
        super().__init__(message)
        self.is_other_run = is_other_run


class ContextError(RunError, KeyError):
    """A client that is not told which run it belongs to."""

    __str__ = Exception.__str__  # a KeyError shows its message in quotes
