"""The width of a model for a budget of parameters."""

from __future__ import annotations

from functools import cache

import torch
from torch import nn

from grammar import Cell, GrammarError
from nas.errors import BuildError, TrainingError
from nas.nn import Stack
from nas.tasks import Task

TOO_LARGE = 1.1
"""A model that has more than this many times its budget at the smallest width is refused."""

_TRIED = 64
"""How many widths in a row must fail to build before a cell counts as one that cannot be built."""


def match_width(cell: Cell, task: Task, params: int, heads: int = 1, num_layers: int = 1) -> tuple[int, int]:
    """The width whose model is nearest to a budget, and its exact number of trainable parameters.

    Counts everything: embedding (or input map), cell, head. The width is a multiple of `heads`; widths that the cell
    cannot be built with (a `lin` of 4 blocks wants a multiple of 4) are passed over. With one head the count is
    within 2 % of any budget from some ten thousand up, and always the nearest there is. Raises BuildError when even
    the smallest width is over the budget by more than a tenth, BuildError or GrammarError when none can be built.
    """
    if params < 1:
        raise TrainingError(f"the budget must be at least 1 parameter, got {params}")

    @cache
    def reach(units: int) -> tuple[int, int]:
        """The first width of at least `units` heads that can be built, and its count."""
        for width in range(units * heads, (units + _TRIED) * heads, heads):
            try:
                return width, count_parameters(cell, task, width, heads, num_layers)
            except (BuildError, GrammarError) as error:
                last = error
        raise last

    width, smallest = reach(1)
    if smallest > TOO_LARGE * params:
        raise BuildError(
            f"the budget of {params} parameters is too small: at width {width}, the smallest possible, "
            f"cell {cell.name} on task {task.name} has {smallest}"
        )
    under, over = 1, 2
    while reach(over)[1] <= params:
        under, over = over, 2 * over
    while over - under > 1:
        middle = (under + over) // 2
        if reach(middle)[1] <= params:
            under = middle
        else:
            over = middle
    return min(reach(under), reach(over), key=lambda found: abs(found[1] - params))


def count_parameters(cell: Cell, task: Task, width: int, heads: int = 1, num_layers: int = 1) -> int:
    """How many trainable parameters the model of this width has. It is built without memory, on the meta device."""
    with torch.device("meta"):
        model = Stack(
            cell,
            inputs=task.inputs,
            outputs=task.outputs,
            width=width,
            num_layers=num_layers,
            heads=heads,
            embed=task.embed,
            backend="reference",
        )
    return trainable(model)


def trainable(model: nn.Module) -> int:
    """How many numbers the optimiser changes in a model."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
