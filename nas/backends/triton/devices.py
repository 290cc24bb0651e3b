"""Kernels where tensors are on a device that runs them, the reference elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from torch import Tensor

from grammar import Sizes
from nas.backends import base
from nas.backends.reference import Reference
from nas.backends.steps import Steps
from nas.backends.triton.jit import interpreted
from nas.backends.triton.runner import Runner
from nas.ir import Program


class ByDevice:
    """See `nas.backends.Runner`."""

    def __init__(self, program: Program, sizes: Sizes) -> None:
        self.program, self.sizes = program, sizes

    @cached_property
    def kernels(self) -> base.Runner:
        """The runner for CUDA tensors; in the interpreter, for all."""
        return Runner(self.program, self.sizes)

    @cached_property
    def plain(self) -> base.Runner:
        """The runner for other tensors."""
        return Reference().compile(self.program, self.sizes)

    def __call__(
        self, x: Tensor, weights: Sequence[Tensor], state: Sequence[Tensor], steps: Steps
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """See `nas.backends.Runner`."""
        run = self.kernels if x.is_cuda or interpreted() else self.plain
        return run(x, weights, state, steps)
