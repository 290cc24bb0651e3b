"""A cell on tensors through kernels: forward, and backward for torch's autograd."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from grammar import Cell, Sizes
from nas.backends.once import apart, first_order, refuse_transforms
from nas.backends.operators import key_of
from nas.backends.primitives import blocks_of, flat, product
from nas.backends.states import divided, united
from nas.backends.steps import Steps
from nas.backends.triton.candidates import pull, run
from nas.backends.triton.chunking import room_for
from nas.backends.triton.chunks import Plan, fits, plan
from nas.backends.triton.execute import Eager, Executable, Launch
from nas.backends.triton.partition import Gap, Sweep, outers_of, partition
from nas.backends.triton.values import CHUNK, Order, Values
from nas.errors import BuildError
from nas.ir import (
    Adjoint,
    Program,
    adjoint_cell,
    checked_recurrences,
    compile_program,
    matrices,
    normal_cell,
    shape_in,
)

CHUNKED = 32  # steps from which on matrices are computed a chunk at once. An estimate: to be measured.


class Both:
    """A normal program and its adjoint at some sizes, for a type of numbers."""

    def __init__(
        self,
        made: Adjoint,
        sizes: Sizes,
        dtype: torch.dtype,
        stepwise: bool = False,
        scan: bool | None = None,
        chunked: bool = False,
    ) -> None:
        self.made, self.sizes, self.dtype = made, sizes, dtype
        forward, backward = made.forward, made.backward
        reads = {i.slot: k for k, i in enumerate(forward.instrs) if i.op == "state"}
        self.plans = plans_of(made, sizes, dtype) if chunked else None
        ahead, back = self.plans or (None, None)
        # the forward instruction whose rows each leaf of the backward program is
        replays = ahead is None and _replays(made, sizes, dtype, stepwise)
        self.replay = made.replay if replays else None
        slots = () if self.replay is None else self.replay.slots
        self.checked = slots if ahead is None else tuple(sorted(ahead.found.slots))
        known = self.checked
        self.leaves: dict[int, int] = {}
        self.again: dict[int, int] = {}  # of the leaves of the replay
        programs = [(backward, self.leaves)]
        if self.replay is not None:
            programs.append((self.replay.program, self.again))
            self.eager = Eager(self.replay.program, sizes)
        for program, leaves in programs:
            for k, instr in enumerate(program.instrs):
                if instr.op == "saved":
                    leaves[k] = int(instr.attr("of"))  # type: ignore[arg-type]
                elif instr.op == "past" and instr.slot not in known:
                    leaves[k] = reads[instr.slot]
                elif instr.op == "next" and instr.slot not in known:
                    leaves[k] = forward.slots[instr.slot].next
        if back is not None:
            self.again = {k: k for k in back.found.given if forward.instrs[k].stage != "const"}
        self.x = [k for k, i in enumerate(backward.instrs) if i.op == "x"]
        self.dy = [k for k, i in enumerate(backward.instrs) if i.op == "dy"]
        self.kept = sorted({*self.leaves.values(), *self.again.values()})
        self.alone = Executable(
            forward, sizes, [forward.out], dtype=dtype, stepwise=stepwise, scan=scan, chunked=ahead
        )
        wanted = [k for k in (forward.out, *self.kept) if forward.instrs[k].stage != "const"]
        self.forward = Executable(
            forward, sizes, wanted, dtype=dtype, stepwise=stepwise, checks=slots, scan=scan, chunked=ahead
        )
        wanted = [] if made.dx is None else [made.dx]
        self.backward = Executable(
            backward,
            sizes,
            wanted,
            dtype=dtype,
            reverse=True,
            stepwise=stepwise,
            replay=self.replay,
            scan=scan,
            chunked=back,
        )

    @cached_property
    def kept_types(self) -> dict[int, torch.dtype]:
        """The types in which rows are kept without loss: products over all rows have that of the weights."""
        instrs = self.made.forward.instrs
        plain = {k for step in self.forward.steps if isinstance(step, Gap) for k in step.body}
        small = [k for k in self.kept if instrs[k].op == "x" or (k in plain and instrs[k].op == "lin")]
        return {k: self.dtype if k in small else self.forward.state for k in self.kept}

    def between(self, count: int) -> int:
        """How many steps lie between two matrices that the forward run keeps."""
        return min(CHUNK, count) if self.plans is None else self.plans[0].steps

    def room(self, count: int) -> int:
        """How many of them there is room for."""
        return Order.checkpoints(count) if self.plans is None else room_for(count, self.plans[0].steps)

    def run(
        self, x: Tensor, weights: Sequence[Tensor], first: Sequence[Tensor], steps: Steps, keep: bool
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """The output's rows, the slots' last values, and with `keep` what `pull` wants to see again."""
        run, program = self.forward if keep else self.alone, self.made.forward
        given = {k: x for k, i in enumerate(program.instrs) if i.op == "x"} or {-1: x}
        values = run(given, weights, dict(enumerate(first)), Order.of(steps, False, x.device))
        y = rows_of(program, program.out, values, steps, self.sizes)
        last = [_last(program, s, values, steps, self.sizes) for s in range(len(first))]
        if not keep:
            return y.to(x.dtype), last, []
        kept = [rows_of(program, k, values, steps, self.sizes) for k in self.kept]
        return y.to(x.dtype), last, kept + [values.checks[s] for s in self.checked]

    def pull(
        self,
        x: Tensor,
        weights: Sequence[Tensor],
        saved: Sequence[Tensor],
        dy: Tensor,
        dlast: Sequence[Tensor],
        steps: Steps,
    ) -> tuple[Tensor | None, list[Tensor | None], list[Tensor]]:
        """The gradients of x, the weights and the slots' first values."""
        kept, checks = saved[: len(self.kept)], saved[len(self.kept) :]
        program, made = self.made.backward, self.made
        rows = dict(zip(self.kept, kept, strict=True))
        given = {k: rows[of] for k, of in self.leaves.items()}
        given |= dict.fromkeys(self.x, x) | dict.fromkeys(self.dy, dy) | {-1: x}
        values = Values(given, weights, dict(enumerate(dlast)), x)
        if self.replay is not None:
            values.checks = dict(zip(self.checked, checks, strict=True))
            values.again = {k: rows[of] for k, of in self.again.items()}
            values.again |= {k: x for k, i in enumerate(self.replay.program.instrs) if i.op == "x"}
            values.once = self.eager.constants(values)
        if self.plans is not None:
            values.held = dict(zip(self.checked, checks, strict=True))
            values.again = {k: x if made.forward.instrs[k].op == "x" else rows[k] for k in self.again}
            values.once = self.forward.eager.constants(values)
        self.backward.run(values, Order.of(steps, True, x.device))
        ends = _End(program, self, values, steps)
        dx = None if made.dx is None else rows_of(program, made.dx, values, steps, self.sizes).to(x.dtype)
        grads: list[Tensor | None] = [None] * len(weights)
        for one in made.weights:
            value, array = ends.value(one.value), weights[one.array]
            whole = grads[one.array]
            if one.column < 0:
                part = value.reshape(array.shape).to(array.dtype)
                grads[one.array] = part if whole is None else whole + part
            else:
                whole = torch.zeros_like(array) if whole is None else whole
                whole[..., one.column] += value.reshape(array.shape[:-1]).to(array.dtype)
                grads[one.array] = whole
        slots = range(len(made.forward.slots))
        return dx, grads, [_last(program, s, values, steps, self.sizes, reverse=True) for s in slots]


