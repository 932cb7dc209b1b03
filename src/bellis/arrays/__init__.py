"""Arrays in world units, in memory or on disk."""

from bellis.arrays.array import Array
from bellis.arrays.multiscale import Multiscale
from bellis.arrays.open import open_ds
from bellis.arrays.prepare import prepare_ds

__all__ = ["Array", "Multiscale", "open_ds", "prepare_ds"]
