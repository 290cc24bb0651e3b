"""Whole trees through the two parts of a cell: one function for torch, one call of C for each level each way.

Values of all nodes lie in one tensor for each slot, and so do their gradients, so that a level costs what its own rows
cost, and the gradients of the weights are put together once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from nas.backends.c.part import Part
from nas.backends.c.running import room
from nas.backends.once import first_order


def grown(
    leaf: Part,
    merge: Part,
    x: Tensor,
    labels: Tensor | None,
    weights: Sequence[Tensor],
    levels: Sequence[Tensor],
) -> tuple[list[Tensor], Tensor | None]:
    """The rows of all slots of the normal form at all nodes, and the outputs; see `nas.backends.levels.merged`."""
    if torch.is_grad_enabled():
        values: Sequence[Tensor] = _Grown.apply(leaf, merge, levels, len(weights), x, labels, *weights)  # type: ignore[no-untyped-call]
    else:
        values = _Forest(leaf, merge, levels, x, labels, weights, False).values
    if not levels:
        return list(values), None
    count = len(leaf.slots)
    return list(values[:count]), values[count] if _is_apart(merge) else values[_slot(merge)][x.shape[0] :]


def _is_apart(merge: Part) -> bool:
    """Whether the output is no new value of a slot."""
    return merge.out >= 0 and merge.out not in merge.slots


def _slot(merge: Part) -> int:
    """The first slot whose new value is the output."""
    return merge.slots.index(merge.out)


class _Forest:
    """All values, and what the backward halves want to see again."""

    def __init__(
        self,
        leaf: Part,
        merge: Part,
        levels: Sequence[Tensor],
        x: Tensor,
        labels: Tensor | None,
        weights: Sequence[Tensor],
        keep: bool,
    ) -> None:
        weights = [w.contiguous() for w in weights]
        rows, sizes = x.shape[0], [level.shape[1] for level in levels]
        self.values = [room((rows + sum(sizes), floats)) for floats in leaf.widths]
        if _is_apart(merge):
            self.values.append(room((sum(sizes), merge.results[merge.out])))
        self.saved: list[Sequence[Tensor]] = []
        self._run(leaf, x.contiguous(), weights, [], 0, rows, keep)
        labels = None if labels is None else labels.contiguous()
        first = rows
        for level, size in zip(levels, sizes, strict=True):
            index = level.reshape(-1)
            gathered = [value.index_select(0, index) for value in self.values[: len(leaf.widths)]]
            children = [value[c * size : (c + 1) * size] for c in range(len(level)) for value in gathered]
            own = None if labels is None else labels[first - rows : first - rows + size]
            self._run(merge, own, weights, children, first, size, keep, first - rows)
            first += size

    def _run(
        self,
        part: Part,
        x: Tensor | None,
        weights: Sequence[Tensor],
        children: Sequence[Tensor],
        first: int,
        size: int,
        keep: bool,
        output: int = 0,
    ) -> None:
        results: list[Tensor | None] = [None] * len(part.results)
        twice = []
        for s, n in enumerate(part.slots):
            here = self.values[s][first : first + size]
            if results[n] is None:
                results[n] = here
            else:
                twice.append((here, n))
        if part.arity and _is_apart(part):
            results[part.out] = self.values[-1][output : output + size]
        made = [value for value in results if value is not None]
        saved = part.forward(x, weights, children, made, keep)
        for here, n in twice:
            here.copy_(made[n])
        if keep:
            self.saved.append([*(children[n] for n in part.seen_children), *saved])


class _Grown(torch.autograd.Function):
    """Leaves and all levels, forward and backward."""

    @staticmethod
    def forward(
        ctx: Any,
        leaf: Part,
        merge: Part,
        levels: Sequence[Tensor],
        count: int,
        x: Tensor,
        labels: Tensor | None,
        *weights: Tensor,
    ) -> tuple[Tensor, ...]:
        keep = any(ctx.needs_input_grad)
        forest = _Forest(leaf, merge, levels, x, labels, weights, keep)
        ctx.set_materialize_grads(False)
        if keep:
            ctx.leaf, ctx.merge, ctx.levels, ctx.counts = leaf, merge, levels, [len(s) for s in forest.saved]
            kept = [value for saved in forest.saved for value in saved]
            ctx.save_for_backward(x, labels, *forest.values, *weights, *kept)
        return tuple(forest.values)

    @staticmethod
    @first_order
    def backward(ctx: Any, *given: Tensor | None) -> tuple[Tensor | None, ...]:
        leaf, merge, levels = ctx.leaf, ctx.merge, ctx.levels
        x, labels, *rest = ctx.saved_tensors
        values, rest = rest[: len(given)], rest[len(given) :]
        weights = [w.contiguous() for w in rest[: len(ctx.needs_input_grad) - 6]]
        rest = rest[len(weights) :]
        saved = _parted(rest, ctx.counts)
        pulls = [
            torch.zeros_like(value) if g is None else g.clone()
            for g, value in zip(given, values, strict=True)
        ]
        wants_labels = labels is not None and merge.has_dx and ctx.needs_input_grad[5]
        dlabels = torch.zeros_like(labels) if wants_labels else None
        sums = room((merge.gradients.floats,)).zero_()
        rows, last = x.shape[0], values[0].shape[0]
        for level, own in zip(reversed(levels), reversed(saved[1:]), strict=True):
            size = level.shape[1]
            first = last - size
            here = slice(first - rows, last - rows)
            found, part = _pulled(merge, own, labels, weights, values, pulls, slice(first, last), here)
            sums += part
            if dlabels is not None:
                dlabels[here] = found[merge.dx]
            for s in range(len(merge.widths)):
                for c, index in enumerate(level):
                    n = merge.dchild[c * len(merge.widths) + s]
                    if n >= 0:
                        pulls[s].index_add_(0, index, found[n])
            last = first
        found, part = _pulled(leaf, saved[0], x, weights, values, pulls, slice(0, rows), slice(0, rows))
        dweights = leaf.gradients(part)
        if levels:
            dweights = [_plus(a, b) for a, b in zip(dweights, merge.gradients(sums), strict=True)]
        dx = found[leaf.dx] if leaf.has_dx and ctx.needs_input_grad[4] else None
        return (None, None, None, None, dx, dlabels, *dweights)


def _plus(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a + b


def _parted(values: Sequence[Tensor], counts: Sequence[int]) -> list[Sequence[Tensor]]:
    """So many of the values after each other."""
    parts, first = [], 0
    for count in counts:
        parts.append(values[first : first + count])
        first += count
    return parts


def _pulled(
    part: Part,
    saved: Sequence[Tensor],
    x: Tensor | None,
    weights: Sequence[Tensor],
    values: Sequence[Tensor],
    pulls: Sequence[Tensor],
    rows: slice,
    merges: slice,
) -> tuple[list[Tensor], Tensor]:
    """A backward half for the nodes `rows`, of which `merges` are the places among merges (leaves)."""
    seen = len(part.seen_children)
    results = {}
    for n in part.seen_results:
        results[n] = values[part.slots.index(n)][rows] if n in part.slots else values[-1][merges]
    return part.backward(
        saved[seen:],
        None if x is None or not part.sees_x else x.contiguous()[merges],
        weights,
        dict(zip(part.seen_children, saved[:seen], strict=True)),
        results,
        {s: pulls[s][rows] if s >= 0 else pulls[-1][merges] for s in part.pulls},
        rows.stop - rows.start,
    )
