"""Candidates of one cell side by side through kernels: each is launched once for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from nas.backends.states import divided, united
from nas.backends.steps import Steps
from nas.backends.triton.execute import Order
from nas.backends.triton.runner import Both, Runner


class CandidatesRunner(Runner):
    """See `Backend.compile_candidates`. What torch computes between kernels is for all candidates at once, too."""

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def __call__(
        self, x: Tensor, weights: Sequence[Tensor], state: Sequence[Tensor], steps: Steps
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """See `nas.backends.Runner`."""
        like = weights[0] if weights else x
        both, places = self.both(like.dtype), self.normal.slots
        first = torch.vmap(lambda *values: tuple(divided(values, places)))(*state) if state else ()
        given = (both, steps, len(weights), x.to(like.dtype), *weights, *first)
        with torch.cuda.device_of(x):
            y, *last = _Function.apply(*given)  # type: ignore[no-untyped-call]
        ends = [value.to(given.dtype) for value, given in zip(last, first, strict=True)]
        if not ends:
            return y, ()
        return y, torch.vmap(lambda *values: united(values, places, self.count))(*ends)


class _Function(torch.autograd.Function):
    """Takes x, the weights and the slots' first values; gives the output's rows and the slots' last values."""

    @staticmethod
    def forward(
        ctx: Any, both: Both, steps: Steps, count: int, x: Tensor, *rest: Tensor
    ) -> tuple[Tensor, ...]:
        weights, first = list(rest[:count]), list(rest[count:])
        wants = any(ctx.needs_input_grad)
        rows, axis = _shared(x, weights)
        Order.of(steps, False, x.device)  # made, and kept, where no candidates are

        def run(x: Tensor, weights: list[Tensor], first: list[Tensor]) -> tuple[Any, ...]:
            return both.run(x, weights, first, steps, wants)

        y, last, saved = torch.vmap(run, in_dims=(axis, 0, 0))(rows, weights, first)
        if wants:
            ctx.both, ctx.steps, ctx.counts = both, steps, (count, len(first))
            ctx.save_for_backward(x, *rest, *saved)
        return (y, *last)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor, *dlast: Tensor) -> tuple[Tensor | None, ...]:
        both, steps, (count, slots) = ctx.both, ctx.steps, ctx.counts
        x, *rest = ctx.saved_tensors
        weights, first, saved = rest[:count], rest[count : count + slots], rest[count + slots :]
        rows, axis = _shared(x, weights)
        Order.of(steps, True, x.device)
        places: list[int] = []  # which of the gradients of x and the weights there are

        def pull(
            x: Tensor, weights: list[Tensor], saved: list[Tensor], dy: Tensor, dlast: list[Tensor]
        ) -> tuple[list[Tensor], list[Tensor]]:
            dx, grads, dfirst = both.pull(x, weights, saved, dy, dlast, steps)
            places[:] = [k for k, value in enumerate((dx, *grads)) if value is not None]
            return [value for value in (dx, *grads) if value is not None], dfirst

        called = torch.vmap(pull, in_dims=(axis, 0, 0, 0, 0))
        found, dfirst = called(rows, weights, saved, dy, list(dlast))
        grads: list[Tensor | None] = [None] * (1 + count)
        for k, value in zip(places, found, strict=True):
            grads[k] = value
        ends = [value.to(one.dtype) for value, one in zip(dfirst, first, strict=True)]
        return (None, None, None, *grads, *ends)


def _shared(x: Tensor, weights: Sequence[Tensor]) -> tuple[Tensor, int | None]:
    """The rows of x, and the axis of candidates there: none where all have the same."""
    return (x[0], None) if weights and x.stride(0) == 0 else (x, 0)
