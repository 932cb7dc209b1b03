"""What the user describes: blocks, tasks, pipelines."""

from bellis.tasks.block import Block, BlockStatus
from bellis.tasks.pipeline import Pipeline
from bellis.tasks.task import Task

__all__ = ["Block", "BlockStatus", "Pipeline", "Task"]
