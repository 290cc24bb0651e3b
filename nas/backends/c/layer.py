"""A cell at given sizes, compiled: its forward and backward halves, and the gradients of its arrays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from grammar import Cell, Sizes
from nas.backends.c.compiler import lanes, load
from nas.backends.c.gradients import Gradients
from nas.backends.c.half import Half
from nas.backends.c.running import Buffers, Geometry, Running
from nas.backends.c.sweep import Column, Held, Key
from nas.ir import Adjoint, Normal, adjoint_cell, compile_program, normal_cell, schedule


@dataclass(frozen=True)
class Slotted:
    """A state as a caller knows it: its shape without batch, whether it is complex, its start (None: always given)."""

    shape: tuple[int, ...]
    complex: bool
    start: float | None


class Layer:
    """One layer in one direction. Rows are float32 in any geometry; weights are in the order of `Program.arrays`."""

    def __init__(self, cell: Cell, sizes: Sizes) -> None:
        self.cell, self.sizes = cell, sizes
        normal, adjoint = normal_cell(cell), adjoint_cell(cell)
        self.slots = slots_of(cell, sizes)
        held = _held(normal, self.slots, sizes)
        self.half = self._forward(normal, adjoint, held)
        self.back = self._backward(adjoint, [Held(h.slot, h.row, h.first, h.step) for h in held])
        library = load(self.half.text + self.back.text)
        self.forward_half = Running(self.half, library)
        self.backward_half = Running(self.back, library, backward=True)
        self.gradients = Gradients(adjoint, self.back, sizes)
        self.seen = _seen(normal)
        self.seen_by_all = all(found == self.seen[0] for found in self.seen)
        self.backward_half.before_end = self.gradients.sum_given

    def _forward(self, normal: Normal, adjoint: Adjoint, held: Sequence[Held]) -> Half:
        program = normal.program
        states = {i.slot: k for k, i in enumerate(program.instrs) if i.op == "state"}
        keep = [*adjoint.saved, *(states[s] for s in adjoint.past)]
        plan = schedule(program, self.sizes, [program.out, *keep])
        given = {
            k: Column(("x", 0), 0, self.sizes.input_size)
            for k, node in enumerate(plan.nodes)
            if node.op == "x"
        }
        outputs: dict[int, Key] = {plan.at[program.out]: ("y", 0)}
        half = Half(plan, self.sizes, lanes(), "f", given, outputs, held, keep=[plan.at[k] for k in keep])
        self.saved = {("saved", k): half.column(plan.at[k]) for k in adjoint.saved}
        self.saved |= {("past", s): half.column(plan.at[states[s]]) for s in adjoint.past}
        # what the backward half reads beside x and the weights
        self.keys = sorted({c.key for c in self.saved.values()} - {("x", 0)})
        return half

    def _backward(self, adjoint: Adjoint, held: Sequence[Held]) -> Half:
        program = adjoint.backward
        outputs: dict[int, Key] = {}
        wanted = [] if adjoint.dx is None else [adjoint.dx]
        plan = schedule(program, self.sizes, wanted)
        if adjoint.dx is not None:
            outputs[plan.at[adjoint.dx]] = ("dx", 0)
        given = {}
        for k, node in enumerate(plan.nodes):
            if node.op == "x":
                given[k] = Column(("x", 0), 0, self.sizes.input_size)
            elif node.op == "dy":
                given[k] = Column(("dy", 0), 0, self.sizes.hidden_size)
            elif node.op == "saved":
                given[k] = self.saved["saved", int(node.attr("of"))]  # type: ignore[call-overload]
            elif node.op == "past":
                given[k] = self.saved["past", node.slot]
        ends = [plan.at[w.value] for w in adjoint.weights]
        return Half(plan, self.sizes, lanes(), "b", given, outputs, held, ends=ends)

    def forward(
        self,
        x: Tensor,
        weights: Sequence[Tensor],
        state: Sequence[Tensor | None],
        geometry: Geometry,
        keep: bool,
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """The output's rows, the final states, and what the backward half wants to see again."""
        buffers: Buffers = {("x", 0): x}
        finals = []
        for s, (slot, value) in enumerate(zip(self.slots, state, strict=True)):
            if value is not None:
                buffers["init", s] = value
            kind = torch.complex64 if slot.complex else torch.float32
            finals.append(torch.empty((geometry.batch, *slot.shape), dtype=kind))
            buffers["final", s] = finals[-1]
        self.forward_half(buffers, weights, geometry, keep)
        return buffers["y", 0], finals, [buffers[key] for key in self.keys] if keep else []

    def backward(
        self,
        saved: Sequence[Tensor],
        x: Tensor,
        weights: Sequence[Tensor],
        geometry: Geometry,
        dy: Tensor | None,
        dfinal: Sequence[Tensor | None],
        wanted: Sequence[bool],
    ) -> tuple[Tensor | None, list[Tensor | None], list[Tensor | None]]:
        """The gradients of x, of the weights, and of the states before the first step.

        `wanted` says for each state whether its gradient is.
        """
        buffers: Buffers = {
            ("x", 0): x,
            ("dy", 0): torch.zeros(geometry.rows, self.sizes.hidden_size) if dy is None else dy,
        }
        buffers |= zip(self.keys, saved, strict=True)
        starts: list[Tensor | None] = []
        for s, (slot, gradient, want) in enumerate(zip(self.slots, dfinal, wanted, strict=True)):
            if gradient is not None:
                buffers["init", s] = gradient
            starts.append(None)
            if want:
                kind = torch.complex64 if slot.complex else torch.float32
                made = torch.empty((geometry.batch, *slot.shape), dtype=kind)
                starts[-1] = buffers["final", s] = made
        self.gradients.prepare(buffers)
        self.backward_half(buffers, weights, geometry)
        found = self.gradients(buffers, weights)
        if not self.seen_by_all:  # what nothing asked for sees has no gradient, not even zeros
            asked = [dy is not None, *(gradient is not None for gradient in dfinal)]
            seen = frozenset[int]().union(*(s for s, ask in zip(self.seen, asked, strict=True) if ask))
            found = [value if k in seen else None for k, value in enumerate(found)]
        return buffers.get(("dx", 0)), found, starts


