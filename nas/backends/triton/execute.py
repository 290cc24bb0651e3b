"""One normal program on tensors: its kernels in order, and what torch computes between them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from grammar import Sizes
from nas.backends.primitives import TORCH, array_places, linear, matrix, numbers, param
from nas.backends.steps import Steps
from nas.backends.triton.emit import UNROLLED, Kernel, emit
from nas.backends.triton.jit import load
from nas.backends.triton.partition import Gap, Partition, Sweep, partition
from nas.backends.triton.tiles import Tiles, tiles
from nas.errors import BuildError
from nas.ir import Instr, Program, shape_in


@dataclass(frozen=True, slots=True)
class Order:
    """The steps of a batch in the order in which a program runs them, on a device."""

    steps: Steps
    reverse: bool
    offsets: Tensor
    counts: Tensor

    @staticmethod
    def of(steps: Steps, reverse: bool, device: torch.device) -> Order:
        """Padded, so that a kernel may look a few steps ahead."""
        counts = torch.tensor(steps.sizes, device="cpu")
        offsets = counts.cumsum(0) - counts
        if reverse:
            counts, offsets = counts.flip(0), offsets.flip(0)
        pad = torch.zeros(UNROLLED, dtype=counts.dtype, device="cpu")
        return Order(steps, reverse, torch.cat([offsets, pad]).to(device), torch.cat([counts, pad]).to(device))


@dataclass(slots=True)
class Values:
    """What one run computes: rows and values without rows by instruction, final values by slot."""

    rows: dict[int, Tensor]
    consts: dict[int, Tensor]
    last: dict[int, Tensor]
    totals: dict[int, Tensor]


class Executable:
    """A program cut into kernels at some sizes. `wanted` are the instructions whose rows a run returns."""

    def __init__(self, program: Program, sizes: Sizes, wanted: Iterable[int], *, reverse: bool = False) -> None:
        self.program, self.sizes, self.reverse = program, sizes, reverse
        self.wanted = set(wanted)
        self.cut: Partition = partition(program, sizes, self.wanted)
        self.layouts: dict[int, Tiles] = {}
        for place, step in enumerate(self.cut.steps):
            if isinstance(step, Sweep):
                made = tiles(program, step, sizes)
                if isinstance(made, str):
                    raise BuildError(f"{program.name}: {made}")
                self.layouts[place] = made
        self.arrays = array_places(program)
        self.kernels: dict[tuple[int, torch.dtype], Kernel] = {}

    # ---- one run --------------------------------------------------------------------------

    def __call__(
        self,
        given: Mapping[int, Tensor],
        weights: Sequence[Tensor],
        first: Mapping[int, Tensor],
        order: Order,
    ) -> Values:
        """`given` has the rows of leaves; `first` the slots' values before the first step, by slot."""
        values = Values(dict(given), self.constants(weights), {}, {})
        for place, step in enumerate(self.cut.steps):
            if isinstance(step, Gap):
                for k in step.body:
                    values.rows[k] = self.eager(k, values.rows, values.consts, weights)
            else:
                self.sweep(place, step, values, weights, first, order)
        return values

    def constants(self, weights: Sequence[Tensor]) -> dict[int, Tensor]:
        """The values that need weights alone."""
        made: dict[int, Tensor] = {}
        for k, instr in enumerate(self.program.instrs):
            if instr.stage == "const":
                made[k] = self.eager(k, made, made, weights)
        return made

    def eager(
        self, k: int, rows: Mapping[int, Tensor], consts: Mapping[int, Tensor], weights: Sequence[Tensor]
    ) -> Tensor:
        """One instruction by torch, for all rows at once or without rows."""
        instr, instrs = self.program.instrs[k], self.program.instrs
        if instr.op == "num":
            return torch.full((), numbers(instr, self.sizes), dtype=weights[0].dtype, device=weights[0].device)
        if instr.op == "param":
            return param(self.array(instr, weights), instr, self.sizes).to(weights[0].dtype)
        args = [rows[a] if a in rows else consts[a] for a in instr.args]
        types = [instrs[a].type for a in instr.args]
        if instr.op == "lin":
            array = self.array(instr, weights)
            return linear(args[0].to(array.dtype), types[0], instr, array, self.sizes)
        return TORCH[instr.op](args, instr, types, self.sizes)

    def array(self, instr: Instr, weights: Sequence[Tensor]) -> Tensor:
        return weights[self.arrays[instr.weight, str(instr.attr("role"))]]

    # ---- sweeps ---------------------------------------------------------------------------

    def kernel(self, place: int, step: Sweep, dtype: torch.dtype) -> Kernel:
        """The kernel of a sweep, for numbers of a type."""
        compute = torch.float64 if dtype == torch.float64 else torch.float32
        key = (place, compute)
        if key not in self.kernels:
            name = "tl.float64" if compute == torch.float64 else "tl.float32"
            self.kernels[key] = emit(
                self.program, step, self.layouts[place], reverse=self.reverse, compute=name
            )
        return self.kernels[key]

    def sweep(
        self,
        place: int,
        step: Sweep,
        values: Values,
        weights: Sequence[Tensor],
        first: Mapping[int, Tensor],
        order: Order,
    ) -> None:
        """Launch one kernel."""
        like, layout = weights[0], order.steps
        kernel = self.kernel(place, step, like.dtype)
        batch = layout.batch if kernel.loop else layout.rows
        grid = kernel.tiles.grid(batch)
        state = torch.float64 if like.dtype == torch.float64 else torch.float32
        pointers = []
        sums: dict[int, Tensor] = {}
        for kind, k in kernel.pointers:
            if kind == "load":
                made = values.rows[k].contiguous()
            elif kind == "const":
                made = values.consts[k].contiguous()
            elif kind == "weight":
                made = self.whole(k, weights, kernel.tiles)
            elif kind == "store":
                shape = shape_in(self.program.instrs[k].type, self.sizes)
                made = values.rows[k] = like.new_empty(layout.rows, *shape, dtype=self.stored(k, like.dtype))
            elif kind == "first":
                made = first[k].contiguous()
            elif kind == "last":
                made = like.new_empty(first[k].shape, dtype=state)
                if self.cut.owner.get(k) == place:
                    values.last[k] = made
            else:
                shape = shape_in(self.program.instrs[k].type, self.sizes)
                made = sums[k] = like.new_empty(grid[0], *shape, dtype=state)
            pointers.append(made)
        even = layout.even and layout.count % kernel.unrolled == 0
        load(kernel.text)[grid](
            layout.count, batch, order.offsets, order.counts, *pointers, EVEN=even or not kernel.loop,
            num_warps=kernel.tiles.warps,
        )
        for k, partial in sums.items():
            values.totals[k] = partial.sum(0)

    def stored(self, k: int, dtype: torch.dtype) -> torch.dtype:
        """The type that rows are stored with: states keep their precision."""
        state = self.program.instrs[k].op == "state"
        return torch.float32 if state and dtype in (torch.bfloat16, torch.float16) else dtype

    def whole(self, k: int, weights: Sequence[Tensor], layout: Tiles) -> Tensor:
        """The matrix of a `lin` as a kernel takes it: `[in, out]`, or a block for each head."""
        instr = self.program.instrs[k]
        w = matrix(self.array(instr, weights), instr)
        if layout.form == "whole" and w.dim() == 3:
            w = torch.block_diag(*w)
        return w.contiguous()


