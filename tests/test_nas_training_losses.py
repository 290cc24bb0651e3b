"""Loss and score of the steps that are answers: as the task has them on all logits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from grammar import zoo
from nas.nn import Stack
from nas.tasks import Batch, load_task
from nas.tasks.formal import Parity
from nas.training.losses import mean_loss, measure
from nas.training.optimiser import Optimiser


class Doubled(Parity):
    """A task with a loss of its own."""

    def loss(self, logits: Tensor, batch: Batch) -> tuple[Tensor, int]:
        total, count = super().loss(logits, batch)
        return 2 * total, count


@pytest.mark.parametrize("name", ["text", "parity", "modular_arithmetic", "listops"])
def test_loss_and_score_are_those_of_the_task(name: str) -> None:
    task = load_task(name, size="smoke")
    torch.manual_seed(0)
    stack = Stack(zoo("gru"), task.inputs, task.outputs, 8, embed=task.embed)
    batch = next(task.train_batches(np.random.default_rng(0)))
    assert task.by_rows
    (own, count, _), (plain, again, _) = (mean_loss(stack, task, batch, None, plain=p) for p in (False, True))
    assert count == again
    weights = list(stack.parameters())
    gradients = [torch.autograd.grad(loss, weights) for loss in (own, plain)]
    torch.testing.assert_close(own, plain)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)
    with torch.no_grad():
        found = [measure(stack, task, batch, None, plain=p)[:2] for p in (False, True)]
    torch.testing.assert_close(float(found[0][0]), float(found[1][0]), rtol=1e-5, atol=1e-5)


def test_a_loss_of_its_own_is_what_is_trained_on() -> None:
    task, given = Doubled(size="smoke"), Parity(size="smoke")
    stack = Stack(zoo("gru"), task.inputs, task.outputs, 8, embed=task.embed)
    batch = next(task.train_batches(np.random.default_rng(0)))
    assert given.by_rows
    assert not task.by_rows
    both = [mean_loss(stack, one, batch, None)[0] for one in (task, given)]
    torch.testing.assert_close(both[0], 2 * both[1])


def test_an_array_without_a_gradient_stays() -> None:
    task = load_task("parity", size="smoke")
    stack = Stack(zoo("gru"), task.inputs, task.outputs, 8, embed=task.embed)
    optimiser = Optimiser(stack, task.recipe)
    before = [p.detach().clone() for p in stack.parameters()]
    stack.head.weight.grad = torch.ones_like(stack.head.weight)
    optimiser.clipped_step(0.1, 1.0)
    moved = [not torch.equal(p, b) for p, b in zip(stack.parameters(), before, strict=True)]
    names = [name for name, _ in stack.named_parameters()]
    assert [name for name, has in zip(names, moved, strict=True) if has] == ["head.weight"]
