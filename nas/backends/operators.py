"""Layers as operators of torch, for torch.compile and torch.export: `recell::cell` and `recell::cell_backward`.

A layer is named by a key, its backend, sizes and text, so that another process can build it again. Backends give their
layers as `Operated`; eager calls take shorter ways to the same functions.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from grammar import Cell, Sizes, parse
from nas.backends.once import refuse_second_order

_LIBRARY = torch.library.Library("recell", "DEF")
_LAYOUT = "Tensor? sizes, SymInt batch, SymInt count, bool by_sequence, bool reverse"
# No part of a CUDA graph: the first call on steps of some lengths waits for a copy of them to the device, which is kept
# in memory that such a graph takes for its own.
_TAGS = (
    torch.Tag.pt2_compliant_tag,
    torch.Tag.needs_fixed_stride_order,
    torch.Tag.cudagraph_unsafe,
)
# `state` has the states that are `given`.
# Results: [output, final states, what the backward half wants to see again (with `keep`)]
_LIBRARY.define(
    f"cell(str key, Tensor x, Tensor[] weights, Tensor[] state, bool[] given, {_LAYOUT}, bool keep) -> Tensor[]",
    tags=_TAGS,
)
# Results: [the gradient of x, those of the weights that have one, those of the states that are wanted]
_LIBRARY.define(
    "cell_backward(str key, Tensor x, Tensor[] weights, Tensor[] saved, Tensor? dy, Tensor?[] dfinal, "
    f"{_LAYOUT}, bool[] wanted) -> Tensor[]",
    tags=_TAGS,
)
# The modules whose `operated(cell, sizes)` gives a layer, by the first word of a key.
_MODULES = {"c": "nas.backends.c.ops", "triton": "nas.backends.triton.ops"}


@dataclass(frozen=True, slots=True)
class Layout:
    """Where rows lie: `sizes` are how many sequences run at each step, None where all are equally long."""

    sizes: Tensor | None
    batch: int
    count: int
    by_sequence: bool
    reverse: bool


@dataclass(frozen=True, slots=True)
class Forward:
    """What a forward half takes. A state is None where it starts as the text says; `keep`: a backward half follows."""

    x: Tensor
    weights: Sequence[Tensor]
    state: Sequence[Tensor | None]
    layout: Layout
    keep: bool


@dataclass(frozen=True, slots=True)
class Backward:
    """What a backward half takes. `wanted` says for x, then for each state, whether its gradient is."""

    x: Tensor
    weights: Sequence[Tensor]
    saved: Sequence[Tensor]
    dy: Tensor | None
    dfinal: Sequence[Tensor | None]
    layout: Layout
    wanted: Sequence[bool]


class Operated(ABC):
    """A layer as the operators take it. `fake`: give tensors of the right shapes and compute nothing.

    `finals` is how many final states there are, `graded` which weights have gradients; `keeps_y` says that the output
    is the first of what the backward half sees again.
    """

    finals: int
    graded: Sequence[int]
    has_dx: bool
    keeps_y: bool = False

    @abstractmethod
    def forward(self, given: Forward, fake: bool) -> list[Tensor]:
        """The output, the final states, and with `keep` what the backward half sees again, without the output."""

    @abstractmethod
    def backward(self, given: Backward, fake: bool) -> list[Tensor]:
        """The gradients of x (anything where it is not wanted), of the weights, and of the states that are wanted."""

    def seen_by(self, asked: Sequence[bool]) -> frozenset[int]:
        """The weights that what is `asked` for depends on: the output, then the final states."""
        return frozenset(self.graded)


_cells: WeakValueDictionary[str, Cell] = WeakValueDictionary()  # saves this process to read what it wrote


def key_of(backend: str, cell: Cell, sizes: Sizes) -> str:
    """What names a layer."""
    text = str(cell)
    _cells[text] = cell
    return f"{backend} {sizes.input_size} {sizes.hidden_size} {sizes.heads} {sizes.key_size}\n{text}"


@lru_cache(maxsize=256)
def operated(key: str) -> Operated:
    """The layer that a key names; made by this process the first time."""
    first, text = key.split("\n", 1)
    backend, *sizes = first.split()
    module = importlib.import_module(_MODULES[backend])
    made: Operated = module.operated(_cells.get(text) or parse(text), Sizes(*map(int, sizes)))
    return made


def _forward(key: str, given: Sequence[Any], fake: bool) -> list[Tensor]:
    x, weights, state, known, *layout, keep = given
    values = iter(state)
    start = [next(values) if one else None for one in known]
    return operated(key).forward(Forward(x, weights, start, Layout(*layout), keep), fake)


def _backward(key: str, given: Sequence[Any], fake: bool) -> list[Tensor]:
    x, weights, saved, dy, dfinal, *layout, wanted = given
    found = Backward(x, weights, saved, dy, dfinal, Layout(*layout), wanted)
    return operated(key).backward(found, fake)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Sequence[Tensor]) -> None:
    key, x, weights, state, given, *layout, keep = inputs
    layer = operated(key)
    made = 1 + layer.finals
    saved = [*([output[0]] if layer.keeps_y else []), *output[made:]] if keep else []
    ctx.set_materialize_grads(False)
    ctx.key, ctx.layout, ctx.count, ctx.made, ctx.keep = key, layout, len(weights), made, keep
    needs = iter(value.requires_grad for value in state)
    ctx.given, ctx.wanted = given, [one and next(needs) for one in given]
    ctx.save_for_backward(x, *weights, *saved)


def _differentiate(ctx: Any, gradients: Sequence[Tensor | None]) -> tuple[Any, ...]:
    refuse_second_order()
    if not ctx.keep:
        raise RuntimeError(
            "this cell was traced with gradients off, as in torch.no_grad(), and has none: trace it with them on"
        )
    layer = operated(ctx.key)
    x, *rest = ctx.saved_tensors
    dy, *dfinal = gradients[: ctx.made]
    wanted = [ctx.needs_input_grad[1], *ctx.wanted]
    made = torch.ops.recell.cell_backward(
        ctx.key, x, rest[: ctx.count], rest[ctx.count :], dy, dfinal, *ctx.layout, wanted
    )
    dweights: list[Tensor | None] = [None] * ctx.count
    seen = layer.seen_by([dy is not None, *(value is not None for value in dfinal)])
    for n, value in zip(layer.graded, made[1:], strict=False):
        dweights[n] = value if n in seen else None
    ends = iter(made[1 + len(layer.graded) :])
    dstate = [next(ends) if want else None for want, one in zip(ctx.wanted, ctx.given, strict=True) if one]
    dx = made[0] if wanted[0] and layer.has_dx else None
    return (None, dx, dweights, dstate, *[None] * (len(ctx.layout) + 2))


_LIBRARY.impl("cell", lambda key, *given: _forward(key, given, False), "CompositeExplicitAutograd")
_LIBRARY.impl("cell_backward", lambda key, *given: _backward(key, given, False), "CompositeExplicitAutograd")
torch.library.register_fake("recell::cell", lambda key, *given: _forward(key, given, True), lib=_LIBRARY)
torch.library.register_fake(
    "recell::cell_backward", lambda key, *given: _backward(key, given, True), lib=_LIBRARY
)
torch.library.register_autograd("recell::cell", _differentiate, setup_context=_save, lib=_LIBRARY)
