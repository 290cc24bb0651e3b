"""Tasks: data, head, loss and metric, seeded and versioned. Torch is imported when a task is loaded, not before."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nas._lazy import attach

if TYPE_CHECKING:
    from nas.tasks.base import Batch as Batch
    from nas.tasks.base import Split as Split
    from nas.tasks.base import Task as Task
    from nas.tasks.load import load_task as load_task
    from nas.tasks.recipe import Recipe as Recipe
    from nas.tasks.recipe import check_fields as check_fields
    from nas.tasks.table import TaskRow as TaskRow
    from nas.tasks.table import absolute_name as absolute_name
    from nas.tasks.table import task_names as task_names
    from nas.tasks.table import task_table as task_table

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "Batch": "nas.tasks.base",
        "Recipe": "nas.tasks.recipe",
        "Split": "nas.tasks.base",
        "Task": "nas.tasks.base",
        "TaskRow": "nas.tasks.table",
        "absolute_name": "nas.tasks.table",
        "check_fields": "nas.tasks.recipe",
        "load_task": "nas.tasks.load",
        "task_names": "nas.tasks.table",
        "task_table": "nas.tasks.table",
    },
)
