"""Kernels where tensors are on a device that runs them, another backend elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from torch import Tensor

from grammar import Cell, Sizes
from nas.backends import base
from nas.backends.c.backend import C
from nas.backends.reference import Reference
from nas.backends.steps import Steps
from nas.backends.triton.cudnn import TorchRunner, plain_name
from nas.backends.triton.jit import interpreted
from nas.backends.triton.runner import Runner, traced


class ByDevice:
    """See `nas.backends.Runner`."""

    def __init__(self, cell: Cell, sizes: Sizes, fallback: bool) -> None:
        self.cell, self.sizes, self.fallback = cell, sizes, fallback
        self.interpreted = interpreted()

    @cached_property
    def kernels(self) -> base.Runner:
        """The runner for CUDA tensors; in the interpreter, for all."""
        if not self.interpreted and plain_name(self.cell) is not None:
            return TorchRunner(self.cell)
        return self.own

    @cached_property
    def own(self) -> Runner:
        """The runner of generated kernels."""
        return Runner(self.cell, self.sizes)

    @cached_property
    def plain(self) -> base.Runner:
        """The runner for other tensors."""
        compiled = C()
        able = compiled.available() is None and compiled.refuses(self.cell) is None
        return (compiled if able else Reference()).compile(self.cell, self.sizes, self.fallback)

    def __call__(
        self, x: Tensor, weights: Sequence[Tensor], state: Sequence[Tensor], steps: Steps
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """See `nas.backends.Runner`."""
        here = x.is_cuda or (self.interpreted and x.device.type == "cpu")
        if not here:
            run = self.plain
        elif traced(x):  # torch's own kernels are none that it traces
            run = self.own
        else:
            run = self.kernels
        return run(x, weights, state, steps)
