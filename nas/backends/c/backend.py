"""The backend of generated C."""

from __future__ import annotations

from grammar import Cell, Sizes
from nas.backends.base import Backend, Runner
from nas.backends.c.compiler import problem
from nas.backends.c.runner import CompiledRunner
from nas.errors import BuildError
from nas.ir import normal_cell


class C(Backend):
    """Cells over time as C, built by the system's compiler: float32 on the CPU."""

    name = "c"
    meant_for = frozenset({"time"})

    def available(self) -> str | None:
        """What is wrong with the C compiler, if anything is."""
        return problem()

    def refuses(self, cell: Cell) -> str | None:
        """Cells over depth and trees, and operations that it does not know."""
        if cell.kind != "time":
            return f"the C backend runs cells over time, and this is a {cell.kind} cell"
        try:
            normal_cell(cell)
        except BuildError as error:
            return str(error)
        return None

    def compile(self, cell: Cell, sizes: Sizes, fallback: bool = False) -> Runner:
        """A runner that builds its library when it is first called."""
        return CompiledRunner(cell, sizes, fallback)
