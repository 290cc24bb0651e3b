"""The table of tasks that `recell tasks` prints agrees with the tasks themselves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nas.tasks import absolute_name, load_task, task_names, task_table


def test_one_row_per_task() -> None:
    assert tuple(row.name for row in task_table()) == task_names()


def test_rows_can_be_printed_as_json() -> None:
    rows = json.loads(json.dumps([row.to_dict() for row in task_table()]))
    assert all(
        row["what"] and row["best_known"] and {"smoke", "search", "full"} <= set(row["sizes"]) for row in rows
    )


def test_rows_agree_with_the_loaded_tasks() -> None:
    for row in task_table():
        task = load_task(row.name)
        assert (task.metric, task.best_known) == (row.metric, row.best_known)
        assert task.trivial_score == pytest.approx(row.trivial_score)
        assert row.sizes["search"] == {"steps": task.recipe.steps, "params": task.params}


def test_names_are_made_absolute_only_where_they_hold_a_path() -> None:
    assert absolute_name("text") == "text"
    assert absolute_name("package.module:Mine") == "package.module:Mine"
    assert absolute_name("folder/own.py:Mine") == f"{Path.cwd()}/folder/own.py:Mine"
    assert absolute_name("/data/own.py:Mine") == "/data/own.py:Mine"
