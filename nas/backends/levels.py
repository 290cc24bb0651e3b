"""Merges level by level, through any runner of a tree cell."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nas.backends.base import TreeRunner


def merged(
    runner: TreeRunner,
    x: Tensor,
    labels: Tensor | None,
    weights: Sequence[Tensor],
    levels: Sequence[Tensor],
) -> tuple[tuple[Tensor, ...], Tensor | None]:
    """The states at all nodes, `[leaves + merges, *shape]`, and the outputs `[merges, H]` (None: no merge).

    `levels` has int64 `[children, merges]` for each level: rows of x `[leaves, D]`, or those of earlier levels behind
    them. `labels` `[merges, D]` is what merges see as x.
    """
    made, outputs, first = runner.leaves(x, weights), list[Tensor](), 0
    for children in levels:
        count, merges = children.shape
        index = children.flatten().to(x.device)  # all children in one go: its gradient is one sum
        values = [value.index_select(0, index).chunk(count) for value in made]
        own = None if labels is None else labels[first : first + merges]
        y, new = runner.merge(own, weights, values)
        made = tuple(torch.cat([old, value]) for old, value in zip(made, new, strict=True))
        outputs.append(y)
        first += merges
    return made, torch.cat(outputs) if outputs else None
