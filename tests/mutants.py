"""Backends that are wrong in one way each: the conformance suite must find every one of them out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from grammar import Cell, Sizes
from nas.backends import Backend, Runner, Steps
from nas.backends.reference import Reference

Values = tuple[Tensor, tuple[Tensor, ...]]
Change = Callable[[Runner, Tensor, Sequence[Tensor], Sequence[Tensor], Steps], Values]


class Mutant(Backend):
    """The reference with a change to what its runners do."""

    name = "mutant"

    def __init__(self, change: Change) -> None:
        self.change = change

    def available(self) -> str | None:
        """Always."""
        return None

    def refuses(self, cell: Cell) -> str | None:
        """Nothing."""
        return None

    def compile(self, cell: Cell, sizes: Sizes, fallback: bool = False) -> Runner:
        """The reference's runner with the change around it."""
        inner = Reference().compile(cell, sizes)

        def run(x: Tensor, weights: Sequence[Tensor], state: Sequence[Tensor], steps: Steps) -> Values:
            return self.change(inner, x, weights, state, steps)

        return run


class _Scaled(torch.autograd.Function):
    """The value as it is, its gradient times a factor."""

    @staticmethod
    def forward(context: Any, value: Tensor, factor: float) -> Tensor:
        context.factor = factor
        return value.clone()

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * context.factor, None


def scaled(value: Tensor, factor: float) -> Tensor:
    return _Scaled.apply(value, factor)  # type: ignore[no-untyped-call,no-any-return]


def unchanged(
    inner: Runner, x: Tensor, weights: Sequence[Tensor], state: Sequence[Tensor], steps: Steps
) -> Values:
    return inner(x, weights, state, steps)


def wrong_weight_gradient(
    inner: Runner, x: Tensor, weights: Sequence[Tensor], state: Sequence[Tensor], steps: Steps
) -> Values:
    return inner(x, [*weights[:-1], scaled(weights[-1], 1 + 1e-4)], state, steps)


def wrong_input_gradient(
    inner: Runner, x: Tensor, weights: Sequence[Tensor], state: Sequence[Tensor], steps: Steps
) -> Values:
    return inner(scaled(x, 1 + 1e-4), weights, state, steps)


def no_gradient_to_the_initial_state(
    inner: Runner, x: Tensor, weights: Sequence[Tensor], state: Sequence[Tensor], steps: Steps
) -> Values:
    return inner(x, weights, [value.detach() for value in state], steps)


def no_gradient_through_the_final_state(
    inner: Runner, x: Tensor, weights: Sequence[Tensor], state: Sequence[Tensor], steps: Steps
) -> Values:
    y, after = inner(x, weights, state, steps)
    return y, tuple(value.detach() for value in after)


def forgets_the_initial_state(
    inner: Runner, x: Tensor, weights: Sequence[Tensor], state: Sequence[Tensor], steps: Steps
) -> Values:
    return inner(x, weights, [torch.zeros_like(value) for value in state], steps)


def imprecise(
    inner: Runner, x: Tensor, weights: Sequence[Tensor], state: Sequence[Tensor], steps: Steps
) -> Values:
    y, after = inner(x, weights, state, steps)
    return y * (1 + 2e-5), after


def half_precision_weights(
    inner: Runner, x: Tensor, weights: Sequence[Tensor], state: Sequence[Tensor], steps: Steps
) -> Values:
    return inner(x, [w + (w.half().to(w.dtype) - w).detach() for w in weights], state, steps)


def reads_fresh_memory(
    inner: Runner, x: Tensor, weights: Sequence[Tensor], state: Sequence[Tensor], steps: Steps
) -> Values:
    y, after = inner(x, weights, state, steps)
    return y + 0 * torch.empty_like(y), after


def wrong_behind_a_chunk(
    inner: Runner, x: Tensor, weights: Sequence[Tensor], state: Sequence[Tensor], steps: Steps
) -> Values:
    y, after = inner(x, weights, state, steps)
    late = torch.arange(len(y)) >= sum(steps.sizes[:64])
    return torch.where(late[:, None], y * 1.001, y), after


def wrong_at_a_single_step(
    inner: Runner, x: Tensor, weights: Sequence[Tensor], state: Sequence[Tensor], steps: Steps
) -> Values:
    y, after = inner(x, weights, state, steps)
    return (y * 1.001 if steps.count == 1 else y), after


def takes_all_for_equally_long(
    inner: Runner, x: Tensor, weights: Sequence[Tensor], state: Sequence[Tensor], steps: Steps
) -> Values:
    """The final state of a shorter sequence is that of the longest."""
    y, after = inner(x, weights, state, steps)
    return y, tuple(after[s] if steps.even else after[s][:1].expand_as(after[s]) for s in range(len(after)))


def mixes_sequences_in_the_backward_pass(
    inner: Runner, x: Tensor, weights: Sequence[Tensor], state: Sequence[Tensor], steps: Steps
) -> Values:
    y, after = inner(x, weights, state, steps)
    return _Rolled.apply(y, steps.batch), after  # type: ignore[no-untyped-call]


class _Rolled(torch.autograd.Function):
    """The value as it is; its gradient goes to the next sequence."""

    @staticmethod
    def forward(context: Any, value: Tensor, batch: int) -> Tensor:
        context.batch = batch
        return value.clone()

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0].roll(1, 0) if context.batch > 1 else gradients[0], None


WRONG: tuple[Change, ...] = (
    wrong_weight_gradient,
    wrong_input_gradient,
    no_gradient_to_the_initial_state,
    no_gradient_through_the_final_state,
    forgets_the_initial_state,
    imprecise,
    half_precision_weights,
    reads_fresh_memory,
    wrong_behind_a_chunk,
    wrong_at_a_single_step,
    takes_all_for_equally_long,
    mixes_sequences_in_the_backward_pass,
)
