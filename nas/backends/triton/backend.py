"""The triton backend: generated kernels for every time cell."""

from __future__ import annotations

import importlib.util
import os
from functools import cache

import torch

from grammar import Cell, Sizes
from nas.backends.base import Backend, Runner
from nas.backends.states import refused


class TritonBackend(Backend):
    """Kernels that Triton compiles, forward and backward.

    With TRITON_INTERPRET=1 in the environment they run in Triton's interpreter on the CPU, which is slow: for tests.
    """

    name = "triton"
    candidates = True

    def available(self) -> str | None:
        """Where triton is installed and there is a CUDA device, or the interpreter is asked for."""
        return _missing()

    def refuses(self, cell: Cell) -> str | None:
        """Cells over trees and depth, and operations without an expansion."""
        return refused(cell, ("time",))

    def compile(self, cell: Cell, sizes: Sizes, fallback: bool = False) -> Runner:
        """A runner of kernels; tensors that lie on no CUDA device take the way of another backend.

        `fallback` is for that one: Triton itself is part of no system that lacks a compiler.
        """
        from nas.backends.triton.devices import ByDevice

        return ByDevice(cell, sizes, fallback)

    def compile_candidates(self, cell: Cell, sizes: Sizes, fallback: bool = False) -> Runner:
        """The same: each kernel is launched once for all candidates, which are an axis of its grid."""
        from nas.backends.triton.devices import ByDevice

        return ByDevice(cell, sizes, fallback, candidates=True)


@cache
def _missing() -> str | None:
    """Why no kernel can run here, if that is so."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if os.environ.get("TRITON_INTERPRET") == "1" or torch.cuda.is_available():
        return None
    return "there is no CUDA device (TRITON_INTERPRET=1 runs the kernels in Triton's interpreter, for tests)"
