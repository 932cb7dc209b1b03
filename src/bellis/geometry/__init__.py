"""Points and regions of an integer grid: values, no I/O."""

from bellis.geometry.coordinate import Coordinate, CoordinateLike
from bellis.geometry.roi import Roi, expand_roi_to_grid, expand_write_roi_to_grid

__all__ = [
    "Coordinate",
    "CoordinateLike",
    "Roi",
    "expand_roi_to_grid",
    "expand_write_roi_to_grid",
]
