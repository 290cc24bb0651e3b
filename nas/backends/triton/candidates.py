"""The programs of a cell on rows, and on those of many candidates: `[C, rows, D]`, with all else that is given.

torch.vmap gives the axis to what torch computes, and kernels have it as an axis of their grid (`launch`): one launch
of each is for all candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nas.backends.steps import Steps
from nas.backends.triton.values import Order

if TYPE_CHECKING:
    from nas.backends.triton.runner import Both


def run(
    both: Both, x: Tensor, weights: Sequence[Tensor], first: Sequence[Tensor], steps: Steps, keep: bool
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """`Both.run`, for candidates where x is `[C, rows, D]`."""
    if x.dim() == 2:
        return both.run(x, weights, first, steps, keep)
    Order.of(steps, False, x.device)  # made, and kept, where no axis is

    def one(x: Tensor, weights: list[Tensor], first: list[Tensor]) -> tuple[Any, ...]:
        return both.run(x, weights, first, steps, keep)

    rows, axis = _shared(x, weights)
    y, last, saved = torch.vmap(one, in_dims=(axis, 0, 0))(rows, list(weights), list(first))
    return y, list(last), list(saved)


def pull(
    both: Both,
    x: Tensor,
    weights: Sequence[Tensor],
    saved: Sequence[Tensor],
    dy: Tensor,
    dlast: Sequence[Tensor],
    steps: Steps,
) -> tuple[Tensor | None, list[Tensor | None], list[Tensor]]:
    """`Both.pull`, for candidates where x is `[C, rows, D]`."""
    if x.dim() == 2:
        return both.pull(x, weights, saved, dy, dlast, steps)
    Order.of(steps, True, x.device)
    places: list[int] = []  # which of the gradients of x and the weights there are

    def one(x: Tensor, dy: Tensor, *rest: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        weights, saved, dlast = rest
        dx, grads, dfirst = both.pull(x, weights, saved, dy, dlast, steps)
        places[:] = [k for k, value in enumerate((dx, *grads)) if value is not None]
        return [value for value in (dx, *grads) if value is not None], dfirst

    rows, axis = _shared(x, weights)
    called = torch.vmap(one, in_dims=(axis, 0, 0, 0, 0))
    found, dfirst = called(rows, dy, list(weights), list(saved), list(dlast))
    grads: list[Tensor | None] = [None] * (1 + len(weights))
    for k, value in zip(places, found, strict=True):
        grads[k] = value
    return grads[0], grads[1:], list(dfirst)


def _shared(x: Tensor, weights: Sequence[Tensor]) -> tuple[Tensor, int | None]:
    """The rows of x, and the axis of candidates there: none where all have the same."""
    return (x[0], None) if weights and x.stride(0) == 0 else (x, 0)
