"""Arrays in world units, in memory or on disk."""

from bellis.arrays.array import Array
from bellis.arrays.open import open_ds, prepare_ds

__all__ = ["Array", "open_ds", "prepare_ds"]
