"""Cells over depth: the whole sequence at once."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from grammar import Sizes
from nas.backends.plan import Plan
from nas.backends.rounds import run
from nas.backends.steps import Steps
from nas.ir import Program


class DepthRunner:
    """A Program over `seq` states. A state, before and after, is the rows of all positions, `[rows, H]`."""

    def __init__(self, program: Program, sizes: Sizes) -> None:
        self.plan = Plan(program, sizes)
        self.output = self.plan.in_rows(program.out)
        self.final = [self.plan.in_rows(slot.next) for slot in program.slots]

    def __call__(
        self, x: Tensor, weights: Sequence[Tensor], state: Sequence[Tensor], steps: Steps
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """See `Runner`."""
        cells = self.plan.fresh(x, weights, state, steps)
        run(self.plan.calls["const"], cells)
        run(self.plan.calls["before"], cells)
        return self.output(cells, steps.rows), tuple(value(cells, steps.rows) for value in self.final)
