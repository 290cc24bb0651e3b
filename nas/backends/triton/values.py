"""What a run of kernels has: the order of its steps, and its values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import torch
from torch import Tensor

from nas.backends.steps import Steps

CHUNK = 32  # steps between two checkpoints of a matrix
AHEAD = 64  # how many steps a kernel may look beyond the last


@dataclass(frozen=True, slots=True)
class Order:
    """The steps of a batch in the order in which a program runs them, on a device."""

    steps: Steps
    offsets: Tensor  # of each step in that order: its first row, and how many rows it has; 0 beyond the last
    counts: Tensor
    spans: tuple[tuple[int, int], ...]  # the same as numbers

    @property
    def chunk(self) -> int:
        """How many steps lie between two checkpoints of a matrix."""
        return min(CHUNK, self.steps.count)

    @staticmethod
    def checkpoints(count: int) -> int:
        """How many checkpoints there is room for: never one, which torch would not trace as any number."""
        return count // CHUNK + 2

    @staticmethod
    def of(steps: Steps, reverse: bool, device: torch.device) -> Order:
        """The order of a program, which runs from the first step to the last or in reverse."""
        return Order(steps, *_ordered(steps.sizes, reverse, device))


@lru_cache(maxsize=64)
def _ordered(
    sizes: tuple[int, ...], reverse: bool, device: torch.device
) -> tuple[Tensor, Tensor, tuple[tuple[int, int], ...]]:
    """See `Order`; batches of the same lengths come again."""
    counts = torch.tensor(sizes, device="cpu")
    offsets = counts.cumsum(0) - counts
    if reverse:
        counts, offsets = counts.flip(0), offsets.flip(0)
    spans = tuple(zip(offsets.tolist(), counts.tolist(), strict=True))
    pad = torch.zeros(AHEAD, dtype=counts.dtype, device="cpu")
    return torch.cat([offsets, pad]).to(device), torch.cat([counts, pad]).to(device), spans


@dataclass(slots=True)
class Values:
    """What one run has: rows and values without rows by instruction, first and last values by slot, weights."""

    rows: dict[int, Tensor]
    weights: Sequence[Tensor]
    first: Mapping[int, Tensor]
    like: Tensor
    consts: dict[int, Tensor] = field(default_factory=dict)
    last: dict[int, Tensor] = field(default_factory=dict)
    totals: dict[int, Tensor] = field(default_factory=dict)
    stacks: dict[tuple[int, ...], Tensor] = field(default_factory=dict)  # matrices side by side
    checks: dict[int, Tensor] = field(default_factory=dict)  # by slot: before every chunk of steps
    again: Mapping[int, Tensor] = field(default_factory=dict)  # what a replay reads: rows, and without rows
    once: Mapping[int, Tensor] = field(default_factory=dict)
    squares: dict[int, Tensor] = field(default_factory=dict)  # by term: scores within every chunk
    held: Mapping[int, Tensor] = field(
        default_factory=dict
    )  # by slot: of the forward run, before every chunk
