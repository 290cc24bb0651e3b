"""Cells over time: one run of a Program over the rows of a sequence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from grammar import Sizes
from nas.backends.plan import Plan
from nas.backends.rounds import run
from nas.backends.steps import Steps
from nas.ir import Program


class ScanRunner:
    """What is before the loop for all steps at once, the loop step by step, what is after it on the stored values."""

    def __init__(self, program: Program, sizes: Sizes) -> None:
        self.program = program
        self.plan = plan = Plan(program, sizes)
        instrs = program.instrs
        loop, after = plan.calls["loop"], plan.calls["after"]
        made = {call.out for call in loop}
        looped = {i.slot for i in instrs if i.slot >= 0 and i.stage == "loop"}
        # (cell of the slot, cell of its new value, whether the slot is a window)
        self.looped = [
            (plan.slots[s], plan.at[slot.next], slot.steps > 0)
            for s, slot in enumerate(program.slots)
            if s in looped
        ]
        read = {a for call in loop for a in call.args} | {new for _, new, _ in self.looped}
        early = {call.out for call in plan.calls["before"]} | {plan.x}
        self.fed = sorted(read & early)
        outside = [program.out, *(slot.next for s, slot in enumerate(program.slots) if s not in looped)]
        wanted = {a for call in after for a in call.args} | {plan.at[k] for k in outside}
        current = {plan.slots[s] for s in looped}
        self.stored = sorted(wanted & (made | current))
        self.output = plan.in_rows(program.out)
        self.resting = [
            None if s in looped else (plan.in_rows(slot.next), slot.steps > 0)
            for s, slot in enumerate(program.slots)
        ]

    def __call__(
        self, x: Tensor, weights: Sequence[Tensor], state: Sequence[Tensor], steps: Steps
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """See `Runner`."""
        plan = self.plan
        cells = plan.fresh(x, weights, state, steps)
        run(plan.calls["const"], cells)
        run(plan.calls["before"], cells)
        ends = self._loop(cells, steps) if plan.calls["loop"] or self.looped else {}
        run(plan.calls["after"], cells)
        final = []
        for s, resting in enumerate(self.resting):
            if resting is None:
                final.append(ends[plan.slots[s]])
            else:
                value, window = resting
                rows = value(cells, steps.rows)
                # A copy: x itself may be the state, and callers write the next chunk where this one was.
                final.append(steps.tail(rows, state[s]) if window else steps.last(rows).clone())
        return self.output(cells, steps.rows), tuple(final)

    def _loop(self, cells: list[Any], steps: Steps) -> dict[int, Tensor]:
        """Run all steps; leave the stored values of all of them in `cells`. Returns the slots' final values."""
        calls = self.plan.calls["loop"]
        whole = {cell: cells[cell] for cell in self.fed}
        fed = [(cell, steps.split(value)) for cell, value in whole.items()]
        stored: list[tuple[int, list[Tensor]]] = [(cell, []) for cell in self.stored]
        ended: dict[int, list[Tensor]] = {slot: [] for slot, _, _ in self.looped}
        running = steps.batch
        for t, size in enumerate(steps.sizes):
            if size < running:
                for slot, parts in ended.items():
                    parts.append(cells[slot][size:])
                    cells[slot] = cells[slot][:size]
                running = size
            for cell, values in fed:
                cells[cell] = values[t]
            run(calls, cells)
            for cell, kept in stored:
                kept.append(cells[cell])
            new = [
                torch.cat([cells[slot][:, 1:], cells[value].unsqueeze(1)], 1) if window else cells[value]
                for slot, value, window in self.looped
            ]
            for (slot, _, _), value in zip(self.looped, new, strict=True):
                cells[slot] = value
        ends = {slot: torch.cat([cells[slot], *reversed(parts)]) for slot, parts in ended.items()}
        for cell, value in whole.items():
            cells[cell] = value
        for cell, kept in stored:
            cells[cell] = torch.cat(kept)
        return ends
