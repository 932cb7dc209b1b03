"""Ready-made operations: each returns a `Task` or `Pipeline` that gives, block by block, what the whole array would.

Nothing is computed before `bellis.run`; output datasets that are given as paths are made when an operation is called.
"""

# Functions bear the names of their modules. They are imported here, not on first use, so that ops.map is the function
# whoever imported bellis.ops.map before; heavy libraries are imported by the functions of a block.
from bellis.ops.agglomerate import agglomerate
from bellis.ops.blocks import Limits
from bellis.ops.copy import copy, rechunk
from bellis.ops.download import download
from bellis.ops.downscale import downscale
from bellis.ops.label import label
from bellis.ops.map import map  # noqa: A004  # used as ops.map
from bellis.ops.measure import measure
from bellis.ops.reduce import reduce
from bellis.ops.region_graph import region_graph
from bellis.ops.relabel import relabel
from bellis.ops.remove_small import remove_small
from bellis.ops.segment import segment
from bellis.ops.watershed import watershed

__all__ = [
    "Limits",
    "agglomerate",
    "copy",
    "download",
    "downscale",
    "label",
    "map",
    "measure",
    "rechunk",
    "reduce",
    "region_graph",
    "relabel",
    "remove_small",
    "segment",
    "watershed",
]
