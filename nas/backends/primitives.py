"""Torch's rendering of every primitive of normal programs, for values with any leading axes: one entry each."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import is_batchedtensor
from torch.nn import functional as F

from grammar import Sizes, Type
from nas.ir import Instr, Program, shape_in

# What a primitive computes: (its operands, the instruction, the types of its operands, the sizes) -> its value.
Primitive = Callable[[Sequence[Tensor], Instr, Sequence[Type], Sizes], Tensor]

_PLAIN: Mapping[str, Callable[..., Tensor]] = {
    "neg": torch.neg,
    "exp": torch.exp,
    "log": torch.log,
    "sqrt": torch.sqrt,
    "rsqrt": torch.rsqrt,
    "recip": torch.reciprocal,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "softplus": lambda a: F.softplus(a, threshold=40.0),
    "erf": torch.erf,
    "sin": torch.sin,
    "cos": torch.cos,
    "abs": torch.abs,
    "relu": torch.relu,
    "sign": torch.sign,
    "step": lambda a: (a > 0).to(a.dtype),
    "stopgrad": lambda a: a,
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
    "max": torch.maximum,
    "min": torch.minimum,
    "ge": lambda a, b: (a >= b).to(a.dtype),
}


def axes(type_: Type) -> int:
    """How many axes a value of a type has, beside leading ones."""
    return {"num": 0, "key": 2, "mat": 3}.get(type_.kind, 1)


def flat(value: Tensor, type_: Type) -> Tensor:
    """A value with one axis for all its own."""
    count = axes(type_)
    return value if count == 1 else value.unsqueeze(-1) if count == 0 else value.flatten(-count)


def heads(value: Tensor, sizes: Sizes) -> Tensor:
    """A `vec` as `[..., N, V]`."""
    made: Tensor = value.unflatten(-1, (sizes.heads, sizes.value_size))
    return made


def _cast(args: Sequence[Tensor], instr: Instr, types: Sequence[Type], sizes: Sizes) -> Tensor:
    (a,), (given,) = args, types
    kind, result, shape = given.kind, instr.type.kind, shape_in(instr.type, sizes)
    if kind == "num":
        return a.view(*a.shape, *(1 for _ in shape)).expand(*a.shape, *shape)
    lead = a.shape[: a.dim() - axes(given)]
    if kind == "scal":
        spread = a.reshape(*lead, sizes.heads, *(1 for _ in range(max(axes(instr.type), 2) - 1)))
        if axes(instr.type) == 1:
            return spread.expand(*lead, sizes.heads, sizes.value_size).flatten(-2)
        return spread.expand(*lead, *shape)
    if result == "mat":
        a = a.unsqueeze(-1) if kind == "key" else heads(a, sizes).unsqueeze(-2)
    return a.expand(*lead, *shape)


def _reduce(args: Sequence[Tensor], instr: Instr, types: Sequence[Type], sizes: Sizes) -> Tensor:
    (a,), (given,) = args, types
    kind, result = given.kind, instr.type.kind
    if result == "num":
        return flat(a, given).sum(-1)
    if result == "mem":
        return flat(a, given).sum(-1, keepdim=True)
    if kind == "mat":
        if result in ("vec", "in"):
            return a.sum(-2).flatten(-2)
        return a.sum(-1) if result == "key" else a.sum((-2, -1))
    if result == "scal":
        return (a if kind == "key" else heads(a, sizes)).sum(-1)
    return flat(a, given).sum(-1, keepdim=True)


def _hmax(args: Sequence[Tensor], instr: Instr, types: Sequence[Type], sizes: Sizes) -> Tensor:
    (a,), (given,) = args, types
    if instr.type.kind == "scal":
        return (a if given.kind == "key" else heads(a, sizes)).amax(-1)
    return flat(a, given).amax(-1, keepdim=True)


def _tokey(args: Sequence[Tensor], instr: Instr, types: Sequence[Type], sizes: Sizes) -> Tensor:
    return heads(args[0], sizes)


def _toval(args: Sequence[Tensor], instr: Instr, types: Sequence[Type], sizes: Sizes) -> Tensor:
    return args[0].flatten(-2)


def _outer(args: Sequence[Tensor], instr: Instr, types: Sequence[Type], sizes: Sizes) -> Tensor:
    k, v = args
    return k.unsqueeze(-1) * heads(v, sizes).unsqueeze(-2)


def _read(args: Sequence[Tensor], instr: Instr, types: Sequence[Type], sizes: Sizes) -> Tensor:
    s, k = args
    return (s * k.unsqueeze(-1)).sum(-2).flatten(-2)


def _readt(args: Sequence[Tensor], instr: Instr, types: Sequence[Type], sizes: Sizes) -> Tensor:
    s, v = args
    return (s * heads(v, sizes).unsqueeze(-2)).sum(-1)


def _plain(function: Callable[..., Tensor]) -> Primitive:
    def primitive(args: Sequence[Tensor], instr: Instr, types: Sequence[Type], sizes: Sizes) -> Tensor:
        return function(*args)

    return primitive


# Leaves are given, `lin`, `gram` and `total` have functions of their own below.
TORCH: Mapping[str, Primitive] = MappingProxyType(
    {name: _plain(function) for name, function in _PLAIN.items()}
    | {
        "cast": _cast,
        "reduce": _reduce,
        "hmax": _hmax,
        "tokey": _tokey,
        "toval": _toval,
        "outer": _outer,
        "read": _read,
        "readt": _readt,
    }
)


def address(array: Tensor, instr: Instr) -> Tensor:
    """The array of a weight, or its `column`, that a `param` or `lin` names."""
    column = int(instr.attr("column", -1))  # type: ignore[arg-type]
    return array if column < 0 else array[..., column]


def blocks_of(instr: Instr, sizes: Sizes) -> int:
    """Into how many blocks a `lin` divides its operand and result."""
    blocks = instr.attr("blocks", 1)
    return sizes.heads if blocks == "heads" else int(blocks)  # type: ignore[arg-type]


def matrix(array: Tensor, instr: Instr) -> Tensor:
    """The matrix of a `lin` as `[in, out]` or `[blocks, in, out]`, to multiply rows by from the right."""
    part = address(array, instr)
    return part if instr.attr("transpose", False) else part.transpose(-1, -2)


def linear(a: Tensor, given: Type, instr: Instr, array: Tensor, sizes: Sizes) -> Tensor:
    """A `lin` of rows `[rows, ...]`."""
    w, rows = matrix(array, instr), flat(a, given)
    if w.dim() == 2:
        result = product(rows, w)
    else:
        parts = rows.unflatten(-1, (w.shape[0], -1))
        result = torch.einsum("...bi,bio->...bo", *single(parts, w)).flatten(-2)
    return result.unflatten(-1, shape_in(instr.type, sizes)) if axes(instr.type) != 1 else result


def product(rows: Tensor, w: Tensor) -> Tensor:
    """`rows @ w`; of numbers with half the bits, sums and result are in float32."""
    if w.dtype.itemsize > 2:
        return rows @ w
    if rows.device.type != "cpu" and rows.dim() == 2:
        if is_batchedtensor(rows) or is_batchedtensor(w):
            made: Tensor = _Widened.apply(rows, w)  # type: ignore[no-untyped-call]
            return made
        return torch.mm(rows, w, out_dtype=torch.float32)
    rows, w = single(rows, w)
    return rows @ w


class _Widened(torch.autograd.Function):
    """The product with sums in float32 under torch.vmap, which would else warn and multiply one after the other."""

    @staticmethod
    def forward(rows: Tensor, w: Tensor) -> Tensor:
        return torch.mm(rows, w, out_dtype=torch.float32)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        pass

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *given: Tensor) -> tuple[Tensor, int]:
        a, b = (
            t.expand(info.batch_size, *t.shape) if axis is None else t.movedim(axis, 0)
            for t, axis in zip(given, in_dims, strict=True)
        )
        return torch.bmm(a, b, out_dtype=torch.float32), 0


def single(*values: Tensor) -> list[Tensor]:
    """Numbers with half the bits as float32, others as they are."""
    return [v.float() if v.dtype.itemsize <= 2 else v for v in values]


def array_places(program: Program) -> dict[tuple[int, str], int]:
    """Where each array of each weight is in the order that a runner takes them."""
    return {(a.weight, a.spec.role): place for place, a in enumerate(program.arrays)}


def param(array: Tensor, instr: Instr, sizes: Sizes) -> Tensor:
    """The value of a `param`, `[*shape]` of its type."""
    part = address(array, instr)
    shape = shape_in(instr.type, sizes)
    return part if tuple(part.shape) == shape else part.reshape(shape)


def wide(type_: Type, sizes: Sizes) -> int:
    """Numbers per row of a value."""
    return math.prod(shape_in(type_, sizes))
