"""From a name to a task: unknown names, and a user's own tasks as `module:Class` and `file.py:Class`."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from nas.errors import TaskError
from nas.tasks import Task, load_task, task_names

OWN = """
from collections.abc import Iterator
import numpy as np
import torch
from nas.tasks import Batch, Recipe, Task

class FirstBit(Task):
    name = "first_bit"
    metric = "error rate"
    trivial_score = 0.5
    trivial_loss = 0.6931
    inputs = outputs = 2
    embed = True
    params = 2_000
    recipe = Recipe(steps=5, batch_size=4, sequence_length=6, lr=1e-2)

    def __init__(self, data=None, size="search"):
        self.data = data

    def batch(self, rng):
        x = torch.from_numpy(rng.integers(2, size=(self.recipe.batch_size, self.recipe.sequence_length)))
        return Batch(x, x[:, 0])

    def train_batches(self, rng):
        while True:
            yield self.batch(rng)

    def eval_batches(self, split):
        yield self.batch(np.random.default_rng(split == "test"))

class Partial(Task):
    name = "partial"
    def train_batches(self, rng):
        yield from ()

class Bare(Partial):
    def __init__(self, data=None, size="search"):
        pass
    def eval_batches(self, split):
        yield from ()

class Broken(Bare):
    def __init__(self, data=None, size="search"):
        raise ValueError("no such column: price")

class NoTask:
    pass
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "own.py"
    path.write_text(OWN)
    return path


def check(task: Task) -> None:
    assert (task.name, task.size) == ("first_bit", "smoke")
    batch = next(task.train_batches(np.random.default_rng(0)))
    assert batch.x.shape == (4, 6)
    assert len(task.data_digest) == 64


def test_a_class_in_a_file(own: Path) -> None:
    check(load_task(f"{own}:FirstBit", size="smoke"))


def test_a_file_is_read_again_each_time(own: Path) -> None:
    load_task(f"{own}:FirstBit")
    own.write_text(OWN.replace("params = 2_000", "params = 3_000"))
    assert load_task(f"{own}:FirstBit").params == 3_000


def test_a_class_in_a_module_of_the_working_folder(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(own.parent)
    monkeypatch.delitem(sys.modules, "own", raising=False)
    before = list(sys.path)
    check(load_task("own:FirstBit", size="smoke"))
    assert sys.path == before
    monkeypatch.delitem(sys.modules, "own")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("txt", r"unknown task 'txt'; did you mean 'text'\?"),
        (
            "zzz",
            rf"unknown task 'zzz' \(tasks are {', '.join(task_names())}, and your own",
        ),
        ("no_such_module:Mine", "module no_such_module could not be imported: ModuleNotFoundError"),
        ("no_such_file.py:Mine", r"task file no_such_file\.py does not exist"),
        ("{own}:Missing", r"own\.py has no class 'Missing'"),
        ("{own}:NoTask", r"own\.py:NoTask is not a subclass of nas\.tasks\.Task"),
        ("{own}:Partial", r"own\.py:Partial does not define eval_batches"),
        (
            "{own}:Bare",
            "does not set metric, trivial_score, trivial_loss, inputs, outputs, embed, recipe, params",
        ),
        ("{own}:Broken", "could not be made: ValueError: no such column: price"),
        (":Mine", "':Mine' is not of the form module:Class or file.py:Class"),
        ("json:", "'json:' is not of the form module:Class or file.py:Class"),
    ],
)
def test_wrong_names_are_one_clear_error(name: str, message: str, own: Path) -> None:
    with pytest.raises(TaskError, match=message) as caught:
        load_task(name.format(own=own))
    assert "\n" not in str(caught.value)


def test_a_file_that_fails_is_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "failing.py"
    path.write_text("import nas\n1 / 0\n")
    with pytest.raises(TaskError, match=r"failing\.py could not be run: ZeroDivisionError: division by zero"):
        load_task(f"{path}:Mine")


def test_an_unknown_size_is_refused() -> None:
    with pytest.raises(TaskError, match="unknown size 'huge'; sizes are smoke, search, table, full"):
        load_task("text", size="huge")
