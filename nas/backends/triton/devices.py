"""Kernels where tensors are on a device that runs them, another backend elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

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
        # All of them at once: while torch traces, nothing can be made.
        self.interpreted = interpreted()
        self.own = Runner(cell, sizes)  # generated kernels
        plain = not (self.interpreted or candidates) and plain_name(cell) is not None
        self.kernels: base.Runner = TorchRunner(cell) if plain else self.own
        compiled = C()
        able = compiled.available() is None and compiled.refuses(cell) is None
        backend = compiled if able else Reference()
        make = backend.compile_candidates if candidates else backend.compile
        self.plain = make(cell, sizes, fallback)

    def __call__(
        self, x: Tensor, weights: Sequence[Tensor], state: Sequence[Tensor], steps: Steps
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """See `nas.backends.Runner`."""
        here = x.is_cuda or (self.interpreted and x.device.type == "cpu")
        run: base.Runner
        if not here:
            run = self.plain
        elif traced(x):  # torch's own kernels are none that it traces
            run = self.own
        else:
            run = self.kernels
        return run(x, weights, state, steps)
