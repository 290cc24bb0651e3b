"""One normal program on tensors: its kernels in order, and what torch computes between them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from grammar import Sizes
from nas.backends.primitives import (
    TORCH,
    array_places,
    blocks_of,
    flat,
    linear,
    matrix,
    param,
    product,
)
from nas.backends.steps import Steps
from nas.backends.triton.chunking import Chunked
from nas.backends.triton.chunks import ChunkKernel, Plan
from nas.backends.triton.emit import Kernel, emit
from nas.backends.triton.jit import interpreted
from nas.backends.triton.launch import Call, Room, launch
from nas.backends.triton.partition import Gap, Sweep, one_step, partition
from nas.backends.triton.replayed import Again, borrowing
from nas.backends.triton.scan import scan
from nas.backends.triton.tiles import Tiles, tiles
from nas.backends.triton.values import Order as Order
from nas.backends.triton.values import Values as Values
from nas.ir import Instr, Program, Replay, number_in, shape_in

# Elementwise recurrences are scanned from LONG steps on, or where fewer than FEW lanes run at once and there are at
# least SHORT steps. Estimates: to be measured.
LONG, FEW, SHORT = 512, 16 * 1024, 64


@dataclass(frozen=True, slots=True)
class Launch:
    """A sweep as one kernel; as a second one where it can be a scan over chunks of steps."""

    sweep: Sweep
    kernel: Kernel
    scan: Kernel | None = None


@dataclass(frozen=True, slots=True)
class Stepwise:
    """A sweep that no program holds: for each step what is before a product, the product, what is after it."""

    sweep: Sweep
    inner: tuple[Gap | Launch, ...]
    reason: str


Parts = Callable[[Tensor, torch.dtype], list[Tensor]]  # numbers of a type whose sum a value is, or nearly


def rounded(value: Tensor, dtype: torch.dtype) -> list[Tensor]:
    """The value rounded to the type."""
    return [value.to(dtype)]


def halves(value: Tensor, dtype: torch.dtype) -> list[Tensor]:
    """The value as two numbers of a type with half its bits.

    What is made of x, such as a mix of it with the step before, has digits that x and the weights do not have; rounded
    to theirs, it would be another cell's, and a matrix state with a removal term makes much of the difference.
    """
    first = value.to(dtype)
    if dtype.itemsize > 2 or value.dtype.itemsize <= dtype.itemsize:
        return [first]
    return [first, (value - first.to(value.dtype)).to(dtype)]


def sum_of(terms: Iterable[Tensor]) -> Tensor:
    """The sum of at least one tensor."""
    first, *others = terms
    for term in others:
        first = first + term
    return first


def _wide(dtype: torch.dtype) -> torch.dtype:
    """The type in which values without rows are computed."""
    return torch.float64 if dtype == torch.float64 else torch.float32


class Eager:
    """Single instructions of a program by torch, for all rows at once or without rows."""

    def __init__(self, program: Program, sizes: Sizes) -> None:
        self.program, self.sizes = program, sizes
        self.arrays = array_places(program)

    def constants(self, values: Values) -> dict[int, Tensor]:
        """The values that need weights alone.

        In float32 where weights are narrower: a decay near 1 must not be rounded to their few digits, or what is made
        of it over many steps, and its gradient, are of another decay.
        """
        made: dict[int, Tensor] = {}
        for k, instr in enumerate(self.program.instrs):
            if instr.stage == "const":
                made[k] = self(k, made, values)
        return made

    def __call__(
        self, k: int, rows: Mapping[int, Tensor], values: Values, parts: Parts | None = None
    ) -> Tensor:
        """The value of instruction k from those of its operands; `parts`: how the operand of a map is rounded."""
        instr, instrs = self.program.instrs[k], self.program.instrs
        if instr.op == "num":
            number = number_in(instr.attr("value"), instr.attr("over"), self.sizes)
            return values.like.new_full((), number, dtype=_wide(values.like.dtype))
        if instr.op == "param":
            return param(self.array(instr, values), instr, self.sizes).to(values.like.dtype)
        args = [rows[a] if a in rows else values.consts[a] for a in instr.args]
        types = [instrs[a].type for a in instr.args]
        if instr.stage == "const":  # parameters that kernels read as they are stay narrow
            args = [arg.to(_wide(arg.dtype)) for arg in args]
        if instr.op == "lin":
            array = self.array(instr, values)
            wide = (
                max(array.dtype, args[0].dtype, key=lambda d: d.itemsize)
                if instr.stage == "end"
                else array.dtype
            )
            operands = [args[0].to(wide)] if parts is None else parts(args[0], wide)
            return sum_of(linear(a, types[0], instr, array.to(wide), self.sizes) for a in operands)
        return TORCH[instr.op](args, instr, types, self.sizes)

    def array(self, instr: Instr, values: Values) -> Tensor:
        """The array that a `param` or `lin` names."""
        return values.weights[self.arrays[instr.weight, str(instr.attr("role"))]]


class Executable:
    """A program cut into kernels, for some sizes and a type of numbers. `wanted`: whose rows a run returns.

    `reverse` says that it runs from the last step to the first. `stepwise`: hold no matrices on the chip.
    `scan`: whether to scan over chunks of steps where that can be; None is where it pays. `chunked`: what computes
    matrices a chunk at once.
    """

    def __init__(
        self,
        program: Program,
        sizes: Sizes,
        wanted: Iterable[int],
        *,
        dtype: torch.dtype = torch.float32,
        reverse: bool = False,
        stepwise: bool = False,
        checks: Sequence[int] = (),
        replay: Replay | None = None,
        scan: bool | None = None,
        chunked: Plan | None = None,
    ) -> None:
        self.program, self.sizes, self.reverse, self.dtype = program, sizes, reverse, dtype
        self.checks, self.replay, self.scan = checks, replay, scan
        self.state = torch.float64 if dtype == torch.float64 else torch.float32
        found = None if chunked is None else chunked.found
        self.chunked = None if chunked is None else Chunked(chunked, program, sizes, self.state)
        cut = partition(program, sizes, wanted, found)
        self.owner = cut.owner
        self.eager = Eager(program, sizes)
        self.steps = tuple(
            step if isinstance(step, Gap) else self._planned(step, stepwise) for step in cut.steps
        )

    def _planned(self, sweep: Sweep, stepwise: bool) -> Launch | Stepwise:
        again = self._again(sweep)
        more, replay = (0, None) if again is None else (again.more, (again.program, again.sweep))
        made = tiles(self.program, sweep, self.sizes, self.dtype.itemsize, more, replay)
        stepwise = stepwise and any(self.program.instrs[k].op == "lin" for k in sweep.body)
        if isinstance(made, Tiles) and not stepwise:
            return Launch(sweep, self._kernel(sweep, made, again), self._scan(sweep, made))
        inner: list[Gap | Launch] = []
        for step in one_step(self.program, self.sizes, sweep):
            layout = (
                step if isinstance(step, Gap) else tiles(self.program, step, self.sizes, self.dtype.itemsize)
            )
            if isinstance(layout, Tiles) and isinstance(step, Sweep):
                inner.append(Launch(step, self._kernel(step, layout)))
            else:
                inner.append(Gap(tuple(step.body)))
        return Stepwise(sweep, tuple(inner), made if isinstance(made, str) else "asked for")

    def _kernel(self, sweep: Sweep, layout: Tiles, again: Again | None = None) -> Kernel:
        return emit(
            self.program,
            sweep,
            layout,
            reverse=self.reverse,
            compute="tl.float64" if self.dtype == torch.float64 else "tl.float32",
            interpreted=interpreted(),
            checks=self.checks,
            again=again,
        )

    def _scan(self, sweep: Sweep, layout: Tiles) -> Kernel | None:
        if self.scan is False:
            return None
        name = "tl.float64" if self.dtype == torch.float64 else "tl.float32"
        return scan(
            self.program, sweep, layout, reverse=self.reverse, compute=name, interpreted=interpreted()
        )

    def _again(self, sweep: Sweep) -> Again | None:
        """What a sweep replays, where it reads matrices of the forward run."""
        if self.replay is None:
            return None
        held: dict[str, dict[int, int]] = {"past": {}, "next": {}}
        for k in sweep.loads:
            instr = self.program.instrs[k]
            if instr.op in held and instr.slot in self.replay.slots and instr.type.kind == "mat":
                held[instr.op][k] = instr.slot
        if not any(held.values()):
            return None
        (inner,) = partition(self.replay.program, self.sizes, ()).steps
        assert isinstance(inner, Sweep)
        own = [k for k in sweep.loads if k not in held["past"] and k not in held["next"]]
        made = borrowing(self.replay.program, inner, self.replay.slots, self.program, own)
        return Again(self.replay.program, made[0], self.replay.slots, held["past"], held["next"], made[1])

    def kernels(self) -> list[Kernel | ChunkKernel]:
        """Every kernel that a run may launch."""
        found: list[Kernel | ChunkKernel] = []
        if self.chunked is not None:
            found += self.chunked.kernels()
        for step in self.steps:
            for one in step.inner if isinstance(step, Stepwise) else (step,):
                if isinstance(one, Launch):
                    found += [one.kernel, one.scan] if one.scan else [one.kernel]
        return found

    # ---- one run --------------------------------------------------------------------------

    def __call__(
        self,
        given: Mapping[int, Tensor],
        weights: Sequence[Tensor],
        first: Mapping[int, Tensor],
        order: Order,
    ) -> Values:
        """`given` has the rows of leaves; `first` the slots' values before the first step, by slot."""
        return self.run(Values(dict(given), weights, first, next(iter(given.values()))), order)

    def run(self, values: Values, order: Order) -> Values:
        """The same from what a run starts with, completed and returned."""
        values.consts = self.eager.constants(values)
        for place, step in enumerate(self.steps):
            if isinstance(step, Gap):
                self._gap(step, values.rows, values, order)
            elif isinstance(step, Launch):
                self._launch(step, values, order, owned={s for s, p in self.owner.items() if p == place})
            else:
                self._stepwise(step, values, order, place)
        return values

    def _gap(self, gap: Gap, rows: dict[int, Tensor], values: Values, order: Order | None = None) -> None:
        def parts(k: int) -> Parts:
            # gradients, and operands in single steps, are left with the digits that weights have
            return rounded if order is None or self.program.instrs[k].attr("transpose", False) else halves

        for k in gap.body:
            if order is not None and self.chunked is not None and k in self.chunked.outputs:
                if k not in rows:  # all of its stage are computed together
                    self.chunked(k, values, Order.of(order.steps, False, values.like.device))
                continue
            together = self.together(k, gap)
            if len(together) < 2:
                rows[k] = self.eager(k, rows, values, parts(k))
            elif k == together[0]:
                rows.update(zip(together, self._product(together, rows, values, parts(k)), strict=True))

    def together(self, k: int, gap: Gap) -> tuple[int, ...]:
        """The dense maps of a gap with the operand of this one: they are one product."""
        instrs = self.program.instrs

        def dense(j: int) -> bool:
            return instrs[j].op == "lin" and blocks_of(instrs[j], self.sizes) == 1

        if not dense(k):
            return (k,)
        return tuple(j for j in gap.body if dense(j) and instrs[j].args == instrs[k].args)

    def _product(
        self, together: tuple[int, ...], rows: Mapping[int, Tensor], values: Values, parts: Parts
    ) -> list[Tensor]:
        """Several maps of one operand as one product; their results lie side by side."""
        instrs = [self.program.instrs[k] for k in together]
        if together not in values.stacks:
            matrices = [matrix(self.eager.array(i, values), i) for i in instrs]
            values.stacks[together] = torch.cat(matrices, 1)
        stack, (a,) = values.stacks[together], instrs[0].args
        operand = flat(rows[a] if a in rows else values.consts[a], self.program.instrs[a].type)
        made = sum_of(product(part, stack) for part in parts(operand, stack.dtype))
        shapes = [shape_in(i.type, self.sizes) for i in instrs]
        split = made.split([math.prod(shape) for shape in shapes], -1)
        return [
            p if len(shape) == 1 else p.unflatten(-1, shape) for p, shape in zip(split, shapes, strict=True)
        ]

    # ---- sweeps ---------------------------------------------------------------------------

    def _launch(self, launch: Launch, values: Values, order: Order, owned: set[int]) -> None:
        layout, kernel = order.steps, launch.kernel
        if launch.scan is not None and self._scans(launch.scan, layout):
            kernel = launch.scan
        batch = layout.batch if kernel.loop else layout.rows
        self._run(kernel, values, values.rows, order, (layout.count, batch, layout.rows), owned)

    def _scans(self, kernel: Kernel, steps: Steps) -> bool:
        """Whether to scan: few programs run at once otherwise, or sequences are long."""
        few = steps.batch * kernel.tiles.width(kernel.tiles.lanes) < FEW
        return bool(self.scan) or (steps.count >= LONG or (few and steps.count >= SHORT))

    def _run(
        self,
        kernel: Kernel,
        values: Values,
        rows: dict[int, Tensor],
        order: Order,
        extent: tuple[int, int, int],
        owned: set[int],
    ) -> None:
        """Launch one kernel over `extent`: steps, sequences, rows."""
        count, batch, height = extent
        grid = (batch, kernel.tiles.grid(1)[1]) if kernel.scan else kernel.tiles.grid(batch)
        known: dict[str, Mapping[int, Tensor]] = {"load": rows, "const": values.consts, "first": values.first}
        known |= {"again": values.again, "once": values.once}
        if kernel.replays:
            known["check"] = values.checks
        # rooms for rows and sums are so many values of an instruction, for checkpoints so many of a slot
        times = {
            "store": height,
            "total": grid[0],
            "check": order.checkpoints(count),
            "scratch": order.chunk + 1,
            "aside": batch,
        }
        given: list[Tensor] = []
        pointers: list[Room | None] = []
        for kind, k in kernel.pointers:
            if kind in known or kind == "weight":
                given.append(known[kind][k] if kind in known else self._matrix(k, values, kernel.tiles))
                pointers.append(None)
            else:
                own = kind in ("store", "total", "aside")
                one = shape_in(self.program.instrs[k].type, self.sizes) if own else values.first[k].shape
                pointers.append(Room((times[kind], *one) if kind in times else tuple(one), self.state))
        whole = kernel.scan or order.steps.count % kernel.unrolled == 0
        even = not kernel.loop or (order.steps.even and whole)
        call = Call(kernel, grid, (count, batch, order.chunk), even, tuple(pointers))
        made = launch(call, (order.offsets, order.counts), given)
        filled = [name for name, room in zip(kernel.pointers, pointers, strict=True) if room is not None]
        for (kind, k), value in zip(filled, made, strict=True):
            if kind == "store":
                rows[k] = value
            elif kind == "check":
                values.checks[k] = value
            elif kind == "total":
                values.totals[k] = value.sum(0)
            elif kind == "last" and k in owned:
                values.last[k] = value

    def _matrix(self, k: int, values: Values, layout: Tiles) -> Tensor:
        """The matrix of a `lin` as a kernel takes it: `[in, out]`, or a block for each head."""
        instr = self.program.instrs[k]
        w = matrix(self.eager.array(instr, values), instr)
        if layout.form == "whole" and w.dim() == 3:
            w = torch.block_diag(*w)
        return w.contiguous()

    def _stepwise(self, plan: Stepwise, values: Values, order: Order, place: int) -> None:
        program, sweep = self.program, plan.sweep
        reads = {k: program.instrs[k].slot for k in sweep.body if program.instrs[k].op == "state"}
        state = {s: values.first[s].to(self.state) for s in sweep.slots}
        kept = {*sweep.stores, *(program.instrs[t].args[0] for t in sweep.totals)}
        parts: dict[int, list[Tensor]] = {k: [] for k in kept}
        for offset, count in order.spans:
            rows = {k: values.rows[k][offset : offset + count] for k in sweep.loads}
            rows |= {k: state[s][:count] for k, s in reads.items()}
            for step in plan.inner:
                if isinstance(step, Gap):
                    self._gap(step, rows, values)
                else:
                    self._run(step.kernel, values, rows, order, (1, count, count), set())
            for k, part in parts.items():
                part.append(rows[k])
            news = {s: self._following(s, rows, values, count) for s in sweep.slots}
            for s, new in news.items():
                state[s] = new if count == len(state[s]) else torch.cat([new, state[s][count:]])
        for k, part in parts.items():
            values.rows[k] = torch.cat(part[::-1] if self.reverse else part)
        for t in sweep.totals:
            values.totals[t] = values.rows[program.instrs[t].args[0]].to(self.state).sum(0)
        values.last.update({s: state[s] for s, p in self.owner.items() if p == place})

    def _following(self, s: int, rows: Mapping[int, Tensor], values: Values, count: int) -> Tensor:
        """The new value of a slot."""
        k = self.program.slots[s].next
        shape = shape_in(self.program.slots[s].type, self.sizes)
        new = rows[k] if k in rows else values.consts[k].expand(count, *shape)
        return new.to(self.state)