def _replays(made: Adjoint, sizes: Sizes, dtype: torch.dtype, stepwise: bool) -> bool:
    """Whether matrices are replayed from checkpoints; where a kernel cannot do that their rows are kept."""
    if made.replay is None:
        return False
    inner = partition(made.replay.program, sizes, ()).steps
    if len(inner) != 1 or not isinstance(inner[0], Sweep):
        return False
    if any(made.replay.program.instrs[k].op == "lin" for k in inner[0].body):
        return False
    forward = Executable(made.forward, sizes, [], dtype=dtype, stepwise=stepwise)
    held = {s for step in forward.steps if isinstance(step, Launch) for s in step.sweep.slots}
    leaves = {
        k
        for k, i in enumerate(made.backward.instrs)
        if i.op in ("past", "next") and i.slot in made.replay.slots and i.type.kind == "mat"
    }
    backward = Executable(made.backward, sizes, [], dtype=dtype, reverse=True, stepwise=stepwise)
    held_by = {k for step in backward.steps if isinstance(step, Launch) for k in step.sweep.body}
    elsewhere = {
        a for k, i in enumerate(made.backward.instrs) if k not in held_by for a in i.args
    }  # a product over all rows, say, wants the rows
    return set(made.replay.slots) <= held and not leaves & elsewhere


