"""Runs the kernels that compute matrix states a chunk of steps at once."""

from __future__ import annotations

import torch
from torch import Tensor

from grammar import Sizes
from nas.backends.triton.chunks import ChunkKernel, Plan
from nas.backends.triton.jit import load
from nas.backends.triton.values import Order, Values
from nas.ir import Program, shape_in


class Chunked:
    """A plan on tensors."""

    def __init__(self, plan: Plan, program: Program, sizes: Sizes, state: torch.dtype) -> None:
        self.plan, self.program, self.sizes, self.state = plan, program, sizes, state
        self.outputs = frozenset(k for stage in plan.found.stages for k in stage.outputs)

    def kernels(self) -> list[ChunkKernel]:
        """Every kernel."""
        return [*self.plan.states, *(kernel for _, _, kernel in self.plan.uses)]

    def __call__(self, k: int, values: Values, order: Order) -> None:
        """The rows of all instructions of the stage of instruction k; totals too. `order` is forward in time."""
        stages = self.plan.found.stages
        if k in stages[0].outputs:
            for kernel in self.plan.states:
                self._run(kernel, values, order)
        if k in stages[-1].outputs:
            for instr, total, kernel in self.plan.uses:
                self._run(kernel, values, order)
                if total:
                    values.totals[instr] = values.rows.pop(instr).sum(0)

    def _run(self, kernel: ChunkKernel, values: Values, order: Order) -> None:
        """Launch one kernel."""
        steps, like = order.steps, values.like
        pointers: list[Tensor] = []
        strides: dict[str, int] = {}
        for kind, k in kernel.pointers:
            if kind in ("load", "again"):
                rows = values.rows[k] if kind == "load" else values.again[k]
                made = rows if rows[:1].is_contiguous() else rows.contiguous()
                strides[f"stride_{kind}{k}"] = made.stride(0)
            elif kind in ("const", "once"):
                made = (values.consts if kind == "const" else values.once)[k].contiguous()
            elif kind == "store":
                shape = shape_in(self.program.instrs[k].type, self.sizes)
                made = values.rows[k] = like.new_empty(steps.rows, *shape, dtype=self.state)
            elif kind == "first":
                made = values.first[k].contiguous()
            elif kind == "last":
                made = values.last[k] = like.new_empty(values.first[k].shape, dtype=self.state)
            elif kind == "square":
                if k not in values.squares:
                    room = (-(-steps.count // kernel.steps), steps.batch, self.sizes.heads)
                    values.squares[k] = like.new_empty(*room, kernel.steps, kernel.steps, dtype=self.state)
                made = values.squares[k]
            elif kind == "held":
                made = values.held[k]
            else:
                if k not in values.checks:
                    room = (room_for(steps.count, kernel.steps), *values.first[k].shape)
                    values.checks[k] = like.new_empty(room, dtype=self.state)
                made = values.checks[k]
            pointers.append(made)
        across = -(-steps.count // kernel.steps) if kernel.chunks else kernel.blocks
        options = {"EVEN": steps.even, "num_warps": kernel.warps, "num_stages": 1, "enable_fp_fusion": True}
        scalars = (steps.count, steps.batch, kernel.steps, *(strides[name] for name in kernel.stride_names))
        run = load(kernel.text)[steps.batch, self.sizes.heads, across]
        run(*scalars, order.offsets, order.counts, *pointers, **options)


def room_for(count: int, steps: int) -> int:
    """How many matrices are kept: never one, which torch would not trace as any number."""
    return count // steps + 2
