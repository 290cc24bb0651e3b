"""Layers of kernels for the operators of torch (`nas/backends/operators.py`)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import cast

import torch
from torch import Tensor

from grammar import Cell, Sizes
from nas.backends.once import apart
from nas.backends.operators import Backward, Forward, Layout, Operated
from nas.backends.steps import Steps
from nas.backends.triton.runner import Both, Runner
from nas.ir import shape_in


@lru_cache(maxsize=256)
def operated(cell: Cell, sizes: Sizes) -> KernelOperated:
    """A layer for the operators."""
    return KernelOperated(Runner(cell, sizes))


class KernelOperated(Operated):
    """See `Operated`. States are those of the normal form, in the type in which kernels hold them; all are given.

    What the backward half sees again: rows, then checkpoints of matrices.
    """

    def __init__(self, run: Runner) -> None:
        self.runner, made = run, run.adjoint
        self.finals = len(made.forward.slots)
        self.graded = sorted({one.array for one in made.weights})
        self.has_dx = made.dx is not None

    def _both(self, x: Tensor, weights: Sequence[Tensor]) -> Both:
        return self.runner.both((weights[0] if weights else x).dtype, chunked=True)

    def _states(self, both: Both, x: Tensor, wanted: Sequence[bool], *lead: int) -> list[Tensor]:
        """Room for slots."""
        program, sizes = both.made.forward, self.runner.sizes
        shapes = [(*lead, *shape_in(slot.type, sizes)) for slot in program.slots]
        return [
            x.new_empty(shape, dtype=both.forward.state)
            for shape, want in zip(shapes, wanted, strict=True)
            if want
        ]

    def forward(self, given: Forward, fake: bool) -> list[Tensor]:
        """See `Operated`."""
        x, weights, layout, keep = given.x, given.weights, given.layout, given.keep
        both = self._both(x, weights)
        program, sizes = both.made.forward, self.runner.sizes
        if fake:
            made = [x.new_empty((x.shape[0], sizes.hidden_size))]
            made += self._states(both, x, [True] * self.finals, layout.batch)
            for k, dtype in both.kept_types.items() if keep else ():
                made.append(x.new_empty((x.shape[0], *shape_in(program.instrs[k].type, sizes)), dtype=dtype))
            held = [keep and s in both.checked for s in range(self.finals)]
            return made + self._states(both, x, held, both.room(layout.count), layout.batch)
        first = [value for value in given.state if value is not None]
        with torch.cuda.device_of(x):
            y, last, saved = both.run(x, weights, first, steps_of(layout), keep)
        for checks in saved[len(both.kept) :]:
            # room that is never read; operators give no chance values
            checks[-(-layout.count // both.between(layout.count)) :] = 0
        types = [both.forward.state] * len(last) + (list(both.kept_types.values()) if keep else [])
        rest = [v.to(t) for v, t in zip((*last, *saved), types, strict=False)] + saved[len(both.kept) :]
        return _alone([y, *rest], (x, *weights, *first))

    def backward(self, given: Backward, fake: bool) -> list[Tensor]:
        """See `Operated`."""
        x, weights, saved, layout, wanted = given.x, given.weights, given.saved, given.layout, given.wanted
        both = self._both(x, weights)
        if fake:
            made = [torch.empty_like(x) if wanted[0] and self.has_dx else x.new_empty(0)]
            made += [weights[n].new_empty(weights[n].shape) for n in self.graded]
            return made + self._states(both, x, wanted[1:], layout.batch)
        zeros = self._states(both, x, [True] * self.finals, layout.batch)
        ends = [
            room.zero_() if value is None else value for room, value in zip(zeros, given.dfinal, strict=True)
        ]
        dy = given.dy
        if dy is None:
            dy = x.new_zeros((x.shape[0], self.runner.sizes.hidden_size))
        with torch.cuda.device_of(x):
            dx, grads, dfirst = both.pull(x, weights, saved, dy.contiguous(), ends, steps_of(layout))
        found = [x.new_zeros(0) if dx is None or not wanted[0] else dx]
        for n in self.graded:
            value = grads[n]
            found.append(torch.zeros_like(weights[n]) if value is None else value)
        found += [
            value.to(both.forward.state) for value, want in zip(dfirst, wanted[1:], strict=True) if want
        ]
        return _alone(found, (x, *weights, *saved, dy, *ends))


def steps_of(layout: Layout) -> Steps:
    """The steps of a layout."""
    if layout.sizes is None:
        return Steps.same(layout.batch, layout.count)
    return Steps(layout.sizes.tolist())


def _alone(values: Sequence[Tensor], given: Sequence[Tensor]) -> list[Tensor]:
    """The values as an operator must give them: contiguous, none in the memory of another or of what was given."""
    return cast(list[Tensor], apart([value.contiguous() for value in values], given))
