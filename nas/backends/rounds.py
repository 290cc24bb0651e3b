"""The rounds of a `depth n until(p)` block: adaptive computation time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._C._functorch import is_batchedtensor

from grammar import HALT


class Call(NamedTuple):
    """`cells[out] = function(*(cells[a] for a in args))`."""

    out: int
    function: Callable[..., Any]
    args: tuple[int, ...]


def run(calls: Sequence[Call], cells: list[Any]) -> None:
    """Make the calls in their order."""
    for out, function, args in calls:
        cells[out] = function(*[cells[a] for a in args])


class Rounds:
    """The block as one function, from the carried values and what else a round reads to the final values.

    Each head of each row has weights that add up to 1: the gate of each round, and what is left once their sum would
    reach HALT, or in the last round. The gate weights the values of the round that it is read in.
    """

    def __init__(
        self,
        calls: Sequence[Call],
        count: int,
        read: Sequence[int],
        until: int,
        slots: Sequence[tuple[int | None, int, Callable[[Tensor], Tensor]]],
        times: int,
    ) -> None:
        self.calls, self.count, self.read, self.until, self.times = calls, count, read, until, times
        # of each slot: the cell of its carried value, that of its new one, and the cast from a gate to its type
        self.slots = slots

    def __call__(self, *values: Tensor) -> list[Tensor]:
        """`values` are those of the cells `read`, a carried one being that before the first round."""
        cells: list[Any] = [None] * self.count
        for cell, value in zip(self.read, values, strict=True):
            cells[cell] = value
        total: list[Any] = [0.0] * len(self.slots)
        left: Any = 1.0
        for turn in range(self.times):
            run(self.calls, cells)
            p = cells[self.until]
            left = left * torch.ones_like(p)
            stops = (1 - left + p >= HALT) if turn < self.times - 1 else torch.ones_like(p, dtype=torch.bool)
            share = torch.where(stops, left, p)
            left = left - share
            new = [cells[value] for _, value, _ in self.slots]
            total = [t + cast(share) * v for t, v, (_, _, cast) in zip(total, new, self.slots, strict=True)]
            for (carried, _, _), value in zip(self.slots, new, strict=True):
                if carried is not None:
                    cells[carried] = value
            # To stop early is only quicker; under torch.vmap, and where torch traces, no value can be asked for.
            if torch.compiler.is_compiling() or is_batchedtensor(left):
                continue
            if not bool((left > 0).any()):
                break
        return total
