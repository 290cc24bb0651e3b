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

    def __init__(self, cell: Cell, sizes: Sizes, fallback: bool, candidates: bool = False) -> None:
        self.cell, self.sizes, self.fallback, self.candidates = cell, sizes, fallback, candidates
        self.interpreted = interpreted()
        # made here, because torch.compile traces no making of them
        self.own = Runner(cell, sizes)  # of generated kernels
        self.plain = self._plain()  # for tensors elsewhere

    @cached_property
    def kernels(self) -> base.Runner:
        """The runner for CUDA tensors; in the interpreter, for all."""
        if not (self.interpreted or self.candidates) and plain_name(self.cell) is not None:
            return TorchRunner(self.cell)
        return self.own

    def _plain(self) -> base.Runner:
        compiled = C()
        able = compiled.available() is None and compiled.refuses(self.cell) is None
        backend = compiled if able else Reference()
        make = backend.compile_candidates if self.candidates else backend.compile
        return make(self.cell, self.sizes, self.fallback)

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
