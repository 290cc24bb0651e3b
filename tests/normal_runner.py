"""A plain interpreter of normal programs, row by row in torch: what the compiler's forms are checked with."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from grammar import Sizes
from nas.ir import Adjoint, Instr, Program, shape_in

UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "neg": torch.neg,
    "exp": torch.exp,
    "log": torch.log,
    "sqrt": torch.sqrt,
    "rsqrt": torch.rsqrt,
    "recip": torch.reciprocal,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "softplus": lambda a: torch.logaddexp(a, torch.zeros_like(a)),
    "erf": torch.erf,
    "sin": torch.sin,
    "cos": torch.cos,
    "abs": torch.abs,
    "relu": torch.relu,
    "sign": torch.sign,
    "step": lambda a: (a > 0).to(a.dtype),
    "stopgrad": torch.Tensor.detach,
}
BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
    "max": torch.maximum,
    "min": torch.minimum,
    "ge": lambda a, b: (a >= b).to(torch.float64),
}


def per_head(a: Tensor, heads: int) -> Tensor:
    """[.., H] as [.., N, V]."""
    return a.reshape(*a.shape[:-1], heads, -1)


@dataclass
class Machine:
    """What the values of one program depend on beside the rows: sizes and the arrays of the weights."""

    program: Program
    sizes: Sizes
    weights: Sequence[Tensor]
    arrays: dict[tuple[int, str], Tensor] = field(default_factory=dict)
    constants: dict[int, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for array, value in zip(self.program.arrays, self.weights, strict=True):
            self.arrays[array.weight, array.spec.role] = value
        for k, instr in enumerate(self.program.instrs):
            if instr.stage == "const":
                self.constants[k] = self.compute(instr, self.constants, {})

    def step(self, leaves: Mapping[tuple[str, int], Tensor]) -> dict[int, Tensor]:
        """All values of one row of each sequence, `[B, *shape]`; `leaves` by operation and slot (or `of`)."""
        values = dict(self.constants)
        for k, instr in enumerate(self.program.instrs):
            if instr.stage not in ("const", "end"):
                values[k] = self.compute(instr, values, leaves)
        return values

    def sums_rows(self, k: int) -> bool:
        """Whether an instruction is a sum over all rows."""
        instr = self.program.instrs[k]
        return instr.op in ("total", "gram") and all(
            self.program.instrs[a].stage not in ("const", "end") for a in instr.args
        )

    def summed(self, k: int, values: Mapping[int, Tensor]) -> Tensor:
        """What the rows of one step add to a sum over all rows."""
        instr = self.program.instrs[k]
        args = [values[a] for a in instr.args]
        return args[0].sum(0) if instr.op == "total" else self.gram(instr, *args)

    def gram(self, instr: Instr, du: Tensor, v: Tensor) -> Tensor:
        """The sum over rows of du v^T, or of its diagonal blocks; operands without rows are one row."""
        shapes = [shape_in(self.program.instrs[a].type, self.sizes) for a in instr.args]
        du, v = (part.reshape(-1, math.prod(shape)) for part, shape in zip((du, v), shapes, strict=True))
        blocks = instr.attr("blocks", 1)
        if blocks == 1:
            return du.t() @ v
        count = self.sizes.heads if blocks == "heads" else int(blocks)  # type: ignore[arg-type]
        return torch.einsum("rbo,rbi->boi", per_head(du, count), per_head(v, count))

    def end(self, totals: dict[int, Tensor]) -> dict[int, Tensor]:
        """The values of the stage `end`, given its totals."""
        values = self.constants | totals
        for k, instr in enumerate(self.program.instrs):
            if instr.stage == "end" and k not in values:
                values[k] = self.compute(instr, values, {})
        return values

    def compute(
        self, instr: Instr, values: Mapping[int, Tensor], leaves: Mapping[tuple[str, int], Tensor]
    ) -> Tensor:
        """The value of one instruction."""
        args = [values[a] for a in instr.args]
        kinds = [self.program.instrs[a].type for a in instr.args]
        if instr.op in UNARY:
            return UNARY[instr.op](*args)
        if instr.op in BINARY:
            return BINARY[instr.op](*args)
        if instr.op == "num":
            over = str(instr.attr("over"))
            size = {"": 1, "V": self.sizes.value_size, "K": self.sizes.key_size, "D": self.sizes.input_size}
            return torch.tensor(float(instr.attr("value")) / size[over], dtype=torch.float64)  # type: ignore[arg-type]
        if instr.op == "param":
            return self.array(instr).reshape(shape_in(instr.type, self.sizes))
        if instr.op == "lin":
            return self.lin(instr, args[0], len(shape_in(kinds[0], self.sizes)))
        if instr.op in ("x", "dy"):
            return leaves[instr.op, -1]
        if instr.op == "saved":
            return leaves["saved", int(instr.attr("of"))]  # type: ignore[arg-type]
        if instr.op == "child":
            return leaves[f"child{instr.attr('child')}", instr.slot]
        if instr.op in ("state", "past", "next"):
            return leaves[instr.op, instr.slot]
        if instr.op == "gram":
            return self.gram(instr, *args)
        return self.over_axes(instr, args, [k.kind for k in kinds])

    def over_axes(self, instr: Instr, args: Sequence[Tensor], kinds: Sequence[str]) -> Tensor:
        """What changes axes, or works along them."""
        heads = self.sizes.heads
        if instr.op == "cast":
            return self.cast(args[0], kinds[0], instr)
        if instr.op in ("reduce", "hmax"):
            if kinds[0] in ("vec", "in") and instr.type.kind == "scal":
                args = [per_head(args[0], heads)]
            axes = (
                {"scal": (-2, -1), "key": (-1,), "vec": (-2,)}[instr.type.kind]
                if kinds[0] == "mat"
                else (-1,)
            )
            if instr.op == "hmax":
                return torch.amax(args[0], -1, keepdim=instr.type.kind == "mem")
            total = args[0].sum(axes, keepdim=instr.type.kind == "mem")
            return total.flatten(-2) if instr.type.kind == "vec" else total
        if instr.op == "tokey":
            return per_head(args[0], heads)
        if instr.op == "toval":
            return args[0].flatten(-2)
        if instr.op == "outer":
            return args[0][..., None] * per_head(args[1], heads).unsqueeze(-2)
        if instr.op == "read":
            return (args[0] * args[1].unsqueeze(-1)).sum(-2).flatten(-2)
        assert instr.op == "readt", instr.op
        return (args[0] * per_head(args[1], heads).unsqueeze(-2)).sum(-1)

    def cast(self, a: Tensor, kind: str, instr: Instr) -> Tensor:
        """A value repeated along the axes it lacks."""
        shape = shape_in(instr.type, self.sizes)
        if kind == "num":
            return a.expand(shape)
        if kind == "scal" and instr.type.kind == "vec":
            return a.repeat_interleave(self.sizes.value_size, -1)
        if kind == "scal" or (kind == "key" and instr.type.kind == "mat"):
            a = a[..., *(None,) * (len(shape) - (1 if kind == "scal" else 2))]
        elif instr.type.kind == "mat":
            a = per_head(a, self.sizes.heads).unsqueeze(-2)
        return a.expand(*a.shape[: a.dim() - len(shape)], *shape)

    def array(self, instr: Instr) -> Tensor:
        """The array that an instruction names, or one place of its last axis."""
        whole = self.arrays[instr.weight, str(instr.attr("role"))]
        column = int(instr.attr("column", -1))  # type: ignore[arg-type]
        return whole if column < 0 else whole[..., column]

    def lin(self, instr: Instr, a: Tensor, axes: int) -> Tensor:
        """One array times one operand of so many axes."""
        matrix = self.array(instr)
        if instr.attr("transpose", False):
            matrix = matrix.transpose(-1, -2)
        flat = a.flatten(-axes) if axes > 1 else a
        if matrix.dim() == 3:
            result = torch.einsum(
                "boi,...bi->...bo", matrix, flat.unflatten(-1, (matrix.shape[0], -1))
            ).flatten(-2)
        else:
            result = flat @ matrix.t()
        shape = shape_in(instr.type, self.sizes)
        return result.unflatten(-1, shape) if len(shape) > 1 else result


@dataclass
class Forward:
    """What a forward run gives: for each step the values of its rows, and the final slots."""

    machine: Machine
    sizes: list[int]
    values: list[dict[int, Tensor]]
    past: list[list[Tensor]]  # the slots before each step
    final: list[Tensor]

    def row(self, t: int, k: int) -> Tensor:
        """The value of an instruction in a step, `[sizes[t], *shape]`."""
        shape = shape_in(self.machine.program.instrs[k].type, self.machine.sizes)
        return self.values[t][k].expand(self.sizes[t], *shape)

    def rows(self, k: int) -> Tensor:
        """The value of an instruction in all steps."""
        return torch.cat([self.row(t, k) for t in range(len(self.sizes))])


def run_forward(machine: Machine, x: Sequence[Tensor], state: Sequence[Tensor]) -> Forward:
    """Run a normal program over `x[t]` `[sizes[t], D]`; `state` has each slot before the first step, `[B, *shape]`."""
    program, current, ended = machine.program, list(state), [list[Tensor]() for _ in state]
    values, past = [], []
    for x_t in x:
        size = x_t.shape[0]
        for s, value in enumerate(current):
            ended[s].append(value[size:])
            current[s] = value[:size]
        leaves = {("x", -1): x_t} | {("state", s): value for s, value in enumerate(current)}
        values.append(machine.step(leaves))
        past.append(list(current))
        for s, slot in enumerate(program.slots):
            shape = shape_in(slot.type, machine.sizes)
            current[s] = values[-1][slot.next].expand(size, *shape)
    final = [torch.cat([value, *reversed(parts)]) for value, parts in zip(current, ended, strict=True)]
    return Forward(machine, [len(x_t) for x_t in x], values, past, final)


@dataclass
class Backward:
    """What a backward run gives: gradients of the rows of x, of the initial slots, and of each array."""

    dx: Tensor | None
    initial: list[Tensor]
    weights: dict[int, Tensor]
    children: dict[tuple[int, int], Tensor]


def run_backward(
    adjoint: Adjoint, forward: Forward, x: Sequence[Tensor], dy: Sequence[Tensor], final: Sequence[Tensor]
) -> Backward:
    """Run the backward program after a forward run. `dy[t]` and `final` (for each slot, `[B, *shape]`) are gradients.

    Matrix slots are taken from a replay from the first step, as a backend takes them from checkpoints.
    """
    machine = Machine(adjoint.backward, forward.machine.sizes, forward.machine.weights)
    program, sizes = adjoint.backward, forward.sizes
    matrices = _replayed(adjoint, forward, x)
    totals = {
        k: torch.zeros((), dtype=torch.float64) for k, i in enumerate(program.instrs) if machine.sums_rows(k)
    }
    current = [value[:0] for value in final]
    dx: list[Tensor] = []
    children: dict[tuple[int, int], Tensor] = {}
    for t in reversed(range(len(sizes))):
        for s, value in enumerate(final):
            current[s] = torch.cat([current[s], value[len(current[s]) : sizes[t]]])
        leaves = {("x", -1): x[t], ("dy", -1): dy[t]} | {("state", s): v for s, v in enumerate(current)}
        leaves |= {("saved", k): forward.row(t, k) for k in adjoint.saved}
        leaves |= {("past", s): forward.past[t][s] for s in adjoint.past}
        leaves |= matrices[t]
        values = machine.step(leaves)
        for k in totals:
            totals[k] = totals[k] + machine.summed(k, values)
        if adjoint.dx is not None:
            dx.append(values[adjoint.dx])
        for child in adjoint.children:
            children[child.child, child.slot] = values[child.value]
        shapes = [shape_in(slot.type, machine.sizes) for slot in program.slots]
        current = [
            values[slot.next].expand(sizes[t], *shape)
            for slot, shape in zip(program.slots, shapes, strict=True)
        ]
    ends = machine.end(totals)
    weights: dict[int, Tensor] = {}
    for gradient in adjoint.weights:
        array = forward.machine.weights[gradient.array]
        whole = weights.setdefault(gradient.array, torch.zeros_like(array))
        place = whole if gradient.column < 0 else whole[..., gradient.column]
        place += ends[gradient.value].reshape(place.shape)
    return Backward(torch.cat(dx[::-1]) if dx else None, current, weights, children)


def _replayed(adjoint: Adjoint, forward: Forward, x: Sequence[Tensor]) -> list[dict[tuple[str, int], Tensor]]:
    """The matrix slots before and after each step."""
    if adjoint.replay is None:
        return [{} for _ in forward.sizes]
    program = adjoint.replay.program
    machine = Machine(program, forward.machine.sizes, forward.machine.weights)
    current = [forward.past[0][s] for s in adjoint.replay.slots]
    found = []
    for t, size in enumerate(forward.sizes):
        current = [value[:size] for value in current]
        leaves = {("x", -1): x[t]} | {("state", s): v for s, v in enumerate(current)}
        leaves |= {("saved", k): forward.row(t, k) for k in adjoint.saved}
        leaves |= {("past", s): forward.past[t][s] for s in adjoint.past}
        values = machine.step(leaves)
        before = {("past", s): v for s, v in zip(adjoint.replay.slots, current, strict=True)}
        current = [
            values[slot.next].expand(size, *shape_in(slot.type, machine.sizes)) for slot in program.slots
        ]
        found.append(before | {("next", s): v for s, v in zip(adjoint.replay.slots, current, strict=True)})
    return found
