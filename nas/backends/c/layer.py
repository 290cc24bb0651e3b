"""A cell at given sizes, compiled: its forward and backward halves, and the gradients of its arrays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from grammar import Cell, Sizes
from nas.backends.c.compiler import load
from nas.backends.c.driver import KEPT, OWN, SHARED, Driver, grams_in_order
from nas.backends.c.gradients import Gradients
from nas.backends.c.half import Half
from nas.backends.c.running import Geometry, Running, Values
from nas.backends.c.world import Column, Held, Key, Recomputed, World, arrays_of
from nas.ir import (
    Adjoint,
    Normal,
    Replay,
    Schedule,
    Sweep,
    adjoint_cell,
    compile_program,
    normal_cell,
    schedule,
    width,
)

_HELD = 512 * 1024  # bytes of matrices that a chunk of steps may take for each sequence


@dataclass(frozen=True)
class Slotted:
    """A state as a caller knows it: its shape without batch, whether it is complex, its start (None: always given)."""

    shape: tuple[int, ...]
    complex: bool
    start: float | None


class Layer:
    """One layer in one direction, for vectors of `lanes` floats. Weights are in the order of `Program.arrays`.

    `text` is its C. Rows are float32 in any geometry. Of several candidates, all tensors have an axis over them before
    their own, in arguments and results; rows that are the same for all may have a stride of 0 there.
    """

    def __init__(self, cell: Cell, sizes: Sizes, lanes: int) -> None:
        self.cell, self.sizes, self.lanes = cell, sizes, lanes
        normal, adjoint = normal_cell(cell), adjoint_cell(cell)
        self.slots = slots_of(cell, sizes)
        held = _held(normal, self.slots, sizes)
        forward = self._forward(normal, adjoint, held)
        backward = self._backward(adjoint, [Held(h.slot, h.row, h.first, h.step) for h in held])
        ahead = Driver(forward, shared=sorted({column.key for column in self.saved.values()}))
        back = Driver(backward, given=ahead.regions, grams=grams_in_order(backward))
        self.text = ahead.text + back.text
        self.seen = _seen(normal)
        self.seen_by_all = all(found == self.seen[0] for found in self.seen)
        self._prepare(adjoint, ahead, back)

    def _prepare(self, adjoint: Adjoint, ahead: Driver, back: Driver) -> None:
        """What calls need, looked up once."""
        arrays = arrays_of(adjoint.forward, self.sizes)
        self.ahead = Running(ahead, len(arrays))
        self.back = Running(back, len(arrays), backward=True)
        self.gradients = Gradients(adjoint, back, [shape for _, shape in arrays.values()])
        kinds = [torch.complex64 if slot.complex else torch.float32 for slot in self.slots]
        self.ends, self.starts = (
            [
                (run.place(("init", s)), run.place(("final", s)), slot.shape, kinds[s])
                for s, slot in enumerate(self.slots)
            ]
            for run in (self.ahead, self.back)
        )
        # rows that a call makes: the key, floats in each; those that the backward half sees again come first
        region = ahead.widths
        reads_y = any(column.key == ("y", 0) for column in self.saved.values())
        again: list[Key] = [("y", 0)] if reads_y else []
        again += [key for key in ((SHARED, 0), (KEPT, 0)) if region[key]]
        again += [("checkpoint", s) for s in self.checkpoints]
        self.again = [(self.ahead.place(key), self.back.place(key)) for key in again]
        self.rows_made = [
            (self.ahead.place(key), region[key], key[0] == OWN)
            for key in ((SHARED, 0), (OWN, 0))
            if region[key]
        ]
        self.rows_kept = [(self.ahead.place((KEPT, 0)), region[KEPT, 0])] if region[KEPT, 0] else []
        self.rows_back = [(self.back.place((OWN, 1)), back.widths[OWN, 1])] if back.widths[OWN, 1] else []
        self.checked = [(self.ahead.place(("checkpoint", s)), size) for s, size in self.checkpoints.items()]
        self.x, self.y = (self.ahead.place((name, 0)) for name in "xy")
        self.x_back, self.dy, self.dx, self.sums = (
            self.back.place((name, 0)) for name in ("x", "dy", "dx", "sums")
        )
        self.is_loaded = False
        self.keeps_y = int(reads_y)
        self.saved_rows = [region[key] for key in ((SHARED, 0), (KEPT, 0)) if region[key]]
        self.graded = [n for n, result in enumerate(self.gradients.results) if result is not None]
        self.empty = [[None] * len(run.places) for run in (self.ahead, self.back)]

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
        slots = adjoint.replay.slots if adjoint.replay else ()
        self.checkpoints = {s: width(program.slots[s].type, self.sizes) for s in slots}
        self.every = max(4, min(16, _HELD // (4 * max(sum(self.checkpoints.values()), 1))))
        half = Half(
            plan,
            self.sizes,
            self.lanes,
            "f",
            given,
            outputs,
            held,
            keep=[plan.at[k] for k in keep],
            checkpoints=dict.fromkeys(slots, self.every),
        )
        self.saved = {("saved", k): half.column(plan.at[k]) for k in adjoint.saved}
        self.saved |= {("past", s): half.column(plan.at[states[s]]) for s in adjoint.past}
        return half

    def _backward(self, adjoint: Adjoint, held: Sequence[Held]) -> Half:
        program = adjoint.backward
        outputs: dict[int, Key] = {}
        wanted = [] if adjoint.dx is None else [adjoint.dx]
        plan = schedule(program, self.sizes, wanted)
        self.has_dx = adjoint.dx is not None
        if adjoint.dx is not None:
            outputs[plan.at[adjoint.dx]] = ("dx", 0)
        ends = [plan.at[w.value] for w in adjoint.weights]
        replay = self._replay(adjoint.replay) if adjoint.replay else None
        return Half(
            plan, self.sizes, self.lanes, "b", self._given(plan), outputs, held, ends=ends, replay=replay
        )

    def _given(self, plan: Schedule) -> dict[int, Column]:
        """The rows that a backward half has from the forward one and from the caller."""
        given = {}
        for k, node in enumerate(plan.nodes):
            if node.op == "x":
                given[k] = Column(("x", 0), 0, self.sizes.input_size)
            elif node.op == "dy":
                given[k] = Column(("dy", 0), 0, self.sizes.hidden_size)
            elif node.op == "saved":
                given[k] = self.saved["saved", int(node.attr("of"))]  # type: ignore[call-overload]
            elif node.op == "past" and node.slot not in self.checkpoints:
                given[k] = self.saved["past", node.slot]
        return given

    def _replay(self, replay: Replay) -> Recomputed:
        plan = schedule(replay.program, self.sizes, whole=True)
        (sweep,) = plan.steps
        assert isinstance(sweep, Sweep)
        world = World(
            plan, self.sizes, self.lanes, self._given(plan), arrays=arrays_of(replay.program, self.sizes)
        )
        return Recomputed(world, sweep, replay.slots, self.every)

    def loaded(self) -> Layer:
        """This layer, with its library. Raises CompilerError where it cannot be built."""
        if not self.is_loaded:
            library = load(self.text)
            self.ahead.attach(library)
            self.back.attach(library)
            self.is_loaded = True
        return self

    def chunks(self, count: int) -> int:
        """How many checkpoints there is room for: never one, which torch would not trace as any number."""
        return count // self.every + 2

    def most_kept(self, geometry: Geometry) -> int:
        """The floats of the largest piece of memory that is made for one candidate and the backward half."""
        rows = [geometry.rows * floats for floats in (*self.saved_rows, self.sizes.hidden_size)]
        room = geometry.batch * self.chunks(geometry.count)
        return max(rows + [room * floats for floats in self.checkpoints.values()])

    def seen_by(self, asked: Sequence[bool]) -> frozenset[int]:
        """The arrays that the output or a final state depends on; `asked` says which of these count."""
        return frozenset[int]().union(*(s for s, ask in zip(self.seen, asked, strict=True) if ask))

    def forward(
        self,
        x: Tensor,
        weights: Sequence[Tensor],
        state: Sequence[Tensor | None],
        geometry: Geometry,
        keep: bool,
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """The output's rows, the final states, and what the backward half wants to see again."""
        lead, rows = x.shape[:-2], (*x.shape[:-2], geometry.rows)
        values: Values = [*weights, *self.empty[0]]
        values[self.x] = x
        values[self.y] = y = torch.empty((*rows, self.sizes.hidden_size))
        finals = []
        for (init, final, shape, kind), value in zip(self.ends, state, strict=True):
            values[init] = value
            values[final] = made = torch.empty((*lead, geometry.batch, *shape), dtype=kind)
            finals.append(made)
        for place, floats, own in self.rows_made:
            passing = own or not keep  # what no later call reads is there once for all candidates
            values[place] = _passing(rows, floats) if passing else torch.empty((*rows, floats))
        if keep:
            for place, floats in self.rows_kept:
                values[place] = torch.empty((*rows, floats))
            for place, floats in self.checked:
                room = (*lead, geometry.batch, self.chunks(geometry.count), floats)
                values[place] = torch.empty(room)
        self.ahead(values, geometry, *lead)
        return y, finals, [values[place] for place, _ in self.again] if keep else []  # type: ignore[misc]

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

        `wanted` says for x, then for each state, whether its gradient is.
        """
        asked = [dy is not None, *(gradient is not None for gradient in dfinal)]
        lead, rows = x.shape[:-2], (*x.shape[:-2], geometry.rows)
        values: Values = [*weights, *self.empty[1]]
        values[self.x_back] = x
        values[self.dy] = torch.zeros((*rows, self.sizes.hidden_size)) if dy is None else dy
        dx = torch.empty((*rows, self.sizes.input_size)) if wanted[0] and self.has_dx else None
        values[self.dx] = dx
        for (_, place), value in zip(self.again, saved, strict=True):
            values[place] = value
        starts: list[Tensor | None] = []
        for (init, final, shape, kind), gradient, want in zip(self.starts, dfinal, wanted[1:], strict=True):
            values[init] = gradient
            made = torch.empty((*lead, geometry.batch, *shape), dtype=kind) if want else None
            values[final] = made
            starts.append(made)
        for place, floats in self.rows_back:
            values[place] = _passing(rows, floats)
        values[self.sums] = sums = torch.empty((*lead, self.gradients.floats))
        self.back(values, geometry, *lead)
        found = self.gradients(sums)
        if not self.seen_by_all:  # what nothing asked for sees has no gradient, not even zeros
            seen = self.seen_by(asked)
            found = [value if k in seen else None for k, value in enumerate(found)]
        return dx, found, starts


def _passing(rows: tuple[int, ...], floats: int) -> Tensor:
    """Rows that are read and written in one call, where candidates follow each other: the same memory for all."""
    made = torch.empty((rows[-1], floats))
    return made.expand(*rows, floats) if len(rows) > 1 else made


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
