"""A plain interpreter of normal programs, row by row in torch: what the compiler's forms are checked with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from grammar import Sizes
from nas.ir import Instr, Program, shape_in

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
        return self.over_axes(instr, args, [k.kind for k in kinds])

    def over_axes(self, instr: Instr, args: Sequence[Tensor], kinds: Sequence[str]) -> Tensor:
        """What changes axes, or works along them."""
        heads = self.sizes.heads
        if instr.op == "cast":
            return self.cast(args[0], kinds[0], instr)
        if instr.op in ("reduce", "hmax"):
            if kinds[0] == "vec" or (kinds[0] == "in" and instr.type.kind == "scal"):
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

    def rows(self, k: int) -> list[Tensor]:
        """The value of an instruction in each step, `[sizes[t], *shape]`."""
        shape = shape_in(self.machine.program.instrs[k].type, self.machine.sizes)
        return [values[k].expand(size, *shape) for values, size in zip(self.values, self.sizes, strict=True)]


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
