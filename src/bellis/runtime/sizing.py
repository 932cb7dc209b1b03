"""How large the next lease is."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from bellis.runtime.cell import LARGEST_LEASE

ALONE = 8
"""The first blocks of a task travel alone: what they cost is not known, and they may all fail."""
MEMORY = 0.8
"""Weight of what was known of a block's duration, against one more lease."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseSizes:
    """How large leases should be where the workers are; seconds are those of work in one lease."""

    target_s: float
    """What a lease should be: long against a round trip, short against a person's patience."""
    least_s: float
    """A lease is not made shorter than this so that all slots get some."""
    short_s: float
    """Against a longer lease, the wait for the next one is nothing; of a shorter one, a worker has two at hand."""
    most_blocks: int = LARGEST_LEASE
    """No lease has more."""


LOCAL = LeaseSizes(target_s=0.1, least_s=0.002, short_s=0.5)
"""For workers on this machine, with round trips of 0.1 to 0.3 ms."""
REMOTE = LeaseSizes(target_s=2.0, least_s=0.05, short_s=20.0)
"""For workers on other machines, with round trips of 2 to 20 ms."""


class Pace:
    """What is known of the duration of one task's blocks.

    Parameters
    ----------
    sizes
        How large leases should be.
    """

    __slots__ = ("blocks", "mean_s", "sizes")

    def __init__(self, sizes: LeaseSizes = LOCAL) -> None:
        self.sizes = sizes
        self.blocks = 0
        self.mean_s = 0.0

    def note(self, blocks: int, seconds: float) -> None:
        """Take note of blocks that took ``seconds`` together."""
        if not blocks:
            return
        mean = seconds / blocks
        self.mean_s = mean if self.blocks < ALONE else MEMORY * self.mean_s + (1 - MEMORY) * mean
        self.blocks += blocks

    def size(self, *, remaining: int, ready: int, slots: int) -> int:
        """Return how many blocks the next lease should have.

        Parameters
        ----------
        remaining
            Blocks of the task that are not done and not leased.
        ready
            Those of them that could run now.
        slots
            How many leases can run at the same time.
        """
        if self.blocks < ALONE:
            return 1
        mean = max(self.mean_s, 1e-7)
        wanted = min(self.sizes.target_s / mean, self.sizes.most_blocks)
        # Guided: the tail is cut small, so that all slots end together; and so is what is ready now.
        fair = max(min(remaining / (4 * slots), ready / slots), self.sizes.least_s / mean)
        return max(1, ceil(min(wanted, fair)))

    def is_short(self, blocks: int) -> bool:
        """Whether a lease of ``blocks`` is so short that a worker should have the next one at hand."""
        return self.blocks >= ALONE and self.mean_s * blocks < self.sizes.short_s
