"""How large the next lease is."""

from __future__ import annotations

from math import ceil

from bellis.runtime.cell import LARGEST_LEASE

TARGET_S = 0.1
"""Work in one lease, for local workers: long against a round trip (0.1-0.3 ms), short against a person's patience."""
LEAST_S = 0.002
"""A lease shorter than this is not made shorter so that all slots get some."""
SHORT_S = 0.5
"""Against a longer lease, the wait for the next one is nothing; of a shorter one, a worker has two at hand."""
ALONE = 8
"""The first blocks of a task travel alone: what they cost is not known, and they may all fail."""
MEMORY = 0.8
"""Weight of what was known of a block's duration, against one more lease."""


class Pace:
    """What is known of the duration of one task's blocks."""

    __slots__ = ("blocks", "mean_s")

    def __init__(self) -> None:
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
        wanted = min(TARGET_S / mean, LARGEST_LEASE)
        # Guided: the tail is cut small, so that all slots end together; and so is what is ready now.
        fair = max(min(remaining / (4 * slots), ready / slots), LEAST_S / mean)
        return max(1, ceil(min(wanted, fair)))

    def is_short(self, blocks: int) -> bool:
        """Whether a lease of ``blocks`` is so short that a worker should have the next one at hand."""
        return self.blocks >= ALONE and self.mean_s * blocks < SHORT_S
