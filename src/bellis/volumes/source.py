"""Where voxels come from: the seam between volumes and what serves them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from bellis.errors import ArrayError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import numpy.typing as npt

    from bellis.geometry import Roi

PARALLEL = 32
"""Blocks that one process asks for at the same time, if nothing is said: as many as tensorstore does."""
MissingPolicy: TypeAlias = Literal["error", "fill"]
"""What a block means that the server does not have: an error, or zeros."""


class Source(Protocol):
    """A volume that is elsewhere, read a block at a time.

    It is pickled as a description, and reached by each process at its first use; its methods are called by several
    threads at once.
    """

    @property
    def domain(self) -> Roi:
        """Its voxels, all axes; begins at 0."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Data type of a voxel, in native byte order."""

    @property
    def axes(self) -> tuple[str, ...]:
        """Name of each axis: of t, c, z, y, x, or others."""

    @property
    def preferred_block(self) -> tuple[int, ...] | None:
        """Voxels per axis that are served together; None if it does not matter."""

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        """What tells this volume from another one, as JSON: blocks of two fingerprints are never mixed."""

    def fetch(self, block_roi: Roi, out: npt.NDArray[Any], *, timeout_s: float) -> None:
        """Fill ``out`` with the voxels of a region inside of the domain: one attempt.

        Parameters
        ----------
        block_roi
            Region in voxels, all axes.
        out
            C-contiguous, of the region's shape and the source's dtype; what it holds after an error has no meaning.
        timeout_s
            Seconds until a `TransientError` must have been raised.

        Raises
        ------
        TransientError
            If it may succeed another time: connections, time-outs, overload, truncated or damaged answers.
        MissingBlockError
            If the source does not have the block.
        AccessError
            If it does not give it to us.
        FetchError
            If it will never succeed: a wrong shape or dtype, an address that the server does not know.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a block is waited for, and how often it is asked for.

    After a failed attempt a random time is waited, up to ``first_wait_s``, then up to twice that, and so on up to
    ``longest_wait_s`` ("full jitter"), and at least what the server asks for by ``Retry-After``.
    """

    deadline_s: float = 120.0
    """Seconds for one block, all attempts together."""
    stall_s: float = 20.0
    """Seconds without a byte from the server after which an attempt has failed."""
    first_wait_s: float = 0.25
    """Most seconds to wait after the first failed attempt."""
    longest_wait_s: float = 15.0
    """Most seconds to wait after any."""

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if not (isinstance(value, int | float) and 0 < value < float("inf")):
                raise ArrayError(f"{name} must be seconds > 0, not {value!r}")