class Runner:
    """See `nas.backends.Runner`, and `Backend.compile_candidates`."""

    def __init__(self, cell: Cell, sizes: Sizes, stepwise: bool = False, scan: bool | None = None) -> None:
        self.cell, self.normal = cell, normal_cell(cell)
        self.sizes, self.stepwise, self.scan = sizes, stepwise, scan
        self.count = len(compile_program(cell).slots)
        self.key = key_of("triton", cell, sizes)
        self.compiled: dict[tuple[torch.dtype, bool], Both] = {}

    def __call__(
        self, x: Tensor, weights: Sequence[Tensor], state: Sequence[Tensor], steps: Steps
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """See `nas.backends.Runner`."""
        if x.dim() == 3:
            found: tuple[Tensor, tuple[Tensor, ...]] = self._side_by_side(x, weights, state, steps)
            return found
        if traced(x):
            like = weights[0] if weights else x
            return self._traced(x.to(like.dtype), weights, state, steps)
        return self._launched(x, weights, state, steps)

    @torch.compiler.disable(reason="triton's candidates side by side are no operator that torch traces")  # type: ignore[untyped-decorator]
    def _side_by_side(
        self, x: Tensor, weights: Sequence[Tensor], state: Sequence[Tensor], steps: Steps
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Candidates. Their operator would have to call torch.vmap, which torch forbids where it runs compiled code."""
        if traced(x):
            raise BuildError("triton's candidates side by side are no operator that torch traces")
        return self._launched(x, weights, state, steps)

    def _launched(
        self, x: Tensor, weights: Sequence[Tensor], state: Sequence[Tensor], steps: Steps
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        refuse_transforms((x,), weights, state)
        like = weights[0] if weights else x
        axis = x.dim() - 1  # of a window's steps
        # Kernels that compute a chunk of steps at once take no candidates, who are many programs as they are.
        both = self.both(like.dtype, steps.count >= CHUNKED and x.dim() == 2)
        first = divided(state, self.normal.slots, axis)
        given = (both, steps, len(weights), x.to(like.dtype), *weights, *first)
        with torch.cuda.device_of(x):
            y, *last = _Function.apply(*given)  # type: ignore[no-untyped-call]
        ends = [value.to(given.dtype) for value, given in zip(last, first, strict=True)]
        return y, united(ends, self.normal.slots, self.count, axis)

    def _traced(
        self, x: Tensor, weights: Sequence[Tensor], state: Sequence[Tensor], steps: Steps
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The same as an operator that torch can trace."""
        wide = torch.float64 if x.dtype == torch.float64 else torch.float32
        first = divided(state, self.normal.slots)
        sizes = None if steps.even else torch.tensor(steps.sizes, device=x.device)
        layout = (sizes, steps.batch, steps.count, False, False)
        given = [value.to(wide) for value in first]
        found = torch.ops.recell.cell(
            self.key, x, weights, given, [True] * len(given), *layout, torch.is_grad_enabled()
        )
        last = [value.to(one.dtype) for value, one in zip(found[1:], first, strict=False)]
        return found[0], united(last, self.normal.slots, self.count)

    @property
    def adjoint(self) -> Adjoint:
        """The normal form and its adjoint; what kernels are chosen by is held against numbers, once for a cell."""
        checked_recurrences(self.cell)
        return adjoint_cell(self.cell)

    def both(self, dtype: torch.dtype, chunked: bool = False) -> Both:
        """The programs for a type of numbers; `chunked`: matrices a chunk of steps at once, where they can be."""
        if (dtype, chunked) not in self.compiled:
            both = Both(self.adjoint, self.sizes, dtype, self.stepwise, self.scan, chunked)
            if both.plans is None:
                self.compiled[dtype, False] = both
            self.compiled[dtype, chunked] = both
        return self.compiled[dtype, chunked]


def plans_of(made: Adjoint, sizes: Sizes, dtype: torch.dtype) -> tuple[Plan, Plan] | None:
    """How the matrices of both programs are computed a chunk of steps at once, if all of them can be."""
    ahead = matrices(made.forward)
    back = None if ahead is None else matrices(made.backward, ahead.chains)
    if ahead is None or back is None or not fits(sizes):
        return None
    options: dict[str, Any] = {
        "compute": "tl.float64" if dtype == torch.float64 else "tl.float32",
        "exact": dtype != torch.bfloat16,
    }
    return (
        plan(made.forward, made.forward, ahead, sizes, reverse=False, **options),
        plan(made.backward, made.forward, back, sizes, reverse=True, **options),
    )


def traced(x: Tensor) -> bool:
    """Whether torch traces what is computed, or wants shapes alone."""
    return torch.compiler.is_compiling() or type(x) not in (Tensor, torch.nn.Parameter)


class _Function(torch.autograd.Function):
    """Takes x, the weights and the slots' first values; gives the output's rows and the slots' last values."""

    @staticmethod
    def forward(
        ctx: Any, both: Both, steps: Steps, count: int, x: Tensor, *rest: Tensor
    ) -> tuple[Tensor, ...]:
        weights, first = rest[:count], rest[count:]
        wants = any(ctx.needs_input_grad)
        y, last, saved = run(both, x, weights, first, steps, wants)
        if wants:
            ctx.both, ctx.steps, ctx.counts = both, steps, (count, len(first))
            ctx.save_for_backward(x, *weights, *first, *saved)
        return (y, *last)

    @staticmethod
    @first_order
    def backward(ctx: Any, dy: Tensor, *dlast: Tensor) -> tuple[Tensor | None, ...]:
        both, steps, (count, slots) = ctx.both, ctx.steps, ctx.counts
        x, *rest = ctx.saved_tensors
        weights, first, saved = rest[:count], rest[count : count + slots], rest[count + slots :]
        dx, grads, dfirst = pull(both, x, weights, saved, dy, dlast, steps)
        ends = [value.to(one.dtype) for value, one in zip(dfirst, first, strict=True)]
        return (None, None, None, *apart([dx, *grads, *ends], (dy, *dlast)))


def rows_of(program: Program, k: int, values: Values, steps: Steps, sizes: Sizes) -> Tensor:
    """The rows of an instruction; of one without rows, repeated."""
    if k in values.rows:
        return values.rows[k]
    one = values.consts[k]
    return one.expand(steps.rows, *shape_in(program.instrs[k].type, sizes)).contiguous()


def _last(
    program: Program, s: int, values: Values, steps: Steps, sizes: Sizes, reverse: bool = False
) -> Tensor:
    """The final value of a slot, of a program in reversed time that after the first step."""
    if s in values.last:
        return values.last[s]
    rows = rows_of(program, program.slots[s].next, values, steps, sizes)
    return rows[: steps.batch] if reverse else steps.last(rows)


class _End:
    """The values of the stage `end`: from sums over all rows to the gradients of weights."""

    def __init__(self, program: Program, both: Both, values: Values, steps: Steps) -> None:
        self.program, self.both, self.values, self.steps = program, both, values, steps
        self.made: dict[int, Tensor] = {}

    def value(self, k: int) -> Tensor:
        """The value of an instruction."""
        if k in self.values.consts:
            return self.values.consts[k]
        if k in self.values.totals:
            return self.values.totals[k]
        if k not in self.made:
            self.made[k] = self._compute(k)
        return self.made[k]

    def _compute(self, k: int) -> Tensor:
        instr = self.program.instrs[k]
        if instr.op == "total":
            return self._total(k)
        if instr.op == "gram":
            return self._gram(k)
        args = {a: self.value(a) for a in instr.args}
        wide = max((a.dtype for a in args.values()), key=lambda d: d.itemsize, default=self.both.dtype)
        return self.both.backward.eager(k, {a: value.to(wide) for a, value in args.items()}, self.values)

    def _rows(self, k: int) -> Tensor:
        return rows_of(self.program, k, self.values, self.steps, self.both.sizes)

    def _total(self, k: int) -> Tensor:
        (a,), wide = self.program.instrs[k].args, self.both.backward.state
        outers = None if a in self.values.rows else outers_of(self.program, a)
        if outers is None:
            return self._rows(a).to(wide).sum(0)
        sizes = self.both.sizes
        total = torch.zeros((), dtype=wide, device=self.values.like.device)
        for sign, key, value in outers:
            keys = self._rows(key).to(wide).permute(1, 2, 0)
            values = self._rows(value).to(wide).unflatten(-1, (sizes.heads, sizes.value_size))
            total = total + sign * torch.bmm(keys, values.transpose(0, 1))
        return total

    def _gram(self, k: int) -> Tensor:
        instr, instrs = self.program.instrs[k], self.program.instrs
        rowless = all(instrs[arg].stage in ("const", "end") for arg in instr.args)  # then it is one row
        rows = [self.value(arg).unsqueeze(0) if rowless else self._rows(arg) for arg in instr.args]
        a, b = (flat(value, instrs[arg].type) for value, arg in zip(rows, instr.args, strict=True))
        dtype = self.both.dtype
        a, b = a.to(dtype), b.to(dtype)
        blocks = blocks_of(instr, self.both.sizes)
        if blocks == 1:
            return product(a.t(), b)
        a, b = (v.unflatten(-1, (blocks, -1)).transpose(0, 1) for v in (a, b))
        return torch.bmm(a.transpose(1, 2), b)
