"""Torch's rendering of `lin` and of stacks of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from grammar import Sizes
from nas.backends.renderings import Arrays, Function
from nas.ir import Instr, Map

_AXES = {"key": 2, "mat": 3, "cmat": 3}


def flat(kind: str) -> Function | None:
    """An operand with its own axes made one, or None where it has one already."""
    axes = _AXES.get(kind, 1)
    return None if axes == 1 else lambda a: a.flatten(-axes)


def shaped(kind: str, shape: tuple[int, ...]) -> Function | None:
    """A flat result with the axes of its type, or None where it has one axis."""
    return None if _AXES.get(kind, 1) == 1 else lambda a: a.unflatten(-1, shape)


def affine(a: Tensor, weight: Tensor, base: Tensor | None) -> Tensor:
    """`a @ weight + base`; either of `a` and `base` may lack the rows' axis, or have one of children before it."""
    if a.dim() == 2 and base is None:
        return torch.mm(a, weight)
    if a.dim() == 2 and base is not None and base.dim() <= 2:
        return torch.addmm(base, a, weight)
    product = a @ weight
    return product if base is None else product + base


def stacked(maps: Sequence[Map], operand: int) -> Callable[..., Tensor]:
    """From the weights of all maps to one matrix for one operand, `[in, sum of outs]`."""

    def build(*weights: Arrays) -> Tensor:
        blocks = []
        for m, w in zip(maps, weights, strict=True):
            array = w[f"w{m.parts[operand]}"]
            blocks.append(array.t() if m.transpose else array)
        return (blocks[0] if len(blocks) == 1 else torch.cat(blocks)).t()

    return build


def special(instr: Instr, sizes: Sizes) -> Callable[..., Tensor]:
    """A `lin` with blocks, a rank or complex weights, as a function of its flat operands and its weights."""
    (one,) = instr.maps
    blocks = sizes.heads if one.blocks == "heads" else int(one.blocks)

    def part(a: Tensor, w: Arrays, p: int) -> Tensor:
        if one.rank:
            down, up = w[f"v{p}"], w[f"u{p}"]
            return (a.to(down.dtype) @ down.t()) @ up.t()
        array = w[f"w{p}"]
        if one.transpose:
            array = array.transpose(-1, -2)
        if array.dim() == 2:
            return a.to(array.dtype) @ array.t()
        rows = torch.unflatten(a.to(array.dtype), -1, (blocks, -1)).unsqueeze(-2)
        return (rows @ array.transpose(-1, -2)).squeeze(-2).flatten(-2)

    def apply(*values: Any) -> Tensor:
        *operands, w = values
        total = part(operands[0], w, one.parts[0])
        for a, p in zip(operands[1:], one.parts[1:], strict=True):
            total = total + part(a, w, p)
        return total + w["b"] if one.bias else total

    return apply
