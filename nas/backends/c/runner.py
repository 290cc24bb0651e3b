"""Compiled layers as runners of modules: gradients for torch, and the reference for what is not float32 on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from grammar import Cell, Sizes
from nas.backends.base import FlexibleRunner, Runner
from nas.backends.c.compiler import CompilerError
from nas.backends.c.layer import Layer, Table
from nas.backends.c.ops import compact, even, operated
from nas.backends.c.outline import slots_of
from nas.backends.c.running import Geometry
from nas.backends.candidates import side_by_side
from nas.backends.fallback import fell_back, said_elsewhere
from nas.backends.once import first_order, refuse_transforms
from nas.backends.operators import key_of
from nas.backends.reference import Reference
from nas.backends.steps import CPU, Steps
from nas.errors import BuildError

# Floats that candidates may keep in one piece of memory for the backward half. Larger pieces come fresh from the system
# in every call, and its zeroing of them takes a third of the time.
_AT_ONCE = 4 * 1024 * 1024
_PLAIN = (Tensor, torch.nn.Parameter)  # what has the memory that it says
_PAYS = (
    2  # so many rows for each of a table, and it is quicker to do maps of x for the table than for the rows
)


class CompiledRunner(FlexibleRunner):
    """One layer in one direction through generated C, in float32 on the CPU; anything else through the reference.

    The library is built at the first call that needs it. Where that fails, `fallback` says so in a warning and leaves
    the layer to the reference; otherwise that call raises CompilerError. It is also what `compile_candidates` gives:
    x has three axes then.
    """

    def __init__(self, cell: Cell, sizes: Sizes, fallback: bool = False) -> None:
        self.cell, self.sizes, self.fallback = cell, sizes, fallback
        self.slots, self.key = slots_of(cell, sizes), key_of("c", cell, sizes)
        self._layer: Layer | None = None
        self._plain: Runner | None = None
        self._failed = False

    def __call__(
        self,
        x: Tensor,
        weights: Sequence[Tensor],
        state: Sequence[Tensor | None],
        steps: Steps,
        reverse: bool = False,
        tokens: Tensor | None = None,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """See `FlexibleRunner`."""
        like = weights[0] if weights else x
        here = like.dtype is torch.float32 and x.dtype is not torch.float64
        here = here and like.device.type == "cpu" and x.device.type == "cpu"
        if here and (torch.compiler.is_compiling() or type(x) not in _PLAIN):
            return self._traced(_looked_up(x, tokens), weights, state, steps, reverse)
        layer = self._built() if here else None
        if layer is None:
            said_elsewhere(self.cell, like.device)
            return self._by_reference(_looked_up(x, tokens), weights, state, steps, reverse)
        refuse_transforms((x,), weights, state)
        _check_here("x", tokens)
        for value in (tokens, *weights, *state):
            if value is not None and type(value) not in _PLAIN:
                _check_memory(value)
        x = x if x.dtype is torch.float32 else x.float()
        if tokens is not None and _PAYS * len(x) > steps.rows:
            x, tokens = _looked_up(x, tokens), None
        given = [None if value is None else _ready(value) for value in state]
        where = geometry(steps, reverse)
        if torch.is_grad_enabled():
            if x.dim() == 3 and (most := max(1, _AT_ONCE // layer.most_kept(where))) < x.shape[0]:
                return _in_groups(layer, where, x, weights, given, most)
            y, *final = _Layer.apply(layer, where, tokens, x, *weights, *given)  # type: ignore[no-untyped-call]
            return y, tuple(final)
        rows, table = _rows_of(layer, compact(x), tokens)
        y, ends, _ = layer.forward(rows, [w.contiguous() for w in weights], given, where, False, table)
        return y, tuple(ends)

    def _traced(
        self,
        x: Tensor,
        weights: Sequence[Tensor],
        state: Sequence[Tensor | None],
        steps: Steps,
        reverse: bool,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The same as an operator that torch can trace."""
        sizes = None if steps.even else torch.tensor(steps.sizes, device=CPU)
        layout = (sizes, steps.batch, steps.count, steps.by_sequence, reverse)
        given = [value is not None for value in state]
        values = [_ready(value) for value in state if value is not None]
        x = x if x.dtype is torch.float32 else x.float()
        found = torch.ops.recell.cell(self.key, x, weights, values, given, *layout, torch.is_grad_enabled())
        return found[0], tuple(found[1 : 1 + len(self.slots)])

    def _built(self) -> Layer | None:
        """The layer with its library; None where it cannot be built and need not."""
        if self._layer is None and not self._failed:
            try:
                self._layer = operated(self.cell, self.sizes).layer.loaded()
            except CompilerError as error:
                if not self.fallback:
                    raise
                self._failed = True
                fell_back(self.cell, str(error))
        return self._layer

    def _by_reference(
        self,
        x: Tensor,
        weights: Sequence[Tensor],
        state: Sequence[Tensor | None],
        steps: Steps,
        reverse: bool,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        if x.dim() == 3:
            return side_by_side(partial(self._by_reference, steps=steps, reverse=reverse), x, weights, state)
        if self._plain is None:
            self._plain = Reference().compile(self.cell, self.sizes)
        like = weights[0] if weights else x
        full = []
        for slot, value in zip(self.slots, state, strict=True):
            if value is None:
                kind = like.dtype.to_complex() if slot.complex else like.dtype
                assert slot.start is not None
                value = torch.full((steps.batch, *slot.shape), slot.start, dtype=kind, device=like.device)
            full.append(value)
        plain = Steps.same(steps.batch, steps.count) if steps.by_sequence else steps
        rows = _swapped(x, steps.batch, steps.count) if steps.by_sequence else x
        rows = plain.reverse(rows) if reverse else rows
        y, final = self._plain(rows, weights, full, plain)
        y = plain.reverse(y) if reverse else y
        return (_swapped(y, steps.count, steps.batch) if steps.by_sequence else y), final


def geometry(steps: Steps, reverse: bool = False) -> Geometry:
    """Where the rows of steps lie."""
    if steps.even:
        return even(steps.batch, steps.count, steps.by_sequence, reverse)
    sizes = torch.tensor(steps.sizes, device=CPU)
    return Geometry(steps.batch, steps.count, 0, 1, steps.rows, False, sizes.cumsum(0) - sizes, sizes)


def _in_groups(
    layer: Layer,
    where: Geometry,
    x: Tensor,
    weights: Sequence[Tensor],
    state: Sequence[Tensor | None],
    most: int,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Candidates, so many in one call."""
    calls = len(x.split(most))
    parts = [[None] * calls if value is None else value.split(most) for value in (x, *weights, *state)]
    made = [_Layer.apply(layer, where, None, *given) for given in zip(*parts, strict=True)]  # type: ignore[no-untyped-call]
    y, *final = (torch.cat(values) for values in zip(*made, strict=True))
    return y, tuple(final)


def _looked_up(x: Tensor, tokens: Tensor | None) -> Tensor:
    """The rows of the input."""
    return x if tokens is None else F.embedding(tokens, x)


def _rows_of(layer: Layer, x: Tensor, tokens: Tensor | None) -> tuple[Tensor | None, Table | None]:
    """What a layer takes: rows; or a table, and its rows where they are needed, too."""
    if tokens is None:
        return x, None
    return _looked_up(x, tokens) if layer.x_rows else None, (
        torch.cat((tokens, tokens.new_tensor([len(x)]))),
        x,
    )


def _swapped(rows: Tensor, outer: int, inner: int) -> Tensor:
    """Rows `[outer * inner, ...]` as `[inner * outer, ...]`."""
    return rows.view(outer, inner, -1).transpose(0, 1).reshape(rows.shape)


def _check_here(what: str, value: Tensor | None) -> None:
    """Raise BuildError for what is not in the memory that C reads."""
    if value is not None and value.device.type != "cpu":
        raise BuildError(f"{what} is on {value.device}, and the weights are on cpu")


def _check_memory(value: Tensor) -> None:
    """Raise BuildError for a tensor that wraps others, as a DTensor does: C would read at address 0."""
    if value.numel() and not value.data_ptr():
        raise BuildError(
            f"compiled cells read the memory of their weights and states, and a {type(value).__name__} has none of its "
            'own; give plain tensors (of a DTensor its full_tensor()), or build the module with backend="reference"'
        )


def _ready(value: Tensor) -> Tensor:
    """A state as C takes it."""
    _check_here("a state", value)
    if value.dtype not in (torch.float32, torch.complex64):
        value = value.to(torch.complex64 if value.is_complex() else torch.float32)
    return _written(value)


def _written(value: Tensor) -> Tensor:
    """What a tensor says, in its memory: of a conjugate torch may have put down no more than that it is one."""
    return value.resolve_conj().contiguous()


class _Layer(torch.autograd.Function):
    """A layer's forward and backward halves."""

    @staticmethod
    def forward(
        ctx: Any, layer: Layer, where: Geometry, tokens: Tensor | None, x: Tensor, *rest: Tensor | None
    ) -> tuple[Tensor, ...]:
        x = compact(x)
        count = len(rest) - len(layer.slots)
        weights = [w.contiguous() for w in rest[:count] if w is not None]
        keep = any(ctx.needs_input_grad)
        rows, table = _rows_of(layer, x, tokens)
        y, finals, saved = layer.forward(rows, weights, rest[count:], where, keep, table)
        ctx.set_materialize_grads(False)
        if keep:
            ctx.layer, ctx.where, ctx.count = layer, where, count
            ctx.save_for_backward(rows, *(table or (None, None)), *weights, *saved)
        return (y, *finals)

    @staticmethod
    @first_order
    def backward(ctx: Any, dy: Tensor | None, *dfinal: Tensor | None) -> tuple[Tensor | None, ...]:
        x, tokens, table, *rest = ctx.saved_tensors
        count = ctx.count
        needs = ctx.needs_input_grad
        dx, dweights, dstate = ctx.layer.backward(
            rest[count:],
            x,
            rest[:count],
            ctx.where,
            None if dy is None else dy.contiguous(),
            [None if d is None else _written(d) for d in dfinal],
            (needs[3], *needs[4 + count :]),
            None if tokens is None else (tokens, table),
        )
        return (None, None, None, dx, *dweights, *dstate)
