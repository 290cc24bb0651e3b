"""From a cell at given sizes to the C of a layer, and to what its calls need to know besides."""

from __future__ import annotations

import math
from collections.abc import Sequence

from grammar import Cell, Sizes
from nas.backends.c.delays import chains_of, read_by_sweeps
from nas.backends.c.driver import KEPT, OWN, SHARED, Driver, grams_in_order
from nas.backends.c.gradients import summands_of
from nas.backends.c.half import Half
from nas.backends.c.outline import Outline, Slotted, slots_of
from nas.backends.c.world import Column, Held, Key, Recomputed, World, arrays_of
from nas.ir import (
    Adjoint,
    Normal,
    Replay,
    Schedule,
    Sweep,
    adjoint_cell,
    normal_cell,
    schedule,
    width,
)

_HELD = 512 * 1024  # bytes of matrices that a chunk of steps may take for each sequence


class Making:
    """The forward and the backward half of a layer for vectors of `lanes` floats: their `text` and their `outline`."""

    def __init__(self, cell: Cell, sizes: Sizes, lanes: int) -> None:
        self.sizes, self.lanes = sizes, lanes
        normal, adjoint = normal_cell(cell), adjoint_cell(cell)
        held = _held(normal, slots_of(cell, sizes), sizes)
        wanted = [] if adjoint.dx is None else [adjoint.dx]
        self.plan = schedule(adjoint.backward, sizes, wanted)
        self._delay(normal, adjoint)
        forward = self._forward(normal, adjoint, held)
        backward = self._backward(adjoint, [Held(h.slot, h.row, h.first, h.step) for h in held])
        ahead = Driver(forward, shared=sorted({column.key for column in self.saved.values()}))
        back = Driver(backward, given=ahead.regions, grams=grams_in_order(backward))
        shapes = tuple(shape for _, shape in arrays_of(adjoint.forward, sizes).values())
        self.text = ahead.text + back.text
        self.outline = Outline(
            ports=(tuple(ahead.ports), tuple(back.ports)),
            made=tuple(ahead.widths[kind, 0] for kind in (SHARED, KEPT, OWN)),
            own_back=back.widths[OWN, 1],
            shapes=shapes,
            sums=tuple(size for _, size in back.sums.values()),
            summands=summands_of(adjoint, back, len(shapes)),
            checkpoints=tuple(self.checkpoints.items()),
            every=self.every,
            window=len(self.windows) * sizes.input_size,
            seen=tuple(tuple(sorted(arrays)) for arrays in _seen(normal)),
            x_rows=ahead.x_rows or back.x_rows,
            dx_rows=back.dx_rows,
            has_dx=adjoint.dx is not None,
            keeps_y=any(column.key == ("y", 0) for column in self.saved.values()),
        )

    def _delay(self, normal: Normal, adjoint: Adjoint) -> None:
        """Which slots are read in x, and of which of these the backward half keeps the start alone."""
        self.chains = chains_of(normal)
        replayed = adjoint.replay.program.instrs if adjoint.replay else ()
        past = set(adjoint.past) & set(self.chains) - {i.slot for i in replayed if i.op == "past"}
        self.past = {s: self.chains[s] for s in sorted(read_by_sweeps(self.plan, past))}
        every = sorted({s for chain in self.past.values() for s in chain})
        self.windows = {s: n * self.sizes.input_size for n, s in enumerate(every)}

    def _forward(self, normal: Normal, adjoint: Adjoint, held: Sequence[Held]) -> Half:
        program = normal.program
        states = {i.slot: k for k, i in enumerate(program.instrs) if i.op == "state"}
        past = [s for s in adjoint.past if s not in self.past]
        keep = [*adjoint.saved, *(states[s] for s in past)]
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
            chains=self.chains,
            windows=self.windows,
        )
        self.saved = {("saved", k): half.column(plan.at[k]) for k in adjoint.saved}
        self.saved |= {("past", s): half.column(plan.at[states[s]]) for s in past}
        return half

    def _backward(self, adjoint: Adjoint, held: Sequence[Held]) -> Half:
        outputs: dict[int, Key] = {}
        plan = self.plan
        if adjoint.dx is not None:
            outputs[plan.at[adjoint.dx]] = ("dx", 0)
        ends = [plan.at[w.value] for w in adjoint.weights]
        replay = self._replay(adjoint.replay) if adjoint.replay else None
        return Half(
            plan,
            self.sizes,
            self.lanes,
            "b",
            self._given(plan),
            outputs,
            held,
            ends=ends,
            replay=replay,
            past=self.past,
            windows=self.windows,
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
            elif node.op == "past" and node.slot not in self.checkpoints and node.slot not in self.past:
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
