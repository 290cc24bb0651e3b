"""What every task must hold to. A new task is one line in TASKS; a test proves that none is missing."""

from __future__ import annotations

import hashlib
import itertools
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from nas.tasks import Batch, Split, Task, load_task, task_names

TASKS = (
    "text",
    "words",
    "parity",
    "even_pairs",
    "cycle_navigation",
    "s5",
    "dyck",
    "modular_arithmetic",
    "listops",
    "mqar",
    "selective_copying",
    "copying",
    "fuzzy_recall",
    "digits",
    "series",
)
FORECASTS = ("series",)  # numbers and no classes: their answers are checked in a suite of their own
CLASSES = tuple(name for name in TASKS if name not in FORECASTS)
ROOT = Path(__file__).resolve().parents[1]
SPLITS: tuple[Split, ...] = ("valid", "test")


@pytest.fixture(params=TASKS)
def task(request: pytest.FixtureRequest) -> Task:
    return load_task(request.param, size="smoke")


def train_batches(task: Task, count: int, seed: int = 0) -> Iterator[Batch]:
    return itertools.islice(task.train_batches(np.random.default_rng(seed)), count)


def digest(batches: Iterator[Batch]) -> str:
    """SHA-256 of everything in the batches."""
    total = hashlib.sha256()
    for batch in batches:
        for tensor in (batch.x, batch.y, batch.mask, batch.lengths, batch.tree):
            total.update(b"none" if tensor is None else tensor.numpy().tobytes())
        total.update(str(batch.fresh).encode())
    return total.hexdigest()


def logits_like(task: Task, batch: Batch, row: Tensor) -> Tensor:
    """The logits [B, T, outputs] of a predictor that always answers with `row` [outputs]."""
    return row.expand(*batch.x.shape[:2], task.outputs)


def test_every_task_is_in_this_suite() -> None:
    assert task_names() == TASKS


@pytest.mark.parametrize("size", ["smoke", "search", "full"])
@pytest.mark.parametrize("name", TASKS)
def test_attributes(name: str, size: str) -> None:
    task = load_task(name, size=size)
    assert (task.name, task.size) == (name, size)
    assert task.version >= 1
    assert 0 < task.trivial_score < math.inf
    assert 0 < task.trivial_loss < math.inf
    assert task.params > task.outputs
    assert task.best_known
    assert task.causal == (task.metric.startswith("nats/") or name in FORECASTS)
    assert len(task.data_digest) == 64
    assert set(task.data_digest) <= set("0123456789abcdef")


@pytest.mark.parametrize("name", TASKS)
def test_batches_have_the_shapes_of_the_recipe(name: str) -> None:
    task = load_task(name, size="search")
    task = task.with_recipe(task.recipe.replace(batch_size=3, sequence_length=7, steps=10))
    assert task.recipe != load_task(name, size="search").recipe
    longest = 0
    for batch in train_batches(task, 20):
        check(task, batch)
        assert batch.x.shape[0] == 3
        longest = max(longest, batch.x.shape[1])
    assert 7 <= longest <= 8


def test_evaluation_batches_are_finite_and_well_formed(task: Task) -> None:
    for split in SPLITS:
        batches = list(task.eval_batches(split))
        assert batches[0].fresh
        for batch in batches:
            check(task, batch)


def check(task: Task, batch: Batch) -> None:
    rows, steps = batch.x.shape[:2]
    if task.embed:
        assert batch.x.dtype == torch.int64
        assert batch.x.shape == (rows, steps)
        assert 0 <= int(batch.x.min()) <= int(batch.x.max()) < task.inputs
    else:
        assert batch.x.dtype == torch.float32
        assert batch.x.shape == (rows, steps, task.inputs)
    if task.name in FORECASTS:
        assert batch.y.dtype == torch.float32
        assert batch.y.shape == (rows, steps, task.outputs)
    else:
        assert batch.y.dtype == torch.int64
        assert batch.y.shape in ((rows,), (rows, steps))
        assert 0 <= int(batch.y.min()) <= int(batch.y.max()) < task.outputs
    assert batch.mask is None or (batch.mask.dtype, batch.mask.shape) == (torch.bool, (rows, steps))
    assert batch.tree is None or (batch.tree.dtype, batch.tree.shape) == (torch.int64, (rows, steps - 1, 2))
    if batch.lengths is not None:
        assert batch.lengths.shape == (rows,)
        assert 1 <= int(batch.lengths.min()) <= int(batch.lengths.max()) == steps


def test_batches_continue_only_in_rows_of_the_same_number(task: Task) -> None:
    pairs = itertools.pairwise(train_batches(task, 40))
    assert all(after.fresh or len(after.x) == len(before.x) for before, after in pairs)


def test_the_seed_decides_the_training_batches(task: Task) -> None:
    assert digest(train_batches(task, 5, seed=1)) == digest(train_batches(task, 5, seed=1))
    assert digest(train_batches(task, 5, seed=1)) != digest(train_batches(task, 5, seed=2))


