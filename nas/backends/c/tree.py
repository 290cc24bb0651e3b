"""Tree cells through generated C: leaves, and the merges of a level, as one call each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from grammar import Cell, Sizes
from nas.backends.base import FlexibleTreeRunner, TreeRunner
from nas.backends.c.compiler import CompilerError
from nas.backends.c.forest import grown
from nas.backends.c.part import Part, part_of
from nas.backends.c.running import room
from nas.backends.fallback import fell_back, said_elsewhere
from nas.backends.levels import merged
from nas.backends.once import first_order, refuse_transforms
from nas.backends.reference import Reference
from nas.backends.states import divided, united
from nas.ir import normal_tree

MOST = 8  # children of a merge that is compiled, where a cell takes any number


class CompiledTree(FlexibleTreeRunner):
    """A tree cell in float32 on the CPU; anything else, and merges of more than MOST children, by the reference.

    Libraries are built at the first call that needs them. Where that fails, `fallback` says so in a warning and leaves
    the cell to the reference; otherwise that call raises CompilerError. See `TreeRunner`.
    """

    def __init__(self, cell: Cell, sizes: Sizes, fallback: bool = False) -> None:
        self.cell, self.sizes, self.fallback = cell, sizes, fallback
        self.places = normal_tree(cell)[1].slots
        self.types = [slot.type for slot in cell.states]
        self.plain: TreeRunner = Reference().compile_tree(cell, sizes)
        self._parts: dict[int, Part | None] = {}

    def leaves(self, x: Tensor, weights: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """See `TreeRunner`."""
        part = self._part(0, [x, *weights])
        if part is None:
            return self.plain.leaves(x, weights)
        return self._states(part, _applied(part, x, weights, []))

    def merge(
        self, x: Tensor | None, weights: Sequence[Tensor], children: Sequence[Sequence[Tensor]]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """See `TreeRunner`."""
        arity = len(children[0])
        part = self._part(arity, [*([] if x is None else [x]), *weights, children[0][0]])
        if part is None:
            return self.plain.merge(x, weights, children)
        rows = [
            value.flatten(1)
            for c in range(arity)
            for value in divided([state[c] for state in children], self.places)
        ]
        results = _applied(part, x, weights, rows)
        return results[part.out], self._states(part, results)

    def grow(
        self, x: Tensor, labels: Tensor | None, weights: Sequence[Tensor], levels: Sequence[Tensor]
    ) -> tuple[tuple[Tensor, ...], Tensor | None]:
        """See `nas.backends.levels.merged`."""
        given = [x, *weights] if labels is None else [x, labels, *weights]
        leaf = self._part(0, given)
        merge = self._part(len(levels[0]), given) if levels else leaf
        if leaf is None or merge is None:
            return merged(self, x, labels, weights, levels)
        values, y = grown(leaf, merge, x, labels, weights, levels)
        return self._shaped(values), y

    def _part(self, arity: int, given: Sequence[Tensor]) -> Part | None:
        """The part for these tensors; None where it cannot be built and need not, or is not for them."""
        if torch.compiler.is_compiling() or not all(map(_is_ready, given)):
            said_elsewhere(self.cell, given[0].device)
            return None
        refuse_transforms(given)
        if arity not in self._parts:
            self._parts[arity] = self._built(arity)
        return self._parts[arity]

    def _built(self, arity: int) -> Part | None:
        if arity > MOST:
            fell_back(self.cell, f"merges of more than {MOST} children are not compiled")
            return None
        try:
            return part_of(self.cell, self.sizes, arity)
        except CompilerError as error:
            if not self.fallback:
                raise
            fell_back(self.cell, str(error))
            return None

    def _states(self, part: Part, results: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The states `[rows, *shape]`, made of the new values of normal slots."""
        return self._shaped([results[n] for n in part.slots])

    def _shaped(self, values: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The states that are made of rows of normal slots."""
        shapes = (self.sizes.shape(self.types[place.slot]) for place in self.places)
        shaped = [
            value if len(shape) == 1 else value.unflatten(1, shape)
            for value, shape in zip(values, shapes, strict=True)
        ]
        return united(shaped, self.places, len(self.types))


def _is_ready(value: Tensor) -> bool:
    """Whether C can take it (complex states in two parts)."""
    plain = type(value) in (Tensor, torch.nn.Parameter)
    return plain and value.dtype in (torch.float32, torch.complex64) and value.device.type == "cpu"


def _applied(
    part: Part, x: Tensor | None, weights: Sequence[Tensor], children: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    if torch.is_grad_enabled():
        found: tuple[Tensor, ...] = _Rows.apply(part, len(weights), x, *weights, *children)  # type: ignore[no-untyped-call]
        return found
    rows = [child.contiguous() for child in children]
    return tuple(_made(part, x, [w.contiguous() for w in weights], rows, False)[0])


def _made(
    part: Part, x: Tensor | None, weights: Sequence[Tensor], children: Sequence[Tensor], keep: bool
) -> tuple[list[Tensor], list[Tensor]]:
    """The results, and what the backward half wants to see again."""
    x = None if x is None else x.contiguous()
    rows = children[0].shape[0] if children else 0 if x is None else x.shape[0]
    results = [room((rows, floats)) for floats in part.results]
    return results, part.forward(x, weights, children, results, keep)


class _Rows(torch.autograd.Function):
    """The two halves of a part."""

    @staticmethod
    def forward(ctx: Any, part: Part, count: int, x: Tensor | None, *rest: Tensor) -> tuple[Tensor, ...]:
        weights, children = [w.contiguous() for w in rest[:count]], [c.contiguous() for c in rest[count:]]
        keep = any(ctx.needs_input_grad)
        results, saved = _made(part, x, weights, children, keep)
        ctx.set_materialize_grads(False)
        if keep:
            ctx.part, ctx.count, ctx.rows = part, count, results[0].shape[0]
            ctx.save_for_backward(
                x.contiguous() if x is not None and part.sees_x else None,
                *weights,
                *(children[n] for n in part.seen_children),
                *(results[n] for n in part.seen_results),
                *saved,
            )
        return tuple(results)

    @staticmethod
    @first_order
    def backward(ctx: Any, *pulled: Tensor | None) -> tuple[Tensor | None, ...]:
        part, count = ctx.part, ctx.count
        x, *rest = ctx.saved_tensors
        weights, rest = rest[:count], rest[count:]
        seen, results = len(part.seen_children), len(part.seen_results)
        found, sums = part.backward(
            rest[seen + results :],
            x,
            weights,
            dict(zip(part.seen_children, rest[:seen], strict=True)),
            dict(zip(part.seen_results, rest[seen : seen + results], strict=True)),
            part.pulled(pulled, ctx.rows),
            ctx.rows,
        )
        dx = found[part.dx] if part.has_dx and ctx.needs_input_grad[2] else None
        return (None, None, dx, *part.gradients(sums), *(None if n < 0 else found[n] for n in part.dchild))
