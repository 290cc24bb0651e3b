"""Compiled layers as operators of torch, for torch.compile and torch.export: `recell::cell`, `recell::cell_backward`.

A layer is named by a key, its sizes and its text, so that another process can build it again. Eager calls take a
shorter way (`runner.py`) to the same functions.

Where x is `[C, rows, D]`, C candidates run in one call: every tensor has their axis before its own but `sizes`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from grammar import Cell, Sizes, parse
from nas.backends.c.compiler import lanes
from nas.backends.c.layer import Layer
from nas.backends.c.running import Geometry

_LIBRARY = torch.library.Library("recell", "DEF")
_LAYOUT = "Tensor? sizes, SymInt batch, SymInt count, bool by_sequence, bool reverse"
_TAGS = (torch.Tag.pt2_compliant_tag, torch.Tag.needs_fixed_stride_order)
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


def key_of(cell: Cell, sizes: Sizes) -> str:
    """What names a layer."""
    text = str(cell)
    _cells[text] = cell
    return f"{sizes.input_size} {sizes.hidden_size} {sizes.heads} {sizes.key_size}\n{text}"


_cells: WeakValueDictionary[str, Cell] = (
    WeakValueDictionary()
)  # saves this process to read texts that it wrote


@lru_cache(maxsize=256)
def layer_of(key: str) -> Layer:
    """The layer that a key names; built by this process the first time. Its library is not loaded yet."""
    first, text = key.split("\n", 1)
    return Layer(_cells.get(text) or parse(text), Sizes(*map(int, first.split())), lanes())


def geometry(sizes: Tensor | None, batch: int, count: int, by_sequence: bool, reverse: bool) -> Geometry:
    """Where the rows lie."""
    if sizes is None:
        return even(batch, count, by_sequence, reverse)
    return Geometry(batch, count, 0, 1, int(sizes.sum()), False, sizes.cumsum(0) - sizes, sizes)


@lru_cache(maxsize=256)
def even(batch: int, count: int, by_sequence: bool, reverse: bool) -> Geometry:
    """Where the rows of equally long sequences lie."""
    step, sequence = (1, count) if by_sequence else (batch, 1)
    return Geometry(batch, count, step, sequence, batch * count, reverse)


def compact(x: Tensor) -> Tensor:
    """Rows that lie side by side; those of each candidate do, and may be the same."""
    if x.is_contiguous() or (x.dim() == 3 and x[0].is_contiguous()):
        return x
    return x.contiguous()


# ---- forward -------------------------------------------------------------------------------------


def _cell(
    key: str,
    x: Tensor,
    weights: Sequence[Tensor],
    state: Sequence[Tensor],
    given: Sequence[bool],
    sizes: Tensor | None,
    batch: int,
    count: int,
    by_sequence: bool,
    reverse: bool,
    keep: bool,
) -> list[Tensor]:
    layer, where = layer_of(key).loaded(), geometry(sizes, batch, count, by_sequence, reverse)
    values = iter(state)
    start = [next(values).contiguous() if one else None for one in given]
    y, finals, saved = layer.forward(compact(x), [w.contiguous() for w in weights], start, where, keep)
    for checkpoints in saved[len(saved) - len(layer.checkpoints) :] if keep else ():
        # room that is never read; operators give no chance values
        checkpoints[..., -(-count // layer.every) :, :] = 0
    return [y, *finals, *saved[layer.keeps_y :]]


def _fake_cell(
    key: str,
    x: Tensor,
    weights: Sequence[Tensor],
    state: Sequence[Tensor],
    given: Sequence[bool],
    sizes: Tensor | None,
    batch: int,
    count: int,
    by_sequence: bool,
    reverse: bool,
    keep: bool,
) -> list[Tensor]:
    layer, lead = layer_of(key), x.shape[:-2]
    made = [x.new_empty((*x.shape[:-1], layer.sizes.hidden_size))]
    for slot in layer.slots:
        kind = torch.complex64 if slot.complex else torch.float32
        made.append(x.new_empty((*lead, batch, *slot.shape), dtype=kind))
    for floats in layer.saved_rows if keep else ():
        made.append(x.new_empty((*x.shape[:-1], floats)))
    for floats in layer.checkpoints.values() if keep else ():
        made.append(x.new_empty((*lead, batch, layer.chunks(count), floats)))
    return made


# ---- backward ------------------------------------------------------------------------------------


def _cell_backward(
    key: str,
    x: Tensor,
    weights: Sequence[Tensor],
    saved: Sequence[Tensor],
    dy: Tensor | None,
    dfinal: Sequence[Tensor | None],
    sizes: Tensor | None,
    batch: int,
    count: int,
    by_sequence: bool,
    reverse: bool,
    wanted: Sequence[bool],
) -> list[Tensor]:
    layer, where = layer_of(key).loaded(), geometry(sizes, batch, count, by_sequence, reverse)
    ends = [None if value is None else value.contiguous() for value in dfinal]
    dx, dweights, dstate = layer.backward(
        saved,
        compact(x),
        [w.contiguous() for w in weights],
        where,
        None if dy is None else dy.contiguous(),
        ends,
        wanted,
    )
    found = [x.new_zeros(0) if dx is None else dx]
    for n in layer.graded:  # parts of one tensor, which an operator must not give
        value = dweights[n]
        found.append(torch.zeros_like(weights[n]) if value is None else torch.empty_like(weights[n]).copy_(value))
    return found + [value for value in dstate if value is not None]


def _fake_cell_backward(
    key: str,
    x: Tensor,
    weights: Sequence[Tensor],
    saved: Sequence[Tensor],
    dy: Tensor | None,
    dfinal: Sequence[Tensor | None],
    sizes: Tensor | None,
    batch: int,
    count: int,
    by_sequence: bool,
    reverse: bool,
    wanted: Sequence[bool],
) -> list[Tensor]:
    layer = layer_of(key)
    made = [x.new_empty(x.shape if wanted[0] and layer.has_dx else 0)]
    made += [weights[n].new_empty(weights[n].shape) for n in layer.graded]
    for slot, want in zip(layer.slots, wanted[1:], strict=True):
        if want:
            kind = torch.complex64 if slot.complex else torch.float32
            made.append(x.new_empty((*x.shape[:-2], batch, *slot.shape), dtype=kind))
    return made


# ---- autograd ------------------------------------------------------------------------------------


def _save(ctx: Any, inputs: tuple[Any, ...], output: Sequence[Tensor]) -> None:
    key, x, weights, state, given, *layout, keep = inputs
    layer = layer_of(key)
    made = 1 + len(layer.slots)
    saved = [*([output[0]] if layer.keeps_y else []), *output[made:]] if keep else []
    ctx.set_materialize_grads(False)
    ctx.key, ctx.layout, ctx.count, ctx.made = key, layout, len(weights), made
    needs = iter(value.requires_grad for value in state)
    ctx.given, ctx.wanted = given, [one and next(needs) for one in given]
    ctx.save_for_backward(x, *weights, *saved)


def _differentiate(ctx: Any, gradients: Sequence[Tensor | None]) -> tuple[Any, ...]:
    layer = layer_of(ctx.key)
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


_LIBRARY.impl("cell", _cell, "CompositeExplicitAutograd")
_LIBRARY.impl("cell_backward", _cell_backward, "CompositeExplicitAutograd")
torch.library.register_fake("recell::cell", _fake_cell, lib=_LIBRARY)
torch.library.register_fake("recell::cell_backward", _fake_cell_backward, lib=_LIBRARY)
torch.library.register_autograd("recell::cell", _differentiate, setup_context=_save, lib=_LIBRARY)
