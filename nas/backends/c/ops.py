"""Compiled layers for the operators of torch (`nas/backends/operators.py`)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from grammar import Cell, Sizes
from nas.backends.c.compiler import lanes
from nas.backends.c.layer import Layer
from nas.backends.c.running import Geometry
from nas.backends.operators import Backward, Forward, Layout, Operated


@lru_cache(maxsize=256)
def operated(cell: Cell, sizes: Sizes) -> CompiledOperated:
    """A layer for the operators. Its library is not loaded yet."""
    return CompiledOperated(Layer(cell, sizes, lanes()))


def geometry(layout: Layout) -> Geometry:
    """Where the rows lie."""
    sizes = layout.sizes
    if sizes is None:
        return even(layout.batch, layout.count, layout.by_sequence, layout.reverse)
    starts = sizes.cumsum(0) - sizes
    return Geometry(layout.batch, layout.count, 0, 1, int(sizes.sum()), False, starts, sizes)


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


class CompiledOperated(Operated):
    """See `Operated`. Rows are float32."""

    def __init__(self, layer: Layer) -> None:
        self.layer = layer
        self.finals, self.graded, self.has_dx = len(layer.slots), layer.graded, layer.has_dx
        self.keeps_y = bool(layer.keeps_y)

    def seen_by(self, asked: Sequence[bool]) -> frozenset[int]:
        """See `Operated`."""
        return self.layer.seen_by(asked)

    def forward(self, given: Forward, fake: bool) -> list[Tensor]:
        """See `Operated`."""
        layer, x, layout, keep = self.layer, given.x, given.layout, given.keep
        if not fake:
            start = [None if value is None else value.contiguous() for value in given.state]
            arrays = [w.contiguous() for w in given.weights]
            y, finals, saved = layer.loaded().forward(compact(x), arrays, start, geometry(layout), keep)
            for checkpoints in saved[len(saved) - len(layer.checkpoints) :] if keep else ():
                # room that is never read; operators give no chance values
                checkpoints[..., -(-layout.count // layer.every) :, :] = 0
            return [y, *finals, *saved[layer.keeps_y :]]
        made = [x.new_empty((*x.shape[:-1], layer.sizes.hidden_size))]
        made += [self._state(x, s, layout) for s in range(self.finals)]
        for floats in layer.saved_rows if keep else ():
            made.append(x.new_empty((*x.shape[:-1], floats)))
        for _, floats in layer.windows if keep else ():
            made.append(x.new_empty((*x.shape[:-2], layout.batch, floats)))
        for floats in layer.checkpoints.values() if keep else ():
            made.append(x.new_empty((*x.shape[:-2], layout.batch, layer.chunks(layout.count), floats)))
        return made

    def _state(self, x: Tensor, s: int, layout: Layout) -> Tensor:
        slot = self.layer.slots[s]
        dtype = torch.complex64 if slot.complex else torch.float32
        return x.new_empty((*x.shape[:-2], layout.batch, *slot.shape), dtype=dtype)

    def backward(self, given: Backward, fake: bool) -> list[Tensor]:
        """See `Operated`."""
        layer, x, weights = self.layer, given.x, given.weights
        layout, wanted = given.layout, given.wanted
        if fake:
            made = [x.new_empty(x.shape if wanted[0] and self.has_dx else 0)]
            made += [weights[n].new_empty(weights[n].shape) for n in self.graded]
            return made + [self._state(x, s, layout) for s, want in enumerate(wanted[1:]) if want]
        pulls = [None if value is None else value.contiguous() for value in (given.dy, *given.dfinal)]
        arrays = [w.contiguous() for w in weights]
        dx, dweights, dstate = layer.loaded().backward(
            given.saved, compact(x), arrays, geometry(layout), pulls[0], pulls[1:], wanted
        )
        found = [x.new_zeros(0) if dx is None else dx]
        for n in self.graded:  # parts of one tensor, which an operator must not give
            value, room = dweights[n], torch.empty_like(weights[n], memory_format=torch.contiguous_format)
            found.append(room.zero_() if value is None else room.copy_(value))
        return found + [value for value in dstate if value is not None]
