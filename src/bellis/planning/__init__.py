"""Arithmetic on integers: which blocks there are, in which order they may run."""

from bellis.planning.dependencies import BlockwiseDependencyGraph, DependencyGraph, Link
from bellis.planning.grid import BlockGrid
from bellis.planning.levels import Levels
from bellis.planning.plan import Plan, TaskPlan, plan

__all__ = [
    "BlockGrid",
    "BlockwiseDependencyGraph",
    "DependencyGraph",
    "Levels",
    "Link",
    "Plan",
    "TaskPlan",
    "plan",
]
