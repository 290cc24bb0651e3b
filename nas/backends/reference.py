"""The reference backend: eager torch, any float type, gradients by torch. What the other backends are held against."""

from __future__ import annotations

from grammar import Cell, Sizes
from nas.backends.base import Backend, Runner, TreeRunner
from nas.backends.candidates import SideBySide
from nas.backends.depth import DepthRunner
from nas.backends.scan import ScanRunner
from nas.backends.tree import Tree
from nas.ir import compile_program


class Reference(Backend):
    """Values of all steps at once where the Program allows it, a Python loop over the steps elsewhere."""

    name = "reference"
    candidates = True

    def available(self) -> str | None:
        """Always."""
        return None

    def refuses(self, cell: Cell) -> str | None:
        """Nothing."""
        return None

    def compile(self, cell: Cell, sizes: Sizes, fallback: bool = False) -> Runner:
        """A runner in eager torch."""
        program = compile_program(cell)
        return DepthRunner(program, sizes) if program.kind == "depth" else ScanRunner(program, sizes)

    def compile_candidates(self, cell: Cell, sizes: Sizes, fallback: bool = False) -> Runner:
        """A runner in eager torch, each operation of which is on all candidates."""
        return SideBySide(self.compile(cell, sizes))

    def compile_tree(self, cell: Cell, sizes: Sizes, fallback: bool = False) -> TreeRunner:
        """A tree runner in eager torch."""
        return Tree(compile_program(cell), sizes)
