"""Several candidates of one cell in one call, by what runs one of them: torch gives every operation their axis."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from nas.backends.base import Runner
from nas.backends.steps import Steps

Final = tuple[Tensor, ...]


class SideBySide:
    """A Runner of tensors that have the axis of candidates, by one of tensors that have not."""

    def __init__(self, run: Runner) -> None:
        self.run = run

    def __call__(
        self, x: Tensor, weights: Sequence[Tensor], state: Sequence[Tensor], steps: Steps
    ) -> tuple[Tensor, Final]:
        """See `Backend.compile_candidates`."""

        def one(x: Tensor, weights: Sequence[Tensor], state: Sequence[Tensor | None]) -> tuple[Tensor, Final]:
            return self.run(x, weights, [value for value in state if value is not None], steps)

        return side_by_side(one, x, weights, state)


def side_by_side(
    run: Callable[[Tensor, Sequence[Tensor], Sequence[Tensor | None]], tuple[Tensor, Final]],
    x: Tensor,
    weights: Sequence[Tensor],
    state: Sequence[Tensor | None],
) -> tuple[Tensor, Final]:
    """What `run` gives for x, weights and states of each candidate, stacked. Rows that all share are not repeated."""
    places = [s for s, value in enumerate(state) if value is not None]

    def one(x: Tensor, weights: Sequence[Tensor], values: Sequence[Tensor]) -> tuple[Tensor, Final]:
        given: list[Tensor | None] = [None] * len(state)
        for s, value in zip(places, values, strict=True):
            given[s] = value
        return run(x, weights, given)

    values = [value for value in state if value is not None]
    shared = bool(weights) and x.stride(0) == 0
    called = torch.vmap(one, in_dims=(None if shared else 0, 0, 0))
    y, final = called(x[0] if shared else x, list(weights), values)
    return y, tuple(final)