def slots_of(cell: Cell, sizes: Sizes) -> list[Slotted]:
    """The states of a cell as callers give them."""
    found = []
    for slot in compile_program(cell).slots:
        shape = ((slot.steps,) if slot.steps else ()) + sizes.shape(slot.type)
        start = None if isinstance(slot.init, str) else float(slot.init)
        found.append(Slotted(shape, slot.type.is_complex, start))
    return found


def _held(normal: Normal, slots: Sequence[Slotted], sizes: Sizes) -> list[Held]:
    """How the slots of the normal form lie in the states of callers."""
    found = []
    for place, slot in zip(normal.slots, normal.program.slots, strict=True):
        own = slots[place.slot]
        count = math.prod(own.shape)
        start = None if own.start is None else float(own.start)
        if own.complex:
            imaginary = place.part == "im"
            found.append(
                Held(
                    place.slot,
                    2 * count,
                    int(imaginary),
                    2,
                    0.0 if imaginary and start is not None else start,
                )
            )
        else:
            first = max(place.step, 0) * math.prod(sizes.shape(slot.type))
            found.append(Held(place.slot, count, first, 1, start))
    return found


def _seen(normal: Normal) -> list[frozenset[int]]:
    """The arrays that the output sees over any number of steps, then those that each state of a caller does."""
    program = normal.program
    arrays = {(array.weight, array.spec.role): n for n, array in enumerate(program.arrays)}
    count = 1 + max((place.slot for place in normal.slots), default=-1)
    roots = [[program.out]] + [
        [slot.next for place, slot in zip(normal.slots, program.slots, strict=True) if place.slot == s]
        for s in range(count)
    ]
    found = []
    for root in roots:
        live: set[int] = set()
        todo = list(root)
        while todo:
            k = todo.pop()
            if k not in live:
                live.add(k)
                instr = program.instrs[k]
                todo.extend(instr.args)
                if instr.op == "state":
                    todo.append(program.slots[instr.slot].next)
        used = (program.instrs[k] for k in live)
        found.append(frozenset(arrays[i.weight, str(i.attr("role"))] for i in used if i.weight >= 0))
    return found
