"""Cells over trees: the states at leaves, and those that one merge makes of its children's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from grammar import Sizes
from nas.backends.plan import Plan
from nas.backends.rounds import run
from nas.backends.steps import Steps
from nas.ir import Program, tree_parts


class Tree:
    """The two halves of a tree cell's Program, in eager torch; see `TreeRunner`."""

    def __init__(self, program: Program, sizes: Sizes) -> None:
        leaf, body = tree_parts(program)
        self.at_leaf, self.at_merge = _Half(leaf, sizes), _Half(body, sizes)
        self.variadic = program.variadic
        names = [slot.name for slot in program.slots]
        # of each child instruction: its cell, which child it is, and which state
        self.children = [
            (
                self.at_merge.plan.at[k],
                program.children.index(str(i.attr("child"))),
                names.index(str(i.attr("state"))),
            )
            for k, i in enumerate(body.instrs)
            if i.op == "child"
        ]

        # of each state with which a block `depth n until(p)` begins: its cell, which state it is, its value
        self.begins = [
            (self.at_merge.plan.at[k], i.slot, float(program.slots[i.slot].init))
            for k, i in enumerate(body.instrs)
            if i.op == "state"
        ]

    def leaves(self, x: Tensor, weights: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """See `TreeRunner`."""
        return self.at_leaf(x, weights, {}, x.shape[0])[1]

    def merge(
        self, x: Tensor | None, weights: Sequence[Tensor], children: Sequence[Sequence[Tensor]]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """See `TreeRunner`."""
        every = [torch.stack(list(parts)) for parts in children] if self.variadic else children
        values = {cell: every[s] if self.variadic else children[s][c] for cell, c, s in self.children}
        values |= {cell: torch.full_like(children[s][0], start) for cell, s, start in self.begins}
        return self.at_merge(x, weights, values, children[0][0].shape[0])


class _Half:
    """One half of a Program: its calls in their order."""

    def __init__(self, program: Program, sizes: Sizes) -> None:
        self.plan = Plan(program, sizes)
        self.output = self.plan.in_rows(program.out)
        self.next = [self.plan.in_rows(slot.next) for slot in program.slots]
        self.stages = [self.plan.calls[stage] for stage in ("const", "before", "loop")]

    def __call__(
        self, x: Tensor | None, weights: Sequence[Tensor], given: dict[int, Any], rows: int
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        cells = self.plan.fresh(x, weights, steps=Steps.same(rows, 1))
        for cell, value in given.items():
            cells[cell] = value
        for calls in self.stages:
            run(calls, cells)
        return self.output(cells, rows), tuple(value(cells, rows) for value in self.next)