def test_evaluation_does_not_depend_on_the_recipe(task: Task) -> None:
    other = task.with_recipe(task.recipe.replace(batch_size=5, sequence_length=9, steps=3))
    for split in SPLITS:
        assert digest(task.eval_batches(split)) == digest(other.eval_batches(split))
    assert task.data_digest == other.data_digest


def fingerprints() -> list[str]:
    """Of each task: its data, training batches and splits. Also run in another process."""
    found = []
    for name in TASKS:
        task = load_task(name, size="smoke")
        found += [
            task.data_digest,
            digest(train_batches(task, 5)),
            *(digest(task.eval_batches(s)) for s in SPLITS),
        ]
    return found


def test_another_process_makes_the_same_batches() -> None:
    tests = str(Path(__file__).parent)
    code = f"import sys; sys.path.insert(0, {tests!r}); import test_nas_tasks_conformance as t; print(t.fingerprints())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == str(fingerprints())


@pytest.mark.parametrize("task", CLASSES, indirect=True)
def test_a_uniform_predictor_has_the_loss_of_a_fair_die(task: Task) -> None:
    for batch in [*train_batches(task, 3), *task.eval_batches("valid")]:
        loss, count = task.loss(logits_like(task, batch, torch.zeros(task.outputs)), batch)
        assert float(loss) / count == pytest.approx(math.log(task.outputs), rel=1e-5)


def test_the_loss_has_a_gradient(task: Task) -> None:
    batch = next(task.train_batches(np.random.default_rng(0)))
    logits = torch.zeros(*batch.x.shape[:2], task.outputs, requires_grad=True)
    torch.autograd.backward(task.loss(logits, batch)[0])
    assert logits.grad is not None
    assert float(logits.grad.abs().sum()) > 0


@pytest.mark.parametrize("name", CLASSES)
def test_the_trivial_score_is_that_of_the_best_constant_answer(name: str) -> None:
    task = load_task(name, size="search")
    seen = torch.ones(task.outputs)
    for batch in train_batches(task, 300):
        seen += torch.bincount(batch.y.flatten(), minlength=task.outputs)
    answer = (seen / seen.sum()).log()
    total, count = 0.0, 0
    for batch in task.eval_batches("valid"):
        measured, answers = task.measure(logits_like(task, batch, answer), batch)
        total, count = total + float(measured), count + answers
    assert task.score(total, count) == pytest.approx(task.trivial_score, rel=0.06)


@pytest.mark.parametrize("name", FORECASTS)
def test_the_trivial_score_is_that_of_no_change(name: str) -> None:
    task = load_task(name, size="search")
    total, count = 0.0, 0
    for batch in task.eval_batches("valid"):
        measured, answers = task.measure(torch.zeros_like(batch.y), batch)
        total, count = total + float(measured), count + answers
    assert task.score(total, count) == pytest.approx(task.trivial_score, rel=1e-4)


@pytest.mark.parametrize("name", TASKS)
def test_a_perfect_predictor_scores_nothing_wrong(name: str) -> None:
    task = load_task(name, size="smoke")
    for batch in task.eval_batches("valid"):
        if name in FORECASTS:
            assert float(task.measure(batch.y, batch)[0]) == 0.0
            continue
        targets = batch.y if batch.y.dim() == 2 else batch.y[:, None].expand(batch.x.shape[:2])
        logits = 50.0 * torch.nn.functional.one_hot(targets, task.outputs).float()
        measured, _ = task.measure(logits, batch)
        assert float(measured) == pytest.approx(0.0, abs=1e-3)


@pytest.mark.parametrize("name", CLASSES)
def test_splits_share_no_sequence(name: str) -> None:
    task = load_task(name, size="search")
    if task.causal:
        task = task.with_recipe(task.recipe.replace(sequence_length=4 * WINDOW))
    train = set().union(*(sequences(batch) for batch in train_batches(task, 200)))
    valid = set().union(*(sequences(batch) for batch in task.eval_batches("valid")))
    test = set().union(*(sequences(batch) for batch in task.eval_batches("test")))
    assert min(len(train), len(valid), len(test)) > 100
    assert not train & valid
    assert not train & test
    assert not valid & test


WINDOW = 100


def sequences(batch: Batch) -> set[bytes]:
    """The rows of a batch up to their lengths; of rows of text all stretches of WINDOW, wherever they begin."""
    if batch.lengths is not None:
        return {row[:n].numpy().tobytes() for row, n in zip(batch.x, batch.lengths.tolist(), strict=True)}
    if batch.x.dim() == 3 or batch.mask is not None:
        return {row.numpy().tobytes() for row in batch.x}
    steps = batch.x.shape[1]
    return {row[i : i + WINDOW].tobytes() for row in batch.x.numpy() for i in range(steps - WINDOW + 1)}
