"""The backend of generated C."""

from __future__ import annotations

from grammar import Cell, Sizes
from nas.backends.base import Backend, Runner, TreeRunner
from nas.backends.c.compiler import problem
from nas.backends.c.runner import CompiledRunner
from nas.backends.c.tree import CompiledTree
from nas.backends.states import refused


class C(Backend):
    """Cells over time and trees as C, built by the system's compiler: float32 on the CPU."""

    name = "c"
    candidates = True
    meant_for = frozenset({"time", "tree"})

    def available(self) -> str | None:
        """What is wrong with the C compiler, if anything is."""
        return problem()

    def refuses(self, cell: Cell) -> str | None:
        """Cells over depth, and operations that it does not know."""
        return refused(cell, ("time", "tree"))

    def compile(self, cell: Cell, sizes: Sizes, fallback: bool = False) -> Runner:
        """A runner that builds its library when it is first called."""
        return CompiledRunner(cell, sizes, fallback)

    def compile_candidates(self, cell: Cell, sizes: Sizes, fallback: bool = False) -> Runner:
        """The same: one call of its library goes through all candidates."""
        return CompiledRunner(cell, sizes, fallback)

    def compile_tree(self, cell: Cell, sizes: Sizes, fallback: bool = False) -> TreeRunner:
        """The same for a tree cell."""
        return CompiledTree(cell, sizes, fallback)
